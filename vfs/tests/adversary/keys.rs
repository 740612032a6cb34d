//! Somebody who can write the disk and holds keys, but not the one that signs: a keeper with the structure key, and a
//! reader who also has the keys of blocks.

use blocktree_engine::crypto::{
    Certificate, ExtentKey, Principal, Rights, Secret, Terms, open_item, seal_item, seal_sectors, wrap_key,
};
use blocktree_engine::device::SplitMix64;
use blocktree_engine::format::{BlockHeader, Extent, ItemKind, Key, KeyBytes, SYSTEM_BLOCK};
use blocktree_vfs::layout::{ITEM_ENTRY, InodeBytes};
use zerocopy::{FromBytes, IntoBytes};

use super::Attempt;
use super::collision;
use super::insight::{Insight, Items, Record, edit_body, record_hash, sign, write};
use super::victim::{SECTOR, Victim, pattern};

/// Puts a changed leaf on the disk in every way that somebody without the signing key has.
fn plant(insight: &Insight, leaf: usize, items: &Items, what: &'static str, attempt: &mut Attempt<'_>) {
    let (image, _) = insight.with_leaf(leaf, items, false);
    attempt(what, &image);
    let stranger = Principal::generate();
    let (image, superblock) = insight.with_leaf(leaf, items, true);
    attempt(what, &image);
    let mut signed = superblock.clone();
    sign(&mut signed, &stranger);
    // As the rightful author, with somebody else's signature.
    let mut claimed = signed.clone();
    claimed.author = insight.superblock.author;
    for superblock in [superblock, signed, claimed] {
        for copies in [&[0_usize, 1][..], &[0, 1, 2, 3]] {
            let mut image = image.clone();
            for copy in copies {
                write(&mut image, insight.layout.superblocks()[*copy], superblock.as_bytes());
            }
            attempt(what, &image);
        }
    }
}

