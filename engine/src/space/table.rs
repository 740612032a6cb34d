//! The space table on disk: see [`crate::format::SpaceTable`].

use std::collections::{BTreeMap, BTreeSet};

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::{Bitmap, Delta, first_usable, reserve};
use crate::crypto::hash;
use crate::device::{Device, Read, Write};
use crate::format::{Layout, SpaceEntry, SpaceTable};
use crate::limits::{REGION_SECTORS, SPACE_FANOUT, SPACE_LEVELS};

/// Why space is not known.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("cannot read the space table at sector {sector}")]
    Read { sector: u64, source: std::io::Error },
    #[error("the space table at sector {sector} is corrupt")]
    Corrupt { sector: u64 },
    #[error("sector {sector} is used and free at once")]
    Inconsistent { sector: u64 },
}

/// A table as of a checkpoint. All of it but the bitmaps is in memory: 4 KiB for 12.5 GiB.
#[derive(Clone)]
pub(crate) struct Table {
    top: SpaceEntry,
    /// The table sectors, by level (1 to [`SPACE_LEVELS`]) and index; the lowest name the bitmaps.
    tables: BTreeMap<(usize, u64), SpaceTable>,
}

impl Table {
    /// The table of a store in which nothing was ever allocated.
    pub(crate) fn empty() -> Self {
        Self { top: SpaceEntry::new_zeroed(), tables: BTreeMap::new() }
    }

    /// Reads and verifies the table that a superblock names.
    pub(crate) fn read(
        device: &dyn Device,
        top: SpaceEntry,
        volume_sectors: u64,
    ) -> Result<Self, TableError> {
        let (table, damage) = Self::read_what_is_whole(device, top, volume_sectors);
        damage.into_iter().next().map_or(Ok(table), Err)
    }

    /// As [`Table::read`], but leaves out what is damaged, and everything below it.
    pub(crate) fn read_what_is_whole(
        device: &dyn Device,
        top: SpaceEntry,
        volume_sectors: u64,
    ) -> (Self, Vec<TableError>) {
        let mut table = Self { top, tables: BTreeMap::new() };
        let mut damage = Vec::new();
        table.read_below(device, SPACE_LEVELS, 0, &top, volume_sectors, &mut damage);
        (table, damage)
    }

    fn read_below(
        &mut self,
        device: &dyn Device,
        level: usize,
        index: u64,
        entry: &SpaceEntry,
        volume_sectors: u64,
        damage: &mut Vec<TableError>,
    ) {
        if is_absent(entry) {
            return;
        }
        let table = match read_table(device, level, index, entry, volume_sectors) {
            Ok(table) => table,
            Err(error) => return damage.push(error),
        };
        for (place, entry) in table.entries.iter().enumerate().filter(|_| level > 1) {
            let below = index * SPACE_FANOUT as u64 + place as u64;
            self.read_below(device, level - 1, below, entry, volume_sectors, damage);
        }
        self.tables.insert((level, index), table);
    }

    /// What a superblock names.
    pub(crate) fn top(&self) -> SpaceEntry {
        self.top
    }

    /// Calls `visit` for each region that has a bitmap.
    pub(crate) fn visit_regions(&self, mut visit: impl FnMut(u64, &SpaceEntry)) {
        for ((_, leaf), table) in self.tables.range((1, 0)..(2, 0)) {
            for (place, entry) in table.entries.iter().enumerate() {
                if !is_absent(entry) {
                    visit(leaf * SPACE_FANOUT as u64 + place as u64, entry);
                }
            }
        }
    }

    /// The bitmap of a region, as of the checkpoint.
    pub(crate) fn read_bitmap(&self, device: &dyn Device, region: u64) -> Result<Bitmap, TableError> {
        match self.entry(0, region) {
            Some(entry) => Ok(Bitmap::from_bytes(&read_home(device, 0, region, &entry)?)),
            None => Ok(Bitmap::empty()),
        }
    }

    /// Every sector of the table itself that holds something, at all levels, and what it must hash to.
    pub(crate) fn homes(&self) -> Vec<(u64, SpaceEntry)> {
        let mut homes = Vec::new();
        if !is_absent(&self.top) {
            homes.push((SpaceTable::home(SPACE_LEVELS, 0, self.top.slot.min(1)), self.top));
        }
        for ((level, index), table) in &self.tables {
            for (place, entry) in table.entries.iter().enumerate().filter(|(_, entry)| !is_absent(entry)) {
                let below = index * SPACE_FANOUT as u64 + place as u64;
                homes.push((SpaceTable::home(level - 1, below, entry.slot.min(1)), *entry));
            }
        }
        homes
    }

    /// The entry that names the bitmap (level 0) or table sector with this index at its level.
    pub(crate) fn entry(&self, level: usize, index: u64) -> Option<SpaceEntry> {
        let entry = if level == SPACE_LEVELS {
            self.top
        } else {
            let table = self.tables.get(&(level + 1, index / SPACE_FANOUT as u64))?;
            table.entries[index as usize % SPACE_FANOUT]
        };
        (!is_absent(&entry)).then_some(entry)
    }

