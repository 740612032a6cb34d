//! A snapshot that is opened and read while somebody else changes the store: it is what it was, or an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::MemoryDevice;
use blocktree_engine::{CreateOptions, Error, OpenError, OpenOptions, Store};

const BYTES: usize = 200_000;

fn pattern(seed: u64) -> Vec<u8> {
    (0..BYTES as u64).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ seed.wrapping_mul(97)) as u8).collect()
}

fn open_snapshot(device: &Arc<MemoryDevice>, name: &str) -> Result<Store, OpenError> {
    let options = OpenOptions {
        snapshot: Some(name.into()),
        background: false,
        cache_bytes: 0,
        ..OpenOptions::default()
    };
    Store::open(device.clone(), b"passphrase", &options)
}

fn write(store: &Store, seed: u64) {
    let block = store.block(Store::ROOT).unwrap().unwrap();
    let mut transaction = store.transaction();
    transaction.write(&block, 0, &pattern(seed)).unwrap();
    store.sync(transaction.apply().unwrap()).unwrap();
}

#[test]
fn a_snapshot_opens_beside_a_writer_or_says_that_the_store_changed() {
    let device = Arc::new(MemoryDevice::new(40 * 256));
    let create = CreateOptions { capacity_sectors: 40 * 256, kdf: KdfCost::TRIVIAL };
    let store = Store::create(device.clone(), b"passphrase", &create).unwrap();
    let mut transaction = store.transaction();
    transaction.create(b"attributes");
    transaction.apply().unwrap();
    write(&store, 0);
    store.snapshot_create("then").unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1.. {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                write(&store, round);
                if round % 3 == 0 {
                    store.snapshot_create("short").unwrap();
                    store.snapshot_delete("short").unwrap();
                    store.reclaim().unwrap();
                    store.checkpoint().unwrap();
                }
            }
        });
        let mut opened = 0;
        let mut failed: BTreeMap<String, u64> = BTreeMap::new();
        let (mut row, mut longest) = (0, 0);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) || opened < 20 {
            match open_snapshot(&device, "then") {
                Ok(shown) => {
                    (opened, row) = (opened + 1, 0);
                    let block = shown.block(Store::ROOT).unwrap().unwrap();
                    let mut bytes = vec![0; BYTES];
                    shown.read(&block, 0, &mut bytes).unwrap();
                    assert!(bytes == pattern(0), "wrong bytes");
                }
                // What a daemon tries again after.
                Err(
                    error @ (OpenError::Superblock(_)
                    | OpenError::Log { .. }
                    | OpenError::Space(_)
                    | OpenError::NoSnapshot(_)
                    | OpenError::Store(Error::Corrupt { .. })),
                ) => {
                    row += 1;
                    longest = longest.max(row);
                    *failed
                        .entry(format!("{error:?}").split(['{', '(']).next().unwrap().into())
                        .or_default() += 1;
                }
                Err(error) => panic!("{error:?}"),
            }
            assert!(start.elapsed() < Duration::from_secs(60), "opened {opened}, failed {failed:?}");
        }
        eprintln!("opened {opened}, failed {failed:?}, at most {longest} in a row");
        is_over.store(true, Ordering::Relaxed);
    });

    // One that is deleted while it is open.
    let shown = open_snapshot(&device, "then").unwrap();
    let block = shown.block(Store::ROOT).unwrap().unwrap();
    assert!(store.snapshot_delete("then").unwrap());
    store.reclaim().unwrap();
    store.checkpoint().unwrap();
    let mut bytes = vec![0; BYTES];
    let mut was_error = false;
    for round in 0..500 {
        match shown.read(&block, 0, &mut bytes) {
            Ok(()) => assert!(bytes == pattern(0), "wrong bytes"),
            Err(Error::Corrupt { .. }) => was_error = true,
            Err(error) => panic!("{error}"),
        }
        if was_error {
            break;
        }
        write(&store, 1000 + round);
        store.checkpoint().unwrap();
    }
    assert!(was_error, "nothing of it was overwritten: this shows nothing");
    store.close().unwrap();
}
