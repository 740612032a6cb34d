//! A reader of one directory, with its own key and a copy of the store: what else could it decrypt? Everything that it
//! can derive a key for is tried on everything that is there, as an attacker would who does without our programs.

use std::collections::BTreeMap;
use std::sync::Arc;

use blocktree_engine::crypto::{
    ExtentKey, Principal, Purpose, Rights, Secret, open_item, open_key, open_sealed, open_sectors,
};
use blocktree_engine::device::{FaultyDevice, Image, SplitMix64};
use blocktree_engine::format::{
    BlockHeader, BlockId, Change, ItemKind, Key, KeyBytes, ReadcapBytes, ReadcapSecrets, SYSTEM_BLOCK,
    encode_change,
};
use blocktree_engine::{Credential, Grant, OpenError, OpenOptions, Refusal, Role, Store};
use blocktree_vfs::{Caller, Fs, MountOptions, WriteFlags};
use zerocopy::{FromBytes, IntoBytes};

use super::insight::{Insight, edit_body, read, record_hash};
use super::victim::{Machine, SECTOR, create_store};

const USER: Caller = Caller { uid: 0, gid: 0, pid: 1, umask: 0 };
pub(crate) const KEEP: WriteFlags = WriteFlags { kill_privileges: false, from_cache: false };
pub(crate) const OPEN_SECRET: &[u8] = b"for everybody who may read it";
const PRIVATE_SECRET: &[u8] = b"for the owner alone";

/// The keys that a block's key gives: for data, and for items.
struct BlockKeys {
    data: Secret,
    items: Secret,
}

impl BlockKeys {
    fn of(key: &Secret) -> Self {
        Self { data: key.derive("blocktree block data v1"), items: key.derive("blocktree block items v1") }
    }
}

pub(crate) fn write_file(fs: &Fs, directory: u64, name: &str, bytes: &[u8]) -> u64 {
    let ino = fs.create(&USER, directory, name.as_bytes(), 0o600).unwrap().ino;
    fs.write(ino, 0, bytes, KEEP).unwrap();
    fs.release(ino, None);
    ino
}

fn options() -> OpenOptions {
    OpenOptions { background: false, ..OpenOptions::default() }
}

/// A store with `shared` and `private` directories, the first of which `reader` may read; and the ids of both.
pub(crate) fn store(reader: &Principal) -> (Arc<FaultyDevice>, Store, [BlockId; 2]) {
    let (device, store) = create_store(&Arc::new(Machine::default()));
    let fs = Fs::mount(store.clone(), MountOptions::default()).unwrap();
    let [shared, private] =
        [b"shared", b"privat"].map(|name| fs.mkdir(&USER, Fs::ROOT, name, 0o755).unwrap().ino);
    let deeper = fs.mkdir(&USER, shared, b"deeper", 0o755).unwrap().ino;
    let both = write_file(&fs, deeper, "named twice", OPEN_SECRET);
    write_file(&fs, shared, "letter", OPEN_SECRET);
    write_file(&fs, private, "hidden letter", PRIVATE_SECRET);
    write_file(&fs, Fs::ROOT, "at the top", PRIVATE_SECRET);
    fs.link(both, private, b"other name").unwrap();
    fs.setxattr(private, b"user.hidden", PRIVATE_SECRET, Default::default()).unwrap();
    fs.unmount().unwrap();
    let block = store.block(shared).unwrap().unwrap();
    store.grant_access(&reader.public(), false).unwrap();
    store.share(&block, &reader.public(), u64::MAX, false).unwrap();
    store.checkpoint().unwrap();
    (device, store, [shared, private])
}

/// Every block key that a readcap for `reader` leads to, by way of the entries of directories.
fn reachable(insight: &Insight, reader: &Principal) -> BTreeMap<BlockId, BlockKeys> {
    reachable_keys(insight, reader).into_iter().map(|(id, key)| (id, BlockKeys::of(&key))).collect()
}

