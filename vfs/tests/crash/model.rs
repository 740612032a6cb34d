//! The reference model: what a tree must be after each operation. Cheap to clone.

use std::collections::BTreeMap;
use std::sync::Arc;

use blocktree_vfs::{Fs, Ino, Time};

use crate::operation::{Operation, bytes, split, target};

pub(crate) const PAGE: u64 = 4096;

pub(crate) type Page = Arc<[u8; PAGE as usize]>;

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Pages that are not zeros.
    File {
        size: u64,
        pages: BTreeMap<u64, Page>,
    },
    Directory(BTreeMap<String, Ino>),
    Symlink(String),
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) permissions: u32,
    /// Names; directories have one, and one for each directory in them.
    pub(crate) nlink: u32,
    pub(crate) xattrs: BTreeMap<&'static str, Vec<u8>>,
    /// As the filesystem said when it was changed.
    pub(crate) times: Option<(Time, Time)>,
    /// The newest state of the history in which it was changed, and its data.
    pub(crate) changed: u64,
    pub(crate) data_changed: u64,
}

#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) nodes: BTreeMap<Ino, Arc<Node>>,
}

/// The model says that this cannot be done.
pub(crate) struct Impossible;

/// What an operation changed.
#[derive(Default)]
pub(crate) struct Touched {
    inodes: Vec<Ino>,
    /// Of these, those whose data changed.
    data: Vec<Ino>,
}

impl Model {
    /// A root directory with nothing in it.
    pub(crate) fn empty() -> Self {
        let root = Node { permissions: 0o755, ..Node::new(Kind::Directory(BTreeMap::new()), 0) };
        Self { nodes: BTreeMap::from([(Fs::ROOT, Arc::new(root))]) }
    }

