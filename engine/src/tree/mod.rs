//! The layer of the index: a copy-on-write B+tree of 16 KiB nodes that lives on a device.
//!
//! [`Tree`] reads it, through a bounded cache of decrypted nodes, and changes it, by merging a sorted batch of
//! changes into new nodes under a new [`Root`]. Where nodes come from and go to is behind [`NodeReader`] and
//! [`NodeSink`], which the store implements over its device and its space. The bytes of a node are those of
//! [`crate::format::NodeHeader`].
//!
//! Invariants:
//! 1. A node is hashed before it is decrypted, and validated before anything else sees it: whoever holds the
//!    structure key can build nodes that have the right hash, and must not be able to bring the engine down.
//! 2. Every time a node is reached, it is held against what its parent says: level, birth, lowest key, and the
//!    lowest key of the neighbour. So no path runs in a circle, none meets another, and scans are in order.
//! 3. No node is changed in place. A merge writes each new node once and tells of each old node that the new
//!    tree lacks once.
//! 4. A node that nothing changed is not written again, nor, as a rule, read.
//! 5. An inner node has at least two children, a leaf at least one item; the empty index has no node.

mod ahead;
mod cache;
mod merge;
mod node;
mod read;
mod run;
#[cfg(test)]
mod tests;
mod walk;

use std::io;
use std::sync::Arc;

use crate::crypto::Secret;
use crate::error::Error;
use crate::format::NodePtr;
use crate::hits::Hits;
use crate::limits::NODE_BYTES;

use cache::NodeCache;

#[allow(unused_imports, reason = "the store and the fuzz target of the parser are to use them")]
pub(crate) use {
    node::Node,
    walk::{WalkEvent, WalkStep},
};

/// A node as it stands on the device, or decrypted.
pub(crate) type NodeBytes = [u8; NODE_BYTES];

/// The root of an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Root {
    /// The highest node; zeroed where `height` is 0.
    pub(crate) ptr: NodePtr,
    /// The number of levels: 0 for an empty index, 1 for a single leaf.
    pub(crate) height: u32,
}

impl Root {
    /// The index without items.
    pub(crate) const EMPTY: Self = Self {
        ptr: NodePtr {
            sector: zerocopy::little_endian::U64::ZERO,
            birth: zerocopy::little_endian::U64::ZERO,
            hash: [0; 32],
        },
        height: 0,
    };
}

/// Where nodes come from. Calls come from many threads at once.
pub(crate) trait NodeReader: Send + Sync {
    /// Fills `bytes` with the ciphertext of the node whose first sector is `sector`. A sector that the device
    /// does not have is [`io::ErrorKind::InvalidInput`], and counts as corruption of the pointer to it.
    fn read_node(&self, sector: u64, bytes: &mut NodeBytes) -> io::Result<()>;

    /// The same, perhaps out of a cache that may be behind the device: for who verifies it and asks again.
    fn read_node_cached(&self, sector: u64, bytes: &mut NodeBytes) -> io::Result<()> {
        self.read_node(sector, bytes)
    }

    /// The ciphertexts of several nodes, read at once. Where one cannot be read, none is.
    fn read_nodes(&self, sectors: &[u64]) -> io::Result<Vec<Box<NodeBytes>>>;
}

/// Where a merge puts its nodes.
pub(crate) trait NodeSink {
    /// The first of [`crate::limits::NODE_SECTORS`] sectors for a new node. They must not be those of a node
    /// that [`NodeSink::free`] was told of, before the new root is durable and nobody reads the old one.
    fn allocate(&mut self) -> Result<u64, Error>;

    /// Writes a node's ciphertext there. It need not be readable before the merge has returned.
    fn write(&mut self, sector: u64, bytes: &NodeBytes) -> Result<(), Error>;

    /// An old node that the new tree does not use any more.
    fn free(&mut self, ptr: &NodePtr);
}

/// Why a node cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    /// The device failed to read it.
    #[error("cannot read the index node at sector {sector}")]
    Read { sector: u64, source: io::Error },
    /// It is not what was written there, or nothing that this engine writes.
    #[error("corrupt index node at sector {sector}: {what}")]
    Corrupt { sector: u64, what: &'static str },
}

/// Why a merge ended without a new root. What it allocated and freed has to be forgotten; the old tree stands.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MergeError {
    /// A node of the old tree that the changes touch cannot be had.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A value is longer than [`crate::limits::ITEM_BYTES_MAX`].
    #[error("a value is too long for the index")]
    TooLong,
    /// The sink took no more.
    #[error(transparent)]
    Sink(Error),
}

impl From<TreeError> for Error {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Read { source, .. } => Self::Read(source),
            TreeError::Corrupt { sector, what } => Self::Corrupt { what, sector },
        }
    }
}

impl From<MergeError> for Error {
    fn from(error: MergeError) -> Self {
        match error {
            MergeError::Tree(error) => error.into(),
            MergeError::TooLong => Self::TooLong,
            MergeError::Sink(error) => error,
        }
    }
}

/// All indexes of one store: whoever has a [`Root`] reads and merges through this.
///
/// # Security
///
/// Nodes are encrypted under keys derived from the structure key and a random nonce for every node. Everything
/// read is covered by the hash in the root's pointer, which the caller got from a signed record.
///
/// # Performance
///
/// A read costs one node per level at most, none where the cache has it; threads that miss the same node read
/// it once. A merge reads the nodes that its changes fall into and writes about as many; of its memory use, a
/// few nodes per level are its own.
pub(crate) struct Tree {
    reader: Arc<dyn NodeReader>,
    structure_key: Secret,
    cache: NodeCache,
}

impl Tree {
    /// `cache_bytes` bounds the decrypted nodes kept in memory; a handful are kept in any case.
    pub(crate) fn new(reader: Arc<dyn NodeReader>, structure_key: Secret, cache_bytes: usize) -> Self {
        Self { reader, structure_key, cache: NodeCache::new(cache_bytes) }
    }

    /// How often the cache had a node.
    pub(crate) fn cache_hits(&self) -> &Hits {
        &self.cache.hits
    }
}
