//! Removing what large blocks leave behind, in bounded steps.

use std::sync::Arc;

use super::batch::Change;
use super::transaction::{Reclaim, Transaction};
use super::{Block, Core};
use crate::error::Result;
use crate::format::{BlockId, Extent, ItemKind, Key, SYSTEM_BLOCK};
use crate::limits::RECLAIM_STEP;

impl Core {
    /// What of a block is being emptied.
    pub(super) fn reclaim_of(&self, id: BlockId) -> Option<Reclaim> {
        self.reclaims.read().get(&id).copied()
    }

    pub(super) fn orphan_exists(&self, id: BlockId) -> Result<bool> {
        Ok(self.find(&Key::new(SYSTEM_BLOCK, ItemKind::ORPHAN, id))?.is_some())
    }

    /// A transaction made this block one to be emptied.
    pub(super) fn note_reclaim(&self, id: BlockId, reclaim: Reclaim) {
        self.reclaims.write().insert(id, reclaim);
        let mut state = self.signal.state.lock();
        state.reclaim_wanted = true;
        self.signal.changed.notify_all();
    }

    /// Empties a block to the end before something is written to sectors up to `end`.
    pub(super) fn finish_reclaim(self: &Arc<Self>, block: &Block, end: u64) -> Result<()> {
        loop {
            let reclaim = self.reclaims.read().get(&block.id()).copied();
            match reclaim {
                Some(reclaim) if end > reclaim.from && !reclaim.destroy => {
                    self.reclaim_block(block.id(), reclaim)?
                }
                _ => return Ok(()),
            }
        }
    }

    /// Empties everything that is to be emptied.
    pub(super) fn reclaim_all(self: &Arc<Self>) -> Result<()> {
        while self.reclaim_step()? {}
        Ok(())
    }

    /// One step; whether there is more to do.
    pub(super) fn reclaim_step(self: &Arc<Self>) -> Result<bool> {
        let first = self.reclaims.read().first_key_value().map(|(id, reclaim)| (*id, *reclaim));
        if let Some((id, reclaim)) = first {
            self.reclaim_block(id, reclaim)?;
            return Ok(true);
        }
        self.snapshot_step()
    }

    fn reclaim_block(self: &Arc<Self>, id: BlockId, reclaim: Reclaim) -> Result<()> {
        // Both the background and a writer may be at it.
        let _one = self.reclaiming.lock();
        if self.reclaims.read().get(&id) != Some(&reclaim) {
            return Ok(());
        }
        // What was written before must be in the index: what lies beyond the cut is found there.
        self.commit()?;
        let mut transaction = Transaction::new(self.clone());
        transaction.only_while(id, reclaim);
        let block = self.block_even_dying(id)?;
        let first = Key::new(id, ItemKind::EXTENT, reclaim.from);
        let last = Key::new(id, ItemKind::EXTENT, u64::MAX);
        let (extents, all) = self.range_sealed(first, last, RECLAIM_STEP)?;
        let mut done = all;
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
        if done && reclaim.destroy {
            let (items, all) = self.range(
                Key::new(id, ItemKind(2), 0),
                Key::new(id, ItemKind(u8::MAX), u64::MAX),
                RECLAIM_STEP,
            )?;
            for (key, _) in items {
                transaction.put_system(key, Change::Delete);
            }
            done = all;
            if done {
                transaction.put_system(Key::new(id, ItemKind::HEADER, 0), Change::Delete);
            }
        }
        if done {
            transaction.put_system(Key::new(SYSTEM_BLOCK, ItemKind::RECLAIM, id), Change::Delete);
        }
        transaction.apply()?;
        // The cut must be in the index before the mask is taken away, or before it is looked at again.
        self.commit()?;
        if done {
            let item = Key::new(SYSTEM_BLOCK, ItemKind::RECLAIM, id);
            let layers = self.layers.write();
            // Unless a transaction put it anew.
            if !matches!(layers.in_memory(&item), Some(Some(_))) {
                self.reclaims.write().remove(&id);
            }
        }
        Ok(())
    }
}
