//! link, unlink, rmdir, and how long what has no name lives.

mod support;

use blocktree_engine::Store;
use blocktree_vfs::layout::ITEM_ENTRY;
use blocktree_vfs::{Caller, Fs, MountOptions, OpenFlags, repair};
use support::*;

#[test]
fn two_names_are_one_file() {
    let fs = mount();
    let file = fs.file_with(ROOT, "a", b"one");
    let before = fs.stat(file);
    let linked = fs.link(file, ROOT, b"b").unwrap();
    assert_eq!((linked.ino, linked.nlink), (file, 2));
    assert!(linked.ctime > before.ctime && linked.mtime == before.mtime);
    fs.put(file, 3, b" two");
    fs.unlink(ROOT, b"a").unwrap();
    assert_eq!(fs.find(ROOT, "b").unwrap(), file);
    assert_eq!((fs.stat(file).nlink, fs.bytes(file)), (1, b"one two".to_vec()));
}

#[test]
fn link_says_why_not() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    let dir = fs.dir(ROOT, "d");
    fails(fs.link(dir, ROOT, b"x"), libc::EPERM);
    fails(fs.link(file, ROOT, b"f"), libc::EEXIST);
    fails(fs.link(file, file, b"x"), libc::ENOTDIR);
    fails(fs.link(file, dir, "n".repeat(256).as_bytes()), libc::ENAMETOOLONG);
    fs.unlink(ROOT, b"f").unwrap();
    fails(fs.link(file, ROOT, b"back"), libc::ENOENT);
    assert!(fs.names(dir).is_empty());
}

#[test]
fn a_nameless_file_gets_a_name_once() {
    let fs = mount();
    let dir = fs.dir(ROOT, "d");
    let before = fs.stat(dir);
    let made = fs.make_nameless(&USER, dir, 0o640).unwrap();
    assert_eq!((made.nlink, made.permissions, made.uid), (0, 0o640, USER.uid));
    assert_eq!(fs.stat(dir), before);
    assert!(fs.names(dir).is_empty());
    let file = made.ino;
    fs.put(file, 0, b"in the dark");
    fs.fsync(file, false).unwrap();
    assert_eq!(fs.store().orphans().unwrap(), [file]);
    fails(fs.link(file, dir, b""), libc::ENOENT);
    fails(fs.link(file, ROOT, b"d"), libc::EEXIST);
    assert_eq!(fs.link(file, dir, b"f").unwrap().nlink, 1);
    assert!(fs.store().orphans().unwrap().is_empty());
    fs.release(file, None);
    fs.forget(file, 2);
    assert_eq!(fs.find(dir, "f").unwrap(), file);
    assert_eq!(fs.bytes(file), b"in the dark");
    fs.open(file, OpenFlags::default()).unwrap();
    fs.unlink(dir, b"f").unwrap();
    fails(fs.link(file, dir, b"again"), libc::ENOENT);
    fs.release(file, None);
    assert!(fs.store().block(file).unwrap().is_none());
}

#[test]
fn a_nameless_file_ends_with_its_last_use() {
    let fs = mount();
    let file = fs.make_nameless(&USER, ROOT, 0o600).unwrap().ino;
    fails(fs.link(file, file, b"x"), libc::ENOTDIR);
    fs.put(file, 0, &[1; 100_000]);
    fs.release(file, None);
    assert_eq!(fs.stat(file).size, 100_000);
    fs.forget(file, 1);
    assert!(fs.store().block(file).unwrap().is_none());
    assert!(fs.store().orphans().unwrap().is_empty());
    // Nor does it outlive the mount, however that ends.
    let file = fs.make_nameless(&USER, ROOT, 0o600).unwrap().ino;
    fs.fsync(file, false).unwrap();
    let fs = Fs::mount(fs.store().clone(), MountOptions::default()).unwrap();
    assert!(fs.store().block(file).unwrap().is_none());
    let file = fs.file(ROOT, "f");
    fails(fs.make_nameless(&USER, file, 0o600), libc::ENOTDIR);
}

#[test]
fn a_nameless_file_takes_after_its_directory() {
    let fs = mount();
    let dir = fs.dir(ROOT, "d");
    fs.chmod(dir, 0o2755);
    let made = fs.make_nameless(&Caller { gid: 77, umask: 0o027, ..USER }, dir, 0o666).unwrap();
    assert_eq!((made.gid, made.permissions), (USER.gid, 0o640));
}

#[test]
fn unlink_and_rmdir_say_why_not() {
    let fs = mount();
    fs.file(ROOT, "f");
    let dir = fs.dir(ROOT, "d");
    fs.file(dir, "x");
    fails(fs.unlink(ROOT, b"d"), libc::EISDIR);
    fails(fs.rmdir(ROOT, b"f"), libc::ENOTDIR);
    fails(fs.rmdir(ROOT, b"d"), libc::ENOTEMPTY);
    fails(fs.rmdir(ROOT, b"."), libc::EINVAL);
    fails(fs.rmdir(ROOT, b".."), libc::ENOTEMPTY);
    fails(fs.unlink(ROOT, b"none"), libc::ENOENT);
    fails(fs.rmdir(ROOT, b"none"), libc::ENOENT);
    fs.unlink(dir, b"x").unwrap();
    fs.rmdir(ROOT, b"d").unwrap();
    assert_eq!(fs.names(ROOT), ["f"]);
    assert_eq!(fs.stat(ROOT).nlink, 2);
    assert_eq!(fs.stat(dir).nlink, 0);
}

