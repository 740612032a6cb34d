//! What node and sandbox say to each other, and the channel that carries it.
//!
//! Key types: [`ToGuest`] and [`FromGuest`] are the messages, [`Request`] and [`Reply`] what the app asks of the node
//! while it handles something, [`Channel`] moves them, [`Window`] is the memory that both have for long data.
//!
//! 1. A message has the version of this module in front, and is decoded by [`decode`] alone. What is longer than
//!    [`crate::limits::MESSAGE_BYTES_MAX`], or has anything behind its end, is refused.
//! 2. Node and sandbox take turns: the node starts or hands events over, the sandbox asks and is answered until it has
//!    handled them. Nobody speaks out of turn.
//! 3. The node copies what it takes from the window before it looks at it: the sandbox may change it at any time.

mod channel;
mod window;

use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use channel::{Channel, ChannelError};
pub use window::Window;

use crate::limits::MESSAGE_BYTES_MAX;

/// The version of these messages. Both sides are the same program, but perhaps not for ever.
pub const VERSION: u16 = 7;

/// From the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGuest {
    /// The code is in the window.
    Start { code: Code, bytes: u64, memory_mib: u32 },
    Handle {
        events: Vec<Event>,
        /// How long each may take.
        milliseconds: u32,
    },
    /// An HTTP request; its body and the answer's go by requests of the app.
    Serve { request: HttpRequest, milliseconds: u32 },
    /// May somebody do this?
    Judge { operation: Operation, milliseconds: u32 },
    /// To the last request.
    Answer(Result<Reply, Error>),
}

/// What the window holds at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Code {
    /// As the author packed it.
    Component,
    /// As this app's sandbox compiled it earlier.
    Compiled,
}

/// From the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromGuest {
    /// It waits for events. If it had to compile, so many bytes in the window save that the next time.
    Ready {
        compiled_bytes: Option<u64>,
    },
    /// What was compiled is of another version or machine.
    Stale,
    /// The code cannot run here.
    Unusable(String),
    Request(Request),
    /// One outcome for each event, in order.
    Handled(Vec<Result<(), Failure>>),
    Served(Result<(), Failure>),
    /// Whether it may be done.
    Judged(Result<bool, Failure>),
}

/// What somebody is about to do below a grant; as in the WIT interface `policy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    Create(Subject),
    Modify(Subject),
    Remove(Subject),
    /// Where it was, if that is below the same grant, and what it will be.
    Rename(Option<String>, Subject),
    Attributes(Subject),
}

/// What an operation is about, as it will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    pub grant: String,
    pub path: String,
    pub kind: Kind,
    pub permissions: u32,
}

/// A name in lower case, and a value.
pub type Header = (String, String);

/// The head of a request that somebody sends to an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRequest {
    pub method: String,
    /// Behind the app's name, as it was sent; begins with a slash.
    pub path: String,
    pub query: Option<String>,
    pub headers: Vec<Header>,
}

/// Why an event was not handled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The app said so.
    Said(String),
    /// It trapped.
    Trapped(String),
    TimedOut,
}

/// As in the WIT interface `events`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Event {
    Written {
        grant: String,
        path: String,
    },
    Created {
        grant: String,
        path: String,
    },
    Renamed {
        grant: String,
        old_path: Option<String>,
        path: String,
    },
    Deleted {
        grant: String,
        path: String,
    },
    Attributes {
        grant: String,
        path: String,
    },
    Timer(String),
    /// From another app.
    Message {
        app: String,
        bytes: Vec<u8>,
    },
    Overflow,
}

/// Names one of the files that the app has open.
pub type Handle = u32;

