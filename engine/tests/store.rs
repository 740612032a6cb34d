//! The store through its public interface, on memory.

use std::sync::Arc;

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{Device, MemoryDevice, SplitMix64};
use blocktree_engine::format::ItemKind;
use blocktree_engine::{Block, CreateOptions, Error, OpenError, OpenOptions, Store};

const KIND: ItemKind = ItemKind::FIRST_FREE;
const MIB: usize = 1 << 20;

fn options() -> OpenOptions {
    OpenOptions { background: false, ..OpenOptions::default() }
}

fn create(mib: u64) -> (Arc<MemoryDevice>, Store) {
    let device = Arc::new(MemoryDevice::new(mib * 256));
    let create = CreateOptions { capacity_sectors: mib * 256, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), b"passphrase", &create, &options()).unwrap();
    (device, store)
}

/// What a crash right now leaves, opened again.
fn crash(device: &MemoryDevice) -> (Arc<MemoryDevice>, Store) {
    let device = Arc::new(MemoryDevice::from_bytes(device.snapshot()));
    let store = Store::open(device.clone(), b"passphrase", &options()).unwrap();
    (device, store)
}

fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8) ^ seed).collect()
}

/// Removes blocks with all that they leave behind.
fn remove(store: &Store, blocks: &[&Block]) {
    for block in blocks {
        let mut transaction = store.transaction();
        transaction.destroy(block);
        transaction.apply().unwrap();
    }
    store.reclaim().unwrap();
    store.checkpoint().unwrap();
}

#[test]
fn items_and_bytes_survive_sync_and_crash() {
    let (device, store) = create(64);
    let mut transaction = store.transaction();
    let block = transaction.create(b"attributes");
    assert_eq!(block.id(), Store::ROOT);
    transaction.put(&block, KIND, 7, b"clear", b"secret");
    let data = pattern(1, 3 * MIB + 777);
    transaction.write(&block, 12345, &data).unwrap();
    let seq = transaction.apply().unwrap();

    let check = |store: &Store| {
        let block = store.block(Store::ROOT).unwrap().unwrap();
        assert_eq!(&store.attributes(&block).unwrap()[..], b"attributes");
        let item = store.get(&block, KIND, 7).unwrap().unwrap();
        assert_eq!((&item.clear[..], &item.secret[..]), (&b"clear"[..], &b"secret"[..]));
        let mut read = vec![0xAA; data.len() + 20000];
        store.read(&block, 2345, &mut read).unwrap();
        assert!(read[..10000].iter().all(|byte| *byte == 0));
        assert!(read[10000..10000 + data.len()] == data);
        assert!(read[10000 + data.len()..].iter().all(|byte| *byte == 0));
    };
    check(&store);
    store.sync(seq).unwrap();
    check(&store);
    assert_eq!(block.sectors(), (12345 + data.len() as u64).div_ceil(4096) - 3);
    let (device, store) = {
        let crashed = crash(&device);
        check(&crashed.1);
        crashed
    };
    store.checkpoint().unwrap();
    check(&store);
    store.close().unwrap();
    check(&crash(&device).1);
}

#[test]
fn what_was_not_synced_is_not_there_after_a_crash() {
    let (device, store) = create(32);
    let mut transaction = store.transaction();
    transaction.create(b"one");
    store.sync(transaction.apply().unwrap()).unwrap();
    let mut transaction = store.transaction();
    transaction.create(b"two");
    transaction.apply().unwrap();
    let (_, store) = crash(&device);
    assert!(store.block(1).unwrap().is_some());
    assert!(store.block(2).unwrap().is_none());
}

