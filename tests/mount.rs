//! What only the kernel shows: mounts made and ended in every way there is.
//!
//! These need `/dev/fuse` and, most of them, root; without, each says so and passes.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use support::{BINARY, Mount, Place, can_mount, finish, is_mounted, program};

/// Every file of a folder with its contents.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn what_is_written_is_there_after_the_next_mount() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let mount = place.mount();
    let large: Vec<u8> = (0..3_000_001_u32).map(|index| (index % 251) as u8).collect();
    fs::write(mount.path("small"), "hello").unwrap();
    fs::write(mount.path("large"), &large).unwrap();
    fs::create_dir_all(mount.path("a/b/c")).unwrap();
    fs::write(mount.path("a/b/c/deep"), "x").unwrap();
    symlink("small", mount.path("link")).unwrap();
    fs::hard_link(mount.path("small"), mount.path("again")).unwrap();
    fs::set_permissions(mount.path("small"), fs::Permissions::from_mode(0o4750)).unwrap();
    let check = |mount: &Mount| {
        assert_eq!(fs::read(mount.path("link")).unwrap(), b"hello");
        assert_eq!(fs::read(mount.path("large")).unwrap(), large);
        assert_eq!(fs::read(mount.path("a/b/c/deep")).unwrap(), b"x");
        let metadata = fs::metadata(mount.path("again")).unwrap();
        assert_eq!((metadata.nlink(), metadata.mode() & 0o7777), (2, 0o4750));
    };
    check(&mount);
    mount.umount();
    let mount = place.mount_with(&["-o", "ro"]);
    check(&mount);
    let error = fs::write(mount.path("small"), "no").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn the_root_belongs_to_its_maker_and_the_type_is_shown() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let _mount = place.mount();
    let metadata = fs::metadata(place.mountpoint()).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (0, 0));
    let list = fs::read_to_string("/proc/mounts").unwrap();
    let line = format!("{} {} fuse.blocktree ", place.store().display(), place.mountpoint().display());
    assert!(list.contains(&line), "{list}");
}

#[test]
fn a_wrong_passphrase_is_refused_at_once_and_changes_nothing() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let before = contents(&place.store());
    let wrong = place.path("wrong");
    fs::write(&wrong, "not it").unwrap();
    let start = Instant::now();
    let mut command = program();
    command.arg("mount").arg(place.store()).arg(place.mountpoint()).arg("--passphrase-file").arg(wrong);
    finish(&mut command).failed(1, &["wrong passphrase"]);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(!is_mounted(&place.mountpoint()));
    assert!(contents(&place.store()) == before);
}

#[test]
fn a_second_mount_is_refused() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let mount = place.mount();
    fs::create_dir(place.path("other")).unwrap();
    let again = |mountpoint: PathBuf| {
        let mut command = program();
        command.arg("mount").arg(place.store()).arg(mountpoint).args(place.passphrase_arguments());
        finish(&mut command)
    };
    again(place.path("other")).failed(1, &["is mounted on", "umount"]);
    again(place.mountpoint()).failed(1, &["mounted already"]);
    let mut command = program();
    command.arg("check").arg(place.store()).args(place.passphrase_arguments());
    finish(&mut command).failed(1, &["is mounted on"]);
    // A symlink to the store does not hide it, nor does a mount that the list does not show.
    symlink(place.store(), place.path("alias")).unwrap();
    let mut command = program();
    command.arg("mount").arg(place.path("alias")).arg(place.path("other")).args(place.passphrase_arguments());
    finish(&mut command).failed(1, &["is mounted on"]);
    place.init().failed(1, &["is mounted on"]);
    fs::write(mount.path("still"), "works").unwrap();
}

#[test]
fn signals_unmount_cleanly() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    for name in ["TERM", "INT", "HUP"] {
        let mount = place.mount();
        fs::write(mount.path(name), name).unwrap();
        mount.signal(name);
        assert!(!is_mounted(&place.mountpoint()));
    }
    let mount = place.mount();
    // Also where a file is open; its writer then gets an error.
    let mut open = File::create(mount.path("open")).unwrap();
    open.write_all(b"before").unwrap();
    mount.signal("TERM");
    assert!(!is_mounted(&place.mountpoint()));
    assert!(open.write_all(b"after").and_then(|()| open.sync_all()).is_err());
    let mount = place.mount();
    for name in ["TERM", "INT", "HUP"] {
        assert_eq!(fs::read_to_string(mount.path(name)).unwrap(), name);
    }
    assert_eq!(fs::read(mount.path("open")).unwrap(), b"before");
}

