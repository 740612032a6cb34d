//! One app that may refuse: its process, the thread that talks to it, and who waits for an answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::ipc::Operation;
use crate::limits::{POLICY_PAUSE, POLICY_TIME, POLICY_WAITING_MAX};
use crate::node::grants::{Grant, Otherwise};
use crate::node::process::{Process, Program};
use crate::node::registry::{App, RegistryError};
use crate::node::requests::Requests;
use crate::node::worker::{Shared, seconds, told};
use crate::package::Limits;

/// An operation that waits, and for how long.
struct Question {
    operation: Operation,
    end: Instant,
    answer: SyncSender<bool>,
}

#[derive(Default)]
struct Waiting {
    questions: VecDeque<Question>,
    /// Until then, nothing is asked: there was no answer the last time.
    pause: Option<Instant>,
    /// Of the running process, while it was not waited for.
    process: Option<u32>,
    is_stopped: bool,
}

/// What those who ask share with the thread.
#[derive(Default)]
struct Desk {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

pub(in crate::node) struct Judge {
    app: App,
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Judge {
    /// Starts the app's process too, so that the first operation does not wait for that.
    pub(in crate::node) fn start(
        app: App,
        program: Program,
        requests: Requests,
        shared: Arc<Shared>,
    ) -> Result<Self, RegistryError> {
        let limits = app.manifest()?.limits;
        let desk: Arc<Desk> = Arc::default();
        let work = Work {
            app: app.clone(),
            program,
            limits,
            requests,
            process: None,
            shared: Arc::clone(&shared),
            desk: Arc::clone(&desk),
        };
        let name = format!("policy-{}", app.name);
        let thread = std::thread::Builder::new().name(name).spawn(move || work.run());
        let thread = Mutex::new(Some(thread.map_err(RegistryError::Thread)?));
        Ok(Self { app, shared, desk, thread })
    }

    pub(super) fn app(&self) -> &str {
        &self.app.name
    }

    pub(super) fn actor(&self) -> [u8; 32] {
        self.shared.actor
    }

    /// Those that hold now.
    pub(super) fn grants(&self) -> Vec<Grant> {
        let now = seconds();
        let grants = self.shared.grants.read();
        grants.iter().filter(|grant| grant.holds_at(now)).cloned().collect()
    }

    /// What holds where the app gives no answer.
    pub(super) fn allows_unasked(&self) -> bool {
        // An owner who takes it back lets everything pass.
        self.shared.powers.read().policy != Some(Otherwise::Refuse)
    }

    /// Asks the app.
    pub(super) fn allows(&self, operation: Operation) -> bool {
        let (answer, answered) = sync_channel(1);
        let end = Instant::now() + POLICY_TIME;
        {
            let mut waiting = self.desk.waiting.lock();
            let is_paused = waiting.pause.is_some_and(|pause| Instant::now() < pause);
            if waiting.is_stopped || is_paused || waiting.questions.len() >= POLICY_WAITING_MAX {
                drop(waiting);
                return self.unanswered();
            }
            waiting.questions.push_back(Question { operation, end, answer });
            self.desk.changed.notify_all();
        }
        match answered.recv_timeout(POLICY_TIME) {
            Ok(allows) => {
                let mut stats = self.shared.stats.lock();
                stats.judged += 1;
                stats.refused += u64::from(!allows);
                allows
            }
            Err(_) => self.unanswered(),
        }
    }

    fn unanswered(&self) -> bool {
        self.shared.stats.lock().unanswered += 1;
        self.allows_unasked()
    }

    /// Ends it, in the middle of what it does.
    pub(super) fn stop(&self) {
        {
            let mut waiting = self.desk.waiting.lock();
            waiting.is_stopped = true;
            waiting.questions.clear();
            let id = waiting.process.and_then(|id| i32::try_from(id).ok());
            if let Some(id) = id.and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
            }
            self.desk.changed.notify_all();
        }
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of a policy panicked");
        }
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Work {
    app: App,
    program: Program,
    limits: Limits,
    requests: Requests,
    process: Option<Process>,
    shared: Arc<Shared>,
    desk: Arc<Desk>,
}

impl Work {
    fn run(mut self) {
        self.start();
        while let Some(Question { operation, end, answer }) = self.next() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                continue;
            }
            // Who does not wait any more needs no answer.
            if let Some(allows) = self.judge(operation, left) {
                let _ = answer.send(allows);
            }
        }
        self.end();
    }

    fn next(&self) -> Option<Question> {
        let mut waiting = self.desk.waiting.lock();
        loop {
            if waiting.is_stopped {
                return None;
            }
            match waiting.questions.pop_front() {
                Some(question) => return Some(question),
                None => self.desk.changed.wait(&mut waiting),
            }
        }
    }

    fn judge(&mut self, operation: Operation, time: Duration) -> Option<bool> {
        if self.process.is_none() {
            self.start();
        }
        let process = self.process.as_mut()?;
        self.requests.begin();
        let requests = &mut self.requests;
        let judged = process.judge(operation, time, &mut |request, window| requests.answer(request, window));
        let (allows, failure) = match judged {
            Ok(Ok(allows)) => (Some(allows), None),
            Ok(Err(failure)) => (None, Some(told(&failure))),
            Err(error) => {
                self.end();
                (None, Some(format!("its process ended: {error}")))
            }
        };
        if let Some(failure) = failure {
            self.fail(&format!("no answer whether somebody may: {failure}"));
        }
        if let Err(error) = self.requests.flush_log() {
            tracing::warn!(app = self.app.name, %error, "a log could not be written");
        }
        allows
    }

    fn start(&mut self) {
        match Process::of(&self.app, &self.program, self.limits) {
            Ok(Ok(process)) => {
                let mut waiting = self.desk.waiting.lock();
                // Whoever stops it has not seen this one.
                if !waiting.is_stopped {
                    waiting.process = Some(process.id());
                    self.process = Some(process);
                    self.shared.stats.lock().process_starts += 1;
                }
            }
            Ok(Err(error)) => self.fail(&format!("it does not start: {error}")),
            Err(error) => self.fail(&format!("the store: {error}")),
        }
    }

    /// Notes why there was no answer, and asks no more for a while.
    fn fail(&mut self, why: &str) {
        self.requests.note("error", why);
        let mut waiting = self.desk.waiting.lock();
        waiting.pause = Some(Instant::now() + POLICY_PAUSE);
        // Who asked meanwhile need not wait.
        waiting.questions.clear();
    }

    fn end(&mut self) {
        // Before it is waited for: afterwards the number may be somebody else's.
        self.desk.waiting.lock().process = None;
        self.process = None;
        self.requests.end();
    }
}
