//! What stands behind damage in the log: records that verify, but do not follow from what came before them. Their data may
//! be gone, and what they changed is not what the tree has; so they are named, and given up.
//!
//! A repair goes back to the last record before the damage. What later records freed may have been used again since: such
//! data does not fit its hash any more, and the check that follows reports it.

use super::{Fix, Survey};
use crate::device::Write;
use crate::format::{BlockId, Change, ItemKind, Key, Layout, SYSTEM_BLOCK, decode_changes};
use crate::store::log::Record;
use crate::store::log_tail::{behind_the_end, records_behind};
use crate::store::open::OpenError;
use crate::store::{Core, Note};

/// A record behind damage in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRecord {
    pub seq: u64,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// The blocks that it changed.
    pub blocks: Vec<BlockId>,
    /// What its author noted about its operations, as far as the check may open that.
    pub notes: Vec<Note>,
}

/// Reports the damage; returns the records behind it. `last` is the last record before it.
pub(super) fn report(core: &Core, error: &OpenError, last: u64, survey: &mut Survey<'_>) -> Vec<Record> {
    let what = match error {
        OpenError::Log { seq, why } => format!("the log is damaged at record {seq}: {why}"),
        OpenError::Read(error) => format!("the log, or data that it names, cannot be read: {error}"),
        other => {
            survey.problem("log", other.to_string(), None);
            return Vec::new();
        }
    };
    let lost = records_behind(core, last);
    let what = match lost.len() {
        0 => format!("{what}; a repair goes back to record {last}"),
        count => format!("{what}; a repair goes back to record {last}, and gives up {count} that came later"),
    };
    survey.findings.add("log", what, None, Fix::Log);
    lost
}

/// Says what is known of a record.
pub(super) fn describe(core: &Core, record: &Record) -> LostRecord {
    let journal = core.find_journal().ok().flatten();
    let (mut blocks, mut notes) = (Vec::new(), Vec::new());
    for change in decode_changes(&record.body).map_while(Result::ok) {
        let (key, value): (Key, &[u8]) = match change {
            Change::Put(key, value) => (key, value),
            Change::Delete(key) => (key, &[]),
            Change::Allocate { .. } | Change::Free { .. } => continue,
        };
        match &journal {
            Some(journal) if key.block == journal.id() => {
                if key.kind == ItemKind::JOURNAL && !value.is_empty() {
                    let opened = core.open_notes(journal, &key, value);
                    notes.extend(opened.map_or(Vec::new(), |(_, notes)| notes));
                }
            }
            _ if key.block == SYSTEM_BLOCK || key.kind == ItemKind::DEAD => {}
            _ => blocks.push(key.block),
        }
    }
    blocks.sort_unstable();
    blocks.dedup();
    LostRecord { seq: record.head.seq.get(), time_ns: record.head.time_ns.get(), blocks, notes }
}

/// Overwrites the log zone, of which a checkpoint contains all that counts, so that no lost record is ever taken for a
/// later one. What recovery looks at comes last: until then, it goes on refusing the store.
pub(super) fn clear_log(core: &Core) -> Result<(), OpenError> {
    const STEP: u64 = 256;
    let zone = core.layout.log_sectors();
    let seen = behind_the_end(core.layout, core.sealer.lock().position);
    let is_seen = |at: u64| seen.iter().any(|(from, to)| (*from..*to).contains(&at));
    for turn in [false, true] {
        for from in (0..zone).step_by(STEP as usize) {
            let wanted = (from..zone.min(from + STEP)).filter(|at| is_seen(*at) == turn);
            let zeros = |at: u64| Write::zeros(&*core.device, Layout::LOG_START + at, 1);
            core.write_and_wait(wanted.map(zeros).collect())?;
        }
        core.flush()?;
    }
    Ok(())
}
