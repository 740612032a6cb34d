//! The layer of the store: blocks, their items and their bytes, changed by transactions and made durable by
//! commits.

mod check;
mod info;

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::crypto::{KdfCost, Secret};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::format::{BlockId, ItemKind, WRAPPED_KEY_BYTES};

pub use check::{CheckOptions, CheckReport, Problem, check};
pub use info::{ScrubReport, StoreInfo};

/// An open store. Cheap to clone; all methods may be called from many threads.
#[derive(Clone)]
pub struct Store {}

/// A handle on a block: its id and its keys. Cheap to clone. Two handles on one block share their state.
#[derive(Clone)]
pub struct Block {}

impl Block {
    pub fn id(&self) -> BlockId {
        unimplemented!()
    }

    /// Sectors that the block's extents cover, with those not yet sealed counted as new.
    pub fn sectors(&self) -> u64 {
        unimplemented!()
    }

    /// A hash of `name` that only holders of the block's key can compute.
    pub fn name_hash(&self, _name: &[u8]) -> u64 {
        unimplemented!()
    }

    /// This block's key, wrapped for the holders of `parent`'s.
    pub fn wrap_for(&self, _parent: &Block) -> [u8; WRAPPED_KEY_BYTES] {
        unimplemented!()
    }
}

/// An item: a part that the structure key shows, and a part that only the block's key opens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Item {
    pub clear: Vec<u8>,
    pub secret: Zeroizing<Vec<u8>>,
}

/// Counts the store's operations. What has a smaller number is durable earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Seq(pub u64);

/// How much the store holds, in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// What it may grow to.
    pub capacity: u64,
    /// What new data may still take.
    pub free: u64,
    /// What is in use by data and index.
    pub used: u64,
}

/// How to open a store.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    pub read_only: bool,
    /// Show the tree as it was when this snapshot was made; implies `read_only`.
    pub snapshot: Option<String>,
}

/// What a new store is like.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// How large it may become.
    pub capacity_sectors: u64,
    pub kdf: KdfCost,
}

/// A snapshot, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    pub name: String,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    pub seq: u64,
}

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("placeholder")]
    Placeholder,
}

impl Store {
    /// Makes a store on a device and opens it. Its root block does not exist yet: see [`Store::root_id`].
    pub fn create(
        _device: Arc<dyn Device>,
        _passphrase: &[u8],
        _options: &CreateOptions,
    ) -> std::result::Result<Self, OpenError> {
        unimplemented!()
    }

    pub fn open(
        _device: Arc<dyn Device>,
        _passphrase: &[u8],
        _options: &OpenOptions,
    ) -> std::result::Result<Self, OpenError> {
        unimplemented!()
    }

    /// Makes everything durable, writes a checkpoint and ends the background work. Later calls fail.
    pub fn close(&self) -> Result<()> {
        unimplemented!()
    }

    /// The id that the first block ever made gets (1): the root of the layer above.
    pub const ROOT: BlockId = 1;

    /// A handle on a block, through the owner key. `None` where there is no such block.
    pub fn block(&self, _id: BlockId) -> Result<Option<Block>> {
        unimplemented!()
    }

    /// The attributes that the layer above keeps with a block.
    pub fn attributes(&self, _block: &Block) -> Result<Zeroizing<Vec<u8>>> {
        unimplemented!()
    }

    /// One item of a block.
    pub fn get(&self, _block: &Block, _kind: ItemKind, _offset: u64) -> Result<Option<Item>> {
        unimplemented!()
    }

    /// Up to `limit` items of one kind with offsets from `from` on, in order.
    pub fn scan(
        &self,
        _block: &Block,
        _kind: ItemKind,
        _from: u64,
        _limit: usize,
    ) -> Result<Vec<(u64, Item)>> {
        unimplemented!()
    }

    /// Fills `bytes` from the block's data; holes and what lies past the last extent read as zeros.
    pub fn read(&self, _block: &Block, _offset: u64, _bytes: &mut [u8]) -> Result<()> {
        unimplemented!()
    }

