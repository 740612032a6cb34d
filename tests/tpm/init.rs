//! A store that the TPM opens from its first moment on.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::{Mount, Place, Ran, can_mount, finish, program};
use crate::swtpm::Tpm;

fn file(place: &Place) -> PathBuf {
    place.path("tree.tpm")
}

fn backup(place: &Place) -> PathBuf {
    place.path("keys")
}

fn init(tpm: &Tpm, place: &Place, arguments: &[&str]) -> Ran {
    let mut command = tpm.command(&["init", "--size", "40M"]);
    command.arg(place.store()).arg("--tpm").arg(file(place)).arg("--backup").arg(backup(place));
    finish(command.arg("--backup-passphrase-file").arg(place.passphrase_file()).args(arguments))
}

/// A command on the store, with what the TPM keeps.
fn by_tpm(tpm: &Tpm, place: &Place, command: &[&str]) -> Command {
    let mut line = tpm.command(command);
    line.arg(place.store()).arg("--passphrase-from").arg(format!("tpm:{}", file(place).display()));
    line
}

#[test]
fn nobody_needs_a_passphrase_and_the_backup_outlives_the_tpm() {
    if !can_mount() {
        return;
    }
    let (place, mut tpm) = (Place::empty(), Tpm::new());
    init(&tpm, &place, &[]).ok();
    for name in ["first", "second"] {
        let mut command = by_tpm(&tpm, &place, &["mount"]);
        let mount = Mount::by(command.arg(place.mountpoint()), place.mountpoint());
        fs::write(mount.path(name), name).unwrap();
        mount.umount();
        tpm.restart();
    }
    // The backup's passphrase is not the store's.
    finish(&mut place.on_store(&["info"], &[])).failed(1, &["wrong passphrase"]);

    // An update: the backup approves it, since nobody has a passphrase that would.
    tpm.extend_pcr(7);
    finish(&mut by_tpm(&tpm, &place, &["info"])).failed(1, &["not approved"]);
    let mut approve = tpm.command(&["tpm", "approve"]);
    approve.arg(place.store()).arg(file(&place)).arg("--backup").arg(backup(&place));
    finish(approve.arg("--backup-passphrase-file").arg(place.passphrase_file())).ok();
    finish(&mut by_tpm(&tpm, &place, &["info"])).ok();

    // The TPM is lost.
    tpm.clear();
    finish(&mut by_tpm(&tpm, &place, &["info"])).failed(1, &["cleared since"]);
    fs::write(place.path("new"), "another one").unwrap();
    let mut restore = program();
    restore.args(["key", "restore"]).arg(place.store()).arg(backup(&place));
    restore.arg("--backup-passphrase-file").arg(place.passphrase_file());
    finish(restore.arg("--new-passphrase-file").arg(place.path("new"))).ok();
    fs::copy(place.path("new"), place.passphrase_file()).unwrap();
    let mount = place.mount();
    assert_eq!(fs::read(mount.path("second")).unwrap(), b"second");
    mount.umount();
    // And another one keeps the new passphrase.
    fs::remove_file(file(&place)).unwrap();
    let mut enroll = tpm.command(&["tpm", "enroll"]);
    finish(enroll.arg(place.store()).arg(file(&place)).args(place.passphrase_arguments())).ok();
    finish(&mut by_tpm(&tpm, &place, &["info"])).ok();
}

#[test]
fn a_store_opens_while_the_pcrs_that_were_chosen_are_as_they_were() {
    let (place, mut tpm) = (Place::empty(), Tpm::new());
    init(&tpm, &place, &["--pcrs", "24"]).failed(2, &["0 to 23"]);
    init(&tpm, &place, &["--pcrs", "0,4"]).ok();
    tpm.extend_pcr(7);
    finish(&mut by_tpm(&tpm, &place, &["info"])).ok();
    tpm.extend_pcr(4);
    finish(&mut by_tpm(&tpm, &place, &["info"])).failed(1, &["not approved"]);
    tpm.restart();
    finish(&mut by_tpm(&tpm, &place, &["info"])).ok();
    let mut without = program();
    without.args(["init", "--pcrs", "7", "--size", "40M"]).arg(place.path("other"));
    finish(without.args(place.passphrase_arguments())).failed(2, &["--tpm"]);
    assert!(!place.path("other").exists());
}

#[test]
fn what_cannot_be_kept_makes_no_store() {
    let (place, mut tpm) = (Place::empty(), Tpm::new());
    let nothing_is_made = || {
        for path in [place.store(), file(&place), backup(&place)] {
            assert!(!path.exists(), "{}", path.display());
        }
    };
    let mut alone = tpm.command(&["init", "--tpm"]);
    finish(alone.arg(file(&place)).arg(place.store())).failed(2, &["--backup"]);
    nothing_is_made();
    fs::write(file(&place), "something").unwrap();
    init(&tpm, &place, &[]).failed(1, &["tree.tpm exists already"]);
    fs::remove_file(file(&place)).unwrap();
    nothing_is_made();
    // The TPM asks for a password of its owner.
    tpm.tool("tpm2_changeauth", &["-c", "owner", "secret"]);
    init(&tpm, &place, &[]).failed(1, &["asks for a password"]);
    nothing_is_made();
    tpm.stop();
    init(&tpm, &place, &[]).failed(1, &["cannot talk to the TPM"]);
    nothing_is_made();
}
