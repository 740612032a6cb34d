//! What the program does about an older copy of a store.

use std::fs;

use super::support::{Place, finish};
use super::{can_mount, mount_refused, small_store, try_mount};

fn anchor_file(place: &Place) -> std::path::PathBuf {
    let info = finish(&mut place.on_store(&["info"], &["--json"])).ok().stdout;
    let id = info.lines().find_map(|line| line.trim().strip_prefix("\"store_id\": \"")).unwrap();
    std::path::Path::new(super::support::ANCHORS).join(id.trim_end_matches("\","))
}

#[test]
fn an_older_copy_of_a_store_is_refused_until_it_is_accepted() {
    if !can_mount() {
        return;
    }
    let place = small_store("40M");
    let volume = place.store().join("volume");
    let write = |name: &str, arguments: &[&str]| {
        let mount = try_mount(&place, arguments).unwrap();
        fs::write(mount.path(name), name).unwrap();
        mount.umount();
    };
    write("first", &[]);
    let older = fs::read(&volume).unwrap();
    write("second", &[]);
    let newer = fs::read(&volume).unwrap();

    fs::write(&volume, &older).unwrap();
    let anchor = anchor_file(&place);
    let says = ["older", anchor.to_str().unwrap(), "--accept-rollback"];
    mount_refused(&place, &says);
    finish(&mut place.on_store(&["snapshot", "create"], &["name"])).failed(1, &says);
    let ran = finish(&mut place.on_store(&["check"], &[]));
    assert!(ran.code == 4 && says.iter().all(|text| ran.stdout.contains(text)), "{ran:?}");
    let ran = finish(&mut place.on_store(&["info"], &[])).ok();
    assert!(ran.stdout.contains("older") && ran.stdout.contains(says[1]), "{ran:?}");
    assert_eq!(fs::read(&volume).unwrap(), older, "who is refused changes nothing");

    write("third", &["--accept-rollback"]);
    let mount = try_mount(&place, &[]).unwrap();
    assert!(mount.path("first").exists() && !mount.path("second").exists() && mount.path("third").exists());
    mount.umount();
    assert_eq!(finish(&mut place.on_store(&["check"], &[])).code, 0);
    // Now the newer one is the one that does not fit.
    fs::write(&volume, newer).unwrap();
    mount_refused(&place, &["another way", "--accept-rollback"]);
    let mount = try_mount(&place, &["-o", "ro,accept_rollback"]).unwrap();
    assert!(mount.path("second").exists());
    mount.umount();
    mount_refused(&place, &["another way"]);
    try_mount(&place, &["-o", "anchor=none"]).unwrap().umount();
}

#[test]
fn an_anchor_that_is_damaged_or_new_is_spoken_of() {
    if !can_mount() {
        return;
    }
    let place = small_store("40M");
    let anchor = anchor_file(&place);
    let whole = fs::read(&anchor).unwrap();
    fs::write(&anchor, &whole[..30]).unwrap();
    mount_refused(&place, &["damaged", anchor.to_str().unwrap(), "--accept-rollback"]);
    try_mount(&place, &["--accept-rollback"]).unwrap().umount();
    try_mount(&place, &[]).unwrap().umount();

    // On another machine.
    let file = place.path("other machine");
    let option = format!("anchor={}", file.display());
    let line = |arguments: &[&str]| {
        let mut command = place.on_store(&["mount"], &[place.mountpoint().to_str().unwrap()]);
        command.args(arguments);
        let ran = finish(&mut command);
        finish(super::program().arg("umount").arg(place.mountpoint()));
        ran
    };
    let ran = line(&["-o", &option]).ok();
    assert!(
        ran.stderr.contains("did not know this store yet") && ran.stderr.contains("other machine"),
        "{ran:?}"
    );
    assert_eq!(line(&["-o", &option]).ok().stderr, "");
    assert!(fs::read_to_string(&file).unwrap().starts_with("blocktree anchor 1\n"));
    // Where it was asked for, it must work.
    let nowhere = format!("anchor={}", place.path("no folder/file").display());
    line(&["-o", &nowhere]).failed(1, &["no folder/file", "name another file"]);
    // Where it was not, the mount is more important; but it is said.
    let mut command = place.on_store(&["mount"], &[place.mountpoint().to_str().unwrap()]);
    let ran = finish(command.env("BLOCKTREE_ANCHOR_DIR", "/proc/none")).ok();
    finish(super::program().arg("umount").arg(place.mountpoint()));
    assert!(ran.stderr.contains("/proc/none") && ran.stderr.contains("would not be noticed"), "{ran:?}");
}
