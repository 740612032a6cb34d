//! What happens to a store does not harm more than it must: every damage, every lack and every misuse gives a clear
//! error or EIO, never wrong bytes, never a panic, and nothing else is lost.
//!
//! `damage` changes bytes of a volume; `host` takes away what is around a store: space, permissions, files, devices;
//! `process` is what happens to the daemon; `beside` is what is done to a store while it is mounted; `rollback` puts
//! older copies back.
//!
//! Most need root and `/dev/fuse`, some loop devices; without, each says so and passes.

mod beside;
mod damage;
mod host;
mod process;
mod rollback;
mod secrets;
#[path = "../support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use blocktree_engine::limits::SECTOR_BYTES;
use support::{Mount, Place, Ran, can_mount, finish, program};

/// A place with a store of this size.
fn small_store(size: &str) -> Place {
    let place = Place::empty();
    finish(&mut place.on_store(&["init"], &["--size", size])).ok();
    place
}

fn check(place: &Place, arguments: &[&str]) -> Ran {
    let ran = finish(&mut place.on_store(&["check"], arguments));
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    ran
}

fn try_mount(place: &Place, arguments: &[&str]) -> Result<Mount, Ran> {
    let mountpoint = place.mountpoint();
    let arguments = [&[mountpoint.to_str().unwrap()], arguments].concat();
    Mount::attempt(&mut place.on_store(&["mount"], &arguments), place.mountpoint())
}

/// The mount must fail and say all of these.
#[track_caller]
fn mount_refused(place: &Place, says: &[&str]) {
    match try_mount(place, &["-o", "ro"]) {
        Ok(_mount) => panic!("mounted, although: {says:?}"),
        Err(ran) => drop(ran.failed(1, says)),
    }
}

/// Bytes that differ between seeds and between sectors.
fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut pattern: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| next()).collect();
    pattern.truncate(bytes);
    pattern
}

/// Reads a file sector by sector: each is what it must be or gives EIO. Returns the numbers of the latter.
#[track_caller]
fn sectors_with_eio(path: &Path, expected: &[u8]) -> Result<Vec<usize>, std::io::Error> {
    let file = File::open(path)?;
    let mut bad = Vec::new();
    for (number, expected) in expected.chunks(SECTOR_BYTES).enumerate() {
        let mut bytes = vec![0; expected.len()];
        match file.read_exact_at(&mut bytes, (number * SECTOR_BYTES) as u64) {
            Ok(()) => assert!(bytes == expected, "wrong bytes in sector {number} of {}", path.display()),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "sector {number}: {error}");
                bad.push(number);
            }
        }
    }
    Ok(bad)
}

/// The file is as it must be, or gives EIO; whether the former.
#[track_caller]
fn right_or_eio(path: &Path, expected: &[u8]) -> bool {
    match fs::read(path) {
        Ok(bytes) => {
            assert!(bytes == expected, "wrong bytes in {}", path.display());
            true
        }
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{}: {error}", path.display());
            false
        }
    }
}

/// Ends the mount whatever state its store is in: it must be gone afterwards. Returns what `umount` said.
#[track_caller]
fn end(place: &Place, mount: Mount) -> Ran {
    let ran = finish(program().arg("umount").arg(place.mountpoint()));
    assert!(!support::is_mounted(&place.mountpoint()), "{ran:?}");
    support::wait_until("the daemon has ended", || !support::is_alive(mount.daemon));
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    ran
}
