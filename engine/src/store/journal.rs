//! The journal: what operations noted about themselves, sealed into the record that makes them durable.
//!
//! A layer above gives notes to its transactions ([`Transaction::note`](super::Transaction::note)); what they mean is
//! its business. Those of one batch become items of the journal's block when the batch is sealed, and are asked for
//! by [`Store::notes_since`] and [`Store::notes_before`].
//!
//! Invariants:
//! 1. The journal has exactly the notes of the operations that the tree has: it is part of the same records.
//! 2. Notes have the order of their operations. What one operation noted stands in one item.
//! 3. An item names its record's author, or the record does not count.
//! 4. The journal is bounded: an owner's record that adds to it removes the oldest items, so many at a time. On a full store
//!    it does not grow.
//! 5. Who writes a part of the store adds items under a key that it has in common with the owner alone. They show which blocks
//!    they name, and a judge of its records sees that those are its own. What such an item says beyond that is its author's
//!    word: one that does not open, or that names more than it shows, says nothing.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use zerocopy::IntoBytes;
use zeroize::Zeroizing;

use super::batch::Batch;
use super::layers::{Found, Value};
use super::resolve::Resolver;
use super::{Block, Core, OpenError, Seq, Store, open_at};
use crate::crypto::{Secret, open_item, seal_item};
use crate::error::{Error, Result};
use crate::format::{
    BlockId, ItemKind, JournalBytes, JournalPart, Key, KeyBytes, SYSTEM_BLOCK, decode_journal_item,
    decode_notes, encode_journal_head, encode_note,
};
use crate::limits::{
    FULL_STORE_NODES, ITEM_BYTES_MAX, ITEM_SEAL_BYTES, JOURNAL_BYTES_FULL, JOURNAL_BYTES_MAX,
    JOURNAL_LOOK_STEP, JOURNAL_SHARE, JOURNAL_TRIM_STEP, NOTE_BLOCKS_MAX, NOTES_BYTES_MAX, NOTES_MAX,
    SECTOR_BYTES,
};

/// Operations are numbered from a multiple of this on whenever a store is opened, so that a crash makes no number
/// mean two things.
pub(super) const LIFE: u64 = 1 << 40;
/// No operation has a number like this: that is four million lives.
pub(super) const NUMBER_MAX: u64 = 1 << 62;
/// Room for notes, and the blocks that they name, in one item.
const ITEM_NOTES_MAX: usize =
    ITEM_BYTES_MAX - ITEM_SEAL_BYTES - size_of::<JournalBytes>() - JournalPart::bytes(0);
/// What number and length of a note take at most.
const NOTE_HEAD_MAX: usize = 10 + 3;

const _: () = assert!(
    NOTES_BYTES_MAX + NOTES_MAX * (NOTE_HEAD_MAX + NOTE_BLOCKS_MAX * size_of::<BlockId>()) <= ITEM_NOTES_MAX
);

/// The journal, for who adds to it.
pub(super) struct Journal {
    id: BlockId,
    /// The owner's, who opens it; others add items of their own to what they cannot read.
    block: Option<Block>,
}

impl Journal {
    pub(super) fn of_owner(block: Block) -> Self {
        Self { id: block.id(), block: Some(block) }
    }

    pub(super) fn id(&self) -> BlockId {
        self.id
    }
}

/// What somebody noted about an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub seq: Seq,
    /// Public signing key of the author of the record that the operation is in.
    pub author: [u8; 32],
    /// Of an author who writes only a part of the store: the blocks that the note may name, which are its own. `None`: any.
    pub blocks: Option<Arc<[BlockId]>>,
    pub bytes: Zeroizing<Vec<u8>>,
}

/// Notes in the order of their operations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NotesPage {
    /// Notes of operations up to this one are not kept any more, and some of them were asked for.
    pub missing_to: Option<Seq>,
    pub notes: Vec<Note>,
}

/// The notes of a batch.
#[derive(Default)]
pub(super) struct Notes {
    bytes: Zeroizing<Vec<u8>>,
    list: Vec<Noted>,
}

