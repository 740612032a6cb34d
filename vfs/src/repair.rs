//! The tree of a store that nobody has mounted: whether names and inodes fit each other, and how they are made to.
//!
//! | what does not fit | what is done |
//! | --- | --- |
//! | a name whose inode is gone | it is removed, and named as lost |
//! | a second name of a directory | it is removed |
//! | a name in a directory that its inode does not belong to | the inode belongs to the root from now on, if it counts this name; else the name is removed: no inode of which it is a name knows it |
//! | an inode without a name | it gets one in `/lost+found` |
//! | an inode that had no name on purpose | it is an orphan again, and removed by the next mount |
//! | a count of names or entries, a directory's parent | is counted |
//! | the root directory itself | an empty one is made, owned by root |
//!
//! Nothing else is changed, and nothing is made up: what cannot be read stays as it is, for who can still mend it.
//! Memory: about a hundred bytes for each inode.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use blocktree_engine::format::BlockId;
use blocktree_engine::limits::DEPTH_MAX;
use blocktree_engine::{Block, Store};
use zerocopy::IntoBytes;

use crate::directory::{NameHash, Place, find, put};
use crate::fs::{Fs, directory_attributes};
use crate::inode::Inode;
use crate::layout::{Attributes, ENTRY_POSITION_FIRST, FileKind, HIDDEN_NAME, ITEM_ENTRY, decode_entry};
use crate::{Ino, Result};

const LOST_AND_FOUND: &[u8] = b"lost+found";
const BATCH: usize = 512;

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub ino: Ino,
    /// From the root, as far as it is known.
    pub path: PathBuf,
    pub what: String,
    /// It fits now.
    pub repaired: bool,
}

/// What is known of an inode.
struct Known {
    attributes: Attributes,
    /// Names that lead to it, and the directory and name of the first.
    names: u32,
    first_name: Option<(Ino, Vec<u8>)>,
    /// Of a directory.
    entries: u64,
    directories: u32,
}

/// A name to be removed, for this reason.
struct Superfluous {
    directory: Ino,
    position: u64,
    name: Vec<u8>,
    what: &'static str,
}

#[derive(Default)]
struct Survey {
    inodes: BTreeMap<Ino, Known>,
    /// Inodes whose attributes cannot be read, and directories of which a part cannot.
    unreadable: BTreeSet<Ino>,
    superfluous: Vec<Superfluous>,
    /// Names in directories that their inodes do not belong to, by these; superfluous unless those count them.
    misplaced: BTreeMap<Ino, Vec<Superfluous>>,
    findings: Vec<Finding>,
    /// Directories got a name elsewhere.
    moved_directories: bool,
}

/// Examines the tree; with `repair`, makes it fit.
pub fn examine(store: &Store, repair: bool) -> Result<Vec<Finding>> {
    let mut survey = Survey::default();
    if store.block(Fs::ROOT)?.is_none() {
        survey.found(Fs::ROOT, "the root directory is lost".to_owned(), repair);
        if !repair {
            return Ok(survey.findings);
        }
        let attributes = directory_attributes(0, 0, 0o755, Fs::ROOT);
        let mut transaction = store.transaction();
        transaction.create_root(attributes.encode().as_bytes());
        transaction.apply()?;
    }
    survey.read_inodes(store)?;
    survey.read_names(store)?;
    survey.place_the_misplaced(store, repair)?;
    survey.remove_names(store, repair)?;
    survey.name_the_nameless(store, repair)?;
    survey.count(store, repair)?;
    if survey.moved_directories {
        // Names below them may be misplaced now.
        let more = examine(store, repair)?;
        survey.findings.extend(more.into_iter().filter(|finding| finding.repaired));
    }
    if repair {
        store.sync(store.newest())?;
    }
    Ok(survey.findings)
}

/// Whether an inode's home is a directory or above it, or cannot be told.
fn may_be_in(store: &Store, child: Ino, directory: Ino) -> bool {
    let Ok(Some(home)) = store.home(child) else { return true };
    let mut at = directory;
    for _ in 0..DEPTH_MAX {
        if at == home {
            return true;
        }
        if at == Fs::ROOT {
            return false;
        }
        let Ok(Some(above)) = store.home(at) else { return true };
        at = above;
    }
    true
}

impl Survey {
    fn found(&mut self, ino: Ino, what: String, repaired: bool) {
        let path = self.path(ino);
        self.findings.push(Finding { ino, path, what, repaired });
    }

