//! The FUSE protocol: what the kernel sends and how it is answered, as bytes and as types. No I/O.
//!
//! `wire` holds the structures as the kernel has them (`include/uapi/linux/fuse.h`, protocol 7.45), `request` makes a
//! typed [`Request`] of a message, and here are the numbers. Neighbours: `device` and `uring` move the messages,
//! `adapter` answers them.
//!
//! Invariants:
//! 1. Numbers are in the byte order of the machine: a message never leaves it.
//! 2. No bytes make the parser panic, and what it hands out lies within the message.

mod request;
mod wire;

#[cfg(test)]
mod tests;

pub(crate) use request::Malformed;
pub(super) use request::{Arguments, Operation, Request};
pub(super) use wire::*;

/// The only version that there has been since 2006.
pub(super) const MAJOR: u32 = 7;
/// The newest that is written down here. The kernel goes by the lesser of its own and this.
pub(super) const MINOR: u32 = 45;

/// What a request asks for.
pub(super) mod opcode {
    pub(in crate::fuse) const LOOKUP: u32 = 1;
    pub(in crate::fuse) const FORGET: u32 = 2;
    pub(in crate::fuse) const GETATTR: u32 = 3;
    pub(in crate::fuse) const SETATTR: u32 = 4;
    pub(in crate::fuse) const READLINK: u32 = 5;
    pub(in crate::fuse) const SYMLINK: u32 = 6;
    pub(in crate::fuse) const MKNOD: u32 = 8;
    pub(in crate::fuse) const MKDIR: u32 = 9;
    pub(in crate::fuse) const UNLINK: u32 = 10;
    pub(in crate::fuse) const RMDIR: u32 = 11;
    pub(in crate::fuse) const RENAME: u32 = 12;
    pub(in crate::fuse) const LINK: u32 = 13;
    pub(in crate::fuse) const OPEN: u32 = 14;
    pub(in crate::fuse) const READ: u32 = 15;
    pub(in crate::fuse) const WRITE: u32 = 16;
    pub(in crate::fuse) const STATFS: u32 = 17;
    pub(in crate::fuse) const RELEASE: u32 = 18;
    pub(in crate::fuse) const FSYNC: u32 = 20;
    pub(in crate::fuse) const SETXATTR: u32 = 21;
    pub(in crate::fuse) const GETXATTR: u32 = 22;
    pub(in crate::fuse) const LISTXATTR: u32 = 23;
    pub(in crate::fuse) const REMOVEXATTR: u32 = 24;
    pub(in crate::fuse) const FLUSH: u32 = 25;
    pub(in crate::fuse) const INIT: u32 = 26;
    pub(in crate::fuse) const OPENDIR: u32 = 27;
    pub(in crate::fuse) const READDIR: u32 = 28;
    pub(in crate::fuse) const RELEASEDIR: u32 = 29;
    pub(in crate::fuse) const FSYNCDIR: u32 = 30;
    pub(in crate::fuse) const GETLK: u32 = 31;
    pub(in crate::fuse) const SETLK: u32 = 32;
    pub(in crate::fuse) const SETLKW: u32 = 33;
    pub(in crate::fuse) const CREATE: u32 = 35;
    pub(in crate::fuse) const INTERRUPT: u32 = 36;
    pub(in crate::fuse) const DESTROY: u32 = 38;
    pub(in crate::fuse) const IOCTL: u32 = 39;
    pub(in crate::fuse) const BATCH_FORGET: u32 = 42;
    pub(in crate::fuse) const FALLOCATE: u32 = 43;
    pub(in crate::fuse) const READDIRPLUS: u32 = 44;
    pub(in crate::fuse) const RENAME2: u32 = 45;
    pub(in crate::fuse) const LSEEK: u32 = 46;
    pub(in crate::fuse) const COPY_FILE_RANGE: u32 = 47;
    pub(in crate::fuse) const TMPFILE: u32 = 51;
    pub(in crate::fuse) const STATX: u32 = 52;
}

