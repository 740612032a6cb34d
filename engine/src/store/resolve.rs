//! What a batch's data means for the index: which extents it cuts, shares and frees.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;

use zerocopy::{FromBytes, IntoBytes};

use super::layers::{Value, decode_extent};
use super::{Block, Core};
use crate::error::{Error, Result};
use crate::format::{BlockId, DeadBytes, Extent, ItemKind, Key, SYSTEM_BLOCK, SharedBytes};
use crate::limits::EXTENT_SECTORS_MAX;
use crate::space::Run;

/// Gathers the changes to the index that one record makes.
pub(super) struct Resolver<'a> {
    core: &'a Core,
    /// The record's sequence number.
    pub(super) seq: u64,
    pub(super) changes: BTreeMap<Key, Option<Value>>,
    pub(super) allocated: Vec<Run>,
    pub(super) freed: Vec<Run>,
    /// By how much the sectors of each block change.
    sectors: HashMap<BlockId, i64>,
}

/// Reads a shared item.
pub(crate) fn decode_shared(value: &[u8]) -> Option<(u32, u32)> {
    let shared = SharedBytes::read_from_bytes(value).ok()?;
    let (sectors, extents) = (shared.sectors.get(), shared.extents.get());
    (sectors > 0 && sectors as usize <= EXTENT_SECTORS_MAX && extents > 1).then_some((sectors, extents))
}

impl<'a> Resolver<'a> {
    pub(super) fn new(core: &'a Core, seq: u64) -> Self {
        Self {
            core,
            seq,
            changes: BTreeMap::new(),
            allocated: Vec::new(),
            freed: Vec::new(),
            sectors: HashMap::new(),
        }
    }

