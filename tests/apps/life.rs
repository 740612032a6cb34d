//! From installing an app to removing it: what it may, what it hears, what it keeps.

use std::fs;
use std::io::{Read as _, Seek as _};

use crate::stage::Stage;
use crate::support::{can_mount, finish, is_alive, program, wait_until};

#[test]
fn it_reads_and_writes_what_was_granted() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::with_probe();
    fs::create_dir(stage.path("box/sub")).expect("made");
    fs::write(stage.path("box/sub/a"), "one").expect("written");
    fs::write(stage.path("box/grows"), "0123456789").expect("written");
    let commands = [
        ("read box sub/a", "ok \"one\""),
        ("size box sub/a", "ok 3"),
        ("list box sub", "ok [\"a\"]"),
        ("write box sub/b two", "ok ()"),
        ("edit box grows abc", "ok ()"),
        ("mkdir box made", "ok ()"),
        ("rename box sub/b made/c", "ok ()"),
        ("remove box sub/a", "ok ()"),
        ("read box sub/a", "not-found"),
        ("read box made", "not-a-file"),
        ("remove box sub", "ok ()"),
        ("abandon box half", "ok ()"),
        ("large box large 3000001", "ok true"),
        ("size box large", "ok 3000001"),
        ("clock", "true"),
        ("random", "true"),
    ];
    let outcomes = stage.probe_does("files", &commands.map(|(command, _)| command));
    for ((command, expected), outcome) in
        commands.iter().zip(outcomes).filter(|(one, _)| one.0 != "read box sub/a")
    {
        assert_eq!(outcome, *expected, "{command}");
    }
    assert_eq!(fs::read_to_string(stage.path("box/made/c")).expect("read"), "two");
    assert_eq!(fs::read_to_string(stage.path("box/grows")).expect("read"), "abc3456789");
    assert_eq!(fs::metadata(stage.path("box/large")).expect("there").len(), 3_000_001);
    assert!(!stage.path("box/half").exists() && !stage.path("box/sub").exists());
    // What it did itself it does not hear of.
    let log = stage.logs("probe");
    assert!(!log.contains("made/c\n") || !log.contains("info: written made/c"), "{log}");
    assert!(!log.contains("info: written large") && !log.contains("info: created made"), "{log}");
    stage.umount();
}

#[test]
fn whoever_has_a_file_open_sees_what_an_app_does_to_it() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::with_probe();
    fs::write(stage.path("box/open"), "one").expect("written");
    let mut file = fs::File::open(stage.path("box/open")).expect("opened");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "one");
    stage.probe_does("longer", &["edit box open longer"]);
    wait_until("it is longer", || file.metadata().expect("there").len() == 6);
    text.clear();
    file.seek(std::io::SeekFrom::Start(0)).expect("moved");
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "longer");
    drop(file);
    stage.umount();
}

#[test]
fn what_the_node_keeps_for_apps_is_in_no_history() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::with_probe();
    stage.probe_does("values", &["set key value", "write box made x", "delete key"]);
    stage.app("disable", &["probe"]).ok();
    let log = finish(program().arg("log").arg(stage.place.mountpoint())).ok().stdout;
    assert!(log.contains("/box/made"), "{log}");
    for kept in ["cursor", "state.json", "being-written", "compiled"] {
        assert!(!log.contains(kept), "{log}");
    }
    stage.umount();
}

#[test]
fn its_values_last_and_are_its_own() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::with_probe();
    let outcomes =
        stage.probe_does("set", &["set a/b one", "set a.. two", "get nothing", "keys a", "delete a.."]);
    assert_eq!(outcomes, ["ok ()", "ok ()", "ok None", "ok [\"a..\", \"a/b\"]", "ok ()"]);
    stage.remount();
    assert_eq!(stage.probe_does("get", &["get a/b", "keys "]), ["ok Some(\"one\")", "ok [\"a/b\"]"]);
    // Removed and installed again, it is another app.
    stage.app("remove", &["probe"]).ok();
    stage.app("logs", &["probe"]).failed(1, &["there is no app"]);
    let package = stage.probe("1.0.0", "rw");
    stage.install(&package, &["--grant", "box=/box"]).ok();
    assert_eq!(stage.probe_does("new", &["keys "]), ["ok []"]);
    stage.umount();
}

#[test]
fn it_hears_what_happens_below_its_grant_and_nothing_else() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::with_probe();
    let inside = stage.path("box");
    fs::create_dir(inside.join("sub")).expect("made");
    fs::write(inside.join("sub/one"), "1").expect("written");
    // The kernel says after close(2) returned that nobody has the file open.
    stage.wait_for_log("probe", "written sub/one");
    fs::rename(inside.join("sub/one"), inside.join("two")).expect("renamed");
    fs::write(stage.path("unseen"), "1").expect("written");
    fs::rename(inside.join("two"), stage.path("out")).expect("renamed");
    fs::write(inside.join("gone"), "1").expect("written");
    fs::remove_file(inside.join("gone")).expect("removed");
    stage.probe_does("last", &["random"]);
    let log = stage.logs("probe");
    let heard: Vec<&str> =
        log.lines().filter_map(|line| line.split_once(" info: ")).map(|(_, text)| text).collect();
    for expected in
        ["created sub", "written sub/one", "renamed Some(\"sub/one\") two", "deleted two", "deleted gone"]
    {
        assert!(heard.contains(&expected), "{expected} is not in {log}");
    }
    assert!(!log.contains("unseen") && !log.contains("out\n"), "{log}");
    stage.umount();
}

