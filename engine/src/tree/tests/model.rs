//! Random batches, against a map in memory.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};

use super::memory::{Changes, Index};
use crate::format::{ItemKind, Key};
use crate::limits::ITEM_BYTES_MAX;
use crate::tree::{MergeError, NodeSink, Root, WalkEvent, WalkStep};

type Model = BTreeMap<Key, Vec<u8>>;

fn key(number: u64) -> Key {
    Key::new(number / 100, ItemKind((number % 100 / 50) as u8), number % 50 * 7)
}

fn apply(model: &mut Model, changes: &Changes) {
    for (key, value) in changes {
        match value {
            Some(value) => model.insert(*key, value.clone()),
            None => model.remove(key),
        };
    }
}

fn check(index: &Index, model: &Model, keys: impl Iterator<Item = Key>) {
    index.check_account();
    assert!(index.items().iter().map(|(key, value)| (key, value)).eq(model.iter()));
    for key in keys {
        assert_eq!(index.tree.get(&index.root, &key).unwrap(), model.get(&key).cloned());
    }
}

/// Values of an index: mostly small, some of the longest.
fn value() -> impl Strategy<Value = Vec<u8>> {
    (prop_oneof![4 => 0usize..200, 1 => 0..=ITEM_BYTES_MAX, 1 => Just(ITEM_BYTES_MAX)], any::<u8>())
        .prop_map(|(length, byte)| vec![byte; length])
}

/// One batch: changes here and there, or of everything in a range.
fn batch() -> impl Strategy<Value = Changes> {
    let change = |puts: u32| proptest::option::weighted(f64::from(puts) / 10.0, value());
    let scattered = (1u32..10).prop_flat_map(move |puts| {
        proptest::collection::btree_map((0u64..3000).prop_map(key), change(puts), 0..250)
    });
    let range = (0u64..3000, 0u64..1500, proptest::option::of(value())).prop_map(|(from, count, value)| {
        (from..from + count).map(|number| (key(number), value.clone())).collect()
    });
    prop_oneof![3 => scattered, 1 => range]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn merges_like_a_map(batches in proptest::collection::vec(batch(), 1..16), cache_bytes in 0usize..4 << 20) {
        let mut index = Index::new(cache_bytes);
        let mut model = Model::new();
        for changes in &batches {
            index.merge(changes).unwrap();
            apply(&mut model, changes);
            check(&index, &model, changes.keys().copied());
            // The same again makes no difference.
            let root = index.root;
            prop_assert_eq!(index.merge(changes).unwrap(), 0);
            prop_assert_eq!(index.root, root);
        }
        let from = key(1000);
        let to = key(1200);
        let mut seen = Vec::new();
        index.tree.scan(&index.root, &from, &to, &mut |key, _| { seen.push(key); true }).unwrap();
        prop_assert!(seen.iter().eq(model.range(from..=to).map(|(key, _)| key)));
        seen.clear();
        index.tree.scan(&index.root, &from, &to, &mut |key, _| { seen.push(key); seen.len() < 5 }).unwrap();
        prop_assert!(seen.iter().eq(model.range(from..=to).map(|(key, _)| key).take(5)));

        let everything = model.keys().map(|key| (*key, None)).collect();
        prop_assert_eq!(index.merge(&everything).unwrap(), 0);
        prop_assert_eq!(index.root, Root::EMPTY);
        prop_assert!(index.live.is_empty());
    }
}

/// Grows to three levels and shrinks again, many small batches long: what thins out is joined.
#[test]
fn long_life() {
    let mut random = StdRng::seed_from_u64(7);
    let mut index = Index::new(8 << 20);
    let mut model = Model::new();
    for round in 0..400 {
        let growing = (round / 100) % 2 == 0;
        let mut changes = Changes::new();
        for _ in 0..random.random_range(1..600) {
            if random.random_bool(if growing { 0.9 } else { 0.1 }) {
                let length_max = random.random_range(0..1500);
                let length = random.random_range(0..=length_max);
                changes.insert(key(random.random_range(0..100_000)), Some(vec![round as u8; length]));
            } else if let Some(key) = model.keys().choose(&mut random) {
                changes.insert(*key, None);
            }
        }
        if round % 10 == 9 && !growing {
            let from = random.random_range(0..100_000);
            changes.extend(model.range(key(from)..key(from + 10_000)).map(|(key, _)| (*key, None)));
        }
        index.merge(&changes).unwrap();
        apply(&mut model, &changes);
        if round % 5 == 0 {
            check(&index, &model, changes.keys().copied());
            let bytes: usize = model.values().map(|value| value.len() + 21).sum();
            assert!(index.live.len() <= 4 + bytes / 4096, "{} nodes for {bytes} bytes", index.live.len());
        } else {
            index.check_account();
        }
        if round == 99 {
            assert_eq!(index.root.height, 3);
        }
    }
}

