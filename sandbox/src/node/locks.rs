//! Locks between apps: each is held by one process, and has a number that is higher than all before.
//!
//! 1. No number is given twice, whatever crashes: up to some limit they are given up in the store, durably, before the first
//!    of them is given.
//! 2. A lock ends with the process that took it, and with the grant that it was taken under.
//! 3. What is done under a number is done while its lock is held: nobody gets the lock in between.

use std::collections::BTreeMap;
use std::sync::Arc;

use blocktree_vfs::{Fs, FsError, Ino};
use parking_lot::{RwLock, RwLockReadGuard};

use super::folder::Folder;
use super::worker::Shared;
use crate::ipc::Error;

/// The file in the system directory that says which numbers may have been given.
const FILE: &str = "lock-numbers";
/// Numbers that are taken out of the store at once.
const RESERVE: u64 = 1000;

/// What is locked: a name in a directory, whether something has that name or not.
pub(super) type Place = (Ino, String);

pub(super) struct Locks {
    fs: Arc<Fs>,
    table: RwLock<Table>,
}

#[derive(Default)]
pub(super) struct Table {
    held: BTreeMap<Place, Holder>,
    /// The next number, and the first that must not be given yet.
    next: u64,
    end: u64,
}

struct Holder {
    token: u64,
    shared: Arc<Shared>,
    grant: String,
    process: u32,
}

impl Holder {
    fn is_there(&self) -> bool {
        self.shared.runs(self.process) && self.shared.is_granted(&self.grant)
    }
}

impl Locks {
    pub(super) fn new(fs: &Arc<Fs>) -> Self {
        Self { fs: Arc::clone(fs), table: RwLock::default() }
    }

    /// For the running process of an app, under a grant that it has; the lock's number.
    pub(super) fn take(&self, place: Place, shared: &Arc<Shared>, grant: String) -> Result<u64, Error> {
        let mut table = self.table.write();
        if table.held.get(&place).is_some_and(Holder::is_there) {
            return Err(Error::Locked);
        }
        if table.next == table.end {
            (table.next, table.end) = self.reserve().map_err(super::grants::error)?;
        }
        let token = table.next;
        table.next += 1;
        let process = shared.stats.lock().process;
        table.held.insert(place, Holder { token, shared: Arc::clone(shared), grant, process });
        Ok(token)
    }

    fn reserve(&self) -> Result<(u64, u64), FsError> {
        let folder = Folder::new(&self.fs, self.fs.make_system_directory()?);
        let bytes = folder.read(FILE)?.and_then(|bytes| bytes.try_into().ok());
        let next = bytes.map_or(1, u64::from_le_bytes);
        let end = next.checked_add(RESERVE).ok_or(FsError::TooLarge)?;
        folder.overwrite(FILE, &end.to_le_bytes())?;
        self.fs.syncfs()?;
        Ok((next, end))
    }

    /// Gives a lock back, if it still has this number.
    pub(super) fn release(&self, place: &Place, token: u64) {
        let mut table = self.table.write();
        if table.held.get(place).is_some_and(|holder| holder.token == token) {
            table.held.remove(place);
        }
    }

    /// As long as the answer is kept, the lock with this number is not given to anybody else.
    pub(super) fn under(&self, place: &Place, token: u64) -> Result<RwLockReadGuard<'_, Table>, Error> {
        let table = self.table.read();
        let is_held = table.held.get(place).is_some_and(|holder| holder.token == token && holder.is_there());
        if is_held { Ok(table) } else { Err(Error::Locked) }
    }
}
