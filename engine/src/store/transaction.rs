//! Transactions: changes gathered by one caller, applied in one step.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::RwLockWriteGuard;
use zerocopy::{FromBytes, IntoBytes};
use zeroize::Zeroizing;

use super::batch::Change;
use super::block_keys::{BlockKeys, KeyChain};
use super::checkpoint::Purpose;
use super::journal::Journal;
use super::layers::{Layers, Value};
use super::overlay::{Content, Page, Segment};
use super::read::{LOST, Source};
use super::reclaim::Reclaiming;
use super::rotation::Stale;
use super::{Block, Core, Item, Seq};
use crate::crypto::{ExtentKey, Secret, hash_units, random, seal_sectors, seal_sectors_from, wrap_key};
use crate::device::Write;
use crate::error::{Error, Result};
use crate::format::{
    BlockId, EXTENT_FOREIGN_KEY, Extent, ExtentHeader, ItemKind, Key, ReclaimBytes, SYSTEM_BLOCK,
};
use crate::limits::{
    ATTRIBUTES_BYTES_MAX, BATCH_WEIGHT_MAX, CLONE_SECTORS_MAX, CUT_ENDS_WEIGHT, DIRECT_WRITE_SECTORS,
    EXTENT_SECTORS_MAX, EXTENT_WEIGHT, EXTENT_WEIGHT_MAX, HEADER_WEIGHT, ITEM_BYTES_MAX, ITEM_SEAL_BYTES,
    NOTE_BLOCKS_MAX, NOTES_BYTES_MAX, NOTES_MAX, PUNCH_EXTENTS_MAX, RECLAIM_STEP, RECORD_WEIGHT_MAX,
    REMOVED_WEIGHT, REQUEST_SECTORS_MAX, SECTOR_BYTES, SHARED_SECTOR_WEIGHT, note_weight,
};
use crate::space::Run;

const SECTOR: u64 = SECTOR_BYTES as u64;
/// One past the last sector that a block can have.
pub(super) const END: u64 = u64::MAX / SECTOR;

/// Changes that happen wholly or not at all: in memory at once, on disk with the next commit.
///
/// Reads through [`super::Store`] do not see a transaction before [`Transaction::apply`]. Two transactions that
/// change the same block must not run at the same time; the layer above has locks for that. Dropping one
/// changes nothing.
pub struct Transaction {
    pub(super) core: Arc<Core>,
    items: Vec<(Key, Change)>,
    blocks: Vec<Block>,
    /// Blocks that move to another.
    homes: Vec<(Block, BlockId)>,
    pub(super) data: Vec<(Block, Segment)>,
    reclaim: Vec<(BlockId, Reclaim)>,
    /// Blocks that get another key, and what becomes of the note that something stands under older ones.
    pub(super) new_keys: Vec<(Block, KeyChain)>,
    pub(super) stales: Vec<(BlockId, Option<Stale>)>,
    /// For the journal, one behind the other; where each ends, and which blocks it names.
    notes: Zeroizing<Vec<u8>>,
    note_ends: Vec<(usize, Vec<BlockId>)>,
    /// The block that becomes the journal.
    journal: Option<Block>,
    /// What this adds to a record on top of what its items and data weigh by themselves.
    pub(super) weight: usize,
    /// Nothing happens unless this is still what is being reclaimed.
    only_while: Option<(BlockId, Reclaiming)>,
    freed: Vec<Run>,
    /// Units that this cuts: their block, their first sector there, and a hash for each of their sectors.
    pub(super) finer: Vec<(BlockId, u64, Arc<Extent>)>,
    /// Blocks whose new data has other units, as powers of two.
    pub(super) units: Vec<(Block, u8)>,
    /// Sectors promised for the dirty pages in `data`.
    promised: u64,
    purpose: Purpose,
    failed: Option<Error>,
}

/// A block that is being emptied in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reclaim {
    /// Its extents from this sector on are dead.
    pub(super) from: u64,
    /// So is all the rest of it.
    pub(super) destroy: bool,
}