/// With the structure key alone: what is in nodes and records can be seen and encrypted, not read.
pub(crate) fn keeper(victim: &Victim, rng: &mut SplitMix64, attempt: &mut Attempt<'_>) {
    let insight = Insight::of(&victim.image);
    let old = Insight::of(&victim.past[0]);
    assert!(insight.nodes[0].level > 0, "an index with inner nodes");
    let pick = |rng: &mut SplitMix64, count: usize| rng.below(count as u64) as usize;
    let all = insight.all_items();
    let mut edit = |what, leaf: usize, change: &mut dyn FnMut(&mut Items)| {
        let mut items = insight.items(leaf);
        change(&mut items);
        if items != insight.items(leaf) {
            plant(&insight, leaf, &items, what, attempt);
        }
    };
    for kind in [ItemKind::HEADER, ItemKind::EXTENT, ITEM_ENTRY] {
        let what = match kind {
            ItemKind::HEADER => "swap the attributes of two files",
            ItemKind::EXTENT => "swap the data of two files",
            _ => "swap two names",
        };
        let of_kind: Vec<_> = all.iter().filter(|(_, _, key, _)| key.kind == kind).collect();
        assert!(of_kind.len() > 1);
        for _ in 0..3 {
            let (one, other) = (of_kind[pick(rng, of_kind.len())], of_kind[pick(rng, of_kind.len())]);
            edit(what, one.0, &mut |items| items[one.1].1 = other.3.clone());
        }
        for _ in 0..3 {
            let one = of_kind[pick(rng, of_kind.len())];
            let what = match kind {
                ItemKind::HEADER => "remove a file",
                ItemKind::EXTENT => "turn data into a hole",
                _ => "remove a name",
            };
            edit(what, one.0, &mut |items| drop(items.remove(one.1)));
        }
        for (_, _, key, value) in old.all_items().into_iter().filter(|(_, _, key, _)| key.kind == kind) {
            if let Some((leaf, at, now)) = insight.find(key).filter(|(_, _, now)| *now != value) {
                let what = match kind {
                    ItemKind::HEADER => "replay a file's attributes",
                    ItemKind::EXTENT => "replay a file's data",
                    _ => "replay a name",
                };
                if now.len() >= value.len() && rng.one_in(2) {
                    edit(what, leaf, &mut |items| items[at].1 = value.clone());
                }
            }
        }
    }
    let extents: Vec<_> = all.iter().filter(|(_, _, key, _)| key.kind == ItemKind::EXTENT).collect();
    for (leaf, at, key, value) in extents.iter().take(3) {
        let mut extent = Extent::decode(value).unwrap();
        let mut with = |what, extent: &Extent| {
            edit(what, *leaf, &mut |items| items[*at].1 = extent.encode());
        };
        extent.header.sector = (extent.sector() + 1).into();
        with("point a file elsewhere", &extent);
        let mut extent = Extent::decode(value).unwrap();
        extent.header.skip = u16::from(extent.sectors() < 32).into();
        with("shift a file's sectors", &extent);
        let extent = Extent::decode(value).unwrap();
        if extent.sectors() > 1 {
            with("shorten a file", &extent.slice(0, extent.sectors() - 1));
        }
        edit("move a file's data", *leaf, &mut |items| {
            let moved = Key::new(key.block, key.kind, key.offset + 64);
            items[*at].0 = moved;
            items.sort_by_key(|(key, _)| *key);
        });
    }
    // Items of the system, which the structure key can make: the store must not act on them.
    let root = insight.leaves().next().unwrap();
    let snapshot = all.iter().find(|(_, _, key, _)| key.kind == ItemKind::SNAPSHOT).unwrap();
    edit("remove a snapshot", snapshot.0, &mut |items| drop(items.remove(snapshot.1)));
    let stranger = Principal::generate();
    let terms = Terms {
        store_id: insight.superblock.store_id,
        subject: stranger.public(),
        block: 1,
        rights: Rights::ALL,
        not_before: 0,
        expires: u64::MAX,
        serial: 7,
    };
    let writecap = Certificate::issue(&stranger, &terms).bytes().as_bytes().to_vec();
    for (what, kind, offset, value) in [
        ("orphan a file", ItemKind::ORPHAN, 2, Vec::new()),
        ("empty a file", ItemKind::RECLAIM, 2, [&[0_u8; 8][..], &[1]].concat()),
        ("plant a writecap", ItemKind::WRITECAP, 7, writecap),
    ] {
        edit(what, root, &mut |items| {
            items.push((Key::new(SYSTEM_BLOCK, kind, offset), value.clone()));
            items.sort_by_key(|(key, _)| *key);
        });
    }
    let headers: Vec<_> = all.iter().filter(|(_, _, key, _)| key.kind == ItemKind::HEADER).collect();
    for (leaf, at, _, value) in headers.iter().take(3) {
        let (mut header, rest) = BlockHeader::read_from_prefix(value).unwrap();
        header.owner_key = BlockHeader::read_from_prefix(&headers[5].3).unwrap().0.owner_key;
        let value = [header.as_bytes(), rest].concat();
        edit("plant another file's wrapped key", *leaf, &mut |items| items[*at].1 = value.clone());
    }
    records(&insight, attempt);
}

