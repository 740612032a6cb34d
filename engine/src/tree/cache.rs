//! Decrypted and validated nodes, kept in memory up to a bound.

use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, UnitWeighter};

use super::node::Node;
use crate::format::NodePtr;
use crate::hits::Hits;
use crate::limits::NODE_BYTES;

/// Fewer nodes than this are no use to a tree of a few levels.
const NODES_MIN: usize = 16;

/// Names a version of a node: sectors are used again, so that they alone would not do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeKey {
    sector: u64,
    hash: crate::crypto::Hash,
}

impl From<&NodePtr> for NodeKey {
    fn from(ptr: &NodePtr) -> Self {
        Self { sector: ptr.sector.get(), hash: ptr.hash }
    }
}

impl Hash for NodeKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.hash;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

/// Takes the first bytes of the BLAKE3 hash as they are: nothing makes them more random.
#[derive(Default)]
pub(super) struct PrefixHasher(u64);

impl Hasher for PrefixHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

pub(super) struct NodeCache {
    nodes: Cache<NodeKey, Arc<Node>, UnitWeighter, BuildHasherDefault<PrefixHasher>>,
    pub(super) hits: Hits,
}

impl NodeCache {
    pub(super) fn new(bytes: usize) -> Self {
        let nodes = (bytes / NODE_BYTES).max(NODES_MIN);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(nodes)
            .weight_capacity(nodes as u64)
            .build()
            .expect("both capacities are given");
        let nodes = Cache::with_options(
            options,
            UnitWeighter,
            BuildHasherDefault::default(),
            DefaultLifecycle::default(),
        );
        Self { nodes, hits: Hits::default() }
    }

    /// The node, if it is here; does not count as a use of it.
    pub(super) fn peek(&self, ptr: &NodePtr) -> Option<Arc<Node>> {
        self.nodes.peek(&NodeKey::from(ptr))
    }

    /// The node, made by `load` if it is not here; who asks for it meanwhile waits.
    pub(super) fn get_or_load<E>(
        &self,
        ptr: &NodePtr,
        load: impl FnOnce() -> Result<Node, E>,
    ) -> Result<Arc<Node>, E> {
        self.hits.asked();
        self.nodes.get_or_insert_with(&NodeKey::from(ptr), || {
            self.hits.missed();
            load().map(Arc::new)
        })
    }

    pub(super) fn insert(&self, ptr: &NodePtr, node: Node) {
        self.nodes.insert(NodeKey::from(ptr), Arc::new(node));
    }

    pub(super) fn remove(&self, key: &NodeKey) {
        self.nodes.remove(key);
    }
}
