use std::sync::Arc;

use zerocopy::IntoBytes;

use super::*;
use crate::crypto::{KdfCost, Principal, Rights};
use crate::device::{MemoryDevice, SplitMix64, Write};
use crate::format::{
    DeadBytes, JournalBytes, JournalPart, KeyBytes, Layout, SharedBytes, encode_change, encode_journal_head,
};
use crate::limits::SECTOR_BYTES;
use crate::store::journal::LIFE;
use crate::store::log::{RecordFields, seal_record};
use crate::store::transaction::Reclaim;
use crate::store::{Block, CheckOptions, CreateOptions, Credential, Grant, OpenOptions, Seq, Store, check};

const PASSPHRASE: &[u8] = b"pass";
const SECTOR: u64 = SECTOR_BYTES as u64;
const ENTRY: ItemKind = ItemKind::FIRST_FREE;
const SECTORS: u64 = 64 * 256;

/// A store with a directory that `writer` may write, and another that it may not.
struct World {
    device: Arc<MemoryDevice>,
    writer: Principal,
    serial: u64,
    /// The writer's directory, one in it, and a file there; the other directory and a file in it.
    top: BlockId,
    inner: BlockId,
    file: BlockId,
    other: BlockId,
    secret: BlockId,
    /// Was made and destroyed.
    gone: BlockId,
}

fn options() -> OpenOptions {
    OpenOptions { background: false, ..OpenOptions::default() }
}

fn apply(store: &Store, fill: impl FnOnce(&mut crate::Transaction)) -> Seq {
    let mut transaction = store.transaction();
    fill(&mut transaction);
    transaction.apply().unwrap()
}

/// A block with a name in a directory.
fn make(store: &Store, directory: &Block, data: &[u8]) -> Block {
    let mut transaction = store.transaction();
    let block = transaction.create_in(directory.id(), b"attributes");
    transaction.put(directory, ENTRY, block.id(), &block.id().to_le_bytes(), &block.wrap_for(directory));
    transaction.write(&block, 0, data).unwrap();
    transaction.apply().unwrap();
    block
}

fn remove(store: &Store, directory: &Block, block: &Block) {
    apply(store, |transaction| {
        transaction.delete(directory, ENTRY, block.id());
        transaction.destroy(block);
    });
}

impl World {
    fn new() -> Self {
        let device = Arc::new(MemoryDevice::new(SECTORS));
        let create = CreateOptions { capacity_sectors: SECTORS, kdf: KdfCost::TRIVIAL };
        let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options()).unwrap();
        let mut transaction = store.transaction();
        let root = transaction.create(b"root");
        transaction.apply().unwrap();
        let [top, other] = [b"top", b"out"].map(|data| make(&store, &root, data));
        let inner = make(&store, &top, b"");
        let file = make(&store, &inner, &[7; SECTOR_BYTES]);
        store.sync(store.newest()).unwrap();
        apply(&store, |transaction| transaction.write(&file, SECTOR, &[7; 2 * SECTOR_BYTES]).unwrap());
        let secret = make(&store, &other, &[9; 3 * SECTOR_BYTES]);
        let gone = make(&store, &other, b"");
        remove(&store, &other, &gone);
        // Sectors that one inside and one outside have in common.
        let clone = make(&store, &other, b"");
        apply(&store, |transaction| transaction.clone_range(&file, 0, &clone, 1, 1).unwrap());
        let writer = Principal::generate();
        let (not_before, expires) = (0, u64::MAX);
        let rights = Rights(Rights::READ.0 | Rights::WRITE.0);
        let grant = Grant { subject: writer.public(), block: top.id(), rights, not_before, expires };
        let serial = store.issue_writecap(None, &grant).unwrap();
        store.share(&top, &writer.public(), u64::MAX, true).unwrap();
        store.grant_access(&writer.public(), false).unwrap();
        store.snapshot_create("before").unwrap();
        store.close().unwrap();
        let [top, inner, file, other, secret, gone] =
            [top, inner, file, other, secret, gone].map(|block| block.id());
        Self { device, writer, serial, top, inner, file, other, secret, gone }
    }

    fn open(&self) -> Store {
        Store::open(self.device.clone(), PASSPHRASE, &options()).unwrap()
    }

    fn open_as_writer(&self) -> Store {
        let credential = Credential::Principal { holder: &self.writer, root: None };
        let store = Store::open_as(self.device.clone(), &credential, &options()).unwrap();
        assert_eq!((store.writes_below(), store.is_read_only()), (Some(&[self.top][..]), false));
        store
    }

    /// What the writer opens on its way down.
    fn opened(&self, store: &Store) -> [Block; 3] {
        let serial = store.own_readcaps()[0].0;
        let top = store.shared_block(serial).unwrap().unwrap();
        let inner = child(store, &top, self.inner);
        let file = child(store, &inner, self.file);
        [top, inner, file]
    }

    fn assert_clean(&self) {
        let report =
            check(self.device.clone(), PASSPHRASE, &CheckOptions::default(), &mut |_, _| {}).unwrap();
        assert_eq!(report.problems, []);
    }
}