#[test]
fn a_grant_is_what_the_owner_decides() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::new();
    fs::create_dir(stage.path("box")).expect("made");
    let package = stage.probe("1.0.0", "rw");
    stage.install(&package, &[]).failed(1, &["asks for \"box\"", "to be told what to do"]);
    stage.install(&package, &["--grant", "box=/nowhere"]).failed(1, &["/nowhere is no folder"]);
    stage.install(&package, &["--grant", "more=/box"]).failed(1, &["does not ask for"]);
    assert_eq!(stage.app::<&str>("list", &[]).ok().stdout, "");
    stage.install(&package, &["--grant", "box=/box:r"]).ok();
    fs::write(stage.path("box/file"), "x").expect("written");
    let outcomes = stage.probe_does("read-only", &["read box file", "write box new x", "remove box file"]);
    assert_eq!(outcomes, ["ok \"x\"", "not-granted", "not-granted"]);
    stage.app("grant", &["probe", "box=/box:rw"]).ok();
    assert_eq!(stage.probe_does("more", &["write box new x"]), ["ok ()"]);
    let shown = stage.app("show", &["probe"]).ok().stdout;
    assert!(shown.contains("box = /box (rw)"), "{shown}");
    stage.app("revoke", &["probe", "box"]).ok();
    fs::write(stage.path("box/unheard.do"), "random").expect("written");
    stage.remount();
    assert!(!stage.logs("probe").contains("unheard"));
    stage.umount();
}

#[test]
fn updates_come_from_the_same_author_and_do_not_creep() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::new();
    stage.make_author("other");
    fs::create_dir(stage.path("box")).expect("made");
    let package = stage.probe("1.0.0", "r");
    stage.install(&package, &["--grant", "box=/box"]).ok();
    let project = crate::stage::PROBE.replace("VERSION", "1.1.0").replace("RIGHTS", "r");
    let theirs = stage.package("probe", &project, "other");
    stage.install(&theirs, &[]).failed(1, &["signed by", "but the installed one by"]);
    let wider = stage.probe("1.1.0", "rw");
    stage.install(&wider, &[]).failed(1, &["wants more", "box (rw, was r)"]);
    stage.install(&wider, &["--approve"]).ok();
    let older = stage.probe("1.0.9", "r");
    stage.install(&older, &[]).failed(1, &["1.1.0 is installed, which is newer"]);
    stage.install(&older, &["--allow-older"]).ok();
    let listed = stage.app::<&str>("list", &[]).ok().stdout;
    assert_eq!(listed, "probe  1.0.9  Does what it is told.\n");
    stage.umount();
}

#[test]
fn a_package_that_is_not_whole_installs_nothing() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::new();
    fs::create_dir(stage.path("box")).expect("made");
    let package = stage.probe("1.0.0", "r");
    let bytes = fs::read(&package).expect("read");
    let refused = |bytes: &[u8], says: &str| {
        fs::write(&package, bytes).expect("written");
        stage.install(&package, &["--grant", "box=/box"]).failed(1, &[says]);
        finish(program().args(["app", "verify"]).arg(&package)).failed(1, &[says]);
        assert_eq!(stage.app::<&str>("list", &[]).ok().stdout, "");
    };
    refused(&bytes[..bytes.len() - 1], "cut off");
    refused(&[&bytes[..], b"x"].concat(), "behind the end");
    refused(b"PK\x03\x04", "no app package");
    let mut changed = bytes.clone();
    *changed.last_mut().expect("bytes") ^= 1;
    refused(&changed, "not the one of the manifest");
    let mut changed = bytes.clone();
    let at = bytes.windows(5).position(|part| part == b"probe").expect("its name");
    changed[at] = b'q';
    refused(&changed, "signature is wrong");
    fs::write(&package, &bytes).expect("written");
    let says = finish(program().args(["app", "verify"]).arg(&package)).ok().stdout;
    assert!(says.starts_with("probe 1.0.0, signed by "), "{says}");
    stage.umount();
}

#[test]
fn a_disabled_app_has_no_process_and_an_unmounted_store_can_be_managed() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::with_probe();
    stage.probe_does("one", &["random"]);
    let process = stage.process("probe");
    assert!(is_alive(process));
    stage.app("disable", &["probe"]).ok();
    wait_until("its process has ended", || !is_alive(process));
    stage.app("enable", &["probe"]).ok();
    stage.probe_does("two", &["clock"]);
    let process = stage.process("probe");
    stage.umount();
    assert!(!is_alive(process), "no process outlives the mount");
    let listed = finish(&mut stage.place.on_store(&["app", "list"], &[])).ok().stdout;
    assert_eq!(listed, "probe  1.0.0  Does what it is told.\n");
    finish(&mut stage.place.on_store(&["app", "disable"], &["probe"])).ok();
    stage.mount = Some(stage.place.mount());
    let listed = stage.app::<&str>("list", &[]).ok().stdout;
    assert!(listed.contains("(disabled)"), "{listed}");
    stage.umount();
}

#[test]
fn a_timer_calls_it_again_and_again() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::new();
    let project = crate::stage::PROBE.replace("VERSION", "1.0.0").replace("RIGHTS", "r");
    let project = project + "[[triggers]]\non = \"timer\"\nname = \"tick\"\nseconds = 1\n";
    let package = stage.package("probe", &project, "author");
    // It asks for a folder, and does without.
    stage.install(&package, &["--grant", "box=-"]).ok();
    wait_until("it was called twice", || stage.logs("probe").matches("info: timer tick").count() >= 2);
    stage.umount();
}