#[test]
fn what_was_synced_survives_the_death_of_the_daemon() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let mount = place.mount();
    let mut file = File::create(mount.path("kept")).unwrap();
    file.write_all(b"safe").unwrap();
    file.sync_all().unwrap();
    mount.signal("KILL");
    assert!(file.write_all(b"x").is_err() || file.sync_all().is_err());
    drop(file);
    // The dead mount is in the way, and the message says what to do.
    let mut command = program();
    command.arg("mount").arg(place.store()).arg(place.mountpoint()).args(place.passphrase_arguments());
    finish(&mut command).failed(1, &["daemon has died", "blocktree umount"]);
    finish(program().arg("umount").arg(place.mountpoint())).ok();
    let mount = place.mount();
    assert_eq!(fs::read(mount.path("kept")).unwrap(), b"safe");
}

#[test]
fn umount_says_when_it_is_busy() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let mount = place.mount();
    let open = File::create(mount.path("open")).unwrap();
    let umount = || finish(program().arg("umount").arg(place.mountpoint()));
    umount().failed(1, &["is busy", "fuser -vm"]);
    assert!(is_mounted(&place.mountpoint()));
    drop(open);
    mount.umount();
    umount().failed(1, &["not where a store is mounted"]);
}

#[test]
fn umount_8_works_too() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let mount = place.mount();
    fs::write(mount.path("file"), "x").unwrap();
    finish(Command::new("umount").arg(place.mountpoint())).ok();
    support::wait_until("the daemon has ended", || !support::is_alive(mount.daemon));
    let mount = place.mount();
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"x");
}

#[test]
fn info_speaks_for_people_and_scripts() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let info = |path: PathBuf| {
        finish(program().arg("info").arg(path).arg("--json").args(place.passphrase_arguments())).ok().stdout
    };
    let offline: serde_json::Value = serde_json::from_str(&info(place.store())).unwrap();
    let mount = place.mount();
    let online: serde_json::Value = serde_json::from_str(&info(place.mountpoint())).unwrap();
    assert_eq!(offline["store_id"], online["store_id"]);
    assert_eq!(online["capacity_bytes"], 256 << 20);
    // What the volume may still grow by is free, whoever asks.
    let free = |info: &serde_json::Value| info["free_bytes"].as_u64().unwrap();
    assert!(free(&offline).abs_diff(free(&online)) < 1 << 20, "{offline} {online}");
    let people = finish(program().arg("info").arg(place.mountpoint())).ok().stdout;
    assert!(people.contains("Capacity:         256.0 MiB"), "{people}");
    mount.umount();
}

#[test]
fn scrub_and_check_find_a_healthy_store_healthy() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let mount = place.mount();
    fs::write(mount.path("file"), vec![7; 1 << 20]).unwrap();
    let scrub = |arguments: &[&str]| finish(program().arg("scrub").arg(place.mountpoint()).args(arguments));
    assert!(scrub(&["--status"]).ok().stdout.contains("No scrub was started"));
    assert!(scrub(&[]).ok().stdout.contains("no damage found"));
    assert!(scrub(&["--status"]).ok().stdout.contains("Scrubbed"));
    scrub(&["--stop"]).ok();
    mount.umount();
    let mut command = program();
    command.arg("check").arg(place.store()).args(place.passphrase_arguments());
    assert!(finish(&mut command).ok().stdout.contains("all is well"));
}

