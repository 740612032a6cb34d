//! Records that do not count: they end the log, and what was before them stays.

use super::forged::{Forged, extent_key, forgeries, header, header_key, value};
use super::*;

/// Writes a record with the writer's own key behind the log, as if an honest program had.
pub(super) fn append(world: &World, store: &Store, forged: &Forged, place: &mut (u64, u64, [u8; 32])) {
    let core = &store.core;
    let (at, seq, previous) = *place;
    let fields = RecordFields {
        seq,
        durable_seq: seq - 1,
        volume_sectors: core.space.lock().volume_sectors(),
        next_block: forged.next_block.unwrap_or_else(|| core.bounds.as_ref().unwrap().next_block),
        previous,
        time_ns: core.sealer.lock().time_ns.max(forged.time_ns),
    };
    let (bytes, hash) = seal_record(&*world.device, &core.keys, &fields, &forged.body);
    let sectors = (bytes.len() / SECTOR_BYTES) as u64;
    let write = Write { sector: Layout::LOG_START + at, bytes };
    crate::device::Device::write(&*world.device, vec![write]).wait().unwrap();
    *place = (at + sectors, seq + 1, hash);
}

pub(super) fn end_of_log(store: &Store) -> (u64, u64, [u8; 32]) {
    let sealer = store.core.sealer.lock();
    (sealer.position, sealer.seq + 1, sealer.previous)
}

/// A record that reaches too far ends the log, with all that the same writer put behind it; the rest stays, and the store
/// goes on from there.
#[test]
fn a_record_that_reaches_too_far_ends_the_log() {
    let world = World::new();
    let before = world.device.clone();
    let forgeries = { forgeries(&world, &world.open_as_writer()).len() };
    for index in (0..forgeries).step_by(5).chain([usize::MAX]) {
        let world = World {
            device: Arc::new(MemoryDevice::from_bytes(before.snapshot())),
            writer: world.writer.clone(),
            ..world
        };
        let store = world.open_as_writer();
        let [_, _, file] = world.opened(&store);
        store
            .sync(apply(&store, |transaction| transaction.write(&file, 5 * SECTOR, b"good").unwrap()))
            .unwrap();
        let mut place = end_of_log(&store);
        let first = place.1;
        // The last is one that only space refuses: sectors of the index.
        let forged = match forgeries_of(&world, &store, index) {
            Some(forged) => forged,
            None => {
                let sector = store.core.layers.read().root.ptr.sector.get();
                let mut extent =
                    Extent::decode(&value(&store, extent_key(world.file, 1))).unwrap().slice(0, 1);
                (extent.header.sector, extent.header.birth) = (sector.into(), first.into());
                let header = header(&store, world.file, |header| {
                    header.sectors = BlockHeader::encode_sectors(header.sectors() + 1);
                });
                Forged::default()
                    .allocate(sector)
                    .put(extent_key(world.file, 9), &extent.encode())
                    .put(header_key(world.file), &header)
            }
        };
        append(&world, &store, &forged, &mut place);
        // They say of it that it is durable.
        append(&world, &store, &Forged::default(), &mut place);
        append(&world, &store, &Forged::default(), &mut place);
        drop((store, file));

        let found =
            check(world.device.clone(), PASSPHRASE, &CheckOptions::default(), &mut |_, _| {}).unwrap();
        assert_eq!(found.problems.len(), 1, "{index}: {:?}", found.problems);
        let store = world.open();
        let refused = store.refused_record().unwrap();
        assert_eq!(refused.seq, first, "{index}");
        assert!(matches!(refused.why, Refusal::Change(_)), "{index}");
        assert_eq!(&content(&store, world.file, 6)[5 * SECTOR_BYTES..][..4], b"good");
        assert_eq!(content(&store, world.secret, 3), [9; 3 * SECTOR_BYTES]);
        let root = store.block(world.other).unwrap().unwrap();
        let id = make(&store, &root, b"goes on").id();
        store.sync(store.newest()).unwrap();
        drop((store, root));
        let store = world.open();
        assert_eq!(store.refused_record(), None);
        assert_eq!(&content(&store, id, 1)[..7], b"goes on");
        store.close().unwrap();
        world.assert_clean();
    }
}

fn forgeries_of(world: &World, store: &Store, index: usize) -> Option<Forged> {
    (index != usize::MAX).then(|| forgeries(world, store).swap_remove(index).0)
}

#[test]
fn a_repair_takes_refused_records_away() {
    let world = World::new();
    let store = world.open_as_writer();
    let mut place = end_of_log(&store);
    let forged = Forged::default().delete(header_key(world.secret));
    append(&world, &store, &forged, &mut place);
    drop(store);
    let repair = CheckOptions { repair: true };
    let report = check(world.device.clone(), PASSPHRASE, &repair, &mut |_, _| {}).unwrap();
    assert_eq!((report.repaired, report.damage_left), (1, 0), "{:?}", report.problems);
    world.assert_clean();
    assert_eq!(world.open().refused_record(), None);
}

/// Where the owner went on behind such a record, it was believed once: that is no torn tail.
#[test]
fn a_refused_record_that_an_owner_built_on_is_damage() {
    let world = World::new();
    let store = world.open_as_writer();
    let mut place = end_of_log(&store);
    append(&world, &store, &Forged::default().delete(header_key(world.secret)), &mut place);
    drop(store);
    let owner = Store::open_as(
        world.device.clone(),
        &Credential::Passphrase(PASSPHRASE),
        &OpenOptions { read_only: true, ..options() },
    )
    .unwrap();
    let fields = RecordFields {
        seq: place.1,
        durable_seq: place.1 - 1,
        volume_sectors: owner.core.space.lock().volume_sectors(),
        next_block: owner.core.next_block.load(std::sync::atomic::Ordering::Relaxed),
        previous: place.2,
        time_ns: owner.core.sealer.lock().time_ns,
    };
    let (bytes, _) = seal_record(&*world.device, &owner.core.keys, &fields, &[]);
    let write = Write { sector: Layout::LOG_START + place.0, bytes };
    crate::device::Device::write(&*world.device, vec![write]).wait().unwrap();
    let opened = Store::open(world.device.clone(), PASSPHRASE, &options());
    assert!(matches!(opened, Err(crate::OpenError::Refused(_))));
}

#[test]
fn a_writer_whose_right_ended_reads_on_and_its_records_end_the_log() {
    let world = World::new();
    let store = world.open_as_writer();
    let [_, _, file] = world.opened(&store);
    store.sync(apply(&store, |transaction| transaction.write(&file, 0, b"good").unwrap())).unwrap();
    drop(file);
    let owner = world.open();
    owner.revoke_writecap(None, world.serial).unwrap();
    let place = end_of_log(&owner);
    drop(owner);
    append(&world, &store, &Forged::default(), &mut { place });
    drop(store);
    let owner = world.open();
    let refused = owner.refused_record().unwrap();
    assert_eq!((refused.seq, refused.why), (place.1, Refusal::Author(CertificateError::Revoked)));
    assert_eq!(&content(&owner, world.file, 1)[..4], b"good", "what it wrote before stays");
    owner.close().unwrap();
    world.assert_clean();
    let credential = Credential::Principal { holder: &world.writer, root: None };
    let store = Store::open_as(world.device.clone(), &credential, &options()).unwrap();
    assert!(store.is_read_only() && store.writes_below().is_none());
    let _ = world.opened(&store);
}
