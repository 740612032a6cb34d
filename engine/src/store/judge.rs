//! What a writer of a part of a store may do: each of its records is looked into, change by change, before it counts.
//!
//! A block is *inside* if it is one of the author's tops, or if the homes of blocks lead from it to one. The index as the
//! records before left it says what was there; [`judge`] allows what follows from it and from the record alone.
//!
//! Invariants:
//! 1. Nothing outside is changed: no block, no item, none of the store's own items but those that go with a change inside.
//! 2. No sector comes into use that was not free, none is freed that something still needs, and what is freed was held by
//!    extents inside: what refers to a sector is counted before and behind.
//! 3. Nothing inside comes from outside or leads there: not by its home, and not by what an item shows that it names.

use std::collections::{BTreeMap, HashMap};

use zerocopy::FromBytes;

use super::Core;
use super::authors::describe_author;
use super::layers::Value;
use super::readers::decode_readcap;
use super::resolve::decode_shared;
use super::rotation::Stale;
use super::snapshot::{Snapshot, Snapshots};
use super::transaction::Reclaim;
use crate::crypto::CertificateError;
use crate::error::Error;
use crate::format::{
    BlockHeader, BlockId, Change, DeadBytes, Extent, ItemKind, Key, LINK_BYTES, RecordHeader, SYSTEM_BLOCK,
    decode_changes,
};
use crate::limits::{BLOCK_IDS_PER_RECORD_MAX, DEPTH_MAX, EXTENT_SECTORS_MAX, RECORD_TIME_NS_MAX};
use crate::space::Run;

/// How many steps upwards are taken for the names that one record gives: honest ones need few.
const STEPS_MAX: usize = 1 << 20;

/// Why a record, or a superblock, does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Author(#[from] CertificateError),
    #[error("{0}")]
    Change(&'static str),
}

/// A record that does not count, and with it all behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRecord {
    pub seq: u64,
    /// The beginning of the author's public signing key, in hexadecimal.
    pub author: String,
    pub why: Refusal,
}

impl RefusedRecord {
    pub(super) fn new(seq: u64, author: &[u8; 32], why: Refusal) -> Self {
        Self { seq, author: describe_author(author), why }
    }
}

/// How a judgement comes to no good end.
#[derive(Debug)]
pub(super) enum Judgement {
    Refused(&'static str),
    /// What the record must be compared with cannot be read.
    Unknown(Error),
}

impl From<Error> for Judgement {
    fn from(error: Error) -> Self {
        Self::Unknown(error)
    }
}

type Judged<T> = std::result::Result<T, Judgement>;

/// Whose record is judged, and by what.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    pub(super) author: [u8; 32],
    /// The blocks that its writecaps name.
    pub(super) tops: Vec<BlockId>,
    /// Ids from here on were given out to nobody before the author's last records in a row.
    pub(super) ids_from: BlockId,
    /// The id that the record before said comes next.
    pub(super) next_block: BlockId,
    /// The last record of the checkpoint below.
    pub(super) checkpoint_seq: u64,
}

/// What a record says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claims<'a> {
    pub(super) seq: u64,
    pub(super) next_block: BlockId,
    pub(super) time_ns: u64,
    pub(super) body: &'a [u8],
}

impl<'a> Claims<'a> {
    pub(super) fn of(head: &RecordHeader, body: &'a [u8]) -> Self {
        Self { seq: head.seq.get(), next_block: head.next_block.get(), time_ns: head.time_ns.get(), body }
    }
}

fn refuse<T>(why: &'static str) -> Judged<T> {
    Err(Judgement::Refused(why))
}

const OUTSIDE: &str = "it changes something outside of what its author may write";
const NAMES_OUTSIDE: &str = "it names something outside of what its author may write";
const LONG_UNITS: &str = "it hides how long the units of a block are";
const NOT_HELD: &str = "it refers to sectors that are not its own";

