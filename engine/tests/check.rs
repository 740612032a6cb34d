//! Check, scrub and repair, on memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{Device, MemoryDevice, Write};
use blocktree_engine::format::ItemKind;
use blocktree_engine::{
    Block, CheckOptions, CheckReport, CreateOptions, Error, OpenError, OpenOptions, Store, check,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const KIND: ItemKind = ItemKind::FIRST_FREE;
const SECTOR: usize = 4096;
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
    match random.random_range(0..12) {
        0 | 1 => blocks.push(transaction.create(b"attributes")),
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
        _ => {
            let index = random.random_range(0..blocks.len());
            transaction.destroy(&blocks.swap_remove(index)).unwrap();
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
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut device, mut store) = create(64);
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
