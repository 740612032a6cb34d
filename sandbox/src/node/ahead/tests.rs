use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use blocktree_engine::device::SplitMix64;
use blocktree_vfs::{SetAttributes, WriteFlags};

use super::*;
use crate::ipc::{Error, How};
use crate::node::folder;
use crate::node::tests::{World, open};
use crate::package::Rights;

const MIB: usize = 1 << 20;

/// Bytes of which no two pieces are alike.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 4096 + at % 251) as u8).collect()
}

fn write(fs: &Fs, ino: Ino, offset: u64, bytes: &[u8]) {
    fs.write(ino, offset, bytes, WriteFlags::default()).unwrap();
}

fn truncate(fs: &Fs, ino: Ino, size: u64) {
    folder::resize(fs, ino, size).unwrap();
}

fn coming(ahead: &Ahead) -> usize {
    ahead.stream.as_ref().map_or(0, |stream| stream.coming.len())
}

/// A file of so many MiB, and who reads it under the handle 1.
fn stage(mib: usize) -> (World, Ino, Vec<u8>, Ahead) {
    let world = World::new(Rights::Read);
    let bytes = pattern(mib * MIB);
    let ino = world.put(world.top, "file", &bytes);
    let ahead = Ahead::new(Arc::clone(&world.fs));
    (world, ino, bytes, ahead)
}

#[test]
fn a_file_is_read_as_it_is_in_steps_of_any_length() {
    let (_world, ino, bytes, mut ahead) = stage(AHEAD_PIECES + 2);
    for length in [MIB, 3 * MIB, 256 << 10, 100_000, MIB - 1] {
        let (mut at, mut most) = (0, 0);
        loop {
            let part = ahead.read(1, ino, at as u64, length).unwrap();
            if part.is_empty() {
                break;
            }
            assert!(*part == bytes[at..][..part.len()], "{length} at {at}");
            at += part.len();
            most = most.max(coming(&ahead));
        }
        assert_eq!(at, bytes.len(), "{length}");
        assert!((AHEAD_PIECES - 1..=AHEAD_PIECES).contains(&most), "{length}: {most}");
    }
    assert_eq!(ahead.readers.as_ref().unwrap().threads.len(), AHEAD_THREADS);
    ahead.end();
    assert!(ahead.readers.is_none());
}

#[test]
fn who_does_not_read_on_has_nothing_read_ahead() {
    let (_world, ino, bytes, mut ahead) = stage(6);
    let mut reads = |handle, offset: usize, length| {
        let part = ahead.read(handle, ino, offset as u64, length).unwrap();
        assert!(*part == bytes[offset..][..length], "{length} at {offset}");
        coming(&ahead)
    };
    // Back and forth, from two places in turn, and the start of it in small parts.
    for offset in [3, 1, 4, 0, 2] {
        assert_eq!(reads(1, offset * MIB, MIB), 0);
    }
    for offset in 0..3 {
        assert_eq!(reads(1, offset * MIB, MIB), 0);
        assert_eq!(reads(2, offset * MIB, MIB), 0);
    }
    for offset in 0..20 {
        assert_eq!(reads(1, offset * 4096, 4096), 0);
    }
    // No more than was read before.
    for (offset, expected) in [(0, 0), (1, 1), (2, 2), (3, 3)] {
        assert_eq!(reads(1, offset * MIB, MIB), expected);
    }
    ahead.close(2);
    assert_eq!(coming(&ahead), 3, "that was another file");
    ahead.close(1);
    assert_eq!(coming(&ahead), 0);
    assert!(ahead.read(1, ino, u64::MAX, usize::MAX).unwrap().is_empty());
    assert!(ahead.read(1, ino, u64::MAX, usize::MAX).unwrap().is_empty());
    assert!(ahead.read(1, ino, 0, 0).unwrap().is_empty());
    assert!(ahead.read(1, ino, 0, 0).unwrap().is_empty());
}

#[test]
fn what_changes_meanwhile_is_read_as_it_is_then() {
    let (world, ino, mut bytes, mut ahead) = stage(9);
    let fs = &world.fs;
    let mut at = 0;
    let mut reads = |bytes: &[u8], count: usize| {
        for _ in 0..count {
            let part = ahead.read(1, ino, at as u64, MIB).unwrap();
            let end = bytes.len().min(at + MIB);
            assert!(*part == bytes[at.min(end)..end], "at {at}");
            at += MIB;
        }
        // All that is read ahead has been read: what follows comes too late for it.
        for coming in ahead.stream.iter_mut().flat_map(|stream| &mut stream.coming) {
            let piece = coming.piece.recv().unwrap();
            let (done, again) = sync_channel(1);
            done.send(piece).unwrap();
            coming.piece = again;
        }
    };
    reads(&bytes, 3);
    bytes[3 * MIB + 10..][..5].copy_from_slice(b"other");
    write(fs, ino, (3 * MIB + 10) as u64, b"other");
    reads(&bytes, 2);
    // A hole, by an operation that moves nothing else.
    bytes[5 * MIB..6 * MIB].fill(0);
    let mode = blocktree_vfs::FallocateMode::PunchHole;
    fs.fallocate(ino, mode, 5 << 20, 1 << 20, WriteFlags::default()).unwrap();
    reads(&bytes, 1);
    bytes.truncate(6 * MIB + 100);
    truncate(fs, ino, bytes.len() as u64);
    reads(&bytes, 1);
    bytes.resize(8 * MIB, 0);
    truncate(fs, ino, bytes.len() as u64);
    reads(&bytes, 1);
    write(fs, ino, bytes.len() as u64, b"more");
    bytes.extend(b"more");
    reads(&bytes, 1);
}

