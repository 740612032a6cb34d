//! What refers to which sectors: two bits for each sector, and counts only where several extents share.

use std::collections::BTreeMap;

use crate::format::Layout;
use crate::limits::{EXTENT_SECTORS_MAX, REGION_SECTORS};
use crate::space::{Bitmap, Run, first_usable};

/// A bit for each sector of a volume; regions without any take no memory.
struct Sectors {
    regions: Vec<Option<Box<Bitmap>>>,
}

impl Sectors {
    fn new(volume_sectors: u64) -> Self {
        let count = volume_sectors.div_ceil(REGION_SECTORS) as usize;
        Self { regions: (0..count).map(|_| None).collect() }
    }

    fn contains(&self, sector: u64) -> bool {
        let region = self.regions.get((sector / REGION_SECTORS) as usize).and_then(Option::as_deref);
        region.is_some_and(|bitmap| bitmap.is_used(sector % REGION_SECTORS))
    }

    fn fill(&mut self, run: Run, used: bool) {
        for part in parts(run) {
            let region = &mut self.regions[(part.sector / REGION_SECTORS) as usize];
            let bitmap = region.get_or_insert_with(|| Box::new(Bitmap::empty()));
            bitmap.fill_range(part.sector % REGION_SECTORS, part.sectors, used);
        }
    }
}

/// The parts of a run, region by region.
pub(super) fn parts(run: Run) -> impl Iterator<Item = Run> {
    let end = run.sector + run.sectors;
    let mut at = run.sector;
    std::iter::from_fn(move || {
        let sectors =
            end.min((at / REGION_SECTORS + 1) * REGION_SECTORS).checked_sub(at).filter(|n| *n > 0)?;
        let part = Run { sector: at, sectors };
        at += sectors;
        Some(part)
    })
}

/// How many refer to each sector, as the changes from one sector to the next.
#[derive(Default)]
struct Counts(BTreeMap<u64, i64>);

impl Counts {
    fn add(&mut self, run: Run, count: i64) {
        for (at, by) in [(run.sector, count), (run.sector + run.sectors, -count)] {
            let step = self.0.entry(at).or_default();
            *step += by;
            if *step == 0 {
                self.0.remove(&at);
            }
        }
    }
}

/// All references found so far.
pub(super) struct Ledger {
    layout: Layout,
    volume_sectors: u64,
    used: Sectors,
    /// Those of `used` that extents marked as shared refer to.
    shared: Sectors,
    /// Extents marked as shared, and what the shared items say of them.
    extents: Counts,
    recorded: Counts,
}

/// Sectors whose shared items do not say what is true.
pub(super) struct Miscount {
    pub(super) run: Run,
    pub(super) extents: i64,
    pub(super) recorded: i64,
}

impl Ledger {
    pub(super) fn new(layout: Layout, volume_sectors: u64) -> Self {
        Self {
            layout,
            volume_sectors,
            used: Sectors::new(volume_sectors),
            shared: Sectors::new(volume_sectors),
            extents: Counts::default(),
            recorded: Counts::default(),
        }
    }

    /// Whether an allocator could have handed this out.
    pub(super) fn is_possible(&self, run: Run) -> bool {
        let end = run.sector.checked_add(run.sectors);
        end.is_some_and(|end| run.sectors > 0 && end <= self.volume_sectors)
            && parts(run).all(|part| part.sector >= first_usable(self.layout, part.sector / REGION_SECTORS))
    }

    /// One owner takes a run for itself alone; returns a sector that has one already.
    pub(super) fn claim(&mut self, run: Run) -> Option<u64> {
        let taken = (run.sector..run.sector + run.sectors).find(|sector| self.used.contains(*sector));
        self.used.fill(run, true);
        taken
    }

    /// An extent marked as shared refers to a run; returns a sector that another has for itself alone.
    pub(super) fn share(&mut self, run: Run) -> Option<u64> {
        let mut sectors = run.sector..run.sector + run.sectors;
        let taken = sectors.find(|sector| self.used.contains(*sector) && !self.shared.contains(*sector));
        self.used.fill(run, true);
        self.shared.fill(run, true);
        self.extents.add(run, 1);
        taken
    }

