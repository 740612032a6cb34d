//! A writer of a part of a store, with a memory by which older copies are noticed.

use std::collections::HashSet;

use tempfile::TempDir;

use super::*;
use crate::OpenError;
use crate::anchor::{Anchor as _, Anchored, FileAnchor, Rollback};
use crate::device::{FaultyDevice, Image, Survivors};
use crate::store::now_ns;

/// What the writer's machine remembers.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn anchor(&self) -> FileAnchor {
        FileAnchor::at(self.0.path().join("anchor"))
    }

    fn options(&self) -> OpenOptions {
        OpenOptions { anchor: Some(Arc::new(self.anchor())), ..options() }
    }

    fn knows(&self, store: &Store) -> Anchored {
        self.anchor().read(&store.store_id()).unwrap().unwrap()
    }
}

impl World {
    fn try_open(&self, machine: &Machine) -> Result<Store, OpenError> {
        let credential = Credential::Principal { holder: &self.writer, root: None };
        Store::open_as(self.device.clone(), &credential, &machine.options())
    }

    fn rollback(&self, machine: &Machine) -> Rollback {
        match self.try_open(machine).err().expect("refused") {
            OpenError::RolledBack { what, .. } => what,
            error => panic!("{error:?}"),
        }
    }

    fn put_back(&mut self, image: &[u8]) {
        self.device = Arc::new(MemoryDevice::from_bytes(image.to_vec()));
    }

    /// Writes below the directory and closes; returns how far the store has come.
    fn go_on(&self, store: Store) -> u64 {
        let [_, inner, _] = self.opened(&store);
        make(&store, &inner, b"more");
        store.close().unwrap();
        store.info().seq
    }

    fn go_on_as_owner(&self) -> u64 {
        let store = self.open();
        let root = store.block(Store::ROOT).unwrap().unwrap();
        make(&store, &root, b"more");
        store.close().unwrap();
        store.info().seq
    }
}

#[test]
fn an_older_copy_is_refused_to_a_writer() {
    let (mut world, machine) = (World::new(), Machine::new());
    let store = world.try_open(&machine).unwrap();
    assert!(store.anchor().unwrap().first_use);
    assert_eq!(machine.knows(&store).head.seq, store.info().seq, "from the first moment on");
    world.go_on(store);
    let older = world.device.snapshot();
    let store = world.try_open(&machine).unwrap();
    let id = store.store_id();
    let newest = world.go_on(store);
    let newer = world.device.snapshot();
    assert_eq!(machine.anchor().read(&id).unwrap().unwrap().head.seq, newest);

    world.put_back(&older);
    assert!(matches!(world.rollback(&machine), Rollback::Older { anchored, .. } if anchored == newest));
    assert!(world.device.snapshot() == older, "who is refused changes nothing");
    // Another future of the older copy, as long as its records are in the log.
    while world.go_on(world.open_as_writer()) < newest {}
    assert_eq!(world.rollback(&machine), Rollback::Forked { seq: newest });

    // Whoever may write everything has gone on: the log is another one, and what was in it is taken for part of it.
    world.put_back(&newer);
    world.go_on_as_owner();
    let owned = world.device.snapshot();
    let store = world.try_open(&machine).unwrap();
    assert!(!store.anchor().unwrap().first_use);
    world.go_on(store);
    for image in [&older, &newer, &owned] {
        world.put_back(image);
        assert!(matches!(world.rollback(&machine), Rollback::Older { .. }));
    }
    // On purpose.
    let accepting = OpenOptions { accept_rollback: true, ..machine.options() };
    let credential = Credential::Principal { holder: &world.writer, root: None };
    let store = Store::open_as(world.device.clone(), &credential, &accepting).unwrap();
    assert!(store.anchor().unwrap().accepted.is_some());
    world.go_on(store);
    world.go_on(world.try_open(&machine).unwrap());
}

