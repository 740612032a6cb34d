//! The layer of the store: blocks, their items and their bytes, changed by transactions and made durable by
//! commits.
//!
//! [`Store`] is what the layers above see. Its paths read top-down: `read.rs` is the read path, `commit.rs` the
//! write path, `checkpoint.rs` how deltas become index, `open.rs` how a store comes up after whatever happened.

mod access;
mod anchoring;
mod authors;
mod background;
mod batch;
mod block;
mod block_keys;
mod capabilities;
mod check;
mod checkpoint;
mod commit;
mod create;
mod erase;
mod freed;
mod info;
mod journal;
mod judge;
mod key_cache;
mod keys;
mod layers;
mod log;
mod log_tail;
mod nodes;
mod open;
mod overlay;
mod part;
mod read;
mod readers;
mod reclaim;
mod rekey;
mod resolve;
mod rotation;
mod scrub;
mod slots;
mod snapshot;
mod transaction;
mod turn;
mod units;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex, RwLock};
use zerocopy::{FromBytes, IntoBytes};
use zeroize::Zeroizing;

use crate::anchor::Anchor;
use crate::crypto::{Hash, KdfCost, Secret};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::format::{BlockHeader, BlockId, ItemKind, Key, KeyBytes, Layout};
use crate::limits::{
    ANCHOR_SECONDS, EXPIRY_MARGIN_NS, MEMTABLE_BYTES_MAX, NODE_CACHE_BYTES, OLDER_KEYS_MAX, SECTOR_BYTES,
};
use crate::space::{Refusals, Space};
use crate::tree::Tree;

#[cfg(feature = "fuzzing")]
pub(crate) use {
    access::decode_access,
    readers::decode_readcap,
    resolve::decode_shared,
    rotation::{Rotation as RotationItem, Stale as StaleItem},
    transaction::Reclaim as ReclaimItem,
};

pub use access::AccessInfo;
pub use block::Block;
pub use capabilities::{CapabilityError, Grant, WritecapInfo};
pub use check::{CheckOptions, CheckReport, LostRecord, Problem, check, check_as};
pub use info::StoreInfo;
pub use journal::{Note, NotesPage};
pub use judge::{Refusal, RefusedRecord};
pub use keys::{Credential, Role};
pub use open::OpenError;
pub use readers::ReadcapInfo;
pub use rekey::{change_passphrase, master_keys_of_root, node_of_key_slot, prove_master_keys};
pub use rotation::{NewKey, Reencrypted, Rotation, StaleInfo};
pub use scrub::ScrubReport;
pub use slots::{MasterKeys, read_master_keys, read_root, read_signer, replace_node};
pub use snapshot::{SnapshotError, SnapshotInfo};
pub use transaction::Transaction;

use anchoring::Anchoring;
use authors::Authors;
use background::Background;
use batch::Change;
use block::{OpenBlocks, open_older_key};
use block_keys::BlockKeys;
use freed::Freed;
use keys::Keys;
use layers::{Found, Layers};
use snapshot::Snapshots;
use transaction::Reclaim;
use turn::Turn;

/// An open store. Cheap to clone; all methods may be called from many threads.
#[derive(Clone)]
pub struct Store {
    core: Arc<Core>,
    background: Arc<Background>,
}

/// An item: a part that the structure key shows, and a part that only the block's key opens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Item {
    pub clear: Vec<u8>,
    pub secret: Zeroizing<Vec<u8>>,
}

/// Counts the store's operations. What has a smaller number is durable earlier. In a store with a journal, numbers go on
/// rising when it is opened anew; after a crash, those of lost operations are not given out again if an operation of
/// that time noted something that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Seq(pub u64);

/// How much the store holds, in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// What data and index can take in all.
    pub capacity: u64,
    /// What new data may still take.
    pub free: u64,
    /// What is in use by data and index.
    pub used: u64,
}