#[test]
fn nothing_is_older_than_a_write_that_was_done_when_it_was_asked_for() {
    const PIECES: usize = 4;
    let (world, ino, _, mut ahead) = stage(PIECES);
    let is_over = AtomicBool::new(false);
    let finished: Vec<AtomicU64> = (0..PIECES).map(|_| AtomicU64::new(0)).collect();
    write(&world.fs, ino, 0, &vec![0; PIECES * MIB]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = SplitMix64(1);
            for round in 1.. {
                if is_over.load(Ordering::Acquire) {
                    return;
                }
                let piece = rng.below(PIECES as u64) as usize;
                write(&world.fs, ino, (piece * MIB) as u64, &u64::to_le_bytes(round));
                finished[piece].store(round, Ordering::Release);
                std::thread::sleep(std::time::Duration::from_micros(rng.below(2000)));
            }
        });
        for turn in 0..200 {
            let piece = turn % PIECES;
            let least = finished[piece].load(Ordering::Acquire);
            let part = ahead.read(1, ino, (piece * MIB) as u64, MIB).unwrap();
            let round = u64::from_le_bytes(part[..8].try_into().unwrap());
            assert!(round >= least, "turn {turn}: {round} after {least}");
        }
        is_over.store(true, Ordering::Release);
    });
}

#[test]
fn random_reads_and_changes_are_those_of_a_plain_file() {
    for seed in 1..=4 {
        let (world, ino, mut bytes, mut ahead) = stage(3);
        let mut rng = SplitMix64(seed);
        let (mut at, mut length) = (0, MIB);
        for step in 0..150 {
            match rng.below(12) {
                0 => {
                    let offset = rng.below(bytes.len() as u64 + 1) as usize;
                    let text = vec![step as u8; 1 + rng.below(100_000) as usize];
                    bytes.resize(bytes.len().max(offset + text.len()), 0);
                    bytes[offset..][..text.len()].copy_from_slice(&text);
                    write(&world.fs, ino, offset as u64, &text);
                }
                1 => {
                    bytes.resize(rng.below(5 * MIB as u64) as usize, 0);
                    truncate(&world.fs, ino, bytes.len() as u64);
                }
                2 => at = rng.below(bytes.len() as u64 + 1) as usize,
                3 => length = [MIB, 300_000, 4096 * 50][rng.below(3) as usize],
                _ => {
                    let part = ahead.read(1, ino, at as u64, length).unwrap();
                    let end = bytes.len().min(at + length);
                    assert!(*part == bytes[at.min(end)..end], "seed {seed}, step {step}");
                    at = if end == bytes.len() { 0 } else { end };
                }
            }
        }
    }
}

#[test]
fn what_was_read_ahead_is_not_given_out_once_the_grant_is_gone() {
    let (world, _, bytes, _) = stage(6);
    let mut files = world.files();
    let handle = open(&mut files, "file", How::Read).unwrap();
    for at in 0..3 {
        assert!(*files.read(handle, (at * MIB) as u64, MIB as u32).unwrap() == bytes[at * MIB..][..MIB]);
    }
    let grants = std::mem::take(&mut *world.grants.write());
    assert_eq!(files.read(handle, 3 << 20, MIB as u32), Err(Error::NotGranted));
    *world.grants.write() = grants;
    assert!(*files.read(handle, 3 << 20, MIB as u32).unwrap() == bytes[3 * MIB..][..MIB]);
    world.grants.write()[0].expires = Some(1);
    assert_eq!(files.read(handle, 4 << 20, MIB as u32), Err(Error::NotGranted));
    world.grants.write()[0].expires = None;
    files.close(handle).unwrap();
    assert_eq!(files.read(handle, 4 << 20, MIB as u32), Err(Error::NotFound));
    // Another file takes its place, under another handle.
    world.fs.unlink(world.top, b"file").unwrap();
    world.put(world.top, "file", b"short");
    let handle = open(&mut files, "file", How::Read).unwrap();
    assert_eq!(files.read(handle, 0, MIB as u32).unwrap(), b"short");
}

#[test]
fn times_and_rights_of_a_file_may_change_while_it_is_read() {
    let (world, ino, bytes, mut ahead) = stage(4);
    for at in 0..4 {
        assert!(*ahead.read(1, ino, (at * MIB) as u64, MIB).unwrap() == bytes[at * MIB..][..MIB]);
        let changes = SetAttributes { permissions: Some(0o600 + at as u32), ..SetAttributes::default() };
        let user = blocktree_vfs::Caller { uid: 0, gid: 0, pid: 0, umask: 0 };
        world.fs.setattr(&user, ino, &changes).unwrap();
    }
}
