//! What a mounted filesystem shows, and whether that is what a model says.

use std::collections::BTreeMap;

use blocktree_vfs::{FileKind, Fs, FsError, Ino, NAME_UNIT, Stat};

use crate::model::{Kind, Model, Node, PAGE};

/// What could be read of an inode.
struct Shown {
    stat: Stat,
    content: Content,
    xattrs: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
}

enum Content {
    Directory(BTreeMap<Vec<u8>, Ino>),
    File(Vec<u8>),
    /// Pages that could be read, of a file that could not as a whole.
    Pages(Vec<Option<Vec<u8>>>),
    Symlink(Vec<u8>),
    Unreadable,
}

/// All that could be read of a tree.
pub(crate) struct Tree {
    inodes: BTreeMap<Ino, Option<Shown>>,
}

/// Reads everything. Where `damaged`, errors of the disk leave gaps; any other is told.
pub(crate) fn read_tree(fs: &Fs, damaged: bool) -> Result<Tree, String> {
    let mut tree = Tree { inodes: BTreeMap::new() };
    let mut todo = vec![Fs::ROOT];
    while let Some(ino) = todo.pop() {
        if tree.inodes.contains_key(&ino) {
            continue;
        }
        let shown = readable(read_inode(fs, ino, damaged), damaged, || format!("inode {ino}"))?;
        if let Some(Shown { content: Content::Directory(entries), .. }) = &shown {
            todo.extend(entries.values());
        }
        tree.inodes.insert(ino, shown);
    }
    Ok(tree)
}

/// A damaged disk may fail, but only with EIO.
fn readable<T>(
    result: Result<T, FsError>,
    damaged: bool,
    what: impl FnOnce() -> String,
) -> Result<Option<T>, String> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if damaged && error.errno() == libc::EIO => Ok(None),
        Err(error) => Err(format!("{}: {error:?}", what())),
    }
}

fn read_inode(fs: &Fs, ino: Ino, damaged: bool) -> Result<Shown, FsError> {
    let stat = fs.getattr(ino)?;
    let content = match stat.kind {
        FileKind::Directory => read_directory(fs, ino).map(Content::Directory),
        FileKind::Symlink => fs.readlink(ino).map(Content::Symlink),
        _ => read_file(fs, ino, stat.size, damaged),
    };
    let xattrs = match stat.kind {
        FileKind::Symlink => Ok(BTreeMap::new()),
        _ => read_xattrs(fs, ino),
    };
    let tolerated = |error: &FsError| damaged && error.errno() == libc::EIO;
    Ok(Shown {
        stat,
        content: match content {
            Err(error) if tolerated(&error) => Content::Unreadable,
            content => content?,
        },
        xattrs: match xattrs {
            Err(error) if tolerated(&error) => None,
            xattrs => Some(xattrs?),
        },
    })
}

fn read_directory(fs: &Fs, ino: Ino) -> Result<BTreeMap<Vec<u8>, Ino>, FsError> {
    let mut entries = BTreeMap::new();
    fs.readdir(ino, 0, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            entries.insert(entry.name.to_vec(), entry.ino);
        }
        true
    })?;
    Ok(entries)
}

/// Files longer than this only fill the store: of their pages, one of so many is read.
const LONG_BYTES: u64 = 4 << 20;
const LONG_PAGES_STEP: u64 = 16;

fn read_file(fs: &Fs, ino: Ino, size: u64, damaged: bool) -> Result<Content, FsError> {
    if size > LONG_BYTES {
        let page = |number: u64| {
            let mut bytes = vec![0; PAGE as usize];
            match fs.read(ino, number * PAGE, &mut bytes) {
                Ok(length) => {
                    bytes.truncate(length);
                    Ok(Some(bytes))
                }
                Err(error) if damaged && error.errno() == libc::EIO => Ok(None),
                Err(error) => Err(error),
            }
        };
        let pages = (0..size.div_ceil(PAGE)).map(|number| match number % LONG_PAGES_STEP {
            0 => page(number),
            _ => Ok(None),
        });
        return pages.collect::<Result<_, _>>().map(Content::Pages);
    }
    let mut bytes = vec![0xee; size as usize + 10];
    match fs.read(ino, 0, &mut bytes) {
        Ok(length) => {
            bytes.truncate(length);
            Ok(Content::File(bytes))
        }
        Err(error) if damaged && error.errno() == libc::EIO => {
            let page = |number: u64| {
                let mut bytes = vec![0; PAGE as usize];
                let length = fs.read(ino, number * PAGE, &mut bytes).ok()?;
                bytes.truncate(length);
                Some(bytes)
            };
            Ok(Content::Pages((0..size.div_ceil(PAGE)).map(page).collect()))
        }
        Err(error) => Err(error),
    }
}

