//! A directory for what the layers above keep in the store, which no mount shows.
//!
//! It is an entry of the root directory whose name no path can spell, since a slash is in it. So it has its own keys,
//! is covered by the signature, goes with snapshots, and is checked and repaired like any other; but the root does not
//! count it, and listings leave it out.

use super::change::live_directory;
use super::create::gone;
use super::{Caller, Fs};
use crate::directory::{Place, put};
use crate::journal::Happened;
use crate::layout::{FileKind, HIDDEN_NAME};
use crate::{FsError, Ino, Result};

impl Fs {
    /// The hidden directory, if there is one.
    pub fn system_directory(&self) -> Result<Option<Ino>> {
        let root = self.inode(Self::ROOT)?;
        match self.place(&root, HIDDEN_NAME)? {
            Place::Taken { entry, .. } => Ok(Some(entry.child)),
            Place::Free(_) => Ok(None),
        }
    }

    /// The hidden directory, made where it is missing: mode 0700, root's.
    pub fn make_system_directory(&self) -> Result<Ino> {
        match self.system_directory()? {
            Some(ino) => Ok(ino),
            None => self.make_hidden().or_else(|error| match error {
                FsError::Exists => self.system_directory()?.ok_or(FsError::NotFound),
                error => Err(error),
            }),
        }
    }

    fn make_hidden(&self) -> Result<Ino> {
        let root = self.inode(Self::ROOT)?;
        let _guard = root.lock().map_err(gone)?;
        let above = live_directory(&root)?;
        let position = self.place(&root, HIDDEN_NAME)?.free()?;
        let mut change = self.change()?;
        let caller = Caller::default();
        let inode = self.prepare_directory(&mut change, &caller, &root, &above, 0o700)?;
        put(&mut change.transaction, &root, position, &inode.block, FileKind::Directory, HIDDEN_NAME);
        self.insert_new(change, &inode, 0, Happened::Nothing)?;
        self.forget(inode.ino, 1);
        Ok(inode.ino)
    }
}
