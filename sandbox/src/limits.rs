//! Every bound of this crate: what a package, a message, an app and a node may grow to.

use std::time::Duration;

/// A package, with everything in it.
pub const PACKAGE_BYTES_MAX: usize = 64 << 20;
pub const MANIFEST_BYTES_MAX: usize = 256 << 10;
pub const PACKAGE_FILES_MAX: usize = 1024;
/// An app's name, a grant's, a timer's.
pub const NAME_BYTES_MAX: usize = 64;
/// A reason, a summary.
pub const TEXT_BYTES_MAX: usize = 1024;
pub const GRANTS_MAX: usize = 16;
pub const TRIGGERS_MAX: usize = 32;
pub const GLOB_BYTES_MAX: usize = 256;

/// A message between node and sandbox. The kernel keeps messages apart, and refuses longer ones.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Data up to this stands in the message itself; more goes through the window.
pub const INLINE_BYTES_MAX: usize = 32 << 10;
/// The most data of one request.
pub const DATA_BYTES_MAX: usize = 1 << 20;
/// What is read ahead of a file that an app reads from one end to the other, each as long as a request's data, and by how
/// many threads. Those that have nothing to read until the app takes what they have read leave the disk idle.
pub const AHEAD_PIECES: usize = 12;
pub const AHEAD_THREADS: usize = 8;
const _: () = assert!(3 * AHEAD_THREADS <= 2 * AHEAD_PIECES);
/// The memory that node and sandbox share: it takes a package or what it was compiled to.
pub const WINDOW_BYTES: usize = 256 << 20;
const _: () = assert!(PACKAGE_BYTES_MAX <= WINDOW_BYTES && DATA_BYTES_MAX <= WINDOW_BYTES);
const _: () = assert!(2 * INLINE_BYTES_MAX <= MESSAGE_BYTES_MAX);

pub const PATH_BYTES_MAX: usize = 4096;
pub const PATH_PARTS_MAX: usize = 128;
/// Files that an app has open at once.
pub const HANDLES_MAX: usize = 64;
/// Locks that an app has at once.
pub const LOCKS_MAX: usize = 64;
/// Entries of one page of a directory.
pub const ENTRIES_PER_PAGE: usize = 100;
const _: () = assert!(ENTRIES_PER_PAGE * (255 + 16) <= INLINE_BYTES_MAX);

pub const KEY_BYTES_MAX: usize = 120;
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Keys of one app.
pub const KEYS_MAX: usize = 65_536;
/// Keys in one answer.
pub const KEYS_PER_PAGE: usize = 200;
const _: () = assert!(KEYS_PER_PAGE * (KEY_BYTES_MAX + 4) <= INLINE_BYTES_MAX);

/// A line of an app's log.
pub const LOG_LINE_BYTES_MAX: usize = 2048;
/// An app's log; the older half goes when it is full.
pub const LOG_BYTES_MAX: usize = 256 << 10;
/// Lines that an app may write while it handles the events of one message.
pub const LOG_LINES_PER_CALL_MAX: u32 = 1000;

/// Events that one message carries.
pub const EVENTS_PER_CALL: usize = 64;
/// How often an event is handed over before it is given up.
pub const ATTEMPTS_MAX: u32 = 4;
/// Events that an app could not handle, kept to be looked at; the oldest go first.
pub const DEAD_LETTERS_MAX: usize = 100;

/// What an app has unless its manifest asks for less or more.
pub const MEMORY_MIB: u32 = 256;
pub const MEMORY_MIB_MAX: u32 = 1024;
/// How long it may take for one event.
pub const SECONDS: u32 = 30;
pub const SECONDS_MAX: u32 = 600;

/// A process that had nothing to do for so long ends; the next event starts it again.
pub const IDLE_TIME: Duration = Duration::from_secs(60);

/// How long an operation waits for an app that may refuse it.
pub const POLICY_TIME: Duration = Duration::from_secs(1);
/// An app that gave no answer is not asked again for so long.
pub const POLICY_PAUSE: Duration = Duration::from_secs(5);
/// Operations that wait for one app.
pub const POLICY_WAITING_MAX: usize = 64;
/// Entries of directories that are looked at to find all names of a file.
pub const POLICY_SEARCH_ENTRIES_MAX: usize = 100_000;

/// Connections to the node's HTTP address.
pub const HTTP_CONNECTIONS_MAX: usize = 128;
/// Requests that wait for one app.
pub const HTTP_WAITING_MAX: usize = 32;
/// The head of a request or of an answer.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 << 10;
pub const HTTP_HEADERS_MAX: usize = 64;
const _: () = assert!(2 * HTTP_HEAD_BYTES_MAX <= INLINE_BYTES_MAX);
/// How long a client may take for the head of a request, and how long a connection may have nothing to do.
pub const HTTP_HEAD_TIME: Duration = Duration::from_secs(5);
/// How long a client may take for the part of a body that is waited for before the app is called.
pub const HTTP_BODY_TIME: Duration = Duration::from_secs(10);
/// That part.
pub const HTTP_BODY_AHEAD_BYTES: usize = 1 << 20;
pub const HTTP_BODY_BYTES_MAX: u64 = 64 << 20;
/// How long an app waits for its client, for a whole exchange.
pub const HTTP_PATIENCE: Duration = Duration::from_secs(10);
/// How long a request waits for its turn and for the head of its answer.
pub const HTTP_ANSWER_TIME: Duration = Duration::from_secs(60);

/// A message to another app.
pub const LETTER_BYTES_MAX: usize = 16 << 10;
const _: () = assert!(LETTER_BYTES_MAX <= INLINE_BYTES_MAX);
/// Messages that wait for one app.
pub const LETTERS_MAX: usize = 1000;
/// As much of a message that was not handled is kept.
pub const DEAD_LETTER_BYTES_MAX: usize = 256;
/// Apps that a manifest asks to send messages to.
pub const SENDS_MAX: usize = 32;

/// Addresses that a manifest asks to open connections to, and connections that an app has open at once.
pub const SOCKETS_MAX: usize = 32;
pub const CONNECTIONS_MAX: usize = 16;
/// How long an app waits on a connection at once, and how long what it wrote is still sent once it has closed it.
pub const CONNECTION_PATIENCE: Duration = Duration::from_secs(10);
/// For a connection to another host, its name's look-up included.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Addresses that an app is told of one name.
pub const ADDRESSES_MAX: usize = 32;

/// Hosts that a manifest asks for.
pub const HOSTS_MAX: usize = 32;
pub const HOST_BYTES_MAX: usize = 253 + 6;
pub const URL_BYTES_MAX: usize = 8 << 10;
/// Answers of other hosts that an app reads at once.
pub const FETCHES_MAX: usize = 8;
/// For a request to another host, to the last byte of its answer.
pub const FETCH_TIME: Duration = Duration::from_secs(60);
pub const FETCH_BYTES_MAX: u64 = 256 << 20;
