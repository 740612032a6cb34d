//! The space table on disk: see [`crate::format::SpaceTable`].

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

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

/// A table as of a checkpoint: its top, and the table sectors that were read or changed.
#[derive(Clone)]
pub(crate) struct Table {
    top: SpaceEntry,
    /// The lowest table sectors, by index: they name the bitmaps. All are kept: 4 KiB for 12.5 GiB.
    leaves: BTreeMap<u64, SpaceTable>,
}

impl Table {
    /// The table of a store in which nothing was ever allocated.
    pub(crate) fn empty() -> Self {
        Self { top: SpaceEntry::new_zeroed(), leaves: BTreeMap::new() }
    }

    /// Reads and verifies the table that a superblock names.
    pub(crate) fn read(
        device: &dyn Device,
        top: SpaceEntry,
        volume_sectors: u64,
    ) -> Result<Self, TableError> {
        let mut leaves = BTreeMap::new();
        read_below(device, SPACE_LEVELS, 0, &top, volume_sectors, &mut leaves)?;
        Ok(Self { top, leaves })
    }

    /// What a superblock names.
    pub(crate) fn top(&self) -> SpaceEntry {
        self.top
    }

    /// Calls `visit` for each region that has a bitmap.
    pub(crate) fn visit_regions(&self, mut visit: impl FnMut(u64, &SpaceEntry)) -> Result<(), TableError> {
        for (leaf, table) in &self.leaves {
            for (place, entry) in table.entries.iter().enumerate() {
                if !is_absent(entry) {
                    visit(leaf * SPACE_FANOUT as u64 + place as u64, entry);
                }
            }
        }
        Ok(())
    }

    /// The bitmap of a region, as of the checkpoint.
    pub(crate) fn read_bitmap(&self, device: &dyn Device, region: u64) -> Result<Bitmap, TableError> {
        match self.entry(region) {
            Some(entry) => Ok(Bitmap::from_bytes(&read_home(device, 0, region, &entry)?)),
            None => Ok(Bitmap::empty()),
        }
    }

    /// Every sector of the table itself that holds something, and what it must hash to.
    pub(crate) fn homes(&self) -> Vec<(u64, SpaceEntry)> {
        let mut homes = Vec::new();
        let _ =
            self.visit_regions(|region, entry| homes.push((SpaceTable::home(0, region, entry.slot), *entry)));
        homes
    }

