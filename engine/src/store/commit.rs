//! The write path: a batch is sealed, written with its record, and made durable.
//!
//! Invariants:
//! 1. Batches are sealed one after the other, in the order of their operations, each into one record.
//! 2. Data and record are on their way together; a record counts once both are there, which recovery checks.
//! 3. A flush follows the completion of everything that it is to make durable. A failed write or flush poisons
//!    the store; nothing is retried.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use rayon::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use super::batch::{Batch, Change};
use super::layers::{Value, Written};
use super::log::{RecordFields, record_sectors, seal_record};
use super::overlay::{Content, Page};
use super::resolve::Resolver;
use super::transaction::seal_extent;
use super::{Block, Core, Sealer, Seq, now_ns};
use crate::crypto::seal_item;
use crate::device::{Completion, SectorBuf, Write};
use crate::error::{Error, Result};
use crate::format::Change as RecordChange;
use crate::format::{BlockHeader, BlockId, Extent, ItemKind, Key, KeyBytes, Layout, encode_change};
use crate::limits::{
    EXTENT_SECTORS_MAX, RECORD_SECTORS_MAX, REQUEST_SECTORS_MAX, SECTOR_BYTES, WRITING_BATCHES_MAX,
};
use crate::space::{Delta, Run};

/// Below this, handing work to other threads costs more than it saves.
const PARALLEL_SECTORS: u64 = 64;
/// A commit of at most this many dirty sectors is small: somebody waits for it rather than for the next.
const SMALL_SECTORS: u64 = 64;

impl Core {
    /// Returns once every operation up to `seq` is durable. Those who wait at the same time share a flush.
    pub(super) fn sync(&self, seq: Seq) -> Result<()> {
        let is_durable = || self.durable_op.load(Ordering::Acquire) >= seq.0;
        if is_durable() {
            return Ok(());
        }
        let Some(_turn) = self.turn.take_unless(is_durable) else { return Ok(()) };
        self.check_sealable()?;
        self.commit()?;
        self.make_durable()
    }

    /// Makes every record durable that was sealed so far. The caller has the turn.
    pub(super) fn make_durable(&self) -> Result<()> {
        let (record, op) = {
            let layers = self.layers.read();
            (layers.sealed_seq, layers.sealed_op)
        };
        self.finish_writes(record)?;
        self.flush()?;
        self.durable_seq.fetch_max(record, Ordering::AcqRel);
        self.durable_op.fetch_max(op.0, Ordering::AcqRel);
        self.release_freed(record)
    }

    pub(super) fn flush(&self) -> Result<()> {
        self.device.flush().map_err(|error| self.poison_with("flush", &error))
    }

    /// Waits for the data and the records up to `seq` to reach the device.
    pub(super) fn finish_writes(&self, seq: u64) -> Result<()> {
        loop {
            let front = self.layers.read().writing.front().filter(|written| written.seq <= seq).cloned();
            let Some(written) = front else { return Ok(()) };
            for completion in written.completions.iter() {
                completion.wait().map_err(|error| self.poison_with("write", &error))?;
            }
            let mut layers = self.layers.write();
            if layers.writing.front().is_some_and(|front| front.seq == written.seq) {
                layers.writing.pop_front();
            }
        }
    }

    /// Seals what is pending and starts to write it. Does not wait for the device.
    pub(super) fn commit(&self) -> Result<()> {
        let sealer = self.sealer_with_room()?;
        self.seal_pending(sealer)
    }

    /// As [`Core::commit`], for who holds the lock that a checkpoint would need: whether the log had room.
    pub(super) fn commit_if_room(&self) -> Result<bool> {
        self.check_sealable()?;
        let sealer = self.sealer.lock();
        if !self.has_room(&sealer) {
            return Ok(false);
        }
        self.seal_pending(sealer).map(|()| true)
    }

