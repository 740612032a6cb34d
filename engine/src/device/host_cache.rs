//! Small reads through the host's page cache, which also keeps what stands around them.
//!
//! A random read costs a device about the same whether it is 4 KiB or 16 KiB long, and who reads in one place often reads
//! near it soon: small files that were written together, the index of a directory, a database that warms up. [`HostCache`]
//! reads a whole window around a read that is not in the cache, out of a budget that hits refill: where nobody
//! ever comes near again, as with random reads of far more than fits into memory, it runs out, and reads are as long as
//! asked. Each length has a budget of its own, so that index nodes, which lie close together and are wanted again, go on being
//! read in windows while sectors no longer are. The memory is the host's; it takes it back when it has better use for it.
//!
//! Invariant: what is written past the cache leaves no old page that a read that began later could get, except where
//! a read went on at the same time. Whoever reads here must be able to tell, by a hash.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Read;
use super::host::status_flags;
use crate::limits::SECTOR_BYTES;

/// What is read at once around a miss: so many times as much as was asked for, up to a bound.
const WINDOW_READS: u64 = 8;
const WINDOW_BYTES_MAX: u64 = 128 << 10;
/// Windows of each length of reads that may be read without a hit: a quarter of a gigabyte around single sectors, one around index nodes.
const BUDGET_MAX: u32 = 8 << 10;
/// Reads that are longer gain nothing, and would only be copied once more.
const CACHED_BYTES_MAX: usize = 64 << 10;
/// The same of several at once, on average: the device reads longer ones as fast without.
const MEAN_BYTES_MAX: usize = 16 << 10;
/// A budget for each power of two of sectors.
const BUDGETS: usize = (CACHED_BYTES_MAX / SECTOR_BYTES).ilog2() as usize + 1;

/// A file beside its O_DIRECT twin.
pub(super) struct HostCache {
    file: File,
    budgets: [AtomicU32; BUDGETS],
}

impl HostCache {
    /// Of a file that is open with O_DIRECT; none where it is not, or where what writes past the cache and what reads
    /// through it could disturb each other.
    pub(super) fn beside(direct: &File, is_block_device: bool) -> Option<Self> {
        let is_direct = status_flags(direct).is_ok_and(|flags| flags & libc::O_DIRECT != 0);
        if !is_direct || !(is_block_device || drops_what_is_written(direct)) {
            return None;
        }
        // By its path, it might be another file by now.
        let file = File::open(format!("/proc/self/fd/{}", direct.as_raw_fd())).ok()?;
        Some(Self { file, budgets: std::array::from_fn(|_| AtomicU32::new(BUDGET_MAX)) })
    }

