//! Check, scrub and repair, on memory.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{Completion, Device, MemoryDevice, Read, Write};
use blocktree_engine::format::ItemKind;
use blocktree_engine::{Block, CheckOptions, CheckReport, CreateOptions, Error, OpenOptions, Store, check};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const KIND: ItemKind = ItemKind::FIRST_FREE;
const SECTOR: usize = 4096;
const LOG_START: u64 = 64;
const LOG_SECTORS: u64 = 2048;
const PASSPHRASE: &[u8] = b"passphrase";

fn options() -> OpenOptions {
    OpenOptions { background: false, ..OpenOptions::default() }
}

fn create(mib: u64) -> (Arc<MemoryDevice>, Store) {
    let device = Arc::new(MemoryDevice::new(mib * 256));
    let create = CreateOptions { capacity_sectors: mib * 256, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options()).unwrap();
    (device, store)
}

fn open(device: &Arc<MemoryDevice>) -> Store {
    Store::open(device.clone(), PASSPHRASE, &options()).unwrap()
}

fn copy(device: &MemoryDevice) -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::from_bytes(device.snapshot()))
}

fn run(device: &Arc<MemoryDevice>, repair: bool) -> CheckReport {
    check(device.clone(), PASSPHRASE, &CheckOptions { repair }, &mut |done, total| assert!(done <= total))
        .unwrap()
}

#[track_caller]
fn assert_clean(device: &Arc<MemoryDevice>) {
    let before = device.snapshot();
    let report = run(device, false);
    assert_eq!(report.problems, [], "{report:?}");
    assert_eq!((report.repaired, report.damage_left), (0, 0));
    assert!(report.notes.is_empty(), "{report:?}");
    assert!(report.sectors_checked > 0);
    assert!(device.snapshot() == before, "a check writes nothing");
}

fn pattern(seed: u64, length: usize) -> Vec<u8> {
    (0..length).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8) ^ seed as u8).collect()
}

/// Does a step of anything that a store can do.
fn step(store: &Store, random: &mut StdRng, blocks: &mut Vec<Block>) {
    let pick = |random: &mut StdRng, blocks: &[Block]| blocks[random.random_range(0..blocks.len())].clone();
    let mut transaction = store.transaction();
    match random.random_range(0..13) {
        0 | 1 if blocks.len() < 6 => blocks.push(transaction.create(b"attributes")),
        _ if blocks.is_empty() => blocks.push(transaction.create(b"first")),
        2..=5 => {
            let block = pick(random, blocks);
            let (offset, length) = (random.random_range(0..2_000_000), random.random_range(1..150_000));
            transaction.write(&block, offset, &pattern(random.random(), length)).unwrap();
        }
        6 => {
            let block = pick(random, blocks);
            let from = random.random_range(0..500);
            transaction.punch(&block, from, from + random.random_range(1..100)).unwrap();
        }
        7 => {
            let block = pick(random, blocks);
            transaction.punch(&block, random.random_range(0..500), u64::MAX / 4096).unwrap();
        }
        8 | 9 => {
            let (source, target) = (pick(random, blocks), pick(random, blocks));
            let from = random.random_range(0..400);
            transaction.clone_range(&source, from, &target, from + 600, random.random_range(1..150)).unwrap();
        }
        10 => {
            let block = pick(random, blocks);
            for _ in 0..20 {
                let length = random.random_range(0..300);
                transaction.put(&block, KIND, random.random_range(0..1000), b"clear", &vec![7; length]);
            }
        }
        11 => {
            // Many extents, so that removing them takes steps.
            let (block, page) = (pick(random, blocks), pattern(random.random(), SECTOR));
            for n in 0..random.random_range(1..150) {
                transaction.write(&block, n * 2 * SECTOR as u64, &page).unwrap();
            }
        }
        _ => {
            let index = random.random_range(0..blocks.len());
            transaction.destroy(&blocks.swap_remove(index));
        }
    }
    transaction.apply().unwrap();
    match random.random_range(0..30) {
        0..=4 => store.sync(store.newest()).unwrap(),
        5 => store.checkpoint().unwrap(),
        6 => store.reclaim().unwrap(),
        7 | 8 if store.snapshot_list().len() < 4 => {
            store.snapshot_create(&format!("snapshot {}", random.random::<u32>())).unwrap();
        }
        9 | 10 => {
            let all = store.snapshot_list();
            if !all.is_empty() {
                let name = &all[random.random_range(0..all.len())].name;
                assert!(store.snapshot_delete(name).unwrap());
            }
        }
        _ => {}
    }
}

