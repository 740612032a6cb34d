//! flock(2) and fcntl(2) locks.
//!
//! Key types: [`LockTable`], [`Lock`], [`CancelToken`].
//!
//! 1. The byte ranges that one owner holds of an inode do not overlap.
//! 2. A waiter holds no other lock of this layer while it waits.
//! 3. Locks are advisory and live in memory only.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::{FsError, Ino, Result};

/// Who holds a lock: the transport's number for an open file description or a process's file table.
pub type LockOwner = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    Read,
    Write,
    Unlock,
}

/// Bytes from `start` to `end`, both included; `u64::MAX` (or `i64::MAX`) is the end of any file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockRange {
    pub start: u64,
    pub end: u64,
}

impl LockRange {
    fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    fn touches(self, other: Self) -> bool {
        self.start <= other.end.saturating_add(1) && other.start <= self.end.saturating_add(1)
    }
}

/// A byte-range lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    pub kind: LockKind,
    pub range: LockRange,
    pub owner: LockOwner,
    /// For `F_GETLK`.
    pub pid: u32,
}

impl Lock {
    fn conflicts(&self, other: &Self) -> bool {
        self.owner != other.owner
            && self.range.overlaps(other.range)
            && (self.kind == LockKind::Write || other.kind == LockKind::Write)
    }
}

type Wake = Arc<dyn Fn() + Send + Sync>;

/// Ends a wait for a lock from another thread. Cheap to clone.
#[derive(Clone, Default)]
pub struct CancelToken {
    state: Arc<Mutex<Cancel>>,
}

#[derive(Default)]
struct Cancel {
    cancelled: bool,
    wake: Option<Wake>,
}

impl CancelToken {
    pub fn new() -> Self {
        Self::default()
    }

    /// The wait answers [`crate::FsError::Interrupted`], now or when it starts.
    pub fn cancel(&self) {
        let wake = {
            let mut state = self.state.lock();
            state.cancelled = true;
            state.wake.clone()
        };
        // Not under the token's lock: waking takes the table's, under which waiters take the token's.
        if let Some(wake) = wake {
            wake();
        }
    }

    fn cancelled(&self) -> bool {
        self.state.lock().cancelled
    }
}

#[derive(Default)]
struct InodeLocks {
    ranges: Vec<Lock>,
    whole: Vec<(LockOwner, LockKind)>,
}

#[derive(Default)]
struct Tables {
    inodes: HashMap<Ino, InodeLocks>,
    /// Owners that wait for a byte range: what deadlocks are found by.
    waiting: HashMap<LockOwner, (Ino, Lock)>,
}

/// All locks of a mount.
#[derive(Default)]
pub(crate) struct LockTable {
    tables: Mutex<Tables>,
    freed: Condvar,
}

impl LockTable {
    pub(crate) fn get(&self, ino: Ino, lock: &Lock) -> Option<Lock> {
        self.tables.lock().conflict(ino, lock)
    }

    pub(crate) fn set(self: &Arc<Self>, ino: Ino, lock: Lock, wait: Option<&CancelToken>) -> Result<()> {
        let mut tables = self.tables.lock();
        if lock.kind != LockKind::Unlock {
            while tables.conflict(ino, &lock).is_some() {
                let token = wait.ok_or(FsError::WouldBlock)?;
                if tables.would_deadlock(ino, &lock) {
                    return Err(FsError::Deadlock);
                }
                tables.waiting.insert(lock.owner, (ino, lock));
                let waited = self.wait(&mut tables, token);
                tables.waiting.remove(&lock.owner);
                waited?;
            }
        }
        let locks = tables.inodes.entry(ino).or_default();
        replace(&mut locks.ranges, lock);
        tables.tidy(ino);
        self.freed.notify_all();
        Ok(())
    }

