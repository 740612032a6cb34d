//! What can go wrong while a store is in use.

use std::io;

/// Why an operation of the engine failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the disk holds is not what was written there.
    #[error("corrupt: {what} at sector {sector}")]
    Corrupt { what: &'static str, sector: u64 },
    /// The device failed to read.
    #[error("cannot read the volume")]
    Read(#[source] io::Error),
    /// A write or flush failed before: the store takes no more changes until it is opened anew.
    #[error("the store takes no more changes since a write to it failed")]
    Poisoned,
    /// The store was opened for reading only.
    #[error("the store is open for reading only")]
    ReadOnly,
    /// No space is left for this.
    #[error("no space left in the store")]
    NoSpace,
    /// Who opened the store has no key for this.
    #[error("the key for this is not among those of whoever opened the store")]
    NoKey,
    /// Who opened the store may write a part of it, and this is elsewhere.
    #[error("this is outside of what whoever opened the store may write")]
    Outside,
    /// Only a node of the owner empties the log.
    #[error(
        "the log is full, and only a node of the store's owner can empty it: it has to mount the store once"
    )]
    LogFull,
    /// Only a node of the owner can do this.
    #[error("only a node of the store's owner can do this")]
    OwnersOnly,
    /// The writecap of who opened the store holds no longer.
    #[error("the writecap of whoever opened the store has expired")]
    Expired,
    /// All access slots are taken.
    #[error("all access slots of the store are taken")]
    NoAccessSlot,
    /// Nothing can be sealed to this public key.
    #[error("nothing can be sealed to this public key")]
    BadPublicKey,
    /// A value is longer than an item may be.
    #[error("a value is too long for the index")]
    TooLong,
}

pub type Result<T> = std::result::Result<T, Error>;
