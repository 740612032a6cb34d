//! POSIX ACLs.

mod support;

use blocktree_vfs::{Caller, FileKind, SetXattrFlags};
use support::*;

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const PLAIN: SetXattrFlags = SetXattrFlags { create: false, replace: false, kill_set_group_id: false };

const USER_OBJECT: u16 = 1;
const NAMED_USER: u16 = 2;
const GROUP_OBJECT: u16 = 4;
const MASK: u16 = 16;
const OTHER: u16 = 32;

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn extended(user: u16, named: u16, group: u16, mask: u16, other: u16) -> Vec<u8> {
    acl(&[
        (USER_OBJECT, user, u32::MAX),
        (NAMED_USER, named, 1001),
        (GROUP_OBJECT, group, u32::MAX),
        (MASK, mask, u32::MAX),
        (OTHER, other, u32::MAX),
    ])
}

fn minimal(user: u16, group: u16, other: u16) -> Vec<u8> {
    acl(&[(USER_OBJECT, user, u32::MAX), (GROUP_OBJECT, group, u32::MAX), (OTHER, other, u32::MAX)])
}

#[test]
fn an_access_acl_sets_the_mode() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.chmod(file, 0o2644);
    let value = extended(7, 6, 4, 6, 0);
    fs.setxattr(file, ACCESS, &value, PLAIN).unwrap();
    assert_eq!(fs.getxattr(file, ACCESS).unwrap(), value);
    assert_eq!(fs.stat(file).permissions, 0o2760);
    let kill = SetXattrFlags { kill_set_group_id: true, ..PLAIN };
    fs.setxattr(file, ACCESS, &value, kill).unwrap();
    assert_eq!(fs.stat(file).permissions, 0o760);
    // What a mode says as well is not kept.
    fs.setxattr(file, ACCESS, &minimal(6, 4, 4), PLAIN).unwrap();
    fails(fs.getxattr(file, ACCESS), libc::ENODATA);
    assert_eq!(fs.stat(file).permissions, 0o644);
    fs.removexattr(file, ACCESS).unwrap();
    assert!(fs.listxattr(file, true).unwrap().is_empty());
}

#[test]
fn chmod_sets_the_mask() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.setxattr(file, ACCESS, &extended(7, 6, 4, 6, 0), PLAIN).unwrap();
    fs.chmod(file, 0o4513);
    assert_eq!(fs.stat(file).permissions, 0o4513);
    assert_eq!(fs.getxattr(file, ACCESS).unwrap(), extended(5, 6, 4, 1, 3));
}

#[test]
fn invalid_acls_are_refused() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    let none = u32::MAX;
    let mut version = minimal(7, 5, 5);
    version[0] = 1;
    for bad in [
        version,
        vec![2, 0, 0],
        minimal(7, 5, 5)[..20].to_vec(),
        minimal(8, 5, 5),
        acl(&[(USER_OBJECT, 7, none), (GROUP_OBJECT, 5, none)]),
        acl(&[(GROUP_OBJECT, 7, none), (USER_OBJECT, 5, none), (OTHER, 5, none)]),
        acl(&[(USER_OBJECT, 7, none), (NAMED_USER, 7, 5), (GROUP_OBJECT, 5, none), (OTHER, 5, none)]),
        acl(&[(USER_OBJECT, 7, none), (USER_OBJECT, 7, none), (GROUP_OBJECT, 5, none), (OTHER, 5, none)]),
        acl(&[
            (USER_OBJECT, 7, none),
            (NAMED_USER, 7, none),
            (GROUP_OBJECT, 5, none),
            (MASK, 7, none),
            (OTHER, 5, none),
        ]),
        acl(&[(USER_OBJECT, 7, none), (GROUP_OBJECT, 5, none), (OTHER, 5, none), (64, 5, none)]),
    ] {
        fails(fs.setxattr(file, ACCESS, &bad, PLAIN), libc::EINVAL);
        fails(fs.setxattr(ROOT, DEFAULT, &bad, PLAIN), libc::EINVAL);
    }
    fails(fs.setxattr(file, DEFAULT, &minimal(7, 5, 5), PLAIN), libc::EACCES);
    let link = fs.symlink(&USER, ROOT, b"l", b"t").unwrap().ino;
    fails(fs.setxattr(link, ACCESS, &minimal(7, 5, 5), PLAIN), libc::EOPNOTSUPP);
}

#[test]
fn a_default_acl_is_inherited_instead_of_the_umask() {
    let fs = mount();
    let dir = fs.dir(ROOT, "d");
    let default = extended(7, 6, 5, 7, 1);
    fs.setxattr(dir, DEFAULT, &default, PLAIN).unwrap();
    assert_eq!(fs.stat(dir).permissions, 0o755);
    let caller = Caller { umask: 0o077, ..USER };
    let file = fs.create(&caller, dir, b"f", 0o664).unwrap();
    assert_eq!(file.permissions, 0o660);
    assert_eq!(fs.getxattr(file.ino, ACCESS).unwrap(), extended(6, 6, 5, 6, 0));
    fails(fs.getxattr(file.ino, DEFAULT), libc::ENODATA);
    let below = fs.mkdir(&caller, dir, b"b", 0o777).unwrap();
    assert_eq!(below.permissions, 0o771);
    assert_eq!(fs.getxattr(below.ino, ACCESS).unwrap(), default);
    assert_eq!(fs.getxattr(below.ino, DEFAULT).unwrap(), default);
    assert_eq!(fs.listxattr(below.ino, false).unwrap().len(), ACCESS.len() + DEFAULT.len() + 2);
    let link = fs.symlink(&caller, dir, b"l", b"t").unwrap();
    assert_eq!((link.permissions, link.kind), (0o777, FileKind::Symlink));

    fs.removexattr(dir, DEFAULT).unwrap();
    assert_eq!(fs.create(&caller, dir, b"g", 0o664).unwrap().permissions, 0o600);
}

#[test]
fn a_minimal_default_acl_gives_only_a_mode() {
    let fs = mount();
    let dir = fs.dir(ROOT, "d");
    fs.setxattr(dir, DEFAULT, &minimal(7, 5, 0), PLAIN).unwrap();
    let file = fs.create(&USER, dir, b"f", 0o666).unwrap();
    assert_eq!(file.permissions, 0o640);
    fails(fs.getxattr(file.ino, ACCESS), libc::ENODATA);
    fs.setxattr(dir, DEFAULT, b"", PLAIN).unwrap();
    fails(fs.getxattr(dir, DEFAULT), libc::ENODATA);
}
