//! The control channel of a mounted store: ioctls on an open descriptor of the mount's root directory.
//!
//! Key types: [`Command`] numbers the requests, the message structs are their payloads, [`Service`] is what a daemon
//! offers and [`answer`] decodes a request, calls it and encodes the reply. The other side, `blocktree info`,
//! `scrub`, `snapshot` and `umount`, fills the same structs. Neighbours: `fuse.rs` hands requests over, `capability.rs`
//! says what calls about capabilities are; nothing else in this crate knows about the channel.
//!
//! Invariants:
//! 1. A request's number encodes its size (`_IOWR('B', n, size)`), so the kernel copies exactly one struct in and one
//!    out; no message is longer than [`MESSAGE_BYTES_MAX`].
//! 2. Every message starts with [`VERSION`]; another version is refused, never guessed at.
//! 3. Requests come from any process that may open the root: nothing in them is trusted, no answer panics, and only
//!    root or the user that mounted changes anything, or is told names.

mod capability;

use std::sync::Arc;

pub use capability::{CAPABILITY_CALL_BYTES_MAX, CapabilityCall};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The version of these messages. Both sides are usually the same binary; after an upgrade they may not be.
pub const VERSION: u32 = 1;
/// What the kernel copies for one restricted ioctl without splitting pages.
pub const MESSAGE_BYTES_MAX: usize = 4096;
/// The longest name of a snapshot, in bytes.
pub const SNAPSHOT_NAME_BYTES_MAX: usize = 255;
/// Snapshots in one page of a listing.
pub const SNAPSHOTS_PER_PAGE: usize = 14;
/// Bytes of text in one chunk of a description.
pub const INFO_CHUNK_BYTES: usize = 4064;
/// Bytes of text in one chunk of a history, and of the path that is asked for.
pub const HISTORY_CHUNK_BYTES: usize = 4048;
/// Changes that one history lists at most.
pub const HISTORY_CHANGES_MAX: u32 = 1000;
/// Bytes of one chunk of a call.
pub const CALL_CHUNK_BYTES: usize = 4056;

/// Who answers: lets a caller find the daemon and see what it may ask.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Hello {
    pub version: u32,
    /// The daemon's process id, in its own pid namespace.
    pub process: u32,
    /// The user that mounted.
    pub owner: u32,
    pub reserved: u32,
}
const _: () = assert!(size_of::<Hello>() == 16);

/// A part of the description, which is JSON text.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InfoChunk {
    pub version: u32,
    /// Bytes of `text` that count.
    pub length: u32,
    /// Where in the text this chunk starts: set by the caller.
    pub offset: u64,
    /// The length of the text. If it differs between chunks, the text has changed: start again.
    pub total: u64,
    pub reserved: u64,
    pub text: [u8; INFO_CHUNK_BYTES],
}
const _: () = assert!(size_of::<InfoChunk>() == 4096);

/// A part of a history, which is JSON text.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HistoryChunk {
    pub version: u32,
    /// Bytes of `text` that count: in a request those of the path, from the root of the tree.
    pub length: u32,
    /// Where in the text this chunk starts: set by the caller.
    pub offset: u64,
    pub total: u64,
    /// Changes before this one, and how many: set by the caller.
    pub before: u64,
    pub limit: u32,
    /// 0 asks for a history as of now. The answer has a number with which the rest of it is asked for; if a later answer
    /// has another, the text was forgotten meanwhile: start again.
    pub stamp: u32,
    pub reserved: u64,
    pub text: [u8; HISTORY_CHUNK_BYTES],
}
const _: () = assert!(size_of::<HistoryChunk>() == 4096);

/// How far a scrub is.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ScrubStatus {
    pub version: u32,
    /// One of the `SCRUB_` constants.
    pub state: u32,
    /// In sectors.
    pub done: u64,
    pub total: u64,
    pub damaged: u64,
    pub repaired: u64,
}
const _: () = assert!(size_of::<ScrubStatus>() == 40);

