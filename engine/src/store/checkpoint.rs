//! Checkpoints: the deltas become index, the log starts anew; and how much room there is.
//!
//! A checkpoint runs beside everything else. It takes the deltas at the edge of a record, merges them into a
//! new index, writes the space table to its other homes, and then the superblock: two copies, a flush, the other
//! two, a flush. Until the first flush is done the old superblock counts, and nothing it needs is overwritten.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use zerocopy::FromZeros;

use super::layers::{Layers, MemTable};
use super::{Core, now_ns};
use crate::anchor::Head;
use crate::crypto::{Hash, tagged_hash};
use crate::device::{Completion, Write};
use crate::error::{Error, Result};
use crate::format::{AnchorBytes, FORMAT_VERSION, NodePtr, SUPERBLOCK_MAGIC, SpaceEntry, Superblock};
use crate::limits::{
    ANCHORS_MAX, BATCH_WEIGHT_COMMIT, FULL_STORE_NODES, GROW_SECTORS, IN_FLIGHT_BYTES_MAX, NODE_BYTES,
    NODE_SECTORS, REMOVED_WEIGHT, SNAPSHOT_REMOVAL_NODES,
};
use crate::space::{Delta, Run, TableError};
use crate::tree::{NodeBytes, NodeSink, Root};

/// Data writes that nobody waits for yet.
#[derive(Default)]
pub(super) struct InFlight {
    writes: VecDeque<(usize, Completion)>,
    bytes: usize,
}

impl From<TableError> for Error {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Read { source, .. } => Self::Read(source),
            TableError::Corrupt { sector } | TableError::Inconsistent { sector } => {
                Self::Corrupt { what: "space table", sector }
            }
        }
    }
}

/// What a change is for: the fuller a store is, the less it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// A step of emptying a block or a snapshot.
    Free,
    Remove,
    Add,
}

impl Purpose {
    /// The nodes that must be left to others.
    fn nodes_left(self) -> u64 {
        match self {
            Self::Free => 0,
            Self::Remove => SNAPSHOT_REMOVAL_NODES,
            Self::Add => FULL_STORE_NODES,
        }
    }
}

/// What a superblock says of the moment it stands for.
pub(super) struct Moment {
    pub(super) generation: u64,
    pub(super) seq: u64,
    pub(super) record_hash: Hash,
    pub(super) log_position: u64,
    pub(super) volume_sectors: u64,
    pub(super) next_block: u64,
    pub(super) root: Root,
    pub(super) nodes: u64,
    pub(super) space: SpaceEntry,
    /// No record that it contains is newer, and none behind it is older.
    pub(super) time_ns: u64,
}

impl Core {
    /// Makes and installs a checkpoint of all records sealed so far.
    pub(super) fn run_checkpoint(&self) -> Result<()> {
        // Others have to be able to judge the records themselves.
        if self.bounds.is_some() {
            return Ok(());
        }
        let mut generation = self.checkpoint.lock();
        let result = self.checkpoint_at(&mut generation, |_, _| {}).map(drop);
        drop(generation);
        let mut state = self.signal.state.lock();
        state.checkpoints += 1;
        state.checkpoint_lacks_space = matches!(result, Err(Error::NoSpace));
        drop(state);
        self.signal.changed.notify_all();
        result
    }

    /// As [`Core::run_checkpoint`], for who holds the lock; `at_edge` is called between the last record that the
    /// checkpoint contains and the next. Where there is no space for the new index, all is as it was before; any
    /// other failure poisons the store.
    pub(super) fn checkpoint_at(
        &self,
        generation: &mut u64,
        at_edge: impl FnOnce(&mut Layers, &Moment),
    ) -> Result<Moment> {
        self.check_sealable()?;
        if self.bounds.is_some() {
            return Err(Error::OwnersOnly);
        }
        let result = self.write_checkpoint(generation, at_edge);
        self.freed.lock().on_checkpoint_end();
        result.inspect_err(|error| {
            if !matches!(error, Error::NoSpace) {
                self.poison("checkpoint");
            }
        })
    }