#[test]
fn overwriting_many_times_does_not_grow_the_store() {
    let (_, store) = create(40);
    let mut transaction = store.transaction();
    let block = transaction.create(b"");
    transaction.apply().unwrap();
    let free = store.usage().free;
    for round in 0..60u8 {
        let mut transaction = store.transaction();
        transaction.write(&block, 0, &pattern(round, 4 * MIB)).unwrap();
        for page in 0..50u64 {
            let at = (page * 7919 + u64::from(round)) % 1000 * 4096;
            transaction.write(&block, at, &pattern(round ^ page as u8, 4096)).unwrap();
        }
        transaction.apply().unwrap();
    }
    store.checkpoint().unwrap();
    assert_eq!(block.sectors(), 1024);
    let used = free - store.usage().free;
    assert!((1024..1200).contains(&used), "{used} sectors in use");
}

#[test]
fn a_full_store_refuses_writes_and_allows_removal() {
    let (device, store) = create(32);
    let mut blocks = Vec::new();
    let error = loop {
        let mut transaction = store.transaction();
        let block = transaction.create(b"block");
        if let Err(error) = transaction.write(&block, 0, &pattern(9, 256 << 10)) {
            break error;
        }
        match transaction.apply() {
            Ok(_) => blocks.push(block),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::NoSpace), "{error}");
    assert!(blocks.len() > 40);
    store.checkpoint().unwrap();
    let (_, store) = crash(&device);
    for block in &blocks {
        let block = store.block(block.id()).unwrap().unwrap();
        let mut read = vec![0; 256 << 10];
        store.read(&block, 0, &mut read).unwrap();
        assert!(read == pattern(9, 256 << 10));
        let mut transaction = store.transaction();
        transaction.destroy(&block);
        transaction.apply().unwrap();
    }
    store.checkpoint().unwrap();
    let mut transaction = store.transaction();
    let block = transaction.create(b"again");
    transaction.write(&block, 0, &pattern(3, 10 * MIB)).unwrap();
    store.sync(transaction.apply().unwrap()).unwrap();
}

