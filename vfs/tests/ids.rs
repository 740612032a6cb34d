//! Mounts that show other owners than those on disk.

mod support;

use blocktree_vfs::{Caller, Fs, IdMap, IdRange, Ids, MountOptions, SetAttributes, SetXattrFlags};
use support::*;

const ACCESS: &[u8] = b"system.posix_acl_access";

fn mount_as(store: &blocktree_engine::Store, ids: IdMap) -> Fs {
    Fs::mount(store.clone(), MountOptions { ids, ..MountOptions::default() }).unwrap()
}

fn owner(fs: &Fs, name: &str) -> (u32, u32) {
    let stat = fs.stat(fs.find(ROOT, name).unwrap());
    (stat.uid, stat.gid)
}

fn give(fs: &Fs, name: &str, uid: Option<u32>, gid: Option<u32>) -> blocktree_vfs::Result<()> {
    let changes = SetAttributes { uid, gid, ..SetAttributes::default() };
    fs.setattr(&USER, fs.find(ROOT, name).unwrap(), &changes).map(drop)
}

/// user::rw-, user:ID:r--, group::r--, group:ID:r--, mask::r--, other::---
fn acl(user: u32, group: u32) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (1_u16, 6_u16, u32::MAX),
        (2, 4, user),
        (4, 4, u32::MAX),
        (8, 4, group),
        (16, 4, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        bytes.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[test]
fn ranges_hold_for_owners_new_files_and_acls() {
    let store = store();
    let plain = mount_as(&store, IdMap::default());
    plain.create(&Caller { uid: 501, gid: 20, ..USER }, ROOT, b"old", 0o644).unwrap();
    plain.unmount().unwrap();
    let ids = IdMap {
        users: Ids { all: None, ranges: vec![IdRange { stored: 501, shown: 1000, count: 2 }] },
        groups: Ids { all: None, ranges: vec![IdRange { stored: 20, shown: 1000, count: 1 }] },
    };
    let mapped = mount_as(&store, ids);
    assert_eq!(owner(&mapped, "old"), (1000, 1000));
    let new = mapped.create(&Caller { uid: 1001, gid: 1000, ..USER }, ROOT, b"new", 0o644).unwrap();
    assert_eq!((new.uid, new.gid), (1001, 1000));
    mapped.create(&Caller { uid: 7, gid: 7, ..USER }, ROOT, b"other", 0o644).unwrap();
    mapped.setxattr(new.ino, ACCESS, &acl(1000, 1000), SetXattrFlags::default()).unwrap();
    assert_eq!(mapped.getxattr(new.ino, ACCESS).unwrap(), acl(1000, 1000));
    give(&mapped, "other", Some(1000), None).unwrap();
    mapped.unmount().unwrap();

    let plain = mount_as(&store, IdMap::default());
    assert_eq!(owner(&plain, "new"), (502, 20));
    assert_eq!(owner(&plain, "other"), (501, 7));
    assert_eq!(plain.getxattr(new.ino, ACCESS).unwrap(), acl(501, 20));
}

#[test]
fn one_owner_for_all_is_only_shown() {
    let store = store();
    let plain = mount_as(&store, IdMap::default());
    plain.create(&Caller { uid: 501, gid: 20, ..USER }, ROOT, b"old", 0o644).unwrap();
    let directory = plain.mkdir(&Caller { uid: 501, gid: 20, ..USER }, ROOT, b"d", 0o755).unwrap();
    plain.unmount().unwrap();
    let all = |id| Ids { all: Some(id), ranges: Vec::new() };
    let forced = mount_as(&store, IdMap { users: all(1000), groups: all(100) });
    assert_eq!(owner(&forced, "old"), (1000, 100));
    let caller = Caller { uid: 1000, gid: 1000, ..USER };
    let new = forced.create(&caller, directory.ino, b"new", 0o644).unwrap();
    assert_eq!((new.uid, new.gid), (1000, 100));
    // Nobody else can be given anything; to give it to whom it is shown as is no change.
    fails(give(&forced, "old", Some(501), None), libc::EPERM);
    fails(give(&forced, "old", None, Some(20)), libc::EPERM);
    give(&forced, "old", Some(1000), Some(100)).unwrap();
    forced.unmount().unwrap();

    let plain = mount_as(&store, IdMap::default());
    assert_eq!(owner(&plain, "old"), (501, 20));
    let new = plain.stat(new.ino);
    assert_eq!((new.uid, new.gid), (501, 20), "as its directory");
}
