//! What a component may import, each function one request to the node or none.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wasmtime::component::{Resource, ResourceTable};
use wasmtime::{StoreLimits, StoreLimitsBuilder};

use super::http::OpenExchange;
use super::node::Node;
use crate::ipc::{self, Data, Handle, How, Reply, Request};
use crate::limits::{
    CONNECTIONS_MAX, DATA_BYTES_MAX, HANDLES_MAX, LETTER_BYTES_MAX, LOCKS_MAX, LOG_LINE_BYTES_MAX,
    NAME_BYTES_MAX, PATH_BYTES_MAX,
};

wasmtime::component::bindgen!({
    path: "wit",
    world: "everything",
    imports: { default: trappable },
    with: {
        "blocktree:app/files.file": OpenFile,
        "blocktree:app/locks.lock": TakenLock,
        "blocktree:app/http-exchange.exchange": super::http::OpenExchange,
        "blocktree:app/http-client.response": super::http::OpenResponse,
        "blocktree:app/sockets.connection": super::socket::OpenConnection,
    },
});

use self::blocktree::app::{clock, files, kv, locks, log, messages, random, types};
use self::exports::blocktree::app::events;
use self::types::Error;

/// The most random bytes at once.
const RANDOM_BYTES_MAX: u32 = 64 << 10;
const INSTANCES_MAX: usize = 64;
const TABLE_ELEMENTS_MAX: usize = 100_000;
/// A socket, its streams, and what they are waited for by.
pub(super) const ENTRIES_PER_CONNECTION: usize = 8;

/// What stands behind an instance.
pub(super) struct Host {
    pub(super) node: Node,
    pub(super) limits: StoreLimits,
    pub(super) table: ResourceTable,
    /// The number of the newest exchange.
    pub(super) exchange: u64,
    /// Until then the app may wait for something.
    pub(super) end: Instant,
    began: Instant,
}

/// A file that the node has open for the app.
#[allow(unreachable_pub, reason = "the bindings re-export it")]
pub struct OpenFile(Handle);

/// A lock that the node keeps for the app.
#[allow(unreachable_pub, reason = "the bindings re-export it")]
pub struct TakenLock {
    handle: Handle,
    token: u64,
}

impl Host {
    /// For an instance that is made for a call that ends then.
    pub(super) fn new(node: Node, memory_bytes: usize, end: Instant) -> Self {
        let limits = StoreLimitsBuilder::new()
            .memory_size(memory_bytes)
            .memories(INSTANCES_MAX)
            .table_elements(TABLE_ELEMENTS_MAX)
            .tables(INSTANCES_MAX)
            .instances(INSTANCES_MAX)
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(2 * HANDLES_MAX + LOCKS_MAX + CONNECTIONS_MAX * ENTRIES_PER_CONNECTION);
        Self { node, limits, table, exchange: 0, end, began: Instant::now() }
    }

    /// What the app is called with for the next request.
    pub(super) fn next_exchange(&mut self) -> wasmtime::Result<Resource<OpenExchange>> {
        self.exchange += 1;
        Ok(self.table.push(OpenExchange(self.exchange))?)
    }

    /// The app has handled a request; the client does not wait for what is still to be sent to others.
    pub(super) fn end_answer(&mut self, is_whole: bool) {
        if super::wasi::is_sending(self) {
            // If that fails, the answer ends with the call.
            let _ = self.node.ask_to(Request::EndAnswer { is_whole });
        }
    }

    /// What the instance had open, the node has to close.
    pub(super) fn into_node(mut self) -> Node {
        super::wasi::abandon(&mut self);
        let _ = self.node.ask_to(Request::CloseAll);
        self.node
    }

    fn handle(&self, file: &Resource<OpenFile>) -> wasmtime::Result<Handle> {
        Ok(self.table.get(file)?.0)
    }

    fn open(
        &mut self,
        grant: String,
        path: String,
        how: How,
    ) -> wasmtime::Result<Result<Resource<OpenFile>, Error>> {
        if path.len() > PATH_BYTES_MAX {
            return Ok(Err(Error::Malformed));
        }
        match self.node.ask(Request::Open { grant, path, how }) {
            Ok(Reply::Handle(handle)) => Ok(Ok(self.table.push(OpenFile(handle))?)),
            other => Ok(Err(unexpected(other))),
        }
    }