    fn write_checkpoint(
        &self,
        generation: &mut u64,
        at_edge: impl FnOnce(&mut Layers, &Moment),
    ) -> Result<Moment> {
        // The edge of a record: everything before it is in the deltas, nothing behind it.
        let (mut moment, appended, old_root, deltas) = {
            let mut sealer = self.sealer.lock();
            let time_ns = sealer.time_ns.max(now_ns());
            if time_ns >= self.expires_ns {
                return Err(Error::Expired);
            }
            sealer.time_ns = time_ns;
            let mut layers = self.layers.write();
            let frozen = Arc::new(std::mem::take(&mut layers.active));
            layers.frozen = Some(frozen.clone());
            let moment = Moment {
                generation: *generation + 1,
                seq: sealer.seq,
                record_hash: sealer.previous,
                log_position: sealer.position,
                volume_sectors: self.space.lock().volume_sectors(),
                next_block: self.next_block.load(Ordering::Acquire),
                root: Root::EMPTY,
                nodes: self.nodes.load(Ordering::Acquire),
                space: SpaceEntry::new_zeroed(),
                time_ns,
            };
            self.freed.lock().on_edge(moment.seq);
            at_edge(&mut layers, &moment);
            (moment, sealer.appended, layers.root, frozen)
        };

        let mut sink = Sink::new(self, moment.seq);
        let changes = deltas.items.iter().map(|(key, value)| (*key, value.as_deref()));
        moment.root = match self.tree.merge(&old_root, moment.seq, changes, &mut sink) {
            Ok(root) => root,
            Err(error) => {
                sink.undo()?;
                self.put_back(deltas);
                return Err(error.into());
            }
        };
        moment.nodes = (moment.nodes + sink.allocated).saturating_sub(sink.replaced);
        let (node_deltas, freed) = sink.finish()?;

        let table = self.space.lock().table().clone();
        let all: Vec<Delta> = deltas.space.iter().chain(&node_deltas).copied().collect();
        let (table, writes) = table.apply(&*self.device, self.layout, moment.volume_sectors, &all)?;
        moment.space = table.top();
        self.write_and_wait(writes)?;
        // What the superblock names must be durable before it is, the records' own data included.
        self.finish_writes(moment.seq)?;
        self.flush()?;
        self.write_superblock(&moment)?;

        {
            let mut layers = self.layers.write();
            layers.root = moment.root;
            layers.frozen = None;
        }
        *generation = moment.generation;
        self.generation.store(moment.generation, Ordering::Release);
        self.durable_seq.fetch_max(moment.seq, Ordering::AcqRel);
        let mut sealer = self.sealer.lock();
        sealer.attested = sealer.attested.max(moment.seq);
        drop(sealer);
        self.nodes.store(moment.nodes, Ordering::Release);
        self.log_tail.store(appended, Ordering::Release);
        let mut space = self.space.lock();
        // Before the table: a bitmap not read so far must be read as it was before these were freed.
        for run in freed.into_iter().chain(self.freed.lock().on_settled(moment.seq)) {
            space.mark(run, false)?;
        }
        space.set_table(table);
        Ok(moment)
    }

    /// The deltas of a checkpoint that came to nothing wait for the next one.
    fn put_back(&self, frozen: Arc<MemTable>) {
        let mut layers = self.layers.write();
        layers.frozen = None;
        let newer = std::mem::take(&mut layers.active);
        let mut all = Arc::try_unwrap(frozen).unwrap_or_else(|frozen| MemTable::clone(&frozen));
        newer.items.into_iter().for_each(|(key, value)| all.insert(key, value));
        all.space.extend(newer.space);
        layers.active = all;
    }

