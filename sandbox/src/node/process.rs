//! An app's process, as the node sees it: starting it, talking to it, ending it.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::registry::{App, RegistryError};
use crate::ipc::{
    Channel, ChannelError, Code, Event, Failure, FromGuest, HttpRequest, Operation, Reply, Request, ToGuest,
    Window,
};
use crate::package::{Limits, Package};

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
struct Load<'a> {
    compiled: Option<Vec<u8>>,
    /// As the author packed it: asked for where what was compiled does not fit.
    component: &'a mut dyn FnMut() -> Option<Vec<u8>>,
    limits: Limits,
}

impl Process {
    /// Starts an installed app; what it was compiled to is kept.
    pub(super) fn of(
        app: &App,
        program: &Program,
        limits: Limits,
    ) -> Result<Result<Self, ProcessError>, RegistryError> {
        let mut component = || {
            let package = app.package().ok()?;
            Package::verify(&package).ok().map(|verified| verified.component().to_vec())
        };
        match Self::start(program, Load { compiled: app.compiled()?, component: &mut component, limits }) {
            Ok((process, compiled)) => {
                compiled.map_or(Ok(()), |compiled| app.set_compiled(&compiled))?;
                Ok(Ok(process))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// Starts the app, and compiles it where that has to be. The second answer is what it was compiled to.
    fn start(program: &Program, mut load: Load<'_>) -> Result<(Self, Option<Vec<u8>>), ProcessError> {
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
        let time = each * u32::try_from(count).unwrap_or(u32::MAX);
        match self.ask(&ToGuest::Handle { events, milliseconds: self.milliseconds() }, time, answer)? {
            FromGuest::Handled(outcomes) if outcomes.len() == count => Ok(outcomes),
            _ => Err(ProcessError::Turn),
        }
    }

    /// Has the app answer an HTTP request.
    pub(super) fn serve(
        &mut self,
        request: HttpRequest,
        answer: &mut dyn FnMut(Request, &Window) -> Result<Reply, crate::ipc::Error>,
    ) -> Result<Result<(), Failure>, ProcessError> {
        let time = Duration::from_secs(self.limits.seconds.into());
        match self.ask(&ToGuest::Serve { request, milliseconds: self.milliseconds() }, time, answer)? {
            FromGuest::Served(outcome) => Ok(outcome),
            _ => Err(ProcessError::Turn),
        }
    }

    /// Asks the app whether somebody may do something; it has `time` for that.
    pub(super) fn judge(
        &mut self,
        operation: Operation,
        time: Duration,
        answer: &mut dyn FnMut(Request, &Window) -> Result<Reply, crate::ipc::Error>,
    ) -> Result<Result<bool, Failure>, ProcessError> {
        let milliseconds = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        match self.ask(&ToGuest::Judge { operation, milliseconds }, time, answer)? {
            FromGuest::Judged(outcome) => Ok(outcome),
            _ => Err(ProcessError::Turn),
        }
    }

    fn milliseconds(&self) -> u32 {
        self.limits.seconds.saturating_mul(1000)
    }

    /// What it says in the end, which is no request.
    fn ask(
        &mut self,
        message: &ToGuest,
        time: Duration,
        answer: &mut dyn FnMut(Request, &Window) -> Result<Reply, crate::ipc::Error>,
    ) -> Result<FromGuest, ProcessError> {
        let deadline = Instant::now() + time + GRACE;
        self.channel.send(message)?;
        loop {
            match self.channel.receive(Some(deadline))? {
                FromGuest::Request(request) => {
                    let answer = answer(request, &self.window);
                    self.channel.send(&ToGuest::Answer(answer))?;
                }
                other => return Ok(other),
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

#[cfg(test)]
pub(super) mod tests {
    //! A process that broke out of its runtime says what it likes. Here it is a shell.

    use super::*;
    use crate::ipc::encode;
    use crate::limits::MESSAGE_BYTES_MAX;

    /// A process that says these messages, whatever it is told, and then nothing.
    pub(in crate::node) fn forger(messages: &[Vec<u8>]) -> Program {
        let escaped =
            |message: &Vec<u8>| message.iter().map(|byte| format!("\\{byte:03o}")).collect::<String>();
        let said: String =
            messages.iter().map(|message| format!("printf '{}' >&0; ", escaped(message))).collect();
        let script = format!("{said} exec sleep 60");
        Program { path: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] }
    }

    fn started(messages: &[Vec<u8>]) -> Result<Process, ProcessError> {
        let component = &mut || Some(b"code".to_vec());
        let load = Load { compiled: None, component, limits: Limits::default() };
        Process::start(&forger(messages), load).map(|(process, _)| process)
    }

    pub(in crate::node) fn said(message: &FromGuest) -> Vec<u8> {
        encode(message).expect("encoded")
    }

    #[test]
    fn what_is_forged_ends_the_process_and_nothing_else() {
        let ready = said(&FromGuest::Ready { compiled_bytes: Some(4) });
        assert!(matches!(started(&[b"nonsense".to_vec()]), Err(ProcessError::Channel(_))));
        assert!(matches!(started(&[said(&FromGuest::Handled(Vec::new()))]), Err(ProcessError::Turn)));
        assert!(matches!(started(&[said(&FromGuest::Stale)]), Err(ProcessError::Turn)));
        assert!(matches!(
            started(&[said(&FromGuest::Ready { compiled_bytes: None })]),
            Err(ProcessError::Turn)
        ));
        let huge = FromGuest::Ready { compiled_bytes: Some(u64::MAX) };
        assert!(matches!(started(&[said(&huge)]), Err(ProcessError::Window(_))));
        let handled = |answers: &[Vec<u8>]| {
            let mut process = started(&[std::slice::from_ref(&ready), answers].concat())?;
            let mut asked = Vec::new();
            let outcome = process.handle(vec![Event::Overflow], &mut |request, _| {
                asked.push(request);
                Err(crate::ipc::Error::NotFound)
            });
            outcome.map(|outcomes| (outcomes.len(), asked))
        };
        let done = said(&FromGuest::Handled(vec![Ok(())]));
        let request = Request::Read { handle: 7, offset: u64::MAX, length: u32::MAX };
        let asked = said(&FromGuest::Request(request.clone()));
        assert_eq!(handled(&[asked, done.clone()]).expect("in turn"), (1, vec![request]));
        let more = said(&FromGuest::Handled(vec![Ok(()), Ok(())]));
        assert!(matches!(handled(&[more]), Err(ProcessError::Turn)), "outcomes of what it was not given");
        assert!(matches!(handled(&[said(&FromGuest::Served(Ok(())))]), Err(ProcessError::Turn)));
        assert!(matches!(handled(&[said(&FromGuest::Judged(Ok(true)))]), Err(ProcessError::Turn)));
        assert!(matches!(handled(std::slice::from_ref(&ready)), Err(ProcessError::Turn)));
        let behind = [done.as_slice(), b"x"].concat();
        assert!(matches!(handled(&[behind]), Err(ProcessError::Channel(_))));
    }

    #[test]
    fn a_message_that_is_too_long_ends_the_process() {
        let script = format!(
            "exec 3>&0; head -c {} /dev/zero | dd bs=1M iflag=fullblock >&3; exec sleep 60",
            MESSAGE_BYTES_MAX + 1
        );
        let program = Program { path: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] };
        let component = &mut || Some(b"code".to_vec());
        let load = Load { compiled: None, component, limits: Limits::default() };
        assert!(matches!(Process::start(&program, load), Err(ProcessError::Channel(_))));
    }
}