pub(crate) fn reachable_keys(insight: &Insight, reader: &Principal) -> BTreeMap<BlockId, Secret> {
    let items = insight.all_items();
    let mut keys = BTreeMap::new();
    let mut found = Vec::new();
    for (_, _, key, value) in items.iter().filter(|(_, _, key, _)| key.kind == ItemKind::READCAP) {
        let cap = ReadcapBytes::read_from_bytes(value).unwrap();
        let place = [KeyBytes::from(*key).as_bytes(), cap.bound_bytes()].concat();
        let context = "blocktree readcap v1";
        let purpose = Purpose { context, store_id: &insight.superblock.store_id, place: &place };
        let plain = open_sealed(reader, &purpose, &cap.sealed).unwrap();
        let secrets = ReadcapSecrets::read_from_bytes(&plain).unwrap();
        assert_eq!(secrets.wrap_key, [0; 32], "who only reads gets nothing to write with");
        found.push((cap.block.get(), Secret::new(secrets.block_key)));
    }
    while let Some((id, key)) = found.pop() {
        let block = BlockKeys::of(&key);
        for (_, _, key, value) in items.iter().filter(|(_, _, key, _)| key.block == id) {
            let place = KeyBytes::from(*key);
            if key.kind != blocktree_vfs::layout::ITEM_ENTRY {
                continue;
            }
            let entry = open_item(&block.items, place.as_bytes(), &value[10..]).unwrap();
            let child = u64::from_le_bytes(entry[3..11].try_into().unwrap());
            if !keys.contains_key(&child) {
                let wrapped = open_key(&block.items, &child.to_le_bytes(), &entry[11..71]).unwrap();
                found.push((child, wrapped));
            }
        }
        keys.insert(id, key);
    }
    keys
}

pub(crate) fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

pub(crate) fn nothing_else_is_readable() {
    let reader = Principal::generate();
    let (device, store, [shared, private]) = store(&reader);
    store.close().unwrap();
    let insight = Insight::of(&device.image());
    let keys = reachable(&insight, &reader);
    assert_eq!(keys.len(), 4, "the directory, the one in it, and two files");
    assert!(keys.contains_key(&shared) && !keys.contains_key(&private));
    let names = [&b"hidden letter"[..], b"at the top", b"user.hidden", b"privat", b"other name"];
    let hidden: Vec<&[u8]> = names.into_iter().chain([PRIVATE_SECRET, b"letter", OPEN_SECRET]).collect();

    // The structure key shows no name and no byte of anything.
    let bodies = insight.records.iter().map(|record| &record.body);
    for plain in insight.nodes.iter().map(|node| &node.plain).chain(bodies) {
        assert!(hidden.iter().all(|secret| !holds(plain, secret)));
    }
    // Every value of every other block, under every key that the reader has.
    let mut tried = 0;
    for (_, _, key, value) in insight.all_items() {
        if key.block == SYSTEM_BLOCK || keys.contains_key(&key.block) || key.kind == ItemKind::EXTENT {
            continue;
        }
        let place = KeyBytes::from(key);
        for block in keys.values() {
            for from in 0..value.len().saturating_sub(28) {
                assert!(open_item(&block.items, place.as_bytes(), &value[from..]).is_err(), "{key:?}");
            }
            if key.kind == ItemKind::HEADER {
                let header = BlockHeader::read_from_prefix(&value).unwrap().0;
                for under in [&block.items, &block.data] {
                    assert!(open_key(under, &key.block.to_le_bytes(), &header.owner_key).is_err());
                }
            }
            tried += 1;
        }
    }
    for (key, extent) in insight.extents() {
        let sealed = read(&insight.image, extent.sector(), extent.sectors() as usize);
        let opened = |block: &BlockKeys| {
            let mut plain = sealed.clone();
            open_sectors(
                &ExtentKey::derive(&block.data, &extent.header.nonce),
                extent.header.skip.get(),
                &mut plain,
            );
            hidden.iter().any(|secret| holds(&plain, secret))
        };
        assert_eq!(sealed.len() % SECTOR, 0);
        assert_eq!(keys.values().any(opened), keys.contains_key(&key.block), "block {}", key.block);
        tried += 1;
    }
    assert!(tried > 20, "{tried}");
}

