//! Removing what large blocks leave behind, in bounded steps.
//!
//! A block that is being emptied is masked: readers take its extents behind the cut for holes until the index has none.
//!
//! Invariants:
//! 1. Nothing is written behind the cut before the mask is taken away ([`Core::finish_reclaim`]).
//! 2. A step counts only if the block is still to be emptied as when the step was planned, by the same operation:
//!    one that was put anew meanwhile, even with the same cut, has its own steps.

use std::sync::Arc;

use super::batch::Change;
use super::transaction::{Reclaim, Transaction};
use super::{Block, Core, Seq};
use crate::error::Result;
use crate::format::{BlockId, Extent, ItemKind, Key, SYSTEM_BLOCK};
use crate::limits::RECLAIM_STEP;

/// A block that is being emptied, and the operation that said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reclaiming {
    pub(super) what: Reclaim,
    /// None made it before the store was opened.
    pub(super) noted: Seq,
}

/// One step, ready to be taken.
struct Step {
    id: BlockId,
    of: Reclaiming,
    transaction: Transaction,
    /// Nothing is left behind it.
    is_last: bool,
}

impl Core {
    /// What of a block is being emptied.
    pub(super) fn reclaim_of(&self, id: BlockId) -> Option<Reclaim> {
        self.reclaiming_of(id).map(|reclaiming| reclaiming.what)
    }

    pub(super) fn reclaiming_of(&self, id: BlockId) -> Option<Reclaiming> {
        self.reclaims.read().get(&id).copied()
    }

    pub(super) fn orphan_exists(&self, id: BlockId) -> Result<bool> {
        Ok(self.find(&Key::new(SYSTEM_BLOCK, ItemKind::ORPHAN, id))?.is_some())
    }

    /// An operation made this block one to be emptied.
    pub(super) fn note_reclaim(&self, id: BlockId, what: Reclaim, noted: Seq) {
        self.reclaims.write().insert(id, Reclaiming { what, noted });
        let mut state = self.signal.state.lock();
        state.reclaim_wanted = true;
        self.signal.changed.notify_all();
    }

    /// Empties a block to the end before something is written to sectors up to `end`.
    pub(super) fn finish_reclaim(self: &Arc<Self>, block: &Block, end: u64) -> Result<()> {
        while let Some(reclaiming) = self.reclaiming_of(block.id())
            && end > reclaiming.what.from
            && !reclaiming.what.destroy
        {
            self.reclaim_block(block.id(), reclaiming)?;
        }
        Ok(())
    }

    /// Empties everything that is to be emptied.
    pub(super) fn reclaim_all(self: &Arc<Self>) -> Result<()> {
        while self.reclaim_step()? {}
        Ok(())
    }

    /// One step; whether there is more to do.
    pub(super) fn reclaim_step(self: &Arc<Self>) -> Result<bool> {
        let first = match self.bounds {
            None => self.reclaims.read().first_key_value().map(|(id, reclaim)| (*id, *reclaim)),
            Some(_) => self.first_reclaim_in_bounds(),
        };
        if let Some((id, reclaim)) = first {
            self.reclaim_block(id, reclaim)?;
            return Ok(true);
        }
        if self.bounds.is_some() {
            return Ok(false);
        }
        self.snapshot_step()
    }

    /// What a writer of a part may empty, and has the keys to; the rest is left to the owner.
    fn first_reclaim_in_bounds(&self) -> Option<(BlockId, Reclaiming)> {
        let all: Vec<(BlockId, Reclaiming)> =
            self.reclaims.read().iter().map(|(id, reclaim)| (*id, *reclaim)).collect();
        let is_own = |id| self.is_in_bounds(id) && matches!(self.block_even_dying(id), Ok(Some(_)));
        all.into_iter().find(|(id, _)| is_own(*id))
    }

    fn reclaim_block(self: &Arc<Self>, id: BlockId, of: Reclaiming) -> Result<()> {
        // Both the background and a writer may be at it.
        let _one = self.reclaiming.lock();
        match self.plan_reclaim(id, of)? {
            Some(step) => self.take_step(step),
            None => Ok(()),
        }
    }