fn child(store: &Store, directory: &Block, id: BlockId) -> Block {
    let entry = store.get(directory, ENTRY, id).unwrap().unwrap();
    store.block_in(directory, id, entry.secret[..].try_into().unwrap()).unwrap().unwrap()
}

fn content(store: &Store, id: BlockId, sectors: u64) -> Vec<u8> {
    let block = store.block(id).unwrap().unwrap();
    let mut bytes = vec![0; (sectors * SECTOR) as usize];
    store.read(&block, 0, &mut bytes).unwrap();
    bytes
}

#[test]
fn what_a_writer_does_below_its_directory_counts() {
    let world = World::new();
    let store = world.open_as_writer();
    assert_eq!(store.role(), crate::Role::Writer);
    let [top, inner, file] = world.opened(&store);
    let new = make(&store, &inner, &[1; 2 * SECTOR_BYTES]);
    apply(&store, |transaction| transaction.write(&file, SECTOR, &[2; SECTOR_BYTES]).unwrap());
    store.sync(store.newest()).unwrap();
    apply(&store, |transaction| transaction.clone_range(&new, 0, &file, 4, 2).unwrap());
    apply(&store, |transaction| transaction.clone_range(&new, 0, &file, 7, 1).unwrap());
    store.close().unwrap();
    drop((top, inner, file, new));

    // Once more, behind its own records.
    let store = world.open_as_writer();
    let [top, inner, file] = world.opened(&store);
    let late = make(&store, &top, &[3; 20]);
    let both = make(&store, &inner, &[3; 20]);
    remove(&store, &inner, &both);
    apply(&store, |transaction| transaction.set_attributes_and_home(&file, b"moved", top.id()));
    apply(&store, |transaction| transaction.delete(&inner, ENTRY, file.id()));
    store.close().unwrap();
    let late = late.id();
    drop((store, top, inner, file, both));

    world.assert_clean();
    let store = world.open();
    assert_eq!(store.refused_record(), None);
    let bytes = content(&store, world.file, 8);
    let first = |sector: usize| bytes[sector * SECTOR_BYTES];
    assert_eq!([0, 1, 2, 4, 5, 7].map(first), [7, 2, 7, 1, 1, 1]);
    assert_eq!(content(&store, late, 1)[0], 3);
    assert_eq!(store.home(world.file).unwrap(), Some(world.top));
    store.close().unwrap();
    world.assert_clean();
}

/// A writer refuses to itself what others would refuse to it, and goes on.
#[test]
fn a_writer_is_told_what_is_not_its_own() {
    let world = World::new();
    let store = world.open_as_writer();
    let [top, inner, file] = world.opened(&store);
    let fails = |fill: &dyn Fn(&mut crate::Transaction)| {
        let mut transaction = store.transaction();
        fill(&mut transaction);
        let error = transaction.apply().unwrap_err();
        assert!(matches!(error, Error::Outside | Error::OwnersOnly), "{error}");
    };
    fails(&|transaction| drop(transaction.create_in(world.other, b"")));
    fails(&|transaction| drop(transaction.create(b"")));
    fails(&|transaction| transaction.set_attributes_and_home(&file, b"", world.other));
    fails(&|transaction| transaction.set_attributes_and_home(&top, b"", inner.id()));
    assert!(matches!(store.snapshot_create("mine"), Err(crate::SnapshotError::Store(_))));
    assert!(!store.snapshot_delete("before").unwrap(), "it has no name for it");
    assert!(store.share(&inner, &world.writer.public(), u64::MAX, false).is_err());
    assert!(store.remove_readcap(store.own_readcaps()[0].0).is_err());
    assert!(matches!(store.block(world.secret), Err(Error::NoKey)));
    make(&store, &inner, b"still writes");
    store.close().unwrap();
    world.assert_clean();
}