#[test]
fn clean_after_anything() {
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut device, mut store) = create(48);
        assert_clean(&copy(&device));
        let mut blocks: Vec<Block> = Vec::new();
        for round in 0..10 {
            for _ in 0..random.random_range(1..30) {
                step(&store, &mut random, &mut blocks);
            }
            // What a crash leaves.
            device = copy(&device);
            assert_clean(&device);
            if round % 3 == 2 {
                store = open(&device);
                let ids: Vec<u64> = blocks.iter().map(Block::id).collect();
                blocks = ids.iter().filter_map(|id| store.block(*id).unwrap()).collect();
                let report = store.scrub(&|_, _| true).unwrap();
                assert_eq!((report.damaged, report.stopped), (0, false), "seed {seed}");
            } else {
                drop(std::mem::replace(&mut store, open(&device)));
                let ids: Vec<u64> = blocks.iter().map(Block::id).collect();
                blocks = ids.iter().filter_map(|id| store.block(*id).unwrap()).collect();
            }
        }
        for snapshot in store.snapshot_list() {
            assert!(store.snapshot_delete(&snapshot.name).unwrap());
        }
        store.reclaim().unwrap();
        store.close().unwrap();
        assert_clean(&device);
    }
}

/// Knows what was read, and fails writes from a number on.
struct Watched {
    below: Arc<MemoryDevice>,
    read: Mutex<BTreeSet<u64>>,
    writes_left: AtomicUsize,
}

impl Watched {
    fn new(below: &Arc<MemoryDevice>, writes_left: usize) -> Arc<Self> {
        let writes_left = AtomicUsize::new(writes_left);
        Arc::new(Self { below: below.clone(), read: Mutex::default(), writes_left })
    }
}

impl Device for Watched {
    fn sectors(&self) -> u64 {
        self.below.sectors()
    }