/// What our own program lets a reader and a keeper do.
pub(crate) fn readers_and_keepers() {
    let [reader, keeper, stranger] = [(); 3].map(|()| Principal::generate());
    let (device, store, [shared, private]) = store(&reader);
    store.grant_access(&keeper.public(), false).unwrap();
    store.close().unwrap();
    let open = |holder: &Principal, root| {
        Store::open_as(device.clone(), &Credential::Principal { holder, root }, &options())
    };
    assert!(matches!(open(&stranger, None), Err(OpenError::NoAccess)));
    assert!(matches!(open(&reader, Some([1; 32])), Err(OpenError::OtherRoot)));

    let store = open(&reader, None).unwrap();
    assert_eq!((store.role(), store.is_read_only()), (Role::Reader, true));
    assert!(store.block(private).is_err() && store.block(Fs::ROOT).is_err());
    let root = store.root_principal();
    let fs = Fs::mount(store, MountOptions::default()).unwrap();
    let mut names = Vec::new();
    fs.readdir(Fs::ROOT, 0, &mut |entry| {
        names.push((String::from_utf8_lossy(entry.name).into_owned(), entry.ino));
        true
    })
    .unwrap();
    names.sort();
    let names: Vec<&str> = names.iter().map(|(name, _)| &name[..]).collect();
    assert_eq!(names, [".", "..", "deeper", "letter"]);
    let stat = fs.lookup(Fs::ROOT, b"letter").unwrap();
    let mut bytes = [0; 100];
    let length = fs.read(stat.ino, 0, &mut bytes).unwrap();
    assert_eq!(&bytes[..length], OPEN_SECRET);
    let deeper = fs.lookup(Fs::ROOT, b"deeper").unwrap().ino;
    assert_eq!(fs.lookup(deeper, b"..").unwrap().ino, Fs::ROOT);
    assert_eq!(fs.lookup(Fs::ROOT, b"..").unwrap().ino, Fs::ROOT, "there is nothing above");
    assert!(fs.lookup(deeper, b"named twice").is_ok());
    for ino in [private, shared] {
        assert_eq!(fs.getattr(ino).unwrap_err().errno(), libc_estale(), "by number");
    }
    fs.forget(stat.ino, 1);
    assert!(fs.create(&USER, Fs::ROOT, b"new", 0o644).is_err());
    assert!(fs.write(stat.ino, 0, b"x", KEEP).is_err());

    let store = open(&keeper, Some(root)).unwrap();
    assert_eq!((store.role(), store.is_read_only()), (Role::Keeper, true));
    assert_eq!(store.writecaps().len(), 1);
    for id in 1..12 {
        assert!(!matches!(store.block(id), Ok(Some(_))), "block {id}");
    }
    assert!(Fs::mount(store, MountOptions::default()).is_err());
    let credential = Credential::Principal { holder: &keeper, root: None };
    let report =
        blocktree_engine::check_as(device.clone(), &credential, &Default::default(), &mut |_, _| {}).unwrap();
    assert_eq!(report.problems, []);
    assert!(report.sectors_checked > 0);
}

fn libc_estale() -> i32 {
    blocktree_vfs::FsError::Stale.errno()
}

