//! Calls of a mounted store's daemon: requests and answers of any length, in pieces that the control channel carries.
//!
//! Invariants:
//! 1. No piece makes an event loop wait: what a call asks for is done by a thread of its own, while the caller asks again
//!    whether it is done.
//! 2. There are [`CALLS_MAX`] calls of a callee at a time, each no longer than that one takes; one that is left alone is
//!    forgotten.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use blocktree_engine::crypto::random;
use blocktree_vfs::control::{CALL_FETCH, CALL_NOT_READY, CALL_SEND, CallChunk, Command, Refusal};

use crate::system;

const CALLS_MAX: usize = 8;
/// More than the longest package of an app.
pub(crate) const APP_CALL_BYTES_MAX: u64 = 80 << 20;
/// A call whose caller does not ask any more.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Between two questions whether an answer is there.
const PAUSE: Duration = Duration::from_millis(2);

type Answerer = dyn Fn(&[u8]) -> Vec<u8> + Send + Sync;

/// What a daemon has of those to one callee.
pub(crate) struct Calls {
    answerer: OnceLock<Arc<Answerer>>,
    bytes_max: u64,
    /// By user and id.
    running: Arc<Mutex<BTreeMap<(u32, u64), Running>>>,
}

struct Running {
    touched: Instant,
    state: State,
}

enum State {
    Arriving { total: u64, bytes: Vec<u8> },
    Asked,
    Answered(Arc<Vec<u8>>),
}

impl Calls {
    /// Calls of up to so many bytes.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { answerer: OnceLock::new(), bytes_max, running: Arc::default() }
    }

    pub(crate) fn answer_with(&self, answerer: Arc<Answerer>) {
        // It is said once, before anybody can call.
        let _ = self.answerer.set(answerer);
    }

    /// Takes a piece of a call, or gives one of its answer.
    pub(crate) fn take(&self, user: u32, chunk: &CallChunk) -> Result<CallChunk, Refusal> {
        let answerer = self.answerer.get().ok_or(Refusal::Unknown)?;
        let mut running = lock(&self.running);
        running.retain(|_, call| matches!(call.state, State::Asked) || call.touched.elapsed() < FORGOTTEN);
        match chunk.direction {
            CALL_SEND => self.receive(&mut running, (user, chunk.id), chunk, answerer)?,
            CALL_FETCH => return fetch(&mut running, (user, chunk.id), chunk.offset),
            _ => return Err(Refusal::Malformed),
        }
        Ok(CallChunk { total: CALL_NOT_READY, ..CallChunk::new(CALL_SEND, chunk.id, chunk.offset, &[]) })
    }

    fn receive(
        &self,
        running: &mut BTreeMap<(u32, u64), Running>,
        key: (u32, u64),
        chunk: &CallChunk,
        answerer: &Arc<Answerer>,
    ) -> Result<(), Refusal> {
        if chunk.offset == 0 {
            if running.len() >= CALLS_MAX || chunk.total > self.bytes_max {
                return Err(Refusal::NoSpace);
            }
            let state = State::Arriving { total: chunk.total, bytes: Vec::new() };
            running.insert(key, Running { touched: Instant::now(), state });
        }
        let call = running.get_mut(&key).ok_or(Refusal::NotFound)?;
        call.touched = Instant::now();
        let State::Arriving { total, bytes } = &mut call.state else { return Err(Refusal::Exists) };
        let is_next = chunk.offset == bytes.len() as u64 && chunk.total == *total;
        if !is_next || chunk.offset + chunk.part().len() as u64 > *total {
            return Err(Refusal::Malformed);
        }
        bytes.extend_from_slice(chunk.part());
        if bytes.len() as u64 == *total {
            let request = std::mem::take(bytes);
            call.state = State::Asked;
            self.ask(key, request, Arc::clone(answerer)).map_err(|error| {
                tracing::error!(%error, "cannot start a thread for a call");
                running.remove(&key);
                Refusal::Failed
            })?;
        }
        Ok(())
    }

    fn ask(&self, key: (u32, u64), request: Vec<u8>, answerer: Arc<Answerer>) -> std::io::Result<()> {
        let running = Arc::clone(&self.running);
        let ask = move || {
            let asked = std::panic::AssertUnwindSafe(|| answerer(&request));
            let answer = std::panic::catch_unwind(asked).unwrap_or_default();
            if let Some(call) = lock(&running).get_mut(&key) {
                *call = Running { touched: Instant::now(), state: State::Answered(Arc::new(answer)) };
            }
        };
        std::thread::Builder::new().name("call".into()).spawn(ask).map(drop)
    }
}

