//! renameat2.

mod support;

use blocktree_vfs::layout::ITEM_ENTRY;
use blocktree_vfs::{FileKind, Fs, MountOptions, RenameFlags, repair};
use support::*;

const PLAIN: RenameFlags = RenameFlags { no_replace: false, exchange: false, whiteout: None };
const NO_REPLACE: RenameFlags = RenameFlags { no_replace: true, ..PLAIN };
const WHITEOUT: RenameFlags = RenameFlags { whiteout: Some(USER), ..PLAIN };
const EXCHANGE: RenameFlags = RenameFlags { exchange: true, ..PLAIN };

fn nlinks(fs: &Fs, inos: &[u64]) -> Vec<u32> {
    inos.iter().map(|ino| fs.stat(*ino).nlink).collect()
}

#[test]
fn a_file_moves() {
    let fs = mount();
    let dir = fs.dir(ROOT, "d");
    let file = fs.file_with(ROOT, "f", b"bytes");
    let before = fs.stat(file);
    fs.rename(ROOT, b"f", dir, b"g", PLAIN).unwrap();
    assert_eq!(fs.find(dir, "g").unwrap(), file);
    fails(fs.find(ROOT, "f"), libc::ENOENT);
    assert_eq!((fs.bytes(file), fs.stat(file).nlink), (b"bytes".to_vec(), 1));
    assert!(fs.stat(file).ctime > before.ctime && fs.stat(file).mtime == before.mtime);
    assert_eq!((fs.stat(ROOT).size, fs.stat(dir).size), (1, 1));
    fs.rename(dir, b"g", dir, b"h", PLAIN).unwrap();
    assert_eq!(fs.names(dir), ["h"]);
    fs.rename(dir, b"h", dir, b"h", PLAIN).unwrap();
    assert_eq!(fs.names(dir), ["h"]);
}

#[test]
fn a_directory_takes_its_parent_along() {
    let fs = mount();
    let (a, b) = (fs.dir(ROOT, "a"), fs.dir(ROOT, "b"));
    let moved = fs.dir(a, "m");
    assert_eq!(nlinks(&fs, &[ROOT, a, b]), [4, 3, 2]);
    fs.rename(a, b"m", b, b"m", PLAIN).unwrap();
    assert_eq!(nlinks(&fs, &[ROOT, a, b]), [4, 2, 3]);
    assert_eq!(fs.find(moved, "..").unwrap(), b);
    fs.rename(b, b"m", b, b"n", PLAIN).unwrap();
    assert_eq!(nlinks(&fs, &[a, b]), [2, 3]);
}

#[test]
fn what_is_replaced_ends() {
    let fs = mount();
    let old = fs.file(ROOT, "old");
    fs.forget(old, 1);
    let new = fs.file(ROOT, "new");
    fs.rename(ROOT, b"new", ROOT, b"old", PLAIN).unwrap();
    assert_eq!((fs.names(ROOT), fs.find(ROOT, "old").unwrap()), (vec!["old".to_string()], new));
    assert!(fs.store().block(old).unwrap().is_none());

    let (a, b) = (fs.dir(ROOT, "a"), fs.dir(ROOT, "b"));
    fs.rename(ROOT, b"a", ROOT, b"b", PLAIN).unwrap();
    assert_eq!(nlinks(&fs, &[ROOT, a, b]), [3, 2, 0]);
    assert_eq!(fs.stat(ROOT).size, 2);
    assert_eq!(fs.store().orphans().unwrap(), [b]);
    fs.forget(b, 1);
    assert!(fs.store().orphans().unwrap().is_empty());
}

#[test]
fn replacing_across_directories_counts_links() {
    let fs = mount();
    let (a, b) = (fs.dir(ROOT, "a"), fs.dir(ROOT, "b"));
    fs.dir(a, "x");
    fs.dir(b, "x");
    fs.rename(a, b"x", b, b"x", PLAIN).unwrap();
    assert_eq!(nlinks(&fs, &[a, b]), [2, 3]);
    assert_eq!((fs.stat(a).size, fs.stat(b).size), (0, 1));
}

