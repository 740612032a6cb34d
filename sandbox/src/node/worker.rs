//! One app at work: a thread that waits for changes and timers, and has the app's process handle them.
//!
//! 1. The cursor moves on only when all events before it were handled or given up. So an event comes at least once,
//!    whatever ends meanwhile.
//! 2. One message after the other: events of one file come in their order, and an app handles one at a time.
//! 3. What the app asks for while it handles something is answered here, by `requests`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use blocktree_vfs::Fs;
use blocktree_vfs::events::{Pace, Seq};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use super::feed::{Feed, Wake};
use super::files::{Grants, Kernel};
use super::grants::Powers;
use super::net::{Exchange, Sockets};
use super::post::{self, Post};
use super::process::{Process, ProcessError, Program};
use super::registry::{App, DeadLetter, RegistryError, State};
use super::requests::{Requests, Services};
use crate::ipc::{Event, Failure};
use crate::limits::{ATTEMPTS_MAX, DEAD_LETTER_BYTES_MAX, EVENTS_PER_CALL, HTTP_WAITING_MAX};
use crate::package::{Limits, Trigger};

/// Between two attempts at one event, at first; each time four times as long.
const PAUSE: Duration = Duration::from_millis(100);
/// The cursor is written down at the latest after so many changes that did not concern the app.
const CURSOR_LAG: u64 = 10_000;
/// How long a thread that met an error of the store waits before it tries again.
const TROUBLE: Duration = Duration::from_secs(5);

/// What an app did since the node started it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub handled: u64,
    /// HTTP requests that were answered.
    #[serde(default)]
    pub served: u64,
    pub failed_attempts: u64,
    pub given_up: u64,
    pub requests: u64,
    /// Operations of others that it was asked about, those that it refused, and those for which there was no answer.
    #[serde(default)]
    pub judged: u64,
    #[serde(default)]
    pub refused: u64,
    #[serde(default)]
    pub unanswered: u64,
    pub process_starts: u64,
    /// In the app, its requests included.
    pub busy_us: u64,
    /// Of the running process; 0 if there is none.
    pub process: u32,
}

/// What the node and the thread of an app share.
pub(super) struct Shared {
    /// Whom its changes are attributed to.
    pub(super) actor: [u8; 32],
    pub(super) wake: Arc<Wake>,
    pub(super) grants: Grants,
    pub(super) powers: RwLock<Powers>,
    pub(super) sockets: Sockets,
    pub(super) stats: Mutex<Stats>,
    /// HTTP requests that wait.
    waiting: Mutex<VecDeque<Exchange>>,
    pub(super) stop: Arc<AtomicBool>,
}

/// The thread of a running app.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What a worker needs to begin.
pub(super) struct Setting {
    pub(super) fs: Arc<Fs>,
    pub(super) app: App,
    pub(super) kernel: Arc<dyn Kernel>,
    pub(super) program: Program,
    pub(super) wake: Arc<Wake>,
    pub(super) services: Services,
    /// A process that had nothing to do for so long ends; the next event starts it again.
    pub(super) idle: Duration,
}

impl Worker {
    pub(super) fn start(setting: Setting) -> Result<Self, RegistryError> {
        let state = setting.app.state()?;
        let shared = Arc::new(Shared::new(&state, &setting.wake));
        let mut work = Work::new(setting, Arc::clone(&shared))?;
        let name = format!("app-{}", work.app.name);
        let thread = std::thread::Builder::new().name(name).spawn(move || work.run());
        match thread {
            Ok(thread) => Ok(Self { shared, thread: Some(thread) }),
            Err(error) => Err(RegistryError::Thread(error)),
        }
    }

    /// Ends the app, in the middle of what it does.
    pub(super) fn stop(mut self) {
        self.stop_now();
    }

    fn stop_now(&mut self) {
        self.shared.stop();
        self.shared.kill();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of an app panicked");
        }
        // Who waits is told that nobody answers.
        self.shared.waiting.lock().clear();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop_now();
    }
}

impl Shared {
    pub(super) fn new(state: &State, wake: &Arc<Wake>) -> Self {
        Self {
            actor: state.actor(),
            wake: Arc::clone(wake),
            grants: Arc::new(RwLock::new(state.grants.clone())),
            powers: RwLock::new(state.powers.clone()),
            sockets: Sockets::default(),
            stats: Mutex::default(),
            waiting: Mutex::default(),
            stop: Arc::default(),
        }
    }