#[test]
fn random_work_below_a_directory_counts() {
    let seed = std::env::var("BLOCKTREE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in seed..seed + 6 {
        println!("seed {seed}");
        let (world, mut rng) = (World::new(), SplitMix64(seed));
        let untouched = { content(&world.open(), world.secret, 3) };
        for life in 0..4 {
            let store = world.open_as_writer();
            let [top, inner, file] = world.opened(&store);
            let directories = [top, inner];
            let mut files: Vec<(Block, Block)> = vec![(directories[1].clone(), file)];
            for _ in 0..40 {
                let (directory, file) = files[rng.below(files.len() as u64) as usize].clone();
                let (from, sectors) = (rng.below(30), 1 + rng.below(40));
                match rng.below(8) {
                    0 => {
                        let directory = directories[rng.below(2) as usize].clone();
                        let data = vec![5; (sectors * SECTOR) as usize];
                        files.push((directory.clone(), make(&store, &directory, &data)));
                    }
                    1 => drop(apply(&store, |transaction| {
                        transaction.punch(&file, from, from + sectors).unwrap();
                    })),
                    2 => drop(apply(&store, |transaction| transaction.punch(&file, from, u64::MAX).unwrap())),
                    3 | 4 => {
                        let (_, target) = &files[rng.below(files.len() as u64) as usize];
                        let to = from + sectors + rng.below(30);
                        apply(&store, |transaction| {
                            transaction.clone_range(&file, from, target, to, sectors).unwrap();
                        });
                    }
                    5 if files.len() > 1 && file.id() != world.file => {
                        files.retain(|(_, other)| other.id() != file.id());
                        remove(&store, &directory, &file);
                    }
                    6 => store.sync(store.newest()).unwrap(),
                    _ => drop(apply(&store, |transaction| {
                        let data = vec![rng.below(256) as u8; (sectors * SECTOR) as usize];
                        transaction.write(&file, from * SECTOR + rng.below(2) * 100, &data).unwrap();
                    })),
                }
            }
            // In between, sometimes, the owner takes over.
            store.close().unwrap();
            drop((store, directories, files));
            if life == 1 {
                let store = world.open();
                assert_eq!(store.refused_record(), None);
                store.snapshot_create("between").unwrap();
                store.close().unwrap();
            }
        }
        world.assert_clean();
        let store = world.open();
        assert_eq!(store.refused_record(), None, "seed {seed}");
        assert_eq!(content(&store, world.secret, 3), untouched);
        store.snapshot_delete("before").unwrap();
        store.reclaim().unwrap();
        store.close().unwrap();
        world.assert_clean();
    }
}

/// Changes as a record has them, made by hand.
#[derive(Default)]
struct Forged {
    body: Vec<u8>,
    next_block: Option<BlockId>,
    time_ns: u64,
}

impl Forged {
    fn put(mut self, key: Key, value: &[u8]) -> Self {
        encode_change(&mut self.body, &Change::Put(key, value));
        self
    }

    fn delete(mut self, key: Key) -> Self {
        encode_change(&mut self.body, &Change::Delete(key));
        self
    }

    fn allocate(mut self, sector: u64) -> Self {
        encode_change(&mut self.body, &Change::Allocate { sector, sectors: 1 });
        self
    }

    fn free(mut self, extent: &Extent) -> Self {
        encode_change(
            &mut self.body,
            &Change::Free { sector: extent.sector(), sectors: extent.sectors() as u32 },
        );
        self
    }
}

fn header_key(id: BlockId) -> Key {
    Key::new(id, ItemKind::HEADER, 0)
}

fn extent_key(id: BlockId, at: u64) -> Key {
    Key::new(id, ItemKind::EXTENT, at)
}

fn system_key(kind: ItemKind, offset: u64) -> Key {
    Key::new(SYSTEM_BLOCK, kind, offset)
}

fn value(store: &Store, key: Key) -> Vec<u8> {
    store.core.find_sealed(&key).unwrap().unwrap().to_vec()
}

/// The header of a block, with something else in it.
fn header(store: &Store, id: BlockId, change: impl FnOnce(&mut BlockHeader)) -> Vec<u8> {
    let mut value = value(store, header_key(id));
    let (mut header, _) = BlockHeader::read_from_prefix(&value).unwrap();
    change(&mut header);
    value[..size_of::<BlockHeader>()].copy_from_slice(header.as_bytes());
    value
}

fn item(names: &[BlockId]) -> Vec<u8> {
    let clear: Vec<u8> = names.iter().flat_map(|id| id.to_le_bytes()).collect();
    [&(clear.len() as u16).to_le_bytes()[..], &clear, &[0; 40]].concat()
}

