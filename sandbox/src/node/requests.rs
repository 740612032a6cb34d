//! What an app asks for while it is called. Each request is answered under its grants as they are at that moment.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use blocktree_vfs::Fs;
use blocktree_vfs::events::Actor;

use super::files::{Files, Kernel};
use super::locks::{Locks, Place};
use super::net::{Asked, Exchange, Fetches, Net};
use super::post::Post;
use super::registry::{App, Keys, RegistryError};
use super::worker::{Shared, seconds};
use crate::ipc::{Data, Error, Handle, How, Reply, Request, Window};
use crate::limits::{
    DATA_BYTES_MAX, INLINE_BYTES_MAX, LOCKS_MAX, LOG_LINE_BYTES_MAX, LOG_LINES_PER_CALL_MAX,
};
use crate::package::{Endpoint, host_of};

/// What all apps of a store share.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) net: Arc<Net>,
    pub(super) locks: Arc<Locks>,
    pub(super) post: Arc<Post>,
}

/// What the node has and keeps for one process of an app.
pub(super) struct Requests {
    app: App,
    shared: Arc<Shared>,
    services: Services,
    files: Files,
    keys: Keys,
    fetches: Fetches,
    /// Locks that it has.
    taken: BTreeMap<Handle, (Place, u64)>,
    next_lock: Handle,
    /// The HTTP request that it answers.
    pub(super) exchange: Option<Exchange>,
    /// Nothing but looking is allowed.
    looks_only: bool,
    /// Lines for the log, and how many the app may still write in this call.
    lines: String,
    lines_left: u32,
}

impl Requests {
    /// For an app that works.
    pub(super) fn new(
        fs: &Arc<Fs>,
        app: &App,
        kernel: Arc<dyn Kernel>,
        services: Services,
        shared: Arc<Shared>,
    ) -> Result<Self, RegistryError> {
        let unfinished = Some(app.unfinished()?);
        let acting = Arc::new(fs.acting_for(Actor::Principal(shared.actor)));
        let (grants, locks) = (Arc::clone(&shared.grants), Arc::clone(&services.locks));
        let files = Files::new(acting, kernel, grants, locks, unfinished);
        Self::of(files, app, services, shared, false)
    }

    /// For an app that is asked for its opinion: it may read, and change nothing. So it never waits for anybody whom the
    /// question keeps waiting.
    pub(super) fn looking(
        fs: &Arc<Fs>,
        app: &App,
        services: Services,
        shared: Arc<Shared>,
    ) -> Result<Self, RegistryError> {
        let acting = Arc::new(fs.acting_for(Actor::Principal(shared.actor)));
        let (grants, locks) = (Arc::clone(&shared.grants), Arc::clone(&services.locks));
        let files = Files::new(acting, Arc::new(()), grants, locks, None);
        Self::of(files, app, services, shared, true)
    }

    fn of(
        files: Files,
        app: &App,
        services: Services,
        shared: Arc<Shared>,
        looks_only: bool,
    ) -> Result<Self, RegistryError> {
        let (keys, fetches) = (app.keys()?, Fetches::default());
        let app = app.clone();
        let (taken, exchange, lines) = (BTreeMap::new(), None, String::new());
        Ok(Self {
            app,
            shared,
            services,
            files,
            keys,
            fetches,
            taken,
            next_lock: 1,
            exchange,
            looks_only,
            lines,
            lines_left: 0,
        })
    }

    /// A call of the app begins.
    pub(super) fn begin(&mut self) {
        self.lines_left = LOG_LINES_PER_CALL_MAX;
    }

    /// Its process, or its instance, has ended.
    pub(super) fn end(&mut self) {
        self.files.close_all();
        self.fetches.close_all();
        if !self.looks_only {
            self.shared.sockets.close_all();
        }
        for (place, token) in std::mem::take(&mut self.taken).into_values() {
            self.services.locks.release(&place, token);
        }
    }

    /// Whether it has what ends with its process, though it has nothing to do: locks, connections.
    pub(super) fn keeps_something(&self) -> bool {
        !self.taken.is_empty() || self.shared.sockets.has_open()
    }

