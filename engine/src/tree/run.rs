//! A run: the entries of one level that are on their way into new nodes. They come in the order of keys, from
//! old nodes next to each other and from changes between them, and are cut into nodes here.

use zerocopy::{FromBytes, IntoBytes};

use super::NodeBytes;
use super::node::{CAPACITY, HEADER_BYTES, Node};
use crate::format::{Child, Key, NODE_MAGIC, NodeHeader, NodePtr, Slot};
use crate::limits::{ITEM_BYTES_MAX, NODE_BYTES};

/// How full a node is when more follows: what comes into it later finds some room.
const FILL: usize = CAPACITY / 16 * 15;
/// A run that holds more than this gives a node.
const RUN_BYTES_MAX: usize = CAPACITY / 2 * 3;
/// A run of less than this is worth joining with a neighbour.
const THIN: usize = CAPACITY / 4;

/// The longest entry of all, an item.
const ENTRY_BYTES_MAX: usize = size_of::<Slot>() + ITEM_BYTES_MAX;
// Where a run is cut: after FILL, what is left must be more than thin, with the entry that went past the
// limit fit one node again, and hold two children; cut in the middle, both halves must fit.
const _: () = assert!(RUN_BYTES_MAX - FILL > THIN + size_of::<Child>());
const _: () = assert!(RUN_BYTES_MAX + ENTRY_BYTES_MAX - (FILL - ENTRY_BYTES_MAX) <= RUN_BYTES_MAX);
const _: () = assert!(RUN_BYTES_MAX / 2 + ENTRY_BYTES_MAX <= CAPACITY);
const _: () = assert!(RUN_BYTES_MAX - (FILL - ENTRY_BYTES_MAX) <= CAPACITY);
const _: () = assert!(CAPACITY - FILL > 2 * size_of::<Child>());
// A thin run joined with a full node need not give a node at once.
const _: () = assert!(THIN + CAPACITY <= RUN_BYTES_MAX);

struct Entry {
    key: Key,
    length: u16,
    fresh: bool,
}

/// What a run gains from a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    No,
    /// It shrank and would give a thin node.
    Better,
    /// It would give an inner node with a single child.
    Must,
}

pub(super) struct Run {
    level: u8,
    entries: Vec<Entry>,
    /// The values (of a leaf) or pointers of the entries, one after the other.
    values: Vec<u8>,
    /// What the old nodes held that went into this run.
    dissolved: usize,
    /// Whether one of these was in use, so that the new ones are going to be.
    pub(super) cached: bool,
}

