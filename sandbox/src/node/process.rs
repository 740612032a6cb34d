//! An app's process, as the node sees it: starting it, talking to it, ending it.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::ipc::{Channel, ChannelError, Code, Event, Failure, FromGuest, Reply, Request, ToGuest, Window};
use crate::package::Limits;

/// How long compiling may take: a large component takes seconds on a busy machine.
const COMPILE_TIME_MAX: Duration = Duration::from_secs(120);
const LOAD_TIME_MAX: Duration = Duration::from_secs(30);
/// What the sandbox gets, beyond an event's own time, to end it by itself.
const GRACE: Duration = Duration::from_secs(2);

/// How the program is called that runs [`crate::guest::run`].
#[derive(Debug, Clone)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
}

pub(super) struct Process {
    child: Child,
    channel: Channel,
    window: Window,
    limits: Limits,
}

/// Why an app does not run, or does not any more. The process has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProcessError {
    #[error("cannot start a process: {0}")]
    Start(#[source] io::Error),
    #[error("{0}")]
    Unusable(String),
    #[error("it answered what it was not asked")]
    Turn,
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the shared memory failed: {0}")]
    Window(#[source] io::Error),
}

/// What is to run.
pub(super) struct Load<'a> {
    pub(super) compiled: Option<Vec<u8>>,
    /// As the author packed it: asked for where what was compiled does not fit.
    pub(super) component: &'a mut dyn FnMut() -> Option<Vec<u8>>,
    pub(super) limits: Limits,
}

impl Process {
    /// Starts the app, and compiles it where that has to be. The second answer is what it was compiled to.
    pub(super) fn start(
        program: &Program,
        mut load: Load<'_>,
    ) -> Result<(Self, Option<Vec<u8>>), ProcessError> {
        if let Some(compiled) = load.compiled.take() {
            let mut process = Self::spawn(program, load.limits)?;
            match process.load(Code::Compiled, &compiled, LOAD_TIME_MAX)? {
                FromGuest::Ready { .. } => return Ok((process, None)),
                FromGuest::Stale => {}
                other => return Err(wrong(other)),
            }
        }
        let component = (load.component)().ok_or(ProcessError::Unusable("its package is gone".to_owned()))?;
        let mut process = Self::spawn(program, load.limits)?;
        match process.load(Code::Component, &component, COMPILE_TIME_MAX)? {
            FromGuest::Ready { compiled_bytes: Some(length) } => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let compiled = process.window.get(length).map_err(ProcessError::Window)?;
                process.window.clear().map_err(ProcessError::Window)?;
                Ok((process, Some(compiled)))
            }
            other => Err(wrong(other)),
        }
    }

    fn spawn(program: &Program, limits: Limits) -> Result<Self, ProcessError> {
        let (channel, theirs) = Channel::pair().map_err(ProcessError::Start)?;
        let window = Window::new().map_err(ProcessError::Start)?;
        let shared: OwnedFd = window.duplicate().map_err(ProcessError::Start)?;
        let child = Command::new(&program.path)
            .args(&program.arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::from(shared))
            .stderr(Stdio::null())
            .spawn()
            .map_err(ProcessError::Start)?;
        Ok(Self { child, channel, window, limits })
    }

    fn load(&mut self, code: Code, bytes: &[u8], time: Duration) -> Result<FromGuest, ProcessError> {
        self.window.put(bytes).map_err(ProcessError::Window)?;
        let start = ToGuest::Start { code, bytes: bytes.len() as u64, memory_mib: self.limits.memory_mib };
        self.channel.send(&start)?;
        let answer = self.channel.receive(Some(Instant::now() + time))?;
        if code == Code::Compiled {
            self.window.clear().map_err(ProcessError::Window)?;
        }
        Ok(answer)
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Has the app handle events, and answers what it asks for meanwhile.
    pub(super) fn handle(
        &mut self,
        events: Vec<Event>,
        answer: &mut dyn FnMut(Request, &Window) -> Result<Reply, crate::ipc::Error>,
    ) -> Result<Vec<Result<(), Failure>>, ProcessError> {
        let each = Duration::from_secs(self.limits.seconds.into());
        let count = events.len();
        let milliseconds = self.limits.seconds.saturating_mul(1000);
        let deadline = Instant::now() + each * u32::try_from(count).unwrap_or(u32::MAX) + GRACE;
        self.channel.send(&ToGuest::Handle { events, milliseconds })?;
        loop {
            match self.channel.receive(Some(deadline))? {
                FromGuest::Request(request) => {
                    let answer = answer(request, &self.window);
                    self.channel.send(&ToGuest::Answer(answer))?;
                }
                FromGuest::Handled(outcomes) if outcomes.len() == count => return Ok(outcomes),
                _ => return Err(ProcessError::Turn),
            }
        }
    }
}

fn wrong(message: FromGuest) -> ProcessError {
    match message {
        FromGuest::Unusable(why) => ProcessError::Unusable(why),
        _ => ProcessError::Turn,
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It holds nothing that it could lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
