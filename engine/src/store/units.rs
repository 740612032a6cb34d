//! Units of more than one sector: what happens where one hash covers sectors that go and sectors that stay.
//!
//! Whoever is to cut a unit has it described anew first, with a hash for each of its sectors. Its data stays where it
//! is, so that this needs no space and cannot fail halfway; it fails, before anything is changed, where the data is
//! not what was written.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::overlay::{Content, Segment};
use super::read::{Sealed, Source, verify_extent};
use super::transaction::{END, Transaction};
use super::{Block, Core};
use crate::crypto::hash_sectors;
use crate::device::Read;
use crate::error::{Error, Result};
use crate::format::{BlockId, Extent};
use crate::limits::{EXTENT_WEIGHT_MAX, UNIT_LOG2_MAX};

/// Where a unit stands that is to be described anew.
enum Standing {
    /// In the index.
    Indexed,
    /// Only in memory so far.
    Pending,
    /// An operation before this one has described it.
    Described,
}

impl Transaction {
    /// Lets up to `unit` sectors of new data of a block have one hash: a power of two, no more than a whole extent. What
    /// stands there already stays as it is. The same transaction must set the block's attributes.
    pub fn set_unit(&mut self, block: &Block, unit: u64) {
        assert!(unit.is_power_of_two() && unit.ilog2() <= u32::from(UNIT_LOG2_MAX));
        self.units.push((block.clone(), unit.ilog2() as u8));
    }

    /// Sees to it that no unit reaches over an edge of the sectors `from..to`, which are to be cut out.
    pub(super) fn part_units(&mut self, block: &Block, from: u64, to: u64) -> Result<()> {
        let own = self.data.iter().any(|(owner, segment)| owner.id() == block.id() && segment.has_units());
        if block.0.largest_unit_log2.load(Ordering::Relaxed) == 0 && !own {
            return Ok(());
        }
        for edge in [from, to] {
            if (1..END).contains(&edge) {
                self.part_own(block.id(), edge)?;
                self.part_below(block, edge)?;
            }
        }
        Ok(())
    }

    /// As [`Transaction::part_units`], of what this transaction itself wrote.
    fn part_own(&mut self, id: BlockId, edge: u64) -> Result<()> {
        let core = self.core.clone();
        let own = self.data.iter_mut().filter(|(owner, _)| owner.id() == id);
        for (_, segment) in own.filter(|(_, segment)| (segment.start + 1..segment.end()).contains(&edge)) {
            match &mut segment.content {
                Content::Sealed { extent, completion, .. } if extent.unit() > 1 => {
                    completion.wait().map_err(Error::Read)?;
                    *extent = Arc::new(core.describe(extent)?);
                }
                Content::Clone { extent, .. } if extent.unit() > 1 => {
                    *extent = Arc::new(core.describe(extent)?);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn part_below(&mut self, block: &Block, edge: u64) -> Result<()> {
        let core = self.core.clone();
        while let Some((start, sealed)) = core.unit_across(block, edge)? {
            let nonce = &sealed.extent.header.nonce;
            if self
                .finer
                .iter()
                .any(|(id, at, finer)| (*id, *at) == (block.id(), start) && finer.header.nonce == *nonce)
            {
                return Ok(());
            }
            match core.standing(block.id(), start, edge, nonce) {
                Standing::Described => return Ok(()),
                Standing::Pending => core.commit()?,
                Standing::Indexed => {
                    let finer = core.describe_sealed(&sealed)?;
                    self.finer.push((block.id(), start, Arc::new(finer)));
                    // What stands before and behind it in its extent, and itself.
                    self.weight += 3 * EXTENT_WEIGHT_MAX;
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Core {
    /// The unit that holds the sectors on both sides of `edge`, and its first one in the block.
    fn unit_across(&self, block: &Block, edge: u64) -> Result<Option<(u64, Sealed)>> {
        let pieces = self.locate(block, edge - 1, edge + 1)?;
        Ok(match &pieces[..] {
            [piece] => match &piece.source {
                Source::Extent(sealed) if !(sealed.lead + 1).is_multiple_of(sealed.extent.unit()) => {
                    Some((piece.start - sealed.lead, sealed.clone()))
                }
                _ => None,
            },
            _ => None,
        })
    }

    fn standing(&self, id: BlockId, start: u64, edge: u64, nonce: &[u8; 16]) -> Standing {
        let layers = self.layers.read();
        let mut batches = std::iter::once(&layers.pending).chain(layers.sealing.as_deref());
        if batches.any(|batch| batch.data.touching(id, edge - 1, edge + 1).any(Segment::has_units)) {
            return Standing::Pending;
        }
        let mut batches = std::iter::once(&layers.pending).chain(layers.sealing.as_deref());
        let described = |finer: &Arc<Extent>| finer.header.nonce == *nonce;
        match batches.any(|batch| batch.finer.get(&(id, start)).is_some_and(described)) {
            true => Standing::Described,
            false => Standing::Indexed,
        }
    }

    /// The same sectors with a hash for each.
    pub(super) fn describe_sealed(&self, sealed: &Sealed) -> Result<Extent> {
        if let Some(completion) = &sealed.completion {
            completion.wait().map_err(Error::Read)?;
        }
        self.describe(&sealed.extent)
    }

    /// Exactly `sectors` sectors behind the lead, to be a part of another block.
    pub(super) fn exactly(&self, sealed: &Sealed, sectors: u64) -> Result<Arc<Extent>> {
        let is_whole = sealed.lead == 0 && sealed.extent.sectors() == sectors;
        if !is_whole {
            return Ok(Arc::new(self.describe_sealed(sealed)?.slice(sealed.lead, sectors)));
        }
        if let Some(completion) = &sealed.completion {
            completion.wait().map_err(Error::Read)?;
        }
        Ok(sealed.extent.clone())
    }

    fn describe(&self, extent: &Extent) -> Result<Extent> {
        let mut bytes = self.device.buffer(extent.sectors() as usize);
        self.device.read(&mut [Read { sector: extent.sector(), bytes: &mut bytes }]).map_err(Error::Read)?;
        verify_extent(extent, &bytes)?;
        let mut finer = extent.clone();
        finer.header.unit_log2 = 0;
        finer.hashes = hash_sectors(&bytes);
        Ok(finer)
    }
}
