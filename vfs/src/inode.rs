//! Inodes in memory, and the bounded table of them.
//!
//! Key types: [`Inode`], [`InodeTable`].
//!
//! 1. There is at most one [`Inode`] of an id in the table. While one is loaded or made, its id is reserved and
//!    others who ask for it wait, so that nobody sees attributes from before a change.
//! 2. `lookups` and `opens` change only under the lock of the inode's shard. With either above zero, the inode
//!    stays in the table.
//! 3. An inode whose last name went is loaded by nobody: who asks for it finds nothing.
//! 4. `state` is locked for moments only, never across a call of the engine.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use blocktree_engine::{Block, Seq};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::journal::{Actor, Name};
use crate::layout::Attributes;
use crate::{FsError, Ino, Result};

const SHARDS: usize = 32;

/// An inode in memory.
pub(crate) struct Inode {
    pub(crate) ino: Ino,
    pub(crate) block: Block,
    operation: Mutex<()>,
    state: Mutex<State>,
    lookups: AtomicU64,
    opens: AtomicU64,
    /// Its block is gone or going.
    dead: AtomicBool,
    /// It was made without a name and never had one, so it may get one.
    nameless: AtomicBool,
    /// A name that it has, as far as this mount knows.
    place: Mutex<Option<Name>>,
    /// The last actor of whom the journal says that it modifies the file.
    noted: Mutex<Option<Actor>>,
}

/// What changes of an inode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State {
    pub(crate) attributes: Attributes,
    /// `attributes.atime` is newer than on disk; the next change or the last release writes it.
    pub(crate) atime_pending: bool,
    /// The last operation that changed the inode in any way.
    pub(crate) changed: Seq,
    /// The last one that changed what fdatasync(2) promises.
    pub(crate) data_changed: Seq,
}

impl Inode {
    pub(crate) fn new(ino: Ino, block: Block, attributes: Attributes, changed: Seq) -> Arc<Self> {
        Arc::new(Self {
            ino,
            block,
            operation: Mutex::new(()),
            state: Mutex::new(State { attributes, atime_pending: false, changed, data_changed: changed }),
            lookups: AtomicU64::new(0),
            opens: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            nameless: AtomicBool::new(false),
            place: Mutex::new(None),
            noted: Mutex::new(None),
        })
    }

    pub(crate) fn set_nameless(&self, nameless: bool) {
        self.nameless.store(nameless, Ordering::Release);
    }

    pub(crate) fn is_nameless(&self) -> bool {
        self.nameless.load(Ordering::Acquire)
    }

    pub(crate) fn place(&self) -> MutexGuard<'_, Option<Name>> {
        self.place.lock()
    }

    /// It was found under this name, or got it.
    pub(crate) fn seen_at(&self, parent: Ino, name: &[u8]) {
        let mut place = self.place.lock();
        match &mut *place {
            Some(known) if known.parent == parent && known.name == name => {}
            place => *place = Some(Name { parent, name: name.to_vec() }),
        }
    }

    /// It does not have this name any more.
    pub(crate) fn unseen_at(&self, parent: Ino, name: &[u8]) {
        let mut place = self.place.lock();
        if place.as_ref().is_some_and(|known| known.parent == parent && known.name == name) {
            *place = None;
        }
    }

    pub(crate) fn is_noted(&self, actor: Actor) -> bool {
        *self.noted.lock() == Some(actor)
    }

    pub(crate) fn set_noted(&self, actor: Option<Actor>) {
        *self.noted.lock() = actor;
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(crate) fn attributes(&self) -> Attributes {
        self.state.lock().attributes
    }

    /// An operation changed its bytes, or made it; its attributes are here as they are behind that.
    pub(crate) fn changed_by(&self, seq: Seq) {
        let mut state = self.state();
        state.changed = seq;
        state.data_changed = seq;
    }

    pub(crate) fn is_open(&self) -> bool {
        self.opens.load(Ordering::Relaxed) > 0
    }

    /// Serializes changes of this inode.
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, ()>> {
        let guard = self.operation.lock();
        self.alive()?;
        Ok(guard)
    }

    /// As [`Self::lock`], to destroy it.
    pub(crate) fn lock_dead(&self) -> MutexGuard<'_, ()> {
        self.operation.lock()
    }

    /// Waits until whoever changes the inode now is done.
    pub(crate) fn settle(&self) {
        drop(self.operation.lock());
    }

    fn alive(&self) -> Result<()> {
        if self.dead.load(Ordering::Acquire) { Err(FsError::Stale) } else { Ok(()) }
    }
}

