//! Reads through a cache that may be behind the device.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{Completion, Device, MemoryDevice, Read, Write};
use blocktree_engine::limits::SECTOR_BYTES;
use blocktree_engine::{CheckOptions, CreateOptions, Error, OpenOptions, Store, check};

const CAPACITY_SECTORS: u64 = 16 << 10;
const FILES: u64 = 64;
const FILE_BYTES: usize = 20_000;

/// A device whose cache has stood still since some earlier time.
struct Behind {
    device: MemoryDevice,
    cache: MemoryDevice,
    from_cache: AtomicU64,
    last_from_cache: Mutex<u64>,
}

impl Device for Behind {
    fn sectors(&self) -> u64 {
        self.device.sectors()
    }
    fn read(&self, reads: &mut [Read<'_>]) -> io::Result<()> {
        self.device.read(reads)
    }
    fn read_cached(&self, reads: &mut [Read<'_>]) -> io::Result<()> {
        self.from_cache.fetch_add(1, Ordering::Relaxed);
        *self.last_from_cache.lock().unwrap() = reads[0].sector;
        self.cache.read(reads)
    }
    fn write(&self, writes: Vec<Write>) -> Completion {
        self.device.write(writes)
    }
    fn flush(&self) -> io::Result<()> {
        self.device.flush()
    }
    fn grow(&self, sectors: u64) -> io::Result<()> {
        self.device.grow(sectors)
    }
}

fn options() -> OpenOptions {
    OpenOptions { background: false, ..OpenOptions::default() }
}

fn device_behind(device: &[u8], cache: &[u8]) -> Arc<Behind> {
    let mut cache = cache.to_vec();
    cache.resize(device.len(), 0);
    Arc::new(Behind {
        device: MemoryDevice::from_bytes(device.to_vec()),
        cache: MemoryDevice::from_bytes(cache),
        from_cache: AtomicU64::new(0),
        last_from_cache: Mutex::new(0),
    })
}

fn open(device: &[u8], cache: &[u8]) -> (Arc<Behind>, Store) {
    let behind = device_behind(device, cache);
    let store = Store::open(behind.clone(), b"passphrase", &options()).unwrap();
    (behind, store)
}

fn contents(round: u64, file: u64) -> Vec<u8> {
    (0..FILE_BYTES).map(|at| (at as u64 * 31 + round * 101 + file) as u8).collect()
}

/// A store that was overwritten often enough for its sectors to be in use again; its images after each round.
fn rounds() -> Vec<Vec<u8>> {
    let device = Arc::new(MemoryDevice::new(CAPACITY_SECTORS));
    let create = CreateOptions { capacity_sectors: CAPACITY_SECTORS, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), b"passphrase", &create, &options()).unwrap();
    let mut transaction = store.transaction();
    let files: Vec<_> = (0..FILES).map(|_| transaction.create(b"file")).collect();
    transaction.apply().unwrap();
    let images = (0..6).map(|round| {
        for (number, file) in files.iter().enumerate() {
            let mut transaction = store.transaction();
            transaction.write(file, 0, &contents(round, number as u64)).unwrap();
            transaction.apply().unwrap();
        }
        store.checkpoint().unwrap();
        device.snapshot()
    });
    images.collect()
}

fn all_is_new(store: &Store, round: u64) {
    for file in 0..FILES {
        let block = store.block(Store::ROOT + file).unwrap().unwrap();
        let mut bytes = vec![0; FILE_BYTES];
        store.read(&block, 0, &mut bytes).unwrap();
        assert!(bytes == contents(round, file), "file {file}");
    }
}

#[test]
fn what_an_old_cache_gives_is_not_believed() {
    let images = rounds();
    let last = images.len() - 1;
    let noise = vec![0xA5; images[last].len()];
    for cache in images.iter().chain([&noise]) {
        let (behind, store) = open(&images[last], cache);
        all_is_new(&store, last as u64);
        assert!(
            behind.from_cache.load(Ordering::Relaxed) > FILES,
            "nodes and data are asked for there first"
        );
    }
}

#[test]
fn what_must_say_how_the_device_is_does_not_ask_the_cache() {
    let image = rounds().pop().unwrap();
    let (behind, store) = open(&image, &image);
    all_is_new(&store, 5);
    // A file's: the index was read before.
    let data = *behind.last_from_cache.lock().unwrap();
    let mut damaged = image.clone();
    damaged[data as usize * SECTOR_BYTES] ^= 1;

    let (_, store) = open(&damaged, &image);
    all_is_new(&store, 5);
    assert!(store.scrub(&|_, _| true).unwrap().damaged > 0);

    let (_, store) = open(&damaged, &damaged);
    let checked = device_behind(&damaged, &image);
    let report =
        check(checked.clone(), b"passphrase", &CheckOptions { repair: true }, &mut |_, _| {}).unwrap();
    assert!(!report.problems.is_empty());
    assert_eq!(checked.from_cache.load(Ordering::Relaxed), 0);

    let last = store.block(Store::ROOT + FILES - 1).unwrap().unwrap();
    let read = store.read(&last, 0, &mut vec![0; FILE_BYTES]);
    assert!(matches!(read, Err(Error::Corrupt { sector, .. }) if sector == data), "{read:?}");
}
