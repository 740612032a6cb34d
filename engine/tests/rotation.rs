//! New keys for blocks, and the re-encryption of what stands under older ones.

use std::cell::Cell;
use std::sync::Arc;

use blocktree_engine::crypto::{KdfCost, Principal};
use blocktree_engine::device::MemoryDevice;
use blocktree_engine::format::{BlockId, ItemKind};
use blocktree_engine::{
    Block, CheckOptions, CreateOptions, Credential, Error, OpenOptions, Rotation, StaleInfo, Store, check,
};

const PASSPHRASE: &[u8] = b"passphrase";
const SECTORS: u64 = 48 * 256;
const SECTOR: u64 = 4096;
const KIND: ItemKind = ItemKind::FIRST_FREE;

fn options() -> OpenOptions {
    OpenOptions { background: false, ..OpenOptions::default() }
}

fn create() -> (Arc<MemoryDevice>, Store) {
    let device = Arc::new(MemoryDevice::new(SECTORS));
    let create = CreateOptions { capacity_sectors: SECTORS, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options()).unwrap();
    (device, store)
}

fn open(device: &Arc<MemoryDevice>) -> Store {
    Store::open(device.clone(), PASSPHRASE, &options()).unwrap()
}

fn bytes(seed: u8, length: u64) -> Vec<u8> {
    (0..length).map(|at| (at / 7) as u8 ^ (at / 4096) as u8 ^ seed).collect()
}

fn is_clean(device: &Arc<MemoryDevice>) {
    let image = Arc::new(MemoryDevice::from_bytes(device.snapshot()));
    let report = check(image, PASSPHRASE, &CheckOptions::default(), &mut |_, _| {}).unwrap();
    assert_eq!(report.problems, []);
}

/// A store with three blocks: one with items and 300 sectors, some of which are clones of another's, and one that has
/// clones of the first.
fn filled() -> (Arc<MemoryDevice>, Store) {
    let (device, store) = create();
    let mut transaction = store.transaction();
    let [root, block, other, _] = [(); 4].map(|()| transaction.create(b"attributes"));
    assert_eq!([root.id(), block.id(), other.id()], [1, 2, 3]);
    transaction.put(&block, KIND, 7, b"clear", b"secret");
    transaction.put(&block, KIND, 8, b"", b"another");
    transaction.write(&other, 0, &bytes(9, 100 * SECTOR)).unwrap();
    transaction.write(&block, 0, &bytes(1, 280 * SECTOR)).unwrap();
    transaction.write(&block, 400 * SECTOR + 5, b"a part of a sector").unwrap();
    transaction.apply().unwrap();
    let mut transaction = store.transaction();
    let fourth = store.block(4).unwrap().unwrap();
    transaction.clone_range(&other, 10, &block, 300, 20).unwrap();
    transaction.clone_range(&block, 40, &block, 500, 30).unwrap();
    transaction.clone_range(&block, 50, &fourth, 0, 40).unwrap();
    store.sync(transaction.apply().unwrap()).unwrap();
    (device, store)
}

fn is_as_filled(store: &Store) {
    let [block, other, fourth] = [2, 3, 4].map(|id| store.block(id).unwrap().unwrap());
    assert_eq!(&store.attributes(&block).unwrap()[..], b"attributes");
    let items = store.scan(&block, KIND, 0, 10).unwrap();
    let secrets: Vec<&[u8]> = items.iter().map(|(_, item)| &item.secret[..]).collect();
    assert_eq!(secrets, [&b"secret"[..], b"another"]);
    let read = |block: &Block, sector: u64, sectors: u64| {
        let mut found = vec![0xA5; (sectors * SECTOR) as usize];
        store.read(block, sector * SECTOR, &mut found).unwrap();
        found
    };
    let (one, nine) = (bytes(1, 280 * SECTOR), bytes(9, 100 * SECTOR));
    let part = |of: &[u8], from: u64, sectors: u64| {
        of[(from * SECTOR) as usize..][..(sectors * SECTOR) as usize].to_vec()
    };
    assert!(read(&block, 0, 280) == one);
    assert!(read(&block, 280, 20).iter().all(|byte| *byte == 0), "a hole stays one");
    assert!(read(&block, 300, 20) == part(&nine, 10, 20));
    assert!(read(&block, 500, 30) == part(&one, 40, 30));
    assert_eq!(&read(&block, 400, 1)[5..23], b"a part of a sector");
    assert!(read(&other, 0, 100) == nine);
    assert!(read(&fourth, 0, 40) == part(&one, 50, 40));
    assert_eq!(store.seek(&block, 280 * SECTOR, u64::MAX / 4, false).unwrap(), Some(300 * SECTOR));
}

