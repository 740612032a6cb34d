//! Where inodes belong: each block has a home, a directory above all names of its inode (see
//! [`blocktree_engine::Block::home`]).
//!
//! Invariant: a home changes only under `tree_shape`, and never becomes too low on the way.

use std::collections::HashSet;
use std::sync::Arc;

use blocktree_engine::Error;
use blocktree_engine::format::BlockId;

use super::Fs;
use super::create::gone;
use crate::directory::decode;
use crate::inode::Inode;
use crate::journal::Happened;
use crate::layout::{ENTRY_POSITION_FIRST, Entry, FileKind, ITEM_ENTRY};
use crate::{FsError, Ino, Result};

/// Deeper trees than any path reaches are damage.
const DEPTH_MAX: usize = 1 << 20;
/// Entries that are read at once.
const BATCH: usize = 512;

impl Fs {
    /// Where an inode belongs that gets a name in `directory`, beside those that it has: the deepest directory above
    /// all of them. The caller holds `tree_shape`.
    pub(super) fn home_above(&self, inode: &Inode, directory: &Arc<Inode>) -> Result<BlockId> {
        let home = inode.block.home();
        if home == directory.block.id() {
            return Ok(home);
        }
        let Ok(old) = self.inode(self.ino_of(home)) else { return Ok(self.root) };
        let mut at = directory.clone();
        for _ in 0..DEPTH_MAX {
            if at.ino == Self::ROOT || self.is_within(&old, at.ino)? {
                return Ok(at.block.id());
            }
            at = self.inode(self.above(&at, &at.attributes())).map_err(gone)?;
        }
        Err(FsError::Malformed { ino: directory.ino, what: "the directories above it make a loop" })
    }

    /// Where an inode belongs whose name in another directory moved to `directory`.
    pub(super) fn home_moved(&self, inode: &Inode, directory: &Arc<Inode>) -> Result<BlockId> {
        let attributes = inode.attributes();
        match attributes.kind == FileKind::Directory || attributes.nlink == 1 {
            true => Ok(directory.block.id()),
            false => self.home_above(inode, directory),
        }
    }

    /// Whether `directory` is `ancestor` or lies below it. The caller holds `tree_shape` if that may be.
    pub(super) fn is_within(&self, directory: &Arc<Inode>, ancestor: Ino) -> Result<bool> {
        let mut at = directory.clone();
        for _ in 0..DEPTH_MAX {
            if at.ino == ancestor {
                return Ok(true);
            }
            let parent = self.above(&at, &at.attributes());
            if parent == at.ino || parent == 0 {
                return Ok(false);
            }
            at = self.inode(parent).map_err(gone)?;
        }
        Err(FsError::Malformed { ino: directory.ino, what: "the directories above it make a loop" })
    }

    /// Before `child` moves from `source` to `target`: a file with a name below it and others elsewhere gets a home that
    /// will be above all of them. This looks at all that is below `child`, unless it only moves deeper. The caller holds
    /// `tree_shape`, and no lock of an inode.
    pub(super) fn prepare_homes(
        &self,
        child: &Arc<Inode>,
        source: &Arc<Inode>,
        target: &Arc<Inode>,
    ) -> Result<()> {
        if child.attributes().kind != FileKind::Directory {
            return Ok(());
        }
        let mut left = HashSet::new();
        let mut above = source.clone();
        while !self.is_within(target, above.ino)? {
            let parent = self.above(&above, &above.attributes());
            if !left.insert(above.block.id()) || parent == above.ino {
                return Err(FsError::Malformed {
                    ino: source.ino,
                    what: "the directories above it make a loop",
                });
            }
            above = self.inode(parent).map_err(gone)?;
        }
        if left.is_empty() {
            return Ok(());
        }
        let mut ways = vec![(child.clone(), self.leaving(child, &left)?)];
        while let Some((directory, entries)) = ways.last_mut() {
            let Some(entry) = entries.pop() else {
                ways.pop();
                continue;
            };
            // What was removed meanwhile, or cannot be read, has no name here that could be of use.
            let Some(inode) = readable(self.inode_in(directory, &entry))? else { continue };
            if inode.attributes().kind == FileKind::Directory {
                let entries = self.leaving(&inode, &left)?;
                ways.push((inode, entries));
            } else if let Ok(_guard) = inode.lock()
                && left.contains(&inode.block.home())
            {
                let mut change = self.change()?;
                change.set_home(&inode, above.block.id());
                change.commit(Happened::Nothing)?;
            }
        }
        Ok(())
    }

    /// The directories in a directory, and what has its home in one of `left`. Under the directory's lock: a name that
    /// changes meanwhile could be missed.
    fn leaving(&self, directory: &Arc<Inode>, left: &HashSet<BlockId>) -> Result<Vec<Entry>> {
        let Ok(_guard) = directory.lock() else { return Ok(Vec::new()) };
        let here = directory.block.id();
        let mut leaving = Vec::new();
        let mut from = ENTRY_POSITION_FIRST;
        loop {
            let items = self.store.scan(&directory.block, ITEM_ENTRY, from, BATCH);
            let Some(items) = readable(items.map_err(FsError::from))? else { return Ok(leaving) };
            let is_last = items.len() < BATCH;
            for (position, item) in items {
                from = position.saturating_add(1);
                let Some(entry) = readable(decode(directory.ino, &item))? else { continue };
                let home = readable(self.store.home(entry.child).map_err(FsError::from))?.flatten();
                // A directory belongs to the one that it is in. Others that have a name here by some writer's malice are
                // not gone into: they could lead round in circles.
                if home.is_some_and(|home| match entry.kind {
                    FileKind::Directory => home == here,
                    _ => left.contains(&home),
                }) {
                    leaving.push(entry);
                }
            }
            if is_last {
                return Ok(leaving);
            }
        }
    }
}

/// `None` for what is damaged, foreign or gone.
fn readable<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(FsError::Stale | FsError::Malformed { .. }) => Ok(None),
        Err(FsError::Engine(Error::Corrupt { .. } | Error::NoKey)) => Ok(None),
        Err(error) => Err(error),
    }
}
