//! What a store says about itself.

use std::sync::atomic::Ordering;

use super::Store;
use crate::anchor::AnchorStatus;
use crate::crypto::hexadecimal;
use crate::format::FORMAT_VERSION;

/// What a store says about itself: nothing secret, all of it cheap to tell.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StoreInfo {
    /// Hexadecimal.
    pub store_id: String,
    pub format_version: u32,
    /// The id of the principal that every writecap chain starts from, hexadecimal.
    pub root_principal: String,
    /// What the store may grow to.
    pub capacity_sectors: u64,
    /// How long its volume is now.
    pub volume_sectors: u64,
    pub free_sectors: u64,
    pub used_sectors: u64,
    /// The log zone, and the part of it that holds records newer than the last checkpoint.
    pub log_sectors: u64,
    pub log_used_sectors: u64,
    /// Counts checkpoints.
    pub generation: u64,
    /// The newest record that is durable.
    pub seq: u64,
    /// How the store and its anchor stand to each other, where it was opened with one.
    pub anchor: Option<AnchorStatus>,
    /// Index nodes that were asked for since the store was opened.
    pub nodes_asked: u64,
    /// Those found in memory, of all: between 0 and 1, and 1 where none was asked for.
    pub node_cache_hit_rate: f64,
    /// The same of the keys of blocks, expanded.
    pub block_cache_hit_rate: f64,
    /// What stands under older keys of blocks, at most; and changes of keys that were begun and not ended.
    pub stale_sectors: u64,
    pub rotations: u64,
}

impl Store {
    /// What the store says about itself.
    pub fn info(&self) -> StoreInfo {
        let core = &self.core;
        let usage = core.usage();
        // One after the other: none of these locks is held with another.
        let appended = core.sealer.lock().appended;
        let volume_sectors = core.space.lock().volume_sectors();
        StoreInfo {
            store_id: hexadecimal(&core.keys.store_id),
            format_version: FORMAT_VERSION,
            root_principal: hexadecimal(&core.keys.root_principal),
            capacity_sectors: core.capacity_sectors,
            volume_sectors,
            free_sectors: usage.free,
            used_sectors: usage.used,
            log_sectors: core.layout.log_sectors(),
            log_used_sectors: appended.saturating_sub(core.log_tail.load(Ordering::Acquire)),
            generation: core.generation.load(Ordering::Acquire),
            seq: core.durable_seq.load(Ordering::Acquire),
            anchor: self.anchor(),
            nodes_asked: core.tree.cache_hits().count(),
            node_cache_hit_rate: core.tree.cache_hits().rate(),
            block_cache_hit_rate: core.open_blocks.hits().rate(),
            stale_sectors: self.stale().map_or(0, |stale| stale.sectors),
            rotations: self.rotations().map_or(0, |rotations| rotations.len() as u64),
        }
    }
}
