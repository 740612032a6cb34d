//! Principals on the command line, and where passphrases come from.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use support::{PASSPHRASE, Place, Ran, finish, program};

/// A command with the folder of principals in `place`.
fn principal(place: &Place, arguments: &[&str]) -> Command {
    let mut command = program();
    command.env("XDG_CONFIG_HOME", place.path("config")).arg("principal").args(arguments);
    command
}

fn create(place: &Place, name: &str) -> String {
    let ran = finish(principal(place, &["create", name]).args(place.passphrase_arguments())).ok();
    ran.stdout.trim().to_owned()
}

fn file(place: &Place, name: &str) -> std::path::PathBuf {
    place.path("config/blocktree/principals").join(name)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn a_principal_is_made_shown_and_exported() {
    let place = Place::empty();
    let line = create(&place, "phone");
    assert!(line.starts_with("btp1") && line.len() == 116, "{line}");
    assert_eq!((mode(&file(&place, "phone")), mode(file(&place, "").as_path())), (0o600, 0o700));
    finish(&mut principal(&place, &["create", "phone"])).failed(1, &["exists already"]);
    let exported = |who: &str| finish(&mut principal(&place, &["export", who]));
    assert_eq!(exported("phone").ok().stdout, format!("{line}\n"));
    assert_eq!(exported(file(&place, "phone").to_str().unwrap()).ok().stdout, format!("{line}\n"));

    // Somebody else's, known by its line only.
    fs::write(file(&place, "friend"), format!("{}\n", line.to_uppercase())).unwrap();
    assert_eq!(exported("friend").ok().stdout, format!("{line}\n"));
    let list = finish(&mut principal(&place, &["list"])).ok().stdout;
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].starts_with("friend ") && lines[0].ends_with("no keys"), "{list}");
    assert!(lines[1].starts_with("phone ") && lines[1].ends_with("keys under a passphrase"), "{list}");

    let shown = finish(&mut principal(&place, &["show", "--json", "phone"])).ok().stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((shown["keys"].as_str(), shown["line"].as_str()), (Some("passphrase"), Some(&*line)));
    let by_line = finish(&mut principal(&place, &["show", &line])).ok().stdout;
    assert!(by_line.contains(shown["id"].as_str().unwrap()), "{by_line}");

    // Nothing of the passphrase, nor of the keys, is said or kept in the clear.
    assert!(
        !fs::read(file(&place, "phone")).unwrap().windows(8).any(|part| part == &PASSPHRASE.as_bytes()[..8])
    );
    finish(&mut principal(&place, &["show", &line[..100]])).failed(2, &["some are missing"]);
    let typing_error = line.replace('q', "p");
    finish(&mut principal(&place, &["show", &typing_error])).failed(2, &["typing error"]);
    finish(&mut principal(&place, &["show", "nobody"])).failed(1, &["nobody", "principal list"]);
    finish(&mut principal(&place, &["create", "../x"])).failed(2, &["name"]);
}

#[test]
fn keys_change_their_passphrase() {
    let place = Place::empty();
    let line = create(&place, "anna");
    fs::write(place.path("new"), "another one").unwrap();
    let change = |old: &Path, new: &str| {
        let [old, new] =
            [old.to_str().unwrap(), &format!("file:{}", place.path(new).display())].map(str::to_owned);
        let arguments =
            ["change-passphrase", "anna", "--passphrase-file", &old, "--new-passphrase-from", &new];
        finish(&mut principal(&place, &arguments))
    };
    let before = fs::read(file(&place, "anna")).unwrap();
    change(&place.path("new"), "new").failed(1, &["wrong passphrase"]);
    change(&place.path("passphrase"), "missing").failed(1, &["missing"]);
    assert_eq!(fs::read(file(&place, "anna")).unwrap(), before, "nothing was changed");
    change(&place.path("passphrase"), "new").ok();
    change(&place.path("passphrase"), "new").failed(1, &["wrong passphrase"]);
    change(&place.path("new"), "passphrase").ok();
    assert_eq!(finish(&mut principal(&place, &["export", "anna"])).ok().stdout.trim(), line);
    assert_eq!(mode(&file(&place, "anna")), 0o600);
}

