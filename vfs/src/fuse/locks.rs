//! Locks of fcntl(2) that [`Fs`] keeps: who waits for one waits on a thread of its own.

use std::collections::HashMap;
use std::sync::Arc;

use fuser::{Errno, ReplyEmpty, ReplyLock};
use parking_lot::Mutex;

use super::convert::{errno, lock_kind, lock_number};
use crate::{CancelToken, Fs, FsError, Ino, Lock, LockKind, LockOwner, LockRange};

/// More waiters than this are answered ENOLCK: each has a thread.
const WAITERS_MAX: usize = 512;

/// Those that wait.
#[derive(Default)]
pub(super) struct Waiters {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    waiting: HashMap<u64, CancelToken>,
    has_ended: bool,
}

/// A lock as the kernel asks for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) ino: Ino,
    pub(super) owner: LockOwner,
    pub(super) range: (u64, u64),
    pub(super) kind: i32,
    pub(super) pid: u32,
}

impl Wanted {
    fn lock(&self) -> Option<Lock> {
        let (start, end) = self.range;
        let range = LockRange { start, end };
        Some(Lock { kind: lock_kind(self.kind)?, range, owner: self.owner, pid: self.pid })
    }
}

/// Answers which lock is in the way.
pub(super) fn get(
    fs: &Fs,
    ino: Ino,
    owner: LockOwner,
    range: (u64, u64),
    kind: i32,
    pid: u32,
    reply: ReplyLock,
) {
    let Some(lock) = (Wanted { ino, owner, range, kind, pid }).lock() else {
        return reply.error(Errno::EINVAL);
    };
    match fs.getlk(ino, lock) {
        Ok(None) => reply.locked(range.0, range.1, lock_number(LockKind::Unlock), 0),
        Ok(Some(held)) => reply.locked(held.range.start, held.range.end, lock_number(held.kind), held.pid),
        Err(error) => reply.error(errno(&error)),
    }
}

impl Waiters {
    /// Sets or ends a lock, and answers when that is done.
    pub(super) fn set(self: &Arc<Self>, fs: &Arc<Fs>, wanted: Wanted, may_wait: bool, reply: ReplyEmpty) {
        let Some(lock) = wanted.lock() else { return reply.error(Errno::EINVAL) };
        match fs.setlk(wanted.ino, lock, None) {
            Ok(()) => reply.ok(),
            Err(FsError::WouldBlock) if may_wait => self.wait(fs, wanted.ino, lock, reply),
            Err(error) => reply.error(errno(&error)),
        }
    }

    /// Ends all waits, and those that come later.
    pub(super) fn cancel_all(&self) {
        let mut state = self.state.lock();
        state.has_ended = true;
        state.waiting.drain().for_each(|(_, token)| token.cancel());
    }

    fn wait(self: &Arc<Self>, fs: &Arc<Fs>, ino: Ino, lock: Lock, reply: ReplyEmpty) {
        let token = CancelToken::new();
        let number = {
            let mut state = self.state.lock();
            if state.has_ended || state.waiting.len() >= WAITERS_MAX {
                return reply.error(Errno::ENOLCK);
            }
            state.next += 1;
            let number = state.next;
            state.waiting.insert(number, token.clone());
            number
        };
        let (fs, waiters) = (Arc::clone(fs), Arc::clone(self));
        let thread = std::thread::Builder::new().name("lock".into()).spawn(move || {
            super::adapter::guarded(|| match fs.setlk(ino, lock, Some(&token)) {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            });
            waiters.state.lock().waiting.remove(&number);
        });
        // The reply went down with the closure, which answered EIO.
        if let Err(error) = thread {
            tracing::error!(%error, "cannot start a thread for a lock");
            self.state.lock().waiting.remove(&number);
        }
    }
}
