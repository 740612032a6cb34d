//! Connections of an app to what its owner granted.
//!
//! 1. A connection that can be used is one whose address is granted: opening one and taking a grant away go by the lock of what
//!    the owner allows.
//! 2. Numbers mean something only for the app whose table this is.
//! 3. Nobody waits with a lock, and no longer than the app runs, the grant holds, and a bound says.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{set_socket_linger, set_tcp_user_timeout};

use super::dial::dial;
use super::stream::{Stop, ready};
use crate::ipc::{Error, Handle};
use crate::limits::{CONNECT_TIME, CONNECTION_PATIENCE, CONNECTIONS_MAX, DATA_BYTES_MAX};
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
}

struct Connection {
    address: Endpoint,
    /// It does not block. `None` since the grant has gone.
    stream: Option<Arc<TcpStream>>,
}

impl Default for Sockets {
    fn default() -> Self {
        Self { table: Mutex::default(), linger: CONNECTION_PATIENCE }
    }
}

impl Sockets {
    pub(in crate::node) fn connect(
        &self,
        address: &Endpoint,
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
        let end = Instant::now() + CONNECT_TIME;
        let dialed = dial(address.host(), address.port(), address.address().is_some(), end, &is_wanted);
        let powers = powers.read();
        if !is_granted(&powers) {
            return Err(Error::NotGranted);
        }
        let stream = dialed?;
        stream.set_nonblocking(true).map_err(|_| Error::Failed)?;
        // What cannot be set makes it slower, not wrong.
        let _ = stream.set_nodelay(true);
        let table = &mut *self.table.lock();
        table.next = table.next.wrapping_add(1);
        let connection = Connection { address: address.clone(), stream: Some(Arc::new(stream)) };
        table.open.insert(table.next, connection);
        Ok(table.next)
    }

    /// What has come; nothing at the end.
    pub(in crate::node) fn read(
        &self,
        handle: Handle,
        milliseconds: u32,
        stop: &Stop,
    ) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; DATA_BYTES_MAX];
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

    pub(in crate::node) fn close_all(&self) {
        let open = std::mem::take(&mut self.table.lock().open);
        open.into_values().for_each(|connection| connection.close(self.linger));
    }

    /// Ends connections to what is not granted any more.
    pub(in crate::node) fn cut(&self, powers: &Powers) {
        let table = &mut *self.table.lock();
        for Connection { address, stream } in table.open.values_mut() {
            if !powers.sockets.contains(address)
                && let Some(stream) = stream.take()
            {
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
            .filter_map(|connection| connection.stream.as_ref())
            .any(|stream| !has_ended(stream))
    }

    fn stream(&self, handle: Handle) -> Result<Arc<TcpStream>, Error> {
        let table = self.table.lock();
        let connection = table.open.get(&handle).ok_or(Error::NotFound)?;
        connection.stream.clone().ok_or(Error::NotGranted)
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
        let patience = Duration::from_millis(milliseconds.into()).min(CONNECTION_PATIENCE);
        let end = Instant::now() + patience;
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

impl Connection {
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

/// Whether the other side has said that no more comes, or the connection broke, and all that came was read.
fn has_ended(stream: &TcpStream) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut polled, Some(&at_once)).is_ok() && polled[0].revents().contains(PollFlags::ERR) {
        // A look at what came would take the error away, and the app would take what is missing for the end.
        return true;
    }
    match stream.peek(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}

#[cfg(test)]
mod tests;