fn read_xattrs(fs: &Fs, ino: Ino) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, FsError> {
    let names = fs.listxattr(ino, true)?;
    // All have the unit that the mount says.
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty() && *name != NAME_UNIT);
    names.map(|name| Ok((name.to_vec(), fs.getxattr(ino, name)?))).collect()
}

impl Tree {
    /// Every name, and what it leads to.
    pub(crate) fn names(&self) -> BTreeMap<(Ino, Vec<u8>), Ino> {
        let mut names = BTreeMap::new();
        for (parent, shown) in &self.inodes {
            if let Some(Shown { content: Content::Directory(entries), .. }) = shown {
                names.extend(entries.iter().map(|(name, ino)| ((*parent, name.clone()), *ino)));
            }
        }
        names
    }

    pub(crate) fn files_with_bytes(&self) -> impl Iterator<Item = Ino> {
        let files = self.inodes.iter().filter(|(_, shown)| {
            let shown = shown.as_ref().map(|shown| &shown.stat);
            shown.is_some_and(|stat| stat.kind == FileKind::Regular && stat.size > 0)
        });
        files.map(|(ino, _)| *ino)
    }

    /// Whether all that could be read is as the model says; otherwise what is not.
    pub(crate) fn compare(&self, model: &Model) -> Result<(), String> {
        let mut todo = vec![(String::new(), Fs::ROOT)];
        let mut seen = 0;
        while let Some((path, ino)) = todo.pop() {
            let node = model.nodes.get(&ino).ok_or_else(|| format!("{path:?} is not in the model"))?;
            let Some(shown) = self.inodes.get(&ino) else {
                return Err(format!("{path:?} is inode {ino}, which is not shown"));
            };
            seen += 1;
            let Some(shown) = shown else { continue };
            compare_inode(shown, node).map_err(|why| format!("{path:?} {why}"))?;
            if let (Content::Directory(_), Kind::Directory(entries)) = (&shown.content, &node.kind) {
                todo.extend(entries.iter().map(|(name, child)| (format!("{path}/{name}"), *child)));
            }
        }
        if seen < self.inodes.len() {
            return Err("more inodes are shown than there should be".into());
        }
        Ok(())
    }
}

fn compare_inode(shown: &Shown, node: &Node) -> Result<(), String> {
    let stat = &shown.stat;
    let (found, expected) =
        ((stat.size, stat.nlink, stat.permissions), (node.size(), node.nlink, node.permissions));
    if found != expected {
        return Err(format!("has size, links, mode {found:?} instead of {expected:?}"));
    }
    if let Some(times) = node.times
        && times != (stat.mtime, stat.ctime)
    {
        return Err(format!("has times {:?} instead of {times:?}", (stat.mtime, stat.ctime)));
    }
    if let Some(xattrs) = &shown.xattrs {
        let expected = node.xattrs.iter().map(|(name, value)| (name.as_bytes(), &value[..]));
        if !xattrs.iter().map(|(name, value)| (&name[..], &value[..])).eq(expected) {
            return Err(format!("has attributes {:?}", xattrs.keys()));
        }
    }
    match (&shown.content, &node.kind) {
        (Content::Unreadable, _) => Ok(()),
        (Content::Directory(entries), Kind::Directory(expected)) => {
            let expected = expected.iter().map(|(name, ino)| (name.as_bytes(), *ino));
            match entries.iter().map(|(name, ino)| (&name[..], *ino)).eq(expected) {
                true => Ok(()),
                false => Err(format!("has entries {entries:?}")),
            }
        }
        (Content::Symlink(target), Kind::Symlink(expected)) if target == expected.as_bytes() => Ok(()),
        (Content::File(bytes), Kind::File { size, .. }) => {
            if bytes.len() as u64 != *size {
                return Err(format!("reads {} bytes of {size}", bytes.len()));
            }
            let mut pages = bytes.chunks(PAGE as usize).enumerate();
            pages.try_for_each(|(number, page)| compare_page(page, number as u64, node))
        }
        (Content::Pages(pages), Kind::File { .. }) => {
            let readable = pages.iter().enumerate();
            let mut readable = readable.filter_map(|(number, page)| Some((number, page.as_deref()?)));
            readable.try_for_each(|(number, page)| compare_page(page, number as u64, node))
        }
        _ => Err("is of another kind".into()),
    }
}

fn compare_page(found: &[u8], number: u64, node: &Node) -> Result<(), String> {
    let Kind::File { pages, .. } = &node.kind else { return Ok(()) };
    let right = match pages.get(&number) {
        Some(page) => found == &page[..found.len()],
        None => found == &[0; PAGE as usize][..found.len()],
    };
    match right {
        true => Ok(()),
        false => Err(format!("has wrong bytes in its page {number}: {:?}…", &found[..found.len().min(8)])),
    }
}
