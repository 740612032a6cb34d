//! readdir and readdirplus.

mod support;

use std::collections::BTreeSet;

use blocktree_vfs::layout::FileKind;
use blocktree_vfs::{Fs, MountOptions};
use support::*;

/// Reads `count` entries from a cookie on: names and where to go on.
fn page(fs: &Fs, ino: u64, cookie: u64, count: usize) -> Vec<(String, u64)> {
    let mut entries = Vec::new();
    fs.readdir(ino, cookie, &mut |entry| {
        if entries.len() == count {
            return false;
        }
        assert!(i64::try_from(entry.cookie).is_ok_and(|cookie| cookie > 0));
        entries.push((String::from_utf8_lossy(entry.name).into_owned(), entry.cookie));
        true
    })
    .unwrap();
    entries
}

fn paged(fs: &Fs, ino: u64, count: usize, mut between: impl FnMut(usize)) -> Vec<String> {
    let (mut names, mut cookie) = (Vec::new(), 0);
    for round in 0.. {
        let entries = page(fs, ino, cookie, count);
        let Some((_, last)) = entries.last() else { break };
        cookie = *last;
        names.extend(entries.into_iter().map(|(name, _)| name));
        between(round);
    }
    names
}

type NameHash = Option<fn(&[u8]) -> u64>;

const HASHES: [NameHash; 5] = [
    None,
    Some(|_| 0),
    Some(|_| u64::MAX),
    Some(|name| name.len() as u64),
    Some(|name| name[0] as u64 >> 1 << 20),
];

#[test]
fn every_entry_comes_once_in_pages_of_any_size() {
    for name_hash in HASHES {
        let fs = mount_with(MountOptions { name_hash, ..Default::default() });
        let dir = fs.dir(ROOT, "d");
        let mut expected: Vec<_> = (0..200).map(|number| format!("{number:03}")).collect();
        for name in &expected {
            fs.file(dir, name);
        }
        expected.extend([".".to_string(), "..".to_string()]);
        expected.sort();
        for count in [1, 2, 7, 33, 1000] {
            let mut names = paged(&fs, dir, count, |_| {});
            assert_eq!(names[..2], [".", ".."]);
            names.sort();
            assert_eq!(names, expected);
        }
        for name in (0..200).step_by(2).map(|number| format!("{number:03}")) {
            fs.unlink(dir, name.as_bytes()).unwrap();
        }
        for number in 0..200 {
            assert_eq!(fs.find(dir, &format!("{number:03}")).is_ok(), number % 2 == 1);
        }
        fs.rename(dir, b"001", dir, b"moved", Default::default()).unwrap();
        assert_eq!(fs.names(dir).len(), 100);
    }
}

#[test]
fn entries_that_stay_come_once_whatever_changes() {
    for name_hash in HASHES {
        let fs = mount_with(MountOptions { name_hash, ..Default::default() });
        let dir = fs.dir(ROOT, "d");
        for number in 0..60 {
            fs.file(dir, &format!("stay{number}"));
            fs.file(dir, &format!("go{number}"));
        }
        let names = paged(&fs, dir, 5, |round| {
            for number in [round * 3, round * 3 + 1, round * 3 + 2] {
                let _ = fs.unlink(dir, format!("go{number}").as_bytes());
                if number < 60 {
                    fs.file(dir, &format!("come{number}"));
                }
            }
        });
        let stay: Vec<_> = names.iter().filter(|name| name.starts_with("stay")).collect();
        assert_eq!((stay.len(), stay.iter().collect::<BTreeSet<_>>().len()), (60, 60));
    }
}

#[test]
fn removing_while_reading_empties_a_directory() {
    let fs = mount();
    let dir = fs.dir(ROOT, "d");
    for number in 0..300 {
        fs.file(dir, &format!("f{number}"));
    }
    let mut cookie = 0;
    loop {
        let entries = page(&fs, dir, cookie, 10);
        let Some((_, last)) = entries.last() else { break };
        cookie = *last;
        for (name, _) in entries.iter().filter(|(name, _)| name.starts_with('f')) {
            fs.unlink(dir, name.as_bytes()).unwrap();
        }
    }
    fs.rmdir(ROOT, b"d").unwrap();
    assert!(page(&fs, dir, 0, 10).is_empty());
}

#[test]
fn a_full_bucket_refuses_the_next_name() {
    let fs = mount_with(MountOptions { name_hash: Some(|_| 1 << 40), ..Default::default() });
    for number in 0..256 {
        fs.file(ROOT, &format!("f{number}"));
    }
    fails(fs.create(&USER, ROOT, b"one more", 0o600), libc::ENOSPC);
    fs.unlink(ROOT, b"f100").unwrap();
    fs.file(ROOT, "one more");
    assert_eq!(fs.names(ROOT).len(), 256);
}

