//! The read path: locate, read, verify, decrypt.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::layers::Layers;
use super::overlay::{Content, Page, Segment};
use super::{Block, Core};
use crate::crypto::{ExtentKey, hash_units, open_key, open_sectors_into};
use crate::device::{Completion, Read, SectorBuf};
use crate::error::{Error, Result};
use crate::format::{BlockId, Extent, ItemKind, Key};
use crate::limits::{EXTENT_SECTORS_MAX, REQUEST_SECTORS_MAX, SECTOR_BYTES};

const SECTOR: u64 = SECTOR_BYTES as u64;
/// What is answered where a repair had to give up data.
pub(super) const LOST: Error =
    Error::Corrupt { what: "data that was lost with a part of the index", sector: 0 };

/// What stands at a range of a block's sectors.
#[derive(Clone)]
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) sectors: u64,
    pub(super) source: Source,
}

#[derive(Clone)]
pub(super) enum Source {
    Zeros,
    /// A repair gave it up.
    Lost,
    Page(Page),
    Extent(Sealed),
}

/// Whole units on the device.
#[derive(Clone)]
pub(super) struct Sealed {
    pub(super) extent: Arc<Extent>,
    /// Says when it is there, where it may still be on its way.
    pub(super) completion: Option<Completion>,
    /// How many of its sectors stand before the piece.
    pub(super) lead: u64,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.sectors
    }
}

/// What sectors are read through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    /// The host's cache, which may be behind the device.
    Cache,
    Device,
}

/// Extents that stand one behind the other on the device, as files that were written in one go do: one read.
struct Group<'a> {
    pieces: Vec<(&'a Piece, &'a Sealed)>,
}

impl Group<'_> {
    fn sector(&self) -> u64 {
        self.pieces[0].1.extent.sector()
    }

    fn sectors(&self) -> u64 {
        self.pieces.iter().map(|(_, sealed)| sealed.extent.sectors()).sum()
    }

    fn takes(&self, extent: &Extent) -> bool {
        let sectors = self.sectors();
        extent.sector() == self.sector() + sectors && sectors + extent.sectors() <= REQUEST_SECTORS_MAX
    }
}

impl Core {
    /// Fills `bytes` from the block's data at `offset`.
    pub(super) fn read(&self, block: &Block, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.read_via(Via::Cache, block, offset, bytes)
    }

    /// The same, as the device has it now.
    pub(super) fn read_from_device(&self, block: &Block, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.read_via(Via::Device, block, offset, bytes)
    }

    fn read_via(&self, mut via: Via, block: &Block, offset: u64, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let from = offset / SECTOR;
        let to = (offset + bytes.len() as u64).div_ceil(SECTOR);
        loop {
            let pieces = self.locate(block, from, to)?;
            match self.fetch(block, &pieces, offset, bytes, via) {
                Err(Error::Corrupt { .. }) if via == Via::Cache => via = Via::Device,
                // The sectors may have been freed and reused while they were read.
                Err(Error::Corrupt { .. }) if self.moved(&pieces, &self.locate(block, from, to)?) => {}
                result => return result,
            }
        }
    }

    fn moved(&self, before: &[Piece], after: &[Piece]) -> bool {
        let sectors = |pieces: &[Piece]| -> Vec<_> {
            let extents = pieces.iter().map(|piece| match &piece.source {
                Source::Extent(sealed) => {
                    let header = &sealed.extent.header;
                    Some((header.sector, header.sectors, header.unit_log2, header.nonce))
                }
                Source::Zeros | Source::Lost | Source::Page(_) => None,
            });
            extents.collect()
        };
        sectors(before) != sectors(after)
    }

