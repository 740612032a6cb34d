//! Memory for I/O.
//!
//! A [`SectorBuf`] is aligned for O_DIRECT. It comes from the heap, or from a device's [`Arena`]: memory that was
//! touched before, so that a write of megabytes does not begin with thousands of page faults, and that io_uring
//! may have registered, so that the kernel does not look up its pages at each request.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use super::arena::Arena;
use crate::limits::SECTOR_BYTES;

/// Whole sectors of memory, aligned to a sector.
pub struct SectorBuf {
    start: NonNull<u8>,
    sectors: usize,
    origin: Origin,
}

enum Origin {
    /// Allocated with room for this many sectors.
    Heap { allocated: usize },
    Arena { arena: Arc<Arena>, first: usize },
}

// SAFETY: the buffer owns its memory alone, wherever that comes from.
unsafe impl Send for SectorBuf {}
// SAFETY: through a shared reference it only gives shared access to bytes.
unsafe impl Sync for SectorBuf {}

impl SectorBuf {
    /// Zeroed memory from the heap.
    pub fn heap(sectors: usize) -> Self {
        let origin = Origin::Heap { allocated: sectors };
        if sectors == 0 {
            let start = NonNull::without_provenance(SECTOR_ALIGNMENT);
            return Self { start, sectors, origin };
        }
        let layout = heap_layout(sectors);
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(memory) else { handle_alloc_error(layout) };
        Self { start, sectors, origin }
    }

    /// Memory from the arena, or from the heap where the arena has no room.
    pub(super) fn from_arena(arena: &Arc<Arena>, sectors: usize) -> Self {
        match arena.take(sectors) {
            Some(first) => Self {
                start: arena.sector(first),
                sectors,
                origin: Origin::Arena { arena: arena.clone(), first },
            },
            None => Self::heap(sectors),
        }
    }

    /// Its length.
    pub fn sectors(&self) -> usize {
        self.sectors
    }

    /// Gives up what is behind the first `sectors` sectors; does nothing where it is not longer than that.
    pub fn truncate(&mut self, sectors: usize) {
        if sectors >= self.sectors {
            return;
        }
        if let Origin::Arena { arena, first } = &self.origin {
            arena.give_back(first + sectors, self.sectors - sectors);
        }
        self.sectors = sectors;
    }

    /// Whether it is a part of this arena.
    pub(super) fn is_of(&self, arena: &Arc<Arena>) -> bool {
        matches!(&self.origin, Origin::Arena { arena: own, .. } if Arc::ptr_eq(own, arena))
    }

    /// Where it begins. The memory stays in place when the buffer is moved.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

const SECTOR_ALIGNMENT: std::num::NonZeroUsize = std::num::NonZeroUsize::new(SECTOR_BYTES).unwrap();

fn heap_layout(sectors: usize) -> Layout {
    let bytes = sectors.checked_mul(SECTOR_BYTES).expect("a buffer longer than the address space");
    Layout::from_size_align(bytes, SECTOR_BYTES).expect("a buffer longer than the address space")
}

impl Deref for SectorBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `sectors` sectors from `start` on are initialised and belong to this buffer alone.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.sectors * SECTOR_BYTES) }
    }
}

impl DerefMut for SectorBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the exclusive reference to the buffer makes the slice exclusive.
        unsafe { &mut *ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.sectors * SECTOR_BYTES) }
    }
}

impl Drop for SectorBuf {
    fn drop(&mut self) {
        match &self.origin {
            Origin::Heap { allocated: 0 } => {}
            // SAFETY: this is the layout that it was allocated with, and nobody else frees it.
            Origin::Heap { allocated } => unsafe { dealloc(self.start.as_ptr(), heap_layout(*allocated)) },
            Origin::Arena { arena, first } => arena.give_back(*first, self.sectors),
        }
    }
}

impl std::fmt::Debug for SectorBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SectorBuf").field("sectors", &self.sectors).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heap_memory_is_zeroed_and_aligned() {
        for sectors in [0, 1, 3, 300] {
            let mut buffer = SectorBuf::heap(sectors);
            assert_eq!(buffer.len(), sectors * SECTOR_BYTES);
            assert_eq!(buffer.as_ptr() as usize % SECTOR_BYTES, 0);
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.fill(7);
            buffer.truncate(1);
            buffer.truncate(5);
            assert_eq!(buffer.sectors(), sectors.min(1));
        }
    }

    #[test]
    fn arena_memory_comes_back() {
        let arena = Arc::new(Arena::new(8 * SECTOR_BYTES).unwrap());
        let mut whole = SectorBuf::from_arena(&arena, 8);
        assert!(whole.is_of(&arena));
        whole.fill(1);
        assert!(!SectorBuf::from_arena(&arena, 1).is_of(&arena));
        whole.truncate(5);
        let rest = SectorBuf::from_arena(&arena, 3);
        assert!(rest.is_of(&arena));
        drop(whole);
        drop(rest);
        assert!(SectorBuf::from_arena(&arena, 8).is_of(&arena));
    }
}
