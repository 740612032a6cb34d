//! One request to the kernel: a part of a buffer and its place on the device.
#![allow(unsafe_code)]

use std::io;
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

use crate::device::arena::Arena;
use crate::device::buffer::SectorBuf;
use crate::limits::{REQUEST_BYTES_MAX, SECTOR_BYTES};

/// How often the kernel may give one request back undone before that counts as a failure.
const ATTEMPTS_MAX: u32 = 1000;
/// The only registered file and the only registered buffer of a ring.
const FILE: types::Fixed = types::Fixed(0);
const ARENA_INDEX: u16 = 0;

/// Plain data: it does not keep its memory alive.
pub(super) struct Request {
    address: *mut u8,
    bytes: u32,
    offset: u64,
    is_in_arena: bool,
    attempts_left: u32,
}

// SAFETY: the address is only given to the kernel; whoever submits vouches for the memory.
unsafe impl Send for Request {}

/// What became of a request.
pub(super) enum Outcome {
    Done,
    /// To be submitted again: it was not done, or only in part.
    Again,
    Failed(io::Error),
}

/// Splits a buffer's transfer into requests that devices take.
pub(super) fn split(
    buffer: &SectorBuf,
    offset: u64,
    arena: Option<&Arc<Arena>>,
    mut each: impl FnMut(Request),
) {
    let is_in_arena = arena.is_some_and(|arena| buffer.is_of(arena));
    let length = buffer.sectors() * SECTOR_BYTES;
    for start in (0..length).step_by(REQUEST_BYTES_MAX) {
        each(Request {
            address: buffer.start().as_ptr().wrapping_add(start),
            bytes: (length - start).min(REQUEST_BYTES_MAX) as u32,
            offset: offset + start as u64,
            is_in_arena,
            attempts_left: ATTEMPTS_MAX,
        });
    }
}

impl Request {
    pub(super) fn read_entry(&self, has_buffers: bool) -> squeue::Entry {
        if has_buffers && self.is_in_arena {
            let read = opcode::ReadFixed::new(FILE, self.address, self.bytes, ARENA_INDEX);
            return read.offset(self.offset).build();
        }
        opcode::Read::new(FILE, self.address, self.bytes).offset(self.offset).build()
    }

    pub(super) fn write_entry(&self, has_buffers: bool) -> squeue::Entry {
        if has_buffers && self.is_in_arena {
            let write = opcode::WriteFixed::new(FILE, self.address, self.bytes, ARENA_INDEX);
            return write.offset(self.offset).build();
        }
        opcode::Write::new(FILE, self.address, self.bytes).offset(self.offset).build()
    }

    /// Takes the kernel's result. What is left of a short transfer is what this request is from then on; `stopped`
    /// is the error where nothing at all was transferred.
    pub(super) fn settle(&mut self, result: i32, stopped: io::ErrorKind) -> Outcome {
        if result < 0 {
            let errno = -result;
            // ECANCELED: the thread that submitted it ended before the kernel had begun.
            let is_undone = matches!(errno, libc::EINTR | libc::EAGAIN | libc::ECANCELED);
            if is_undone && self.attempts_left > 0 {
                self.attempts_left -= 1;
                return Outcome::Again;
            }
            return Outcome::Failed(io::Error::from_raw_os_error(errno));
        }
        let moved = result as u32;
        if moved >= self.bytes {
            return Outcome::Done;
        }
        let whole = moved / SECTOR_BYTES as u32 * SECTOR_BYTES as u32;
        if whole == 0 {
            return Outcome::Failed(stopped.into());
        }
        self.address = self.address.wrapping_add(whole as usize);
        self.bytes -= whole;
        self.offset += u64::from(whole);
        Outcome::Again
    }
}

/// What to do after `io_uring_enter` failed.
pub(super) enum EnterFailure {
    /// A signal came: enter again.
    Interrupted,
    /// The kernel is short of memory or of room for completions: reap, and enter again a little later.
    Busy,
    Broken,
}

impl EnterFailure {
    pub(super) fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EINTR) => Self::Interrupted,
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => Self::Busy,
            _ => Self::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(buffer: &SectorBuf) -> Request {
        let mut all = Vec::new();
        split(buffer, 8192, None, |request| all.push(request));
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    #[test]
    fn long_buffers_are_split() {
        let buffer = SectorBuf::heap(600);
        let mut ranges = Vec::new();
        split(&buffer, 4096, None, |request| ranges.push((request.offset, request.bytes)));
        let mib = REQUEST_BYTES_MAX as u64;
        assert_eq!(ranges, [(4096, 1 << 20), (4096 + mib, 1 << 20), (4096 + 2 * mib, 88 * 4096)]);
    }

    #[test]
    fn short_transfers_go_on_where_they_stopped() {
        let buffer = SectorBuf::heap(4);
        let mut request = request(&buffer);
        assert!(matches!(request.settle(-libc::EINTR, io::ErrorKind::WriteZero), Outcome::Again));
        assert!(matches!(request.settle(5000, io::ErrorKind::WriteZero), Outcome::Again));
        assert_eq!((request.offset, request.bytes), (8192 + 4096, 3 * 4096));
        assert_eq!(request.address as usize, buffer.as_ptr() as usize + 4096);
        assert!(matches!(request.settle(3 * 4096, io::ErrorKind::WriteZero), Outcome::Done));
    }

    #[test]
    fn nothing_transferred_is_a_failure() {
        let buffer = SectorBuf::heap(4);
        let mut request = request(&buffer);
        let outcome = request.settle(0, io::ErrorKind::UnexpectedEof);
        assert!(matches!(outcome, Outcome::Failed(e) if e.kind() == io::ErrorKind::UnexpectedEof));
        let outcome = request.settle(-libc::EIO, io::ErrorKind::UnexpectedEof);
        assert!(matches!(outcome, Outcome::Failed(e) if e.raw_os_error() == Some(libc::EIO)));
        for _ in 0..ATTEMPTS_MAX {
            assert!(matches!(request.settle(-libc::EAGAIN, io::ErrorKind::WriteZero), Outcome::Again));
        }
        assert!(matches!(request.settle(-libc::EAGAIN, io::ErrorKind::WriteZero), Outcome::Failed(_)));
    }
}
