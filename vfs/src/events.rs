//! How the layers above hook filesystem events: the [`Observer`] seam.
//!
//! Key types: [`Observer`], [`Intent`] (before), [`Event`] (after), [`Mask`].
//!
//! 1. Without observers an operation pays one relaxed atomic load.
//! 2. `after` is called in the order in which changes became visible, which is the order in which they become
//!    durable, on a thread of the observer's own.
//! 3. The queue holds the newest [`EVENTS_MAX`] events. An observer that falls further behind misses the oldest
//!    ones and gets one [`Event::Overflow`] in their place: it must look at everything again.
//! 4. Events carry ids and ranges, never names or data.

pub use blocktree_engine::Seq;

use crate::Ino;

/// Events that the queue holds.
pub const EVENTS_MAX: usize = 16 << 10;

/// Which events an observer wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mask(pub u32);

impl Mask {
    pub const NONE: Self = Self(0);
    /// New names: create, mkdir, mknod, symlink, link.
    pub const LINK: Self = Self(1);
    /// Names that end: unlink, rmdir.
    pub const UNLINK: Self = Self(2);
    pub const RENAME: Self = Self(4);
    /// Bytes: write, truncate, fallocate, copy.
    pub const DATA: Self = Self(8);
    /// Mode, owner, times, extended attributes.
    pub const ATTRIBUTES: Self = Self(16);
    pub const ALL: Self = Self(31);

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A range of a file's bytes; `end` is `u64::MAX` for "to the end".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub end: u64,
}

/// What is about to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent<'a> {
    /// A new name; `ino` is `None` if the inode is new too.
    Link {
        parent: Ino,
        name: &'a [u8],
        ino: Option<Ino>,
    },
    Unlink {
        parent: Ino,
        name: &'a [u8],
    },
    Rename {
        parent: Ino,
        name: &'a [u8],
        new_parent: Ino,
        new_name: &'a [u8],
    },
    Data {
        ino: Ino,
        range: Range,
    },
    Attributes {
        ino: Ino,
    },
}

/// An observer's answer to an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    /// The operation fails with EACCES.
    Refuse,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Linked {
        parent: Ino,
        ino: Ino,
    },
    Unlinked {
        parent: Ino,
        ino: Ino,
    },
    /// `replaced` lost its name `parent` → `new_parent`; with `exchanged` it got the other one's.
    Renamed {
        parent: Ino,
        new_parent: Ino,
        ino: Ino,
        replaced: Option<Ino>,
        exchanged: bool,
    },
    Data {
        ino: Ino,
        range: Range,
    },
    Attributes {
        ino: Ino,
    },
    /// Events are missing here: look at everything again.
    Overflow,
}

/// The answer to [`crate::Fs::events_since`].
pub type Events = Vec<(Seq, Event)>;

/// Someone who wants to know, and may object.
pub trait Observer: Send + Sync {
    /// What it wants to hear of; asked once.
    fn mask(&self) -> Mask;
    /// Called before a change, on the caller's thread, with no lock held; must not block or call back.
    fn before(&self, intent: &Intent<'_>) -> Verdict;
    /// Called after a change, in commit order.
    fn after(&self, seq: Seq, event: &Event);
}
