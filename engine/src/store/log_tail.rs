//! Reading the log when a store opens: how far it goes, and whether each record's author had a right to write it.
//!
//! Invariants:
//! 1. A record counts if it is chained to the one before it, its signature is right, its author holds a writecap at the
//!    time that it says, and no time goes backwards.
//! 2. What is known to be durable must count; past that, the first record whose data is not there ends the log.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;

use super::Core;
use super::authors::{self, Authors, describe_author};
use super::log::Record;
use super::open::{OpenError, read_sectors};
use super::read::verify_extent;
use crate::device::{Device, Read, SectorBuf};
use crate::format::{Change, Extent, ItemKind, Layout, RecordHeader, Superblock};
use crate::limits::{
    EXTENT_SECTORS_MAX, IN_FLIGHT_BYTES_MAX, RECORD_SECTORS_MAX, REQUEST_BYTES_MAX, SECTOR_BYTES,
};

/// How many extents of a record are read with one request when it is checked, and how many requests are in flight:
/// 1 MiB and 16 MiB at most.
const CHECKED_EXTENTS: usize = REQUEST_BYTES_MAX / (EXTENT_SECTORS_MAX * SECTOR_BYTES);
const CHECKED_PIECES: usize = IN_FLIGHT_BYTES_MAX / 2 / REQUEST_BYTES_MAX;

/// The records behind a superblock, and where the next one goes.
pub(super) struct Log {
    pub(super) records: Vec<Record>,
    pub(super) position: u64,
    pub(super) appended: u64,
}

/// Reads the log as far as it is whole. `core` knows the writecaps as of the superblock, and learns those of the log.
pub(super) fn read_log(core: &Core, superblock: &Superblock) -> Result<Log, OpenError> {
    let (log, damage) = read_log_before_damage(core, superblock);
    damage.map_or(Ok(log), Err)
}

/// Reads the log as far as it is whole, or damaged: then also says how.
pub(super) fn read_log_before_damage(core: &Core, superblock: &Superblock) -> (Log, Option<OpenError>) {
    let (layout, mut authors) = (core.layout, core.authors.lock());
    let mut log = Log { records: Vec::new(), position: superblock.log_position.get(), appended: 0 };
    let mut previous = superblock.record_hash;
    let mut seq = superblock.seq.get() + 1;
    let mut time_ns = superblock.time_ns.get();
    loop {
        // A record that did not fit before the end of the zone stands at its start.
        let found = [log.position, 0].into_iter().find_map(|position| {
            let record = read_record(core, &authors, position).ok().flatten()?;
            let fits = record.head.seq.get() == seq && record.head.previous == previous;
            fits.then_some((position, record))
        });
        let Some((position, record)) = found else { break };
        let is_older = record.head.time_ns.get() < time_ns;
        if is_older && log.records.is_empty() {
            // A crash left it without its data, and the checkpoint was written by who recovered from that.
            break;
        }
        if position != log.position {
            log.appended += layout.log_sectors() - log.position;
        }
        let sectors = u64::from(record.head.sectors.get());
        log.appended += sectors;
        if log.appended > layout.log_sectors() {
            return (log, Some(OpenError::Log { seq, why: "longer than the log zone" }));
        }
        if is_older {
            return (log, Some(OpenError::Log { seq, why: "older than the record before it" }));
        }
        if let Err(error) = know_author(&mut authors, &record) {
            return (log, Some(error));
        }
        log.position = (position + sectors) % layout.log_sectors();
        (previous, time_ns) = (record.hash, record.head.time_ns.get());
        seq += 1;
        log.records.push(record);
    }
    let damage = match later_record(core, &authors, log.position, seq) {
        Ok(None) => cut_torn_tail(&*core.device, layout, superblock, &mut log).err(),
        Ok(Some(why)) => Some(OpenError::Log { seq, why }),
        // Nothing says that a record was there: the end is looked for as after any crash.
        Err(error) => {
            let torn = cut_torn_tail(&*core.device, layout, superblock, &mut log);
            Some(torn.err().unwrap_or(OpenError::Read(error)))
        }
    };
    (log, damage)
}

