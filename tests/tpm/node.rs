//! What a key of the TPM says of the node whose passphrase it keeps.

use std::fs;
use std::path::PathBuf;

use blocktree_engine::identity::TpmFile;

use crate::support::{self, Mount, Place, Ran, can_mount, finish};
use crate::swtpm::Tpm;

fn file(place: &Place) -> PathBuf {
    place.path("tree.tpm")
}

fn enroll(tpm: &Tpm, place: &Place) {
    let mut command = tpm.command(&["tpm", "enroll"]);
    finish(command.arg(place.store()).arg(file(place)).args(place.passphrase_arguments())).ok();
}

fn open(tpm: &Tpm, place: &Place) -> Ran {
    let mut command = tpm.command(&["info"]);
    command.arg(place.store()).arg("--passphrase-from").arg(format!("tpm:{}", file(place).display()));
    finish(&mut command)
}

fn status(tpm: &Tpm, place: &Place) -> Ran {
    finish(tpm.command(&["tpm", "status"]).arg(file(place)))
}

fn approve(tpm: &Tpm, place: &Place) -> Ran {
    let mut command = tpm.command(&["tpm", "approve"]);
    finish(command.arg(place.store()).arg(file(place)).args(place.passphrase_arguments()))
}

fn read(place: &Place) -> TpmFile {
    TpmFile::parse(&fs::read(file(place)).unwrap()).unwrap()
}

#[test]
fn the_tpm_says_whose_store_it_opens() {
    let (place, mut tpm) = (Place::with_store(), Tpm::new());
    enroll(&tpm, &place);
    let shown = status(&tpm, &place).ok().stdout;
    let node = read(&place).node;
    for text in ["takes PINs", &node.node.to_string(), &node.key_fingerprint()] {
        assert!(shown.contains(text), "{text:?} is not in {shown}");
    }
    tpm.restart();
    open(&tpm, &place).ok();
    if can_mount() {
        let mut command = tpm.command(&["mount"]);
        command.arg(place.store()).arg(place.mountpoint());
        command.arg("--passphrase-from").arg(format!("tpm:{}", file(&place).display()));
        Mount::by(&mut command, place.mountpoint()).umount();
    }
    tpm.clear();
    status(&tpm, &place).failed(1, &["node's key", "cleared since"]);
}

#[test]
fn a_statement_about_another_node_or_by_another_tpm_opens_nothing() {
    let (place, other, tpm) = (Place::with_store(), Place::with_store(), Tpm::new());
    enroll(&tpm, &place);
    enroll(&tpm, &other);
    let (whole, foreign) = (read(&place), read(&other));
    let volume = place.store().join("volume");
    let before = fs::read(&volume).unwrap();
    let put = |changed: &[u8]| fs::write(file(&place), changed).unwrap();
    let with_node = |node| TpmFile { node, ..whole.clone() }.to_bytes();

    // Another store's, whose passphrase happens to be the same; as a whole, and the statement alone.
    for bytes in [foreign.to_bytes(), with_node(foreign.node)] {
        put(&bytes);
        open(&tpm, &place).failed(1, &["made for another store"]);
    }
    // By a key of another TPM, for the same node.
    let elsewhere = Tpm::new();
    fs::remove_file(file(&place)).unwrap();
    enroll(&elsewhere, &place);
    put(&with_node(read(&place).node));
    open(&tpm, &place).failed(1, &["tree.tpm", "does not have the node's key", "another TPM's"]);
    status(&tpm, &place).failed(1, &["does not have the node's key"]);
    // Taken out: what is left is a whole file that the TPM would open.
    put(&whole.sealed.to_bytes());
    for ran in [open(&tpm, &place), status(&tpm, &place), approve(&tpm, &place)] {
        ran.failed(1, &["tree.tpm", "a statement was taken out of it", "tpm enroll"]);
    }
    // Cut off, and followed by something.
    let bytes = whole.to_bytes();
    for bytes in [&bytes[..400], &[&bytes[..], b"x"].concat()] {
        put(bytes);
        open(&tpm, &place).failed(1, &["tree.tpm", "of no use", "damaged"]);
        status(&tpm, &place).failed(1, &["tree.tpm", "of no use"]);
    }
    assert!(fs::read(&volume).unwrap() == before, "nothing was changed");

    put(&bytes);
    open(&tpm, &place).ok();
    // The store gets another node, from a backup, with the same passphrase.
    let backup = place.path("keys");
    let key = |arguments: &[&str]| {
        let mut command = support::program();
        command.arg("key").args(arguments).arg(place.store()).arg(&backup);
        command.arg("--backup-passphrase-file").arg(place.passphrase_file());
        command
    };
    finish(key(&["backup"]).args(place.passphrase_arguments())).ok();
    finish(key(&["restore"]).arg("--new-passphrase-file").arg(place.passphrase_file())).ok();
    open(&tpm, &place).failed(1, &["another node", "tpm enroll"]);
}

#[test]
fn the_key_signs_one_statement_and_stays_in_the_tpm() {
    let (place, tpm) = (Place::with_store(), Tpm::new());
    enroll(&tpm, &place);
    let key = read(&place).node.key;
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    fs::write(place.path("public"), sized(&key.public)).unwrap();
    fs::write(place.path("private"), sized(&key.private)).unwrap();
    fs::write(place.path("message"), "another statement").unwrap();
    let at = |name: &str| place.path(name).to_str().unwrap().to_owned();
    tpm.tool(
        "tpm2_createprimary",
        &["-C", "o", "-G", "ecc", "-g", "sha256", "-a", STORAGE_KEY, "-c", &at("primary")],
    );
    let load = ["-C", &at("primary"), "-u", &at("public"), "-r", &at("private"), "-c", &at("key")];
    tpm.tool("tpm2_load", &load);
    let sign = ["-c", &at("key"), "-g", "sha256", "-o", &at("signature"), &at("message")];
    tpm.tool_fails("tpm2_sign", &sign, "auth");
}

const STORAGE_KEY: &str = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|decrypt|restricted";
