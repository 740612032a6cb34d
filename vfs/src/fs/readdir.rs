//! Reading directories.
//!
//! Entries come in the order of their positions; a cookie is the position of the entry it follows. So an entry that
//! stays is handed out exactly once, whatever is added and removed meanwhile.

use std::ops::ControlFlow::{self, Break, Continue};

use super::{DirectoryEntry, Fs};
use crate::directory::{Place, decode};
use crate::inode::Inode;
use crate::layout::{ENTRY_POSITION_FIRST, Entry, FileKind, HIDDEN_NAME, ITEM_ENTRY};
use crate::{FsError, Ino, Name, Result, Stat};

const COOKIE_DOT: u64 = 1;
const COOKIE_DOT_DOT: u64 = 2;

const BATCH_MIN: usize = 32;
const BATCH_MAX: usize = 512;
/// How far up the next directory is looked for.
const LEVELS_MAX: usize = 8;
/// How many entries are looked at there, at first and at most.
const NEIGHBOURS_MIN: usize = 4;
const NEIGHBOURS_MAX: usize = 256;

impl Fs {
    /// Hands out entries after `cookie` (0: from the start) until `take` answers false (that entry was not
    /// taken) or the directory ends.
    pub fn readdir(
        &self,
        ino: Ino,
        cookie: u64,
        take: &mut dyn FnMut(&DirectoryEntry<'_>) -> bool,
    ) -> Result<()> {
        let directory = self.inode(ino)?;
        self.walk(&directory, cookie, &mut |entry, _| take(entry))
    }

    /// As [`Fs::readdir`]; `take` also gets the entry itself, but for `.` and `..`.
    fn walk(
        &self,
        directory: &Inode,
        cookie: u64,
        take: &mut dyn FnMut(&DirectoryEntry<'_>, Option<&Entry>) -> bool,
    ) -> Result<()> {
        let ino = directory.ino;
        let attributes = directory.attributes();
        if attributes.kind != FileKind::Directory {
            return Err(FsError::NotDirectory);
        }
        if attributes.nlink == 0 {
            // As in Linux: a directory that was removed has no entries, not even dots.
            return Ok(());
        }
        let kind = FileKind::Directory;
        if cookie < COOKIE_DOT && !take(&DirectoryEntry { ino, kind, name: b".", cookie: COOKIE_DOT }, None) {
            return Ok(());
        }
        let parent = self.above(directory, &attributes);
        let dot_dot = DirectoryEntry { ino: parent, kind, name: b"..", cookie: COOKIE_DOT_DOT };
        if cookie < COOKIE_DOT_DOT && !take(&dot_dot, None) {
            return Ok(());
        }
        let from = cookie.saturating_add(1).max(ENTRY_POSITION_FIRST);
        self.each_entry(directory, from, BATCH_MIN, |position, entry| {
            let shown =
                DirectoryEntry { ino: entry.child, kind: entry.kind, name: &entry.name, cookie: position };
            Ok(if take(&shown, Some(entry)) { Continue(()) } else { Break(()) })
        })?;
        self.accessed(directory);
        Ok(())
    }

    /// Goes through the entries from a position on until `look` breaks: so many at first, then more and more at once.
    fn each_entry<T>(
        &self,
        directory: &Inode,
        mut from: u64,
        mut limit: usize,
        mut look: impl FnMut(u64, &Entry) -> Result<ControlFlow<T>>,
    ) -> Result<Option<T>> {
        loop {
            let items = self.store.scan(&directory.block, ITEM_ENTRY, from, limit)?;
            let is_all = items.len() < limit;
            for (position, item) in items {
                from = position.saturating_add(1);
                let entry = decode(directory.ino, &item)?;
                if entry.name == HIDDEN_NAME {
                    continue;
                }
                if let Break(found) = look(position, &entry)? {
                    return Ok(Some(found));
                }
            }
            if is_all {
                return Ok(None);
            }
            limit = (limit * 2).min(BATCH_MAX);
        }
    }

    /// As [`Fs::readdir`], each entry with its attributes. Every taken entry but `.` and `..` counts a lookup.
    pub fn readdirplus(
        &self,
        ino: Ino,
        cookie: u64,
        take: &mut dyn FnMut(&DirectoryEntry<'_>, &Stat) -> bool,
    ) -> Result<()> {
        let mut failed = None;
        let directory = self.inode(ino)?;
        self.walk(&directory, cookie, &mut |shown, entry| {
            let taken = match entry {
                None => self.getattr(shown.ino).map(|stat| take(shown, &stat)),
                Some(entry) => self.take_counted(&directory, shown, entry, take),
            };
            taken.unwrap_or_else(|error| {
                failed = Some(error);
                false
            })
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Loads the inodes of the next so many entries behind a cookie, for who will ask for them; answers the cookie of the last.
    pub fn load_ahead(&self, ino: Ino, cookie: u64, entries: usize) -> Result<u64> {
        let directory = self.inode(ino)?;
        let from = cookie.saturating_add(1).max(ENTRY_POSITION_FIRST);
        let mut last = cookie;
        for (position, item) in self.store.scan(&directory.block, ITEM_ENTRY, from, entries.min(BATCH_MAX))? {
            let entry = decode(ino, &item)?;
            match self.inode_in(&directory, &entry) {
                // Removed meanwhile.
                Ok(_) | Err(FsError::Stale) => last = position,
                Err(error) => return Err(error),
            }
        }
        Ok(last)
    }

    /// Which directory comes behind one without directories in it, for who goes through the whole tree in the order of the
    /// entries. `None` if that is far away.
    pub fn directory_behind(&self, ino: Ino) -> Result<Option<Ino>> {
        let mut at = ino;
        for _ in 0..LEVELS_MAX {
            let Some(Name { parent, name }) = self.known_name(at)? else { return Ok(None) };
            let directory = self.inode(parent)?;
            let Place::Taken { position, .. } = self.place(&directory, &name)? else { return Ok(None) };
            let mut left = NEIGHBOURS_MAX;
            // Mostly it is the very next entry.
            let found =
                self.each_entry(&directory, position.saturating_add(1), NEIGHBOURS_MIN, |_, entry| {
                    left -= 1;
                    Ok(match entry.kind {
                        FileKind::Directory => Break(Some(self.inode_in(&directory, entry)?.ino)),
                        _ if left == 0 => Break(None),
                        _ => Continue(()),
                    })
                })?;
            if let Some(next) = found {
                return Ok(next);
            }
            at = parent;
        }
        Ok(None)
    }

    fn take_counted(
        &self,
        directory: &Inode,
        shown: &DirectoryEntry<'_>,
        entry: &Entry,
        take: &mut dyn FnMut(&DirectoryEntry<'_>, &Stat) -> bool,
    ) -> Result<bool> {
        // Removed since the entry was read: as if it had been removed before.
        let Some(inode) = self.count_entry(directory, entry)? else { return Ok(true) };
        let taken = take(shown, &self.stat(&inode));
        match taken {
            true => inode.seen_at(directory.ino, shown.name),
            false => self.forget(shown.ino, 1),
        }
        Ok(taken)
    }
}