fn rotate(store: &Store, id: BlockId) -> Rotation {
    let rotation = store.begin_rotation(id, &[]).unwrap();
    let block = store.block(id).unwrap().unwrap();
    let mut transaction = store.transaction();
    let before = block.name_hash(b"name");
    let new = transaction.rotate(&block, rotation.number, false).unwrap();
    for (offset, item) in store.scan(&block, KIND, 0, 10).unwrap() {
        transaction.put(&block, KIND, offset, &item.clear, &item.secret);
    }
    transaction.apply().unwrap();
    assert_eq!(block.epoch(), rotation.number);
    assert_ne!(block.name_hash(b"name"), before);
    assert_eq!(block.name_hash(b"name"), new.name_hash(b"name"));
    store.end_rotation(&rotation).unwrap();
    rotation
}

fn reencrypt(store: &Store) -> u64 {
    let (last, total) = (Cell::new(0), Cell::new(0));
    let report = store
        .reencrypt(&|done, all| {
            assert!(done >= last.replace(done) && done <= all, "{done} of {all}");
            total.set(all);
            true
        })
        .unwrap();
    assert_eq!((report.stopped, report.damaged, last.get()), (false, 0, total.get()));
    assert_eq!(store.stale().unwrap(), StaleInfo::default());
    report.sectors
}

#[test]
fn old_data_is_read_with_the_new_key_until_it_is_sealed_anew() {
    let (device, store) = filled();
    is_as_filled(&store);
    assert!(store.rotations().unwrap().is_empty());
    rotate(&store, 2);
    is_as_filled(&store);
    assert_eq!(store.stale().unwrap().blocks, 1);
    assert_eq!(store.stale().unwrap().sectors, 280 + 20 + 30 + 1);
    store.sync(store.newest()).unwrap();
    is_as_filled(&open(&device));
    is_clean(&device);
    store.checkpoint().unwrap();
    let store = open(&device);
    is_as_filled(&store);
    is_clean(&device);

    assert_eq!(reencrypt(&store), 331);
    is_as_filled(&store);
    is_clean(&device);
    store.close().unwrap();
    let store = open(&device);
    is_as_filled(&store);
    assert_eq!(store.stale().unwrap(), StaleInfo::default());
    is_clean(&device);
    assert_eq!(reencrypt(&store), 0);
}

#[test]
fn keys_are_changed_again_before_everything_is_sealed_anew() {
    let (device, store) = filled();
    let first = rotate(&store, 2);
    let block = store.block(2).unwrap().unwrap();
    let mut transaction = store.transaction();
    transaction.write(&block, 3 * SECTOR, &bytes(1, 280 * SECTOR)[3 * 4096..4 * 4096]).unwrap();
    transaction.apply().unwrap();
    let second = rotate(&store, 2);
    assert_eq!((first.number, second.number), (1, 2));
    is_as_filled(&store);
    store.checkpoint().unwrap();
    drop((store, block));
    let store = open(&device);
    is_as_filled(&store);
    is_clean(&device);
    rotate(&store, 4);
    reencrypt(&store);
    is_as_filled(&store);
    store.close().unwrap();
    is_as_filled(&open(&device));
    is_clean(&device);
}