#[test]
fn snapshots_show_the_tree_as_it_was() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let snapshot = |arguments: &[&str], path: PathBuf, name: &[&str]| {
        let mut command = program();
        command.arg("snapshot").args(arguments).arg(path).args(name).args(place.passphrase_arguments());
        finish(&mut command)
    };
    let mount = place.mount();
    fs::write(mount.path("file"), "old").unwrap();
    snapshot(&["create"], place.mountpoint(), &["monday, early"]).ok();
    snapshot(&["create"], place.mountpoint(), &["monday, early"]).failed(1, &["already"]);
    fs::write(mount.path("file"), "new").unwrap();
    fs::write(mount.path("later"), "x").unwrap();
    let listed = snapshot(&["list"], place.mountpoint(), &[]).ok().stdout;
    assert!(listed.ends_with(" UTC  monday, early\n"), "{listed}");
    mount.umount();

    let mut command = program();
    command.args(["snapshot", "mount"]).arg(place.store()).arg("monday, early").arg(place.mountpoint());
    let mount = Mount::by(command.args(place.passphrase_arguments()), place.mountpoint());
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"old");
    assert_eq!(fs::metadata(mount.path("later")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs::write(mount.path("file"), "x").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    mount.umount();

    snapshot(&["delete"], place.store(), &["friday"]).failed(1, &["no snapshot"]);
    snapshot(&["delete"], place.store(), &["monday, early"]).ok();
    assert_eq!(snapshot(&["list"], place.store(), &[]).ok().stdout, "");
    let mount = place.mount();
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"new");
}

#[test]
fn neither_arguments_nor_environment_of_the_daemon_hold_the_passphrase() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let mount = place.mount();
    for file in ["cmdline", "environ"] {
        let mut bytes = Vec::new();
        File::open(format!("/proc/{}/{file}", mount.daemon)).unwrap().read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(support::PASSPHRASE) && !text.contains("passphrase"), "{file}: {text}");
    }
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", mount.daemon)).unwrap(), Path::new("/"));
}

#[test]
fn holes_are_found_while_the_file_is_written() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let mount = place.mount();
    let path = mount.path("sparse");
    let seek = |offset: u64, whence: &str| {
        let script = format!(
            "import os; f = os.open({path:?}, os.O_RDONLY); print(os.lseek(f, {offset}, os.{whence}))"
        );
        finish(Command::new("python3").args(["-c", &script]))
    };
    let find = |offset: u64, whence: &str| seek(offset, whence).ok().stdout.trim().parse::<u64>().unwrap();
    const MIB: u64 = 1 << 20;
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    seek(0, "SEEK_DATA").failed(1, &["No such device or address"]);
    // All of this may still be in the kernel's cache only.
    file.write_all_at(b"data", MIB).unwrap();
    assert_eq!((find(0, "SEEK_DATA"), find(0, "SEEK_HOLE")), (MIB, 0));
    assert_eq!((find(MIB + 2, "SEEK_DATA"), find(MIB, "SEEK_HOLE")), (MIB + 2, MIB + 4));
    file.write_all_at(&vec![1; 8192], 3 * MIB).unwrap();
    file.set_len(5 * MIB).unwrap();
    assert_eq!((find(MIB + 4096, "SEEK_DATA"), find(MIB, "SEEK_HOLE")), (3 * MIB, MIB + 4096));
    assert_eq!(find(3 * MIB, "SEEK_HOLE"), 3 * MIB + 8192);
    seek(4 * MIB, "SEEK_DATA").failed(1, &["No such device or address"]);
    // A hole that is filled later is one no more, and what is read is still what was written.
    file.write_all_at(&vec![2; MIB as usize], 2 * MIB).unwrap();
    assert_eq!((find(MIB + 4096, "SEEK_DATA"), find(2 * MIB, "SEEK_HOLE")), (2 * MIB, 3 * MIB + 8192));
    let copy = place.path("copy");
    finish(Command::new("cp").arg("--sparse=always").arg(&path).arg(&copy)).ok();
    assert!(fs::read(&copy).unwrap() == fs::read(&path).unwrap());
    drop(file);
    assert_eq!((find(0, "SEEK_DATA"), find(MIB, "SEEK_HOLE")), (MIB, MIB + 4096));
    assert_eq!(fs::metadata(&path).unwrap().blocks(), 8 + 2048 + 16);
}

#[test]
fn files_are_made_without_a_name() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let mount = place.mount();
    let script = "import os, sys
directory = sys.argv[1]
descriptors = os.open('/proc/self/fd', os.O_RDONLY)
def link(f, name):
    # Only with a directory's descriptor, linkat(2) is told to follow.
    os.link(str(f), os.path.join(directory, name), src_dir_fd=descriptors, follow_symlinks=True)
f = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o640)
os.write(f, b'made in the dark')
os.fsync(f)
assert os.listdir(directory) == [] and os.fstat(f).st_nlink == 0
link(f, 'named')
assert os.fstat(f).st_nlink == 1
os.unlink(directory + '/named')
try:
    link(f, 'again')
    assert False
except FileNotFoundError:
    pass
