//! One decrypted node: validated once, then searched in place.
//!
//! Invariant: the bytes of a [`Node`] satisfy everything that [`crate::format::NodeHeader`] says of a single
//! node. What it says of a node and its parent is for `read.rs` to check.

use zerocopy::{FromBytes, IntoBytes};

use super::NodeBytes;
use crate::format::{Child, Key, Malformed, NODE_MAGIC, NodeHeader, Slot, malformed};
use crate::limits::{ITEM_BYTES_MAX, NODE_BYTES, NODE_HEIGHT_MAX};

pub(super) const HEADER_BYTES: usize = size_of::<NodeHeader>();
/// What a node can hold behind its header, in bytes.
pub(super) const CAPACITY: usize = NODE_BYTES - HEADER_BYTES;

/// A valid node, decrypted.
pub(crate) struct Node {
    bytes: Box<NodeBytes>,
    level: u8,
    count: u16,
}

impl Node {
    /// Validates a decrypted node; accepts any bytes and any nonce. Does no cryptography.
    pub(crate) fn parse(bytes: Box<NodeBytes>) -> Result<Self, Malformed> {
        let Ok((header, _)) = NodeHeader::ref_from_prefix(&bytes[..]) else {
            return Err(wrong("shorter than its header"));
        };
        if header.magic.get() != NODE_MAGIC {
            return Err(wrong("no magic number"));
        }
        if header.reserved != 0 {
            return Err(wrong("reserved byte in use"));
        }
        let (level, count, birth) = (header.level, header.count.get(), header.birth.get());
        if u32::from(level) >= NODE_HEIGHT_MAX {
            return Err(wrong("level too high"));
        }
        let entry_bytes = if level == 0 { size_of::<Slot>() } else { size_of::<Child>() };
        if usize::from(count) * entry_bytes > CAPACITY {
            return Err(wrong("more entries than fit"));
        }
        let node = Self { bytes, level, count };
        let gap_start = HEADER_BYTES + usize::from(count) * entry_bytes;
        let gap_end = if level == 0 { node.check_leaf(gap_start)? } else { node.check_inner(birth)? };
        if node.bytes[gap_start..gap_end].iter().fold(0, |all, byte| all | byte) != 0 {
            return Err(wrong("unused bytes in use"));
        }
        Ok(node)
    }

    /// Checks slots and values, the first of which may not begin before `values_min`; returns where it begins.
    fn check_leaf(&self, values_min: usize) -> Result<usize, Malformed> {
        let slots = self.slots();
        let Some(first) = slots.first() else { return Err(wrong("leaf without items")) };
        if !slots.is_sorted_by(|left, right| Key::from(&left.key) < Key::from(&right.key)) {
            return Err(wrong("keys out of order"));
        }
        let start = usize::from(first.offset.get());
        if start < values_min {
            return Err(wrong("values overlap the slots"));
        }
        let mut end = start;
        for slot in slots {
            let length = usize::from(slot.length.get());
            if usize::from(slot.offset.get()) != end {
                return Err(wrong("values not packed"));
            }
            if length > ITEM_BYTES_MAX {
                return Err(wrong("value too long"));
            }
            end += length;
        }
        if end != NODE_BYTES {
            return Err(wrong("values do not end with the node"));
        }
        Ok(start)
    }

    /// Checks the children; returns where the unused bytes end.
    fn check_inner(&self, birth: u64) -> Result<usize, Malformed> {
        let children = self.children();
        if children.len() < 2 {
            return Err(wrong("inner node with less than two children"));
        }
        if !children.is_sorted_by(|left, right| Key::from(&left.lowest) < Key::from(&right.lowest)) {
            return Err(wrong("keys out of order"));
        }
        for Child { ptr, .. } in children {
            if ptr.sector.get() == 0 {
                return Err(wrong("child without a node"));
            }
            if ptr.birth.get() > birth {
                return Err(wrong("child younger than its parent"));
            }
        }
        Ok(NODE_BYTES)
    }

    pub(super) fn level(&self) -> u8 {
        self.level
    }

    pub(super) fn count(&self) -> usize {
        usize::from(self.count)
    }

    pub(super) fn birth(&self) -> u64 {
        NodeHeader::ref_from_prefix(&self.bytes[..]).map_or(0, |(header, _)| header.birth.get())
    }

    /// The slots of a leaf; none for an inner node.
    pub(super) fn slots(&self) -> &[Slot] {
        let count = if self.level == 0 { self.count() } else { 0 };
        <[Slot]>::ref_from_prefix_with_elems(&self.bytes[HEADER_BYTES..], count)
            .map_or(&[], |(slots, _)| slots)
    }

    /// The children of an inner node; none for a leaf.
    pub(super) fn children(&self) -> &[Child] {
        let count = if self.level == 0 { 0 } else { self.count() };
        <[Child]>::ref_from_prefix_with_elems(&self.bytes[HEADER_BYTES..], count)
            .map_or(&[], |(children, _)| children)
    }

    /// The value in a slot of this leaf.
    pub(super) fn value(&self, slot: &Slot) -> &[u8] {
        let start = usize::from(slot.offset.get());
        &self.bytes[start..start + usize::from(slot.length.get())]
    }

    /// The lowest and the highest key in this node itself.
    pub(super) fn key_range(&self) -> Option<(Key, Key)> {
        if self.level == 0 {
            let slots = self.slots();
            Some((Key::from(&slots.first()?.key), Key::from(&slots.last()?.key)))
        } else {
            let children = self.children();
            Some((Key::from(&children.first()?.lowest), Key::from(&children.last()?.lowest)))
        }
    }

    /// Where in the slots a key is, or belongs.
    pub(super) fn find(&self, key: &Key) -> Result<usize, usize> {
        self.slots().binary_search_by(|slot| Key::from(&slot.key).cmp(key))
    }

    /// Which child a key is in: the last that does not begin after it.
    pub(super) fn child_of(&self, key: &Key) -> Option<usize> {
        self.children().partition_point(|child| Key::from(&child.lowest) <= *key).checked_sub(1)
    }

    /// The bytes behind the header that its entries and values take.
    pub(super) fn weight(&self) -> usize {
        if self.level == 0 {
            self.slots().iter().map(|slot| size_of::<Slot>() + usize::from(slot.length.get())).sum()
        } else {
            self.children().as_bytes().len()
        }
    }
}

fn wrong(why: &'static str) -> Malformed {
    malformed("index node", why)
}
