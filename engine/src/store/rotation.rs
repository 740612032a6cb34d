//! New keys for blocks, so that whoever knew the old ones reads nothing that is written from then on; and the
//! re-encryption of what stands under old ones, in bounded steps.
//!
//! A rotation is of a block and all below it, which the layer above knows: it gives each of them a new key with
//! [`Transaction::rotate`], the one above before those below, and says when that is done. It has a number, and keys have
//! the number of the rotation that made them: what a crash interrupts goes on where it was.
//!
//! Invariants:
//! 1. A block keeps its older keys as long as something of it may stand under them. It is *stale* then: an item of the
//!    store says so.
//! 2. Of a stale block, no extent before the sector that this item names stands under an older key, or under one that
//!    came with a clone.
//! 3. Nobody else changes a block while it gets a new key or is re-encrypted.

use std::sync::Arc;

use zerocopy::{FromBytes, IntoBytes};
use zeroize::Zeroizing;

use super::batch::Change;
use super::block_keys::{BlockKeys, KeyChain};
use super::layers::decode_extent;
use super::readers::{ReadcapInfo, decode_readcap, seal_readcap};
use super::{Block, Core, Seq, Store, Transaction, now_ns};
use crate::crypto::{Secret, wrap_key};
use crate::error::{Error, Result};
use crate::format::{
    BlockId, EXTENT_FOREIGN_KEY, Extent, ItemKind, Key, RotationBytes, SYSTEM_BLOCK, StaleBytes,
    WRAPPED_KEY_BYTES,
};
use crate::limits::{OLDER_KEYS_MAX, REENCRYPT_EXTENTS, REENCRYPT_SECTORS, SECTOR_BYTES};

/// New keys for a block and all below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    pub number: u32,
    /// The block at the top.
    pub top: BlockId,
    /// All of them were made.
    pub(super) is_complete: bool,
}

/// A block of which something stands under older keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stale {
    /// No extent before this sector does.
    pub(super) from: u64,
    /// Items of the layer above may, which moves them.
    pub(super) items: bool,
}

impl Stale {
    fn encode(self) -> Arc<[u8]> {
        StaleBytes { from: self.from.into(), items: u8::from(self.items) }.as_bytes().into()
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let bytes = StaleBytes::read_from_bytes(value).ok()?;
        (bytes.items < 2).then(|| Self { from: bytes.from.get(), items: bytes.items == 1 })
    }

    pub(super) fn key(id: BlockId) -> Key {
        Key::new(SYSTEM_BLOCK, ItemKind::STALE, id)
    }
}

impl Rotation {
    fn change(&self) -> (Key, Change) {
        let value = RotationBytes { block: self.top.into(), is_complete: u8::from(self.is_complete) };
        let key = Key::new(SYSTEM_BLOCK, ItemKind::ROTATION, u64::from(self.number));
        (key, Change::Raw(value.as_bytes().into()))
    }

    pub(crate) fn decode(key: &Key, value: &[u8]) -> Option<Self> {
        let bytes = RotationBytes::read_from_bytes(value).ok()?;
        let number = u32::try_from(key.offset).ok().filter(|number| *number > 0)?;
        (bytes.is_complete < 2).then(|| Self {
            number,
            top: bytes.block.get(),
            is_complete: bytes.is_complete == 1,
        })
    }
}

/// The key that a block has once its transaction is applied.
pub struct NewKey {
    id: BlockId,
    chain: KeyChain,
    keys: BlockKeys,
    before: Arc<BlockKeys>,
}

impl NewKey {
    /// As [`Block::name_hash`].
    pub fn name_hash(&self, name: &[u8]) -> u64 {
        self.keys.name_hash(name)
    }

    /// As [`Block::wrap_for`].
    pub fn wrap_for(&self, parent: &Block) -> [u8; WRAPPED_KEY_BYTES] {
        wrap_key(&parent.keys().item, &self.id.to_le_bytes(), &self.chain.key)
    }