/// All records of the log zone that verify and are newer than record `seq`, in order: what stands behind damage, and
/// does not chain. Of several with one number, the one that is newest by its time.
pub(super) fn records_behind(core: &Core, seq: u64) -> Vec<Record> {
    const STEP: u64 = 256;
    let (authors, zone) = (core.authors.lock(), core.layout.log_sectors());
    let mut found: BTreeMap<u64, Record> = BTreeMap::new();
    for from in (0..zone).step_by(STEP as usize) {
        let (bytes, _) = read_what_can_be(&*core.device, Layout::LOG_START + from, STEP.min(zone - from));
        for (index, sector) in bytes.chunks_exact(SECTOR_BYTES).enumerate() {
            let is_newer = RecordHeader::decode(sector).is_ok_and(|head| head.seq.get() > seq);
            if !is_newer {
                continue;
            }
            let Ok(Some(record)) = read_record(core, &authors, from + index as u64) else { continue };
            let time_ns = |record: &Record| record.head.time_ns.get();
            match found.entry(record.head.seq.get()) {
                Entry::Vacant(place) => drop(place.insert(record)),
                Entry::Occupied(mut known) if time_ns(known.get()) < time_ns(&record) => {
                    known.insert(record);
                }
                Entry::Occupied(_) => {}
            }
        }
    }
    found.into_values().collect()
}

/// Where records may stand behind the end of the log.
pub(super) fn behind_the_end(layout: Layout, position: u64) -> [(u64, u64); 2] {
    let near = (position + 2 * RECORD_SECTORS_MAX).min(layout.log_sectors());
    let wrapped = 2 * RECORD_SECTORS_MAX - (near - position);
    [(position, near), (0, wrapped.min(position))]
}

/// Reads sectors, with zeros in place of those that cannot be read, and says why they cannot.
fn read_what_can_be(device: &dyn Device, sector: u64, sectors: u64) -> (SectorBuf, Option<io::Error>) {
    if let Ok(bytes) = read_sectors(device, sector, sectors) {
        return (bytes, None);
    }
    let mut bytes = device.buffer(sectors as usize);
    let mut failure = None;
    for (target, at) in bytes.chunks_exact_mut(SECTOR_BYTES).zip(sector..) {
        match read_sectors(device, at, 1) {
            Ok(one) => target.copy_from_slice(&one),
            Err(error) => {
                target.fill(0);
                failure = Some(error);
            }
        }
    }
    (bytes, failure)
}

/// Refuses a record whose author has no writecap for the whole store that holds, and notes those that it brings.
fn know_author(authors: &mut Authors, record: &Record) -> Result<(), OpenError> {
    let (seq, author) = (record.head.seq.get(), record.head.author);
    let at = authors::Moment { seconds: record.head.time_ns.get() / 1_000_000_000, seq };
    match authors.whole_store(&author, at) {
        Ok(_) => {}
        Err(why) => return Err(OpenError::Refused { seq, author: describe_author(&author), why }),
    }
    for change in crate::format::decode_changes(&record.body) {
        if let Ok(Change::Put(key, value)) = change {
            // One that does not verify is nobody's.
            let _ = authors.note(&key, value);
        }
    }
    Ok(())
}

/// The record at a place of the log, if a valid one is there.
fn read_record(core: &Core, authors: &Authors, position: u64) -> io::Result<Option<Record>> {
    let (device, layout) = (&*core.device, core.layout);
    let first = read_sectors(device, Layout::LOG_START + position, 1)?;
    let Ok(head) = RecordHeader::decode(&first) else { return Ok(None) };
    let sectors = u64::from(head.sectors.get());
    if position + sectors > layout.log_sectors() {
        return Ok(None);
    }
    let bytes = match sectors {
        1 => first,
        _ => read_sectors(device, Layout::LOG_START + position, sectors)?,
    };
    let record = Record::open(&core.keys, head, &bytes).ok();
    Ok(record.filter(|record| authors.may_know(&record.head.author)))
}