/// Everything by which a writer could reach beyond its directory, as changes of a record, and why it is refused.
fn forgeries(world: &World, store: &Store) -> Vec<(Forged, &'static str)> {
    const HOLDS: &str = "it refers to sectors that are not its own";
    const FREES: &str = "it frees what is in use, or keeps what is not";
    const RIGHTS: &str = "it changes who may read and write";
    const LEAVES: &str = "it leaves something of a block that is gone";
    const TOP: &str = "it moves or removes the directory that its author may write";
    let World { top, inner, file, other, secret, gone, .. } = *world;
    let next = store.core.next_block.load(std::sync::atomic::Ordering::Relaxed);
    let new = |home: BlockId| {
        let serial = store.own_readcaps()[0].0;
        header(store, file, |header| {
            (header.home, header.sectors, header.wrapped_by) = (home.into(), [0; 7], serial.into());
        })
    };
    let decode = |id, at| Extent::decode(&value(store, extent_key(id, at))).unwrap();
    let of_secret = decode(secret, 0);
    let (shared, own) = (decode(file, 0), decode(file, 1));
    let free_sector = SECTORS - 2;
    let mut fresh = own.slice(0, 1);
    fresh.header.sector = free_sector.into();
    fresh.header.birth = 0.into();
    let grown = |by: i64| {
        header(store, file, |header| {
            header.sectors = BlockHeader::encode_sectors(header.sectors().wrapping_add_signed(by));
        })
    };
    let mut old = own.clone();
    old.header.birth = (own.birth() + 1).into();
    let mut long = own.clone();
    (long.header.unit_log2, long.hashes) = (1, vec![[0; 32]]);
    let mut hidden = shared.clone();
    hidden.header.flags = 0.into();
    let empty = Forged::default;
    let readcap = system_key(ItemKind::READCAP, store.own_readcaps()[0].0);
    let writecap = system_key(ItemKind::WRITECAP, world.serial);
    let snapshots = store.core.snapshots.lock().all.clone();
    let snapshot = system_key(ItemKind::SNAPSHOT, snapshots[0].id);
    let destroy = Reclaim { from: 0, destroy: true }.encode();
    let count = |extents: u32| SharedBytes { sectors: 1.into(), extents: extents.into() };
    let shared_key = system_key(ItemKind::SHARED, shared.sector());
    let dead = DeadBytes { sectors: own.sectors().into(), birth: own.header.birth };
    vec![
        // Blocks and items outside.
        (empty().put(header_key(secret), &header(store, secret, |header| header.epoch = 9.into())), OUTSIDE),
        (empty().delete(header_key(secret)), OUTSIDE),
        (empty().put(header_key(1), &header(store, 1, |header| header.epoch = 9.into())), OUTSIDE),
        (empty().put(Key::new(other, ENTRY, 5), &item(&[])), OUTSIDE),
        (empty().delete(Key::new(other, ENTRY, secret)), OUTSIDE),
        (empty().delete(extent_key(secret, 0)).free(&of_secret), OUTSIDE),
        (empty().put(Key::new(file, ItemKind::OLD_KEY, 0), &[0; 60]), OUTSIDE),
        (empty().put(Key::new(file, ItemKind::JOURNAL, 5), &[0; 60]), OUTSIDE),
        // From outside to inside, and back.
        (
            empty().put(header_key(secret), &header(store, secret, |header| header.home = inner.into())),
            OUTSIDE,
        ),
        (
            empty().put(header_key(file), &header(store, file, |header| header.home = other.into())),
            "it moves a block out of what its author may write",
        ),
        (
            empty().put(header_key(inner), &header(store, inner, |header| header.home = file.into())),
            "it moves a block out of what its author may write",
        ),
        (empty().put(header_key(top), &header(store, top, |header| header.home = inner.into())), TOP),
        (empty().put(Key::new(inner, ENTRY, 5), &item(&[secret])), NAMES_OUTSIDE),
        (empty().put(Key::new(inner, ENTRY, 5), &item(&[top])), NAMES_OUTSIDE),
        (empty().put(Key::new(inner, ENTRY, 5), &item(&[1])), NAMES_OUTSIDE),
        (empty().put(Key::new(inner, ENTRY, 5), &item(&[gone])), NAMES_OUTSIDE),
        (
            empty().put(Key::new(top, ENTRY, 5), &item(&[file])),
            "it gives a name to something that belongs elsewhere",
        ),
        (empty().put(Key::new(inner, ENTRY, 5), b"\x03\x00abc"), "an item is malformed"),
        // New blocks.
        (Forged { next_block: Some(next + 1), ..empty() }.put(header_key(next), &new(other)), OUTSIDE),
        (
            empty().put(header_key(gone), &new(inner)),
            "it gives a block a number that is not its author's to give",
        ),
        (
            empty().put(header_key(next), &new(inner)),
            "it gives a block a number that is not its author's to give",
        ),
        (
            Forged { next_block: Some(next + 1), ..empty() }
                .put(header_key(next), &header(store, inner, |header| header.wrapped_by = 0.into())),
            "it makes a block whose key its owner cannot tell",
        ),
        (Forged { next_block: Some(u64::MAX), ..empty() }, "its counters leap"),
        (Forged { next_block: Some(next - 1), ..empty() }, "its counters leap"),
        (Forged { time_ns: u64::MAX, ..empty() }, "its counters leap"),
        (Forged { body: vec![1, 2, 3], ..empty() }, "it is malformed"),
        // Keys and removal.
        (
            empty().put(header_key(file), &header(store, file, |header| header.owner_key[20] ^= 1)),
            "it changes the key of a block",
        ),
        (empty().delete(header_key(file)), LEAVES),
        (empty().delete(header_key(top)).delete(Key::new(top, ENTRY, inner)), TOP),
        (empty().put(system_key(ItemKind::ORPHAN, top), &[]), TOP),
        (empty().put(system_key(ItemKind::RECLAIM, top), &destroy), TOP),
        (empty().put(system_key(ItemKind::ORPHAN, secret), &[]), OUTSIDE),
        (empty().put(system_key(ItemKind::RECLAIM, secret), &destroy), OUTSIDE),
        (empty().put(system_key(ItemKind::LOST, file), &[0; 16]), OUTSIDE),
        // Sectors.
        (empty().put(extent_key(file, 9), &of_secret.encode()).put(header_key(file), &grown(3)), HOLDS),
        (empty().put(extent_key(file, 9), &fresh.encode()).put(header_key(file), &grown(1)), HOLDS),
        (
            empty()
                .allocate(of_secret.sector())
                .put(extent_key(file, 9), &of_secret.slice(0, 1).encode())
                .put(header_key(file), &grown(1)),
            "it says that its sectors are older than they are",
        ),
        (
            empty().allocate(own.sector()).put(extent_key(file, 1), &own.encode()),
            "it allocates sectors that are in use",
        ),
        (empty().free(&of_secret), "it frees or counts sectors that are not its own"),
        (empty().allocate(free_sector), FREES),
        (empty().delete(extent_key(file, 1)).put(header_key(file), &grown(-2)), FREES),
        (empty().delete(extent_key(file, 1)).put(header_key(file), &grown(-2)).free(&own), FREES),
        (
            empty()
                .delete(extent_key(file, 1))
                .put(header_key(file), &grown(-2))
                .put(Key::new(snapshots[0].id + 1, ItemKind::DEAD, own.sector()), dead.as_bytes()),
            FREES,
        ),
        (
            empty().delete(extent_key(file, 0)).put(header_key(file), &grown(-1)).free(&shared),
            "it miscounts shared sectors",
        ),
        (empty().put(extent_key(file, 1), &old.encode()), "it changes what stands in sectors"),
        (empty().put(extent_key(file, 1), &long.encode()), "it hides how long the units of a block are"),
        (empty().put(extent_key(file, 0), &hidden.encode()), "it hides that sectors are shared"),
        (
            empty().delete(extent_key(file, 1)).put(extent_key(file, 0), &own.encode()),
            "it miscounts the sectors of a block",
        ),
        (
            empty().put(extent_key(file, 2), &own.encode()).put(header_key(file), &grown(2)),
            "two extents have the same place",
        ),
        (empty().put(header_key(file), &grown(1)), "it miscounts the sectors of a block"),
        (empty().put(shared_key, count(9).as_bytes()), "it frees or counts sectors that are not its own"),
        (empty().delete(shared_key), "it frees or counts sectors that are not its own"),
        (
            empty().put(system_key(ItemKind::SHARED, of_secret.sector()), count(2).as_bytes()),
            "it frees or counts sectors that are not its own",
        ),
        // The store's own.
        (empty().delete(writecap), RIGHTS),
        (empty().put(system_key(ItemKind::WRITECAP, 5), &value(store, writecap)), RIGHTS),
        (empty().put(system_key(ItemKind::REVOCATION, world.serial), &[0; 168]), RIGHTS),
        (empty().delete(readcap), RIGHTS),
        (empty().put(system_key(ItemKind::ACCESS, 0), &[0; 72]), RIGHTS),
        (empty().delete(snapshot), "it changes snapshots"),
        (empty().put(system_key(ItemKind::JOURNAL, file), &[]), OUTSIDE),
        (
            empty().put(Key::new(snapshots[0].id, ItemKind::DEAD, of_secret.sector()), dead.as_bytes()),
            "it frees or counts sectors that are not its own",
        ),
    ]
}

