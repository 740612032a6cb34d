//! Data that is newer than the index: what a batch writes to blocks, sector range by sector range.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::device::Completion;
use crate::format::{BlockId, Extent};
use crate::limits::{
    CUT_ENDS_WEIGHT, DIRTY_SECTOR_WEIGHT, EXTENT_WEIGHT, REMOVED_WEIGHT, SECTOR_BYTES, SHARED_SECTOR_WEIGHT,
};

/// A plain sector. Shared by readers and the commit that seals it.
pub(super) type Page = Arc<[u8; SECTOR_BYTES]>;

/// What a segment holds.
#[derive(Clone)]
pub(super) enum Content {
    /// One plain sector.
    Plain(Page),
    /// Sealed and on its way to the device. `lead` sectors of the extent stand before the segment, so that it can be a
    /// part of whole units: only to be read.
    Sealed { extent: Arc<Extent>, completion: Completion, lead: u64 },
    /// Sectors that another extent holds too; the source's block and sector.
    Clone { extent: Arc<Extent>, source: (BlockId, u64), lead: u64 },
    /// Nothing: reads as zeros.
    Hole,
    /// Reads as zeros; the extents of the index below are removed in the background, not by this batch.
    Reclaimed,
}

/// A range of a block's sectors.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) sectors: u64,
    pub(super) content: Content,
}

impl Segment {
    pub(super) fn end(&self) -> u64 {
        self.start + self.sectors
    }

    /// Whether one hash covers several of its sectors.
    pub(super) fn has_units(&self) -> bool {
        match &self.content {
            Content::Sealed { extent, .. } | Content::Clone { extent, .. } => extent.unit() > 1,
            Content::Plain(_) | Content::Hole | Content::Reclaimed => false,
        }
    }

    /// What it adds to a record at most, in bytes, besides the extents that a hole or a clone removes, and
    /// what the clone of a shared extent changes.
    pub(super) fn weight(&self) -> usize {
        let sectors = self.sectors as usize;
        match &self.content {
            Content::Plain(_) => DIRTY_SECTOR_WEIGHT,
            Content::Sealed { extent, .. } => {
                let removed = sectors * (REMOVED_WEIGHT + SHARED_SECTOR_WEIGHT);
                EXTENT_WEIGHT + 32 * extent.hashes.len() + removed + CUT_ENDS_WEIGHT
            }
            // Its own extent, that of its source, which becomes a shared one, and the counts of both.
            Content::Clone { .. } => 2 * (EXTENT_WEIGHT + 32 * sectors) + 2 * SHARED_SECTOR_WEIGHT,
            Content::Hole => CUT_ENDS_WEIGHT,
            Content::Reclaimed => 0,
        }
    }

    /// The part of it between two sectors that it covers.
    pub(super) fn slice(&self, from: u64, to: u64) -> Self {
        let (skip, sectors) = (from - self.start, to - from);
        let content = match &self.content {
            Content::Plain(_) | Content::Hole | Content::Reclaimed => self.content.clone(),
            Content::Sealed { extent, completion, lead } => {
                let (extent, lead) = extent.part(lead + skip, sectors);
                Content::Sealed { extent: Arc::new(extent), completion: completion.clone(), lead }
            }
            Content::Clone { extent, source, lead } => {
                let (extent, lead) = extent.part(lead + skip, sectors);
                let source = (source.0, source.1 + skip);
                Content::Clone { extent: Arc::new(extent), source, lead }
            }
        };
        Self { start: from, sectors, content }
    }
}

/// The segments of a batch. They never overlap.
#[derive(Default)]
pub(super) struct Overlay {
    segments: BTreeMap<(BlockId, u64), Segment>,
}

impl Overlay {
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Puts a segment over whatever was there. Returns what it replaced.
    pub(super) fn insert(&mut self, block: BlockId, segment: Segment) -> Vec<Segment> {
        let (from, to) = (segment.start, segment.end());
        if let Content::Plain(_) = segment.content {
            // The common case: a dirty sector is written once more.
            if let Some(old) = self.segments.get_mut(&(block, from))
                && old.sectors == 1
            {
                return vec![std::mem::replace(old, segment)];
            }
        }
        let replaced = self.remove(block, from, to);
        self.segments.insert((block, from), segment);
        replaced
    }

    /// Cuts a range out.
    fn remove(&mut self, block: BlockId, from: u64, to: u64) -> Vec<Segment> {
        let touched: Vec<u64> = self.touching(block, from, to).map(|segment| segment.start).collect();
        let mut removed = Vec::with_capacity(touched.len());
        for start in touched {
            let segment = self.segments.remove(&(block, start)).expect("just seen");
            if segment.start < from {
                self.segments.insert((block, segment.start), segment.slice(segment.start, from));
            }
            if segment.end() > to {
                self.segments.insert((block, to), segment.slice(to, segment.end()));
            }
            removed.push(segment.slice(segment.start.max(from), segment.end().min(to)));
        }
        removed
    }

    /// The segments that overlap a range, in order.
    pub(super) fn touching(&self, block: BlockId, from: u64, to: u64) -> impl Iterator<Item = &Segment> {
        let before = self
            .segments
            .range((block, 0)..(block, from))
            .next_back()
            .map(|(_, segment)| segment)
            .filter(move |segment| segment.end() > from);
        before.into_iter().chain(self.segments.range((block, from)..(block, to)).map(|(_, segment)| segment))
    }

    /// The parts of a range that segments cover, cut to it, in order.
    pub(super) fn within(&self, block: BlockId, from: u64, to: u64) -> impl Iterator<Item = Segment> {
        self.touching(block, from, to)
            .map(move |segment| segment.slice(segment.start.max(from), segment.end().min(to)))
    }

    /// All segments, block by block.
    pub(super) fn iter(&self) -> impl Iterator<Item = (BlockId, &Segment)> {
        self.segments.iter().map(|((block, _), segment)| (*block, segment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(byte: u8, start: u64) -> Segment {
        Segment { start, sectors: 1, content: Content::Plain(Arc::new([byte; SECTOR_BYTES])) }
    }

    #[test]
    fn newer_segments_cut_older_ones() {
        let mut overlay = Overlay::default();
        overlay.insert(1, Segment { start: 0, sectors: 100, content: Content::Hole });
        assert_eq!(overlay.insert(1, page(1, 10)).len(), 1);
        overlay.insert(2, page(9, 10));
        let ranges: Vec<_> = overlay.within(1, 5, 50).map(|s| (s.start, s.sectors)).collect();
        assert_eq!(ranges, [(5, 5), (10, 1), (11, 39)]);
        assert_eq!(overlay.insert(1, page(2, 10)).len(), 1);
        assert_eq!(overlay.iter().count(), 4);
        overlay.insert(1, Segment { start: 0, sectors: u64::MAX / 4096, content: Content::Hole });
        assert_eq!(overlay.iter().count(), 2);
    }
}
