//! The layer of anchors: a memory outside the store that knows how far the store had come.
//!
//! A signature cannot show that an old image is old. Whoever holds the disk can put back yesterday's copy, and all of
//! it verifies. An [`Anchor`] remembers a head, and a store that does not contain it is refused. [`FileAnchor`] keeps
//! it in a file on the machine that mounts; a [`CountedAnchor`] binds such a file to a counter that nobody can set back.
//!
//! Invariants:
//! 1. An anchor is told of a head only after the superblock that names it is durable: no crash makes it know more than
//!    the disk. Who may write only a part of a store writes no superblock: there it is told of a durable record.
//! 2. What an anchor may have been told stands in every later superblock, so its head is found however far the store
//!    has gone on since; but for those records: see [`Anchored::is_named`], and "Anchors" in `docs/FORMAT.md`.
//! 3. An anchor also knows to which root principal the store belongs. That never changes: a store of the same id that
//!    belongs to another is refused, whatever is to be accepted.

mod counted;
mod file;

use std::fmt;
use std::io;

use crate::crypto::{Hash, PrincipalId};

pub use counted::{CountedAnchor, CountedFile, Counter, CounterPlace};
pub use file::FileAnchor;

/// The last record of a checkpoint. Its hash covers every record before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub seq: u64,
    pub hash: Hash,
}

/// Set in the first byte of an anchor's id together with a head that no superblock was asked to name.
const UNNAMED: u8 = 0x80;

/// What an anchor remembers of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchored {
    pub store_id: [u8; 16],
    /// Tells this anchor from those of other machines; random, from when it first remembered this store. And whether its head is named.
    pub id: [u8; 8],
    pub head: Head,
    /// To whom the store belongs; `None` where that was not remembered.
    pub root: Option<PrincipalId>,
}

impl Anchored {
    /// Whether superblocks name the head. If not, and once the log has gone on without it, all that can be told is that the store has
    /// come further.
    pub fn is_named(&self) -> bool {
        self.id[0] & UNNAMED == 0
    }
}

/// The id as it is with a head that superblocks name.
pub(crate) fn named_id(mut id: [u8; 8]) -> [u8; 8] {
    id[0] &= !UNNAMED;
    id
}

/// As [`named_id`], with a head that no superblock names.
pub(crate) fn unnamed_id(mut id: [u8; 8]) -> [u8; 8] {
    id[0] |= UNNAMED;
    id
}

/// A memory that whoever can write the disk cannot write.
pub trait Anchor: fmt::Debug + Send + Sync {
    /// Where it is, for people.
    fn place(&self, store_id: &[u8; 16]) -> String;

    /// What it remembers of this store; `None` where it never heard of it.
    fn read(&self, store_id: &[u8; 16]) -> Result<Option<Anchored>, AnchorError>;

    /// Remembers this in place of what it knew. Durable when it returns, and never in between.
    fn write(&self, anchored: &Anchored) -> Result<(), AnchorError>;

    /// The store is closed: no other head follows for now. What was put off is done before this returns.
    fn finish(&self) -> Result<(), AnchorError> {
        Ok(())
    }
}

/// Why an anchor does not answer.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    #[error("cannot read it")]
    Read(#[source] io::Error),
    #[error("cannot write it")]
    Write(#[source] io::Error),
    #[error("it is damaged ({0})")]
    Damaged(&'static str),
    #[error("there is none yet, or it was taken away")]
    Missing,
    #[error(
        "it is an older copy of itself, with which an older copy of the store may have come: it is for the value {file} of \
         its counter, which is at {counter}"
    )]
    Older { file: u64, counter: u64 },
    #[error("it is for the value {file} of its counter, which is at {counter}: that is another counter")]
    SetBack { file: u64, counter: u64 },
    #[error("its counter does not answer: {0}")]
    Counter(String),
}

/// The store on the disk is not what the anchor remembers, nor what became of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rollback {
    #[error("it is older than it was here: it ends at change {found}, and had {anchored} changes")]
    Older { found: u64, anchored: u64 },
    #[error(
        "it has gone another way since change {seq} or before: it does not contain what it contained here"
    )]
    Forked { seq: u64 },
}

/// How an open store and its anchor stand to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnchorStatus {
    /// Where the anchor is, for people.
    pub place: String,
    /// The change that it knows of; `None` where it was never told.
    pub seq: Option<u64>,
    /// It knew nothing of this store when that was opened: its age was believed.
    pub first_use: bool,
    /// What was accepted when the store was opened, in spite of the anchor.
    pub accepted: Option<String>,
    /// Why it could not be told; it is not told any more then.
    pub failure: Option<String>,
}
