//! read, write, append, fsync, copy_file_range, and what they do to times and privileges.

mod support;

use blocktree_vfs::{FallocateMode, FileKind, MountOptions, SetXattrFlags, WriteFlags};
use support::*;

const KILL: WriteFlags = WriteFlags { kill_privileges: true, from_cache: false };

#[test]
fn bytes_come_back() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.put(file, 10_000, b"far");
    assert_eq!(fs.stat(file).size, 10_003);
    assert_eq!(fs.stat(file).blocks, 8);
    let bytes = fs.bytes(file);
    assert!(bytes[..10_000].iter().all(|byte| *byte == 0));
    assert_eq!(&bytes[10_000..], b"far");
    let mut buffer = [1; 8];
    assert_eq!(fs.read(file, 10_001, &mut buffer).unwrap(), 2);
    assert_eq!(fs.read(file, 10_003, &mut buffer).unwrap(), 0);
    assert_eq!(fs.read(file, u64::MAX, &mut buffer).unwrap(), 0);
    let before = fs.stat(file);
    fs.put(file, 0, b"");
    assert_eq!(fs.stat(file), before);
    fs.put(file, 0, b"x");
    assert!(fs.stat(file).mtime > before.mtime && fs.stat(file).ctime > before.ctime);
}

#[test]
fn append_writes_at_the_end() {
    let fs = mount();
    let file = fs.file_with(ROOT, "f", b"one");
    assert_eq!(fs.append(file, b"two", WriteFlags::default()).unwrap(), 3);
    assert_eq!(fs.bytes(file), b"onetwo");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| drop(fs.append(file, b"abcd", WriteFlags::default()))));
        }
    });
    let bytes = fs.bytes(file);
    assert_eq!(bytes.len(), 6 + 1600);
    assert!(bytes[6..].chunks(4).all(|chunk| chunk == b"abcd"));
}

#[test]
fn files_end_somewhere() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    let max = i64::MAX as u64;
    fs.put(file, max - 1, b"x");
    assert_eq!(fs.stat(file).size, max);
    fails(fs.write(file, max, b"x", WriteFlags::default()), libc::EFBIG);
    fails(fs.write(file, max - 1, b"xy", WriteFlags::default()), libc::EFBIG);
    fails(fs.append(file, b"x", WriteFlags::default()), libc::EFBIG);
    fails(fs.truncate(file, max + 1), libc::EFBIG);
    fails(fs.write(ROOT, 0, b"x", WriteFlags::default()), libc::EISDIR);
    fails(fs.read(ROOT, 0, &mut [0]), libc::EISDIR);
    let fifo = fs.mknod(&USER, ROOT, b"p", FileKind::Fifo.mode(), 0).unwrap().ino;
    fails(fs.write(fifo, 0, b"x", WriteFlags::default()), libc::EINVAL);
}

#[test]
fn a_full_store_says_so_and_stays_as_it_was() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    let chunk = vec![7; 1 << 20];
    let mut written = 0;
    while fs.write(file, written, &chunk, WriteFlags::default()).is_ok() {
        written += 1 << 20;
        assert!(written <= 256 << 20);
    }
    fails(fs.write(file, written, &chunk, WriteFlags::default()), libc::ENOSPC);
    assert_eq!(fs.stat(file).size, written);
    fs.unlink(ROOT, b"f").unwrap();
    fs.forget(file, 1);
}

#[test]
fn writing_takes_privileges() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.setxattr(file, b"security.capability", b"cap", SetXattrFlags::default()).unwrap();
    fs.chmod(file, 0o6755);
    fs.put(file, 0, b"x");
    assert_eq!(fs.stat(file).permissions, 0o6755);
    fs.write(file, 0, b"x", KILL).unwrap();
    assert_eq!(fs.stat(file).permissions, 0o755);
    fails(fs.getxattr(file, b"security.capability"), libc::ENODATA);
    assert!(fs.listxattr(file, true).unwrap().is_empty());
    fs.chmod(file, 0o6745);
    fs.write(file, 0, b"x", KILL).unwrap();
    assert_eq!(fs.stat(file).permissions, 0o2745, "without group execution it is no privilege");
}

#[test]
fn so_do_fallocate_and_copies() {
    let fs = mount();
    let (file, source) = (fs.file(ROOT, "f"), fs.file_with(ROOT, "source", b"bytes"));
    let allocate = FallocateMode::Allocate { keep_size: false };
    for (flags, left) in [(KEEP, 0o6755), (KILL, 0o755)] {
        fs.chmod(file, 0o6755);
        fs.fallocate(file, allocate, 0, 10, flags).unwrap();
        assert_eq!(fs.stat(file).permissions, left);
        fs.chmod(file, 0o6755);
        fs.copy_file_range(source, 0, file, 0, 5, flags).unwrap();
        assert_eq!(fs.stat(file).permissions, left);
    }
}

