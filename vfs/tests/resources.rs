//! Many of everything: open files, entries, and bytes from a writer that is faster than the disk.
//!
//! `BLOCKTREE_SIM_SECONDS` of at least 300 asks for the long form.

mod support;

use blocktree_vfs::{OpenFlags, WriteFlags};
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
