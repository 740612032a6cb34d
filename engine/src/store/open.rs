//! Opening: keys, superblock, space, log; and recovery, which is opening after a crash.
//!
//! | step | what it establishes |
//! | --- | --- |
//! | key slot | the passphrase opens the secrets; or a principal's key opens an access slot |
//! | superblock | the newest of which two copies verify, by an author whose writecap leads to the root principal |
//! | space | the space table that it names |
//! | authors | the writecaps in its index |
//! | log | records behind it: chained, signed, and, past the last known-durable one, with all their data |
//! | deltas | the records' changes, in memory as they were before |
//!
//! Recovery changes nothing on the disk, so it can be interrupted and repeated.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::{Mutex, RwLock};
use zerocopy::IntoBytes;

use super::access::open_slots;
use super::anchoring::{Anchoring, describe, find_head};
use super::authors::{self, Authors};
use super::background::Background;
use super::checkpoint::superblock_hash;
use super::freed::Freed;
use super::journal::is_own_note;
use super::judge::{Bounds, Claims, Judgement, Refusal, RefusedRecord, judge};
use super::keys::{Credential, Keys, Role};
use super::layers::{Layers, MemTable};
use super::log::Record;
use super::log_tail::{Log, read_log, read_log_before_damage};
use super::nodes::DeviceNodes;
use super::readers::{decode_readcap, open_readcap};
use super::turn::Turn;
use super::{Core, OpenOptions, Sealer, Seq, Store, WHOLE_STORE, now_ns};
use crate::anchor::{AnchorError, Anchored, Rollback};
use crate::crypto::{
    Certificate, CertificateError, Chain, Hash, KeySlotError, Rights, unseal_keyslot, verify,
};
use crate::device::{Device, Read, SectorBuf};
use crate::error::Error;
use crate::format::{
    BlockId, CertificateBytes, Change, ItemKind, KeySlotHeader, KeySlotSecrets, Layout, Malformed,
    OTHER_VERSION, RecordHeader, Superblock,
};
use crate::limits::{LOG_SECTORS_MIN, SUPERBLOCK_CHAIN_MAX};
use crate::space::{Delta, Run, Space, Table, TableError};
use crate::tree::{Root, Tree};

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
    #[error("no access slot of this store opens with this principal's key; ask its owner for access")]
    NoAccess,
    #[error("the store keeps no root key; take it from its backup")]
    NoRootSlot,
    #[error("the store belongs to another root principal than the one that was named")]
    OtherRoot,
    #[error(
        "the store belongs to another root principal than the one that {place} remembers: somebody put another store in \
         its place"
    )]
    OtherRootThanKnown { place: String },
    #[error("who opens the store may not write to it; mount it read-only, or ask its owner for a writecap")]
    Certificate(#[from] CertificateError),
    #[error(
        "record {} of the log, by {}, is refused: {}. Whoever wrote it had no right to, and others went on from it; restore \
         the store from a backup", .0.seq, .0.author, .0.why
    )]
    Refused(RefusedRecord),
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
    #[error(
        "the log is damaged at record {seq}: {why}; restore the store from a backup, or see what `blocktree check` says: \
         `blocktree check --repair` gives up everything from that record on"
    )]
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
        Self::open_as(device, &Credential::Passphrase(passphrase), options)
    }

    /// As [`Store::open`], by whoever has the credential. What that may not write is opened for reading only, unless
    /// it is a passphrase.
    pub fn open_as(
        device: Arc<dyn Device>,
        credential: &Credential<'_>,
        options: &OpenOptions,
    ) -> Result<Self, OpenError> {
        let mut options = options.clone();
        options.read_only |= options.snapshot.is_some() || options.before_damage;
        options.read_only |= matches!(credential, Credential::Master(_));
        let (layout, keys) = open_keys(&*device, credential)?;
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
        let mut core =
            build(device.clone(), DeviceNodes::new(&device), layout, keys, options, &superblock, space);
        core.superblocks = superblocks;
        core.load_authors(&superblock)?;
        let mut log = match core.options.before_damage {
            true => read_log_before_damage(&core, &superblock).0,
            false => read_log(&core, &superblock)?,
        };
        let ids_from = core.replay(&mut log, &superblock)?;
        core.check_anchor(anchored, &superblock, &log.records)?;
        core.take_rights(matches!(credential, Credential::Principal { .. }), superblock.seq.get(), ids_from)?;
        if !core.options.read_only {
            log.erase_refused(&*core.device).map_err(OpenError::Write)?;
            // What was read back may still be on its way; from now on it counts as durable.
            core.device.flush().map_err(OpenError::Write)?;
        }
        if let Some(refused) = &log.refused {
            tracing::warn!(
                "record {} of the log, by {}, does not count: {}",
                refused.seq,
                refused.author,
                refused.why
            );
        }
        core.refused = log.refused.take();
        drop(log);
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
        if !core.options.read_only {
            core.attest_durably()?;
            core.tell_of_record(false)?;
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
    nodes: DeviceNodes,
    layout: Layout,
    keys: Keys,
    options: OpenOptions,
    superblock: &Superblock,
    mut space: Space,
) -> Core {
    space.refuse(options.refusals.clone());
    let seq = superblock.seq.get();
    let root = Root { ptr: superblock.root, height: superblock.height.get() };
    let tree = Tree::new(Arc::new(nodes), keys.structure.clone(), options.cache_bytes);
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
            changed: seq,
            attested: seq,
            time_ns: superblock.time_ns.get(),
            position: superblock.log_position.get(),
            appended: 0,
            journal: Default::default(),
        }),
        turn: Turn::default(),
        checkpoint: Mutex::new(superblock.generation.get()),
        space: Mutex::new(space),
        freed: Default::default(),
        snapshots: Default::default(),
        anchoring: Mutex::new(Anchoring::new(&options, superblock, keys.root_principal)),
        authors: Mutex::new(Authors::new(keys.store_id, keys.root_principal)),
        granting: Mutex::new(()),
        expires_ns: u64::MAX,
        bounds: None,
        refused: None,
        reclaims: RwLock::new(BTreeMap::new()),
        lost: RwLock::new(BTreeMap::new()),
        stales: RwLock::new(BTreeMap::new()),
        reclaiming: Mutex::new(()),
        in_flight: Default::default(),
        generation: AtomicU64::new(superblock.generation.get()),
        nodes: AtomicU64::new(superblock.nodes.get()),
        next_block: AtomicU64::new(superblock.next_block.get()),
        next_op: AtomicU64::new(1),
        durable_op: AtomicU64::new(0),
        durable_seq: AtomicU64::new(seq),
        log_head: AtomicU64::new(0),
        log_tail: AtomicU64::new(0),
        poisoned: AtomicBool::new(false),
        closed: AtomicBool::new(false),
        signal: Default::default(),
        keys,
        options,
    }
}

