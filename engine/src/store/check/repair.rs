//! A checkpoint of what is right: the log's changes, the repaired items, and a space table made from references.

use std::collections::BTreeMap;

use zerocopy::IntoBytes;

use super::Survey;
use super::ledger::parts;
use crate::error::Error;
use crate::format::{ItemKind, Key, SYSTEM_BLOCK, SharedBytes, Superblock};
use crate::limits::{REGION_SECTORS, SPACE_FANOUT};
use crate::space::{Bitmap, Delta, Space, Table, count_free};
use crate::store::checkpoint::{Moment, Sink};
use crate::store::open::OpenError;
use crate::store::{Core, now_ns};
use crate::tree::Root;

/// Bitmaps to one batch of writes.
const WRITES: usize = 256;

/// Writes the checkpoint. Until its superblock counts, the old one does, and nothing it needs is overwritten.
pub(super) fn write_checkpoint(
    core: &mut Core,
    table: &Table,
    superblock: &Superblock,
    table_damaged: bool,
    deltas: &[Delta],
    survey: &mut Survey<'_>,
) -> Result<(), OpenError> {
    if !survey.ledger.miscounts().is_empty() {
        repair_shared(survey);
    }
    let active = &mut core.layers.get_mut().active;
    for (key, value) in std::mem::take(&mut survey.repairs) {
        active.insert(key, value);
    }
    core.snapshots.get_mut().all = std::mem::take(&mut survey.snapshots);

    // New nodes go where nothing is, nor was before the log freed it: should this be interrupted, recovery looks
    // at the log and its data once more.
    let old = core.space.get_mut();
    let volume_sectors = old.volume_sectors();
    let written = old.written();
    let mut space = Space::load(core.device.clone(), Table::empty(), core.layout, volume_sectors, written)?;
    let mut taken: BTreeMap<u64, Bitmap> =
        survey.ledger.regions().map(|(region, bitmap)| (region, bitmap.clone())).collect();
    let freed = deltas.iter().filter(|delta| !delta.used && survey.ledger.is_possible(delta.run));
    for part in freed.flat_map(|delta| parts(delta.run)) {
        let bitmap = taken.entry(part.sector / REGION_SECTORS).or_insert_with(Bitmap::empty);
        bitmap.fill_range(part.sector % REGION_SECTORS, part.sectors, true);
    }
    for (region, bitmap) in taken {
        space.set_bitmap(region as usize, bitmap);
    }
    *core.space.get_mut() = space;

    let sealer = core.sealer.get_mut();
    let mut moment = Moment {
        generation: superblock.generation.get() + 1,
        seq: sealer.seq,
        record_hash: sealer.previous,
        log_position: sealer.position,
        volume_sectors,
        next_block: *core.next_block.get_mut(),
        root: Root::EMPTY,
        nodes: survey.live_nodes,
        space: table.top(),
        time_ns: now_ns().max(sealer.time_ns),
    };
    let layers = core.layers.read();
    let changes = layers.active.items.iter().map(|(key, value)| (*key, value.as_deref()));
    let mut sink = Sink::new(core, moment.seq);
    // With nothing missing, this is an ordinary merge.
    let root = core.tree.merge_without_damaged(&layers.root, moment.seq, changes, &mut sink);
    moment.root = root.map_err(Error::from)?;
    moment.nodes = (moment.nodes + sink.allocated).saturating_sub(sink.replaced);
    let (node_deltas, _) = sink.finish()?;
    for delta in node_deltas {
        survey.ledger.mark(delta.run, delta.used);
    }

    // Bitmaps that are as they should be stay, so that a large store is not written anew.
    let mut changed: Vec<(u64, Bitmap)> = Vec::new();
    let regions = volume_sectors.div_ceil(REGION_SECTORS);
    for region in 0..regions {
        let right = survey.ledger.region(region);
        let known = table.read_bitmap(&*core.device, region);
        let counts = count_free(core.layout, region, volume_sectors, &right);
        let same_counts = table
            .entry(0, region)
            .is_none_or(|entry| (u64::from(entry.free.get()), u64::from(entry.free_reserve.get())) == counts);
        // One of each table sector, so that all of them are written where one was damaged.
        let must = table_damaged && region.is_multiple_of(SPACE_FANOUT as u64);
        if !must && known.is_ok_and(|known| known == right) && same_counts {
            continue;
        }
        changed.push((region, right));
    }
    let all = changed.iter().map(|(region, bitmap)| (*region, bitmap));
    let (new_table, mut writes) = table.with_bitmaps(&*core.device, core.layout, volume_sectors, all);
    moment.space = new_table.top();
    while !writes.is_empty() {
        let rest = writes.split_off(writes.len().min(WRITES));
        core.write_and_wait(std::mem::replace(&mut writes, rest))?;
    }
    core.flush()?;
    core.write_superblock(&moment)?;
    Ok(())
}

/// Replaces all shared items by what the extents say.
fn repair_shared(survey: &mut Survey<'_>) {
    let key = |sector| Key::new(SYSTEM_BLOCK, ItemKind::SHARED, sector);
    for key in std::mem::take(&mut survey.salvage.shared) {
        survey.repairs.insert(key, None);
    }
    for (run, extents) in survey.ledger.shared_runs() {
        let shared = SharedBytes { sectors: (run.sectors as u32).into(), extents: extents.into() };
        survey.repairs.insert(key(run.sector), Some(shared.as_bytes().into()));
    }
}
