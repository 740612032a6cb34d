//! What the log costs: appending a record, in memory and on the disk, and recovering from many.

use std::sync::Arc;

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{Device, MemoryDevice, create_volume};
use blocktree_engine::format::ItemKind;
use blocktree_engine::{Block, CreateOptions, OpenOptions, Store};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const KIND: ItemKind = ItemKind::FIRST_FREE;
const STORE_SECTORS: u64 = 16 << 10;
const PASSPHRASE: &[u8] = b"benchmark";
const SECTOR: usize = 4096;

fn create(device: Arc<dyn Device>, capacity_sectors: u64, background: bool) -> (Store, Block) {
    let create = CreateOptions { capacity_sectors, kdf: KdfCost::TRIVIAL };
    let options = OpenOptions { background, ..OpenOptions::default() };
    let store = Store::create_with(device, PASSPHRASE, &create, &options).unwrap();
    let mut transaction = store.transaction();
    let block = transaction.create(b"attributes");
    store.sync(transaction.apply().unwrap()).unwrap();
    (store, block)
}

fn append_item(store: &Store, block: &Block, offset: u64) {
    let mut transaction = store.transaction();
    transaction.put(block, KIND, offset, b"a clear part", b"and a secret part of some more bytes");
    store.sync(transaction.apply().unwrap()).unwrap();
}

fn append_sector(store: &Store, block: &Block, sector: u64, bytes: &[u8]) {
    let mut transaction = store.transaction();
    transaction.write(block, sector * SECTOR as u64, bytes).unwrap();
    store.sync(transaction.apply().unwrap()).unwrap();
}

fn appends(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let volume =
        create_volume(&folder.path().join("store"), Some(STORE_SECTORS * SECTOR as u64 * 4)).unwrap();
    let memory: (Arc<dyn Device>, u64) = (Arc::new(MemoryDevice::new(STORE_SECTORS)), STORE_SECTORS);
    let disk = (volume.device, volume.capacity_sectors);
    let mut group = criterion.benchmark_group("append a record");
    for (name, (device, capacity)) in [("memory", memory), ("disk", disk)] {
        let (store, block) = create(device, capacity, true);
        let (bytes, mut at) = (vec![0x5a; SECTOR], 0);
        group.bench_function(BenchmarkId::new("of an item", name), |bencher| {
            bencher.iter(|| {
                at = (at + 1) % 1000;
                append_item(&store, &block, at);
            });
        });
        group.bench_function(BenchmarkId::new("of a sector", name), |bencher| {
            bencher.iter(|| {
                at = (at + 7) % 1000;
                append_sector(&store, &block, at, &bytes);
            });
        });
        store.close().unwrap();
    }
    group.finish();
}

fn recoveries(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recover records");
    group.sample_size(20);
    for records in [10, 100, 1000] {
        let device = Arc::new(MemoryDevice::new(STORE_SECTORS));
        let (store, block) = create(device.clone(), STORE_SECTORS, false);
        (0..records).for_each(|offset| append_item(&store, &block, offset));
        let image = device.snapshot();
        group.throughput(Throughput::Elements(records));
        group.bench_function(BenchmarkId::from_parameter(records), |bencher| {
            bencher.iter_batched(
                || Arc::new(MemoryDevice::from_bytes(image.clone())),
                |device| {
                    let options = OpenOptions { background: false, ..OpenOptions::default() };
                    let store = Store::open(device, PASSPHRASE, &options).unwrap();
                    assert!(store.get(&block, KIND, records - 1).unwrap().is_some());
                    store
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, appends, recoveries);
criterion_main!(benches);