    /// Answers a request.
    pub(super) fn answer(&mut self, request: Request, window: &Window) -> Result<Reply, Error> {
        self.shared.stats.lock().requests += 1;
        if self.looks_only && !is_look(&request) {
            return Err(Error::NotGranted);
        }
        let files = &mut self.files;
        match request {
            Request::Open { grant, path, how } => files.open(grant, path, how),
            Request::Read { handle, offset, length } => outgoing(files.read(handle, offset, length)?, window),
            Request::Write { handle, offset, data } => files.write(handle, offset, &incoming(data, window)?),
            Request::Resize { handle, size } => files.resize(handle, size),
            Request::StatOpen { handle } => files.stat_open(handle),
            Request::Sync { handle } => files.sync(handle),
            Request::Finish { handle } => files.finish(handle),
            Request::Close { handle } => files.close(handle),
            Request::CloseAll => {
                self.end();
                Ok(Reply::Done)
            }
            Request::Fence { handle, grant, path, token } => {
                let place = files.lock_place(&grant, &path)?;
                files.fence(handle, place, token)
            }
            Request::Lock { grant, path } => {
                if self.taken.len() >= LOCKS_MAX {
                    return Err(Error::TooLarge);
                }
                let place = files.lock_place(&grant, &path)?;
                let token = self.services.locks.take(place.clone(), &self.shared, grant)?;
                let handle = self.next_lock;
                self.next_lock = self.next_lock.wrapping_add(1);
                self.taken.insert(handle, (place, token));
                Ok(Reply::Locked { handle, token })
            }
            Request::Unlock { handle } => {
                let (place, token) = self.taken.remove(&handle).ok_or(Error::NotFound)?;
                self.services.locks.release(&place, token);
                Ok(Reply::Done)
            }
            Request::Stat { grant, path } => files.stat(&grant, &path),
            Request::List { grant, path, after } => files.list(&grant, &path, after),
            Request::Rename { grant, path, new_path } => files.rename(&grant, &path, &new_path),
            Request::Remove { grant, path } => files.remove(&grant, &path),
            Request::MakeDirectory { grant, path } => files.make_directory(&grant, &path),
            Request::KeyGet { key } => match self.keys.get(&key)? {
                Some(value) => outgoing(&value, window),
                None => Ok(Reply::NoData),
            },
            Request::KeySet { key, value } => {
                let value = incoming(value, window)?;
                self.keys.set(&key, &value).map(|()| Reply::Done)
            }
            Request::KeyDelete { key } => self.keys.delete(&key).map(|()| Reply::Done),
            Request::Keys { prefix, after } => {
                let (keys, is_last) = self.keys.list(&prefix, after.as_deref())?;
                Ok(Reply::Keys { keys, is_last })
            }
            Request::Send { app, bytes } => {
                if !self.shared.powers.read().sends.contains(&app) {
                    return Err(Error::NotGranted);
                }
                self.services.post.send(&self.app.name, &app, &bytes).map(|()| Reply::Done)
            }
            Request::Log { level, text } => {
                if self.lines_left == 0 {
                    return Err(Error::TooLarge);
                }
                self.lines_left -= 1;
                self.note(&format!("{level:?}").to_lowercase(), &text);
                Ok(Reply::Done)
            }
            Request::BodyRead
            | Request::Respond { .. }
            | Request::BodyWrite { .. }
            | Request::EndAnswer { .. }
            | Request::Fetch { .. }
            | Request::FetchRead { .. }
            | Request::FetchClose { .. } => self.answer_http(request, window),
            Request::Connect { .. }
            | Request::LookUp { .. }
            | Request::StartConnect { .. }
            | Request::FinishConnect { .. }
            | Request::SocketWait { .. }
            | Request::SocketRead { .. }
            | Request::SocketWrite { .. }
            | Request::SocketShutDown { .. }
            | Request::SocketClose { .. }
            | Request::SocketReset { .. } => self.answer_sockets(request, window),
        }
    }

    fn answer_http(&mut self, request: Request, window: &Window) -> Result<Reply, Error> {
        if let Request::EndAnswer { is_whole } = request {
            let exchange = self.exchange.take().ok_or(Error::NotGranted)?;
            if is_whole {
                // Nor does the rest of what the app wrote wait for a client that takes its time.
                self.exchange = exchange.finish_at_once();
            }
            return Ok(Reply::Done);
        }
        let exchange = self.exchange.as_mut().ok_or(Error::NotGranted);
        match request {
            Request::BodyRead => outgoing(&exchange?.read()?, window),
            Request::Respond { status, headers } => exchange?.respond(status, headers).map(|()| Reply::Done),
            Request::BodyWrite { data } => exchange?.write(incoming(data, window)?).map(|()| Reply::Done),
            Request::Fetch { method, url, headers, body } => {
                let asked = Asked { method, url, headers, body: incoming(body, window)? };
                let powers = self.shared.powers.read().clone();
                self.fetches.send(&self.services.net, &powers, &asked, &self.shared.stop)
            }
            Request::FetchRead { handle } => outgoing(&self.fetches.read(handle)?, window),
            Request::FetchClose { handle } => self.fetches.close(handle),
            _ => Err(Error::Malformed),
        }
    }