/// Whether behind the end of the log stands a record that knows record `seq` as durable: then that was not a
/// torn tail, but damage.
fn later_record(core: &Core, authors: &Authors, position: u64, seq: u64) -> io::Result<Option<&'static str>> {
    let mut unreadable = None;
    for (from, to) in behind_the_end(core.layout, position) {
        let mut at = from;
        while at < to {
            let step = (to - at).min(256);
            let (bytes, failure) = read_what_can_be(&*core.device, Layout::LOG_START + at, step);
            unreadable = failure.or(unreadable);
            for (index, sector) in bytes.chunks_exact(SECTOR_BYTES).enumerate() {
                let Ok(head) = RecordHeader::decode(sector) else { continue };
                if head.seq.get() <= seq || head.durable_seq.get() < seq {
                    continue;
                }
                match read_record(core, authors, at + index as u64) {
                    Ok(Some(_)) => {
                        return Ok(Some("it is damaged, but a later record says that it was durable"));
                    }
                    Ok(None) => {}
                    Err(error) => unreadable = Some(error),
                }
            }
            at += step;
        }
    }
    unreadable.map_or(Ok(None), Err)
}

/// Ends the log at the first record whose data did not all reach the disk, or which makes no sense: then it fails. Those
/// that are known to be durable are not asked.
fn cut_torn_tail(
    device: &dyn Device,
    layout: Layout,
    superblock: &Superblock,
    log: &mut Log,
) -> Result<(), OpenError> {
    let durable = log.records.last().map_or(0, |last| last.head.durable_seq.get());
    let (mut torn, mut damage) = (None, None);
    for (index, record) in log.records.iter().enumerate() {
        if record.head.seq.get() <= durable {
            continue;
        }
        match data_is_whole(device, record) {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error @ OpenError::Log { .. }) => damage = Some(error),
            Err(error) => return Err(error),
        }
        torn = Some(index);
        break;
    }
    if let Some(index) = torn {
        log.records.truncate(index);
        let mut position = superblock.log_position.get();
        let mut appended = 0;
        for record in &log.records {
            let sectors = u64::from(record.head.sectors.get());
            if position + sectors > layout.log_sectors() {
                appended += layout.log_sectors() - position;
                position = 0;
            }
            appended += sectors;
            position = (position + sectors) % layout.log_sectors();
        }
        (log.position, log.appended) = (position, appended);
    }
    damage.map_or(Ok(()), Err)
}

/// Whether all data that a record brought is there. What lies side by side is read at once, and several such
/// pieces together: a record may bring thousands of sectors that are an extent each.
fn data_is_whole(device: &dyn Device, record: &Record) -> Result<bool, OpenError> {
    let damaged = |why| OpenError::Log { seq: record.head.seq.get(), why };
    let mut extents = Vec::new();
    for change in crate::format::decode_changes(&record.body) {
        let Ok(change) = change else { return Err(damaged("malformed change")) };
        let Change::Put(key, value) = change else { continue };
        if key.kind != ItemKind::EXTENT {
            continue;
        }
        let extent = Extent::decode(value).map_err(|_| damaged("malformed extent"))?;
        if extent.birth() != record.head.seq.get() {
            continue;
        }
        if extent.sector() + extent.sectors() > device.sectors() {
            return Ok(false);
        }
        extents.push(extent);
    }
    extents.sort_unstable_by_key(Extent::sector);
    let neighbours = |a: &Extent, b: &Extent| a.sector() + a.sectors() == b.sector();
    let pieces: Vec<&[Extent]> =
        extents.chunk_by(neighbours).flat_map(|piece| piece.chunks(CHECKED_EXTENTS)).collect();
    for pieces in pieces.chunks(CHECKED_PIECES) {
        let length = |piece: &[Extent]| piece.iter().map(Extent::sectors).sum::<u64>();
        let mut buffers: Vec<SectorBuf> =
            pieces.iter().map(|piece| device.buffer(length(piece) as usize)).collect();
        let mut reads: Vec<Read<'_>> = pieces
            .iter()
            .zip(&mut buffers)
            .map(|(piece, bytes)| Read { sector: piece[0].sector(), bytes })
            .collect();
        device.read(&mut reads).map_err(OpenError::Read)?;
        let whole = pieces.iter().zip(&buffers).all(|(piece, bytes)| {
            piece.iter().all(|extent| {
                let from = (extent.sector() - piece[0].sector()) as usize * SECTOR_BYTES;
                verify_extent(extent, &bytes[from..][..extent.sectors() as usize * SECTOR_BYTES]).is_ok()
            })
        });
        if !whole {
            return Ok(false);
        }
    }
    Ok(true)
}
