//! Passphrases that a TPM keeps.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use blocktree_engine::crypto::{Approver, Secret};
use blocktree_engine::identity::TpmFile;

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

/// What PCR 7 is once it was extended.
fn value_of_pcr_7(tpm: &Tpm) -> String {
    let text = tpm.tool("tpm2_pcrread", &["sha256:7"]);
    text.rsplit("0x").next().unwrap().trim().to_lowercase()
}

fn approve(tpm: &Tpm, place: &Place, arguments: &[&str]) -> Ran {
    let mut command = tpm.command(&["tpm", "approve"]);
    command.arg(place.store()).arg(file(place)).args(arguments).args(place.passphrase_arguments());
    finish(&mut command)
}

#[test]
fn another_start_is_approved_after_an_update_or_before() {
    let (place, mut tpm) = (Place::with_store(), Tpm::new());
    fs::write(place.path("pin"), "2718").unwrap();
    let pin = place.path("pin");
    enroll(&tpm, &place, &["--pin", "--pcrs", "4,7", "--new-passphrase-file", pin.to_str().unwrap()]).ok();
    let opens = |tpm: &Tpm| open(tpm, &place, Some("2718"));
    opens(&tpm).ok();
    // After: the passphrase opens the store, and approves.
    tpm.extend_pcr(7);
    opens(&tpm).failed(1, &["PCR", "not approved"]);
    approve(&tpm, &place, &[]).ok();
    opens(&tpm).ok();
    open(&tpm, &place, Some("1234")).failed(1, &["wrong PIN"]);
    // What was approved before still is, and nothing else.
    tpm.restart();
    opens(&tpm).ok();
    tpm.extend_pcr(4);
    opens(&tpm).failed(1, &["not approved"]);

    // Before: the values are known from elsewhere.
    tpm.restart();
    for _ in 0..2 {
        tpm.extend_pcr(7);
    }
    let value = format!("7={}", value_of_pcr_7(&tpm));
    opens(&tpm).failed(1, &["not approved"]);
    tpm.restart();
    approve(&tpm, &place, &["--pcr", &value]).ok();
    for _ in 0..2 {
        tpm.extend_pcr(7);
    }
    opens(&tpm).ok();
}

#[test]
fn who_has_not_the_passphrase_approves_nothing() {
    let (place, other, tpm) = (Place::with_store(), Place::with_store(), Tpm::new());
    enroll(&tpm, &place, &[]).ok();
    enroll(&tpm, &other, &["--pcrs", "none"]).ok();
    let whole = fs::read(file(&place)).unwrap();
    approve(&tpm, &other, &[]).failed(1, &["no PCR that could be approved"]);
    approve(&tpm, &place, &["--pcr", &format!("4={}", "00".repeat(32))])
        .failed(2, &["does not ask for PCR 4"]);
    approve(&tpm, &place, &["--pcr", "7=1"]).failed(2, &["64 hexadecimal digits"]);
    tpm.extend_pcr(7);
    // Another store's, with the same passphrase; and a wrong one.
    fs::copy(file(&place), file(&other)).unwrap();
    approve(&tpm, &other, &[]).failed(1, &["made for another store"]);
    fs::write(place.passphrase_file(), "wrong").unwrap();
    approve(&tpm, &place, &[]).failed(1, &["wrong passphrase"]);
    fs::write(place.passphrase_file(), support::PASSPHRASE).unwrap();
    assert_eq!(fs::read(file(&place)).unwrap(), whole, "nothing was changed");

    // An approval by somebody else, beside the approver or in its place.
    approve(&tpm, &place, &[]).ok();
    open(&tpm, &place, None).ok();
    let approved = TpmFile::parse(&fs::read(file(&place)).unwrap()).unwrap();
    let stranger = Approver::from_secret(&Secret::random());
    for is_named in [false, true] {
        let mut forged = approved.clone();
        let approvals = forged.sealed.approvals.as_mut().unwrap();
        if is_named {
            approvals.approver = *stranger.public();
        }
        for approval in &mut approvals.signed {
            approval.signature = stranger.sign(&approval.policy);
        }
        fs::write(file(&place), forged.to_bytes()).unwrap();
        open(&tpm, &place, None).failed(1, &["approve"]);
    }
    fs::write(file(&place), approved.to_bytes()).unwrap();
    open(&tpm, &place, None).ok();
}
