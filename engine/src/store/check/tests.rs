//! What hashes cannot show: a store that was written wrong. Each test spoils one item or count, as a bug would.

use std::sync::Arc;

use zerocopy::IntoBytes;

use super::{CheckOptions, CheckReport, check};
use crate::crypto::KdfCost;
use crate::device::{Device, MemoryDevice};
use crate::format::{BlockHeader, DeadBytes, Extent, ItemKind, Key, SYSTEM_BLOCK, SharedBytes};
use crate::space::Run;
use crate::store::batch::Change;
use crate::store::layers::Value;
use crate::store::{Block, CreateOptions, OpenOptions, Store};

const SECTOR: usize = crate::limits::SECTOR_BYTES;

fn options() -> OpenOptions {
    OpenOptions { background: false, ..OpenOptions::default() }
}

/// Two blocks that share sectors, and a snapshot of them before that.
fn store() -> (Arc<MemoryDevice>, Store, Block, Block) {
    let device = Arc::new(MemoryDevice::new(8192));
    let create = CreateOptions { capacity_sectors: 8192, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), b"passphrase", &create, &options()).unwrap();
    let mut transaction = store.transaction();
    let (a, b) = (transaction.create(b"a"), transaction.create(b"b"));
    transaction.write(&a, 0, &[1; 30 * SECTOR]).unwrap();
    transaction.write(&b, 0, &[2; 30 * SECTOR]).unwrap();
    transaction.apply().unwrap();
    store.snapshot_create("snapshot").unwrap();
    let mut transaction = store.transaction();
    transaction.clone_range(&a, 0, &b, 100, 20).unwrap();
    transaction.write(&b, 0, &[3; SECTOR]).unwrap();
    transaction.apply().unwrap();
    store.checkpoint().unwrap();
    (device, store, a, b)
}

fn run(device: &Arc<MemoryDevice>, repair: bool) -> CheckReport {
    check(device.clone(), b"passphrase", &CheckOptions { repair }, &mut |_, _| {}).unwrap()
}

fn items(store: &Store, block: u64, kind: ItemKind) -> Vec<(Key, Value)> {
    let (from, to) = (Key::new(block, kind, 0), Key::new(block, kind, u64::MAX));
    store.core.range_sealed(from, to, 1000).unwrap().0
}

/// Spoils a store, in the log and then in a checkpoint; returns what a check finds, once it was repaired.
#[track_caller]
fn assert_repairs(spoil: impl Fn(&Store, &Block, &Block), found: &str) {
    for checkpoint in [false, true] {
        let (device, store, a, b) = store();
        spoil(&store, &a, &b);
        store.sync(store.newest()).unwrap();
        if checkpoint {
            // Not all that is wrong can be made a checkpoint of.
            let _ = store.checkpoint();
        }
        let device = Arc::new(MemoryDevice::from_bytes(device.snapshot()));
        let report = run(&device, false);
        assert!(report.problems.iter().any(|problem| problem.what.contains(found)), "{report:?}");
        let report = run(&device, true);
        assert!(report.repaired > 0 && report.damage_left == 0, "{report:?}");
        assert_eq!(run(&device, false).problems, []);
        let store = Store::open(device.clone(), b"passphrase", &options()).unwrap();
        let b = store.block(b.id()).unwrap().unwrap();
        let mut bytes = vec![0; 120 * SECTOR];
        store.read(&b, 0, &mut bytes).unwrap();
        assert!(bytes[..SECTOR] == [3; SECTOR] && bytes[SECTOR..2 * SECTOR] == [2; SECTOR]);
        assert!(bytes[100 * SECTOR..] == [1; 20 * SECTOR]);
        // What follows from the repaired items goes well.
        assert!(store.snapshot_delete("snapshot").unwrap());
        for id in [a.id(), b.id()] {
            let block = store.block(id).unwrap().unwrap();
            let mut transaction = store.transaction();
            transaction.destroy(&block);
            transaction.apply().unwrap();
        }
        store.reclaim().unwrap();
        store.close().unwrap();
        assert_eq!(run(&device, false).problems, []);
    }
}

fn put(store: &Store, key: Key, change: Change) {
    let mut transaction = store.transaction();
    transaction.put_system(key, change);
    transaction.apply().unwrap();
}

#[test]
fn the_sectors_of_a_block_are_counted_anew() {
    let spoil = |store: &Store, a: &Block, _: &Block| {
        let (key, value) = items(store, a.id(), ItemKind::HEADER).remove(0);
        let header = BlockHeader { sectors: BlockHeader::encode_sectors(7), ..a.0.header() };
        let value = [header.as_bytes(), &value[size_of::<BlockHeader>()..]].concat();
        put(store, key, Change::Raw(value.into()));
    };
    assert_repairs(spoil, "its header counts 7 sectors, its extents have 30");
}

