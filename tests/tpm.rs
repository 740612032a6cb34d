//! Passphrases that a TPM keeps: a software TPM (swtpm) for each test, which ends with it.
#![cfg(feature = "tpm")]

mod support;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use support::{Place, Ran, finish, is_alive, program, wait_until};
use tempfile::TempDir;

/// A software TPM. Its state outlives a restart, as that of a TPM does.
struct Tpm {
    state: TempDir,
    port: u16,
    process: Child,
}

impl Tpm {
    fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let port = free_port();
        let process = start(&state, port);
        Self { state, port, process }
    }

    /// As when the machine is started anew: the PCRs are as at first.
    fn restart(&mut self) {
        self.stop();
        self.process = start(&self.state, self.port);
    }

    fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        assert!(!is_alive(self.process.id()));
    }

    fn place(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// A command of ours that finds this TPM.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.env("BLOCKTREE_TPM", self.place()).args(arguments);
        command
    }

    fn status(&self) -> String {
        finish(&mut self.command(&["tpm", "status"])).ok().stdout
    }

    fn enroll(&self, place: &Place, arguments: &[&str]) -> Ran {
        let mut command = self.command(&["tpm", "enroll"]);
        command.arg(place.store()).arg(file(place)).args(arguments).args(place.passphrase_arguments());
        finish(&mut command)
    }

    /// Opens the store with what the TPM keeps.
    fn open(&self, place: &Place, pin: Option<&str>) -> Ran {
        let mut command = self.command(&["info"]);
        command.arg(place.store()).arg("--passphrase-from").arg(format!("tpm:{}", file(place).display()));
        if let Some(pin) = pin {
            let askpass = place.path("askpass");
            fs::write(&askpass, format!("#!/bin/sh\necho {pin}\n")).unwrap();
            fs::set_permissions(&askpass, fs::Permissions::from_mode(0o700)).unwrap();
            command.env("BLOCKTREE_ASKPASS", askpass);
        }
        finish(&mut command)
    }

    fn extend_pcr(&self, pcr: u32) {
        let mut command = Command::new("tpm2_pcrextend");
        command.env("TPM2TOOLS_TCTI", self.place()).arg(format!("{pcr}:sha256={}", "42".repeat(32)));
        finish(&mut command).ok();
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that nobody has, and neither the next one, which swtpm's libraries take for control.
fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

fn start(state: &TempDir, port: u16) -> Child {
    let mut command = Command::new("swtpm");
    command.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"]);
    command.arg("--tpmstate").arg(format!("dir={}", state.path().display()));
    command.arg("--server").arg(format!("type=tcp,port={port}"));
    command.arg("--ctrl").arg(format!("type=tcp,port={}", port + 1));
    let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("swtpm starts");
    wait_until("swtpm listens", || TcpStream::connect(("127.0.0.1", port + 1)).is_ok());
    process
}

fn file(place: &Place) -> PathBuf {
    place.path("tree.tpm")
}

#[test]
fn a_machine_opens_its_store_by_itself() {
    let (place, mut tpm) = (Place::with_store(), Tpm::new());
    let status = tpm.status();
    assert!(status.contains("takes PINs"), "{status}");
    tpm.enroll(&place, &[]).ok();
    tpm.enroll(&place, &[]).failed(1, &["exists already"]);
    tpm.open(&place, None).ok();
    tpm.restart();
    tpm.open(&place, None).ok();
    // Many times: nothing is left loaded.
    for _ in 0..8 {
        tpm.open(&place, None).ok();
    }
    let bytes = fs::read(file(&place)).unwrap();
    assert!(!bytes.windows(8).any(|part| part == &support::PASSPHRASE.as_bytes()[..8]));

    // Another start: something was measured that was not there before.
    tpm.extend_pcr(7);
    tpm.open(&place, None).failed(1, &["PCR", "Use the passphrase"]);
    tpm.restart();
    tpm.extend_pcr(4);
    tpm.open(&place, None).ok();

    // On another machine, and without a TPM, the file is of no use, and the passphrase is.
    let other = Tpm::new();
    other.open(&place, None).failed(1, &["another TPM's"]);
    tpm.stop();
    tpm.open(&place, None).failed(1, &["cannot talk to the TPM"]);
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
    tpm.enroll(&place, &pin).ok();
    tpm.open(&place, Some("2718")).ok();
    tpm.open(&place, Some("1234")).failed(1, &["wrong PIN"]);
    tpm.open(&place, Some("2718")).ok();
    for _ in 0..40 {
        if tpm.status().contains("locked") {
            break;
        }
        tpm.open(&place, Some("1234")).failed(1, &["does not open"]);
    }
    tpm.open(&place, Some("2718")).failed(1, &["locked", "Use the passphrase"]);
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
    tpm.enroll(&place, &["--pcrs", "99"]).failed(2, &["0 to 23"]);
    let mut nowhere = program();
    nowhere.env("BLOCKTREE_TPM", "device:/no/such/tpm").args(["tpm", "enroll"]);
    nowhere.arg(place.store()).arg(file(&place)).args(place.passphrase_arguments());
    finish(&mut nowhere).failed(1, &["there is no TPM at /no/such/tpm"]);
    let mut nothing = program();
    finish(nothing.env("BLOCKTREE_TPM", "bogus").args(["tpm", "status"])).failed(1, &["names no TPM"]);
    assert!(!file(&place).exists());

    tpm.enroll(&place, &[]).ok();
    let whole = fs::read(file(&place)).unwrap();
    let mut flipped = whole.clone();
    flipped[60] ^= 1;
    for bytes in [&whole[..50], &flipped, b"BTTPMKEY"] {
        fs::write(file(&place), bytes).unwrap();
        tpm.open(&place, None).failed(1, &["tree.tpm", "of no use"]);
    }
    fs::write(file(&place), &whole).unwrap();
    tpm.open(&place, None).ok();
}
