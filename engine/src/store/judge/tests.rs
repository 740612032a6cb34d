mod anchored;
mod expired;
mod forged;
mod items;
mod refused;
mod sectors;

use std::sync::Arc;

use zerocopy::IntoBytes;

use self::forged::Forged;
use super::*;
use crate::crypto::{KdfCost, Principal, Rights};
use crate::device::{MemoryDevice, SplitMix64, Write};
use crate::format::{
    DeadBytes, JournalBytes, JournalPart, KeyBytes, Layout, SharedBytes, encode_change, encode_journal_head,
};
use crate::limits::SECTOR_BYTES;
use crate::store::journal::LIFE;
use crate::store::log::{RecordFields, seal_record};
use crate::store::transaction::Reclaim;
use crate::store::{Block, CheckOptions, CreateOptions, Credential, Grant, OpenOptions, Seq, Store, check};

const PASSPHRASE: &[u8] = b"pass";
const SECTOR: u64 = SECTOR_BYTES as u64;
const ENTRY: ItemKind = ItemKind::FIRST_FREE;
const SECTORS: u64 = 64 * 256;

/// A store with a directory that `writer` may write, and another that it may not.
struct World {
    device: Arc<MemoryDevice>,
    writer: Principal,
    serial: u64,
    /// The writer's directory, one in it, and a file there; the other directory and a file in it.
    top: BlockId,
    inner: BlockId,
    file: BlockId,
    other: BlockId,
    secret: BlockId,
    /// Was made and destroyed.
    gone: BlockId,
}

fn options() -> OpenOptions {
    OpenOptions { background: false, ..OpenOptions::default() }
}

fn apply(store: &Store, fill: impl FnOnce(&mut crate::Transaction)) -> Seq {
    let mut transaction = store.transaction();
    fill(&mut transaction);
    transaction.apply().unwrap()
}

/// A block with a name in a directory.
fn make(store: &Store, directory: &Block, data: &[u8]) -> Block {
    let mut transaction = store.transaction();
    let block = transaction.create_in(directory.id(), b"attributes");
    transaction.put(directory, ENTRY, block.id(), &block.id().to_le_bytes(), &block.wrap_for(directory));
    transaction.write(&block, 0, data).unwrap();
    transaction.apply().unwrap();
    block
}

fn remove(store: &Store, directory: &Block, block: &Block) {
    apply(store, |transaction| {
        transaction.delete(directory, ENTRY, block.id());
        transaction.destroy(block);
    });
}

impl World {
    fn new() -> Self {
        Self::with_right(0, u64::MAX)
    }

    /// The writer may write from one time to another, in seconds.
    fn with_right(not_before: u64, expires: u64) -> Self {
        let device = Arc::new(MemoryDevice::new(SECTORS));
        let create = CreateOptions { capacity_sectors: SECTORS, kdf: KdfCost::TRIVIAL };
        let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options()).unwrap();
        let mut transaction = store.transaction();
        let root = transaction.create(b"root");
        transaction.apply().unwrap();
        let [top, other] = [b"top", b"out"].map(|data| make(&store, &root, data));
        let inner = make(&store, &top, b"");
        let file = make(&store, &inner, &[7; SECTOR_BYTES]);
        store.sync(store.newest()).unwrap();
        apply(&store, |transaction| transaction.write(&file, SECTOR, &[7; 2 * SECTOR_BYTES]).unwrap());
        let secret = make(&store, &other, &[9; 3 * SECTOR_BYTES]);
        let gone = make(&store, &other, b"");
        remove(&store, &other, &gone);
        // Sectors that one inside and one outside have in common.
        let clone = make(&store, &other, b"");
        apply(&store, |transaction| transaction.clone_range(&file, 0, &clone, 1, 1).unwrap());
        let writer = Principal::generate();
        let rights = Rights(Rights::READ.0 | Rights::WRITE.0);
        let grant = Grant { subject: writer.public(), block: top.id(), rights, not_before, expires };
        let serial = store.issue_writecap(None, &grant).unwrap();
        store.share(&top, &writer.public(), u64::MAX, true).unwrap();
        store.grant_access(&writer.public(), false).unwrap();
        store.snapshot_create("before").unwrap();
        store.close().unwrap();
        let [top, inner, file, other, secret, gone] =
            [top, inner, file, other, secret, gone].map(|block| block.id());
        Self { device, writer, serial, top, inner, file, other, secret, gone }
    }

    fn open(&self) -> Store {
        Store::open(self.device.clone(), PASSPHRASE, &options()).unwrap()
    }

    fn open_as_writer(&self) -> Store {
        let credential = Credential::Principal { holder: &self.writer, root: None };
        let store = Store::open_as(self.device.clone(), &credential, &options()).unwrap();
        assert_eq!((store.writes_below(), store.is_read_only()), (Some(&[self.top][..]), false));
        store
    }

    /// What the writer opens on its way down.
    fn opened(&self, store: &Store) -> [Block; 3] {
        let serial = store.own_readcaps()[0].0;
        let top = store.shared_block(serial).unwrap().unwrap();
        let inner = child(store, &top, self.inner);
        let file = child(store, &inner, self.file);
        [top, inner, file]
    }

    fn assert_clean(&self) {
        let report =
            check(self.device.clone(), PASSPHRASE, &CheckOptions::default(), &mut |_, _| {}).unwrap();
        assert_eq!(report.problems, []);
    }
}