    /// What stands at the sectors `from..to`, in order and without gaps.
    pub(super) fn locate(&self, block: &Block, from: u64, to: u64) -> Result<Vec<Piece>> {
        let id = block.id();
        let (mut pieces, (gaps, dead_from), extents) = self.retry_locate(id, from, to)?;
        for (gap_from, gap_to) in gaps {
            let mut at = gap_from;
            for (start, extent) in &extents {
                let end = (start + extent.sectors()).min(dead_from);
                let (cut_from, cut_to) = ((*start).max(at), end.min(gap_to));
                if cut_from >= cut_to {
                    continue;
                }
                self.push_hole(id, at, cut_from, &mut pieces);
                let (part, lead) = extent.part(cut_from - start, cut_to - cut_from);
                let source = Source::Extent(Sealed { extent: Arc::new(part), completion: None, lead });
                pieces.push(Piece { start: cut_from, sectors: cut_to - cut_from, source });
                at = cut_to;
            }
            self.push_hole(id, at, gap_to, &mut pieces);
        }
        pieces.sort_by_key(|piece| piece.start);
        Ok(pieces)
    }

    /// What no layer says anything of: a hole, unless it is where data was lost.
    fn push_hole(&self, id: BlockId, from: u64, to: u64, pieces: &mut Vec<Piece>) {
        let (lost_from, lost_to) = self.lost_of(id).unwrap_or((to, to));
        let (lost_from, lost_to) = (lost_from.clamp(from, to), lost_to.clamp(from, to));
        let parts = [
            (from, lost_from, Source::Zeros),
            (lost_from, lost_to, Source::Lost),
            (lost_to.max(lost_from), to, Source::Zeros),
        ];
        for (start, end, source) in parts.into_iter().filter(|(start, end, _)| start < end) {
            pieces.push(Piece { start, sectors: end - start, source });
        }
    }

    /// The sectors of a block of which only extents can be read.
    pub(super) fn lost_of(&self, id: BlockId) -> Option<(u64, u64)> {
        self.lost.read().get(&id).copied()
    }

    /// What overlays say of a range; the gaps they leave, and from which sector on the index's extents are being
    /// reclaimed; the extents in the gaps.
    #[allow(clippy::type_complexity)]
    fn retry_locate(
        &self,
        id: u64,
        from: u64,
        to: u64,
    ) -> Result<(Vec<Piece>, (Vec<(u64, u64)>, u64), Vec<(u64, Extent)>)> {
        self.retry_with_root(|layers: &Layers| {
            let mut pieces = Vec::new();
            let mut gaps = vec![(from, to)];
            let overlays = std::iter::once(&layers.pending.data)
                .chain(layers.sealing.as_deref().map(|batch| &batch.data))
                .chain(layers.writing.iter().rev().map(|written| &written.batch.data));
            for overlay in overlays.filter(|overlay| !overlay.is_empty()) {
                let mut left = Vec::new();
                for (from, to) in gaps {
                    let mut at = from;
                    for segment in overlay.within(id, from, to) {
                        if segment.start > at {
                            left.push((at, segment.start));
                        }
                        at = segment.end();
                        pieces.push(piece(segment));
                    }
                    if at < to {
                        left.push((at, to));
                    }
                }
                gaps = left;
            }
            let range = gaps.first().zip(gaps.last()).map(|(first, last)| {
                let start = first.0.saturating_sub(EXTENT_SECTORS_MAX as u64 - 1);
                (Key::new(id, ItemKind::EXTENT, start), Key::new(id, ItemKind::EXTENT, last.1 - 1))
            });
            // In the same moment as the layers: what is not masked any more is cut in these.
            let dead_from = self.reclaim_of(id).map_or(u64::MAX, |reclaim| reclaim.from);
            ((pieces, (gaps, dead_from)), range)
        })
    }

