//! Snapshots: named roots that pin what they hold.
//!
//! Data that dies while a snapshot holds it goes to the dead list of the newest such snapshot, in the record
//! that lets it die. An index node that dies so is just left alone: nodes never move, so those that only one
//! snapshot holds are found by comparing its index with the next one's when it is deleted.
//!
//! Deleting happens in the background, in steps that can each be repeated after a crash: the snapshot's own
//! nodes join its dead list; then the list is emptied, entry by entry, to the next older snapshot if that holds
//! the entry too, or to free space.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use zerocopy::{FromBytes, IntoBytes};

use super::batch::Change;
use super::checkpoint::{Moment, Purpose};
use super::open::OpenError;
use super::reclaim::Reclaiming;
use super::rotation::Stale;
use super::transaction::Transaction;
use super::{Core, Seq, Store, now_ns};
use crate::crypto::{Secret, open_item, seal_item};
use crate::error::{Error, Result};
use crate::format::{
    BlockId, DeadBytes, ItemKind, Key, KeyBytes, LostBytes, NodePtr, SYSTEM_BLOCK, SnapshotBytes,
};
use crate::limits::{NODE_SECTORS, RECLAIM_STEP, SNAPSHOT_NAME_BYTES_MAX};
use crate::space::Run;
use crate::tree::{Root, TreeError, WalkEvent, WalkStep};

/// Why a snapshot is not made or deleted.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("there already is a snapshot with this name")]
    Exists,
    #[error(
        "a snapshot's name has 1 to {SNAPSHOT_NAME_BYTES_MAX} bytes, and no control characters or slashes"
    )]
    Name,
    #[error(transparent)]
    Store(#[from] Error),
}

/// A snapshot, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    pub name: String,
    /// When it was made, in nanoseconds since 1970.
    pub time_ns: u64,
    /// The sequence number of its checkpoint.
    pub seq: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Making,
    There,
    Comparing,
    Emptying,
}

#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) id: BlockId,
    pub(super) name: String,
    /// As its item has it: who has no owner key passes it on.
    sealed_name: Vec<u8>,
    pub(super) state: State,
    pub(super) seq: u64,
    time_ns: u64,
    next_block: u64,
    pub(super) root: Root,
}

/// All snapshots, oldest first.
#[derive(Default)]
pub(super) struct Snapshots {
    pub(super) all: Vec<Snapshot>,
}

impl Snapshots {
    /// The newest snapshot that holds data born with record `birth`.
    pub(super) fn pin(&self, birth: u64) -> Option<BlockId> {
        let newest = self.all.iter().rev().find(|snapshot| snapshot.state <= State::There)?;
        (birth <= newest.seq).then_some(newest.id)
    }

    /// Whether a snapshot holds a node born with checkpoint `birth` that checkpoint `replacing` replaces. A
    /// snapshot does not hold what its own checkpoint replaced: its root is the new one.
    pub(super) fn pins_node(&self, birth: u64, replacing: u64) -> bool {
        let held = |snapshot: &&Snapshot| snapshot.state <= State::Comparing && snapshot.seq < replacing;
        self.all.iter().rev().find(held).is_some_and(|newest| birth <= newest.seq)
    }
}

/// A snapshot's name, as its item holds it.
fn seal_name(owner: &Secret, id: BlockId, name: &str) -> Vec<u8> {
    let mut sealed = Vec::new();
    let key = Key::new(SYSTEM_BLOCK, ItemKind::SNAPSHOT, id);
    seal_item(owner, KeyBytes::from(key).as_bytes(), name.as_bytes(), &mut sealed);
    sealed
}

impl Snapshot {
    /// What became of one that was being made when a crash came. Its record follows the checkpoint that is its root: if
    /// that is the newest, it is there, and else it holds nothing. Tells whether that changed it.
    pub(super) fn settle(&mut self, checkpoint_seq: u64, checkpoint_root: Root) -> bool {
        if self.state != State::Making {
            return false;
        }
        if self.seq == checkpoint_seq {
            self.state = State::There;
            self.root = checkpoint_root;
        } else {
            self.state = State::Emptying;
        }
        true
    }

