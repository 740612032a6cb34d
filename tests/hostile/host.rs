//! What is around a store fails: no room, no permission, no file, no device.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{self, BINARY, Mount, Place, Ran, finish, program};
use super::{can_mount, check, end, mount_refused, pattern, right_or_eio, sectors_with_eio, small_store};

/// Debian's `nobody`.
const NOBODY: u32 = 65_534;

/// A loop device, detached when it is dropped.
pub(super) struct Loop(PathBuf);

impl Loop {
    /// `None` where there are none; says so.
    pub(super) fn on(file: &Path) -> Option<Self> {
        let ran = finish(Command::new("losetup").args(["--find", "--show"]).arg(file));
        if ran.code != 0 {
            eprintln!("not tested here: no loop device: {}", ran.stderr.trim());
            return None;
        }
        Some(Self(ran.stdout.trim().into()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// A filesystem of its own, unmounted when it is dropped.
struct Host(PathBuf);

impl Host {
    /// ext4 where there are loop devices, else tmpfs.
    fn new(place: &Place, bytes: u64) -> Self {
        let folder = place.path("host");
        fs::create_dir(&folder).unwrap();
        let image = place.path("image");
        File::create(&image).unwrap().set_len(bytes).unwrap();
        let host = Self(folder);
        let made = finish(Command::new("mkfs.ext4").arg("-q").arg(&image)).code == 0;
        let mount = |arguments: &[&str], source: &Path| {
            finish(Command::new("mount").args(arguments).arg(source).arg(&host.0))
        };
        if !made || mount(&["-o", "loop"], &image).code != 0 {
            eprintln!("on tmpfs: there is no ext4 on a loop device");
            mount(&["-t", "tmpfs", "-o", &format!("size={bytes}")], Path::new("none")).ok();
        }
        host
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if support::is_mounted(&self.0) {
            let _ = Command::new("umount").arg(&self.0).status();
        }
    }
}

/// Writes a file and makes it durable.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Writes files, each made durable, until that fails, which must be for lack of space. Returns how many are whole.
#[track_caller]
fn fill(mount: &Mount, name: &str, bytes: usize) -> u64 {
    for number in 0.. {
        let path = mount.path(&format!("{name}{number}"));
        if let Err(error) = write_durably(&path, &pattern(number, bytes)) {
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
            return number;
        }
        assert!(number < 5000, "the store is never full");
    }
    unreachable!("it ends when the store is full");
}

/// Ends a mount that was full: what did not fit was not written, and the kernel may say so here again.
#[track_caller]
fn end_full(place: &Place, mount: Mount) {
    let ran = end(place, mount);
    assert!(ran.code == 0 || ran.stderr.contains("not all of its data is durable: No space left"), "{ran:?}");
}

#[track_caller]
fn all_there(mount: &Mount, name: &str, numbers: impl Iterator<Item = u64>, bytes: usize) {
    for number in numbers {
        let path = mount.path(&format!("{name}{number}"));
        assert!(right_or_eio(&path, &pattern(number, bytes)), "{}", path.display());
    }
}

#[test]
fn a_full_host_disk_is_a_full_store() {
    if !can_mount() {
        return;
    }
    let place = Place::empty();
    let host = Host::new(&place, 200 << 20);
    fs::create_dir(host.0.join("store")).unwrap();
    symlink(host.0.join("store"), place.store()).unwrap();
    finish(&mut place.on_store(&["init"], &["--size", "1G"])).ok();
    const BYTES: usize = 1 << 20;
    let mount = place.mount();
    write_durably(&mount.path("first"), &pattern(99, 5 * BYTES)).unwrap();
    let whole = fill(&mount, "f", BYTES);
    assert!(whole > 50, "only {whole} files fit");
    for number in 0..whole / 2 {
        fs::remove_file(mount.path(&format!("f{number}"))).unwrap();
    }
    fs::remove_file(mount.path(&format!("f{whole}"))).unwrap();
    // What was removed makes room, also for what the kernel only collects.
    fs::write(mount.path("again"), pattern(98, 10 * BYTES)).unwrap();
    let verify = |mount: &Mount| {
        all_there(mount, "f", whole / 2..whole, BYTES);
        assert!(right_or_eio(&mount.path("first"), &pattern(99, 5 * BYTES)));
        assert!(right_or_eio(&mount.path("again"), &pattern(98, 10 * BYTES)));
    };
    verify(&mount);
    end_full(&place, mount);
    assert_eq!(check(&place, &[]).code, 0);
    let mount = place.mount();
    verify(&mount);
    mount.umount();
    fs::remove_file(host.0.join("store/volume")).unwrap();
    // A host without room for a new store says so and keeps nothing.
    let filler = File::create(host.0.join("filler")).unwrap();
    let mut written = 0;
    while written < 150 << 20 && (&filler).write_all(&[1; 1 << 20]).is_ok() {
        written += 1 << 20;
    }
    finish(&mut place.on_store(&["init"], &["--size", "1G"])).failed(1, &["no room", "free some space"]);
    assert!(!host.0.join("store/volume").exists());
}

#[test]
fn a_full_store_can_be_emptied_and_filled_again() {
    if !can_mount() {
        return;
    }
    let place = small_store("40M");
    const BYTES: usize = 100_000;
    let mount = place.mount();
    fs::create_dir(mount.path("names")).unwrap();
    write_durably(&mount.path("first"), &pattern(99, BYTES)).unwrap();
    let whole = fill(&mount, "f", BYTES);
    assert!(whole > 100, "only {whole} files fit");
    let _ = fs::remove_file(mount.path(&format!("f{whole}")));
    // Names and single bytes until not even those fit.
    let error = (0..100_000)
        .find_map(|number| write_durably(&mount.path(&format!("names/{number}")), b"x").err())
        .expect("it is full some time");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    // What fails changes nothing.
    let error = write_durably(&mount.path("first"), &pattern(98, 60 << 20)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    fs::remove_dir_all(mount.path("names")).unwrap();
    fs::remove_file(mount.path("first")).unwrap();
    for round in 0..20 {
        fs::remove_file(mount.path(&format!("f{round}"))).unwrap();
        let _ = fill(&mount, &format!("round{round}-"), BYTES);
    }
    all_there(&mount, "f", 20..whole, BYTES);
    end_full(&place, mount);
    assert_eq!(check(&place, &[]).code, 0);
    let mount = place.mount();
    all_there(&mount, "f", 20..whole, BYTES);
    for entry in fs::read_dir(place.mountpoint()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let again = fill(&mount, "f", BYTES);
    assert!(again + 5 >= whole, "{whole} files fitted at first, {again} now");
    all_there(&mount, "f", 0..again, BYTES);
    end_full(&place, mount);
    assert_eq!(check(&place, &[]).code, 0);
}

#[test]
fn what_is_no_store_or_not_ours_is_named() {
    if !can_mount() {
        return;
    }
    let place = Place::empty();
    let store = place.store();
    fs::create_dir(&store).unwrap();
    mount_refused(&place, &["is not a store", "blocktree init"]);
    check(&place, &[]).failed(1, &["is not a store"]);
    fs::create_dir(store.join("volume")).unwrap();
    mount_refused(&place, &["is not a store"]);
    fs::remove_dir(store.join("volume")).unwrap();
    fs::remove_dir(&store).unwrap();
    fs::write(&store, "letter").unwrap();
    mount_refused(&place, &["is not a store", "blocktree init"]);
    place.init().failed(1, &["is not a store"]);
    assert_eq!(fs::read(&store).unwrap(), b"letter");
    fs::remove_file(&store).unwrap();
    symlink("nowhere", &store).unwrap();
    mount_refused(&place, &["does not exist", "blocktree init"]);
}

#[test]
fn without_permission_it_says_so() {
    if !can_mount() {
        return;
    }
    let place = small_store("40M");
    let binary = place.path("blocktree");
    fs::copy(BINARY, &binary).unwrap();
    fs::set_permissions(place.path(""), Permissions::from_mode(0o755)).unwrap();
    chown(place.mountpoint(), Some(NOBODY), Some(NOBODY)).unwrap();
    let nobody = |arguments: &[&str]| -> Command {
        let mut command = Command::new("setsid");
        command.args(["--wait", "setpriv", "--clear-groups"]);
        command.args(["--reuid", &NOBODY.to_string(), "--regid", &NOBODY.to_string()]);
        command.arg(&binary).args(arguments).env("BLOCKTREE_PASSPHRASE_FILE", place.passphrase_file());
        command.env("BLOCKTREE_ANCHOR_DIR", place.path("anchors"));
        command
    };
    let (store, mountpoint) = (place.store(), place.mountpoint());
    let (store, mountpoint) = (store.to_str().unwrap(), mountpoint.to_str().unwrap());
    let refused = |says: &[&str]| -> [Ran; 3] {
        [&["mount", store, mountpoint][..], &["check", store], &["info", store]].map(|arguments| {
            match Mount::attempt(&mut nobody(arguments), place.mountpoint()) {
                Err(ran) => ran.failed(1, says),
                Ok(_) => panic!("{arguments:?} succeeded"),
            }
        })
    };
    // The directory may not be entered.
    fs::set_permissions(store, Permissions::from_mode(0o700)).unwrap();
    refused(&["no permission", store, "change its owner or mode"]);
    // The volume may not be read.
    fs::set_permissions(store, Permissions::from_mode(0o755)).unwrap();
    refused(&["no permission", "volume", "change its owner or mode"]);
    // It may be read, but the passphrase may not.
    fs::set_permissions(Path::new(store).join("volume"), Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(place.passphrase_file(), Permissions::from_mode(0o600)).unwrap();
    let passphrase = place.passphrase_file();
    let says = ["passphrase file", passphrase.to_str().unwrap(), "check its path and mode"];
    finish(&mut nobody(&["check", store])).failed(1, &says);
    // All may be read: that is enough for reading.
    fs::set_permissions(place.passphrase_file(), Permissions::from_mode(0o644)).unwrap();
    finish(&mut nobody(&["check", store])).ok();
    finish(&mut nobody(&["check", "--repair", store])).failed(1, &["no permission"]);
    finish(&mut nobody(&["mount", store, mountpoint])).failed(1, &["no permission", "mount it read-only"]);
    finish(&mut nobody(&["snapshot", "create", store, "x"])).failed(1, &["no permission"]);
    let new = Path::new(store).parent().unwrap().join("new");
    finish(&mut nobody(&["init", new.to_str().unwrap()])).failed(1, &["no permission"]);
    if finish(Command::new("fusermount3").arg("--version")).code == 0 {
        let mount = Mount::by(&mut nobody(&["mount", "-o", "ro", store, mountpoint]), place.mountpoint());
        mount.umount();
    }
}

#[test]
fn passphrase_files_and_mountpoints_that_are_of_no_use_are_named() {
    if !can_mount() {
        return;
    }
    let place = small_store("40M");
    let store = place.store();
    let mount = |mountpoint: &Path, passphrase: &Path| {
        let mut command = program();
        command.arg("mount").arg(&store).arg(mountpoint).arg("--passphrase-file").arg(passphrase);
        Mount::attempt(&mut command, mountpoint.into()).map(drop).unwrap_err()
    };
    let (mountpoint, passphrase) = (place.mountpoint(), place.passphrase_file());
    let missing = place.path("missing");
    mount(&mountpoint, &missing).failed(1, &["passphrase file", missing.to_str().unwrap(), "check its path"]);
    mount(&mountpoint, &mountpoint).failed(1, &["passphrase", mountpoint.to_str().unwrap()]);
    let empty = place.path("empty");
    fs::write(&empty, "\n").unwrap();
    mount(&mountpoint, &empty).failed(1, &[empty.to_str().unwrap(), "is empty"]);
    mount(&missing, &passphrase).failed(1, &["does not exist", "make the directory"]);
    mount(&empty, &passphrase).failed(1, &["is not a directory"]);
    // A mount hides what is in its directory, and does not touch it.
    fs::write(place.path("mnt/below"), "kept").unwrap();
    let mounted = place.mount();
    assert_eq!(fs::read(mounted.path("below")).unwrap_err().kind(), ErrorKind::NotFound);
    mounted.umount();
    assert_eq!(fs::read(place.path("mnt/below")).unwrap(), b"kept");
    mount(&store, &passphrase).failed(1, &["is the store itself"]);
}

#[test]
fn a_volume_that_goes_away_under_a_mount_gives_errors() {
    if !can_mount() {
        return;
    }
    const BYTES: usize = 4 << 20;
    for removed in [false, true] {
        let place = small_store("64M");
        let mount = place.mount();
        for number in 0..4 {
            fs::write(mount.path(&number.to_string()), pattern(number, BYTES)).unwrap();
        }
        mount.umount();
        let mount = place.mount();
        let volume = place.store().join("volume");
        if removed {
            fs::remove_file(&volume).unwrap();
        } else {
            File::options().write(true).open(&volume).unwrap().set_len(8 << 20).unwrap();
        }
        for number in 0..4 {
            match sectors_with_eio(&mount.path(&number.to_string()), &pattern(number, BYTES)) {
                Ok(bad) => assert_eq!(bad.is_empty(), removed, "{number}"),
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}"),
            }
        }
        // Writing may work or not; whatever is answered must be true, and nothing may hang.
        for number in 10..14 {
            let path = mount.path(&number.to_string());
            match write_durably(&path, &pattern(number, BYTES)) {
                Ok(()) => drop(right_or_eio(&path, &pattern(number, BYTES))),
                Err(error) => assert!(
                    matches!(error.raw_os_error(), Some(libc::EIO | libc::EROFS | libc::ENOSPC)),
                    "{error}"
                ),
            }
        }
        assert!(support::is_alive(mount.daemon));
        let ran = end(&place, mount);
        assert!(ran.code == 0 || ran.code == 1 && ran.stderr.contains("not all"), "{ran:?}");
        if removed {
            mount_refused(&place, &["is not a store"]);
        } else {
            let ran = check(&place, &[]);
            assert!(ran.code == 4 || ran.code == 1, "{ran:?}");
        }
    }
}

#[test]
fn block_devices_are_stores_too() {
    if !can_mount() {
        return;
    }
    let place = Place::empty();
    let image = place.path("image");
    File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let has_ext4 = finish(Command::new("mkfs.ext4").arg("-q").arg(&image)).code == 0;
    let Some(device) = Loop::on(&image) else { return };
    symlink(&device.0, place.store()).unwrap();
    let init = |arguments: &[&str]| finish(&mut place.on_store(&["init"], arguments));
    if has_ext4 {
        let before = fs::read(&image).unwrap();
        init(&[]).failed(1, &["ext4", "--force"]);
        assert!(fs::read(&image).unwrap() == before);
        init(&["--force"]).ok();
    } else {
        init(&[]).ok();
    }
    init(&[]).failed(1, &["a Blocktree store", "--force"]);

    let mount = place.mount();
    write_durably(&mount.path("kept"), &pattern(1, 3 << 20)).unwrap();
    // Mounted once is mounted under every name of the device.
    let node = place.path("node");
    let number = finish(Command::new("stat").args(["-c", "%Hr %Lr"]).arg(&device.0)).ok().stdout;
    finish(Command::new("mknod").arg(&node).arg("b").args(number.split_whitespace())).ok();
    fs::create_dir(place.path("other")).unwrap();
    for path in [&place.store(), &device.0, &node] {
        for command in [&["mount"][..], &["check"]] {
            let mut line = program();
            line.args(command).arg(path).args(place.passphrase_arguments());
            if command == ["mount"] {
                line.arg(place.path("other"));
            }
            match Mount::attempt(&mut line, place.path("other")) {
                Ok(_) => panic!("{command:?} succeeded on {}", path.display()),
                Err(ran) => drop(ran.failed(1, &["is mounted on", place.mountpoint().to_str().unwrap()])),
            }
        }
    }
    init(&["--force"]).failed(1, &["is mounted on"]);
    mount.signal("KILL");
    drop(mount);
    let mount = place.mount();
    assert!(right_or_eio(&mount.path("kept"), &pattern(1, 3 << 20)));
    mount.umount();
    assert_eq!(check(&place, &[]).code, 0);

    // A device that is gone: what is behind a loop device shrinks.
    let mount = place.mount();
    File::options().write(true).open(&image).unwrap().set_len(0).unwrap();
    finish(Command::new("losetup").arg("--set-capacity").arg(&device.0)).ok();
    match sectors_with_eio(&mount.path("kept"), &pattern(1, 3 << 20)) {
        Ok(bad) => assert_eq!(bad.len(), (3 << 20) / 4096),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}"),
    }
    let error = write_durably(&mount.path("new"), b"x").unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(libc::EIO | libc::EROFS | libc::ENOSPC)), "{error}");
    let ran = end(&place, mount);
    assert!(ran.code == 1 && ran.stderr.contains("not all of its data is durable"), "{ran:?}");
    mount_refused(&place, &["not a Blocktree store"]);
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(&[0; 16], 0).unwrap();
}
