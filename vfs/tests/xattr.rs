//! Extended attributes.

mod support;

use blocktree_vfs::{MountOptions, SetXattrFlags};
use support::*;

const PLAIN: SetXattrFlags = SetXattrFlags { create: false, replace: false, kill_set_group_id: false };
const CREATE: SetXattrFlags = SetXattrFlags { create: true, replace: false, kill_set_group_id: false };
const REPLACE: SetXattrFlags = SetXattrFlags { create: false, replace: true, kill_set_group_id: false };

fn list(fs: &blocktree_vfs::Fs, ino: u64, privileged: bool) -> Vec<String> {
    let bytes = fs.listxattr(ino, privileged).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    text.split_terminator('\0').map(str::to_string).collect()
}

#[test]
fn values_of_all_lengths_come_back() {
    // Once with names spread over buckets, once with all in one.
    for name_hash in [None, Some((|_| 77) as fn(&[u8]) -> u64)] {
        let fs = mount_with(MountOptions { name_hash, ..Default::default() });
        let file = fs.file(ROOT, "f");
        let lengths = [0, 1, 100, 3900, 3964, 3965, 8000, 65_536];
        for round in 0..2u8 {
            for (number, length) in lengths.iter().enumerate() {
                let name = format!("user.{number}");
                let value = vec![number as u8 + round; *length];
                fs.setxattr(file, name.as_bytes(), &value, PLAIN).unwrap();
                assert_eq!(fs.getxattr(file, name.as_bytes()).unwrap(), value);
            }
        }
        for (number, length) in lengths.iter().enumerate() {
            let value = fs.getxattr(file, format!("user.{number}").as_bytes()).unwrap();
            assert_eq!(value, vec![number as u8 + 1; *length]);
        }
        assert_eq!(list(&fs, file, false).len(), lengths.len());
        for number in 0..lengths.len() {
            let name = format!("user.{number}");
            fs.setxattr(file, name.as_bytes(), b"short", PLAIN).unwrap();
            fs.removexattr(file, name.as_bytes()).unwrap();
            fails(fs.getxattr(file, name.as_bytes()), libc::ENODATA);
        }
        assert!(list(&fs, file, true).is_empty());
    }
}

#[test]
fn create_and_replace_are_strict() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fails(fs.setxattr(file, b"user.a", b"1", REPLACE), libc::ENODATA);
    let before = fs.stat(file);
    fs.setxattr(file, b"user.a", b"1", CREATE).unwrap();
    assert!(fs.stat(file).ctime > before.ctime && fs.stat(file).mtime == before.mtime);
    fails(fs.setxattr(file, b"user.a", b"2", CREATE), libc::EEXIST);
    fs.setxattr(file, b"user.a", b"3", REPLACE).unwrap();
    assert_eq!(fs.getxattr(file, b"user.a").unwrap(), b"3");
    let both = SetXattrFlags { create: true, replace: true, ..PLAIN };
    fails(fs.setxattr(file, b"user.a", b"3", both), libc::EINVAL);
    fails(fs.removexattr(file, b"user.none"), libc::ENODATA);
}

#[test]
fn names_and_values_have_limits() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    let name = [&b"user."[..], &[b'n'; 250]].concat();
    fs.setxattr(file, &name, b"x", PLAIN).unwrap();
    assert_eq!(fs.getxattr(file, &name).unwrap(), b"x");
    let long = [&b"user."[..], &[b'n'; 251]].concat();
    fails(fs.setxattr(file, &long, b"x", PLAIN), libc::ENAMETOOLONG);
    fails(fs.setxattr(file, b"user.big", &vec![0; 65_537], PLAIN), libc::E2BIG);
    for name in [&b"user."[..], b"other.x", b"x", b"", b"system.other"] {
        fails(fs.setxattr(file, name, b"x", PLAIN), libc::EOPNOTSUPP);
        fails(fs.getxattr(file, name), libc::EOPNOTSUPP);
    }
    let mut set = 1;
    loop {
        let name = format!("user.{set:0>200}");
        match fs.setxattr(file, name.as_bytes(), b"", PLAIN) {
            Ok(()) => set += 1,
            Err(error) => break assert_eq!(error.errno(), libc::ENOSPC),
        }
    }
    assert_eq!(list(&fs, file, false).len(), set);
    assert!(fs.listxattr(file, false).unwrap().len() <= 64 << 10);
}

