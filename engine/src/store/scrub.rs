//! Scrub: reads and verifies what the store holds while it is in use.
//!
//! Goes from the oldest snapshot to the newest tree, each time without what is older than the snapshot before: that
//! was verified there. It works in steps; each begins with the root as it is then, so that nothing waits for it.
//! What looks damaged is damaged only if it still is where it was.

use std::time::{Duration, Instant};

use super::check::{Damage, Job, find_damage};
use super::snapshot::State;
use super::{Core, Store};
use crate::error::{Error, Result};
use crate::format::{BlockId, Extent, ItemKind, Key};
use crate::limits::{NODE_SECTORS, SECTOR_BYTES};
use crate::tree::{Root, WalkEvent, WalkStep};

/// Sectors of data, and leaves, to one step.
const STEP_SECTORS: u64 = 1024;
const STEP_LEAVES: u64 = 64;
/// Items of a memory table to one look at it.
const STEP_ITEMS: usize = 4096;
/// Others get this part of the time, as one in so many; but no more than this at once.
const PAUSE_SHARE: u32 = 4;
const PAUSE_MAX: Duration = Duration::from_millis(20);

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
    /// Reads and verifies everything the store holds, while it is in use. `progress` gets the sectors done and the
    /// sectors in all, and answers whether to go on.
    pub fn scrub(&self, progress: &dyn Fn(u64, u64) -> bool) -> Result<ScrubReport> {
        let mut scrub =
            Scrub { core: &self.core, progress, report: ScrubReport::default(), inner: Vec::new() };
        scrub.run()?;
        Ok(scrub.report)
    }
}

/// A tree to scrub: a snapshot's, or the newest.
#[derive(Clone, Copy)]
struct Target {
    snapshot: Option<(BlockId, Root)>,
    /// What was written up to this record is in an older tree too.
    since: u64,
}

struct Scrub<'a> {
    core: &'a Core,
    progress: &'a dyn Fn(u64, u64) -> bool,
    report: ScrubReport,
    /// The inner nodes of the last step, which the next one meets again.
    inner: Vec<u64>,
}

/// What a step came across.
#[derive(Default)]
struct Step {
    jobs: Vec<Job>,
    sectors: u64,
    leaves: u64,
    inner: Vec<u64>,
    damaged_nodes: u64,
    /// Where the next step begins.
    next: Option<Key>,
}

