//! The offline check: everything that a store's signatures and hashes cover, and that its parts agree.
//!
//! | pass | what it establishes |
//! | --- | --- |
//! | heads | all copies of key slot and superblock are valid and equal |
//! | log | the records behind the superblock, up to damage |
//! | live | every node and item of the newest tree; what refers to which sectors |
//! | snapshots | the same of what only snapshots hold; dead lists |
//! | data | every sector of every extent, beside the two passes before |
//! | space | the space table says of each sector what the references say |
//! | repair | if asked for: what follows from what is whole is written anew |
//! | salvage | before that, where nodes of the newest tree are damaged: the tree goes on without them |
//! | log given up | with it, where the log is damaged: the store goes back to the last record before that |
//!
//! Invariants:
//! 1. Nothing is written unless a repair was asked for, and then only what follows from verified parts.
//! 2. Where a part of the index is missing, nothing is concluded from what was not found, until a salvage has made the
//!    index whole again without that part. A salvage names what it gives up, and marks where data was lost.
//! 3. Damage in the log is given up only here, where it was asked for, and what is known of the records that are lost with
//!    it is said.
//! 4. Memory is bounded by two bits for each sector in use, the log, and a pointer for each node.

mod data;
mod heads;
mod ledger;
mod live;
mod lost;
mod repair;
mod salvage;
mod snapshots;
mod space;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use super::freed::Freed;
use super::journal::is_own_note;
use super::judge::Claims;
use super::keys::Credential;
use super::layers::Value;
use super::log::Record;
use super::log_tail::{Log, read_log_before_damage};
use super::nodes::DeviceNodes;
use super::open::{OpenError, Series, build, find_keys, find_layout, replay_space};
use super::snapshot::Snapshot;
use super::{Core, OpenOptions};
use crate::crypto::Hash;
use crate::device::Device;
use crate::format::{BlockId, Change, Key, NodePtr, Superblock};
use crate::limits::NODE_SECTORS;
use crate::space::{Delta, Run, Space, Table, TableError};

use data::Verifier;
pub(super) use data::{Damage, Job, find_damage};
use ledger::Ledger;
use salvage::{Missing, Salvage};

pub use lost::LostRecord;

/// Problems that a report lists one by one; more are only counted.
const PROBLEMS_MAX: usize = 10_000;

/// How to check.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckOptions {
    /// Repair what can be repaired. Without it, nothing is written.
    pub repair: bool,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// Where: a block and a range of its bytes, or a structure and its sector.
    pub place: String,
    /// It is whole again.
    pub repaired: bool,
    /// The block that it is about, if it is about one: a layer above may know its path.
    pub block: Option<BlockId>,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckReport {
    /// At most ten thousand; the counts below are of all.
    pub problems: Vec<Problem>,
    /// What a crash may leave and the next checkpoint mends: no damage, but worth to know.
    pub notes: Vec<String>,
    /// The records behind damage in the log, as far as they verify. A repair gives them up.
    pub lost: Vec<LostRecord>,
    pub sectors_checked: u64,
    pub repaired: u64,
    pub damage_left: u64,
}

/// What makes a problem go away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fix {
    /// Nothing that is left in the store.
    No,
    /// Writing the copies of superblock and key slot anew.
    Heads,
    /// Writing items and space table anew, with a checkpoint.
    Checkpoint,
    /// Giving up what damaged nodes of the index held.
    Salvage,
    /// Giving up what the log held from its damage on.
    Log,
    /// Taking records off the log that do not count.
    Refused,
}

#[derive(Default)]
struct Findings {
    listed: Vec<(Problem, Fix)>,
    notes: Vec<String>,
    lost: Vec<LostRecord>,
    /// By fix: no, heads, checkpoint, salvage, log, refused.
    counts: [u64; 6],
}

impl Findings {
    fn add(&mut self, place: impl Into<String>, what: impl Into<String>, block: Option<BlockId>, fix: Fix) {
        self.counts[fix as usize] += 1;
        if self.listed.len() < PROBLEMS_MAX {
            let problem = Problem { what: what.into(), place: place.into(), repaired: false, block };
            self.listed.push((problem, fix));
        }
    }

    fn needs(&self, fix: Fix) -> bool {
        self.counts[fix as usize] > 0
    }

    /// The report, once those with a fix in `done` are repaired.
    fn report(self, sectors_checked: u64, done: &[Fix]) -> CheckReport {
        let all: u64 = self.counts.iter().sum();
        let repaired = done.iter().map(|fix| self.counts[*fix as usize]).sum();
        let problems = self.listed.into_iter().map(|(mut problem, fix)| {
            problem.repaired = done.contains(&fix);
            problem
        });
        CheckReport {
            problems: problems.collect(),
            notes: self.notes,
            lost: self.lost,
            sectors_checked,
            repaired,
            damage_left: all - repaired,
        }
    }
}

