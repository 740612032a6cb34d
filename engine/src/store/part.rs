//! A store that is open for a writer of a part of it: what is refused before it is applied, so that each record that is made
//! counts for others too.
//!
//! Such a writer appends records and writes no checkpoint, since a superblock stands for everything. So the log fills up:
//! from some point on nothing more is taken, until a node of the owner has mounted the store.
//!
//! Invariants:
//! 1. Only what [`super::judge`] allows is applied, and each record is judged before it is written.
//! 2. What was applied has room in the log.

use std::sync::atomic::Ordering;

use super::batch::Change;
use super::capabilities::climb;
use super::judge::{Claims, Judgement, RefusedRecord, judge};
use super::layers::Layers;
use super::log::record_sectors;
use super::{Block, Core, Store};
use crate::error::{Error, Result};
use crate::format::{BlockId, ItemKind, Key, SYSTEM_BLOCK};

impl Store {
    /// The blocks below which whoever opened the store may write; `None`: everywhere, or nowhere.
    pub fn writes_below(&self) -> Option<&[BlockId]> {
        self.core.bounds.as_ref().map(|bounds| &bounds.tops[..])
    }

    /// The record that ended the log when the store was opened, if that was one without a right. It is gone, and so are
    /// those behind it.
    pub fn refused_record(&self) -> Option<&RefusedRecord> {
        self.core.refused.as_ref()
    }
}

impl Core {
    /// Whether a block may be changed by whoever opened the store.
    pub(super) fn is_in_bounds(&self, id: BlockId) -> bool {
        let Some(bounds) = &self.bounds else { return true };
        // One that is being made is in no layer yet.
        let home_of = |at| match self.open_blocks.get(at) {
            Some(block) => Ok(Some(block.home())),
            None => self.home_of(at),
        };
        climb(id, |at| bounds.tops.contains(&at), home_of).unwrap_or(false)
    }

    pub(super) fn check_bounds(&self, id: BlockId) -> Result<()> {
        if self.is_in_bounds(id) { Ok(()) } else { Err(Error::Outside) }
    }

    /// Whether a change of an item is one that whoever opened the store may make.
    pub(super) fn check_item(&self, key: &Key, change: &Change) -> Result<()> {
        if self.bounds.is_none() {
            return Ok(());
        }
        match (key.block, key.kind, change) {
            (SYSTEM_BLOCK, ItemKind::ORPHAN | ItemKind::RECLAIM | ItemKind::STALE, _)
            | (SYSTEM_BLOCK, ItemKind::LOST, Change::Delete) => self.check_bounds(key.offset),
            (SYSTEM_BLOCK, ..) => Err(Error::OwnersOnly),
            _ => self.check_bounds(key.block),
        }
    }

    /// As [`Core::check_item`], of a block that moves.
    pub(super) fn check_move(&self, block: &Block, home: BlockId) -> Result<()> {
        let is_top = self.bounds.as_ref().is_some_and(|bounds| bounds.tops.contains(&block.id()));
        if is_top && home != block.home() { Err(Error::Outside) } else { self.check_bounds(home) }
    }

    /// Fails where the log could not take what is pending and `weight` more, and nobody here empties it.
    pub(super) fn check_log(&self, layers: &Layers, weight: usize) -> Result<()> {
        if self.bounds.is_none() {
            return Ok(());
        }
        // Each may have to skip as much as it is long before the log wraps.
        let sealing = layers.sealing.as_ref().map_or(0, |batch| 2 * record_sectors(batch.weight));
        let pending = 2 * record_sectors(layers.pending.weight + weight);
        let used = self.log_head.load(Ordering::Acquire) - self.log_tail.load(Ordering::Acquire);
        let has_room = used + sealing + pending <= self.layout.log_sectors();
        if has_room { Ok(()) } else { Err(Error::LogFull) }
    }

    /// Judges a record as others will.
    pub(super) fn judge_own(&self, seq: u64, next_block: BlockId, time_ns: u64, body: &[u8]) -> Result<()> {
        let Some(bounds) = &self.bounds else { return Ok(()) };
        let claims = Claims { seq, next_block, time_ns, body };
        match judge(self, bounds, &claims) {
            Ok(_) => Ok(()),
            Err(Judgement::Unknown(error)) => Err(error),
            Err(Judgement::Refused(why)) => {
                tracing::error!("a record is not written, since others would refuse it: {why}");
                Err(Error::Outside)
            }
        }
    }
}