    /// How long the app may wait now.
    pub(super) fn milliseconds_left(&self) -> u32 {
        milliseconds(self.end.saturating_duration_since(Instant::now()))
    }

    pub(super) fn ask_to(&mut self, request: Request) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.node.ask_to(request).map_err(error))
    }

    /// Asks for bytes.
    pub(super) fn ask_for_data(&mut self, request: Request) -> wasmtime::Result<Result<Vec<u8>, Error>> {
        Ok(match self.node.ask(request) {
            Ok(Reply::Data(data)) => self.node.incoming(data).map_err(error),
            other => Err(unexpected(other)),
        })
    }

    /// Asks the node to take bytes.
    pub(super) fn hand_over(
        &mut self,
        bytes: Vec<u8>,
        request: impl FnOnce(Data) -> Request,
    ) -> wasmtime::Result<Result<(), Error>> {
        match self.node.outgoing(bytes) {
            Ok(data) => self.ask_to(request(data)),
            Err(why) => Ok(Err(error(why))),
        }
    }
}

/// A reply of another kind than the request has.
pub(super) fn unexpected(answer: Result<Reply, ipc::Error>) -> Error {
    answer.map_or_else(error, |_| Error::Failed)
}

impl files::Host for Host {
    fn open(&mut self, grant: String, path: String) -> wasmtime::Result<Result<Resource<OpenFile>, Error>> {
        Host::open(self, grant, path, How::Read)
    }

    fn edit(&mut self, grant: String, path: String) -> wasmtime::Result<Result<Resource<OpenFile>, Error>> {
        Host::open(self, grant, path, How::Edit)
    }

    fn create(&mut self, grant: String, path: String) -> wasmtime::Result<Result<Resource<OpenFile>, Error>> {
        Host::open(self, grant, path, How::Create)
    }

    fn stat(&mut self, grant: String, path: String) -> wasmtime::Result<Result<types::Status, Error>> {
        Ok(match self.node.ask(Request::Stat { grant, path }) {
            Ok(Reply::Stat(found)) => Ok(stat(found)),
            other => Err(unexpected(other)),
        })
    }

    fn list(
        &mut self,
        grant: String,
        path: String,
        after: Option<String>,
    ) -> wasmtime::Result<Result<(Vec<types::Entry>, Option<String>), Error>> {
        // As text, since there are languages whose numbers do not have 64 bits.
        let Ok(after) = after.map(|place| place.parse()).transpose() else {
            return Ok(Err(Error::Malformed));
        };
        Ok(match self.node.ask(Request::List { grant, path, after }) {
            Ok(Reply::Entries { entries, after }) => {
                Ok((entries.into_iter().map(entry).collect(), after.map(|place: u64| place.to_string())))
            }
            other => Err(unexpected(other)),
        })
    }

    fn rename(
        &mut self,
        grant: String,
        path: String,
        new_path: String,
    ) -> wasmtime::Result<Result<(), Error>> {
        self.ask_to(Request::Rename { grant, path, new_path })
    }

    fn remove(&mut self, grant: String, path: String) -> wasmtime::Result<Result<(), Error>> {
        self.ask_to(Request::Remove { grant, path })
    }

    fn make_directory(&mut self, grant: String, path: String) -> wasmtime::Result<Result<(), Error>> {
        self.ask_to(Request::MakeDirectory { grant, path })
    }
}

impl files::HostFile for Host {
    fn read(
        &mut self,
        file: Resource<OpenFile>,
        offset: u64,
        length: u32,
    ) -> wasmtime::Result<Result<Vec<u8>, Error>> {
        let handle = self.handle(&file)?;
        let length = length.min(DATA_BYTES_MAX as u32);
        self.ask_for_data(Request::Read { handle, offset, length })
    }

