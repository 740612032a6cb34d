//! Handles on blocks: ids and keys.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::crypto::{Secret, Unopenable, open_key, wrap_key};
use crate::format::{BlockHeader, BlockId, WRAPPED_KEY_BYTES};
use crate::hits::Hits;

/// A handle on a block: its id and its keys. Cheap to clone. All handles on one block share their state.
#[derive(Clone)]
pub struct Block(pub(super) Arc<BlockState>);

pub(super) struct BlockState {
    pub(super) id: BlockId,
    pub(super) epoch: u32,
    key: Secret,
    /// What the block key gives for data, for items, and for hashing names.
    pub(super) data_key: Secret,
    pub(super) item_key: Secret,
    name_key: Secret,
    pub(super) owner_key: [u8; WRAPPED_KEY_BYTES],
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
    /// A new block.
    pub(super) fn create(id: BlockId, owner: &Secret) -> Self {
        let key = Secret::random();
        let owner_key = wrap_key(owner, &id.to_le_bytes(), &key);
        Self::new(id, 0, key, owner_key, 0)
    }

    /// A block that the index knows.
    pub(super) fn open(id: BlockId, header: &BlockHeader, owner: &Secret) -> Result<Self, Unopenable> {
        let key = open_key(owner, &id.to_le_bytes(), &header.owner_key)?;
        Ok(Self::new(id, header.epoch.get(), key, header.owner_key, header.sectors.get()))
    }

    fn new(id: BlockId, epoch: u32, key: Secret, owner_key: [u8; WRAPPED_KEY_BYTES], sectors: u64) -> Self {
        Self {
            id,
            epoch,
            data_key: key.derive("blocktree block data v1"),
            item_key: key.derive("blocktree block items v1"),
            name_key: key.derive("blocktree block names v1"),
            key,
            owner_key,
            sectors: AtomicU64::new(sectors),
            unsealed: AtomicU64::new(0),
        }
    }

    /// The header as of now.
    pub(super) fn header(&self) -> BlockHeader {
        BlockHeader {
            owner_key: self.owner_key,
            epoch: self.epoch.into(),
            sectors: self.sectors.load(Ordering::Relaxed).into(),
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
