//! The layer of the node: which apps there are, what each may do, and when it is called.
//!
//! [`Apps`] is all of them. `registry` is what the store keeps of them, `worker` one app at work, `process` its process,
//! `feed` what it is called for, `requests`, `files` and `grants` what it may do, `ahead` what it will read, `locks` what it may
//! lock, `post` its messages, `net` its HTTP and sockets, `policy` what it may refuse, `call` what the owner's commands ask.
//!
//! Invariants:
//! 1. Nothing is installed but a package whose signature was verified, and nothing runs that was not verified again.
//! 2. An app does to the store only what its grants allow at that moment. What it does is done in its own name.
//! 3. Without an app that runs, nobody observes the tree, and no thread and no process is there. Nobody is asked before a
//!    change until an app may refuse one.

mod ahead;
mod call;
mod feed;
mod files;
mod folder;
mod grants;
mod locks;
mod net;
mod policy;
mod post;
mod process;
mod registry;
mod requests;
mod worker;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use blocktree_vfs::{FileKind, Fs, FsError, Observer};
use parking_lot::Mutex;

pub use call::{Answer, CALL_BYTES_MAX, Call, Choice, Details, Power, Summary};
pub use files::Kernel;
pub use grants::{Grant, Host, Otherwise, Powers};
pub use net::is_public;
#[cfg(feature = "fuzzing")]
pub use net::read_http;
pub use process::Program;
pub use registry::{DeadLetter, RegistryError};
pub use worker::Stats;

use self::feed::{Listener, Wake};
use self::folder::Held;
use self::locks::Locks;
use self::net::{Front, Net};
use self::policy::{Gate, Judge};
use self::post::Post;
use self::registry::{Registry, State};
use self::requests::{Requests, Services};
use self::worker::{Setting, Shared, Worker};
use crate::limits::IDLE_TIME;
use crate::package::{Manifest, Package, PackageError, Version, Wanted, is_name};

/// How apps run. Without it they can be installed and looked at.
pub struct Runner {
    pub kernel: Arc<dyn Kernel>,
    pub program: Program,
    /// Where HTTP requests for apps arrive.
    pub http: Option<TcpListener>,
}

/// The apps of a store.
pub struct Apps {
    fs: Arc<Fs>,
    registry: Registry,
    runner: Option<Runner>,
    wake: Arc<Wake>,
    services: Services,
    front: Option<Front>,
    /// Once an app may refuse something.
    gate: OnceLock<Arc<Gate>>,
    is_listening: AtomicBool,
    is_stopped: AtomicBool,
    running: Mutex<BTreeMap<String, Worker>>,
    /// Held by a call that changes something.
    changing: Mutex<()>,
}