#[test]
fn types_must_fit() {
    let fs = mount();
    let dir = fs.dir(ROOT, "d");
    fs.file(ROOT, "f");
    fs.file(dir, "x");
    fs.dir(ROOT, "e");
    fails(fs.rename(ROOT, b"d", ROOT, b"f", PLAIN), libc::ENOTDIR);
    fails(fs.rename(ROOT, b"f", ROOT, b"d", PLAIN), libc::EISDIR);
    fails(fs.rename(ROOT, b"e", ROOT, b"d", PLAIN), libc::ENOTEMPTY);
    fails(fs.rename(ROOT, b"none", ROOT, b"d", PLAIN), libc::ENOENT);
    fails(fs.rename(ROOT, b"f", ROOT, "n".repeat(256).as_bytes(), PLAIN), libc::ENAMETOOLONG);
    fails(fs.rename(ROOT, b".", ROOT, b"x", PLAIN), libc::EINVAL);
    let file = fs.find(ROOT, "f").unwrap();
    fails(fs.rename(ROOT, b"d", file, b"x", PLAIN), libc::ENOTDIR);
    assert_eq!(fs.names(ROOT), ["d", "e", "f"]);
}

#[test]
fn a_directory_does_not_move_below_itself() {
    let fs = mount();
    let a = fs.dir(ROOT, "a");
    let b = fs.dir(a, "b");
    let c = fs.dir(b, "c");
    for target in [a, b, c] {
        fails(fs.rename(ROOT, b"a", target, b"x", PLAIN), libc::EINVAL);
    }
    fails(fs.rename(ROOT, b"a", b, b"c", EXCHANGE), libc::EINVAL);
    fails(fs.rename(b, b"c", ROOT, b"a", EXCHANGE), libc::EINVAL);
    fails(fs.rename(b, b"c", ROOT, b"a", PLAIN), libc::ENOTEMPTY);
}

#[test]
fn two_names_of_one_file_stay() {
    let fs = mount();
    let file = fs.file(ROOT, "a");
    fs.link(file, ROOT, b"b").unwrap();
    fs.rename(ROOT, b"a", ROOT, b"b", PLAIN).unwrap();
    assert_eq!((fs.names(ROOT).len(), fs.stat(file).nlink), (2, 2));
    fails(fs.rename(ROOT, b"a", ROOT, b"b", NO_REPLACE), libc::EEXIST);
}

#[test]
fn no_replace_replaces_nothing() {
    let fs = mount();
    let a = fs.file(ROOT, "a");
    fs.file(ROOT, "b");
    fails(fs.rename(ROOT, b"a", ROOT, b"b", NO_REPLACE), libc::EEXIST);
    fs.rename(ROOT, b"a", ROOT, b"c", NO_REPLACE).unwrap();
    assert_eq!(fs.find(ROOT, "c").unwrap(), a);
}

#[test]
fn exchange_swaps() {
    let fs = mount();
    let dir = fs.dir(ROOT, "d");
    let below = fs.dir(dir, "b");
    let file = fs.file(ROOT, "f");
    fs.rename(ROOT, b"f", dir, b"b", EXCHANGE).unwrap();
    assert_eq!((fs.find(ROOT, "f").unwrap(), fs.find(dir, "b").unwrap()), (below, file));
    assert_eq!(fs.find(below, "..").unwrap(), ROOT);
    assert_eq!(nlinks(&fs, &[ROOT, dir, below, file]), [4, 2, 2, 1]);
    assert_eq!((fs.stat(ROOT).size, fs.stat(dir).size), (2, 1));
    fs.rename(ROOT, b"f", ROOT, b"d", EXCHANGE).unwrap();
    assert_eq!((fs.find(ROOT, "f").unwrap(), fs.find(ROOT, "d").unwrap()), (dir, below));
    fails(fs.rename(ROOT, b"f", ROOT, b"none", EXCHANGE), libc::ENOENT);
    let both = RenameFlags { no_replace: true, exchange: true, ..PLAIN };
    fails(fs.rename(ROOT, b"f", ROOT, b"d", both), libc::EINVAL);
}

