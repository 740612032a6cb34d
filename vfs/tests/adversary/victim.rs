//! The store that is attacked, what its owner left in it, and what the owner sees after an attack.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use blocktree_engine::anchor::{Anchor, AnchorError, Anchored};
use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{FaultyDevice, Image, SplitMix64, Survivors};
use blocktree_engine::{CheckOptions, CreateOptions, OpenOptions, Store, check};
use blocktree_vfs::{
    Caller, FileKind, Fs, Ino, MountOptions, SetAttributes, SetXattrFlags, Stat, Time, Whence, WriteFlags,
};

pub(crate) const PASSPHRASE: &[u8] = b"passphrase";
pub(crate) const SECTORS: u64 = 8192;
pub(crate) const SECTOR: usize = 4096;
const OWNER: Caller = Caller { uid: 0, gid: 0, pid: 1, umask: 0 };
pub(crate) const SNAPSHOT: &str = "snapshot";

/// What the owner's machine remembers.
#[derive(Debug, Default)]
pub(crate) struct Machine(Mutex<Option<Anchored>>);

impl Anchor for Machine {
    fn place(&self, _: &[u8; 16]) -> String {
        "machine".into()
    }

    fn read(&self, _: &[u8; 16]) -> Result<Option<Anchored>, AnchorError> {
        Ok(*self.0.lock().unwrap())
    }

    fn write(&self, anchored: &Anchored) -> Result<(), AnchorError> {
        *self.0.lock().unwrap() = Some(*anchored);
        Ok(())
    }
}

/// All that a reader can learn of one name. `None`: it cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    stat: Option<Stat>,
    /// Sector by sector, and which of them are holes.
    bytes: Vec<Option<Vec<u8>>>,
    holes: Option<Vec<u64>>,
    target: Option<Vec<u8>>,
    attributes: Option<Vec<(Vec<u8>, Vec<u8>)>>,
    /// A directory's names.
    names: Option<Vec<Vec<u8>>>,
}

/// A tree as it is shown, by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree(BTreeMap<Vec<u8>, Shown>);

/// A store with a past, and a fork of it.
pub(crate) struct Victim {
    /// As it is, and the anchor that goes with it.
    pub(crate) image: Image,
    machine: Arc<Machine>,
    tree: Tree,
    snapshot: Tree,
    /// As it was after each record since the anchor was told, but for the newest.
    tails: Vec<Tree>,
    /// Older states, oldest first, and another future of the oldest.
    pub(crate) past: Vec<Image>,
    pub(crate) fork: Image,
    /// Another store of the same owner, with the same passphrase.
    pub(crate) other: Image,
}

/// What came of an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// The store does not open.
    Refused,
    /// Some things cannot be read; all that can is right.
    Noticed,
    /// As if the last records had not been written, those that the anchor does not know: looks like a crash.
    CutTail,
    /// Everything is as it was.
    Harmless,
}

fn options(machine: Option<&Arc<Machine>>) -> OpenOptions {
    OpenOptions {
        background: false,
        cache_bytes: 1 << 20,
        anchor: machine.map(|machine| machine.clone() as _),
        anchor_interval: std::time::Duration::ZERO,
        ..OpenOptions::default()
    }
}

fn clock() -> Time {
    static NOW: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    Time::new(1_700_000_000, NOW.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 1000 * 1_000_000)
}

fn mount(store: Store, read_only: bool) -> Option<Fs> {
    let options = MountOptions { read_only, clock: Some(clock), ..MountOptions::default() };
    Fs::mount(store, options).ok()
}

