//! The space table: its hashes, its counts, and whether it says of each sector what the references say.

use std::collections::BTreeMap;

use super::ledger::parts;
use super::{Survey, table_sector};
use crate::limits::REGION_SECTORS;
use crate::space::{Bitmap, Delta, Run, Table, TableError, count_free};
use crate::store::Core;

/// Holds the table, with what the log did since (`deltas`), against the references.
pub(super) fn check_space(
    core: &Core,
    table: &Table,
    table_damage: &[TableError],
    deltas: &[Delta],
    survey: &mut Survey<'_>,
) {
    for error in table_damage {
        survey.repairable(format!("space table at sector {}", table_sector(error)), error.to_string(), None);
    }
    let mut by_region: BTreeMap<u64, Vec<(Run, bool)>> = BTreeMap::new();
    for delta in deltas {
        if !survey.ledger.is_possible(delta.run) {
            let place = format!("sector {}", delta.run.sector);
            survey.problem(place, "the log allocates or frees what cannot be", None);
            continue;
        }
        for part in parts(delta.run) {
            by_region.entry(part.sector / REGION_SECTORS).or_default().push((part, delta.used));
        }
    }
    let volume = core.space.lock().volume_sectors();
    for region in 0..volume.div_ceil(REGION_SECTORS) {
        let mut bitmap = match table.read_bitmap(&*core.device, region) {
            Ok(bitmap) => bitmap,
            Err(error) => {
                let place = format!("space table at sector {}", table_sector(&error));
                survey.repairable(place, error.to_string(), None);
                continue;
            }
        };
        check_counts(core, table, region, volume, &bitmap, survey);
        for (run, used) in by_region.remove(&region).unwrap_or_default() {
            let from = run.sector % REGION_SECTORS;
            if !bitmap.set_range(from, run.sectors, used) && table_damage.is_empty() {
                let word = if used { "allocates what is in use" } else { "frees what is free" };
                survey.repairable(format!("sector {}", run.sector), format!("the log {word}"), None);
            }
            bitmap.fill_range(from, run.sectors, used);
        }
        // Where the table is not known, or not all that refers to sectors, a difference says nothing.
        if table_damage.is_empty() && !survey.incomplete {
            compare(region, &bitmap, survey);
        }
    }
}

/// The table must not promise more than is free. It may know of less: it does not count what the volume gained.
fn check_counts(
    core: &Core,
    table: &Table,
    region: u64,
    volume: u64,
    bitmap: &Bitmap,
    survey: &mut Survey<'_>,
) {
    let Some(entry) = table.entry(0, region) else { return };
    let (free, free_reserve) = count_free(core.layout, region, volume, bitmap);
    if u64::from(entry.free.get()) > free || u64::from(entry.free_reserve.get()) > free_reserve {
        let what = format!("counts {} free sectors, there are {free}", entry.free.get());
        survey.repairable(format!("space table, region {region}"), what, None);
    }
}

fn compare(region: u64, bitmap: &Bitmap, survey: &mut Survey<'_>) {
    let start = region * REGION_SECTORS;
    let references = survey.ledger.region(region);
    let mut report = |mut sectors: Box<dyn Iterator<Item = u64> + '_>, what: &str| {
        if let Some(first) = sectors.next() {
            let count = sectors.count() + 1;
            let place = format!("space table, region {region}");
            survey.repairable(place, format!("{count} sectors from {} on {what}", start + first), None);
        }
    };
    report(Box::new(bitmap.without(&references)), "count as in use, but nothing refers to them");
    report(Box::new(references.without(bitmap)), "count as free, but are in use");
}
