//! The layer of devices: the only way to a disk.
//!
//! [`Device`] is all that the engine sees. [`uring`] is for speed, [`file`] for systems without io_uring,
//! [`memory`] for tests; [`volume`] finds, makes, locks and grows what stands behind a store's path.
//!
//! Invariants:
//! 1. All I/O is in whole sectors, from and to [`SectorBuf`]s, which are aligned for O_DIRECT.
//! 2. A write that was started is owned by the device until it is complete.
//! 3. Nothing here retries a failed write or flush.

use std::io;

mod buffer;
mod completion;

pub use buffer::SectorBuf;
pub use completion::Completion;

/// One read of a batch: `bytes` is whole sectors, filled from `sector` on.
pub struct Read<'a> {
    pub sector: u64,
    pub bytes: &'a mut SectorBuf,
}

/// One write of a batch.
pub struct Write {
    pub sector: u64,
    pub bytes: SectorBuf,
}

/// A disk, as the engine sees it. Calls come from many threads at once.
pub trait Device: Send + Sync {
    /// Its length.
    fn sectors(&self) -> u64;

    /// Reads a batch, all of it in flight at once; returns when it is complete.
    fn read(&self, reads: &mut [Read<'_>]) -> io::Result<()>;

    /// Starts a batch of writes and returns; the completion tells when all of them are done. Not durable before
    /// a [`Device::flush`] that was called after that.
    fn write(&self, writes: Vec<Write>) -> Completion;

    /// Makes all writes durable that were complete when it was called.
    fn flush(&self) -> io::Result<()>;

    /// Makes it at least this long. What is added reads as zeros.
    fn grow(&self, sectors: u64) -> io::Result<()>;

    /// Memory that this device reads and writes fastest. Its contents are undefined but initialised.
    fn buffer(&self, sectors: usize) -> SectorBuf {
        SectorBuf::heap(sectors)
    }
}