    /// Reads and verifies what the pieces say, into `bytes` that stand at `offset` of the block.
    fn fetch(&self, block: &Block, pieces: &[Piece], offset: u64, bytes: &mut [u8], via: Via) -> Result<()> {
        let mut groups: Vec<Group<'_>> = Vec::new();
        for piece in pieces {
            match &piece.source {
                Source::Zeros => target(piece, offset, bytes).0.fill(0),
                Source::Lost => return Err(LOST),
                Source::Page(page) => {
                    let (target, skip) = target(piece, offset, bytes);
                    target.copy_from_slice(&page[skip..skip + target.len()]);
                }
                Source::Extent(sealed) => {
                    if let Some(completion) = &sealed.completion {
                        completion.wait().map_err(Error::Read)?;
                    }
                    match groups.last_mut() {
                        Some(group) if group.takes(&sealed.extent) => group.pieces.push((piece, sealed)),
                        _ => groups.push(Group { pieces: vec![(piece, sealed)] }),
                    }
                }
            }
        }
        let mut buffers: Vec<SectorBuf> =
            groups.iter().map(|group| self.device.buffer(group.sectors() as usize)).collect();
        let mut reads: Vec<Read<'_>> = groups
            .iter()
            .zip(&mut buffers)
            .map(|(group, bytes)| Read { sector: group.sector(), bytes })
            .collect();
        if !reads.is_empty() {
            let read = match via {
                Via::Cache => self.device.read_cached(&mut reads),
                Via::Device => self.device.read(&mut reads),
            };
            read.map_err(Error::Read)?;
        }
        for (group, buffer) in groups.iter().zip(&buffers) {
            let mut rest = &buffer[..];
            for (piece, Sealed { extent, lead, .. }) in &group.pieces {
                let (sealed, after) = rest.split_at(extent.sectors() as usize * SECTOR_BYTES);
                rest = after;
                let (target, skip) = target(piece, offset, bytes);
                self.open_part(block, extent, sealed, *lead as usize * SECTOR_BYTES + skip, target)?;
            }
        }
        Ok(())
    }

    /// Reads one sector of a segment.
    pub(super) fn read_segment(
        &self,
        block: &Block,
        segment: &Segment,
        sector: u64,
        page: &mut [u8],
    ) -> Result<()> {
        let own = segment.slice(sector, sector + 1);
        self.fetch(block, &[piece(own)], sector * SECTOR, page, Via::Device)
    }

    /// Verifies an extent's sectors and decrypts as many of their bytes from `skip` on as `plain` is long.
    fn open_part(
        &self,
        block: &Block,
        extent: &Extent,
        sealed: &[u8],
        skip: usize,
        plain: &mut [u8],
    ) -> Result<()> {
        let from = skip / SECTOR_BYTES;
        let to = (skip + plain.len()).div_ceil(SECTOR_BYTES);
        verify_extent(extent, sealed)?;
        let key = self.extent_key(block, extent)?;
        let (first, wanted) =
            (extent.header.skip.get() + from as u16, &sealed[from * SECTOR_BYTES..to * SECTOR_BYTES]);
        if plain.len() == wanted.len() {
            open_sectors_into(&key, first, wanted, plain);
        } else {
            let mut whole = Zeroizing::new(vec![0; wanted.len()]);
            open_sectors_into(&key, first, wanted, &mut whole);
            plain.copy_from_slice(&whole[skip % SECTOR_BYTES..][..plain.len()]);
        }
        Ok(())
    }

    pub(super) fn extent_key(&self, block: &Block, extent: &Extent) -> Result<ExtentKey> {
        let corrupt = Error::Corrupt { what: "key of an extent", sector: extent.sector() };
        let header = &extent.header;
        let keys = block.keys();
        let Some(keys) = keys.of_epoch(header.epoch.get()) else { return Err(corrupt) };
        if let Some(wrapped) = &extent.foreign_key {
            let secret = open_key(&keys.item, &header.nonce, wrapped).map_err(|_| corrupt)?;
            return Ok(ExtentKey::from_secret(&secret));
        }
        Ok(ExtentKey::derive(&keys.data, &header.nonce))
    }