/// Looks into a record; `core` holds the index as the records before left it. Returns what it brings into use, which must
/// have been free.
pub(super) fn judge(core: &Core, bounds: &Bounds, claims: &Claims<'_>) -> Judged<Vec<Run>> {
    let mut trial = Trial {
        core,
        bounds,
        claims,
        changes: BTreeMap::new(),
        allocated: Vec::new(),
        freed: Vec::new(),
        inside: [HashMap::new(), HashMap::new()],
        held: Vec::new(),
        wanted: Vec::new(),
        dead: Vec::new(),
        grown: HashMap::new(),
        steps: STEPS_MAX,
    };
    trial.read()?;
    trial.judge_items()?;
    trial.judge_sectors_of_blocks()?;
    trial.judge_space()?;
    Ok(trial.allocated)
}

/// Before a record, or behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Before,
    Behind,
}

struct Trial<'a> {
    core: &'a Core,
    bounds: &'a Bounds,
    claims: &'a Claims<'a>,
    changes: BTreeMap<Key, Option<&'a [u8]>>,
    allocated: Vec<Run>,
    freed: Vec<Run>,
    /// Which blocks are inside, before and behind, as far as they were asked about.
    inside: [HashMap<BlockId, bool>; 2],
    /// Extents that the record touches, as they were and as they will be.
    held: Vec<Extent>,
    wanted: Vec<Extent>,
    /// What goes to which dead list, and its birth.
    dead: Vec<(Run, (BlockId, u64))>,
    /// By how much the sectors of each block change.
    grown: HashMap<BlockId, u64>,
    /// Steps upwards that are left.
    steps: usize,
}

impl<'a> Trial<'a> {
    fn read(&mut self) -> Judged<()> {
        let next = self.bounds.next_block;
        let is_sane = self.claims.next_block >= next
            && self.claims.next_block - next <= BLOCK_IDS_PER_RECORD_MAX
            && self.claims.time_ns <= RECORD_TIME_NS_MAX;
        if !is_sane {
            return refuse("its counters leap");
        }
        for change in decode_changes(self.claims.body) {
            let run = |sector, sectors: u32| Run { sector, sectors: u64::from(sectors) };
            match change {
                Ok(Change::Put(key, value)) => drop(self.changes.insert(key, Some(value))),
                Ok(Change::Delete(key)) => drop(self.changes.insert(key, None)),
                Ok(Change::Allocate { sector, sectors }) => self.allocated.push(run(sector, sectors)),
                Ok(Change::Free { sector, sectors }) => self.freed.push(run(sector, sectors)),
                Err(_) => return refuse("it is malformed"),
            }
        }
        Ok(())
    }

    fn before(&self, key: &Key) -> Judged<Option<Value>> {
        Ok(self.core.find_sealed(key)?)
    }

    fn behind(&self, key: &Key) -> Judged<Option<Value>> {
        match self.changes.get(key) {
            Some(value) => Ok(value.map(Into::into)),
            None => self.before(key),
        }
    }

    fn header(&self, id: BlockId, when: When) -> Judged<Option<BlockHeader>> {
        let key = Key::new(id, ItemKind::HEADER, 0);
        let value = if when == When::Before { self.before(&key)? } else { self.behind(&key)? };
        let Some(value) = value else { return Ok(None) };
        match BlockHeader::read_from_prefix(&value) {
            Ok((header, _)) => Ok(Some(header)),
            Err(_) => refuse("a block's header is malformed"),
        }
    }

    /// Whether a block is there and inside. A loop of homes leads nowhere.
    fn is_inside(&mut self, id: BlockId, when: When) -> Judged<bool> {
        let mut path = Vec::new();
        let mut at = id;
        let is_inside = loop {
            if let Some(known) = self.inside[when as usize].get(&at) {
                break *known;
            }
            if path.len() >= DEPTH_MAX {
                break false;
            }
            self.inside[when as usize].insert(at, false);
            path.push(at);
            let Some(header) = self.header(at, when)? else { break false };
            if self.is_top(at) {
                break true;
            }
            match header.home.get() {
                SYSTEM_BLOCK => break false,
                home => at = home,
            }
        };
        for id in path {
            self.inside[when as usize].insert(id, is_inside);
        }
        Ok(is_inside)
    }

