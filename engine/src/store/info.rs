//! STAND-IN, so that the command line type-checks: what a store says about itself. The engine's author replaces it.

use super::Store;
use crate::error::Result;

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
    /// Between 0 and 1.
    pub node_cache_hit_rate: f64,
    pub block_cache_hit_rate: f64,
}

/// What a scrub found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubReport {
    pub sectors_checked: u64,
    /// Sectors that are not what was written.
    pub damaged: u64,
    /// Those of them that are whole again.
    pub repaired: u64,
    /// It ended early because `progress` said so.
    pub stopped: bool,
}

impl Store {
    pub fn info(&self) -> StoreInfo {
        unimplemented!()
    }

    /// Reads and verifies everything the store holds, while it is in use. `progress` gets the sectors done and the
    /// sectors in all, and answers whether to go on.
    pub fn scrub(&self, _progress: &dyn Fn(u64, u64) -> bool) -> Result<ScrubReport> {
        unimplemented!()
    }
}
