//! What a record does to sectors: what refers to each of them is counted before and behind, and what is allocated, freed and
//! counted must follow from that.

use std::collections::BTreeMap;

use super::{Judged, LONG_UNITS, Trial, When, refuse};
use crate::error::Error;
use crate::format::{BlockHeader, BlockId, Extent, ItemKind, Key, SYSTEM_BLOCK};
use crate::limits::EXTENT_SECTORS_MAX;
use crate::space::Run;
use crate::store::layers::Value;
use crate::store::resolve::decode_shared;
use crate::store::snapshot::{Snapshot, Snapshots};

const NOT_HELD: &str = "it refers to sectors that are not its own";

impl Trial<'_> {
    pub(super) fn judge_extent(
        &mut self,
        key: &Key,
        before: Option<Value>,
        behind: Option<&[u8]>,
    ) -> Judged<()> {
        self.must_be_changeable(key.block)?;
        let decode = |value: &[u8]| match Extent::decode(value) {
            Ok(extent) => Ok(extent),
            Err(_) => refuse("an extent is malformed"),
        };
        if let Some(value) = before {
            let extent = decode(&value)?;
            self.known(key.block, |block| block.grown = block.grown.wrapping_sub(extent.sectors()));
            self.held.push(extent);
        }
        if let Some(value) = behind {
            let extent = decode(value)?;
            self.known(key.block, |block| block.grown = block.grown.wrapping_add(extent.sectors()));
            self.must_be_there(key.block)?;
            let longest = self.header(key.block, When::Behind)?.map_or(0, |header| header.units >> 4);
            if extent.header.unit_log2 > longest {
                return refuse(LONG_UNITS);
            }
            self.must_have_its_place(key, &extent)?;
            self.wanted.push(extent);
        }
        Ok(())
    }

    /// No two extents of a block cover the same of its sectors.
    fn must_have_its_place(&self, key: &Key, extent: &Extent) -> Judged<()> {
        let reach = EXTENT_SECTORS_MAX as u64 - 1;
        let first = Key { offset: key.offset.saturating_sub(reach), ..*key };
        let Some(last) = key.offset.checked_add(extent.sectors() - 1) else {
            return refuse("an extent is malformed");
        };
        let last = Key { offset: last, ..*key };
        // A block that is new had none.
        let before = match self.header(key.block, When::Before)? {
            Some(_) => self.core.range_sealed(first, last, usize::MAX / 2)?.0,
            None => Vec::new(),
        };
        let kept = before.iter().filter(|(key, _)| self.changes.get(key).is_none());
        let kept = kept.map(|(key, value)| (key, &value[..]));
        let new = self.changes.between(&first, &last).iter();
        let new = new.filter_map(|(key, value)| Some((key, (*value)?)));
        for (other, value) in kept.chain(new).filter(|(other, _)| *other != key) {
            let ends = Extent::decode(value)
                .map_or(u64::MAX, |extent| other.offset.saturating_add(extent.sectors()));
            if ends > key.offset {
                return refuse("two extents have the same place");
            }
        }
        Ok(())
    }

    /// What headers say of how many sectors their blocks have.
    pub(super) fn judge_sectors_of_blocks(&mut self) -> Judged<()> {
        // Each whose header or extents the record changes has been asked for.
        let blocks: Vec<BlockId> = self.blocks.borrow().ids().collect();
        for id in blocks {
            let Some(after) = self.header(id, When::Behind)? else { continue };
            let before = self.header(id, When::Before)?.map_or(0, |header| header.sectors());
            let grown = self.known(id, |block| block.grown);
            if after.sectors != BlockHeader::encode_sectors(before.wrapping_add(grown)) {
                return refuse("it miscounts the sectors of a block");
            }
        }
        Ok(())
    }

    /// The counts of shared sectors that matter, before and behind.
    #[allow(clippy::type_complexity)]
    fn shared(&self) -> Judged<[Vec<(Run, u32)>; 2]> {
        let mut runs: Vec<Run> = Vec::new();
        let flagged = self.held.iter().chain(&self.wanted).filter(|extent| extent.is_shared());
        runs.extend(flagged.map(run_of));
        let system = |kind, offset| Key::new(SYSTEM_BLOCK, kind, offset);
        let changed = self.changes.between(&system(ItemKind::SHARED, 0), &system(ItemKind::SHARED, u64::MAX));
        for (key, _) in changed {
            // As long as any count is.
            runs.push(Run { sector: key.offset, sectors: EXTENT_SECTORS_MAX as u64 });
        }
        let mut before = BTreeMap::new();
        let reach = EXTENT_SECTORS_MAX as u64 - 1;
        for run in merged(runs) {
            let first = system(ItemKind::SHARED, run.sector.saturating_sub(reach));
            let last = system(ItemKind::SHARED, (run.sector.saturating_add(run.sectors)).saturating_sub(1));
            for (key, value) in self.core.range_sealed(first, last, usize::MAX / 2)?.0 {
                before.insert(key, value);
            }
        }
        let mut behind = before.clone();
        for (key, value) in changed {
            match value {
                Some(value) => drop(behind.insert(*key, Value::from(*value))),
                None => drop(behind.remove(key)),
            }
        }
        let counts = |items: BTreeMap<Key, Value>| -> Judged<Vec<(Run, u32)>> {
            let mut counts = Vec::with_capacity(items.len());
            for (key, value) in items {
                let Some((sectors, extents)) = decode_shared(&value) else {
                    return refuse("a count of shared sectors is malformed");
                };
                if key.offset.checked_add(u64::from(sectors)).is_none() {
                    return refuse("a count of shared sectors is malformed");
                }
                counts.push((Run { sector: key.offset, sectors: u64::from(sectors) }, extents));
            }
            Ok(counts)
        };
        Ok([counts(before)?, counts(behind)?])
    }

    /// As the index says at this record.
    fn snapshots(&self) -> Judged<Snapshots> {
        let key = |offset| Key::new(SYSTEM_BLOCK, ItemKind::SNAPSHOT, offset);
        let mut all = Vec::new();
        for (key, value) in self.core.range_sealed(key(0), key(u64::MAX), usize::MAX / 2)?.0 {
            let corrupt = Error::Corrupt { what: "snapshot", sector: 0 };
            let mut snapshot = Snapshot::decode(None, &key, &value).ok_or(corrupt)?;
            snapshot.settle(self.bounds.checkpoint_seq, crate::tree::Root::EMPTY);
            all.push(snapshot);
        }
        Ok(Snapshots { all })
    }

    /// Sector by sector: what refers to it before and behind, and whether it is allocated, freed and counted as
    /// follows from that.
    pub(super) fn judge_space(&self) -> Judged<()> {
        let snapshots = self.snapshots()?;
        let [shared_before, shared_behind] = self.shared()?;
        let plain = |runs: &[Run]| runs.iter().map(|run| (*run, ())).collect::<Vec<_>>();
        let extents = |extents: &'_ [Extent]| -> Vec<(Run, usize)> {
            extents.iter().enumerate().map(|(at, extent)| (run_of(extent), at)).collect()
        };
        let mut held = Cover::new(extents(&self.held));
        let mut wanted = Cover::new(extents(&self.wanted));
        let mut allocated = Cover::new(plain(&self.allocated));
        let mut freed = Cover::new(plain(&self.freed));
        let mut dead = Cover::new(self.dead.clone());
        let mut before = Cover::new(shared_before);
        let mut behind = Cover::new(shared_behind);
        let mut edges = Vec::new();
        held.edges(&mut edges);
        wanted.edges(&mut edges);
        allocated.edges(&mut edges);
        freed.edges(&mut edges);
        dead.edges(&mut edges);
        before.edges(&mut edges);
        behind.edges(&mut edges);
        edges.sort_unstable();
        edges.dedup();
        for piece in edges.windows(2) {
            let part = Part {
                from: piece[0],
                to: piece[1],
                held: held.at(piece[0]).map(|at| &self.held[*at]).collect(),
                wanted: wanted.at(piece[0]).map(|at| &self.wanted[*at]).collect(),
                allocated: allocated.at(piece[0]).count(),
                freed: freed.at(piece[0]).count(),
                dead: dead.at(piece[0]).copied().collect(),
                before: before.at(piece[0]).copied().collect(),
                behind: behind.at(piece[0]).copied().collect(),
            };
            part.judge(self.claims.seq, &snapshots)?;
        }
        Ok(())
    }
}

