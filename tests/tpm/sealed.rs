//! Passphrases that a TPM keeps.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::support::{self, Place, Ran, finish, program};
use crate::swtpm::Tpm;

fn file(place: &Place) -> PathBuf {
    place.path("tree.tpm")
}

fn enroll(tpm: &Tpm, place: &Place, arguments: &[&str]) -> Ran {
    let mut command = tpm.command(&["tpm", "enroll"]);
    command.arg(place.store()).arg(file(place)).args(arguments).args(place.passphrase_arguments());
    finish(&mut command)
}

/// Opens the store with what the TPM keeps.
fn open(tpm: &Tpm, place: &Place, pin: Option<&str>) -> Ran {
    let mut command = tpm.command(&["info"]);
    command.arg(place.store()).arg("--passphrase-from").arg(format!("tpm:{}", file(place).display()));
    if let Some(pin) = pin {
        let askpass = place.path("askpass");
        fs::write(&askpass, format!("#!/bin/sh\necho {pin}\n")).unwrap();
        fs::set_permissions(&askpass, fs::Permissions::from_mode(0o700)).unwrap();
        command.env("BLOCKTREE_ASKPASS", askpass);
    }
    finish(&mut command)
}

#[test]
fn a_machine_opens_its_store_by_itself() {
    let (place, mut tpm) = (Place::with_store(), Tpm::new());
    let status = tpm.status();
    assert!(status.contains("takes PINs"), "{status}");
    enroll(&tpm, &place, &[]).ok();
    enroll(&tpm, &place, &[]).failed(1, &["exists already"]);
    open(&tpm, &place, None).ok();
    tpm.restart();
    open(&tpm, &place, None).ok();
    // Many times: nothing is left loaded.
    for _ in 0..8 {
        open(&tpm, &place, None).ok();
    }
    let bytes = fs::read(file(&place)).unwrap();
    assert!(!bytes.windows(8).any(|part| part == &support::PASSPHRASE.as_bytes()[..8]));

    // Another start: something was measured that was not there before.
    tpm.extend_pcr(7);
    open(&tpm, &place, None).failed(1, &["PCR", "use the passphrase"]);
    tpm.restart();
    tpm.extend_pcr(4);
    open(&tpm, &place, None).ok();

    // On another machine, and without a TPM, the file is of no use, and the passphrase is.
    let other = Tpm::new();
    open(&other, &place, None).failed(1, &["another TPM's"]);
    tpm.stop();
    open(&tpm, &place, None).failed(1, &["cannot talk to the TPM"]);
    let mut without = tpm.command(&["info"]);
    finish(without.arg(place.store()).args(place.passphrase_arguments())).ok();
    finish(&mut tpm.command(&["tpm", "remove", file(&place).to_str().unwrap()])).ok();
    assert!(!file(&place).exists());
}

#[test]
fn wrong_pins_lock_the_tpm_and_not_the_store() {
    let (place, tpm) = (Place::with_store(), Tpm::new());
    fs::write(place.path("pin"), "2718").unwrap();
    let pin = place.path("pin");
    let pin = ["--pin", "--pcrs", "none", "--new-passphrase-file", pin.to_str().unwrap()];
    enroll(&tpm, &place, &pin).ok();
    open(&tpm, &place, Some("2718")).ok();
    open(&tpm, &place, Some("1234")).failed(1, &["wrong PIN"]);
    open(&tpm, &place, Some("2718")).ok();
    for _ in 0..40 {
        if tpm.status().contains("locked") {
            break;
        }
        open(&tpm, &place, Some("1234")).failed(1, &["does not open"]);
    }
    open(&tpm, &place, Some("2718")).failed(1, &["locked", "use the passphrase"]);
    let mut by_passphrase = tpm.command(&["info"]);
    finish(by_passphrase.arg(place.store()).args(place.passphrase_arguments())).ok();
}

#[test]
fn what_is_of_no_use_changes_nothing() {
    let (place, tpm) = (Place::with_store(), Tpm::new());
    fs::write(place.path("wrong"), "wrong").unwrap();
    let mut wrong = tpm.command(&["tpm", "enroll"]);
    wrong.arg(place.store()).arg(file(&place)).arg("--passphrase-file").arg(place.path("wrong"));
    finish(&mut wrong).failed(1, &["wrong passphrase"]);
    enroll(&tpm, &place, &["--pcrs", "99"]).failed(2, &["0 to 23"]);
    let mut nowhere = program();
    nowhere.env("BLOCKTREE_TPM", "device:/no/such/tpm").args(["tpm", "enroll"]);
    nowhere.arg(place.store()).arg(file(&place)).args(place.passphrase_arguments());
    finish(&mut nowhere).failed(1, &["there is no TPM at /no/such/tpm"]);
    let mut nothing = program();
    finish(nothing.env("BLOCKTREE_TPM", "bogus").args(["tpm", "status"])).failed(1, &["names no TPM"]);
    assert!(!file(&place).exists());

    enroll(&tpm, &place, &[]).ok();
    let whole = fs::read(file(&place)).unwrap();
    let mut flipped = whole.clone();
    flipped[60] ^= 1;
    for bytes in [&whole[..50], &flipped, b"BTTPMKEY"] {
        fs::write(file(&place), bytes).unwrap();
        open(&tpm, &place, None).failed(1, &["tree.tpm", "of no use"]);
    }
    fs::write(file(&place), &whole).unwrap();
    open(&tpm, &place, None).ok();
}
