//! What a daemon answers on the control channel of its mount.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use blocktree_engine::{Error, SnapshotError, Store};
use blocktree_vfs::control::{
    CAPABILITY_CALL_BYTES_MAX, CallChunk, Callee, Refusal, SCRUB_COMPLETE, SCRUB_FAILED, SCRUB_RUNS,
    SCRUB_STOPPED, ScrubStatus, Service, SnapshotEntry,
};

use blocktree_vfs::{Fs, FsError};

use crate::calls::{APP_CALL_BYTES_MAX, Calls};
use crate::capabilities;
use crate::commands::{info, log};

/// The store behind a mount, as the control channel sees it.
pub(crate) struct StoreControl {
    fs: Arc<Fs>,
    is_read_only: bool,
    scrub: Arc<Scrub>,
    /// The last history that somebody asked for, and its stamp.
    history: Mutex<(u32, Arc<str>)>,
    apps: Calls,
    capabilities: Calls,
}

/// The scrub that runs, or the last one that did.
#[derive(Default)]
struct Scrub {
    status: Mutex<ScrubStatus>,
    stop: AtomicBool,
}

impl StoreControl {
    pub(crate) fn new(fs: Arc<Fs>, is_read_only: bool) -> Self {
        let history = Mutex::new((0, Arc::from("")));
        let capabilities = Calls::new(CAPABILITY_CALL_BYTES_MAX as u64);
        capabilities.answer_with(Arc::new(capabilities::answerer(Arc::clone(&fs))));
        let apps = Calls::new(APP_CALL_BYTES_MAX);
        Self { fs, is_read_only, scrub: Arc::default(), apps, capabilities, history }
    }

    /// From now on, calls of apps are answered by this.
    #[cfg(feature = "apps")]
    pub(crate) fn answer_calls(&self, answer: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) {
        self.apps.answer_with(Arc::new(answer));
    }
}

impl Service for StoreControl {
    fn info(&self) -> String {
        info::to_json(&self.fs.store().info())
    }

    fn sync(&self) -> Result<(), Refusal> {
        if self.is_read_only {
            return Ok(());
        }
        self.fs.syncfs().map_err(|error| match error {
            FsError::Engine(error) => refusal(error),
            error => {
                tracing::error!(%error, "cannot make everything durable");
                Refusal::Failed
            }
        })
    }

    fn scrub_start(&self) -> Result<(), Refusal> {
        let mut status = self.scrub.status();
        if status.state == SCRUB_RUNS {
            return Err(Refusal::Exists);
        }
        *status = ScrubStatus { state: SCRUB_RUNS, ..ScrubStatus::default() };
        self.scrub.stop.store(false, Ordering::Relaxed);
        let (store, scrub) = (self.fs.store().clone(), Arc::clone(&self.scrub));
        let thread = std::thread::Builder::new().name("scrub".into()).spawn(move || scrub.run(&store));
        if let Err(error) = thread {
            tracing::error!(%error, "cannot start a thread for the scrub");
            status.state = SCRUB_FAILED;
            return Err(Refusal::Failed);
        }
        Ok(())
    }

    fn scrub_status(&self) -> ScrubStatus {
        *self.scrub.status()
    }

    fn scrub_stop(&self) {
        self.scrub.stop.store(true, Ordering::Relaxed);
    }

    fn snapshot_create(&self, name: &str) -> Result<(), Refusal> {
        self.fs.store().snapshot_create(name).map_err(|error| match error {
            SnapshotError::Exists => Refusal::Exists,
            SnapshotError::Name => Refusal::Malformed,
            SnapshotError::Store(error) => refusal(error),
        })
    }

    fn snapshot_list(&self) -> Result<Vec<SnapshotEntry>, Refusal> {
        let snapshots = self.fs.store().snapshot_list();
        let entry = |snapshot: &blocktree_engine::SnapshotInfo| {
            SnapshotEntry::new(&snapshot.name, snapshot.time_ns, snapshot.seq)
        };
        Ok(snapshots.iter().filter_map(entry).collect())
    }

    fn history(&self, path: &[u8], before: u64, limit: u32, stamp: u32) -> Result<(u32, Arc<str>), Refusal> {
        let known = self.history.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if stamp != 0 && stamp == known.0 {
            return Ok(known);
        }
        let text: Arc<str> = match log::to_json(&self.fs, path, before, limit) {
            Ok(text) => text.into(),
            Err(FsError::Engine(error)) => return Err(refusal(error)),
            Err(error) => {
                tracing::error!(%error, "cannot read the history");
                return Err(Refusal::Failed);
            }
        };
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        *history = (history.0.checked_add(1).unwrap_or(1), text);
        Ok(history.clone())
    }

    fn call(&self, callee: Callee, user: u32, chunk: &CallChunk) -> Result<CallChunk, Refusal> {
        match callee {
            Callee::Apps => self.apps.take(user, chunk),
            Callee::Capabilities => self.capabilities.take(user, chunk),
        }
    }

    fn snapshot_delete(&self, name: &str) -> Result<(), Refusal> {
        match self.fs.store().snapshot_delete(name) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::NotFound),
            Err(error) => Err(refusal(error)),
        }
    }
}

impl Scrub {
    fn run(&self, store: &Store) {
        let progress = |done, total| {
            let mut status = self.status();
            (status.done, status.total) = (done, total);
            !self.stop.load(Ordering::Relaxed)
        };
        // A panic must not leave a scrub that seems to run for ever.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| store.scrub(&progress)));
        let mut status = self.status();
        match result {
            Ok(Ok(report)) => {
                (status.damaged, status.repaired) = (report.damaged, report.repaired);
                status.state = if report.stopped { SCRUB_STOPPED } else { SCRUB_COMPLETE };
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the scrub failed");
                status.state = SCRUB_FAILED;
            }
            Err(_) => status.state = SCRUB_FAILED,
        }
    }

    fn status(&self) -> MutexGuard<'_, ScrubStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cause goes to the log; the channel carries only its kind.
fn refusal(error: Error) -> Refusal {
    match error {
        Error::ReadOnly => Refusal::ReadOnly,
        Error::NoSpace => Refusal::NoSpace,
        Error::TooLong => Refusal::Malformed,
        error => {
            tracing::error!(%error, "a request on the control channel failed");
            Refusal::Failed
        }
    }
}