    fn seal_pending(&self, mut sealer: MutexGuard<'_, Sealer>) -> Result<()> {
        let batch = {
            let mut layers = self.layers.write();
            if layers.pending.is_empty() {
                return Ok(());
            }
            let batch = Arc::new(std::mem::take(&mut layers.pending));
            layers.sealing = Some(batch.clone());
            batch
        };
        // What was applied cannot be taken back: a store that cannot seal it takes no more.
        self.seal(&mut sealer, &batch).inspect_err(|_| self.poison("sealing a batch"))?;
        drop(sealer);
        self.bound_writing()
    }

    /// Says on disk that the records so far were durable, if nothing does yet, by an empty record: from then on, damage to
    /// them is not taken for what a crash left half written. Does not wait for the device; tells whether there is anything
    /// to wait for.
    pub(super) fn attest(&self) -> Result<bool> {
        let mut sealer = self.sealer.lock();
        let is_attested = sealer.changed <= sealer.attested;
        if is_attested || sealer.changed > self.durable_seq.load(Ordering::Acquire) || !self.has_room(&sealer)
        {
            return Ok(false);
        }
        let nothing = Batch { newest: self.layers.read().sealed_op, ..Batch::default() };
        match self.seal(&mut sealer, &Arc::new(nothing)) {
            // Whoever may not or cannot write any more has no need of it.
            Err(Error::Expired | Error::LogFull) => Ok(false),
            result => result.map(|()| true).inspect_err(|_| self.poison("sealing a record")),
        }
    }

    /// As [`Core::attest`]; returns once it is durable.
    pub(super) fn attest_durably(&self) -> Result<()> {
        if self.attest()? { self.make_durable() } else { Ok(()) }
    }

    /// Waits for the oldest batch where too many may still be on their way to the device.
    fn bound_writing(&self) -> Result<()> {
        loop {
            let oldest = {
                let layers = self.layers.read();
                let is_full = layers.writing.len() > WRITING_BATCHES_MAX;
                layers.writing.front().filter(|_| is_full).map(|written| written.seq)
            };
            match oldest {
                Some(seq) => self.finish_writes(seq)?,
                None => return Ok(()),
            }
        }
    }

    /// Seals the pending batch if it holds data of `block`, so that the index knows all of it.
    pub(super) fn seal_block(&self, block: &Block) -> Result<()> {
        let dirty = {
            let layers = self.layers.read();
            let mut batches = std::iter::once(&layers.pending).chain(layers.sealing.as_deref());
            batches.any(|batch| batch.data.touching(block.id(), 0, u64::MAX).next().is_some())
        };
        if dirty { self.commit() } else { Ok(()) }
    }

