//! A change in the making: one engine transaction, the new attributes of the inodes it touches, and which of them
//! lose their last name.

use std::sync::Arc;

use blocktree_engine::{Error, Seq, Transaction};
use zerocopy::IntoBytes;

use super::Fs;
use crate::inode::Inode;
use crate::journal::Happened;
use crate::layout::{Attributes, FileKind, Time};
use crate::{FsError, Result};

struct Update {
    inode: Arc<Inode>,
    before: Attributes,
    after: Attributes,
    data: bool,
    /// The directory that its block belongs to from now on: see [`blocktree_engine::Block::home`].
    home: Option<u64>,
    /// The block goes with this transaction, so its attributes are not written.
    destroyed: bool,
}

/// The caller holds the `operation` locks of all inodes that it edits. Dropping it changes nothing.
pub(super) struct Change<'a> {
    fs: &'a Fs,
    pub(super) transaction: Transaction,
    pub(super) now: Time,
    updates: Vec<Update>,
    doomed: Doomed<'a>,
}

/// Inodes that are declared dead, and live on if the change does not happen.
struct Doomed<'a> {
    fs: &'a Fs,
    inodes: Vec<Arc<Inode>>,
}

impl Drop for Doomed<'_> {
    fn drop(&mut self) {
        for inode in &self.inodes {
            self.fs.inodes.revive(inode);
        }
    }
}

impl Fs {
    pub(super) fn change(&self) -> Result<Change<'_>> {
        self.writable()?;
        Ok(Change {
            fs: self,
            transaction: self.store.transaction(),
            now: self.now(),
            updates: Vec::new(),
            doomed: Doomed { fs: self, inodes: Vec::new() },
        })
    }

    pub(super) fn writable(&self) -> Result<()> {
        if self.options.read_only { Err(Error::ReadOnly.into()) } else { Ok(()) }
    }
}

impl Change<'_> {
    /// The attributes that the inode will have; fdatasync(2) will wait for them.
    pub(super) fn edit(&mut self, inode: &Arc<Inode>) -> &mut Attributes {
        let update = self.update(inode);
        update.data = true;
        &mut update.after
    }

    /// As [`Self::edit`], for attributes that fdatasync(2) need not wait for.
    pub(super) fn edit_metadata(&mut self, inode: &Arc<Inode>) -> &mut Attributes {
        &mut self.update(inode).after
    }

    fn update(&mut self, inode: &Arc<Inode>) -> &mut Update {
        let index = match self.updates.iter().position(|update| update.inode.ino == inode.ino) {
            Some(index) => index,
            None => {
                let before = inode.attributes();
                self.updates.push(Update {
                    inode: inode.clone(),
                    before,
                    after: before,
                    data: false,
                    home: None,
                    destroyed: false,
                });
                self.updates.len() - 1
            }
        };
        &mut self.updates[index]
    }

    /// Lets the inode's block belong to another directory.
    pub(super) fn set_home(&mut self, inode: &Arc<Inode>, home: u64) {
        if inode.block.home() != home {
            self.update(inode).home = Some(home);
        }
    }

    /// Marks an entry added to (or, with -1, taken from) a directory.
    pub(super) fn edit_directory(&mut self, directory: &Arc<Inode>, entries: i64) -> &mut Attributes {
        let now = self.now;
        let attributes = self.edit(directory);
        attributes.size = attributes.size.saturating_add_signed(entries);
        attributes.mtime = now;
        attributes.ctime = now;
        attributes
    }

    /// Takes one name from an inode (a directory only has one). Without names it ends with this transaction, or
    /// with its last use.
    pub(super) fn unname(&mut self, inode: &Arc<Inode>) {
        let now = self.now;
        let update = self.update(inode);
        update.data = true;
        update.after.ctime = now;
        update.after.nlink = match update.after.kind {
            FileKind::Directory => 0,
            _ => update.after.nlink.saturating_sub(1),
        };
        if update.after.nlink > 0 {
            return;
        }
        if self.fs.inodes.kill_if_unused(inode) {
            self.update(inode).destroyed = true;
            self.doomed.inodes.push(inode.clone());
            self.transaction.destroy(&inode.block);
        } else {
            self.orphan(inode);
        }
    }

    /// Marks an inode that has no name, and lives until its last use ends.
    pub(super) fn orphan(&mut self, inode: &Arc<Inode>) {
        self.transaction.orphan(&inode.block);
        if self.fs.store.writes_below().is_some() {
            // The directories above it may be gone before it is, and then nobody could tell that it is below the top.
            self.set_home(inode, self.fs.root);
        }
    }

    /// Makes it visible, wholly or not at all; `happened` is what is told of it.
    pub(super) fn commit(mut self, happened: Happened<'_>) -> Result<Seq> {
        for update in self.updates.iter().filter(|update| !update.destroyed) {
            let (block, attributes) = (&update.inode.block, update.after.encode());
            match update.home {
                Some(home) => {
                    self.transaction.set_attributes_and_home(block, attributes.as_bytes(), home);
                }
                None if update.after != update.before || update.inode.state().atime_pending => {
                    self.transaction.set_attributes(block, attributes.as_bytes());
                }
                None => {}
            }
        }
        let fs = self.fs;
        let told = if fs.is_unnoted { &Happened::Nothing } else { &happened };
        let noted = fs.journal.announce(&fs.store, &mut self.transaction, told, self.now, fs.actor)?;
        let seq = fs.events.apply(self.transaction, told.mask(), || told.event())?;
        fs.journal.happened(&noted, &happened, fs.actor);
        self.doomed.inodes.clear();
        for update in self.updates {
            let mut state = update.inode.state();
            let accessed = (state.attributes.atime != update.before.atime).then_some(state.attributes.atime);
            state.attributes = update.after;
            state.changed = seq;
            if update.data {
                state.data_changed = seq;
            }
            state.atime_pending = false;
            if let Some(atime) = accessed
                && update.after.atime == update.before.atime
            {
                // A reader came in between.
                state.attributes.atime = atime;
                state.atime_pending = true;
            }
            drop(state);
            if update.destroyed {
                self.fs.inodes.remove(update.inode.ino);
                self.fs.forget_uses(update.inode.ino);
            } else if update.after.nlink == 0 && self.fs.inodes.abandoned(&update.inode) {
                let mut transaction = self.fs.store.transaction();
                transaction.destroy(&update.inode.block);
                // At the worst it stays an orphan until the next mount.
                let _ = transaction.apply();
                self.fs.forget_uses(update.inode.ino);
            }
        }
        Ok(seq)
    }
}

/// Checks that an inode is a directory that names can be added to or found in.
pub(super) fn live_directory(inode: &Inode) -> Result<Attributes> {
    let attributes = inode.attributes();
    match (attributes.kind, attributes.nlink) {
        (FileKind::Directory, 0) => Err(FsError::NotFound),
        (FileKind::Directory, _) => Ok(attributes),
        _ => Err(FsError::NotDirectory),
    }
}
