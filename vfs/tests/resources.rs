//! Many of everything: open files, entries, and bytes from a writer that is faster than the disk.
//!
//! `BLOCKTREE_SIM_SECONDS` of at least 300 asks for the long form.

mod support;

use blocktree_vfs::layout::NAME_BYTES_MAX;
use blocktree_vfs::{Fs, MountOptions, OpenFlags, RenameFlags, WriteFlags};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::*;

fn is_long() -> bool {
    let seconds = std::env::var("BLOCKTREE_SIM_SECONDS").ok().and_then(|seconds| seconds.parse::<u64>().ok());
    seconds.is_some_and(|seconds| seconds >= 300)
}

#[test]
fn files_without_names_live_while_they_are_open_however_many() {
    let files = if is_long() { 100_000 } else { 10_000 };
    let fs = mount();
    let name = |number: u64| format!("file {number}");
    let inodes: Vec<_> = (0..files)
        .map(|number| {
            let ino = fs.file(ROOT, &name(number));
            fs.open(ino, OpenFlags { write: true, ..OpenFlags::default() }).unwrap();
            ino
        })
        .collect();
    assert_eq!(fs.stat(ROOT).size, files);
    for (number, ino) in inodes.iter().enumerate() {
        fs.put(*ino, 0, &number.to_le_bytes());
        fs.unlink(ROOT, name(number as u64).as_bytes()).unwrap();
    }
    assert_eq!((fs.stat(ROOT).size, fs.names(ROOT).len()), (0, 0));
    assert_eq!(fs.store().orphans().unwrap().len() as u64, files);
    for (number, ino) in inodes.iter().enumerate() {
        assert_eq!(fs.bytes(*ino), number.to_le_bytes());
        fs.release(*ino, None);
        fs.forget(*ino, 1);
    }
    assert!(fs.store().orphans().unwrap().is_empty());
    assert!(fs.inodes_in_memory() < 10, "{} are left", fs.inodes_in_memory());
}

#[test]
fn a_fast_writer_waits_for_the_disk() {
    let fs = mount();
    let ino = fs.file(ROOT, "file");
    let rounds = if is_long() { 2000 } else { 200 };
    // More than all queues hold, again and again over the same places.
    for round in 0..rounds {
        let bytes = vec![round as u8; 1 << 20];
        fs.write(ino, (round % 64) << 20, &bytes, WriteFlags::default()).unwrap();
        fs.put(ino, (round * 7919) % (64 << 20), &[round as u8; 100]);
    }
    fs.syncfs().unwrap();
    let free = fs.store().usage().free;
    fs.truncate(ino, 0).unwrap();
    fs.syncfs().unwrap();
    fs.store().checkpoint().unwrap();
    assert!(fs.store().usage().free > free + (60 << 20) / 4096, "what was overwritten is free again");
}

