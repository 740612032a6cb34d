//! The layer of devices: the only way to a disk.
//!
//! [`Device`] is all that the engine sees. [`UringDevice`] is for speed, [`FileDevice`] for systems without
//! io_uring, [`MemoryDevice`] and [`FaultyDevice`] for tests; [`create_volume`] and [`open_volume`] find, make and lock what stands behind
//! a store's path and choose between the first two.
//!
//! Invariants:
//! 1. All I/O is in whole sectors, from and to [`SectorBuf`]s, which are aligned for O_DIRECT.
//! 2. A write that was started is owned by the device until it is complete.
//! 3. Nothing here retries a failed write or flush. (A request that the kernel gives back undone, with EINTR, EAGAIN
//!    or ECANCELED, did not fail; and what is left of a short one is submitted as a request of its own.)

use std::io;

mod arena;
mod buffer;
mod completion;
mod faulty;
mod file;
mod host;
mod host_cache;
mod memory;
mod uring;
mod volume;

pub use buffer::SectorBuf;
pub use completion::{Completion, Pending};
pub use faulty::{CrashPoint, Faults, FaultyDevice, Image, SplitMix64, Survivors};
pub use file::FileDevice;
pub use memory::MemoryDevice;
pub use uring::UringDevice;
pub use volume::{Access, NewVolume, VolumeError, create_volume, open_volume, peek_volume, try_volume};

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

impl Write {
    /// So many zeros.
    pub(crate) fn zeros(device: &dyn Device, sector: u64, sectors: u64) -> Self {
        let mut bytes = device.buffer(sectors as usize);
        bytes.fill(0);
        Self { sector, bytes }
    }
}

/// A disk, as the engine sees it. Calls come from many threads at once.
pub trait Device: Send + Sync {
    /// Its length.
    fn sectors(&self) -> u64;

    /// Reads a batch, all of it in flight at once; returns when it is complete.
    fn read(&self, reads: &mut [Read<'_>]) -> io::Result<()>;

    /// As [`Device::read`], but perhaps out of a cache of the host's: what it gives may be older than a write that was complete
    /// when it was called. For who can tell by a hash, and then calls [`Device::read`].
    fn read_cached(&self, reads: &mut [Read<'_>]) -> io::Result<()> {
        self.read(reads)
    }

    /// Starts a batch of writes and returns; the completion tells when all of them are done. Not durable before
    /// a [`Device::flush`] that was called after that.
    fn write(&self, writes: Vec<Write>) -> Completion;

    /// Makes all writes durable that were complete when it was called.
    fn flush(&self) -> io::Result<()>;

    /// Makes it at least this long. What is added reads as zeros.
    fn grow(&self, sectors: u64) -> io::Result<()>;

    /// How many sectors it may be grown by now, judged by the free space of what it stands on.
    fn room(&self) -> u64 {
        0
    }

    /// It likes long writes best that begin at a multiple of this many sectors, such as a stripe of a RAID or a record of the
    /// filesystem below.
    fn preferred_sectors(&self) -> u64 {
        1
    }

    /// Memory that this device reads and writes fastest. Its contents are undefined but initialised.
    fn buffer(&self, sectors: usize) -> SectorBuf {
        SectorBuf::heap(sectors)
    }
}

/// Why a range is refused that is not inside the device.
fn past_the_end() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "beyond the end of the device")
}