impl Reclaim {
    pub(super) fn encode(self) -> Arc<[u8]> {
        ReclaimBytes { from: self.from.into(), destroy: u8::from(self.destroy) }.as_bytes().into()
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let bytes = ReclaimBytes::read_from_bytes(value).ok()?;
        (bytes.destroy < 2).then(|| Self { from: bytes.from.get(), destroy: bytes.destroy == 1 })
    }
}

impl Transaction {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            items: Vec::new(),
            blocks: Vec::new(),
            homes: Vec::new(),
            data: Vec::new(),
            reclaim: Vec::new(),
            new_keys: Vec::new(),
            stales: Vec::new(),
            notes: Zeroizing::default(),
            note_ends: Vec::new(),
            journal: None,
            weight: 0,
            only_while: None,
            freed: Vec::new(),
            finer: Vec::new(),
            units: Vec::new(),
            promised: 0,
            purpose: Purpose::Remove,
            failed: None,
        }
    }

    /// Makes a block with a new id and a new random key, that belongs nowhere.
    pub fn create(&mut self, attributes: &[u8]) -> Block {
        self.create_in(SYSTEM_BLOCK, attributes)
    }

    /// Makes a block with a new id and a new random key, that belongs to the block `home`: see [`Block::home`].
    pub fn create_in(&mut self, home: BlockId, attributes: &[u8]) -> Block {
        let id = self.core.next_block.fetch_add(1, Ordering::Relaxed);
        self.create_with_id(id, home, attributes)
    }

    /// Creates [`super::Store::ROOT`] anew, where a repair found that it is lost.
    pub fn create_root(&mut self, attributes: &[u8]) -> Block {
        self.create_with_id(super::Store::ROOT, SYSTEM_BLOCK, attributes)
    }

    fn create_with_id(&mut self, id: BlockId, home: BlockId, attributes: &[u8]) -> Block {
        let (wrap, wrapped_by) = self.core.keys.wrapping_of_new().unwrap_or_else(|| {
            self.failed.get_or_insert(Error::NoKey);
            (Secret::random(), 0)
        });
        let block = self.core.open_blocks.create(id, home, &wrap, wrapped_by);
        self.purpose = Purpose::Add;
        self.set_attributes(&block, attributes);
        block
    }

    /// Makes the block that takes notes from now on. A store has one at most, and only an owner makes it, for owners.
    pub fn create_journal(&mut self, attributes: &[u8]) -> Block {
        if self.core.keys.owner.is_none() {
            self.failed.get_or_insert(Error::NoKey);
        }
        let block = self.create(attributes);
        let key = Key::new(SYSTEM_BLOCK, ItemKind::JOURNAL, block.id());
        self.items.push((key, Change::Raw(Vec::new().into())));
        self.journal = Some(block.clone());
        block
    }

    /// Notes something about this transaction in the journal, which becomes durable with it; see
    /// [`super::Store::notes_since`]. There are at most [`NOTES_MAX`] with [`NOTES_BYTES_MAX`] bytes in all. Nothing
    /// happens in a store without a journal, or where this node may not write to it.
    ///
    /// `blocks` are those that the note names: who writes a part of the store is believed only what it says of blocks there.
    pub fn note(&mut self, note: &[u8], blocks: &[BlockId]) {
        self.notes.extend_from_slice(note);
        let shown = if self.core.bounds.is_some() { blocks.to_vec() } else { Vec::new() };
        self.note_ends.push((self.notes.len(), shown));
        assert!(self.notes.len() <= NOTES_BYTES_MAX && self.note_ends.len() <= NOTES_MAX);
        assert!(blocks.len() <= NOTE_BLOCKS_MAX);
    }

    /// Replaces the attributes that the layer above keeps with a block.
    pub fn set_attributes(&mut self, block: &Block, attributes: &[u8]) {
        let home = self.homes.iter().rev().find(|(moved, _)| moved.id() == block.id());
        let home = home.map_or(block.home(), |(_, home)| *home);
        self.put_header(block, attributes, home);
    }

    /// As [`Transaction::set_attributes`], of a block that belongs to another from now on.
    pub fn set_attributes_and_home(&mut self, block: &Block, attributes: &[u8], home: BlockId) {
        self.homes.push((block.clone(), home));
        self.put_header(block, attributes, home);
    }

    fn put_header(&mut self, block: &Block, attributes: &[u8], home: BlockId) {
        assert!(attributes.len() <= ATTRIBUTES_BYTES_MAX);
        let change = Change::Attributes { plain: Arc::new(Zeroizing::new(attributes.to_vec())), home };
        self.items.push((Key::new(block.id(), ItemKind::HEADER, 0), change));
        self.blocks.push(block.clone());
    }

    /// Puts an item; `clear` and `secret` together are at most [`ITEM_BYTES_MAX`] less [`ITEM_SEAL_BYTES`] long.
    pub fn put(&mut self, block: &Block, kind: ItemKind, offset: u64, clear: &[u8], secret: &[u8]) {
        assert!(kind >= ItemKind::FIRST_FREE, "kinds below belong to the engine");
        assert!(clear.len() + secret.len() + ITEM_SEAL_BYTES <= ITEM_BYTES_MAX);
        let item = Item { clear: clear.to_vec(), secret: Zeroizing::new(secret.to_vec()) };
        self.items.push((Key::new(block.id(), kind, offset), Change::Item(Arc::new(item))));
        self.blocks.push(block.clone());
        self.purpose = Purpose::Add;
    }

    /// Removes an item; one that is not there is no error.
    pub fn delete(&mut self, block: &Block, kind: ItemKind, offset: u64) {
        self.items.push((Key::new(block.id(), kind, offset), Change::Delete));
    }

    /// Writes bytes at any offset. Whole sectors cost no read; parts of sectors are read and filled up. Fails with
    /// [`Error::TooLong`] behind where this transaction punched to the end, if the store empties that in the
    /// background: that takes a transaction of its own.
    pub fn write(&mut self, block: &Block, offset: u64, bytes: &[u8]) -> Result<()> {
        self.purpose = Purpose::Add;
        let end = (offset + bytes.len() as u64).div_ceil(SECTOR);
        self.finish_reclaim(block, end)?;
        self.part_units(block, offset / SECTOR, end)?;
        let mut offset = offset;
        let mut bytes = bytes;
        let skip = (offset % SECTOR) as usize;
        if skip > 0 {
            let (head, rest) = bytes.split_at(bytes.len().min(SECTOR_BYTES - skip));
            self.write_part(block, offset, head)?;
            offset += head.len() as u64;
            bytes = rest;
        }
        let (body, tail) = bytes.split_at(bytes.len() - bytes.len() % SECTOR_BYTES);
        if body.len() >= DIRECT_WRITE_SECTORS * SECTOR_BYTES {
            self.write_direct(block, offset / SECTOR, body)?;
        } else {
            self.promise((body.len() / SECTOR_BYTES) as u64)?;
            for (index, sector) in body.chunks_exact(SECTOR_BYTES).enumerate() {
                let page: Page = Arc::new(sector.try_into().expect("a sector"));
                self.put_page(block, offset / SECTOR + index as u64, page);
            }
        }
        if !tail.is_empty() {
            self.write_part(block, offset + body.len() as u64, tail)?;
        }
        Ok(())
    }

    /// Makes sure that nothing reclaims what is about to be written.
    fn finish_reclaim(&self, block: &Block, end: u64) -> Result<()> {
        if self.reclaim.iter().any(|(id, reclaim)| *id == block.id() && end > reclaim.from) {
            return Err(Error::TooLong);
        }
        self.core.finish_reclaim(block, end)
    }

    /// Changes a part of one sector.
    fn write_part(&mut self, block: &Block, offset: u64, bytes: &[u8]) -> Result<()> {
        let sector = offset / SECTOR;
        let mut page = [0; SECTOR_BYTES];
        self.read_own(block, sector, &mut page)?;
        let skip = (offset % SECTOR) as usize;
        page[skip..skip + bytes.len()].copy_from_slice(bytes);
        self.promise(1)?;
        self.put_page(block, sector, Arc::new(page));
        Ok(())
    }

    /// One sector as this transaction will leave it.
    fn read_own(&self, block: &Block, sector: u64, page: &mut [u8; SECTOR_BYTES]) -> Result<()> {
        let newest = self.data.iter().rev().find(|(owner, segment)| {
            owner.id() == block.id() && segment.start <= sector && sector < segment.end()
        });
        match newest.map(|(_, segment)| segment) {
            None => self.core.read(block, sector * SECTOR, page),
            Some(segment) => self.core.read_segment(block, segment, sector, page),
        }
    }

    fn put_page(&mut self, block: &Block, sector: u64, page: Page) {
        self.data.push((block.clone(), Segment { start: sector, sectors: 1, content: Content::Plain(page) }));
    }

    /// Seals whole sectors at once and sends them on their way.
    fn write_direct(&mut self, block: &Block, sector: u64, bytes: &[u8]) -> Result<()> {
        let core = self.core.clone();
        let mut sector = sector;
        for bytes in bytes.chunks(REQUEST_SECTORS_MAX as usize * SECTOR_BYTES) {
            let wanted = (bytes.len() / SECTOR_BYTES) as u64;
            core.throttle(bytes.len())?;
            self.promise(wanted)?;
            // What is allocated is no longer promised.
            self.promised -= wanted;
            let runs = core.space.lock().allocate(wanted, REQUEST_SECTORS_MAX)?;
            let mut bytes = bytes;
            for run in runs {
                let (part, rest) = bytes.split_at(run.sectors as usize * SECTOR_BYTES);
                bytes = rest;
                let mut sealed = core.device.buffer(run.sectors as usize);
                let extents = seal_run(block, run.sector, part, &mut sealed);
                let completion = core.device.write(vec![Write { sector: run.sector, bytes: sealed }]);
                core.note_in_flight(part.len(), &completion);
                for extent in extents {
                    let sectors = extent.sectors();
                    let completion = completion.clone();
                    let content = Content::Sealed { extent: Arc::new(extent), completion, lead: 0 };
                    self.data.push((block.clone(), Segment { start: sector, sectors, content }));
                    sector += sectors;
                }
            }
        }
        Ok(())
    }

    /// Makes the sectors `from..to` a hole; `to` may be `u64::MAX / 4096`: everything from there on. Fails with
    /// [`Error::TooLong`] where the range is too fragmented to be emptied at once: halve it.
    pub fn punch(&mut self, block: &Block, from: u64, to: u64) -> Result<()> {
        let to = to.min(END);
        if from >= to {
            return Ok(());
        }
        self.part_units(block, from, to)?;
        let start =
            Key::new(block.id(), ItemKind::EXTENT, from.saturating_sub(EXTENT_SECTORS_MAX as u64 - 1));
        let end = Key::new(block.id(), ItemKind::EXTENT, to - 1);
        let limit = if to == END { RECLAIM_STEP } else { PUNCH_EXTENTS_MAX };
        let (extents, all) = self.core.range_sealed(start, end, limit)?;
        let many = !all || extents.len() > limit;
        if many && to < END {
            return Err(Error::TooLong);
        }
        let content = if many { Content::Reclaimed } else { Content::Hole };
        if !many {
            self.weigh_removed(&extents);
        }
        if many {
            self.reclaim(block.id(), Reclaim { from, destroy: false });
        }
        self.data.push((block.clone(), Segment { start: from, sectors: to - from, content }));
        Ok(())
    }

    fn reclaim(&mut self, id: BlockId, mut reclaim: Reclaim) {
        // What an earlier punch left to be emptied stays so.
        let own = self.reclaim.iter().rev().find(|(owner, _)| *owner == id).map(|(_, own)| *own);
        if let Some(known) = own.or_else(|| self.core.reclaim_of(id)) {
            reclaim.from = reclaim.from.min(known.from);
            reclaim.destroy |= known.destroy;
        }
        self.items.push((Key::new(SYSTEM_BLOCK, ItemKind::RECLAIM, id), Change::Raw(reclaim.encode())));
        self.reclaim.push((id, reclaim));
    }

    /// Lets `sectors` sectors of `target` from `target_sector` on be those of `source` from `source_sector` on,
    /// without copying them. The ranges may be of one block but must not overlap. At most
    /// [`CLONE_SECTORS_MAX`] at once. Fails with [`Error::TooLong`] where the target is too fragmented, as does
    /// [`Transaction::apply`] where the source is: halve the range.
    pub fn clone_range(
        &mut self,
        source: &Block,
        source_sector: u64,
        target: &Block,
        target_sector: u64,
        sectors: u64,
    ) -> Result<()> {
        assert!(sectors <= CLONE_SECTORS_MAX);
        self.purpose = Purpose::Add;
        self.finish_reclaim(target, target_sector + sectors)?;
        self.part_units(target, target_sector, target_sector + sectors)?;
        // Clones refer to extents that the index knows, so what is newer is sealed first.
        self.core.seal_block(source)?;
        let pieces = self.core.locate(source, source_sector, source_sector + sectors)?;
        let start = target_sector.saturating_sub(EXTENT_SECTORS_MAX as u64 - 1);
        let start = Key::new(target.id(), ItemKind::EXTENT, start);
        let end = Key::new(target.id(), ItemKind::EXTENT, (target_sector + sectors).saturating_sub(1));
        let (removed, all) = self.core.range_sealed(start, end, PUNCH_EXTENTS_MAX)?;
        if !all {
            return Err(Error::TooLong);
        }
        self.weigh_removed(&removed);
        self.weight += 2 * EXTENT_WEIGHT_MAX + CUT_ENDS_WEIGHT;
        for piece in pieces {
            let content = match piece.source {
                Source::Zeros => Content::Hole,
                Source::Lost => return Err(LOST),
                Source::Page(page) => {
                    self.promise(1)?;
                    Content::Plain(page)
                }
                Source::Extent(sealed) => {
                    if sealed.extent.unit() > 1 {
                        // The source may be in several pieces by then.
                        self.weight += EXTENT_WEIGHT_MAX + EXTENT_WEIGHT * sealed.extent.hashes.len();
                    }
                    let extent = self.core.exactly(&sealed, piece.sectors)?;
                    if extent.is_shared() {
                        self.weight += extent.sectors() as usize * SHARED_SECTOR_WEIGHT;
                    }
                    self.note_clone(source, &extent, target);
                    let extent = Arc::new(self.clone_extent(source, target, &extent)?);
                    Content::Clone { extent, source: (source.id(), piece.start), lead: 0 }
                }
            };
            let start = piece.start - source_sector + target_sector;
            self.data.push((target.clone(), Segment { start, sectors: piece.sectors, content }));
        }
        Ok(())
    }

    /// Accounts for extents that go.
    pub(super) fn weigh_removed(&mut self, extents: &[(Key, Value)]) {
        for (_, value) in extents {
            self.weight += REMOVED_WEIGHT;
            if let Ok(extent) = Extent::decode(value)
                && extent.is_shared()
            {
                self.weight += extent.sectors() as usize * SHARED_SECTOR_WEIGHT;
            }
        }
    }

    /// What this adds to a record at most, in bytes.
    fn weight(&self) -> usize {
        let items = self.items.iter().map(|(_, change)| change.weight()).sum::<usize>();
        let data = self.data.iter().map(|(_, segment)| segment.weight()).sum::<usize>();
        let mut blocks: Vec<BlockId> = self.data.iter().map(|(block, _)| block.id()).collect();
        blocks.dedup();
        let mut start = 0;
        let notes = self
            .note_ends
            .iter()
            .map(|(end, blocks)| note_weight(end - std::mem::replace(&mut start, *end), blocks.len()));
        self.weight + items + data + blocks.len() * HEADER_WEIGHT + notes.sum::<usize>()
    }

    fn clone_extent(&self, source: &Block, target: &Block, extent: &Extent) -> Result<Extent> {
        let mut clone = extent.clone();
        clone.set_shared();
        if source.id() != target.id() {
            let secret = self.core.extent_key(source, extent)?.to_secret();
            let keys = target.keys();
            clone.foreign_key = Some(wrap_key(&keys.item, &extent.header.nonce, &secret));
            clone.header.epoch = keys.epoch.into();
            clone.header.flags = (clone.header.flags.get() | EXTENT_FOREIGN_KEY).into();
        }
        Ok(clone)
    }

    /// Marks a block that lost its last name but is still open.
    pub fn orphan(&mut self, block: &Block) {
        self.items
            .push((Key::new(SYSTEM_BLOCK, ItemKind::ORPHAN, block.id()), Change::Raw(Vec::new().into())));
    }

    /// A block that was made an orphan, in an earlier transaction, has a name again.
    pub fn adopt(&mut self, block: &Block) {
        self.items.push((Key::new(SYSTEM_BLOCK, ItemKind::ORPHAN, block.id()), Change::Delete));
    }

    /// Removes a block and everything it holds; a large one in the background, in bounded steps. Also ends its
    /// being an orphan. What goes wrong here is what [`Transaction::apply`] answers.
    pub fn destroy(&mut self, block: &Block) {
        if let Err(error) = self.try_destroy(block) {
            self.failed.get_or_insert(error);
        }
    }

    fn try_destroy(&mut self, block: &Block) -> Result<()> {
        const INLINE: usize = 64;
        let id = block.id();
        if self.core.orphan_exists(id)? {
            self.items.push((Key::new(SYSTEM_BLOCK, ItemKind::ORPHAN, id), Change::Delete));
        }
        if self.core.stale_of(id).is_some() {
            self.put_stale(id, None);
        }
        if self.core.lost_of(id).is_some() {
            self.items.push((Key::new(SYSTEM_BLOCK, ItemKind::LOST, id), Change::Delete));
        }
        let first = Key::new(id, ItemKind(0), 0);
        let last = Key::new(id, ItemKind(u8::MAX), u64::MAX);
        let (items, all) = self.core.range(first, last, INLINE)?;
        if !all || items.len() > INLINE || self.core.reclaim_of(id).is_some() {
            if let Some(bounds) = &self.core.bounds {
                // The directories above it may be gone before it is.
                let (attributes, home) = (self.core.attributes(block)?, bounds.tops[0]);
                self.set_attributes_and_home(block, &attributes, home);
            }
            self.reclaim(id, Reclaim { from: 0, destroy: true });
            let content = Content::Reclaimed;
            self.data.push((block.clone(), Segment { start: 0, sectors: END, content }));
            return Ok(());
        }
        self.weight += INLINE * (REMOVED_WEIGHT + EXTENT_SECTORS_MAX * SHARED_SECTOR_WEIGHT);
        let own = self.items.iter().map(|(key, _)| *key).filter(|key| key.block == id);
        let mut dead: Vec<Key> = items.into_iter().map(|(key, _)| key).chain(own).collect();
        dead.retain(|key| key.kind != ItemKind::EXTENT);
        self.items.extend(dead.into_iter().map(|key| (key, Change::Delete)));
        self.data.push((block.clone(), Segment { start: 0, sectors: END, content: Content::Hole }));
        Ok(())
    }

    /// A change to one of the store's own items.
    pub(super) fn put_system(&mut self, key: Key, change: Change) {
        self.items.push((key, change));
    }

    /// A hole, whatever is there.
    pub(super) fn cut(&mut self, block: &Block, from: u64, to: u64) {
        let content = Content::Hole;
        self.data.push((block.clone(), Segment { start: from, sectors: to - from, content }));
    }

    /// The transaction is a step of emptying a block or a snapshot.
    pub(super) fn frees(&mut self) {
        self.purpose = Purpose::Free;
    }

    /// Lets the transaction do nothing if the block is to be emptied otherwise by then.
    pub(super) fn only_while(&mut self, id: BlockId, of: Reclaiming) {
        self.only_while = Some((id, of));
    }

    /// Frees sectors that no extent refers to.
    pub(super) fn free(&mut self, run: Run) {
        self.freed.push(run);
    }

    fn promise(&mut self, sectors: u64) -> Result<()> {
        self.core.promise(sectors)?;
        self.promised += sectors;
        Ok(())
    }

    /// Makes the changes visible, in one step. Fails with [`Error::NoSpace`] before anything is changed;
    /// transactions that only remove succeed on a full store. Fails with [`Error::TooLong`] if the changes could be
    /// more than one record holds.
    pub fn apply(mut self) -> Result<Seq> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.core.check_writable()?;
        self.check_bounds()?;
        self.core.check_index_space(self.purpose)?;
        let weight = self.weight();
        if weight > RECORD_WEIGHT_MAX {
            return Err(Error::TooLong);
        }
        let core = self.core.clone();
        loop {
            // What is being sealed meanwhile must not meet another key than it began with.
            let sealer = match self.new_keys.is_empty() {
                true => None,
                false => Some(core.sealer_with_room()?),
            };
            let layers = core.layers.write();
            core.check_log(&layers, weight)?;
            let pending = layers.pending.weight;
            if pending <= BATCH_WEIGHT_MAX && pending + weight <= RECORD_WEIGHT_MAX {
                let (op, weight) = self.put_into(layers);
                drop(sealer);
                core.wake_committer(weight);
                return Ok(op);
            }
            drop((layers, sealer));
            core.commit()?;
        }
    }

    /// Fails where a writer of a part of the store changes something else.
    fn check_bounds(&self) -> Result<()> {
        if self.core.bounds.is_none() {
            return Ok(());
        }
        self.items.iter().try_for_each(|(key, change)| self.core.check_item(key, change))?;
        self.homes.iter().try_for_each(|(block, home)| self.core.check_move(block, *home))?;
        for (block, segment) in &self.data {
            self.core.check_bounds(block.id())?;
            if let Content::Clone { source, .. } = &segment.content {
                self.core.check_bounds(source.0)?;
            }
        }
        match self.freed.is_empty() {
            true => Ok(()),
            false => Err(Error::OwnersOnly),
        }
    }

    /// As [`Transaction::apply`], for who holds the lock that a checkpoint would need, or must not wait for one.
    pub(super) fn apply_unchecked(self) -> Result<Seq> {
        let core = self.core.clone();
        let (op, weight) = self.put_into(core.layers.write());
        core.wake_committer(weight);
        Ok(op)
    }

    /// The number of the operation, and what the batch that it is in weighs.
    fn put_into(mut self, mut layers: RwLockWriteGuard<'_, Layers>) -> (Seq, usize) {
        let core = self.core.clone();
        let mut needless = 0;
        if let Some((id, of)) = self.only_while
            && core.reclaiming_of(id) != Some(of)
        {
            let (newest, weight) = (layers.pending.newest, layers.pending.weight);
            // Before the transaction itself: to drop it takes other locks.
            drop(layers);
            return (newest, weight);
        }
        let pending = &mut layers.pending;
        pending.weight += self.weight;
        for block in self.blocks.drain(..) {
            pending.blocks.entry(block.id()).or_insert(block);
        }
        for (block, home) in self.homes.drain(..) {
            block.0.home.store(home, Ordering::Relaxed);
        }
        for (block, chain) in self.new_keys.drain(..) {
            block.take_key(chain);
        }
        for (block, unit_log2) in self.units.drain(..) {
            block.0.unit_log2.store(unit_log2, Ordering::Relaxed);
        }
        for (key, change) in self.items.drain(..) {
            pending.put(key, change);
        }
        if !self.stales.is_empty() {
            let mut stales = core.stales.write();
            for (id, stale) in self.stales.drain(..) {
                match stale {
                    Some(stale) => stales.insert(id, stale),
                    None => stales.remove(&id),
                };
            }
        }
        pending.finer.extend(self.finer.drain(..).map(|(id, start, finer)| ((id, start), finer)));
        for (block, segment) in self.data.drain(..) {
            needless += pending.put_data(&block, segment);
        }
        pending.useless.append(&mut self.freed);
        self.promised = 0;
        let op = Seq(core.next_op.fetch_add(1, Ordering::Relaxed));
        pending.newest = op;
        if let Some(block) = self.journal.take() {
            let _ = core.journal.set(Journal::of_owner(block));
        }
        if core.journal.get().is_some() {
            let mut start = 0;
            for (end, blocks) in &self.note_ends {
                pending.note(op, &self.notes[std::mem::replace(&mut start, *end)..*end], blocks);
            }
        }
        let weight = pending.weight;
        for (id, reclaim) in self.reclaim.drain(..) {
            core.note_reclaim(id, reclaim, op);
        }
        drop(layers);
        if needless > 0 {
            core.space.lock().release_promise(needless);
        }
        (op, weight)
    }
}