    fn is_top(&self, id: BlockId) -> bool {
        self.bounds.tops.contains(&id)
    }

    fn must_be_inside(&mut self, id: BlockId, when: When, why: &'static str) -> Judged<()> {
        if self.is_inside(id, when)? { Ok(()) } else { refuse(why) }
    }

    /// A block that the record changes must have been inside before, or else be new, and inside now.
    fn must_be_changeable(&mut self, id: BlockId) -> Judged<()> {
        match self.header(id, When::Before)? {
            Some(_) => self.must_be_inside(id, When::Before, OUTSIDE),
            None => {
                if !(self.bounds.ids_from..self.claims.next_block).contains(&id) {
                    return refuse("it gives a block a number that is not its author's to give");
                }
                self.must_be_inside(id, When::Behind, OUTSIDE)
            }
        }
    }

    /// Whether all of a block is on its way out: with this record, or step by step.
    fn is_being_destroyed(&self, id: BlockId) -> Judged<bool> {
        if self.header(id, When::Behind)?.is_none() {
            return Ok(true);
        }
        let reclaim = self.behind(&Key::new(SYSTEM_BLOCK, ItemKind::RECLAIM, id))?;
        Ok(reclaim.and_then(|value| Reclaim::decode(&value)).is_some_and(|reclaim| reclaim.destroy))
    }

