//! The classic transport: each event loop reads a request from `/dev/fuse` and writes the answer to it.
//!
//! Invariant: the answer goes to the descriptor that the request came from; the kernel looks for it only there.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use zerocopy::{FromBytes, IntoBytes};

use super::adapter::Adapter;
use super::answer::{Answer, Body, Failure};
use super::attach;
use super::buffer::{AnswerBuffer, RequestBuffer};
use super::protocol::{Arguments, InHeader, Malformed, NOTIFY_INVAL_INODE, NotifyInvalInode, OutHeader};
use crate::Ino;

/// An open descriptor of the connection.
pub(super) struct Device(File);

impl Device {
    pub(super) fn new(descriptor: OwnedFd) -> Self {
        Self(descriptor.into())
    }

    /// A second descriptor of the same connection, so that loops do not share one's lists in the kernel.
    pub(super) fn duplicate(&self) -> io::Result<Self> {
        attach::clone_device(&self.0).map(Self::new)
    }

    /// Waits for a request; `None` once the mount has ended.
    pub(super) fn receive(&self, bytes: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            let error = match (&self.0).read(bytes) {
                Ok(count) => return Ok(Some(count)),
                Err(error) => error,
            };
            match error.raw_os_error() {
                // A signal, or a request that was given up while it was being read.
                Some(libc::EINTR | libc::EAGAIN | libc::ENOENT) => {}
                Some(libc::ENODEV | libc::ECONNABORTED) => return Ok(None),
                _ => return Err(error),
            }
        }
    }

    /// Sends a whole message.
    pub(super) fn send(&self, message: &[u8]) {
        match (&self.0).write(message) {
            Ok(_) => {}
            // Nobody waits for it any more, or the mount has ended.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {}
            Err(error) => tracing::error!(%error, "the kernel did not take an answer"),
        }
    }

    /// Has the kernel write back what it holds of these bytes of a file, and forget them. Returns when that is done,
    /// for which other event loops must take the writes.
    pub(super) fn write_back(&self, ino: Ino, start: u64, end: Option<u64>) -> io::Result<()> {
        let (Ok(off), Ok(len)) =
            (i64::try_from(start), i64::try_from(end.map_or(0, |end| end.saturating_sub(start))))
        else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        self.notify(NOTIFY_INVAL_INODE, &[NotifyInvalInode { ino, off, len }.as_bytes()])
    }

    /// Sends a message that answers nothing.
    pub(super) fn notify(&self, what: i32, parts: &[&[u8]]) -> io::Result<()> {
        let length = size_of::<OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
        let mut message = Vec::with_capacity(length);
        message.extend_from_slice(OutHeader { len: length as u32, error: what, unique: 0 }.as_bytes());
        parts.iter().for_each(|part| message.extend_from_slice(part));
        (&self.0).write(&message).map(drop)
    }
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// An answer that comes later, from any thread. Dropped without one, it answers EIO.
pub(super) struct Later {
    device: Arc<Device>,
    unique: u64,
    is_answered: bool,
}

impl Later {
    pub(super) fn answer(mut self, result: Result<(), Failure>) {
        self.send(result);
    }

    fn send(&mut self, result: Result<(), Failure>) {
        let error = result.map_or_else(|failure| -failure.errno(), |()| 0);
        let header = OutHeader { len: size_of::<OutHeader>() as u32, error, unique: self.unique };
        self.device.send(header.as_bytes());
        self.is_answered = true;
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        if !self.is_answered {
            self.send(Err(Failure::Panicked));
        }
    }
}

/// How many loops of a group may wait for the kernel at the same time: all but one, which then serves what the kernel
/// needs for that.
pub(super) struct Spare(AtomicUsize);

impl Spare {
    pub(super) fn of(loops: usize) -> Self {
        Self(AtomicUsize::new(loops.saturating_sub(1)))
    }

    pub(super) fn take(&self) -> Option<Taken<'_>> {
        let less = |left: usize| left.checked_sub(1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).ok().map(|_| Taken(self))
    }
}

/// Gives back on drop.
pub(super) struct Taken<'a>(&'a Spare);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// Where a request came from.
pub(super) struct Origin<'a> {
    pub(super) device: &'a Arc<Device>,
    pub(super) spare: &'a Spare,
    /// Whether [`Origin::later`] leads anywhere.
    pub(super) may_answer_later: bool,
}

impl Origin<'_> {
    pub(super) fn later(&self, unique: u64) -> Later {
        Later { device: Arc::clone(self.device), unique, is_answered: false }
    }
}

/// An event loop: serves requests until the mount ends.
pub(super) fn serve(device: &Arc<Device>, spare: &Spare, adapter: &Adapter) -> io::Result<()> {
    let (mut requests, mut answers) = (RequestBuffer::new(), AnswerBuffer::new());
    let origin = Origin { device, spare, may_answer_later: true };
    while let Some(bytes) = device.receive(requests.bytes())? {
        let message = &requests.bytes()[..bytes];
        let Ok((header, rest)) = InHeader::read_from_prefix(message) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, Malformed));
        };
        let answer = adapter.answer(&header, Arguments::joined(rest), Body::new(answers.body()), &origin);
        match answer {
            Ok(Answer::Body(bytes)) => device.send(answers.message(header.unique, 0, bytes)),
            Ok(Answer::Silence) => {}
            Err(failure) => device.send(answers.message(header.unique, -failure.errno(), 0)),
        }
    }
    Ok(())
}
