//! Which inode is called what, what is open, and which listings are being read.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::FileType;

const ROOT: u64 = 1;

/// An open file.
pub(super) struct Handle {
    pub(super) file: File,
    pub(super) is_direct: bool,
    pub(super) is_writable: bool,
}

/// What a directory holds.
pub(super) struct Entry {
    pub(super) ino: u64,
    pub(super) kind: FileType,
    pub(super) name: OsString,
}

/// An inode that the kernel knows: numbered as in the folder below, but for the root, which is 1 for the kernel.
struct Node {
    parent: u64,
    name: OsString,
    /// How often the kernel was told of it.
    lookups: u64,
    /// By the numbers of the handles.
    open: Vec<(u64, Arc<Handle>)>,
}

#[derive(Default)]
struct State {
    nodes: HashMap<u64, Node>,
    handles: HashMap<u64, Arc<Handle>>,
    lists: HashMap<u64, Arc<Vec<Entry>>>,
    last_handle: u64,
}

pub(super) struct Nodes {
    root: PathBuf,
    root_below: u64,
    state: Mutex<State>,
}

impl Nodes {
    pub(super) fn new(root: &Path) -> io::Result<Self> {
        let root_below = fs::metadata(root)?.ino();
        Ok(Self { root: root.to_owned(), root_below, state: Mutex::default() })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// What the kernel calls an inode of the folder below.
    pub(super) fn number(&self, below: u64) -> u64 {
        if below == self.root_below { ROOT } else { below }
    }

    /// Where an inode is in the folder below.
    pub(super) fn path(&self, ino: u64) -> io::Result<PathBuf> {
        let state = self.state();
        let mut names = Vec::new();
        let mut at = ino;
        while at != ROOT {
            // With a number, which is what the kernel wants to hear.
            let node = state.nodes.get(&at).ok_or_else(|| io::Error::from(rustix::io::Errno::NOENT))?;
            names.push(node.name.as_os_str());
            at = node.parent;
        }
        let mut path = self.root.clone();
        path.extend(names.iter().rev());
        Ok(path)
    }

    /// The kernel is told of an inode by this name.
    pub(super) fn look_up(&self, parent: u64, name: &OsStr, below: u64) -> u64 {
        let ino = self.number(below);
        if ino != ROOT {
            let mut state = self.state();
            let node = state.nodes.entry(ino).or_insert_with(|| Node {
                parent,
                name: name.to_owned(),
                lookups: 0,
                open: Vec::new(),
            });
            node.lookups += 1;
            if node.parent != parent || node.name != name {
                (node.parent, node.name) = (parent, name.to_owned());
            }
        }
        ino
    }

    pub(super) fn forget(&self, ino: u64, count: u64) {
        let mut state = self.state();
        if let Some(node) = state.nodes.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(count);
            if node.lookups == 0 {
                state.nodes.remove(&ino);
            }
        }
    }

    pub(super) fn rename(&self, below: u64, parent: u64, name: &OsStr) {
        if let Some(node) = self.state().nodes.get_mut(&self.number(below)) {
            (node.parent, node.name) = (parent, name.to_owned());
        }
    }

    /// Remembers an open file; its number.
    pub(super) fn open(&self, ino: u64, handle: Handle) -> u64 {
        let handle = Arc::new(handle);
        let mut state = self.state();
        state.last_handle += 1;
        let number = state.last_handle;
        if let Some(node) = state.nodes.get_mut(&ino) {
            node.open.push((number, Arc::clone(&handle)));
        }
        state.handles.insert(number, handle);
        number
    }

    pub(super) fn handle(&self, number: u64) -> Option<Arc<Handle>> {
        self.state().handles.get(&number).cloned()
    }

    /// An open file of an inode, if there is one.
    pub(super) fn opened(&self, ino: u64, for_writing: bool) -> Option<Arc<Handle>> {
        let state = self.state();
        let mut open = state.nodes.get(&ino)?.open.iter();
        open.find(|(_, handle)| handle.is_writable || !for_writing).map(|(_, handle)| Arc::clone(handle))
    }

    pub(super) fn release(&self, ino: u64, number: u64) {
        let mut state = self.state();
        let closed = state.handles.remove(&number);
        if let Some(node) = state.nodes.get_mut(&ino) {
            node.open.retain(|(other, _)| *other != number);
        }
        drop(state);
        // Closing may take long.
        drop(closed);
    }

    pub(super) fn open_list(&self, list: Vec<Entry>) -> u64 {
        let mut state = self.state();
        state.last_handle += 1;
        let number = state.last_handle;
        state.lists.insert(number, Arc::new(list));
        number
    }

    pub(super) fn list(&self, number: u64) -> Option<Arc<Vec<Entry>>> {
        self.state().lists.get(&number).cloned()
    }

    pub(super) fn release_list(&self, number: u64) {
        let list = self.state().lists.remove(&number);
        drop(list);
    }

    /// A thread that panicked has left nothing half done here.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that a directory holds, in one go.
pub(super) fn list(folder: &Path) -> io::Result<Vec<Entry>> {
    fs::read_dir(folder)?
        .map(|entry| {
            let entry = entry?;
            let kind = FileType::from_std(entry.file_type()?).unwrap_or(FileType::RegularFile);
            Ok(Entry { ino: entry.ino(), kind, name: entry.file_name() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_renames_and_forgets() {
        let root = std::env::temp_dir();
        let nodes = Nodes::new(&root).unwrap();
        let below = fs::metadata(&root).unwrap().ino();
        assert_eq!(nodes.number(below), ROOT);
        assert_eq!(nodes.look_up(ROOT, OsStr::new("a"), 100_000), 100_000);
        nodes.look_up(100_000, OsStr::new("b"), 100_001);
        assert_eq!(nodes.path(100_001).unwrap(), root.join("a/b"));
        nodes.rename(100_000, ROOT, OsStr::new("c"));
        assert_eq!(nodes.path(100_001).unwrap(), root.join("c/b"));
        nodes.look_up(ROOT, OsStr::new("d"), 100_001);
        nodes.forget(100_001, 1);
        assert_eq!(nodes.path(100_001).unwrap(), root.join("d"));
        nodes.forget(100_001, 1);
        assert_eq!(nodes.path(100_001).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