    fn judge_items(&mut self) -> Judged<()> {
        let changes: Vec<(Key, Option<&'a [u8]>)> =
            self.changes.iter().map(|(key, value)| (*key, *value)).collect();
        for (key, behind) in changes {
            let before = self.before(&key)?;
            // Nothing happens; but an extent that is put as it was bears witness of its sectors.
            if before.as_deref() == behind && (behind.is_none() || key.kind != ItemKind::EXTENT) {
                continue;
            }
            match (key.block, key.kind, behind) {
                (SYSTEM_BLOCK, ..) => self.judge_system_item(&key, before.as_deref(), behind)?,
                (_, ItemKind::DEAD, Some(value)) if before.is_none() => {
                    let Ok(dead) = DeadBytes::read_from_bytes(value) else {
                        return refuse("a dead list is malformed");
                    };
                    let run = Run { sector: key.offset, sectors: dead.sectors.get() };
                    if run.sectors == 0 || run.sector.checked_add(run.sectors).is_none() {
                        return refuse("a dead list is malformed");
                    }
                    self.dead.push((run, (key.block, dead.birth.get())));
                }
                (_, ItemKind::HEADER, _) if key.offset == 0 => self.judge_header(key.block)?,
                (_, ItemKind::EXTENT, behind) => self.judge_extent(&key, before, behind)?,
                (_, ItemKind::OLD_KEY, None) => self.must_be_changeable(key.block)?,
                (_, kind, behind) if kind >= ItemKind::FIRST_FREE => {
                    self.must_be_changeable(key.block)?;
                    if let Some(value) = behind {
                        self.must_be_there(key.block)?;
                        self.judge_links(key.block, value)?;
                    }
                }
                _ => return refuse(OUTSIDE),
            }
        }
        Ok(())
    }

    fn must_be_there(&self, id: BlockId) -> Judged<()> {
        match self.header(id, When::Behind)? {
            Some(_) => Ok(()),
            None => refuse("it leaves something of a block that is gone"),
        }
    }

    /// What goes with changes of blocks inside, and nothing else.
    fn judge_system_item(&mut self, key: &Key, before: Option<&[u8]>, behind: Option<&[u8]>) -> Judged<()> {
        let id = key.offset;
        match (key.kind, behind) {
            // Counted with the sectors.
            (ItemKind::SHARED, None) => Ok(()),
            (ItemKind::SHARED, Some(value)) if decode_shared(value).is_some() => Ok(()),
            (ItemKind::ORPHAN, Some([])) => {
                self.must_be_changeable(id)?;
                self.must_be_there(id)?;
                self.must_be_no_top(id)
            }
            (ItemKind::ORPHAN | ItemKind::RECLAIM, None) => self.must_be_changeable(id),
            (ItemKind::RECLAIM, Some(value)) => {
                let Some(reclaim) = Reclaim::decode(value) else {
                    return refuse("an item of the store is malformed");
                };
                self.must_be_changeable(id)?;
                self.must_be_there(id)?;
                if reclaim.destroy { self.must_be_no_top(id) } else { Ok(()) }
            }
            (ItemKind::LOST | ItemKind::STALE, None) if self.is_being_destroyed(id)? => {
                self.must_be_changeable(id)
            }
            // A clone brings what stands under older keys; that less of a block does, its author cannot say.
            (ItemKind::STALE, Some(value)) => {
                let Some(stale) = Stale::decode(value) else {
                    return refuse("an item of the store is malformed");
                };
                let known = before.and_then(Stale::decode);
                if known.is_some_and(|known| stale.from > known.from || (known.items && !stale.items)) {
                    return refuse("it hides what stands under older keys");
                }
                self.must_be_changeable(id)?;
                self.must_be_there(id)
            }
            (ItemKind::WRITECAP | ItemKind::REVOCATION | ItemKind::READCAP | ItemKind::ACCESS, _) => {
                refuse("it changes who may read and write")
            }
            (ItemKind::SNAPSHOT, _) => refuse("it changes snapshots"),
            _ => refuse(OUTSIDE),
        }
    }

    fn must_be_no_top(&self, id: BlockId) -> Judged<()> {
        match self.is_top(id) {
            true => refuse("it moves or removes the directory that its author may write"),
            false => Ok(()),
        }
    }

    fn judge_header(&mut self, id: BlockId) -> Judged<()> {
        let before = self.header(id, When::Before)?;
        self.must_be_changeable(id)?;
        let Some(after) = self.header(id, When::Behind)? else {
            self.must_be_no_top(id)?;
            return self.must_be_all_gone(id);
        };
        match before {
            Some(before) => {
                let same_keys = before.owner_key == after.owner_key
                    && before.epoch == after.epoch
                    && before.wrapped_by == after.wrapped_by;
                if !same_keys {
                    return refuse("it changes the key of a block");
                }
                if before.home != after.home {
                    self.must_be_no_top(id)?;
                }
                if after.units >> 4 < before.units >> 4 {
                    return refuse(LONG_UNITS);
                }
            }
            None => self.judge_wrapping(after.wrapped_by.get())?,
        }
        self.must_be_inside(id, When::Behind, "it moves a block out of what its author may write")
    }

    /// The owner must be able to tell the key of a new block.
    fn judge_wrapping(&self, serial: u64) -> Judged<()> {
        let key = Key::new(SYSTEM_BLOCK, ItemKind::READCAP, serial);
        let cap = self.before(&key)?.and_then(|value| decode_readcap(&key, &value).ok());
        match cap {
            Some(cap) if cap.recipient[..32] == self.bounds.author && cap.flags.get() != 0 => Ok(()),
            _ => refuse("it makes a block whose key its owner cannot tell"),
        }
    }

    /// Of a block that loses its header, nothing is left.
    fn must_be_all_gone(&self, id: BlockId) -> Judged<()> {
        let first = Key::new(id, ItemKind(0), 0);
        let last = Key::new(id, ItemKind(u8::MAX), u64::MAX);
        let (items, all) = self.core.range_sealed(first, last, self.changes.len() + 1)?;
        let is_gone = |key: &Key| matches!(self.changes.get(key), Some(None));
        match all && items.iter().all(|(key, _)| is_gone(key)) {
            true => Ok(()),
            false => refuse("it leaves something of a block that is gone"),
        }
    }

    /// An item of the layer above: what its clear part names must be inside, and belong to what the item is of or to
    /// something above that.
    fn judge_links(&mut self, id: BlockId, value: &[u8]) -> Judged<()> {
        let clear = value
            .split_first_chunk::<2>()
            .and_then(|(length, rest)| rest.get(..usize::from(u16::from_le_bytes(*length))));
        let Some(clear) = clear else { return refuse("an item is malformed") };
        let (links, rest) = clear.as_chunks::<LINK_BYTES>();
        if !rest.is_empty() {
            return refuse("an item is malformed");
        }
        for link in links {
            let named = u64::from_le_bytes(*link);
            let Some(header) = self.header(named, When::Behind)? else { return refuse(NAMES_OUTSIDE) };
            if self.is_top(named) {
                return refuse(NAMES_OUTSIDE);
            }
            self.must_be_inside(named, When::Behind, NAMES_OUTSIDE)?;
            if !self.is_below(id, header.home.get())? {
                return refuse("it gives a name to something that belongs elsewhere");
            }
        }
        Ok(())
    }

    /// Whether a block that is inside will be another or below it.
    fn is_below(&mut self, id: BlockId, above: BlockId) -> Judged<bool> {
        let mut at = id;
        for _ in 0..DEPTH_MAX {
            if at == above {
                return Ok(true);
            }
            self.steps = match self.steps.checked_sub(1) {
                Some(left) => left,
                None => return refuse("it gives too many names too far below"),
            };
            match self.header(at, When::Behind)? {
                Some(header) if header.home.get() != SYSTEM_BLOCK => at = header.home.get(),
                _ => return Ok(false),
            }
        }
        Ok(false)
    }

    fn judge_extent(&mut self, key: &Key, before: Option<Value>, behind: Option<&[u8]>) -> Judged<()> {
        self.must_be_changeable(key.block)?;
        let decode = |value: &[u8]| match Extent::decode(value) {
            Ok(extent) => Ok(extent),
            Err(_) => refuse("an extent is malformed"),
        };
        let grown = self.grown.entry(key.block).or_default();
        if let Some(value) = before {
            let extent = decode(&value)?;
            *grown = grown.wrapping_sub(extent.sectors());
            self.held.push(extent);
        }
        if let Some(value) = behind {
            let extent = decode(value)?;
            *grown = grown.wrapping_add(extent.sectors());
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
        let (before, _) = self.core.range_sealed(first, last, usize::MAX / 2)?;
        let kept = before.iter().filter(|(key, _)| !self.changes.contains_key(key));
        let kept = kept.map(|(key, value)| (key, &value[..]));
        let new = self.changes.range(first..=last).filter_map(|(key, value)| Some((key, (*value)?)));
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
    fn judge_sectors_of_blocks(&mut self) -> Judged<()> {
        let touched =
            self.changes.keys().filter(|key| key.kind == ItemKind::HEADER && key.block != SYSTEM_BLOCK);
        let mut blocks: Vec<BlockId> =
            touched.map(|key| key.block).chain(self.grown.keys().copied()).collect();
        blocks.sort_unstable();
        blocks.dedup();
        for id in blocks {
            let Some(after) = self.header(id, When::Behind)? else { continue };
            let before = self.header(id, When::Before)?.map_or(0, |header| header.sectors());
            let grown = self.grown.get(&id).copied().unwrap_or(0);
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
        let changed = self.changes.range(system(ItemKind::SHARED, 0)..=system(ItemKind::SHARED, u64::MAX));
        for (key, _) in changed.clone() {
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
    fn judge_space(&self) -> Judged<()> {
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

#[cfg(test)]
mod tests;