#[test]
fn keys_that_others_may_read_or_that_are_damaged_are_refused() {
    let place = Place::empty();
    finish(&mut principal(&place, &["create", "--no-passphrase", "node"])).ok();
    let path = file(&place, "node");
    let open = || -> Ran {
        let mut command = principal(&place, &["change-passphrase", "node"]);
        finish(command.arg("--new-passphrase-file").arg(place.passphrase_file()))
    };
    fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
    open().failed(1, &["open to others", "604", "chmod 600"]);
    let list = finish(&mut principal(&place, &["list"])).ok().stdout;
    assert!(list.contains("keys without a passphrase; open to others"), "{list}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();

    let whole = fs::read(&path).unwrap();
    let refused = |bytes: &[u8], says: &str| {
        fs::write(&path, bytes).unwrap();
        open().failed(1, &["node", says]);
        assert_eq!(fs::read(&path).unwrap(), bytes, "nothing was changed");
    };
    refused(&whole[..whole.len() - 1], "damaged or cut off");
    refused(b"", "holds no principal");
    refused(&[b'x'; 5000], "longer than");
    let mut flipped = whole.clone();
    flipped[100] ^= 1;
    refused(&flipped, "damaged or cut off");
    let mut other = whole.clone();
    other[8] = 2;
    refused(&other, "another version");
    fs::write(&path, &whole).unwrap();
    open().ok();

    let folder = file(&place, "");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    finish(&mut principal(&place, &["create", "--no-passphrase", "more"]))
        .failed(1, &["open to others", "chmod 700"]);
}

/// A program that prints what a file holds, and writes down what it was asked.
fn askpass(place: &Place) -> std::path::PathBuf {
    let program = place.path("askpass");
    let [answer, asked] = [place.path("answer"), place.path("asked")];
    let text = format!("#!/bin/sh\necho \"$1\" >> {}\ncat {}\n", asked.display(), answer.display());
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    program
}

#[test]
fn a_program_may_ask_for_the_passphrase() {
    let place = Place::with_store();
    let program = askpass(&place);
    fs::write(place.path("answer"), format!("{PASSPHRASE}\n")).unwrap();
    let info = || {
        let mut command = support::program();
        command.arg("info").arg(place.store());
        command
    };
    finish(info().env("BLOCKTREE_ASKPASS", &program)).ok();
    finish(info().arg("--passphrase-from").arg(format!("askpass:{}", program.display()))).ok();
    let asked = fs::read_to_string(place.path("asked")).unwrap();
    let question = format!("Passphrase for {}: \n", place.store().display());
    assert_eq!(asked, question.repeat(2));
    fs::write(place.path("answer"), "wrong\n").unwrap();
    finish(info().env("BLOCKTREE_ASKPASS", &program)).failed(1, &["wrong passphrase"]);
    fs::write(place.path("answer"), "\n").unwrap();
    finish(info().env("BLOCKTREE_ASKPASS", &program)).failed(1, &["empty passphrase"]);
    finish(info().env("BLOCKTREE_ASKPASS", "/bin/false")).failed(1, &["/bin/false", "exit status: 1"]);
    finish(info().env("BLOCKTREE_ASKPASS", "/no/such/program")).failed(1, &["/no/such/program"]);
    finish(info().args(["--passphrase-from", "askpass:/bin/yes"])).failed(1, &["4096"]);
    // A new one is asked for twice.
    let before = fs::read_to_string(place.path("asked")).unwrap().lines().count();
    fs::write(place.path("answer"), "a passphrase\n").unwrap();
    finish(principal(&place, &["create", "asked"]).env("BLOCKTREE_ASKPASS", &program)).ok();
    assert_eq!(fs::read_to_string(place.path("asked")).unwrap().lines().count(), before + 2);
}

#[test]
fn systemd_may_hand_over_the_passphrase() {
    let place = Place::with_store();
    let credentials = place.path("credentials");
    fs::create_dir(&credentials).unwrap();
    let info = |arguments: &[&str]| {
        let mut command = support::program();
        command.arg("info").arg(place.store()).args(arguments);
        command
    };
    let named = ["--passphrase-from", "credential:tree"];
    finish(&mut info(&named)).failed(1, &["tree", "CREDENTIALS_DIRECTORY", "LoadCredential"]);
    finish(info(&named).env("CREDENTIALS_DIRECTORY", &credentials)).failed(1, &["tree"]);
    finish(info(&[]).env("CREDENTIALS_DIRECTORY", &credentials)).failed(1, &["no terminal"]);
    for name in ["tree", "blocktree.passphrase"] {
        fs::write(credentials.join(name), PASSPHRASE).unwrap();
    }
    finish(info(&named).env("CREDENTIALS_DIRECTORY", &credentials)).ok();
    finish(info(&[]).env("CREDENTIALS_DIRECTORY", &credentials)).ok();
    finish(info(&["--passphrase-from", "credential:../x"]).env("CREDENTIALS_DIRECTORY", &credentials))
        .failed(2, &["credential:NAME"]);
}

#[test]
fn the_kernel_may_keep_the_passphrase() {
    let place = Place::with_store();
    let name = format!("blocktree-test-{}", std::process::id());
    let info = |name: &str| {
        let mut command = support::program();
        command.arg("info").arg(place.store()).args(["--passphrase-from", &format!("keyring:{name}")]);
        command
    };
    finish(&mut info(&name)).failed(1, &[&name, "keyctl padd"]);
    // A session of its own, which ends with the commands in it.
    let keep = |passphrase: &str| {
        let script = format!(
            "keyctl padd user {name} @s < {passphrase} > /dev/null && exec {} info {} --passphrase-from keyring:{name}",
            support::BINARY,
            place.store().display()
        );
        finish(Command::new("keyctl").args(["session", "-", "sh", "-c", &script]))
    };
    let wrong = place.path("wrong");
    fs::write(&wrong, "wrong").unwrap();
    keep(wrong.to_str().unwrap()).failed(1, &["wrong passphrase"]);
    keep(place.passphrase_file().to_str().unwrap()).ok();
}

#[test]
fn two_sources_at_once_are_wrong_usage() {
    let place = Place::empty();
    let mut command = program();
    command.arg("info").arg(place.store()).args(place.passphrase_arguments());
    finish(command.args(["--passphrase-from", "terminal"])).failed(2, &["cannot be used with"]);
    let mut command = program();
    command.arg("info").arg(place.store()).args(["--passphrase-from", "hunter2"]);
    let ran = finish(&mut command).failed(2, &["keyring:NAME"]);
    assert!(!ran.stdout.contains("hunter2"));
}
