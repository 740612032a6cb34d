//! The file or block device of the host that a device stands on: its length, its growth and its lock.
//!
//! Invariants:
//! 1. `sectors` never says more than what the file was long when last asked; only [`HostFile::grow`] changes it.
//! 2. The lock is an open file of its own, which io_uring never sees: the kernel takes rings down in the background,
//!    and until then they would hold the lock of a device that is closed already.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::host_cache::HostCache;
use super::{Read, past_the_end};
use crate::limits::{REQUEST_BYTES_MAX, SECTOR_BYTES};

pub(super) struct HostFile {
    file: File,
    cache: Option<HostCache>,
    is_block_device: bool,
    is_writable: bool,
    preferred_sectors: u64,
    sectors: AtomicU64,
    growing: Mutex<()>,
    _lock: Option<Lock>,
}

/// Holds a locked file until the device is dropped.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // To close the file is not enough: a child process that another thread starts at this moment has it open
        // too, until it executes its program.
        let _ = self.0.unlock();
    }
}

impl HostFile {
    pub(super) fn new(file: File) -> io::Result<Self> {
        Self::with_lock(file, None)
    }

    /// `lock` is a file whose lock is given up when this is dropped.
    pub(super) fn with_lock(file: File, lock: Option<File>) -> io::Result<Self> {
        let is_block_device = file.metadata()?.file_type().is_block_device();
        let sectors = AtomicU64::new(length_sectors(&file)?);
        let is_writable = is_writable(&file)?;
        let preferred_sectors = preferred_sectors(&file, is_block_device);
        let cache = HostCache::beside(&file, is_block_device);
        Ok(Self {
            file,
            cache,
            is_block_device,
            is_writable,
            preferred_sectors,
            sectors,
            growing: Mutex::new(()),
            _lock: lock.map(Lock),
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Acquire)
    }

    /// Checks that a range may be read and gives its place in bytes.
    pub(super) fn check_read(&self, sector: u64, sectors: usize) -> io::Result<u64> {
        self.check_range(sector, sectors).or_else(|error| {
            // Whoever only reads may share the file with a writer that lengthens it.
            if self.is_writable {
                return Err(error);
            }
            self.sectors.fetch_max(length_sectors(&self.file)?, Ordering::AcqRel);
            self.check_range(sector, sectors)
        })
    }

    /// Whether it could read a batch through the host's cache: small ones are worth it.
    pub(super) fn read_cached(&self, reads: &mut [Read<'_>]) -> bool {
        let Some(cache) = &self.cache else { return false };
        reads.iter().all(|read| self.check_read(read.sector, read.bytes.sectors()).is_ok())
            && cache.read(reads)
    }

    /// Checks that a range may be written and gives its place in bytes.
    pub(super) fn check_write(&self, sector: u64, sectors: usize) -> io::Result<u64> {
        self.check_writable()?;
        self.check_range(sector, sectors)
    }

    fn check_range(&self, sector: u64, sectors: usize) -> io::Result<u64> {
        match sector.checked_add(sectors as u64) {
            Some(end) if end <= self.sectors() => Ok(sector * SECTOR_BYTES as u64),
            _ => Err(past_the_end()),
        }
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.is_writable { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EROFS)) }
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Allocates what is added, so that a full host shows here and not at some later write.
    pub(super) fn grow(&self, sectors: u64) -> io::Result<()> {
        let _growing = self.growing.lock();
        let current = self.sectors();
        if sectors <= current {
            return Ok(());
        }
        self.check_writable()?;
        if self.is_block_device {
            let message =
                format!("the block device ends at sector {current}; it cannot become {sectors} long");
            return Err(io::Error::new(io::ErrorKind::StorageFull, message));
        }
        allocate(&self.file, current * SECTOR_BYTES as u64, (sectors - current) * SECTOR_BYTES as u64)?;
        self.sectors.store(sectors, Ordering::Release);
        Ok(())
    }

    /// See [`Device::preferred_sectors`](super::Device::preferred_sectors).
    pub(super) fn preferred_sectors(&self) -> u64 {
        self.preferred_sectors
    }

    /// How many sectors the host has room for.
    pub(super) fn room(&self) -> u64 {
        if self.is_block_device {
            return 0;
        }
        free_bytes(&self.file).unwrap_or(0) / SECTOR_BYTES as u64
    }
}

/// What the block device or the file's filesystem says of itself, where that is whole sectors and not longer than a
/// request.
fn preferred_sectors(file: &File, is_block_device: bool) -> u64 {
    /// `_IO(0x12, 121)` of `linux/fs.h`: the optimal size of I/O in bytes, 0 where a device has none.
    const BLKIOOPT: libc::Ioctl = 0x1279;
    let bytes = if is_block_device {
        let mut bytes: libc::c_uint = 0;
        // SAFETY: the call writes one unsigned int, to one of ours.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKIOOPT, &raw mut bytes) };
        if result == 0 { u64::from(bytes) } else { 0 }
    } else {
        file.metadata().map_or(0, |metadata| metadata.blksize())
    };
    let is_usable = bytes.is_multiple_of(SECTOR_BYTES as u64) && bytes <= REQUEST_BYTES_MAX as u64;
    if is_usable { (bytes / SECTOR_BYTES as u64).max(1) } else { 1 }
}

/// Whole sectors of a file or block device.
pub(super) fn length_sectors(mut file: &File) -> io::Result<u64> {
    // Works for both; a block device's metadata says 0. No other call uses the file's position.
    Ok(file.seek(SeekFrom::End(0))? / SECTOR_BYTES as u64)
}

fn is_writable(file: &File) -> io::Result<bool> {
    Ok(status_flags(file)? & libc::O_ACCMODE != libc::O_RDONLY)
}

/// How a file was opened.
pub(super) fn status_flags(file: &File) -> io::Result<libc::c_int> {
    // SAFETY: F_GETFL takes no argument and touches no memory.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 { Err(io::Error::last_os_error()) } else { Ok(flags) }
}

/// Lengthens a file that is `from` bytes long; leaves it as it was where that fails.
pub(super) fn allocate(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    let full = || io::Error::from_raw_os_error(libc::ENOSPC);
    let (Ok(start), Ok(length)) = (i64::try_from(from), i64::try_from(bytes)) else { return Err(full()) };
    let Some(end) = start.checked_add(length) else { return Err(full()) };
    loop {
        // SAFETY: touches no memory of ours.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, start, length) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        let result = match error.raw_os_error() {
            Some(libc::EINTR) => continue,
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => file.set_len(end as u64),
            _ => Err(error),
        };
        return result.map_err(|error| {
            // Some hosts keep what they allocated before they ran full: their last free space.
            let _ = file.set_len(from);
            // A file as long as the host permits is full too.
            if error.raw_os_error() == Some(libc::EFBIG) { full() } else { error }
        });
    }
}

fn free_bytes(file: &File) -> io::Result<u64> {
    let mut stats = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the pointer is to memory of the type that the call fills.
    if unsafe { libc::fstatvfs(file.as_raw_fd(), stats.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it filled all of it.
    let stats = unsafe { stats.assume_init() };
    Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
}