#[test]
fn shared_counts_are_made_from_extents() {
    let wrong = |store: &Store, _: &Block, _: &Block| {
        let (key, _) = items(store, SYSTEM_BLOCK, ItemKind::SHARED).remove(0);
        let shared = SharedBytes { sectors: 3.into(), extents: 5.into() };
        put(store, key, Change::Raw(shared.as_bytes().into()));
    };
    assert_repairs(wrong, "shared by 2 extents, recorded as 5");
    let missing = |store: &Store, _: &Block, _: &Block| {
        let (key, _) = items(store, SYSTEM_BLOCK, ItemKind::SHARED).remove(0);
        put(store, key, Change::Delete);
    };
    assert_repairs(missing, "shared by 2 extents, recorded as 0");
}

#[test]
fn dead_lists_are_made_right() {
    let of_no_snapshot = |store: &Store, _: &Block, _: &Block| {
        let dead = DeadBytes { sectors: 3.into(), birth: 1.into() };
        put(store, Key::new(77, ItemKind::DEAD, 7000), Change::Raw(dead.as_bytes().into()));
    };
    assert_repairs(of_no_snapshot, "its snapshot does not exist");
    let of_the_living = |store: &Store, a: &Block, _: &Block| {
        let (_, value) = items(store, a.id(), ItemKind::EXTENT).remove(0);
        let extent = Extent::decode(&value).unwrap();
        let snapshot = store.core.snapshots.lock().all[0].id;
        let dead = DeadBytes { sectors: 2.into(), birth: 1.into() };
        let key = Key::new(snapshot, ItemKind::DEAD, extent.sector() + 25);
        put(store, key, Change::Raw(dead.as_bytes().into()));
    };
    assert_repairs(of_the_living, "names sectors as dead that are in use");
    let missing = |store: &Store, _: &Block, _: &Block| {
        let snapshot = store.core.snapshots.lock().all[0].id;
        for (key, _) in items(store, snapshot, ItemKind::DEAD) {
            put(store, key, Change::Delete);
        }
    };
    assert_repairs(missing, "refers to sectors that are in no dead list");
}

#[test]
fn orphans_and_reclaims_of_nothing_are_dropped() {
    let orphan = |store: &Store, _: &Block, _: &Block| {
        put(store, Key::new(SYSTEM_BLOCK, ItemKind::ORPHAN, 99), Change::Raw([].into()));
    };
    assert_repairs(orphan, "does not exist");
}

#[test]
fn space_is_made_from_references() {
    let leaked = |store: &Store, _: &Block, _: &Block| {
        let mut space = store.core.space.lock();
        assert!(space.promise(5).unwrap());
        let runs = space.allocate(5, 5).unwrap();
        drop(space);
        store.core.layers.write().pending.allocated.extend(runs);
        let mut transaction = store.transaction();
        transaction.create(b"");
        transaction.apply().unwrap();
    };
    assert_repairs(leaked, "5 sectors from");
    let lost = |store: &Store, a: &Block, _: &Block| {
        let (_, value) = items(store, a.id(), ItemKind::EXTENT).remove(0);
        let sector = Extent::decode(&value).unwrap().sector() + 25;
        let mut transaction = store.transaction();
        transaction.free(Run { sector, sectors: 3 });
        transaction.create(b"");
        transaction.apply().unwrap();
    };
    assert_repairs(lost, "count as free, but are in use");
}

#[test]
fn what_cannot_be_explained_is_left() {
    let (device, store, a, b) = store();
    // The same sectors in two blocks, neither marked as shared.
    let (_, value) = items(&store, a.id(), ItemKind::EXTENT).pop().unwrap();
    let mut extent = Extent::decode(&value).unwrap();
    extent.header.flags = 0.into();
    put(&store, Key::new(b.id(), ItemKind::EXTENT, 500), Change::Raw(extent.encode().into()));
    // One hash for two sectors, in a block that has no such units.
    let mut extent = extent.slice(0, 2);
    (extent.header.unit_log2, extent.hashes) = (1, vec![[0; 32]]);
    put(&store, Key::new(b.id(), ItemKind::EXTENT, 600), Change::Raw(extent.encode().into()));
    // An item without a block.
    put(&store, Key::new(66, ItemKind::FIRST_FREE, 0), Change::Raw([0; 40].into()));
    store.sync(store.newest()).unwrap();
    let device = Arc::new(MemoryDevice::from_bytes(device.snapshot()));
    let report = run(&device, true);
    let has =
        |what: &str| report.problems.iter().any(|problem| problem.what.contains(what) && !problem.repaired);
    assert!(has("belongs to something else too"), "{report:?}");
    assert!(has("its units are longer than the block's header says"), "{report:?}");
    assert!(has("has items but no header"), "{report:?}");
    assert!(has("its id was not given out yet"), "{report:?}");
    assert!(report.damage_left >= 3);
    assert_eq!(run(&device, false).problems.len() as u64, report.damage_left, "the rest was repaired");
    assert!(device.sectors() == 8192);
}
