//! Who changed what: the journal, read backwards, with paths as they were.
//!
//! An entry names a parent and a name. Where that parent was then follows from where it is now, and from what the newer
//! entries say of it: going back, a removed directory is where it was removed, a renamed one where it came from.
//!
//! Key types: [`Fs::history`] and the [`Past`] that it answers.

use std::collections::HashMap;
use std::sync::Arc;

use blocktree_engine::{Role, Seq};

use crate::directory::decode;
use crate::events::Event;
use crate::fs::Fs;
use crate::inode::Inode;
use crate::journal::{Entry, Name, read_entry};
use crate::layout::{ENTRY_POSITION_FIRST, Entry as DirectoryEntry, FileKind, ITEM_ENTRY, Time};
use crate::{FsError, Ino, Result};

/// Deeper paths than this are damage.
const DEPTH_MAX: usize = 4096;
/// Entries of a directory that are read at once.
const BATCH: usize = 256;

/// A change, and where it was. A path is `None` where it is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastChange {
    pub entry: Entry,
    pub path: Option<Vec<u8>>,
    /// Of a rename.
    pub new_path: Option<Vec<u8>>,
}

/// A part of the history of a file, or of a directory and everything below it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Past {
    /// Newest first.
    pub changes: Vec<PastChange>,
    /// Ask for older ones with this.
    pub more_before: Option<Seq>,
    /// When the oldest entry that is kept was made, of whatever file; `None` if there is none.
    pub kept_since: Option<Time>,
    /// There were older ones.
    pub is_cut: bool,
}