/// What the passes gather.
struct Survey<'a> {
    findings: Findings,
    ledger: Ledger,
    verifier: Verifier,
    /// The nodes visited, so that what trees share is visited once.
    nodes: HashMap<u64, Hash>,
    live_nodes: u64,
    snapshots: Vec<Snapshot>,
    /// Items of the checkpoint's index that the log changed since, if a snapshot holds them.
    superseded: Vec<(Key, Vec<u8>)>,
    /// Changes to items that a repair would make.
    repairs: BTreeMap<Key, Option<Value>>,
    /// Something is missing from what refers to sectors.
    incomplete: bool,
    /// What is left to go on with where nodes are missing.
    salvage: Salvage,
    /// Sectors checked beside those of extents, and sectors there are.
    checked: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Survey<'_> {
    fn problem(&mut self, place: impl Into<String>, what: impl Into<String>, block: Option<BlockId>) {
        self.findings.add(place, what, block, Fix::No);
    }

    /// As [`Survey::problem`], of something that hides what it refers to.
    fn gap(&mut self, place: impl Into<String>, what: impl Into<String>, block: Option<BlockId>) {
        self.incomplete = true;
        self.problem(place, what, block);
    }

    /// A node of the newest tree is damaged.
    fn missing_node(&mut self, missing: Missing) {
        self.incomplete = true;
        self.salvage.missing.push(missing);
    }

    fn repairable(&mut self, place: impl Into<String>, what: impl Into<String>, block: Option<BlockId>) {
        self.findings.add(place, what, block, Fix::Checkpoint);
    }

    fn checked(&mut self, sectors: u64) {
        self.checked += sectors;
    }

    fn tell(&mut self) {
        let done = self.checked + self.verifier.done();
        (self.progress)(done, self.total.max(done));
    }

    fn verify(&mut self, job: Job) {
        if self.verifier.push(job) {
            self.tell();
        }
    }

    /// A pointer to a node; whether it leads anywhere and was not seen before. `alone`: nothing else may have
    /// the node's sectors.
    fn node(&mut self, ptr: &NodePtr, alone: bool) -> bool {
        let run = Run { sector: ptr.sector.get(), sectors: NODE_SECTORS as u64 };
        if self.nodes.insert(run.sector, ptr.hash) == Some(ptr.hash) {
            return false;
        }
        self.checked(run.sectors);
        if !self.ledger.is_possible(run) {
            return true;
        }
        match self.ledger.claim(run) {
            Some(sector) if alone => {
                self.problem(format!("sector {sector}"), "both an index node and something else", None);
            }
            _ => {}
        }
        true
    }
}

