//! Random operations against a small reference model: a tree of files with their contents. Remounts and crashes are
//! among them: after a crash, the tree is one that the model knew, and not from before the last sync.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::MemoryDevice;
use blocktree_engine::limits::SECTOR_BYTES;
use blocktree_engine::{CreateOptions, OpenOptions, Store};
use blocktree_vfs::{FallocateMode, FileKind, Fs, Ino, MountOptions, RenameFlags, WriteFlags};
use proptest::prelude::*;
use support::*;

#[derive(Debug, Clone)]
enum Operation {
    Create(usize, usize),
    Mkdir(usize, usize),
    Link(usize, usize, usize),
    Unlink(usize, usize),
    Rmdir(usize, usize),
    Rename(usize, usize, usize, usize, u8),
    Write(usize, u64, usize, u8),
    Append(usize, usize, u8),
    Truncate(usize, u64),
    Punch(usize, u64, u64),
    Collapse(usize, u64, u64),
    Insert(usize, u64, u64),
    Copy(usize, usize, u64, u64, u64),
    Fsync(usize),
    Fdatasync(usize),
    Sync,
    /// What has gathered starts on its way to the disk, and nobody waits.
    WriteBack,
    Checkpoint,
    Remount,
    /// The machine stops: nothing is closed or unmounted.
    Crash,
}

fn operation() -> impl Strategy<Value = Operation> {
    let (inode, name) = (0..12usize, 0..4usize);
    let position = prop_oneof![0..20_000u64, (0..5u64).prop_map(|sector| sector * 4096)];
    let length = prop_oneof![1..10_000u64, (1..4u64).prop_map(|sectors| sectors * 4096)];
    let (at, count) = (position.clone(), length.clone());
    prop_oneof![
        4 => (inode.clone(), name.clone()).prop_map(|(d, n)| Operation::Create(d, n)),
        3 => (inode.clone(), name.clone()).prop_map(|(d, n)| Operation::Mkdir(d, n)),
        2 => (inode.clone(), inode.clone(), name.clone()).prop_map(|(i, d, n)| Operation::Link(i, d, n)),
        2 => (inode.clone(), name.clone()).prop_map(|(d, n)| Operation::Unlink(d, n)),
        2 => (inode.clone(), name.clone()).prop_map(|(d, n)| Operation::Rmdir(d, n)),
        5 => (inode.clone(), name.clone(), inode.clone(), name, 0..3u8)
            .prop_map(|(a, b, c, d, e)| Operation::Rename(a, b, c, d, e)),
        5 => (inode.clone(), position.clone(), 1..9000usize, any::<u8>())
            .prop_map(|(a, b, c, d)| Operation::Write(a, b, c, d)),
        1 => (inode.clone(), 1..5000usize, any::<u8>()).prop_map(|(a, b, c)| Operation::Append(a, b, c)),
        2 => (inode.clone(), position.clone()).prop_map(|(a, b)| Operation::Truncate(a, b)),
        2 => (inode.clone(), position.clone(), length.clone()).prop_map(|(a, b, c)| Operation::Punch(a, b, c)),
        1 => (inode.clone(), 0..5u64, 1..3u64).prop_map(|(a, b, c)| Operation::Collapse(a, b, c)),
        1 => (inode.clone(), 0..5u64, 1..3u64).prop_map(|(a, b, c)| Operation::Insert(a, b, c)),
        2 => (inode.clone(), inode.clone(), position, at, count)
            .prop_map(|(a, b, c, d, e)| Operation::Copy(a, b, c, d, e)),
        1 => inode.clone().prop_map(Operation::Fsync),
        1 => inode.clone().prop_map(Operation::Fdatasync),
        1 => Just(Operation::Sync),
        1 => Just(Operation::WriteBack),
        1 => Just(Operation::Checkpoint),
        1 => Just(Operation::Remount),
        1 => Just(Operation::Crash),
    ]
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    File(Vec<u8>),
    Directory(BTreeMap<usize, Ino>),
}

/// The inodes that have names, in the order of their making.
#[derive(Debug, Clone, PartialEq)]
struct Model {
    nodes: BTreeMap<Ino, Node>,
}

impl Model {
    fn pick(&self, index: usize) -> Ino {
        *self.nodes.keys().nth(index % self.nodes.len()).unwrap()
    }

    fn entries(&mut self, ino: Ino) -> Result<&mut BTreeMap<usize, Ino>, i32> {
        match self.nodes.get_mut(&ino) {
            Some(Node::Directory(entries)) => Ok(entries),
            _ => Err(libc::ENOTDIR),
        }
    }

    fn file(&mut self, ino: Ino) -> Result<&mut Vec<u8>, i32> {
        match self.nodes.get_mut(&ino) {
            Some(Node::File(bytes)) => Ok(bytes),
            _ => Err(libc::EISDIR),
        }
    }