#[test]
fn long_units_are_sealed_anew_as_they_are() {
    let (device, store) = filled();
    let block = store.block(2).unwrap().unwrap();
    let mut transaction = store.transaction();
    transaction.set_unit(&block, 16);
    transaction.apply().unwrap();
    let long = bytes(6, 200 * SECTOR);
    let mut transaction = store.transaction();
    transaction.write(&block, 1024 * SECTOR, &long).unwrap();
    transaction.apply().unwrap();
    let mut transaction = store.transaction();
    transaction.write(&block, 1100 * SECTOR + 7, b"in the middle of a unit").unwrap();
    store.sync(transaction.apply().unwrap()).unwrap();
    let mut expected = long;
    expected[76 * 4096 + 7..][..23].copy_from_slice(b"in the middle of a unit");
    let is_right = |store: &Store| {
        is_as_filled(store);
        let mut found = vec![0; expected.len()];
        store.read(&store.block(2).unwrap().unwrap(), 1024 * SECTOR, &mut found).unwrap();
        assert!(found == expected);
    };
    rotate(&store, 2);
    is_right(&store);
    reencrypt(&store);
    is_right(&store);
    store.checkpoint().unwrap();
    assert_eq!(store.block(2).unwrap().unwrap().unit(), 16);
    is_right(&open(&device));
    is_clean(&device);
}

#[test]
fn what_was_emptied_since_has_no_older_keys() {
    let (device, store) = filled();
    rotate(&store, 2);
    let block = store.block(2).unwrap().unwrap();
    let mut transaction = store.transaction();
    transaction.punch(&block, 0, u64::MAX).unwrap();
    store.sync(transaction.apply().unwrap()).unwrap();
    assert_eq!((block.sectors(), store.stale().unwrap().blocks), (0, 1));
    rotate(&store, 2);
    assert_eq!(store.stale().unwrap(), StaleInfo::default());
    store.checkpoint().unwrap();
    let store = open(&device);
    let block = store.block(2).unwrap().unwrap();
    assert_eq!((block.epoch(), block.older_name_hashes(b"name").len()), (2, 0));
    assert_eq!(store.scan(&block, KIND, 0, 10).unwrap().len(), 2);
    is_clean(&device);
}

#[test]
fn a_re_encryption_that_was_stopped_goes_on() {
    let (device, store) = filled();
    let mut transaction = store.transaction();
    let block = store.block(2).unwrap().unwrap();
    transaction.write(&block, 1000 * SECTOR, &bytes(3, 2000 * SECTOR)).unwrap();
    transaction.apply().unwrap();
    rotate(&store, 2);
    let mut calls = 0;
    loop {
        let left = Cell::new(2);
        let report = store.reencrypt(&|_, _| left.replace(left.get() - 1) > 0).unwrap();
        calls += 1;
        is_as_filled(&store);
        is_as_filled(&open(&device));
        is_clean(&device);
        if !report.stopped {
            break;
        }
        assert_eq!(store.stale().unwrap().blocks, 1);
    }
    assert!((3..10).contains(&calls), "{calls}");
    assert_eq!(store.stale().unwrap(), StaleInfo::default());
}

#[test]
fn items_are_read_under_both_keys_until_they_were_moved() {
    let (device, store) = filled();
    let rotation = store.begin_rotation(2, &[]).unwrap();
    let block = store.block(2).unwrap().unwrap();
    let mut transaction = store.transaction();
    let old_hash = block.name_hash(b"name");
    transaction.rotate(&block, rotation.number, true).unwrap();
    transaction.put(&block, KIND, 7, b"clear", b"secret");
    store.sync(transaction.apply().unwrap()).unwrap();
    is_as_filled(&store);
    assert_eq!(block.older_name_hashes(b"name"), [old_hash]);
    let store = open(&device);
    let block = store.block(2).unwrap().unwrap();
    assert!(store.has_older_items(&block));
    assert_eq!(block.older_name_hashes(b"name"), [old_hash]);
    is_as_filled(&store);
    is_clean(&device);
    // Nothing is sealed anew before that.
    assert_eq!(store.reencrypt(&|_, _| true).unwrap().sectors, 0);
    assert_eq!(store.rotations().unwrap(), [rotation]);
    let mut transaction = store.transaction();
    transaction.put(&block, KIND, 8, b"", b"another");
    transaction.items_are_new(&block).unwrap();
    transaction.apply().unwrap();
    assert!(!store.has_older_items(&block));
    reencrypt(&store);
    store.end_rotation(&rotation).unwrap();
    assert!(store.rotations().unwrap().is_empty());
    is_as_filled(&store);
    is_as_filled(&open(&device));
    is_clean(&device);
}