fn child(store: &Store, directory: &Block, id: BlockId) -> Block {
    let entry = store.get(directory, ENTRY, id).unwrap().unwrap();
    store.block_in(directory, id, entry.secret[..].try_into().unwrap()).unwrap().unwrap()
}

fn content(store: &Store, id: BlockId, sectors: u64) -> Vec<u8> {
    let block = store.block(id).unwrap().unwrap();
    let mut bytes = vec![0; (sectors * SECTOR) as usize];
    store.read(&block, 0, &mut bytes).unwrap();
    bytes
}

#[test]
fn what_a_writer_does_below_its_directory_counts() {
    let world = World::new();
    let store = world.open_as_writer();
    assert_eq!(store.role(), crate::Role::Writer);
    let [top, inner, file] = world.opened(&store);
    let new = make(&store, &inner, &[1; 2 * SECTOR_BYTES]);
    apply(&store, |transaction| transaction.write(&file, SECTOR, &[2; SECTOR_BYTES]).unwrap());
    store.sync(store.newest()).unwrap();
    apply(&store, |transaction| transaction.clone_range(&new, 0, &file, 4, 2).unwrap());
    apply(&store, |transaction| transaction.clone_range(&new, 0, &file, 7, 1).unwrap());
    store.close().unwrap();
    drop((top, inner, file, new));

    // Once more, behind its own records.
    let store = world.open_as_writer();
    let [top, inner, file] = world.opened(&store);
    let late = make(&store, &top, &[3; 20]);
    let both = make(&store, &inner, &[3; 20]);
    remove(&store, &inner, &both);
    apply(&store, |transaction| transaction.set_attributes_and_home(&file, b"moved", top.id()));
    apply(&store, |transaction| transaction.delete(&inner, ENTRY, file.id()));
    store.close().unwrap();
    let late = late.id();
    drop((store, top, inner, file, both));

    world.assert_clean();
    let store = world.open();
    assert_eq!(store.refused_record(), None);
    let bytes = content(&store, world.file, 8);
    let first = |sector: usize| bytes[sector * SECTOR_BYTES];
    assert_eq!([0, 1, 2, 4, 5, 7].map(first), [7, 2, 7, 1, 1, 1]);
    assert_eq!(content(&store, late, 1)[0], 3);
    assert_eq!(store.home(world.file).unwrap(), Some(world.top));
    store.close().unwrap();
    world.assert_clean();
}

/// A writer refuses to itself what others would refuse to it, and goes on.
#[test]
fn a_writer_is_told_what_is_not_its_own() {
    let world = World::new();
    let store = world.open_as_writer();
    let [top, inner, file] = world.opened(&store);
    let fails = |fill: &dyn Fn(&mut crate::Transaction)| {
        let mut transaction = store.transaction();
        fill(&mut transaction);
        let error = transaction.apply().unwrap_err();
        assert!(matches!(error, Error::Outside | Error::OwnersOnly), "{error}");
    };
    fails(&|transaction| drop(transaction.create_in(world.other, b"")));
    fails(&|transaction| drop(transaction.create(b"")));
    fails(&|transaction| transaction.set_attributes_and_home(&file, b"", world.other));
    fails(&|transaction| transaction.set_attributes_and_home(&top, b"", inner.id()));
    assert!(matches!(store.snapshot_create("mine"), Err(crate::SnapshotError::Store(_))));
    assert!(!store.snapshot_delete("before").unwrap(), "it has no name for it");
    assert!(store.share(&inner, &world.writer.public(), u64::MAX, false).is_err());
    assert!(store.remove_readcap(store.own_readcaps()[0].0).is_err());
    assert!(matches!(store.block(world.secret), Err(Error::NoKey)));
    make(&store, &inner, b"still writes");
    store.close().unwrap();
    world.assert_clean();
}

