//! A small store with bytes changed here and there: mounted, read, changed, checked and repaired. Input: {sector, offset,
//! value} of 2 + 2 + 8 bytes each, the sector being one of those in use.
#![no_main]

use std::sync::{Arc, OnceLock};

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{FaultyDevice, Image};
use blocktree_engine::{CheckOptions, CreateOptions, OpenOptions, Store, check};
use blocktree_vfs::{Caller, Fs, MountOptions, WriteFlags};
use libfuzzer_sys::fuzz_target;

static IMAGE: OnceLock<Image> = OnceLock::new();
const OWNER: Caller = Caller { uid: 0, gid: 0, pid: 1, umask: 0 };

fn options() -> OpenOptions {
    OpenOptions { background: false, cache_bytes: 1 << 20, ..OpenOptions::default() }
}

fn small_store() -> Image {
    let device = Arc::new(FaultyDevice::new(8192, 0));
    let create = CreateOptions { capacity_sectors: 8192, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), b"fuzz", &create, &options()).expect("a new store");
    Fs::format(&store, 0, 0).expect("there is space");
    let fs = Fs::mount(store.clone(), MountOptions::default()).expect("it was just made");
    let file = fs.create(&OWNER, Fs::ROOT, b"file", 0o644).expect("there is space").ino;
    fs.write(file, 0, &[1; 100_000], WriteFlags::default()).expect("there is space");
    fs.mkdir(&OWNER, Fs::ROOT, b"folder", 0o755).expect("there is space");
    store.snapshot_create("snapshot").expect("there is space");
    fs.write(file, 5000, &[2; 5000], WriteFlags::default()).expect("there is space");
    fs.syncfs().expect("memory does not fail");
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
    let device = Arc::new(FaultyDevice::from_image(image.clone(), 0));
    let _ = check(device.clone(), b"fuzz", &CheckOptions { repair: data.len() % 2 == 1 }, &mut |_, _| {});
    if let Ok(store) = Store::open(device, b"fuzz", &options()) {
        let _ = blocktree_vfs::repair::examine(&store, data.len() % 2 == 1);
        let _ = store.close();
    }
    let device = Arc::new(FaultyDevice::from_image(image, 0));
    let Ok(store) = Store::open(device, b"fuzz", &options()) else { return };
    let Ok(fs) = Fs::mount(store, MountOptions::default()) else { return };
    let _ = fs.readdir(Fs::ROOT, 0, &mut |_| true);
    if let Ok(file) = fs.lookup(Fs::ROOT, b"file") {
        let mut bytes = vec![0; 110_000];
        if fs.read(file.ino, 0, &mut bytes).is_ok() {
            assert!(bytes.iter().all(|byte| *byte < 3));
        }
        let _ = fs.write(file.ino, 70_000, &[1; 10_000], WriteFlags::default());
    }
    let _ = fs.store().checkpoint();
});
