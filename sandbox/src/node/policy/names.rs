//! Under which names something is found below a granted directory.
//!
//! A directory has one name and knows what it is in. Of a file, the tree tells a directory above all of its names, no more: if it
//! has several, they are looked for.

use std::sync::Arc;

use blocktree_vfs::{FileKind, Fs, FsError, Ino, Result, Stat};

use crate::limits::{PATH_BYTES_MAX, POLICY_SEARCH_ENTRIES_MAX};
use crate::node::folder::Held;
use crate::node::grants::names_below;

type Names = Vec<Vec<u8>>;

/// The path of a name below a granted directory.
pub(super) fn path_below(fs: &Arc<Fs>, top: Ino, parent: Ino, name: &[u8]) -> Result<Option<String>> {
    names_below(fs, top, parent)?.map(|names| path(&joined(&names, name))).transpose()
}

/// All paths below a granted directory that lead to something. Fails where there is too much to look at.
pub(super) fn paths_below(fs: &Arc<Fs>, top: Ino, stat: &Stat) -> Result<Vec<String>> {
    let found = match stat.kind {
        FileKind::Directory => names_below(fs, top, stat.ino)?.into_iter().collect(),
        _ if stat.nlink == 0 => Vec::new(),
        _ if stat.nlink == 1 => match known_name(fs, top, stat.ino)? {
            Some(known) => known.into_iter().collect(),
            None => search(fs, top, stat, POLICY_SEARCH_ENTRIES_MAX)?,
        },
        _ => search(fs, top, stat, POLICY_SEARCH_ENTRIES_MAX)?,
    };
    found.iter().filter(|names| !names.is_empty()).map(|names| path(names)).collect()
}

/// The name by which a file was found last; the inner `None` if that is not below `top`, the outer one if it is not known.
fn known_name(fs: &Arc<Fs>, top: Ino, ino: Ino) -> Result<Option<Option<Names>>> {
    let Some(known) = fs.known_name(ino)? else { return Ok(None) };
    match Held::lookup(fs, known.parent, &known.name) {
        Ok(held) if held.ino() == ino => {}
        // Something else has the name by now, or nothing.
        Ok(_) | Err(FsError::NotFound | FsError::Stale | FsError::NotDirectory) => return Ok(None),
        Err(error) => return Err(error),
    }
    let above = names_below(fs, top, known.parent)?;
    Ok(Some(above.map(|above| joined(&above, &known.name))))
}

/// Looks through the directories in which a name can be, at so many entries at most.
fn search(fs: &Arc<Fs>, top: Ino, stat: &Stat, most: usize) -> Result<Vec<Names>> {
    let above = fs.directory_above(stat.ino)?;
    let start = match names_below(fs, top, above)? {
        Some(names) => (above, names),
        None if names_below(fs, above, top)?.is_some() => (top, Vec::new()),
        None => return Ok(Vec::new()),
    };
    let (mut found, mut left) = (Vec::new(), most);
    let mut directories = vec![start];
    while let Some((directory, names)) = directories.pop() {
        let looked = fs.readdir(directory, 0, &mut |entry| {
            if matches!(entry.name, b"." | b"..") {
                return true;
            }
            if left == 0 {
                return false;
            }
            left -= 1;
            if entry.kind == FileKind::Directory {
                directories.push((entry.ino, joined(&names, entry.name)));
            } else if entry.ino == stat.ino {
                found.push(joined(&names, entry.name));
            }
            true
        });
        match looked {
            // It was removed meanwhile.
            Err(FsError::NotFound | FsError::Stale) => {}
            looked => looked?,
        }
        if found.len() >= stat.nlink as usize {
            break;
        }
        if left == 0 {
            return Err(FsError::TooLarge);
        }
    }
    Ok(found)
}

fn joined(names: &[Vec<u8>], name: &[u8]) -> Names {
    names.iter().cloned().chain([name.to_owned()]).collect()
}

/// For the app: what is no UTF-8 is replaced.
fn path(names: &[Vec<u8>]) -> Result<String> {
    let path = String::from_utf8_lossy(&names.join(&b'/')).into_owned();
    if path.len() > PATH_BYTES_MAX { Err(FsError::NameTooLong) } else { Ok(path) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::tests::World;
    use crate::package::Rights;

    fn paths(world: &World, ino: Ino) -> Result<Vec<String>> {
        let mut paths = paths_below(&world.fs, world.top, &world.fs.getattr(ino).unwrap())?;
        paths.sort();
        Ok(paths)
    }

    #[test]
    fn a_file_is_known_by_all_its_names_below_a_grant() {
        let world = World::new(Rights::Read);
        let outside = world.dir(Fs::ROOT, "outside");
        let (sub, deep) = (world.dir(world.top, "sub"), world.dir(world.top, "deep"));
        let deeper = world.dir(deep, "deeper");
        let file = world.put(outside, "file", b"1");
        let none: [&str; 0] = [];
        assert_eq!(paths(&world, file).unwrap(), none);
        world.fs.link(file, sub, b"one").unwrap();
        world.fs.link(file, deeper, b"two").unwrap();
        world.fs.link(file, outside, b"again").unwrap();
        world.fs.lookup(outside, b"again").unwrap();
        assert_eq!(paths(&world, file).unwrap(), ["deep/deeper/two", "sub/one"]);
        assert_eq!(paths(&world, world.put(sub, "other", b"1")).unwrap(), ["sub/other"]);
        world.fs.rename(world.top, b"deep", outside, b"deep", Default::default()).unwrap();
        assert_eq!(paths(&world, file).unwrap(), ["sub/one"]);
        world.fs.rename(outside, b"deep", sub, b"in", Default::default()).unwrap();
        assert_eq!(paths(&world, file).unwrap(), ["sub/in/deeper/two", "sub/one"]);
        // The name that was seen last goes: the others are found all the same.
        world.fs.lookup(outside, b"again").unwrap();
        world.fs.unlink(outside, b"again").unwrap();
        world.fs.unlink(outside, b"file").unwrap();
        world.fs.lookup(sub, b"one").unwrap();
        world.fs.unlink(sub, b"one").unwrap();
        assert_eq!(paths(&world, file).unwrap(), ["sub/in/deeper/two"]);
    }

    #[test]
    fn where_there_is_too_much_to_look_at_nothing_is_claimed() {
        let world = World::new(Rights::Read);
        let file = world.put(world.top, "file", b"1");
        let outside = world.dir(Fs::ROOT, "outside");
        world.fs.link(file, outside, b"again").unwrap();
        for number in 0..10 {
            world.put(world.top, &number.to_string(), b"1");
        }
        let stat = world.fs.getattr(file).unwrap();
        assert!(matches!(search(&world.fs, world.top, &stat, 10), Err(FsError::TooLarge)));
        assert_eq!(search(&world.fs, world.top, &stat, 20).unwrap(), [[b"file"]]);
        // Elsewhere there is nothing to look at.
        assert_eq!(search(&world.fs, world.dir(outside, "sub"), &stat, 1).unwrap(), [[b"file"]; 0]);
    }

    #[test]
    fn a_directory_has_one_name_and_the_granted_one_none() {
        let world = World::new(Rights::Read);
        let sub = world.dir(world.top, "sub");
        let deep = world.dir(sub, "deep");
        let outside = world.dir(Fs::ROOT, "outside");
        assert_eq!(paths(&world, deep).unwrap(), ["sub/deep"]);
        for ino in [world.top, outside, Fs::ROOT] {
            assert_eq!(paths(&world, ino).unwrap(), [""; 0]);
        }
    }
}