#[test]
fn random_work_below_a_directory_counts() {
    let seed = std::env::var("BLOCKTREE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in seed..seed + 6 {
        println!("seed {seed}");
        let (world, mut rng) = (World::new(), SplitMix64(seed));
        let untouched = { content(&world.open(), world.secret, 3) };
        for life in 0..4 {
            let store = world.open_as_writer();
            let [top, inner, file] = world.opened(&store);
            let directories = [top, inner];
            let mut files: Vec<(Block, Block)> = vec![(directories[1].clone(), file)];
            for _ in 0..40 {
                let (directory, file) = files[rng.below(files.len() as u64) as usize].clone();
                let (from, sectors) = (rng.below(30), 1 + rng.below(40));
                match rng.below(8) {
                    0 => {
                        let directory = directories[rng.below(2) as usize].clone();
                        let data = vec![5; (sectors * SECTOR) as usize];
                        files.push((directory.clone(), make(&store, &directory, &data)));
                    }
                    1 => drop(apply(&store, |transaction| {
                        transaction.punch(&file, from, from + sectors).unwrap();
                    })),
                    2 => drop(apply(&store, |transaction| transaction.punch(&file, from, u64::MAX).unwrap())),
                    3 | 4 => {
                        let (_, target) = &files[rng.below(files.len() as u64) as usize];
                        let to = from + sectors + rng.below(30);
                        apply(&store, |transaction| {
                            transaction.clone_range(&file, from, target, to, sectors).unwrap();
                        });
                    }
                    5 if files.len() > 1 && file.id() != world.file => {
                        files.retain(|(_, other)| other.id() != file.id());
                        remove(&store, &directory, &file);
                    }
                    6 => store.sync(store.newest()).unwrap(),
                    _ => drop(apply(&store, |transaction| {
                        let data = vec![rng.below(256) as u8; (sectors * SECTOR) as usize];
                        transaction.write(&file, from * SECTOR + rng.below(2) * 100, &data).unwrap();
                    })),
                }
            }
            // In between, sometimes, the owner takes over.
            store.close().unwrap();
            drop((store, directories, files));
            if life == 1 {
                let store = world.open();
                assert_eq!(store.refused_record(), None);
                store.snapshot_create("between").unwrap();
                store.close().unwrap();
            }
        }
        world.assert_clean();
        let store = world.open();
        assert_eq!(store.refused_record(), None, "seed {seed}");
        assert_eq!(content(&store, world.secret, 3), untouched);
        store.snapshot_delete("before").unwrap();
        store.reclaim().unwrap();
        store.close().unwrap();
        world.assert_clean();
    }
}

