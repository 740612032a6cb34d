//! create, mknod, mkdir, symlink, readlink, lookup.

mod support;

use blocktree_vfs::{Caller, FileKind, MountOptions, RenameFlags};
use support::*;

#[test]
fn a_new_file_is_found_with_its_attributes() {
    let fs = mount();
    let caller = Caller { umask: 0o027, ..USER };
    let made = fs.create(&caller, ROOT, b"f", 0o4666).unwrap();
    assert_eq!(fs.lookup(ROOT, b"f").unwrap(), made);
    assert_eq!((made.kind, made.permissions), (FileKind::Regular, 0o4640));
    assert_eq!((made.uid, made.gid, made.nlink, made.size, made.blocks), (1000, 1000, 1, 0, 0));
    assert_eq!(made.mode(), libc::S_IFREG | 0o4640);
    assert!(made.atime == made.btime && made.mtime == made.btime && made.ctime == made.btime);
}

#[test]
fn every_type_is_made() {
    let fs = mount();
    for (name, kind, rdev) in [
        (b"p", FileKind::Fifo, 0),
        (b"s", FileKind::Socket, 0),
        (b"c", FileKind::CharacterDevice, 0x103),
        (b"b", FileKind::BlockDevice, 0xfff0_0801),
        (b"r", FileKind::Regular, 0),
    ] {
        let made = fs.mknod(&USER, ROOT, name, kind.mode() | 0o600, rdev).unwrap();
        assert_eq!((made.kind, made.rdev, made.permissions), (kind, rdev, 0o600));
    }
    assert_eq!(fs.mknod(&USER, ROOT, b"untyped", 0o600, 5).unwrap().kind, FileKind::Regular);
    assert_eq!(fs.mknod(&USER, ROOT, b"no rdev", libc::S_IFIFO | 0o600, 5).unwrap().rdev, 0);
    fails(fs.mknod(&USER, ROOT, b"d", libc::S_IFDIR | 0o700, 0), libc::EPERM);
    fails(fs.mknod(&USER, ROOT, b"l", libc::S_IFLNK | 0o700, 0), libc::EINVAL);
    fails(fs.mknod(&USER, ROOT, b"x", 0o170000, 0), libc::EINVAL);
}

#[test]
fn names_have_limits() {
    let fs = mount();
    fs.file(ROOT, &"n".repeat(255));
    fails(fs.create(&USER, ROOT, "n".repeat(256).as_bytes(), 0o600), libc::ENAMETOOLONG);
    fails(fs.lookup(ROOT, "n".repeat(256).as_bytes()), libc::ENAMETOOLONG);
    fails(fs.create(&USER, ROOT, b"", 0o600), libc::ENOENT);
    fails(fs.create(&USER, ROOT, b"a/b", 0o600), libc::EINVAL);
    fails(fs.create(&USER, ROOT, b"a\0b", 0o600), libc::EINVAL);
    for dots in [&b"."[..], b".."] {
        fails(fs.create(&USER, ROOT, dots, 0o600), libc::EEXIST);
        fails(fs.mkdir(&USER, ROOT, dots, 0o700), libc::EEXIST);
    }
    let odd: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    let made = fs.create(&USER, ROOT, &odd, 0o600).unwrap();
    assert_eq!(fs.lookup(ROOT, &odd).unwrap().ino, made.ino);
}

#[test]
fn a_name_is_made_once() {
    let fs = mount();
    fs.file(ROOT, "f");
    fails(fs.create(&USER, ROOT, b"f", 0o600), libc::EEXIST);
    fails(fs.mkdir(&USER, ROOT, b"f", 0o700), libc::EEXIST);
    fails(fs.symlink(&USER, ROOT, b"f", b"t"), libc::EEXIST);
    fails(fs.mknod(&USER, ROOT, b"f", libc::S_IFIFO, 0), libc::EEXIST);
    assert_eq!(fs.stat(ROOT).size, 1);
}

#[test]
fn only_directories_hold_names() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fails(fs.create(&USER, file, b"x", 0o600), libc::ENOTDIR);
    fails(fs.lookup(file, b"x"), libc::ENOTDIR);
    fails(fs.lookup(file, b".."), libc::ENOTDIR);
    fails(fs.lookup(ROOT, b"x"), libc::ENOENT);
}

#[test]
fn nothing_is_made_in_a_removed_directory() {
    let fs = mount();
    let dir = fs.dir(ROOT, "d");
    fs.rmdir(ROOT, b"d").unwrap();
    fails(fs.create(&USER, dir, b"x", 0o600), libc::ENOENT);
    fails(fs.mkdir(&USER, dir, b"x", 0o700), libc::ENOENT);
    fails(fs.lookup(dir, b"x"), libc::ENOENT);
    let file = fs.file(ROOT, "f");
    fails(fs.link(file, dir, b"x"), libc::ENOENT);
    fails(fs.rename(ROOT, b"f", dir, b"x", RenameFlags::default()), libc::ENOENT);
}

#[test]
fn directories_count_links_and_touch_their_parent() {
    let fs = mount();
    let before = fs.stat(ROOT);
    let dir = fs.dir(ROOT, "d");
    let after = fs.stat(ROOT);
    assert_eq!((fs.stat(dir).nlink, after.nlink), (2, before.nlink + 1));
    assert!(after.mtime > before.mtime && after.ctime == after.mtime);
    assert_eq!(after.atime, before.atime);
    assert_eq!(fs.find(dir, "..").unwrap(), ROOT);
    assert_eq!(fs.find(dir, ".").unwrap(), dir);
    assert_eq!(fs.find(ROOT, "..").unwrap(), ROOT);
}