    fn key(&self) -> Key {
        Key::new(SYSTEM_BLOCK, ItemKind::SNAPSHOT, self.id)
    }

    fn encode(&self) -> Change {
        let bytes = SnapshotBytes {
            state: self.state as u8,
            reserved: [0; 3],
            height: self.root.height.into(),
            seq: self.seq.into(),
            time_ns: self.time_ns.into(),
            next_block: self.next_block.into(),
            root: self.root.ptr,
        };
        let mut value = bytes.as_bytes().to_vec();
        value.extend_from_slice(&self.sealed_name);
        Change::Raw(value.into())
    }

    /// Without the owner key, a snapshot has a number in place of its name.
    pub(super) fn decode(owner: Option<&Secret>, key: &Key, value: &[u8]) -> Option<Self> {
        let (bytes, sealed) = SnapshotBytes::read_from_prefix(value).ok()?;
        let name = match owner {
            Some(owner) => open_item(owner, KeyBytes::from(*key).as_bytes(), sealed).ok()?,
            None => format!("#{}", key.offset).into_bytes().into(),
        };
        let state = match bytes.state {
            0 => State::Making,
            1 => State::There,
            2 => State::Comparing,
            3 => State::Emptying,
            _ => return None,
        };
        Some(Self {
            id: key.offset,
            name: String::from_utf8(name.to_vec()).ok()?,
            sealed_name: sealed.to_vec(),
            state,
            seq: bytes.seq.get(),
            time_ns: bytes.time_ns.get(),
            next_block: bytes.next_block.get(),
            root: Root { ptr: bytes.root, height: bytes.height.get() },
        })
    }
}

impl Store {
    /// Makes a snapshot of everything applied so far. Durable when this returns.
    pub fn snapshot_create(&self, name: &str) -> std::result::Result<(), SnapshotError> {
        let bad = |c: char| c.is_control() || c == '/';
        if name.is_empty() || name.len() > SNAPSHOT_NAME_BYTES_MAX || name.contains(bad) {
            return Err(SnapshotError::Name);
        }
        self.core.sync(self.newest())?;
        self.core.make_snapshot(name)
    }

    /// The snapshots, oldest first.
    pub fn snapshot_list(&self) -> Vec<SnapshotInfo> {
        let snapshots = self.core.snapshots.lock();
        let there = snapshots.all.iter().filter(|snapshot| snapshot.state == State::There);
        there.map(|s| SnapshotInfo { name: s.name.clone(), time_ns: s.time_ns, seq: s.seq }).collect()
    }

    /// Deletes a snapshot; the space follows in the background. `false` if there is none of this name.
    pub fn snapshot_delete(&self, name: &str) -> Result<bool> {
        let deleted = self.core.delete_snapshot(name)?;
        self.core.sync(self.newest())?;
        Ok(deleted)
    }
}

impl Core {
    fn make_snapshot(self: &Arc<Self>, name: &str) -> std::result::Result<(), SnapshotError> {
        // Not under the lock: room for nodes may take a checkpoint to make.
        self.check_index_space(Purpose::Add)?;
        let mut generation = self.checkpoint.lock();
        let (mut snapshot, moment) = self.begin_snapshot(name, &mut generation)?;
        match &moment {
            Ok(moment) => {
                snapshot.root = moment.root;
                snapshot.state = State::There;
            }
            // It has no root: what died for it in the meantime is freed.
            Err(_) => snapshot.state = State::Emptying,
        }
        // Before the lock is released: a snapshot without its root looks to others as if it held nothing.
        if self.snapshots.lock().all.iter().any(|known| known.id == snapshot.id) {
            let mut layers = self.layers.write();
            layers.pending.put(snapshot.key(), snapshot.encode());
            layers.pending.newest = Seq(self.next_op.fetch_add(1, Ordering::Relaxed));
            let mut snapshots = self.snapshots.lock();
            if let Some(known) = snapshots.all.iter_mut().find(|known| known.id == snapshot.id) {
                *known = snapshot;
            }
        }
        drop(generation);
        moment?;
        self.sync(Seq(self.next_op.load(Ordering::Acquire) - 1))?;
        Ok(())
    }

