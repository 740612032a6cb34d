//! Bytes that nobody honest wrote: no panic, no hang, a clear error or what was there before.

use std::sync::Arc;

use blocktree_engine::crypto::{Certificate, KdfCost, unseal_keyslot};
use blocktree_engine::device::{FaultyDevice, Image, SplitMix64, Survivors};
use blocktree_engine::format::{
    CertificateBytes, Extent, ItemKind, Layout, RecordHeader, Superblock, decode_changes,
};
use blocktree_engine::{CreateOptions, OpenOptions, Store};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const KIND: ItemKind = ItemKind::FIRST_FREE;
const PASSPHRASE: &[u8] = b"passphrase";

/// Changes it in a few places.
fn mutate(bytes: &mut [u8], rng: &mut SplitMix64) {
    for _ in 0..1 + rng.below(4) {
        rng.damage(bytes);
    }
}

fn store_image() -> Image {
    let device = Arc::new(FaultyDevice::new(32 * 256, 0));
    let create = CreateOptions { capacity_sectors: 32 * 256, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options()).unwrap();
    let mut transaction = store.transaction();
    let (a, b) = (transaction.create(b"a"), transaction.create(b"b"));
    transaction.write(&a, 0, &[1; 300_000]).unwrap();
    transaction.put(&a, KIND, 1, b"clear", b"secret");
    transaction.apply().unwrap();
    store.snapshot_create("snapshot").unwrap();
    let mut transaction = store.transaction();
    transaction.clone_range(&a, 0, &b, 3, 40).unwrap();
    transaction.write(&a, 5000, &[2; 5000]).unwrap();
    store.sync(transaction.apply().unwrap()).unwrap();
    device.crash(Survivors::All)
}

fn options() -> OpenOptions {
    OpenOptions { background: false, cache_bytes: 1 << 20, ..OpenOptions::default() }
}

/// Opens and reads everything; every result is welcome.
fn use_all(image: Image, snapshot: Option<&str>) {
    let device = Arc::new(FaultyDevice::from_image(image, 0));
    let options = OpenOptions { snapshot: snapshot.map(str::to_owned), ..options() };
    let Ok(store) = Store::open(device, PASSPHRASE, &options) else { return };
    let mut bytes = vec![0; 400_000];
    for id in 0..5 {
        let Ok(Some(block)) = store.block(id) else { continue };
        let _ = store.attributes(&block);
        let _ = store.scan(&block, KIND, 0, 100);
        let _ = store.seek(&block, 0, 1 << 40, true);
        if store.read(&block, 0, &mut bytes).is_ok() {
            assert!(bytes.iter().all(|byte| *byte < 3), "foreign bytes were read");
        }
        let mut transaction = store.transaction();
        let _ = transaction.write(&block, 4096, &[1; 70_000]);
        let _ = transaction.apply();
    }
    let _ = store.reclaim();
    let _ = store.snapshot_delete("snapshot");
    let _ = store.checkpoint();
    let _ = store.reclaim();
}

#[test]
fn a_damaged_image_is_read_or_refused() {
    let image = store_image();
    let used: Vec<u64> = (0..image.sectors()).filter(|sector| image.sector(*sector) != [0; 4096]).collect();
    let mut rng = SplitMix64(1);
    for _ in 0..1500 {
        let mut image = image.clone();
        for _ in 0..1 + rng.below(3) {
            let sector = used[rng.below(used.len() as u64) as usize];
            let mut bytes = image.sector(sector);
            // Beginnings of sectors hold most fields.
            let end = if rng.one_in(2) { 256 } else { 4096 };
            mutate(&mut bytes[..end], &mut rng);
            image.set_sector(sector, bytes);
        }
        use_all(image, rng.one_in(4).then_some("snapshot"));
    }
}

#[test]
fn sectors_that_change_places_are_noticed() {
    let image = store_image();
    let used: Vec<u64> = (0..image.sectors()).filter(|sector| image.sector(*sector) != [0; 4096]).collect();
    let mut rng = SplitMix64(2);
    for _ in 0..300 {
        let mut image = image.clone();
        let pick = |rng: &mut SplitMix64| used[rng.below(used.len() as u64) as usize];
        let (a, b) = (pick(&mut rng), pick(&mut rng));
        let (at_a, at_b) = (image.sector(a), image.sector(b));
        image.set_sector(a, at_b);
        image.set_sector(b, at_a);
        use_all(image, None);
    }
}

#[test]
fn parsers_take_any_bytes() {
    let image = store_image();
    let mut rng = SplitMix64(3);
    let slot = Layout::candidates().next().unwrap().keyslots()[0];
    let superblock = image.sector(Layout::candidates().next().unwrap().superblocks()[0]);
    let record = image.sector(Layout::LOG_START);
    assert!(Superblock::decode(&superblock).is_ok() && RecordHeader::decode(&record).is_ok());
    let mut extent = vec![0; 44 + 60 + 64];
    extent[44 - 12] = 2;
    let principal = blocktree_engine::crypto::Principal::generate();
    for round in 0..20_000 {
        let mut bytes = superblock;
        mutate(&mut bytes, &mut rng);
        let _ = Superblock::decode(&bytes[..rng.below(4097) as usize]);
        let mut bytes = record;
        mutate(&mut bytes[..224], &mut rng);
        let _ = RecordHeader::decode(&bytes);
        mutate(&mut extent, &mut rng);
        if let Ok(extent) = Extent::decode(&extent) {
            assert_eq!(Extent::decode(&extent.encode()).ok(), Some(extent));
        }
        let body: Vec<u8> = (0..rng.below(200)).map(|_| rng.next_u64() as u8 % 6).collect();
        assert!(decode_changes(&body).count() <= body.len());
        let mut certificate = CertificateBytes::new_zeroed();
        mutate(certificate.as_mut_bytes(), &mut rng);
        certificate.issuer = principal.public().to_bytes();
        assert!(Certificate::verify(&certificate, &certificate.store_id).is_err());
        if round % 20 == 0 {
            let mut bytes = image.sector(slot);
            mutate(&mut bytes[..700], &mut rng);
            // What a guess may cost is bounded elsewhere; here it only has to be quick.
            let header = blocktree_engine::format::KeySlotHeader::read_from_prefix(&bytes[..]).unwrap().0;
            if header.memory_kib.get() < 1 << 10 && header.passes.get() < 4 {
                let _ = unseal_keyslot(PASSPHRASE, &bytes);
            }
        }
    }
}