/// Locks several inodes in the order of their ids, each once.
pub(crate) fn lock_all<'a>(inodes: &[&'a Arc<Inode>]) -> Result<Vec<MutexGuard<'a, ()>>> {
    let mut sorted: Vec<&'a Arc<Inode>> = inodes.to_vec();
    sorted.sort_by_key(|inode| inode.ino);
    sorted.dedup_by_key(|inode| inode.ino);
    sorted.into_iter().map(|inode| inode.lock()).collect()
}

#[derive(Default)]
struct Shard {
    inodes: HashMap<Ino, Arc<Inode>>,
    /// Ids that are being loaded or made.
    reserved: HashSet<Ino>,
    /// In the order of their last becoming unused; may name inodes that are in use again or gone.
    unused: VecDeque<Ino>,
}

/// All inodes that are in memory.
pub(crate) struct InodeTable {
    shards: Vec<(Mutex<Shard>, Condvar)>,
    unused_max: usize,
    /// The newest change of any inode that left the table: one that is loaded again may not be durable yet.
    left_changed: AtomicU64,
}

/// What is to be done after a use of an inode ended.
#[must_use]
pub(crate) enum Unused {
    Nothing,
    /// Its last use ended: what is pending may be written down.
    Idle(Arc<Inode>),
    /// It has no name either: destroy its block.
    Destroy(Arc<Inode>),
}