    /// Whether it has read a batch, all of which is in the file. Where not, another way of reading tells why.
    pub(super) fn read(&self, reads: &mut [Read<'_>]) -> bool {
        if !is_small(reads) {
            return false;
        }
        // All of it is on its way before any of it is waited for. One alone need not be.
        let is_coming = reads.iter().all(|read| self.ask_for(offset(read), read.bytes.len()));
        if !is_coming && reads.len() > 1 {
            return false;
        }
        reads.iter_mut().all(|read| {
            let offset = offset(read);
            self.file.read_exact_at(read.bytes, offset).is_ok()
        })
    }

    /// Whether a range is in the cache, or will be.
    fn ask_for(&self, offset: u64, bytes: usize) -> bool {
        let budget = self.budget(bytes);
        match self.has(offset, bytes) {
            Some(true) => earn(budget),
            Some(false) if spend(budget) => self.ask_for_window(offset, bytes as u64),
            _ => return false,
        }
        true
    }

    /// Whether a range is in the cache; kernels before 6.5 do not say.
    fn has(&self, offset: u64, bytes: usize) -> Option<bool> {
        /// The same on all architectures.
        const SYS_CACHESTAT: libc::c_long = 451;
        /// `struct cachestat_range` and `struct cachestat` of `linux/mman.h`.
        #[repr(C)]
        struct Range {
            offset: u64,
            bytes: u64,
        }
        #[repr(C)]
        #[derive(Default)]
        struct Pages {
            cached: u64,
            dirty: u64,
            in_writeback: u64,
            evicted: u64,
            recently_evicted: u64,
        }
        let range = Range { offset, bytes: bytes as u64 };
        let mut pages = Pages::default();
        // SAFETY: the kernel reads one structure of ours and fills the other; both are laid out as it declares them.
        let result = unsafe {
            libc::syscall(
                SYS_CACHESTAT,
                self.file.as_raw_fd(),
                &raw const range,
                &raw mut pages,
                0 as libc::c_uint,
            )
        };
        (result == 0).then(|| pages.cached >= (bytes as u64).div_ceil(page_bytes()))
    }

    fn budget(&self, bytes: usize) -> &AtomicU32 {
        let class = bytes.div_ceil(SECTOR_BYTES).max(1).ilog2() as usize;
        &self.budgets[class.min(BUDGETS - 1)]
    }

    /// Starts to read what stands around `offset`; a failure shows when it is read.
    fn ask_for_window(&self, offset: u64, bytes: u64) {
        let window = (WINDOW_READS * bytes).next_power_of_two().min(WINDOW_BYTES_MAX);
        let start = offset - offset % window;
        let Ok(start) = libc::off64_t::try_from(start) else { return };
        // SAFETY: touches no memory of ours.
        unsafe { libc::readahead(self.file.as_raw_fd(), start, window as usize) };
    }
}

fn is_small(reads: &[Read<'_>]) -> bool {
    let bytes = || reads.iter().map(|read| read.bytes.len());
    bytes().all(|bytes| bytes <= CACHED_BYTES_MAX)
        && (reads.len() == 1 || bytes().sum::<usize>() <= reads.len() * MEAN_BYTES_MAX)
}

/// Where a read begins in the file.
fn offset(read: &Read<'_>) -> u64 {
    read.sector * SECTOR_BYTES as u64
}

fn earn(budget: &AtomicU32) {
    let earn = |left| (left < BUDGET_MAX).then_some(left + 1);
    let _ = budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earn);
}

/// Whether there was something left.
fn spend(budget: &AtomicU32) -> bool {
    let spend = |left: u32| left.checked_sub(1);
    budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
}

/// Whether a direct write drops what the cache has of its range, whatever is read meanwhile. A filesystem that now and
/// then cannot do so tells the next fsync of an error, though nothing is lost.
fn drops_what_is_written(file: &File) -> bool {
    let mut stats = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the pointer is to memory of the type that the call fills.
    if unsafe { libc::fstatfs(file.as_raw_fd(), stats.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: the call succeeded, so it filled all of it.
    let kind = unsafe { stats.assume_init() }.f_type as u64;
    [libc::EXT4_SUPER_MAGIC as u64, libc::XFS_SUPER_MAGIC as u64].contains(&kind)
}

fn page_bytes() -> u64 {
    // SAFETY: touches no memory of ours.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096).max(1)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;
    use crate::device::SectorBuf;

    const SECTOR: usize = 4096;
    const SECTORS: usize = 256;

    /// Nothing of it is in the cache.
    fn cold() -> Option<HostCache> {
        let directory = tempfile::tempdir().unwrap();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).custom_flags(libc::O_DIRECT);
        let file = options.open(directory.path().join("file")).ok()?;
        let mut bytes = SectorBuf::heap(SECTORS);
        bytes.chunks_mut(SECTOR).enumerate().for_each(|(number, sector)| sector.fill(number as u8));
        file.write_all_at(&bytes, 0).unwrap();
        let cache = HostCache::beside(&file, false)?;
        let knows = cache.has(0, SECTOR).is_some();
        knows.then_some(cache)
    }

    /// Reads so many sectors from each of these on, in one batch; whether the cache did.
    fn reads(cache: &HostCache, from: &[usize], sectors: usize) -> bool {
        let mut buffers: Vec<SectorBuf> = from.iter().map(|_| SectorBuf::heap(sectors)).collect();
        let pairs = from.iter().zip(&mut buffers);
        let mut batch: Vec<Read<'_>> =
            pairs.map(|(sector, bytes)| Read { sector: *sector as u64, bytes }).collect();
        if !cache.read(&mut batch) {
            return false;
        }
        for (sector, bytes) in from.iter().zip(&buffers) {
            let is_right = |(number, bytes): (usize, &[u8])| *bytes == [(sector + number) as u8; SECTOR];
            assert!(bytes.chunks(SECTOR).enumerate().all(is_right));
        }
        true
    }

    fn read(cache: &HostCache, sector: usize) {
        assert!(reads(cache, &[sector], 1));
    }

    fn has(cache: &HostCache, sector: usize) -> bool {
        cache.has((sector * SECTOR) as u64, SECTOR).unwrap()
    }

    #[test]
    fn a_miss_brings_its_window_until_the_budget_is_spent_and_a_hit_pays_for_one() {
        let Some(cache) = cold() else { return println!("skipped: no such cache here") };
        cache.budget(SECTOR).store(1, Ordering::Relaxed);
        read(&cache, 100);
        assert!(has(&cache, 96) && has(&cache, 103));
        read(&cache, 50);
        assert!(has(&cache, 50) && !has(&cache, 48) && !has(&cache, 55));
        read(&cache, 50);
        read(&cache, 200);
        assert!(has(&cache, 207));
        assert_eq!(cache.budget(SECTOR).load(Ordering::Relaxed), 0);
    }

    #[test]
    fn long_reads_do_not_pay_for_short_ones() {
        let Some(cache) = cold() else { return println!("skipped: no such cache here") };
        cache.budget(SECTOR).store(0, Ordering::Relaxed);
        read(&cache, 50);
        assert!(!has(&cache, 48), "nothing is left for single sectors");
        assert!(reads(&cache, &[100], 4));
        assert!(has(&cache, 96) && has(&cache, 127));
        assert_eq!(cache.budget(4 * SECTOR).load(Ordering::Relaxed), BUDGET_MAX - 1);
    }

    #[test]
    fn several_reads_bring_their_windows_or_are_for_others() {
        let Some(cache) = cold() else { return println!("skipped: no such cache here") };
        cache.budget(SECTOR).store(2, Ordering::Relaxed);
        assert!(reads(&cache, &[100, 50], 1));
        assert!(has(&cache, 96) && has(&cache, 103) && has(&cache, 48) && has(&cache, 55));
        assert!(reads(&cache, &[49, 101], 1), "what their windows brought");
        cache.budget(SECTOR).store(0, Ordering::Relaxed);
        assert!(!reads(&cache, &[200, 52], 1), "the device reads both at once");
        assert!(!has(&cache, 200));
    }

    #[test]
    fn long_reads_are_for_others() {
        let Some(cache) = cold() else { return println!("skipped: no such cache here") };
        assert!(!reads(&cache, &[0], CACHED_BYTES_MAX / SECTOR + 1));
        assert!(!reads(&cache, &[0, 100], MEAN_BYTES_MAX / SECTOR + 1), "for several at once");
        assert!(reads(&cache, &[0, 100], MEAN_BYTES_MAX / SECTOR));
        assert!(!reads(&cache, &[SECTORS], 1), "past the end");
    }
}