#[test]
fn flags_come_from_bits() {
    assert_eq!(RenameFlags::from_bits(libc::RENAME_EXCHANGE, USER).unwrap(), EXCHANGE);
    assert_eq!(RenameFlags::from_bits(libc::RENAME_WHITEOUT, USER).unwrap(), WHITEOUT);
    fails(RenameFlags::from_bits(8, USER), libc::EINVAL);
}

#[test]
fn a_whiteout_takes_the_old_name() {
    let fs = mount();
    let (from, to) = (fs.dir(ROOT, "from"), fs.dir(ROOT, "to"));
    let (file, victim) = (fs.file_with(from, "f", b"x"), fs.file(to, "f"));
    fs.rename(from, b"f", to, b"f", WHITEOUT).unwrap();
    assert_eq!((fs.find(to, "f").unwrap(), fs.bytes(file)), (file, b"x".to_vec()));
    assert_eq!(fs.stat(victim).nlink, 0);
    let left = fs.lookup(from, b"f").unwrap();
    assert_eq!((left.kind, left.rdev, left.permissions), (FileKind::CharacterDevice, 0, 0));
    assert_eq!((left.uid, left.gid, left.nlink), (USER.uid, USER.gid, 1));
    assert_eq!((fs.stat(from).size, fs.stat(to).size), (1, 1));
    fs.forget(left.ino, 1);

    // Also of a directory, and within one; then it is moved and removed as any other file.
    fs.rename(ROOT, b"to", ROOT, b"moved", WHITEOUT).unwrap();
    assert_eq!(fs.names(ROOT), ["from", "moved", "to"]);
    assert_eq!(fs.stat(ROOT).nlink, 4);
    fs.rename(ROOT, b"to", from, b"f", PLAIN).unwrap();
    fs.unlink(from, b"f").unwrap();
    fs.rmdir(ROOT, b"from").unwrap();
    let both = RenameFlags { exchange: true, ..WHITEOUT };
    fails(fs.rename(ROOT, b"moved", ROOT, b"moved", both), libc::EINVAL);
}

/// Two names of each file; some of them move out of the directory above both, with all that is around them.
#[test]
fn a_directory_takes_files_along_that_have_names_elsewhere() {
    let fs = mount();
    let (a, other) = (fs.dir(ROOT, "a"), fs.dir(ROOT, "other"));
    let (b, stays) = (fs.dir(a, "b"), fs.dir(a, "stays"));
    let deep = fs.dir(fs.dir(b, "c"), "d");
    let names: Vec<String> = (0..700).map(|number| number.to_string()).collect();
    for (number, name) in names.iter().enumerate() {
        let file = fs.file_with(if number % 2 == 0 { a } else { stays }, name, name.as_bytes());
        fs.link(file, if number % 3 == 0 { b } else { deep }, name.as_bytes()).unwrap();
    }
    let own = fs.file(deep, "own");
    fs.link(own, b, b"own").unwrap();
    let all_there = |fs: &Fs, at: &str| {
        for (number, name) in names.iter().enumerate() {
            let file = fs.find(if number % 2 == 0 { a } else { stays }, name).unwrap();
            assert_eq!(fs.find(if number % 3 == 0 { b } else { deep }, name).unwrap(), file, "{at}: {name}");
            assert_eq!(fs.bytes(file), name.as_bytes(), "{at}");
        }
        assert_eq!((fs.find(deep, "own").unwrap(), fs.find(b, "own").unwrap()), (own, own), "{at}");
    };
    // Deeper first, which needs nothing.
    fs.rename(a, b"b", stays, b"b", PLAIN).unwrap();
    all_there(&fs, "deeper");
    assert_eq!(fs.directory_above(fs.find(a, "0").unwrap()).unwrap(), a);
    fs.rename(stays, b"b", other, b"b", PLAIN).unwrap();
    all_there(&fs, "elsewhere");
    assert_eq!(fs.directory_above(fs.find(a, "0").unwrap()).unwrap(), ROOT);
    assert_eq!(fs.directory_above(own).unwrap(), b, "all its names moved with it");

    let within = fs.dir(a, "within");
    let twice = fs.file(within, "twice");
    fs.link(twice, a, b"twice").unwrap();
    fs.rename(other, b"b", a, b"within", EXCHANGE).unwrap();
    all_there(&fs, "exchanged");
    assert_eq!((fs.find(within, "twice").unwrap(), fs.find(a, "twice").unwrap()), (twice, twice));
    assert_eq!(fs.find(within, "..").unwrap(), other);

    fs.unmount().unwrap();
    let store = fs.store().clone();
    drop(fs);
    assert_eq!(repair::examine(&store, false).unwrap(), []);
    all_there(&Fs::mount(store, MountOptions::default()).unwrap(), "mounted again");
}