/// No scrub was started since the store was mounted.
pub const SCRUB_NEVER: u32 = 0;
pub const SCRUB_RUNS: u32 = 1;
pub const SCRUB_COMPLETE: u32 = 2;
pub const SCRUB_STOPPED: u32 = 3;
pub const SCRUB_FAILED: u32 = 4;

/// The name of a snapshot, to make or to delete.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotName {
    pub version: u32,
    pub length: u32,
    pub name: [u8; SNAPSHOT_NAME_BYTES_MAX + 1],
}
const _: () = assert!(size_of::<SnapshotName>() == 264);

/// One snapshot of a listing.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotEntry {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    pub seq: u64,
    pub length: u32,
    pub reserved: u32,
    pub name: [u8; SNAPSHOT_NAME_BYTES_MAX + 1],
}
const _: () = assert!(size_of::<SnapshotEntry>() == 280);

/// A page of the list of snapshots.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotPage {
    pub version: u32,
    /// How many `entries` count.
    pub count: u32,
    /// The index of the first entry: set by the caller.
    pub from: u64,
    /// Snapshots in all.
    pub total: u64,
    pub entries: [SnapshotEntry; SNAPSHOTS_PER_PAGE],
}
const _: () = assert!(size_of::<SnapshotPage>() == 3944);

/// A part of a call of arbitrary length, or of its answer; what they mean is between the command and what the daemon
/// runs. First all of the call is sent, then the answer is fetched.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CallChunk {
    pub version: u32,
    /// [`CALL_SEND`] or [`CALL_FETCH`].
    pub direction: u32,
    /// Bytes of `bytes` that count.
    pub length: u32,
    pub reserved: u32,
    /// Chosen by the caller, at random: tells calls apart that are under way at the same time.
    pub id: u64,
    /// Where in the call or in the answer this chunk starts.
    pub offset: u64,
    /// The length of the call, set by the caller; of the answer, set by the daemon: [`CALL_NOT_READY`] until there is
    /// one.
    pub total: u64,
    pub bytes: [u8; CALL_CHUNK_BYTES],
}
const _: () = assert!(size_of::<CallChunk>() == 4096);

pub const CALL_SEND: u32 = 0;
pub const CALL_FETCH: u32 = 1;
pub const CALL_NOT_READY: u64 = u64::MAX;

impl CallChunk {
    /// Of `all`, what goes into the chunk at `offset`.
    pub fn new(direction: u32, id: u64, offset: u64, all: &[u8]) -> Self {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(all.len());
        let part = &all[start..];
        let part = &part[..part.len().min(CALL_CHUNK_BYTES)];
        let mut bytes = [0; CALL_CHUNK_BYTES];
        bytes[..part.len()].copy_from_slice(part);
        let (length, total) = (part.len() as u32, all.len() as u64);
        Self { version: VERSION, direction, length, reserved: 0, id, offset, total, bytes }
    }

    /// The bytes that it carries.
    pub fn part(&self) -> &[u8] {
        self.bytes.get(..self.length as usize).unwrap_or(&[])
    }
}

/// A request or a reply without contents.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Plain {
    pub version: u32,
    pub reserved: u32,
}
const _: () = assert!(size_of::<Plain>() == 8);

impl Default for Plain {
    fn default() -> Self {
        Self { version: VERSION, reserved: 0 }
    }
}

impl Default for Hello {
    fn default() -> Self {
        Self { version: VERSION, process: 0, owner: 0, reserved: 0 }
    }
}

impl Default for ScrubStatus {
    fn default() -> Self {
        Self { version: VERSION, state: SCRUB_NEVER, done: 0, total: 0, damaged: 0, repaired: 0 }
    }
}

impl InfoChunk {
    /// Asks for the text from `offset` on.
    pub fn request(offset: u64) -> Self {
        Self { version: VERSION, length: 0, offset, total: 0, reserved: 0, text: [0; INFO_CHUNK_BYTES] }
    }