    /// The checkpoint that becomes the root of a new snapshot, and how it went.
    fn begin_snapshot(
        self: &Arc<Self>,
        name: &str,
        generation: &mut u64,
    ) -> std::result::Result<(Snapshot, Result<Moment>), SnapshotError> {
        let id = self.next_block.fetch_add(1, Ordering::Relaxed);
        let mut snapshot = Snapshot {
            id,
            name: name.to_owned(),
            sealed_name: seal_name(self.keys.owner.as_ref().ok_or(Error::NoKey)?, id, name),
            state: State::Making,
            seq: 0,
            time_ns: now_ns(),
            next_block: 0,
            root: Root::EMPTY,
        };
        {
            let snapshots = self.snapshots.lock();
            if snapshots.all.iter().any(|s| s.name == name && s.state <= State::There) {
                return Err(SnapshotError::Exists);
            }
        }
        // At the edge of the checkpoint's last record the snapshot starts to pin, and the next record says so.
        let moment = self.checkpoint_at(generation, |layers, moment| {
            snapshot.seq = moment.seq;
            snapshot.next_block = moment.next_block;
            let pending = &mut layers.pending;
            pending.put(snapshot.key(), snapshot.encode());
            pending.newest = Seq(self.next_op.fetch_add(1, Ordering::Relaxed));
            self.snapshots.lock().all.push(snapshot.clone());
        });
        Ok((snapshot, moment))
    }

    /// Changes a snapshot, in memory once its item is applied.
    fn set_snapshot(self: &Arc<Self>, snapshot: &Snapshot) -> Result<()> {
        let mut transaction = Transaction::new(self.clone());
        transaction.frees();
        transaction.put_system(snapshot.key(), snapshot.encode());
        transaction.apply()?;
        let mut snapshots = self.snapshots.lock();
        if let Some(known) = snapshots.all.iter_mut().find(|known| known.id == snapshot.id) {
            *known = snapshot.clone();
        }
        Ok(())
    }

    fn delete_snapshot(self: &Arc<Self>, name: &str) -> Result<bool> {
        let found = {
            let snapshots = self.snapshots.lock();
            snapshots.all.iter().find(|s| s.name == name && s.state == State::There).cloned()
        };
        let Some(mut snapshot) = found else { return Ok(false) };
        snapshot.state = State::Comparing;
        // Only what commits after this may go by the new state, and that is what the sealer's lock orders.
        self.commit()?;
        self.set_snapshot(&snapshot)?;
        self.request_reclaim();
        Ok(true)
    }

    pub(super) fn request_reclaim(&self) {
        self.signal.state.lock().reclaim_wanted = true;
        self.signal.changed.notify_all();
    }

    /// One step of deleting a snapshot; whether there is more to do.
    pub(super) fn snapshot_step(self: &Arc<Self>) -> Result<bool> {
        let _one = self.reclaiming.lock();
        let (snapshot, older) = {
            let snapshots = self.snapshots.lock();
            let Some(at) = snapshots.all.iter().position(|s| s.state >= State::Comparing) else {
                return Ok(false);
            };
            (snapshots.all[at].clone(), at.checked_sub(1).map(|at| snapshots.all[at].clone()))
        };
        match snapshot.state {
            State::Comparing => self.find_own_nodes(snapshot, older.as_ref())?,
            _ => self.empty_dead_list(&snapshot, older.as_ref())?,
        }
        Ok(true)
    }

