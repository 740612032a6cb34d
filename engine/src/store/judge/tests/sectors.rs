//! Forged changes of sectors.

use super::forged::{Forged, extent_key, header, header_key, system_key, value};
use super::*;

pub(super) fn forgeries(world: &World, store: &Store) -> Vec<(Forged, &'static str)> {
    const HOLDS: &str = "it refers to sectors that are not its own";
    const FREES: &str = "it frees what is in use, or keeps what is not";
    let World { file, secret, .. } = *world;
    let decode = |id, at| Extent::decode(&value(store, extent_key(id, at))).unwrap();
    let of_secret = decode(secret, 0);
    let (shared, own) = (decode(file, 0), decode(file, 1));
    let free_sector = SECTORS - 2;
    let mut fresh = own.slice(0, 1);
    fresh.header.sector = free_sector.into();
    fresh.header.birth = 0.into();
    let grown = |by: i64| {
        header(store, file, |header| {
            header.sectors = BlockHeader::encode_sectors(header.sectors().wrapping_add_signed(by));
        })
    };
    let mut old = own.clone();
    old.header.birth = (own.birth() + 1).into();
    let mut long = own.clone();
    (long.header.unit_log2, long.hashes) = (1, vec![[0; 32]]);
    let mut hidden = shared.clone();
    hidden.header.flags = 0.into();
    let empty = Forged::default;
    let snapshot = store.core.snapshots.lock().all[0].id;
    let count = |extents: u32| SharedBytes { sectors: 1.into(), extents: extents.into() };
    let shared_key = system_key(ItemKind::SHARED, shared.sector());
    let dead = DeadBytes { sectors: own.sectors().into(), birth: own.header.birth };
    vec![
        (empty().put(extent_key(file, 9), &of_secret.encode()).put(header_key(file), &grown(3)), HOLDS),
        (empty().put(extent_key(file, 9), &fresh.encode()).put(header_key(file), &grown(1)), HOLDS),
        (
            empty()
                .allocate(of_secret.sector())
                .put(extent_key(file, 9), &of_secret.slice(0, 1).encode())
                .put(header_key(file), &grown(1)),
            "it says that its sectors are older than they are",
        ),
        (
            empty().allocate(own.sector()).put(extent_key(file, 1), &own.encode()),
            "it allocates sectors that are in use",
        ),
        (empty().free(&of_secret), "it frees or counts sectors that are not its own"),
        (empty().allocate(free_sector), FREES),
        (empty().delete(extent_key(file, 1)).put(header_key(file), &grown(-2)), FREES),
        (empty().delete(extent_key(file, 1)).put(header_key(file), &grown(-2)).free(&own), FREES),
        (
            empty()
                .delete(extent_key(file, 1))
                .put(header_key(file), &grown(-2))
                .put(Key::new(snapshot + 1, ItemKind::DEAD, own.sector()), dead.as_bytes()),
            FREES,
        ),
        (
            empty().delete(extent_key(file, 0)).put(header_key(file), &grown(-1)).free(&shared),
            "it miscounts shared sectors",
        ),
        (empty().put(extent_key(file, 1), &old.encode()), "it changes what stands in sectors"),
        (empty().put(extent_key(file, 1), &long.encode()), "it hides how long the units of a block are"),
        (empty().put(extent_key(file, 0), &hidden.encode()), "it hides that sectors are shared"),
        (
            empty().delete(extent_key(file, 1)).put(extent_key(file, 0), &own.encode()),
            "it miscounts the sectors of a block",
        ),
        (
            empty().put(extent_key(file, 2), &own.encode()).put(header_key(file), &grown(2)),
            "two extents have the same place",
        ),
        (empty().put(header_key(file), &grown(1)), "it miscounts the sectors of a block"),
        (empty().put(shared_key, count(9).as_bytes()), "it frees or counts sectors that are not its own"),
        (empty().delete(shared_key), "it frees or counts sectors that are not its own"),
        (
            empty().put(system_key(ItemKind::SHARED, of_secret.sector()), count(2).as_bytes()),
            "it frees or counts sectors that are not its own",
        ),
        (
            empty().put(Key::new(snapshot, ItemKind::DEAD, of_secret.sector()), dead.as_bytes()),
            "it frees or counts sectors that are not its own",
        ),
    ]
}
