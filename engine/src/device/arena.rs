//! A bounded pool of memory for I/O, in one piece, so that io_uring can register it as one fixed buffer.
//!
//! Invariants:
//! 1. A sector is in at most one [`super::SectorBuf`]; its bit in the map is set for as long as it is.
//! 2. The memory is mapped for as long as the arena lives.
#![allow(unsafe_code)]

use std::io;
use std::ptr::{self, NonNull};

use parking_lot::Mutex;

use crate::limits::SECTOR_BYTES;

/// Runs shorter than this are taken from the arena's last quarter first, so that they do not split up the room for
/// long ones.
const LONG_RUN_SECTORS: usize = 16;
/// The mapping is aligned to a huge page: the kernel then pins and submits it in few large pieces.
const HUGE_PAGE_BYTES: usize = 2 << 20;

pub(super) struct Arena {
    mapping: NonNull<u8>,
    mapping_bytes: usize,
    start: NonNull<u8>,
    sectors: usize,
    used: Mutex<Vec<u64>>,
}

// SAFETY: the arena itself never touches the bytes; it hands out disjoint parts of them.
unsafe impl Send for Arena {}
// SAFETY: as above, and the map of what is in use is behind a lock.
unsafe impl Sync for Arena {}

impl Arena {
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let mapping_bytes = bytes + HUGE_PAGE_BYTES;
        // SAFETY: a new anonymous mapping at a place of the kernel's choice touches no existing memory.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mapping_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = NonNull::new(address.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let padding = mapping.as_ptr().align_offset(HUGE_PAGE_BYTES);
        // SAFETY: the padding is less than a huge page, by which the mapping is longer than the arena.
        let start = unsafe { mapping.add(padding) };
        // SAFETY: the range is inside the mapping. It is only advice: a refusal costs speed.
        unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        let sectors = bytes / SECTOR_BYTES;
        let used = Mutex::new(vec![0; sectors.div_ceil(64)]);
        Ok(Self { mapping, mapping_bytes, start, sectors, used })
    }

    /// Has the kernel clear all of it now instead of at its first use, as far as `is_over` lets it; tells whether
    /// nobody wanted it to end. Kernels that cannot (before 5.14) clear it later.
    pub(super) fn populate(&self, is_over: impl Fn() -> bool) -> bool {
        let bytes = self.sectors * SECTOR_BYTES;
        for start in (0..bytes).step_by(HUGE_PAGE_BYTES) {
            if is_over() {
                return false;
            }
            let length = HUGE_PAGE_BYTES.min(bytes - start);
            // SAFETY: the range is inside the mapping, and the advice keeps what is in it.
            unsafe {
                libc::madvise(self.start.as_ptr().add(start).cast(), length, libc::MADV_POPULATE_WRITE)
            };
        }
        true
    }

    /// All of it, for registration.
    pub(super) fn as_iovec(&self) -> libc::iovec {
        libc::iovec { iov_base: self.start.as_ptr().cast(), iov_len: self.sectors * SECTOR_BYTES }
    }

    pub(super) fn sector(&self, index: usize) -> NonNull<u8> {
        assert!(index < self.sectors);
        // SAFETY: the index is inside the arena.
        unsafe { self.start.add(index * SECTOR_BYTES) }
    }

    /// Takes a run of sectors and tells the first. `None` where none is free.
    pub(super) fn take(&self, sectors: usize) -> Option<usize> {
        if sectors == 0 || sectors > self.sectors {
            return None;
        }
        let mut used = self.used.lock();
        let preferred = if sectors < LONG_RUN_SECTORS { self.sectors / 4 * 3 } else { 0 };
        let first = find_free(&used, preferred, self.sectors, sectors)
            .or_else(|| (preferred > 0).then(|| find_free(&used, 0, self.sectors, sectors)).flatten())?;
        mark(&mut used, first, sectors, true);
        Some(first)
    }

    /// Ends the use of a run, or of a part of one, that was taken.
    pub(super) fn give_back(&self, first: usize, sectors: usize) {
        mark(&mut self.used.lock(), first, sectors, false);
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: every buffer holds a reference to the arena, so none is left.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.mapping_bytes) };
    }
}

/// The first run of `length` clear bits in `from..to`.
fn find_free(used: &[u64], from: usize, to: usize, length: usize) -> Option<usize> {
    let mut at = from;
    let mut run = 0;
    while at < to {
        let left_of_word = 64 - at % 64;
        let word = used[at / 64] >> (at % 64);
        let free = (word.trailing_zeros() as usize).min(left_of_word).min(to - at);
        run += free;
        if run >= length {
            return Some(at + free - run);
        }
        at += free;
        if free < left_of_word && at < to {
            run = 0;
            at += (used[at / 64] >> (at % 64)).trailing_ones() as usize;
        }
    }
    None
}

fn mark(used: &mut [u64], first: usize, length: usize, value: bool) {
    let mut at = first;
    let end = first + length;
    while at < end {
        let count = (64 - at % 64).min(end - at);
        let mask = (u64::MAX >> (64 - count)) << (at % 64);
        let word = &mut used[at / 64];
        debug_assert_eq!(*word & mask, if value { 0 } else { mask }, "a sector taken or given back twice");
        if value {
            *word |= mask;
        } else {
            *word &= !mask;
        }
        at += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_found_like_in_a_plain_map(
            lengths in prop::collection::vec((1_usize..90, any::<bool>()), 1..80),
            sectors in 1_usize..400,
        ) {
            let arena = Arena::new(sectors * SECTOR_BYTES).unwrap();
            let mut model = vec![false; sectors];
            let mut taken: Vec<(usize, usize)> = Vec::new();
            for (length, give) in lengths {
                if give && !taken.is_empty() {
                    let (first, length) = taken.swap_remove(length % taken.len());
                    arena.give_back(first, length);
                    model[first..first + length].fill(false);
                    continue;
                }
                match arena.take(length) {
                    Some(first) => {
                        prop_assert!(model[first..first + length].iter().all(|used| !used));
                        model[first..first + length].fill(true);
                        taken.push((first, length));
                    }
                    None => prop_assert!(!model.windows(length).any(|run| run.iter().all(|used| !used))),
                }
            }
        }
    }
}