    fn plan_reclaim(self: &Arc<Self>, id: BlockId, of: Reclaiming) -> Result<Option<Step>> {
        if self.reclaiming_of(id) != Some(of) {
            return Ok(None);
        }
        // What was written before must be in the index: what lies beyond the cut is found there.
        self.commit()?;
        let reclaim = of.what;
        let mut transaction = Transaction::new(self.clone());
        transaction.only_while(id, of);
        transaction.frees();
        let block = self.block_even_dying(id)?;
        let first = Key::new(id, ItemKind::EXTENT, reclaim.from);
        let last = Key::new(id, ItemKind::EXTENT, u64::MAX);
        let (extents, all) = self.range_sealed(first, last, RECLAIM_STEP)?;
        let mut is_last = all;
        if let Some(block) = &block
            && !extents.is_empty()
        {
            let mut end = reclaim.from;
            for (key, value) in &extents {
                end = key.offset + Extent::decode(value).map_or(1, |extent| extent.sectors());
            }
            transaction.weigh_removed(&extents);
            transaction.cut(block, reclaim.from.min(extents[0].0.offset), end);
        }
        if is_last && reclaim.destroy {
            let (items, all) = self.range(
                Key::new(id, ItemKind(2), 0),
                Key::new(id, ItemKind(u8::MAX), u64::MAX),
                RECLAIM_STEP,
            )?;
            for (key, _) in items {
                transaction.put_system(key, Change::Delete);
            }
            is_last = all;
            if is_last {
                transaction.put_system(Key::new(id, ItemKind::HEADER, 0), Change::Delete);
            }
        }
        if is_last {
            transaction.put_system(Key::new(SYSTEM_BLOCK, ItemKind::RECLAIM, id), Change::Delete);
        }
        Ok(Some(Step { id, of, transaction, is_last }))
    }

    fn take_step(&self, step: Step) -> Result<()> {
        step.transaction.apply()?;
        // The cut must be in the index before the mask is taken away, or before it is looked at again.
        self.commit()?;
        if step.is_last {
            // No reader is between what the layers say and the mask.
            let _layers = self.layers.write();
            let mut reclaims = self.reclaims.write();
            if reclaims.get(&step.id) == Some(&step.of) {
                reclaims.remove(&step.id);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::KdfCost;
    use crate::device::MemoryDevice;
    use crate::limits::SECTOR_BYTES;
    use crate::store::{CreateOptions, OpenOptions, Store};

    const SECTOR: u64 = SECTOR_BYTES as u64;
    const PIECES: u64 = 4000;
    const END: u64 = u64::MAX / SECTOR;

    /// A block of single sectors with holes between them, cut at sector 4000: the last step of emptying it.
    fn at_the_last_step() -> (Store, Block, Step) {
        let device = Arc::new(MemoryDevice::new(192 * 256));
        let create = CreateOptions { capacity_sectors: 192 * 256, kdf: KdfCost::TRIVIAL };
        let options = OpenOptions { background: false, ..OpenOptions::default() };
        let store = Store::create_with(device, b"pass", &create, &options).unwrap();
        let mut transaction = store.transaction();
        let block = transaction.create(b"");
        transaction.apply().unwrap();
        for piece in 0..PIECES {
            let mut transaction = store.transaction();
            transaction.write(&block, 2 * piece * SECTOR, &[7; SECTOR_BYTES]).unwrap();
            transaction.apply().unwrap();
        }
        store.checkpoint().unwrap();
        punch(&store, &block, 4000);
        let core = store.core.clone();
        loop {
            let of = core.reclaiming_of(block.id()).unwrap();
            let step = core.plan_reclaim(block.id(), of).unwrap().unwrap();
            if step.is_last {
                return (store, block, step);
            }
            core.take_step(step).unwrap();
        }
    }

    fn punch(store: &Store, block: &Block, from: u64) {
        let mut transaction = store.transaction();
        transaction.punch(block, from, END).unwrap();
        transaction.apply().unwrap();
    }

    fn is_zero(store: &Store, block: &Block, sector: u64) -> bool {
        let mut bytes = [0xA5; SECTOR_BYTES];
        store.read(block, sector * SECTOR, &mut bytes).unwrap();
        bytes.iter().all(|byte| *byte == 0)
    }

    #[test]
    fn a_longer_cut_during_the_last_step_stays_masked() {
        let (store, block, step) = at_the_last_step();
        punch(&store, &block, 100);
        store.checkpoint().unwrap();
        store.core.take_step(step).unwrap();
        assert!(is_zero(&store, &block, 100) && !is_zero(&store, &block, 98));
        store.reclaim().unwrap();
        assert!(is_zero(&store, &block, 100) && !is_zero(&store, &block, 98));
        assert!(store.core.reclaiming_of(block.id()).is_none());
    }

    #[test]
    fn the_same_cut_once_more_has_its_own_steps() {
        let (store, block, step) = at_the_last_step();
        let of = step.of;
        store.core.note_reclaim(block.id(), of.what, Seq(of.noted.0 + 1));
        store.core.take_step(step).unwrap();
        assert_eq!(store.core.reclaim_of(block.id()), Some(of.what));
    }
}