    /// Kills the process if one runs. While its number is in the statistics, it was not waited for.
    fn kill(&self) {
        let stats = self.stats.lock();
        let id = i32::try_from(stats.process).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
        }
    }

    /// Whether this is its process, and has not ended.
    pub(super) fn runs(&self, process: u32) -> bool {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        // While its number is in the statistics, it was not waited for, so it is no other's.
        let stats = self.stats.lock();
        let id = i32::try_from(process).ok().filter(|_| stats.process == process).and_then(Pid::from_raw);
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        id.is_some_and(|id| matches!(waitid(WaitId::Pid(id), look), Ok(None)))
    }

    /// What the owner lets it do from now on; answers what that was before. A connection ends with its grant.
    pub(super) fn set_powers(&self, powers: Powers) -> Powers {
        let mut held = self.powers.write();
        self.sockets.cut(&powers);
        std::mem::replace(&mut *held, powers)
    }

    pub(super) fn is_granted(&self, grant: &str) -> bool {
        let now = seconds();
        self.grants.read().iter().any(|one| one.name == grant && one.holds_at(now))
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.notify();
    }

    /// Waits until something has changed since the count was `seen`, until it is stopped, or until `end`.
    fn wait(&self, seen: u64, end: Instant) {
        self.wake.wait(seen, end, || self.is_stopped());
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Whether the owner lets it answer HTTP requests.
    pub(super) fn serves(&self) -> bool {
        self.powers.read().serves && !self.is_stopped()
    }

    /// Takes an HTTP request; false if too many wait.
    pub(super) fn take(&self, exchange: Exchange) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.retain(|exchange| !exchange.is_over());
        if waiting.len() >= HTTP_WAITING_MAX || self.is_stopped() {
            return false;
        }
        waiting.push_back(exchange);
        drop(waiting);
        self.wake.notify();
        true
    }
}

enum Found {
    Work,
    /// Changes, of which none is for this app.
    ForOthers,
    Nothing,
}

struct Timer {
    name: String,
    every: Duration,
    next: Instant,
}

struct Work {
    app: App,
    program: Program,
    limits: Limits,
    shared: Arc<Shared>,
    feed: Feed,
    timers: Vec<Timer>,
    cursor: Seq,
    /// As it is written down.
    saved: Seq,
    requests: Requests,
    post: Arc<Post>,
    process: Option<Process>,
    idle: Duration,
}

impl Work {
    fn new(setting: Setting, shared: Arc<Shared>) -> Result<Self, RegistryError> {
        let Setting { fs, app, kernel, program, services, idle, .. } = setting;
        let manifest = app.manifest()?;
        let timers = manifest.triggers.iter().filter_map(|trigger| match trigger {
            Trigger::Timer { name, seconds } => {
                let every = Duration::from_secs((*seconds).into());
                Some(Timer { name: name.clone(), every, next: Instant::now() + every })
            }
            Trigger::Files { .. } => None,
        });
        let post = Arc::clone(&services.post);
        // Something may wait from before.
        post.notice(&app.name);
        let cursor = app.cursor()?.unwrap_or_else(|| fs.store().newest());
        Ok(Self {
            timers: timers.collect(),
            feed: Feed::new(&fs, shared.actor, &manifest),
            limits: manifest.limits,
            requests: Requests::new(&fs, &app, kernel, services, Arc::clone(&shared))?,
            post,
            app,
            program,
            shared,
            cursor,
            saved: cursor,
            process: None,
            idle,
        })
    }

    fn run(&mut self) {
        let mut last_use = Instant::now();
        let mut pace = Pace::default();
        while !self.shared.is_stopped() {
            let seen = self.shared.wake.count();
            match self.step() {
                Ok(Found::Work) => {
                    (last_use, pace) = (Instant::now(), Pace::default());
                    continue;
                }
                Ok(Found::ForOthers) => {
                    self.end_if_idle(last_use);
                    std::thread::sleep(pace.before_looking(Instant::now()));
                    continue;
                }
                Ok(Found::Nothing) => {}
                Err(error) => {
                    tracing::error!(app = self.app.name, %error, "an app waits until the store works again");
                    self.sleep(TROUBLE);
                    continue;
                }
            }
            self.end_if_idle(last_use);
            let far = Instant::now() + self.idle;
            let end = self.timers.iter().map(|timer| timer.next).min().map_or(far, |next| next.min(far));
            self.shared.wait(seen, end);
        }
        self.end_process();
    }