    /// A value as this record will leave it.
    pub(super) fn get(&self, key: &Key) -> Result<Option<Value>> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.core.find_sealed(key),
        }
    }

    /// The items from `from` to `to` as this record will leave them.
    fn range(&self, from: Key, to: Key) -> Result<Vec<(Key, Value)>> {
        let (items, all) = self.core.range_sealed(from, to, usize::MAX / 2)?;
        debug_assert!(all);
        if self.changes.range(from..=to).next().is_none() {
            return Ok(items);
        }
        let mut merged: BTreeMap<Key, Option<Value>> =
            items.into_iter().map(|(key, value)| (key, Some(value))).collect();
        merged.extend(self.changes.range(from..=to).map(|(key, value)| (*key, value.clone())));
        Ok(merged.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
    }

    /// Removes the sectors `from..to` of a block from the index.
    pub(super) fn cut(&mut self, id: BlockId, from: u64, to: u64) -> Result<()> {
        let first = Key::new(id, ItemKind::EXTENT, from.saturating_sub(EXTENT_SECTORS_MAX as u64 - 1));
        let last = Key::new(id, ItemKind::EXTENT, to - 1);
        for (key, value) in self.range(first, last)? {
            let extent = decode_extent(&value)?;
            let (start, end) = (key.offset, key.offset + extent.sectors());
            if end <= from {
                continue;
            }
            self.changes.insert(key, None);
            let is_whole =
                |edge: u64| edge <= start || edge >= end || (edge - start).is_multiple_of(extent.unit());
            if !is_whole(from) || !is_whole(to) {
                // Whoever cuts a unit describes it first.
                return Err(Error::Corrupt { what: "a unit that is cut", sector: extent.sector() });
            }
            if start < from {
                self.put(id, start, &extent.slice(0, from - start));
            }
            if end > to {
                self.put(id, to, &extent.slice(to - start, end - to));
            }
            let (dead_from, dead_to) = (from.max(start), to.min(end));
            self.release(&extent, dead_from - start, dead_to - dead_from)?;
            *self.sectors.entry(id).or_default() -= (dead_to - dead_from) as i64;
        }
        Ok(())
    }

    /// Gives each sector of a unit a hash of its own, if the unit is still there.
    pub(super) fn describe(&mut self, id: BlockId, start: u64, finer: &Extent) -> Result<()> {
        let first = Key::new(id, ItemKind::EXTENT, start.saturating_sub(EXTENT_SECTORS_MAX as u64 - 1));
        let last = Key::new(id, ItemKind::EXTENT, start);
        let Some((key, value)) = self.range(first, last)?.into_iter().next_back() else { return Ok(()) };
        let extent = decode_extent(&value)?;
        let from = start - key.offset;
        let to = from + finer.sectors();
        let is_same = extent.header.nonce == finer.header.nonce
            && extent.sector() + from == finer.sector()
            && to <= extent.sectors();
        if !is_same || extent.unit() == 1 {
            return Ok(());
        }
        let mut middle = extent.slice(from, finer.sectors());
        middle.header.unit_log2 = 0;
        middle.hashes.clone_from(&finer.hashes);
        if from > 0 {
            self.put(id, key.offset, &extent.slice(0, from));
        }
        self.put(id, start, &middle);
        if to < extent.sectors() {
            self.put(id, key.offset + to, &extent.slice(to, extent.sectors() - to));
        }
        Ok(())
    }

    /// Adds an extent where nothing is.
    pub(super) fn put_extent(&mut self, id: BlockId, start: u64, extent: &Extent) {
        self.put(id, start, extent);
        *self.sectors.entry(id).or_default() += extent.sectors() as i64;
    }

    fn put(&mut self, id: BlockId, start: u64, extent: &Extent) {
        self.changes.insert(Key::new(id, ItemKind::EXTENT, start), Some(extent.encode().into()));
    }

    /// One more extent refers to these sectors; so far it was those from `source` on. Returns their birth, which who
    /// cloned what was still on its way did not know.
    pub(super) fn share(&mut self, extent: &Extent, source: (BlockId, u64)) -> Result<u64> {
        let mut birth = extent.birth();
        let (sector, end) = (extent.sector(), extent.sector() + extent.sectors());
        let first =
            Key::new(source.0, ItemKind::EXTENT, source.1.saturating_sub(EXTENT_SECTORS_MAX as u64 - 1));
        // More than one where a unit in the middle was described anew.
        let last = Key::new(source.0, ItemKind::EXTENT, source.1 + extent.sectors() - 1);
        for (key, value) in self.range(first, last)? {
            let mut original = decode_extent(&value)?;
            let overlaps = original.sector() < end && sector < original.sector() + original.sectors();
            if !overlaps || original.header.nonce != extent.header.nonce {
                continue;
            }
            birth = original.birth();
            // Of a writer of a part, the source bears witness that these sectors are its own.
            if !original.is_shared() || self.core.bounds.is_some() {
                original.set_shared();
                self.put(key.block, key.offset, &original);
            }
        }
        self.count(sector, extent.sectors(), 1)?;
        Ok(birth)
    }

    /// A part of an extent is gone: frees its sectors unless another extent or a snapshot still needs them.
    fn release(&mut self, extent: &Extent, from: u64, sectors: u64) -> Result<()> {
        let sector = extent.sector() + from;
        let dead =
            if extent.is_shared() { self.count(sector, sectors, -1)? } else { vec![Run { sector, sectors }] };
        for run in dead {
            self.free(run, extent.birth());
        }
        Ok(())
    }

    /// Frees sectors that no extent of the index refers to any more.
    pub(super) fn free(&mut self, run: Run, birth: u64) {
        match self.core.snapshots.lock().pin(birth) {
            Some(snapshot) => {
                let dead = DeadBytes { sectors: run.sectors.into(), birth: birth.into() };
                let key = Key::new(snapshot, ItemKind::DEAD, run.sector);
                self.changes.insert(key, Some(dead.as_bytes().into()));
            }
            None => self.freed.push(run),
        }
    }

    /// Changes by one the number of extents that refer to each of these sectors; returns those without any.
    fn count(&mut self, sector: u64, sectors: u64, by: i32) -> Result<Vec<Run>> {
        let first = sector.saturating_sub(EXTENT_SECTORS_MAX as u64 - 1);
        let key = |sector| Key::new(SYSTEM_BLOCK, ItemKind::SHARED, sector);
        let end = sector + sectors;
        let corrupt = Error::Corrupt { what: "shared count", sector };
        let mut dead = Vec::new();
        let mut at = sector;
        let known = self.range(key(first), key(end - 1))?;
        let put = |changes: &mut BTreeMap<Key, Option<Value>>, from: u64, to: u64, extents: u32| {
            if extents > 1 && from < to {
                let shared = SharedBytes { sectors: ((to - from) as u32).into(), extents: extents.into() };
                changes.insert(key(from), Some(shared.as_bytes().into()));
            }
        };
        for (entry, value) in known {
            let Some((length, extents)) = decode_shared(&value) else { return Err(corrupt) };
            let (from, to) = (entry.offset, entry.offset + u64::from(length));
            if to <= sector {
                continue;
            }
            // Before this entry, sectors that one extent refers to.
            if from > at {
                if by > 0 {
                    put(&mut self.changes, at, from, 2);
                } else {
                    dead.push(Run { sector: at, sectors: from - at });
                }
            }
            let (cut_from, cut_to) = (from.max(sector), to.min(end));
            self.changes.insert(entry, None);
            put(&mut self.changes, from, cut_from, extents);
            put(&mut self.changes, cut_from, cut_to, extents.wrapping_add_signed(by));
            put(&mut self.changes, cut_to, to, extents);
            at = cut_to;
        }
        if at < end {
            if by > 0 {
                put(&mut self.changes, at, end, 2);
            } else {
                dead.push(Run { sector: at, sectors: end - at });
            }
        }
        Ok(dead)
    }

    /// Applies the change in sectors to the open blocks.
    pub(super) fn settle_sectors(&self, blocks: &HashMap<BlockId, Block>) {
        for (id, by) in &self.sectors {
            if let Some(block) = blocks.get(id) {
                block.0.sectors.fetch_add(*by as u64, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn sectors_changed(&self, id: BlockId) -> bool {
        self.sectors.get(&id).is_some_and(|by| *by != 0)
    }
}
