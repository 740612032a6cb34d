//! Memory that node and sandbox share, for what is too long for a message: a file in memory, read and written by
//! system calls. So neither side can be surprised by what the other does to it: there is no mapping that could shrink,
//! and what was read is the reader's own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create,
};
use rustix::io::{pread, pwrite};

use crate::limits::WINDOW_BYTES;

#[derive(Debug)]
pub struct Window(OwnedFd);

impl Window {
    /// A window of [`WINDOW_BYTES`], which take memory only where they were written.
    pub fn new() -> io::Result<Self> {
        let file = memfd_create("blocktree-app", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, WINDOW_BYTES as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self(file))
    }

    pub fn from_file(file: OwnedFd) -> Self {
        Self(file)
    }

    /// For the other side.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// The first `length` bytes.
    pub fn get(&self, length: usize) -> io::Result<Vec<u8>> {
        if length > WINDOW_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let done = bytes.len() as u64;
            match pread(&self.0, spare_capacity(&mut bytes), done) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // There may have been room for more.
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Puts `bytes` at its start.
    pub fn put(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > WINDOW_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut done = 0;
        while done < bytes.len() {
            match pwrite(&self.0, &bytes[done..], done as u64) {
                Ok(count) => done += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Gives its memory back.
    pub fn clear(&self) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.0, flags, 0, WINDOW_BYTES as u64)?)
    }
}

impl AsFd for Window {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_see_the_same_bytes_and_neither_changes_its_size() {
        let window = Window::new().expect("a window");
        let other = Window::from_file(window.duplicate().expect("duplicated"));
        window.put(b"hello").expect("put");
        assert_eq!(other.get(5).expect("got"), b"hello");
        assert!(ftruncate(&other, 0).is_err());
        assert!(ftruncate(&other, 2 * WINDOW_BYTES as u64).is_err());
        assert!(other.get(WINDOW_BYTES + 1).is_err());
        window.clear().expect("cleared");
        assert_eq!(other.get(5).expect("got"), [0; 5]);
    }
}
