//! Handles on blocks: ids and keys.
//!
//! Invariant: the key of an open block changes only while nothing is sealed, in the same step in which the items that
//! say so become visible ([`Block::take_key`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::block_keys::{BlockKeys, KeyChain};
use super::key_cache::KeyCache;
use crate::crypto::{Secret, Unopenable, open_key, wrap_key};
use crate::format::{BlockHeader, BlockId, Extent, WRAPPED_KEY_BYTES};
use crate::hits::Hits;
use crate::limits::UNIT_LOG2_MAX;

/// A handle on a block: its id and its keys. Cheap to clone. All handles on one block share their state.
#[derive(Clone)]
pub struct Block(pub(super) Arc<BlockState>);

pub(super) struct BlockState {
    pub(super) id: BlockId,
    keys: RwLock<Keys>,
    cache: Arc<KeyCache>,
    /// Somebody needed the expanded keys since the cache last looked.
    used: AtomicBool,
    /// How many sectors one hash covers, as powers of two: of new data at most, and of any data at most.
    pub(super) unit_log2: AtomicU8,
    pub(super) largest_unit_log2: AtomicU8,
    /// As the last transaction that was applied left it.
    pub(super) home: AtomicU64,
    /// Sectors that extents of the index cover, and dirty ones that may come on top.
    pub(super) sectors: AtomicU64,
    pub(super) unsealed: AtomicU64,
}

struct Keys {
    chain: KeyChain,
    /// What they give, as long as the cache keeps it.
    expanded: Option<Arc<BlockKeys>>,
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

    /// Sectors of new data that are sealed under one hash, where they are written together. More make long reads and
    /// writes cheaper, and short reads dearer: a unit is read whole.
    pub fn unit(&self) -> u64 {
        1 << self.0.unit_log2.load(Ordering::Relaxed)
    }

    /// A directory, as the layer above has them, that all of its names are below or in; 0 of the root.
    pub fn home(&self) -> BlockId {
        self.0.home.load(Ordering::Relaxed)
    }

    /// A hash of `name` that only holders of the block's key can compute.
    pub fn name_hash(&self, name: &[u8]) -> u64 {
        self.keys().name_hash(name)
    }

    /// What names hash to under the block's older keys, under which some of its items may still stand: none but while
    /// keys are being changed.
    pub fn older_name_hashes(&self, name: &[u8]) -> Vec<u64> {
        self.keys().older.iter().map(|keys| keys.name_hash(name)).collect()
    }

    /// Which of the block's keys is the newest: the number of the rotation that made it, 0 for the first.
    pub fn epoch(&self) -> u32 {
        self.0.keys.read().chain.epoch
    }

    /// This block's key, wrapped for the holders of `parent`'s.
    pub fn wrap_for(&self, parent: &Block) -> [u8; WRAPPED_KEY_BYTES] {
        wrap_key(&parent.keys().item, &self.0.id.to_le_bytes(), &self.0.keys.read().chain.key)
    }

    /// A child's key, wrapped for the holders of this block's newest key or an older one, wrapped for those of the newest.
    /// `None` where it does not open.
    pub fn rewrap(
        &self,
        child: BlockId,
        wrapped: &[u8; WRAPPED_KEY_BYTES],
    ) -> Option<[u8; WRAPPED_KEY_BYTES]> {
        let keys = self.keys();
        keys.rewrap(&keys, child, wrapped)
    }

    /// Whether `wrapped` gives this block's newest key to the holders of `parent`'s newest.
    pub fn is_wrapped_for(&self, parent: &Block, wrapped: &[u8; WRAPPED_KEY_BYTES]) -> bool {
        let found = open_key(&parent.keys().item, &self.0.id.to_le_bytes(), wrapped);
        found.is_ok_and(|key| key.bytes() == self.0.keys.read().chain.key.bytes())
    }

    /// The keys that everything of the block is sealed under.
    pub(super) fn keys(&self) -> Arc<BlockKeys> {
        let state = &self.0;
        state.cache.hits().asked();
        if let Some(expanded) = &state.keys.read().expanded {
            if !state.used.load(Ordering::Relaxed) {
                state.used.store(true, Ordering::Relaxed);
            }
            return expanded.clone();
        }
        state.cache.hits().missed();
        let expanded = {
            let mut keys = state.keys.write();
            if let Some(expanded) = &keys.expanded {
                return expanded.clone();
            }
            let expanded = Arc::new(keys.chain.expand());
            keys.expanded = Some(expanded.clone());
            expanded
        };
        state.cache.keep(&self.0);
        expanded
    }

    /// The block's own key, which gives all others.
    pub(super) fn with_key<T>(&self, run: impl FnOnce(&Secret) -> T) -> T {
        run(&self.0.keys.read().chain.key)
    }

