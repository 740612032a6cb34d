//! What is done to a store while a daemon has it mounted for writing.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::support::{Mount, Place, Ran, finish, program, wait_until};
use super::{can_mount, check, pattern, right_or_eio, small_store};

fn snapshot_mount(place: &Place, name: &str, mountpoint: PathBuf) -> Result<Mount, Ran> {
    let _ = fs::create_dir(&mountpoint);
    let arguments = [name, mountpoint.to_str().unwrap()];
    Mount::attempt(&mut place.on_store(&["snapshot", "mount"], &arguments), mountpoint)
}

fn snapshot(command: &str, path: &Path, name: &str) -> Ran {
    finish(program().args(["snapshot", command]).arg(path).arg(name))
}

#[test]
fn commands_on_a_mounted_store_go_through_its_daemon_or_say_so() {
    if !can_mount() {
        return;
    }
    let place = small_store("64M");
    let mount = place.mount();
    fs::write(mount.path("file"), "x").unwrap();
    // Without the passphrase: the daemon has it.
    let info = |path: PathBuf| finish(program().arg("info").arg(path).arg("--json")).ok().stdout;
    let store_id = |text: &str| text.lines().find(|line| line.contains("store_id")).map(str::to_owned);
    assert_eq!(store_id(&info(place.store())), store_id(&info(place.mountpoint())));
    let people = finish(program().arg("info").arg(place.store())).ok().stdout;
    assert!(
        people.contains("Mounted on:") && people.contains(place.mountpoint().to_str().unwrap()),
        "{people}"
    );
    snapshot("create", &place.store(), "one").ok();
    let list = || finish(program().args(["snapshot", "list"]).arg(place.store())).ok().stdout;
    assert!(list().ends_with("  one\n"));
    check(&place, &[]).failed(1, &["is mounted on", "blocktree scrub", "umount"]);
    check(&place, &["--repair"]).failed(1, &["is mounted on"]);
    // Also where a snapshot is mounted beside it; that one alone keeps nobody away.
    let other = snapshot_mount(&place, "one", place.path("other")).unwrap();
    assert!(list().ends_with("  one\n"));
    check(&place, &[]).failed(1, &["is mounted on", place.mountpoint().to_str().unwrap()]);
    snapshot("delete", &place.store(), "one").ok();
    assert_eq!(list(), "");
    mount.umount();
    assert_eq!(check(&place, &[]).code, 0);
    let mount = place.mount();
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"x");
    other.umount();
    mount.umount();
}

#[test]
fn snapshots_are_mounted_while_the_store_changes() {
    if !can_mount() {
        return;
    }
    let place = small_store("64M");
    let mount = place.mount();
    const FILES: u64 = 20;
    let name = |number: u64| format!("{number}");
    for number in 0..FILES {
        fs::write(mount.path(&name(number)), pattern(number, 50_000)).unwrap();
    }
    snapshot("create", &place.mountpoint(), "then").ok();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Enough to go round the log, and so through checkpoints, again and again.
        scope.spawn(|| {
            for round in 100_u64.. {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                for number in 0..FILES {
                    let file = File::create(mount.path(&name(number))).unwrap();
                    file.write_all_at(&pattern(number + round * 1000, 50_000), 0).unwrap();
                    if number % 4 == 0 {
                        file.sync_all().unwrap();
                    }
                }
                if round % 4 == 0 {
                    snapshot("create", &place.mountpoint(), "short").ok();
                    snapshot("delete", &place.mountpoint(), "short").ok();
                }
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let start = Instant::now();
            let mut times = 0;
            while times < 3 || start.elapsed() < Duration::from_secs(3) {
                let shown = snapshot_mount(&place, "then", place.path("other")).unwrap();
                for number in 0..FILES {
                    assert!(right_or_eio(&shown.path(&name(number)), &pattern(number, 50_000)), "{number}");
                }
                assert!(fs::write(shown.path("new"), "x").is_err());
                shown.umount();
                times += 1;
            }
            let refused = snapshot_mount(&place, "never", place.path("other")).map(drop).unwrap_err();
            refused.failed(1, &["no snapshot", "never", "snapshot list"]);
        }));
        is_over.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    mount.umount();
    assert_eq!(check(&place, &[]).code, 0);
}

#[test]
fn a_snapshot_that_is_deleted_while_it_is_read_gives_eio() {
    if !can_mount() {
        return;
    }
    let place = small_store("48M");
    const BYTES: usize = 8 << 20;
    let mount = place.mount();
    let mut seen_eio = false;
    for attempt in 0..4 {
        let old = pattern(attempt, BYTES);
        fs::write(mount.path("file"), &old).unwrap();
        snapshot("create", &place.mountpoint(), "then").ok();
        let shown = snapshot_mount(&place, "then", place.path("other")).unwrap();
        snapshot("delete", &place.mountpoint(), "then").ok();
        // What only the snapshot held is free soon; this takes its place.
        for round in 0..5 {
            let path = mount.path(&format!("new{round}"));
            fs::write(&path, pattern(50 + round, BYTES / 2)).unwrap();
            File::open(&path).unwrap().sync_all().unwrap();
            fs::write(mount.path("file"), pattern(70 + round, BYTES)).unwrap();
            File::open(mount.path("file")).unwrap().sync_all().unwrap();
            fs::remove_file(path).unwrap();
        }
        match fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(shown.path("file")) {
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}"),
            Ok(file) => {
                for (number, expected) in old.chunks(65536).enumerate() {
                    let mut bytes = vec![0; expected.len()];
                    match file.read_exact_at(&mut bytes, number as u64 * 65536) {
                        Ok(()) => assert!(bytes == expected, "wrong bytes in a deleted snapshot"),
                        Err(error) => {
                            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
                            seen_eio = true;
                        }
                    }
                }
            }
        }
        shown.umount();
        assert!(right_or_eio(&mount.path("file"), &pattern(74, BYTES)));
        if seen_eio {
            break;
        }
    }
    assert!(seen_eio, "nothing of the snapshot was overwritten: this shows nothing");
    mount.umount();
    assert_eq!(check(&place, &[]).code, 0);
}

#[test]
fn a_dead_daemon_keeps_nobody_away() {
    if !can_mount() {
        return;
    }
    let place = small_store("40M");
    let mount = place.mount();
    fs::write(mount.path("file"), "x").unwrap();
    File::open(mount.path("file")).unwrap().sync_all().unwrap();
    mount.signal("KILL");
    wait_until("the store is free", || check(&place, &[]).code == 0);
    finish(&mut place.on_store(&["info"], &[])).ok();
    drop(mount);
    assert_eq!(fs::read(place.mount().path("file")).unwrap(), b"x");
}
