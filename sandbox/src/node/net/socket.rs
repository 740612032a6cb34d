//! Connections of an app to what its owner granted.
//!
//! 1. A connection that can be used is one whose address is granted: opening one and taking a grant away go by the lock of what
//!    the owner allows.
//! 2. Numbers mean something only for the app whose table this is.
//! 3. Nobody waits with a lock, and no longer than the app runs, the grant holds, and a bound says.
//! 4. Who was granted a name may connect to an address if that is where the name led when this app had it looked up here. Such
//!    addresses were looked at then, and nobody asks again where the name leads.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_linger, set_tcp_user_timeout, socket_error};

use super::dial::{addresses, begin, dial};
use super::stream::{SLICE, Stop, ready};
use crate::ipc::{Error, Handle, Side};
use crate::limits::{ADDRESSES_MAX, CONNECT_TIME, CONNECTION_PATIENCE, CONNECTIONS_MAX, DATA_BYTES_MAX};
use crate::node::grants::Powers;
use crate::package::Endpoint;

/// What came on a connection that is closed is read away in such parts, and so many of them; more than the kernel keeps.
const UNREAD_BYTES: usize = 16 << 10;
const UNREAD_PARTS_MAX: usize = 1 << 10;

/// The connections of one app.
pub(in crate::node) struct Sockets {
    table: Mutex<Table>,
    /// How long what was written is still sent after its connection was closed.
    linger: Duration,
}

#[derive(Default)]
struct Table {
    open: BTreeMap<Handle, Connection>,
    next: Handle,
    /// Where names led when the app had them looked up.
    names: BTreeMap<String, Vec<IpAddr>>,
}

struct Connection {
    address: Endpoint,
    /// It does not block. `None` since the grant has gone.
    stream: Option<Arc<TcpStream>>,
    /// Where it was begun to, if not by its granted name or address itself.
    remote: Option<SocketAddr>,
    /// While it is not known to be open: how long that may take.
    opening: Option<Instant>,
}

impl Default for Sockets {
    fn default() -> Self {
        Self { table: Mutex::default(), linger: CONNECTION_PATIENCE }
    }
}

impl Sockets {
    /// Opens a connection, if that takes no longer than this, and than [`CONNECT_TIME`].
    pub(in crate::node) fn connect(
        &self,
        address: &Endpoint,
        milliseconds: u32,
        powers: &RwLock<Powers>,
        stop: &Stop,
    ) -> Result<Handle, Error> {
        let is_granted = |powers: &Powers| powers.sockets.contains(address);
        if !is_granted(&powers.read()) {
            return Err(Error::NotGranted);
        }
        // Only its own thread opens connections, one at a time.
        if self.table.lock().open.len() >= CONNECTIONS_MAX {
            return Err(Error::TooLarge);
        }
        let is_wanted = || !stop.load(Ordering::Acquire) && is_granted(&powers.read());
        let end = Instant::now() + within(CONNECT_TIME, milliseconds);
        let dialed = dial(address.host(), address.port(), address.address().is_some(), end, &is_wanted);
        let powers = powers.read();
        if !is_granted(&powers) {
            return Err(Error::NotGranted);
        }
        let stream = dialed?;
        stream.set_nonblocking(true).map_err(|_| Error::Failed)?;
        // What cannot be set makes it slower, not wrong.
        let _ = stream.set_nodelay(true);
        let (address, stream) = (address.clone(), Some(Arc::new(stream)));
        Ok(self.table.lock().add(Connection { address, stream, remote: None, opening: None }))
    }

    /// Where a name leads, if that takes no longer than this, and than [`CONNECT_TIME`]; none of its addresses is of the owner's own
    /// network.
    pub(in crate::node) fn look_up(
        &self,
        host: &str,
        milliseconds: u32,
        powers: &RwLock<Powers>,
        stop: &Stop,
    ) -> Result<Vec<IpAddr>, Error> {
        let is_granted =
            |powers: &Powers| powers.sockets.iter().any(|one| one.host() == host && one.address().is_none());
        if !is_granted(&powers.read()) {
            return Err(Error::NotGranted);
        }
        let is_wanted = || !stop.load(Ordering::Acquire) && is_granted(&powers.read());
        let end = Instant::now() + within(CONNECT_TIME, milliseconds);
        let found = addresses(host, 0, false, end, &is_wanted);
        let powers = powers.read();
        if !is_granted(&powers) {
            return Err(Error::NotGranted);
        }
        let found: Vec<_> = found?.iter().map(SocketAddr::ip).take(ADDRESSES_MAX).collect();
        self.table.lock().names.insert(host.to_owned(), found.clone());
        Ok(found)
    }