impl InodeTable {
    pub(crate) fn new(unused_max: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Default::default()).collect(),
            unused_max: unused_max.div_ceil(SHARDS),
            left_changed: AtomicU64::new(0),
        }
    }

    fn shard(&self, ino: Ino) -> &(Mutex<Shard>, Condvar) {
        &self.shards[(ino % SHARDS as u64) as usize]
    }

    /// The inode, loaded by `load` if it is not in memory. `load` gets what its `changed` must be.
    pub(crate) fn get(&self, ino: Ino, load: impl FnOnce(Seq) -> Result<Arc<Inode>>) -> Result<Arc<Inode>> {
        let (mutex, loaded) = self.shard(ino);
        let mut shard = mutex.lock();
        loop {
            if let Some(inode) = shard.inodes.get(&ino) {
                return Ok(inode.clone());
            }
            if !shard.reserved.contains(&ino) {
                break;
            }
            loaded.wait(&mut shard);
        }
        shard.reserved.insert(ino);
        drop(shard);
        let _reservation = Reservation { table: self, ino };
        let inode = load(Seq(self.left_changed.load(Ordering::Acquire)))?;
        let mut shard = mutex.lock();
        shard.inodes.insert(ino, inode.clone());
        shard.unused.push_back(ino);
        self.evict(&mut shard);
        Ok(inode)
    }

    /// Keeps others from loading an inode that is about to be made.
    pub(crate) fn reserve(&self, ino: Ino) -> Reservation<'_> {
        self.shard(ino).0.lock().reserved.insert(ino);
        Reservation { table: self, ino }
    }

    /// Inserts an inode that was made, with one lookup and `opens` opens.
    pub(crate) fn insert(&self, inode: &Arc<Inode>, opens: u64) {
        inode.lookups.store(1, Ordering::Relaxed);
        inode.opens.store(opens, Ordering::Relaxed);
        self.shard(inode.ino).0.lock().inodes.insert(inode.ino, inode.clone());
    }

    /// Counts a lookup. False if the inode is dead or dying: look again.
    pub(crate) fn count_lookup(&self, inode: &Arc<Inode>) -> bool {
        self.count(inode, &inode.lookups)
    }

    /// As [`Self::count_lookup`], for an open.
    pub(crate) fn count_open(&self, inode: &Arc<Inode>) -> bool {
        self.count(inode, &inode.opens)
    }

    fn count(&self, inode: &Arc<Inode>, counter: &AtomicU64) -> bool {
        let shard = self.shard(inode.ino).0.lock();
        if inode.dead.load(Ordering::Relaxed) {
            return false;
        }
        // Whoever holds an `Arc` of a living inode knows that it is in the table: eviction spares it.
        debug_assert!(shard.inodes.contains_key(&inode.ino));
        counter.fetch_add(1, Ordering::Relaxed);
        true
    }

    pub(crate) fn uncount_lookups(&self, ino: Ino, count: u64) -> Unused {
        self.uncount(ino, |inode| &inode.lookups, count).0
    }

    /// Also answers the inode if that was the last open, and somebody modified it.
    pub(crate) fn uncount_open(&self, ino: Ino) -> (Unused, Option<Arc<Inode>>) {
        let (unused, inode) = self.uncount(ino, |inode| &inode.opens, 1);
        (unused, inode.filter(|inode| !inode.is_open() && inode.noted.lock().is_some()))
    }

    fn uncount(
        &self,
        ino: Ino,
        counter: impl Fn(&Inode) -> &AtomicU64,
        count: u64,
    ) -> (Unused, Option<Arc<Inode>>) {
        let mut shard = self.shard(ino).0.lock();
        let Some(inode) = shard.inodes.get(&ino).cloned() else { return (Unused::Nothing, None) };
        let before = counter(&inode).load(Ordering::Relaxed);
        if before == 0 {
            return (Unused::Nothing, None);
        }
        counter(&inode).store(before.saturating_sub(count), Ordering::Relaxed);
        if inode.lookups.load(Ordering::Relaxed) > 0 || inode.opens.load(Ordering::Relaxed) > 0 {
            return (Unused::Nothing, Some(inode));
        }
        let state = *inode.state.lock();
        if state.attributes.nlink == 0 {
            inode.dead.store(true, Ordering::Release);
            self.leave(&mut shard, ino);
            return (Unused::Destroy(inode), None);
        }
        shard.unused.push_back(ino);
        self.evict(&mut shard);
        match state.atime_pending {
            true => (Unused::Idle(inode.clone()), Some(inode)),
            false => (Unused::Nothing, Some(inode)),
        }
    }

    /// Before an unlink of the last name, under the inode's `operation` lock: declares the inode dead if nobody
    /// uses it, so that its block may be destroyed in the same transaction.
    pub(crate) fn kill_if_unused(&self, inode: &Inode) -> bool {
        let _shard = self.shard(inode.ino).0.lock();
        let unused = inode.lookups.load(Ordering::Relaxed) == 0 && inode.opens.load(Ordering::Relaxed) == 0;
        if unused {
            inode.dead.store(true, Ordering::Release);
        }
        unused
    }

    /// The transaction that [`Self::kill_if_unused`] was for failed.
    pub(crate) fn revive(&self, inode: &Inode) {
        inode.dead.store(false, Ordering::Release);
    }

    /// The transaction that [`Self::kill_if_unused`] was for succeeded.
    pub(crate) fn remove(&self, ino: Ino) {
        self.leave(&mut self.shard(ino).0.lock(), ino);
    }

    /// The last name went while the inode is in use. True if the last use ended in that very moment, so that
    /// nobody else will destroy it.
    pub(crate) fn abandoned(&self, inode: &Arc<Inode>) -> bool {
        let mut shard = self.shard(inode.ino).0.lock();
        let unused = inode.lookups.load(Ordering::Relaxed) == 0 && inode.opens.load(Ordering::Relaxed) == 0;
        if unused && !inode.dead.swap(true, Ordering::AcqRel) {
            self.leave(&mut shard, inode.ino);
            return true;
        }
        false
    }

    /// Declares an inode without names dead, whoever still uses it. False if it was dead already.
    pub(crate) fn kill(&self, inode: &Arc<Inode>) -> bool {
        let mut shard = self.shard(inode.ino).0.lock();
        let killed = !inode.dead.swap(true, Ordering::AcqRel);
        if killed {
            self.leave(&mut shard, inode.ino);
        }
        killed
    }

    /// Every inode in the table.
    pub(crate) fn all(&self) -> Vec<Arc<Inode>> {
        self.shards
            .iter()
            .flat_map(|(shard, _)| shard.lock().inodes.values().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// Inodes in the table.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|(shard, _)| shard.lock().inodes.len()).sum()
    }

    fn leave(&self, shard: &mut Shard, ino: Ino) {
        if let Some(inode) = shard.inodes.remove(&ino) {
            let changed = inode.state.lock().changed;
            self.left_changed.fetch_max(changed.0, Ordering::AcqRel);
        }
    }

    fn evict(&self, shard: &mut Shard) {
        let mut kept = 0;
        while shard.unused.len() > self.unused_max && kept < shard.unused.len() {
            let Some(ino) = shard.unused.pop_front() else { return };
            let Some(inode) = shard.inodes.get(&ino) else { continue };
            let unused =
                inode.lookups.load(Ordering::Relaxed) == 0 && inode.opens.load(Ordering::Relaxed) == 0;
            if !unused {
                // Becoming unused will queue it again.
                continue;
            }
            if Arc::strong_count(inode) > 1 {
                shard.unused.push_back(ino);
                kept += 1;
                continue;
            }
            self.leave(shard, ino);
        }
    }
}

/// Holds the place of an inode that is being loaded or made.
pub(crate) struct Reservation<'a> {
    table: &'a InodeTable,
    ino: Ino,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let (mutex, loaded) = self.table.shard(self.ino);
        mutex.lock().reserved.remove(&self.ino);
        loaded.notify_all();
    }
}