pub(crate) fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    (0..bytes as u64)
        .map(|at| (at.wrapping_mul(seed | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

/// Short words for what the owner does.
struct Owner {
    fs: Fs,
}

impl Owner {
    fn find(&self, path: &str) -> Ino {
        path.split('/').fold(Fs::ROOT, |parent, name| self.fs.lookup(parent, name.as_bytes()).unwrap().ino)
    }

    fn file(&self, parent: Ino, name: &str, bytes: &[u8]) -> Ino {
        let ino = self.fs.create(&OWNER, parent, name.as_bytes(), 0o644).unwrap().ino;
        self.fs.release(ino, None);
        self.write(ino, 0, bytes);
        ino
    }

    fn write(&self, ino: Ino, offset: u64, bytes: &[u8]) {
        assert_eq!(self.fs.write(ino, offset, bytes, WriteFlags::default()).unwrap(), bytes.len());
    }

    fn set(&self, ino: Ino, changes: SetAttributes) {
        self.fs.setattr(&OWNER, ino, &changes).unwrap();
    }

    fn sync(&self) {
        self.fs.syncfs().unwrap();
    }

    fn first_state(&self) {
        let root = Fs::ROOT;
        let a = self.file(root, "a", &pattern(1, 40 * SECTOR));
        let b = self.file(root, "b", &pattern(2, 40 * SECTOR));
        self.set(b, SetAttributes { permissions: Some(0o600), uid: Some(7), ..SetAttributes::default() });
        let program = self.file(root, "program", b"#!/bin/sh\n");
        self.set(program, SetAttributes { permissions: Some(0o4755), ..SetAttributes::default() });
        let holes = self.file(root, "holes", &pattern(3, SECTOR));
        self.write(holes, 9 * SECTOR as u64, &pattern(4, 3 * SECTOR));
        let folder = self.fs.mkdir(&OWNER, root, b"folder", 0o755).unwrap().ino;
        self.file(folder, "x", b"the x of the folder");
        self.file(folder, "y", b"the y of the folder");
        self.fs.link(a, folder, b"also a").unwrap();
        self.fs.symlink(&OWNER, folder, b"link", b"/where/it/leads").unwrap();
        self.fs.setxattr(b, b"user.note", b"keep", SetXattrFlags::default()).unwrap();
        let many = self.fs.mkdir(&OWNER, root, b"many", 0o700).unwrap().ino;
        for number in 0..24 {
            let ino = self.file(many, &number.to_string(), &pattern(number + 10, 100));
            // Enough of them that the index has inner nodes.
            let value = pattern(number, 3000);
            self.fs.setxattr(ino, b"user.large", &value, SetXattrFlags::default()).unwrap();
        }
        self.sync();
        self.fs.store().checkpoint().unwrap();
    }

    fn without_snapshot(&self) {
        self.write(self.find("a"), 0, &pattern(5, 40 * SECTOR));
        self.fs.unlink(self.find("many"), b"3").unwrap();
        self.sync();
        self.fs.store().checkpoint().unwrap();
        self.last_record();
    }

    fn second_state(&self) {
        self.write(self.find("a"), 0, &pattern(5, 40 * SECTOR));
        self.set(self.find("b"), SetAttributes { permissions: Some(0o640), ..SetAttributes::default() });
        self.fs.unlink(self.find("many"), b"3").unwrap();
        self.sync();
        self.fs.store().snapshot_create(SNAPSHOT).unwrap();
    }

    /// Calls `on_record` with the checkpoint that the anchor knows, and after each record since.
    fn third_state(&self, mut on_record: impl FnMut()) {
        self.write(self.find("a"), 5 * SECTOR as u64, &pattern(6, 10 * SECTOR));
        self.file(Fs::ROOT, "new", &pattern(7, 3 * SECTOR));
        self.sync();
        self.fs.store().checkpoint().unwrap();
        on_record();
        for number in 0..4 {
            self.file(Fs::ROOT, &format!("in the log {number}"), &pattern(number + 50, 2 * SECTOR));
            self.sync();
            on_record();
        }
    }

    fn last_record(&self) {
        self.write(self.find("b"), 3 * SECTOR as u64, &pattern(8, SECTOR));
        self.sync();
    }
}

fn create(machine: &Arc<Machine>) -> (Arc<FaultyDevice>, Owner) {
    let (device, store) = create_store(machine);
    (device, Owner { fs: mount(store, false).unwrap() })
}

/// A store with nothing but its root directory.
pub(crate) fn create_store(machine: &Arc<Machine>) -> (Arc<FaultyDevice>, Store) {
    let device = Arc::new(FaultyDevice::new(SECTORS, 0));
    let create = CreateOptions { capacity_sectors: SECTORS, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options(Some(machine))).unwrap();
    Fs::format(&store, 0, 0).unwrap();
    (device, store)
}

impl Victim {
    pub(crate) fn new() -> Self {
        let machine = Arc::new(Machine::default());
        let (device, owner) = create(&machine);
        owner.first_state();
        let mut past = vec![device.image()];
        owner.second_state();
        past.push(device.image());
        let mut tails = Vec::new();
        owner.third_state(|| tails.push(device.image()));
        past.push(device.image());
        owner.last_record();
        let image = device.image();

        let forked = Arc::new(FaultyDevice::from_image(past[0].clone(), 0));
        let store = Store::open(forked.clone(), PASSPHRASE, &options(None)).unwrap();
        let fork = Owner { fs: mount(store, false).unwrap() };
        fork.write(fork.find("b"), 0, &pattern(9, 40 * SECTOR));
        fork.sync();
        fork.third_state(|| {});
        fork.last_record();

        let (other, other_owner) = create(&Arc::default());
        other_owner.first_state();
        other_owner.second_state();
        other_owner.third_state(|| {});

        let seen = |image: &Image, snapshot| show(image, &machine, snapshot).expect("it opens");
        Self {
            tree: seen(&image, None),
            snapshot: seen(&image, Some(SNAPSHOT)),
            tails: tails.iter().map(|image| seen(image, None)).collect(),
            image,
            past,
            fork: forked.image(),
            other: other.image(),
            machine,
        }
    }

    /// What the owner sees of an image; fails where anything but the truth is shown.
    pub(crate) fn judge(&self, image: &Image) -> Result<Outcome, String> {
        let newest = match show(image, &self.machine, None) {
            None => Outcome::Refused,
            Some(tree) => match tree.compare(&self.tree) {
                Err(_) if self.tails.iter().any(|tail| tree.compare(tail).is_ok()) => Outcome::CutTail,
                result => result?,
            },
        };
        let snapshot = match show(image, &self.machine, Some(SNAPSHOT)) {
            None => Outcome::Refused,
            Some(tree) => tree.compare(&self.snapshot)?,
        };
        // What is worst for the attacker counts.
        Ok(newest.min(snapshot))
    }

    /// As [`Victim::judge`], on a machine that never saw the store.
    pub(crate) fn judge_without_anchor(&self, image: &Image) -> Result<Outcome, String> {
        let stranger = Arc::new(Machine::default());
        match show(image, &stranger, None) {
            None => Ok(Outcome::Refused),
            Some(tree) => tree.compare(&self.tree),
        }
    }
}

/// The tree in an image, as far as it can be read; `None` where the store does not open.
fn show(image: &Image, machine: &Arc<Machine>, snapshot: Option<&str>) -> Option<Tree> {
    let device = Arc::new(FaultyDevice::from_image(image.clone(), 0));
    let options =
        OpenOptions { read_only: true, snapshot: snapshot.map(str::to_owned), ..options(Some(machine)) };
    let store = Store::open(device, PASSPHRASE, &options).ok()?;
    let fs = mount(store, true)?;
    let mut tree = BTreeMap::new();
    let mut folders = vec![(Vec::new(), Fs::ROOT)];
    while let Some((path, ino)) = folders.pop() {
        let shown = show_one(&fs, ino);
        for name in shown.names.iter().flatten() {
            let path = [&path[..], b"/", name].concat();
            match fs.lookup(ino, name) {
                Ok(stat) if stat.kind == FileKind::Directory => folders.push((path, stat.ino)),
                Ok(stat) => drop(tree.insert(path, show_one(&fs, stat.ino))),
                Err(_) => drop(tree.insert(path, Shown::NOTHING)),
            }
        }
        tree.insert(path, shown);
    }
    Some(Tree(tree))
}

fn show_one(fs: &Fs, ino: Ino) -> Shown {
    let Ok(stat) = fs.getattr(ino) else { return Shown::NOTHING };
    let mut shown = Shown { stat: Some(stat), ..Shown::NOTHING };
    shown.attributes = attributes(fs, ino);
    match stat.kind {
        FileKind::Directory => {
            let mut names = Vec::new();
            let read = fs.readdir(ino, 0, &mut |entry| {
                names.push(entry.name.to_vec());
                true
            });
            names.retain(|name| name != b"." && name != b"..");
            shown.names = read.ok().map(|()| names);
        }
        FileKind::Symlink => shown.target = fs.readlink(ino).ok(),
        _ => {
            for at in (0..stat.size).step_by(SECTOR) {
                let mut bytes = vec![0; SECTOR];
                let read = fs.read(ino, at, &mut bytes);
                shown.bytes.push(read.ok().map(|length| bytes[..length].to_vec()));
            }
            shown.holes = holes(fs, ino, stat.size);
        }
    }
    shown
}

fn attributes(fs: &Fs, ino: Ino) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let names = fs.listxattr(ino, true).ok()?;
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| Some((name.to_vec(), fs.getxattr(ino, name).ok()?))).collect()
}

/// Where holes and data begin, in turn.
fn holes(fs: &Fs, ino: Ino, size: u64) -> Option<Vec<u64>> {
    let mut edges = Vec::new();
    let mut at = 0;
    while at < size {
        for whence in [Whence::Data, Whence::Hole] {
            match fs.seek(ino, at, whence) {
                Ok(edge) => at = edge,
                Err(error) if error.errno() == libc::ENXIO => return Some(edges),
                Err(_) => return None,
            }
            edges.push(at);
        }
    }
    Some(edges)
}

impl Shown {
    const NOTHING: Self =
        Self { stat: None, bytes: Vec::new(), holes: None, target: None, attributes: None, names: None };

    /// Whether all that is shown here is true, and whether all that is true is shown.
    fn compare(&self, truth: &Self) -> Result<bool, &'static str> {
        if self.stat.is_none() {
            return Ok(false);
        }
        if self.stat != truth.stat {
            return Err("attributes");
        }
        let mut is_whole = true;
        let mut part = |shown: bool, same: bool, what| match (shown, same) {
            (false, true) | (true, true) => Ok(()),
            (false, false) => {
                is_whole = false;
                Ok(())
            }
            (true, false) => Err(what),
        };
        part(self.holes.is_some(), self.holes == truth.holes, "holes")?;
        part(self.target.is_some(), self.target == truth.target, "target")?;
        part(self.attributes.is_some(), self.attributes == truth.attributes, "extended attributes")?;
        part(self.names.is_some(), self.names == truth.names, "names")?;
        if self.bytes.len() != truth.bytes.len() {
            return Err("length");
        }
        for (bytes, truth) in self.bytes.iter().zip(&truth.bytes) {
            part(bytes.is_some(), bytes == truth, "bytes")?;
        }
        Ok(is_whole)
    }
}