    /// The table that results from `deltas`, written to the homes that this one does not use.
    pub(crate) fn apply(
        &self,
        device: &dyn Device,
        layout: Layout,
        volume_sectors: u64,
        deltas: &[Delta],
    ) -> Result<(Self, Vec<Write>), TableError> {
        let mut bitmaps: BTreeMap<u64, Bitmap> = BTreeMap::new();
        for delta in deltas {
            let (mut sector, end) = (delta.run.sector, delta.run.sector + delta.run.sectors);
            while sector < end {
                let region = sector / REGION_SECTORS;
                let start = region * REGION_SECTORS;
                let part = end.min(start + REGION_SECTORS) - sector;
                let bitmap = match bitmaps.entry(region) {
                    std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        entry.insert(self.read_bitmap(device, region)?)
                    }
                };
                if !bitmap.set_range(sector - start, part, delta.used) {
                    return Err(TableError::Inconsistent { sector });
                }
                sector += part;
            }
        }
        let bitmaps = bitmaps.iter().map(|(region, bitmap)| (*region, bitmap));
        Ok(self.with_bitmaps(device, layout, volume_sectors, bitmaps))
    }

    /// The table with these bitmaps instead of its own, and the writes that make it, to the homes that this one
    /// does not use.
    pub(crate) fn with_bitmaps<'a>(
        &self,
        device: &dyn Device,
        layout: Layout,
        volume_sectors: u64,
        bitmaps: impl Iterator<Item = (u64, &'a Bitmap)>,
    ) -> (Self, Vec<Write>) {
        let mut table = self.clone();
        let mut writes = Vec::new();
        let mut changed = BTreeMap::new();
        for (region, bitmap) in bitmaps {
            let mut bytes = device.buffer(1);
            bitmap.write_bytes(&mut bytes);
            let (free, free_reserve) = count_free(layout, region, volume_sectors, bitmap);
            let entry = SpaceEntry {
                hash: hash(&bytes),
                free: (free as u16).into(),
                free_reserve: (free_reserve as u16).into(),
                slot: self.entry(0, region).map_or(0, other_slot),
                reserved: [0; 3],
            };
            writes.push(Write { sector: SpaceTable::home(0, region, entry.slot), bytes });
            changed.insert(region, entry);
        }
        for level in 1..=SPACE_LEVELS {
            changed = table.write_level(device, level, changed, &mut writes);
        }
        if let Some(top) = changed.remove(&0) {
            table.top = top;
        }
        (table, writes)
    }

    /// Writes the table sectors of a level whose entries changed; returns their own new entries.
    fn write_level(
        &mut self,
        device: &dyn Device,
        level: usize,
        changed: BTreeMap<u64, SpaceEntry>,
        writes: &mut Vec<Write>,
    ) -> BTreeMap<u64, SpaceEntry> {
        let parents: BTreeSet<u64> = changed.keys().map(|index| index / SPACE_FANOUT as u64).collect();
        // The entries above are still those of the old table.
        let slots = parents.iter().map(|index| (*index, self.entry(level, *index).map_or(0, other_slot)));
        let slots: Vec<(u64, u8)> = slots.collect();
        for (index, entry) in changed {
            let place = (level, index / SPACE_FANOUT as u64);
            let table = self.tables.entry(place).or_insert_with(SpaceTable::new_zeroed);
            table.entries[index as usize % SPACE_FANOUT] = entry;
        }
        let mut entries = BTreeMap::new();
        for (index, slot) in slots {
            let mut bytes = device.buffer(1);
            bytes.copy_from_slice(self.tables[&(level, index)].as_bytes());
            let mut entry = SpaceEntry::new_zeroed();
            entry.hash = hash(&bytes);
            entry.slot = slot;
            writes.push(Write { sector: SpaceTable::home(level, index, slot), bytes });
            entries.insert(index, entry);
        }
        entries
    }
}

/// The free sectors of a region, and those of them that are in its reserve.
pub(crate) fn count_free(layout: Layout, region: u64, volume_sectors: u64, bitmap: &Bitmap) -> (u64, u64) {
    let (start, end) = (region * REGION_SECTORS, volume_sectors.min((region + 1) * REGION_SECTORS));
    let usable = first_usable(layout, region).min(end);
    let reserve = reserve(layout, region, volume_sectors);
    let free_reserve = bitmap.count_free(reserve.sector - start, reserve.sectors);
    (bitmap.count_free(usable - start, end - usable), free_reserve)
}

fn is_absent(entry: &SpaceEntry) -> bool {
    entry.hash == [0; 32]
}

/// Where the next version of what an entry names goes.
fn other_slot(entry: SpaceEntry) -> u8 {
    1 - entry.slot.min(1)
}

/// Reads a table sector and checks what it says of those below.
fn read_table(
    device: &dyn Device,
    level: usize,
    index: u64,
    entry: &SpaceEntry,
    volume_sectors: u64,
) -> Result<SpaceTable, TableError> {
    let corrupt = TableError::Corrupt { sector: SpaceTable::home(level, index, entry.slot.min(1)) };
    if SpaceTable::home(level, index, 1) >= volume_sectors {
        return Err(corrupt);
    }
    let bytes = read_home(device, level, index, entry)?;
    let table = SpaceTable::read_from_bytes(&bytes).expect("a table is a sector");
    let regions_each = (SPACE_FANOUT as u64).pow(level as u32 - 1);
    for (place, entry) in table.entries.iter().enumerate() {
        let first = (index * SPACE_FANOUT as u64 + place as u64) * regions_each;
        let beyond = first * REGION_SECTORS >= volume_sectors;
        if !is_absent(entry) && (beyond || entry.slot > 1 || entry.free_reserve > entry.free) {
            return Err(corrupt);
        }
    }
    Ok(table)
}

fn read_home(
    device: &dyn Device,
    level: usize,
    index: u64,
    entry: &SpaceEntry,
) -> Result<crate::device::SectorBuf, TableError> {
    let sector = SpaceTable::home(level, index, entry.slot.min(1));
    let mut bytes = device.buffer(1);
    device
        .read(&mut [Read { sector, bytes: &mut bytes }])
        .map_err(|source| TableError::Read { sector, source })?;
    if entry.slot > 1 || hash(&bytes) != entry.hash {
        return Err(TableError::Corrupt { sector });
    }
    Ok(bytes)
}
