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

/// A merge does not wait for the device once for each leaf, and reads none twice.
#[test]
fn merge_reads_leaves_many_at_once() {
    let mut index = filled(64 * NODE_BYTES);
    let nodes = index.walk_nodes().len() as u64;
    let changes = (0..ITEMS).step_by(100).map(|number| (key(number), Some(value(0)))).collect();
    index.memory.reads.store(0, Ordering::Relaxed);
    index.memory.calls.store(0, Ordering::Relaxed);
    index.merge(&changes).unwrap();
    let [reads, calls] =
        [&index.memory.reads, &index.memory.calls].map(|count| count.load(Ordering::Relaxed));
    assert!(reads <= nodes && reads > nodes * 9 / 10, "{reads} of {nodes} nodes read");
    assert!(calls * 16 < reads, "{reads} nodes read in {calls} calls");
}