#[test]
fn nothing_beyond_a_writers_directory_is_reached() {
    let world = World::new();
    let store = world.open_as_writer();
    let opened = world.opened(&store);
    let core = &store.core;
    let bounds = core.bounds.clone().unwrap();
    let (next_block, seq) = (bounds.next_block, core.layers.read().sealed_seq + 1);
    for (index, (forged, why)) in forgeries(&world, &store).into_iter().enumerate() {
        let next_block = forged.next_block.unwrap_or(next_block);
        let claims = Claims { seq, next_block, time_ns: forged.time_ns, body: &forged.body };
        match judge(core, &bounds, &claims) {
            Err(Judgement::Refused(refused)) => assert_eq!(refused, why, "forgery {index}"),
            other => panic!("forgery {index} ({why}): {other:?}"),
        }
    }
    drop(opened);
}

/// Writes a record with the writer's own key behind the log, as if an honest program had.
fn append(world: &World, store: &Store, forged: &Forged, place: &mut (u64, u64, [u8; 32])) {
    let core = &store.core;
    let (at, seq, previous) = *place;
    let fields = RecordFields {
        seq,
        durable_seq: seq - 1,
        volume_sectors: core.space.lock().volume_sectors(),
        next_block: forged.next_block.unwrap_or(core.bounds.as_ref().unwrap().next_block),
        previous,
        time_ns: core.sealer.lock().time_ns.max(forged.time_ns),
    };
    let (bytes, hash) = seal_record(&*world.device, &core.keys, &fields, &forged.body);
    let sectors = (bytes.len() / SECTOR_BYTES) as u64;
    let write = Write { sector: Layout::LOG_START + at, bytes };
    crate::device::Device::write(&*world.device, vec![write]).wait().unwrap();
    *place = (at + sectors, seq + 1, hash);
}