    /// The path of an inode, as far as names lead to it.
    fn path(&self, ino: Ino) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        const DEPTH_MAX: usize = 4096;
        let mut names = Vec::new();
        let mut at = ino;
        while at != Fs::ROOT && names.len() < DEPTH_MAX {
            let Some((parent, name)) = self.inodes.get(&at).and_then(|known| known.first_name.as_ref())
            else {
                break;
            };
            names.push(name.as_slice());
            at = *parent;
        }
        let names = names.iter().rev().map(|name| std::ffi::OsStr::from_bytes(name));
        std::iter::once(std::ffi::OsStr::new("/")).chain(names).collect()
    }

    fn read_inodes(&mut self, store: &Store) -> Result<()> {
        let mut no_files: BTreeSet<BlockId> = store.orphans()?.into_iter().collect();
        no_files.extend(store.journal()?);
        let mut next = Fs::ROOT;
        while let Some(ino) = store.next_block(next)? {
            next = ino.saturating_add(1);
            if no_files.contains(&ino) {
                continue;
            }
            let attributes = match store.block(ino) {
                Ok(None) => continue,
                Ok(Some(block)) => store.attributes(&block).ok(),
                Err(_) => None,
            };
            let attributes = attributes.and_then(|bytes| Attributes::decode(&bytes).ok());
            match attributes {
                Some(attributes) => {
                    let known = Known { attributes, names: 0, first_name: None, entries: 0, directories: 0 };
                    self.inodes.insert(ino, known);
                }
                None => {
                    self.unreadable.insert(ino);
                    self.found(ino, "its attributes cannot be read".to_owned(), false);
                }
            }
        }
        Ok(())
    }

    fn read_names(&mut self, store: &Store) -> Result<()> {
        let is_directory = |(_, known): &(&Ino, &Known)| known.attributes.kind == FileKind::Directory;
        let directories: Vec<Ino> = self.inodes.iter().filter(is_directory).map(|(ino, _)| *ino).collect();
        for directory in directories {
            let Some(block) = store.block(directory)? else { continue };
            let mut from = ENTRY_POSITION_FIRST;
            loop {
                let Ok(items) = store.scan(&block, ITEM_ENTRY, from, BATCH) else {
                    self.unreadable.insert(directory);
                    self.found(directory, "some of its names cannot be read".to_owned(), false);
                    break;
                };
                let is_last = items.len() < BATCH;
                for (position, item) in items {
                    from = position.saturating_add(1);
                    match decode_entry(&item.clear, &item.secret) {
                        Ok(entry) if !may_be_in(store, entry.child, directory) => {
                            let what = "a name of what belongs elsewhere";
                            let name = Superfluous { directory, position, name: entry.name, what };
                            self.misplaced.entry(entry.child).or_default().push(name);
                        }
                        Ok(entry) => self.name(directory, position, entry.child, entry.name),
                        Err(malformed) => {
                            self.unreadable.insert(directory);
                            self.found(directory, format!("malformed {}", malformed.0), false);
                        }
                    }
                }
                if is_last {
                    break;
                }
            }
        }
        Ok(())
    }

    /// A name in a directory.
    fn name(&mut self, directory: Ino, position: u64, child: Ino, name: Vec<u8>) {
        let mut superfluous = |what| {
            let name = name.clone();
            self.superfluous.push(Superfluous { directory, position, name, what });
        };
        let mut is_directory = false;
        let is_hidden = directory == Fs::ROOT && name == HIDDEN_NAME;
        match self.inodes.get_mut(&child) {
            None if !self.unreadable.contains(&child) => return superfluous("lost: its inode is gone"),
            None => {}
            Some(known) => {
                is_directory = known.attributes.kind == FileKind::Directory;
                if is_directory && (child == Fs::ROOT || known.names > 0) {
                    return superfluous("a second name of a directory");
                }
                known.names += 1;
                known.first_name.get_or_insert((directory, name));
            }
        }
        // The root counts what it shows.
        if let (false, Some(above)) = (is_hidden, self.inodes.get_mut(&directory)) {
            above.entries += 1;
            above.directories += u32::from(is_directory);
        }
    }

    /// Who may write a directory could name anything in it, but not have the other inode count that.
    fn place_the_misplaced(&mut self, store: &Store, repair: bool) -> Result<()> {
        for (ino, names) in std::mem::take(&mut self.misplaced) {
            let counted = self.inodes.get(&ino).is_some_and(|known| {
                known.attributes.kind != FileKind::Directory
                    && known.attributes.nlink as usize == known.names as usize + names.len()
            });
            if !counted {
                self.superfluous.extend(names);
                continue;
            }
            for Superfluous { directory, position, name, .. } in names {
                self.name(directory, position, ino, name);
            }
            self.found(ino, "belonged to a directory that is not above all of its names".to_owned(), repair);
            if let (true, Some(block)) = (repair, store.block(ino)?) {
                let mut transaction = store.transaction();
                transaction.set_attributes_and_home(&block, &store.attributes(&block)?, Fs::ROOT);
                transaction.apply()?;
            }
        }
        Ok(())
    }

    fn remove_names(&mut self, store: &Store, repair: bool) -> Result<()> {
        use std::os::unix::ffi::OsStrExt as _;
        for Superfluous { directory, position, name, what } in std::mem::take(&mut self.superfluous) {
            let path = self.path(directory).join(std::ffi::OsStr::from_bytes(&name));
            self.findings.push(Finding { ino: directory, path, what: what.to_owned(), repaired: repair });
            if let (true, Some(block)) = (repair, store.block(directory)?) {
                let mut transaction = store.transaction();
                transaction.delete(&block, ITEM_ENTRY, position);
                transaction.apply()?;
            }
        }
        Ok(())
    }

    fn name_the_nameless(&mut self, store: &Store, repair: bool) -> Result<()> {
        let nameless = |(ino, known): &(&Ino, &Known)| **ino != Fs::ROOT && known.names == 0;
        let nameless: Vec<Ino> = self.inodes.iter().filter(nameless).map(|(ino, _)| *ino).collect();
        for ino in nameless {
            let Some(block) = store.block(ino)? else { continue };
            let Some(known) = self.inodes.get(&ino) else { continue };
            if known.attributes.nlink == 0 {
                self.found(ino, "had no name, and was not marked so".to_owned(), repair);
                if repair {
                    let mut transaction = store.transaction();
                    transaction.orphan(&block);
                    transaction.apply()?;
                }
                self.inodes.remove(&ino);
                continue;
            }
            let kind = known.attributes.kind;
            let name = format!("#{ino}").into_bytes();
            if repair {
                let folder = self.lost_and_found(store)?;
                self.add_name(store, folder, &block, kind, &name)?;
                self.moved_directories |= kind == FileKind::Directory;
            }
            self.found(ino, "its name was lost".to_owned(), repair);
        }
        Ok(())
    }

    /// The directory for what has no name, made where it is missing.
    fn lost_and_found(&mut self, store: &Store) -> Result<Ino> {
        let root = self.inode(store, Fs::ROOT)?;
        let hash = NameHash(None).of(&root, LOST_AND_FOUND);
        if let Place::Taken { entry, .. } = find(store, &root, hash, LOST_AND_FOUND)?
            && self.inodes.get(&entry.child).is_some_and(|known| known.attributes.kind == FileKind::Directory)
        {
            return Ok(entry.child);
        }
        let attributes = directory_attributes(0, 0, 0o700, Fs::ROOT);
        let mut transaction = store.transaction();
        let block = transaction.create_in(Fs::ROOT, attributes.encode().as_bytes());
        transaction.apply()?;
        let known = Known { attributes, names: 0, first_name: None, entries: 0, directories: 0 };
        self.inodes.insert(block.id(), known);
        self.add_name(store, Fs::ROOT, &block, FileKind::Directory, LOST_AND_FOUND)?;
        Ok(block.id())
    }

    /// Adds a name, or one like it where it is taken.
    fn add_name(
        &mut self,
        store: &Store,
        directory: Ino,
        child: &Block,
        kind: FileKind,
        name: &[u8],
    ) -> Result<()> {
        let inode = self.inode(store, directory)?;
        let mut name = name.to_vec();
        let position = loop {
            match find(store, &inode, NameHash(None).of(&inode, &name), &name)? {
                Place::Taken { .. } => name.push(b'~'),
                free => break free.free()?,
            }
        };
        let mut transaction = store.transaction();
        put(&mut transaction, &inode, position, child, kind, &name);
        transaction.set_attributes_and_home(child, &store.attributes(child)?, directory);
        transaction.apply()?;
        self.name(directory, position, child.id(), name);
        Ok(())
    }

    fn inode(&self, store: &Store, ino: Ino) -> Result<Arc<Inode>> {
        let block = store.block(ino)?.ok_or(crate::FsError::Stale)?;
        let known = self.inodes.get(&ino).ok_or(crate::FsError::Stale)?;
        Ok(Inode::new(ino, block, known.attributes, Default::default()))
    }

    /// Counts that are not what was counted.
    fn count(&mut self, store: &Store, repair: bool) -> Result<()> {
        let mut wrong = Vec::new();
        for (&ino, known) in &self.inodes {
            let mut right = known.attributes;
            if right.kind == FileKind::Directory {
                // Of what cannot be read, nothing can be counted.
                if self.unreadable.contains(&ino) {
                    continue;
                }
                (right.nlink, right.size) = (2 + known.directories, known.entries);
                right.parent = known.first_name.as_ref().map_or(right.parent, |(parent, _)| *parent);
            } else if self.unreadable.is_empty() {
                right.nlink = known.names;
            }
            if right != known.attributes {
                let what = format!(
                    "has {} names and {} entries, and counted {} and {}",
                    right.nlink, known.entries, known.attributes.nlink, known.attributes.size
                );
                wrong.push((ino, right, what));
            }
        }
        for (ino, right, what) in wrong {
            self.found(ino, what, repair);
            if let (true, Some(block)) = (repair, store.block(ino)?) {
                let mut transaction = store.transaction();
                transaction.set_attributes(&block, right.encode().as_bytes());
                transaction.apply()?;
            }
        }
        Ok(())
    }
}