/// What of a connection is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Side {
    /// Bytes, or the end of them.
    Input,
    /// Room for bytes; of a connection that was begun, that it is open or failed.
    Output,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    Open {
        grant: String,
        path: String,
        how: How,
    },
    Read {
        handle: Handle,
        offset: u64,
        length: u32,
    },
    Write {
        handle: Handle,
        offset: u64,
        data: Data,
    },
    Resize {
        handle: Handle,
        size: u64,
    },
    StatOpen {
        handle: Handle,
    },
    Sync {
        handle: Handle,
    },
    Finish {
        handle: Handle,
    },
    /// Change this file only while a lock has this number.
    Fence {
        handle: Handle,
        grant: String,
        path: String,
        token: u64,
    },
    Close {
        handle: Handle,
    },
    /// An instance has gone.
    CloseAll,
    Stat {
        grant: String,
        path: String,
    },
    List {
        grant: String,
        path: String,
        after: Option<u64>,
    },
    Rename {
        grant: String,
        path: String,
        new_path: String,
    },
    Remove {
        grant: String,
        path: String,
    },
    MakeDirectory {
        grant: String,
        path: String,
    },
    Lock {
        grant: String,
        path: String,
    },
    Unlock {
        handle: Handle,
    },
    KeyGet {
        key: String,
    },
    KeySet {
        key: String,
        value: Data,
    },
    KeyDelete {
        key: String,
    },
    Keys {
        prefix: String,
        after: Option<String>,
    },
    Log {
        level: Level,
        text: String,
    },
    /// To another app.
    Send {
        app: String,
        bytes: Vec<u8>,
    },
    /// More of the body of the request that is being served.
    BodyRead,
    Respond {
        status: u16,
        headers: Vec<Header>,
    },
    BodyWrite {
        data: Data,
    },
    /// No more of the answer comes; if it is not whole, it breaks off. Without this, it ends with the call.
    EndAnswer {
        is_whole: bool,
    },
    /// A request to another host.
    Fetch {
        method: String,
        url: String,
        headers: Vec<Header>,
        body: Data,
    },
    FetchRead {
        handle: Handle,
    },
    FetchClose {
        handle: Handle,
    },
    /// A connection to a granted address.
    Connect {
        host: String,
        port: u16,
        /// How long it waits at most.
        milliseconds: u32,
    },
    /// Where a granted name leads.
    LookUp {
        host: String,
        /// How long it waits at most.
        milliseconds: u32,
    },
    /// Begins a connection to a granted address, or to one where a granted name led when this app looked it up.
    StartConnect {
        address: IpAddr,
        port: u16,
    },
    /// Whether that connection is open.
    FinishConnect {
        handle: Handle,
    },
    /// Waits until one of these can be used without waiting.
    SocketWait {
        wanted: Vec<(Handle, Side)>,
        milliseconds: u32,
    },
    SocketRead {
        handle: Handle,
        /// As many bytes at most.
        length: u32,
        /// How long it waits if there is nothing.
        milliseconds: u32,
    },
    SocketWrite {
        handle: Handle,
        data: Data,
        /// How long it waits if there is no room.
        milliseconds: u32,
    },
    /// No more comes from here.
    SocketShutDown {
        handle: Handle,
    },
    SocketClose {
        handle: Handle,
    },
    /// As [`Self::SocketClose`], but the other side is told that something is missing.
    SocketReset {
        handle: Handle,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Handle(Handle),
    Data(Data),
    NoData,
    Locked {
        handle: Handle,
        token: u64,
    },
    Stat(Stat),
    Entries {
        entries: Vec<Entry>,
        after: Option<u64>,
    },
    /// Whether these are all.
    Keys {
        keys: Vec<String>,
        is_last: bool,
    },
    Fetched {
        handle: Handle,
        status: u16,
        headers: Vec<Header>,
    },
    /// So many of the bytes.
    Written(u32),
    Addresses(Vec<IpAddr>),
    /// The places of those that can be used, in what was asked; none if the time is over.
    Ready(Vec<u32>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    Read,
    Edit,
    Create,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Data {
    Inline(Vec<u8>),
    /// So many bytes at the start of the window.
    Window(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    pub kind: Kind,
    pub size: u64,
    pub modified: u64,
    pub changed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// As in the WIT interface `types`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Error {
    #[error("not granted")]
    NotGranted,
    #[error("not found")]
    NotFound,
    #[error("exists already")]
    Exists,
    #[error("not a file")]
    NotAFile,
    #[error("not a directory")]
    NotADirectory,
    #[error("not empty")]
    NotEmpty,
    #[error("malformed")]
    Malformed,
    #[error("more than a limit allows")]
    TooLarge,
    #[error("no space left")]
    NoSpace,
    #[error("for reading only")]
    ReadOnly,
    #[error("refused by a policy")]
    Refused,
    #[error("locked")]
    Locked,
    #[error("the storage failed")]
    Failed,
    #[error("the address is not a public one")]
    PrivateAddress,
    #[error("the host cannot be reached")]
    Unreachable,
    #[error("it took too long")]
    TimedOut,
    #[error("the connection has ended")]
    Closed,
    #[error("the host takes no connections there")]
    Rejected,
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("a message of another version")]
    Version,
    #[error("a malformed message")]
    Malformed,
    #[error("a message that is too long")]
    TooLong,
}

pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, MessageError> {
    let bytes = postcard::to_extend(message, VERSION.to_le_bytes().to_vec());
    let bytes = bytes.map_err(|_| MessageError::Malformed)?;
    if bytes.len() > MESSAGE_BYTES_MAX { Err(MessageError::TooLong) } else { Ok(bytes) }
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MessageError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(MessageError::TooLong);
    }
    let (version, rest) = bytes.split_first_chunk().ok_or(MessageError::Malformed)?;
    if u16::from_le_bytes(*version) != VERSION {
        return Err(MessageError::Version);
    }
    match postcard::take_from_bytes(rest) {
        Ok((message, [])) => Ok(message),
        _ => Err(MessageError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_come_back() {
        let messages = [
            FromGuest::Ready { compiled_bytes: Some(7) },
            FromGuest::Request(Request::Write {
                handle: 3,
                offset: u64::MAX,
                data: Data::Inline(vec![1, 2, 3]),
            }),
            FromGuest::Handled(vec![Ok(()), Err(Failure::Said("no".to_owned())), Err(Failure::TimedOut)]),
        ];
        for message in messages {
            let bytes = encode(&message).expect("encoded");
            assert_eq!(decode::<FromGuest>(&bytes), Ok(message));
            for at in 0..bytes.len() {
                assert!(decode::<FromGuest>(&bytes[..at]).is_err(), "cut at {at}");
            }
            let longer = [bytes.as_slice(), &[0]].concat();
            assert_eq!(decode::<FromGuest>(&longer), Err(MessageError::Malformed));
            let other = [&[9, 9], &bytes[2..]].concat();
            assert_eq!(decode::<FromGuest>(&other), Err(MessageError::Version));
        }
    }

    #[test]
    fn long_messages_are_refused_on_both_sides() {
        let message = FromGuest::Unusable("x".repeat(MESSAGE_BYTES_MAX));
        assert_eq!(encode(&message), Err(MessageError::TooLong));
        assert_eq!(decode::<FromGuest>(&vec![0; MESSAGE_BYTES_MAX + 1]), Err(MessageError::TooLong));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [&VERSION.to_le_bytes()[..], &bytes].concat();
            let _ = decode::<FromGuest>(&bytes);
            let _ = decode::<ToGuest>(&bytes);
        }
    }
}