/// Sectors that are all the same to a record.
struct Part<'a> {
    from: u64,
    to: u64,
    held: Vec<&'a Extent>,
    wanted: Vec<&'a Extent>,
    allocated: usize,
    freed: usize,
    dead: Vec<(BlockId, u64)>,
    before: Vec<u32>,
    behind: Vec<u32>,
}

impl Part<'_> {
    fn judge(&self, seq: u64, snapshots: &Snapshots) -> Judged<()> {
        let one = |counts: &[u32]| match counts {
            [] => Ok(1),
            [count] => Ok(u64::from(*count)),
            _ => refuse("it counts shared sectors twice"),
        };
        let (before, behind) = (one(&self.before)?, one(&self.behind)?);
        let (held, wanted) = (self.held.len() as u64, self.wanted.len() as u64);
        if self.allocated > 1 || self.freed > 1 || self.dead.len() > 1 || self.freed + self.dead.len() > 1 {
            return refuse("it allocates or frees sectors twice");
        }
        let mut all = self.held.iter().chain(&self.wanted);
        if let Some(first) = all.next()
            && !all.all(|other| self.is_same(first, other))
        {
            return refuse("it changes what stands in sectors");
        }
        // How many extents refer to them behind the record; `None`: nothing that the record knows of.
        let left = match (self.allocated, held) {
            (0, 0) if wanted > 0 => return refuse(NOT_HELD),
            (0, 0) => None,
            (0, _) => match before.checked_sub(held) {
                Some(others) => Some(others + wanted),
                None => return refuse(NOT_HELD),
            },
            (_, 0) if self.before.is_empty() => Some(wanted),
            _ => return refuse("it allocates sectors that are in use"),
        };
        let Some(left) = left else {
            let nothing = self.before == self.behind && self.freed == 0 && self.dead.is_empty();
            return if nothing { Ok(()) } else { refuse("it frees or counts sectors that are not its own") };
        };
        if behind != left.max(1) || (left <= 1 && !self.behind.is_empty()) {
            return refuse("it miscounts shared sectors");
        }
        if left > 1 && !self.wanted.iter().all(|extent| extent.is_shared()) {
            return refuse("it hides that sectors are shared");
        }
        if self.allocated > 0 && !self.wanted.iter().all(|extent| extent.birth() == seq) {
            return refuse("it says that its sectors are older than they are");
        }
        let pin = match self.held.first() {
            Some(extent) => snapshots.pin(extent.birth()).map(|snapshot| (snapshot, extent.birth())),
            None => None,
        };
        let is_right = match (left, pin) {
            (0, None) => self.freed == 1,
            (0, Some(pin)) => self.dead == [pin],
            _ => self.freed == 0 && self.dead.is_empty(),
        };
        if is_right { Ok(()) } else { refuse("it frees what is in use, or keeps what is not") }
    }

    /// Whether two extents say the same of these sectors. Where one has finer hashes than the other, only who reads them
    /// can compare those.
    fn is_same(&self, one: &Extent, other: &Extent) -> bool {
        let start = |extent: &Extent| extent.sector().wrapping_sub(u64::from(extent.header.skip.get()));
        let hash = |extent: &Extent, sector: u64| {
            let unit = (sector - extent.sector()) >> extent.header.unit_log2;
            extent.hashes.get(unit as usize).copied()
        };
        one.header.nonce == other.header.nonce
            && one.header.birth == other.header.birth
            && one.header.cipher == other.header.cipher
            && start(one) == start(other)
            && (one.unit() != other.unit()
                || (self.from..self.to).all(|sector| hash(one, sector) == hash(other, sector)))
    }
}

