//! A small store with bytes changed here and there: opened, read, changed. Input: {sector, offset, value} of
//! 2 + 2 + 8 bytes each, the sector being one of those in use.
#![no_main]

use std::sync::{Arc, OnceLock};

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{FaultyDevice, Image};
use blocktree_engine::{CreateOptions, OpenOptions, Store};
use libfuzzer_sys::fuzz_target;

static IMAGE: OnceLock<Image> = OnceLock::new();

fn options() -> OpenOptions {
    OpenOptions { background: false, cache_bytes: 1 << 20, ..OpenOptions::default() }
}

fn small_store() -> Image {
    let device = Arc::new(FaultyDevice::new(8192, 0));
    let create = CreateOptions { capacity_sectors: 8192, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), b"fuzz", &create, &options()).expect("a new store");
    let mut transaction = store.transaction();
    let block = transaction.create(b"attributes");
    transaction.write(&block, 0, &[1; 100_000]).expect("there is space");
    transaction.apply().expect("there is space");
    store.snapshot_create("snapshot").expect("there is space");
    let mut transaction = store.transaction();
    transaction.write(&block, 5000, &[2; 5000]).expect("there is space");
    store.sync(transaction.apply().expect("there is space")).expect("memory does not fail");
    device.image()
}

fuzz_target!(|data: &[u8]| {
    let mut image = IMAGE.get_or_init(small_store).clone();
    let used: Vec<u64> = (0..image.sectors()).filter(|sector| image.sector(*sector) != [0; 4096]).collect();
    for change in data.chunks_exact(12) {
        let number = |at: usize| usize::from(u16::from_le_bytes([change[at], change[at + 1]]));
        let sector = used[number(0) % used.len()];
        let mut bytes = image.sector(sector);
        let at = number(2) % 4088;
        bytes[at..at + 8].copy_from_slice(&change[4..]);
        image.set_sector(sector, bytes);
    }
    let device = Arc::new(FaultyDevice::from_image(image, 0));
    let Ok(store) = Store::open(device, b"fuzz", &options()) else { return };
    if let Ok(Some(block)) = store.block(Store::ROOT) {
        let mut bytes = vec![0; 110_000];
        if store.read(&block, 0, &mut bytes).is_ok() {
            assert!(bytes.iter().all(|byte| *byte < 3));
        }
    }
    let _ = store.checkpoint();
});
