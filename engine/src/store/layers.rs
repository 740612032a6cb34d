//! What the store holds, newest first: the pending batch, the batch being sealed, batches on their way to the
//! device, the deltas since the last checkpoint, and the index.
//!
//! Invariants:
//! 1. Every key is looked for from the newest layer to the oldest; the first that knows it is right.
//! 2. The lock on the layers is never held across I/O. A reader takes what memory holds and the root of the
//!    index in one step, then reads the index. If a checkpoint replaced that index meanwhile and its nodes were
//!    reused, their hashes do not match, and the reader starts again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::batch::{Batch, Change};
use super::{Core, Seq};
use crate::device::Completion;
use crate::error::{Error, Result};
use crate::format::{Extent, Key};
use crate::space::Delta;
use crate::tree::{Root, TreeError};

/// A value as the index holds it.
pub(super) type Value = Arc<[u8]>;

/// Deltas since a checkpoint, backed by the log.
#[derive(Clone, Default)]
pub(super) struct MemTable {
    pub(super) items: BTreeMap<Key, Option<Value>>,
    pub(super) bytes: usize,
    /// What happened to space, in order.
    pub(super) space: Vec<Delta>,
}

impl MemTable {
    pub(super) fn insert(&mut self, key: Key, value: Option<Value>) {
        self.bytes += 64 + value.as_ref().map_or(0, |value| value.len());
        if let Some(old) = self.items.insert(key, value) {
            self.bytes -= 64 + old.map_or(0, |value| value.len());
        }
    }
}

/// A batch whose record was written, or is about to be.
#[derive(Clone)]
pub(super) struct Written {
    pub(super) batch: Arc<Batch>,
    pub(super) seq: u64,
    /// The record, and all data it names.
    pub(super) completions: Arc<[Completion]>,
}

/// All layers.
pub(super) struct Layers {
    pub(super) pending: Batch,
    pub(super) sealing: Option<Arc<Batch>>,
    /// Sealed, and their items in `active`; their data may still be on its way.
    pub(super) writing: VecDeque<Written>,
    /// The newest record, and the newest operation in it.
    pub(super) sealed_seq: u64,
    pub(super) sealed_op: Seq,
    pub(super) active: MemTable,
    pub(super) frozen: Option<Arc<MemTable>>,
    pub(super) root: Root,
    /// The last operation that an item of the journal holds a note of.
    pub(super) noted: u64,
}

/// A value, from whichever layer.
#[derive(Clone)]
pub(super) enum Found {
    Change(Change),
    Value(Value),
}

impl Layers {
    /// What memory knows of a key: `None` if nothing.
    pub(super) fn in_memory(&self, key: &Key) -> Option<Option<Found>> {
        let batches = std::iter::once(&self.pending).chain(self.sealing.as_deref());
        for batch in batches {
            if let Some(change) = batch.items.get(key) {
                return Some(match change {
                    Change::Delete => None,
                    change => Some(Found::Change(change.clone())),
                });
            }
        }
        self.sealed(key).map(|value| value.map(Found::Value))
    }

    /// What the deltas know of a key.
    fn sealed(&self, key: &Key) -> Option<Option<Value>> {
        let value = self.active.items.get(key);
        value.or_else(|| self.frozen.as_ref()?.items.get(key)).cloned()
    }

    /// What memory knows of a range, at most `limit` keys, and the last key of which that is the whole truth.
    fn range_in_memory(
        &self,
        from: Key,
        to: Key,
        limit: usize,
        batches: bool,
    ) -> (BTreeMap<Key, Option<Found>>, Key) {
        let mut found = BTreeMap::new();
        let mut known_to = to;
        let frozen = self.frozen.as_deref();
        // Oldest first, so that newer layers overwrite.
        for table in frozen.into_iter().chain([&self.active]) {
            for (count, (key, value)) in table.items.range(from..=to).enumerate() {
                if count == limit {
                    // Sound, since `key` is behind `limit` others that are in `found`.
                    known_to = known_to.min(before(*key));
                    break;
                }
                found.insert(*key, value.clone().map(Found::Value));
            }
        }
        if batches {
            for batch in self.sealing.as_deref().into_iter().chain([&self.pending]) {
                for (count, (key, change)) in batch.items.range(from..=to).enumerate() {
                    if count == limit {
                        known_to = known_to.min(before(*key));
                        break;
                    }
                    let value = match change {
                        Change::Delete => None,
                        change => Some(Found::Change(change.clone())),
                    };
                    found.insert(*key, value);
                }
            }
        }
        (found, known_to)
    }
}

/// The key right before another that is not the first.
fn before(key: Key) -> Key {
    match (key.offset, key.kind.0, key.block) {
        (0, 0, block) => Key { block: block - 1, kind: crate::format::ItemKind(u8::MAX), offset: u64::MAX },
        (0, kind, block) => Key { block, kind: crate::format::ItemKind(kind - 1), offset: u64::MAX },
        (offset, ..) => Key { offset: offset - 1, ..key },
    }
}

/// The key right behind another that is not the last.
pub(super) fn after(key: Key) -> Key {
    match (key.offset, key.kind.0) {
        (u64::MAX, u8::MAX) => Key { block: key.block + 1, kind: crate::format::ItemKind(0), offset: 0 },
        (u64::MAX, kind) => Key { kind: crate::format::ItemKind(kind + 1), offset: 0, ..key },
        (offset, _) => Key { offset: offset + 1, ..key },
    }
}