    /// Writes all four copies; from the middle on, this is what a crash leads to. Then the anchor may hear of it.
    pub(super) fn write_superblock(&self, moment: &Moment) -> Result<()> {
        let head = Head { seq: moment.seq, hash: moment.record_hash };
        let (to_tell, named) = {
            let mut anchoring = self.anchoring.lock();
            let to_tell = anchoring.name(head, self.closed.load(Ordering::Acquire));
            (to_tell, anchoring.named())
        };
        let superblock = self.superblock(moment, named);
        for copies in self.superblocks.chunks(2) {
            let write = |sector: &u64| {
                let mut bytes = self.device.buffer(1);
                bytes.copy_from_slice(zerocopy::IntoBytes::as_bytes(&superblock));
                Write { sector: *sector, bytes }
            };
            self.write_and_wait(copies.iter().map(write).collect())?;
            self.flush()?;
        }
        if let Some((anchor, anchored)) = to_tell {
            let result = anchor.write(&anchored);
            self.anchoring.lock().on_told(head, result);
        }
        Ok(())
    }

    fn superblock(&self, moment: &Moment, anchors: [AnchorBytes; ANCHORS_MAX]) -> Superblock {
        let mut superblock = Superblock::new_zeroed();
        superblock.magic = SUPERBLOCK_MAGIC;
        superblock.version = FORMAT_VERSION.into();
        superblock.store_id = self.keys.store_id;
        superblock.generation = moment.generation.into();
        superblock.volume_sectors = moment.volume_sectors.into();
        superblock.capacity_sectors = self.capacity_sectors.into();
        superblock.written_sectors = self.space.lock().written().into();
        superblock.log_sectors = self.layout.log_sectors().into();
        superblock.log_position = moment.log_position.into();
        superblock.seq = moment.seq.into();
        superblock.record_hash = moment.record_hash;
        superblock.root = moment.root.ptr;
        superblock.height = moment.root.height.into();
        superblock.nodes = moment.nodes.into();
        superblock.space = moment.space;
        superblock.next_block = moment.next_block.into();
        superblock.time_ns = moment.time_ns.into();
        superblock.root_principal = self.keys.root_principal;
        superblock.anchors = anchors;
        superblock.chain = self.keys.chain_bytes();
        superblock.author = self.keys.node.public().signing;
        superblock.signature = self.keys.node.sign(&superblock_hash(&superblock));
        superblock
    }

    pub(super) fn write_and_wait(&self, writes: Vec<Write>) -> Result<()> {
        if writes.is_empty() {
            return Ok(());
        }
        self.device.write(writes).wait().map_err(|error| self.poison_with("write", &error))
    }

    /// Releases what the records up to `durable` allow to be used again.
    pub(super) fn release_freed(&self, durable: u64) -> Result<()> {
        let runs = self.freed.lock().on_durable(durable);
        if !runs.is_empty() {
            let mut space = self.space.lock();
            for run in runs {
                space.mark(run, false)?;
            }
        }
        Ok(())
    }

    /// Waits until a write may add `bytes` to those in flight.
    pub(super) fn throttle(&self, bytes: usize) -> Result<()> {
        loop {
            let oldest = {
                let mut in_flight = self.in_flight.lock();
                while let Some((size, completion)) = in_flight.writes.front()
                    && completion.is_done()
                {
                    in_flight.bytes -= *size;
                    in_flight.writes.pop_front();
                }
                if in_flight.bytes == 0 || in_flight.bytes + bytes <= IN_FLIGHT_BYTES_MAX {
                    return Ok(());
                }
                in_flight.writes.front().map(|(_, completion)| completion.clone())
            };
            if let Some(oldest) = oldest {
                oldest.wait().map_err(|error| self.poison_with("write", &error))?;
            }
        }
    }

    pub(super) fn note_in_flight(&self, bytes: usize, completion: &Completion) {
        let mut in_flight = self.in_flight.lock();
        in_flight.bytes += bytes;
        in_flight.writes.push_back((bytes, completion.clone()));
    }

    /// Promises sectors to a transaction. Where there are not enough, makes room.
    pub(super) fn promise(self: &Arc<Self>, sectors: u64) -> Result<()> {
        if sectors == 0 {
            return Ok(());
        }
        self.with_room(Purpose::Add, |core| {
            let mut space = core.space.lock();
            // Whatever is free may be too fragmented to count.
            Ok((!space.promise(sectors)?).then(|| space.available() + sectors))
        })
    }

