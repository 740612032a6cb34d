//! The layer inside an app's own process: it runs the code of one app, and can do nothing but ask the node.
//!
//! [`run`] is the process. `confine` takes away what it could do to the system, `code` gets the component to run,
//! `host`, `http` and `socket` are what the component imports, `policy` what it is asked, `node` asks the node for it, `clock` ends what
//! takes too long.
//!
//! Invariants:
//! 1. Nothing of the app is read, compiled or run before the process is confined.
//! 2. Whatever the app does, at the worst this process ends.

mod clock;
mod code;
mod confine;
mod host;
mod http;
mod node;
mod policy;
mod socket;
mod wasi;

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use wasmtime::Store;

use self::clock::Deadline;
use self::code::Exported;
use self::host::Host;
use self::node::Node;
use crate::ipc::{
    Channel, ChannelError, Code, Event, Failure, FromGuest, HttpRequest, Operation, ToGuest, Window,
};

/// What this process ends with when the node has gone, or wanted it to end.
const ENDED: u8 = 0;
const FAILED: u8 = 1;

/// Runs an app for the node behind standard input, with the window at standard output, until it goes.
pub fn run() -> u8 {
    match serve() {
        Ok(()) | Err(ServeError::Channel(ChannelError::Closed)) => ENDED,
        // There is nobody to tell: the node sees the end of the channel.
        Err(_) => FAILED,
    }
}

#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Confine(#[from] confine::ConfineError),
    #[error("the node spoke out of turn")]
    Turn,
}

fn serve() -> Result<(), ServeError> {
    confine::close_others()?;
    // Its own descriptors, so that nothing else closes or writes to them.
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let window = io::stdout().as_fd().try_clone_to_owned()?;
    let mut node = Node::new(Channel::new(socket), Window::from_file(window)?);
    confine::first()?;
    let deadline = Deadline::start()?;
    confine::last()?;
    let started = match start(&mut node) {
        Ok(app) => app,
        Err(Started::Failed(error)) => return Err(error),
        Err(Started::Told(message)) => {
            node.channel.send(&message)?;
            // It stays until the node has read it.
            let _ = node.channel.receive::<ToGuest>(None);
            return Ok(());
        }
    };
    App { code: started, running: None, node: Some(node) }.serve(&deadline)
}

enum Started {
    Failed(ServeError),
    Told(FromGuest),
}

impl<E: Into<ServeError>> From<E> for Started {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Takes the code over and says so.
fn start(node: &mut Node) -> Result<code::Loaded, Started> {
    let ToGuest::Start { code, bytes, memory_mib } = node.channel.receive(None)? else {
        return Err(ServeError::Turn.into());
    };
    confine::limit_memory(memory_mib)?;
    let bytes = usize::try_from(bytes).map_err(|_| ServeError::Turn)?;
    let bytes = node.window.get(bytes)?;
    let loaded = match code {
        Code::Compiled => code::load(&bytes, memory_mib).map_err(|_| Started::Told(FromGuest::Stale))?,
        Code::Component => code::compile(&bytes, memory_mib)
            .map_err(|error| Started::Told(FromGuest::Unusable(host::shortened(format!("{error:#}")))))?,
    };
    confine::no_more_code()?;
    if let Some(compiled) = &loaded.compiled {
        node.window.put(compiled)?;
    }
    let compiled_bytes = loaded.compiled.as_ref().map(|bytes| bytes.len() as u64);
    node.channel.send(&FromGuest::Ready { compiled_bytes })?;
    Ok(loaded)
}

/// The app: its code, and an instance that lives until it fails.
struct App {
    code: code::Loaded,
    running: Option<Running>,
    /// While no instance has it.
    node: Option<Node>,
}

struct Running {
    store: Store<Host>,
    exported: Exported,
}

/// What a call of the app comes to: its own answer, if it did not trap.
type Called<T> = wasmtime::Result<Result<T, String>>;

impl App {
    fn serve(mut self, deadline: &Deadline) -> Result<(), ServeError> {
        self.code.compiled = None;
        loop {
            let told = match self.channel()?.receive(None)? {
                ToGuest::Handle { events, milliseconds } => {
                    let limit = Duration::from_millis(milliseconds.into());
                    let mut outcomes = Vec::with_capacity(events.len());
                    for event in events {
                        outcomes.push(self.handle(event, limit, deadline));
                        self.check_node()?;
                    }
                    FromGuest::Handled(outcomes)
                }
                ToGuest::Serve { request, milliseconds } => {
                    let limit = Duration::from_millis(milliseconds.into());
                    let outcome = self.answer(request, limit, deadline);
                    self.check_node()?;
                    FromGuest::Served(outcome)
                }
                ToGuest::Judge { operation, milliseconds } => {
                    let limit = Duration::from_millis(milliseconds.into());
                    let outcome = self.judge(operation, limit, deadline);
                    self.check_node()?;
                    FromGuest::Judged(outcome)
                }
                _ => return Err(ServeError::Turn),
            };
            self.channel()?.send(&told)?;
        }
    }

