//! Backups of a store's keys: written, verified, restored from; and what happens with those that are of no use.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{PASSPHRASE, Place, Ran, can_mount, finish, program};

const PAPER: &str = "the passphrase of the backup";

/// A command on keys, without any passphrase.
fn key(place: &Place, command: &str, arguments: &[&str]) -> Command {
    let mut line = program();
    // The machine that restores is another one than the one that is lost.
    line.env("BLOCKTREE_ANCHOR_DIR", place.path("anchors"));
    line.arg("key").arg(command).arg(place.store()).args(arguments);
    line
}

/// Files with passphrases: of the backup, and of the store once it is restored.
fn papers(place: &Place) -> [String; 2] {
    fs::write(place.path("paper"), PAPER).unwrap();
    fs::write(place.path("new"), "a new one").unwrap();
    ["paper", "new"].map(|name| place.path(name).to_str().unwrap().to_owned())
}

fn name(place: &Place, file: &str) -> String {
    place.path(file).to_str().unwrap().to_owned()
}

fn backup(place: &Place, arguments: &[&str]) -> Ran {
    let [paper, _] = papers(place);
    let mut line = key(place, "backup", arguments);
    line.args(place.passphrase_arguments());
    if !arguments.contains(&"--no-backup-passphrase") {
        line.args(["--backup-passphrase-file", &paper]);
    }
    finish(&mut line)
}

fn verify(place: &Place, arguments: &[&str]) -> Ran {
    let [paper, _] = papers(place);
    finish(key(place, "verify-backup", arguments).args(["--backup-passphrase-file", &paper]))
}

fn restore(place: &Place, arguments: &[&str]) -> Ran {
    let [paper, new] = papers(place);
    let mut line = key(place, "restore", arguments);
    finish(line.args(["--backup-passphrase-file", &paper, "--new-passphrase-file", &new]))
}

/// Opens the store by this passphrase's file, without changing it.
fn info(place: &Place, passphrase: &Path) -> Ran {
    finish(program().arg("info").arg(place.store()).arg("--passphrase-file").arg(passphrase))
}

fn check(place: &Place, passphrase: &Path) -> Ran {
    let mut line = program();
    line.env("BLOCKTREE_ANCHOR_DIR", place.path("anchors"));
    finish(line.arg("check").arg(place.store()).arg("--passphrase-file").arg(passphrase))
}