/// What such a memory cannot tell: whether what somebody who may write everything made of an older copy, and brought further than
/// it knows, is the same story.
#[test]
fn an_owners_fork_is_told_by_the_log_alone() {
    let (mut world, machine) = (World::new(), Machine::new());
    let common = world.device.snapshot();
    let newest = world.go_on(world.try_open(&machine).unwrap());
    world.put_back(&common);
    while world.go_on_as_owner() <= newest {
        if world.open().info().seq < newest {
            assert!(matches!(world.rollback(&machine), Rollback::Older { .. }));
        }
    }
    world.go_on(world.try_open(&machine).unwrap());
}

/// On one machine, the owner goes on from what a writer's mount remembered, and names it from then on.
#[test]
fn an_owner_and_a_writer_share_a_memory() {
    let (world, machine) = (World::new(), Machine::new());
    let open = || Store::open(world.device.clone(), PASSPHRASE, &machine.options()).unwrap();
    for _ in 0..3 {
        let store = world.try_open(&machine).unwrap();
        world.go_on(store);
        world.go_on_as_owner();
        let store = open();
        make(&store, &store.block(Store::ROOT).unwrap().unwrap(), b"by the owner");
        store.close().unwrap();
        let known = machine.knows(&store);
        assert!(known.is_named() && known.head.seq == store.info().seq);
        drop(store);
        // And is found however far the store goes.
        world.go_on_as_owner();
        drop(open());
    }
    // However often the two take turns, superblocks know of one memory.
    let named = open().core.anchoring.lock().named();
    let ids: HashSet<[u8; 8]> = named.iter().map(|named| named.id).filter(|id| *id != [0; 8]).collect();
    assert_eq!(ids.len(), 1);
}

#[test]
fn a_crash_leaves_what_a_writers_anchor_knows() {
    let (mut world, machine) = (World::new(), Machine::new());
    let credential = Credential::Principal { holder: &world.writer.clone(), root: None };
    let always = OpenOptions { anchor_interval: std::time::Duration::ZERO, ..machine.options() };
    for seed in 0..4 {
        let device = Arc::new(FaultyDevice::from_image(image(&world.device.snapshot()), seed));
        let store = Store::open_as(device.clone(), &credential, &always).unwrap();
        let [_, inner, _] = world.opened(&store);
        for _ in 0..3 {
            let block = make(&store, &inner, &[seed as u8; 3 * SECTOR_BYTES]);
            store.core.commit().unwrap();
            store.core.tell_of_record(false).unwrap();
            assert_eq!(machine.knows(&store).head.seq, store.info().seq);
            apply(&store, |transaction| transaction.write(&block, 0, b"perhaps").unwrap());
            store.core.commit().unwrap();
        }
        // The least that is left.
        let left = device.crash(Survivors::Mask(0));
        drop((store, inner));
        world.put_back(&bytes(&left));
        drop(world.try_open(&machine).unwrap());
    }
}

/// A right that ends while something is still to be sealed takes nothing from what was durable before.
#[test]
fn what_is_durable_is_told_although_more_cannot_be() {
    let expires = now_ns() / 1_000_000_000 + 1000;
    let (world, machine) = (World::with_right(0, expires), Machine::new());
    let store = world.try_open(&machine).unwrap();
    let [_, inner, file] = world.opened(&store);
    make(&store, &inner, b"in time");
    store.sync(store.newest()).unwrap();
    let durable = store.info().seq;
    assert!(machine.knows(&store).head.seq < durable, "it is told now and then");
    apply(&store, |transaction| transaction.write(&file, 0, b"late").unwrap());
    store.core.sealer.lock().time_ns = expires * 1_000_000_000;
    assert!(store.close().is_err());
    assert_eq!(machine.knows(&store).head.seq, durable);
    drop((inner, file));
    drop(store);
    let store = world.try_open(&machine).unwrap();
    assert!(store.info().seq >= durable);
}

fn image(bytes: &[u8]) -> Image {
    let mut image = Image::new(SECTORS);
    for (at, sector) in (0..).zip(bytes.as_chunks().0) {
        image.set_sector(at, *sector);
    }
    image
}

fn bytes(image: &Image) -> Vec<u8> {
    (0..image.sectors()).flat_map(|at| image.sector(at)).collect()
}