    /// Begins a connection. [`Self::finish_connect`] says what becomes of it.
    pub(in crate::node) fn start_connect(
        &self,
        remote: SocketAddr,
        powers: &RwLock<Powers>,
    ) -> Result<Handle, Error> {
        // Nothing waits here, so both locks are held to the end.
        let powers = powers.read();
        let table = &mut *self.table.lock();
        let address = granted(&table.names, remote, &powers).ok_or(Error::NotGranted)?.clone();
        if table.open.len() >= CONNECTIONS_MAX {
            return Err(Error::TooLarge);
        }
        let stream = TcpStream::from(begin(&remote).map_err(why_not)?);
        let _ = stream.set_nodelay(true);
        let (stream, opening) = (Some(Arc::new(stream)), Some(Instant::now() + CONNECT_TIME));
        Ok(table.add(Connection { address, stream, remote: Some(remote), opening }))
    }

    /// Whether a connection is open; it is an error if it never will be.
    pub(in crate::node) fn finish_connect(&self, handle: Handle) -> Result<bool, Error> {
        let stream = self.stream(handle)?;
        let mut table = self.table.lock();
        let connection = table.open.get_mut(&handle).ok_or(Error::NotFound)?;
        if connection.opening.is_none() {
            return Ok(true);
        }
        if happened(&stream, PollFlags::OUT).is_empty() {
            return Ok(false);
        }
        socket_error(&stream).and_then(|outcome| outcome).map_err(why_not)?;
        connection.opening = None;
        Ok(true)
    }

    /// Waits until one of these can be used without waiting, and answers the places of all that can; or of none, when the time is over.
    pub(in crate::node) fn wait(
        &self,
        wanted: &[(Handle, Side)],
        milliseconds: u32,
        stop: &Stop,
    ) -> Result<Vec<u32>, Error> {
        if wanted.len() > 2 * CONNECTIONS_MAX {
            return Err(Error::TooLarge);
        }
        let end = Instant::now() + within(CONNECTION_PATIENCE, milliseconds);
        loop {
            let watched = wanted.iter().map(|(handle, _)| self.watched(*handle));
            let watched = watched.collect::<Result<Vec<_>, _>>()?;
            let mut polled = Vec::with_capacity(wanted.len());
            let (mut places, mut ready) = (Vec::new(), Vec::new());
            for (place, (stream, (_, side))) in (0..).zip(watched.iter().zip(wanted)) {
                let what = match side {
                    Side::Input => PollFlags::IN,
                    Side::Output => PollFlags::OUT,
                };
                match stream {
                    Some(stream) => {
                        polled.push(PollFd::new(stream, what));
                        places.push(place);
                    }
                    None => ready.push(place),
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            let slice = if ready.is_empty() { left.min(SLICE) } else { Duration::ZERO };
            let slice = Timespec { tv_sec: 0, tv_nsec: slice.subsec_nanos().into() };
            match poll(&mut polled, Some(&slice)) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(_) => return Err(Error::Failed),
            }
            let happened = places.iter().zip(&polled).filter(|(_, polled)| !polled.revents().is_empty());
            ready.extend(happened.map(|(place, _)| *place));
            if !ready.is_empty() || left.is_zero() || stop.load(Ordering::Acquire) {
                return Ok(ready);
            }
        }
    }

    /// What has come, so many bytes at most; nothing at the end.
    pub(in crate::node) fn read(
        &self,
        handle: Handle,
        length: u32,
        milliseconds: u32,
        stop: &Stop,
    ) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; DATA_BYTES_MAX.min(length as usize)];
        let read = |mut stream: &TcpStream| stream.read(&mut bytes);
        let count = self.once(handle, PollFlags::IN, milliseconds, stop, read)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Sends what there is room for, and says how much that was.
    pub(in crate::node) fn write(
        &self,
        handle: Handle,
        bytes: &[u8],
        milliseconds: u32,
        stop: &Stop,
    ) -> Result<u32, Error> {
        let write = |mut stream: &TcpStream| stream.write(bytes);
        self.once(handle, PollFlags::OUT, milliseconds, stop, write).map(|count| count as u32)
    }

    pub(in crate::node) fn shut_down(&self, handle: Handle) -> Result<(), Error> {
        self.stream(handle)?.shutdown(Shutdown::Write).map_err(|_| Error::Closed)
    }

    pub(in crate::node) fn close(&self, handle: Handle) -> Result<(), Error> {
        let connection = self.table.lock().open.remove(&handle).ok_or(Error::NotFound)?;
        connection.close(self.linger);
        Ok(())
    }

    /// Closes a connection of which something is missing: the other side must not take what came for all.
    pub(in crate::node) fn reset(&self, handle: Handle) -> Result<(), Error> {
        let connection = self.table.lock().open.remove(&handle).ok_or(Error::NotFound)?;
        if let Some(stream) = connection.stream {
            let _ = set_socket_linger(&stream, Some(Duration::ZERO));
        }
        Ok(())
    }

    pub(in crate::node) fn close_all(&self) {
        let mut table = self.table.lock();
        table.names.clear();
        let open = std::mem::take(&mut table.open);
        drop(table);
        open.into_values().for_each(|connection| connection.close(self.linger));
    }