/// Seals a run of sectors, extent by extent. Their birth is set when their record is made.
pub(super) fn seal_run(block: &Block, sector: u64, plain: &[u8], sealed: &mut [u8]) -> Vec<Extent> {
    const EXTENT_BYTES: usize = EXTENT_SECTORS_MAX * SECTOR_BYTES;
    let parts = plain.chunks(EXTENT_BYTES).zip(sealed.chunks_mut(EXTENT_BYTES));
    let mut sector = sector;
    let keys = block.keys();
    let mut extents = Vec::with_capacity(plain.len().div_ceil(EXTENT_BYTES));
    for (plain, sealed) in parts {
        let nonce = random();
        let key = ExtentKey::derive(&keys.data, &nonce);
        seal_sectors_from(&key, 0, plain, sealed);
        let sectors = (sealed.len() / SECTOR_BYTES) as u64;
        // The longest units that it consists of.
        let unit = block.unit().min(1 << sectors.trailing_zeros());
        extents.push(describe(&keys, sector, nonce, sealed, unit));
        sector += (plain.len() / SECTOR_BYTES) as u64;
    }
    extents
}

/// Seals one extent in place, with a hash for each sector: whoever cuts gathered sectors must not have to know whether
/// they were sealed meanwhile.
pub(super) fn seal_extent(block: &Block, sector: u64, bytes: &mut [u8]) -> Extent {
    let (nonce, keys) = (random(), block.keys());
    seal_sectors(&ExtentKey::derive(&keys.data, &nonce), 0, bytes);
    describe(&keys, sector, nonce, bytes, 1)
}

/// The item of an extent that was sealed.
fn describe(keys: &BlockKeys, sector: u64, nonce: [u8; 16], sealed: &[u8], unit: u64) -> Extent {
    let sectors = (sealed.len() / SECTOR_BYTES) as u64;
    let header = ExtentHeader {
        sector: sector.into(),
        birth: 0.into(),
        nonce,
        epoch: keys.epoch.into(),
        sectors: (sectors as u16).into(),
        skip: 0.into(),
        flags: 0.into(),
        unit_log2: unit.ilog2() as u8,
        cipher: Extent::XTS,
    };
    Extent { header, foreign_key: None, hashes: hash_units(sealed, unit) }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.promised > 0 {
            self.core.space.lock().release_promise(self.promised);
        }
        // Sectors that no record will name go back once nothing writes to them any more.
        for (_, segment) in &self.data {
            if let Content::Sealed { extent, completion, .. } = &segment.content {
                let _ = completion.wait();
                let run = Run { sector: extent.sector(), sectors: extent.sectors() };
                if self.core.space.lock().mark(run, false).is_err() {
                    self.core.poison("space of a dropped transaction");
                }
            }
        }
    }
}