fn end_of_log(store: &Store) -> (u64, u64, [u8; 32]) {
    let sealer = store.core.sealer.lock();
    (sealer.position, sealer.seq + 1, sealer.previous)
}

/// A record that reaches too far ends the log, with all that the same writer put behind it; the rest stays, and the store
/// goes on from there.
#[test]
fn a_record_that_reaches_too_far_ends_the_log() {
    let world = World::new();
    let before = world.device.clone();
    let forgeries = { forgeries(&world, &world.open_as_writer()).len() };
    for index in (0..forgeries).step_by(5).chain([usize::MAX]) {
        let world = World {
            device: Arc::new(MemoryDevice::from_bytes(before.snapshot())),
            writer: world.writer.clone(),
            ..world
        };
        let store = world.open_as_writer();
        let [_, _, file] = world.opened(&store);
        store
            .sync(apply(&store, |transaction| transaction.write(&file, 5 * SECTOR, b"good").unwrap()))
            .unwrap();
        let mut place = end_of_log(&store);
        let first = place.1;
        // The last is one that only space refuses: sectors of the index.
        let forged = match forgeries_of(&world, &store, index) {
            Some(forged) => forged,
            None => {
                let sector = store.core.layers.read().root.ptr.sector.get();
                let mut extent =
                    Extent::decode(&value(&store, extent_key(world.file, 1))).unwrap().slice(0, 1);
                (extent.header.sector, extent.header.birth) = (sector.into(), first.into());
                let header = header(&store, world.file, |header| {
                    header.sectors = BlockHeader::encode_sectors(header.sectors() + 1);
                });
                Forged::default()
                    .allocate(sector)
                    .put(extent_key(world.file, 9), &extent.encode())
                    .put(header_key(world.file), &header)
            }
        };
        append(&world, &store, &forged, &mut place);
        // They say of it that it is durable.
        append(&world, &store, &Forged::default(), &mut place);
        append(&world, &store, &Forged::default(), &mut place);
        drop((store, file));

        let found =
            check(world.device.clone(), PASSPHRASE, &CheckOptions::default(), &mut |_, _| {}).unwrap();
        assert_eq!(found.problems.len(), 1, "{index}: {:?}", found.problems);
        let store = world.open();
        let refused = store.refused_record().unwrap();
        assert_eq!(refused.seq, first, "{index}");
        assert!(matches!(refused.why, Refusal::Change(_)), "{index}");
        assert_eq!(&content(&store, world.file, 6)[5 * SECTOR_BYTES..][..4], b"good");
        assert_eq!(content(&store, world.secret, 3), [9; 3 * SECTOR_BYTES]);
        let root = store.block(world.other).unwrap().unwrap();
        let id = make(&store, &root, b"goes on").id();
        store.sync(store.newest()).unwrap();
        drop((store, root));
        let store = world.open();
        assert_eq!(store.refused_record(), None);
        assert_eq!(&content(&store, id, 1)[..7], b"goes on");
        store.close().unwrap();
        world.assert_clean();
    }
}

fn forgeries_of(world: &World, store: &Store, index: usize) -> Option<Forged> {
    (index != usize::MAX).then(|| forgeries(world, store).swap_remove(index).0)
}