impl Core {
    /// Looks a key up in all layers.
    pub(super) fn find(&self, key: &Key) -> Result<Option<Found>> {
        self.retry(|| {
            let layers = self.layers.read();
            if let Some(found) = layers.in_memory(key) {
                return Ok(found);
            }
            let root = layers.root;
            drop(layers);
            Ok(self.tree.get(&root, key).map_err(|error| (root, error))?.map(|v| Found::Value(v.into())))
        })
    }

    /// Looks a key up in what commits have made: all layers but the pending batch and the one being sealed.
    pub(super) fn find_sealed(&self, key: &Key) -> Result<Option<Value>> {
        self.retry(|| {
            let layers = self.layers.read();
            if let Some(found) = layers.sealed(key) {
                return Ok(found);
            }
            let root = layers.root;
            drop(layers);
            Ok(self.tree.get(&root, key).map_err(|error| (root, error))?.map(Into::into))
        })
    }

    /// The items from `from` to `to` in order, at least one unless there is none, and whether those are all.
    pub(super) fn range(&self, from: Key, to: Key, limit: usize) -> Result<(Vec<(Key, Found)>, bool)> {
        self.range_of(from, to, limit, true)
    }

    /// As [`Core::range`], of what commits have made.
    pub(super) fn range_sealed(&self, from: Key, to: Key, limit: usize) -> Result<(Vec<(Key, Value)>, bool)> {
        let (items, all) = self.range_of(from, to, limit, false)?;
        let values = items
            .into_iter()
            .map(|(key, found)| match found {
                Found::Value(value) => (key, value),
                Found::Change(_) => unreachable!("batches were not asked"),
            })
            .collect();
        Ok((values, all))
    }

    fn range_of(&self, from: Key, to: Key, limit: usize, batches: bool) -> Result<(Vec<(Key, Found)>, bool)> {
        let mut items = Vec::new();
        let mut from = from;
        loop {
            let (part, known_to) = self.retry(|| {
                let layers = self.layers.read();
                let (found, known_to) = layers.range_in_memory(from, to, limit + 16, batches);
                let root = layers.root;
                drop(layers);
                self.merge_range(&root, found, from, known_to, limit).map_err(|error| (root, error))
            })?;
            items.extend(part);
            if known_to >= to {
                return Ok((items, true));
            }
            if items.len() >= limit {
                return Ok((items, false));
            }
            from = after(known_to);
        }
    }

    /// What memory found in a range, completed by the index; up to which key that is all.
    fn merge_range(
        &self,
        root: &Root,
        mut found: BTreeMap<Key, Option<Found>>,
        from: Key,
        mut known_to: Key,
        limit: usize,
    ) -> std::result::Result<(Vec<(Key, Found)>, Key), TreeError> {
        let mut count = 0;
        let bound = known_to;
        self.tree.scan(root, &from, &bound, &mut |key, value| {
            if count == limit {
                known_to = before(key);
                return false;
            }
            count += 1;
            found.entry(key).or_insert_with(|| Some(Found::Value(value.into())));
            true
        })?;
        let items =
            found.into_iter().take_while(|(key, _)| *key <= known_to).filter_map(|(key, v)| Some((key, v?)));
        Ok((items.collect(), known_to))
    }

    /// Looks at memory with `look`, which names a range of extents to take from all sealed layers; returns what
    /// it saw with those extents, by their first sector.
    #[allow(clippy::type_complexity)]
    pub(super) fn retry_with_root<A, B>(
        &self,
        mut look: impl FnMut(&Layers) -> ((A, B), Option<(Key, Key)>),
    ) -> Result<(A, B, Vec<(u64, Extent)>)> {
        let (seen, items) = self.retry(|| {
            let layers = self.layers.read();
            let (seen, range) = look(&layers);
            let Some((from, to)) = range else {
                return Ok((seen, Vec::new()));
            };
            let (found, known_to) = layers.range_in_memory(from, to, usize::MAX, false);
            let root = layers.root;
            drop(layers);
            let (items, _) =
                self.merge_range(&root, found, from, known_to, usize::MAX).map_err(|error| (root, error))?;
            Ok((seen, items))
        })?;
        let extents = items.iter().map(|(key, found)| match found {
            Found::Value(value) => Ok((key.offset, decode_extent(value)?)),
            Found::Change(_) => unreachable!("batches hold no extents"),
        });
        Ok((seen.0, seen.1, extents.collect::<Result<_>>()?))
    }

    /// Tries again as long as a failure may come from a checkpoint that replaced the index meanwhile.
    fn retry<T>(&self, mut attempt: impl FnMut() -> std::result::Result<T, (Root, TreeError)>) -> Result<T> {
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err((root, error)) if root == self.layers.read().root => return Err(error.into()),
                Err(_) => {}
            }
        }
    }
}

/// Reads an extent item. Its bytes were verified with their node, so a malformed one was written so.
pub(super) fn decode_extent(value: &[u8]) -> Result<Extent> {
    Extent::decode(value).map_err(|_| Error::Corrupt { what: "extent item", sector: 0 })
}
