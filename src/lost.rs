//! What the records behind damage in a log had changed, in words and with paths.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use blocktree_engine::LostRecord;
use blocktree_engine::format::BlockId;
use blocktree_vfs::{Entry, Event, Fs, Name};

use crate::commands::log::{printable, what};
use crate::date::date;

/// More lines than this are only counted.
const LINES_MAX: usize = 10_000;
/// Deeper paths than this are damage.
const DEPTH_MAX: usize = 4096;

/// The blocks whose paths are needed to say it.
pub(crate) fn blocks(lost: &[LostRecord]) -> impl Iterator<Item = BlockId> {
    let parents = entries(lost).flat_map(|entry| [entry.name, entry.new_name]).flatten();
    let parents = parents.map(|name| name.parent).collect::<Vec<_>>();
    lost.iter().flat_map(|record| record.blocks.iter().copied()).chain(parents)
}

fn entries(lost: &[LostRecord]) -> impl Iterator<Item = Entry> {
    lost.iter().flat_map(|record| &record.notes).filter_map(|note| Entry::read(note, Fs::ROOT).ok())
}

/// The list, for people. `paths` is what the tree knows that is left.
pub(crate) fn for_people(
    lost: &[LostRecord],
    paths: &BTreeMap<BlockId, PathBuf>,
    is_given_up: bool,
) -> String {
    let (Some(first), Some(last)) = (lost.first(), lost.last()) else { return String::new() };
    let mut lines = Vec::new();
    let places = Places::new(lost, paths);
    for record in lost {
        lines.push(format!("record {}, of {}:", record.seq, date(record.time_ns)));
        let own: Vec<String> = record.notes.iter().filter_map(|note| places.tell(note)).collect();
        let is_told = !own.is_empty();
        own.into_iter().for_each(|line| {
            let line = format!("  {line}");
            if lines.last() != Some(&line) {
                lines.push(line);
            }
        });
        // There may be no notes, or none that are believed.
        if !is_told {
            let changed = |block: &BlockId| format!("  changed    {}", places.inode(*block));
            lines.extend(record.blocks.iter().map(changed));
        }
    }
    let word = if is_given_up { "Given up" } else { "A repair would give up" };
    let mut text = format!(
        "{word} what was changed between {} and {}, as far as it can be told:\n",
        date(first.time_ns),
        date(last.time_ns)
    );
    let more = lines.len().saturating_sub(LINES_MAX);
    for line in lines.iter().take(LINES_MAX) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {line}");
    }
    if more > 0 {
        let _ = writeln!(text, "  and {more} lines more");
    }
    text
}

/// Where inodes are: as the tree says, or as the lost records do.
struct Places<'a> {
    paths: &'a BTreeMap<BlockId, PathBuf>,
    lost: HashMap<BlockId, Name>,
}

impl<'a> Places<'a> {
    fn new(lost: &[LostRecord], paths: &'a BTreeMap<BlockId, PathBuf>) -> Self {
        let mut names = HashMap::new();
        for entry in entries(lost) {
            if let (Event::Linked { ino, .. }, Some(name)) = (entry.event, entry.name) {
                names.entry(ino).or_insert(name);
            }
        }
        Self { paths, lost: names }
    }

    fn path(&self, ino: BlockId) -> Option<PathBuf> {
        let (mut at, mut below) = (ino, Vec::new());
        while below.len() < DEPTH_MAX {
            let known = if at == Fs::ROOT { Some(Path::new("/")) } else { self.paths.get(&at).map(|p| &**p) };
            if let Some(known) = known {
                let mut path = known.to_owned();
                path.extend(below.iter().rev());
                return Some(path);
            }
            let name = self.lost.get(&at)?;
            below.push(String::from_utf8_lossy(&name.name).into_owned());
            at = name.parent;
        }
        None
    }

    fn inode(&self, ino: BlockId) -> String {
        self.path(ino).map_or(format!("inode {ino}"), |path| printable(&path.to_string_lossy()))
    }

    fn name(&self, name: &Name) -> String {
        let parent = match self.path(name.parent) {
            Some(path) => path.to_string_lossy().into_owned(),
            None => format!("(inode {})", name.parent),
        };
        let slash = if parent.ends_with('/') { "" } else { "/" };
        printable(&format!("{parent}{slash}{}", String::from_utf8_lossy(&name.name)))
    }

    /// One change in one line.
    fn tell(&self, note: &blocktree_engine::Note) -> Option<String> {
        let entry = Entry::read(note, Fs::ROOT).ok()?;
        let (word, ino) = what(&entry.event);
        // That nobody writes to a file any more is no loss, nor is that the store was mounted.
        if matches!(entry.event, Event::Settled { .. } | Event::Mounted | Event::Unmounted) {
            return None;
        }
        let place = match (&entry.name, ino) {
            (Some(name), _) => self.name(name),
            (None, Some(ino)) => self.inode(ino),
            (None, None) => return None,
        };
        let new = entry.new_name.as_ref().map_or(String::new(), |name| format!(" -> {}", self.name(name)));
        Some(format!("{word:<10} {place}{new}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_notes_the_blocks_are_named() {
        let record =
            |seq, blocks| LostRecord { seq, time_ns: seq * 1_000_000_000, blocks, notes: Vec::new() };
        let lost = [record(7, vec![3]), record(9, vec![3, 8])];
        let paths = BTreeMap::from([(3, PathBuf::from("/a\u{1b}b"))]);
        assert_eq!(blocks(&lost).collect::<Vec<_>>(), [3, 3, 8]);
        assert_eq!(
            for_people(&lost, &paths, true),
            "Given up what was changed between 1970-01-01 00:00:07 UTC and 1970-01-01 00:00:09 UTC, as far as it can be \
             told:\n  record 7, of 1970-01-01 00:00:07 UTC:\n    changed    /a\u{fffd}b\n  record 9, of 1970-01-01 \
             00:00:09 UTC:\n    changed    /a\u{fffd}b\n    changed    inode 8\n"
        );
        assert_eq!(for_people(&[], &paths, true), "");
    }
}