/// Checks a store that nobody has open: structure, every hash, every signature. `progress` gets the sectors done and
/// the sectors in all. Fails only where no key slot opens, or where a repair cannot be written.
pub fn check(
    device: Arc<dyn Device>,
    passphrase: &[u8],
    options: &CheckOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<CheckReport, OpenError> {
    check_as(device, &Credential::Passphrase(passphrase), options, progress)
}

/// As [`check`], by whoever has the credential: without the owner key, nothing that only block keys open is looked
/// into, and nothing repaired.
pub fn check_as(
    device: Arc<dyn Device>,
    credential: &Credential<'_>,
    options: &CheckOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<CheckReport, OpenError> {
    check_once_more(device, credential, options, true, progress)
}

/// `first`: what is damaged may be given up. A second time, it would only be damaged again.
fn check_once_more(
    device: Arc<dyn Device>,
    credential: &Credential<'_>,
    options: &CheckOptions,
    first: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<CheckReport, OpenError> {
    let (all_keys, keyslot) = find_keys(&*device, credential)?;
    let mut findings = Findings::default();
    let opened = all_keys.into_iter().find_map(|keys| Some((find_layout(&*device, &keys)?, keys)));
    let Some((layout, keys)) = opened else {
        findings.add("superblock", "no copy of it is valid: the store cannot be read", None, Fix::No);
        return Ok(findings.report(0, &[]));
    };
    if let Some(keyslot) = &keyslot {
        heads::check_keyslots(&*device, layout, keyslot, &mut findings);
    }
    heads::check_other_slots(&*device, layout, &mut findings);
    let Some(superblock) = heads::check_superblocks(&*device, layout, &keys, &mut findings) else {
        return Ok(findings.report(0, &[]));
    };
    let volume = superblock.volume_sectors.get();
    if volume > device.sectors() {
        let what = format!("it ends after {} of {volume} sectors: a part of it is missing", device.sectors());
        findings.add("volume", what, None, Fix::No);
        return Ok(findings.report(0, &[]));
    }

    let (table, table_damage) = Table::read_what_is_whole(&*device, superblock.space, volume);
    let written = superblock.written_sectors.get();
    let space = Space::load(device.clone(), table.clone(), layout, volume, written)?;
    let in_use = space.in_use();
    let open_options = OpenOptions { read_only: true, background: false, ..OpenOptions::default() };
    let mut core =
        build(device.clone(), DeviceNodes::uncached(&device), layout, keys, open_options, &superblock, space);
    // What stands in damaged nodes is found missing below.
    if let Err(error) = core.load_authors(&superblock)
        && !matches!(error, OpenError::Store(_))
    {
        findings.add("superblock", error.to_string(), None, Fix::No);
    }
    let (log, log_damage) = read_log_before_damage(&core, &superblock);
    let heads = layout.superblocks().len() + layout.keyslots().len() + table.homes().len();
    let mut survey = Survey {
        findings,
        ledger: Ledger::new(layout, volume),
        verifier: Verifier::start(&device),
        nodes: HashMap::new(),
        live_nodes: 0,
        snapshots: Vec::new(),
        superseded: Vec::new(),
        repairs: BTreeMap::new(),
        incomplete: false,
        salvage: Salvage::default(),
        checked: heads as u64 + log.appended,
        total: heads as u64 + log.appended + in_use,
        progress,
    };
    let last = log.records.last().map_or(superblock.seq.get(), |record| record.head.seq.get());
    let log_whole = log_damage.is_none();
    let lost = match &log_damage {
        Some(error) => lost::report(&core, error, last, &mut survey),
        None => Vec::new(),
    };
    let mut log = log;
    let deltas = replay(&mut core, &mut log, &table, &superblock, &mut survey);
    let is_replayed = !survey.incomplete;
    survey.ledger = Ledger::new(layout, core.space.get_mut().volume_sectors());
    survey.findings.lost = lost.iter().map(|record| lost::describe(&core, record)).collect();

    live::check_live(&core, &superblock, &mut survey);
    snapshots::check_snapshots(&core, &mut survey);
    survey.tell();
    report_data(&mut survey);
    space::check_space(&core, &table, &table_damage, &deltas, &mut survey);
    survey.tell();

    let mut done = Vec::new();
    if options.repair && core.may_repair() {
        if survey.findings.needs(Fix::Refused) {
            log.erase_refused(&*device).map_err(OpenError::Write)?;
            done.push(Fix::Refused);
        }
        if survey.findings.needs(Fix::Heads) || heads::differ(&*device, layout, &superblock) {
            heads::repair(&*device, layout, keyslot.as_deref(), &superblock)?;
            done.push(Fix::Heads);
        }
        let gives_up_log = survey.findings.needs(Fix::Log);
        let gives_up = gives_up_log || (survey.findings.needs(Fix::Salvage) && log_whole);
        if gives_up && first && is_replayed {
            let damaged = !table_damage.is_empty();
            if survey.incomplete {
                salvage::prepare(&mut core, &mut survey);
                done.push(Fix::Salvage);
            } else {
                done.push(Fix::Checkpoint);
            }
            // Nothing that is made from now on has the number of something that is lost.
            let ids = lost.iter().map(|record| record.head.next_block.get());
            let next_block = core.next_block.get_mut();
            *next_block = ids.fold(*next_block, u64::max);
            repair::write_checkpoint(&mut core, &table, &superblock, damaged, &deltas, &mut survey)?;
            if gives_up_log {
                lost::clear_log(&core)?;
                done.push(Fix::Log);
            }
            let given_up = survey.findings.report(0, &done);
            let progress = survey.progress;
            drop(core);
            // The index is whole now, and what does not fit it is seen.
            let rest = check_once_more(device, credential, options, false, progress)?;
            return Ok(salvage::join(given_up, rest));
        }
        let possible = log_whole && !survey.incomplete;
        if survey.findings.needs(Fix::Checkpoint) && possible {
            let damaged = !table_damage.is_empty();
            repair::write_checkpoint(&mut core, &table, &superblock, damaged, &deltas, &mut survey)?;
            done.push(Fix::Checkpoint);
        }
    }
    let sectors_checked = survey.checked + survey.verifier.done();
    Ok(survey.findings.report(sectors_checked, &done))
}

/// Puts the log's items into memory, as opening does; returns what happened to space.
fn replay(
    core: &mut Core,
    log: &mut Log,
    table: &Table,
    superblock: &Superblock,
    survey: &mut Survey<'_>,
) -> Vec<Delta> {
    let mut deltas = Vec::new();
    let mut next_block = superblock.next_block.get();
    let mut judge = LogJudge::new(core, log, table, superblock);
    for index in 0..log.records.len() {
        if judge.ends_log(core, log, index, superblock, survey) {
            break;
        }
        let record = &log.records[index];
        let seq = record.head.seq.get();
        let place = || format!("log record {seq}");
        let volume = record.head.volume_sectors.get();
        if volume > core.device.sectors() || volume < core.space.get_mut().volume_sectors() {
            survey.gap(place(), "its length of the volume is impossible", None);
        } else {
            core.space.get_mut().lengthen(volume);
        }
        for change in crate::format::decode_changes(&record.body) {
            let active = &mut core.layers.get_mut().active;
            let (sector, sectors, used) = match change {
                Ok(Change::Put(key, value)) => {
                    if !is_own_note(&key, value, &record.head.author) {
                        survey.problem(place(), "it notes something in another's name", None);
                    }
                    active.insert(key, Some(value.into()));
                    continue;
                }
                Ok(Change::Delete(key)) => {
                    active.insert(key, None);
                    continue;
                }
                Ok(Change::Allocate { sector, sectors }) => (sector, sectors, true),
                Ok(Change::Free { sector, sectors }) => (sector, sectors, false),
                Err(malformed) => {
                    survey.gap(place(), malformed.to_string(), None);
                    continue;
                }
            };
            deltas.push(Delta { run: Run { sector, sectors: u64::from(sectors) }, used });
        }
        next_block = next_block.max(record.head.next_block.get());
        *core.next_block.get_mut() = next_block;
        let sealer = core.sealer.get_mut();
        (sealer.seq, sealer.previous, sealer.time_ns) = (seq, record.hash, record.head.time_ns.get());
    }
    let sealer = core.sealer.get_mut();
    (sealer.position, sealer.appended) = (log.position, log.appended);
    *core.next_block.get_mut() = next_block;
    if let Some(refused) = &log.refused {
        let place = format!("log record {}", refused.seq);
        let what = format!("by {}: {}; it and what follows it do not count", refused.author, refused.why);
        survey.findings.add(place, what, None, Fix::Refused);
    }
    deltas
}

/// Judges the records of writers of a part, as opening does. What space was in use at each is known only to that.
struct LogJudge {
    space: Option<Mutex<Space>>,
    freed: Mutex<Freed>,
    series: Series,
}

impl LogJudge {
    fn new(core: &Core, log: &Log, table: &Table, superblock: &Superblock) -> Self {
        let (volume, written) = (superblock.volume_sectors.get(), superblock.written_sectors.get());
        let load = || Space::load(core.device.clone(), table.clone(), core.layout, volume, written).ok();
        let space = if log.parts.is_empty() { None } else { load() };
        Self { space: space.map(Mutex::new), freed: Mutex::default(), series: Series::new(superblock) }
    }

    /// Whether the record does not count, so that the log ends before it.
    fn ends_log(
        &mut self,
        core: &mut Core,
        log: &mut Log,
        index: usize,
        superblock: &Superblock,
        survey: &mut Survey<'_>,
    ) -> bool {
        let Some(space) = &self.space else { return false };
        let Record { head, body, .. } = &log.records[index];
        self.series.go_on(head, *core.next_block.get_mut());
        if let Some(chains) = log.parts.get(&head.seq.get()) {
            let bounds = core.bounds_of(chains, &self.series, superblock.seq.get());
            match core.why_unjust(space, &self.freed, &bounds, &Claims::of(head, body), head) {
                Ok(None) => {}
                Ok(Some(why)) => {
                    if let Err(error) = log.end_before(index, why, core.layout, superblock) {
                        survey.gap("log", error.to_string(), None);
                    }
                    return true;
                }
                Err(error) => {
                    survey.gap(format!("log record {}", head.seq.get()), error.to_string(), None);
                    return false;
                }
            }
        }
        let mut space = space.lock();
        let volume = head.volume_sectors.get().min(core.device.sectors()).max(space.volume_sectors());
        // What goes wrong here is reported where it is looked for.
        let _ = replay_space(&mut space, self.freed.get_mut(), head, body, volume);
        false
    }
}

/// Waits for the data to be read and reports what is damaged.
fn report_data(survey: &mut Survey<'_>) {
    for damage in survey.verifier.finish() {
        let sector_bytes = crate::limits::SECTOR_BYTES as u64;
        let (from, to) = (damage.start * sector_bytes, (damage.start + damage.sectors) * sector_bytes);
        let snapshot = damage.snapshot.map_or(String::new(), |name| format!(" in snapshot {name:?}"));
        let place = format!("block {}{snapshot}, bytes {from} to {to}", damage.block);
        let what = if damage.unreadable { "cannot be read" } else { "not what was written" };
        let what = format!("the data at sector {} of the volume is {what}", damage.sector);
        let what = if damage.unreadable { what.replace("is cannot", "cannot") } else { what };
        survey.problem(place, what, Some(damage.block));
    }
}

/// The sector of a space table error.
fn table_sector(error: &TableError) -> u64 {
    match error {
        TableError::Read { sector, .. }
        | TableError::Corrupt { sector }
        | TableError::Inconsistent { sector } => *sector,
    }
}
