//! File locks: see [`crate::lock`].

use super::Fs;
use crate::lock::{CancelToken, Lock, LockKind, LockOwner};
use crate::{FsError, Ino, Result};

impl Fs {
    /// A lock that `lock` would wait for.
    pub fn getlk(&self, ino: Ino, lock: Lock) -> Result<Option<Lock>> {
        check_range(&lock)?;
        if lock.kind == LockKind::Unlock {
            return Err(FsError::Invalid("asking for an unlock"));
        }
        Ok(self.locks.get(ino, &lock))
    }

    /// Sets or ends a byte-range lock. With `wait`, blocks until it is free or the token is cancelled.
    pub fn setlk(&self, ino: Ino, lock: Lock, wait: Option<&CancelToken>) -> Result<()> {
        check_range(&lock)?;
        self.locks.set(ino, lock, wait)
    }

    /// Sets or ends a lock on the whole file, of an open file description.
    pub fn flock(
        &self,
        ino: Ino,
        owner: LockOwner,
        kind: LockKind,
        wait: Option<&CancelToken>,
    ) -> Result<()> {
        self.locks.flock(ino, owner, kind, wait)
    }

    /// What each close(2) does: ends the fcntl locks of `owner`.
    pub fn flush(&self, ino: Ino, owner: LockOwner) -> Result<()> {
        self.locks.end_ranges(ino, owner);
        Ok(())
    }
}

fn check_range(lock: &Lock) -> Result<()> {
    match lock.range.start <= lock.range.end {
        true => Ok(()),
        false => Err(FsError::Invalid("a range that ends before it starts")),
    }
}