fn fetch(
    running: &mut BTreeMap<(u32, u64), Running>,
    key: (u32, u64),
    offset: u64,
) -> Result<CallChunk, Refusal> {
    let call = running.get_mut(&key).ok_or(Refusal::NotFound)?;
    call.touched = Instant::now();
    let State::Answered(answer) = &call.state else {
        return Ok(CallChunk { total: CALL_NOT_READY, ..CallChunk::new(CALL_FETCH, key.1, offset, &[]) });
    };
    let chunk = CallChunk::new(CALL_FETCH, key.1, offset, answer);
    if offset.saturating_add(chunk.part().len() as u64) >= chunk.total {
        running.remove(&key);
    }
    Ok(chunk)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls the daemon behind `root`, an open root directory of a mount; `callee` is the command that carries calls to it.
pub(crate) fn call(root: &File, callee: Command, request: &[u8]) -> anyhow::Result<Vec<u8>> {
    let id = u64::from_le_bytes(random());
    let mut sent = 0;
    loop {
        let mut chunk = CallChunk::new(CALL_SEND, id, sent as u64, request);
        sent += chunk.part().len();
        exchange(root, callee, &mut chunk)?;
        if sent >= request.len() {
            break;
        }
    }
    let mut answer = Vec::new();
    loop {
        let mut chunk = CallChunk { total: 0, ..CallChunk::new(CALL_FETCH, id, answer.len() as u64, &[]) };
        exchange(root, callee, &mut chunk)?;
        if chunk.total == CALL_NOT_READY {
            std::thread::sleep(PAUSE);
            continue;
        }
        answer.extend_from_slice(chunk.part());
        if answer.len() as u64 >= chunk.total {
            return Ok(answer);
        }
        if chunk.part().is_empty() {
            bail!("the daemon's answer makes no sense; is it another version?");
        }
    }
}

fn exchange(root: &File, callee: Command, chunk: &mut CallChunk) -> anyhow::Result<()> {
    system::request(root, callee, chunk)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                anyhow::anyhow!("only root and the user that mounted the store may do this")
            }
            _ => anyhow::Error::from(error),
        })
        .context("cannot ask the daemon")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls() -> Calls {
        let calls = Calls::new(APP_CALL_BYTES_MAX);
        calls.answer_with(Arc::new(|request| request.iter().rev().copied().collect()));
        calls
    }

    #[test]
    fn a_long_call_and_its_answer_go_in_pieces() {
        let calls = calls();
        let request: Vec<u8> = (0..10_000).map(|at| at as u8).collect();
        let mut sent = 0;
        while sent < request.len() {
            let chunk = CallChunk::new(CALL_SEND, 5, sent as u64, &request);
            sent += chunk.part().len();
            calls.take(0, &chunk).unwrap();
        }
        let mut answer = Vec::new();
        loop {
            let chunk = calls.take(0, &CallChunk::new(CALL_FETCH, 5, answer.len() as u64, &[])).unwrap();
            if chunk.total == CALL_NOT_READY {
                std::thread::yield_now();
                continue;
            }
            answer.extend_from_slice(chunk.part());
            if answer.len() as u64 == chunk.total {
                break;
            }
        }
        answer.reverse();
        assert_eq!(answer, request);
        let again = calls.take(0, &CallChunk::new(CALL_FETCH, 5, 0, &[]));
        assert_eq!(again.unwrap_err(), Refusal::NotFound, "it was fetched");
    }

    #[test]
    fn pieces_that_do_not_fit_are_refused() {
        let calls = calls();
        let piece = |offset, total| CallChunk { total, offset, ..CallChunk::new(CALL_SEND, 1, 0, b"abc") };
        assert_eq!(calls.take(0, &piece(3, 6)).unwrap_err(), Refusal::NotFound, "no beginning");
        calls.take(0, &piece(0, 6)).unwrap();
        assert_eq!(calls.take(0, &piece(2, 6)).unwrap_err(), Refusal::Malformed, "overlaps");
        assert_eq!(calls.take(0, &piece(3, 7)).unwrap_err(), Refusal::Malformed, "another length");
        assert_eq!(calls.take(9, &piece(3, 6)).unwrap_err(), Refusal::NotFound, "somebody else's");
        assert_eq!(calls.take(0, &piece(0, 1)).unwrap_err(), Refusal::Malformed, "more than its length");
        assert_eq!(calls.take(0, &piece(0, u64::MAX)).unwrap_err(), Refusal::NoSpace);
        let aimless = CallChunk { direction: 7, ..piece(0, 3) };
        assert_eq!(calls.take(0, &aimless).unwrap_err(), Refusal::Malformed);
    }

    #[test]
    fn there_are_so_many_calls_at_a_time() {
        let calls = calls();
        let begin = |id| calls.take(0, &CallChunk { total: 9, ..CallChunk::new(CALL_SEND, id, 0, b"abc") });
        for id in 0..CALLS_MAX as u64 {
            begin(id).unwrap();
        }
        assert_eq!(begin(99).unwrap_err(), Refusal::NoSpace);
    }
}