    /// The first sector in `from..to` that is data, or a hole. Costs as much as there is to skip, and no more: whoever
    /// goes through a fragmented block from one answer to the next looks at each extent about twice.
    pub(super) fn seek(&self, block: &Block, from: u64, to: u64, hole: bool) -> Result<Option<u64>> {
        // Near at first, where most answers are; then farther and farther, for the index to be asked seldom.
        const STEP_MIN: u64 = 32;
        const STEP_MAX: u64 = 1 << 12;
        let (mut at, mut step) = (from, STEP_MIN);
        while at < to {
            let mut end = to.min(at + step);
            let pieces = self.locate(block, at, end)?;
            if let Some(piece) = pieces.iter().find(|piece| matches!(piece.source, Source::Zeros) == hole) {
                return Ok(Some(piece.start));
            }
            if !hole {
                // Nothing here: go on where the index or an overlay has something again.
                end = match self.next_data(block, end, to)? {
                    Some(next) => next,
                    None => return Ok(None),
                };
            }
            at = end;
            step = (2 * step).min(STEP_MAX);
        }
        Ok(None)
    }

    /// The first sector at or behind `from` at which some layer has a segment or an extent.
    fn next_data(&self, block: &Block, from: u64, to: u64) -> Result<Option<u64>> {
        // As many as can start before `from` and reach it, and one that lies behind.
        const NEAR: usize = EXTENT_SECTORS_MAX;
        if from >= to {
            return Ok(None);
        }
        let start =
            Key::new(block.id(), ItemKind::EXTENT, from.saturating_sub(EXTENT_SECTORS_MAX as u64 - 1));
        let end = Key::new(block.id(), ItemKind::EXTENT, to - 1);
        let (extents, _) = self.range_sealed(start, end, NEAR)?;
        let lost =
            self.lost_of(block.id()).map(|(lost_from, lost_to)| (lost_from.max(from), lost_to.min(to)));
        let lost = lost.and_then(|(from, to)| (from < to).then_some(from));
        let indexed = extents.iter().find_map(|(key, value)| {
            let extent = Extent::decode(value).ok()?;
            (key.offset + extent.sectors() > from).then_some(key.offset.max(from))
        });
        let layers = self.layers.read();
        let overlays = std::iter::once(&layers.pending.data)
            .chain(layers.sealing.as_deref().map(|batch| &batch.data))
            .chain(layers.writing.iter().map(|written| &written.batch.data));
        let dirty = overlays.filter_map(|overlay| {
            let mut segments = overlay.touching(block.id(), from, to);
            segments
                .find(|s| !matches!(s.content, Content::Hole | Content::Reclaimed))
                .map(|s| s.start.max(from))
        });
        // More extents than were asked for lie behind those that were seen.
        let unseen =
            (extents.len() >= NEAR && indexed.is_none()).then(|| extents[NEAR - 1].0.offset.max(from));
        Ok(dirty.chain(indexed).chain(unseen).chain(lost).min())
    }
}

/// Compares the hashes of an extent's units.
pub(super) fn verify_extent(extent: &Extent, sealed: &[u8]) -> Result<()> {
    let hashes = hash_units(sealed, extent.unit());
    match hashes.iter().zip(&extent.hashes).position(|(found, expected)| found != expected) {
        Some(index) => {
            Err(Error::Corrupt { what: "data", sector: extent.sector() + index as u64 * extent.unit() })
        }
        None => Ok(()),
    }
}

fn piece(segment: Segment) -> Piece {
    let source = match segment.content {
        Content::Plain(page) => Source::Page(page),
        Content::Sealed { extent, completion, lead } => {
            Source::Extent(Sealed { extent, completion: Some(completion), lead })
        }
        Content::Clone { extent, lead, .. } => Source::Extent(Sealed { extent, completion: None, lead }),
        Content::Hole | Content::Reclaimed => Source::Zeros,
    };
    Piece { start: segment.start, sectors: segment.sectors, source }
}

/// The part of `bytes` (which stand at `offset`) that a piece fills, and how far into the piece it starts.
fn target<'a>(piece: &Piece, offset: u64, bytes: &'a mut [u8]) -> (&'a mut [u8], usize) {
    let from = (piece.start * SECTOR).max(offset);
    let to = (piece.end() * SECTOR).min(offset + bytes.len() as u64);
    let skip = (from - piece.start * SECTOR) as usize;
    (&mut bytes[(from - offset) as usize..(to - offset) as usize], skip)
}
