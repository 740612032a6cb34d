//! Nodes that rotted, and nodes that someone with the structure key made up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::memory::{Index, structure_key, tree_on};
use crate::crypto::{ExtentKey, hash, open_sectors, seal_sectors};
use crate::format::{ItemKind, Key, NodePtr};
use crate::limits::NODE_BYTES;
use crate::tree::{MergeError, Node, NodeBytes, Root, TreeError, WalkEvent, WalkStep};

fn key(number: u64) -> Key {
    Key::new(number, ItemKind::HEADER, 0)
}

/// Three levels; the values are long, so that it has few items.
fn index() -> Index {
    let mut index = Index::new(0);
    index.merge(&(0..3000).map(|number| (key(number), Some(vec![number as u8; 3900]))).collect()).unwrap();
    assert_eq!(index.root.height, 3);
    index
}

#[test]
fn every_flipped_byte_is_found() {
    let index = index();
    let nodes = index.walk_nodes();
    // Some of each level, with their first keys.
    let first = nodes.iter().take(4);
    let sampled: Vec<_> = first.chain(nodes.iter().skip(4).step_by(97)).chain(nodes.last()).collect();
    for (level, ptr) in sampled {
        let sector = ptr.sector.get();
        for position in (0..NODE_BYTES).step_by(911).chain([15, 16, NODE_BYTES - 1]) {
            index.memory.nodes.lock().get_mut(&sector).unwrap()[position] ^= 0x40;
            let tree = tree_on(&index.memory, 0);
            let found = tree.scan(&index.root, &Key::MIN, &Key::MAX, &mut |_, _| true);
            assert!(matches!(found, Err(TreeError::Corrupt { sector: at, .. }) if at == sector), "{found:?}");

            // The walk goes on; only what is below the node is missing.
            if position == 15 {
                let (mut reached, mut damaged) = (0, Vec::new());
                tree.walk(&index.root, &mut |event| {
                    match event {
                        WalkEvent::Node { .. } => reached += 1,
                        WalkEvent::Damaged { ptr, level, .. } => damaged.push((level, *ptr)),
                        WalkEvent::Item { .. } => {}
                    }
                    WalkStep::On
                })
                .unwrap();
                assert_eq!(damaged, [(*level, *ptr)]);
                assert!(if *level == 0 { reached == nodes.len() } else { reached < nodes.len() });
            }
            index.memory.nodes.lock().get_mut(&sector).unwrap()[position] ^= 0x40;
        }
    }
}

#[test]
fn damage_is_where_it_is_only() {
    let mut index = index();
    let nodes = index.walk_nodes();
    index.tree = tree_on(&index.memory, 16 << 20);
    // Leaves hold three items each.
    let (_, leaf) = nodes.iter().filter(|(level, _)| *level == 0).nth(2).unwrap();
    index.memory.nodes.lock().get_mut(&leaf.sector.get()).unwrap()[9] ^= 1;
    assert!(matches!(index.tree.get(&index.root, &key(6)), Err(TreeError::Corrupt { .. })));
    assert!(index.tree.get(&index.root, &key(5)).unwrap().is_some());
    assert!(index.tree.get(&index.root, &key(2999)).unwrap().is_some());
    // Nor does a leaf mind that would gladly take up what is in the damaged one.
    let delete = |numbers: std::ops::Range<u64>| numbers.map(|number| (key(number), None)).collect();
    // All else that it needs is cached.
    let reads = index.memory.reads.load(Ordering::Relaxed);
    index.merge(&delete(4..6)).unwrap();
    assert_eq!(index.memory.reads.load(Ordering::Relaxed), reads + 2, "it tried, also past the host's cache");
    assert!(index.tree.get(&index.root, &key(3)).unwrap().is_some());
    let error = index.merge(&delete(8..9)).unwrap_err();
    assert!(matches!(error, MergeError::Tree(TreeError::Corrupt { .. })));
}

#[test]
fn impossible_roots_are_refused() {
    let index = index();
    for height in [1, 2, 4, 33, 34, 255, 256, 257, u32::MAX] {
        let root = Root { height, ..index.root };
        assert!(matches!(index.tree.get(&root, &key(5)), Err(TreeError::Corrupt { .. })));
    }
    let mut root = index.root;
    root.ptr.sector = 1.into();
    let outside = tree_on(&index.memory, 0).get(&root, &key(5));
    assert!(matches!(outside, Err(TreeError::Corrupt { sector: 1, .. })));
}

fn unseal(sealed: &NodeBytes) -> Box<NodeBytes> {
    let mut plain = Box::new(*sealed);
    let nonce: [u8; 16] = plain[..16].try_into().unwrap();
    open_sectors(&ExtentKey::derive(&structure_key(), &nonce), 0, &mut plain[16..]);
    plain
}

/// Puts a node of any content where another was, and returns the pointer that is right for it.
fn plant(index: &Index, old: &NodePtr, plain: &NodeBytes) -> NodePtr {
    let mut sealed = Box::new(*plain);
    let nonce: [u8; 16] = sealed[..16].try_into().unwrap();
    seal_sectors(&ExtentKey::derive(&structure_key(), &nonce), 0, &mut sealed[16..]);
    let ptr = NodePtr { hash: hash(&sealed[..]), ..*old };
    index.memory.nodes.lock().insert(old.sector.get(), sealed);
    ptr
}

