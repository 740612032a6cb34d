//! A device of nodes in memory that keeps account of every one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::crypto::Secret;
use crate::error::Error;
use crate::format::{Key, NodePtr};
use crate::limits::NODE_SECTORS;
use crate::tree::{MergeError, NodeBytes, NodeReader, NodeSink, Root, Tree, WalkEvent, WalkStep};

pub(super) type Changes = BTreeMap<Key, Option<Vec<u8>>>;

#[derive(Default)]
pub(super) struct MemoryNodes {
    pub(super) nodes: Mutex<HashMap<u64, Box<NodeBytes>>>,
    /// Nodes that were read.
    pub(super) reads: AtomicU64,
    /// Times that some were asked for.
    pub(super) calls: AtomicU64,
}

impl MemoryNodes {
    fn copy(&self, sector: u64) -> io::Result<Box<NodeBytes>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(self.nodes.lock().get(&sector).ok_or(io::ErrorKind::InvalidInput)?.clone())
    }
}

impl NodeReader for MemoryNodes {
    fn read_node(&self, sector: u64, bytes: &mut NodeBytes) -> io::Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        *bytes = *self.copy(sector)?;
        Ok(())
    }

    fn read_nodes(&self, sectors: &[u64]) -> io::Result<Vec<Box<NodeBytes>>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        sectors.iter().map(|sector| self.copy(*sector)).collect()
    }
}

/// One merge's account.
pub(super) struct MemorySink {
    memory: Arc<MemoryNodes>,
    unused: Vec<u64>,
    next: u64,
    pub(super) allocated: BTreeSet<u64>,
    pub(super) written: BTreeSet<u64>,
    pub(super) freed: Vec<NodePtr>,
    /// Allocations that still succeed.
    pub(super) space: u64,
}

impl NodeSink for MemorySink {
    fn allocate(&mut self) -> Result<u64, Error> {
        self.space = self.space.checked_sub(1).ok_or(Error::NoSpace)?;
        let sector = self.unused.pop().unwrap_or_else(|| {
            self.next += NODE_SECTORS as u64;
            self.next
        });
        assert!(self.allocated.insert(sector));
        Ok(sector)
    }

    fn write(&mut self, sector: u64, bytes: &NodeBytes) -> Result<(), Error> {
        assert!(self.allocated.contains(&sector) && self.written.insert(sector), "written once");
        self.memory.nodes.lock().insert(sector, Box::new(*bytes));
        Ok(())
    }

    fn free(&mut self, ptr: &NodePtr) {
        self.freed.push(*ptr);
    }
}

/// A tree with its device, its present root and the nodes that this should consist of.
pub(super) struct Index {
    pub(super) memory: Arc<MemoryNodes>,
    pub(super) tree: Tree,
    pub(super) root: Root,
    pub(super) live: BTreeSet<u64>,
    unused: Vec<u64>,
    next: u64,
    pub(super) birth: u64,
}

impl Index {
    pub(super) fn new(cache_bytes: usize) -> Self {
        let memory = Arc::new(MemoryNodes::default());
        Self {
            tree: tree_on(&memory, cache_bytes),
            memory,
            root: Root::EMPTY,
            live: BTreeSet::new(),
            unused: Vec::new(),
            next: 0,
            birth: 0,
        }
    }

    pub(super) fn sink(&mut self) -> MemorySink {
        MemorySink {
            memory: self.memory.clone(),
            unused: self.unused.clone(),
            next: self.next,
            allocated: BTreeSet::new(),
            written: BTreeSet::new(),
            freed: Vec::new(),
            space: u64::MAX,
        }
    }

    /// Merges, and accounts for what the sink was told. Returns how many nodes were written.
    pub(super) fn merge(&mut self, changes: &Changes) -> Result<usize, MergeError> {
        self.birth += 1;
        let mut sink = self.sink();
        let changes = changes.iter().map(|(key, value)| (*key, value.as_deref()));
        let root = self.tree.merge(&self.root, self.birth, changes, &mut sink)?;
        assert_eq!(sink.allocated, sink.written);
        for ptr in &sink.freed {
            let sector = ptr.sector.get();
            assert!(self.live.remove(&sector), "freed once, and not if new");
            self.memory.nodes.lock().remove(&sector);
        }
        self.live.extend(&sink.allocated);
        self.unused = sink.unused;
        self.unused.extend(sink.freed.iter().map(|ptr| ptr.sector.get()));
        self.next = sink.next;
        self.root = root;
        Ok(sink.allocated.len())
    }

    /// All nodes, as level and pointer, of a tree that has to be whole.
    pub(super) fn walk_nodes(&self) -> Vec<(u8, NodePtr)> {
        let mut nodes = Vec::new();
        self.tree
            .walk(&self.root, &mut |event| {
                match event {
                    WalkEvent::Node { ptr, level } => nodes.push((level, *ptr)),
                    WalkEvent::Damaged { error, .. } => panic!("{error}"),
                    WalkEvent::Item { .. } => {}
                }
                WalkStep::On
            })
            .unwrap();
        nodes
    }

    /// Every live node is reachable once, and nothing else is.
    pub(super) fn check_account(&self) {
        let nodes = self.walk_nodes();
        let reached: BTreeSet<u64> = nodes.iter().map(|(_, ptr)| ptr.sector.get()).collect();
        assert_eq!(reached.len(), nodes.len(), "reached once");
        assert_eq!(reached, self.live);
        assert_eq!(self.root.height == 0, nodes.is_empty());
    }

    pub(super) fn items(&self) -> Vec<(Key, Vec<u8>)> {
        let mut items = Vec::new();
        self.tree
            .scan(&self.root, &Key::MIN, &Key::MAX, &mut |key, value| {
                items.push((key, value.to_vec()));
                true
            })
            .unwrap();
        items
    }
}

pub(super) fn structure_key() -> Secret {
    Secret::new([3; 32])
}

pub(super) fn tree_on(memory: &Arc<MemoryNodes>, cache_bytes: usize) -> Tree {
    Tree::new(memory.clone(), structure_key(), cache_bytes)
}