    fn answer_sockets(&self, request: Request, window: &Window) -> Result<Reply, Error> {
        let Shared { sockets, powers, stop, .. } = &*self.shared;
        match request {
            Request::Connect { host, port, milliseconds } => {
                let address = Endpoint::new(&host, port).ok_or(Error::Malformed)?;
                sockets.connect(&address, milliseconds, powers, stop).map(Reply::Handle)
            }
            Request::LookUp { host, milliseconds } => match host_of(&host.to_ascii_lowercase()) {
                Some((host, None)) => {
                    sockets.look_up(&host, milliseconds, powers, stop).map(Reply::Addresses)
                }
                _ => Err(Error::Malformed),
            },
            Request::StartConnect { address, port } => {
                sockets.start_connect((address, port).into(), powers).map(Reply::Handle)
            }
            Request::FinishConnect { handle } => {
                Ok(if sockets.finish_connect(handle)? { Reply::Done } else { Reply::NoData })
            }
            Request::SocketWait { wanted, milliseconds } => {
                sockets.wait(&wanted, milliseconds, stop).map(Reply::Ready)
            }
            Request::SocketRead { handle, length, milliseconds } => {
                outgoing(&sockets.read(handle, length, milliseconds, stop)?, window)
            }
            Request::SocketWrite { handle, data, milliseconds } => {
                let written = sockets.write(handle, &incoming(data, window)?, milliseconds, stop)?;
                Ok(Reply::Written(written))
            }
            Request::SocketShutDown { handle } => sockets.shut_down(handle).map(|()| Reply::Done),
            Request::SocketClose { handle } => sockets.close(handle).map(|()| Reply::Done),
            Request::SocketReset { handle } => sockets.reset(handle).map(|()| Reply::Done),
            _ => Err(Error::Malformed),
        }
    }

    /// Adds a line to the log. What an app writes stays one line, and shows no control character to a terminal.
    pub(super) fn note(&mut self, what: &str, text: &str) {
        let text: String = text.chars().map(|one| if one.is_control() { ' ' } else { one }).collect();
        let mut end = text.len().min(LOG_LINE_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let _ = writeln!(self.lines, "{} {what}: {}", seconds(), &text[..end]);
    }

    pub(super) fn flush_log(&mut self) -> Result<(), RegistryError> {
        if self.lines.is_empty() {
            return Ok(());
        }
        self.app.log(&std::mem::take(&mut self.lines))
    }
}

/// Whether a request changes nothing, and waits for nobody.
fn is_look(request: &Request) -> bool {
    matches!(
        request,
        Request::Open { how: How::Read, .. }
            | Request::Read { .. }
            | Request::StatOpen { .. }
            | Request::Close { .. }
            | Request::CloseAll
            | Request::Stat { .. }
            | Request::List { .. }
            | Request::KeyGet { .. }
            | Request::Keys { .. }
            | Request::Log { .. }
    )
}

fn outgoing(bytes: &[u8], window: &Window) -> Result<Reply, Error> {
    if bytes.len() <= INLINE_BYTES_MAX {
        return Ok(Reply::Data(Data::Inline(bytes.to_vec())));
    }
    window.put(bytes).map_err(|_| Error::Failed)?;
    Ok(Reply::Data(Data::Window(bytes.len() as u32)))
}

/// A copy: the sandbox may change what is in the window at any time.
fn incoming(data: Data, window: &Window) -> Result<Vec<u8>, Error> {
    match data {
        Data::Inline(bytes) => Ok(bytes),
        Data::Window(length) if length as usize <= DATA_BYTES_MAX => {
            window.get(length as usize).map_err(|_| Error::Failed)
        }
        Data::Window(_) => Err(Error::TooLarge),
    }
}

#[cfg(test)]
mod tests;
