//! Signatures whose bodies are still to come.
#![allow(unused_variables)]

use std::sync::Arc;

use blocktree_engine::format::BlockId;
use blocktree_engine::{Seq, Store};

use super::*;
use crate::events::{Events, Observer};
use crate::lock::{CancelToken, Lock, LockKind, LockOwner};

const MISSING: FsError = FsError::NotSupported("not yet");

impl Fs {
    pub const ROOT: BlockId = Store::ROOT;

    /// Makes the root directory, mode 0755, of a store that was just created.
    pub fn format(store: &Store, uid: u32, gid: u32) -> Result<()> {
        Err(MISSING)
    }
    /// Starts to serve a store's tree; ends what was unlinked but still open at a crash.
    pub fn mount(store: Store, options: MountOptions) -> Result<Self> {
        Err(MISSING)
    }
    /// Writes down what is pending (access times, orphans) and makes everything durable. Call it when no
    /// operation runs any more; the store stays open.
    pub fn unmount(&self) -> Result<()> {
        Err(MISSING)
    }
    pub fn store(&self) -> &Store {
        unimplemented!()
    }

    /// Finds a name and counts the kernel's knowledge of the inode up by one: see [`Fs::forget`]. `.` and `..`
    /// are found too.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Stat> {
        Err(MISSING)
    }
    /// Takes `count` lookups back. lookup, create, mknod, mkdir, symlink, link and each accepted entry of
    /// readdirplus except `.` and `..` count one each.
    pub fn forget(&self, ino: Ino, count: u64) {}
    pub fn getattr(&self, ino: Ino) -> Result<Stat> {
        Err(MISSING)
    }
    pub fn setattr(&self, caller: &Caller, ino: Ino, changes: &SetAttributes) -> Result<Stat> {
        Err(MISSING)
    }
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        Err(MISSING)
    }
    /// `mode` is type and permissions; `rdev` counts for devices only.
    pub fn mknod(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32, rdev: u32) -> Result<Stat> {
        Err(MISSING)
    }
    pub fn mkdir(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32) -> Result<Stat> {
        Err(MISSING)
    }
    pub fn symlink(&self, caller: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> Result<Stat> {
        Err(MISSING)
    }
    /// Makes a regular file and opens it: one lookup and one open to take back.
    pub fn create(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32) -> Result<Stat> {
        Err(MISSING)
    }
    pub fn link(&self, ino: Ino, new_parent: Ino, new_name: &[u8]) -> Result<Stat> {
        Err(MISSING)
    }
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        Err(MISSING)
    }
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        Err(MISSING)
    }
    pub fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        Err(MISSING)
    }

    /// Counts an open up. Opens carry no other state: a transport may use any number as file handle. An inode
    /// without names lives until the last release and forget.
    pub fn open(&self, ino: Ino, flags: OpenFlags) -> Result<()> {
        Err(MISSING)
    }
    /// Counts an open down, and ends the flock locks of `flock_owner`.
    pub fn release(&self, ino: Ino, flock_owner: Option<LockOwner>) {}
    /// What each close(2) does: ends the fcntl locks of `owner`.
    pub fn flush(&self, ino: Ino, owner: LockOwner) -> Result<()> {
        Err(MISSING)
    }
    /// Fills `bytes` from `offset` on; fewer only at the end of the file. Marks an access (relatime).
    pub fn read(&self, ino: Ino, offset: u64, bytes: &mut [u8]) -> Result<usize> {
        Err(MISSING)
    }
    pub fn write(&self, ino: Ino, offset: u64, bytes: &[u8], flags: WriteFlags) -> Result<usize> {
        Err(MISSING)
    }
    /// Writes at the end, wherever it is by then; answers the offset.
    pub fn append(&self, ino: Ino, bytes: &[u8], flags: WriteFlags) -> Result<u64> {
        Err(MISSING)
    }
    /// Returns when the inode and all that happened before its last change are durable; with `data_only`,
    /// changes of mode, owner and times alone may be left out.
    pub fn fsync(&self, ino: Ino, data_only: bool) -> Result<()> {
        Err(MISSING)
    }
    pub fn syncfs(&self) -> Result<()> {
        Err(MISSING)
    }
    pub fn fallocate(&self, ino: Ino, mode: FallocateMode, offset: u64, length: u64) -> Result<()> {
        Err(MISSING)
    }
    pub fn seek(&self, ino: Ino, offset: u64, whence: Whence) -> Result<u64> {
        Err(MISSING)
    }
    /// Copies up to `length` bytes, sharing whole sectors; answers how many.
    pub fn copy_file_range(
        &self,
        source: Ino,
        source_offset: u64,
        target: Ino,
        target_offset: u64,
        length: u64,
    ) -> Result<u64> {
        Err(MISSING)
    }

    pub fn opendir(&self, ino: Ino) -> Result<()> {
        Err(MISSING)
    }
    pub fn releasedir(&self, ino: Ino) {}
    /// Hands out entries after `cookie` (0: from the start) until `take` answers false (that entry was not
    /// taken) or the directory ends.
    pub fn readdir(
        &self,
        ino: Ino,
        cookie: u64,
        take: &mut dyn FnMut(&DirectoryEntry<'_>) -> bool,
    ) -> Result<()> {
        Err(MISSING)
    }
    /// As [`Fs::readdir`], each entry with its attributes. Every taken entry but `.` and `..` counts a lookup.
    pub fn readdirplus(
        &self,
        ino: Ino,
        cookie: u64,
        take: &mut dyn FnMut(&DirectoryEntry<'_>, &Stat) -> bool,
    ) -> Result<()> {
        Err(MISSING)
    }
    pub fn statfs(&self) -> Result<Statfs> {
        Err(MISSING)
    }

    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        Err(MISSING)
    }
    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], flags: SetXattrFlags) -> Result<()> {
        Err(MISSING)
    }
    /// The names, each with a NUL after it. `trusted.*` only with `privileged` (the kernel leaves that to us).
    pub fn listxattr(&self, ino: Ino, privileged: bool) -> Result<Vec<u8>> {
        Err(MISSING)
    }
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        Err(MISSING)
    }

    /// The lock that `lock` would wait for.
    pub fn getlk(&self, ino: Ino, lock: Lock) -> Result<Option<Lock>> {
        Err(MISSING)
    }
    /// Sets or ends a byte-range lock. With `wait`, blocks until it is free or the token is cancelled.
    pub fn setlk(&self, ino: Ino, lock: Lock, wait: Option<&CancelToken>) -> Result<()> {
        Err(MISSING)
    }
    /// Sets or ends a lock on the whole file, of an open file description.
    pub fn flock(
        &self,
        ino: Ino,
        owner: LockOwner,
        kind: LockKind,
        wait: Option<&CancelToken>,
    ) -> Result<()> {
        Err(MISSING)
    }

    /// From now on the observer is asked and told.
    pub fn observe(&self, observer: Arc<dyn Observer>) {}
    /// Events after `seq` that the queue still holds; starts with [`crate::Event::Overflow`] if some are missing.
    pub fn events_since(&self, seq: Seq) -> Events {
        Vec::new()
    }
}
