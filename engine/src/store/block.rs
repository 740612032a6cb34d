//! Handles on blocks: ids and keys.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::crypto::{Secret, wrap_key};
use crate::format::{BlockHeader, BlockId, WRAPPED_KEY_BYTES};
use crate::hits::Hits;

/// A handle on a block: its id and its keys. Cheap to clone. All handles on one block share their state.
#[derive(Clone)]
pub struct Block(pub(super) Arc<BlockState>);

pub(super) struct BlockState {
    pub(super) id: BlockId,
    pub(super) epoch: u32,
    pub(super) key: Secret,
    /// What the block key gives for data, for items, and for hashing names.
    pub(super) data_key: Secret,
    pub(super) item_key: Secret,
    name_key: Secret,
    owner_key: [u8; WRAPPED_KEY_BYTES],
    wrapped_by: u64,
    /// As the last transaction that was applied left it.
    pub(super) home: AtomicU64,
    /// Sectors that extents of the index cover, and dirty ones that may come on top.
    pub(super) sectors: AtomicU64,
    pub(super) unsealed: AtomicU64,
}

impl Block {
    /// Names the block for ever.
    pub fn id(&self) -> BlockId {
        self.0.id
    }

    /// Sectors that the block's data takes. Those not yet sealed count as new until they are.
    pub fn sectors(&self) -> u64 {
        self.0.sectors.load(Ordering::Relaxed) + self.0.unsealed.load(Ordering::Relaxed)
    }

    /// A directory, as the layer above has them, that all of its names are below or in; 0 of the root.
    pub fn home(&self) -> BlockId {
        self.0.home.load(Ordering::Relaxed)
    }

    /// A hash of `name` that only holders of the block's key can compute.
    pub fn name_hash(&self, name: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(self.0.name_key.bytes(), name);
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 bytes"))
    }

    /// This block's key, wrapped for the holders of `parent`'s.
    pub fn wrap_for(&self, parent: &Block) -> [u8; WRAPPED_KEY_BYTES] {
        wrap_key(&parent.0.item_key, &self.0.id.to_le_bytes(), &self.0.key)
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({})", self.0.id)
    }
}

impl BlockState {
    /// A new block. Its key is wrapped under `wrap`, which the readcap `wrapped_by` gives (0: the owner key).
    pub(super) fn create(id: BlockId, home: BlockId, wrap: &Secret, wrapped_by: u64) -> Self {
        let key = Secret::random();
        let owner_key = wrap_key(wrap, &id.to_le_bytes(), &key);
        let header = BlockHeader {
            owner_key,
            epoch: 0.into(),
            sectors: 0.into(),
            home: home.into(),
            wrapped_by: wrapped_by.into(),
        };
        Self::open(id, &header, key)
    }

    /// A block that the index knows, whose key is `key`.
    pub(super) fn open(id: BlockId, header: &BlockHeader, key: Secret) -> Self {
        Self {
            id,
            epoch: header.epoch.get(),
            data_key: key.derive("blocktree block data v1"),
            item_key: key.derive("blocktree block items v1"),
            name_key: key.derive("blocktree block names v1"),
            key,
            owner_key: header.owner_key,
            wrapped_by: header.wrapped_by.get(),
            home: AtomicU64::new(header.home.get()),
            sectors: AtomicU64::new(header.sectors.get()),
            unsealed: AtomicU64::new(0),
        }
    }

    /// The header as of now.
    pub(super) fn header(&self) -> BlockHeader {
        BlockHeader {
            owner_key: self.owner_key,
            epoch: self.epoch.into(),
            sectors: self.sectors.load(Ordering::Relaxed).into(),
            home: self.home.load(Ordering::Relaxed).into(),
            wrapped_by: self.wrapped_by.into(),
        }
    }
}

/// The blocks that somebody has a handle on.
#[derive(Default)]
pub(super) struct OpenBlocks {
    blocks: Mutex<HashMap<BlockId, Weak<BlockState>>>,
    hits: Hits,
}

impl OpenBlocks {
    pub(super) fn get(&self, id: BlockId) -> Option<Block> {
        self.hits.asked();
        let block = self.blocks.lock().get(&id).and_then(Weak::upgrade).map(Block);
        if block.is_none() {
            self.hits.missed();
        }
        block
    }

    pub(super) fn hits(&self) -> &Hits {
        &self.hits
    }

    /// Shares `state`, unless another thread was first.
    pub(super) fn insert(&self, state: BlockState) -> Block {
        let mut blocks = self.blocks.lock();
        if let Some(block) = blocks.get(&state.id).and_then(Weak::upgrade) {
            return Block(block);
        }
        if blocks.len() == blocks.capacity() {
            // The map only grows when no dead entries are left in it.
            blocks.retain(|_, block| block.strong_count() > 0);
        }
        let block = Arc::new(state);
        blocks.insert(block.id, Arc::downgrade(&block));
        Block(block)
    }
}