    /// A shared item says how many extents refer to a run.
    pub(super) fn record_shared(&mut self, run: Run, extents: u32) {
        self.recorded.add(run, i64::from(extents));
    }

    /// A run changes hands, whatever it was.
    pub(super) fn mark(&mut self, run: Run, used: bool) {
        self.used.fill(run, used);
    }

    /// The parts of a run that nothing refers to.
    pub(super) fn unused(&self, run: Run) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for sector in (run.sector..run.sector + run.sectors).filter(|sector| !self.used.contains(*sector)) {
            match runs.last_mut() {
                Some(last) if last.sector + last.sectors == sector => last.sectors += 1,
                _ => runs.push(Run { sector, sectors: 1 }),
            }
        }
        runs
    }

    /// The references to a region.
    pub(super) fn region(&self, region: u64) -> Bitmap {
        let known = self.used.regions.get(region as usize).and_then(Option::as_deref);
        known.cloned().unwrap_or_else(Bitmap::empty)
    }

    /// The regions that anything refers to.
    pub(super) fn regions(&self) -> impl Iterator<Item = (u64, &Bitmap)> {
        let regions = self.used.regions.iter().enumerate();
        regions.filter_map(|(index, bitmap)| Some((index as u64, bitmap.as_deref()?)))
    }

    /// Where shared items and extents differ. One extent alone needs no item.
    pub(super) fn miscounts(&self) -> Vec<Miscount> {
        let mut steps: BTreeMap<u64, (i64, i64)> = BTreeMap::new();
        self.extents.0.iter().for_each(|(at, by)| steps.entry(*at).or_default().0 += by);
        self.recorded.0.iter().for_each(|(at, by)| steps.entry(*at).or_default().1 += by);
        let mut found = Vec::new();
        let (mut from, mut extents, mut recorded) = (0, 0, 0);
        for (at, (extents_by, recorded_by)) in steps {
            let expected = if extents > 1 { extents } else { 0 };
            if expected != recorded && at > from {
                let run = Run { sector: from, sectors: at - from };
                found.push(Miscount { run, extents, recorded });
            }
            (from, extents, recorded) = (at, extents + extents_by, recorded + recorded_by);
        }
        found
    }

    /// The shared items that would be right: runs no longer than an extent, and how many refer to each.
    pub(super) fn shared_runs(&self) -> Vec<(Run, u32)> {
        let mut found = Vec::new();
        let (mut from, mut extents) = (0, 0);
        for (at, by) in &self.extents.0 {
            let mut sector = from;
            while extents > 1 && sector < *at {
                let sectors = (at - sector).min(EXTENT_SECTORS_MAX as u64);
                found.push((Run { sector, sectors }, extents as u32));
                sector += sectors;
            }
            (from, extents) = (*at, extents + by);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(sector: u64, sectors: u64) -> Run {
        Run { sector, sectors }
    }

    #[test]
    fn owners_and_sharers_are_told_apart() {
        let mut ledger = Ledger::new(Layout::for_capacity(16384), 16384);
        assert!(!ledger.is_possible(run(0, 1)));
        assert!(!ledger.is_possible(run(16000, 1000)));
        assert!(ledger.is_possible(run(8000, 8)));
        assert_eq!(ledger.claim(run(8000, 8)), None);
        assert_eq!(ledger.claim(run(8006, 4)), Some(8006));
        assert_eq!(ledger.share(run(9000, 8)), None);
        assert_eq!(ledger.share(run(9004, 8)), None);
        assert_eq!(ledger.share(run(8009, 2)), Some(8009));
        assert_eq!(ledger.unused(run(8998, 4)), [run(8998, 2)]);
        ledger.record_shared(run(9004, 3), 2);
        let miscounts = ledger.miscounts();
        assert_eq!(miscounts.len(), 1);
        assert_eq!((miscounts[0].run, miscounts[0].extents, miscounts[0].recorded), (run(9007, 1), 2, 0));
        assert_eq!(ledger.shared_runs(), [(run(9004, 4), 2)]);
    }
}