    /// The part of the text that it carries.
    pub fn text(&self) -> &[u8] {
        self.text.get(..self.length as usize).unwrap_or(&[])
    }
}

impl HistoryChunk {
    /// Asks for the history of a path. `None` if the path is too long.
    pub fn request(path: &[u8], before: u64, limit: u32) -> Option<Self> {
        let mut text = [0; HISTORY_CHUNK_BYTES];
        text.get_mut(..path.len())?.copy_from_slice(path);
        let (length, limit) = (path.len() as u32, limit.min(HISTORY_CHANGES_MAX));
        Some(Self {
            version: VERSION,
            length,
            offset: 0,
            total: 0,
            before,
            limit,
            stamp: 0,
            reserved: 0,
            text,
        })
    }

    /// The part of the text that it carries.
    pub fn text(&self) -> &[u8] {
        self.text.get(..self.length as usize).unwrap_or(&[])
    }
}

impl SnapshotName {
    /// `None` if the name is empty or too long.
    pub fn new(name: &str) -> Option<Self> {
        let (length, name) = pack(name)?;
        Some(Self { version: VERSION, length, name })
    }

    /// `None` if it is malformed.
    pub fn name(&self) -> Option<&str> {
        unpack(self.length, &self.name)
    }
}

impl SnapshotEntry {
    /// `None` if the name is empty or too long.
    pub fn new(name: &str, time_ns: u64, seq: u64) -> Option<Self> {
        let (length, name) = pack(name)?;
        Some(Self { time_ns, seq, length, reserved: 0, name })
    }

    /// `None` if it is malformed.
    pub fn name(&self) -> Option<&str> {
        unpack(self.length, &self.name)
    }

    const EMPTY: Self =
        Self { time_ns: 0, seq: 0, length: 0, reserved: 0, name: [0; SNAPSHOT_NAME_BYTES_MAX + 1] };
}

impl SnapshotPage {
    /// Asks for the entries from `from` on.
    pub fn request(from: u64) -> Self {
        Self {
            version: VERSION,
            count: 0,
            from,
            total: 0,
            entries: [SnapshotEntry::EMPTY; SNAPSHOTS_PER_PAGE],
        }
    }

    /// The entries that it carries.
    pub fn entries(&self) -> &[SnapshotEntry] {
        self.entries.get(..self.count as usize).unwrap_or(&[])
    }
}

fn pack(name: &str) -> Option<(u32, [u8; SNAPSHOT_NAME_BYTES_MAX + 1])> {
    if name.is_empty() {
        return None;
    }
    let mut bytes = [0; SNAPSHOT_NAME_BYTES_MAX + 1];
    bytes[..SNAPSHOT_NAME_BYTES_MAX].get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    Some((name.len() as u32, bytes))
}

fn unpack(length: u32, bytes: &[u8; SNAPSHOT_NAME_BYTES_MAX + 1]) -> Option<&str> {
    let bytes = bytes[..SNAPSHOT_NAME_BYTES_MAX].get(..length as usize)?;
    std::str::from_utf8(bytes).ok().filter(|name| !name.is_empty() && !name.contains('\0'))
}

/// A request, and with it the struct that it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Hello,
    Info,
    ScrubStart,
    ScrubStatus,
    ScrubStop,
    SnapshotCreate,
    SnapshotList,
    SnapshotDelete,
    Sync,
    History,
    Call,
    Capability,
}

/// Who is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callee {
    Apps,
    /// A call is a [`CapabilityCall`].
    Capabilities,
}

impl Command {
    pub const ALL: [Self; 12] = [
        Self::Hello,
        Self::Info,
        Self::ScrubStart,
        Self::ScrubStatus,
        Self::ScrubStop,
        Self::SnapshotCreate,
        Self::SnapshotList,
        Self::SnapshotDelete,
        Self::Sync,
        Self::History,
        Self::Call,
        Self::Capability,
    ];