    /// Puts the nodes that only this snapshot holds into its dead list.
    fn find_own_nodes(self: &Arc<Self>, mut snapshot: Snapshot, older: Option<&Snapshot>) -> Result<()> {
        // No checkpoint until the record with the new state is sealed: the index compared with must not change, and
        // what becomes free must not be freed twice after a crash.
        let mut generation = self.checkpoint.lock();
        let mut listed = HashSet::new();
        loop {
            // What follows must fit the log. If others fill it meanwhile, another checkpoint has to make room; it
            // frees none of the snapshot's nodes yet, but may leave more of them to it alone.
            self.checkpoint_at(&mut generation, |_, _| {})?;
            let own = self.own_nodes(&snapshot, older)?;
            if self.list_dead(&snapshot, &own, &mut listed)? {
                break;
            }
        }
        snapshot.state = State::Emptying;
        let mut snapshots = self.snapshots.lock();
        if let Some(known) = snapshots.all.iter_mut().find(|known| known.id == snapshot.id) {
            *known = snapshot;
        }
        Ok(())
    }

    /// Puts nodes into a snapshot's dead list, and the new state behind them: whether the log had room for all.
    fn list_dead(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        nodes: &[NodePtr],
        listed: &mut HashSet<u64>,
    ) -> Result<bool> {
        let new: Vec<&NodePtr> = nodes.iter().filter(|ptr| !listed.contains(&ptr.sector.get())).collect();
        for step in new.chunks(RECLAIM_STEP) {
            let mut transaction = Transaction::new(self.clone());
            for ptr in step {
                let dead = DeadBytes { sectors: (NODE_SECTORS as u64).into(), birth: ptr.birth };
                let key = Key::new(snapshot.id, ItemKind::DEAD, ptr.sector.get());
                transaction.put_system(key, Change::Raw(dead.as_bytes().into()));
                listed.insert(ptr.sector.get());
            }
            transaction.apply_unchecked()?;
            if !self.commit_if_room()? {
                return Ok(false);
            }
        }
        let mut transaction = Transaction::new(self.clone());
        let emptying = Snapshot { state: State::Emptying, ..snapshot.clone() };
        transaction.put_system(snapshot.key(), emptying.encode());
        transaction.apply_unchecked()?;
        self.commit_if_room()
    }

    /// The nodes that this snapshot holds, and neither the next older nor the next newer tree.
    fn own_nodes(&self, snapshot: &Snapshot, older: Option<&Snapshot>) -> Result<Vec<NodePtr>> {
        // The next one that holds nodes: of one that is being emptied, some may be gone and others were left to
        // this one. Asked only now, since one that is just being made has its root when the lock is free.
        let newer = {
            let snapshots = self.snapshots.lock();
            let holds = |s: &&Snapshot| s.id > snapshot.id && s.state <= State::Comparing;
            snapshots.all.iter().find(holds).map(|newer| newer.root)
        };
        let newer = newer.unwrap_or_else(|| self.layers.read().root);
        let older_seq = older.map_or(0, |older| older.seq);
        let held_by_older = |ptr: &NodePtr| older.is_some() && ptr.birth.get() <= older_seq;
        let mut shared = HashSet::new();
        let mut unknown = None;
        self.tree.walk(&newer, &mut |event| match event {
            WalkEvent::Node { ptr, .. } if held_by_older(ptr) => WalkStep::Skip,
            WalkEvent::Node { ptr, .. } if ptr.birth.get() <= snapshot.seq => {
                shared.insert(ptr.sector.get());
                WalkStep::Skip
            }
            WalkEvent::Node { level, .. } if level > 0 => WalkStep::On,
            WalkEvent::Node { .. } | WalkEvent::Item { .. } => WalkStep::Skip,
            // What is below may be shared: who does not know must not free.
            WalkEvent::Damaged { error, .. } => {
                unknown = Some(error);
                WalkStep::Stop
            }
        })?;
        if let Some(error) = unknown {
            return Err(error.into());
        }
        let mut own: Vec<NodePtr> = Vec::new();
        let mut damaged = None;
        self.tree.walk(&snapshot.root, &mut |event| match event {
            WalkEvent::Node { ptr, level } => {
                if held_by_older(ptr) || shared.contains(&ptr.sector.get()) {
                    return WalkStep::Skip;
                }
                own.push(*ptr);
                if level > 0 { WalkStep::On } else { WalkStep::Skip }
            }
            // What cannot be read now may be read later; what is damaged stays so.
            WalkEvent::Damaged { error: error @ TreeError::Read { .. }, .. } => {
                damaged = Some(error);
                WalkStep::Stop
            }
            WalkEvent::Damaged { error, .. } => {
                damaged = Some(error);
                WalkStep::Skip
            }
            WalkEvent::Item { .. } => WalkStep::Skip,
        })?;
        if let Some(error @ TreeError::Read { .. }) = damaged {
            return Err(error.into());
        }
        if let Some(error) = damaged {
            tracing::warn!("a deleted snapshot is damaged, its space stays in use: {error}");
        }
        Ok(own)
    }