    /// Makes room until an attempt succeeds: lengthens the volume; makes free what was freed, which a sector is once a
    /// record that comes after the one that freed it is durable; empties what is still to be emptied. An attempt that
    /// fails says how many sectors had to be available.
    fn with_room(
        self: &Arc<Self>,
        purpose: Purpose,
        attempt: impl Fn(&Self) -> Result<Option<u64>>,
    ) -> Result<()> {
        for round in 0..4 {
            let Some(wanted) = attempt(self)? else { return Ok(()) };
            self.check_writable()?;
            match round {
                0 => self.grow(wanted)?,
                // Who empties something does not wait for itself.
                2.. if purpose != Purpose::Free => {
                    self.reclaim_all()?;
                    self.settle()?;
                }
                _ => self.settle()?,
            }
        }
        let is_full = attempt(self)?.is_some();
        if is_full && purpose == Purpose::Add {
            self.is_full.store(true, Ordering::Release);
        }
        if is_full { Err(Error::NoSpace) } else { Ok(()) }
    }

    /// Makes what is pending durable and writes a checkpoint, so that everything freed so far is free.
    fn settle(&self) -> Result<()> {
        let turn = self.turn.take();
        self.commit()?;
        self.make_durable()?;
        drop(turn);
        self.run_checkpoint()
    }

