//! Somebody from whom a directory was taken back: with all keys that they had, and a fresh copy of the store, what could
//! they decrypt, and which names could they confirm?

use std::collections::{BTreeMap, BTreeSet};

use blocktree_engine::crypto::{ExtentKey, Principal, Secret, open_item, open_key, open_sectors};
use blocktree_engine::format::{BlockHeader, BlockId, ItemKind, KeyBytes, SYSTEM_BLOCK};
use blocktree_engine::{Rotation, Store};
use blocktree_vfs::layout::{ENTRY_SLOTS, ITEM_ENTRY};
use blocktree_vfs::{Fs, MountOptions, rotation};
use zerocopy::IntoBytes;

use super::insight::{Insight, read};
use super::shared::{OPEN_SECRET, holds, reachable_keys, store, write_file};
use super::victim::SECTORS;

const LATER_SECRET: &[u8] = b"written after it was taken back";

/// What the former reader can still make of a copy of the store.
#[derive(Debug, Default, PartialEq, Eq)]
struct Opened {
    /// Blocks of which an extent shows a secret, by which.
    old_data: usize,
    new_data: usize,
    items: usize,
    keys: usize,
    names_confirmed: usize,
}

fn try_everything(
    insight: &Insight,
    known: &BTreeMap<BlockId, Secret>,
    places: &BTreeSet<(BlockId, u64)>,
) -> Opened {
    let mut opened = Opened::default();
    let derive = |what| known.values().map(move |key| key.derive(what)).collect::<Vec<_>>();
    let data = derive("blocktree block data v1");
    let items = derive("blocktree block items v1");
    for (_, _, key, value) in insight.all_items() {
        if key.block == SYSTEM_BLOCK || key.kind == ItemKind::EXTENT {
            continue;
        }
        let place = KeyBytes::from(key);
        for under in &items {
            let starts = [0, 2, 10, size_of::<BlockHeader>()];
            opened.items += starts
                .into_iter()
                .filter(|from| {
                    value.get(*from..).is_some_and(|value| open_item(under, place.as_bytes(), value).is_ok())
                })
                .count();
            for window in value.windows(60) {
                opened.keys += usize::from(open_key(under, &key.block.to_le_bytes(), window).is_ok());
            }
        }
    }
    for (_, extent) in insight.extents() {
        let sealed = read(&insight.image, extent.sector(), extent.sectors() as usize);
        let own = data.iter().map(|key| ExtentKey::derive(key, &extent.header.nonce));
        let foreign = extent.foreign_key.iter().flat_map(|wrapped| {
            items.iter().filter_map(|key| open_key(key, &extent.header.nonce, wrapped).ok())
        });
        let foreign: Vec<ExtentKey> = foreign.map(|secret| ExtentKey::from_secret(&secret)).collect();
        let mut shows = [false; 2];
        for key in own.chain(foreign) {
            let mut plain = sealed.clone();
            open_sectors(&key, extent.header.skip.get(), &mut plain);
            shows[0] |= holds(&plain, OPEN_SECRET);
            shows[1] |= holds(&plain, LATER_SECRET);
        }
        opened.old_data += usize::from(shows[0]);
        opened.new_data += usize::from(shows[1]);
    }
    opened.names_confirmed = entry_places(insight).intersection(places).count();
    opened
}

/// In which bucket of which directory there is an entry: what somebody with the key of a directory can tell from a name.
fn entry_places(insight: &Insight) -> BTreeSet<(BlockId, u64)> {
    let items = insight.all_items();
    let entries = items.iter().filter(|(_, _, key, _)| key.kind == ITEM_ENTRY);
    entries.map(|(_, _, key, _)| (key.block, key.offset & !(ENTRY_SLOTS - 1))).collect()
}