    /// Frees a step of the dead list, or hands it to the older snapshot; in the end the snapshot is gone.
    fn empty_dead_list(self: &Arc<Self>, snapshot: &Snapshot, older: Option<&Snapshot>) -> Result<()> {
        let first = Key::new(snapshot.id, ItemKind::DEAD, 0);
        let last = Key::new(snapshot.id, ItemKind::DEAD, u64::MAX);
        let (dead, all) = self.range(first, last, RECLAIM_STEP)?;
        let mut transaction = Transaction::new(self.clone());
        transaction.frees();
        for (key, found) in dead {
            let value = match found {
                super::Found::Value(value) | super::Found::Change(Change::Raw(value)) => value,
                super::Found::Change(_) => continue,
            };
            let corrupt = Error::Corrupt { what: "dead list", sector: key.offset };
            let dead = DeadBytes::read_from_bytes(&value).map_err(|_| corrupt)?;
            let (sectors, birth) = (dead.sectors.get(), dead.birth.get());
            transaction.put_system(key, Change::Delete);
            match older {
                Some(older) if birth <= older.seq => {
                    transaction.put_system(Key { block: older.id, ..key }, Change::Raw(value));
                }
                _ => transaction.free(Run { sector: key.offset, sectors }),
            }
        }
        if all {
            transaction.put_system(snapshot.key(), Change::Delete);
        }
        transaction.apply()?;
        if all {
            self.snapshots.lock().all.retain(|known| known.id != snapshot.id);
        }
        Ok(())
    }

    /// Reads what the store knows of itself: snapshots, and blocks that are being emptied. `seq` is the last record
    /// that the checkpoint contains.
    pub(super) fn load_system_items(&mut self, seq: u64) -> std::result::Result<(), OpenError> {
        let range = |kind| (Key::new(SYSTEM_BLOCK, kind, 0), Key::new(SYSTEM_BLOCK, kind, u64::MAX));
        let corrupt = |what| Error::Corrupt { what, sector: 0 };
        let (from, to) = range(ItemKind::SNAPSHOT);
        let mut all = Vec::new();
        for (key, value) in self.range_sealed(from, to, usize::MAX / 2)?.0 {
            let mut snapshot =
                Snapshot::decode(self.keys.owner.as_ref(), &key, &value).ok_or(corrupt("snapshot"))?;
            let is_settled = snapshot.settle(seq, self.layers.get_mut().root);
            if is_settled && !self.options.read_only && self.bounds.is_none() {
                let change = snapshot.encode();
                let pending = &mut self.layers.get_mut().pending;
                pending.put(key, change);
                pending.newest = Seq(self.next_op.fetch_add(1, Ordering::Relaxed));
            }
            all.push(snapshot);
        }
        self.snapshots.get_mut().all = all;
        self.signal.state.get_mut().reclaim_wanted = true;
        self.load_reclaims()
    }