/// Deletes until one leaf is left at one side, so that inner nodes are left with single children.
#[test]
fn shrinks_from_either_side() {
    for keep in [0, 1, 150_000, 299_998, 299_999] {
        let mut index = Index::new(64 << 20);
        let put: Changes = (0..300_000).map(|number| (key(number), Some(vec![1; 60]))).collect();
        index.merge(&put).unwrap();
        assert_eq!(index.root.height, 3);
        for step in [64, 8, 2] {
            let (low, high) = (keep - keep / step, keep + (300_000 - keep) / step);
            let rest = index.items();
            let delete =
                rest.iter().map(|(key, _)| (*key, None)).filter(|(k, _)| *k < key(low) || *k > key(high));
            let written = index.merge(&delete.collect()).unwrap();
            index.check_account();
            assert!(written < 12, "{written} nodes written to delete ranges");
        }
        let delete =
            (0..300_000).filter(|number| *number != keep).map(|number| (key(number), None)).collect();
        index.merge(&delete).unwrap();
        index.check_account();
        assert_eq!(index.root.height, 1);
        assert_eq!(index.items(), [(key(keep), vec![1; 60])]);
    }
}

#[test]
fn appends_pack_well() {
    let mut index = Index::new(8 << 20);
    for batch in 0..200u64 {
        let changes =
            (0..37).map(|i| (Key::new(5, ItemKind::EXTENT, batch * 37 + i), Some(vec![1; 100]))).collect();
        let written = index.merge(&changes).unwrap();
        assert!(written <= 4, "{written} nodes written");
    }
    index.check_account();
    let bytes = 200 * 37 * 121;
    assert!(index.live.len() <= bytes / 15_000 + 4, "{} nodes", index.live.len());
}

#[test]
fn scattered_changes_leave_the_rest_alone() {
    let mut index = Index::new(8 << 20);
    index.merge(&(0..50_000).map(|number| (key(number), Some(vec![1; 60]))).collect()).unwrap();
    let nodes = index.live.len();
    // One leaf, the root; and nothing for what is so already or is not there.
    let changes = [
        (key(100), Some(vec![1; 60])),
        (key(25_000), Some(vec![2; 60])),
        (Key { offset: 1, ..key(40_000) }, None),
    ];
    assert_eq!(index.merge(&Changes::from(changes)).unwrap(), index.root.height as usize);
    assert_eq!(index.live.len(), nodes);
    index.check_account();
}

#[test]
fn edges_of_an_empty_index() {
    let mut index = Index::new(0);
    assert_eq!(index.merge(&Changes::from([(Key::MIN, None)])).unwrap(), 0);
    assert_eq!(index.merge(&Changes::new()).unwrap(), 0);
    assert_eq!(index.root, Root::EMPTY);
    assert_eq!(index.tree.get(&index.root, &Key::MIN).unwrap(), None);
    assert!(index.items().is_empty());
    index
        .merge(&Changes::from([(Key::MIN, Some(vec![])), (Key::MAX, Some(vec![9; ITEM_BYTES_MAX]))]))
        .unwrap();
    assert_eq!(index.tree.get(&index.root, &Key::MIN).unwrap(), Some(vec![]));
    assert_eq!(index.tree.get(&index.root, &Key::MAX).unwrap(), Some(vec![9; ITEM_BYTES_MAX]));
    assert_eq!(index.root.height, 1);
    let long = Changes::from([(Key::MIN, Some(vec![0; ITEM_BYTES_MAX + 1]))]);
    assert!(matches!(index.merge(&long), Err(MergeError::TooLong)));
}

#[test]
fn a_full_sink_changes_nothing() {
    let mut index = Index::new(1 << 20);
    index.merge(&(0..20_000).map(|number| (key(number), Some(vec![1; 60]))).collect()).unwrap();
    let items = index.items();
    for space in 0..6 {
        let mut sink = index.sink();
        sink.space = space;
        let changes = (0..20_000).step_by(10).map(|number| (key(number), Some([2u8; 60])));
        let outcome = index.tree.merge(&index.root, 2, changes, &mut sink);
        assert!(matches!(outcome, Err(MergeError::Sink(crate::Error::NoSpace))));
        assert!(sink.allocate().is_err());
        assert_eq!(index.items(), items);
    }
    index.check_account();
}

#[test]
fn walk_skips_and_stops() {
    let mut index = Index::new(1 << 20);
    index.merge(&(0..20_000).map(|number| (key(number), Some(vec![1; 60]))).collect()).unwrap();
    let count = |answer: &dyn Fn(&WalkEvent<'_>) -> WalkStep| {
        let mut events = 0;
        index
            .tree
            .walk(&index.root, &mut |event| {
                events += 1;
                answer(&event)
            })
            .unwrap();
        events
    };
    assert_eq!(count(&|_| WalkStep::On), 20_000 + index.live.len());
    assert_eq!(count(&|_| WalkStep::Stop), 1);
    assert_eq!(count(&|_| WalkStep::Skip), 1);
    let is_leaf = |event: &WalkEvent<'_>| matches!(event, WalkEvent::Node { level: 0, .. });
    assert_eq!(count(&|event| if is_leaf(event) { WalkStep::Skip } else { WalkStep::On }), index.live.len());
}