    fn is_directory(&self, ino: Ino) -> bool {
        matches!(self.nodes[&ino], Node::Directory(_))
    }

    fn names(&self, ino: Ino) -> u32 {
        let all = self.nodes.values().filter_map(|node| match node {
            Node::Directory(entries) => Some(entries.values()),
            Node::File(_) => None,
        });
        all.flatten().filter(|child| **child == ino).count() as u32
    }

    fn within(&self, ino: Ino, ancestor: Ino) -> bool {
        ino == ancestor
            || match &self.nodes[&ancestor] {
                Node::Directory(entries) => entries.values().any(|child| self.within(ino, *child)),
                Node::File(_) => false,
            }
    }

    fn collect(&mut self) {
        let gone: Vec<_> =
            self.nodes.keys().copied().filter(|ino| *ino != ROOT && self.names(*ino) == 0).collect();
        gone.iter().for_each(|ino| drop(self.nodes.remove(ino)));
    }

    fn rename(&mut self, from: Ino, name: usize, to: Ino, new_name: usize, flags: u8) -> Result<(), i32> {
        let target = self.entries(to).map(|entries| entries.get(&new_name).copied());
        let child = *self.entries(from)?.get(&name).filter(|_| target.is_ok()).ok_or(match target {
            Ok(_) => libc::ENOENT,
            Err(errno) => errno,
        })?;
        let victim = target?;
        match (flags, victim) {
            (1, Some(_)) => return Err(libc::EEXIST),
            (2, None) => return Err(libc::ENOENT),
            _ => {}
        }
        if self.is_directory(child) && self.within(to, child) {
            return Err(libc::EINVAL);
        }
        if let Some(victim) = victim {
            if victim == child {
                return Ok(());
            }
            if self.is_directory(victim) && self.within(from, victim) {
                return Err(if flags == 2 { libc::EINVAL } else { libc::ENOTEMPTY });
            }
            if flags == 2 {
                self.entries(from)?.insert(name, victim);
            } else {
                match (self.is_directory(child), self.is_directory(victim)) {
                    (true, false) => return Err(libc::ENOTDIR),
                    (false, true) => return Err(libc::EISDIR),
                    (true, true) if !self.entries(victim)?.is_empty() => return Err(libc::ENOTEMPTY),
                    _ => {}
                }
            }
        }
        if flags != 2 {
            self.entries(from)?.remove(&name);
        }
        self.entries(to)?.insert(new_name, child);
        self.collect();
        Ok(())
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn name(index: usize) -> &'static [u8] {
    NAMES[index].as_bytes()
}

/// Compares an answer with the model's.
fn same<T>(answer: Result<T, blocktree_vfs::FsError>, expected: Result<(), i32>) -> Option<T> {
    let errno = answer.as_ref().map(|_| ()).map_err(|error| error.errno());
    assert_eq!(errno, expected);
    answer.ok()
}

fn overwrite(bytes: &mut Vec<u8>, offset: usize, with: &[u8]) {
    bytes.resize(bytes.len().max(offset + with.len()), 0);
    bytes[offset..offset + with.len()].copy_from_slice(with);
}

fn apply(fs: &Fs, model: &mut Model, operation: &Operation) {
    match *operation {
        Operation::Create(directory, n) | Operation::Mkdir(directory, n) => {
            let parent = model.pick(directory);
            let expected = model.entries(parent).and_then(|entries| match entries.contains_key(&n) {
                true => Err(libc::EEXIST),
                false => Ok(()),
            });
            let is_file = matches!(operation, Operation::Create(..));
            let answer = match is_file {
                true => fs.create(&USER, parent, name(n), 0o644),
                false => fs.mkdir(&USER, parent, name(n), 0o755),
            };
            if let Some(stat) = same(answer, expected) {
                let node = if is_file { Node::File(Vec::new()) } else { Node::Directory(BTreeMap::new()) };
                model.entries(parent).unwrap().insert(n, stat.ino);
                model.nodes.insert(stat.ino, node);
                fs.forget(stat.ino, 1);
                if is_file {
                    fs.release(stat.ino, None);
                }
            }
        }
        Operation::Link(inode, directory, n) => {
            let (ino, parent) = (model.pick(inode), model.pick(directory));
            let is_directory = model.is_directory(ino);
            let expected = model.entries(parent).and_then(|entries| match entries.contains_key(&n) {
                _ if is_directory => Err(libc::EPERM),
                true => Err(libc::EEXIST),
                false => Ok(()),
            });
            if let Some(stat) = same(fs.link(ino, parent, name(n)), expected) {
                model.entries(parent).unwrap().insert(n, ino);
                fs.forget(stat.ino, 1);
            }
        }
        Operation::Unlink(directory, n) | Operation::Rmdir(directory, n) => {
            let parent = model.pick(directory);
            let rmdir = matches!(operation, Operation::Rmdir(..));
            let child =
                model.entries(parent).and_then(|entries| entries.get(&n).copied().ok_or(libc::ENOENT));
            let expected = child.and_then(|child| match (&model.nodes[&child], rmdir) {
                (Node::Directory(_), false) => Err(libc::EISDIR),
                (Node::File(_), true) => Err(libc::ENOTDIR),
                (Node::Directory(entries), true) if !entries.is_empty() => Err(libc::ENOTEMPTY),
                _ => Ok(()),
            });
            let answer = if rmdir { fs.rmdir(parent, name(n)) } else { fs.unlink(parent, name(n)) };
            if same(answer, expected).is_some() {
                model.entries(parent).unwrap().remove(&n);
                model.collect();
            }
        }
        Operation::Rename(a, b, c, d, flags) => {
            let (from, to) = (model.pick(a), model.pick(c));
            let expected = model.rename(from, b, to, d, flags);
            let flags = RenameFlags { no_replace: flags == 1, exchange: flags == 2, whiteout: None };
            same(fs.rename(from, name(b), to, name(d), flags), expected);
        }
        Operation::Write(inode, offset, length, byte) => {
            let ino = model.pick(inode);
            let bytes = vec![byte; length];
            let expected = model.file(ino).map(|held| overwrite(held, offset as usize, &bytes));
            same(fs.write(ino, offset, &bytes, WriteFlags::default()), expected);
        }
        Operation::Append(inode, length, byte) => {
            let ino = model.pick(inode);
            let bytes = vec![byte; length];
            let expected = model.file(ino).map(|held| held.extend_from_slice(&bytes));
            same(fs.append(ino, &bytes, WriteFlags::default()), expected);
        }
        Operation::Truncate(inode, size) => {
            let ino = model.pick(inode);
            let expected = model.file(ino).map(|held| held.resize(size as usize, 0));
            same(fs.truncate(ino, size), expected);
        }
        Operation::Punch(inode, offset, length) => {
            let ino = model.pick(inode);
            let expected = model.file(ino).map(|held| {
                let end = held.len().min((offset + length) as usize);
                let start = end.min(offset as usize);
                held[start..end].fill(0);
            });
            same(fs.fallocate(ino, FallocateMode::PunchHole, offset, length, KEEP), expected);
        }
        Operation::Collapse(inode, at, count) => {
            let ino = model.pick(inode);
            let (start, end) = (at as usize * 4096, (at + count) as usize * 4096);
            let expected = model.file(ino).and_then(|held| match end < held.len() {
                true => {
                    held.drain(start..end);
                    Ok(())
                }
                false => Err(libc::EINVAL),
            });
            same(fs.fallocate(ino, FallocateMode::CollapseRange, at * 4096, count * 4096, KEEP), expected);
        }
        Operation::Insert(inode, at, count) => {
            let ino = model.pick(inode);
            let start = at as usize * 4096;
            let expected = model.file(ino).and_then(|held| match start < held.len() {
                true => {
                    held.splice(start..start, std::iter::repeat_n(0, count as usize * 4096));
                    Ok(())
                }
                false => Err(libc::EINVAL),
            });
            same(fs.fallocate(ino, FallocateMode::InsertRange, at * 4096, count * 4096, KEEP), expected);
        }
        Operation::Copy(a, b, from, to, length) => {
            let (source, target) = (model.pick(a), model.pick(b));
            let bytes = model.file(source).map(|held| {
                let end = held.len().min((from + length) as usize);
                held[end.min(from as usize)..end].to_vec()
            });
            let overlaps = source == target && from < to + length && to < from + length;
            let expected = match (model.file(target), bytes) {
                (Ok(_), Ok(_)) if overlaps => Err(libc::EINVAL),
                (Ok(held), Ok(bytes)) => {
                    if !bytes.is_empty() {
                        overwrite(held, to as usize, &bytes);
                    }
                    Ok(())
                }
                _ => Err(libc::EISDIR),
            };
            same(fs.copy_file_range(source, from, target, to, length, KEEP), expected);
        }
        Operation::Fsync(inode) => fs.fsync(model.pick(inode), false).unwrap(),
        Operation::Fdatasync(inode) => fs.fsync(model.pick(inode), true).unwrap(),
        Operation::Sync => fs.syncfs().unwrap(),
        Operation::WriteBack => fs.store().write_back().unwrap(),
        Operation::Checkpoint => fs.store().checkpoint().unwrap(),
        Operation::Remount | Operation::Crash => {}
    }
}

/// What the filesystem shows, as a model.
fn shown(fs: &Fs) -> Model {
    let mut nodes = BTreeMap::new();
    show(fs, ROOT, &mut nodes);
    Model { nodes }
}

fn show(fs: &Fs, ino: Ino, nodes: &mut BTreeMap<Ino, Node>) {
    let stat = fs.stat(ino);
    if stat.kind != FileKind::Directory {
        nodes.insert(ino, Node::File(fs.bytes(ino)));
        return;
    }
    let mut entries = BTreeMap::new();
    for name in fs.names(ino) {
        let child = fs.find(ino, &name).unwrap();
        entries.insert(NAMES.iter().position(|known| *known == name).expect("a name of ours"), child);
        show(fs, child, nodes);
    }
    nodes.insert(ino, Node::Directory(entries));
}

/// That all of it fits together, and is what the model says.
fn compare(fs: &Fs, model: &Model) {
    assert_eq!(shown(fs), *model);
    for (ino, node) in &model.nodes {
        let stat = fs.stat(*ino);
        match node {
            Node::File(bytes) => assert_eq!((stat.nlink, stat.size), (model.names(*ino), bytes.len() as u64)),
            Node::Directory(entries) => {
                let below = entries.values().filter(|child| model.is_directory(**child)).count();
                assert_eq!((stat.nlink, stat.size), (2 + below as u32, entries.len() as u64));
                for child in entries.values().filter(|child| model.is_directory(**child)) {
                    assert_eq!(fs.find(*child, "..").unwrap(), *ino);
                }
            }
        }
    }
    assert!(fs.store().orphans().unwrap().is_empty());
}

const CAPACITY_SECTORS: u64 = (32 << 20) / SECTOR_BYTES as u64;

/// A filesystem whose device can be looked at, and all that it ever was.
struct World {
    device: Arc<MemoryDevice>,
    fs: Fs,
    /// The newest is last.
    history: Vec<Model>,
    /// The first in the history that a crash may lead back to.
    durable: usize,
}

impl World {
    fn new() -> Self {
        let device = Arc::new(MemoryDevice::new(CAPACITY_SECTORS));
        let options = CreateOptions { capacity_sectors: CAPACITY_SECTORS, kdf: KdfCost::TRIVIAL };
        let store = Store::create(device.clone(), b"passphrase", &options).unwrap();
        Fs::format(&store, 0, 0).unwrap();
        store.close().unwrap();
        drop(store);
        let fs = open(&device);
        let empty = Model { nodes: BTreeMap::from([(ROOT, Node::Directory(BTreeMap::new()))]) };
        Self { device, fs, history: vec![empty], durable: 0 }
    }