#[test]
fn readcaps_that_stay_are_made_anew() {
    let (device, store) = filled();
    let [stays, goes, ended] = [(); 3].map(|()| Principal::generate());
    let block = store.block(2).unwrap().unwrap();
    let share = |who: &Principal, expires| {
        store.grant_access(&who.public(), false).unwrap();
        store.share(&block, &who.public(), expires, false).unwrap()
    };
    let (kept, taken, late) = (share(&stays, u64::MAX), share(&goes, u64::MAX), share(&ended, 1));
    let rotation = store.begin_rotation(2, &[taken]).unwrap();
    let mut transaction = store.transaction();
    transaction.rotate(&block, rotation.number, false).unwrap();
    for offset in [7, 8] {
        let item = store.get(&block, KIND, offset).unwrap().unwrap();
        transaction.put(&block, KIND, offset, &item.clear, &item.secret);
    }
    store.sync(transaction.apply().unwrap()).unwrap();
    let caps: Vec<(u64, u32)> = store.readcaps().unwrap().iter().map(|cap| (cap.serial, cap.epoch)).collect();
    assert_eq!(caps.len(), 2);
    assert!(caps.contains(&(kept, rotation.number)) && caps.contains(&(late, 0)), "{caps:?}");
    let open_as = |holder: &Principal| {
        let credential = Credential::Principal { holder, root: None };
        Store::open_as(device.clone(), &credential, &options()).unwrap()
    };
    let reader = open_as(&stays);
    let block = reader.shared_block(kept).unwrap().unwrap();
    assert_eq!(&reader.get(&block, KIND, 7).unwrap().unwrap().secret[..], b"secret");
    let mut found = vec![0; 4096];
    reader.read(&block, 0, &mut found).unwrap();
    assert!(found == bytes(1, SECTOR), "also what stands under the older key");
    let former = open_as(&goes);
    assert!(former.own_readcaps().is_empty() && matches!(former.shared_block(taken), Err(Error::NoKey)));
}

#[test]
fn what_is_cloned_from_stale_data_is_sealed_anew_too() {
    let (device, store) = filled();
    rotate(&store, 2);
    let [block, fourth] = [2, 4].map(|id| store.block(id).unwrap().unwrap());
    let mut transaction = store.transaction();
    transaction.clone_range(&block, 0, &fourth, 100, 10).unwrap();
    transaction.apply().unwrap();
    assert_eq!(store.stale().unwrap().blocks, 2);
    reencrypt(&store);
    let mut found = vec![0; 10 * 4096];
    store.read(&fourth, 100 * SECTOR, &mut found).unwrap();
    assert!(found == bytes(1, 280 * SECTOR)[..10 * 4096]);
    is_as_filled(&store);
    is_clean(&device);
}

#[test]
fn a_block_that_goes_takes_its_older_keys_with_it() {
    let (device, store) = filled();
    rotate(&store, 2);
    let block = store.block(2).unwrap().unwrap();
    let mut transaction = store.transaction();
    transaction.destroy(&block);
    store.sync(transaction.apply().unwrap()).unwrap();
    assert_eq!(store.stale().unwrap(), StaleInfo::default());
    store.reclaim().unwrap();
    store.checkpoint().unwrap();
    is_clean(&device);
    let fourth = store.block(4).unwrap().unwrap();
    let mut found = vec![0; 40 * 4096];
    store.read(&fourth, 0, &mut found).unwrap();
    assert!(found == bytes(1, 280 * SECTOR)[50 * 4096..90 * 4096]);
}

