//! Which blocks have their keys expanded: a bounded number, those that were used last.
//!
//! An open block keeps one key of 32 bytes. What is sealed needs three that are derived from it, and more while keys are
//! being changed. Those come here, and go when others need the room; they are zeroized as they go.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::block::BlockState;
use crate::hits::Hits;
use crate::limits::KEY_CACHE_BLOCKS;

/// Remembers in a ring whose keys are expanded. A hand goes round: who was used since it last came stays.
pub(super) struct KeyCache {
    ring: Mutex<Ring>,
    blocks_max: usize,
    hits: Hits,
}

#[derive(Default)]
struct Ring {
    blocks: Vec<Weak<BlockState>>,
    hand: usize,
}

impl Default for KeyCache {
    fn default() -> Self {
        Self { ring: Mutex::default(), blocks_max: KEY_CACHE_BLOCKS, hits: Hits::default() }
    }
}

impl KeyCache {
    pub(super) fn hits(&self) -> &Hits {
        &self.hits
    }

    /// Takes note of a block whose keys were just expanded, and gives up others' where there are too many.
    pub(super) fn keep(&self, block: &Arc<BlockState>) {
        let mut ring = self.ring.lock();
        let new = Arc::downgrade(block);
        if ring.blocks.len() < self.blocks_max {
            ring.blocks.push(new);
            return;
        }
        // Twice around at most: the first time clears all marks.
        loop {
            let at = ring.hand;
            ring.hand = (at + 1) % self.blocks_max;
            let old = ring.blocks[at].upgrade();
            if old.as_ref().is_some_and(|old| old.was_used()) {
                continue;
            }
            if let Some(old) = old
                && !Arc::ptr_eq(&old, block)
            {
                old.drop_expanded();
            }
            ring.blocks[at] = new;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Secret;
    use crate::store::block::OpenBlocks;

    #[test]
    fn what_was_not_used_gives_way_and_comes_back() {
        let open = OpenBlocks::default();
        let count = KEY_CACHE_BLOCKS as u64 + 100;
        let wrap = Secret::random();
        let blocks: Vec<_> = (1..=count).map(|id| open.create(id, 0, &wrap, 0)).collect();
        let hashes: Vec<u64> = blocks.iter().map(|block| block.name_hash(b"name")).collect();
        assert_eq!(open.hits().rate(), 0.0, "all were new");
        assert_eq!(expanded(&blocks), KEY_CACHE_BLOCKS);
        // Used again and again, it stays whatever else comes.
        for block in &blocks {
            assert_eq!(blocks[200].name_hash(b"name"), hashes[200]);
            block.name_hash(b"name");
        }
        assert!(blocks[200].0.is_expanded());
        assert_eq!(expanded(&blocks), KEY_CACHE_BLOCKS);
        assert!(blocks.iter().map(|block| block.name_hash(b"name")).eq(hashes));
    }

    fn expanded(blocks: &[crate::store::Block]) -> usize {
        blocks.iter().filter(|block| block.0.is_expanded()).count()
    }

    #[test]
    fn blocks_that_nobody_holds_take_no_room_of_others() {
        let open = OpenBlocks::default();
        let wrap = Secret::random();
        let held = open.create(1, 0, &wrap, 0);
        held.name_hash(b"name");
        for id in 2..3 * KEY_CACHE_BLOCKS as u64 {
            open.create(id, 0, &wrap, 0).name_hash(b"name");
            held.name_hash(b"name");
        }
        assert!(held.0.is_expanded());
    }
}
