//! fallocate, and lseek's SEEK_DATA and SEEK_HOLE.

mod support;

use blocktree_vfs::{FallocateMode, Fs, Whence};
use support::*;

const SECTOR: usize = 4096;
const ALLOCATE: FallocateMode = FallocateMode::Allocate { keep_size: false };

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 + at / SECTOR * 31 + 1) as u8 | 1).collect()
}

fn with_pattern(length: usize) -> (Fs, u64, Vec<u8>) {
    let fs = mount();
    let bytes = pattern(length);
    let file = fs.file_with(ROOT, "f", &bytes);
    (fs, file, bytes)
}

#[test]
fn modes_come_from_bits() {
    assert_eq!(FallocateMode::from_bits(0).unwrap(), ALLOCATE);
    assert_eq!(FallocateMode::from_bits(3).unwrap(), FallocateMode::PunchHole);
    for bits in [2, 9, 0x21, 0x40, 0x18, 4] {
        fails(FallocateMode::from_bits(bits), libc::EOPNOTSUPP);
    }
}

#[test]
fn allocate_lengthens() {
    let (fs, file, bytes) = with_pattern(100);
    fs.fallocate(file, FallocateMode::Allocate { keep_size: true }, 0, 10_000, KEEP).unwrap();
    assert_eq!(fs.bytes(file), bytes);
    fs.fallocate(file, ALLOCATE, 50, 10_000, KEEP).unwrap();
    assert_eq!(fs.stat(file).size, 10_050);
    assert_eq!(fs.bytes(file)[..100], bytes);
    assert!(fs.bytes(file)[100..].iter().all(|byte| *byte == 0));
    fs.fallocate(file, ALLOCATE, 0, 10, KEEP).unwrap();
    assert_eq!(fs.stat(file).size, 10_050);
}

#[test]
fn ranges_are_checked() {
    let (fs, file, _) = with_pattern(3 * SECTOR);
    fails(fs.fallocate(file, ALLOCATE, 0, 0, KEEP), libc::EINVAL);
    fails(fs.fallocate(file, ALLOCATE, i64::MAX as u64, 1, KEEP), libc::EFBIG);
    fails(fs.fallocate(file, ALLOCATE, u64::MAX, 2, KEEP), libc::EFBIG);
    fails(fs.fallocate(file, ALLOCATE, 0, 1 << 40, KEEP), libc::ENOSPC);
    fails(fs.fallocate(ROOT, ALLOCATE, 0, 1, KEEP), libc::EISDIR);
    for mode in [FallocateMode::CollapseRange, FallocateMode::InsertRange] {
        fails(fs.fallocate(file, mode, 1, 4096, KEEP), libc::EINVAL);
        fails(fs.fallocate(file, mode, 0, 4095, KEEP), libc::EINVAL);
        fails(fs.fallocate(file, mode, 3 * 4096, 4096, KEEP), libc::EINVAL);
    }
    fails(fs.fallocate(file, FallocateMode::CollapseRange, 4096, 2 * 4096, KEEP), libc::EINVAL);
    let far = i64::MAX as u64 / 4096 * 4096 - 4096;
    fails(fs.fallocate(file, FallocateMode::InsertRange, 4096, far, KEEP), libc::EFBIG);
}

#[test]
fn holes_and_zeros_read_as_zeros() {
    for mode in [FallocateMode::PunchHole, FallocateMode::ZeroRange { keep_size: true }] {
        for (start, end) in [
            (0, 1),
            (10, 20),
            (0, SECTOR),
            (100, 2 * SECTOR),
            (SECTOR, 2 * SECTOR + 5),
            (SECTOR - 1, 4 * SECTOR + 1),
            (3 * SECTOR, 5 * SECTOR - 10),
            (4 * SECTOR + 7, 9 * SECTOR),
            (7 * SECTOR, 8 * SECTOR),
        ] {
            let (fs, file, mut bytes) = with_pattern(5 * SECTOR - 10);
            fs.fallocate(file, mode, start as u64, (end - start) as u64, KEEP).unwrap();
            let clamped = end.min(bytes.len());
            if start < clamped {
                bytes[start..clamped].fill(0);
            }
            assert_eq!(fs.bytes(file), bytes, "{mode:?} {start}..{end}");
        }
    }
    let (fs, file, _) = with_pattern(SECTOR);
    fs.fallocate(file, FallocateMode::ZeroRange { keep_size: false }, 100, 10_000, KEEP).unwrap();
    assert_eq!(fs.stat(file).size, 10_100);
    fs.fallocate(file, FallocateMode::PunchHole, 0, 4096, KEEP).unwrap();
    assert_eq!(fs.stat(file).blocks, 0);
}

#[test]
fn a_cut_tail_does_not_come_back() {
    let (fs, file, mut bytes) = with_pattern(2 * SECTOR);
    fs.truncate(file, 5000).unwrap();
    fs.truncate(file, 3 * SECTOR as u64).unwrap();
    bytes.resize(3 * SECTOR, 0);
    bytes[5000..].fill(0);
    assert_eq!(fs.bytes(file), bytes);
}