    pub(crate) fn flock(
        self: &Arc<Self>,
        ino: Ino,
        owner: LockOwner,
        kind: LockKind,
        wait: Option<&CancelToken>,
    ) -> Result<()> {
        let mut tables = self.tables.lock();
        let whole = &mut tables.inodes.entry(ino).or_default().whole;
        if whole.contains(&(owner, kind)) {
            return Ok(());
        }
        // A conversion lets go first, as flock(2) says: it is not atomic, and failing loses the old lock.
        whole.retain(|(holder, _)| *holder != owner);
        self.freed.notify_all();
        if kind == LockKind::Unlock {
            tables.tidy(ino);
            return Ok(());
        }
        loop {
            let whole = &mut tables.inodes.entry(ino).or_default().whole;
            if !whole.iter().any(|(_, held)| kind == LockKind::Write || *held == LockKind::Write) {
                whole.push((owner, kind));
                return Ok(());
            }
            let Some(token) = wait else {
                return Err(FsError::WouldBlock);
            };
            self.wait(&mut tables, token)?;
        }
    }

    /// Ends an owner's byte-range locks of an inode.
    pub(crate) fn end_ranges(&self, ino: Ino, owner: LockOwner) {
        self.end(ino, |locks| locks.ranges.retain(|lock| lock.owner != owner));
    }

    pub(crate) fn end_flock(&self, ino: Ino, owner: LockOwner) {
        self.end(ino, |locks| locks.whole.retain(|(holder, _)| *holder != owner));
    }

    /// The inode is gone.
    pub(crate) fn forget(&self, ino: Ino) {
        self.end(ino, |locks| *locks = InodeLocks::default());
    }

    fn end(&self, ino: Ino, change: impl FnOnce(&mut InodeLocks)) {
        let mut tables = self.tables.lock();
        if let Some(locks) = tables.inodes.get_mut(&ino) {
            change(locks);
            tables.tidy(ino);
            self.freed.notify_all();
        }
    }

    fn wait(self: &Arc<Self>, tables: &mut MutexGuard<'_, Tables>, token: &CancelToken) -> Result<()> {
        let table = Arc::downgrade(self);
        token.state.lock().wake = Some(Arc::new(move || {
            if let Some(table) = table.upgrade() {
                // Whoever read the token as not cancelled waits by the time that this is locked.
                drop(table.tables.lock());
                table.freed.notify_all();
            }
        }));
        if !token.cancelled() {
            self.freed.wait(tables);
        }
        token.state.lock().wake = None;
        if token.cancelled() { Err(FsError::Interrupted) } else { Ok(()) }
    }
}

impl Tables {
    fn conflict(&self, ino: Ino, lock: &Lock) -> Option<Lock> {
        self.inodes.get(&ino)?.ranges.iter().find(|held| held.conflicts(lock)).copied()
    }

    fn tidy(&mut self, ino: Ino) {
        if self.inodes.get(&ino).is_some_and(|locks| locks.ranges.is_empty() && locks.whole.is_empty()) {
            self.inodes.remove(&ino);
        }
    }

    /// Whether somebody whom `lock` waits for waits, directly or not, for its owner.
    fn would_deadlock(&self, ino: Ino, lock: &Lock) -> bool {
        let mut seen = Vec::new();
        let mut wishes = vec![(ino, *lock)];
        while let Some((ino, wish)) = wishes.pop() {
            let Some(locks) = self.inodes.get(&ino) else { continue };
            for held in locks.ranges.iter().filter(|held| held.conflicts(&wish)) {
                if held.owner == lock.owner {
                    return true;
                }
                if !seen.contains(&held.owner) {
                    seen.push(held.owner);
                    wishes.extend(self.waiting.get(&held.owner));
                }
            }
        }
        false
    }
}

/// Sets what `lock` says for its owner and range: splits, shortens and joins what the owner held.
fn replace(ranges: &mut Vec<Lock>, mut lock: Lock) {
    let mut kept = Vec::with_capacity(ranges.len() + 2);
    for held in ranges.drain(..) {
        if held.owner != lock.owner {
            kept.push(held);
        } else if held.kind == lock.kind && held.range.touches(lock.range) {
            lock.range.start = lock.range.start.min(held.range.start);
            lock.range.end = lock.range.end.max(held.range.end);
        } else if held.range.overlaps(lock.range) {
            if held.range.start < lock.range.start {
                let range = LockRange { start: held.range.start, end: lock.range.start - 1 };
                kept.push(Lock { range, ..held });
            }
            if held.range.end > lock.range.end {
                let range = LockRange { start: lock.range.end + 1, end: held.range.end };
                kept.push(Lock { range, ..held });
            }
        } else {
            kept.push(held);
        }
    }
    if lock.kind != LockKind::Unlock {
        kept.push(lock);
    }
    *ranges = kept;
}
