//! Requests of apps to other hosts.
//!
//! 1. A host is asked only if the owner allowed it.
//! 2. No redirection is followed and nothing is unpacked; heads, bodies, their number and their time have bounds.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::aws_lc_rs};
use rustls_native_certs::load_native_certs;

use super::dial::dial;
use super::message::{Framing, MessageError, Reader, check_headers, framing, is_header_name};
use super::stream::{Stop, Timed};
use crate::ipc::{self, Error, Header, Reply};
use crate::limits::{CONNECT_TIME, FETCH_BYTES_MAX, FETCH_TIME, FETCHES_MAX, URL_BYTES_MAX};
use crate::node::grants::Powers;
use crate::package::host_of;

/// Whose certificates count: those that this machine trusts, found when they are first needed.
#[derive(Default)]
pub(in crate::node) struct Net {
    trusted: OnceLock<Result<Arc<ClientConfig>, String>>,
}

/// The answers that an app reads.
#[derive(Default)]
pub(in crate::node) struct Fetches {
    open: BTreeMap<ipc::Handle, Fetch>,
    next: ipc::Handle,
}

struct Fetch {
    reader: Reader<Wire>,
    framing: Framing,
    left: u64,
}

enum Wire {
    Plain(Timed),
    Secure(Box<StreamOwned<ClientConnection, Timed>>),
}

impl Read for Wire {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(bytes),
            Self::Secure(stream) => stream.read(bytes),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Secure(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Secure(stream) => stream.flush(),
        }
    }
}

/// What an app asks for.
pub(in crate::node) struct Asked {
    pub(in crate::node) method: String,
    pub(in crate::node) url: String,
    pub(in crate::node) headers: Vec<Header>,
    pub(in crate::node) body: Vec<u8>,
}

impl Fetches {
    pub(in crate::node) fn close_all(&mut self) {
        self.open.clear();
    }

    pub(in crate::node) fn close(&mut self, handle: ipc::Handle) -> Result<Reply, Error> {
        self.open.remove(&handle).map(|_| Reply::Done).ok_or(Error::NotFound)
    }

    /// Sends a request, and waits for the head of its answer.
    pub(in crate::node) fn send(
        &mut self,
        net: &Net,
        powers: &Powers,
        asked: &Asked,
        stop: &Stop,
    ) -> Result<Reply, Error> {
        if self.open.len() >= FETCHES_MAX {
            return Err(Error::TooLarge);
        }
        let target = Target::of(&asked.url)?;
        let allowed = powers.hosts.iter().find(|one| target.is(&one.host)).ok_or(Error::NotGranted)?;
        let head = target.head(asked)?;
        let end = Instant::now() + FETCH_TIME;
        let (connected_by, is_wanted) = (Instant::now() + CONNECT_TIME, || !stop.load(Ordering::Acquire));
        let stream = dial(&target.host, target.port, allowed.is_private, connected_by, &is_wanted)?;
        let stream = Timed::new(stream, Arc::clone(stop), end);
        let mut wire = if target.is_secure {
            let name = ServerName::try_from(target.host.clone()).map_err(|_| Error::Malformed)?;
            let session = ClientConnection::new(net.trusted()?, name).map_err(|_| Error::Failed)?;
            Wire::Secure(Box::new(StreamOwned::new(session, stream)))
        } else {
            Wire::Plain(stream)
        };
        let sent = wire.write_all(&[head.as_bytes(), &asked.body].concat()).and_then(|()| wire.flush());
        sent.map_err(|error| failed(error.into()))?;
        let mut reader = Reader::new(wire);
        let head = reader.response_head().map_err(failed)?;
        let has_none = asked.method == "HEAD" || matches!(head.status, 204 | 304);
        let framing = match framing(&head.headers, true).map_err(failed)? {
            _ if has_none => Framing::Length(0),
            Some(framing) => framing,
            None => Framing::ToEnd,
        };
        self.next = self.next.wrapping_add(1);
        self.open.insert(self.next, Fetch { reader, framing, left: FETCH_BYTES_MAX });
        Ok(Reply::Fetched { handle: self.next, status: head.status, headers: head.headers })
    }

    /// More of an answer; nothing at its end.
    pub(in crate::node) fn read(&mut self, handle: ipc::Handle) -> Result<Vec<u8>, Error> {
        let fetch = self.open.get_mut(&handle).ok_or(Error::NotFound)?;
        let bytes = fetch.reader.body(&mut fetch.framing).map_err(failed)?;
        fetch.left = fetch.left.checked_sub(bytes.len() as u64).ok_or(Error::TooLarge)?;
        Ok(bytes)
    }
}

fn failed(error: MessageError) -> Error {
    match error {
        MessageError::Io(error) if error.kind() == io::ErrorKind::TimedOut => Error::TimedOut,
        MessageError::TooLong => Error::TooLarge,
        MessageError::Io(_) | MessageError::Ended | MessageError::Malformed => Error::Unreachable,
    }
}

impl Net {
    fn trusted(&self) -> Result<Arc<ClientConfig>, Error> {
        let trusted = self.trusted.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            let (known, _) = roots.add_parsable_certificates(load_native_certs().certs);
            if known == 0 {
                return Err(
                    "this machine trusts no certificates: is the package ca-certificates missing?".into()
                );
            }
            with_roots(roots).map_err(|error| error.to_string())
        });
        trusted.clone().map_err(|why| {
            tracing::warn!(why, "no app can use https");
            Error::Unreachable
        })
    }
}

fn with_roots(roots: RootCertStore) -> Result<Arc<ClientConfig>, rustls::Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Where a request goes.
#[derive(Debug)]
struct Target {
    is_secure: bool,
    /// Without brackets, in lower case.
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Target {
    fn of(url: &str) -> Result<Self, Error> {
        if url.len() > URL_BYTES_MAX {
            return Err(Error::TooLarge);
        }
        let (scheme, rest) = url.split_once("://").ok_or(Error::Malformed)?;
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(Error::Malformed),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let authority = authority.to_ascii_lowercase();
        let (host, port) = host_of(&authority).ok_or(Error::Malformed)?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::Malformed);
        }
        let port = port.unwrap_or(if is_secure { 443 } else { 80 });
        Ok(Self { is_secure, host, port, authority, path })
    }

    /// Whether an owner's word for a host means this: without a port, the usual one.
    fn is(&self, allowed: &str) -> bool {
        let usual = if self.is_secure { 443 } else { 80 };
        host_of(allowed).is_some_and(|(host, port)| host == self.host && port.unwrap_or(usual) == self.port)
    }

    fn head(&self, asked: &Asked) -> Result<String, Error> {
        const OF_THE_CONNECTION: [&str; 9] = [
            "connection",
            "content-length",
            "expect",
            "host",
            "keep-alive",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        let Asked { method, headers, body, .. } = asked;
        if !is_header_name(method) || method.eq_ignore_ascii_case("connect") {
            return Err(Error::Malformed);
        }
        check_headers(headers)?;
        let mut head = format!("{method} {} HTTP/1.1\r\nhost: {}\r\n", self.path, self.authority);
        for (name, value) in headers {
            let name = name.to_ascii_lowercase();
            if !OF_THE_CONNECTION.contains(&name.as_str()) && !name.starts_with("proxy-") {
                head += &format!("{name}: {value}\r\n");
            }
        }
        if !body.is_empty() || !matches!(method.as_str(), "GET" | "HEAD") {
            head += &format!("content-length: {}\r\n", body.len());
        }
        Ok(head + "connection: close\r\n\r\n")
    }
}

#[cfg(test)]
mod tests;