    /// The key of a child, wrapped for who has this one.
    pub fn wrap(&self, child: &Block) -> [u8; WRAPPED_KEY_BYTES] {
        child.with_key(|key| wrap_key(&self.keys.item, &child.id().to_le_bytes(), key))
    }

    /// The same, of one that is wrapped for who had the key before. `None` where that does not open.
    pub fn rewrap(
        &self,
        child: BlockId,
        wrapped: &[u8; WRAPPED_KEY_BYTES],
    ) -> Option<[u8; WRAPPED_KEY_BYTES]> {
        self.before.rewrap(&self.keys, child, wrapped)
    }
}

impl Transaction {
    /// Gives a block a new key, as the rotation of this number wants it; its readcaps that hold are made anew. Items that
    /// are put here stand under the new key. Those that are not do not, and `items_left` says whether there are any:
    /// [`Transaction::items_are_new`] ends that.
    pub fn rotate(&mut self, block: &Block, number: u32, items_left: bool) -> Result<NewKey> {
        let owner = self.core.keys.owner.as_ref().ok_or(Error::NoKey)?;
        let before = block.chain();
        let key = Secret::random();
        let mut chain = KeyChain {
            epoch: number,
            owner_key: wrap_key(owner, &block.id().to_le_bytes(), &key),
            key,
            wrapped_by: 0,
            older: Vec::new(),
        };
        if before.older.len() >= OLDER_KEYS_MAX || before.epoch >= number {
            return Err(Error::TooLong);
        }
        let is_stale = items_left || block.sectors() > 0;
        if !is_stale {
            self.forget_older_keys(block)?;
        } else {
            chain.older.push((before.epoch, before.key));
            chain.older.extend(before.older);
            for (epoch, wrapped) in chain.wrap_older() {
                let key = Key::new(block.id(), ItemKind::OLD_KEY, epoch);
                self.put_system(key, Change::Raw(wrapped[..].into()));
            }
            self.put_stale(block.id(), Some(Stale { from: 0, items: items_left }));
        }
        let attributes = self.core.attributes(block)?;
        self.set_attributes(block, &attributes);
        self.reissue(block.id(), number, &chain.key)?;
        let keys = chain.expand();
        let new = NewKey { id: block.id(), keys, before: block.keys(), chain: chain.clone() };
        self.new_keys.push((block.clone(), chain));
        Ok(new)
    }

    /// All items of a block stand under its newest key.
    pub fn items_are_new(&mut self, block: &Block) -> Result<()> {
        match block.sectors() {
            0 => self.forget_older_keys(block)?,
            _ => self.put_stale(block.id(), Some(Stale { from: 0, items: false })),
        }
        Ok(())
    }

    /// Nothing of the block stands under older keys any more.
    fn forget_older_keys(&mut self, block: &Block) -> Result<()> {
        let at = |offset| Key::new(block.id(), ItemKind::OLD_KEY, offset);
        let core = self.core.clone();
        if block.epoch() > 0 {
            for (key, _) in core.range(at(0), at(u64::MAX), OLDER_KEYS_MAX)?.0 {
                self.put_system(key, Change::Delete);
            }
        }
        if core.stale_of(block.id()).is_some() {
            self.put_stale(block.id(), None);
        }
        Ok(())
    }

    /// Gives a block's new key to those who may read it still.
    fn reissue(&mut self, id: BlockId, number: u32, block_key: &Secret) -> Result<()> {
        let core = self.core.clone();
        for (key, value) in core.system_items(ItemKind::READCAP)? {
            let Ok(bytes) = decode_readcap(&key, &value) else { continue };
            let info = ReadcapInfo { epoch: number, ..ReadcapInfo::from(&bytes) };
            if info.block == id
                && now_ns() / 1_000_000_000 < info.expires
                && let Ok(sealed) = seal_readcap(&core.keys, &info, block_key)
            {
                self.put_system(key, Change::Raw(sealed.as_bytes().into()));
            }
        }
        Ok(())
    }