/// How to open a store.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    pub read_only: bool,
    /// Show the tree as it was when this snapshot was made; implies `read_only`.
    pub snapshot: Option<String>,
    /// Show the tree as it was before damage in the log, instead of refusing the store; implies `read_only`. To name what
    /// a check found, and for nothing else.
    pub before_damage: bool,
    /// Decrypted index nodes that are kept in memory, and deltas that wait there for a checkpoint, in bytes.
    pub cache_bytes: usize,
    pub memtable_bytes: usize,
    /// Threads that commit, check-point and reclaim on their own. Without them, who needs that to happen calls
    /// [`Store::checkpoint`]: a test repeats exactly.
    pub background: bool,
    /// Each transaction becomes a record of its own, at once, as if the background woke after each: for tests of
    /// what is meant to be one transaction.
    #[doc(hidden)]
    pub commit_each: bool,
    /// Says where there is no space although there is some.
    #[doc(hidden)]
    pub refusals: Option<Arc<Refusals>>,
    /// The memory outside the store that knows how far it had come. A store that does not contain that is refused.
    pub anchor: Option<Arc<dyn Anchor>>,
    /// Take the store as it is, whatever its anchor remembers, which learns this head instead.
    pub accept_rollback: bool,
    /// The anchor is told of new heads at most this often.
    pub anchor_interval: Duration,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            snapshot: None,
            before_damage: false,
            cache_bytes: NODE_CACHE_BYTES,
            memtable_bytes: MEMTABLE_BYTES_MAX,
            background: true,
            commit_each: false,
            refusals: None,
            anchor: None,
            accept_rollback: false,
            anchor_interval: Duration::from_secs(ANCHOR_SECONDS),
        }
    }
}

/// What a new store is like.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// How large it may become.
    pub capacity_sectors: u64,
    pub kdf: KdfCost,
}

/// Who makes records, one at a time.
struct Sealer {
    /// The newest record and its hash.
    seq: u64,
    previous: Hash,
    /// The newest record that changes something, and the newest of which the disk says that it was durable.
    changed: u64,
    attested: u64,
    /// When it was made, in nanoseconds since 1970: no later one says an earlier time.
    time_ns: u64,
    /// Where the next record goes in the log zone, and all sectors that records ever took there.
    position: u64,
    appended: u64,
    journal: journal::Ends,
}

impl Sealer {
    /// Notes a record, and up to which one it says that all were durable.
    fn went_on(&mut self, seq: u64, hash: Hash, durable_seq: u64, changes_something: bool) {
        (self.seq, self.previous) = (seq, hash);
        self.attested = self.attested.max(durable_seq);
        if changes_something {
            self.changed = seq;
        }
    }

    /// Takes room for a record; returns its place in a log zone of `log_sectors`.
    fn place(&mut self, sectors: u64, log_sectors: u64) -> u64 {
        if self.position + sectors > log_sectors {
            self.appended += log_sectors - self.position;
            self.position = 0;
        }
        let at = self.position;
        self.position = (at + sectors) % log_sectors;
        self.appended += sectors;
        at
    }
}

/// What all handles on a store share.
struct Core {
    device: Arc<dyn Device>,
    keys: Keys,
    layout: Layout,
    /// The copies of the superblock in the order in which they are overwritten: until the first two are durable,
    /// the last two hold the one before.
    superblocks: [u64; 4],
    options: OpenOptions,
    capacity_sectors: u64,
    tree: Tree,
    open_blocks: OpenBlocks,
    /// Where notes go, if this store has such a block and this node may add to it.
    journal: OnceLock<journal::Journal>,
    /// There was no space for what adds to the store.
    is_full: AtomicBool,
    layers: RwLock<Layers>,
    sealer: Mutex<Sealer>,
    /// Who flushes.
    turn: Turn,
    /// One checkpoint at a time; holds the generation of the last.
    checkpoint: Mutex<u64>,
    space: Mutex<Space>,
    freed: Mutex<Freed>,
    snapshots: Mutex<Snapshots>,
    anchoring: Mutex<Anchoring>,
    authors: Mutex<Authors>,
    /// One change to the access slots at a time.
    granting: Mutex<()>,
    /// Until when who opened the store may write to it, in nanoseconds since 1970.
    expires_ns: u64,
    /// What of the store who opened it may write, if that is not all of it.
    bounds: Option<judge::Bounds>,
    /// The record that ended the log, if that was one without a right.
    refused: Option<RefusedRecord>,
    reclaims: RwLock<BTreeMap<BlockId, reclaim::Reclaiming>>,
    /// Sectors of blocks that a repair gave up, and cannot be read.
    lost: RwLock<BTreeMap<BlockId, (u64, u64)>>,
    /// Blocks of which something stands under older keys.
    stales: RwLock<BTreeMap<BlockId, rotation::Stale>>,
    /// One step of removing what is left of a block or snapshot at a time.
    reclaiming: Mutex<()>,
    in_flight: Mutex<checkpoint::InFlight>,
    /// The last checkpoint that was written, for who does not hold the lock.
    generation: AtomicU64,
    /// Nodes of the index as of the last checkpoint.
    nodes: AtomicU64,
    next_block: AtomicU64,
    next_op: AtomicU64,
    durable_op: AtomicU64,
    durable_seq: AtomicU64,
    /// Sectors of the log that were appended in all, and before the last checkpoint.
    log_head: AtomicU64,
    log_tail: AtomicU64,
    poisoned: AtomicBool,
    closed: AtomicBool,
    signal: Signal,
}

