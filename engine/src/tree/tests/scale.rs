//! A large index and a small cache.

use std::sync::atomic::Ordering;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::memory::{Changes, Index, tree_on};
use crate::format::{ItemKind, Key};
use crate::limits::NODE_BYTES;

const ITEMS: u64 = 300_000;

fn key(number: u64) -> Key {
    Key::new(1 + number / 1000, ItemKind::EXTENT, number % 1000 * 32)
}

/// As long as an extent with a few sectors.
fn value(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(10)
}

fn filled(cache_bytes: usize) -> Index {
    let mut index = Index::new(cache_bytes);
    let mut random = StdRng::seed_from_u64(1);
    let mut numbers: Vec<u64> = (0..ITEMS).collect();
    rand::seq::SliceRandom::shuffle(&mut numbers[..], &mut random);
    for batch in numbers.chunks(ITEMS as usize / 6) {
        index.merge(&batch.iter().map(|number| (key(*number), Some(value(*number)))).collect()).unwrap();
    }
    index
}

#[test]
fn large_index_with_small_cache() {
    let mut index = filled(64 * NODE_BYTES);
    index.check_account();
    assert_eq!(index.items().len() as u64, ITEMS);
    let nodes = index.walk_nodes();
    let inner = nodes.iter().filter(|(level, _)| *level > 0).count() as u64;
    assert!(inner < 32, "all inner nodes fit the cache");

    // Cold: every inner node once, and a leaf for every get.
    let tree = tree_on(&index.memory, 64 * NODE_BYTES);
    index.memory.reads.store(0, Ordering::Relaxed);
    let mut random = StdRng::seed_from_u64(2);
    let gets = 5000;
    for _ in 0..gets {
        let number = random.random_range(0..ITEMS);
        assert_eq!(tree.get(&index.root, &key(number)).unwrap(), Some(value(number)));
    }
    let reads = index.memory.reads.load(Ordering::Relaxed);
    assert!(reads <= gets + 3 * inner, "{reads} reads for {gets} gets and {inner} inner nodes");

    // A range that is deleted wholesale.
    let delete: Changes = (100_000..200_000).map(|number| (key(number), None)).collect();
    let written = index.merge(&delete).unwrap();
    assert!(written < 12, "{written} nodes written to delete a range");
    index.check_account();
    assert_eq!(index.items().len() as u64, ITEMS - 100_000);
}

/// A merge leaves the upper levels and the leaves that were in use in the cache.
#[test]
fn merge_keeps_the_cache_warm() {
    // Room for the old nodes beside the new.
    let mut index = filled(128 << 20);
    index.items();
    let changes = (0..ITEMS).step_by(100).map(|number| (key(number), Some(value(0)))).collect();
    index.merge(&changes).unwrap();
    index.memory.reads.store(0, Ordering::Relaxed);
    index.items();
    assert_eq!(index.memory.reads.load(Ordering::Relaxed), 0);
}

/// What this thread has spent on a processor, in nanoseconds: the machine may be busy with other things.
fn cpu_ns() -> u64 {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    schedstat.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// Not a test: `cargo test --release -p blocktree-engine tree::tests::scale -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn measure() {
    let mut index = filled(128 << 20);
    index.items();
    let mut random = StdRng::seed_from_u64(3);
    let keys: Vec<Key> = (0..1_000_000).map(|_| key(random.random_range(0..ITEMS))).collect();
    let start = cpu_ns();
    let mut bytes = 0;
    for key in &keys {
        bytes += index.tree.get(&index.root, key).unwrap().map_or(0, |value| value.len());
    }
    println!("cached get: {} ns ({bytes} bytes)", (cpu_ns() - start) / keys.len() as u64);

    for (name, puts, fresh) in [("new", 100_000, true), ("new", 1000, true), ("changed", 100, false)] {
        let changes: Changes = (0..puts)
            .map(|_| {
                let offset = if fresh { random.random_range(1..32) } else { 0 };
                let key = key(random.random_range(0..ITEMS));
                (Key { offset: key.offset + offset, ..key }, Some(value(9)))
            })
            .collect();
        let start = cpu_ns();
        let written = index.merge(&changes).unwrap();
        let elapsed = (cpu_ns() - start) / 1000;
        println!(
            "merge of {puts} {name} puts: {elapsed} µs, {written} of {} nodes written",
            index.live.len()
        );
    }
    let tree = tree_on(&index.memory, 16 << 20);
    let start = cpu_ns();
    for key in &keys[..20_000] {
        tree.get(&index.root, key).unwrap();
    }
    println!("get with a small cache: {} ns", (cpu_ns() - start) / 20_000);
}