    fn write(
        &mut self,
        file: Resource<OpenFile>,
        offset: u64,
        bytes: Vec<u8>,
    ) -> wasmtime::Result<Result<(), Error>> {
        let handle = self.handle(&file)?;
        self.hand_over(bytes, |data| Request::Write { handle, offset, data })
    }

    fn resize(&mut self, file: Resource<OpenFile>, size: u64) -> wasmtime::Result<Result<(), Error>> {
        let handle = self.handle(&file)?;
        self.ask_to(Request::Resize { handle, size })
    }

    fn stat(&mut self, file: Resource<OpenFile>) -> wasmtime::Result<Result<types::Status, Error>> {
        let handle = self.handle(&file)?;
        Ok(match self.node.ask(Request::StatOpen { handle }) {
            Ok(Reply::Stat(found)) => Ok(stat(found)),
            other => Err(unexpected(other)),
        })
    }

    fn sync(&mut self, file: Resource<OpenFile>) -> wasmtime::Result<Result<(), Error>> {
        let handle = self.handle(&file)?;
        self.ask_to(Request::Sync { handle })
    }

    fn finish(&mut self, file: Resource<OpenFile>) -> wasmtime::Result<Result<(), Error>> {
        let handle = self.handle(&file)?;
        self.ask_to(Request::Finish { handle })
    }

    fn fence(
        &mut self,
        file: Resource<OpenFile>,
        grant: String,
        path: String,
        token: u64,
    ) -> wasmtime::Result<Result<(), Error>> {
        let handle = self.handle(&file)?;
        self.ask_to(Request::Fence { handle, grant, path, token })
    }

    fn drop(&mut self, file: Resource<OpenFile>) -> wasmtime::Result<()> {
        let OpenFile(handle) = self.table.delete(file)?;
        // What the node says to it changes nothing.
        let _ = self.node.ask_to(Request::Close { handle });
        Ok(())
    }
}

impl locks::Host for Host {
    fn take(&mut self, grant: String, path: String) -> wasmtime::Result<Result<Resource<TakenLock>, Error>> {
        match self.node.ask(Request::Lock { grant, path }) {
            Ok(Reply::Locked { handle, token }) => Ok(Ok(self.table.push(TakenLock { handle, token })?)),
            other => Ok(Err(unexpected(other))),
        }
    }
}

impl locks::HostLock for Host {
    fn token(&mut self, lock: Resource<TakenLock>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&lock)?.token)
    }

    fn drop(&mut self, lock: Resource<TakenLock>) -> wasmtime::Result<()> {
        let TakenLock { handle, .. } = self.table.delete(lock)?;
        let _ = self.node.ask_to(Request::Unlock { handle });
        Ok(())
    }
}

impl messages::Host for Host {
    fn send(&mut self, app: String, bytes: Vec<u8>) -> wasmtime::Result<Result<(), Error>> {
        if app.len() > NAME_BYTES_MAX || bytes.len() > LETTER_BYTES_MAX {
            return Ok(Err(Error::TooLarge));
        }
        self.ask_to(Request::Send { app, bytes })
    }
}

impl kv::Host for Host {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        Ok(match self.node.ask(Request::KeyGet { key }) {
            Ok(Reply::Data(data)) => self.node.incoming(data).map(Some).map_err(error),
            Ok(Reply::NoData) => Ok(None),
            other => Err(unexpected(other)),
        })
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<Result<(), Error>> {
        match self.node.outgoing(value) {
            Ok(value) => self.ask_to(Request::KeySet { key, value }),
            Err(why) => Ok(Err(error(why))),
        }
    }

    fn delete(&mut self, key: String) -> wasmtime::Result<Result<(), Error>> {
        self.ask_to(Request::KeyDelete { key })
    }

    fn keys(&mut self, prefix: String) -> wasmtime::Result<Result<Vec<String>, Error>> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            match self.node.ask(Request::Keys { prefix: prefix.clone(), after }) {
                Ok(Reply::Keys { mut keys, is_last }) => {
                    after = keys.last().cloned();
                    all.append(&mut keys);
                    if is_last || after.is_none() {
                        return Ok(Ok(all));
                    }
                }
                other => return Ok(Err(unexpected(other))),
            }
        }
    }
}