/// Nobody but the owner empties the log: when it is full, a writer is told, and all that it was told was taken is there.
#[test]
fn a_writer_stops_when_the_log_is_full() {
    let world = World::new();
    let store = world.open_as_writer();
    let [_, inner, file] = world.opened(&store);
    let mut written = 0;
    let error = loop {
        let mut transaction = store.transaction();
        transaction.put(&inner, ItemKind(17), written, &[], &[1; 3000]);
        match transaction.apply() {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        if written % 64 == 0 {
            store.sync(store.newest()).unwrap();
        }
    };
    assert!(matches!(error, Error::LogFull) && written > 100, "{error}, {written}");
    store.close().unwrap();
    drop((store, inner, file));
    let store = world.open();
    let inner = store.block(world.inner).unwrap().unwrap();
    assert_eq!(store.scan(&inner, ItemKind(17), 0, usize::MAX / 2).unwrap().len() as u64, written);
    store.close().unwrap();
    drop((store, inner));
    let store = world.open_as_writer();
    let [_, inner, _] = world.opened(&store);
    make(&store, &inner, b"there is room again");
    store.close().unwrap();
    world.assert_clean();
}

/// What a writer notes is read by the owner and by itself, and by no other writer; and it is about its own blocks.
#[test]
fn a_writer_notes_what_it_does_to_its_own() {
    let world = World::new();
    let store = world.open();
    let seq = apply(&store, |transaction| drop(transaction.create_journal(b"")));
    store.sync(seq).unwrap();
    apply(&store, |transaction| transaction.note(b"by the owner", &[]));
    store.close().unwrap();
    drop(store);

    let store = world.open_as_writer();
    let opened = world.opened(&store);
    let [top, inner, file] = [world.top, world.inner, world.file];
    let notes = |store: &Store| {
        let notes = store.notes_since(Seq(0), 100).unwrap().notes;
        notes
            .into_iter()
            .map(|note| (note.bytes.to_vec(), note.blocks.map(|ids| ids.to_vec())))
            .collect::<Vec<_>>()
    };
    apply(&store, |transaction| transaction.note(b"first", &[top, file]));
    store.sync(store.newest()).unwrap();
    let last = apply(&store, |transaction| {
        transaction.note(b"second", &[file]);
        transaction.note(b"third", &[inner]);
    });
    // What is nobody's any more is not noted.
    apply(&store, |transaction| transaction.note(b"fourth", &[world.gone]));
    store.sync(store.newest()).unwrap();
    let shown = |text: &str, ids: &[BlockId]| (text.as_bytes().to_vec(), Some(ids.to_vec()));
    let mut both = vec![file, inner];
    both.sort_unstable();
    let mut own = vec![top, file];
    own.sort_unstable();
    let expected = [shown("first", &own), shown("second", &both), shown("third", &both)];
    assert_eq!(notes(&store), expected);

    // The journal's next item, as it should be, and then with something wrong about it.
    let journal = store.journal().unwrap().unwrap();
    let ends = { store.core.sealer.lock().journal.newest() };
    assert_eq!(ends.0, last.0);
    let (readcap, author) = (store.own_readcaps()[0].0, world.writer.public().signing);
    let item = |head: &JournalBytes, blocks: &[BlockId]| {
        let mut value = Vec::new();
        let part = JournalPart { readcap, blocks: blocks.to_vec() };
        encode_journal_head(&mut value, head, Some(&part));
        [value, vec![0; 40]].concat()
    };
    let bytes = (size_of::<KeyBytes>() + 2 + size_of::<JournalBytes>() + JournalPart::bytes(1) + 40) as u64;
    let head = JournalBytes { author, previous: ends.0.into(), position: (ends.1 + bytes).into() };
    let at = |offset| Key::new(journal, ItemKind::JOURNAL, offset);
    let mut plain = Vec::new();
    encode_journal_head(&mut plain, &head, None);
    let verdict = |key: Key, value: &[u8]| {
        let core = &store.core;
        let bounds = core.bounds.clone().unwrap();
        let forged = Forged::default().put(key, value);
        let (seq, next_block) = (core.layers.read().sealed_seq + 1, bounds.next_block);
        let claims = Claims { seq, next_block, time_ns: 0, body: &forged.body };
        match judge(core, &bounds, &claims) {
            Ok(_) => None,
            Err(Judgement::Refused(why)) => Some(why),
            Err(Judgement::Unknown(error)) => panic!("{error}"),
        }
    };
    assert_eq!(verdict(at(last.0 + 1), &item(&head, &[file])), None);
    let wrong = [
        (at(last.0 + 1), item(&head, &[world.secret])),
        (at(last.0 + 1), item(&head, &[world.gone])),
        (at(last.0 + 1), item(&head, &[Store::ROOT])),
        (at(last.0 + 1), item(&JournalBytes { author: [1; 32], ..head }, &[file])),
        (at(last.0 + 1), item(&JournalBytes { previous: 0.into(), ..head }, &[file])),
        (at(last.0 + 1), item(&JournalBytes { position: ends.1.into(), ..head }, &[file])),
        (at(last.0 + 1), plain),
        (at(last.0 + 1), vec![0; 10]),
        (at(last.0), item(&head, &[file])),
        (at(1), item(&head, &[file])),
        (at((last.0 / LIFE + 2) * LIFE), item(&head, &[file])),
        (Key::new(file, ItemKind::JOURNAL, last.0 + 1), item(&head, &[file])),
    ];
    for (index, (key, value)) in wrong.iter().enumerate() {
        assert!(verdict(*key, value).is_some(), "{index}");
    }
    let first = Forged::default().delete(at(last.0));
    let claims = Claims {
        seq: 0,
        next_block: store.core.bounds.as_ref().unwrap().next_block,
        time_ns: 0,
        body: &first.body,
    };
    assert!(
        judge(&store.core, store.core.bounds.as_ref().unwrap(), &claims).is_err(),
        "what was noted stays"
    );
    drop(opened);
    store.close().unwrap();
    drop(store);

    let store = world.open();
    assert_eq!(store.refused_record(), None);
    let mut all = vec![(b"by the owner".to_vec(), None)];
    all.extend(expected);
    assert_eq!(notes(&store), all);
    apply(&store, |transaction| transaction.note(b"after it", &[]));
    store.close().unwrap();
    drop(store);
    world.assert_clean();
}