    /// Ends connections to what is not granted any more.
    pub(in crate::node) fn cut(&self, powers: &Powers) {
        let Table { open, names, .. } = &mut *self.table.lock();
        names.retain(|name, _| powers.sockets.iter().any(|one| one.host() == name));
        for Connection { address, stream, remote, .. } in open.values_mut() {
            if powers.sockets.contains(address) {
                continue;
            }
            if let Some(other) = remote.and_then(|remote| granted(names, remote, powers)) {
                // Another grant leads there as well, and which of them the app meant, nobody knows.
                address.clone_from(other);
            } else if let Some(stream) = stream.take() {
                // What was not sent yet is not sent any more, and who waits is woken.
                let _ = set_socket_linger(&stream, Some(Duration::ZERO));
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// Whether anything may still come by one of them.
    pub(in crate::node) fn has_open(&self) -> bool {
        let table = self.table.lock();
        table
            .open
            .values()
            .filter(|connection| !connection.is_late())
            .filter_map(|connection| connection.stream.as_ref())
            .any(|stream| !has_ended(stream))
    }

    fn stream(&self, handle: Handle) -> Result<Arc<TcpStream>, Error> {
        let table = self.table.lock();
        let connection = table.open.get(&handle).ok_or(Error::NotFound)?;
        let stream = connection.stream.clone().ok_or(Error::NotGranted)?;
        if connection.is_late() { Err(Error::TimedOut) } else { Ok(stream) }
    }

    /// What is to happen at a connection that is waited for; `None` if nothing is, since it was cut or took too long to open.
    fn watched(&self, handle: Handle) -> Result<Option<Arc<TcpStream>>, Error> {
        let table = self.table.lock();
        let connection = table.open.get(&handle).ok_or(Error::NotFound)?;
        Ok(connection.stream.clone().filter(|_| !connection.is_late()))
    }

    /// Does something with a connection once that does not have to wait.
    fn once<T>(
        &self,
        handle: Handle,
        what: PollFlags,
        milliseconds: u32,
        stop: &Stop,
        mut attempt: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> Result<T, Error> {
        let stream = self.stream(handle)?;
        let end = Instant::now() + within(CONNECTION_PATIENCE, milliseconds);
        let is_wanted = || !stop.load(Ordering::Acquire);
        let outcome = loop {
            if ready(stream.as_fd(), what, end, &is_wanted).is_err() {
                break Err(Error::TimedOut);
            }
            match attempt(&stream) {
                Ok(done) => break Ok(done),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => break Err(Error::Closed),
            }
        };
        // The grant may have gone meanwhile.
        self.stream(handle)?;
        outcome
    }
}

impl Table {
    fn add(&mut self, connection: Connection) -> Handle {
        self.next = self.next.wrapping_add(1);
        self.open.insert(self.next, connection);
        self.next
    }
}

impl Connection {
    /// Whether it took too long to open, or nobody asked in time whether it has: what comes of it then does not count.
    fn is_late(&self) -> bool {
        self.opening.is_some_and(|end| Instant::now() >= end)
    }

    /// What was written is still sent, if the other side takes it in time.
    fn close(self, linger: Duration) {
        let Some(stream) = self.stream else { return };
        let _ = set_tcp_user_timeout(&stream, linger.as_millis() as u32);
        // If something came that nobody has read, the kernel would cut the connection off instead.
        let mut bytes = [0; UNREAD_BYTES];
        for _ in 0..UNREAD_PARTS_MAX {
            if !matches!((&*stream).read(&mut bytes), Ok(1..)) {
                break;
            }
        }
    }
}

/// What of that which the owner allows leads there, by these names or as an address.
fn granted<'a>(
    names: &BTreeMap<String, Vec<IpAddr>>,
    remote: SocketAddr,
    powers: &'a Powers,
) -> Option<&'a Endpoint> {
    let leads_there = |one: &&Endpoint| match one.address() {
        Some(address) => address == remote.ip(),
        None => names.get(one.host()).is_some_and(|found| found.contains(&remote.ip())),
    };
    powers.sockets.iter().filter(|one| one.port() == remote.port()).find(leads_there)
}

/// Whether the other side has said that no more comes, or the connection broke, and all that came was read.
fn has_ended(stream: &TcpStream) -> bool {
    if happened(stream, PollFlags::IN).contains(PollFlags::ERR) {
        // A look at what came would take the error away, and the app would take what is missing for the end.
        return true;
    }
    match stream.peek(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}

/// What of this, and of what is always told, is the case with a connection now.
fn happened(stream: &TcpStream, what: PollFlags) -> PollFlags {
    let mut polled = [PollFd::new(stream, what)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&at_once)).map_or(PollFlags::empty(), |_| polled[0].revents())
}

/// As long as somebody says, and no longer than that.
fn within(most: Duration, milliseconds: u32) -> Duration {
    Duration::from_millis(milliseconds.into()).min(most)
}

/// Why there is no connection.
fn why_not(error: Errno) -> Error {
    match error {
        Errno::CONNREFUSED => Error::Rejected,
        Errno::TIMEDOUT => Error::TimedOut,
        _ => Error::Unreachable,
    }
}

#[cfg(test)]
mod tests;