g = os.open(directory, os.O_TMPFILE | os.O_WRONLY, 0o600)
os.write(g, b'kept')
link(g, 'kept')
h = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
try:
    link(h, 'excluded')
    assert False
except FileNotFoundError:
    pass
";
    let directory = mount.path("directory");
    fs::create_dir(&directory).unwrap();
    finish(Command::new("python3").args(["-c", script]).arg(&directory)).ok();
    mount.umount();
    let mount = place.mount();
    assert_eq!(contents(&mount.path("directory")), [(mount.path("directory/kept"), b"kept".to_vec())].into());
    mount.umount();
    let mut command = program();
    command.arg("check").arg(place.store()).args(place.passphrase_arguments());
    assert!(finish(&mut command).ok().stdout.contains("all is well"));
}

#[test]
fn many_seek_in_files_that_are_written() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    for options in ["threads=3,transport=device", "transport=uring"] {
        let mount = place.mount_with(&["-o", options]);
        seek_while_writing(&mount);
        mount.umount();
    }
}

fn seek_while_writing(mount: &Mount) {
    let script = "import os, sys, errno
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for step in range(40):
    at = step * 65536 + 4096
    os.pwrite(f, b'x' * 4096, at)
    try:
        found = os.lseek(f, at - 4096, os.SEEK_DATA)
        assert found == at, (found, at)
    except OSError as error:
        # When others seek as well, there may be no answer.
        assert error.errno == errno.EINVAL, error
";
    let mut writers: Vec<_> = (0..8)
        .map(|number| {
            let mut command = Command::new("python3");
            command.args(["-c", script]).arg(mount.path(&format!("file{number}"))).spawn().unwrap()
        })
        .collect();
    for writer in &mut writers {
        assert!(writer.wait().unwrap().success());
    }
}

#[test]
fn requests_come_over_io_uring() {
    const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";
    if !can_mount() {
        return;
    }
    if !fs::read_to_string(PARAMETER).is_ok_and(|value| value.trim() == "Y") {
        eprintln!("not tested here: the kernel has no FUSE over io_uring, or {PARAMETER} is not Y");
        return;
    }
    let place = Place::with_store();
    let mount = place.mount();
    // How often the threads of each transport have slept: once, if they were not needed.
    let sleeps = |kind: &str| {
        let threads = fs::read_dir(format!("/proc/{}/task", mount.daemon)).unwrap();
        let threads = threads.map(|thread| thread.unwrap().path());
        let of_kind =
            threads.filter(|thread| fs::read_to_string(thread.join("comm")).unwrap().starts_with(kind));
        let counts = of_kind.map(|thread| {
            let status = fs::read_to_string(thread.join("status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
            line.trim().parse::<u64>().unwrap()
        });
        counts.sum::<u64>()
    };
    let before = sleeps("uring-");
    std::thread::scope(|scope| {
        for number in 0..4 {
            let folder = mount.path(&format!("folder{number}"));
            scope.spawn(move || {
                fs::create_dir(&folder).unwrap();
                for file in 0..50_usize {
                    let bytes = vec![file as u8; file * 20_000];
                    fs::write(folder.join(file.to_string()), &bytes).unwrap();
                    let renamed = folder.join(format!("renamed{file}"));
                    fs::rename(folder.join(file.to_string()), &renamed).unwrap();
                    File::open(&renamed).unwrap().sync_all().unwrap();
                    assert!(fs::read(&renamed).unwrap() == bytes);
                }
                assert_eq!(fs::read_dir(&folder).unwrap().count(), 50);
            });
        }
    });
    assert!(sleeps("uring-") > before + 200, "{before}");
    let long = vec![b'v'; 60_000];
    let set = "import os, sys; os.setxattr(sys.argv[1], 'user.long', b'v' * 60000)";
    finish(Command::new("python3").args(["-c", set]).arg(mount.path("folder0/renamed1"))).ok();
    let get = "import os, sys; sys.stdout.write(os.getxattr(sys.argv[1], 'user.long').decode())";
    let value = finish(Command::new("python3").args(["-c", get]).arg(mount.path("folder0/renamed1"))).ok();
    assert!(value.stdout.as_bytes() == long);
    assert!(finish(program().arg("info").arg(place.mountpoint())).ok().stdout.contains("Capacity"));
    mount.signal("KILL");
    // The kernel has heard by now that directories need no opening, and opens that of the dead mount.
    let mut command = program();
    command.arg("mount").arg(place.store()).arg(place.mountpoint()).args(place.passphrase_arguments());
    finish(&mut command).failed(1, &["daemon has died"]);
    finish(program().arg("umount").arg(place.mountpoint())).ok();
    let mount = place.mount();
    for number in 0..4 {
        assert_eq!(fs::read(mount.path(&format!("folder{number}/renamed49"))).unwrap(), vec![49; 980_000]);
    }
}

#[test]
fn all_times_are_kept() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let mount = place.mount();
    let path = mount.path("old");
    fs::write(&path, "x").unwrap();
    let times = [0, 1, -1, 951_782_400, -2_208_988_800, i64::from(i32::MIN) - 1, i64::MAX, i64::MIN];
    for (access, modification) in times.iter().zip(times.iter().rev()) {
        let script = format!("import os; os.utime({path:?}, times=({access}, {modification}))");
        finish(Command::new("python3").args(["-c", &script])).ok();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.atime(), metadata.mtime()), (*access, *modification));
    }
    let script = format!("import os; os.utime({path:?}, ns=(-1_200_000_000, -1))");
    finish(Command::new("python3").args(["-c", &script])).ok();
    mount.umount();
    let mount = place.mount();
    let metadata = fs::metadata(mount.path("old")).unwrap();
    assert_eq!((metadata.atime(), metadata.atime_nsec()), (-2, 800_000_000));
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (-1, 999_999_999));
    assert_eq!(fs::read(mount.path("old")).unwrap(), b"x");
}

