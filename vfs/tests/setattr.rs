//! chmod, chown, truncate, utimensat.

mod support;

use blocktree_vfs::{OpenFlags, SetAttributes, SetTime, Stat, Time};
use support::*;

const NONE: SetAttributes = SetAttributes {
    permissions: None,
    uid: None,
    gid: None,
    size: None,
    atime: None,
    mtime: None,
    ctime: None,
    kill_privileges: false,
};

fn set(fs: &blocktree_vfs::Fs, ino: u64, changes: SetAttributes) -> Stat {
    fs.setattr(&USER, ino, &changes).unwrap()
}

#[test]
fn chmod_sets_all_twelve_bits() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    let before = fs.stat(file);
    for permissions in [0, 0o7777, 0o1644, 0o100_600] {
        assert_eq!(
            set(&fs, file, SetAttributes { permissions: Some(permissions), ..NONE }).permissions,
            permissions & 0o7777
        );
    }
    assert!(fs.stat(file).ctime > before.ctime);
    assert_eq!(fs.stat(file).mtime, before.mtime);
}

#[test]
fn chown_takes_privileges() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.chmod(file, 0o6755);
    let owned = set(&fs, file, SetAttributes { uid: Some(5), ..NONE });
    assert_eq!((owned.uid, owned.gid, owned.permissions), (5, 1000, 0o755));
    fs.chmod(file, 0o6745);
    assert_eq!(set(&fs, file, SetAttributes { gid: Some(6), ..NONE }).permissions, 0o2745);
    let dir = fs.dir(ROOT, "d");
    fs.chmod(dir, 0o6755);
    assert_eq!(set(&fs, dir, SetAttributes { uid: Some(5), ..NONE }).permissions, 0o6755);
    assert_eq!(set(&fs, dir, SetAttributes { uid: Some(u32::MAX - 1), ..NONE }).uid, u32::MAX - 1);
}

#[test]
fn times_are_kept_to_the_nanosecond() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    for time in [
        Time::new(1 << 33, 123_456_789),
        Time::new(-1, 999_999_999),
        Time::new(i64::MAX, 0),
        Time::new(i64::MIN, 1),
        Time::new(0, 0),
    ] {
        let changes =
            SetAttributes { atime: Some(SetTime::At(time)), mtime: Some(SetTime::At(time)), ..NONE };
        let stat = set(&fs, file, changes);
        assert_eq!((stat.atime, stat.mtime), (time, time));
        assert!(stat.ctime.seconds >= 2_000_000_000);
    }
    let changes = SetAttributes { mtime: Some(SetTime::Now), ..NONE };
    let stat = set(&fs, file, changes);
    assert_eq!(stat.mtime, stat.ctime);
    assert_eq!(stat.atime, Time::new(0, 0));
    let ctime = SetAttributes { ctime: Some(SetTime::At(Time::new(7, 8))), ..NONE };
    assert_eq!(set(&fs, file, ctime).ctime, Time::new(7, 8));
    let bad = SetAttributes { atime: Some(SetTime::At(Time::new(0, 1_000_000_000))), ..NONE };
    fails(fs.setattr(&USER, file, &bad), libc::EINVAL);
}

#[test]
fn truncate_changes_the_length_and_the_times() {
    let fs = mount();
    let file = fs.file_with(ROOT, "f", &[7; 10_000]);
    for size in [10_000, 5000, 4096, 1, 0, 100, 1 << 40] {
        let before = fs.stat(file);
        let after = fs.truncate(file, size).unwrap();
        assert_eq!(after.size, size);
        assert!(after.mtime > before.mtime && after.ctime == after.mtime);
    }
    assert_eq!(fs.stat(file).blocks, 0);
    fails(fs.truncate(ROOT, 0), libc::EISDIR);
    let link = fs.symlink(&USER, ROOT, b"l", b"t").unwrap().ino;
    fails(fs.truncate(link, 0), libc::EINVAL);
}

#[test]
fn truncate_takes_privileges_if_told() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.chmod(file, 0o4755);
    assert_eq!(fs.truncate(file, 0).unwrap().permissions, 0o4755);
    let changes = SetAttributes { size: Some(0), kill_privileges: true, ..NONE };
    assert_eq!(set(&fs, file, changes).permissions, 0o755);
}

#[test]
fn opening_may_truncate() {
    let fs = mount();
    let file = fs.file_with(ROOT, "f", b"bytes");
    fs.open(file, OpenFlags { write: true, truncate: true, ..OpenFlags::default() }).unwrap();
    assert_eq!(fs.stat(file).size, 0);
    fails(fs.open(ROOT, OpenFlags { write: true, ..Default::default() }), libc::EISDIR);
    fails(fs.opendir(file), libc::ENOTDIR);
    fails(fs.getattr(99_999), libc::ESTALE);
}

#[test]
fn statfs_shows_what_is_free() {
    let fs = mount();
    let before = fs.statfs().unwrap();
    assert_eq!((before.block_bytes, before.name_bytes_max), (4096, 255));
    fs.file_with(ROOT, "f", &vec![7; 8 << 20]);
    fs.syncfs().unwrap();
    let after = fs.statfs().unwrap();
    assert!(before.blocks_free - after.blocks_free >= 2048);
    assert_eq!(before.blocks, after.blocks);
}