impl Tree {
    fn compare(&self, truth: &Self) -> Result<Outcome, String> {
        let mut is_whole = self.0.len() == truth.0.len();
        for (path, shown) in &self.0 {
            let name = || String::from_utf8_lossy(path).into_owned();
            let truth = truth.0.get(path).ok_or_else(|| format!("{} is new", name()))?;
            is_whole &= shown.compare(truth).map_err(|what| format!("{}: wrong {what}", name()))?;
        }
        Ok(if is_whole { Outcome::Harmless } else { Outcome::Noticed })
    }
}

impl Victim {
    /// Opens an image, changes it in some way of its own, and crashes.
    pub(crate) fn live_on(&self, image: Image, round: u64, rng: &mut SplitMix64) -> Image {
        let device = Arc::new(FaultyDevice::from_image(image, round));
        let store = Store::open(device.clone(), PASSPHRASE, &options(None)).unwrap();
        let owner = Owner { fs: mount(store, false).unwrap() };
        for step in 0..3 {
            owner.write(owner.find("a"), rng.below(30) * SECTOR as u64, &pattern(round, 5 * SECTOR));
            owner.file(Fs::ROOT, &format!("new in {round}, {step}, {}", rng.next_u64()), b"some text");
            if rng.one_in(2) {
                owner.sync();
            }
            if rng.one_in(3) {
                owner.fs.store().checkpoint().unwrap();
            }
        }
        device.crash(Survivors::Random(rng.next_u64()))
    }

