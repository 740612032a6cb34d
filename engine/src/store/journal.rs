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
//! 4. The journal is bounded: a record that adds to it removes the oldest items, so many at a time. On a full store it
//!    does not grow.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::Ordering;

use zerocopy::{FromBytes, IntoBytes};
use zeroize::Zeroizing;

use super::batch::Batch;
use super::layers::{Found, Value};
use super::resolve::Resolver;
use super::{Block, Core, OpenError, Seq, Store, open_at};
use crate::crypto::seal_item;
use crate::error::{Error, Result};
use crate::format::{
    BlockId, ItemKind, JournalBytes, Key, KeyBytes, SYSTEM_BLOCK, decode_notes, encode_note,
};
use crate::limits::{
    FULL_STORE_NODES, ITEM_BYTES_MAX, ITEM_SEAL_BYTES, JOURNAL_BYTES_FULL, JOURNAL_BYTES_MAX,
    JOURNAL_LOOK_STEP, JOURNAL_SHARE, JOURNAL_TRIM_STEP, NOTES_BYTES_MAX, NOTES_MAX, SECTOR_BYTES,
};

/// Operations are numbered from a multiple of this on whenever a store is opened, so that a crash makes no number
/// mean two things.
const LIFE: u64 = 1 << 40;
/// No operation has a number like this: that is four million lives.
const NUMBER_MAX: u64 = 1 << 62;
/// Room for notes in one item.
const ITEM_NOTES_MAX: usize = ITEM_BYTES_MAX - ITEM_SEAL_BYTES - size_of::<JournalBytes>();
/// What number and length of a note take at most.
const NOTE_HEAD_MAX: usize = 10 + 3;

const _: () = assert!(NOTES_BYTES_MAX + NOTES_MAX * NOTE_HEAD_MAX <= ITEM_NOTES_MAX);

/// What somebody noted about an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub seq: Seq,
    /// Public signing key of the author of the record that the operation is in.
    pub author: [u8; 32],
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
    /// The operation of each, and where it stands.
    list: Vec<(Seq, Range<usize>)>,
}

impl Notes {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn push(&mut self, op: Seq, note: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(note);
        self.list.push((op, start..self.bytes.len()));
    }