#[test]
fn a_large_directory_is_as_quick_as_a_small_one() {
    const ENTRIES: u64 = 100_000;
    const SAMPLES: u64 = 200;
    let fs = mount();
    let dir = fs.dir(ROOT, "large");
    let name = |number: u64| format!("entry {number}");
    for number in 0..ENTRIES {
        let ino = fs.file(dir, &name(number));
        fs.forget(ino, 1);
        let info = fs.store().info();
        if info.log_used_sectors * 2 > info.log_sectors {
            fs.store().checkpoint().unwrap();
        }
    }
    fs.syncfs().unwrap();
    fs.store().checkpoint().unwrap();
    assert_eq!(fs.stat(dir).size, ENTRIES);

    // Nodes of the index that an operation asks for: a few ways from the root down, wherever it looks.
    let asked = || fs.store().info().nodes_asked;
    let mut random = StdRng::seed_from_u64(1);
    let mut measure = |what: &str, most: u64, operation: &mut dyn FnMut(u64)| {
        let before = asked();
        (0..SAMPLES).for_each(|_| operation(random.random_range(0..ENTRIES)));
        let nodes = (asked() - before).div_ceil(SAMPLES);
        println!("{what}: {nodes} nodes");
        assert!(nodes <= most, "{what} asks for {nodes} nodes");
    };
    measure("lookup", 20, &mut |number| assert!(fs.find(dir, &name(number)).is_ok()));
    measure("lookup of what is not there", 20, &mut |number| {
        fails(fs.find(dir, &format!("no entry {number}")), libc::ENOENT);
    });
    measure("rename", 60, &mut |number| {
        let (old, new) = (name(number), format!("renamed {number}"));
        // Some are drawn twice.
        if fs.find(dir, &old).is_ok() {
            fs.rename(dir, old.as_bytes(), dir, new.as_bytes(), RenameFlags::default()).unwrap();
        }
    });
    measure("create and unlink", 60, &mut |number| {
        let ino = fs.file(dir, &format!("new {number}"));
        fs.forget(ino, 1);
        fs.unlink(dir, format!("new {number}").as_bytes()).unwrap();
    });
    // To go on where one stopped costs no more than to begin.
    let mut cursor = 0;
    let (mut seen, before) = (0, asked());
    loop {
        let mut count = 0;
        fs.readdir(dir, cursor, &mut |entry| {
            let is_taken = count < 500;
            if is_taken {
                (cursor, count) = (entry.cookie, count + 1);
            }
            is_taken
        })
        .unwrap();
        seen += count;
        if count < 500 {
            break;
        }
    }
    assert_eq!(seen, ENTRIES + 2);
    let nodes = asked() - before;
    println!("readdir: {nodes} nodes");
    assert!(nodes <= ENTRIES / 4, "readdir asks for {nodes} nodes");
    assert_eq!(fs.stat(dir).size, ENTRIES);
}

#[test]
fn names_of_every_length_and_paths_of_any_depth() {
    const DEPTH: usize = 3000;
    let store = store();
    let fs = Fs::mount(store.clone(), MountOptions::default()).unwrap();
    let name = |bytes: usize| format!("{bytes:-<bytes$}")[..bytes].to_owned();
    let all = fs.dir(ROOT, "all");
    for bytes in 1..=NAME_BYTES_MAX {
        fs.file_with(all, &name(bytes), name(bytes).as_bytes());
    }
    // Far deeper than a path that a program may give: it can be walked one name at a time.
    let longest = name(NAME_BYTES_MAX);
    let mut at = fs.dir(ROOT, "deep");
    for _ in 0..DEPTH {
        at = fs.dir(at, &longest);
    }
    fs.file_with(at, "bottom", b"here");
    fs.unmount().unwrap();
    drop(fs);

    store.checkpoint().unwrap();
    assert_eq!(blocktree_vfs::repair::examine(&store, false).unwrap(), []);
    let fs = Fs::mount(store, MountOptions::default()).unwrap();
    let all = fs.find(ROOT, "all").unwrap();
    assert_eq!(fs.names(all).len(), NAME_BYTES_MAX);
    for bytes in 1..=NAME_BYTES_MAX {
        assert_eq!(fs.bytes(fs.find(all, &name(bytes)).unwrap()), name(bytes).as_bytes());
    }
    let mut way = vec![fs.find(ROOT, "deep").unwrap()];
    for _ in 0..DEPTH {
        way.push(fs.find(way[way.len() - 1], &longest).unwrap());
    }
    assert_eq!(fs.bytes(fs.find(way[DEPTH], "bottom").unwrap()), b"here");
    // A directory does not go below itself, however far up that has to be looked for.
    let (top, bottom) = (b"deep", way[DEPTH]);
    fails(fs.rename(ROOT, top, bottom, b"loop", RenameFlags::default()), libc::EINVAL);
    for pair in way.windows(2).rev() {
        assert_eq!(fs.find(pair[1], "..").unwrap(), pair[0]);
    }
    fs.unlink(bottom, b"bottom").unwrap();
    for above in way[..DEPTH].iter().rev() {
        fs.rmdir(*above, longest.as_bytes()).unwrap();
    }
    assert!(fs.names(way[0]).is_empty());
}