#[test]
fn files_know_when_they_were_made() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let mount = place.mount();
    let path = mount.path("file");
    let before = std::time::SystemTime::now() - Duration::from_secs(1);
    fs::write(&path, "x").unwrap();
    let made = fs::metadata(&path).unwrap().created().unwrap();
    assert!(made >= before && made <= std::time::SystemTime::now(), "{made:?}");
    finish(Command::new("touch").args(["-d", "@1000000000"]).arg(&path)).ok();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.created().unwrap(), made);
    assert_eq!(metadata.mtime(), 1_000_000_000);
    assert_eq!((metadata.len(), metadata.nlink(), metadata.mode()), (1, 1, 0o100644));
}

#[test]
fn reads_and_writes_at_any_place_match_a_model() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    for options in ["transport=device", "no_writeback", "transport=uring"] {
        let mount = place.mount_with(&["-o", options]);
        let path = mount.path(options);
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let mut model = Vec::new();
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        for step in 0..200_u8 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let offset = (random % 300_000) as usize;
            let length = (random >> 32) as usize % 20_000;
            let bytes = vec![step; length];
            file.write_all_at(&bytes, offset as u64).unwrap();
            if length > 0 {
                model.resize(model.len().max(offset + length), 0);
                model[offset..offset + length].copy_from_slice(&bytes);
            }
            if step % 32 == 31 {
                let half = model.len() / 2;
                file.set_len(half as u64).unwrap();
                model.truncate(half);
            }
        }
        assert!(fs::read(&path).unwrap() == model, "{options}");
        drop(file);
        mount.umount();
        let mount = place.mount();
        assert!(fs::read(mount.path(options)).unwrap() == model, "{options}, mounted again");
        mount.umount();
    }
}

/// Debian's `nobody`: fusermount3 wants a user with a name.
const USER: u32 = 65_534;

