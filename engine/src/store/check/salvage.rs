//! What is done where nodes of the newest tree are damaged: the tree goes on without them.
//!
//! A node that does not verify takes with it what only it knew: headers of blocks, and with them the blocks' keys;
//! extents; items of the layer above; items of the store's own. The rest is kept:
//!
//! - A block whose header is gone cannot be opened any more: what is left of it is removed.
//! - A block whose extents are gone keeps the others. Where the missing ones were is marked: it does not read as zeros.
//! - Counts of shared sectors are made from the extents that are left; what nothing refers to any more becomes free.
//!
//! Nothing is guessed. A check afterwards finds a whole index and repairs what does not fit it.

use zerocopy::IntoBytes;

use super::{CheckReport, Survey};
use crate::format::{BlockId, ItemKind, Key, LostBytes, SYSTEM_BLOCK};
use crate::store::Core;
use crate::store::layers::Value;

/// The keys that a damaged node had.
#[derive(Debug, Clone, Copy)]
pub(super) struct Missing {
    pub(super) lowest: Key,
    pub(super) upper: Option<Key>,
}

/// What a walk over a tree with missing nodes gathers.
#[derive(Default)]
pub(super) struct Salvage {
    pub(super) missing: Vec<Missing>,
    /// Items of blocks whose header is not there.
    pub(super) homeless: Vec<Key>,
    /// Blocks whose extents cover other than the number of sectors that their header says: how many are missing, and the
    /// header as it should be.
    pub(super) short: Vec<(BlockId, u64, Value)>,
    /// All shared items.
    pub(super) shared: Vec<Key>,
}

impl Missing {
    /// Which of a block's sectors may have had their extents here.
    fn sectors_of(&self, block: BlockId) -> Option<(u64, u64)> {
        let first = Key::new(block, ItemKind::EXTENT, 0);
        let end = Key::new(block, ItemKind(ItemKind::EXTENT.0 + 1), 0);
        if self.lowest >= end || self.upper.is_some_and(|upper| upper <= first) {
            return None;
        }
        let from = if self.lowest > first { self.lowest.offset } else { 0 };
        let to = self.upper.filter(|upper| *upper < end).map_or(u64::MAX, |upper| upper.offset);
        Some((from, to))
    }
}

/// Notes the changes by which the tree becomes whole without its damaged nodes.
pub(super) fn prepare(core: &mut Core, survey: &mut Survey<'_>) {
    let salvage = &mut survey.salvage;
    // What was concluded from what is not there.
    survey.repairs.clear();
    for key in std::mem::take(&mut salvage.homeless) {
        survey.repairs.insert(key, None);
    }
    for (block, missing, header) in std::mem::take(&mut salvage.short) {
        survey.repairs.insert(Key::new(block, ItemKind::HEADER, 0), Some(header));
        let ranges = salvage.missing.iter().filter_map(|missing| missing.sectors_of(block));
        let hull = ranges.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)));
        if let (Some((from, to)), 1..) = (hull, missing) {
            let lost = LostBytes { from: from.into(), to: to.into() };
            let key = Key::new(SYSTEM_BLOCK, ItemKind::LOST, block);
            survey.repairs.insert(key, Some(lost.as_bytes().into()));
            let bytes = |sector: u64| sector.saturating_mul(crate::limits::SECTOR_BYTES as u64);
            let end = if to == u64::MAX { "its end".to_owned() } else { bytes(to).to_string() };
            survey.findings.add(
                format!("block {block}, bytes {} to {end}", bytes(from)),
                format!("{missing} sectors of it were lost with the index node that knew them"),
                Some(block),
                super::Fix::Salvage,
            );
        }
    }
    // So that the merge comes across each of them.
    let active = &core.layers.get_mut().active;
    for missing in &salvage.missing {
        if !active.items.contains_key(&missing.lowest) {
            survey.repairs.entry(missing.lowest).or_insert(None);
        }
    }
}

/// The report of a salvage and of the check that followed.
pub(super) fn join(given_up: CheckReport, rest: CheckReport) -> CheckReport {
    let mut problems = given_up.problems;
    // Whatever is still so was found again.
    problems.retain(|problem| problem.repaired);
    problems.extend(rest.problems);
    CheckReport {
        problems,
        notes: given_up.notes,
        lost: given_up.lost,
        sectors_checked: rest.sectors_checked,
        repaired: given_up.repaired + rest.repaired,
        damage_left: rest.damage_left,
    }
}