    /// The first byte at or after `offset` (a multiple of a sector, rounded down) that is data (or, with
    /// `hole`, that is a hole), or `None` if there is none before `end`.
    pub fn seek(&self, _block: &Block, _offset: u64, _end: u64, _hole: bool) -> Result<Option<u64>> {
        unimplemented!()
    }

    /// Starts a transaction: a set of changes that happens wholly or not at all.
    pub fn transaction(&self) -> Transaction {
        unimplemented!()
    }

    /// Returns once every operation up to `seq` is durable.
    pub fn sync(&self, _seq: Seq) -> Result<()> {
        unimplemented!()
    }

    /// The newest operation.
    pub fn newest(&self) -> Seq {
        unimplemented!()
    }

    pub fn usage(&self) -> Usage {
        unimplemented!()
    }

    /// Blocks that were made orphans and not destroyed: after a crash, the layer above destroys them.
    pub fn orphans(&self) -> Result<Vec<BlockId>> {
        unimplemented!()
    }

    pub fn snapshot_create(&self, _name: &str) -> Result<()> {
        unimplemented!()
    }

    pub fn snapshot_list(&self) -> Result<Vec<SnapshotInfo>> {
        unimplemented!()
    }

    pub fn snapshot_delete(&self, _name: &str) -> Result<bool> {
        unimplemented!()
    }
}

/// Changes that happen wholly or not at all, in memory at once and on disk with the next commit.
///
/// Reads through [`Store`] do not see a transaction before [`Transaction::apply`]. Two transactions that
/// change the same block must not run at the same time; the layer above has locks for that. Dropping one
/// changes nothing.
pub struct Transaction {}

impl Transaction {
    /// Makes a block with a new id and a new random key.
    pub fn create(&mut self, _attributes: &[u8]) -> Block {
        unimplemented!()
    }

    pub fn set_attributes(&mut self, _block: &Block, _attributes: &[u8]) {
        unimplemented!()
    }

    /// Puts an item; `clear` and `secret` together are at most [`crate::limits::ITEM_BYTES_MAX`] less
    /// [`crate::limits::ITEM_SEAL_BYTES`] long.
    pub fn put(&mut self, _block: &Block, _kind: ItemKind, _offset: u64, _clear: &[u8], _secret: &[u8]) {
        unimplemented!()
    }

    pub fn delete(&mut self, _block: &Block, _kind: ItemKind, _offset: u64) {
        unimplemented!()
    }

    /// Writes bytes at any offset. Whole sectors cost no read; parts of sectors are read and filled up.
    pub fn write(&mut self, _block: &Block, _offset: u64, _bytes: &[u8]) -> Result<()> {
        unimplemented!()
    }

    /// Makes the sectors `from..to` a hole. `to` may be `u64::MAX / 4096`: everything from there on.
    pub fn punch(&mut self, _block: &Block, _from: u64, _to: u64) -> Result<()> {
        unimplemented!()
    }

    /// Lets `sectors` sectors of `target` from `target_sector` on be those of `source` from `source_sector` on,
    /// without copying them. The ranges may be of one block but must not overlap. At most
    /// [`crate::limits::CLONE_SECTORS_MAX`] at once.
    pub fn clone_range(
        &mut self,
        _source: &Block,
        _source_sector: u64,
        _target: &Block,
        _target_sector: u64,
        _sectors: u64,
    ) -> Result<()> {
        unimplemented!()
    }

    /// Marks a block that lost its last name but is still open.
    pub fn orphan(&mut self, _block: &Block) {
        unimplemented!()
    }

    /// Removes a block and everything it holds; a large one in the background, in bounded steps. Also ends its
    /// being an orphan.
    pub fn destroy(&mut self, _block: &Block) {
        unimplemented!()
    }

    /// Makes the changes visible, in one step. Fails with [`Error::NoSpace`] before anything is changed;
    /// transactions that only remove succeed on a full store.
    pub fn apply(self) -> Result<Seq> {
        Err(Error::Poisoned)
    }
}

#[allow(unused)]
fn placeholder(_: Secret) {}