#[test]
fn snapshots_keep_what_they_show() {
    let (device, store) = filled();
    store.snapshot_create("before").unwrap();
    rotate(&store, 2);
    store.snapshot_create("between").unwrap();
    reencrypt(&store);
    store.close().unwrap();
    is_clean(&device);
    for snapshot in ["before", "between"] {
        let options = OpenOptions { snapshot: Some(snapshot.into()), ..options() };
        is_as_filled(&Store::open(device.clone(), PASSPHRASE, &options).unwrap());
    }
    let store = open(&device);
    is_as_filled(&store);
    assert!(store.snapshot_delete("before").unwrap() && store.snapshot_delete("between").unwrap());
    store.reclaim().unwrap();
    store.checkpoint().unwrap();
    is_as_filled(&store);
    is_clean(&device);
}

#[test]
fn damage_keeps_its_older_key_and_the_rest_goes_on() {
    let (device, store) = filled();
    let plain = bytes(9, 100 * SECTOR);
    store.checkpoint().unwrap();
    // A data sector, by what a write changes behind the log.
    let before = device.snapshot();
    let other = store.block(3).unwrap().unwrap();
    let mut transaction = store.transaction();
    transaction.write(&other, 99 * SECTOR, &plain[99 * 4096..]).unwrap();
    store.sync(transaction.apply().unwrap()).unwrap();
    let mut image = device.snapshot();
    let log_end = 4096 * (store.info().log_sectors as usize + 64);
    let changed = (log_end..image.len()).rev().find(|at| image[*at] != before[*at]);
    rotate(&store, 2);
    rotate(&store, 3);
    store.checkpoint().unwrap();
    image = device.snapshot();
    image[changed.expect("the sector that was written")] ^= 1;
    let device = Arc::new(MemoryDevice::from_bytes(image));
    let store = open(&device);
    let other = store.block(3).unwrap().unwrap();
    let mut found = vec![0; 4096];
    assert!(store.read(&other, 99 * SECTOR, &mut found).is_err());
    let report = store.reencrypt(&|_, _| true).unwrap();
    assert_eq!((report.damaged, report.stopped), (1, false));
    assert_eq!(store.stale().unwrap().blocks, 1);
    let mut found = vec![0; 60 * 4096];
    store.read(&other, 0, &mut found).unwrap();
    assert!(found == plain[..60 * 4096]);
}

#[test]
fn free_space_is_overwritten_and_nothing_else() {
    let (device, store) = filled();
    store.snapshot_create("before").unwrap();
    rotate(&store, 2);
    reencrypt(&store);
    let (last, total) = (Cell::new(0), Cell::new(0));
    let ended = store.erase_free(&|done, all| {
        assert!(done >= last.replace(done) && done <= all);
        total.set(all);
        true
    });
    assert!(ended.unwrap());
    assert_eq!((last.get(), total.get()), (SECTORS, SECTORS));
    is_as_filled(&store);
    is_as_filled(&open(&device));
    is_clean(&device);
    let block = store.block(2).unwrap().unwrap();
    let mut transaction = store.transaction();
    transaction.write(&block, 2000 * SECTOR, &bytes(5, 50 * SECTOR)).unwrap();
    store.sync(transaction.apply().unwrap()).unwrap();
    assert!(!store.erase_free(&|_, _| false).unwrap());
    is_as_filled(&open(&device));
    store.close().unwrap();
    is_clean(&device);
    let options = OpenOptions { snapshot: Some("before".into()), ..options() };
    is_as_filled(&Store::open(device, PASSPHRASE, &options).unwrap());
}

#[test]
fn only_who_has_the_owner_key_changes_keys() {
    let (device, store) = filled();
    let reader = Principal::generate();
    store.grant_access(&reader.public(), false).unwrap();
    let block = store.block(2).unwrap().unwrap();
    let serial = store.share(&block, &reader.public(), u64::MAX, false).unwrap();
    store.checkpoint().unwrap();
    let credential = Credential::Principal { holder: &reader, root: None };
    let store = Store::open_as(device, &credential, &options()).unwrap();
    assert!(matches!(store.begin_rotation(2, &[]), Err(Error::NoKey)));
    let block = store.shared_block(serial).unwrap().unwrap();
    assert!(matches!(store.transaction().rotate(&block, 1, false), Err(Error::NoKey)));
}