    /// Lengthens the volume, if it may be, until `sectors` are available, if they can be.
    fn grow(&self, sectors: u64) -> Result<()> {
        let mut space = self.space.lock();
        let missing = sectors.saturating_sub(space.available());
        if missing == 0 {
            return Ok(());
        }
        let now = space.volume_sectors();
        // By an eighth at a time, so that a large store grows seldom.
        let least = missing.max(GROW_SECTORS);
        for wanted in [now + least.max(now / 8), now + least] {
            let target = wanted.min(self.capacity_sectors);
            if target <= now {
                return Ok(());
            }
            if self.device.sectors() >= target || self.device.grow(target).is_ok() {
                space.lengthen(target);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Fails where index nodes could run out: what adds to the store is refused long before what removes.
    pub(super) fn check_index_space(self: &Arc<Self>, purpose: Purpose) -> Result<()> {
        self.with_room(purpose, |core| {
            let needed = core.nodes_needed() + purpose.nodes_left();
            let mut space = core.space.lock();
            let missing = needed.saturating_sub(space.available_nodes(needed)?);
            Ok((missing > 0).then(|| space.available() + missing * NODE_SECTORS as u64))
        })
    }

    /// An upper bound on the nodes that merging all deltas writes before it frees the old ones.
    fn nodes_needed(&self) -> u64 {
        let layers = self.layers.read();
        let (items, bytes) = std::iter::once(&layers.active)
            .chain(layers.frozen.as_deref())
            .fold((0, 0), |(items, bytes), table| (items + table.items.len(), bytes + table.bytes));
        // What is pending may turn out to change as many items as its weight allows.
        let items = (items + layers.pending.weight / REMOVED_WEIGHT) as u64;
        let bytes = (bytes + layers.pending.weight) as u64;
        let leaves = items.min(self.nodes.load(Ordering::Acquire));
        leaves + leaves / 16 + 2 * bytes / NODE_BYTES as u64 + 4 * u64::from(layers.root.height)
    }

    /// Wakes who commits in the background when enough has gathered.
    pub(super) fn wake_committer(&self, weight: usize) {
        if self.options.commit_each {
            // Who applied it may hold the lock that makes room. An error poisons the store, which tells whoever
            // changes it next.
            let _ = self.commit_if_room();
            return;
        }
        if weight >= BATCH_WEIGHT_COMMIT {
            let mut state = self.signal.state.lock();
            if !state.commit_wanted {
                state.commit_wanted = true;
                self.signal.changed.notify_all();
            }
        }
    }

    pub(super) fn request_checkpoint(&self) {
        let mut state = self.signal.state.lock();
        if !state.checkpoint_wanted {
            state.checkpoint_wanted = true;
            self.signal.changed.notify_all();
        }
    }

    /// Returns after the next checkpoint.
    pub(super) fn wait_for_checkpoint(&self) -> Result<()> {
        if !self.options.background {
            return self.run_checkpoint();
        }
        let mut state = self.signal.state.lock();
        let seen = state.checkpoints;
        state.checkpoint_wanted = true;
        self.signal.changed.notify_all();
        while state.checkpoints == seen && !state.stop && !self.poisoned.load(Ordering::Acquire) {
            self.signal.changed.wait(&mut state);
        }
        let (stopped, lacks_space) = (state.stop, state.checkpoint_lacks_space);
        drop(state);
        if lacks_space {
            return Err(Error::NoSpace);
        }
        if stopped { self.run_checkpoint() } else { self.check_sealable() }
    }
}

/// What the signature of a superblock is over.
pub(super) fn superblock_hash(superblock: &Superblock) -> Hash {
    tagged_hash("blocktree superblock v1", &[superblock.signed_bytes()])
}

/// Where a merge puts its nodes.
pub(super) struct Sink<'a> {
    core: &'a Core,
    seq: u64,
    deltas: Vec<Delta>,
    freed: Vec<Run>,
    pub(super) allocated: u64,
    pub(super) replaced: u64,
    writes: VecDeque<Completion>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(core: &'a Core, seq: u64) -> Self {
        Self {
            core,
            seq,
            deltas: Vec::new(),
            freed: Vec::new(),
            allocated: 0,
            replaced: 0,
            writes: VecDeque::new(),
        }
    }

    /// Gives back what it allocated.
    fn undo(mut self) -> Result<()> {
        while let Some(write) = self.writes.pop_front() {
            write.wait().map_err(|error| self.core.poison_with("write", &error))?;
        }
        let mut space = self.core.space.lock();
        for delta in &self.deltas {
            space.mark(delta.run, false)?;
        }
        Ok(())
    }

    /// Waits for all nodes; returns what happened to space, and what may be used again once the checkpoint is
    /// durable.
    pub(super) fn finish(mut self) -> Result<(Vec<Delta>, Vec<Run>)> {
        while let Some(write) = self.writes.pop_front() {
            write.wait().map_err(|error| self.core.poison_with("write", &error))?;
        }
        let freed = self.freed.iter().map(|run| Delta { run: *run, used: false });
        self.deltas.extend(freed);
        Ok((self.deltas, self.freed))
    }
}

impl NodeSink for Sink<'_> {
    fn allocate(&mut self) -> Result<u64> {
        let sector = self.core.space.lock().allocate_node()?.ok_or(Error::NoSpace)?;
        let run = Run { sector, sectors: NODE_SECTORS as u64 };
        self.deltas.push(Delta { run, used: true });
        self.allocated += 1;
        Ok(sector)
    }

    fn write(&mut self, sector: u64, bytes: &NodeBytes) -> Result<()> {
        let mut buffer = self.core.device.buffer(NODE_SECTORS);
        buffer.copy_from_slice(bytes);
        self.writes.push_back(self.core.device.write(vec![Write { sector, bytes: buffer }]));
        // Enough to keep the device busy, little enough to keep memory bounded.
        const QUEUE: usize = (4 << 20) / NODE_BYTES;
        if self.writes.len() > QUEUE {
            let oldest = self.writes.pop_front().expect("not empty");
            oldest.wait().map_err(|error| self.core.poison_with("write", &error))?;
        }
        Ok(())
    }

    fn free(&mut self, ptr: &NodePtr) {
        let run = Run { sector: ptr.sector.get(), sectors: NODE_SECTORS as u64 };
        self.replaced += 1;
        debug_assert!(ptr.birth.get() <= self.seq);
        // A node that a snapshot holds lives on with it.
        if !self.core.snapshots.lock().pins_node(ptr.birth.get(), self.seq) {
            self.freed.push(run);
        }
    }
}
