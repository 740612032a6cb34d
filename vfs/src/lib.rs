//! The layer of files: names, inodes and POSIX rules on top of the engine's blocks, items and sectors.
//!
//! [`Fs`] has one method per POSIX operation and knows no transport; `fuse` (feature `fuse`) is a thin adapter
//! over it. [`Observer`] is how the layers above hear of changes. What is on disk is drawn in [`layout`].

mod acl;
pub mod control;
mod directory;
mod errno;
mod error;
pub mod events;
pub mod file_flags;
mod fs;
#[cfg(feature = "fuse")]
pub mod fuse;
mod history;
mod ids;
mod inode;
pub mod journal;
pub mod layout;
mod lock;
mod pace;
pub mod repair;
pub mod rotation;
mod stat;
mod tree_path;
mod xattr;

pub use error::{FsError, Result};
pub use events::{Event, Intent, Mask, Observer, Range, Verdict};
pub use fs::{
    Caller, DirectoryEntry, FallocateMode, Fs, MountOptions, NAME_UNIT, OpenFlags, RenameFlags,
    SetXattrFlags, Statfs, Whence, WriteFlags, parse_unit,
};
pub use history::{Past, PastChange};
pub use ids::{IdMap, IdRange, Ids};
pub use journal::{Actor, Entry, Name};
pub use layout::{FileFlags, FileKind, Time};
pub use lock::{CancelToken, Lock, LockKind, LockOwner, LockRange};
pub use stat::{SetAttributes, SetTime, Stat};
pub use tree_path::{OtherRoot, TreePath, TreePathError};

/// Names an inode: the id of its block. The root is [`Fs::ROOT`].
pub type Ino = blocktree_engine::format::BlockId;
