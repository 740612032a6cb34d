//! What the index costs: looking up and inserting items, with more and more of them, in memory.

use std::sync::Arc;

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::MemoryDevice;
use blocktree_engine::format::ItemKind;
use blocktree_engine::{Block, CreateOptions, OpenOptions, Store};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const KIND: ItemKind = ItemKind::FIRST_FREE;
const STORE_SECTORS: u64 = 64 << 10;

fn put(store: &Store, block: &Block, offset: u64) {
    let mut transaction = store.transaction();
    transaction.put(block, KIND, offset, b"a clear part", b"and a secret part of some more bytes");
    transaction.apply().unwrap();
}

/// A store with this many items, all of them in the tree.
fn filled(items: u64, options: &OpenOptions) -> (Store, Block) {
    let device = Arc::new(MemoryDevice::new(STORE_SECTORS));
    let create = CreateOptions { capacity_sectors: STORE_SECTORS, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device, b"benchmark", &create, options).unwrap();
    let mut transaction = store.transaction();
    let block = transaction.create(b"attributes");
    transaction.apply().unwrap();
    for first in (0..items).step_by(1000) {
        (first..first + 1000).for_each(|offset| put(&store, &block, offset));
        store.sync(store.newest()).unwrap();
    }
    store.checkpoint().unwrap();
    (store, block)
}

fn lookups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("look up an item");
    for items in [1_000, 10_000, 100_000] {
        for (name, cache_bytes) in [("cached", 64 << 20), ("uncached", 0)] {
            let options = OpenOptions { background: false, cache_bytes, ..OpenOptions::default() };
            let (store, block) = filled(items, &options);
            let mut at = 0;
            group.bench_function(BenchmarkId::new(name, items), |bencher| {
                bencher.iter(|| {
                    at = (at + 7919) % items;
                    assert!(store.get(&block, KIND, at).unwrap().is_some());
                });
            });
        }
    }
    group.finish();
}

fn inserts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("insert an item");
    for items in [1_000, 100_000] {
        // With a background, which takes care that deltas do not fill the memory.
        let (store, block) = filled(items, &OpenOptions::default());
        let mut at = 0;
        group.bench_function(BenchmarkId::from_parameter(items), |bencher| {
            bencher.iter(|| {
                at = (at + 7919) % items;
                put(&store, &block, at);
            });
        });
        store.close().unwrap();
    }
    group.finish();
}

criterion_group!(benches, lookups, inserts);
criterion_main!(benches);