#[test]
fn a_repair_takes_refused_records_away() {
    let world = World::new();
    let store = world.open_as_writer();
    let mut place = end_of_log(&store);
    let forged = Forged::default().delete(header_key(world.secret));
    append(&world, &store, &forged, &mut place);
    drop(store);
    let repair = CheckOptions { repair: true };
    let report = check(world.device.clone(), PASSPHRASE, &repair, &mut |_, _| {}).unwrap();
    assert_eq!((report.repaired, report.damage_left), (1, 0), "{:?}", report.problems);
    world.assert_clean();
    assert_eq!(world.open().refused_record(), None);
}

/// Where the owner went on behind such a record, it was believed once: that is no torn tail.
#[test]
fn a_refused_record_that_an_owner_built_on_is_damage() {
    let world = World::new();
    let store = world.open_as_writer();
    let mut place = end_of_log(&store);
    append(&world, &store, &Forged::default().delete(header_key(world.secret)), &mut place);
    drop(store);
    let owner = Store::open_as(
        world.device.clone(),
        &Credential::Passphrase(PASSPHRASE),
        &OpenOptions { read_only: true, ..options() },
    )
    .unwrap();
    let fields = RecordFields {
        seq: place.1,
        durable_seq: place.1 - 1,
        volume_sectors: owner.core.space.lock().volume_sectors(),
        next_block: owner.core.next_block.load(std::sync::atomic::Ordering::Relaxed),
        previous: place.2,
        time_ns: owner.core.sealer.lock().time_ns,
    };
    let (bytes, _) = seal_record(&*world.device, &owner.core.keys, &fields, &[]);
    let write = Write { sector: Layout::LOG_START + place.0, bytes };
    crate::device::Device::write(&*world.device, vec![write]).wait().unwrap();
    let opened = Store::open(world.device.clone(), PASSPHRASE, &options());
    assert!(matches!(opened, Err(crate::OpenError::Refused(_))));
}

#[test]
fn a_writer_whose_right_ended_reads_on_and_its_records_end_the_log() {
    let world = World::new();
    let store = world.open_as_writer();
    let [_, _, file] = world.opened(&store);
    store.sync(apply(&store, |transaction| transaction.write(&file, 0, b"good").unwrap())).unwrap();
    drop(file);
    let owner = world.open();
    owner.revoke_writecap(None, world.serial).unwrap();
    let place = end_of_log(&owner);
    drop(owner);
    append(&world, &store, &Forged::default(), &mut { place });
    drop(store);
    let owner = world.open();
    let refused = owner.refused_record().unwrap();
    assert_eq!((refused.seq, refused.why), (place.1, Refusal::Author(CertificateError::Revoked)));
    assert_eq!(&content(&owner, world.file, 1)[..4], b"good", "what it wrote before stays");
    owner.close().unwrap();
    world.assert_clean();
    let credential = Credential::Principal { holder: &world.writer, root: None };
    let store = Store::open_as(world.device.clone(), &credential, &options()).unwrap();
    assert!(store.is_read_only() && store.writes_below().is_none());
    let _ = world.opened(&store);
}