/// Why a call was refused. Nothing was changed, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("the call is malformed")]
    Malformed,
    #[error(transparent)]
    Package(#[from] PackageError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the store: {0}")]
    Fs(#[from] FsError),
    #[error("there is no app {0:?}")]
    NoSuchApp(String),
    #[error("{name} {version} is signed by {author}, but the installed one by {installed}")]
    OtherAuthor { name: String, version: Version, author: String, installed: String },
    #[error("{name} {installed} is installed, which is newer than {version}")]
    Older { name: String, version: Version, installed: Version },
    #[error("{name} {version} wants more than the installed version, which needs approval: {}", .wants.join("; "))]
    WantsMore { name: String, version: Version, wants: Vec<String> },
    #[error("{name} asks for {wanted:?} ({reason}), and nothing was chosen for it")]
    NotChosen { name: String, wanted: String, reason: String },
    #[error("{name} does not ask for {grant:?}")]
    NotWanted { name: String, grant: String },
    #[error("{name} asks to read {grant:?}, not to write it")]
    MoreThanWanted { name: String, grant: String },
    #[error("{0} is no folder of the store")]
    NoFolder(String),
    #[error("{name} does not ask {what}")]
    PowerNotWanted { name: String, what: String },
    #[error("cannot answer HTTP requests: {0}")]
    Http(#[source] std::io::Error),
}

impl Apps {
    /// Those of a store; with a runner, those that are enabled start.
    pub fn open(fs: &Arc<Fs>, mut runner: Option<Runner>) -> Result<Self, CallError> {
        let front = match runner.as_mut().and_then(|runner| runner.http.take()) {
            Some(listener) => Some(net::serve(listener).map_err(CallError::Http)?),
            None => None,
        };
        let (registry, wake) = (Registry::new(fs), Arc::<Wake>::default());
        let services = Services {
            net: Arc::new(Net::default()),
            locks: Arc::new(Locks::new(fs)),
            post: Arc::new(Post::new(registry.clone(), Arc::clone(&wake))),
        };
        let apps = Self {
            fs: Arc::clone(fs),
            registry,
            runner,
            wake,
            services,
            front,
            gate: OnceLock::new(),
            is_listening: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            running: Mutex::default(),
            changing: Mutex::new(()),
        };
        for name in apps.registry.list()? {
            if let Err(error) = apps.start(&name) {
                tracing::error!(app = name, %error, "an app does not start");
            }
        }
        Ok(apps)
    }

    /// Ends all apps, for good.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        // First, so that no app waits for a client.
        if let Some(front) = &self.front {
            front.stop();
        }
        let running = std::mem::take(&mut *self.running.lock());
        for (name, worker) in running {
            self.unroute(&name);
            self.ungate(&name);
            worker.stop();
        }
    }

    /// Starts to ask an app about what others do, if its owner lets it refuse that.
    fn gate(&self, app: &registry::App, shared: &Arc<Shared>) -> Result<(), CallError> {
        let Some(runner) = self.runner.as_ref().filter(|_| shared.powers.read().policy.is_some()) else {
            return Ok(());
        };
        let gate = self.gate.get_or_init(|| {
            let gate = Arc::new(Gate::new(&self.fs));
            self.fs.observe(Arc::clone(&gate) as Arc<dyn Observer>);
            gate
        });
        let (app, program, shared) = (app.clone(), runner.program.clone(), Arc::clone(shared));
        let requests = Requests::looking(&self.fs, &app, self.services.clone(), Arc::clone(&shared))?;
        gate.add(Arc::new(Judge::start(app, program, requests, shared)?));
        Ok(())
    }

    fn ungate(&self, name: &str) {
        if let Some(gate) = self.gate.get() {
            gate.remove(name);
        }
    }

    fn unroute(&self, name: &str) {
        if let Some(front) = &self.front {
            front.routes.lock().remove(name);
        }
    }

    fn start(&self, name: &str) -> Result<(), CallError> {
        let Some(runner) = &self.runner else { return Ok(()) };
        let app = self.registry.app(name)?.ok_or_else(|| CallError::NoSuchApp(name.to_owned()))?;
        if !app.state()?.is_enabled {
            return Ok(());
        }
        if !self.is_listening.swap(true, Ordering::Relaxed) {
            self.fs.observe(Arc::new(Listener(Arc::clone(&self.wake))));
        }
        let worker = Worker::start(Setting {
            fs: Arc::clone(&self.fs),
            app: app.clone(),
            kernel: Arc::clone(&runner.kernel),
            program: runner.program.clone(),
            wake: Arc::clone(&self.wake),
            services: self.services.clone(),
            idle: IDLE_TIME,
        })?;
        let mut running = self.running.lock();
        // A call may have come in between.
        if !self.is_stopped.load(Ordering::Acquire) {
            if let Some(front) = &self.front {
                front.routes.lock().insert(name.to_owned(), Arc::clone(&worker.shared));
            }
            self.gate(&app, &worker.shared)?;
            running.insert(name.to_owned(), worker);
        }
        Ok(())
    }

    fn halt(&self, name: &str) {
        self.unroute(name);
        self.ungate(name);
        let worker = self.running.lock().remove(name);
        if let Some(worker) = worker {
            worker.stop();
        }
    }

    /// Answers a call of the owner; both are as [`Call::encode`] and `serde_json` write them.
    pub fn call(&self, bytes: &[u8]) -> Vec<u8> {
        let answer = match Call::decode(bytes) {
            Some((call, package)) => self.run(call, package),
            None => Err(CallError::Malformed),
        };
        serde_json::to_vec(&answer.map_err(|error| error.to_string())).unwrap_or_default()
    }

    fn run(&self, call: Call, package: &[u8]) -> Result<Answer, CallError> {
        let _one = self.changing.lock();
        match call {
            Call::Install { grants, powers, denied, approves_more, accepts_older } => {
                self.install(package, &grants, (&powers, &denied), approves_more, accepts_older)?;
            }
            Call::List => return self.list(),
            Call::Show { name } => return self.show(&name),
            Call::Logs { name } => return Ok(Answer::Text(self.app(&name)?.logs()?)),
            Call::Remove { name } => {
                self.app(&name)?;
                self.halt(&name);
                self.registry.remove(&name)?;
                self.services.post.forget(&name);
            }
            Call::Enable { name, is_enabled } => self.enable(&name, is_enabled)?,
            Call::Grant { name, choice } => {
                let manifest = self.app(&name)?.manifest()?;
                let grant = self.grant(&manifest, &choice)?;
                self.change(&name, |state| {
                    state.grants.retain(|old| old.name != choice.grant);
                    state.grants.extend(grant);
                })?;
            }
            Call::Revoke { name, grant } => {
                self.change(&name, |state| state.grants.retain(|old| old.name != grant))?;
            }
            Call::Allow { name, power } => {
                power.check(&self.app(&name)?.manifest()?)?;
                self.change(&name, |state| power.give(&mut state.powers))?;
            }
            Call::Forbid { name, power } => self.change(&name, |state| power.take(&mut state.powers))?,
        }
        self.registry.sync()?;
        Ok(Answer::Done)
    }

    fn app(&self, name: &str) -> Result<registry::App, CallError> {
        let missing = || CallError::NoSuchApp(name.to_owned());
        if !is_name(name) {
            return Err(missing());
        }
        self.registry.app(name)?.ok_or_else(missing)
    }

    fn install(
        &self,
        bytes: &[u8],
        choices: &[Choice],
        (given, denied): (&[Power], &[Power]),
        approves_more: bool,
        accepts_older: bool,
    ) -> Result<(), CallError> {
        let manifest = Package::verify(bytes)?.manifest;
        let installed = self.registry.app(&manifest.name)?;
        let mut state = State::new();
        if let Some(installed) = &installed {
            state = installed.state()?;
            check_update(&manifest, &installed.manifest()?, approves_more, accepts_older)?;
        }
        state.grants = self.choose(&manifest, choices, &state.grants)?;
        state.powers.narrow(&manifest);
        for power in given {
            power.check(&manifest)?;
            power.give(&mut state.powers);
        }
        denied.iter().for_each(|power| power.take(&mut state.powers));
        // From here on, what fails leaves the old version or none.
        self.halt(&manifest.name);
        let app = self.registry.make(&manifest.name)?;
        app.set_package(bytes)?;
        if installed.is_none() {
            app.set_cursor(self.fs.store().newest())?;
        }
        app.set_state(&state)?;
        self.registry.sync()?;
        self.start(&manifest.name)
    }

    /// What is granted after an installation: what was chosen now, and else what was granted before.
    fn choose(
        &self,
        manifest: &Manifest,
        choices: &[Choice],
        before: &[Grant],
    ) -> Result<Vec<Grant>, CallError> {
        let name = &manifest.name;
        let unwanted =
            choices.iter().find(|choice| !manifest.grants.iter().any(|one| one.name == choice.grant));
        if let Some(choice) = unwanted {
            return Err(CallError::NotWanted { name: name.clone(), grant: choice.grant.clone() });
        }
        let mut grants = Vec::new();
        for Wanted { name: wanted, reason, rights } in &manifest.grants {
            let chosen = choices.iter().rev().find(|choice| choice.grant == *wanted);
            let old = before.iter().find(|grant| grant.name == *wanted);
            match (chosen, old) {
                (Some(choice), _) => grants.extend(self.grant(manifest, choice)?),
                // A version that asks for less gets less.
                (None, Some(old)) => grants.push(Grant { rights: old.rights.min(*rights), ..old.clone() }),
                (None, None) => {
                    let (name, wanted, reason) = (name.clone(), wanted.clone(), reason.clone());
                    return Err(CallError::NotChosen { name, wanted, reason });
                }
            }
        }
        Ok(grants)
    }

    /// The grant that a choice means; `None` if it is declined.
    fn grant(&self, manifest: &Manifest, choice: &Choice) -> Result<Option<Grant>, CallError> {
        let (name, grant) = (manifest.name.clone(), choice.grant.clone());
        let Some(wanted) = manifest.grants.iter().find(|wanted| wanted.name == choice.grant) else {
            return Err(CallError::NotWanted { name, grant });
        };
        let rights = choice.rights.unwrap_or(wanted.rights);
        if rights > wanted.rights {
            return Err(CallError::MoreThanWanted { name, grant });
        }
        let Some(path) = &choice.path else { return Ok(None) };
        let missing = || CallError::NoFolder(path.clone());
        let parts = grants::parts(path.trim_matches('/')).map_err(|_| missing())?;
        let found = grants::walk(&self.fs, Fs::ROOT, &parts).map_err(|_| missing())?;
        if found.as_ref().is_some_and(|held| held.stat.kind != FileKind::Directory) {
            return Err(missing());
        }
        let ino = found.as_ref().map_or(Fs::ROOT, Held::ino);
        let path = format!("/{}", parts.join("/"));
        Ok(Some(Grant { name: grant, ino, path, rights, expires: choice.expires }))
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut State)) -> Result<(), CallError> {
        let app = self.app(name)?;
        let mut state = app.state()?;
        change(&mut state);
        app.set_state(&state)?;
        let running = self.running.lock();
        let Some(worker) = running.get(name) else { return Ok(()) };
        *worker.shared.grants.write() = state.grants;
        let before = worker.shared.set_powers(state.powers.clone());
        if state.powers.receives {
            self.services.post.notice(name);
            self.wake.notify();
        }
        if before.policy.is_some() != state.powers.policy.is_some() {
            self.ungate(name);
            self.gate(&app, &worker.shared)?;
        }
        Ok(())
    }

    fn enable(&self, name: &str, is_enabled: bool) -> Result<(), CallError> {
        let app = self.app(name)?;
        let state = app.state()?;
        if state.is_enabled == is_enabled {
            return Ok(());
        }
        app.set_state(&State { is_enabled, ..state })?;
        match is_enabled {
            true => self.start(name),
            false => {
                self.halt(name);
                Ok(())
            }
        }
    }

    fn list(&self) -> Result<Answer, CallError> {
        let mut apps = Vec::new();
        for name in self.registry.list()? {
            let app = self.app(&name)?;
            let (manifest, state) = (app.manifest()?, app.state()?);
            let version = manifest.version.to_string();
            apps.push(Summary { name, version, is_enabled: state.is_enabled, summary: manifest.summary });
        }
        Ok(Answer::Apps(apps))
    }

    fn show(&self, name: &str) -> Result<Answer, CallError> {
        let app = self.app(name)?;
        let State { actor, is_enabled, grants, powers } = app.state()?;
        let stats = self.running.lock().get(name).map(|worker| *worker.shared.stats.lock());
        let (manifest, dead_letters) = (app.manifest()?, app.dead_letters()?);
        let front = self.front.as_ref().filter(|_| powers.serves && is_enabled);
        let url = front.map(|front| format!("http://{}/{name}/", front.address));
        let details = Details { manifest, is_enabled, actor, grants, powers, url, dead_letters, stats };
        Ok(Answer::App(Box::new(details)))
    }
}

impl Drop for Apps {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether a package may take the place of an installed one.
fn check_update(
    new: &Manifest,
    installed: &Manifest,
    approves_more: bool,
    accepts_older: bool,
) -> Result<(), CallError> {
    let (name, version) = (new.name.clone(), new.version);
    if new.author != installed.author {
        let (author, installed) = (new.author.clone(), installed.author.clone());
        return Err(CallError::OtherAuthor { name, version, author, installed });
    }
    if new.version < installed.version && !accepts_older {
        return Err(CallError::Older { name, version, installed: installed.version });
    }
    let wants = new.widened_since(installed);
    if !wants.is_empty() && !approves_more {
        return Err(CallError::WantsMore { name, version, wants });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