    /// Reads which blocks are being emptied, and which are not whole, in the tree that is shown.
    fn load_reclaims(&mut self) -> std::result::Result<(), OpenError> {
        let key = |id| Key::new(SYSTEM_BLOCK, ItemKind::RECLAIM, id);
        let mut reclaims = std::collections::BTreeMap::new();
        for (key, value) in self.range_sealed(key(0), key(u64::MAX), usize::MAX / 2)?.0 {
            let corrupt = Error::Corrupt { what: "reclaim item", sector: 0 };
            let what = super::Reclaim::decode(&value).ok_or(corrupt)?;
            reclaims.insert(key.offset, Reclaiming { what, noted: Seq(0) });
        }
        *self.reclaims.get_mut() = reclaims;
        let key = |id| Key::new(SYSTEM_BLOCK, ItemKind::LOST, id);
        let mut lost = std::collections::BTreeMap::new();
        for (key, value) in self.range_sealed(key(0), key(u64::MAX), usize::MAX / 2)?.0 {
            let corrupt = Error::Corrupt { what: "lost item", sector: 0 };
            let range = LostBytes::read_from_bytes(&value).map_err(|_| corrupt)?;
            lost.insert(key.offset, (range.from.get(), range.to.get()));
        }
        *self.lost.get_mut() = lost;
        let mut stales = std::collections::BTreeMap::new();
        let key = Stale::key;
        for (key, value) in self.range_sealed(key(0), key(u64::MAX), usize::MAX / 2)?.0 {
            let corrupt = Error::Corrupt { what: "item of a block with older keys", sector: 0 };
            stales.insert(key.offset, Stale::decode(&value).ok_or(corrupt)?);
        }
        *self.stales.get_mut() = stales;
        Ok(())
    }

    /// Shows the tree of a snapshot instead of the newest.
    pub(super) fn show_snapshot(&mut self, name: &str) -> std::result::Result<(), OpenError> {
        let snapshots = &self.snapshots.get_mut().all;
        let found = snapshots.iter().find(|s| s.name == name && s.state == State::There);
        let root = found.ok_or_else(|| OpenError::NoSnapshot(name.to_owned()))?.root;
        let layers = self.layers.get_mut();
        layers.root = root;
        layers.active = Default::default();
        self.load_reclaims()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::KdfCost;
    use crate::device::MemoryDevice;
    use crate::store::{CreateOptions, OpenOptions};

    #[test]
    fn a_crash_behind_the_checkpoint_leaves_a_snapshot_that_is_there() {
        let device = Arc::new(MemoryDevice::new(48 * 256));
        let create = CreateOptions { capacity_sectors: 48 * 256, kdf: KdfCost::TRIVIAL };
        let options = OpenOptions { background: false, ..OpenOptions::default() };
        let store = Store::create_with(device.clone(), b"pass", &create, &options).unwrap();
        let mut transaction = store.transaction();
        let block = transaction.create(b"as it was");
        store.sync(transaction.apply().unwrap()).unwrap();
        {
            let mut generation = store.core.checkpoint.lock();
            store.core.begin_snapshot("early", &mut generation).unwrap().1.unwrap();
        }
        store.sync(store.newest()).unwrap();
        drop(store);

        let store = Store::open(device.clone(), b"pass", &options).unwrap();
        assert_eq!(store.snapshot_list().len(), 1);
        let mut transaction = store.transaction();
        transaction.set_attributes(&store.block(block.id()).unwrap().unwrap(), b"changed");
        transaction.apply().unwrap();
        store.close().unwrap();

        let shown = OpenOptions { snapshot: Some("early".to_owned()), ..options.clone() };
        let snapshot = Store::open(device.clone(), b"pass", &shown).unwrap();
        let block = snapshot.block(block.id()).unwrap().unwrap();
        assert_eq!(snapshot.attributes(&block).unwrap()[..], b"as it was"[..]);
        let report = crate::check(device, b"pass", &crate::CheckOptions::default(), &mut |_, _| {}).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
    }
}
