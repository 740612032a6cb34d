//! Real programs on a mounted store: each works, unmounts, mounts again, looks once more, and leaves a store that
//! `blocktree check` finds clean.
//!
//! `builds`, `copies`, `databases`, `desk` (editors, searches, watchers), `overlay` and `versions` are what people run;
//! `exercisers` are programs that only test filesystems. Those that need root say so and pass without.

mod builds;
mod copies;
mod databases;
mod desk;
mod exercisers;
mod overlay;
#[path = "../support/mod.rs"]
mod support;
mod versions;

use std::path::Path;
use std::process::{Command, Stdio};

use support::{Place, finish, program};

/// A store that holds all that a test here writes.
fn roomy_store() -> Place {
    let place = Place::empty();
    finish(
        program().arg("init").arg(place.store()).args(["--size", "4G"]).args(place.passphrase_arguments()),
    )
    .ok();
    place
}

fn assert_clean(place: &Place) {
    finish(program().arg("check").arg(place.store()).args(place.passphrase_arguments())).ok();
}

/// Runs `work`, then `look` before and after the store is mounted anew; then checks it.
fn across_a_remount(work: impl FnOnce(&Path), look: impl Fn(&Path)) {
    across_a_remount_with(&[], work, look);
}

/// As [`across_a_remount`], with arguments of `blocktree mount`.
fn across_a_remount_with(arguments: &[&str], work: impl FnOnce(&Path), look: impl Fn(&Path)) {
    let place = roomy_store();
    let mount = place.mount_with(arguments);
    work(&place.mountpoint());
    look(&place.mountpoint());
    mount.umount();
    let mount = place.mount_with(arguments);
    look(&place.mountpoint());
    mount.umount();
    assert_clean(&place);
}

/// A command of the shell in this folder, which has to succeed; what it says.
#[track_caller]
fn shell(folder: &Path, script: &str) -> String {
    succeed(Command::new("sh").args(["-euc", script]).current_dir(folder))
}

/// Runs a program that has to succeed, however long it takes; what it says on standard output.
#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; `cargo xtask test` installs what tests need"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}
