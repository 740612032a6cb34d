//! What only snapshots hold: their dead lists, and their trees as far as no newer tree shares them.

use std::sync::Arc;

use zerocopy::{FromBytes, IntoBytes};

use super::live::{check_extent, check_item, open_header};
use super::{Job, Survey};
use crate::format::{BlockId, DeadBytes, ItemKind, Key, SYSTEM_BLOCK};
use crate::space::Run;
use crate::store::layers::after;
use crate::store::snapshot::{Snapshot, State};
use crate::store::{Block, Core};
use crate::tree::{Root, WalkEvent, WalkStep};

/// Items of a dead list to one step.
const STEP: usize = 1024;

/// Checks all snapshots, newest first. The newest tree was checked before.
pub(super) fn check_snapshots(core: &Core, survey: &mut Survey<'_>) {
    let mut snapshots = std::mem::take(&mut survey.snapshots);
    snapshots.sort_by_key(|snapshot| snapshot.id);
    for snapshot in &snapshots {
        check_dead_list(core, snapshot, survey);
    }
    let mut newer: Option<Root> = None;
    for snapshot in snapshots.iter().rev().filter(|snapshot| snapshot.state <= State::Comparing) {
        check_tree(core, snapshot, newer, survey);
        if snapshot.state == State::There {
            newer = Some(snapshot.root);
        }
    }
    survey.snapshots = snapshots;
}

fn check_dead_list(core: &Core, snapshot: &Snapshot, survey: &mut Survey<'_>) {
    let last = Key::new(snapshot.id, ItemKind::DEAD, u64::MAX);
    let mut from = Key::new(snapshot.id, ItemKind::DEAD, 0);
    loop {
        // Where this fails, the walk over the newest tree has met the damage.
        let Ok((items, all)) = core.range_sealed(from, last, STEP) else { return };
        for (key, value) in &items {
            check_dead(snapshot, *key, value, survey);
        }
        match items.last() {
            Some((key, _)) if !all => from = after(*key),
            _ => return,
        }
    }
}

fn check_dead(snapshot: &Snapshot, key: Key, value: &[u8], survey: &mut Survey<'_>) {
    let place = format!("dead list of snapshot {:?}, sector {}", snapshot.name, key.offset);
    let Ok(dead) = DeadBytes::read_from_bytes(value) else {
        return survey.gap(place, "not a dead item", None);
    };
    let run = Run { sector: key.offset, sectors: dead.sectors.get() };
    if !survey.ledger.is_possible(run) {
        return survey.problem(place, "names sectors that cannot hold data", None);
    }
    let unused = survey.ledger.unused(run);
    survey.ledger.mark(run, true);
    if unused == [run] {
        return;
    }
    // What is in use must not be freed with this list.
    survey.repairs.insert(key, None);
    for run in unused {
        let part = DeadBytes { sectors: run.sectors.into(), ..dead };
        survey.repairs.insert(Key { offset: run.sector, ..key }, Some(part.as_bytes().into()));
    }
    survey.repairable(place, "names sectors as dead that are in use", None);
}

/// Checks a snapshot's tree, without what was checked with newer ones. `newer` is the next newer snapshot's;
/// without one, it is the newest tree.
fn check_tree(core: &Core, snapshot: &Snapshot, newer: Option<Root>, survey: &mut Survey<'_>) {
    let mut items = Items { core, snapshot, name: snapshot.name.as_str().into(), current: None };
    if newer.is_none() && snapshot.state == State::There {
        for (key, value) in std::mem::take(&mut survey.superseded) {
            items.check(key, &value, survey);
        }
    }
    let layers = core.layers.read();
    let seen_in_newer = |key: &Key, value: &[u8]| {
        if newer.is_none() && layers.active.items.contains_key(key) {
            return false;
        }
        let root = newer.as_ref().unwrap_or(&layers.root);
        core.tree.get(root, key).is_ok_and(|found| found.as_deref() == Some(value))
    };
    let walked = core.tree.walk(&snapshot.root, &mut |event| match event {
        // Those of a snapshot that is being deleted may be in its dead list already.
        WalkEvent::Node { ptr, .. } => match survey.node(ptr, snapshot.state == State::There) {
            true => WalkStep::On,
            false => WalkStep::Skip,
        },
        WalkEvent::Damaged { ptr, lowest, error, .. } => {
            let place = format!("index node at sector {} in snapshot {:?}", ptr.sector.get(), snapshot.name);
            survey.gap(place, error.to_string(), lowest.map(|key| key.block));
            WalkStep::On
        }
        // What dies while it is being deleted is not kept for it.
        WalkEvent::Item { .. } if snapshot.state != State::There => WalkStep::Skip,
        WalkEvent::Item { key, value } => {
            if key.block != SYSTEM_BLOCK && !seen_in_newer(&key, value) {
                items.check(key, value, survey);
            }
            WalkStep::On
        }
    });
    if let Err(error) = walked {
        survey.gap(format!("snapshot {:?}", snapshot.name), error.to_string(), None);
    }
}

/// Checks items of a snapshot's tree.
struct Items<'a> {
    core: &'a Core,
    snapshot: &'a Snapshot,
    name: Arc<str>,
    /// The block whose item was the last.
    current: Option<(BlockId, Option<Block>)>,
}

impl Items<'_> {
    fn check(&mut self, key: Key, value: &[u8], survey: &mut Survey<'_>) {
        let (core, name) = (self.core, self.name.clone());
        let place = format!("block {} in snapshot {name:?}", key.block);
        match key.kind {
            ItemKind::DEAD => {}
            ItemKind::HEADER => {
                if let Err(what) = open_header(core, &key, value, Some(&self.snapshot.root)) {
                    survey.problem(place, what, Some(key.block));
                }
            }
            ItemKind::EXTENT => {
                let block = self.block(key.block);
                let place = format!("{place}, extent at sector {}", key.offset);
                let Some(extent) = check_extent(core, survey, block.as_ref(), &key, value, &place) else {
                    return;
                };
                let run = Run { sector: extent.sector(), sectors: extent.sectors() };
                self.check_held(run, extent.birth(), &place, key.block, survey);
                survey.verify(Job::new(key.block, key.offset, extent, Some(name)));
            }
            _ => {
                let block = self.block(key.block);
                check_item(survey, block.as_ref(), &key, value, Some(&name));
            }
        }
    }

    /// What a snapshot refers to is part of the newest tree, or in a dead list.
    fn check_held(&self, run: Run, birth: u64, place: &str, block: BlockId, survey: &mut Survey<'_>) {
        let unused = survey.ledger.unused(run);
        survey.ledger.mark(run, true);
        if unused.is_empty() || survey.incomplete {
            return;
        }
        for run in unused {
            let dead = DeadBytes { sectors: run.sectors.into(), birth: birth.into() };
            let key = Key::new(self.snapshot.id, ItemKind::DEAD, run.sector);
            survey.repairs.insert(key, Some(dead.as_bytes().into()));
        }
        survey.repairable(place, "refers to sectors that are in no dead list", Some(block));
    }

    /// The block's keys, as of this snapshot.
    fn block(&mut self, id: BlockId) -> Option<Block> {
        if let Some((known, block)) = &self.current
            && *known == id
        {
            return block.clone();
        }
        let (key, root) = (Key::new(id, ItemKind::HEADER, 0), &self.snapshot.root);
        let value = self.core.tree.get(root, &key).ok().flatten();
        let block = value
            .and_then(|value| open_header(self.core, &key, &value, Some(root)).ok())
            .and_then(|(block, _)| block);
        self.current = Some((id, block.clone()));
        block
    }
}
