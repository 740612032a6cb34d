//! Opening: keys, superblock, space, log; and recovery, which is opening after a crash.
//!
//! | step | what it establishes |
//! | --- | --- |
//! | key slot | the passphrase opens the secrets; the node's writecap comes from the root principal in them |
//! | superblock | the newest of which two copies verify under the node's key |
//! | space | the space table that it names |
//! | log | records behind it: chained, signed, and, past the last known-durable one, with all their data |
//! | deltas | the records' changes, in memory as they were before |
//!
//! Recovery changes nothing on the disk, so it can be interrupted and repeated.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::{Mutex, RwLock};
use zeroize::Zeroizing;

use super::anchoring::{Anchoring, describe, find_head};
use super::background::Background;
use super::checkpoint::superblock_hash;
use super::journal::is_own_note;
use super::layers::{Layers, MemTable};
use super::log::Record;

use super::read::verify_extent;
use super::{Core, Keys, OpenOptions, Sealer, Seq, Store, now_ns};
use crate::anchor::{AnchorError, Anchored, Rollback};
use crate::crypto::{
    Certificate, CertificateError, KeySlotError, Principal, Rights, Secret, unseal_keyslot, verify,
};
use crate::device::{Device, Read, SectorBuf};
use crate::error::Error;
use crate::format::{Change, Extent, ItemKind, Layout, Malformed, OTHER_VERSION, RecordHeader, Superblock};
use crate::limits::{
    EXTENT_SECTORS_MAX, IN_FLIGHT_BYTES_MAX, LOG_SECTORS_MIN, NODE_SECTORS, RECORD_SECTORS_MAX,
    REQUEST_BYTES_MAX, SECTOR_BYTES,
};
use crate::space::{Delta, Run, Space, Table, TableError};
use crate::tree::{NodeBytes, NodeReader, Root, Tree};

/// How many extents of a record are read with one request when it is checked, and how many requests are in flight:
/// 1 MiB and 16 MiB at most.
const CHECKED_EXTENTS: usize = REQUEST_BYTES_MAX / (EXTENT_SECTORS_MAX * SECTOR_BYTES);
const CHECKED_PIECES: usize = IN_FLIGHT_BYTES_MAX / 2 / REQUEST_BYTES_MAX;

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "this is not a Blocktree store, or both copies of its key slot are destroyed; name another place, or restore it \
         from a backup"
    )]
    NotAStore,
    #[error("written by another version of Blocktree, which this one cannot read; use that version")]
    Version,
    #[error("wrong passphrase")]
    WrongPassphrase,
    #[error("both copies of the key slot are damaged ({0}); restore the store from a backup")]
    KeySlot(Malformed),
    #[error("the node may not write to this store")]
    Certificate(#[from] CertificateError),
    #[error(
        "no two copies of the superblock are valid ({0}); `blocktree check --repair` can use a single one, otherwise \
         restore the store from a backup"
    )]
    Superblock(&'static str),
    #[error(
        "the volume is shorter ({found} sectors) than the store ({expected} sectors): a part of it is missing; restore \
         it from a backup"
    )]
    Truncated { expected: u64, found: u64 },
    #[error("the log is damaged at record {seq}: {why}; restore the store from a backup")]
    Log { seq: u64, why: &'static str },
    #[error("cannot read the volume")]
    Read(#[source] io::Error),
    #[error("cannot write the volume")]
    Write(#[source] io::Error),
    #[error(transparent)]
    Space(#[from] TableError),
    #[error("there is no snapshot named {0:?}; `blocktree snapshot list` shows those that there are")]
    NoSnapshot(String),
    #[error(
        "the store is not what {place} remembers: {what}. An older copy was put in its place, or the disk lost what it \
         had confirmed. If that is meant, because a backup was restored, mount it once with --accept-rollback (in mount \
         options: accept_rollback)"
    )]
    RolledBack { place: String, what: Rollback },
    #[error(
        "whether the store was rolled back cannot be told from its anchor {place}; mend that (see `anchor=` in `blocktree mount --help`), or mount the store \
         once with --accept-rollback (in mount options: accept_rollback), which believes the store and writes the anchor \
         anew"
    )]
    Anchor { place: String, source: AnchorError },
    #[error("a store of {0} sectors is too small or too large")]
    Size(u64),
    #[error(transparent)]
    Store(#[from] Error),
}

