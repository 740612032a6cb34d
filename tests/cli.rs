//! The command line, as far as nothing is mounted: arguments, passphrases, exit codes and texts.

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use support::{BINARY, Place, finish, program, run};

#[test]
fn help_and_version_succeed() {
    let help = run(["--help"]).ok();
    for command in [
        "init",
        "mount",
        "umount",
        "info",
        "check",
        "scrub",
        "samba-config",
        "snapshot",
        "principal",
        "key",
        "cap",
        "tpm",
    ] {
        assert!(help.stdout.contains(command), "{command}");
        let help = run([command, "--help"]).ok();
        assert!(help.stdout.starts_with(|letter: char| letter.is_uppercase()), "{command}: {}", help.stdout);
    }
    assert!(help.stdout.contains("Exit codes:"));
    assert!(run(["mount", "--help"]).ok().stdout.contains("passphrase_file=FILE"));
    let version = run(["--version"]).ok();
    assert_eq!(version.stdout, format!("blocktree {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_2() {
    let none: [&str; 0] = [];
    run(none).failed(2, &["Usage"]);
    run(["bogus"]).failed(2, &["bogus"]);
    run(["mount", "only-one"]).failed(2, &["MOUNTPOINT"]);
    run(["init", "s", "--size", "big"]).failed(2, &["big", "10G"]);
    run(["mount", "s", "m", "-o", "ro,bogus"]).failed(2, &["bogus", "--help"]);
    run(["mount", "s", "m", "-o", "remount"]).failed(2, &["remount"]);
    run(["mount", "s", "m", "--as-daemon"]).failed(2, &["--foreground"]);
    run(["snapshot", "create", "s", "a/b"]).failed(2, &["slashes"]);
    run(["snapshot"]).failed(2, &["create"]);
}

#[test]
fn what_does_not_exist_is_named() {
    let place = Place::empty();
    let missing = place.path("missing");
    let missing = missing.to_str().unwrap();
    let mountpoint = place.mountpoint();
    let mountpoint = mountpoint.to_str().unwrap();
    run(["mount", missing, mountpoint]).failed(1, &[missing, "blocktree init"]);
    run(["mount", mountpoint, missing]).failed(1, &[missing, "mountpoint", "does not exist"]);
    run(["check", missing]).failed(1, &[missing]);
    run(["info", missing]).failed(1, &[missing]);
    run(["umount", mountpoint]).failed(1, &[mountpoint, "not where a store is mounted"]);
    run(["scrub", mountpoint]).failed(1, &[mountpoint, "blocktree check"]);
    run(["mount", mountpoint, mountpoint]).failed(1, &["not a store"]);
    let file = place.passphrase_file();
    run(["mount", mountpoint, file.to_str().unwrap()]).failed(1, &["not a directory"]);
}

#[test]
fn without_a_passphrase_nothing_is_made() {
    let place = Place::empty();
    let init = || {
        let mut command = program();
        command.arg("init").arg(place.store());
        command
    };
    finish(&mut init()).failed(1, &["--passphrase-file", "BLOCKTREE_PASSPHRASE_FILE", "no terminal"]);
    let empty = place.path("empty");
    fs::write(&empty, "\n").unwrap();
    finish(init().arg("--passphrase-file").arg(&empty)).failed(1, &["empty"]);
    finish(init().env("BLOCKTREE_PASSPHRASE_FILE", &empty))
        .failed(1, &["BLOCKTREE_PASSPHRASE_FILE", "empty"]);
    finish(init().env("BLOCKTREE_PASSPHRASE_FILE", "")).failed(1, &["BLOCKTREE_PASSPHRASE_FILE"]);
    finish(init().args(["--passphrase-file", "/does/not/exist"])).failed(1, &["/does/not/exist"]);
    finish(init().args(["--passphrase-file", "/dev/zero"])).failed(1, &["4096"]);
    assert!(!place.store().exists());
}

#[test]
fn a_folder_that_contains_anything_is_refused() {
    let place = Place::empty();
    fs::create_dir(place.store()).unwrap();
    fs::write(place.path("store/letter"), "dear").unwrap();
    place.init().failed(1, &["contains other files"]);
    assert_eq!(fs::read(place.path("store/letter")).unwrap(), b"dear");
}

#[test]
fn a_store_has_a_smallest_size() {
    let place = Place::empty();
    let mut command = program();
    command.arg("init").arg(place.store()).args(["--size", "1M"]).args(place.passphrase_arguments());
    finish(&mut command).failed(1, &["larger size"]);
    assert!(!place.store().exists());
}

#[test]
fn as_a_helper_of_mount_its_codes_are_those_of_mount() {
    let place = Place::empty();
    for name in ["mount.blocktree", "mount.fuse.blocktree"] {
        let helper = place.path(name);
        symlink(BINARY, &helper).unwrap();
        let helper = || Command::new(&helper);
        finish(&mut helper()).failed(1, &["usage: mount.blocktree"]);
        finish(helper().arg("/missing").arg(place.mountpoint())).failed(32, &["/missing"]);
        finish(helper().arg("/missing").arg(place.mountpoint()).args(["-o", "bogus"])).failed(1, &["bogus"]);
        finish(helper().arg("/missing").arg(place.mountpoint()).args(["-s", "-o", "bogus"]))
            .failed(32, &["/missing"]);
        let generic = "defaults,rw,noauto,user,users,_netdev,nofail,x-systemd.automount,comment=mine";
        finish(helper().arg("/missing").arg(place.mountpoint()).args(["-f", "-n", "-v", "-o", generic])).ok();
    }
    let helper = place.path("umount.fuse.blocktree");
    symlink(BINARY, &helper).unwrap();
    finish(Command::new(&helper).arg(place.mountpoint())).failed(32, &["not where a store is mounted"]);
    // As /sbin/mount.fuse3 calls it.
    let mut command = program();
    command.arg("/missing").arg(place.mountpoint()).args(["-o", "rw,dev,suid"]);
    finish(&mut command).failed(32, &["/missing"]);
}

/// Runs `init` on a terminal and answers its questions.
fn init_on_a_terminal(place: &Place, answers: &[(&str, &str)]) -> (bool, String) {
    let line = format!("{BINARY} init {}", place.store().display());
    let mut command = Command::new("script");
    command
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env_remove("BLOCKTREE_PASSPHRASE_FILE")
        .env("BLOCKTREE_ANCHOR_DIR", place.path("anchors"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut seen = Vec::new();
    for (question, answer) in answers {
        while !String::from_utf8_lossy(&seen).contains(question) {
            let mut byte = [0];
            assert_eq!(output.read(&mut byte).unwrap(), 1, "{:?}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
        input.write_all(answer.as_bytes()).unwrap();
    }
    output.read_to_end(&mut seen).unwrap();
    (child.wait().unwrap().success(), String::from_utf8_lossy(&seen).into_owned())
}

#[test]
fn on_a_terminal_the_passphrase_is_asked_for_twice_and_not_shown() {
    let place = Place::empty();
    let answers = [("New passphrase for", "first\n"), ("The same again", "second\n")];
    let (succeeded, seen) = init_on_a_terminal(&place, &answers);
    assert!(!succeeded);
    assert!(seen.contains("the two passphrases differ"), "{seen}");
    assert!(!seen.contains("first") && !seen.contains("second"), "{seen}");
    let (succeeded, seen) = init_on_a_terminal(&place, &[("New passphrase for", "\n")]);
    assert!(!succeeded && seen.contains("an empty passphrase"), "{seen}");
    let (succeeded, seen) = init_on_a_terminal(&place, &[("New passphrase for", "abc\x03")]);
    assert!(!succeeded && seen.contains("interrupted"), "{seen}");
    assert!(!place.store().exists());
}

#[cfg(not(feature = "tpm"))]
#[test]
fn without_support_for_tpms_it_says_so() {
    let place = Place::with_store();
    run(["tpm", "status"]).failed(1, &["built without support", "--features tpm"]);
    let file = place.path("tree.tpm");
    let mut command = program();
    command.args(["tpm", "enroll"]).arg(place.store()).arg(&file).args(place.passphrase_arguments());
    finish(&mut command).failed(1, &["built without support"]);
    assert!(!file.exists());
}