    /// Uses an image as one does, whatever is in it.
    pub(crate) fn use_anyhow(&self, image: Image, rng: &mut SplitMix64) {
        let device = Arc::new(FaultyDevice::from_image(image, 0));
        let Ok(store) = Store::open(device, PASSPHRASE, &options(None)) else { return };
        let Some(fs) = mount(store.clone(), false) else { return };
        for name in ["a", "b", "holes", "new"] {
            let Ok(stat) = fs.lookup(Fs::ROOT, name.as_bytes()) else { continue };
            let _ = fs.write(stat.ino, rng.below(1 << 18), &[1; 9000], WriteFlags::default());
            let _ = fs.unlink(Fs::ROOT, name.as_bytes());
            fs.forget(stat.ino, 1);
        }
        if let Ok(made) = fs.create(&OWNER, Fs::ROOT, b"made later", 0o644) {
            fs.release(made.ino, None);
        }
        let _ = fs.syncfs();
        let _ = store.snapshot_delete(SNAPSHOT);
        let _ = store.reclaim();
        let _ = store.close();
    }
}

impl Victim {
    /// One without snapshots: what is repaired of it is all of it.
    pub(crate) fn plain() -> Self {
        let machine = Arc::new(Machine::default());
        let (device, owner) = create(&machine);
        owner.first_state();
        owner.without_snapshot();
        let image = device.image();
        let tree = show(&image, &machine, None).unwrap();
        let snapshot = Tree(BTreeMap::new());
        let (past, fork, other) = (Vec::new(), image.clone(), image.clone());
        Self { image, machine, tree, snapshot, tails: Vec::new(), past, fork, other }
    }