impl Store {
    /// Opens the store on a device, whatever happened to it when it was last open.
    pub fn open(
        device: Arc<dyn Device>,
        passphrase: &[u8],
        options: &OpenOptions,
    ) -> Result<Self, OpenError> {
        let mut options = options.clone();
        options.read_only |= options.snapshot.is_some();
        let (layout, keys) = open_keys(&*device, passphrase)?;
        // Before the disk: a writer that shares it with this reader makes both newer.
        let anchored = read_anchor(&options, &keys.store_id);
        let (superblock, superblocks) = newest_superblock(&*device, layout, &keys)?;
        let volume_sectors = superblock.volume_sectors.get();
        if device.sectors() < volume_sectors {
            return Err(OpenError::Truncated { expected: volume_sectors, found: device.sectors() });
        }
        let table = Table::read(&*device, superblock.space, volume_sectors)?;
        let space =
            Space::load(device.clone(), table, layout, volume_sectors, superblock.written_sectors.get())?;
        let log = read_log(&*device, layout, &keys, &superblock)?;
        let mut core = build(device, layout, keys, options, &superblock, space);
        core.superblocks = superblocks;
        core.check_anchor(anchored, &superblock, &log.records)?;
        core.replay(log)?;
        if !core.options.read_only {
            // What was read back may still be on its way; from now on it counts as durable.
            core.device.flush().map_err(OpenError::Write)?;
        }
        core.load_system_items(superblock.seq.get())?;
        if let Some(name) = core.options.snapshot.clone() {
            core.show_snapshot(&name)?;
        }
        core.load_journal()?;
        let newest = core.sealer.get_mut().seq;
        let is_behind = !core.options.read_only && core.anchoring.get_mut().is_behind(newest);
        if is_behind && core.anchoring.get_mut().is_new() {
            core.run_checkpoint()?;
        }
        let store = Self::start(core);
        if is_behind {
            store.core.request_checkpoint();
        }
        Ok(store)
    }

    /// Starts the background work of a store that is ready.
    pub(super) fn start(core: Core) -> Self {
        let core = Arc::new(core);
        let background = Background::start(&core);
        Self { core, background: Arc::new(background) }
    }
}

/// Puts a store together as its superblock describes it.
pub(super) fn build(
    device: Arc<dyn Device>,
    layout: Layout,
    keys: Keys,
    options: OpenOptions,
    superblock: &Superblock,
    space: Space,
) -> Core {
    let seq = superblock.seq.get();
    let root = Root { ptr: superblock.root, height: superblock.height.get() };
    let reader = Arc::new(DeviceNodes(device.clone()));
    let tree = Tree::new(reader, keys.structure.clone(), options.cache_bytes);
    Core {
        device,
        layout,
        superblocks: layout.superblocks(),
        capacity_sectors: superblock.capacity_sectors.get(),
        tree,
        open_blocks: Default::default(),
        journal: Default::default(),
        is_full: AtomicBool::new(false),
        layers: RwLock::new(Layers {
            pending: Default::default(),
            sealing: None,
            writing: VecDeque::new(),
            active: MemTable::default(),
            frozen: None,
            root,
            sealed_seq: seq,
            sealed_op: Seq(0),
            noted: 0,
        }),
        sealer: Mutex::new(Sealer {
            seq,
            previous: superblock.record_hash,
            position: superblock.log_position.get(),
            appended: 0,
            journal: Default::default(),
        }),
        leader: Mutex::new(()),
        checkpoint: Mutex::new(superblock.generation.get()),
        space: Mutex::new(space),
        freed: Default::default(),
        snapshots: Default::default(),
        anchoring: Mutex::new(Anchoring::new(&options, superblock)),
        reclaims: RwLock::new(BTreeMap::new()),
        lost: RwLock::new(BTreeMap::new()),
        reclaiming: Mutex::new(()),
        in_flight: Default::default(),
        generation: AtomicU64::new(superblock.generation.get()),
        nodes: AtomicU64::new(superblock.nodes.get()),
        next_block: AtomicU64::new(superblock.next_block.get()),
        next_op: AtomicU64::new(1),
        durable_op: AtomicU64::new(0),
        durable_seq: AtomicU64::new(seq),
        log_tail: AtomicU64::new(0),
        poisoned: AtomicBool::new(false),
        closed: AtomicBool::new(false),
        signal: Default::default(),
        keys,
        options,
    }
}

/// Index nodes, read from the device.
struct DeviceNodes(Arc<dyn Device>);