struct Noted {
    op: Seq,
    /// Where its note stands.
    place: Range<usize>,
    /// The blocks that it names, where that is to be shown.
    blocks: Vec<BlockId>,
}

impl Noted {
    /// What it takes in an item at most.
    fn bytes(&self) -> usize {
        self.place.len() + NOTE_HEAD_MAX + size_of::<BlockId>() * self.blocks.len()
    }
}

impl Notes {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn push(&mut self, op: Seq, note: &[u8], blocks: &[BlockId]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(note);
        self.list.push(Noted { op, place: start..self.bytes.len(), blocks: blocks.to_vec() });
    }

    /// Those of operations after `seq`.
    fn after(&self, seq: Seq) -> impl Iterator<Item = (Seq, &[u8])> {
        let first = self.list.partition_point(|noted| noted.op <= seq);
        self.list[first..].iter().map(|noted| (noted.op, &self.bytes[noted.place.clone()]))
    }
}

/// The two ends of the journal, as who seals knows them.
#[derive(Default)]
pub(super) struct Ends {
    /// The offset of the newest item.
    newest: u64,
    /// Bytes of all items that there ever were, and of those that were removed.
    position: u64,
    removed: u64,
    /// The oldest items that were looked up: offset and position. Those behind `looked` were not.
    oldest: VecDeque<(u64, u64)>,
    looked: u64,
    /// How many bytes are kept while the store is full.
    full: Option<u64>,
}

#[cfg(test)]
impl Ends {
    /// The offset and the position of the newest item.
    pub(super) fn newest(&self) -> (u64, u64) {
        (self.newest, self.position)
    }
}

impl Core {
    /// Adds the notes of a batch to its record, and removes what is too old. Returns the last operation noted.
    pub(super) fn seal_notes(
        &self,
        batch: &Batch,
        ends: &mut Ends,
        resolver: &mut Resolver<'_>,
    ) -> Result<Option<u64>> {
        let Some(journal) = self.journal.get().filter(|_| !batch.notes.is_empty()) else { return Ok(None) };
        let mut item: Vec<&Noted> = Vec::new();
        let (mut room, mut added) = (ITEM_NOTES_MAX, 1);
        for own in batch.notes.list.chunk_by(|one, other| one.op == other.op) {
            let bytes = own.iter().map(Noted::bytes).sum();
            if bytes > room {
                self.put_item(journal, &batch.notes, &item, ends, resolver);
                item.clear();
                (room, added) = (ITEM_NOTES_MAX, added + 1);
            }
            for noted in own {
                if self.may_be_noted(noted, resolver)? {
                    item.push(noted);
                }
            }
            room = room.saturating_sub(bytes);
        }
        self.put_item(journal, &batch.notes, &item, ends, resolver);
        if self.bounds.is_none() {
            // Items need not be of one length, so more may have to go than come.
            self.trim(journal, JOURNAL_TRIM_STEP + 2 * added, ends, resolver)?;
        }
        Ok(Some(ends.newest))
    }