/// Sectors of the whole volume that show an old secret under a key that was known and a nonce that was seen.
fn remains(insight: &Insight, known: &BTreeMap<BlockId, Secret>, nonces: &[[u8; 16]]) -> usize {
    let data: Vec<Secret> = known.values().map(|key| key.derive("blocktree block data v1")).collect();
    let keys: Vec<ExtentKey> =
        data.iter().flat_map(|key| nonces.iter().map(|nonce| ExtentKey::derive(key, nonce))).collect();
    let shows = |sector: &u64| {
        let sealed = read(&insight.image, *sector, 1);
        sealed.iter().any(|byte| *byte != 0)
            && keys.iter().any(|key| {
                let mut plain = sealed.clone();
                open_sectors(key, 0, &mut plain);
                holds(&plain, OPEN_SECRET)
            })
    };
    (0..SECTORS).filter(shows).count()
}

fn rotate(store: &Store, shared: BlockId) -> Rotation {
    let serials: Vec<u64> = store.readcaps().unwrap().iter().map(|cap| cap.serial).collect();
    let rotation = store.begin_rotation(shared, &serials).unwrap();
    assert!(rotation::rotate(store, &rotation, &mut |_| true).unwrap());
    rotation
}

pub(crate) fn nothing_is_readable_any_more() {
    let reader = Principal::generate();
    let (device, store, [shared, _]) = store(&reader);
    {
        let fs = Fs::mount(store.clone(), MountOptions::default()).unwrap();
        let from = fs.lookup(shared, b"letter").unwrap().ino;
        let clone = write_file(&fs, shared, "a clone", b"");
        let long = [OPEN_SECRET, &[1; 20_000]].concat();
        fs.write(from, 0, &long, super::shared::KEEP).unwrap();
        assert_eq!(fs.copy_file_range(from, 0, clone, 0, 8192, super::shared::KEEP).unwrap(), 8192);
        fs.unmount().unwrap();
    }
    store.checkpoint().unwrap();
    let before = Insight::of(&device.image());
    let known = reachable_keys(&before, &reader);
    assert_eq!(known.len(), 5);
    // Where the names stand that they have seen.
    let places: BTreeSet<_> =
        entry_places(&before).into_iter().filter(|(id, _)| known.contains_key(id)).collect();
    let could = try_everything(&before, &known, &places);
    assert!(
        could.old_data >= 3 && could.items > 5 && could.keys == 0 && could.names_confirmed == 4,
        "{could:?}"
    );

    rotate(&store, shared);
    let fs = Fs::mount(store.clone(), MountOptions::default()).unwrap();
    write_file(&fs, shared, "made later", LATER_SECRET);
    let letter = fs.lookup(shared, b"letter").unwrap().ino;
    fs.write(letter, 300_000, LATER_SECRET, super::shared::KEEP).unwrap();
    fs.unmount().unwrap();
    store.checkpoint().unwrap();
    let between = Insight::of(&device.image());
    let can = try_everything(&between, &known, &places);
    assert!(can.old_data >= 2, "{can:?}: what was there still stands under the old keys");
    assert_eq!(Opened { old_data: 0, ..can }, Opened::default(), "nothing new, no item, no name");
    assert!(reachable_keys(&between, &reader).is_empty(), "there is no readcap for them");

    store.reencrypt(&|_, _| true).unwrap();
    store.checkpoint().unwrap();
    let after = Insight::of(&device.image());
    assert_eq!(try_everything(&after, &known, &places), Opened::default());
    // The raw volume still has what stood there, until that is overwritten.
    let nonces: Vec<[u8; 16]> = before.extents().iter().map(|(_, extent)| extent.header.nonce).collect();
    assert!(remains(&after, &known, &nonces) > 0, "this finds something");
    assert!(store.erase_free(&|_, _| true).unwrap());
    let erased = Insight::of(&device.image());
    assert_eq!(remains(&erased, &known, &nonces), 0);
    assert_eq!(try_everything(&erased, &known, &places), Opened::default());
    // It is all there, for who may read it.
    let fs = Fs::mount(store, MountOptions { read_only: true, ..MountOptions::default() }).unwrap();
    for (name, secret) in
        [(&b"letter"[..], OPEN_SECRET), (b"a clone", OPEN_SECRET), (b"made later", LATER_SECRET)]
    {
        let ino = fs.lookup(shared, name).unwrap().ino;
        let mut bytes = vec![0; secret.len()];
        assert_eq!(fs.read(ino, 0, &mut bytes).unwrap(), secret.len());
        assert_eq!(bytes, secret);
    }
}