/// What background threads wait for.
#[derive(Default)]
struct Signal {
    state: Mutex<SignalState>,
    changed: Condvar,
}

#[derive(Default)]
struct SignalState {
    commit_wanted: bool,
    checkpoint_wanted: bool,
    reclaim_wanted: bool,
    /// Counts checkpoints that ended, well or not.
    checkpoints: u64,
    /// The last of them found no space for its index.
    checkpoint_lacks_space: bool,
    stop: bool,
}

/// The block above everything: a writecap for it is one for the whole store.
const WHOLE_STORE: BlockId = Store::ROOT;

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Store {
    /// The id that the first block ever made gets: the root of the layer above.
    pub const ROOT: BlockId = 1;

    /// A handle on a block, through the owner key. `None` where there is no such block.
    pub fn block(&self, id: BlockId) -> Result<Option<Block>> {
        self.core.block(id)
    }

    /// The attributes that the layer above keeps with a block.
    pub fn attributes(&self, block: &Block) -> Result<Zeroizing<Vec<u8>>> {
        self.core.attributes(block)
    }

    /// One item of a block.
    pub fn get(&self, block: &Block, kind: ItemKind, offset: u64) -> Result<Option<Item>> {
        let key = Key::new(block.id(), kind, offset);
        self.core.find(&key)?.map(|found| open_found(block, &key, &found)).transpose()
    }

    /// Up to `limit` items of one kind with offsets from `from` on, in order.
    pub fn scan(&self, block: &Block, kind: ItemKind, from: u64, limit: usize) -> Result<Vec<(u64, Item)>> {
        self.scan_within(block, kind, from..=u64::MAX, limit)
    }

    /// As [`Store::scan`], of the offsets in a range: what lies behind it costs nothing.
    pub fn scan_within(
        &self,
        block: &Block,
        kind: ItemKind,
        offsets: RangeInclusive<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, Item)>> {
        let key = |offset: &u64| Key::new(block.id(), kind, *offset);
        let (mut items, _) = self.core.range(key(offsets.start()), key(offsets.end()), limit)?;
        items.truncate(limit);
        items.iter().map(|(key, found)| Ok((key.offset, open_found(block, key, found)?))).collect()
    }

    /// Fills `bytes` from the block's data; holes and what lies past the last extent read as zeros.
    pub fn read(&self, block: &Block, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.core.read(block, offset, bytes)
    }

    /// The first byte at or after `offset`, rounded down to a sector, that is data (or, with `hole`, that is a
    /// hole), or `None` if there is none before `end`.
    pub fn seek(&self, block: &Block, offset: u64, end: u64, hole: bool) -> Result<Option<u64>> {
        let sector = SECTOR_BYTES as u64;
        let found = self.core.seek(block, offset / sector, end.div_ceil(sector), hole)?;
        Ok(found.map(|found| found * sector))
    }

    /// Starts a transaction: a set of changes that happens wholly or not at all.
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self.core.clone())
    }

    /// Returns once every operation up to `seq` is durable.
    pub fn sync(&self, seq: Seq) -> Result<()> {
        self.core.sync(seq)
    }

    /// The newest operation.
    pub fn newest(&self) -> Seq {
        Seq(self.core.next_op.load(Ordering::Acquire) - 1)
    }

    /// How full the store is.
    pub fn usage(&self) -> Usage {
        self.core.usage()
    }

    /// Blocks that were made orphans and not destroyed: after a crash, the layer above destroys them.
    pub fn orphans(&self) -> Result<Vec<BlockId>> {
        let first = Key::new(crate::format::SYSTEM_BLOCK, ItemKind::ORPHAN, 0);
        let last = Key::new(crate::format::SYSTEM_BLOCK, ItemKind::ORPHAN, u64::MAX);
        let (items, _) = self.core.range(first, last, usize::MAX / 2)?;
        Ok(items.iter().map(|(key, _)| key.offset).collect())
    }

    /// What the background does when enough has gathered, now: starts to write what is pending without waiting for
    /// it, and then writes a checkpoint if one is due. For tests without a background.
    #[doc(hidden)]
    pub fn write_back(&self) -> Result<()> {
        self.core.commit()?;
        let is_due = std::mem::take(&mut self.core.signal.state.lock().checkpoint_wanted);
        if is_due { self.core.run_checkpoint() } else { Ok(()) }
    }

    /// The first block with this id or a higher one; every block is found by asking again behind the last.
    pub fn next_block(&self, from: BlockId) -> Result<Option<BlockId>> {
        let mut from = Key::new(from.max(Self::ROOT), ItemKind::HEADER, 0);
        loop {
            let (items, _) = self.core.range(from, Key::MAX, 1)?;
            match items.first() {
                None => return Ok(None),
                Some((key, _)) if key.kind == ItemKind::HEADER => return Ok(Some(key.block)),
                // Something else that hangs below an id.
                Some((key, _)) => match key.block.checked_add(1) {
                    Some(next) => from = Key::new(next, ItemKind::HEADER, 0),
                    None => return Ok(None),
                },
            }
        }
    }

    /// Writes a checkpoint: the log starts anew, and what was freed can be used again. Who may write only a part of the
    /// store writes none; then everything is made durable.
    pub fn checkpoint(&self) -> Result<()> {
        self.core.sync(self.newest())?;
        self.core.run_checkpoint()
    }

    /// Removes what large blocks left behind, now instead of in the background.
    pub fn reclaim(&self) -> Result<()> {
        self.core.reclaim_all()
    }

    /// A key for one purpose, named by `context`, that whoever holds the owner key can make again; `None` for others.
    pub fn derived_key(&self, context: &str) -> Option<Secret> {
        self.core.keys.owner.as_ref().map(|owner| owner.derive(context))
    }

    /// Makes everything durable, writes a checkpoint, if it may, and ends the background work. A second call does nothing.
    pub fn close(&self) -> Result<()> {
        self.background.stop(&self.core);
        if self.core.closed.swap(true, Ordering::AcqRel) || self.core.options.read_only {
            return Ok(());
        }
        let closed = match self.checkpoint() {
            // The log holds everything: on a full store, opening reads it back.
            Err(Error::NoSpace) => self.core.sync(self.newest()),
            closed => closed,
        };
        let closed = closed.and_then(|()| self.core.attest_durably());
        // What is durable is told even where more could not be made so.
        let closed = closed.and(self.core.tell_of_record(true));
        self.core.poisoned.store(true, Ordering::Release);
        self.core.anchoring.lock().finish();
        closed
    }
}