pub(super) fn read_sectors(device: &dyn Device, sector: u64, sectors: u64) -> io::Result<SectorBuf> {
    let mut bytes = device.buffer(sectors as usize);
    device.read(&mut [Read { sector, bytes: &mut bytes }])?;
    Ok(bytes)
}

fn open_keys(device: &dyn Device, credential: &Credential<'_>) -> Result<(Layout, Keys), OpenError> {
    let mut why = OpenError::NoAccess;
    for keys in find_keys(device, credential)?.0 {
        match find_layout(device, &keys) {
            Some(layout) => return Ok((layout, keys)),
            None => why = why_no_layout(device, &keys),
        }
    }
    Err(why)
}

/// All keys that the credential may give, and the key slot if it was that.
pub(super) fn find_keys(
    device: &dyn Device,
    credential: &Credential<'_>,
) -> Result<(Vec<Keys>, Option<SectorBuf>), OpenError> {
    match *credential {
        Credential::Passphrase(passphrase) => {
            let (header, secrets, sector) = find_key_slot(device, passphrase)?;
            Ok((vec![Keys::from_key_slot(&header, &secrets)], Some(sector)))
        }
        Credential::Principal { holder, root } => Ok((open_slots(device, holder, root)?, None)),
        Credential::Master(master) => Ok((vec![Keys::from_master(master)], None)),
    }
}

