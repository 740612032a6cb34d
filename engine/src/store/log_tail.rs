//! Reading the log when a store opens: how far it goes, and whether each record's author had a right to write it.
//!
//! Invariants:
//! 1. A record counts if it is chained to the one before it, its signature is right, its author holds a writecap at the
//!    time that it says, and no time goes backwards.
//! 2. What is known to be durable must count; past that, the first record whose data is not there ends the log.
//! 3. A record whose author had no right to it ends the log, as if it had never been written, unless somebody who may write
//!    the whole store went on behind it: then that was believed once, and something is wrong.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;

use super::Core;
use super::authors::{Authors, Moment};
use super::judge::{Refusal, RefusedRecord};
use super::log::Record;
use super::open::{OpenError, read_sectors};
use super::read::verify_extent;
use crate::crypto::{CertificateError, Chain, Hash};
use crate::device::{Device, Read, SectorBuf, Write};
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
    /// Where each record stands, and what had been appended with it.
    places: Vec<(u64, u64)>,
    /// Of records whose author may write only a part of the store: what lets it. What they change is not looked into yet.
    pub(super) parts: HashMap<u64, Vec<Chain>>,
    /// What ended the log, where that was a record without a right, and where it and what follows it stand.
    pub(super) refused: Option<RefusedRecord>,
    doomed: Vec<u64>,
}

const OLDER: &str = "older than the record before it";

/// What lets a record count.
enum Authority {
    /// Its author may write the whole store.
    Whole,
    Parts(Vec<Chain>),
}

/// Reads the log as far as it is whole. `core` knows the writecaps as of the superblock, and learns those of the log.
pub(super) fn read_log(core: &Core, superblock: &Superblock) -> Result<Log, OpenError> {
    let (log, damage) = read_log_before_damage(core, superblock);
    damage.map_or(Ok(log), Err)
}