    fn step(&mut self, operation: &Operation) {
        let mut model = self.history.last().unwrap().clone();
        apply(&self.fs, &mut model, operation);
        match operation {
            Operation::Sync | Operation::Checkpoint => self.durable = self.history.len() - 1,
            Operation::Fsync(inode) | Operation::Fdatasync(inode) => {
                let changed = self.last_change_of(model.pick(*inode));
                self.durable = self.durable.max(changed);
            }
            Operation::Remount => {
                self.fs.unmount().unwrap();
                self.fs.store().close().unwrap();
                self.fs = open(&self.device);
                compare(&self.fs, &model);
                self.durable = self.history.len() - 1;
            }
            Operation::Crash => return self.crash(),
            _ => {}
        }
        self.history.push(model);
    }

    /// Where in the history an inode became what it is.
    fn last_change_of(&self, ino: Ino) -> usize {
        let now = self.history.last().and_then(|model| model.nodes.get(&ino));
        let older = self.history.iter().rposition(|model| model.nodes.get(&ino) != now);
        older.map_or(0, |older| older + 1)
    }

    fn crash(&mut self) {
        self.device = Arc::new(MemoryDevice::from_bytes(self.device.snapshot()));
        self.fs = open(&self.device);
        let found = shown(&self.fs);
        let at = self.history.iter().rposition(|model| *model == found);
        let at = at.unwrap_or_else(|| panic!("no state of the history: {found:?}"));
        assert!(at >= self.durable, "state {at} came back, but {} was durable", self.durable);
        compare(&self.fs, &found);
        self.history.truncate(at + 1);
        self.durable = at;
    }
}

/// Without threads, so that the same operations are the same run.
fn open(device: &Arc<MemoryDevice>) -> Fs {
    let options = OpenOptions { background: false, ..OpenOptions::default() };
    let store = Store::open(device.clone(), b"passphrase", &options).unwrap();
    Fs::mount(store, MountOptions::default()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_do_what_the_model_says(operations in prop::collection::vec(operation(), 1..80)) {
        let mut world = World::new();
        for operation in &operations {
            world.step(operation);
        }
        compare(&world.fs, world.history.last().unwrap());
        world.step(&Operation::Crash);
    }
}