    pub(super) fn put_stale(&mut self, id: BlockId, stale: Option<Stale>) {
        self.put_system(Stale::key(id), stale.map_or(Change::Delete, |stale| Change::Raw(stale.encode())));
        self.stales.push((id, stale));
    }

    /// A clone of this extent of `source` comes to `target`, which is stale then, too.
    pub(super) fn note_clone(&mut self, source: &Block, extent: &Extent, target: &Block) {
        let source_is_stale = self.core.stale_of(source.id()).is_some();
        if source_is_stale && is_stale(source, extent) {
            let own = self.stales.iter().rev().find(|(id, _)| *id == target.id());
            let known = own.map_or_else(|| self.core.stale_of(target.id()), |(_, stale)| *stale);
            let items = known.is_some_and(|known| known.items);
            self.put_stale(target.id(), Some(Stale { from: 0, items }));
        }
    }
}

/// Of a stale block: whether an extent is to be sealed anew.
fn is_stale(block: &Block, extent: &Extent) -> bool {
    extent.header.epoch.get() != block.epoch() || extent.header.flags.get() & EXTENT_FOREIGN_KEY != 0
}

/// How much stands under older keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StaleInfo {
    pub blocks: u64,
    /// At most.
    pub sectors: u64,
}

/// What came of a re-encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reencrypted {
    /// Sectors that were sealed anew.
    pub sectors: u64,
    /// Blocks that stay as they are, because a part of them cannot be read.
    pub damaged: u64,
    /// It was told to stop.
    pub stopped: bool,
}

impl Store {
    /// Begins a rotation of a block and all below it, and takes these readcaps away. Durable when it returns.
    pub fn begin_rotation(&self, top: BlockId, readcaps: &[u64]) -> Result<Rotation> {
        if self.core.keys.owner.is_none() {
            return Err(Error::NoKey);
        }
        let known = self.core.rotations()?;
        let last = known.iter().map(|rotation| rotation.number).max().unwrap_or(0);
        let number = last.checked_add(1).ok_or(Error::TooLong)?;
        let rotation = Rotation { number, top, is_complete: false };
        let mut transaction = self.transaction();
        for old in known.iter().filter(|rotation| rotation.is_complete) {
            transaction.put_system(old.change().0, Change::Delete);
        }
        for serial in readcaps {
            transaction.put_system(Key::new(SYSTEM_BLOCK, ItemKind::READCAP, *serial), Change::Delete);
        }
        let (key, change) = rotation.change();
        transaction.put_system(key, change);
        self.sync(transaction.apply()?)?;
        Ok(rotation)
    }

    /// Rotations that were begun and not ended.
    pub fn rotations(&self) -> Result<Vec<Rotation>> {
        Ok(self.core.rotations()?.into_iter().filter(|rotation| !rotation.is_complete).collect())
    }

    /// All keys of a rotation were made. Durable when it returns.
    pub fn end_rotation(&self, rotation: &Rotation) -> Result<()> {
        let (key, change) = Rotation { is_complete: true, ..*rotation }.change();
        let mut transaction = self.transaction();
        transaction.put_system(key, change);
        self.sync(transaction.apply()?)
    }

    /// Whether the layer above is to move items of this block from under older keys.
    pub fn has_older_items(&self, block: &Block) -> bool {
        self.core.stale_of(block.id()).is_some_and(|stale| stale.items)
    }

    /// How much stands under older keys.
    pub fn stale(&self) -> Result<StaleInfo> {
        let stales = self.core.stales.read().clone();
        let mut info = StaleInfo::default();
        for id in stales.keys() {
            info.blocks += 1;
            info.sectors += self.core.header_of(*id)?.map_or(0, |header| header.sectors());
        }
        Ok(info)
    }