#[test]
fn user_attributes_are_for_files_and_directories() {
    let fs = mount();
    let link = fs.symlink(&USER, ROOT, b"l", b"t").unwrap().ino;
    let fifo = fs.mknod(&USER, ROOT, b"p", libc::S_IFIFO, 0).unwrap().ino;
    for ino in [link, fifo] {
        fails(fs.setxattr(ino, b"user.x", b"", PLAIN), libc::EPERM);
        fs.setxattr(ino, b"trusted.x", b"t", PLAIN).unwrap();
    }
    fs.setxattr(ROOT, b"user.x", b"", PLAIN).unwrap();
    fs.setxattr(ROOT, b"trusted.x", b"", PLAIN).unwrap();
    assert_eq!(list(&fs, ROOT, false), ["user.x"]);
    assert_eq!(list(&fs, ROOT, true), ["trusted.x", "user.x"]);
}

#[test]
fn readers_see_one_version() {
    let fs = mount_with(MountOptions::default());
    let file = fs.file(ROOT, "f");
    fs.setxattr(file, b"user.x", &[0; 9000], PLAIN).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=200u8 {
                fs.setxattr(file, b"user.x", &vec![round; 9000 + usize::from(round)], PLAIN).unwrap();
            }
        });
        scope.spawn(|| {
            for _ in 0..500 {
                let value = fs.getxattr(file, b"user.x").unwrap();
                assert!(value.iter().all(|byte| *byte == value[0]));
                assert_eq!(value.len(), 9000 + usize::from(value[0]));
            }
        });
    });
}

#[test]
fn a_unit_is_an_attribute_that_directories_hand_down() {
    let fs = mount();
    const UNIT: &[u8] = b"user.blocktree.unit";
    let directory = fs.dir(ROOT, "streams");
    fails(fs.getxattr(directory, UNIT), libc::ENODATA);
    for nonsense in [&b""[..], b"0", b"2k", b"12k", b"256k", b"-4k", b"4 k", b"k", b"99999999999999999999k"] {
        fails(fs.setxattr(directory, UNIT, nonsense, PLAIN), libc::EINVAL);
    }
    fails(fs.removexattr(directory, UNIT), libc::ENODATA);
    fails(fs.setxattr(directory, UNIT, b"128k", REPLACE), libc::ENODATA);
    fs.setxattr(directory, UNIT, b"131072", CREATE).unwrap();
    fails(fs.setxattr(directory, UNIT, b"64k", CREATE), libc::EEXIST);
    assert_eq!(fs.getxattr(directory, UNIT).unwrap(), b"128k");

    let below = fs.dir(directory, "below");
    let file = fs.file(below, "film");
    assert_eq!(list(&fs, file, false), ["user.blocktree.unit"]);
    assert_eq!(fs.getxattr(file, UNIT).unwrap(), b"128k");
    let film: Vec<u8> = (0..1_000_000_u32).map(|at| (at / 7) as u8).collect();
    fs.put(file, 0, &film);
    fs.setxattr(file, UNIT, b"16k", REPLACE).unwrap();
    fs.put(file, 300_000, &film[..200_000]);
    fs.removexattr(file, UNIT).unwrap();
    fs.put(file, 310_000, b"a part");
    assert!(list(&fs, file, false).is_empty());
    let mut expected = film.clone();
    expected[300_000..500_000].copy_from_slice(&film[..200_000]);
    expected[310_000..310_006].copy_from_slice(b"a part");
    assert!(fs.bytes(file) == expected);
    assert!(list(&fs, fs.file(ROOT, "other"), false).is_empty());
}

#[test]
fn a_mount_says_which_unit_new_files_have() {
    let fs = mount_with(MountOptions { unit_bytes: 32 << 10, ..Default::default() });
    let file = fs.file(ROOT, "f");
    assert_eq!(fs.getxattr(file, b"user.blocktree.unit").unwrap(), b"32k");
    let link = fs.symlink(&USER, ROOT, b"link", b"f").unwrap().ino;
    fails(fs.getxattr(link, b"user.blocktree.unit"), libc::ENODATA);
}