    /// Ends this process if the node has gone.
    fn check_node(&self) -> Result<(), ServeError> {
        match &self.running {
            Some(running) if running.store.data().node.is_broken => Err(ChannelError::Closed.into()),
            _ => Ok(()),
        }
    }

    fn channel(&mut self) -> Result<&mut Channel, ServeError> {
        match (&mut self.running, &mut self.node) {
            (Some(running), _) => Ok(&mut running.store.data_mut().node.channel),
            (None, Some(node)) => Ok(&mut node.channel),
            (None, None) => Err(ServeError::Turn),
        }
    }

    fn handle(&mut self, event: Event, limit: Duration, deadline: &Deadline) -> Result<(), Failure> {
        self.call(limit, deadline, |Running { store, exported }| match &exported.events {
            Some(events) => events.call_handle(store, &host::event(event)),
            None => Ok(Err("the app handles no events".to_owned())),
        })
    }

    fn answer(&mut self, request: HttpRequest, limit: Duration, deadline: &Deadline) -> Result<(), Failure> {
        self.call(limit, deadline, |Running { store, exported }| match &exported.http {
            Some(http) => {
                let exchange = store.data_mut().next_exchange()?;
                let answer = http.call_handle(&mut *store, &http::request(request), exchange)?;
                store.data_mut().end_answer(answer.is_ok());
                Ok(answer)
            }
            None => Ok(Err("the app answers no requests".to_owned())),
        })
    }

    fn judge(&mut self, operation: Operation, limit: Duration, deadline: &Deadline) -> Result<bool, Failure> {
        self.call(limit, deadline, |Running { store, exported }| match &exported.policy {
            Some(policy) => {
                Ok(Ok(policy::is_allowed(policy.call_judge(store, &policy::operation(operation))?)))
            }
            None => Ok(Err("the app has no policy".to_owned())),
        })
    }

    fn call<T>(
        &mut self,
        limit: Duration,
        deadline: &Deadline,
        call: impl FnOnce(&mut Running) -> Called<T>,
    ) -> Result<T, Failure> {
        let end = Instant::now() + limit;
        let _running = deadline.within(&self.code.engine, end);
        let called = self.instance(end).and_then(|running| {
            running.store.set_epoch_deadline(1);
            running.store.data_mut().end = end;
            let answer = call(running)?;
            wasi::settle(running.store.data_mut());
            Ok(answer)
        });
        match called {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(text)) => Err(Failure::Said(host::shortened(text))),
            Err(error) => {
                // What trapped is in a state that nobody knows.
                if let Some(running) = self.running.take() {
                    self.node = Some(running.store.into_data().into_node());
                }
                match error.downcast_ref::<wasmtime::Trap>() {
                    Some(wasmtime::Trap::Interrupt) => Err(Failure::TimedOut),
                    _ => Err(Failure::Trapped(host::shortened(format!("{error:#}")))),
                }
            }
        }
    }

    /// The instance that there is, or a new one, whose initialisers may take as long as the call that it is for.
    fn instance(&mut self, end: Instant) -> wasmtime::Result<&mut Running> {
        if self.running.is_none()
            && let Some(node) = self.node.take()
        {
            let mut store = Store::new(&self.code.engine, Host::new(node, self.code.memory_bytes, end));
            store.limiter(|host| &mut host.limits);
            store.set_epoch_deadline(1);
            match self.code.instantiate(&mut store) {
                Ok(exported) => self.running = Some(Running { store, exported }),
                Err(error) => {
                    self.node = Some(store.into_data().into_node());
                    return Err(error);
                }
            }
        }
        self.running.as_mut().ok_or_else(|| wasmtime::Error::msg("the instance is gone"))
    }
}