impl Run {
    pub(super) fn new(level: u8) -> Self {
        Self { level, entries: Vec::new(), values: Vec::new(), dissolved: 0, cached: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn first_key(&self) -> Option<Key> {
        self.entries.first().map(|entry| entry.key)
    }

    pub(super) fn last_key(&self) -> Option<Key> {
        self.entries.last().map(|entry| entry.key)
    }

    fn overhead(&self) -> usize {
        if self.level == 0 { size_of::<Slot>() } else { size_of::<Child>() - size_of::<NodePtr>() }
    }

    fn weight(&self) -> usize {
        self.entries.len() * self.overhead() + self.values.len()
    }

    /// Tells the run that it takes up what an old node held.
    pub(super) fn dissolve(&mut self, node: &Node, cached: bool) {
        self.dissolved += node.weight();
        self.cached |= cached;
    }

    /// Adds an entry behind all others; `fresh` if no old node had it.
    pub(super) fn push(&mut self, key: Key, value: &[u8], fresh: bool) {
        debug_assert!(self.last_key().is_none_or(|last| last < key));
        debug_assert!(self.weight() <= RUN_BYTES_MAX);
        self.entries.push(Entry { key, length: value.len() as u16, fresh });
        self.values.extend_from_slice(value);
    }

    /// Adds all entries of a node before all others.
    pub(super) fn prepend(&mut self, node: &Node) {
        let mut before = Self::new(self.level);
        for slot in node.slots() {
            before.push(Key::from(&slot.key), node.value(slot), false);
        }
        for child in node.children() {
            before.push(Key::from(&child.lowest), child.ptr.as_bytes(), false);
        }
        before.entries.append(&mut self.entries);
        before.values.append(&mut self.values);
        (self.entries, self.values) = (before.entries, before.values);
    }

    /// The last pointer, taken out again, if it is one to an old node.
    pub(super) fn pop_old(&mut self) -> Option<(Key, NodePtr)> {
        let (key, ptr) = self.last_child().filter(|_| !self.entries.last().is_some_and(|last| last.fresh))?;
        self.entries.pop();
        self.values.truncate(self.values.len() - size_of::<NodePtr>());
        Some((key, ptr))
    }

    /// The last pointer.
    pub(super) fn last_child(&self) -> Option<(Key, NodePtr)> {
        let (_, ptr) = NodePtr::read_from_suffix(&self.values).ok()?;
        Some((self.last_key()?, ptr))
    }

    /// Whether the run, with a child more if `more_below`, should end here.
    pub(super) fn need(&self, more_below: bool) -> Need {
        let count = self.entries.len() + usize::from(more_below);
        let weight = self.weight() + if more_below { size_of::<Child>() } else { 0 };
        if self.level > 0 && count == 1 {
            Need::Must
        } else if count > 0 && weight < THIN && weight < self.dissolved {
            Need::Better
        } else {
            Need::No
        }
    }

    /// Of how many entries the next node is, if the run is so long that it has to give one.
    pub(super) fn cut_overflow(&self) -> Option<usize> {
        (self.weight() > RUN_BYTES_MAX).then(|| self.cut_at(FILL))
    }

    /// Of how many entries the next node is, given that the run has ended.
    pub(super) fn cut_end(&self) -> usize {
        let weight = self.weight();
        if weight <= CAPACITY {
            self.entries.len()
        } else if self.entries.last().is_some_and(|last| last.fresh) {
            // What was appended is likely to be appended to: leave the room at the end.
            self.cut_at(FILL)
        } else {
            self.cut_at(weight / 2)
        }
    }

    /// How many entries fit `bytes`.
    fn cut_at(&self, bytes: usize) -> usize {
        let mut used = 0;
        self.entries
            .iter()
            .take_while(|entry| {
                used += self.overhead() + usize::from(entry.length);
                used <= bytes
            })
            .count()
    }

    /// Moves the first `count` entries into a node, all but its nonce, and returns its first key.
    pub(super) fn build(&mut self, count: usize, birth: u64, bytes: &mut NodeBytes) -> Option<Key> {
        let lowest = self.first_key();
        bytes.fill(0);
        let header = NodeHeader {
            nonce: [0; 16],
            magic: NODE_MAGIC.into(),
            level: self.level,
            reserved: 0,
            count: (count as u16).into(),
            birth: birth.into(),
        };
        bytes[..HEADER_BYTES].copy_from_slice(header.as_bytes());
        let values_bytes: usize = self.entries[..count].iter().map(|entry| usize::from(entry.length)).sum();
        let values = &self.values[..values_bytes];
        if self.level == 0 {
            let mut offset = NODE_BYTES - values_bytes;
            bytes[offset..].copy_from_slice(values);
            for (place, entry) in
                bytes[HEADER_BYTES..].chunks_exact_mut(size_of::<Slot>()).zip(&self.entries[..count])
            {
                let slot = Slot {
                    key: entry.key.into(),
                    offset: (offset as u16).into(),
                    length: entry.length.into(),
                };
                place.copy_from_slice(slot.as_bytes());
                offset += usize::from(entry.length);
            }
        } else {
            let places = bytes[HEADER_BYTES..].chunks_exact_mut(size_of::<Child>());
            let pointers = values.chunks_exact(size_of::<NodePtr>());
            for ((place, entry), pointer) in places.zip(&self.entries[..count]).zip(pointers) {
                let (key, rest) = place.split_at_mut(size_of::<Child>() - size_of::<NodePtr>());
                key.copy_from_slice(crate::format::KeyBytes::from(entry.key).as_bytes());
                rest.copy_from_slice(pointer);
            }
        }
        self.entries.drain(..count);
        self.values.drain(..values_bytes);
        lowest
    }

    /// Begins anew after the run has ended.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.values.clear();
        self.dissolved = 0;
        self.cached = false;
    }
}