#[test]
fn mkdir_takes_only_the_sticky_bit() {
    let fs = mount();
    let made = fs.mkdir(&Caller { umask: 0o022, ..USER }, ROOT, b"d", 0o7777).unwrap();
    assert_eq!(made.permissions, 0o1755);
}

#[test]
fn set_group_id_directories_pass_their_group_on() {
    let fs = mount();
    let dir = fs.dir(ROOT, "d");
    let group = blocktree_vfs::SetAttributes { gid: Some(77), ..Default::default() };
    fs.setattr(&USER, dir, &group).unwrap();
    fs.chmod(dir, 0o2775);
    let file = fs.create(&USER, dir, b"f", 0o640).unwrap();
    assert_eq!((file.gid, file.permissions), (77, 0o640));
    let below = fs.mkdir(&USER, dir, b"d", 0o750).unwrap();
    assert_eq!((below.gid, below.permissions), (77, 0o2750));
    assert_eq!(fs.symlink(&USER, dir, b"s", b"t").unwrap().gid, 77);
}

#[test]
fn symlinks_keep_their_target() {
    let fs = mount();
    for (name, length) in [("a", 1), ("b", 59), ("c", 4095)] {
        let target = vec![b'x'; length];
        let made = fs.symlink(&Caller { umask: 0o777, ..USER }, ROOT, name.as_bytes(), &target).unwrap();
        assert_eq!((made.size, made.permissions), (length as u64, 0o777));
        assert_eq!(fs.readlink(made.ino).unwrap(), target);
    }
    fails(fs.symlink(&USER, ROOT, b"d", &[b'x'; 4096]), libc::ENAMETOOLONG);
    fails(fs.symlink(&USER, ROOT, b"d", b""), libc::ENOENT);
    fails(fs.readlink(ROOT), libc::EINVAL);
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let store = store();
    let file = blocktree_vfs::Fs::mount(store.clone(), MountOptions::default()).unwrap().file(ROOT, "f");
    let fs = blocktree_vfs::Fs::mount(store, MountOptions { read_only: true, ..Default::default() }).unwrap();
    assert_eq!(fs.find(ROOT, "f").unwrap(), file);
    fails(fs.create(&USER, ROOT, b"g", 0o600), libc::EROFS);
    fails(fs.unlink(ROOT, b"f"), libc::EROFS);
    fails(fs.write(file, 0, b"x", Default::default()), libc::EROFS);
    fails(fs.rename(ROOT, b"f", ROOT, b"g", RenameFlags::default()), libc::EROFS);
    fails(fs.truncate(file, 5), libc::EROFS);
    fails(fs.setxattr(file, b"user.x", b"", Default::default()), libc::EROFS);
    fails(fs.open(file, blocktree_vfs::OpenFlags { write: true, ..Default::default() }), libc::EROFS);
    fs.open(file, Default::default()).unwrap();
    fs.fsync(file, false).unwrap();
}

#[test]
fn everything_is_there_after_a_mount() {
    let store = store();
    let (dir, file) = {
        let fs = blocktree_vfs::Fs::mount(store.clone(), MountOptions::default()).unwrap();
        let dir = fs.dir(ROOT, "d");
        let file = fs.file_with(dir, "f", b"bytes");
        fs.unmount().unwrap();
        (dir, fs.stat(file))
    };
    let fs = blocktree_vfs::Fs::mount(store, MountOptions::default()).unwrap();
    assert_eq!(fs.find(ROOT, "d").unwrap(), dir);
    assert_eq!(fs.lookup(dir, b"f").unwrap(), file);
    assert_eq!(fs.bytes(file.ino), b"bytes");
}

#[test]
fn unused_inodes_leave_memory() {
    let fs = mount_with(MountOptions { inode_cache_count: 64, ..Default::default() });
    for number in 0..1000 {
        let ino = fs.file(ROOT, &format!("f{number}"));
        fs.forget(ino, 1);
    }
    for number in 0..1000 {
        fs.find(ROOT, &format!("f{number}")).unwrap();
    }
    assert!(fs.inodes_in_memory() <= 64 + 33, "{}", fs.inodes_in_memory());
    let kept: Vec<_> =
        (0..500).map(|number| fs.lookup(ROOT, format!("f{number}").as_bytes()).unwrap()).collect();
    assert!(fs.inodes_in_memory() >= 500);
    for stat in kept {
        fs.forget(stat.ino, 1);
    }
    assert!(fs.inodes_in_memory() <= 64 + 33, "{}", fs.inodes_in_memory());
}

#[test]
fn inodes_are_found_by_their_numbers_after_a_remount() {
    let fs = mount();
    let directory = fs.dir(ROOT, "d");
    let file = fs.file_with(directory, "f", b"x");
    let link = fs.symlink(&USER, directory, b"l", b"f").unwrap().ino;
    let gone = fs.file(directory, "gone");
    fs.unlink(directory, b"gone").unwrap();
    fs.unmount().unwrap();
    let fs = blocktree_vfs::Fs::mount(fs.store().clone(), MountOptions::default()).unwrap();
    for ino in [ROOT, directory, file, link] {
        assert_eq!(fs.lookup(ino, b".").unwrap().ino, ino);
    }
    assert_eq!(fs.lookup(directory, b"..").unwrap().ino, ROOT);
    fails(fs.lookup(gone, b"."), libc::ESTALE);
    fails(fs.lookup(1 << 40, b"."), libc::ESTALE);
    // Numbers are never given again.
    assert!(fs.file(directory, "new") > gone);
}