impl NodeReader for DeviceNodes {
    fn read_node(&self, sector: u64, bytes: &mut NodeBytes) -> io::Result<()> {
        if sector.checked_add(NODE_SECTORS as u64).is_none_or(|end| end > self.0.sectors()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut buffer = self.0.buffer(NODE_SECTORS);
        self.0.read(&mut [Read { sector, bytes: &mut buffer }])?;
        bytes.copy_from_slice(&buffer);
        Ok(())
    }
}

pub(super) fn read_sectors(device: &dyn Device, sector: u64, sectors: u64) -> io::Result<SectorBuf> {
    let mut bytes = device.buffer(sectors as usize);
    device.read(&mut [Read { sector, bytes: &mut bytes }])?;
    Ok(bytes)
}

fn open_keys(device: &dyn Device, passphrase: &[u8]) -> Result<(Layout, Keys), OpenError> {
    let (keys, _) = find_keys(device, passphrase)?;
    let layout = find_layout(device, &keys).ok_or_else(|| why_no_layout(device, &keys))?;
    Ok((layout, keys))
}

/// Finds a key slot that the passphrase opens, and returns it with what is in it. Its place depends on the length
/// of the log, so all are tried.
pub(super) fn find_keys(device: &dyn Device, passphrase: &[u8]) -> Result<(Keys, SectorBuf), OpenError> {
    let mut error = OpenError::NotAStore;
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for layout in Layout::candidates() {
        for sector in layout.keyslots() {
            if sector + 1 > device.sectors() {
                continue;
            }
            let bytes = read_sectors(device, sector, 1).map_err(OpenError::Read)?;
            // Guessing is slow on purpose: the same slot is not tried twice.
            if seen.iter().any(|known| known[..] == bytes[..]) {
                continue;
            }
            match unseal_keyslot(passphrase, &bytes) {
                Ok((header, secrets)) => {
                    return Ok((Keys::verify(&header, &secrets)?, bytes));
                }
                Err(KeySlotError::WrongPassphrase) => error = OpenError::WrongPassphrase,
                Err(KeySlotError::Malformed(why)) => {
                    if why.why == OTHER_VERSION {
                        error = OpenError::Version;
                    } else if why.why != "no magic number" && matches!(error, OpenError::NotAStore) {
                        error = OpenError::KeySlot(why);
                    }
                }
            }
            seen.push(bytes.to_vec());
        }
    }
    Err(error)
}

impl Keys {
    fn verify(
        header: &crate::format::KeySlotHeader,
        secrets: &crate::format::KeySlotSecrets,
    ) -> Result<Self, CertificateError> {
        let now = now_ns() / 1_000_000_000;
        let certificate = Certificate::verify(&header.certificate, &secrets.root_principal, now)?;
        let node = Principal::from_seeds(Zeroizing::new(secrets.node_seeds));
        if certificate.subject() != node.public() || !certificate.rights().contains(Rights::WRITE) {
            return Err(CertificateError::Issuer);
        }
        Ok(Self {
            store_id: header.store_id,
            owner: Secret::new(secrets.owner_key),
            structure: Secret::new(secrets.structure_key),
            node,
            root_principal: secrets.root_principal,
        })
    }
}

/// How many sectors the log zone has: what any valid copy of the superblock says.
pub(super) fn find_layout(device: &dyn Device, keys: &Keys) -> Option<Layout> {
    let copies = Layout::candidates().flat_map(|layout| layout.superblocks());
    copies
        .filter_map(|sector| read_superblock(device, keys, sector).ok())
        .map(|superblock| Layout::new(superblock.log_sectors.get()))
        .next()
}

/// What is to be said where no copy of the superblock is valid: what is wrong with those at the front, which every
/// layout has.
fn why_no_layout(device: &dyn Device, keys: &Keys) -> OpenError {
    let front = &Layout::new(LOG_SECTORS_MIN).superblocks()[..2];
    match front.iter().find_map(|sector| read_superblock(device, keys, *sector).err()) {
        Some(OTHER_VERSION) => OpenError::Version,
        Some(why) => OpenError::Superblock(why),
        None => OpenError::Superblock("none was found"),
    }
}

/// Reads and verifies one copy.
pub(super) fn read_superblock(
    device: &dyn Device,
    keys: &Keys,
    sector: u64,
) -> Result<Superblock, &'static str> {
    if sector >= device.sectors() {
        return Err("the volume is too short");
    }
    let bytes = read_sectors(device, sector, 1).map_err(|_| "cannot be read")?;
    let superblock = Superblock::decode(&bytes).map_err(|malformed| malformed.why)?;
    if superblock.store_id != keys.store_id || superblock.root_principal != keys.root_principal {
        return Err("of another store");
    }
    if superblock.author != keys.node.public().signing
        || !verify(&superblock.author, &superblock_hash(&superblock), &superblock.signature)
    {
        return Err("wrong signature");
    }
    Ok(superblock)
}