/// Records: changed, and new ones.
fn records(insight: &Insight, attempt: &mut Attempt<'_>) {
    let stranger = Principal::generate();
    let mut forge = |what, record: &Record| {
        for signer in [None, Some(&stranger)] {
            let mut image = insight.image.clone();
            insight.put_record(&mut image, record, signer);
            attempt(what, &image);
            // As the rightful author, with somebody else's signature.
            if signer.is_some() {
                let mut bytes = image.sector(record.sector);
                bytes[128..160].copy_from_slice(&insight.superblock.author);
                image.set_sector(record.sector, bytes);
                attempt(what, &image);
            }
        }
    };
    for record in &insight.records {
        let edits: [(&str, Record); 4] = [
            ("empty a record", Record { body: edit_body(&record.body, |_, _| None), ..record.clone() }),
            (
                "change what a record sets",
                Record {
                    body: edit_body(&record.body, |key, mut value| {
                        if let Some(byte) = value.last_mut() {
                            *byte ^= 1;
                        }
                        Some((key, value))
                    }),
                    ..record.clone()
                },
            ),
            (
                "change whose items a record sets",
                Record {
                    body: edit_body(&record.body, |key, value| {
                        Some((Key::new(key.block + 1, key.kind, key.offset), value))
                    }),
                    ..record.clone()
                },
            ),
            ("say that a record was not durable", {
                let mut record = record.clone();
                record.head.durable_seq = 0.into();
                record
            }),
        ];
        edits.iter().for_each(|(what, record)| forge(what, record));
    }
    let last = insight.records.last().unwrap();
    let mut next = last.clone();
    next.sector += u64::from(last.head.sectors.get());
    next.head.seq = (last.head.seq.get() + 1).into();
    next.head.previous = record_hash(&insight.image, last);
    forge("append a record", &next);
}

/// With the structure key and the keys of blocks: everything can be read, nothing signed.
pub(crate) fn reader(victim: &Victim, attempt: &mut Attempt<'_>) {
    let insight = Insight::of(&victim.image);
    for (key, extent) in insight.extents() {
        let Some([data, _]) = insight.block_keys(key.block) else { continue };
        let mut forged = pattern(99, SECTOR);
        seal_sectors(&ExtentKey::derive(&data, &extent.header.nonce), extent.header.skip.get(), &mut forged);
        let mut image = insight.image.clone();
        write(&mut image, extent.sector(), &forged);
        attempt("encrypt other data", &image);
    }
    for (leaf, at, key, value) in insight.all_items() {
        let Some([_, items_key]) = insight.block_keys(key.block) else { continue };
        let place = KeyBytes::from(key);
        let mut put = |what, value: Vec<u8>| {
            let mut items = insight.items(leaf);
            items[at].1 = value;
            plant(&insight, leaf, &items, what, attempt);
        };
        if key.kind == ItemKind::HEADER && key.block < 8 {
            let (header, sealed) = value.split_at(size_of::<BlockHeader>());
            let plain = open_item(&items_key, place.as_bytes(), sealed).unwrap();
            // The journal's block has no attributes.
            let Ok(mut inode) = InodeBytes::read_from_bytes(&plain) else {
                assert!(plain.is_empty());
                continue;
            };
            (inode.permissions, inode.uid) = (0o4777.into(), 0.into());
            let mut forged = header.to_vec();
            seal_item(&items_key, place.as_bytes(), inode.as_bytes(), &mut forged);
            put("change mode and owner", forged);
            let mut inode = InodeBytes::read_from_bytes(&plain).unwrap();
            inode.size = (inode.size.get() / 2).into();
            let mut forged = header.to_vec();
            seal_item(&items_key, place.as_bytes(), inode.as_bytes(), &mut forged);
            put("change a size", forged);

            let collided = collision::with_same_tag(&items_key, sealed, 4, 0x3f);
            assert_ne!(collided, sealed);
            assert_eq!(collided[collided.len() - 16..], sealed[sealed.len() - 16..], "the same tag");
            let opened = open_item(&items_key, place.as_bytes(), &collided).unwrap();
            assert_ne!(*opened, *plain, "AES-GCM takes it");
            put("forge an item with the same tag", [header, &collided].concat());
        }
        if key.kind == ITEM_ENTRY && key.block == 1 {
            let sealed = &value[2 + 8..];
            let mut plain = open_item(&items_key, place.as_bytes(), sealed).unwrap();
            let child = u64::from_le_bytes(plain[3..11].try_into().unwrap());
            let wrapped = wrap_key(&items_key, &child.to_le_bytes(), &Secret::random());
            plain[11..71].copy_from_slice(&wrapped);
            let mut forged = value[..10].to_vec();
            seal_item(&items_key, place.as_bytes(), &plain, &mut forged);
            put("plant a wrapped key", forged);
        }
    }
}