    /// The bytes of its message.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Hello => size_of::<Hello>(),
            Self::Info => size_of::<InfoChunk>(),
            Self::History => size_of::<HistoryChunk>(),
            Self::ScrubStatus => size_of::<ScrubStatus>(),
            Self::SnapshotCreate | Self::SnapshotDelete => size_of::<SnapshotName>(),
            Self::SnapshotList => size_of::<SnapshotPage>(),
            Self::Call | Self::Capability => size_of::<CallChunk>(),
            Self::ScrubStart | Self::ScrubStop | Self::Sync => size_of::<Plain>(),
        }
    }

    /// The ioctl number: `_IOWR('B', n, bytes)` of `<asm-generic/ioctl.h>`.
    pub const fn number(self) -> u32 {
        const READ_AND_WRITE: u32 = 3;
        (READ_AND_WRITE << 30) | ((self.bytes() as u32) << 16) | ((b'B' as u32) << 8) | self as u32
    }

    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|command| command.number() == number)
    }

    /// Whether only root and the user that mounted may ask for it.
    const fn is_private(self) -> bool {
        match self {
            Self::ScrubStart | Self::ScrubStop | Self::SnapshotCreate | Self::SnapshotDelete => true,
            Self::Call | Self::Capability => true,
            // It has names out of directories that not everybody may read.
            Self::History => true,
            Self::Hello | Self::Info | Self::ScrubStatus | Self::SnapshotList | Self::Sync => false,
        }
    }
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no such request")]
    Unknown,
    #[error("the daemon speaks another version of the control channel")]
    Version,
    #[error("the request is malformed")]
    Malformed,
    #[error("only root and the user that mounted may do this")]
    NotPermitted,
    #[error("there is one already")]
    Exists,
    #[error("there is none of that name")]
    NotFound,
    #[error("the store is open for reading only")]
    ReadOnly,
    #[error("no space is left in the store")]
    NoSpace,
    #[error("the store failed to do it")]
    Failed,
}

/// What the daemon of a mounted store offers.
pub trait Service: Send + Sync {
    /// What `blocktree info` shows, as JSON.
    fn info(&self) -> String;
    /// Returns once everything is durable.
    fn sync(&self) -> Result<(), Refusal>;
    /// Starts a scrub and returns at once.
    fn scrub_start(&self) -> Result<(), Refusal>;
    fn scrub_status(&self) -> ScrubStatus;
    fn scrub_stop(&self);
    fn snapshot_create(&self, name: &str) -> Result<(), Refusal>;
    fn snapshot_list(&self) -> Result<Vec<SnapshotEntry>, Refusal>;
    fn snapshot_delete(&self, name: &str) -> Result<(), Refusal>;
    /// What `blocktree log` shows of a path, as JSON, and its stamp. With one that is not 0, what had that stamp, if it is
    /// still known.
    fn history(&self, path: &[u8], before: u64, limit: u32, stamp: u32) -> Result<(u32, Arc<str>), Refusal>;
    /// Takes a part of a call, or gives one of its answer; returns at once.
    fn call(&self, callee: Callee, user: u32, chunk: &CallChunk) -> Result<CallChunk, Refusal>;
}

/// Who asks, and who mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub user: u32,
    pub owner: u32,
}