#[test]
fn readdirplus_counts_what_is_taken() {
    let fs = mount();
    let files: Vec<_> = (0..10).map(|number| fs.file(ROOT, &format!("f{number}"))).collect();
    for file in &files {
        fs.forget(*file, 1);
    }
    let mut taken = Vec::new();
    fs.readdirplus(ROOT, 0, &mut |entry, stat| {
        assert_eq!((entry.ino, entry.kind), (stat.ino, stat.kind));
        if taken.len() == 7 {
            return false;
        }
        taken.push(entry.ino);
        true
    })
    .unwrap();
    assert_eq!(taken[..2], [ROOT, ROOT]);
    for number in 0..10 {
        fs.unlink(ROOT, format!("f{number}").as_bytes()).unwrap();
    }
    let mut orphans = fs.store().orphans().unwrap();
    orphans.sort();
    let mut known = taken[2..].to_vec();
    known.sort();
    assert_eq!(orphans, known);
}

#[test]
fn readdirplus_gives_each_file_its_own_attributes_whatever_is_in_memory() {
    const FILES: usize = 700;
    let fs = mount_with(MountOptions::default());
    for number in 0..FILES {
        let ino = fs.file_with(ROOT, &format!("f{number}"), &vec![1; number]);
        fs.forget(ino, 1);
    }
    fs.unmount().unwrap();
    let fs = Fs::mount(fs.store().clone(), MountOptions::default()).unwrap();
    assert_eq!(fs.inodes_in_memory(), 1);
    let (mut cookie, mut lengths) = (0, BTreeSet::new());
    loop {
        let mut taken = Vec::new();
        fs.readdirplus(ROOT, cookie, &mut |entry, stat| {
            if taken.len() == 150 {
                return false;
            }
            if entry.ino != ROOT {
                assert_eq!((entry.ino, entry.name), (stat.ino, format!("f{}", stat.size).as_bytes()));
                assert!(lengths.insert(stat.size), "{} is handed out twice", stat.size);
            }
            taken.push((entry.ino, entry.cookie));
            true
        })
        .unwrap();
        let Some((_, last)) = taken.last() else { break };
        cookie = *last;
        taken.iter().filter(|(ino, _)| *ino != ROOT).for_each(|(ino, _)| fs.forget(*ino, 1));
    }
    assert_eq!(lengths, (0..FILES as u64).collect());
    for number in 0..FILES {
        fs.unlink(ROOT, format!("f{number}").as_bytes()).unwrap();
    }
    assert_eq!(fs.inodes_in_memory(), 1, "nobody holds any of them");
}

#[test]
fn large_directories_stay_fast() {
    let fs = mount_with(MountOptions::default());
    for number in 0..20_000 {
        let ino = fs.file(ROOT, &format!("file number {number}"));
        fs.forget(ino, 1);
    }
    assert_eq!(fs.names(ROOT).len(), 20_000);
    for number in (0..20_000).step_by(100) {
        fs.find(ROOT, &format!("file number {number}")).unwrap();
    }
}

#[test]
fn what_is_loaded_ahead_of_a_listing_is_what_comes_next() {
    let fs = made_and_mounted_again(|fs| directory_of(fs, "directory", 300));
    let directory = fs.find(ROOT, "directory").unwrap();
    let before = fs.inodes_in_memory();
    let accessed = fs.stat(directory).atime;
    let mut cookie = 0;
    for round in 1..=3 {
        cookie = fs.load_ahead(directory, cookie, 100).unwrap();
        assert_eq!(fs.inodes_in_memory(), before + 100 * round);
    }
    assert_eq!(fs.load_ahead(directory, cookie, 100).unwrap(), cookie, "there is nothing behind it");
    assert_eq!(accessed, fs.stat(directory).atime, "nobody has read the directory yet");
    assert_eq!(page(&fs, directory, 0, 302).last().unwrap().1, cookie, "the last of all");
    // Nobody has heard of them, so whoever is removed is gone.
    fs.unlink(directory, b"file 7").unwrap();
    assert_eq!(fs.inodes_in_memory(), before + 299);
    assert_eq!(fs.names(directory).len(), 299);
}

#[test]
fn the_directory_that_comes_next_is_found() {
    let fs = mount();
    let mut tree: Vec<(u64, Vec<u64>)> = Vec::new();
    for above in 0..5 {
        let above = fs.dir(ROOT, &format!("{above}"));
        fs.file(above, "file");
        let below = (0..7).map(|below| fs.dir(above, &format!("{below}"))).collect();
        tree.push((above, below));
    }
    fs.dir(ROOT, "empty");
    let listed = |ino| {
        let mut found = Vec::new();
        fs.readdir(ino, 0, &mut |entry| {
            if entry.kind == FileKind::Directory && !entry.name.starts_with(b".") {
                found.push(entry.ino);
            }
            true
        })
        .unwrap();
        found
    };
    let order: Vec<u64> =
        listed(ROOT).into_iter().flat_map(|above| std::iter::once(above).chain(listed(above))).collect();
    assert_eq!(order.len(), 5 * 8 + 1);
    for (number, ino) in order.iter().enumerate() {
        if listed(*ino).is_empty() {
            assert_eq!(fs.directory_behind(*ino).unwrap(), order.get(number + 1).copied());
        }
    }
    assert_eq!(fs.directory_behind(ROOT).unwrap(), None);
}