    /// Seals anew what stands under older keys, and forgets those. `progress` is told of sectors done and of all of them,
    /// and says whether to go on. What is done stays done.
    pub fn reencrypt(&self, progress: &dyn Fn(u64, u64) -> bool) -> Result<Reencrypted> {
        let core = &self.core;
        let mut report = Reencrypted::default();
        let (mut done, total) = (0, self.stale()?.sectors);
        let ids: Vec<BlockId> = core.stales.read().keys().copied().collect();
        for id in ids {
            let sectors = core.header_of(id)?.map_or(0, |header| header.sectors());
            let mut here = 0;
            loop {
                if !progress(done + here.min(sectors), total) {
                    report.stopped = true;
                    self.sync(self.newest())?;
                    return Ok(report);
                }
                match core.reencrypt_step(id) {
                    Ok(None) => break,
                    Ok(Some(sealed)) => {
                        here += sealed;
                        report.sectors += sealed;
                    }
                    Err(Error::Corrupt { what, sector }) => {
                        tracing::warn!(
                            "block {id} stays under an older key: {what} at sector {sector} is damaged"
                        );
                        report.damaged += 1;
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            done += sectors;
        }
        self.sync(self.newest())?;
        progress(total, total);
        Ok(report)
    }
}

impl Core {
    fn rotations(&self) -> Result<Vec<Rotation>> {
        let corrupt = Error::Corrupt { what: "rotation item", sector: 0 };
        let items = self.system_items(ItemKind::ROTATION)?;
        items.iter().map(|(key, value)| Rotation::decode(key, value)).collect::<Option<_>>().ok_or(corrupt)
    }

    pub(super) fn stale_of(&self, id: BlockId) -> Option<Stale> {
        self.stales.read().get(&id).copied()
    }

    /// Seals a part of a stale block anew: how many sectors, or `None` where nothing is left to do.
    fn reencrypt_step(self: &Arc<Self>, id: BlockId) -> Result<Option<u64>> {
        let Some(stale) = self.stale_of(id).filter(|stale| !stale.items) else { return Ok(None) };
        match self.reencrypt_from(id, stale) {
            // What was sealed anew is free only now.
            Err(Error::NoSpace) => {
                self.sync(Seq(self.next_op.load(std::sync::atomic::Ordering::Acquire) - 1))?;
                self.run_checkpoint()?;
                self.reencrypt_from(id, stale)
            }
            result => result,
        }
    }

    fn reencrypt_from(self: &Arc<Self>, id: BlockId, stale: Stale) -> Result<Option<u64>> {
        let mut transaction = Transaction::new(self.clone());
        let Some(block) = self.block(id)? else {
            transaction.put_stale(id, None);
            transaction.apply()?;
            return Ok(None);
        };
        self.finish_reclaim(&block, u64::MAX)?;
        // What was written before must be in the index.
        self.seal_block(&block)?;
        let at = |sector| Key::new(id, ItemKind::EXTENT, sector);
        let (extents, mut is_last) = self.range_sealed(at(stale.from), at(u64::MAX), REENCRYPT_EXTENTS)?;
        let (mut from, mut sealed) = (stale.from, 0);
        for (key, value) in extents {
            let extent = decode_extent(&value)?;
            if sealed + extent.sectors() > REENCRYPT_SECTORS {
                is_last = false;
                break;
            }
            if is_stale(&block, &extent) {
                let mut plain = Zeroizing::new(vec![0; extent.sectors() as usize * SECTOR_BYTES]);
                let offset = key.offset * SECTOR_BYTES as u64;
                self.read(&block, offset, &mut plain)?;
                transaction.write(&block, offset, &plain)?;
                sealed += extent.sectors();
            }
            from = key.offset + extent.sectors();
        }
        match is_last {
            true => transaction.forget_older_keys(&block)?,
            false => transaction.put_stale(id, Some(Stale { from, ..stale })),
        }
        transaction.apply()?;
        Ok(Some(sealed))
    }
}
