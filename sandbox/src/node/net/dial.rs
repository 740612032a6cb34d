//! Connections to other hosts, whatever they are for.
//!
//! 1. A host is asked only at addresses that were looked at after its name was looked up: the name is looked up once, so it
//!    cannot lead elsewhere in between (DNS rebinding).
//! 2. Whoever waits here waits until a moment at most, and no longer than the connection is wanted.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::mpsc;
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::sockopt::socket_error;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::address::is_public;
use super::stream::{SLICE, ready};
use crate::ipc::Error;

/// Connects to a host, whose name or address it is, at one of its addresses; those that are not of the public network only if
/// it may be private.
pub(super) fn dial(
    host: &str,
    port: u16,
    may_be_private: bool,
    end: Instant,
    is_wanted: &dyn Fn() -> bool,
) -> Result<TcpStream, Error> {
    for address in addresses(host, port, may_be_private, end, is_wanted)? {
        if let Ok(stream) = connect_to(&address, end, is_wanted) {
            return Ok(stream);
        }
        if Instant::now() >= end || !is_wanted() {
            return Err(Error::TimedOut);
        }
    }
    Err(Error::Unreachable)
}

/// The addresses of a host that may be asked.
pub(super) fn addresses(
    host: &str,
    port: u16,
    may_be_private: bool,
    end: Instant,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Vec<SocketAddr>, Error> {
    let system = move |host: &str| (host, port).to_socket_addrs().map(Iterator::collect);
    usable(&look_up(host, system, end, is_wanted)?, may_be_private)
}

/// The addresses of a host, as `system` knows them. That cannot be interrupted, so a thread of its own waits for it.
fn look_up(
    host: &str,
    system: impl FnOnce(&str) -> io::Result<Vec<SocketAddr>> + Send + 'static,
    end: Instant,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Vec<SocketAddr>, Error> {
    let (found, answer) = mpsc::channel();
    let host = host.to_owned();
    let look_up = move || {
        let _ = found.send(system(&host));
    };
    std::thread::Builder::new().name("look-up".into()).spawn(look_up).map_err(|_| Error::Failed)?;
    while Instant::now() < end && is_wanted() {
        match answer.recv_timeout(SLICE) {
            Ok(addresses) => return addresses.map_err(|_| Error::Unreachable),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(Error::Failed),
        }
    }
    Err(Error::TimedOut)
}

/// Those of a name's addresses that may be asked.
fn usable(found: &[SocketAddr], may_be_private: bool) -> Result<Vec<SocketAddr>, Error> {
    let usable: Vec<_> = found.iter().copied().filter(|one| may_be_private || is_public(one.ip())).collect();
    match (usable.is_empty(), found.is_empty()) {
        (false, _) => Ok(usable),
        (true, true) => Err(Error::Unreachable),
        (true, false) => Err(Error::PrivateAddress),
    }
}

/// As `TcpStream::connect_timeout`, which nobody can interrupt.
fn connect_to(address: &SocketAddr, end: Instant, is_wanted: &dyn Fn() -> bool) -> io::Result<TcpStream> {
    let socket = begin(address)?;
    ready(socket.as_fd(), PollFlags::OUT, end, is_wanted)?;
    socket_error(&socket)??;
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Begins to connect, and waits for nothing: the socket can be written to when it is connected, or has the reason why not.
pub(super) fn begin(address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(super) mod tests;
