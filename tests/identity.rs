//! Whom a mount shows, and what it lets them do. These need root and `/dev/fuse`; without, each says so and passes.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use support::{BINARY, Mount, Place, finish, is_root};

fn can_mount() -> bool {
    let can = is_root() && File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !can {
        eprintln!("not tested here: not root, or no /dev/fuse");
    }
    can
}

/// What `/proc/mounts` says of its options.
fn flags(place: &Place) -> Vec<String> {
    let list = fs::read_to_string("/proc/mounts").unwrap();
    let mountpoint = place.mountpoint();
    let line =
        list.lines().find(|line| line.split(' ').nth(1) == mountpoint.to_str()).expect("it is mounted");
    line.split(' ').nth(3).unwrap().split(',').map(Into::into).collect()
}

/// Runs a line of shell as somebody else.
fn as_user(user: u32, groups: &str, line: &str) -> support::Ran {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user.to_string(), "--regid", &user.to_string()]);
    match groups {
        "" => command.arg("--clear-groups"),
        groups => command.args(["--groups", groups]),
    };
    finish(command.args(["sh", "-c", line]))
}

#[test]
fn set_user_id_and_devices_are_for_those_who_ask() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let has = |flag: &str| flags(&place).iter().any(|found| found == flag);
    let mount = place.mount();
    assert!(has("nosuid") && has("nodev"));
    mount.umount();
    let mount = place.mount_with(&["-o", "suid,dev"]);
    assert!(!has("nosuid") && !has("nodev"));
    mount.umount();
    // mount(8) has them unless it says otherwise, as for a line of fstab(5) with `user`.
    for (options, expected) in [("rw", false), ("rw,user", true)] {
        let mut helper = Command::new(BINARY);
        helper.arg0("mount.blocktree").arg(place.store()).arg(place.mountpoint()).args(["-o", options]);
        helper.env("BLOCKTREE_PASSPHRASE_FILE", place.passphrase_file());
        let mount = Mount::by(&mut helper, place.mountpoint());
        assert_eq!((has("nosuid"), has("nodev")), (expected, expected), "{options}");
        mount.umount();
    }
}

#[test]
fn users_of_another_machine_are_shown_as_those_of_this_one() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let mount = place.mount();
    fs::create_dir(mount.path("home")).unwrap();
    fs::write(mount.path("home/file"), "x").unwrap();
    fs::set_permissions(mount.path("home/file"), fs::Permissions::from_mode(0o640)).unwrap();
    for path in ["home", "home/file"] {
        chown(mount.path(path), Some(501), Some(20)).unwrap();
    }
    mount.umount();

    let home = place.mountpoint().join("home");
    let home = home.to_str().unwrap();
    let mount = place.mount_with(&["-o", "allow_other,map_uid=501:1000,map_gid=20:2000"]);
    let owner = |path: &str| {
        let metadata = fs::metadata(mount.path(path)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    assert_eq!(owner("home/file"), (1000, 2000));
    as_user(1000, "", &format!("echo mine >> {home}/file && echo new > {home}/new")).ok();
    as_user(1001, "2000", &format!("cat {home}/file && ! echo no >> {home}/file")).ok();
    as_user(501, "", &format!("! cat {home}/file")).ok();
    as_user(1000, "", &format!("setfacl -m u:1000:rw,u:1001:r {home}/new")).ok();
    let acl = as_user(1000, "", &format!("getfacl --numeric --omit-header {home}/new")).ok().stdout;
    assert!(acl.contains("user:1000:rw-\nuser:1001:r--\n"), "{acl}");
    mount.umount();

    // So it is on disk, and so it is shown to all alike.
    let mount = place.mount();
    let metadata = fs::metadata(mount.path("home/new")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (501, 1000));
    let acl = finish(
        Command::new("getfacl")
            .args(["--numeric", "--omit-header", "--absolute-names"])
            .arg(mount.path("home/new")),
    );
    assert!(acl.ok().stdout.contains("user:501:rw-\nuser:1001:r--\n"));
    mount.umount();
    let mount = place.mount_with(&["-o", "allow_other,uid=1000,gid=1000"]);
    as_user(
        1000,
        "",
        &format!("cat {home}/file > /dev/null && touch {home}/later && chown 1000 {home}/later"),
    )
    .ok();
    assert_eq!(fs::metadata(mount.path("home/later")).unwrap().uid(), 1000);
    assert!(chown(mount.path("home/later"), Some(0), None).is_err());
    mount.umount();
    let mount = place.mount();
    assert_eq!(fs::metadata(mount.path("home/later")).unwrap().uid(), 501, "as its directory");
}