/// Free space in single sectors is no place for nodes of the index, however much there is of it.
#[test]
fn a_full_store_of_single_sectors_allows_removal() {
    let (_, store) = create(64);
    let mut transaction = store.transaction();
    let block = transaction.create(b"block");
    transaction.apply().unwrap();
    let mut rng = SplitMix64(7);
    // Until it is full, and then until what a snapshot holds has been overwritten as far as it goes.
    for round in 0..2 {
        if round > 0 {
            store.snapshot_create(&format!("{round}")).unwrap();
        }
        let mut refused = 0;
        while refused < 3 {
            let mut transaction = store.transaction();
            let at = rng.below(40_000) * 4096;
            let written = transaction.write(&block, at, &[round; 4096]).and_then(|()| transaction.apply());
            match written {
                Ok(_) => {}
                Err(Error::NoSpace) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        // What is removed here and there leaves single free sectors.
        for _ in 0..2000 {
            let mut transaction = store.transaction();
            let at = rng.below(40_000);
            transaction.punch(&block, at, at + 1).unwrap();
            match transaction.apply() {
                Ok(_) => {}
                // Where a snapshot holds all that is removed, only its own removal frees anything.
                Err(Error::NoSpace) if round > 0 => break,
                Err(error) => panic!("{error}"),
            }
        }
        store.checkpoint().unwrap();
    }
    for snapshot in store.snapshot_list() {
        assert!(store.snapshot_delete(&snapshot.name).unwrap());
    }
    remove(&store, &[&block]);
    let mut transaction = store.transaction();
    let block = transaction.create(b"again");
    transaction.write(&block, 0, &pattern(3, 20 * MIB)).unwrap();
    transaction.apply().unwrap();
    store.close().unwrap();
}

#[test]
fn holes_clones_and_large_blocks() {
    let (device, store) = create(64);
    let mut transaction = store.transaction();
    let a = transaction.create(b"a");
    let b = transaction.create(b"b");
    let data = pattern(5, 2 * MIB);
    transaction.write(&a, 0, &data).unwrap();
    transaction.apply().unwrap();
    let mut transaction = store.transaction();
    transaction.clone_range(&a, 10, &b, 3, 300).unwrap();
    transaction.clone_range(&a, 0, &a, 1000, 100).unwrap();
    transaction.apply().unwrap();
    store.checkpoint().unwrap();
    let before = store.usage().free;
    let mut transaction = store.transaction();
    transaction.punch(&a, 20, 200).unwrap();
    transaction.write(&a, 0, b"changed").unwrap();
    store.sync(transaction.apply().unwrap()).unwrap();
    let (device, store) = crash(&device);
    let (a, b) = (store.block(1).unwrap().unwrap(), store.block(2).unwrap().unwrap());
    let mut read = vec![0; 300 * 4096];
    store.read(&b, 3 * 4096, &mut read).unwrap();
    assert!(read == data[10 * 4096..310 * 4096]);
    read.truncate(100 * 4096);
    store.read(&a, 1000 * 4096, &mut read).unwrap();
    assert!(read == data[..100 * 4096]);
    store.read(&a, 100 * 4096, &mut read).unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
    assert_eq!(store.seek(&a, 0, 1 << 30, true).unwrap(), Some(20 * 4096));
    assert_eq!(store.seek(&a, 20 * 4096, 1 << 30, false).unwrap(), Some(200 * 4096));
    assert_eq!(store.seek(&a, 512 * 4096, 1 << 30, false).unwrap(), Some(1000 * 4096));
    assert_eq!(store.seek(&a, 1100 * 4096, 1 << 30, false).unwrap(), None);
    remove(&store, &[&a, &b]);
    assert!(store.block(1).unwrap().is_none());
    assert!(store.usage().free >= before + 500, "{} {before}", store.usage().free);
    drop(store);
    assert_eq!(crash(&device).1.block(2).unwrap().map(|b| b.id()), None);
}

#[test]
fn a_long_block_is_removed_in_steps() {
    let (device, store) = create(64);
    let mut transaction = store.transaction();
    let block = transaction.create(b"");
    transaction.apply().unwrap();
    // Every other sector, so that each is an extent of its own.
    for page in 0..3000u64 {
        let mut transaction = store.transaction();
        transaction.write(&block, page * 8192, &pattern(page as u8, 4096)).unwrap();
        transaction.apply().unwrap();
    }
    store.checkpoint().unwrap();
    assert_eq!(block.sectors(), 3000);
    let mut transaction = store.transaction();
    transaction.punch(&block, 100, u64::MAX / 4096).unwrap();
    store.sync(transaction.apply().unwrap()).unwrap();
    let mut read = vec![1; 4096];
    store.read(&block, 200 * 4096, &mut read).unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
    let (_, store) = crash(&device);
    let block = store.block(1).unwrap().unwrap();
    store.read(&block, 200 * 4096, &mut read).unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
    // Writing behind the cut empties it first.
    let mut transaction = store.transaction();
    transaction.write(&block, 300 * 4096, &pattern(1, 4096)).unwrap();
    transaction.apply().unwrap();
    assert_eq!(block.sectors(), 51);
    store.read(&block, 200 * 4096, &mut read).unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
    remove(&store, &[&block]);
}

#[test]
fn snapshots_keep_what_they_saw() {
    let (device, store) = create(64);
    let mut transaction = store.transaction();
    let block = transaction.create(b"old");
    transaction.write(&block, 0, &pattern(1, MIB)).unwrap();
    transaction.apply().unwrap();
    let free = store.usage().free;
    store.snapshot_create("first").unwrap();
    assert!(store.snapshot_create("first").is_err());
    for round in 2..6 {
        let mut transaction = store.transaction();
        transaction.set_attributes(&block, b"new");
        transaction.write(&block, 0, &pattern(round, MIB)).unwrap();
        transaction.apply().unwrap();
        store.snapshot_create(&format!("round {round}")).unwrap();
    }
    let image = device.snapshot();
    for (name, seed, attributes) in
        [("first", 1, &b"old"[..]), ("round 3", 3, b"new"), ("round 5", 5, b"new")]
    {
        let old = OpenOptions { snapshot: Some(name.into()), ..options() };
        let device = Arc::new(MemoryDevice::from_bytes(image.clone()));
        let old = Store::open(device, b"passphrase", &old).unwrap();
        let block = old.block(1).unwrap().unwrap();
        assert_eq!(&old.attributes(&block).unwrap()[..], attributes);
        let mut read = vec![0; MIB];
        old.read(&block, 0, &mut read).unwrap();
        assert!(read == pattern(seed, MIB), "{name}");
        assert!(matches!(old.transaction().apply(), Err(Error::ReadOnly)));
    }
    for name in ["round 3", "first", "round 5", "round 2", "round 4"] {
        assert!(store.snapshot_delete(name).unwrap());
        store.reclaim().unwrap();
        store.checkpoint().unwrap();
    }
    assert!(store.snapshot_list().is_empty());
    store.checkpoint().unwrap();
    let after = store.usage().free;
    assert!(after + 300 > free, "{after} of {free} sectors are free again");
    let mut read = vec![0; MIB];
    store.read(&block, 0, &mut read).unwrap();
    assert!(read == pattern(5, MIB));
}

#[test]
fn wrong_passphrase_and_foreign_bytes_are_refused() {
    let (device, store) = create(32);
    store.close().unwrap();
    let open = |device: Arc<dyn Device>, passphrase: &[u8]| Store::open(device, passphrase, &options());
    assert!(matches!(open(device.clone(), b"wrong"), Err(OpenError::WrongPassphrase)));
    let zeros = Arc::new(MemoryDevice::new(8192));
    assert!(matches!(open(zeros, b"passphrase"), Err(OpenError::NotAStore)));
    let mut bytes = device.snapshot();
    bytes.truncate(16 << 20);
    assert!(matches!(
        open(Arc::new(MemoryDevice::from_bytes(bytes)), b"passphrase"),
        Err(OpenError::Truncated { .. })
    ));
}

#[test]
fn recovery_does_not_reuse_what_the_next_recovery_looks_at() {
    let (device, store) = create(32);
    let mut transaction = store.transaction();
    let block = transaction.create(b"");
    store.sync(transaction.apply().unwrap()).unwrap();
    // Two records of which the second frees what the first wrote, and neither names the other as durable: a clone
    // seals what is pending.
    for seed in [1, 2] {
        let mut transaction = store.transaction();
        transaction.write(&block, 0, &pattern(seed, MIB)).unwrap();
        transaction.apply().unwrap();
        store.transaction().clone_range(&block, 0, &block, 1000, 1).unwrap();
    }
    store.sync(store.newest()).unwrap();
    let (device, store) = crash(&device);
    // Sectors are written before any record names them.
    let mut transaction = store.transaction();
    let other = transaction.create(b"");
    transaction.write(&other, 0, &pattern(3, 8 * MIB)).unwrap();
    let (_, store) = crash(&device);
    let block = store.block(1).unwrap().unwrap();
    let mut read = vec![0; MIB];
    store.read(&block, 0, &mut read).unwrap();
    assert!(read == pattern(2, MIB), "what was synced is gone");
}

#[test]
fn a_clone_of_what_is_on_its_way_belongs_to_no_older_snapshot() {
    let (_, store) = create(64);
    let mut transaction = store.transaction();
    let (a, b) = (transaction.create(b"a"), transaction.create(b"b"));
    transaction.apply().unwrap();
    store.snapshot_create("before").unwrap();
    let free = store.usage().free;
    let mut transaction = store.transaction();
    transaction.write(&a, 0, &pattern(1, 4 * MIB)).unwrap();
    transaction.apply().unwrap();
    let mut transaction = store.transaction();
    transaction.clone_range(&a, 0, &b, 0, 1024).unwrap();
    store.sync(transaction.apply().unwrap()).unwrap();
    remove(&store, &[&a, &b]);
    let free_again = store.usage().free;
    assert!(free_again + 64 > free, "{free_again} of {free}");
}
