//! Locks between two apps: who has one, how it ends, and what a token is good for.

use std::fs;
use std::process::Command;

use crate::stage::{PROBE, Stage};
use crate::support::{can_mount, finish, wait_until};

/// Two apps that do what they are told in folders of their own; that of `inner` is in that of `outer`.
struct Two(Stage);

impl Two {
    fn new() -> Self {
        let stage = Stage::new();
        fs::create_dir_all(stage.path("box/in")).expect("made");
        for (name, folder) in [("outer", "box=/box"), ("inner", "box=/box/in")] {
            let project = PROBE.replace("VERSION", "1.0.0").replace("RIGHTS", "rw");
            let project = project.replace("\"probe\"", &format!("{name:?}")).replace("\"**\"", "\"*.do\"");
            stage.install(&stage.package("probe", &project, "author"), &["--grant", folder]).ok();
        }
        Self(stage)
    }

    /// What comes of a command.
    #[track_caller]
    fn tells(&self, app: &str, command: &str) -> String {
        let marked = format!("info: {command} -> ");
        let outcomes = || {
            let log = self.0.logs(app);
            log.lines().filter_map(|line| Some(line.split_once(&marked)?.1.to_owned())).collect::<Vec<_>>()
        };
        let before = outcomes().len();
        let folder = if app == "outer" { "box" } else { "box/in" };
        fs::write(self.0.path(folder).join("command.do"), command).expect("written");
        wait_until(&format!("{app} has done {command:?}"), || outcomes().len() > before);
        outcomes().pop().expect("one")
    }

    /// Has an app take a lock that is free; its token.
    #[track_caller]
    fn take(&self, app: &str, path: &str) -> u64 {
        let told = self.tells(app, &format!("lock box {path}"));
        told.strip_prefix("ok ").and_then(|token| token.parse().ok()).unwrap_or_else(|| panic!("{told}"))
    }
}

#[test]
fn a_lock_has_one_holder_and_its_token_rises() {
    if !can_mount() {
        return;
    }
    let mut two = Two::new();
    let first = two.take("outer", "in/l");
    assert_eq!(two.tells("inner", "lock box l"), "locked", "the same place by another way");
    assert_eq!(two.tells("outer", "lock box in/l"), "locked", "nor does its holder get it twice");
    assert!(two.take("inner", "other") > first);
    // Whoever was told the token writes under it, while the lock is held.
    assert_eq!(two.tells("inner", &format!("fenced box f one l {first}")), "ok ()");
    assert_eq!(two.tells("outer", "unlock"), "ok 1");
    assert_eq!(two.tells("inner", &format!("fenced box f two l {first}")), "locked");
    let second = two.take("inner", "l");
    assert!(second > first);
    assert_eq!(two.tells("outer", &format!("fenced box in/f two in/l {first}")), "locked", "an old token");
    assert_eq!(
        two.tells("outer", &format!("fenced box in/f two in/l {}", second + 1)),
        "locked",
        "a made-up one"
    );
    assert_eq!(fs::read_to_string(two.0.path("box/in/f")).expect("read"), "one");
    assert_eq!(two.tells("outer", &format!("fenced box in/f two in/l {second}")), "ok ()");
    assert_eq!(two.tells("outer", "zombie box in/f z"), "ok Err(\"locked\")", "lost between two writes");
    assert_eq!(fs::read_to_string(two.0.path("box/in/f")).expect("read"), "first");
    two.0.umount();
}

#[test]
fn a_lock_ends_with_its_process_its_instance_its_grant_and_its_mount() {
    if !can_mount() {
        return;
    }
    let mut two = Two::new();
    let mut token = two.take("outer", "in/l");
    let mut rises = |next: u64| {
        assert!(next > token, "{next} after {token}");
        token = next;
    };
    let process = two.0.process("outer").to_string();
    finish(Command::new("kill").args(["-9", "--", &process])).ok();
    rises(two.take("inner", "l"));
    fs::write(two.0.path("box/in/fault.do"), "panic").expect("written");
    two.0.wait_for_log("inner", "given up");
    rises(two.take("outer", "in/l"));
    two.0.app("revoke", &["outer", "box"]).ok();
    rises(two.take("inner", "l"));
    two.0.app("grant", &["outer", "box=/box:r"]).ok();
    assert_eq!(two.tells("outer", "lock box new"), "not-granted", "who may only read locks nothing");
    two.0.app("grant", &["outer", "box=/box:rw"]).ok();
    two.0.remount();
    rises(two.take("outer", "in/l"));
    two.0.umount();
}

#[test]
fn so_many_locks_has_an_app_at_once() {
    if !can_mount() {
        return;
    }
    let mut two = Two::new();
    let told = two.tells("outer", "hoard-locks box");
    assert_eq!(told, "too-large after 64");
    two.take("inner", "l");
    assert_eq!(two.tells("inner", "lock box ../l"), "malformed");
    assert_eq!(two.tells("inner", "lock other l"), "not-granted");
    two.0.umount();
}