/// Nobody but the owner empties the log: when it is full, a writer is told, and all that it was told was taken is there.
#[test]
fn a_writer_stops_when_the_log_is_full() {
    let world = World::new();
    let store = world.open_as_writer();
    let [_, inner, file] = world.opened(&store);
    let mut written = 0;
    let error = loop {
        let mut transaction = store.transaction();
        transaction.put(&inner, ItemKind(17), written, &[], &[1; 3000]);
        match transaction.apply() {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        if written % 64 == 0 {
            store.sync(store.newest()).unwrap();
        }
    };
    assert!(matches!(error, Error::LogFull) && written > 100, "{error}, {written}");
    store.close().unwrap();
    drop((store, inner, file));
    let store = world.open();
    let inner = store.block(world.inner).unwrap().unwrap();
    assert_eq!(store.scan(&inner, ItemKind(17), 0, usize::MAX / 2).unwrap().len() as u64, written);
    store.close().unwrap();
    drop((store, inner));
    let store = world.open_as_writer();
    let [_, inner, _] = world.opened(&store);
    make(&store, &inner, b"there is room again");
    store.close().unwrap();
    world.assert_clean();
}

/// What a writer notes is read by the owner and by itself, and by no other writer; and it is about its own blocks.
#[test]
fn a_writer_notes_what_it_does_to_its_own() {
    let world = World::new();
    let store = world.open();
    let seq = apply(&store, |transaction| drop(transaction.create_journal(b"")));
    store.sync(seq).unwrap();
    apply(&store, |transaction| transaction.note(b"by the owner", &[]));
    store.close().unwrap();
    drop(store);

    let store = world.open_as_writer();
    let opened = world.opened(&store);
    let [top, inner, file] = [world.top, world.inner, world.file];
    let notes = |store: &Store| {
        let notes = store.notes_since(Seq(0), 100).unwrap().notes;
        notes
            .into_iter()
            .map(|note| (note.bytes.to_vec(), note.blocks.map(|ids| ids.to_vec())))
            .collect::<Vec<_>>()
    };
    apply(&store, |transaction| transaction.note(b"first", &[top, file]));
    store.sync(store.newest()).unwrap();
    let last = apply(&store, |transaction| {
        transaction.note(b"second", &[file]);
        transaction.note(b"third", &[inner]);
    });
    // What is nobody's any more is not noted.
    apply(&store, |transaction| transaction.note(b"fourth", &[world.gone]));
    store.sync(store.newest()).unwrap();
    let shown = |text: &str, ids: &[BlockId]| (text.as_bytes().to_vec(), Some(ids.to_vec()));
    let mut both = vec![file, inner];
    both.sort_unstable();
    let mut own = vec![top, file];
    own.sort_unstable();
    let expected = [shown("first", &own), shown("second", &both), shown("third", &both)];
    assert_eq!(notes(&store), expected);

    // The journal's next item, as it should be, and then with something wrong about it.
    let journal = store.journal().unwrap().unwrap();
    let ends = { store.core.sealer.lock().journal.newest() };
    assert_eq!(ends.0, last.0);
    let (readcap, author) = (store.own_readcaps()[0].0, world.writer.public().signing);
    let item = |head: &JournalBytes, blocks: &[BlockId]| {
        let mut value = Vec::new();
        let part = JournalPart { readcap, blocks: blocks.to_vec() };
        encode_journal_head(&mut value, head, Some(&part));
        [value, vec![0; 40]].concat()
    };
    let bytes = (size_of::<KeyBytes>() + 2 + size_of::<JournalBytes>() + JournalPart::bytes(1) + 40) as u64;
    let head = JournalBytes { author, previous: ends.0.into(), position: (ends.1 + bytes).into() };
    let at = |offset| Key::new(journal, ItemKind::JOURNAL, offset);
    let mut plain = Vec::new();
    encode_journal_head(&mut plain, &head, None);
    let verdict = |key: Key, value: &[u8]| {
        let core = &store.core;
        let bounds = core.bounds.clone().unwrap();
        let forged = Forged::default().put(key, value);
        let (seq, next_block) = (core.layers.read().sealed_seq + 1, bounds.next_block);
        let claims = Claims { seq, next_block, time_ns: 0, body: &forged.body };
        match judge(core, &bounds, &claims) {
            Ok(_) => None,
            Err(Judgement::Refused(why)) => Some(why),
            Err(Judgement::Unknown(error)) => panic!("{error}"),
        }
    };
    assert_eq!(verdict(at(last.0 + 1), &item(&head, &[file])), None);
    let wrong = [
        (at(last.0 + 1), item(&head, &[world.secret])),
        (at(last.0 + 1), item(&head, &[world.gone])),
        (at(last.0 + 1), item(&head, &[Store::ROOT])),
        (at(last.0 + 1), item(&JournalBytes { author: [1; 32], ..head }, &[file])),
        (at(last.0 + 1), item(&JournalBytes { previous: 0.into(), ..head }, &[file])),
        (at(last.0 + 1), item(&JournalBytes { position: ends.1.into(), ..head }, &[file])),
        (at(last.0 + 1), plain),
        (at(last.0 + 1), vec![0; 10]),
        (at(last.0), item(&head, &[file])),
        (at(1), item(&head, &[file])),
        (at((last.0 / LIFE + 2) * LIFE), item(&head, &[file])),
        (Key::new(file, ItemKind::JOURNAL, last.0 + 1), item(&head, &[file])),
    ];
    for (index, (key, value)) in wrong.iter().enumerate() {
        assert!(verdict(*key, value).is_some(), "{index}");
    }
    let first = Forged::default().delete(at(last.0));
    let claims = Claims {
        seq: 0,
        next_block: store.core.bounds.as_ref().unwrap().next_block,
        time_ns: 0,
        body: &first.body,
    };
    assert!(
        judge(&store.core, store.core.bounds.as_ref().unwrap(), &claims).is_err(),
        "what was noted stays"
    );
    drop(opened);
    store.close().unwrap();
    drop(store);

    let store = world.open();
    assert_eq!(store.refused_record(), None);
    let mut all = vec![(b"by the owner".to_vec(), None)];
    all.extend(expected);
    assert_eq!(notes(&store), all);
    apply(&store, |transaction| transaction.note(b"after it", &[]));
    store.close().unwrap();
    drop(store);
    world.assert_clean();
}
