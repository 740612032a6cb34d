//! Background work: commits, checkpoints, and the removal of large blocks.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Core;
use crate::limits::WRITE_BACK_SECONDS;

/// The threads of an open store. They end with [`Background::stop`], at the latest when the store is dropped.
pub(super) struct Background {
    threads: Mutex<Vec<JoinHandle<()>>>,
    core: std::sync::Weak<Core>,
}

impl Background {
    pub(super) fn start(core: &Arc<Core>) -> Self {
        let mut threads = Vec::new();
        if core.options.background && !core.options.read_only {
            type Task = fn(&Arc<Core>);
            for (name, task) in [("commit", commit as Task), ("checkpoint", checkpoint), ("reclaim", reclaim)]
            {
                let core = core.clone();
                let thread = thread::Builder::new().name(format!("blocktree-{name}"));
                threads.extend(thread.spawn(move || task(&core)).ok());
            }
        }
        Self { threads: Mutex::new(threads), core: Arc::downgrade(core) }
    }

    /// Ends the threads, after what they are at.
    pub(super) fn stop(&self, core: &Core) {
        core.signal.state.lock().stop = true;
        core.signal.changed.notify_all();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                core.poison("background work");
            }
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            self.stop(&core);
        }
    }
}

/// Commits when enough has gathered; makes what is older than a few seconds durable.
fn commit(core: &Arc<Core>) {
    let interval = Duration::from_secs(WRITE_BACK_SECONDS);
    let mut next = Instant::now() + interval;
    loop {
        let wanted = {
            let mut state = core.signal.state.lock();
            while !state.stop && !state.commit_wanted && Instant::now() < next {
                core.signal.changed.wait_until(&mut state, next);
            }
            if state.stop {
                return;
            }
            std::mem::take(&mut state.commit_wanted)
        };
        if core.check_sealable().is_err() {
            return;
        }
        // An error poisons the store, which tells whoever changes it next.
        if wanted {
            let _ = core.commit();
        }
        if Instant::now() >= next {
            let newest = super::Seq(core.next_op.load(std::sync::atomic::Ordering::Acquire) - 1);
            let synced = core.sync(newest);
            // What is durable is told even where more could not be made so.
            let told = core.tell_of_record(false);
            let _ = synced.and(told).and_then(|()| core.attest());
            next = Instant::now() + interval;
        }
    }
}

fn checkpoint(core: &Arc<Core>) {
    while wait_for(core, |state| &mut state.checkpoint_wanted) {
        if core.run_checkpoint().is_err() && core.check_sealable().is_err() {
            return;
        }
    }
}

fn reclaim(core: &Arc<Core>) {
    while wait_for(core, |state| &mut state.reclaim_wanted) {
        while let Ok(true) = core.reclaim_step() {
            if core.signal.state.lock().stop {
                return;
            }
        }
    }
}

/// Waits until a flag is set and clears it; `false` when it is time to end.
fn wait_for(core: &Core, flag: fn(&mut super::SignalState) -> &mut bool) -> bool {
    let mut state = core.signal.state.lock();
    while !state.stop && !*flag(&mut state) {
        core.signal.changed.wait(&mut state);
    }
    *flag(&mut state) = false;
    !state.stop
}