fn volume(place: &Place) -> PathBuf {
    let files = fs::read_dir(place.store()).unwrap().map(|entry| entry.unwrap().path());
    files.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

/// What is at the start of the volume: the slots, and whatever else a restore might change.
fn front(place: &Place) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = vec![0; 64 * 4096];
    fs::File::open(volume(place)).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn a_lost_passphrase_is_replaced_from_a_backup() {
    let place = Place::with_store();
    if can_mount() {
        let mount = place.mount();
        fs::write(mount.path("letter"), "dear").unwrap();
        mount.umount();
    }
    let file = name(&place, "backup");
    backup(&place, &[&file]).ok();
    assert!(fs::metadata(&file).unwrap().len() < 4096);
    backup(&place, &[&file]).failed(1, &["exists already"]);
    let said = verify(&place, &[&file]).ok();
    assert!(said.stdout.contains("its keys are those of"), "{said:?}");

    // Nobody knows the old passphrase any more.
    let said = restore(&place, &[&file, "--revoke-old-node"]).ok();
    assert!(said.stdout.contains("has a new node, under the new passphrase"), "{said:?}");
    info(&place, &place.passphrase_file()).failed(1, &["wrong passphrase"]);
    info(&place, &place.path("new")).ok();
    check(&place, &place.path("new")).ok();
    verify(&place, &[&file]).ok();
    if can_mount() {
        fs::copy(place.path("new"), place.passphrase_file()).unwrap();
        let mount = place.mount_with(&["-o", "anchor=none"]);
        assert_eq!(fs::read_to_string(mount.path("letter")).unwrap(), "dear");
        fs::write(mount.path("answer"), "me too").unwrap();
        mount.umount();
    }
    // Again, as often as needed; the node before stays.
    let said = restore(&place, &[&file]).ok();
    assert!(said.stdout.contains("may still write"), "{said:?}");
    check(&place, &place.path("new")).ok();
}

#[test]
fn some_of_several_shares_are_enough() {
    let place = Place::with_store();
    let file = name(&place, "shares");
    backup(&place, &[&file, "--split", "2-of-3"]).ok();
    let share = |number: u32| format!("{file}.{number}");
    verify(&place, &[&share(1), &share(3)]).ok();
    verify(&place, &[&share(2), &share(1), &share(3)]).ok();
    verify(&place, &[&share(2)]).failed(1, &["2 are needed", "1 are there"]);
    verify(&place, &[&share(2), &share(2)]).failed(1, &["share 2 is there twice"]);
    let other = name(&place, "other");
    backup(&place, &[&other, "--split", "2-of-2", "--no-backup-passphrase"]).ok();
    verify(&place, &[&share(1), &format!("{other}.2")]).failed(1, &["different backups"]);
    verify(&place, &[&format!("{other}.1"), &format!("{other}.2")]).ok();
    restore(&place, &[&share(3), &share(2)]).ok();
    info(&place, &place.path("new")).ok();
    backup(&place, &[&file, "--split", "4-of-3"]).failed(2, &["2-of-3"]);
}

#[test]
fn words_on_paper_are_enough() {
    let place = Place::with_store();
    let words = backup(&place, &["--words"]).ok().stdout;
    let list = name(&place, "words");
    let write = |text: &str| {
        fs::write(&list, text).unwrap();
        finish(Command::new("chmod").args(["600", &list])).ok();
    };
    write(&words);
    verify(&place, &["--words", &list]).ok();
    write(&words.to_uppercase());
    verify(&place, &["--words", &list]).ok();
    let wrong = words.replacen("1. ", "1. zebra ", 1);
    write(&wrong);
    verify(&place, &["--words", &list]).failed(1, &["25 words"]);
    write("abandon");
    verify(&place, &["--words", &list]).failed(1, &["1 words"]);
    write(&"abandon ".repeat(24));
    verify(&place, &["--words", &list]).failed(1, &["check sum"]);
    // Some other root's.
    write(&["abandon ".repeat(23), "art".to_owned()].concat());
    verify(&place, &["--words", &list]).failed(1, &["another store's"]);

    // Shares of words, each on its own page.
    let pages = backup(&place, &["--words", "--split", "2-of-2"]).ok().stdout;
    let pages: Vec<&str> = pages.trim().split("\n\n").collect();
    let files = ["one", "two"].map(|file| name(&place, file));
    for (file, page) in files.iter().zip(&pages) {
        fs::write(file, page).unwrap();
    }
    assert_eq!(pages.len(), 2);
    verify(&place, &["--words", &files[0]]).failed(1, &["2 are needed"]);
    restore(&place, &["--words", &files[1], "--words", &files[0], "--revoke-old-node"]).ok();
    info(&place, &place.path("new")).ok();
    check(&place, &place.path("new")).ok();
    write(&words);
    restore(&place, &["--words", &list]).ok();
    check(&place, &place.path("new")).ok();
}

#[test]
fn the_root_key_leaves_only_for_a_proven_backup() {
    let place = Place::with_store();
    let [paper, new] = papers(&place);
    let file = name(&place, "backup");
    backup(&place, &[&file]).ok();
    let remove = |files: &[&str]| {
        let mut line = key(&place, "remove-root", files);
        finish(line.args(place.passphrase_arguments()).args(["--backup-passphrase-file", &paper]))
    };
    let before = front(&place);
    remove(&[]).failed(2, &["FILES"]);
    let elsewhere = Place::with_store();
    let foreign = name(&elsewhere, "backup");
    backup(&elsewhere, &[&foreign]).ok();
    remove(&[&foreign]).failed(1, &["do not open", "nothing was changed"]);
    assert_eq!(front(&place), before);

    remove(&[&file]).ok();
    info(&place, &place.passphrase_file()).ok();
    check(&place, &place.passphrase_file()).ok();
    backup(&place, &[&name(&place, "again")]).failed(1, &["root key was taken out"]);
    // The passphrase changes without it, and the backup still gives all.
    let mut line = key(&place, "change-passphrase", &["--new-passphrase-file", &new]);
    finish(line.args(place.passphrase_arguments())).ok();
    info(&place, &place.path("new")).ok();
    verify(&place, &[&file]).ok();
    restore(&place, &[&file]).ok();
    check(&place, &place.path("new")).ok();
}

#[test]
fn a_passphrase_is_changed_in_place() {
    let place = Place::with_store();
    let [_, new] = papers(&place);
    let change = |old: &Path, new: &str| {
        let mut line = key(&place, "change-passphrase", &["--new-passphrase-file", new]);
        finish(line.arg("--passphrase-file").arg(old))
    };
    let before = front(&place);
    change(Path::new(&new), &new).failed(1, &["wrong passphrase"]);
    change(&place.passphrase_file(), "/missing").failed(1, &["/missing"]);
    assert_eq!(front(&place), before, "nothing was changed");
    change(&place.passphrase_file(), &new).ok();
    info(&place, &place.passphrase_file()).failed(1, &["wrong passphrase"]);
    info(&place, Path::new(&new)).ok();
    // The root key followed.
    change(Path::new(&new), place.passphrase_file().to_str().unwrap()).ok();
    backup(&place, &[&name(&place, "backup")]).ok();
}

#[test]
fn backups_that_are_of_no_use_change_nothing() {
    let place = Place::with_store();
    let [paper, _] = papers(&place);
    let file = name(&place, "backup");
    backup(&place, &[&file]).ok();
    let whole = fs::read(&file).unwrap();
    assert!(
        !whole.windows(8).any(|part| part == &PASSPHRASE.as_bytes()[..8] || part == &PAPER.as_bytes()[..8])
    );
    let before = front(&place);
    let refused = |bytes: &[u8], says: &str| {
        let bad = name(&place, "bad");
        fs::write(&bad, bytes).unwrap();
        for ran in [verify(&place, &[&bad]), restore(&place, &[&bad])] {
            ran.failed(1, &["bad", says]);
        }
        assert_eq!(front(&place), before, "nothing was changed");
    };
    refused(&[], "too short");
    refused(&whole[..whole.len() / 2], "damaged or cut off");
    refused(&[&whole[..], b"x"].concat(), "damaged or cut off");
    refused(&[7; 5000], "longer than");
    refused(&[7; 400], "another kind of file");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    refused(&flipped, "damaged or cut off");

    fs::write(&paper, "wrong").unwrap();
    let mut line = key(&place, "verify-backup", &[&file, "--backup-passphrase-file", &paper]);
    finish(&mut line).failed(1, &["wrong passphrase"]);
    let elsewhere = Place::with_store();
    let foreign = name(&elsewhere, "backup");
    backup(&elsewhere, &[&foreign]).ok();
    for ran in [verify(&place, &[&foreign]), restore(&place, &[&foreign])] {
        ran.failed(1, &["do not open", "nothing was changed"]);
    }
    restore(&place, &["/missing"]).failed(1, &["/missing"]);
    assert_eq!(front(&place), before, "nothing was changed");
    info(&place, &place.passphrase_file()).ok();
}