impl log::Host for Host {
    fn write(&mut self, level: log::Level, text: String) -> wasmtime::Result<()> {
        let level = match level {
            log::Level::Debug => ipc::Level::Debug,
            log::Level::Info => ipc::Level::Info,
            log::Level::Warn => ipc::Level::Warn,
            log::Level::Error => ipc::Level::Error,
        };
        // An app's log may be full; that is no reason for it to fail.
        let _ = self.node.ask_to(Request::Log { level, text: shortened(text) });
        Ok(())
    }
}

impl clock::Host for Host {
    fn now(&mut self) -> wasmtime::Result<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(now.map_or(0, nanoseconds))
    }

    fn monotonic(&mut self) -> wasmtime::Result<u64> {
        Ok(nanoseconds(self.began.elapsed()))
    }
}

/// No less than that.
pub(super) fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl random::Host for Host {
    fn bytes(&mut self, length: u32) -> wasmtime::Result<Vec<u8>> {
        let mut bytes = vec![0; length.min(RANDOM_BYTES_MAX) as usize];
        let mut done = 0;
        while done < bytes.len() {
            let got = rustix::rand::getrandom(&mut bytes[done..], rustix::rand::GetRandomFlags::empty());
            match got {
                Ok(count) => done += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(std::io::Error::from(error).into()),
            }
        }
        Ok(bytes)
    }
}

impl types::Host for Host {}

/// A text that fits into the log.
pub(super) fn shortened(mut text: String) -> String {
    let mut end = text.len().min(LOG_LINE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// An event as the component takes it.
pub(super) fn event(event: ipc::Event) -> events::Event {
    use events::{Change, Event};
    match event {
        ipc::Event::Written { grant, path } => Event::Written(Change { grant, path }),
        ipc::Event::Created { grant, path } => Event::Created(Change { grant, path }),
        ipc::Event::Renamed { grant, old_path, path } => {
            Event::Renamed(events::Rename { grant, old_path, path })
        }
        ipc::Event::Deleted { grant, path } => Event::Deleted(Change { grant, path }),
        ipc::Event::Attributes { grant, path } => Event::Attributes(Change { grant, path }),
        ipc::Event::Timer(name) => Event::Timer(name),
        ipc::Event::Message { app, bytes } => Event::Message(events::Message { app, bytes }),
        ipc::Event::Overflow => Event::Overflow,
    }
}

fn stat(stat: ipc::Stat) -> types::Status {
    let ipc::Stat { kind: of, size, modified, changed } = stat;
    types::Status { kind: kind(of), size, modified, changed }
}

fn entry(entry: ipc::Entry) -> types::Entry {
    types::Entry { name: entry.name, kind: kind(entry.kind) }
}

pub(super) fn kind(kind: ipc::Kind) -> types::Kind {
    match kind {
        ipc::Kind::File => types::Kind::File,
        ipc::Kind::Directory => types::Kind::Directory,
        ipc::Kind::Symlink => types::Kind::Symlink,
        ipc::Kind::Other => types::Kind::Other,
    }
}

pub(super) fn error(error: ipc::Error) -> Error {
    match error {
        ipc::Error::NotGranted => Error::NotGranted,
        ipc::Error::NotFound => Error::NotFound,
        ipc::Error::Exists => Error::Exists,
        ipc::Error::NotAFile => Error::NotAFile,
        ipc::Error::NotADirectory => Error::NotADirectory,
        ipc::Error::NotEmpty => Error::NotEmpty,
        ipc::Error::Malformed => Error::Malformed,
        ipc::Error::TooLarge => Error::TooLarge,
        ipc::Error::NoSpace => Error::NoSpace,
        ipc::Error::ReadOnly => Error::ReadOnly,
        ipc::Error::Refused => Error::Refused,
        ipc::Error::Locked => Error::Locked,
        ipc::Error::Failed
        | ipc::Error::PrivateAddress
        | ipc::Error::Unreachable
        | ipc::Error::TimedOut
        | ipc::Error::Closed
        | ipc::Error::Rejected => Error::Failed,
    }
}