    pub(crate) fn find(&self, path: &str) -> Option<Ino> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(Fs::ROOT, |ino, name| {
            match &self.nodes.get(&ino)?.kind {
                Kind::Directory(entries) => entries.get(name).copied(),
                _ => None,
            }
        })
    }

    /// Paths of everything but the root, directories before what is in them.
    pub(crate) fn paths(&self) -> Vec<(String, Ino)> {
        let mut paths = Vec::new();
        self.collect_paths("", Fs::ROOT, &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &str, ino: Ino, paths: &mut Vec<(String, Ino)>) {
        if let Kind::Directory(entries) = &self.nodes[&ino].kind {
            for (name, child) in entries {
                let path = format!("{prefix}{name}");
                paths.push((path.clone(), *child));
                self.collect_paths(&format!("{path}/"), *child, paths);
            }
        }
    }

    pub(crate) fn is_directory(&self, ino: Ino) -> bool {
        matches!(self.nodes[&ino].kind, Kind::Directory(_))
    }

    /// The state after an operation, the `number`th of the history; `made` is the inode that it made.
    pub(crate) fn after(
        &self,
        operation: &Operation,
        number: u64,
        made: Option<Ino>,
    ) -> Result<(Self, Touched), Impossible> {
        let mut next = self.clone();
        let mut touched = Touched::default();
        next.apply(operation, number, made, &mut touched)?;
        for ino in &touched.inodes {
            if let Some(node) = next.nodes.get_mut(ino) {
                let node = Arc::make_mut(node);
                node.changed = number;
                if touched.data.contains(ino) {
                    node.data_changed = number;
                }
            }
        }
        Ok((next, touched))
    }

    /// Takes over the times that the filesystem gave to what was touched.
    pub(crate) fn note_times(&mut self, touched: &Touched, stat: impl Fn(Ino) -> Option<(Time, Time)>) {
        for ino in &touched.inodes {
            if let Some(node) = self.nodes.get_mut(ino) {
                Arc::make_mut(node).times = stat(*ino);
            }
        }
    }

    fn apply(
        &mut self,
        operation: &Operation,
        number: u64,
        made: Option<Ino>,
        touched: &mut Touched,
    ) -> Result<(), Impossible> {
        match operation {
            Operation::Create(path) | Operation::Mkdir(path) | Operation::Symlink(path) => {
                let kind = match operation {
                    Operation::Create(_) => Kind::File { size: 0, pages: BTreeMap::new() },
                    Operation::Mkdir(_) => Kind::Directory(BTreeMap::new()),
                    _ => Kind::Symlink(target(path)),
                };
                // Refused operations make nothing.
                let ino = made.unwrap_or(Ino::MAX);
                self.add_name(path, ino, matches!(kind, Kind::Directory(_)), touched)?;
                self.nodes.insert(ino, Arc::new(Node::new(kind, number)));
                touched.inodes.push(ino);
                touched.data.push(ino);
            }
            Operation::Write(path, offset, length, seed) => {
                self.file(path, touched)?.write(*offset, &bytes(*seed, *length));
            }
            Operation::Append(path, length, seed) => {
                let node = self.file(path, touched)?;
                node.write(node.size(), &bytes(*seed, *length));
            }
            Operation::Truncate(path, size) => self.file(path, touched)?.resize(*size),
            Operation::Allocate(path, offset, length, keep_size) => {
                let node = self.file(path, touched)?;
                if !keep_size {
                    node.resize(node.size().max(offset + length));
                }
            }
            Operation::Punch(path, offset, length) => {
                let node = self.file(path, touched)?;
                node.zero(*offset, (offset + length).min(node.size()));
            }
            Operation::Zero(path, offset, length) => {
                let node = self.file(path, touched)?;
                node.zero(*offset, (offset + length).min(node.size()));
                node.resize(node.size().max(offset + length));
            }
            Operation::Collapse(path, offset, length) => {
                let node = self.file(path, touched)?;
                if offset + length >= node.size() {
                    return Err(Impossible);
                }
                node.shift(offset / PAGE, (offset + length) / PAGE, offset / PAGE);
                node.set_size(node.size() - length);
            }
            Operation::Insert(path, offset, length) => {
                let node = self.file(path, touched)?;
                if *offset >= node.size() {
                    return Err(Impossible);
                }
                node.shift(offset / PAGE, offset / PAGE, (offset + length) / PAGE);
                node.set_size(node.size() + length);
            }
            Operation::Copy(from, to, length) => {
                let source = self.find(from).ok_or(Impossible)?;
                let bytes = self.nodes[&source].read(0, *length).ok_or(Impossible)?;
                if self.find(to) == Some(source) {
                    return Err(Impossible);
                }
                self.file(to, touched)?.write(0, &bytes);
            }
            Operation::Link(from, to) => {
                let ino = self.find(from).filter(|ino| !self.is_directory(*ino)).ok_or(Impossible)?;
                self.add_name(to, ino, false, touched)?;
                self.node(ino).nlink += 1;
                touched.inodes.push(ino);
            }
            Operation::Unlink(path) => {
                let ino = self.find(path).filter(|ino| !self.is_directory(*ino)).ok_or(Impossible)?;
                self.take_name(path, touched);
                self.lose_name(ino, touched);
            }
            Operation::Rmdir(path) => {
                let ino = self.find(path).filter(|ino| *ino != Fs::ROOT).ok_or(Impossible)?;
                if !self.is_empty_directory(ino) {
                    return Err(Impossible);
                }
                self.take_name(path, touched);
                self.lose_name(ino, touched);
            }
            Operation::Rename(from, to) => self.rename(from, to, touched)?,
            Operation::Exchange(from, to) => {
                let (one, other) = (self.find(from).ok_or(Impossible)?, self.find(to).ok_or(Impossible)?);
                if (within(from, to) || within(to, from)) && one != other {
                    return Err(Impossible);
                }
                if one != other {
                    self.take_name(from, touched);
                    self.take_name(to, touched);
                    let directory = self.is_directory(other);
                    self.add_name(from, other, directory, touched)?;
                    let directory = self.is_directory(one);
                    self.add_name(to, one, directory, touched)?;
                    touched.inodes.extend([one, other]);
                }
            }
            Operation::SetXattr(path, name, length, seed) => {
                let ino = self.find(path).ok_or(Impossible)?;
                if matches!(self.nodes[&ino].kind, Kind::Symlink(_)) {
                    return Err(Impossible);
                }
                self.node(ino).xattrs.insert(name, bytes(*seed, *length));
                touched.inodes.push(ino);
            }
            Operation::RemoveXattr(path, name) => {
                let ino = self.find(path).ok_or(Impossible)?;
                self.node(ino).xattrs.remove(name).ok_or(Impossible)?;
                touched.inodes.push(ino);
            }
            Operation::Chmod(path, permissions) => {
                let ino = self.find(path).ok_or(Impossible)?;
                self.node(ino).permissions = *permissions;
                touched.inodes.push(ino);
            }
            Operation::Hold(path) | Operation::Fsync(path) | Operation::Fdatasync(path) => {
                self.find(path).ok_or(Impossible)?;
            }
            Operation::Sync
            | Operation::WriteBack
            | Operation::Checkpoint
            | Operation::Reclaim
            | Operation::Snapshot(_)
            | Operation::DeleteSnapshot(_) => {}
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str, touched: &mut Touched) -> Result<(), Impossible> {
        let child = self.find(from).filter(|ino| *ino != Fs::ROOT).ok_or(Impossible)?;
        if within(to, from) && to != from {
            return Err(Impossible);
        }
        if let Some(victim) = self.find(to) {
            if victim == child {
                return Ok(());
            }
            match (self.is_directory(child), self.is_directory(victim)) {
                (true, true) if self.is_empty_directory(victim) => {}
                (false, false) => {}
                _ => return Err(Impossible),
            }
            self.take_name(to, touched);
            self.lose_name(victim, touched);
        }
        let directory = self.is_directory(child);
        // Where there is no room for the new name, nothing happened.
        let before = self.clone();
        self.take_name(from, touched);
        self.add_name(to, child, directory, touched).inspect_err(|_| *self = before)?;
        touched.inodes.push(child);
        Ok(())
    }

    fn node(&mut self, ino: Ino) -> &mut Node {
        Arc::make_mut(self.nodes.get_mut(&ino).expect("what has a name is there"))
    }

    fn file(&mut self, path: &str, touched: &mut Touched) -> Result<&mut Node, Impossible> {
        let ino = self.find(path).ok_or(Impossible)?;
        if !matches!(self.nodes[&ino].kind, Kind::File { .. }) {
            return Err(Impossible);
        }
        touched.inodes.push(ino);
        touched.data.push(ino);
        Ok(self.node(ino))
    }

    fn is_empty_directory(&self, ino: Ino) -> bool {
        matches!(&self.nodes[&ino].kind, Kind::Directory(entries) if entries.is_empty())
    }

    fn add_name(
        &mut self,
        path: &str,
        ino: Ino,
        directory: bool,
        touched: &mut Touched,
    ) -> Result<(), Impossible> {
        let (parent, name) = split(path);
        let parent = self.find(parent).ok_or(Impossible)?;
        if !self.is_directory(parent) {
            return Err(Impossible);
        }
        let node = self.node(parent);
        let Kind::Directory(entries) = &mut node.kind else { return Err(Impossible) };
        if name.is_empty() || entries.contains_key(name) {
            return Err(Impossible);
        }
        entries.insert(name.to_owned(), ino);
        node.nlink += u32::from(directory);
        touched.inodes.push(parent);
        touched.data.push(parent);
        Ok(())
    }

    fn take_name(&mut self, path: &str, touched: &mut Touched) {
        let (parent, name) = split(path);
        let parent = self.find(parent).expect("it has a name");
        let ino = self.find(path).expect("it has a name");
        let directory = self.is_directory(ino);
        let node = self.node(parent);
        if let Kind::Directory(entries) = &mut node.kind {
            entries.remove(name);
        }
        node.nlink -= u32::from(directory);
        touched.inodes.push(parent);
        touched.data.push(parent);
    }

    fn lose_name(&mut self, ino: Ino, touched: &mut Touched) {
        let node = self.node(ino);
        if matches!(node.kind, Kind::Directory(_)) || node.nlink == 1 {
            self.nodes.remove(&ino);
        } else {
            node.nlink -= 1;
            touched.inodes.push(ino);
        }
    }
}

/// Whether a path is another or lies below it.
fn within(path: &str, other: &str) -> bool {
    path == other || path.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'))
}

impl Node {
    fn new(kind: Kind, number: u64) -> Self {
        let (permissions, nlink) = match kind {
            Kind::File { .. } => (0o644, 1),
            Kind::Directory(_) => (0o755, 2),
            Kind::Symlink(_) => (0o777, 1),
        };
        Self {
            kind,
            permissions,
            nlink,
            xattrs: BTreeMap::new(),
            times: None,
            changed: number,
            data_changed: number,
        }
    }

    pub(crate) fn size(&self) -> u64 {
        match &self.kind {
            Kind::File { size, .. } => *size,
            Kind::Directory(entries) => entries.len() as u64,
            Kind::Symlink(target) => target.len() as u64,
        }
    }

    fn content(&mut self) -> (&mut u64, &mut BTreeMap<u64, Page>) {
        match &mut self.kind {
            Kind::File { size, pages } => (size, pages),
            _ => unreachable!("only files are asked for"),
        }
    }

    fn set_size(&mut self, new: u64) {
        *self.content().0 = new;
    }

    /// Some bytes of a file; what lies past its end is left out.
    pub(crate) fn read(&self, offset: u64, length: u64) -> Option<Vec<u8>> {
        let Kind::File { size, pages } = &self.kind else { return None };
        let end = (offset + length).min(*size);
        let mut bytes = vec![0; end.saturating_sub(offset) as usize];
        for (at, byte) in (offset..end).zip(&mut bytes) {
            if let Some(page) = pages.get(&(at / PAGE)) {
                *byte = page[(at % PAGE) as usize];
            }
        }
        Some(bytes)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let (size, pages) = self.content();
        *size = (*size).max(offset + bytes.len() as u64);
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let skip = (at % PAGE) as usize;
            let count = rest.len().min(PAGE as usize - skip);
            let page = pages.entry(at / PAGE).or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(page)[skip..skip + count].copy_from_slice(&rest[..count]);
            at += count as u64;
            rest = &rest[count..];
        }
    }

    /// Fills with zeros up to `end`.
    fn zero(&mut self, from: u64, end: u64) {
        let (_, pages) = self.content();
        pages.retain(|page, _| page * PAGE < from || (page + 1) * PAGE > end);
        for number in [from / PAGE, end.saturating_sub(1) / PAGE] {
            if let Some(page) = pages.get_mut(&number) {
                let start = from.clamp(number * PAGE, (number + 1) * PAGE) - number * PAGE;
                let stop = end.clamp(number * PAGE, (number + 1) * PAGE) - number * PAGE;
                if start < stop {
                    Arc::make_mut(page)[start as usize..stop as usize].fill(0);
                }
            }
        }
    }

    fn resize(&mut self, new: u64) {
        if new < self.size() {
            self.zero(new, u64::MAX / 2);
        }
        self.set_size(new);
    }

    /// Removes the pages `from..to` and moves those behind so that they start at `target`.
    fn shift(&mut self, from: u64, to: u64, target: u64) {
        let (_, pages) = self.content();
        let behind = pages.split_off(&to);
        pages.retain(|page, _| *page < from);
        pages.extend(behind.into_iter().map(|(page, bytes)| (page - to + target, bytes)));
    }
}