impl Core {
    fn block(&self, id: BlockId) -> Result<Option<Block>> {
        if self.reclaim_of(id).is_some_and(|reclaim| reclaim.destroy) {
            return Ok(None);
        }
        self.block_even_dying(id)
    }

    fn block_even_dying(&self, id: BlockId) -> Result<Option<Block>> {
        let open = |header: &BlockHeader| {
            let damage = Error::Corrupt { what: "block header", sector: 0 };
            self.keys.open_header(id, header).map_err(|_| self.keys.why_closed(damage))
        };
        self.block_opened(id, open)
    }

    /// A handle on a block: the one that there is, or one whose key `open` finds.
    fn block_opened(
        &self,
        id: BlockId,
        open: impl Fn(&BlockHeader) -> Result<Secret>,
    ) -> Result<Option<Block>> {
        loop {
            if let Some(block) = self.open_blocks.get(id) {
                // A handle may outlive its block.
                let key = Key::new(id, ItemKind::HEADER, 0);
                return Ok(self.find(&key)?.map(|_| block));
            }
            match self.find(&Key::new(id, ItemKind::HEADER, 0))? {
                None => return Ok(None),
                // A block in a batch is open, unless its last handle was dropped just now and the batch was sealed.
                Some(Found::Change(_)) => {}
                Some(Found::Value(value)) => {
                    let Ok((header, _)) = BlockHeader::ref_from_prefix(&value) else {
                        return Err(Error::Corrupt { what: "block header", sector: 0 });
                    };
                    let key = open(header)?;
                    match self.older_keys(id, header.epoch.get(), &key) {
                        Ok(older) => {
                            let block = self.open_blocks.opened(id, header, key, older);
                            return Ok(Some(self.open_blocks.share(block)));
                        }
                        // Its key may have been replaced in between.
                        Err(error) => match self.find(&Key::new(id, ItemKind::HEADER, 0))? {
                            Some(Found::Value(now)) if now == value => return Err(error),
                            _ => {}
                        },
                    }
                }
            }
        }
    }

    /// The keys that a block had before its newest, as long as something of it stands under them, the newest first.
    fn older_keys(&self, id: BlockId, epoch: u32, key: &Secret) -> Result<Vec<(u32, Secret)>> {
        if epoch == 0 {
            return Ok(Vec::new());
        }
        let corrupt = Error::Corrupt { what: "older key of a block", sector: 0 };
        let at = |offset| Key::new(id, ItemKind::OLD_KEY, offset);
        let (items, _) = self.range(at(0), at(u64::MAX), OLDER_KEYS_MAX)?;
        let item_key = BlockKeys::of(epoch, key).item;
        let open = |(key, found): &(Key, Found)| match found {
            Found::Value(value) | Found::Change(Change::Raw(value)) => {
                open_older_key(&item_key, key.offset, value).ok()
            }
            Found::Change(_) => None,
        };
        items.iter().rev().map(open).collect::<Option<_>>().ok_or(corrupt)
    }

