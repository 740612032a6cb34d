//! What is agreed with the kernel: the capabilities at the start, the sizes, and the tuning of what it allocated for
//! the mount.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::protocol::{self, InitIn, InitOut, init};
use super::{Locks, MountOptions};

/// The longest write in one request: the most that the kernel allows by default (`fs.fuse.max_pages_limit`).
pub(super) const WRITE_BYTES_MAX: u32 = 1 << 20;
const PAGES_MAX: u16 = (WRITE_BYTES_MAX >> 12) as u16;
/// Requests that the kernel sends ahead, such as readahead and write-back, before it waits.
const BACKGROUND_REQUESTS_MAX: u16 = 64;
/// Readahead of the mount in KiB: four requests, so that some are in flight while one is copied.
const READAHEAD_KIB: u32 = 4 * (WRITE_BYTES_MAX >> 10);
/// What of a mount may wait in the kernel's cache to be written back, which begins at half to three quarters of that. Without a bound of its
/// own, the kernel begins when a tenth of all memory is dirty, and all encryption waits until then; with less, much would be written
/// back that is soon written again.
const DIRTY_BYTES: u64 = 256 << 20;
/// How long the kernel may believe names and attributes. Every change comes through the mount, so the kernel knows
/// of all of them and nothing ever expires; an hour bounds what a mistake can do.
pub(super) const BELIEVE: Duration = Duration::from_secs(3600);

/// What there must be; Linux 5.13 is the first to have all.
const NEEDED: u64 = init::POSIX_ACL
    | init::DONT_MASK
    | init::MAX_PAGES
    | init::BIG_WRITES
    // Without it, every write asks for the file's capabilities first.
    | init::HANDLE_KILLPRIV_V2
    | init::SETXATTR_EXT
    | init::EXTENDED;

/// For speed, or for callers that an older kernel has not got.
const WELCOME: u64 = init::ASYNC_READ
    | init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::DO_READDIRPLUS
    | init::READDIRPLUS_AUTO
    | init::ATOMIC_O_TRUNC
    | init::EXPORT_SUPPORT
    | init::CACHE_SYMLINKS
    | init::EXPLICIT_INVAL_DATA
    | init::DIRECT_IO_ALLOW_MMAP
    | init::NO_OPENDIR_SUPPORT;

/// Waiting in the kernel is what event loops mostly do, so there are more of them than cores.
pub(super) fn event_loops_default() -> usize {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    (2 * cores).max(4)
}

/// What the kernel offers.
fn offered(offer: &InitIn) -> u64 {
    let upper = if u64::from(offer.flags) & init::EXTENDED != 0 { offer.flags2 } else { 0 };
    u64::from(upper) << 32 | u64::from(offer.flags)
}

/// Whether requests may come over io_uring: Linux 6.14, with the parameter `enable_uring` of the module `fuse`.
pub(super) fn offers_uring(offer: &InitIn) -> bool {
    offered(offer) & init::OVER_IO_URING != 0
}

/// Chooses from what the kernel offers.
pub(super) fn negotiate(offer: &InitIn, options: &MountOptions, over_uring: bool) -> io::Result<InitOut> {
    let offered = offered(offer);
    if offer.major < protocol::MAJOR || offered & NEEDED != NEEDED {
        let InitIn { major, minor, .. } = offer;
        let message = format!("the kernel's FUSE {major}.{minor} is too old: Linux 5.13 or newer is needed");
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    let mut wanted = NEEDED | WELCOME;
    if options.write_back && !options.read_only {
        wanted |= init::WRITEBACK_CACHE;
    }
    if options.locks == Locks::Fs {
        wanted |= init::POSIX_LOCKS | init::FLOCK_LOCKS;
    }
    if over_uring {
        wanted |= init::OVER_IO_URING;
    }
    let accepted = wanted & offered;
    Ok(InitOut {
        major: protocol::MAJOR,
        minor: protocol::MINOR,
        max_readahead: offer.max_readahead.min(READAHEAD_KIB << 10),
        flags: accepted as u32,
        flags2: (accepted >> 32) as u32,
        max_background: BACKGROUND_REQUESTS_MAX,
        congestion_threshold: BACKGROUND_REQUESTS_MAX / 4 * 3,
        max_write: WRITE_BYTES_MAX,
        max_pages: PAGES_MAX,
        time_gran: 1,
        ..InitOut::default()
    })
}

/// Raises what the kernel keeps low for FUSE: readahead, which it caps at 128 KiB, and the share of dirty pages, which
/// makes the write-back cache useless. Only root may; a mount without it works, slower.
pub fn tune(mountpoint: &Path) -> io::Result<()> {
    // The kernel answers this by itself: the caller may be the only one who could answer a request, or be about to abort.
    let device = statx(CWD, mountpoint, AtFlags::STATX_DONT_SYNC, StatxFlags::empty())?;
    let folder = format!("/sys/class/bdi/{}:{}", device.stx_dev_major, device.stx_dev_minor);
    let set = |name: &str, value: u64| fs::write(format!("{folder}/{name}"), value.to_string());
    set("read_ahead_kb", READAHEAD_KIB.into())?;
    set("max_ratio", 100)?;
    // No less either: the kernel would give a mount that was idle the less, the more other disks write, down to nothing before 6.14. Kernels before
    // 6.2, and those with little memory or many mounts, do not take it.
    let bounded = set("max_bytes", DIRTY_BYTES).and_then(|()| set("min_bytes", DIRTY_BYTES));
    if bounded.is_err() {
        set("max_ratio", 100)?;
    }
    set("strict_limit", bounded.is_ok().into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::mpsc;

    use super::super::{Access, Flags, Transport, attach, detach};
    use super::*;

    /// A mount that is taken away again, whatever happens.
    struct Unserved(tempfile::TempDir, Option<OwnedFd>);

    impl Drop for Unserved {
        fn drop(&mut self) {
            // Whoever waits for an answer is told that there is none.
            drop(self.1.take());
            let _ = detach(self.0.path(), true);
        }
    }

    #[test]
    fn a_mount_is_tuned_without_an_answer_from_who_serves_it() {
        let folder = tempfile::tempdir().unwrap();
        let options = MountOptions {
            source: "nobody".into(),
            read_only: true,
            access: Access::Owner,
            flags: Flags::default(),
            write_back: false,
            locks: Locks::Kernel,
            read_bytes_max: None,
            event_loops: None,
            transport: Transport::Device,
        };
        let device = match attach::attach(folder.path(), &options) {
            Ok(device) => device,
            Err(error) => return eprintln!("not tested here: {error}"),
        };
        let mount = Unserved(folder, Some(device));
        let (done, tuned) = mpsc::channel();
        let path = mount.0.path().to_owned();
        std::thread::spawn(move || done.send(tune(&path)));
        let outcome = tuned.recv_timeout(Duration::from_secs(10)).expect("it waits for nobody");
        // Only root may.
        assert!(
            outcome.is_ok() || outcome.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        );
    }
}