/// Whether any copy of the superblock could be one.
pub(super) fn looks_like_a_store(device: &dyn Device) -> Result<bool, OpenError> {
    for sector in Layout::candidates().flat_map(|layout| layout.superblocks()) {
        if sector < device.sectors() {
            let bytes = read_sectors(device, sector, 1).map_err(OpenError::Read)?;
            if Superblock::decode(&bytes).is_ok() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Finds a key slot that the passphrase opens, and returns it with what is in it. Its place depends on the length
/// of the log, so all are tried.
pub(super) fn find_key_slot(
    device: &dyn Device,
    passphrase: &[u8],
) -> Result<(KeySlotHeader, KeySlotSecrets, SectorBuf), OpenError> {
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
                Ok((header, secrets)) => return Ok((header, secrets, bytes)),
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

/// Why a copy of the superblock is not valid, other than that its bytes are wrong.
pub(super) const TOO_SHORT: &str = "the volume is too short";
pub(super) const UNREADABLE: &str = "cannot be read";
pub(super) const OTHER_STORE: &str = "of another store";
pub(super) const NO_WRITECAP: &str = "its author holds no writecap for the store";

/// Reads and verifies one copy.
pub(super) fn read_superblock(
    device: &dyn Device,
    keys: &Keys,
    sector: u64,
) -> Result<Superblock, &'static str> {
    if sector >= device.sectors() {
        return Err(TOO_SHORT);
    }
    let bytes = read_sectors(device, sector, 1).map_err(|_| UNREADABLE)?;
    let superblock = Superblock::decode(&bytes).map_err(|malformed| malformed.why)?;
    if superblock.store_id != keys.store_id || superblock.root_principal != keys.root_principal {
        return Err(OTHER_STORE);
    }
    if !verify(&superblock.author, &superblock_hash(&superblock), &superblock.signature) {
        return Err("wrong signature");
    }
    author_of(&superblock).map_err(|_| NO_WRITECAP)?;
    Ok(superblock)
}

/// The chain by which a superblock's author may sign it, as it says itself. Whether a link was revoked, its index says.
fn author_of(superblock: &Superblock) -> Result<Chain, CertificateError> {
    let is_link = |bytes: &&CertificateBytes| bytes.as_bytes().iter().any(|byte| *byte != 0);
    let verified = superblock.chain.iter().take_while(is_link);
    let links: Vec<Certificate> = verified
        .map(|bytes| Certificate::verify(bytes, &superblock.store_id))
        .collect::<Result<_, CertificateError>>()?;
    let seconds = superblock.time_ns.get() / 1_000_000_000;
    let is_whole = |block, above| block == WHOLE_STORE && above == WHOLE_STORE;
    let chain = Chain::verify(&links, &superblock.root_principal, seconds, &mut { is_whole })?;
    let own = chain.own();
    if own.subject().signing != superblock.author || own.block() != WHOLE_STORE {
        return Err(CertificateError::Issuer);
    }
    if !own.rights().contains(Rights::WRITE) {
        return Err(CertificateError::Wider);
    }
    Ok(chain)
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

impl Core {
    /// Takes note of the writecaps that the index of the superblock holds, and of those that it and the key slot show.
    /// Fails where the superblock's own author was among the revoked. Where a part of the index cannot be read, the rest
    /// is noted all the same.
    pub(super) fn load_authors(&mut self, superblock: &Superblock) -> Result<(), OpenError> {
        let mut authors = Authors::new(self.keys.store_id, self.keys.root_principal);
        let chain = author_of(superblock)?;
        // Items that do not verify are nobody's: a check lists them.
        for certificate in chain.links().iter().map(Certificate::bytes).chain(&self.keys.slot_certificate) {
            let _ = authors.add(certificate);
        }
        let mut unread = None;
        for (from, to) in Authors::ranges() {
            match self.range_sealed(from, to, usize::MAX / 2) {
                Ok((items, _)) => items.iter().for_each(|(key, value)| {
                    let _ = authors.note(key, value);
                }),
                Err(error) => unread = Some(error),
            }
        }
        authors.set_complete(unread.is_none());
        let is_revoked = |link| authors.revoked_at(link).is_some_and(|last| superblock.seq.get() > last);
        let revoked = chain.links().iter().any(is_revoked);
        *self.authors.get_mut() = authors;
        if revoked {
            let why = Refusal::Author(CertificateError::Revoked);
            return Err(OpenError::Refused(RefusedRecord::new(
                superblock.seq.get(),
                &superblock.author,
                why,
            )));
        }
        unread.map_or(Ok(()), |error| Err(error.into()))
    }

    /// What whoever opened the store may do with it now. One that may write nothing gets it for reading only if
    /// `may_only_read`, and is refused otherwise.
    fn take_rights(
        &mut self,
        may_only_read: bool,
        checkpoint_seq: u64,
        ids_from: BlockId,
    ) -> Result<(), OpenError> {
        let sealer = self.sealer.get_mut();
        let now_ns = now_ns().max(sealer.time_ns);
        let at = authors::Moment { seconds: now_ns / 1_000_000_000, seq: sealer.seq + 1 };
        if self.keys.owner.is_none() {
            for (key, value) in self.system_items(ItemKind::READCAP)? {
                let Ok(bytes) = decode_readcap(&key, &value) else { continue };
                let is_mine = bytes.recipient == self.keys.node.public().to_bytes();
                if !is_mine || at.seconds >= bytes.expires.get() {
                    continue;
                }
                if let Ok(cap) = open_readcap(&self.keys.store_id, &self.keys.node, &bytes) {
                    self.keys.readcaps.push(cap);
                }
            }
        }
        let chain = self.authors.get_mut().whole_store(&self.keys.node.public().signing, at);
        match (self.keys.role(), chain) {
            (Role::Owner, Ok(chain)) if chain.links().len() <= SUPERBLOCK_CHAIN_MAX => {
                self.keys.chain = chain.links().to_vec();
                self.expires_ns = self.keys.expires_ns();
            }
            _ if self.options.read_only => {}
            (Role::Writer, Err(_)) => self.take_a_part(at, checkpoint_seq, ids_from),
            (Role::Owner, Ok(_)) => return Err(CertificateError::TooLong.into()),
            (Role::Owner, Err(why)) => return Err(why.into()),
            (_, Err(why)) if !may_only_read => return Err(why.into()),
            _ => self.options.read_only = true,
        }
        Ok(())
    }
}

impl Core {
    /// What a writer of a part of the store may do now: what its writecaps allow until the first of them ends, or read.
    fn take_a_part(&mut self, at: authors::Moment, checkpoint_seq: u64, ids_from: BlockId) {
        let author = self.keys.node.public().signing;
        let chains = self.authors.get_mut().parts(&author, at).unwrap_or_default();
        let chains: Vec<Chain> = chains.into_iter().filter(|chain| self.leads_down(chain)).collect();
        let tops: Vec<BlockId> = chains.iter().map(|chain| chain.own().block()).collect();
        if tops.is_empty() {
            self.options.read_only = true;
            return;
        }
        let expires =
            chains.iter().flat_map(Chain::links).map(Certificate::expires).min().unwrap_or(u64::MAX);
        self.expires_ns = expires.saturating_mul(1_000_000_000);
        let next_block = *self.next_block.get_mut();
        self.bounds = Some(Bounds { author, tops, ids_from, next_block, checkpoint_seq });
    }

    /// Whether each link of a chain is for a block below that of the next.
    pub(super) fn leads_down(&self, chain: &Chain) -> bool {
        let links = chain.links();
        links.windows(2).all(|pair| self.is_within(pair[0].block(), pair[1].block()))
    }
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
                if anchored.root.is_some_and(|root| root != self.keys.root_principal) {
                    return Err(OpenError::OtherRootThanKnown { place });
                }
                anchoring.knows(&anchored);
                match find_head(&anchored, superblock, records) {
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

    /// Applies the records to memory, those by writers of a part after a judgement; the first that is not just ends the
    /// log. Returns from which id on the last author in a row gave them out.
    fn replay(&mut self, log: &mut Log, superblock: &Superblock) -> Result<BlockId, OpenError> {
        let mut series = Series::new(superblock);
        for index in 0..log.records.len() {
            let head = log.records[index].head;
            let body = std::mem::take(&mut log.records[index].body);
            series.go_on(&head, *self.next_block.get_mut());
            if let Some(chains) = log.parts.get(&head.seq.get()) {
                let bounds = self.bounds_of(chains, &series, superblock.seq.get());
                let claims = Claims::of(&head, &body);
                if let Some(why) = self.why_unjust(&self.space, &self.freed, &bounds, &claims, &head)? {
                    log.end_before(index, why, self.layout, superblock)?;
                    break;
                }
            }
            self.apply_record(&head, log.records[index].hash, &body)?;
        }
        let sealer = self.sealer.get_mut();
        (sealer.position, sealer.appended) = (log.position, log.appended);
        *self.log_head.get_mut() = log.appended;
        // Whoever opens the store goes on where its own last records ended.
        let is_own = series.author == Some(self.keys.node.public().signing);
        Ok(if is_own { series.ids_from } else { *self.next_block.get_mut() })
    }

    /// What an author of records in a row may write, as the index says it now.
    pub(super) fn bounds_of(&mut self, chains: &[Chain], series: &Series, checkpoint_seq: u64) -> Bounds {
        let tops = chains.iter().filter(|chain| self.leads_down(chain)).map(|chain| chain.own().block());
        let tops = tops.collect();
        let author = series.author.unwrap_or_default();
        let next_block = *self.next_block.get_mut();
        Bounds { author, tops, ids_from: series.ids_from, next_block, checkpoint_seq }
    }

    /// Why a record by a writer of a part of the store does not count, if it does not.
    pub(super) fn why_unjust(
        &self,
        space: &Mutex<Space>,
        freed: &Mutex<Freed>,
        bounds: &Bounds,
        claims: &Claims<'_>,
        head: &RecordHeader,
    ) -> Result<Option<&'static str>, OpenError> {
        let volume = head.volume_sectors.get();
        let mut space = space.lock();
        if volume < space.volume_sectors() || volume > self.capacity_sectors || volume > self.device.sectors()
        {
            return Ok(Some("it says that the volume has another length"));
        }
        let allocated = match judge(self, bounds, claims) {
            Ok(allocated) => allocated,
            Err(Judgement::Refused(why)) => return Ok(Some(why)),
            Err(Judgement::Unknown(error)) => return Err(error.into()),
        };
        space.lengthen(volume);
        for run in freed.lock().on_settled(head.durable_seq.get()) {
            space.mark(run, false)?;
        }
        for run in allocated {
            if !space.is_free_for_data(run)? {
                return Ok(Some("it allocates sectors that are in use"));
            }
        }
        Ok(None)
    }

    /// Applies a record to memory.
    fn apply_record(&mut self, head: &RecordHeader, hash: Hash, body: &[u8]) -> Result<(), OpenError> {
        let layers = self.layers.get_mut();
        let space = self.space.get_mut();
        let sealer = self.sealer.get_mut();
        let freed = self.freed.get_mut();
        let seq = head.seq.get();
        let damaged = |why| OpenError::Log { seq, why };
        let volume = head.volume_sectors.get();
        if volume > self.device.sectors() {
            return Err(OpenError::Truncated { expected: volume, found: self.device.sectors() });
        }
        if volume < space.volume_sectors() {
            return Err(damaged("the volume shrank"));
        }
        for change in crate::format::decode_changes(body) {
            match change.map_err(|_| damaged("malformed change"))? {
                Change::Put(key, value) => {
                    if !is_own_note(&key, value, &head.author) {
                        return Err(damaged("it notes something in another's name"));
                    }
                    layers.active.insert(key, Some(value.into()));
                }
                Change::Delete(key) => layers.active.insert(key, None),
                Change::Allocate { sector, sectors } => {
                    let run = Run { sector, sectors: u64::from(sectors) };
                    layers.active.space.push(Delta { run, used: true });
                }
                Change::Free { sector, sectors } => {
                    let run = Run { sector, sectors: u64::from(sectors) };
                    layers.active.space.push(Delta { run, used: false });
                }
            }
        }
        replay_space(space, freed, head, body, volume)?;
        self.next_block.get_mut().clone_from(&head.next_block.get());
        sealer.went_on(seq, hash, head.durable_seq.get(), !body.is_empty());
        sealer.time_ns = head.time_ns.get();
        layers.sealed_seq = seq;
        *self.durable_seq.get_mut() = seq;
        Ok(())
    }
}

/// Makes the space what it was once a record was made, in a volume of this length. What the record frees is free only when
/// another says that it is durable: a crash before that must find the data. Goes on where a part of it makes no sense, and
/// returns the first error.
pub(super) fn replay_space(
    space: &mut Space,
    freed: &mut Freed,
    head: &RecordHeader,
    body: &[u8],
    volume_sectors: u64,
) -> Result<(), TableError> {
    let mut result = Ok(());
    let mut mark = |space: &mut Space, run, used| {
        let marked = space.mark(run, used);
        if result.is_ok() {
            result = marked;
        }
    };
    space.lengthen(volume_sectors);
    // As it was when the record was made: what it allocates may have been freed before.
    for run in freed.on_settled(head.durable_seq.get()) {
        mark(space, run, false);
    }
    let mut runs = Vec::new();
    for change in crate::format::decode_changes(body) {
        let run = |sector, sectors| Run { sector, sectors: u64::from(sectors) };
        match change {
            Ok(Change::Allocate { sector, sectors }) => mark(space, run(sector, sectors), true),
            Ok(Change::Free { sector, sectors }) => runs.push(run(sector, sectors)),
            Ok(_) | Err(_) => {}
        }
    }
    freed.push(head.seq.get(), head.durable_seq.get(), runs);
    result
}

/// Records by one author in a row.
pub(super) struct Series {
    author: Option<[u8; 32]>,
    /// Nobody else gave out ids from here on.
    ids_from: BlockId,
}

impl Series {
    pub(super) fn new(superblock: &Superblock) -> Self {
        Self { author: None, ids_from: superblock.next_block.get() }
    }

    /// A record follows; before it, `next_block` was the next id.
    pub(super) fn go_on(&mut self, head: &RecordHeader, next_block: BlockId) {
        if self.author != Some(head.author) {
            *self = Self { author: Some(head.author), ids_from: next_block };
        }
    }
}
