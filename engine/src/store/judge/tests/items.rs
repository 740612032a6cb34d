//! Forged changes of blocks and items.

use super::forged::{Forged, extent_key, header, header_key, item, system_key, value};
use super::*;

pub(super) fn forgeries(world: &World, store: &Store) -> Vec<(Forged, &'static str)> {
    const RIGHTS: &str = "it changes who may read and write";
    const LEAVES: &str = "it leaves something of a block that is gone";
    const TOP: &str = "it moves or removes the directory that its author may write";
    let World { top, inner, file, other, secret, gone, .. } = *world;
    let next = store.core.next_block.load(std::sync::atomic::Ordering::Relaxed);
    let new = |home: BlockId| {
        let serial = store.own_readcaps()[0].0;
        header(store, file, |header| {
            (header.home, header.sectors, header.wrapped_by) = (home.into(), [0; 7], serial.into());
        })
    };
    let of_secret = Extent::decode(&value(store, extent_key(secret, 0))).unwrap();
    let empty = Forged::default;
    let readcap = system_key(ItemKind::READCAP, store.own_readcaps()[0].0);
    let writecap = system_key(ItemKind::WRITECAP, world.serial);
    let snapshot = system_key(ItemKind::SNAPSHOT, store.core.snapshots.lock().all[0].id);
    let destroy = Reclaim { from: 0, destroy: true }.encode();
    vec![
        // Blocks and items outside.
        (empty().put(header_key(secret), &header(store, secret, |header| header.epoch = 9.into())), OUTSIDE),
        (empty().delete(header_key(secret)), OUTSIDE),
        (empty().put(header_key(1), &header(store, 1, |header| header.epoch = 9.into())), OUTSIDE),
        (empty().put(Key::new(other, ENTRY, 5), &item(&[])), OUTSIDE),
        (empty().delete(Key::new(other, ENTRY, secret)), OUTSIDE),
        (empty().delete(extent_key(secret, 0)).free(&of_secret), OUTSIDE),
        (empty().put(Key::new(file, ItemKind::OLD_KEY, 0), &[0; 60]), OUTSIDE),
        (empty().put(Key::new(file, ItemKind::JOURNAL, 5), &[0; 60]), OUTSIDE),
        // From outside to inside, and back.
        (
            empty().put(header_key(secret), &header(store, secret, |header| header.home = inner.into())),
            OUTSIDE,
        ),
        (
            empty().put(header_key(file), &header(store, file, |header| header.home = other.into())),
            "it moves a block out of what its author may write",
        ),
        (
            empty().put(header_key(inner), &header(store, inner, |header| header.home = file.into())),
            "it moves a block out of what its author may write",
        ),
        (empty().put(header_key(top), &header(store, top, |header| header.home = inner.into())), TOP),
        (empty().put(Key::new(inner, ENTRY, 5), &item(&[secret])), NAMES_OUTSIDE),
        (empty().put(Key::new(inner, ENTRY, 5), &item(&[top])), NAMES_OUTSIDE),
        (empty().put(Key::new(inner, ENTRY, 5), &item(&[1])), NAMES_OUTSIDE),
        (empty().put(Key::new(inner, ENTRY, 5), &item(&[gone])), NAMES_OUTSIDE),
        (
            empty().put(Key::new(top, ENTRY, 5), &item(&[file])),
            "it gives a name to something that belongs elsewhere",
        ),
        (empty().put(Key::new(inner, ENTRY, 5), b"\x03\x00abc"), "an item is malformed"),
        // New blocks.
        (Forged { next_block: Some(next + 1), ..empty() }.put(header_key(next), &new(other)), OUTSIDE),
        (
            empty().put(header_key(gone), &new(inner)),
            "it gives a block a number that is not its author's to give",
        ),
        (
            empty().put(header_key(next), &new(inner)),
            "it gives a block a number that is not its author's to give",
        ),
        (
            Forged { next_block: Some(next + 1), ..empty() }
                .put(header_key(next), &header(store, inner, |header| header.wrapped_by = 0.into())),
            "it makes a block whose key its owner cannot tell",
        ),
        (Forged { next_block: Some(u64::MAX), ..empty() }, "its counters leap"),
        (Forged { next_block: Some(next - 1), ..empty() }, "its counters leap"),
        (Forged { time_ns: u64::MAX, ..empty() }, "its counters leap"),
        (Forged { body: vec![1, 2, 3], ..empty() }, "it is malformed"),
        // Keys and removal.
        (
            empty().put(header_key(file), &header(store, file, |header| header.owner_key[20] ^= 1)),
            "it changes the key of a block",
        ),
        (empty().delete(header_key(file)), LEAVES),
        (empty().delete(header_key(top)).delete(Key::new(top, ENTRY, inner)), TOP),
        (empty().put(system_key(ItemKind::ORPHAN, top), &[]), TOP),
        (empty().put(system_key(ItemKind::RECLAIM, top), &destroy), TOP),
        (empty().put(system_key(ItemKind::ORPHAN, secret), &[]), OUTSIDE),
        (empty().put(system_key(ItemKind::RECLAIM, secret), &destroy), OUTSIDE),
        (empty().put(system_key(ItemKind::LOST, file), &[0; 16]), OUTSIDE),
        // The store's own.
        (empty().delete(writecap), RIGHTS),
        (empty().put(system_key(ItemKind::WRITECAP, 5), &value(store, writecap)), RIGHTS),
        (empty().put(system_key(ItemKind::REVOCATION, world.serial), &[0; 168]), RIGHTS),
        (empty().delete(readcap), RIGHTS),
        (empty().put(system_key(ItemKind::ACCESS, 0), &[0; 72]), RIGHTS),
        (empty().delete(snapshot), "it changes snapshots"),
        (empty().put(system_key(ItemKind::JOURNAL, file), &[]), OUTSIDE),
    ]
}

/// A record may not make who judges it look further and further up.
#[test]
fn steps_upwards_are_counted() {
    let world = World::new();
    let store = world.open_as_writer();
    let claims = Claims { seq: 1, next_block: BlockId::MAX, time_ns: 0, body: &[] };
    let bounds = store.core.bounds.as_ref().unwrap();
    let judged = |steps| {
        let mut trial = Trial::new(&store.core, bounds, &claims);
        trial.steps = steps;
        trial.is_inside(world.file, When::Before)
    };
    // The file, the directory that it is in, and the one above, which is the writer's.
    assert!(matches!(judged(3), Ok(true)));
    assert!(matches!(judged(2), Err(Judgement::Refused("what it changes or names is too far below"))));
}