    fn read(&self, reads: &mut [Read<'_>]) -> io::Result<()> {
        for read in reads.iter() {
            let sectors = (read.bytes.len() / SECTOR) as u64;
            self.read.lock().unwrap().extend(read.sector..read.sector + sectors);
        }
        self.below.read(reads)
    }

    fn write(&self, writes: Vec<Write>) -> Completion {
        for write in writes {
            let left =
                self.writes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            if left.is_err() {
                return Completion::done(Err(io::Error::other("no more writes")));
            }
            self.below.write(vec![write]).wait().unwrap();
        }
        Completion::done(Ok(()))
    }

    fn flush(&self) -> io::Result<()> {
        self.below.flush()
    }

    fn grow(&self, sectors: u64) -> io::Result<()> {
        self.below.grow(sectors)
    }
}

fn flip(device: &MemoryDevice, sector: u64, bit: usize) {
    let mut bytes = device.buffer(1);
    device.read(&mut [Read { sector, bytes: &mut bytes }]).unwrap();
    bytes[bit / 8] ^= 1 << (bit % 8);
    device.write(vec![Write { sector, bytes }]).wait().unwrap();
}

fn destroy(device: &MemoryDevice, sector: u64) {
    let mut bytes = device.buffer(1);
    bytes.fill(0xDB);
    device.write(vec![Write { sector, bytes }]).wait().unwrap();
}

/// The sectors that a check of this store reads, less those of the log.
fn read_by_check(device: &Arc<MemoryDevice>) -> Vec<u64> {
    let watched = Watched::new(device, 0);
    let report = check(watched.clone(), PASSPHRASE, &CheckOptions::default(), &mut |_, _| {}).unwrap();
    assert_eq!(report.problems, []);
    let read = watched.read.lock().unwrap();
    read.iter().copied().filter(|sector| !(LOG_START..LOG_START + LOG_SECTORS).contains(sector)).collect()
}

/// A small store with some of everything, closed, and what is in it.
fn small_store() -> (Arc<MemoryDevice>, Vec<(u64, Vec<u8>)>) {
    let (device, store) = create(32);
    let mut random = StdRng::seed_from_u64(3);
    let mut transaction = store.transaction();
    let blocks: Vec<Block> = (0..6u8).map(|n| transaction.create(&[n; 20])).collect();
    for (n, block) in blocks.iter().enumerate() {
        transaction.write(block, 5000, &pattern(n as u64, 80_000)).unwrap();
        for offset in 0..60 {
            transaction.put(block, KIND, offset, b"clear", &[offset as u8; 300]);
        }
    }
    transaction.apply().unwrap();
    store.snapshot_create("snapshot").unwrap();
    for _ in 0..10 {
        let block = &blocks[random.random_range(0..6)];
        let mut transaction = store.transaction();
        let offset = random.random_range(0..60_000);
        transaction.write(block, offset, &pattern(random.random(), 9_000)).unwrap();
        transaction.apply().unwrap();
    }
    let mut transaction = store.transaction();
    transaction.clone_range(&blocks[0], 3, &blocks[1], 40, 12).unwrap();
    transaction.clone_range(&blocks[0], 5, &blocks[0], 50, 8).unwrap();
    transaction.apply().unwrap();
    store.close().unwrap();
    let contents = blocks.iter().map(|block| {
        let mut bytes = vec![0; 80 * SECTOR];
        store.read(block, 0, &mut bytes).unwrap();
        (block.id(), bytes)
    });
    let contents = contents.collect();
    (device, contents)
}

/// Whatever can be read is what was written; returns whether all of it can be.
fn read_all(store: &Store, contents: &[(u64, Vec<u8>)]) -> bool {
    let mut whole = true;
    for (n, (id, expected)) in contents.iter().enumerate() {
        let block = match store.block(*id) {
            Ok(block) => block.unwrap(),
            Err(_) => {
                whole = false;
                continue;
            }
        };
        match store.attributes(&block) {
            Ok(attributes) => assert_eq!(attributes[..], [n as u8; 20]),
            Err(_) => whole = false,
        }
        for offset in 0..60 {
            match store.get(&block, KIND, offset) {
                Ok(item) => assert_eq!(item.unwrap().secret[..], [offset as u8; 300]),
                Err(_) => whole = false,
            }
        }
        let mut page = [0; SECTOR];
        for (sector, expected) in expected.chunks_exact(SECTOR).enumerate() {
            match store.read(&block, (sector * SECTOR) as u64, &mut page) {
                Ok(()) => assert!(page[..] == *expected, "wrong bytes in block {id}"),
                Err(Error::Corrupt { .. }) => whole = false,
                Err(error) => panic!("{error}"),
            }
        }
    }
    whole
}

#[test]
fn every_flipped_sector_is_found() {
    let (device, contents) = small_store();
    let mut random = StdRng::seed_from_u64(4);
    let in_use = read_by_check(&device);
    assert!(in_use.len() > 200, "{}", in_use.len());
    let read_only = OpenOptions { read_only: true, ..options() };
    let mut unreadable = 0;
    for sector in &in_use {
        let bit = random.random_range(0..SECTOR * 8);
        flip(&device, *sector, bit);
        let report = run(&device, false);
        assert!(is_noticed(&report), "sector {sector}, bit {bit}");
        if let Ok(store) = Store::open(device.clone(), PASSPHRASE, &read_only) {
            let whole = read_all(&store, &contents);
            let scrubbed = store.scrub(&|_, _| true).unwrap();
            assert!(whole || scrubbed.damaged > 0, "sector {sector}: {scrubbed:?}");
            unreadable += u32::from(!whole);
        }
        flip(&device, *sector, bit);
    }
    assert!(unreadable > 100, "{unreadable}");
    for _ in 0..150 {
        let sector = random.random_range(0..device.sectors());
        if in_use.binary_search(&sector).is_err() {
            flip(&device, sector, random.random_range(0..SECTOR * 8));
        }
    }
    assert_clean(&device);
}

/// Whether there is something to say, if only of a copy of the superblock that a crash may have torn.
fn is_noticed(report: &CheckReport) -> bool {
    report.damage_left > 0 || !report.notes.is_empty()
}

/// Damages a store, repairs it, and looks whether it is as it was.
#[track_caller]
fn assert_repairs(damage: impl Fn(&MemoryDevice)) {
    let (device, contents) = small_store();
    damage(&device);
    let before = device.snapshot();
    let report = run(&device, false);
    assert!(is_noticed(&report) && report.repaired == 0, "{report:?}");
    assert!(device.snapshot() == before, "a check writes nothing");
    // Whenever a repair is interrupted, it can be done again.
    for writes in 0..100 {
        let interrupted = copy(&device);
        let watched = Watched::new(&interrupted, writes);
        let done = check(watched, PASSPHRASE, &CheckOptions { repair: true }, &mut |_, _| {});
        if let Ok(report) = &done {
            assert!(report.repaired > 0 || !report.notes.is_empty(), "{report:?}");
            assert_eq!(report.damage_left, 0, "{report:?}");
            assert!(report.problems.iter().all(|problem| problem.repaired));
            assert!(writes > 0);
        } else {
            run(&interrupted, true);
        }
        assert_clean(&interrupted);
        let store = open(&interrupted);
        assert!(read_all(&store, &contents));
        assert!(store.snapshot_delete("snapshot").unwrap());
        store.reclaim().unwrap();
        store.close().unwrap();
        assert_clean(&interrupted);
        if done.is_ok() {
            return;
        }
    }
    panic!("a repair takes more than a hundred writes");
}

#[test]
fn copies_are_made_whole() {
    let rear = LOG_START + LOG_SECTORS;
    assert_repairs(|device| destroy(device, 8));
    assert_repairs(|device| [8, 12].iter().for_each(|sector| destroy(device, *sector)));
    assert_repairs(|device| [8, 12, rear + 4].iter().for_each(|sector| destroy(device, *sector)));
    assert_repairs(|device| [12, rear, rear + 4].iter().for_each(|sector| destroy(device, *sector)));
    assert_repairs(|device| destroy(device, 16));
    assert_repairs(|device| destroy(device, rear + 8));
    assert_repairs(|device| flip(device, 16, 8 * 4000));
    // Without a superblock there still is a report.
    let (device, _) = small_store();
    [8, 12, rear, rear + 4].iter().for_each(|sector| destroy(&device, *sector));
    for repair in [false, true] {
        assert!(run(&device, repair).damage_left > 0);
    }
}

#[test]
fn a_damaged_space_table_is_made_from_references() {
    let (device, _) = small_store();
    let homes: Vec<u64> = read_by_check(&device).into_iter().filter(|sector| *sector < 8).collect();
    assert_eq!(homes.len(), 4, "one of two homes on each level");
    for home in homes {
        assert_repairs(|device| destroy(device, home));
    }
    assert_repairs(|device| (0..8).for_each(|home| destroy(device, home)));
}

#[test]
fn damaged_data_is_named_and_left_while_the_rest_is_repaired() {
    let (device, contents) = small_store();
    let data = {
        let watched = Watched::new(&device, 0);
        let store = Store::open(
            watched.clone(),
            PASSPHRASE,
            &OpenOptions { read_only: true, cache_bytes: 1 << 20, ..options() },
        );
        let store = store.unwrap();
        let block = store.block(contents[2].0).unwrap().unwrap();
        let mut page = [0; SECTOR];
        store.read(&block, 17 * SECTOR as u64, &mut page).unwrap();
        watched.read.lock().unwrap().clear();
        store.read(&block, 17 * SECTOR as u64, &mut page).unwrap();
        let read = watched.read.lock().unwrap();
        *read.first().unwrap()
    };
    flip(&device, data, 5);
    destroy(&device, 16);
    let report = run(&device, true);
    assert_eq!((report.repaired, report.damage_left), (1, 1), "{report:?}");
    let left = report.problems.iter().find(|problem| !problem.repaired).unwrap();
    assert_eq!(left.block, Some(contents[2].0));
    assert!(left.what.contains(&format!("sector {data}")), "{left:?}");
    let range = format!("bytes {} to {}", 17 * SECTOR, 18 * SECTOR);
    assert!(left.place.contains(&range), "{left:?}");
    let scrubbed = open(&device).scrub(&|_, _| true).unwrap();
    assert_eq!(scrubbed.damaged, 1);
}

#[test]
fn a_scrub_runs_beside_writers_and_stops_when_told() {
    let (_, store) = create(64);
    let mut random = StdRng::seed_from_u64(9);
    let mut blocks = Vec::new();
    (0..60).for_each(|_| step(&store, &mut random, &mut blocks));
    std::thread::scope(|scope| {
        let scrubber = scope.spawn(|| (0..6).map(|_| store.scrub(&|_, _| true).unwrap()).collect::<Vec<_>>());
        while !scrubber.is_finished() {
            step(&store, &mut random, &mut blocks);
        }
        assert!(scrubber.join().unwrap().iter().all(|report| report.damaged == 0 && !report.stopped));
    });
    let report = store.scrub(&|_, _| false).unwrap();
    assert!(report.stopped);
}

#[test]
fn info_says_how_it_is() {
    let (device, store) = create(32);
    let info = store.info();
    assert_eq!((info.store_id.len(), info.root_principal.len(), info.format_version), (32, 64, 1));
    assert_eq!((info.capacity_sectors, info.volume_sectors), (8192, 8192));
    assert_eq!((info.log_sectors, info.log_used_sectors, info.generation), (LOG_SECTORS, 0, 0));
    let mut transaction = store.transaction();
    let block = transaction.create(b"block");
    transaction.write(&block, 0, &pattern(1, 100_000)).unwrap();
    store.sync(transaction.apply().unwrap()).unwrap();
    assert!(store.info().log_used_sectors > 0);
    assert!(store.info().used_sectors >= info.used_sectors + 25);
    store.checkpoint().unwrap();
    assert_eq!((store.info().log_used_sectors, store.info().generation), (0, 1));
    let store = open(&device);
    for _ in 0..10 {
        store.attributes(&store.block(1).unwrap().unwrap()).unwrap();
    }
    let info = store.info();
    assert!((0.5..1.0).contains(&info.node_cache_hit_rate), "{info:?}");
    assert!(info.block_cache_hit_rate < 0.5);
    let _held = store.block(1).unwrap().unwrap();
    (0..100).for_each(|_| drop(store.attributes(&store.block(1).unwrap().unwrap()).unwrap()));
    assert!(store.info().block_cache_hit_rate > 0.8);
}