#[test]
fn what_is_planted_below_a_directory_does_not_keep_it_from_moving() {
    let fs = mount();
    let (a, other) = (fs.dir(ROOT, "a"), fs.dir(ROOT, "other"));
    let top = fs.dir(a, "top");
    let first = fs.dir(top, "first");
    let second = fs.dir(first, "second");
    let file = fs.file(a, "file");
    fs.link(file, second, b"file").unwrap();
    let block = |ino| fs.store().block(ino).unwrap().unwrap();
    let (top_block, second_block) = (block(top), block(second));
    let mut transaction = fs.store().transaction();
    // A second name of a directory, in one below it; and what is no entry.
    for (position, item) in fs.store().scan(&top_block, ITEM_ENTRY, 0, 9).unwrap() {
        transaction.put(&second_block, ITEM_ENTRY, position + 1, &item.clear, &item.secret);
    }
    transaction.put(&second_block, ITEM_ENTRY, 1 << 40, b"clear", b"secret");
    transaction.apply().unwrap();
    fs.rename(a, b"top", other, b"top", PLAIN).unwrap();
    assert_eq!((fs.find(second, "file").unwrap(), fs.find(a, "file").unwrap()), (file, file));
}

#[test]
fn a_rename_that_fails_leaves_homes_as_they_are() {
    let fs = mount();
    let (a, other) = (fs.dir(ROOT, "a"), fs.dir(ROOT, "other"));
    let b = fs.dir(a, "b");
    let file = fs.file(a, "file");
    fs.link(file, b, b"file").unwrap();
    let full = fs.dir(other, "full");
    fs.file(full, "something");
    fails(fs.rename(a, b"b", other, b"full", PLAIN), libc::ENOTEMPTY);
    assert_eq!(fs.directory_above(file).unwrap(), a);
    fs.rename(a, b"b", other, b"full", EXCHANGE).unwrap();
    assert_eq!(fs.directory_above(file).unwrap(), ROOT);
    assert_eq!(fs.find(b, "file").unwrap(), file);
}

#[test]
fn renames_at_once_make_no_loop() {
    let fs = mount_with(MountOptions::default());
    let (a, b) = (fs.dir(ROOT, "a"), fs.dir(ROOT, "b"));
    std::thread::scope(|scope| {
        for (from, to, into) in [("a", "x", b), ("b", "y", a)] {
            let fs = &fs;
            scope.spawn(move || {
                for _ in 0..500 {
                    if fs.rename(ROOT, from.as_bytes(), into, to.as_bytes(), PLAIN).is_ok() {
                        fs.rename(into, to.as_bytes(), ROOT, from.as_bytes(), PLAIN).unwrap();
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..500 {
                let _ = fs.rename(ROOT, b"a", ROOT, b"b", EXCHANGE);
            }
        });
    });
    // Both are reached from the root still.
    for ino in [a, b] {
        let mut at = ino;
        for _ in 0..3 {
            at = fs.find(at, "..").unwrap();
        }
        assert_eq!(at, ROOT);
    }
}
