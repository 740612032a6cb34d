//! Which files blocks are: the names that a check does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blocktree_engine::device::Device;
use blocktree_engine::format::BlockId;
use blocktree_engine::{Credential, OpenOptions, Store};
use blocktree_vfs::{FileKind, Fs, MountOptions};

/// One path, from the root of the tree, for each of the blocks that the undamaged part of the tree names, as of the last
/// record before damage in the log. Empty where the store does not open.
pub(crate) fn of_blocks(
    device: Arc<dyn Device>,
    credential: &Credential<'_>,
    blocks: &BTreeSet<BlockId>,
) -> BTreeMap<BlockId, PathBuf> {
    if blocks.is_empty() {
        return BTreeMap::new();
    }
    let options = OpenOptions { before_damage: true, background: false, ..OpenOptions::default() };
    let Ok(store) = Store::open_as(device, credential, &options) else { return BTreeMap::new() };
    let options = MountOptions { read_only: true, ..MountOptions::default() };
    Fs::mount(store, options).map(|fs| in_tree(&fs, blocks)).unwrap_or_default()
}

/// As [`of_blocks`], in a tree that is open.
pub(crate) fn in_tree(fs: &Fs, blocks: &BTreeSet<BlockId>) -> BTreeMap<BlockId, PathBuf> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(Fs::ROOT, PathBuf::from("/"))];
    while let Some((folder, path)) = folders.pop() {
        if blocks.contains(&folder) {
            found.insert(folder, path.clone());
        }
        // What a damaged folder still shows is looked at; the rest of it has no names any more.
        let _ = list(fs, folder, |ino, kind, name| {
            let path = path.join(Path::new(OsStr::from_bytes(name)));
            if kind == FileKind::Directory {
                folders.push((ino, path));
            } else if blocks.contains(&ino) {
                found.insert(ino, path);
            }
        });
        if found.len() == blocks.len() {
            break;
        }
    }
    found
}

fn list(
    fs: &Fs,
    folder: BlockId,
    mut visit: impl FnMut(BlockId, FileKind, &[u8]),
) -> blocktree_vfs::Result<()> {
    fs.readdir(folder, 0, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            visit(entry.ino, entry.kind, entry.name);
        }
        true
    })
}
