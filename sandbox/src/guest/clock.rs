//! Ends what takes too long: a thread that sleeps until a deadline, and then lets the engine's epoch go on, at which
//! running code traps. While nothing runs, it does not wake.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use wasmtime::Engine;

#[derive(Default)]
struct State {
    /// The thread is there, and has made all the system calls that a new thread makes.
    is_watched: bool,
    running: Option<(Engine, Instant)>,
}

pub(super) struct Deadline(Arc<(Mutex<State>, Condvar)>);

/// While it exists, the deadline holds.
pub(super) struct Within<'a>(&'a Deadline);

impl Deadline {
    pub(super) fn start() -> io::Result<Self> {
        let shared: Arc<(Mutex<State>, Condvar)> = Arc::default();
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("deadline".into()).spawn(move || watch(&theirs))?;
        let (mutex, changed) = &*shared;
        changed.wait_while(&mut mutex.lock(), |state| !state.is_watched);
        Ok(Self(shared))
    }

    pub(super) fn within(&self, engine: &Engine, end: Instant) -> Within<'_> {
        self.0.0.lock().running = Some((engine.clone(), end));
        self.0.1.notify_one();
        Within(self)
    }
}

impl Drop for Within<'_> {
    fn drop(&mut self) {
        self.0.0.0.lock().running = None;
    }
}

fn watch((mutex, changed): &(Mutex<State>, Condvar)) {
    let mut state = mutex.lock();
    state.is_watched = true;
    changed.notify_all();
    loop {
        let Some((engine, end)) = &state.running else {
            changed.wait(&mut state);
            continue;
        };
        if Instant::now() >= *end {
            engine.increment_epoch();
            state.running = None;
            continue;
        }
        let end = *end;
        changed.wait_until(&mut state, end);
    }
}