/// The newest superblock of which two copies are valid, and the order in which the next one overwrites the copies:
/// a crash may have left the newest in two of them only, and those come last.
fn newest_superblock(
    device: &dyn Device,
    layout: Layout,
    keys: &Keys,
) -> Result<(Superblock, [u64; 4]), OpenError> {
    let mut why = "all are too old";
    let mut valid: Vec<(u64, Superblock)> = Vec::new();
    for sector in layout.superblocks() {
        match read_superblock(device, keys, sector) {
            Ok(superblock) => valid.push((sector, superblock)),
            Err(reason) => why = reason,
        }
    }
    let twice = |superblock: &Superblock| valid.iter().filter(|(_, other)| other == superblock).count() > 1;
    let newest = valid.iter().map(|(_, superblock)| superblock).filter(|superblock| twice(superblock));
    let newest = newest.max_by_key(|superblock| superblock.generation.get()).cloned();
    let newest = newest.ok_or(OpenError::Superblock(why))?;
    let mut order = layout.superblocks();
    order.sort_by_key(|sector| valid.iter().any(|(at, copy)| at == sector && *copy == newest));
    Ok((newest, order))
}

/// The records behind a superblock, and where the next one goes.
pub(super) struct Log {
    pub(super) records: Vec<Record>,
    pub(super) position: u64,
    pub(super) appended: u64,
}

/// Reads the log as far as it is whole.
fn read_log(
    device: &dyn Device,
    layout: Layout,
    keys: &Keys,
    superblock: &Superblock,
) -> Result<Log, OpenError> {
    let (log, damage) = read_log_before_damage(device, layout, keys, superblock);
    damage.map_or(Ok(log), Err)
}

/// Reads the log as far as it is whole, or damaged: then also says how.
pub(super) fn read_log_before_damage(
    device: &dyn Device,
    layout: Layout,
    keys: &Keys,
    superblock: &Superblock,
) -> (Log, Option<OpenError>) {
    let mut log = Log { records: Vec::new(), position: superblock.log_position.get(), appended: 0 };
    let mut previous = superblock.record_hash;
    let mut seq = superblock.seq.get() + 1;
    loop {
        // A record that did not fit before the end of the zone stands at its start.
        let found = [log.position, 0].into_iter().find_map(|position| {
            let record = read_record(device, layout, keys, position).ok().flatten()?;
            let fits = record.head.seq.get() == seq && record.head.previous == previous;
            fits.then_some((position, record))
        });
        let Some((position, record)) = found else { break };
        if position != log.position {
            log.appended += layout.log_sectors() - log.position;
        }
        let sectors = u64::from(record.head.sectors.get());
        log.appended += sectors;
        if log.appended > layout.log_sectors() {
            return (log, Some(OpenError::Log { seq, why: "longer than the log zone" }));
        }
        log.position = (position + sectors) % layout.log_sectors();
        previous = record.hash;
        seq += 1;
        log.records.push(record);
    }
    let damage = match later_record(device, layout, keys, log.position, seq) {
        Ok(None) => cut_torn_tail(device, layout, superblock, &mut log).err(),
        Ok(Some(why)) => Some(OpenError::Log { seq, why }),
        Err(error) => Some(OpenError::Read(error)),
    };
    (log, damage)
}

/// The record at a place of the log, if a valid one is there.
fn read_record(
    device: &dyn Device,
    layout: Layout,
    keys: &Keys,
    position: u64,
) -> io::Result<Option<Record>> {
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
    Ok(Record::open(keys, head, &bytes).ok())
}

/// Whether behind the end of the log stands a record that knows record `seq` as durable: then that was not a
/// torn tail, but damage.
fn later_record(
    device: &dyn Device,
    layout: Layout,
    keys: &Keys,
    position: u64,
    seq: u64,
) -> io::Result<Option<&'static str>> {
    let near = (position + 2 * RECORD_SECTORS_MAX).min(layout.log_sectors());
    let wrapped = 2 * RECORD_SECTORS_MAX - (near - position);
    for (from, to) in [(position, near), (0, wrapped.min(position))] {
        let mut at = from;
        while at < to {
            let step = (to - at).min(256);
            let bytes = read_sectors(device, Layout::LOG_START + at, step)?;
            for (index, sector) in bytes.chunks_exact(SECTOR_BYTES).enumerate() {
                let Ok(head) = RecordHeader::decode(sector) else { continue };
                if head.seq.get() > seq
                    && head.durable_seq.get() >= seq
                    && read_record(device, layout, keys, at + index as u64)?.is_some()
                {
                    return Ok(Some("it is damaged, but a later record says that it was durable"));
                }
            }
            at += step;
        }
    }
    Ok(None)
}

