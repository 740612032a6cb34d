//! overlayfs over a mounted store: as what lies below, and as what is written to.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{Place, can_mount};
use super::{across_a_remount, assert_clean, roomy_store, shell, succeed};

/// A mounted overlay, ended when it is dropped.
struct Overlay(PathBuf);

impl Overlay {
    #[track_caller]
    fn mount(at: &Path, lower: &Path, upper: &Path, work: &Path) -> Self {
        for folder in [at, upper, work] {
            fs::create_dir_all(folder).unwrap();
        }
        let (lower, upper, work) = (lower.display(), upper.display(), work.display());
        let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        succeed(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &layers]).arg(at));
        Self(at.to_owned())
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        }
    }
}

fn make_lower(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    shell(
        folder,
        "mkdir folder gone; echo one > removed; echo two > renamed; echo three > changed; echo four > folder/inner
         echo five > gone/file; ln changed link; setfattr -n user.colour -v blue renamed; chmod 640 renamed",
    );
}

/// Every kind of change that overlayfs makes to its upper layer.
fn change(merged: &Path) {
    shell(
        merged,
        "rm removed; mv renamed new-name; echo more >> changed; rm -r gone; mkdir gone; echo six > gone/other
         mv folder/inner folder/outer; chmod 600 folder/outer; mkdir made; mv made made-again; ln new-name second-name
         echo seven > made-again/file; rm folder/outer; echo eight > folder/outer",
    );
}

#[track_caller]
fn assert_changed(merged: &Path) {
    let names = shell(merged, "find . -mindepth 1 | sort | tr '\\n' ' '");
    assert_eq!(
        names,
        "./changed ./folder ./folder/outer ./gone ./gone/other ./link ./made-again ./made-again/file ./new-name \
         ./second-name "
    );
    let contents = shell(merged, "cat changed new-name folder/outer gone/other made-again/file second-name");
    assert_eq!(contents, "three\nmore\ntwo\neight\nsix\nseven\ntwo\n");
    assert_eq!(shell(merged, "getfattr --only-values -n user.colour new-name"), "blue");
    assert_eq!(fs::metadata(merged.join("new-name")).unwrap().mode() & 0o7777, 0o640);
}

/// Where overlays are mounted: not on the store.
fn merged(place: &Place) -> PathBuf {
    place.path("merged")
}

#[test]
fn overlay_with_this_filesystem_below() {
    if !can_mount() {
        return;
    }
    let place = roomy_store();
    let mount = place.mount();
    make_lower(&mount.path("lower"));
    let before = shell(&mount.path("lower"), "find . -printf '%p %y %m %s %T@\\n' | sort");
    // Not every filesystem can be written to by overlayfs; the one with this program's sources can.
    let outside = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (upper, work) = (outside.path().join("upper"), outside.path().join("work"));
    for is_first in [true, false] {
        let overlay = Overlay::mount(&merged(&place), &mount.path("lower"), &upper, &work);
        if is_first {
            change(&merged(&place));
        }
        assert_changed(&merged(&place));
        drop(overlay);
    }
    assert_eq!(shell(&mount.path("lower"), "find . -printf '%p %y %m %s %T@\\n' | sort"), before);
    mount.umount();
    assert_clean(&place);
}

#[test]
fn overlay_with_this_filesystem_above() {
    if !can_mount() {
        return;
    }
    let outside = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let lower_outside = outside.path().join("lower");
    make_lower(&lower_outside);
    let overlay = |mount: &Path, lower: &Path, name: &str| {
        let at = outside.path().join("merged");
        (Overlay::mount(&at, lower, &mount.join(name), &mount.join(format!("{name}-work"))), at)
    };
    across_a_remount(
        |mount| {
            make_lower(&mount.join("lower"));
            for (lower, name) in [(lower_outside.clone(), "upper"), (mount.join("lower"), "upper-of-own")] {
                let (_overlay, at) = overlay(mount, &lower, name);
                change(&at);
                assert_changed(&at);
            }
        },
        |mount| {
            for (lower, name) in [(lower_outside.clone(), "upper"), (mount.join("lower"), "upper-of-own")] {
                let (_overlay, at) = overlay(mount, &lower, name);
                assert_changed(&at);
                // What is gone below is a whiteout here.
                let removed = fs::metadata(mount.join(name).join("removed")).unwrap();
                assert!(removed.file_type().is_char_device() && removed.rdev() == 0);
            }
        },
    );
}