    /// The sealer, once the log has room for one more record.
    pub(super) fn sealer_with_room(&self) -> Result<MutexGuard<'_, Sealer>> {
        loop {
            self.check_sealable()?;
            let sealer = self.sealer.lock();
            if self.has_room(&sealer) {
                return Ok(sealer);
            }
            drop(sealer);
            self.wait_for_checkpoint()?;
        }
    }

    fn has_room(&self, sealer: &Sealer) -> bool {
        // Who cannot empty the log takes nothing that has no room there.
        if self.bounds.is_some() {
            return true;
        }
        let used = sealer.appended - self.log_tail.load(Ordering::Acquire);
        // A record may have to skip as much as it is long before the log wraps.
        used + 2 * RECORD_SECTORS_MAX <= self.layout.log_sectors()
    }

    fn seal(&self, sealer: &mut Sealer, batch: &Arc<Batch>) -> Result<()> {
        let seq = sealer.seq + 1;
        let mut resolver = Resolver::new(self, seq);
        let (writes, mut completions) = self.seal_data(batch, &mut resolver)?;
        self.seal_items(batch, &mut resolver)?;
        let noted = self.seal_notes(batch, &mut sealer.journal, &mut resolver)?;

        let mut body = Vec::with_capacity(64 << 10);
        let mut space = Vec::new();
        for run in batch.allocated.iter().chain(&resolver.allocated) {
            space.push(Delta { run: *run, used: true });
            encode_change(
                &mut body,
                &RecordChange::Allocate { sector: run.sector, sectors: run.sectors as u32 },
            );
        }
        let freed: Vec<Run> = batch.useless.iter().chain(&resolver.freed).copied().collect();
        for run in &freed {
            space.push(Delta { run: *run, used: false });
            encode_change(&mut body, &RecordChange::Free { sector: run.sector, sectors: run.sectors as u32 });
        }
        for (key, value) in &resolver.changes {
            encode_change(
                &mut body,
                &match value {
                    Some(value) => RecordChange::Put(*key, value),
                    None => RecordChange::Delete(*key),
                },
            );
        }

        let sectors = record_sectors(body.len());
        if sectors > RECORD_SECTORS_MAX {
            return Err(Error::TooLong);
        }
        let fields = RecordFields {
            seq,
            durable_seq: self.durable_seq.load(Ordering::Acquire),
            volume_sectors: self.space.lock().volume_sectors(),
            next_block: self.next_block.load(Ordering::Relaxed),
            previous: sealer.previous,
            time_ns: sealer.time_ns.max(now_ns()),
        };
        if fields.time_ns >= self.expires_ns {
            return Err(Error::Expired);
        }
        self.judge_own(seq, fields.next_block, fields.time_ns, &body)?;
        let (record, hash) = seal_record(&*self.device, &self.keys, &fields, &body);
        let at = sealer.place(sectors, self.layout.log_sectors());
        if sealer.appended - self.log_tail.load(Ordering::Acquire) > self.layout.log_sectors() {
            return Err(Error::LogFull);
        }
        self.log_head.store(sealer.appended, Ordering::Release);
        let mut all = writes;
        all.push(Write { sector: Layout::LOG_START + at, bytes: record });
        completions.push(self.device.write(all));
        completions.extend(batch.completions.iter().cloned());

        sealer.went_on(seq, hash, fields.durable_seq, !body.is_empty());
        sealer.time_ns = fields.time_ns;
        self.freed.lock().push(seq, fields.durable_seq, freed);
        self.publish(batch, seq, noted, resolver.changes, space, completions);
        let used = sealer.appended - self.log_tail.load(Ordering::Acquire);
        if used * 2 > self.layout.log_sectors() {
            self.request_checkpoint();
        }
        Ok(())
    }

    /// Makes the sealed batch part of the deltas; its data stays readable from memory until it is written.
    fn publish(
        &self,
        batch: &Arc<Batch>,
        seq: u64,
        noted: Option<u64>,
        changes: BTreeMap<Key, Option<Value>>,
        space: Vec<Delta>,
        completions: Vec<Completion>,
    ) {
        let mut layers = self.layers.write();
        for (key, value) in changes {
            layers.active.insert(key, value);
        }
        layers.active.space.extend(space);
        layers.sealing = None;
        layers.sealed_seq = seq;
        layers.sealed_op = batch.newest;
        layers.noted = noted.unwrap_or(layers.noted);
        layers.writing.push_back(Written { batch: batch.clone(), seq, completions: completions.into() });
        let full = layers.active.bytes >= self.options.memtable_bytes;
        drop(layers);
        for (id, segment) in batch.data.iter() {
            if let (Content::Plain(_) | Content::Sealed { .. }, Some(block)) =
                (&segment.content, batch.blocks.get(&id))
            {
                block.0.unsealed.fetch_sub(segment.sectors, Ordering::Relaxed);
            }
        }
        if full {
            self.request_checkpoint();
        }
    }

    /// Gives every segment of the batch its place in the index, and seals what is still plain.
    fn seal_data(&self, batch: &Batch, resolver: &mut Resolver<'_>) -> Result<(Vec<Write>, Vec<Completion>)> {
        let mut births = VecDeque::new();
        for (_, segment) in batch.data.iter() {
            if let Content::Clone { extent, source, .. } = &segment.content {
                births.push_back(resolver.share(extent, *source)?);
            }
        }
        for ((id, start), finer) in &batch.finer {
            resolver.describe(*id, *start, finer)?;
        }
        // Cut first, adjacent ranges in one step, then put the new extents.
        let mut plain: Vec<PlainRun> = Vec::new();
        let mut cut: Option<(BlockId, u64, u64)> = None;
        for (id, segment) in batch.data.iter() {
            if matches!(segment.content, Content::Reclaimed) {
                continue;
            }
            cut = match cut {
                Some((block, from, to)) if block == id && to == segment.start => {
                    Some((block, from, segment.end()))
                }
                Some((block, from, to)) => {
                    resolver.cut(block, from, to)?;
                    Some((id, segment.start, segment.end()))
                }
                None => Some((id, segment.start, segment.end())),
            };
            if let Content::Plain(page) = &segment.content {
                match plain.last_mut() {
                    Some(run)
                        if run.id == id
                            && run.start + run.pages.len() as u64 == segment.start
                            && run.pages.len() < EXTENT_SECTORS_MAX =>
                    {
                        run.pages.push(page.clone());
                    }
                    _ => plain.push(PlainRun { id, start: segment.start, pages: vec![page.clone()] }),
                }
            }
        }
        if let Some((block, from, to)) = cut {
            resolver.cut(block, from, to)?;
        }
        for (id, segment) in batch.data.iter() {
            match &segment.content {
                Content::Sealed { extent, .. } => {
                    debug_assert_eq!(extent.sectors(), segment.sectors);
                    let mut extent = (**extent).clone();
                    extent.header.birth = resolver.seq.into();
                    resolver.put_extent(id, segment.start, &extent);
                }
                Content::Clone { extent, .. } => {
                    debug_assert_eq!(extent.sectors(), segment.sectors);
                    let mut extent = (**extent).clone();
                    extent.header.birth = births.pop_front().unwrap_or_default().into();
                    resolver.put_extent(id, segment.start, &extent);
                }
                Content::Plain(_) | Content::Hole | Content::Reclaimed => {}
            }
        }
        let writes = self.seal_plain(batch, plain, resolver)?;
        Ok((writes, Vec::new()))
    }

    /// Encrypts and hashes dirty pages, side by side where there are many.
    fn seal_plain(
        &self,
        batch: &Batch,
        plain: Vec<PlainRun>,
        resolver: &mut Resolver<'_>,
    ) -> Result<Vec<Write>> {
        let total: u64 = plain.iter().map(|run| run.pages.len() as u64).sum();
        debug_assert_eq!(total, batch.promised);
        if total == 0 {
            return Ok(Vec::new());
        }
        let runs = if total <= SMALL_SECTORS {
            let mut space = self.space.lock();
            let (runs, fresh) = space.allocate_written(total)?;
            // Under the lock, since what is filled with zeros here is free to be taken by others.
            self.write_zeros(&fresh)?;
            runs
        } else {
            self.space.lock().allocate(total, REQUEST_SECTORS_MAX)?
        };
        resolver.allocated.extend(&runs);
        let mut chunks = plan_chunks(&*self.device, batch, plain, &runs);
        let seal = |chunk: &mut Chunk| {
            for planned in &mut chunk.extents {
                let bytes =
                    &mut chunk.bytes[planned.at * SECTOR_BYTES..][..planned.pages.len() * SECTOR_BYTES];
                for (target, page) in bytes.chunks_exact_mut(SECTOR_BYTES).zip(&planned.pages) {
                    target.copy_from_slice(&page[..]);
                }
                let sector = chunk.sector + planned.at as u64;
                planned.sealed = Some(seal_extent(&planned.block, sector, bytes));
            }
        };
        if total >= PARALLEL_SECTORS {
            chunks.par_iter_mut().for_each(seal);
        } else {
            chunks.iter_mut().for_each(seal);
        }
        let mut writes = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            for planned in chunk.extents {
                let mut extent = planned.sealed.expect("just sealed");
                extent.header.birth = resolver.seq.into();
                resolver.put_extent(planned.block.id(), planned.start, &extent);
            }
            writes.push(Write { sector: chunk.sector, bytes: chunk.bytes });
        }
        Ok(writes)
    }

    /// Seals the items of the batch.
    fn seal_items(&self, batch: &Batch, resolver: &mut Resolver<'_>) -> Result<()> {
        let block = |id: BlockId| batch.blocks.get(&id).expect("an item comes with its block");
        resolver.settle_sectors(&batch.blocks);
        for (key, change) in &batch.items {
            let value = match change {
                Change::Delete => None,
                Change::Raw(value) => Some(value.clone()),
                Change::Item(item) => {
                    let mut value = Vec::with_capacity(item.clear.len() + item.secret.len() + 32);
                    value.extend_from_slice(&(item.clear.len() as u16).to_le_bytes());
                    value.extend_from_slice(&item.clear);
                    seal_at(block(key.block), key, &item.secret, &mut value);
                    Some(value.into())
                }
                Change::Attributes { plain, home } => {
                    let block = block(key.block);
                    let header = BlockHeader { home: (*home).into(), ..block.0.header() };
                    let mut value = header.as_bytes().to_vec();
                    seal_at(block, key, plain, &mut value);
                    Some(value.into())
                }
            };
            resolver.changes.insert(*key, value);
        }
        // Blocks whose data changed, but not their attributes.
        for (id, block) in &batch.blocks {
            let key = Key::new(*id, ItemKind::HEADER, 0);
            let has_units = block.0.largest_unit_log2.load(Ordering::Relaxed) > 0;
            if batch.items.contains_key(&key) || !(has_units || resolver.sectors_changed(*id)) {
                continue;
            }
            if let Some(old) = resolver.get(&key)? {
                let (old, attributes) = BlockHeader::ref_from_prefix(&old)
                    .map_err(|_| Error::Corrupt { what: "block header", sector: 0 })?;
                let header = BlockHeader { home: old.home, ..block.0.header() };
                if header == *old {
                    continue;
                }
                let value = [header.as_bytes(), attributes].concat();
                resolver.changes.insert(key, Some(value.into()));
            }
        }
        Ok(())
    }
}