    fn end_if_idle(&mut self, last_use: Instant) {
        if last_use.elapsed() >= self.idle && !self.requests.keeps_something() {
            self.end_process();
        }
    }

    /// Handles what there is.
    fn step(&mut self) -> Result<Found, RegistryError> {
        let mut is_work = self.serve_waiting()?;
        let grants = self.shared.grants.read().clone();
        let page = self.feed.next(self.cursor, &grants)?;
        let mut events = page.events;
        let now = Instant::now();
        for timer in self.timers.iter_mut().filter(|timer| timer.next <= now) {
            // What was missed while something else took long is not made up for.
            timer.next = now + timer.every;
            events.push(Event::Timer(timer.name.clone()));
        }
        is_work |= !events.is_empty();
        for events in events.chunks(EVENTS_PER_CALL) {
            self.deliver(events)?;
            self.serve_waiting()?;
            if self.shared.is_stopped() {
                // Perhaps in the middle of it: it comes again.
                return Ok(Found::Nothing);
            }
        }
        if let Some(last) = page.last {
            self.cursor = last;
            if is_work || last.0 - self.saved.0 > CURSOR_LAG {
                self.app.set_cursor(last)?;
                self.saved = last;
            }
        }
        is_work |= self.deliver_letters()?;
        Ok(match page.last {
            _ if is_work => Found::Work,
            Some(_) => Found::ForOthers,
            None => Found::Nothing,
        })
    }

    /// Hands over messages that wait by now; false if there were none.
    fn deliver_letters(&mut self) -> Result<bool, RegistryError> {
        // What it may not take waits until it may: then it is noticed again.
        if !self.shared.powers.read().receives || !self.post.take_notice(&self.app.name) {
            return Ok(false);
        }
        let waiting = post::waiting(&self.app)?;
        for name in &waiting {
            if let Some(event) = post::read(&self.app, name)? {
                self.deliver(std::slice::from_ref(&event))?;
            }
            if self.shared.is_stopped() {
                // Perhaps in the middle of it: it comes again.
                return Ok(false);
            }
            self.post.remove(&self.app, name)?;
            self.serve_waiting()?;
        }
        Ok(!waiting.is_empty())
    }

    /// Answers the HTTP requests that wait by now; false if there were none.
    fn serve_waiting(&mut self) -> Result<bool, RegistryError> {
        let mut is_work = false;
        for _ in 0..HTTP_WAITING_MAX {
            let Some(exchange) = self.shared.waiting.lock().pop_front() else { break };
            if exchange.is_over() || !self.shared.serves() {
                continue;
            }
            is_work = true;
            self.serve(exchange)?;
        }
        if is_work {
            self.requests.flush_log()?;
        }
        Ok(is_work)
    }

    fn serve(&mut self, exchange: Exchange) -> Result<(), RegistryError> {
        // If it does not start, that stands in its log, and the client is told that nobody answers.
        let Ok(mut process) = self.running()? else { return Ok(()) };
        let begun = Instant::now();
        self.requests.begin();
        let request = exchange.request().clone();
        let what = format!("{} {}", request.method, request.path);
        self.requests.exchange = Some(exchange);
        let served = process.serve(request, &mut |request, window| self.requests.answer(request, window));
        let exchange = self.requests.exchange.take();
        self.shared.stats.lock().busy_us += u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.process = Some(process);
        let failure = match served {
            Ok(Ok(())) => {
                if let Some(exchange) = exchange {
                    exchange.finish();
                }
                self.shared.stats.lock().served += 1;
                return Ok(());
            }
            Ok(Err(failure)) => told(&failure),
            Err(error) => {
                self.end_process();
                format!("its process ended: {error}")
            }
        };
        self.requests.note("error", &format!("{what}: {failure}"));
        Ok(())
    }