/// A second node with a writecap for the whole store writes, signs superblocks, and can be stopped.
pub(crate) fn a_second_node() {
    let (reader, node, late) = (Principal::generate(), Principal::generate(), Principal::generate());
    let (device, store, _) = store(&reader);
    let (block, rights, not_before, expires) = (Store::ROOT, Rights::ALL, 0, u64::MAX);
    let grant = Grant { subject: node.public(), block, rights, not_before, expires };
    store.grant_access(&node.public(), true).unwrap();
    store.grant_access(&late.public(), true).unwrap();
    let serial = store.issue_writecap(None, &grant).unwrap();
    store.issue_writecap(None, &Grant { subject: late.public(), not_before: u64::MAX - 1, ..grant }).unwrap();
    assert!(store.issue_writecap(Some(&reader), &grant).is_err(), "who has nothing gives nothing");
    store.close().unwrap();
    let open = |holder: &Principal| {
        Store::open_as(device.clone(), &Credential::Principal { holder, root: None }, &options())
    };
    assert!(matches!(open(&late), Err(OpenError::Certificate(_))), "its time has not come");

    let second = open(&node).unwrap();
    assert_eq!((second.role(), second.is_read_only()), (Role::Owner, false));
    let fs = Fs::mount(second.clone(), MountOptions::default()).unwrap();
    write_file(&fs, Fs::ROOT, "by the second node", b"hello");
    fs.unmount().unwrap();
    second.checkpoint().unwrap();
    write_file(&fs, Fs::ROOT, "in the log", b"hello");
    fs.syncfs().unwrap();
    let signed_by_it = device.image();
    drop((fs, second));

    let passphrase = Credential::Passphrase(super::victim::PASSPHRASE);
    let first = Store::open_as(device.clone(), &passphrase, &options()).unwrap();
    let fs = Fs::mount(first.clone(), MountOptions::default()).unwrap();
    assert!(fs.lookup(Fs::ROOT, b"by the second node").is_ok() && fs.lookup(Fs::ROOT, b"in the log").is_ok());
    first.revoke_writecap(None, serial).unwrap();
    first.sync(first.newest()).unwrap();
    // At once, while the log alone says so.
    let revoked = Arc::new(FaultyDevice::from_image(device.image(), 0));
    let by_the_second = Credential::Principal { holder: &node, root: None };
    let opened = Store::open_as(revoked, &by_the_second, &options());
    assert!(matches!(opened, Err(OpenError::Certificate(_))), "it was revoked");
    first.close().unwrap();
    drop((fs, first));
    assert!(matches!(open(&node), Err(OpenError::Certificate(_))), "it was revoked");

    // It has all keys still, and appends a record to the log as it would have been before.
    let image = device.image();
    let insight = Insight::of(&image);
    let donor = Insight::of(&signed_by_it);
    let last = donor.records.last().unwrap();
    let mut forged = last.clone();
    let at = insight.superblock.log_position.get() + blocktree_engine::format::Layout::LOG_START;
    forged.sector =
        insight.records.last().map_or(at, |last| last.sector + u64::from(last.head.sectors.get()));
    let (seq, previous) = match insight.records.last() {
        Some(last) => (last.head.seq.get(), record_hash(&image, last)),
        None => (insight.superblock.seq.get(), insight.superblock.record_hash),
    };
    forged.head.seq = (seq + 1).into();
    forged.head.previous = previous;
    forged.head.durable_seq = seq.into();
    forged.head.time_ns = u64::MAX.into();
    let mut appended = image;
    insight.put_record(&mut appended, &forged, Some(&node));
    let device = Arc::new(FaultyDevice::from_image(appended, 0));
    let first = Store::open_as(device, &passphrase, &options()).unwrap();
    let refused = first.refused_record().unwrap();
    let revoked = Refusal::Author(blocktree_engine::crypto::CertificateError::Revoked);
    assert_eq!((refused.seq, refused.why), (seq + 1, revoked));
}