    pub(super) fn chain(&self) -> KeyChain {
        self.0.keys.read().chain.clone()
    }

    /// Lets the block have these keys from now on. Nothing is being sealed.
    pub(super) fn take_key(&self, chain: KeyChain) {
        *self.0.keys.write() = Keys { chain, expanded: None };
    }

    /// Takes note of the units of an extent that becomes this block's.
    pub(super) fn note_units(&self, extent: &Extent) {
        self.0.largest_unit_log2.fetch_max(extent.header.unit_log2, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({})", self.0.id)
    }
}

impl BlockState {
    /// The header as of now.
    pub(super) fn header(&self) -> BlockHeader {
        let keys = self.keys.read();
        BlockHeader {
            owner_key: keys.chain.owner_key,
            epoch: keys.chain.epoch.into(),
            sectors: BlockHeader::encode_sectors(self.sectors.load(Ordering::Relaxed)),
            units: self.unit_log2.load(Ordering::Relaxed)
                | self.largest_unit_log2.load(Ordering::Relaxed) << 4,
            home: self.home.load(Ordering::Relaxed).into(),
            wrapped_by: keys.chain.wrapped_by.into(),
        }
    }

    /// Takes note that the cache looked; whether somebody had needed the expanded keys.
    pub(super) fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn is_expanded(&self) -> bool {
        self.keys.read().expanded.is_some()
    }

    /// Gives the expanded keys up: they are zeroized once whoever works with them is done.
    pub(super) fn drop_expanded(&self) {
        self.keys.write().expanded = None;
    }
}

/// The blocks that somebody has a handle on.
#[derive(Default)]
pub(super) struct OpenBlocks {
    blocks: Mutex<HashMap<BlockId, Weak<BlockState>>>,
    cache: Arc<KeyCache>,
}

impl OpenBlocks {
    pub(super) fn get(&self, id: BlockId) -> Option<Block> {
        self.blocks.lock().get(&id).and_then(Weak::upgrade).map(Block)
    }

    pub(super) fn hits(&self) -> &Hits {
        self.cache.hits()
    }

    /// A new block. Its key is wrapped under `wrap`, which the readcap `wrapped_by` gives (0: the owner key).
    pub(super) fn create(&self, id: BlockId, home: BlockId, wrap: &Secret, wrapped_by: u64) -> Block {
        let key = Secret::random();
        let header = BlockHeader {
            owner_key: wrap_key(wrap, &id.to_le_bytes(), &key),
            epoch: 0.into(),
            sectors: BlockHeader::encode_sectors(0),
            units: 0,
            home: home.into(),
            wrapped_by: wrapped_by.into(),
        };
        self.share(self.opened(id, &header, key, Vec::new()))
    }

    /// A handle that shares nothing, on a block that the index knows, whose key is `key`.
    pub(super) fn opened(
        &self,
        id: BlockId,
        header: &BlockHeader,
        key: Secret,
        older: Vec<(u32, Secret)>,
    ) -> Block {
        let chain = KeyChain {
            epoch: header.epoch.get(),
            key,
            owner_key: header.owner_key,
            wrapped_by: header.wrapped_by.get(),
            older,
        };
        Block(Arc::new(BlockState {
            id,
            keys: RwLock::new(Keys { chain, expanded: None }),
            cache: self.cache.clone(),
            used: AtomicBool::new(false),
            home: AtomicU64::new(header.home.get()),
            unit_log2: AtomicU8::new((header.units & 0xF).min(UNIT_LOG2_MAX)),
            largest_unit_log2: AtomicU8::new((header.units >> 4).min(UNIT_LOG2_MAX)),
            sectors: AtomicU64::new(header.sectors()),
            unsealed: AtomicU64::new(0),
        }))
    }

    /// Shares a handle that [`Self::opened`] made, unless another thread was first.
    pub(super) fn share(&self, block: Block) -> Block {
        let mut blocks = self.blocks.lock();
        if let Some(known) = blocks.get(&block.id()).and_then(Weak::upgrade) {
            return Block(known);
        }
        if blocks.len() == blocks.capacity() {
            // The map only grows when no dead entries are left in it.
            blocks.retain(|_, block| block.strong_count() > 0);
        }
        blocks.insert(block.id(), Arc::downgrade(&block.0));
        block
    }
}

/// Older keys of a block as their items have them, opened with its newest.
pub(super) fn open_older_key(
    item_key: &Secret,
    epoch: u64,
    wrapped: &[u8],
) -> Result<(u32, Secret), Unopenable> {
    let number = u32::try_from(epoch).map_err(|_| Unopenable)?;
    Ok((number, open_key(item_key, &epoch.to_le_bytes(), wrapped)?))
}
