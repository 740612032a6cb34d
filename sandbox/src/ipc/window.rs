//! Memory that node and sandbox share, for what is too long for a message: a file in memory that both have mapped. Reading it with
//! system calls would take ten times as long.
//!
//! 1. Its length is sealed, so neither side can take memory from under the other.
//! 2. The other side may change it at any time. So nobody gets a reference to it: bytes are copied in and out, and what was copied
//!    out is the reader's own.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create,
};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::limits::WINDOW_BYTES;

/// [`WINDOW_BYTES`], which take memory only where they were written.
#[derive(Debug)]
pub struct Window {
    file: OwnedFd,
    memory: NonNull<u8>,
}

// SAFETY: the memory stays mapped as long as this exists, whichever thread has it, and is only copied to and from.
unsafe impl Send for Window {}
// SAFETY: as above. Threads that copy at the same time may get a mixture, as from the other side.
unsafe impl Sync for Window {}

impl Window {
    pub fn new() -> io::Result<Self> {
        let file = memfd_create("blocktree-app", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, WINDOW_BYTES as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::from_file(file)
    }

    /// The other side's, which made it with [`Self::new`].
    pub fn from_file(file: OwnedFd) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a mapping at a place that the kernel chooses touches no memory that is in use.
        let memory = unsafe { mmap(ptr::null_mut(), WINDOW_BYTES, access, MapFlags::SHARED, &file, 0)? };
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { file, memory })
    }

    /// For the other side.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.file.try_clone()
    }

    /// The first `length` bytes.
    pub fn get(&self, length: usize) -> io::Result<Vec<u8>> {
        if length > WINDOW_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut bytes = Vec::with_capacity(length);
        // SAFETY: the window has at least `length` bytes, which are mapped and sealed, and so has the new vector room for, which is
        // elsewhere. Whatever the other side writes meanwhile, each byte has some value.
        unsafe {
            ptr::copy_nonoverlapping(self.memory.as_ptr(), bytes.as_mut_ptr(), length);
            bytes.set_len(length);
        }
        Ok(bytes)
    }

    /// Puts `bytes` at its start.
    pub fn put(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > WINDOW_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the window has room for as many bytes, which are mapped and sealed, and nobody has a reference to it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.memory.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Gives its memory back.
    pub fn clear(&self) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, flags, 0, WINDOW_BYTES as u64)?)
    }
}

impl AsFd for Window {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nobody has a reference to it.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), WINDOW_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_see_the_same_bytes_and_neither_changes_its_size() {
        let window = Window::new().expect("a window");
        let other = Window::from_file(window.duplicate().expect("duplicated")).expect("mapped");
        window.put(b"hello").expect("put");
        assert_eq!(other.get(5).expect("got"), b"hello");
        assert!(ftruncate(&other, 0).is_err());
        assert!(ftruncate(&other, 2 * WINDOW_BYTES as u64).is_err());
        assert!(other.get(WINDOW_BYTES + 1).is_err());
        window.clear().expect("cleared");
        assert_eq!(other.get(5).expect("got"), [0; 5]);
    }
}
