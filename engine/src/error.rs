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
    /// A value is longer than an item may be.
    #[error("a value is too long for the index")]
    TooLong,
}

pub type Result<T> = std::result::Result<T, Error>;