#[test]
fn collapse_takes_out_and_insert_puts_in() {
    let length = 10 * SECTOR + 123;
    for (at, count) in [(0, 1), (1, 1), (2, 3), (0, 9), (7, 3), (9, 1)] {
        let (fs, file, mut bytes) = with_pattern(length);
        fs.fallocate(file, FallocateMode::CollapseRange, at * 4096, count * 4096, KEEP).unwrap();
        bytes.drain(at as usize * SECTOR..(at + count) as usize * SECTOR);
        assert_eq!(fs.bytes(file), bytes, "collapse {at} {count}");
        fs.truncate(file, length as u64).unwrap();
        bytes.resize(length, 0);
        assert_eq!(fs.bytes(file), bytes);

        let (fs, file, mut bytes) = with_pattern(length);
        fs.fallocate(file, FallocateMode::InsertRange, at * 4096, count * 4096, KEEP).unwrap();
        let at = at as usize * SECTOR;
        bytes.splice(at..at, std::iter::repeat_n(0, count as usize * SECTOR));
        assert_eq!(fs.bytes(file), bytes, "insert {at} {count}");
    }
}

#[test]
fn collapse_and_insert_keep_holes() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.put(file, 0, &pattern(SECTOR));
    fs.put(file, 5 * 4096, &pattern(SECTOR));
    fs.put(file, 20 * 4096, &pattern(100));
    // The engine counts sectors exactly once they are sealed.
    let settled = |fs: &Fs| {
        fs.syncfs().unwrap();
        (fs.stat(file).blocks, fs.stat(file).size)
    };
    let (blocks, _) = settled(&fs);
    assert_eq!(blocks, 24);
    fs.fallocate(file, FallocateMode::InsertRange, 4096, 3 * 4096, KEEP).unwrap();
    assert_eq!(fs.seek(file, 4096, Whence::Data).unwrap(), 8 * 4096);
    assert_eq!(fs.seek(file, 9 * 4096, Whence::Data).unwrap(), 23 * 4096);
    assert_eq!(settled(&fs), (blocks, 23 * 4096 + 100));
    fs.fallocate(file, FallocateMode::CollapseRange, 2 * 4096, 4 * 4096, KEEP).unwrap();
    assert_eq!(fs.seek(file, 4096, Whence::Data).unwrap(), 4 * 4096);
    assert_eq!(fs.seek(file, 5 * 4096, Whence::Data).unwrap(), 19 * 4096);
    assert_eq!(settled(&fs), (blocks, 19 * 4096 + 100));
}

#[test]
fn long_moves_take_several_steps() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    let chunk = pattern(1 << 20);
    for at in 0..68 {
        fs.put(file, at << 20, &chunk);
    }
    fs.put(file, 67 << 20, b"marker");
    fs.fallocate(file, FallocateMode::InsertRange, 4096, 4 << 20, KEEP).unwrap();
    let mut bytes = [0; 6];
    fs.read(file, 71 << 20, &mut bytes).unwrap();
    assert_eq!((&bytes, fs.stat(file).size), (b"marker", 72 << 20));
    fs.fallocate(file, FallocateMode::CollapseRange, 0, 2 << 20, KEEP).unwrap();
    fs.read(file, 69 << 20, &mut bytes).unwrap();
    assert_eq!((&bytes, fs.stat(file).size), (b"marker", 70 << 20));
}

#[test]
fn seek_finds_data_and_holes() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.put(file, 4096 * 2, &pattern(5000));
    fs.truncate(file, 4096 * 10 + 5).unwrap();
    assert_eq!(fs.seek(file, 0, Whence::Data).unwrap(), 8192);
    assert_eq!(fs.seek(file, 0, Whence::Hole).unwrap(), 0);
    assert_eq!(fs.seek(file, 9000, Whence::Data).unwrap(), 9000);
    assert_eq!(fs.seek(file, 9000, Whence::Hole).unwrap(), 4 * 4096);
    fails(fs.seek(file, 4 * 4096, Whence::Data), libc::ENXIO);
    fails(fs.seek(file, 4096 * 10 + 5, Whence::Hole), libc::ENXIO);
    fails(fs.seek(file, u64::MAX, Whence::Data), libc::ENXIO);
    let full = fs.file_with(ROOT, "g", &pattern(100));
    assert_eq!(fs.seek(full, 3, Whence::Hole).unwrap(), 100);
    assert_eq!(fs.seek(full, 3, Whence::Data).unwrap(), 3);
    fails(fs.seek(ROOT, 0, Whence::Data), libc::EINVAL);
}

#[test]
fn a_fragmented_range_is_punched_in_parts() {
    let fs = mount();
    let file = fs.file_with(ROOT, "f", b"");
    // Every other sector: more pieces than one transaction removes.
    const PIECES: u64 = 9000;
    for piece in 0..PIECES {
        fs.write(file, piece * 2 * SECTOR as u64, &[7; SECTOR], Default::default()).unwrap();
    }
    let size = fs.stat(file).size;
    fs.syncfs().unwrap();
    fs.fallocate(file, FallocateMode::PunchHole, 0, size - SECTOR as u64, KEEP).unwrap();
    fs.syncfs().unwrap();
    assert_eq!((fs.stat(file).size, fs.stat(file).blocks), (size, 8));
    assert_eq!(fs.seek(file, 0, Whence::Data).unwrap(), size - SECTOR as u64);
}
