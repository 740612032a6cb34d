//! The layer of space: which sectors are free.
//!
//! [`Space`] is the live allocator: what it calls used is in use by data or index, on its way there, or was
//! freed by a change that is not yet safe to build on. [`table`] is the same knowledge as of a checkpoint, on
//! disk. Bitmaps are read when an allocation first needs their region, so that opening a large store is as
//! quick as opening a small one.
//!
//! Invariants:
//! 1. A sector is handed out only when its bit is clear, and its bit is set in the same step.
//! 2. Data never takes a region's reserve, nor the last free slots for nodes outside it: whatever fills the store, and
//!    however fragmented its free space is, index nodes have room left, so that deleting always works.

mod bitmap;
mod refusals;
mod table;

use std::sync::Arc;

pub(crate) use bitmap::Bitmap;
pub use refusals::Refusals;
pub(crate) use table::{Table, TableError, count_free};

use crate::device::Device;
use crate::format::Layout;
use crate::limits::{
    FULL_STORE_NODES, NODE_SECTORS, REGION_HEADER_SECTORS, REGION_NODE_SECTORS, REGION_SECTORS,
};

/// A run of sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    pub(crate) sector: u64,
    pub(crate) sectors: u64,
}

/// A run that changed hands, in the order in which it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) run: Run,
    pub(crate) used: bool,
}

#[derive(Debug, Default)]
struct Region {
    /// Free sectors outside and inside the reserve.
    free: u32,
    free_reserve: u32,
    /// Wholly free slots for nodes outside the reserve; known once the bitmap is.
    slots: u32,
    bitmap: Option<Box<Bitmap>>,
    /// No run of [`LONG_RUN`] was found since the last time something was freed here.
    fragmented: bool,
}

/// Bulk data looks for runs of at least this many sectors before it takes shorter ones.
const LONG_RUN: u64 = 8;

/// The live allocator.
pub(crate) struct Space {
    device: Arc<dyn Device>,
    table: Table,
    layout: Layout,
    volume_sectors: u64,
    regions: Vec<Region>,
    free: u64,
    free_reserve: u64,
    /// Of all regions whose bitmap is known.
    slots: u64,
    /// Promised to transactions, not yet allocated.
    promised: u64,
    /// Sectors from here on were never written.
    written: u64,
    /// Where the next search starts: for bulk data, for small writes, and for nodes.
    data_cursor: u64,
    small_cursor: u64,
    node_cursor: u64,
    refusals: Option<Arc<Refusals>>,
}

/// Space that small writes take is written ahead by this much.
const WRITE_AHEAD_SECTORS: u64 = 256;

impl Space {
    /// Starts from a table, on a volume of this length.
    pub(crate) fn load(
        device: Arc<dyn Device>,
        table: Table,
        layout: Layout,
        volume_sectors: u64,
        written: u64,
    ) -> Result<Self, TableError> {
        let mut space = Self {
            device,
            table,
            layout,
            volume_sectors: 0,
            regions: Vec::new(),
            free: 0,
            free_reserve: 0,
            slots: 0,
            promised: 0,
            written,
            data_cursor: 0,
            small_cursor: 0,
            node_cursor: 0,
            refusals: None,
        };
        space.lengthen(volume_sectors);
        space.table.visit_regions(|index, entry| {
            if let Some(region) = space.regions.get_mut(index as usize) {
                space.free -= u64::from(region.free);
                space.free_reserve -= u64::from(region.free_reserve);
                region.free_reserve = u32::from(entry.free_reserve.get());
                region.free = u32::from(entry.free.get()).saturating_sub(region.free_reserve);
                space.free += u64::from(region.free);
                space.free_reserve += u64::from(region.free_reserve);
            }
        });
        Ok(space)
    }

    /// From now on refuses what these say.
    pub(crate) fn refuse(&mut self, refusals: Option<Arc<Refusals>>) {
        self.refusals = refusals;
    }