/// What INIT offers and accepts.
pub(super) mod init {
    pub(in crate::fuse) const ASYNC_READ: u64 = 1 << 0;
    pub(in crate::fuse) const POSIX_LOCKS: u64 = 1 << 1;
    pub(in crate::fuse) const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub(in crate::fuse) const EXPORT_SUPPORT: u64 = 1 << 4;
    pub(in crate::fuse) const BIG_WRITES: u64 = 1 << 5;
    pub(in crate::fuse) const DONT_MASK: u64 = 1 << 6;
    pub(in crate::fuse) const FLOCK_LOCKS: u64 = 1 << 10;
    pub(in crate::fuse) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(in crate::fuse) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(in crate::fuse) const ASYNC_DIO: u64 = 1 << 15;
    pub(in crate::fuse) const WRITEBACK_CACHE: u64 = 1 << 16;
    pub(in crate::fuse) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(in crate::fuse) const POSIX_ACL: u64 = 1 << 20;
    pub(in crate::fuse) const MAX_PAGES: u64 = 1 << 22;
    pub(in crate::fuse) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(in crate::fuse) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub(in crate::fuse) const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub(in crate::fuse) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(in crate::fuse) const SETXATTR_EXT: u64 = 1 << 29;
    /// `flags2` holds the upper half.
    pub(in crate::fuse) const EXTENDED: u64 = 1 << 30;
    pub(in crate::fuse) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    pub(in crate::fuse) const OVER_IO_URING: u64 = 1 << 41;
}

/// What of [`SetattrIn`] counts.
pub(super) mod setattr {
    pub(in crate::fuse) const MODE: u32 = 1 << 0;
    pub(in crate::fuse) const UID: u32 = 1 << 1;
    pub(in crate::fuse) const GID: u32 = 1 << 2;
    pub(in crate::fuse) const SIZE: u32 = 1 << 3;
    pub(in crate::fuse) const ATIME: u32 = 1 << 4;
    pub(in crate::fuse) const MTIME: u32 = 1 << 5;
    pub(in crate::fuse) const ATIME_NOW: u32 = 1 << 7;
    pub(in crate::fuse) const MTIME_NOW: u32 = 1 << 8;
    pub(in crate::fuse) const CTIME: u32 = 1 << 10;
    pub(in crate::fuse) const KILL_SUIDGID: u32 = 1 << 11;
}

/// In `open_flags` of [`OpenIn`] and [`CreateIn`]: as [`WRITE_KILL_SUIDGID`], with `O_TRUNC`.
pub(super) const OPEN_KILL_SUIDGID: u32 = 1 << 0;

/// In `open_flags` of [`OpenOut`].
pub(super) mod opened {
    pub(in crate::fuse) const DIRECT_IO: u32 = 1 << 0;
    pub(in crate::fuse) const KEEP_CACHE: u32 = 1 << 1;
    pub(in crate::fuse) const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
}

/// The bytes come from the kernel's cache.
pub(super) const WRITE_CACHE: u32 = 1 << 0;
/// The writer lacks CAP_FSETID.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
pub(super) const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;
pub(super) const LK_FLOCK: u32 = 1 << 0;
pub(super) const FSYNC_FDATASYNC: u32 = 1 << 0;
pub(super) const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;

/// The `error` of a message that answers nothing: what the kernel is to do.
pub(super) const NOTIFY_INVAL_INODE: i32 = 2;
pub(super) const NOTIFY_INVAL_ENTRY: i32 = 3;
pub(super) const NOTIFY_STORE: i32 = 4;

/// The commands of io_uring, and what lies where in the headers of a request that comes this way: the header, the
/// structure of the operation, and the [`UringEntry`]. The rest is in the payload.
pub(super) mod uring {
    pub(in crate::fuse) const REGISTER: u32 = 1;
    pub(in crate::fuse) const COMMIT_AND_FETCH: u32 = 2;
    pub(in crate::fuse) const STRUCTURE: usize = 128;
    pub(in crate::fuse) const ENTRY: usize = 256;
    pub(in crate::fuse) const HEADER_BYTES: usize = ENTRY + size_of::<super::UringEntry>();
}