impl Fs {
    /// The newest `limit` changes before `before` of what is or was at the path that these names make, and of what is
    /// there now, wherever it was; of a directory, also of everything below it.
    pub fn history(&self, names: &[&[u8]], before: Seq, limit: usize) -> Result<Past> {
        let mut path = Vec::new();
        names.iter().for_each(|name| path.extend_from_slice(&[b"/", *name].concat()));
        let mut search = Search {
            target: self.find_path(names)?,
            path,
            places: Places { fs: self, then: HashMap::new(), now: HashMap::new(), has_walked: false },
            before,
            limit,
            past: Past::default(),
        };
        let mut failed = None;
        self.store().notes_before(Seq(u64::MAX), &mut |note| {
            let Some(entry) = read_entry(&note, self.journal.root()) else { return true };
            let more = entry.and_then(|entry| search.look_at(entry));
            more.unwrap_or_else(|error| {
                failed = Some(error);
                false
            })
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let mut past = search.past;
        let oldest = self.events_since(Seq(0), 1)?;
        past.is_cut = oldest.first().is_some_and(|entry| entry.event == Event::Overflow);
        past.kept_since = oldest.iter().find(|entry| entry.event != Event::Overflow).map(|entry| entry.time);
        Ok(past)
    }

    /// What is at a path now.
    fn find_path(&self, names: &[&[u8]]) -> Result<Option<Ino>> {
        let mut at = Self::ROOT;
        for name in names {
            let found = self.lookup(at, name);
            match found {
                Ok(stat) => {
                    self.forget(stat.ino, 1);
                    at = stat.ino;
                }
                Err(FsError::NotFound | FsError::NotDirectory | FsError::Stale) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(at))
    }
}

struct Search<'a> {
    target: Option<Ino>,
    /// Empty for the root.
    path: Vec<u8>,
    places: Places<'a>,
    before: Seq,
    limit: usize,
    past: Past,
}

impl Search<'_> {
    /// Takes an entry in if it is asked for; whether to go on.
    fn look_at(&mut self, entry: Entry) -> Result<bool> {
        if entry.seq < self.before && self.concerns(&entry)? {
            let last = self.past.changes.last().map(|change| change.entry.seq);
            // What one operation did is not torn apart, since the number would leave out its rest.
            if self.past.changes.len() >= self.limit && last != Some(entry.seq) {
                self.past.more_before = last;
                return Ok(false);
            }
            let path = self.places.path(entry.name.as_ref())?;
            let new_path = self.places.path(entry.new_name.as_ref())?;
            self.past.changes.push(PastChange { entry: entry.clone(), path, new_path });
        }
        self.places.go_back(&entry);
        Ok(true)
    }

    fn concerns(&mut self, entry: &Entry) -> Result<bool> {
        if self.path.is_empty() {
            return Ok(true);
        }
        let is_target = |ino: Option<Ino>| ino.is_some() && ino == self.target;
        let (ino, other) = match entry.event {
            Event::Linked { ino, .. }
            | Event::Unlinked { ino, .. }
            | Event::Data { ino, .. }
            | Event::Settled { ino }
            | Event::Attributes { ino } => (Some(ino), None),
            Event::Renamed { ino, replaced, .. } => (Some(ino), replaced),
            Event::Mounted | Event::Unmounted | Event::Overflow => return Ok(false),
        };
        if is_target(ino) || is_target(other) {
            return Ok(true);
        }
        for name in entry.name.iter().chain(&entry.new_name) {
            let (path, is_below) = self.places.path_below(name, self.target)?;
            let is_at_path = path.is_some_and(|path| {
                let rest = path.strip_prefix(&self.path[..]);
                rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            });
            if is_below || is_at_path {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Where directories were at the moment that the search has reached.
struct Places<'a> {
    fs: &'a Fs,
    /// Of those that newer entries speak of; `None`: not there.
    then: HashMap<Ino, Option<Name>>,
    /// Of others, as they are now.
    now: HashMap<Ino, Option<Name>>,
    /// All directories are in `now`.
    has_walked: bool,
}

impl Places<'_> {
    fn path(&mut self, name: Option<&Name>) -> Result<Option<Vec<u8>>> {
        match name {
            Some(name) => Ok(self.path_below(name, None)?.0),
            None => Ok(None),
        }
    }

    /// The path of a name, and whether it leads through `target`.
    fn path_below(&mut self, name: &Name, target: Option<Ino>) -> Result<(Option<Vec<u8>>, bool)> {
        let mut names = vec![name.name.clone()];
        let mut at = name.parent;
        let mut is_below = false;
        while at != Fs::ROOT {
            is_below |= Some(at) == target;
            if names.len() > DEPTH_MAX {
                return Ok((None, is_below));
            }
            let Some(place) = self.place(at)? else { return Ok((None, is_below)) };
            names.push(place.name);
            at = place.parent;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        Ok((Some(path), is_below))
    }

    /// Where a directory was.
    fn place(&mut self, ino: Ino) -> Result<Option<Name>> {
        if let Some(known) = self.then.get(&ino).or_else(|| self.now.get(&ino)) {
            return Ok(known.clone());
        }
        let place = match self.fs.inode(ino) {
            Ok(inode) if inode.attributes().kind == FileKind::Directory => {
                self.read_names(inode.attributes().parent)?;
                self.now.get(&ino).cloned().flatten()
            }
            // Without the owner key, what nobody uses is found on the way down only.
            Err(FsError::Stale) if self.fs.store().role() != Role::Owner => {
                self.walk()?;
                self.now.get(&ino).cloned().flatten()
            }
            Ok(_) | Err(FsError::Stale) => None,
            Err(error) => return Err(error),
        };
        self.now.insert(ino, place.clone());
        Ok(place)
    }

    /// Learns the names of all directories.
    fn walk(&mut self) -> Result<()> {
        let mut left = if self.has_walked { Vec::new() } else { vec![self.fs.inode(Fs::ROOT)?] };
        self.has_walked = true;
        while let Some(directory) = left.pop() {
            for entry in self.directories_in(&directory)? {
                match self.fs.inode_in(&directory, &entry) {
                    Ok(below) => left.push(below),
                    Err(FsError::Stale) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Learns the names of the directories in a directory.
    fn read_names(&mut self, parent: Ino) -> Result<()> {
        match self.fs.inode(parent) {
            Ok(directory) => self.directories_in(&directory).map(drop),
            Err(FsError::Stale) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The entries of directories in a directory, whose names are learnt.
    fn directories_in(&mut self, directory: &Arc<Inode>) -> Result<Vec<DirectoryEntry>> {
        let parent = directory.ino;
        let mut found = Vec::new();
        let mut from = ENTRY_POSITION_FIRST;
        loop {
            let items = self.fs.store().scan(&directory.block, ITEM_ENTRY, from, BATCH)?;
            for (position, item) in &items {
                from = position.saturating_add(1);
                let entry = decode(parent, item)?;
                if entry.kind == FileKind::Directory {
                    let name = entry.name.clone();
                    self.now.entry(entry.child).or_insert(Some(Name { parent, name }));
                    found.push(entry);
                }
            }
            if items.len() < BATCH {
                return Ok(found);
            }
        }
    }

    /// Undoes an entry.
    fn go_back(&mut self, entry: &Entry) {
        if !entry.is_directory {
            return;
        }
        match entry.event {
            Event::Linked { ino, .. } => drop(self.then.insert(ino, None)),
            Event::Unlinked { ino, .. } => drop(self.then.insert(ino, entry.name.clone())),
            Event::Renamed { ino, replaced, .. } => {
                self.then.insert(ino, entry.name.clone());
                if let Some(other) = replaced {
                    self.then.insert(other, entry.new_name.clone());
                }
            }
            _ => {}
        }
    }
}