/// Reads the log as far as it is whole, or damaged: then also says how.
pub(super) fn read_log_before_damage(core: &Core, superblock: &Superblock) -> (Log, Option<OpenError>) {
    let (layout, mut authors) = (core.layout, core.authors.lock());
    let mut log = Log {
        records: Vec::new(),
        position: superblock.log_position.get(),
        appended: 0,
        places: Vec::new(),
        parts: HashMap::new(),
        refused: None,
        doomed: Vec::new(),
    };
    let mut previous = superblock.record_hash;
    let mut seq = superblock.seq.get() + 1;
    let mut time_ns = superblock.time_ns.get();
    while let Some((position, record)) = chained(core, &authors, log.position, seq, &previous) {
        let is_older = record.head.time_ns.get() < time_ns;
        if is_older && log.records.is_empty() {
            // A crash left it without its data, and the checkpoint was written by who recovered from that.
            break;
        }
        // Of who has no right, nothing else matters.
        let authority = match authority(&mut authors, &record) {
            Ok(Authority::Parts(_)) if is_older => Err(Refusal::Change(OLDER)),
            Ok(Authority::Parts(_)) if !is_well_formed(&record.body) => {
                Err(Refusal::Change("it is malformed"))
            }
            Ok(authority) => Ok(authority),
            Err(why) => Err(why.into()),
        };
        let authority = match authority {
            Ok(authority) => authority,
            Err(why) => {
                let refused = RefusedRecord::new(seq, &record.head.author, why);
                let followers = followers(core, &authors, position, &record);
                // Where writecaps may be missing, nobody is told that it had none.
                if !authors.is_complete() || followers.iter().any(|follower| follower.is_whole) {
                    return (log, Some(OpenError::Refused(refused)));
                }
                log.doomed =
                    std::iter::once(position).chain(followers.iter().map(|one| one.position)).collect();
                log.refused = Some(refused);
                let damage = cut_torn_tail(&*core.device, layout, superblock, &mut log).err();
                return (log, damage);
            }
        };
        if position != log.position {
            log.appended += layout.log_sectors() - log.position;
        }
        let sectors = u64::from(record.head.sectors.get());
        log.appended += sectors;
        if log.appended > layout.log_sectors() {
            return (log, Some(OpenError::Log { seq, why: "longer than the log zone" }));
        }
        if is_older {
            return (log, Some(OpenError::Log { seq, why: OLDER }));
        }
        if let Authority::Parts(chains) = authority {
            log.parts.insert(seq, chains);
        }
        log.position = (position + sectors) % layout.log_sectors();
        (previous, time_ns) = (record.hash, record.head.time_ns.get());
        seq += 1;
        log.places.push((position, log.appended));
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
    let authors = core.authors.lock();
    let mut found: BTreeMap<u64, Record> = BTreeMap::new();
    scan_heads(core, (0, core.layout.log_sectors()), &mut |at, head| -> Option<()> {
        if head.seq.get() <= seq {
            return None;
        }
        let record = read_record(core, &authors, at).ok().flatten()?;
        let time_ns = |record: &Record| record.head.time_ns.get();
        match found.entry(record.head.seq.get()) {
            Entry::Vacant(place) => drop(place.insert(record)),
            Entry::Occupied(mut known) if time_ns(known.get()) < time_ns(&record) => {
                known.insert(record);
            }
            Entry::Occupied(_) => {}
        }
        None
    });
    found.into_values().collect()
}

/// Goes through what may be heads of records in a range of the log zone, until `visit` has an answer. Also says why a part
/// of it could not be read, if that is so.
fn scan_heads<T>(
    core: &Core,
    (from, to): (u64, u64),
    visit: &mut dyn FnMut(u64, &RecordHeader) -> Option<T>,
) -> (Option<T>, Option<io::Error>) {
    const STEP: u64 = 256;
    let mut unreadable = None;
    for at in (from..to).step_by(STEP as usize) {
        let (bytes, failure) = read_what_can_be(&*core.device, Layout::LOG_START + at, STEP.min(to - at));
        unreadable = failure.or(unreadable);
        for (position, sector) in (at..).zip(bytes.chunks_exact(SECTOR_BYTES)) {
            if let Ok(head) = RecordHeader::decode(sector)
                && let Some(answer) = visit(position, &head)
            {
                return (Some(answer), unreadable);
            }
        }
    }
    (None, unreadable)
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

/// Refuses a record whose author has no writecap that holds. Notes those that one who may write the whole store brings;
/// who may write a part of it brings none.
fn authority(authors: &mut Authors, record: &Record) -> Result<Authority, CertificateError> {
    let at = moment(&record.head);
    if authors.whole_store(&record.head.author, at).is_err() {
        return authors.parts(&record.head.author, at).map(Authority::Parts);
    }
    for change in crate::format::decode_changes(&record.body) {
        if let Ok(Change::Put(key, value)) = change {
            // One that does not verify is nobody's.
            let _ = authors.note(&key, value);
        }
    }
    Ok(Authority::Whole)
}

/// Whether a body can be looked into.
fn is_well_formed(body: &[u8]) -> bool {
    crate::format::decode_changes(body).all(|change| match change {
        Ok(Change::Put(key, value)) => key.kind != ItemKind::EXTENT || Extent::decode(value).is_ok(),
        change => change.is_ok(),
    })
}

/// The moment at which a record's author needs its right.
fn moment(head: &RecordHeader) -> Moment {
    Moment { seconds: head.time_ns.get() / 1_000_000_000, seq: head.seq.get() }
}

/// A record behind one that is refused.
struct Follower {
    position: u64,
    is_whole: bool,
}

/// The records that were chained to one.
fn followers(core: &Core, authors: &Authors, position: u64, record: &Record) -> Vec<Follower> {
    let log_sectors = core.layout.log_sectors();
    let mut followers = Vec::new();
    let next = |position: u64, head: &RecordHeader| (position + u64::from(head.sectors.get())) % log_sectors;
    let (mut at, mut seq, mut previous) = (next(position, &record.head), record.head.seq.get(), record.hash);
    // No more than fit the zone.
    while (followers.len() as u64) < log_sectors {
        let next_one = seq.checked_add(1).and_then(|seq| chained(core, authors, at, seq, &previous));
        let Some((position, record)) = next_one else { break };
        let is_whole = authors.whole_store(&record.head.author, moment(&record.head)).is_ok();
        followers.push(Follower { position, is_whole });
        (at, seq, previous) = (next(position, &record.head), record.head.seq.get(), record.hash);
    }
    followers
}

impl Log {
    /// Lets the log end before a record that turned out to change what its author may not. Fails where somebody who may
    /// write the whole store went on behind it.
    pub(super) fn end_before(
        &mut self,
        index: usize,
        why: &'static str,
        layout: Layout,
        superblock: &Superblock,
    ) -> Result<(), OpenError> {
        let head = &self.records[index].head;
        let refused = RefusedRecord::new(head.seq.get(), &head.author, Refusal::Change(why));
        let is_part = |record: &Record| self.parts.contains_key(&record.head.seq.get());
        if !self.records[index..].iter().all(is_part) {
            return Err(OpenError::Refused(refused));
        }
        let positions: Vec<u64> = self.places[index..].iter().map(|(position, _)| *position).collect();
        self.doomed.splice(0..0, positions);
        self.refused = Some(refused);
        self.truncate(index, layout, superblock);
        Ok(())
    }

    fn truncate(&mut self, count: usize, layout: Layout, superblock: &Superblock) {
        self.records.truncate(count);
        self.places.truncate(count);
        (self.position, self.appended) = match (self.records.last(), self.places.last()) {
            (Some(last), Some((position, appended))) => {
                ((position + u64::from(last.head.sectors.get())) % layout.log_sectors(), *appended)
            }
            _ => (superblock.log_position.get(), 0),
        };
    }

    /// Takes records off the disk that do not count, so that what is written in their place stands alone. The first of them
    /// goes last: as long as it is there, it ends the log.
    pub(super) fn erase_refused(&self, device: &dyn Device) -> io::Result<()> {
        let Some((first, others)) = self.doomed.split_first() else { return Ok(()) };
        for positions in [others, std::slice::from_ref(first)] {
            let zeros = |position: &u64| Write::zeros(device, Layout::LOG_START + position, 1);
            device.write(positions.iter().map(zeros).collect()).wait()?;
            device.flush()?;
        }
        Ok(())
    }
}

/// The record with a number that follows the one with this hash, and where it stands: at `position`, or, if it did not fit
/// before the end of the zone, at its start.
fn chained(
    core: &Core,
    authors: &Authors,
    position: u64,
    seq: u64,
    previous: &Hash,
) -> Option<(u64, Record)> {
    [position, 0].into_iter().find_map(|position| {
        let record = read_record(core, authors, position).ok().flatten()?;
        let fits = record.head.seq.get() == seq && record.head.previous == *previous;
        fits.then_some((position, record))
    })
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
    for range in behind_the_end(core.layout, position) {
        let (witness, failure) = scan_heads(core, range, &mut |at, head| {
            let is_later = head.seq.get() > seq && head.durable_seq.get() >= seq;
            if !is_later || !authors.may_testify(&head.author, moment(head)) {
                return None;
            }
            match read_record(core, authors, at) {
                Ok(Some(_)) => Some("it is damaged, but a later record says that it was durable"),
                Ok(None) => None,
                Err(error) => {
                    unreadable = Some(error);
                    None
                }
            }
        });
        if witness.is_some() {
            return Ok(witness);
        }
        unreadable = failure.or(unreadable);
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
        log.truncate(index, layout, superblock);
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