    /// Whether others would believe a note: what came and went within a record, or went before it, is not there to be
    /// compared.
    fn may_be_noted(&self, noted: &Noted, resolver: &Resolver<'_>) -> Result<bool> {
        let Some(bounds) = &self.bounds else { return Ok(true) };
        for block in &noted.blocks {
            let header = Key::new(*block, ItemKind::HEADER, 0);
            let is_known = *block >= bounds.ids_from
                || resolver.get(&header)?.is_some()
                || self.find_sealed(&header)?.is_some();
            if !is_known {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn put_item(
        &self,
        journal: &Journal,
        notes: &Notes,
        item: &[&Noted],
        ends: &mut Ends,
        resolver: &mut Resolver<'_>,
    ) {
        let Some(last) = item.last().map(|noted| noted.op.0) else { return };
        let mut secret = Zeroizing::new(Vec::with_capacity(ITEM_NOTES_MAX));
        for noted in item {
            encode_note(&mut secret, last, noted.op.0, &notes.bytes[noted.place.clone()]);
        }
        let (item_key, part) = match &journal.block {
            Some(block) => (block.keys().item.clone(), None),
            None => {
                let Some((readcap, item_key)) = self.own_notes_key() else { return };
                let blocks: BTreeSet<BlockId> =
                    item.iter().flat_map(|noted| &noted.blocks).copied().collect();
                (item_key, Some(JournalPart { readcap, blocks: blocks.into_iter().collect() }))
            }
        };
        let key = Key::new(journal.id, ItemKind::JOURNAL, last);
        let shown = part.as_ref().map_or(0, |part| JournalPart::bytes(part.blocks.len()));
        let value_bytes = ITEM_SEAL_BYTES + size_of::<JournalBytes>() + shown + secret.len();
        ends.position = ends.position.saturating_add((size_of::<KeyBytes>() + value_bytes) as u64);
        let head = JournalBytes {
            author: self.keys.node.public().signing,
            previous: ends.newest.into(),
            position: ends.position.into(),
        };
        let mut value = Vec::with_capacity(value_bytes);
        encode_journal_head(&mut value, &head, part.as_ref());
        seal_item(&item_key, KeyBytes::from(key).as_bytes(), &secret, &mut value);
        resolver.changes.insert(key, Some(value.into()));
        ends.newest = last;
    }

    /// With what who writes a part of the store seals its notes, and by which readcap.
    fn own_notes_key(&self) -> Option<(u64, Secret)> {
        let (_, readcap) = self.keys.wrapping_of_new()?;
        Some((readcap, self.keys.notes_key(readcap)?))
    }

    /// Removes up to `items` of the oldest items, where there are too many.
    fn trim(
        &self,
        journal: &Journal,
        items: usize,
        ends: &mut Ends,
        resolver: &mut Resolver<'_>,
    ) -> Result<()> {
        let most = self.journal_bytes_max(ends)?;
        for _ in 0..items {
            if ends.position - ends.removed <= most {
                return Ok(());
            }
            if ends.oldest.is_empty() {
                let key = |offset| Key::new(journal.id, ItemKind::JOURNAL, offset);
                let (items, _) = self.range_sealed(key(ends.looked), key(NUMBER_MAX), JOURNAL_LOOK_STEP)?;
                ends.looked = items.last().map_or(ends.looked, |(key, _)| key.offset + 1);
                let position = |value: &Value| head_of(value).map_or(0, |head| head.position.get());
                ends.oldest.extend(items.iter().map(|(key, value)| (key.offset, position(value))));
            }
            let Some((offset, position)) = ends.oldest.pop_front() else { return Ok(()) };
            ends.removed = ends.removed.max(position.min(ends.position));
            resolver.changes.insert(Key::new(journal.id, ItemKind::JOURNAL, offset), None);
        }
        Ok(())
    }

    /// How many bytes the journal may have now.
    fn journal_bytes_max(&self, ends: &mut Ends) -> Result<u64> {
        if self.is_full.load(Ordering::Acquire) {
            // Twice what it takes to add something: full and not full do not alternate.
            let is_full = self.space.lock().available_nodes(2 * FULL_STORE_NODES)? < 2 * FULL_STORE_NODES;
            self.is_full.store(is_full, Ordering::Release);
            let kept = ends.position - ends.removed;
            ends.full = is_full.then(|| ends.full.unwrap_or(kept.max(JOURNAL_BYTES_FULL)));
        }
        let store_bytes = self.capacity_sectors.saturating_mul(SECTOR_BYTES as u64);
        Ok(ends.full.unwrap_or(u64::MAX).min(JOURNAL_BYTES_MAX).min(store_bytes / JOURNAL_SHARE))
    }

    /// Finds the journal of the tree that is shown, and where it begins and ends. One that cannot be read takes no
    /// notes.
    pub(super) fn load_journal(&mut self) -> std::result::Result<(), OpenError> {
        let Some(journal) = self.find_journal()? else { return Ok(()) };
        let ends = match self.find_ends(&journal) {
            Ok(ends) => ends,
            Err(error) => {
                tracing::warn!(%error, "the journal cannot be read; no more is written to it");
                return Ok(());
            }
        };
        self.layers.get_mut().noted = ends.newest;
        if !self.options.read_only {
            let life = (ends.newest / LIFE + 1) * LIFE;
            *self.next_op.get_mut() = life + *self.next_op.get_mut();
            let pending = &mut self.layers.get_mut().pending;
            if pending.newest != Seq(0) {
                pending.newest = Seq(life + pending.newest.0);
            }
        }
        self.sealer.get_mut().journal = ends;
        let _ = self.journal.set(journal);
        Ok(())
    }

    /// The journal, if there is one that this node can add to.
    pub(super) fn find_journal(&self) -> Result<Option<Journal>> {
        let Some(id) = self.journal_id()? else { return Ok(None) };
        match self.block(id) {
            Ok(block) => Ok(block.map(Journal::of_owner)),
            Err(Error::NoKey) => Ok(self.own_notes_key().map(|_| Journal { id, block: None })),
            // What is damaged takes no notes.
            Err(Error::Corrupt { .. } | Error::Read(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The journal's block, whether or not this node opens it.
    pub(super) fn journal_id(&self) -> Result<Option<BlockId>> {
        let key = |id| Key::new(SYSTEM_BLOCK, ItemKind::JOURNAL, id);
        let (items, _) = self.range(key(0), key(u64::MAX), 1)?;
        Ok(items.first().map(|(key, _)| key.offset))
    }

    fn find_ends(&self, journal: &Journal) -> Result<Ends> {
        let first = |from, to| -> Result<Option<(u64, JournalBytes)>> {
            let key = |offset| Key::new(journal.id, ItemKind::JOURNAL, offset);
            let (items, _) = self.range_sealed(key(from), key(to), 1)?;
            let item = items.first().map(|(key, value)| Ok((key.offset, head_of(value)?)));
            item.transpose()
        };
        let Some((oldest, head)) = first(0, u64::MAX)? else { return Ok(Ends::default()) };
        // Halving what may be behind the newest that is known.
        let (mut newest, mut end) = ((oldest, head), u64::MAX);
        while newest.0 < end {
            let middle = newest.0 + (end - newest.0).div_ceil(2);
            match first(middle, end)? {
                Some(item) => newest = item,
                None => end = middle - 1,
            }
        }
        let (position, offset) = (newest.1.position.get(), newest.0);
        if offset >= NUMBER_MAX {
            return Err(Error::Corrupt { what: "journal", sector: 0 });
        }
        let kept_from = head.position.get().min(position);
        Ok(Ends { newest: offset, position, removed: kept_from, ..Ends::default() })
    }

    /// Notes of batches that are not sealed yet, after `seq`; and the last operation that items hold a note of.
    fn notes_in_memory(&self, seq: Seq) -> (Vec<Note>, u64) {
        let author = self.keys.node.public().signing;
        let layers = self.layers.read();
        let batches = layers.sealing.as_deref().into_iter().chain([&layers.pending]);
        let notes = batches.flat_map(|batch| batch.notes.after(seq));
        let note =
            |(seq, bytes): (Seq, &[u8])| Note { seq, author, blocks: None, bytes: bytes.to_vec().into() };
        (notes.map(note).collect(), layers.noted)
    }
}

/// Whether a change is no item of the journal, or one in this author's name.
pub(super) fn is_own_note(key: &Key, value: &[u8], author: &[u8; 32]) -> bool {
    key.kind != ItemKind::JOURNAL
        || key.block == SYSTEM_BLOCK
        || head_of(value).is_ok_and(|head| head.author == *author)
}

fn decode_item(value: &[u8]) -> Result<(JournalBytes, Option<JournalPart>, &[u8])> {
    decode_journal_item(value).map_err(|_| Error::Corrupt { what: "item of the journal", sector: 0 })
}

fn head_of(value: &[u8]) -> Result<JournalBytes> {
    Ok(decode_item(value)?.0)
}

/// Reads the notes of an item out of what was sealed.
fn read_notes(
    key: &Key,
    author: [u8; 32],
    blocks: Option<&Arc<[BlockId]>>,
    notes: &[u8],
) -> Result<Vec<Note>> {
    let corrupt = |_| Error::Corrupt { what: "notes of the journal", sector: 0 };
    let note = |note: std::result::Result<(u64, &[u8]), _>| {
        let (seq, bytes) = note.map_err(corrupt)?;
        Ok(Note { seq: Seq(seq), author, blocks: blocks.cloned(), bytes: bytes.to_vec().into() })
    };
    decode_notes(key.offset, notes).map(note).collect()
}

/// What is wrong with an item, as far as whoever opens the journal can tell.
pub(super) fn why_no_notes(block: &Block, key: &Key, value: &[u8]) -> Option<&'static str> {
    const WHAT: &str = "does not open under the journal's key, or is malformed";
    let Ok((head, part, sealed)) = decode_item(value) else { return Some(WHAT) };
    if head.previous.get() >= key.offset {
        return Some("follows itself");
    }
    // What a writer of a part sealed is its own affair.
    let opens = || open_at(block, key, sealed).and_then(|notes| read_notes(key, head.author, None, &notes));
    (part.is_none() && opens().is_err()).then_some(WHAT)
}

impl Core {
    /// Opens an item of the journal. There are no notes in one that is for others, or that a writer of a part made useless.
    pub(super) fn open_notes(
        &self,
        journal: &Journal,
        key: &Key,
        value: &[u8],
    ) -> Result<(JournalBytes, Vec<Note>)> {
        let (head, part, sealed) = decode_item(value)?;
        let notes = match (&journal.block, part) {
            (Some(block), None) => read_notes(key, head.author, None, &open_at(block, key, sealed)?)?,
            (None, None) => Vec::new(),
            (_, Some(part)) => {
                let place = KeyBytes::from(*key);
                let opened = self.keys.notes_key(part.readcap);
                let opened = opened.and_then(|opened| open_item(&opened, place.as_bytes(), sealed).ok());
                let blocks: Arc<[BlockId]> = part.blocks.into();
                let read = |notes: &[u8]| read_notes(key, head.author, Some(&blocks), notes).ok();
                opened.and_then(|notes| read(&notes)).unwrap_or_default()
            }
        };
        Ok((head, notes))
    }
}

impl Store {
    /// The block of the journal, if the store has one; [`Store::takes_notes`] says whether this node adds to it.
    pub fn journal(&self) -> Result<Option<BlockId>> {
        self.core.journal_id()
    }

    pub fn takes_notes(&self) -> bool {
        self.core.journal.get().is_some()
    }

    /// The notes of operations after `seq`, the oldest `limit` of them and those of the same operation as the last;
    /// none, if there are none. What is visible is there, durable or not.
    pub fn notes_since(&self, seq: Seq, limit: usize) -> Result<NotesPage> {
        let Some(journal) = self.core.journal.get() else { return Ok(NotesPage::default()) };
        // First what is in memory: should it be sealed meanwhile, the item is behind what is looked at.
        let (in_memory, noted) = self.core.notes_in_memory(seq);
        let mut page = NotesPage::default();
        let key = |offset| Key::new(journal.id, ItemKind::JOURNAL, offset);
        let mut from = seq.0.saturating_add(1);
        let mut previous = None;
        while from <= noted && page.notes.len() < limit {
            let (items, all) = self.core.range_sealed(key(from), key(noted), JOURNAL_LOOK_STEP)?;
            for (key, value) in &items {
                let (head, notes) = self.core.open_notes(journal, key, value)?;
                match previous {
                    None if head.previous.get() > seq.0 => page.missing_to = Some(Seq(head.previous.get())),
                    // A repair gave something up: who asks behind it is told.
                    Some(previous) if head.previous.get() != previous => return Ok(page),
                    _ => {}
                }
                previous = Some(key.offset);
                page.notes.extend(notes.into_iter().filter(|note| note.seq > seq));
                if page.notes.len() >= limit {
                    return Ok(cut(page, limit));
                }
                from = key.offset + 1;
            }
            if all {
                break;
            }
        }
        if previous.is_none() && noted > seq.0 {
            page.missing_to = Some(Seq(noted));
        }
        page.notes.extend(in_memory);
        Ok(cut(page, limit))
    }

    /// The notes of operations before `seq`, newest first, as long as `visit` answers true. Returns whether there were
    /// older ones that are not kept any more.
    pub fn notes_before(&self, seq: Seq, visit: &mut dyn FnMut(Note) -> bool) -> Result<bool> {
        let Some(journal) = self.core.journal.get() else { return Ok(false) };
        let (mut in_memory, noted) = self.core.notes_in_memory(Seq(0));
        in_memory.retain(|note| note.seq < seq);
        for note in in_memory.into_iter().rev() {
            if !visit(note) {
                return Ok(false);
            }
        }
        let key = |offset| Key::new(journal.id, ItemKind::JOURNAL, offset);
        // The first item that reaches `seq`, or else the newest.
        let from = seq.0.saturating_sub(1).min(noted);
        let found = self.core.range_sealed(key(from), key(noted), 1)?.0;
        let mut next = found.first().map_or(0, |(key, _)| key.offset);
        while next > 0 {
            let Some(Found::Value(value)) = self.core.find(&key(next))? else { return Ok(true) };
            let (head, notes) = self.core.open_notes(journal, &key(next), &value)?;
            for note in notes.into_iter().rev().filter(|note| note.seq < seq) {
                if !visit(note) {
                    return Ok(false);
                }
            }
            if head.previous.get() >= next {
                return Err(Error::Corrupt { what: "journal", sector: 0 });
            }
            next = head.previous.get();
        }
        Ok(false)
    }
}

/// Cuts a page off behind the operation that has its last note.
fn cut(mut page: NotesPage, limit: usize) -> NotesPage {
    if let Some(last) = page.notes.get(limit.saturating_sub(1)).map(|note| note.seq) {
        let end = page.notes.partition_point(|note| note.seq <= last);
        page.notes.truncate(end);
    }
    page
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::crypto::KdfCost;
    use crate::device::MemoryDevice;
    use crate::store::{CheckOptions, CreateOptions, OpenOptions, check};

    const PASSPHRASE: &[u8] = b"pass";

    fn options() -> OpenOptions {
        OpenOptions { background: false, ..OpenOptions::default() }
    }

    fn store() -> (Arc<MemoryDevice>, Store, Block) {
        let device = Arc::new(MemoryDevice::new(8192));
        let create = CreateOptions { capacity_sectors: 8192, kdf: KdfCost::TRIVIAL };
        let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options()).unwrap();
        let mut transaction = store.transaction();
        transaction.create(b"root");
        let journal = transaction.create_journal(b"");
        store.sync(transaction.apply().unwrap()).unwrap();
        (device, store, journal)
    }

    fn note(store: &Store, notes: &[&[u8]]) -> Seq {
        let mut transaction = store.transaction();
        notes.iter().for_each(|note| transaction.note(note, &[]));
        transaction.apply().unwrap()
    }

    fn bytes(notes: &[Note]) -> Vec<Vec<u8>> {
        notes.iter().map(|note| note.bytes.to_vec()).collect()
    }

    #[test]
    fn notes_are_there_at_once_and_after_any_sealing() {
        let (device, store, _) = store();
        // Longer than one item, and one of a single operation that needs an item of its own.
        let long = [7; NOTES_BYTES_MAX - 10];
        let mut expected = Vec::new();
        for number in 0..300_u32 {
            let own = [&number.to_le_bytes()[..], &[1; 40]].concat();
            expected.extend([own.clone(), b"second".to_vec()]);
            note(&store, &[&own, b"second"]);
            if number % 70 == 3 {
                expected.push(long.to_vec());
                note(&store, &[&long]);
            }
            if number % 100 == 50 {
                store.write_back().unwrap();
            }
        }
        let all = |store: &Store| {
            let mut notes: Vec<Note> = Vec::new();
            loop {
                let from = notes.last().map_or(Seq(0), |note| note.seq);
                let page = store.notes_since(from, 7).unwrap();
                assert!(page.missing_to.is_none() && page.notes.len() <= 8, "an operation is not torn apart");
                if page.notes.is_empty() {
                    return notes;
                }
                notes.extend(page.notes);
            }
        };
        let back = |store: &Store, before| {
            let mut notes = Vec::new();
            let is_cut = store.notes_before(before, &mut |note| {
                notes.push(note);
                true
            });
            assert!(!is_cut.unwrap());
            notes.reverse();
            notes
        };
        let check_all = |store: &Store| {
            let notes = all(store);
            assert_eq!(bytes(&notes), expected);
            assert_eq!(back(store, Seq(u64::MAX)), notes);
            let middle = notes[notes.len() / 2].seq;
            let older: Vec<Note> = notes.into_iter().filter(|note| note.seq < middle).collect();
            assert_eq!(back(store, middle), older);
        };
        check_all(&store);
        store.sync(store.newest()).unwrap();
        check_all(&store);
        store.checkpoint().unwrap();
        check_all(&store);
        store.close().unwrap();
        let newest = store.newest();
        let store = Store::open(device, PASSPHRASE, &options()).unwrap();
        check_all(&store);
        assert!(store.newest() > newest, "numbers go on");
    }

    #[test]
    fn an_item_in_anothers_name_is_found_out() {
        let (device, store, journal) = store();
        let seq = note(&store, &[b"mine"]);
        store.sync(seq).unwrap();
        let key = Key::new(journal.id(), ItemKind::JOURNAL, seq.0);
        let value = store.core.find_sealed(&key).unwrap().unwrap();
        let own = store.core.keys.node.public().signing;
        assert!(is_own_note(&key, &value, &own));
        assert!(!is_own_note(&key, &value, &[1; 32]));

        // Signed by this node, but with a note that says that somebody else made it.
        let mut forged = value.to_vec();
        forged[2..34].fill(1);
        let mut transaction = store.transaction();
        transaction.put_system(key, crate::store::batch::Change::Raw(forged.into()));
        store.sync(transaction.apply().unwrap()).unwrap();
        let image = device.snapshot();
        let reopened = Store::open(Arc::new(MemoryDevice::from_bytes(image.clone())), PASSPHRASE, &options());
        assert!(matches!(reopened.err(), Some(OpenError::Log { why, .. }) if why.contains("another's name")));
        let device = Arc::new(MemoryDevice::from_bytes(image));
        let report = check(device, PASSPHRASE, &CheckOptions::default(), &mut |_, _| {}).unwrap();
        assert!(report.problems.iter().any(|problem| problem.what.contains("another's name")), "{report:?}");
    }

    #[test]
    fn a_check_opens_every_item() {
        let (device, store, journal) = store();
        let seq = note(&store, &[b"mine"]);
        store.sync(seq).unwrap();
        let key = Key::new(journal.id(), ItemKind::JOURNAL, seq.0);
        let mut value = store.core.find_sealed(&key).unwrap().unwrap().to_vec();
        *value.last_mut().unwrap() ^= 1;
        let mut transaction = store.transaction();
        transaction.put_system(key, crate::store::batch::Change::Raw(value.into()));
        transaction.apply().unwrap();
        store.close().unwrap();
        let report = check(device, PASSPHRASE, &CheckOptions::default(), &mut |_, _| {}).unwrap();
        let [problem] = &report.problems[..] else { panic!("{report:?}") };
        assert!(problem.what.contains("journal's key"), "{problem:?}");
    }
}