fn run_of(extent: &Extent) -> Run {
    Run { sector: extent.sector(), sectors: extent.sectors() }
}

/// The same sectors, each once, in order.
fn merged(mut runs: Vec<Run>) -> Vec<Run> {
    runs.sort_unstable();
    let mut merged: Vec<Run> = Vec::new();
    for run in runs {
        match merged.last_mut() {
            Some(last) if run.sector <= last.sector.saturating_add(last.sectors) => {
                last.sectors = last.sectors.max((run.sector - last.sector).saturating_add(run.sectors));
            }
            _ => merged.push(run),
        }
    }
    merged
}

/// Runs that may overlap, gone through from the first sector to the last.
struct Cover<T> {
    runs: Vec<(Run, T)>,
    next: usize,
    active: Vec<usize>,
}

impl<T> Cover<T> {
    fn new(mut runs: Vec<(Run, T)>) -> Self {
        runs.sort_unstable_by_key(|(run, _)| *run);
        Self { runs, next: 0, active: Vec::new() }
    }

    fn edges(&self, edges: &mut Vec<u64>) {
        edges.extend(
            self.runs.iter().flat_map(|(run, _)| [run.sector, run.sector.saturating_add(run.sectors)]),
        );
    }

    /// What covers a sector; no earlier one is asked about again.
    fn at(&mut self, sector: u64) -> impl Iterator<Item = &T> {
        while let Some((run, _)) = self.runs.get(self.next)
            && run.sector <= sector
        {
            self.active.push(self.next);
            self.next += 1;
        }
        let runs = &self.runs;
        self.active.retain(|at| sector - runs[*at].0.sector < runs[*at].0.sectors);
        self.active.iter().map(|at| &self.runs[*at].1)
    }
}
