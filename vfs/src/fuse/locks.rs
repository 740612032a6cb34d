//! Locks that [`Fs`] keeps: who waits for one waits on a thread of its own.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;

use super::answer::{Answer, Failure};
use super::convert::{lock_kind, lock_number};
use super::device::{Later, Origin};
use super::protocol::{FileLock, LK_FLOCK, LkIn, LkOut};
use crate::{CancelToken, Fs, FsError, Ino, Lock, LockKind, LockRange};

/// More waiters than this are answered ENOLCK: each has a thread.
const WAITERS_MAX: usize = 512;
/// Interrupts that came before what they interrupt; more of them push the oldest out.
const EARLY_MAX: usize = 256;

/// Those that wait, by the number of the request.
#[derive(Default)]
pub(super) struct Waiters {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: HashMap<u64, CancelToken>,
    /// Another event loop may take an interrupt while the one that has the request is about to make it wait. Nearly
    /// all interrupts are of other requests, which nobody waits for here.
    early: VecDeque<u64>,
    has_ended: bool,
}

/// A lock as the kernel asks for it.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    ino: Ino,
    lock: Lock,
    /// As by flock(2), not fcntl(2).
    is_whole: bool,
}

impl Wanted {
    fn new(ino: Ino, wanted: &LkIn) -> Result<Self, FsError> {
        let range = LockRange { start: wanted.lk.start, end: wanted.lk.end };
        let lock = Lock { kind: lock_kind(wanted.lk.kind)?, range, owner: wanted.owner, pid: wanted.lk.pid };
        Ok(Self { ino, lock, is_whole: wanted.lk_flags & LK_FLOCK != 0 })
    }

    fn set(&self, fs: &Fs, wait: Option<&CancelToken>) -> Result<(), FsError> {
        match self.is_whole {
            true => fs.flock(self.ino, self.lock.owner, self.lock.kind, wait),
            false => fs.setlk(self.ino, self.lock, wait),
        }
    }
}

/// Which lock is in the way.
pub(super) fn get(fs: &Fs, ino: Ino, wanted: &LkIn) -> Result<LkOut, Failure> {
    let asked = Wanted::new(ino, wanted)?.lock;
    let lk = match fs.getlk(ino, asked)? {
        None => FileLock { kind: lock_number(LockKind::Unlock), pid: 0, ..wanted.lk },
        Some(held) => FileLock {
            start: held.range.start,
            end: held.range.end,
            kind: lock_number(held.kind),
            pid: held.pid,
        },
    };
    Ok(LkOut { lk })
}

impl Waiters {
    /// Sets or ends a lock.
    pub(super) fn set(
        self: &Arc<Self>,
        fs: &Arc<Fs>,
        ino: Ino,
        wanted: &LkIn,
        wait: Option<(u64, &Origin<'_>)>,
    ) -> Result<Answer, Failure> {
        let wanted = Wanted::new(ino, wanted)?;
        match (wanted.set(fs, None), wait) {
            (Err(FsError::WouldBlock), Some((unique, origin))) if origin.may_answer_later => {
                let token = self.register(unique)?;
                self.wait(fs, wanted, token, unique, origin.later(unique));
                Ok(Answer::Silence)
            }
            (result, _) => Ok(result.map(|()| Answer::Body(0))?),
        }
    }

    /// Ends the wait of a request, if it is one that waits.
    pub(super) fn interrupt(&self, unique: u64) {
        let mut state = self.state.lock();
        let token = state.waiting.get(&unique).cloned();
        if token.is_none() {
            if state.early.len() == EARLY_MAX {
                state.early.pop_front();
            }
            state.early.push_back(unique);
        }
        drop(state);
        if let Some(token) = token {
            token.cancel();
        }
    }

    /// Ends all waits, and those that come later.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.has_ended = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_values().for_each(|token| token.cancel());
    }

    fn register(&self, unique: u64) -> Result<CancelToken, Failure> {
        let mut state = self.state.lock();
        if let Some(at) = state.early.iter().position(|early| *early == unique) {
            state.early.remove(at);
            return Err(FsError::Interrupted.into());
        }
        if state.has_ended || state.waiting.len() >= WAITERS_MAX {
            return Err(Failure::TooManyWaiters);
        }
        let token = CancelToken::new();
        state.waiting.insert(unique, token.clone());
        Ok(token)
    }

    fn wait(self: &Arc<Self>, fs: &Arc<Fs>, wanted: Wanted, token: CancelToken, unique: u64, later: Later) {
        let (fs, waiters) = (Arc::clone(fs), Arc::clone(self));
        let thread = std::thread::Builder::new().name("lock".into()).spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| wanted.set(&fs, Some(&token))));
            waiters.state.lock().waiting.remove(&unique);
            later.answer(result.unwrap_or(Err(FsError::Interrupted)).map_err(Failure::from));
        });
        // The answer went down with the closure, which answered EIO.
        if let Err(error) = thread {
            tracing::error!(%error, "cannot start a thread for a lock");
            self.state.lock().waiting.remove(&unique);
        }
    }
}