/// Answers one request.
pub fn answer(service: &dyn Service, caller: Caller, number: u32, input: &[u8]) -> Result<Vec<u8>, Refusal> {
    let command = Command::from_number(number).ok_or(Refusal::Unknown)?;
    let input = input.get(..command.bytes()).ok_or(Refusal::Malformed)?;
    let (version, _) = u32::read_from_prefix(input).map_err(|_| Refusal::Malformed)?;
    if version != VERSION {
        return Err(Refusal::Version);
    }
    if command.is_private() && caller.user != 0 && caller.user != caller.owner {
        return Err(Refusal::NotPermitted);
    }
    let plain = || Plain::default().as_bytes().to_vec();
    match command {
        Command::Hello => {
            let hello = Hello { process: std::process::id(), owner: caller.owner, ..Hello::default() };
            Ok(hello.as_bytes().to_vec())
        }
        Command::Info => {
            let request = InfoChunk::read_from_bytes(input).map_err(|_| Refusal::Malformed)?;
            Ok(info_chunk(&service.info(), request.offset).as_bytes().to_vec())
        }
        Command::ScrubStart => service.scrub_start().map(|()| plain()),
        Command::ScrubStatus => {
            Ok(ScrubStatus { version: VERSION, ..service.scrub_status() }.as_bytes().to_vec())
        }
        Command::ScrubStop => {
            service.scrub_stop();
            Ok(plain())
        }
        Command::SnapshotCreate | Command::SnapshotDelete => {
            let request = SnapshotName::read_from_bytes(input).map_err(|_| Refusal::Malformed)?;
            let name = request.name().ok_or(Refusal::Malformed)?;
            if command == Command::SnapshotCreate {
                service.snapshot_create(name)?;
            } else {
                service.snapshot_delete(name)?;
            }
            Ok(request.as_bytes().to_vec())
        }
        Command::SnapshotList => {
            let request = SnapshotPage::read_from_bytes(input).map_err(|_| Refusal::Malformed)?;
            Ok(snapshot_page(&service.snapshot_list()?, request.from).as_bytes().to_vec())
        }
        Command::Sync => service.sync().map(|()| plain()),
        Command::History => {
            let request = HistoryChunk::read_from_bytes(input).map_err(|_| Refusal::Malformed)?;
            let path = request.text.get(..request.length as usize).ok_or(Refusal::Malformed)?;
            if path.contains(&0) || request.limit == 0 || request.limit > HISTORY_CHANGES_MAX {
                return Err(Refusal::Malformed);
            }
            let (stamp, text) = service.history(path, request.before, request.limit, request.stamp)?;
            Ok(history_chunk(&request, stamp, &text).as_bytes().to_vec())
        }
        Command::Call | Command::Capability => {
            let callee = if command == Command::Call { Callee::Apps } else { Callee::Capabilities };
            let chunk = CallChunk::read_from_bytes(input).map_err(|_| Refusal::Malformed)?;
            Ok(service.call(callee, caller.user, &chunk)?.as_bytes().to_vec())
        }
    }
}

fn info_chunk(text: &str, offset: u64) -> InfoChunk {
    let mut chunk = InfoChunk::request(offset);
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
    let part = &text.as_bytes()[start..];
    let part = &part[..part.len().min(INFO_CHUNK_BYTES)];
    chunk.text[..part.len()].copy_from_slice(part);
    chunk.length = part.len() as u32;
    chunk.total = text.len() as u64;
    chunk
}

fn history_chunk(request: &HistoryChunk, stamp: u32, text: &str) -> HistoryChunk {
    let start = usize::try_from(request.offset).unwrap_or(usize::MAX).min(text.len());
    let part = &text.as_bytes()[start..];
    let part = &part[..part.len().min(HISTORY_CHUNK_BYTES)];
    let mut chunk = HistoryChunk { stamp, text: [0; HISTORY_CHUNK_BYTES], ..*request };
    chunk.text[..part.len()].copy_from_slice(part);
    (chunk.length, chunk.total) = (part.len() as u32, text.len() as u64);
    chunk
}

fn snapshot_page(snapshots: &[SnapshotEntry], from: u64) -> SnapshotPage {
    let mut page = SnapshotPage::request(from);
    let start = usize::try_from(from).unwrap_or(usize::MAX).min(snapshots.len());
    let part = &snapshots[start..];
    let part = &part[..part.len().min(SNAPSHOTS_PER_PAGE)];
    page.entries[..part.len()].copy_from_slice(part);
    page.count = part.len() as u32;
    page.total = snapshots.len() as u64;
    page
}

#[cfg(test)]
mod tests;
