//! A batch: the changes that one commit makes durable together.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use zeroize::Zeroizing;

use super::journal::Notes;
use super::overlay::{Content, Overlay, Segment};
use super::{Block, Item, Seq};
use crate::device::Completion;
use crate::format::{BlockId, Extent, Key};
use crate::limits::{DIRTY_SECTOR_WEIGHT, HEADER_WEIGHT, note_weight};
use crate::space::Run;

/// What a batch does to one key of the index.
#[derive(Clone)]
pub(super) enum Change {
    /// An item, sealed when the batch is.
    Item(Arc<Item>),
    /// A block's attributes, sealed into its header, and what that says of where the block belongs.
    Attributes {
        plain: Arc<Zeroizing<Vec<u8>>>,
        home: BlockId,
    },
    /// A value of the store's own.
    Raw(Arc<[u8]>),
    Delete,
}

impl Change {
    /// What it adds to a record, in bytes.
    pub(super) fn weight(&self) -> usize {
        32 + match self {
            Self::Item(item) => item.clear.len() + item.secret.len() + 32,
            Self::Attributes { plain, .. } => plain.len() + 156,
            Self::Raw(value) => value.len(),
            Self::Delete => 0,
        }
    }
}

/// Changes in memory that the index does not contain yet.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) items: BTreeMap<Key, Change>,
    pub(super) data: Overlay,
    /// Units that are cut by what is in `data`, by their first sector, with a hash for each sector.
    pub(super) finer: HashMap<(BlockId, u64), Arc<Extent>>,
    /// The blocks whose keys sealing needs.
    pub(super) blocks: HashMap<BlockId, Block>,
    /// Allocated by writes of this batch, and those of them that later writes made useless.
    pub(super) allocated: Vec<Run>,
    pub(super) useless: Vec<Run>,
    /// Sectors promised for dirty pages.
    pub(super) promised: u64,
    /// What operations noted for the journal.
    pub(super) notes: Notes,
    /// Estimated length of the record, in bytes.
    pub(super) weight: usize,
    /// The newest operation in it.
    pub(super) newest: Seq,
    /// Data writes under way.
    pub(super) completions: Vec<Completion>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.data.is_empty() && self.allocated.is_empty() && self.notes.is_empty()
    }

    pub(super) fn put(&mut self, key: Key, change: Change) {
        self.weight += change.weight();
        self.items.insert(key, change);
    }

    /// Adds a note of an operation, and which blocks it names.
    pub(super) fn note(&mut self, op: Seq, note: &[u8], blocks: &[BlockId]) {
        self.weight += note_weight(note.len(), blocks.len());
        self.notes.push(op, note, blocks);
    }

    /// Puts data over a range of a block. Returns how many promised sectors that made needless.
    pub(super) fn put_data(&mut self, block: &Block, segment: Segment) -> u64 {
        let mut needless = 0;
        self.weight += segment.weight();
        if !self.blocks.contains_key(&block.id()) {
            self.weight += HEADER_WEIGHT;
            self.blocks.insert(block.id(), block.clone());
        }
        match &segment.content {
            Content::Plain(_) => {
                self.promised += 1;
                block.0.unsealed.fetch_add(1, Ordering::Relaxed);
            }
            Content::Sealed { extent, completion, .. } => {
                block.note_units(extent);
                self.allocated.push(Run { sector: extent.sector(), sectors: extent.sectors() });
                self.completions.push(completion.clone());
                block.0.unsealed.fetch_add(segment.sectors, Ordering::Relaxed);
            }
            Content::Clone { extent, .. } => block.note_units(extent),
            Content::Hole | Content::Reclaimed => {}
        }
        for old in self.data.insert(block.id(), segment) {
            match &old.content {
                Content::Plain(_) => {
                    needless += 1;
                    self.weight -= DIRTY_SECTOR_WEIGHT;
                    block.0.unsealed.fetch_sub(1, Ordering::Relaxed);
                }
                Content::Sealed { extent, lead, .. } => {
                    self.useless.push(Run { sector: extent.sector() + lead, sectors: old.sectors });
                    block.0.unsealed.fetch_sub(old.sectors, Ordering::Relaxed);
                }
                Content::Clone { .. } | Content::Hole | Content::Reclaimed => {}
            }
        }
        self.promised -= needless;
        needless
    }
}