/// Plants `change`d content for the node at `path` (the indexes of children from the root down), with the right
/// hashes all the way up. Returns the root.
fn forge(index: &Index, ptr: &NodePtr, path: &[usize], change: &mut dyn FnMut(&mut NodeBytes)) -> NodePtr {
    let mut plain = unseal(&index.memory.nodes.lock()[&ptr.sector.get()]);
    match path {
        [] => change(&mut plain),
        [child, path @ ..] => {
            let node = Node::parse(plain.clone()).unwrap();
            let child = *child % node.count();
            let forged = forge(index, &node.children()[child].ptr, path, change);
            let place = 32 + 65 * child + 17;
            plain[place..place + size_of::<NodePtr>()].copy_from_slice(forged.as_bytes());
        }
    }
    plant(index, ptr, &plain)
}

/// Whatever the tree consists of, each operation answers, and what a merge makes of it can be read.
fn survives(index: &mut Index, root: Root) {
    let tree = tree_on(&index.memory, 1 << 20);
    let keys = [0, 1, 7, 1500, 2999, 5000].map(key);
    for key in keys.iter().chain([&Key::MIN, &Key::MAX]) {
        let _ = tree.get(&root, key);
    }
    let mut last = None;
    let _ = tree.scan(&root, &Key::MIN, &Key::MAX, &mut |key, _| {
        assert!(last.replace(key).is_none_or(|last| last < key), "in order");
        true
    });
    let mut events = 0;
    let _ = tree.walk(&root, &mut |_| {
        events += 1;
        WalkStep::On
    });
    assert!(events < 100_000);
    for value in [None, Some([1u8; 50])] {
        for keys in [&keys[..], &keys[3..4], &keys[5..]] {
            let mut sink = index.sink();
            let changes = keys.iter().map(|key| (*key, value));
            if let Ok(root) = tree.merge(&root, 10, changes, &mut sink) {
                for key in keys {
                    let read = tree.get(&root, key);
                    // What was removed with all of its leaf is looked for in the leaf before, which may be the forged one.
                    if value.is_none() && matches!(read, Err(TreeError::Corrupt { .. })) {
                        continue;
                    }
                    assert_eq!(read.unwrap().as_deref(), value.as_ref().map(|value| &value[..]));
                }
            }
        }
    }
}

/// Where in a node to write what.
fn edit() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let place = prop_oneof![
        3 => 16usize..32,
        4 => 32usize..200,
        2 => 32usize..NODE_BYTES,
        1 => NODE_BYTES - 200..NODE_BYTES,
    ];
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..4),
        proptest::collection::vec(any::<u8>(), 1..80),
        proptest::collection::vec(Just(0), 1..80),
        proptest::collection::vec(Just(0xff), 1..20),
    ];
    (place, bytes)
}

fn apply(edits: &[(usize, Vec<u8>)], bytes: &mut NodeBytes) {
    for (place, new) in edits {
        let end = (place + new.len()).min(NODE_BYTES);
        bytes[*place..end].copy_from_slice(&new[..end - place]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn forged_nodes_do_no_harm(
        path in proptest::collection::vec(0usize..300, 0..3),
        edits in proptest::collection::vec(edit(), 1..4),
    ) {
        let mut index = index();
        let ptr = forge(&index, &index.root.ptr, &path, &mut |bytes| apply(&edits, bytes));
        let root = Root { ptr, ..index.root };
        survives(&mut index, root);
    }

    /// Valid nodes in the wrong places: a child's pointer is that of another child, or of its own parent.
    #[test]
    fn misplaced_nodes_do_no_harm(path in proptest::collection::vec(0usize..300, 0..2), from in 0usize..900, to in 0usize..251) {
        let mut index = index();
        let nodes = index.walk_nodes();
        let other = nodes[from % nodes.len()].1;
        let ptr = forge(&index, &index.root.ptr, &path, &mut |bytes| {
            let node = Node::parse(Box::new(*bytes)).unwrap();
            let place = 32 + 65 * (to % node.count()) + 17;
            bytes[place..place + size_of::<NodePtr>()].copy_from_slice(other.as_bytes());
        });
        let root = Root { ptr, ..index.root };
        survives(&mut index, root);
    }

    #[test]
    fn parse_takes_anything(level in 0u8..4, edits in proptest::collection::vec(edit(), 0..6)) {
        let mut bytes = Box::new([0; NODE_BYTES]);
        bytes[16..20].copy_from_slice(b"BTND");
        bytes[20] = level;
        apply(&edits, &mut bytes);
        if let Ok(node) = Node::parse(bytes) {
            for slot in node.slots() {
                node.value(slot);
                assert!(node.find(&Key::from(&slot.key)).is_ok());
            }
            assert!(node.count() > 0 && node.weight() <= NODE_BYTES - 32);
        }
    }
}

/// The harness of these tests would find a panic.
#[test]
fn unsorted_changes_are_refused() {
    let index = index();
    let mut sink = Index::new(0).sink();
    let changes = [(key(2), Some([0])), (key(1), None)];
    let merge = AssertUnwindSafe(|| index.tree.merge(&index.root, 5, changes, &mut sink).is_ok());
    assert!(catch_unwind(merge).is_err());
}