    /// Destroys these sectors, repairs, and compares what is there then; how many files are not.
    pub(crate) fn damage_and_repair(&self, sectors: &[u64]) -> usize {
        let mut image = self.image.clone();
        for sector in sectors {
            image.set_sector(*sector, [0xdb; SECTOR]);
        }
        let device = Arc::new(FaultyDevice::from_image(image, 0));
        let repair = CheckOptions { repair: true };
        check(device.clone(), PASSPHRASE, &repair, &mut |_, _| {}).unwrap();
        let store = Store::open(device.clone(), PASSPHRASE, &options(None)).unwrap();
        let findings = blocktree_vfs::repair::examine(&store, true).unwrap();
        assert!(findings.iter().all(|finding| finding.repaired), "{sectors:?}: {findings:?}");
        let again = blocktree_vfs::repair::examine(&store, false).unwrap();
        assert_eq!(again, [], "{sectors:?}: after {findings:?}");
        store.close().unwrap();
        let report = check(device.clone(), PASSPHRASE, &CheckOptions::default(), &mut |_, _| {}).unwrap();
        assert_eq!(report.problems, [], "{sectors:?}");

        let now = show(&device.image(), &Arc::default(), None).expect("it opens");
        let by_ino: BTreeMap<Ino, &Shown> =
            self.tree.0.values().filter_map(|shown| Some((shown.stat?.ino, shown))).collect();
        let mut files = std::collections::BTreeSet::new();
        for (path, shown) in &now.0 {
            let name = String::from_utf8_lossy(path);
            let stat = shown.stat.unwrap_or_else(|| panic!("{name} cannot be looked at after a repair"));
            // What was made by the repair: the root, and the folder for what has no name.
            let Some(truth) = by_ino.get(&stat.ino) else {
                assert_eq!((&*name, stat.kind), ("/lost+found", FileKind::Directory));
                continue;
            };
            let before = truth.stat.unwrap();
            assert_eq!(stat.kind, before.kind, "{name}");
            if !path.is_empty() {
                let owner = |stat: &Stat| (stat.permissions, stat.uid, stat.gid, stat.mtime);
                assert_eq!(owner(&stat), owner(&before), "{name}");
                assert!(path.starts_with(b"/lost+found/") || self.tree.0.contains_key(path), "{name} is new");
            }
            if stat.kind == FileKind::Directory {
                assert_eq!(shown.names.as_ref().map(Vec::len), Some(stat.size as usize), "{name}");
                continue;
            }
            files.insert(stat.ino);
            assert_eq!(stat.size, before.size, "{name}");
            for (bytes, truth) in shown.bytes.iter().zip(&truth.bytes) {
                assert!(bytes.is_none() || bytes == truth, "{name}: bytes that were not there");
            }
            assert!(shown.target.is_none() || shown.target == truth.target, "{name}");
        }
        let is_file = |shown: &&&Shown| shown.stat.is_some_and(|stat| stat.kind != FileKind::Directory);
        by_ino.values().filter(is_file).count() - files.len()
    }
}