impl Scrub<'_> {
    fn run(&mut self) -> Result<()> {
        let there = {
            let snapshots = self.core.snapshots.lock();
            let there = snapshots.all.iter().filter(|snapshot| snapshot.state == State::There);
            there.map(|snapshot| (snapshot.id, snapshot.root, snapshot.seq)).collect::<Vec<_>>()
        };
        let mut since = 0;
        for (id, root, seq) in there {
            self.scrub_tree(Target { snapshot: Some((id, root)), since })?;
            since = seq;
        }
        self.scrub_memory()?;
        self.scrub_tree(Target { snapshot: None, since })
    }

    /// Verifies the extents that the index does not have yet.
    fn scrub_memory(&mut self) -> Result<()> {
        let target = Target { snapshot: None, since: 0 };
        let mut from = Some(Key::MIN);
        while let Some(first) = from
            && !self.report.stopped
        {
            let started = Instant::now();
            let mut step = Step::default();
            {
                let layers = self.core.layers.read();
                let tables = [Some(&layers.active), layers.frozen.as_deref()];
                let mut ends = Vec::new();
                for table in tables.into_iter().flatten() {
                    let mut items = table.items.range(first..);
                    for (key, value) in items.by_ref().take(STEP_ITEMS) {
                        if let Some(value) = value.as_deref().filter(|_| key.kind == ItemKind::EXTENT) {
                            step.item(*key, value, 0);
                        }
                    }
                    ends.extend(items.next().map(|(key, _)| *key));
                }
                from = ends.into_iter().min();
            }
            self.verify(target, step, started)?;
        }
        Ok(())
    }

    fn scrub_tree(&mut self, target: Target) -> Result<()> {
        let mut from = Some(Key::MIN);
        self.inner.clear();
        while let Some(first) = from
            && !self.report.stopped
        {
            let started = Instant::now();
            let root = target.snapshot.map_or_else(|| self.core.layers.read().root, |(_, root)| root);
            let step = self.step(&root, first, target.since)?;
            if step.damaged_nodes > 0 && !self.is_current(target, &root) {
                // A checkpoint replaced nodes while they were read.
                continue;
            }
            from = step.next;
            self.inner.clone_from(&step.inner);
            self.verify(target, step, started)?;
        }
        Ok(())
    }

    /// Whether nothing below this root can have been freed.
    fn is_current(&self, target: Target, root: &Root) -> bool {
        match target.snapshot {
            None => self.core.layers.read().root == *root,
            Some((id, _)) => {
                let snapshots = self.core.snapshots.lock();
                snapshots.all.iter().any(|snapshot| snapshot.id == id && snapshot.state == State::There)
            }
        }
    }

    /// Reads nodes from `first` on and gathers extents.
    fn step(&self, root: &Root, first: Key, since: u64) -> Result<Step> {
        let mut step = Step::default();
        self.core.tree.walk_from(root, first, &mut |event| match event {
            WalkEvent::Node { ptr, .. } if ptr.birth.get() <= since => WalkStep::Skip,
            WalkEvent::Node { ptr, level, .. } if level > 0 => {
                step.inner.push(ptr.sector.get());
                if !self.inner.contains(&ptr.sector.get()) {
                    step.sectors += NODE_SECTORS as u64;
                }
                WalkStep::On
            }
            WalkEvent::Node { .. } => {
                step.leaves += 1;
                step.sectors += NODE_SECTORS as u64;
                WalkStep::On
            }
            WalkEvent::Damaged { .. } => {
                step.damaged_nodes += 1;
                WalkStep::On
            }
            WalkEvent::Item { key, .. } if step.sectors >= STEP_SECTORS || step.leaves > STEP_LEAVES => {
                step.next = Some(key);
                WalkStep::Stop
            }
            WalkEvent::Item { key, value } => {
                if key.kind == ItemKind::EXTENT {
                    step.item(key, value, since);
                }
                WalkStep::On
            }
        })?;
        Ok(step)
    }

    /// Verifies what a step gathered, tells of it, and lets others work.
    fn verify(&mut self, target: Target, step: Step, started: Instant) -> Result<()> {
        let end = self.core.device.sectors();
        let inside = |job: &Job| job.end().is_some_and(|job_end| job_end <= end);
        let jobs: Vec<Job> = step.jobs.into_iter().filter(inside).collect();
        for damage in find_damage(&*self.core.device, jobs) {
            self.report.damaged += self.still_damaged(target, &damage)?;
        }
        self.report.damaged += step.damaged_nodes * NODE_SECTORS as u64;
        self.report.sectors_checked += step.sectors;
        let total = self.core.usage().used.max(self.report.sectors_checked);
        self.report.stopped = !(self.progress)(self.report.sectors_checked, total);
        std::thread::sleep((started.elapsed() / PAUSE_SHARE).min(PAUSE_MAX));
        Ok(())
    }

    /// How many of these sectors are damaged, now that they are looked at in the way that reads take past the host's cache.
    fn still_damaged(&self, target: Target, damage: &Damage) -> Result<u64> {
        if target.snapshot.is_some() {
            // What a snapshot holds does not move.
            let held = self.is_current(target, &Root::EMPTY);
            return Ok(if held { damage.sectors } else { 0 });
        }
        let block = match self.core.block(damage.block) {
            Ok(Some(block)) => block,
            Ok(None) => return Ok(0),
            // Who has no key for it cannot look again, and believes what the hashes said.
            Err(Error::NoKey) => return Ok(damage.sectors),
            Err(error) => return Err(error),
        };
        let mut page = [0; SECTOR_BYTES];
        let mut damaged = 0;
        for sector in damage.start..damage.start + damage.sectors {
            match self.core.read_from_device(&block, sector * SECTOR_BYTES as u64, &mut page) {
                Ok(()) => {}
                Err(Error::Corrupt { .. } | Error::Read(_)) => damaged += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(damaged)
    }
}

impl Step {
    fn item(&mut self, key: Key, value: &[u8], since: u64) {
        if let Ok(extent) = Extent::decode(value)
            && (extent.birth() > since || since == 0)
        {
            self.sectors += extent.sectors();
            self.jobs.push(Job::new(key.block, key.offset, extent, None));
        }
    }
}