    /// Sees to it that each event was handled, or was given up.
    fn deliver(&mut self, events: &[Event]) -> Result<(), RegistryError> {
        let outcomes = self.call(events)?;
        for (event, outcome) in events.iter().zip(outcomes) {
            let mut outcome = outcome;
            let mut pause = PAUSE;
            for attempt in 1.. {
                let Err(reason) = outcome else { break };
                if self.shared.is_stopped() {
                    return Ok(());
                }
                self.shared.stats.lock().failed_attempts += 1;
                if attempt >= ATTEMPTS_MAX {
                    self.give_up(event, reason)?;
                    break;
                }
                self.requests.note("retry", &format!("{}: {reason}", shown(event)));
                self.sleep(pause);
                pause *= 4;
                outcome =
                    self.call(std::slice::from_ref(event))?.pop().unwrap_or(Err("no outcome".to_owned()));
            }
        }
        self.requests.flush_log()
    }

    fn give_up(&mut self, event: &Event, reason: String) -> Result<(), RegistryError> {
        self.requests.note("given up", &format!("{}: {reason}", shown(event)));
        self.shared.stats.lock().given_up += 1;
        let mut event = event.clone();
        if let Event::Message { bytes, .. } = &mut event {
            bytes.truncate(DEAD_LETTER_BYTES_MAX);
        }
        let letter = DeadLetter { time: seconds(), event, reason };
        self.app.add_dead_letter(letter)
    }

    fn sleep(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.shared.is_stopped() && Instant::now() < end {
            self.shared.wait(self.shared.wake.count(), end);
        }
    }

    /// One outcome for each event. If the process ends in the middle, none of them was handled.
    fn call(&mut self, events: &[Event]) -> Result<Vec<Result<(), String>>, RegistryError> {
        let all = |reason: String| vec![Err(reason); events.len()];
        let mut process = match self.running()? {
            Ok(process) => process,
            Err(error) => return Ok(all(error.to_string())),
        };
        let begun = Instant::now();
        self.requests.begin();
        let requests = &mut self.requests;
        let handled =
            process.handle(events.to_vec(), &mut |request, window| requests.answer(request, window));
        let mut stats = self.shared.stats.lock();
        stats.busy_us += u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(match handled {
            Ok(outcomes) => {
                stats.handled += outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64;
                drop(stats);
                self.process = Some(process);
                outcomes.into_iter().map(|outcome| outcome.map_err(|failure| told(&failure))).collect()
            }
            Err(error) => {
                drop(stats);
                self.process = Some(process);
                self.end_process();
                all(format!("its process ended: {error}"))
            }
        })
    }

    /// Its process, which is started if there is none. Whoever takes it puts it back.
    fn running(&mut self) -> Result<Result<Process, ProcessError>, RegistryError> {
        match self.process.take() {
            Some(process) => Ok(Ok(process)),
            None => self.start(),
        }
    }

    fn start(&mut self) -> Result<Result<Process, ProcessError>, RegistryError> {
        let started = Process::of(&self.app, &self.program, self.limits)?;
        match &started {
            Ok(process) => {
                let mut stats = self.shared.stats.lock();
                stats.process_starts += 1;
                stats.process = process.id();
            }
            Err(error) => self.requests.note("error", &format!("it does not start: {error}")),
        }
        Ok(started)
    }

    fn end_process(&mut self) {
        // Before it is waited for: afterwards the number may be somebody else's.
        self.shared.stats.lock().process = 0;
        self.process = None;
        self.requests.end();
    }
}

pub(super) fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

pub(super) fn told(failure: &Failure) -> String {
    match failure {
        Failure::Said(text) => text.clone(),
        Failure::Trapped(text) => format!("it trapped: {text}"),
        Failure::TimedOut => "it took too long".to_owned(),
    }
}

/// An event, for people.
pub(super) fn shown(event: &Event) -> String {
    match event {
        Event::Written { grant, path } => format!("written {grant}/{path}"),
        Event::Created { grant, path } => format!("created {grant}/{path}"),
        Event::Renamed { grant, path, .. } => format!("renamed to {grant}/{path}"),
        Event::Deleted { grant, path } => format!("deleted {grant}/{path}"),
        Event::Attributes { grant, path } => format!("attributes of {grant}/{path}"),
        Event::Timer(name) => format!("timer {name}"),
        Event::Message { app, bytes } => format!("message of {} bytes from {app}", bytes.len()),
        Event::Overflow => "overflow".to_owned(),
    }
}

#[cfg(test)]
mod tests;