    fn attributes(&self, block: &Block) -> Result<Zeroizing<Vec<u8>>> {
        let key = Key::new(block.id(), ItemKind::HEADER, 0);
        let missing = Error::Corrupt { what: "block header", sector: 0 };
        match self.find(&key)? {
            Some(Found::Change(Change::Attributes { plain, .. })) => Ok((*plain).clone()),
            Some(Found::Value(value)) => {
                let sealed = value.get(size_of::<BlockHeader>()..).ok_or(missing)?;
                open_at(block, &key, sealed)
            }
            _ => Err(missing),
        }
    }

    /// A block's header as commits left it; `None` where there is no such block.
    fn header_of(&self, id: BlockId) -> Result<Option<BlockHeader>> {
        let Some(value) = self.find_sealed(&Key::new(id, ItemKind::HEADER, 0))? else { return Ok(None) };
        match BlockHeader::read_from_prefix(&value) {
            Ok((header, _)) => Ok(Some(header)),
            Err(_) => Err(Error::Corrupt { what: "block header", sector: 0 }),
        }
    }

    /// The items of one kind that belong to the store itself.
    fn system_items(&self, kind: ItemKind) -> Result<Vec<(Key, layers::Value)>> {
        let key = |offset| Key::new(crate::format::SYSTEM_BLOCK, kind, offset);
        let (found, _) = self.range(key(0), key(u64::MAX), usize::MAX / 2)?;
        let value = |(key, found)| match found {
            Found::Value(value) | Found::Change(Change::Raw(value)) => Ok((key, value)),
            Found::Change(_) => Err(Error::Corrupt { what: "system item", sector: 0 }),
        };
        found.into_iter().map(value).collect()
    }

    fn usage(&self) -> Usage {
        let space = self.space.lock();
        let room = self.device.room().min(self.capacity_sectors - space.volume_sectors());
        let free = space.available() + room;
        let capacity = space.volume_sectors() + room - self.layout.reserved_end();
        Usage { capacity, free: free.min(capacity), used: capacity.saturating_sub(free) }
    }

    /// Whether more may be taken. That ends some time before the writecap does, so that all of it can still be sealed.
    fn check_writable(&self) -> Result<()> {
        self.check_sealable()?;
        if self.expires_ns != u64::MAX && now_ns().saturating_add(EXPIRY_MARGIN_NS) >= self.expires_ns {
            return Err(Error::Expired);
        }
        Ok(())
    }

    /// Whether what was taken may be sealed and written.
    fn check_sealable(&self) -> Result<()> {
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Error::Poisoned);
        }
        Ok(())
    }

    /// Takes no more changes from now on.
    fn poison(&self, what: &'static str) {
        if !self.poisoned.swap(true, Ordering::AcqRel) {
            tracing::error!("{what} failed: the store takes no more changes until it is opened anew");
        }
        self.signal.changed.notify_all();
    }

    fn poison_with(&self, what: &'static str, error: &std::io::Error) -> Error {
        tracing::error!("{what}: {error}");
        self.poison(what);
        Error::Poisoned
    }
}

fn open_found(block: &Block, key: &Key, found: &Found) -> Result<Item> {
    let corrupt = Error::Corrupt { what: "item", sector: 0 };
    match found {
        Found::Change(Change::Item(item)) => Ok((**item).clone()),
        Found::Change(_) => Err(corrupt),
        Found::Value(value) => {
            let (length, rest) = value.split_at_checked(2).ok_or(corrupt)?;
            let length = usize::from(u16::from_le_bytes(length.try_into().expect("2 bytes")));
            let corrupt = Error::Corrupt { what: "item", sector: 0 };
            let (clear, sealed) = rest.split_at_checked(length).ok_or(corrupt)?;
            Ok(Item { clear: clear.to_vec(), secret: open_at(block, key, sealed)? })
        }
    }
}

/// Opens what is sealed under a block's item key at a key of the index.
fn open_at(block: &Block, key: &Key, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let opened = block.keys().open_item(KeyBytes::from(*key).as_bytes(), sealed);
    opened.map(|(plain, _)| plain).map_err(|_| Error::Corrupt { what: "sealed item", sector: 0 })
}