    /// Those of operations after `seq`.
    fn after(&self, seq: Seq) -> impl Iterator<Item = (Seq, &[u8])> {
        let first = self.list.partition_point(|(op, _)| *op <= seq);
        self.list[first..].iter().map(|(op, place)| (*op, &self.bytes[place.clone()]))
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

impl Core {
    /// Adds the notes of a batch to its record, and removes what is too old. Returns the last operation noted.
    pub(super) fn seal_notes(
        &self,
        batch: &Batch,
        ends: &mut Ends,
        resolver: &mut Resolver<'_>,
    ) -> Result<Option<u64>> {
        let Some(block) = self.journal.get().filter(|_| !batch.notes.is_empty()) else { return Ok(None) };
        let mut item: Vec<&(Seq, Range<usize>)> = Vec::new();
        let (mut room, mut added) = (ITEM_NOTES_MAX, 1);
        for own in batch.notes.list.chunk_by(|one, other| one.0 == other.0) {
            let bytes = own.iter().map(|(_, place)| place.len() + NOTE_HEAD_MAX).sum();
            if bytes > room {
                self.put_item(block, &batch.notes, &item, ends, resolver);
                item.clear();
                (room, added) = (ITEM_NOTES_MAX, added + 1);
            }
            item.extend(own);
            room = room.saturating_sub(bytes);
        }
        self.put_item(block, &batch.notes, &item, ends, resolver);
        // Items need not be of one length, so more may have to go than come.
        self.trim(block, JOURNAL_TRIM_STEP + 2 * added, ends, resolver)?;
        Ok(Some(ends.newest))
    }

    fn put_item(
        &self,
        block: &Block,
        notes: &Notes,
        item: &[&(Seq, Range<usize>)],
        ends: &mut Ends,
        resolver: &mut Resolver<'_>,
    ) {
        let Some(last) = item.last().map(|(op, _)| op.0) else { return };
        let mut secret = Zeroizing::new(Vec::with_capacity(ITEM_NOTES_MAX));
        for (op, place) in item {
            encode_note(&mut secret, last, op.0, &notes.bytes[place.clone()]);
        }
        let key = Key::new(block.id(), ItemKind::JOURNAL, last);
        let bytes = size_of::<KeyBytes>() + ITEM_SEAL_BYTES + size_of::<JournalBytes>() + secret.len();
        ends.position = ends.position.saturating_add(bytes as u64);
        let head = JournalBytes {
            author: self.keys.node.public().signing,
            previous: ends.newest.into(),
            position: ends.position.into(),
        };
        let mut value = Vec::with_capacity(bytes);
        value.extend_from_slice(&(size_of::<JournalBytes>() as u16).to_le_bytes());
        value.extend_from_slice(head.as_bytes());
        seal_item(&block.keys().item, KeyBytes::from(key).as_bytes(), &secret, &mut value);
        resolver.changes.insert(key, Some(value.into()));
        ends.newest = last;
    }

    /// Removes up to `items` of the oldest items, where there are too many.
    fn trim(&self, block: &Block, items: usize, ends: &mut Ends, resolver: &mut Resolver<'_>) -> Result<()> {
        let most = self.journal_bytes_max(ends)?;
        for _ in 0..items {
            if ends.position - ends.removed <= most {
                return Ok(());
            }
            if ends.oldest.is_empty() {
                let key = |offset| Key::new(block.id(), ItemKind::JOURNAL, offset);
                let (items, _) = self.range_sealed(key(ends.looked), key(NUMBER_MAX), JOURNAL_LOOK_STEP)?;
                ends.looked = items.last().map_or(ends.looked, |(key, _)| key.offset + 1);
                let position = |value: &Value| split(value).map_or(0, |(head, _)| head.position.get());
                ends.oldest.extend(items.iter().map(|(key, value)| (key.offset, position(value))));
            }
            let Some((offset, position)) = ends.oldest.pop_front() else { return Ok(()) };
            ends.removed = ends.removed.max(position.min(ends.position));
            resolver.changes.insert(Key::new(block.id(), ItemKind::JOURNAL, offset), None);
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
        let Some(id) = self.journal_id()? else { return Ok(()) };
        let block = match self.block(id) {
            Ok(Some(block)) => block,
            // Who is no owner makes changes without notes.
            Ok(None) | Err(Error::Corrupt { .. } | Error::Read(_) | Error::NoKey) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let ends = match self.find_ends(&block) {
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
        let _ = self.journal.set(block);
        Ok(())
    }

    /// The journal's block, whether or not this node opens it.
    pub(super) fn journal_id(&self) -> Result<Option<BlockId>> {
        let key = |id| Key::new(SYSTEM_BLOCK, ItemKind::JOURNAL, id);
        let (items, _) = self.range(key(0), key(u64::MAX), 1)?;
        Ok(items.first().map(|(key, _)| key.offset))
    }

    fn find_ends(&self, block: &Block) -> Result<Ends> {
        let first = |from, to| -> Result<Option<(u64, JournalBytes)>> {
            let key = |offset| Key::new(block.id(), ItemKind::JOURNAL, offset);
            let (items, _) = self.range_sealed(key(from), key(to), 1)?;
            let item = items.first().map(|(key, value)| Ok((key.offset, split(value)?.0)));
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
        let note = |(seq, bytes): (Seq, &[u8])| Note { seq, author, bytes: bytes.to_vec().into() };
        (notes.map(note).collect(), layers.noted)
    }
}

/// Whether a change is no item of the journal, or one in this author's name.
pub(super) fn is_own_note(key: &Key, value: &[u8], author: &[u8; 32]) -> bool {
    key.kind != ItemKind::JOURNAL
        || key.block == SYSTEM_BLOCK
        || split(value).is_ok_and(|(head, _)| head.author == *author)
}

/// The clear part and the sealed notes of an item.
fn split(value: &[u8]) -> Result<(JournalBytes, &[u8])> {
    let corrupt = Error::Corrupt { what: "item of the journal", sector: 0 };
    let sealed = value.strip_prefix(&(size_of::<JournalBytes>() as u16).to_le_bytes());
    let split = sealed.and_then(|rest| JournalBytes::read_from_prefix(rest).ok());
    split.ok_or(corrupt)
}

/// Opens an item of the journal.
pub(super) fn open_notes(block: &Block, key: &Key, value: &[u8]) -> Result<(JournalBytes, Vec<Note>)> {
    let (head, sealed) = split(value)?;
    let notes = open_at(block, key, sealed)?;
    let corrupt = |_| Error::Corrupt { what: "notes of the journal", sector: 0 };
    let note = |note: std::result::Result<(u64, &[u8]), _>| {
        let (seq, bytes) = note.map_err(corrupt)?;
        Ok(Note { seq: Seq(seq), author: head.author, bytes: bytes.to_vec().into() })
    };
    let notes: Result<Vec<Note>> = decode_notes(key.offset, &notes).map(note).collect();
    Ok((head, notes?))
}

impl Store {
    /// The block of the journal, if the store has one; [`Store::takes_notes`] says whether this node opens it.
    pub fn journal(&self) -> Result<Option<BlockId>> {
        self.core.journal_id()
    }

    pub fn takes_notes(&self) -> bool {
        self.core.journal.get().is_some()
    }

    /// The notes of operations after `seq`, the oldest `limit` of them and those of the same operation as the last;
    /// none, if there are none. What is visible is there, durable or not.
    pub fn notes_since(&self, seq: Seq, limit: usize) -> Result<NotesPage> {
        let Some(block) = self.core.journal.get() else { return Ok(NotesPage::default()) };
        // First what is in memory: should it be sealed meanwhile, the item is behind what is looked at.
        let (in_memory, noted) = self.core.notes_in_memory(seq);
        let mut page = NotesPage::default();
        let key = |offset| Key::new(block.id(), ItemKind::JOURNAL, offset);
        let mut from = seq.0.saturating_add(1);
        let mut previous = None;
        while from <= noted && page.notes.len() < limit {
            let (items, all) = self.core.range_sealed(key(from), key(noted), JOURNAL_LOOK_STEP)?;
            for (key, value) in &items {
                let (head, notes) = open_notes(block, key, value)?;
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
        let Some(block) = self.core.journal.get() else { return Ok(false) };
        let (mut in_memory, noted) = self.core.notes_in_memory(Seq(0));
        in_memory.retain(|note| note.seq < seq);
        for note in in_memory.into_iter().rev() {
            if !visit(note) {
                return Ok(false);
            }
        }
        let key = |offset| Key::new(block.id(), ItemKind::JOURNAL, offset);
        // The first item that reaches `seq`, or else the newest.
        let from = seq.0.saturating_sub(1).min(noted);
        let found = self.core.range_sealed(key(from), key(noted), 1)?.0;
        let mut next = found.first().map_or(0, |(key, _)| key.offset);
        while next > 0 {
            let Some(Found::Value(value)) = self.core.find(&key(next))? else { return Ok(true) };
            let (head, notes) = open_notes(block, &key(next), &value)?;
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
        notes.iter().for_each(|note| transaction.note(note));
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
