//! What is agreed with the kernel: the capabilities at the start, the sizes, and the tuning of what it allocated for
//! the mount.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use fuser::{InitFlags, KernelConfig};

use super::{Locks, MountOptions};

/// The longest write in one request: the most that the kernel allows by default (`fs.fuse.max_pages_limit`).
pub(super) const WRITE_BYTES_MAX: u32 = 1 << 20;
/// Requests that the kernel sends ahead, such as readahead and write-back, before it waits.
const BACKGROUND_REQUESTS_MAX: u16 = 64;
/// Readahead of the mount in KiB: four requests, so that some are in flight while one is copied.
const READAHEAD_KIB: u32 = 4 * (WRITE_BYTES_MAX >> 10);
/// How long the kernel may believe names and attributes. Every change comes through the mount, so the kernel knows
/// of all of them and nothing ever expires; an hour bounds what a mistake can do.
pub(super) const BELIEVE: Duration = Duration::from_secs(3600);

/// Waiting in the kernel is what event loops mostly do, so there are more of them than cores.
pub(super) fn event_loops_default() -> usize {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    (2 * cores).max(4)
}

/// Chooses from what the kernel offers.
pub(super) fn negotiate(config: &mut KernelConfig, options: &MountOptions) -> io::Result<()> {
    let mut wanted = InitFlags::FUSE_ASYNC_READ
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_BIG_WRITES
        | InitFlags::FUSE_MAX_PAGES
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_READDIRPLUS_AUTO
        | InitFlags::FUSE_POSIX_ACL
        | InitFlags::FUSE_DONT_MASK
        // Without it, every write asks for the file's capabilities first.
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2
        | InitFlags::FUSE_ATOMIC_O_TRUNC
        | InitFlags::FUSE_EXPORT_SUPPORT
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_EXPLICIT_INVAL_DATA
        | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP
        | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
    if options.write_back && !options.read_only {
        wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
    }
    if options.locks == Locks::Fs {
        wanted |= InitFlags::FUSE_POSIX_LOCKS;
    }
    let offered = config.capabilities();
    let needed = InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK | InitFlags::FUSE_MAX_PAGES;
    if !offered.contains(needed) {
        let message = format!("the kernel is too old: its FUSE lacks {:?}", needed & !offered);
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    // The rest are for speed, or for callers that an older kernel has not got.
    config.add_capabilities(wanted & offered).map_err(|_| io::ErrorKind::Unsupported)?;
    // Each of these answers with the nearest value that it takes.
    if let Err(nearest) = config.set_max_write(WRITE_BYTES_MAX) {
        let _ = config.set_max_write(nearest);
    }
    if let Err(nearest) = config.set_max_readahead(READAHEAD_KIB << 10) {
        let _ = config.set_max_readahead(nearest);
    }
    let _ = config.set_max_background(BACKGROUND_REQUESTS_MAX);
    let _ = config.set_congestion_threshold(BACKGROUND_REQUESTS_MAX / 4 * 3);
    let _ = config.set_time_granularity(Duration::from_nanos(1));
    Ok(())
}

/// Raises what the kernel keeps low for FUSE: readahead, which it caps at 128 KiB, and the share of dirty pages, which
/// makes the write-back cache useless. Only root may; a mount without it works, slower.
pub(super) fn tune(mountpoint: &Path) {
    let Ok(metadata) = mountpoint.metadata() else { return };
    let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    let folder = format!("/sys/class/bdi/{major}:{minor}");
    let settings = [("read_ahead_kb", READAHEAD_KIB), ("strict_limit", 0), ("max_ratio", 100)];
    for (name, value) in settings {
        if let Err(error) = fs::write(format!("{folder}/{name}"), value.to_string()) {
            tracing::debug!(name, %error, "the mount's bdi stays as it is");
        }
    }
}