/// Seals `plain` under a block's item key, bound to its key of the index.
fn seal_at(block: &Block, key: &Key, plain: &[u8], value: &mut Vec<u8>) {
    seal_item(&block.keys().item, KeyBytes::from(*key).as_bytes(), plain, value);
}

/// Dirty sectors of a block, one after the other.
struct PlainRun {
    id: BlockId,
    start: u64,
    pages: Vec<Page>,
}

/// One write on the device, and the extents in it.
struct Chunk {
    sector: u64,
    bytes: SectorBuf,
    extents: Vec<Planned>,
}

struct Planned {
    block: Block,
    start: u64,
    /// Offset in the chunk, in sectors.
    at: usize,
    pages: Vec<Page>,
    sealed: Option<Extent>,
}

/// Lays dirty runs out over the allocated ones.
fn plan_chunks(
    device: &dyn crate::device::Device,
    batch: &Batch,
    plain: Vec<PlainRun>,
    runs: &[Run],
) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = runs
        .iter()
        .map(|run| Chunk {
            sector: run.sector,
            bytes: device.buffer(run.sectors as usize),
            extents: Vec::new(),
        })
        .collect();
    let (mut index, mut at) = (0, 0);
    for mut run in plain {
        let block = batch.blocks.get(&run.id).expect("data comes with its block");
        while !run.pages.is_empty() {
            let room = runs[index].sectors as usize - at;
            let rest = run.pages.split_off(run.pages.len().min(room));
            let count = run.pages.len();
            chunks[index].extents.push(Planned {
                block: block.clone(),
                start: run.start,
                at,
                pages: run.pages,
                sealed: None,
            });
            run = PlainRun { id: run.id, start: run.start + count as u64, pages: rest };
            at += count;
            if at == runs[index].sectors as usize {
                (index, at) = (index + 1, 0);
            }
        }
    }
    chunks
}