    fn entry(&self, region: u64) -> Option<SpaceEntry> {
        let table = self.leaves.get(&(region / SPACE_FANOUT as u64))?;
        let entry = table.entries[region as usize % SPACE_FANOUT];
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
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => entry.insert(self.read_bitmap(device, region)?),
                };
                if !bitmap.set_range(sector - start, part, delta.used) {
                    return Err(TableError::Inconsistent { sector });
                }
                sector += part;
            }
        }
        let mut table = self.clone();
        let mut writes = Vec::new();
        let mut changed = BTreeMap::new();
        for (region, bitmap) in bitmaps {
            let (start, end) = (region * REGION_SECTORS, volume_sectors.min((region + 1) * REGION_SECTORS));
            let usable = first_usable(layout, region);
            let reserve = reserve(layout, region, volume_sectors);
            let mut bytes = device.buffer(1);
            bitmap.write_bytes(&mut bytes);
            let entry = SpaceEntry {
                hash: hash(&bytes),
                free: (bitmap.count_free(usable - start, end - usable) as u16).into(),
                free_reserve: (bitmap.count_free(reserve.sector - start, reserve.sectors) as u16).into(),
                slot: self.entry(region).map_or(0, |old| 1 - old.slot),
                reserved: [0; 3],
            };
            writes.push(Write { sector: SpaceTable::home(0, region, entry.slot), bytes });
            changed.insert(region, entry);
        }
        for level in 1..=SPACE_LEVELS {
            changed = table.write_level(device, level, changed, &mut writes)?;
        }
        if let Some(top) = changed.remove(&0) {
            table.top = top;
        }
        Ok((table, writes))
    }

    /// Writes the table sectors of a level whose entries changed; returns their own new entries.
    fn write_level(
        &mut self,
        device: &dyn Device,
        level: usize,
        changed: BTreeMap<u64, SpaceEntry>,
        writes: &mut Vec<Write>,
    ) -> Result<BTreeMap<u64, SpaceEntry>, TableError> {
        let mut tables: BTreeMap<u64, SpaceTable> = BTreeMap::new();
        for (index, entry) in changed {
            let parent = index / SPACE_FANOUT as u64;
            let table = match tables.entry(parent) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(self.table_sector(device, level, parent)?),
            };
            table.entries[index as usize % SPACE_FANOUT] = entry;
        }
        let mut entries = BTreeMap::new();
        for (index, table) in tables {
            let old = self.entry_above(device, level, index)?;
            let mut bytes = device.buffer(1);
            bytes.copy_from_slice(table.as_bytes());
            let mut entry = SpaceEntry::new_zeroed();
            entry.hash = hash(&bytes);
            entry.slot = old.map_or(0, |old| 1 - old.slot);
            writes.push(Write { sector: SpaceTable::home(level, index, entry.slot), bytes });
            entries.insert(index, entry);
            if level == 1 {
                self.leaves.insert(index, table);
            }
        }
        Ok(entries)
    }

    /// A table sector as of this table; empty where there was none.
    fn table_sector(&self, device: &dyn Device, level: usize, index: u64) -> Result<SpaceTable, TableError> {
        if level == 1 {
            return Ok(self.leaves.get(&index).cloned().unwrap_or_else(SpaceTable::new_zeroed));
        }
        match self.entry_above(device, level, index)? {
            Some(entry) => read_table(device, level, index, &entry),
            None => Ok(SpaceTable::new_zeroed()),
        }
    }

    /// The entry that names a table sector.
    fn entry_above(
        &self,
        device: &dyn Device,
        level: usize,
        index: u64,
    ) -> Result<Option<SpaceEntry>, TableError> {
        let mut entry = self.top;
        for above in (level + 1..=SPACE_LEVELS).rev() {
            if is_absent(&entry) {
                return Ok(None);
            }
            let at = index / (SPACE_FANOUT as u64).pow((above - level) as u32);
            let below = index / (SPACE_FANOUT as u64).pow((above - level - 1) as u32);
            entry = read_table(device, above, at, &entry)?.entries[below as usize % SPACE_FANOUT];
        }
        Ok((!is_absent(&entry)).then_some(entry))
    }
}

fn is_absent(entry: &SpaceEntry) -> bool {
    entry.hash == [0; 32]
}

fn read_below(
    device: &dyn Device,
    level: usize,
    index: u64,
    entry: &SpaceEntry,
    volume_sectors: u64,
    leaves: &mut BTreeMap<u64, SpaceTable>,
) -> Result<(), TableError> {
    if is_absent(entry) {
        return Ok(());
    }
    if SpaceTable::home(level, index, 1) >= volume_sectors {
        return Err(TableError::Corrupt { sector: SpaceTable::home(level, index, 0) });
    }
    let table = read_table(device, level, index, entry)?;
    if level == 1 {
        let sector = SpaceTable::home(level, index, entry.slot);
        for (place, entry) in table.entries.iter().enumerate() {
            let region = index * SPACE_FANOUT as u64 + place as u64;
            let beyond = region * REGION_SECTORS >= volume_sectors;
            if !is_absent(entry) && (beyond || entry.slot > 1 || entry.free_reserve > entry.free) {
                return Err(TableError::Corrupt { sector });
            }
        }
        leaves.insert(index, table);
        return Ok(());
    }
    for (place, entry) in table.entries.iter().enumerate() {
        read_below(
            device,
            level - 1,
            index * SPACE_FANOUT as u64 + place as u64,
            entry,
            volume_sectors,
            leaves,
        )?;
    }
    Ok(())
}

fn read_table(
    device: &dyn Device,
    level: usize,
    index: u64,
    entry: &SpaceEntry,
) -> Result<SpaceTable, TableError> {
    let bytes = read_home(device, level, index, entry)?;
    Ok(SpaceTable::read_from_bytes(&bytes).expect("a table is a sector"))
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