#[test]
fn access_times_are_relative() {
    let fs = mount();
    let file = fs.file_with(ROOT, "f", b"bytes");
    let made = fs.stat(file);
    fs.bytes(file);
    let read = fs.stat(file);
    assert!(read.atime > made.mtime && read.ctime == made.ctime);
    fs.bytes(file);
    assert_eq!(fs.stat(file).atime, read.atime);
    fs.put(file, 0, b"b");
    fs.bytes(file);
    assert!(fs.stat(file).atime > read.atime);

    let fs = mount_with(MountOptions { no_atime: true, clock: Some(tick), ..Default::default() });
    let file = fs.file_with(ROOT, "f", b"bytes");
    fs.bytes(file);
    assert_eq!(fs.stat(file).atime, fs.stat(file).btime);
}

#[test]
fn access_times_are_written_with_the_last_use() {
    let store = store();
    let fs = blocktree_vfs::Fs::mount(store.clone(), MountOptions::default()).unwrap();
    let file = fs.file_with(ROOT, "f", b"bytes");
    std::thread::sleep(std::time::Duration::from_millis(3));
    fs.bytes(file);
    let atime = fs.stat(file).atime;
    fs.forget(file, 1);
    let fs = blocktree_vfs::Fs::mount(store, MountOptions::default()).unwrap();
    assert_eq!(fs.lookup(ROOT, b"f").unwrap().atime, atime);
    assert!(atime > fs.stat(file).mtime);
}

#[test]
fn syncs_succeed() {
    let fs = mount();
    let file = fs.file_with(ROOT, "f", b"bytes");
    for data_only in [true, false] {
        fs.fsync(file, data_only).unwrap();
        fs.fsync(ROOT, data_only).unwrap();
    }
    fs.syncfs().unwrap();
}

#[test]
fn copies_equal_their_source() {
    let bytes: Vec<u8> = (0..50_000u32).map(|at| (at % 251) as u8).collect();
    for (from, to, length) in [
        (0, 0, 50_000),
        (0, 4096, 20_000),
        (100, 4196, 30_000),
        (5, 6, 20_000),
        (4096, 0, 100),
        (40_000, 1, 99_999),
    ] {
        let fs = mount();
        let source = fs.file_with(ROOT, "s", &bytes);
        let target = fs.file_with(ROOT, "t", &[9; 10_000]);
        let copied = fs.copy_file_range(source, from, target, to, length, KEEP).unwrap() as usize;
        assert_eq!(copied, (length as usize).min(50_000 - from as usize));
        let (from, to) = (from as usize, to as usize);
        let mut expected = vec![9; 10_000];
        expected.resize(expected.len().max(to + copied), 0);
        expected[to..to + copied].copy_from_slice(&bytes[from..from + copied]);
        assert_eq!(fs.bytes(target), expected, "{from} {to} {length}");
        assert_eq!(fs.bytes(source), bytes);
    }
}

#[test]
fn copies_within_a_file_do_not_overlap() {
    let fs = mount();
    let file = fs.file_with(ROOT, "f", &[5; 20_000]);
    fails(fs.copy_file_range(file, 0, file, 100, 200, KEEP), libc::EINVAL);
    fails(fs.copy_file_range(file, 100, file, 0, 200, KEEP), libc::EINVAL);
    assert_eq!(fs.copy_file_range(file, 0, file, 20_480, 8192, KEEP).unwrap(), 8192);
    assert_eq!(fs.stat(file).size, 28_672);
    assert_eq!(fs.copy_file_range(file, 50_000, file, 0, 10, KEEP).unwrap(), 0);
    fails(fs.copy_file_range(ROOT, 0, file, 0, 10, KEEP), libc::EISDIR);
    fails(fs.copy_file_range(file, 0, ROOT, 0, 10, KEEP), libc::EISDIR);
    fails(fs.copy_file_range(file, 0, file, i64::MAX as u64, 10, KEEP), libc::EFBIG);
}

#[test]
fn long_copies_stop_early() {
    let fs = mount();
    let source = fs.file(ROOT, "s");
    fs.truncate(source, 1 << 40).unwrap();
    let target = fs.file(ROOT, "t");
    assert_eq!(fs.copy_file_range(source, 0, target, 0, 1 << 40, KEEP).unwrap(), 4 << 20);
    assert_eq!(fs.copy_file_range(source, 1, target, 0, 1 << 40, KEEP).unwrap(), 4 << 20);
    assert_eq!(fs.stat(target).size, 4 << 20);
}