/// Ends the log at the first record whose data did not all reach the disk. Those that are known to be durable
/// are not asked.
fn cut_torn_tail(
    device: &dyn Device,
    layout: Layout,
    superblock: &Superblock,
    log: &mut Log,
) -> Result<(), OpenError> {
    let durable = log.records.last().map_or(0, |last| last.head.durable_seq.get());
    let mut torn = None;
    for (index, record) in log.records.iter().enumerate() {
        if record.head.seq.get() > durable && !data_is_whole(device, record)? {
            torn = Some(index);
            break;
        }
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
    Ok(())
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

/// What the anchor remembers of the store, if there is one.
pub(super) fn read_anchor(
    options: &OpenOptions,
    store_id: &[u8; 16],
) -> Result<Option<Anchored>, AnchorError> {
    options.anchor.as_ref().map_or(Ok(None), |anchor| anchor.read(store_id))
}

impl Core {
    /// Refuses a store that does not contain what its anchor remembers, unless it is to be accepted.
    fn check_anchor(
        &mut self,
        anchored: Result<Option<Anchored>, AnchorError>,
        superblock: &Superblock,
        records: &[Record],
    ) -> Result<(), OpenError> {
        let is_accepted = self.options.accept_rollback;
        let anchoring = self.anchoring.get_mut();
        let place = anchoring.status().map_or(String::new(), |status| status.place);
        match anchored {
            Ok(None) => {}
            Ok(Some(anchored)) => {
                anchoring.knows(&anchored);
                match find_head(&anchored.head, superblock, records) {
                    Ok(()) => {}
                    Err(what) if is_accepted => anchoring.accepts(what.to_string()),
                    Err(what) => return Err(OpenError::RolledBack { place, what }),
                }
            }
            Err(error) if is_accepted => anchoring.accepts(describe(&error)),
            Err(source) => return Err(OpenError::Anchor { place, source }),
        }
        Ok(())
    }

    /// Applies the records to memory.
    fn replay(&mut self, log: Log) -> Result<(), OpenError> {
        let layers = self.layers.get_mut();
        let space = self.space.get_mut();
        let sealer = self.sealer.get_mut();
        let freed = self.freed.get_mut();
        (sealer.position, sealer.appended) = (log.position, log.appended);
        for record in log.records {
            let seq = record.head.seq.get();
            let damaged = |why| OpenError::Log { seq, why };
            let volume = record.head.volume_sectors.get();
            if volume > self.device.sectors() {
                return Err(OpenError::Truncated { expected: volume, found: self.device.sectors() });
            }
            if volume < space.volume_sectors() {
                return Err(damaged("the volume shrank"));
            }
            space.lengthen(volume);
            // As it was when the record was made: what it allocates may have been freed before.
            for run in freed.on_settled(record.head.durable_seq.get()) {
                space.mark(run, false)?;
            }
            let mut runs = Vec::new();
            for change in crate::format::decode_changes(&record.body) {
                match change.map_err(|_| damaged("malformed change"))? {
                    Change::Put(key, value) => {
                        if !is_own_note(&key, value, &record.head.author) {
                            return Err(damaged("it notes something in another's name"));
                        }
                        layers.active.insert(key, Some(value.into()));
                    }
                    Change::Delete(key) => layers.active.insert(key, None),
                    Change::Allocate { sector, sectors } => {
                        let run = Run { sector, sectors: u64::from(sectors) };
                        space.mark(run, true)?;
                        layers.active.space.push(Delta { run, used: true });
                    }
                    Change::Free { sector, sectors } => {
                        let run = Run { sector, sectors: u64::from(sectors) };
                        runs.push(run);
                        layers.active.space.push(Delta { run, used: false });
                    }
                }
            }
            // Another crash must find the data of records that no record on the disk names as durable.
            freed.push(seq, record.head.durable_seq.get(), runs);
            self.next_block.get_mut().clone_from(&record.head.next_block.get());
            (sealer.seq, sealer.previous) = (seq, record.hash);
            layers.sealed_seq = seq;
            *self.durable_seq.get_mut() = seq;
        }
        Ok(())
    }
}