#[test]
fn an_ordinary_user_mounts_what_is_theirs() {
    if !can_mount() {
        return;
    }
    let is_for_all = fs::metadata("/dev/fuse").unwrap().mode() & 0o006 == 0o006;
    let has_helper =
        Command::new("fusermount3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !has_helper {
        eprintln!("not tested here: there is no fusermount3");
        return;
    }
    if !is_for_all {
        eprintln!("/dev/fuse has mode 0600 here: only with one descriptor for all event loops");
    }
    let place = Place::empty();
    let folder = place.path("");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    // The binary may be in a folder that ordinary users cannot enter.
    let binary = place.path("blocktree");
    fs::copy(BINARY, &binary).unwrap();
    for path in [folder, place.mountpoint(), place.passphrase_file()] {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
    let user = |arguments: &[&str]| {
        let mut command = Command::new("setsid");
        command.args(["--wait", "setpriv"]);
        command.args(["--reuid", &USER.to_string(), "--regid", &USER.to_string(), "--clear-groups"]);
        command.arg(&binary).args(arguments).env("BLOCKTREE_PASSPHRASE_FILE", place.passphrase_file());
        command.env("BLOCKTREE_ANCHOR_DIR", place.path("anchors"));
        command
    };
    let (store, mountpoint) = (place.store(), place.mountpoint());
    let (store, mountpoint) = (store.to_str().unwrap(), mountpoint.to_str().unwrap());
    finish(&mut user(&["init", store, "--size", "64M"])).ok();
    let allows_others = fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
    if !allows_others {
        let refused = finish(&mut user(&["mount", store, mountpoint, "-o", "allow_other"]));
        refused.failed(1, &["user_allow_other", "/etc/fuse.conf"]);
    }
    let mount = Mount::by(&mut user(&["mount", store, mountpoint]), place.mountpoint());
    let shell = |line: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &USER.to_string(), "--regid", &USER.to_string(), "--clear-groups"]);
        finish(command.args(["sh", "-c", line]))
    };
    shell(&format!("echo mine > {mountpoint}/file && touch -d @1000000000 {mountpoint}/file")).ok();
    assert_eq!(
        shell(&format!("stat -c '%u %Y' {mountpoint}/file")).ok().stdout,
        format!("{USER} 1000000000\n")
    );
    // The kernel keeps root out, as it should.
    assert!(fs::read(mount.path("file")).is_err());
    // So no descriptor of the kernel's own may write back in the user's name: this comes from a kernel thread.
    shell(&format!("echo more >> {mountpoint}/file && sync {mountpoint}/file")).ok();
    finish(&mut user(&["snapshot", "create", mountpoint, "one"])).ok();
    finish(&mut user(&["umount", mountpoint])).ok();
    assert!(!support::is_alive(mount.daemon));

    let mount = Mount::by(&mut user(&["mount", store, mountpoint]), place.mountpoint());
    assert_eq!(shell(&format!("cat {mountpoint}/file")).ok().stdout, "mine\nmore\n");
    // Root cannot look into it, but may end it.
    mount.umount();
}

/// `/sbin/mount.blocktree`, while it exists.
struct HelperLink(Option<PathBuf>);

impl HelperLink {
    fn new(path: &str) -> Self {
        if Path::new(path).symlink_metadata().is_ok() {
            return Self(None);
        }
        symlink(BINARY, path).unwrap();
        Self(Some(path.into()))
    }
}

impl Drop for HelperLink {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

#[test]
fn mount_8_and_fstab_work() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let _links = ["/sbin/mount.blocktree", "/sbin/mount.fuse.blocktree"].map(HelperLink::new);
    let fstab = place.path("fstab");
    for kind in ["blocktree", "fuse.blocktree"] {
        let options = format!("noauto,nofail,x-test,passphrase_file={}", place.passphrase_file().display());
        let line =
            format!("{} {} {kind} {options} 0 0\n", place.store().display(), place.mountpoint().display());
        fs::write(&fstab, line).unwrap();
        let mut command = Command::new("mount");
        command.env("BLOCKTREE_ANCHOR_DIR", support::ANCHORS);
        command.arg("--fstab").arg(&fstab).arg(place.mountpoint());
        let mount = Mount::by(&mut command, place.mountpoint());
        fs::write(mount.path(kind), kind).unwrap();
        mount.umount();

        let mut command = Command::new("mount");
        command.env("BLOCKTREE_ANCHOR_DIR", support::ANCHORS);
        command.args(["-t", kind, "-o", &format!("ro,{options}")]).arg(place.store()).arg(place.mountpoint());
        let mount = Mount::by(&mut command, place.mountpoint());
        assert_eq!(fs::read_to_string(mount.path(kind)).unwrap(), kind);
        assert_eq!(fs::write(mount.path("x"), "").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
        mount.umount();
    }
    let mut command = Command::new("mount");
    command.args(["-t", "blocktree"]).arg(place.store()).arg(place.mountpoint());
    let mut without_terminal = Command::new("setsid");
    without_terminal.arg("--wait").arg(command.get_program()).args(command.get_args());
    without_terminal.env_remove("BLOCKTREE_PASSPHRASE_FILE");
    finish(&mut without_terminal).failed(32, &["passphrase_file="]);
}