#[test]
fn an_open_file_outlives_its_name() {
    let fs = mount();
    let file = fs.file_with(ROOT, "f", b"still here");
    fs.open(file, OpenFlags { write: true, ..Default::default() }).unwrap();
    fs.unlink(ROOT, b"f").unwrap();
    fs.forget(file, 1);
    fails(fs.lookup(ROOT, b"f"), libc::ENOENT);
    assert_eq!(fs.stat(file).nlink, 0);
    assert_eq!(fs.bytes(file), b"still here");
    fs.put(file, 0, b"STILL");
    assert_eq!(fs.bytes(file), b"STILL here");
    assert_eq!(fs.store().orphans().unwrap(), [file]);
    fs.release(file, None);
    assert!(fs.store().orphans().unwrap().is_empty());
    assert!(fs.store().block(file).unwrap().is_none());
    fails(fs.getattr(file), libc::ESTALE);
}

#[test]
fn a_known_file_outlives_its_name() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.lookup(ROOT, b"f").unwrap();
    fs.unlink(ROOT, b"f").unwrap();
    fs.forget(file, 1);
    assert!(fs.store().block(file).unwrap().is_some());
    fs.forget(file, 1);
    assert!(fs.store().block(file).unwrap().is_none());
}

#[test]
fn an_unknown_file_goes_with_its_name() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.forget(file, 1);
    fs.unlink(ROOT, b"f").unwrap();
    assert!(fs.store().orphans().unwrap().is_empty());
    assert!(fs.store().block(file).unwrap().is_none());
}

#[test]
fn orphans_of_a_crash_end_with_the_next_mount() {
    let store = store();
    let file = {
        let fs = Fs::mount(store.clone(), MountOptions::default()).unwrap();
        let file = fs.file(ROOT, "f");
        fs.unlink(ROOT, b"f").unwrap();
        file
    };
    assert_eq!(store.orphans().unwrap(), [file]);
    Fs::mount(store.clone(), MountOptions::default()).unwrap();
    assert!(store.orphans().unwrap().is_empty());
    assert!(store.block(file).unwrap().is_none());
}

#[test]
fn unmount_ends_what_is_still_open() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.unlink(ROOT, b"f").unwrap();
    fs.unmount().unwrap();
    assert!(fs.store().block(file).unwrap().is_none());
}

#[test]
fn lookups_and_unlinks_at_once_never_meet_a_dead_inode() {
    let fs = mount_with(MountOptions::default());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2000 {
                let ino = fs.file(ROOT, "f");
                fs.forget(ino, 1);
                fs.unlink(ROOT, b"f").unwrap();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..4000 {
                    match fs.lookup(ROOT, b"f") {
                        Ok(stat) => {
                            fs.getattr(stat.ino).unwrap();
                            fs.forget(stat.ino, 1);
                        }
                        Err(error) => assert_eq!(error.errno(), libc::ENOENT),
                    }
                }
            });
        }
    });
    assert!(fs.store().orphans().unwrap().is_empty());
}

/// A store in which a file of `a` has a name in `b` too, and belongs to `a` alone.
fn misplaced(prepare: impl FnOnce(&Fs, u64, u64)) -> (Store, u64, u64) {
    let fs = mount();
    let (a, b) = (fs.dir(ROOT, "a"), fs.dir(ROOT, "b"));
    let file = fs.file_with(a, "f", b"bytes");
    fs.link(file, b, b"f").unwrap();
    prepare(&fs, b, file);
    fs.unmount().unwrap();
    let store = fs.store().clone();
    let block = store.block(file).unwrap().unwrap();
    let mut transaction = store.transaction();
    transaction.set_attributes_and_home(&block, &store.attributes(&block).unwrap(), a);
    transaction.apply().unwrap();
    (store, b, file)
}

fn found(store: &Store, repair: bool) -> Vec<(String, bool)> {
    let findings = repair::examine(store, repair).unwrap();
    findings.iter().map(|one| (one.path.display().to_string(), one.repaired)).collect()
}

#[test]
fn a_file_that_does_not_belong_where_it_has_a_name_is_repaired() {
    let (store, b, file) = misplaced(|_, _, _| ());
    fails(Fs::mount(store.clone(), MountOptions::default()).unwrap().find(b, "f"), libc::EIO);
    assert_eq!(found(&store, false), [("/a/f".into(), false)]);
    assert_eq!(found(&store, true), [("/a/f".into(), true)]);
    assert_eq!(found(&store, false), []);
    let fs = Fs::mount(store, MountOptions::default()).unwrap();
    assert_eq!((fs.find(b, "f").unwrap(), fs.stat(file).nlink, fs.bytes(file)), (file, 2, b"bytes".to_vec()));
}

#[test]
fn a_name_that_its_file_does_not_count_is_removed() {
    let mut planted = Vec::new();
    let (store, b, file) = misplaced(|fs, b, _| {
        let block = fs.store().block(b).unwrap().unwrap();
        planted = fs.store().scan(&block, ITEM_ENTRY, 0, 9).unwrap();
        fs.unlink(b, b"f").unwrap();
    });
    let block = store.block(b).unwrap().unwrap();
    let mut transaction = store.transaction();
    for (position, item) in &planted {
        transaction.put(&block, ITEM_ENTRY, *position, &item.clear, &item.secret);
    }
    transaction.apply().unwrap();
    assert_eq!(found(&store, true), [("/b/f".into(), true)]);
    assert_eq!(found(&store, false), []);
    let fs = Fs::mount(store, MountOptions::default()).unwrap();
    assert_eq!((fs.names(b), fs.stat(file).nlink, fs.bytes(file)), (vec![], 1, b"bytes".to_vec()));
}