/// A writer of one directory: what it does there counts, and what its records do elsewhere does not, whatever they say.
pub(crate) fn a_writer_gone_bad(seed: u64) {
    let (reader, writer) = (Principal::generate(), Principal::generate());
    let (device, store, [shared, private]) = store(&reader);
    let rights = Rights(Rights::READ.0 | Rights::WRITE.0);
    let (subject, not_before, expires) = (writer.public(), 0, u64::MAX);
    store.issue_writecap(None, &Grant { subject, block: shared, rights, not_before, expires }).unwrap();
    store.share(&store.block(shared).unwrap().unwrap(), &subject, u64::MAX, true).unwrap();
    store.grant_access(&subject, false).unwrap();
    store.close().unwrap();
    drop(store);
    let credential = Credential::Principal { holder: &writer, root: None };
    let store = Store::open_as(device.clone(), &credential, &options()).unwrap();
    assert_eq!((store.role(), store.is_read_only()), (Role::Writer, false));
    let fs = Fs::mount(store.clone(), MountOptions::default()).unwrap();
    let report = write_file(&fs, Fs::ROOT, "report", &[5; 3 * SECTOR]);
    // What has a name elsewhere too is not for it to change.
    let deeper = fs.lookup(Fs::ROOT, b"deeper").unwrap().ino;
    let both = fs.lookup(deeper, b"named twice").unwrap().ino;
    assert_eq!(fs.write(both, 0, b"mine", KEEP).unwrap_err().errno(), 13);
    fs.syncfs().unwrap();
    let image = device.image();
    drop((fs, store));

    let insight = Insight::of(&image);
    let last = insight.records.last().unwrap().clone();
    let hidden = |image: &Image| {
        let device = Arc::new(FaultyDevice::from_image(image.clone(), 0));
        let store = Store::open(device, super::victim::PASSPHRASE, &options()).unwrap();
        let is_refused = store.refused_record().is_some();
        let fs = Fs::mount(store, MountOptions::default()).unwrap();
        let directory = fs.lookup(Fs::ROOT, b"privat").unwrap();
        let mut names = Vec::new();
        fs.readdir(directory.ino, 0, &mut |entry| {
            names.push(entry.name.to_vec());
            true
        })
        .unwrap();
        let file = fs.lookup(directory.ino, b"hidden letter").unwrap();
        let mut bytes = [0; 100];
        let length = fs.read(file.ino, 0, &mut bytes).unwrap();
        assert_eq!(&bytes[..length], PRIVATE_SECRET);
        assert_eq!(fs.getxattr(directory.ino, b"user.hidden").unwrap(), PRIVATE_SECRET);
        write_file(&fs, directory.ino, "goes on", b"hello");
        fs.unmount().unwrap();
        let other = fs.lookup(Fs::ROOT, b"at the top").unwrap();
        let mtimes =
            [directory, file, other].map(|stat| (stat.ino, stat.mode(), stat.uid, stat.nlink, stat.mtime));
        (is_refused, names, mtimes)
    };
    let truth = hidden(&image);
    assert!(!truth.0);
    let forge = |body: Vec<u8>| {
        let mut image = image.clone();
        let mut record = last.clone();
        record.head.sectors = ((224 + body.len()).div_ceil(SECTOR) as u32).into();
        record.body = body;
        insight.put_record(&mut image, &record, Some(&writer));
        image
    };
    let moved = |kind: ItemKind, from: BlockId, to: BlockId| {
        edit_body(&last.body, |mut key, value| {
            if key.kind == kind && key.block == from {
                key.block = to;
            }
            Some((key, value))
        })
    };
    let entry = blocktree_vfs::layout::ITEM_ENTRY;
    let named = edit_body(&last.body, |key, mut value| {
        if key.kind == entry {
            value[2..10].copy_from_slice(&private.to_le_bytes());
        }
        Some((key, value))
    });
    let homed = edit_body(&last.body, |key, mut value| {
        if key.kind == ItemKind::HEADER && key.block == report {
            value[72..80].copy_from_slice(&private.to_le_bytes());
        }
        Some((key, value))
    });
    let mut deleted = last.body.clone();
    encode_change(&mut deleted, &Change::Delete(Key::new(private, ItemKind::HEADER, 0)));
    let bodies = [
        moved(entry, shared, private),
        moved(ItemKind::HEADER, shared, private),
        moved(ItemKind::HEADER, report, private),
        moved(ItemKind::EXTENT, report, private),
        named,
        homed,
        deleted,
    ];
    for (index, body) in bodies.into_iter().enumerate() {
        let found = hidden(&forge(body));
        assert_eq!(found, (true, truth.1.clone(), truth.2), "forgery {index}");
    }
    let mut rng = SplitMix64(seed);
    for round in 0..150 {
        let body = if rng.one_in(2) {
            let mut body = last.body.clone();
            rng.damage(&mut body);
            body
        } else {
            edit_body(&last.body, |key, mut value| {
                let mut place = KeyBytes::from(key);
                match rng.below(6) {
                    0 => rng.damage(place.as_mut_bytes()),
                    1 => rng.damage(&mut value),
                    2 => return None,
                    _ => {}
                }
                Some((Key::from(&place), value))
            })
        };
        let found = hidden(&forge(body));
        assert_eq!((found.1, found.2), (truth.1.clone(), truth.2), "seed {seed}, round {round}");
    }
}