    fn is_refused(&self) -> bool {
        self.refusals.as_ref().is_some_and(|refusals| refusals.strikes())
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// A checkpoint wrote this table.
    pub(crate) fn set_table(&mut self, table: Table) {
        self.table = table;
    }

    pub(crate) fn volume_sectors(&self) -> u64 {
        self.volume_sectors
    }

    /// Takes a region's bitmap as it is given here, whatever the table says.
    pub(crate) fn set_bitmap(&mut self, index: usize, bitmap: Bitmap) {
        if self.regions[index].bitmap.is_none() {
            self.take_bitmap(index, bitmap);
        }
    }

    /// Sectors that data and index take.
    pub(crate) fn in_use(&self) -> u64 {
        let usable = (0..self.regions.len()).map(|index| {
            let end = self.volume_sectors.min((index as u64 + 1) * REGION_SECTORS);
            end.saturating_sub(self.first_usable(index))
        });
        usable.sum::<u64>().saturating_sub(self.free + self.free_reserve)
    }

    /// Sectors from here on were never written.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Data sectors that may still be promised.
    pub(crate) fn available(&self) -> u64 {
        self.free.saturating_sub(self.promised)
    }

    /// Nodes that can still be allocated once all promises are kept; there may be more where there are `enough`.
    pub(crate) fn available_nodes(&mut self, enough: u64) -> Result<u64, TableError> {
        if self.is_refused() {
            return Ok(0);
        }
        self.nodes_left(self.promised, enough)
    }

    /// Promises sectors to a transaction, if there are so many, and if enough are left for the nodes that removing
    /// takes.
    pub(crate) fn promise(&mut self, sectors: u64) -> Result<bool, TableError> {
        let granted = !self.is_refused()
            && sectors <= self.available()
            && self.nodes_left(self.promised + sectors, FULL_STORE_NODES)? >= FULL_STORE_NODES;
        if granted {
            self.promised += sectors;
        }
        Ok(granted)
    }

    /// Nodes that can be allocated after `taken` more sectors of data; there may be more where there are `enough`.
    fn nodes_left(&mut self, taken: u64, enough: u64) -> Result<u64, TableError> {
        let broken = slots_broken(taken);
        let slots = self.free_slots(enough + broken)?;
        if slots >= enough + broken {
            return Ok(slots - broken);
        }
        // Then data takes what no node can use, as long as there is some.
        let partial = self.free - self.slots * NODE_SECTORS as u64;
        Ok(slots.saturating_sub(taken.saturating_sub(partial).div_ceil(NODE_SECTORS as u64)))
    }

    /// The free slots for nodes, or at least `enough` of them: bitmaps are read only where those known do not suffice.
    fn free_slots(&mut self, enough: u64) -> Result<u64, TableError> {
        let known = |space: &Self| space.free_reserve / NODE_SECTORS as u64 + space.slots;
        for index in 0..self.regions.len() {
            if known(self) >= enough {
                break;
            }
            let region = &self.regions[index];
            if region.bitmap.is_none() && u64::from(region.free) >= NODE_SECTORS as u64 {
                self.bitmap(index)?;
            }
        }
        Ok(known(self))
    }

    /// Whether data must leave whole slots to the nodes while there is anything else.
    fn is_scarce(&mut self) -> Result<bool, TableError> {
        let wanted = FULL_STORE_NODES + slots_broken(self.promised);
        Ok(self.free_slots(wanted)? < wanted)
    }

    /// Takes back a promise.
    pub(crate) fn release_promise(&mut self, sectors: u64) {
        self.promised = self.promised.checked_sub(sectors).expect("a promise is released once");
    }

    /// The volume is this long now.
    pub(crate) fn lengthen(&mut self, volume_sectors: u64) {
        assert!(volume_sectors >= self.volume_sectors);
        let old = self.volume_sectors;
        self.volume_sectors = volume_sectors;
        let count = volume_sectors.div_ceil(REGION_SECTORS) as usize;
        let first = (old / REGION_SECTORS) as usize;
        self.regions.resize_with(count, Region::default);
        for index in first..count {
            let start = index as u64 * REGION_SECTORS;
            let added = Run {
                sector: old.max(self.first_usable(index)),
                sectors: volume_sectors
                    .min(start + REGION_SECTORS)
                    .saturating_sub(old.max(self.first_usable(index))),
            };
            if added.sectors == 0 {
                continue;
            }
            let reserve_end = self.reserve(index).sector + self.reserve(index).sectors;
            let in_reserve = reserve_end.min(added.sector + added.sectors).saturating_sub(added.sector);
            let region = &mut self.regions[index];
            region.free_reserve += in_reserve as u32;
            region.free += (added.sectors - in_reserve) as u32;
            region.fragmented = false;
            self.free_reserve += in_reserve;
            self.free += added.sectors - in_reserve;
            if let Some(bitmap) = &mut region.bitmap {
                bitmap.set_range(added.sector - start, added.sectors, false);
                let data = reserve_end - start;
                let slots = bitmap.count_free_groups(data, REGION_SECTORS - data, NODE_SECTORS as u64);
                self.slots = self.slots - u64::from(region.slots) + slots;
                region.slots = slots as u32;
            }
        }
    }

    /// Allocates data sectors in runs of at most `run_max`. Together they are as many as were asked for. Long ones begin
    /// where the device prefers it, while free space allows that.
    /// The caller holds a promise for them, which this uses up.
    pub(crate) fn allocate(&mut self, sectors: u64, run_max: u64) -> Result<Vec<Run>, TableError> {
        assert!(sectors <= self.promised && sectors <= self.free);
        let mut runs = Vec::new();
        let mut missing = sectors;
        let mut partial = self.is_scarce()?;
        let mut run_min = if partial { 1 } else { LONG_RUN.min(sectors) };
        let mut looked_at = 0;
        let preferred = self.device.preferred_sectors();
        while missing > 0 {
            let wanted = missing.min(run_max);
            // What this leaves free, small writes take.
            if wanted >= preferred && run_min > 1 {
                self.data_cursor = self.data_cursor.next_multiple_of(preferred);
            }
            let index = (self.data_cursor / REGION_SECTORS) as usize;
            let worth_it = self.regions.get(index).is_some_and(|region| {
                u64::from(region.free) >= run_min && !(region.fragmented && run_min == LONG_RUN)
            });
            let found = match (worth_it, partial) {
                (true, true) => self.find_partial(index, self.data_cursor, wanted)?,
                (true, false) => self.find(index, self.data_cursor, wanted, run_min)?,
                (false, _) => None,
            };
            match found {
                Some(run) => {
                    self.mark(run, true)?;
                    self.data_cursor = run.sector + run.sectors;
                    self.written = self.written.max(self.data_cursor);
                    missing -= run.sectors;
                    // The promise shrinks with what it was for.
                    self.promised -= run.sectors;
                    runs.push(run);
                }
                None => {
                    if worth_it && run_min == LONG_RUN && self.data_cursor.is_multiple_of(REGION_SECTORS) {
                        self.regions[index].fragmented = true;
                    }
                    looked_at += 1;
                    let next = (index + 1) % self.regions.len();
                    self.data_cursor = next as u64 * REGION_SECTORS;
                    if looked_at > self.regions.len() {
                        assert!(run_min > 1 || partial, "the count of free sectors matches the bitmaps");
                        run_min = 1;
                        partial = false;
                        looked_at = 0;
                    }
                }
            }
        }
        Ok(runs)
    }

    /// Allocates as [`Space::allocate`], from space that was written before: a flush of a file costs twenty times
    /// as much when the filesystem below must also commit that space came into use. Where there is none left,
    /// the second list names free space that the caller must fill with zeros first.
    pub(crate) fn allocate_written(&mut self, sectors: u64) -> Result<(Vec<Run>, Vec<Run>), TableError> {
        assert!(sectors <= self.promised && sectors <= self.free);
        if self.is_scarce()? {
            // Then the volume is as long as it can be, and nearly all of it was written.
            return Ok((self.allocate(sectors, sectors)?, Vec::new()));
        }
        let (mut runs, mut fresh) = (Vec::new(), Vec::new());
        let mut missing = sectors;
        let mut looked_at = 0;
        while missing > 0 {
            let count = self.written.div_ceil(REGION_SECTORS).max(1);
            let index = ((self.small_cursor / REGION_SECTORS) % count) as usize;
            let found = match self.regions[index].free {
                0 => None,
                _ => self.find(index, self.small_cursor, missing, 1)?,
            };
            match found {
                Some(run) if run.sector < self.written => {
                    let run = Run { sectors: run.sectors.min(self.written - run.sector), ..run };
                    self.mark(run, true)?;
                    self.small_cursor = run.sector + run.sectors;
                    missing -= run.sectors;
                    self.promised -= run.sectors;
                    runs.push(run);
                }
                _ if looked_at <= count => {
                    looked_at += 1;
                    self.small_cursor = (index as u64 + 1) % count * REGION_SECTORS;
                }
                _ if self.written < self.volume_sectors => {
                    looked_at = 0;
                    self.small_cursor = self.written;
                    self.write_ahead(&mut fresh)?;
                }
                _ => unreachable!("the count of free sectors matches the bitmaps"),
            }
        }
        Ok((runs, fresh))
    }

    /// Moves the mark of what was written; the free space that it passes joins `fresh`.
    fn write_ahead(&mut self, fresh: &mut Vec<Run>) -> Result<(), TableError> {
        let index = (self.written / REGION_SECTORS) as usize;
        let region_end = ((index as u64 + 1) * REGION_SECTORS).min(self.volume_sectors);
        let end = (self.written + WRITE_AHEAD_SECTORS).min(region_end);
        let mut at = self.written;
        while let Some(run) = self.find(index, at, end - at, 1)? {
            if run.sector >= end {
                break;
            }
            at = (run.sector + run.sectors).min(end);
            fresh.push(Run { sectors: at - run.sector, ..run });
        }
        self.written = end;
        Ok(())
    }

    /// The next free run of the region at or behind the cursor.
    fn find(
        &mut self,
        index: usize,
        cursor: u64,
        wanted: u64,
        run_min: u64,
    ) -> Result<Option<Run>, TableError> {
        if wanted == 0 {
            return Ok(None);
        }
        let start = index as u64 * REGION_SECTORS;
        let reserve = self.reserve(index);
        let first = (reserve.sector + reserve.sectors).max(cursor) - start;
        let bitmap = self.bitmap(index)?;
        Ok(bitmap
            .find_free(first, run_min.min(wanted), wanted)
            .map(|(at, sectors)| Run { sector: start + at, sectors }))
    }

    /// As [`Space::find`], only what no node could use.
    fn find_partial(&mut self, index: usize, cursor: u64, wanted: u64) -> Result<Option<Run>, TableError> {
        let start = index as u64 * REGION_SECTORS;
        let reserve = self.reserve(index);
        let first = (reserve.sector + reserve.sectors).max(cursor) - start;
        let found = self.bitmap(index)?.find_free_partial(first, NODE_SECTORS as u64, wanted);
        Ok(found.map(|(at, sectors)| Run { sector: start + at, sectors }))
    }

    /// Allocates the sectors of one index node: from a reserve, else where data could go.
    pub(crate) fn allocate_node(&mut self) -> Result<Option<u64>, TableError> {
        if self.is_refused() {
            return Ok(None);
        }
        let count = self.regions.len();
        let wanted = NODE_SECTORS as u64;
        let first = (self.node_cursor / REGION_SECTORS) as usize;
        for in_reserve in [true, false] {
            for step in 0..=count {
                let index = (first + step) % count;
                let region = &self.regions[index];
                let free = if in_reserve { region.free_reserve } else { region.free };
                if u64::from(free) < wanted || (!in_reserve && self.available() < wanted) {
                    continue;
                }
                let start = index as u64 * REGION_SECTORS;
                let reserve = self.reserve(index);
                let (from, to) = if in_reserve {
                    (reserve.sector - start, reserve.sector + reserve.sectors - start)
                } else {
                    (reserve.sector + reserve.sectors - start, REGION_SECTORS)
                };
                // Within the region it goes on where the last search ended, so that nodes are neighbours.
                let cursor = if step == 0 && in_reserve {
                    (self.node_cursor % REGION_SECTORS).max(from)
                } else {
                    from
                };
                if let Some(at) = self.bitmap(index)?.find_free_aligned(cursor, to, wanted) {
                    let run = Run { sector: start + at, sectors: wanted };
                    self.mark(run, true)?;
                    self.node_cursor = run.sector + wanted;
                    return Ok(Some(run.sector));
                }
            }
        }
        Ok(None)
    }

    /// Marks a run as used or free. Errors if any of it already was: the caller's books are wrong.
    pub(crate) fn mark(&mut self, run: Run, used: bool) -> Result<(), TableError> {
        let mut sector = run.sector;
        let end = run.sector + run.sectors;
        if end > self.volume_sectors {
            return Err(TableError::Inconsistent { sector });
        }
        while sector < end {
            let index = (sector / REGION_SECTORS) as usize;
            let start = index as u64 * REGION_SECTORS;
            let part = end.min(start + REGION_SECTORS) - sector;
            if sector < self.first_usable(index) {
                return Err(TableError::Inconsistent { sector });
            }
            let reserve_end = self.reserve(index).sector + self.reserve(index).sectors;
            let in_reserve = reserve_end.min(sector + part).saturating_sub(sector);
            let outside = sector + in_reserve - start;
            let bitmap = self.bitmap(index)?;
            let slots = |bitmap: &Bitmap| {
                bitmap.count_free_groups(outside, part - in_reserve, NODE_SECTORS as u64) as u32
            };
            let slots_before = slots(bitmap);
            if !bitmap.set_range(sector - start, part, used) {
                return Err(TableError::Inconsistent { sector });
            }
            let slots_after = slots(bitmap);
            let region = &mut self.regions[index];
            region.slots = region.slots + slots_after - slots_before;
            self.slots = self.slots + u64::from(slots_after) - u64::from(slots_before);
            if used {
                region.free_reserve -= in_reserve as u32;
                region.free -= (part - in_reserve) as u32;
                self.free_reserve -= in_reserve;
                self.free -= part - in_reserve;
            } else {
                region.free_reserve += in_reserve as u32;
                region.free += (part - in_reserve) as u32;
                region.fragmented = false;
                self.free_reserve += in_reserve;
                self.free += part - in_reserve;
            }
            sector += part;
        }
        Ok(())
    }

    /// The first free run at or behind a sector, of those that may have been written, and no longer than so many sectors.
    pub(crate) fn next_free(&mut self, from: u64, run_max: u64) -> Result<Option<Run>, TableError> {
        let mut at = from;
        while at < self.volume_sectors {
            let index = (at / REGION_SECTORS) as usize;
            let start = index as u64 * REGION_SECTORS;
            let reserve = self.reserve(index);
            let end = self.written.max(reserve.sector + reserve.sectors);
            if let Some((found, sectors)) = self.bitmap(index)?.find_free(at - start, 1, run_max) {
                let sector = start + found;
                if sector < end {
                    return Ok(Some(Run { sector, sectors: sectors.min(end - sector) }));
                }
            }
            at = start + REGION_SECTORS;
        }
        Ok(None)
    }

    /// Whether all of a run is free, and where data may be.
    pub(crate) fn is_free_for_data(&mut self, run: Run) -> Result<bool, TableError> {
        let end = run.sector.saturating_add(run.sectors);
        if run.sectors == 0 || end > self.volume_sectors {
            return Ok(false);
        }
        let mut sector = run.sector;
        while sector < end {
            let index = (sector / REGION_SECTORS) as usize;
            let start = index as u64 * REGION_SECTORS;
            let part = end.min(start + REGION_SECTORS) - sector;
            let reserve = self.reserve(index);
            if sector < self.first_usable(index).max(reserve.sector + reserve.sectors) {
                return Ok(false);
            }
            if self.bitmap(index)?.count_free(sector - start, part) < part {
                return Ok(false);
            }
            sector += part;
        }
        Ok(true)
    }

    /// The live bitmap of a region, read from the table at first.
    fn bitmap(&mut self, index: usize) -> Result<&mut Bitmap, TableError> {
        if self.regions[index].bitmap.is_none() {
            let bitmap = self.table.read_bitmap(&*self.device, index as u64)?;
            self.take_bitmap(index, bitmap);
        }
        Ok(self.regions[index].bitmap.as_mut().expect("just read"))
    }

    fn take_bitmap(&mut self, index: usize, mut bitmap: Bitmap) {
        let start = index as u64 * REGION_SECTORS;
        // What is not the allocator's to give counts as used.
        bitmap.fill_range(0, self.first_usable(index) - start, true);
        let end = self.volume_sectors.min(start + REGION_SECTORS) - start;
        bitmap.fill_range(end, REGION_SECTORS - end, true);
        let reserve = self.reserve(index);
        let free_reserve = bitmap.count_free(reserve.sector - start, reserve.sectors);
        let free = bitmap.count_free(0, REGION_SECTORS) - free_reserve;
        let data = reserve.sector + reserve.sectors - start;
        let slots = bitmap.count_free_groups(data, REGION_SECTORS - data, NODE_SECTORS as u64);
        self.slots += slots;
        let region = &mut self.regions[index];
        region.slots = slots as u32;
        self.free = self.free - u64::from(region.free) + free;
        self.free_reserve = self.free_reserve - u64::from(region.free_reserve) + free_reserve;
        region.free = free as u32;
        region.free_reserve = free_reserve as u32;
        region.bitmap = Some(Box::new(bitmap));
    }

    /// The first sector of a region that may be allocated.
    fn first_usable(&self, index: usize) -> u64 {
        first_usable(self.layout, index as u64)
    }

    fn reserve(&self, index: usize) -> Run {
        reserve(self.layout, index as u64, self.volume_sectors)
    }
}

/// How many free slots for nodes data of this length breaks at most where it takes long runs.
fn slots_broken(sectors: u64) -> u64 {
    const RUN_ENDS: u64 = 8;
    if sectors == 0 { 0 } else { sectors.div_ceil(NODE_SECTORS as u64) + RUN_ENDS }
}

/// The first sector of a region that may be allocated.
pub(crate) fn first_usable(layout: Layout, index: u64) -> u64 {
    match index {
        0 => layout.reserved_end(),
        _ => index * REGION_SECTORS + REGION_HEADER_SECTORS,
    }
}

/// The sectors of a region that only nodes may use.
pub(crate) fn reserve(layout: Layout, index: u64, volume_sectors: u64) -> Run {
    let sector = first_usable(layout, index).next_multiple_of(NODE_SECTORS as u64).min(volume_sectors);
    Run { sector, sectors: REGION_NODE_SECTORS.min(volume_sectors - sector) }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::device::{Completion, MemoryDevice, Read, Write};

    const SECTORS: u64 = 192 * 256;

    /// A volume with no free sector but every second one.
    fn in_single_sectors() -> Space {
        let layout = Layout::for_capacity(SECTORS);
        let device = Arc::new(MemoryDevice::new(SECTORS));
        let mut space = Space::load(device, Table::empty(), layout, SECTORS, SECTORS).unwrap();
        space.promised = space.free;
        let runs = space.allocate(space.free, REGION_SECTORS).unwrap();
        while space.allocate_node().unwrap().is_some() {}
        for run in runs {
            for sector in (run.sector..run.sector + run.sectors).step_by(2) {
                space.mark(Run { sector, sectors: 1 }, false).unwrap();
            }
        }
        space
    }

    struct Striped(MemoryDevice, u64);

    impl Device for Striped {
        fn sectors(&self) -> u64 {
            self.0.sectors()
        }

        fn read(&self, reads: &mut [Read<'_>]) -> io::Result<()> {
            self.0.read(reads)
        }

        fn write(&self, writes: Vec<Write>) -> Completion {
            self.0.write(writes)
        }

        fn flush(&self) -> io::Result<()> {
            self.0.flush()
        }

        fn grow(&self, sectors: u64) -> io::Result<()> {
            self.0.grow(sectors)
        }

        fn preferred_sectors(&self) -> u64 {
            self.1
        }
    }

    #[test]
    fn long_runs_begin_where_the_device_prefers_and_nothing_is_lost() {
        // A record of 128 KiB, and a stripe of three times 64 KiB.
        for preferred in [32, 48] {
            let layout = Layout::for_capacity(SECTORS);
            let device = Arc::new(Striped(MemoryDevice::new(SECTORS), preferred));
            let mut space = Space::load(device, Table::empty(), layout, SECTORS, SECTORS).unwrap();
            space.promised = space.free;
            let mut last = 0;
            for step in 0..300 {
                let short = space.allocate(1 + step % 7, 256).unwrap();
                assert!(short[0].sector < last + 8 || last == 0, "short runs need no edge");
                let runs = space.allocate(preferred * (1 + step % 3), 256).unwrap();
                let (first, end) =
                    (runs[0].sector, runs.iter().map(|run| run.sector + run.sectors).max().unwrap());
                let begins_region =
                    (first - space.reserve((first / REGION_SECTORS) as usize).sector) < REGION_SECTORS / 4;
                assert!(first.is_multiple_of(preferred) || begins_region, "{step}: {runs:?}");
                last = end;
            }
            // Full to the last sector, whatever was skipped.
            let left = space.free;
            let runs = space.allocate(left, 256).unwrap();
            assert_eq!(runs.iter().map(|run| run.sectors).sum::<u64>(), left);
            assert_eq!(space.free, 0);
        }
    }

    #[test]
    fn single_sectors_are_no_place_for_nodes() {
        let mut space = in_single_sectors();
        assert!(space.available() > 20_000);
        assert_eq!(space.available_nodes(1).unwrap(), 0);
        assert!(!space.promise(1).unwrap(), "removing would have no nodes");
    }

    #[test]
    fn data_leaves_whole_slots_to_nodes_while_there_are_single_sectors() {
        let mut space = in_single_sectors();
        // As much as removal must be left, somewhere in the middle.
        let start = REGION_SECTORS - 4096;
        for sector in (start + 1..start + FULL_STORE_NODES * 4).step_by(2) {
            space.mark(Run { sector, sectors: 1 }, false).unwrap();
        }
        assert_eq!(space.available_nodes(1000).unwrap(), FULL_STORE_NODES);
        let single = space.available() - FULL_STORE_NODES * 4;
        assert!(!space.promise(single + 1).unwrap());
        assert!(space.promise(single).unwrap());
        space.allocate(single - 10, 256).unwrap();
        space.allocate_written(10).unwrap();
        assert_eq!(space.available_nodes(1000).unwrap(), FULL_STORE_NODES);
        for _ in 0..FULL_STORE_NODES {
            assert!(space.allocate_node().unwrap().is_some());
        }
    }
}
