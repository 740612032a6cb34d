//! flock(2) and fcntl(2) locks.

use std::sync::Arc;

use parking_lot::Mutex;

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

/// A byte-range lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    pub kind: LockKind,
    pub range: LockRange,
    pub owner: LockOwner,
    /// For `F_GETLK`.
    pub pid: u32,
}

/// Ends a wait for a lock from another thread. Cheap to clone.
#[derive(Clone, Default)]
pub struct CancelToken {
    pub(crate) state: Arc<Mutex<Cancel>>,
}

#[derive(Default)]
pub(crate) struct Cancel {
    pub(crate) cancelled: bool,
}

impl CancelToken {
    pub fn new() -> Self {
        Self::default()
    }

    /// The wait answers [`crate::FsError::Interrupted`], now or when it starts.
    pub fn cancel(&self) {
        self.state.lock().cancelled = true;
    }
}
