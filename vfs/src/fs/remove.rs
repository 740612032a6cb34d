//! More names for an inode, and the end of names.

use std::sync::Arc;

use super::Fs;
use super::change::live_directory;
use super::create::gone;
use super::flags::{check_mutable, check_unrestricted};
use crate::directory::{check_name, delete, put};
use crate::events::{Intent, Mask};
use crate::inode::{Inode, lock_all};
use crate::journal::Happened;
use crate::layout::{Attributes, Entry, FileKind, ITEM_ENTRY, LINKS_MAX};
use crate::{FsError, Ino, Result, Stat};

impl Fs {
    /// A further name for what is no directory, or the first for what was made without one. Counts a lookup.
    pub fn link(&self, ino: Ino, new_parent: Ino, new_name: &[u8]) -> Result<Stat> {
        check_name(new_name)?;
        if new_name == b"." || new_name == b".." {
            return Err(FsError::Exists);
        }
        let (parent, name) = (new_parent, new_name);
        let inode = self.inode(ino)?;
        let Attributes { kind, permissions, .. } = inode.attributes();
        self.announce(Mask::LINK, || Intent::Link { parent, name, ino: Some(ino), kind, permissions })?;
        // Before, so that one that has no name yet does not end meanwhile.
        if !self.inodes.count_lookup(&inode) {
            return Err(FsError::NotFound);
        }
        let linked = self.link_counted(&inode, parent, name);
        if linked.is_err() {
            self.forget(ino, 1);
        }
        linked
    }

    fn link_counted(&self, inode: &Arc<Inode>, parent: Ino, name: &[u8]) -> Result<Stat> {
        let directory = self.inode(parent)?;
        let _shape = self.tree_shape.lock();
        let _guards = lock_all(&[inode, &directory]).map_err(gone)?;
        live_directory(&directory)?;
        let attributes = inode.attributes();
        if attributes.kind == FileKind::Directory {
            return Err(FsError::NotPermitted("a directory has one name"));
        }
        let position = self.place(&directory, name)?.free()?;
        check_mutable(&directory)?;
        check_unrestricted(inode)?;
        let is_first = match attributes.nlink {
            0 if inode.is_nameless() => true,
            0 => return Err(FsError::NotFound),
            LINKS_MAX => return Err(FsError::TooManyLinks),
            _ => false,
        };
        let mut change = self.change()?;
        let now = change.now;
        if is_first {
            change.transaction.adopt(&inode.block);
        }
        let linked = change.edit(inode);
        linked.nlink += 1;
        linked.ctime = now;
        put(&mut change.transaction, &directory, position, &inode.block, attributes.kind, name);
        change.edit_directory(&directory, 1);
        change.set_home(
            inode,
            if is_first { directory.block.id() } else { self.home_above(inode, &directory)? },
        );
        change.commit(Happened::Linked { parent, name, inode, is_new: is_first })?;
        inode.set_nameless(false);
        Ok(self.stat(inode))
    }

    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        check_name(name)?;
        if name == b"." || name == b".." {
            return Err(FsError::IsDirectory);
        }
        self.remove(parent, name, false)
    }

    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        check_name(name)?;
        match name {
            b"." => return Err(FsError::Invalid("a directory is not removed by its own dot")),
            b".." => return Err(FsError::NotEmpty),
            _ => {}
        }
        self.remove(parent, name, true)
    }

    fn remove(&self, parent: Ino, name: &[u8], directories: bool) -> Result<()> {
        self.announce(Mask::UNLINK, || Intent::Unlink { parent, name })?;
        let above = self.inode(parent)?;
        loop {
            live_directory(&above)?;
            let found = self.place(&above, name)?.taken()?;
            let Some(inode) = self.child(&above, name, &found.1)? else { continue };
            let Ok(_guards) = lock_all(&[&above, &inode]) else {
                inode.settle();
                continue;
            };
            // Between the look and the locks the name may have come to mean another inode.
            if self.place(&above, name)?.taken()? != found {
                continue;
            }
            check_unrestricted(&above)?;
            check_unrestricted(&inode)?;
            let is_directory = inode.attributes().kind == FileKind::Directory;
            match (is_directory, directories) {
                (true, false) => return Err(FsError::IsDirectory),
                (false, true) => return Err(FsError::NotDirectory),
                (true, true) => self.check_empty(&inode)?,
                (false, false) => {}
            }
            let mut change = self.change()?;
            delete(&mut change.transaction, &above, found.0);
            let attributes = change.edit_directory(&above, -1);
            if is_directory {
                attributes.nlink = attributes.nlink.saturating_sub(1);
            }
            change.unname(&inode);
            change.commit(Happened::Unlinked { parent, name, inode: &inode })?;
            return Ok(());
        }
    }

    /// The inode that an entry of `above` was just seen to lead to; `None` if the entry is to be looked up again.
    pub(super) fn child(&self, above: &Inode, name: &[u8], seen: &Entry) -> Result<Option<Arc<Inode>>> {
        match self.inode_in(above, seen) {
            Ok(inode) => Ok(Some(inode)),
            Err(FsError::Stale) => {
                // Under the lock, the entry and the inode must agree.
                let _guard = above.lock().map_err(gone)?;
                let (_, entry) = self.place(above, name)?.taken()?;
                if entry.child != seen.child {
                    return Ok(None);
                }
                // Again: the directory it is in may have moved meanwhile.
                match self.inode_in(above, &entry) {
                    Err(FsError::Stale) => {
                        Err(FsError::Malformed { ino: above.ino, what: "an entry leads to no inode" })
                    }
                    found => found.map(Some),
                }
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn check_empty(&self, directory: &Inode) -> Result<()> {
        match self.store.scan(&directory.block, ITEM_ENTRY, 0, 1)?.is_empty() {
            true => Ok(()),
            false => Err(FsError::NotEmpty),
        }
    }
}
