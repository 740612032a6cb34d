//! Messages between two apps: who may send them, and that none is lost.

use std::fs;

use crate::stage::{PROBE, Stage};
use crate::support::can_mount;

/// `probe`, which sends to `other`, and that; each does what it is told in a folder of its own.
fn stage() -> Stage {
    let stage = Stage::new();
    for (name, folder, more) in [
        ("probe", "box", "[[send]]\napp = \"other\"\nreason = \"to tell it\"\n"),
        ("other", "other", "[receive]\nreason = \"to be told\"\n"),
    ] {
        fs::create_dir(stage.path(folder)).expect("made");
        let project = PROBE.replace("VERSION", "1.0.0").replace("RIGHTS", "rw");
        let project =
            project.replace("\"probe\"", &format!("{name:?}")).replace("seconds = 1", "seconds = 60") + more;
        let package = stage.package("probe", &project, "author");
        stage.install(&package, &["--grant", &format!("box=/{folder}")]).ok();
    }
    stage
}

/// The same, with the owner's word for it, and a receiver that does not run.
fn stage_with_messages() -> Stage {
    let stage = stage();
    stage.app("grant", &["probe", "send:other"]).ok();
    stage.app("grant", &["other", "receive"]).ok();
    stage.app("disable", &["other"]).ok();
    stage
}

/// What `other` was told, in order.
fn told(stage: &Stage) -> Vec<String> {
    let log = stage.logs("other");
    log.lines().filter_map(|line| Some(line.split_once("info: message from probe: ")?.1.to_owned())).collect()
}

#[test]
fn a_message_needs_the_word_of_the_owner_on_both_sides() {
    if !can_mount() {
        return;
    }
    let mut stage = stage();
    stage.app("grant", &["probe", "receive"]).failed(1, &["does not ask to take messages"]);
    stage.app("grant", &["probe", "send:probe"]).failed(1, &["does not ask to send messages to probe"]);
    assert_eq!(stage.probe_does("none", &["send other one"]), ["not-granted"]);
    stage.app("grant", &["probe", "send:other"]).ok();
    assert_eq!(stage.probe_does("half", &["send other two"]), ["not-granted"]);
    stage.app("grant", &["other", "receive"]).ok();
    let commands =
        ["send other three", "send nobody x", "send probe x", "send ../other x", "send-large other 16385"];
    let outcomes = stage.probe_does("whole", &commands);
    assert_eq!(outcomes, ["ok ()", "not-granted", "not-granted", "not-granted", "too-large"]);
    stage.wait_for_log("other", "message from probe: three");
    let shown = stage.app("show", &["probe"]).ok().stdout;
    assert!(shown.contains("to send messages to other"), "{shown}");
    stage.app("revoke", &["probe", "send:other"]).ok();
    assert_eq!(stage.probe_does("no-more", &["send other four"]), ["not-granted"]);
    assert_eq!(told(&stage), ["three"]);
    stage.umount();
}

#[test]
fn messages_wait_for_their_receiver_and_come_in_order() {
    if !can_mount() {
        return;
    }
    let mut stage = stage_with_messages();
    let commands: Vec<String> = (0..20).map(|number| format!("send other {number}")).collect();
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    stage.probe_does("first", &commands);
    stage.remount();
    stage.probe_does("fault", &["send other fail", "send other last"]);
    assert_eq!(told(&stage), Vec::<String>::new());
    stage.app("enable", &["other"]).ok();
    stage.wait_for_log("other", "message from probe: last");
    let mut told = told(&stage);
    // What fails is tried again, and put aside in the end.
    assert_eq!(told.iter().filter(|text| *text == "fail").count(), 4);
    told.dedup();
    let expected: Vec<String> =
        (0..20).map(|number| number.to_string()).chain(["fail".to_owned(), "last".to_owned()]).collect();
    assert_eq!(told, expected);
    assert!(stage.app("show", &["other"]).ok().stdout.contains("not handled"));
    stage.umount();
}

#[test]
fn so_many_messages_wait_for_an_app() {
    if !can_mount() {
        return;
    }
    let mut stage = stage_with_messages();
    // An event may take a second; it goes on where it was.
    fs::write(stage.path("box/flood.do"), "send-many other").expect("written");
    stage.wait_for_log("probe", "send-many other -> too-large");
    stage.app("enable", &["other"]).ok();
    stage.wait_for_log("other", "message from probe: 0");
    stage.umount();
}
