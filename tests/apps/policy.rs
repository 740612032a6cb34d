//! Apps that refuse what others do: the example `guard`, and those that answer late, badly or not at all.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::stage::{GUARD, PROBE, Stage};
use crate::support::{can_mount, wait_until};

/// An operation waits for no app for longer; the rest is for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn is_refused<T>(result: std::io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

fn make(path: &Path, mode: u32) -> std::io::Result<fs::File> {
    fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

fn chmod(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// A probe named `name` that may refuse, in `/box`; it is ready when this returns.
fn install_probe(stage: &Stage, name: &str, policy: &str) {
    let project =
        PROBE.replace("VERSION", "1.0.0").replace("RIGHTS", "rw").replace("\"probe\"", &format!("{name:?}"));
    let project = project + "[policy]\nreason = \"to refuse what is called so\"\n";
    let package = stage.package("probe", &project, "author");
    stage.install(&package, &["--grant", "box=/box", "--grant", policy]).ok();
    wait_until("the policy is asked", || {
        let _ = fs::remove_file(stage.path("box/ready"));
        let _ = fs::write(stage.path("box/ready"), "");
        stage.logs(name).contains("asked create ready")
    });
}

fn with_probe(policy: &str) -> Stage {
    let stage = Stage::new();
    fs::create_dir(stage.path("box")).expect("made");
    install_probe(&stage, "probe", policy);
    stage
}

#[test]
fn the_guard_keeps_executables_out_of_a_folder() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::new();
    for folder in ["safe", "safe/sub", "open", "open/folder"] {
        fs::create_dir(stage.path(folder)).expect("made");
    }
    drop(make(&stage.path("open/program"), 0o755).expect("made"));
    drop(make(&stage.path("safe/before"), 0o755).expect("made"));
    let package = stage.package("guard", GUARD, "author");
    stage.install(&package, &["--grant", "folder=/safe"]).ok();
    drop(
        make(&stage.path("safe/unasked"), 0o755)
            .expect("what its owner does not let it refuse, it is not asked about"),
    );
    stage.app("grant", &["guard", "policy"]).ok();
    // Until it is compiled, nothing is let through.
    wait_until("it lets through what is harmless", || fs::write(stage.path("safe/text"), "one").is_ok());

    fs::write(stage.path("safe/sub/text"), "two").expect("written");
    assert!(is_refused(make(&stage.path("safe/new"), 0o755)));
    assert!(is_refused(make(&stage.path("safe/sub/new"), 0o700)));
    assert!(is_refused(chmod(&stage.path("safe/text"), 0o744)));
    assert!(is_refused(fs::rename(stage.path("open/program"), stage.path("safe/program"))));
    assert!(is_refused(fs::hard_link(stage.path("open/program"), stage.path("safe/program"))));
    assert!(is_refused(fs::rename(stage.path("open/folder"), stage.path("safe/folder"))));
    assert!(!stage.path("safe/new").exists() && !stage.path("safe/program").exists());
    assert_eq!(fs::metadata(stage.path("safe/text")).expect("there").permissions().mode() & 0o777, 0o644);

    chmod(&stage.path("safe/text"), 0o600).expect("harmless");
    fs::rename(stage.path("safe/text"), stage.path("safe/sub/moved")).expect("harmless");
    std::os::unix::fs::symlink("sub/moved", stage.path("safe/link")).expect("harmless");
    fs::create_dir(stage.path("safe/made")).expect("harmless");
    fs::remove_file(stage.path("safe/before")).expect("what was there may go");
    drop(make(&stage.path("open/other"), 0o755).expect("elsewhere nobody is asked"));
    assert!(stage.logs("guard").contains("refused new"));
    let stats = stage.app("stats", &["guard", "--json"]).ok().stdout;
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
    assert_eq!(stats["refused"], 6, "{stats}");

    stage.remount();
    wait_until("it is asked again", || fs::write(stage.path("safe/again"), "").is_ok());
    assert!(is_refused(make(&stage.path("safe/new"), 0o755)));
    stage.app("revoke", &["guard", "policy"]).ok();
    drop(make(&stage.path("safe/new"), 0o755).expect("it may not refuse any more"));
    stage.umount();
}

#[test]
fn an_app_says_no_before_anything_changes_and_is_not_asked_about_itself() {
    if !can_mount() {
        return;
    }
    let mut stage = with_probe("policy");
    let inside = stage.path("box");
    assert!(is_refused(fs::write(inside.join("create-a"), "x")));
    fs::write(inside.join("a"), "x").expect("written");
    for name in ["modify-a", "remove-a", "attributes-a"] {
        fs::write(inside.join("plain"), "x").expect("written");
        fs::rename(inside.join("plain"), inside.join(name)).expect("renamed");
    }
    assert!(is_refused(fs::write(inside.join("modify-a"), "longer")));
    assert_eq!(fs::read_to_string(inside.join("modify-a")).expect("read"), "x");
    assert!(is_refused(fs::remove_file(inside.join("remove-a"))));
    assert!(
        is_refused(fs::rename(inside.join("remove-a"), stage.path("out"))),
        "moved away, it would be gone too"
    );
    assert!(is_refused(chmod(&inside.join("attributes-a"), 0o600)));
    assert!(is_refused(fs::rename(inside.join("a"), inside.join("rename-a"))));
    assert!(stage.logs("probe").contains("from Some(\"a\")"));
    // It handles an event in one process, and would be asked in another: it does not wait for itself.
    let outcomes = stage.probe_does("own", &["write box create-own x", "remove box remove-a", "read box a"]);
    assert_eq!(outcomes, ["ok ()", "ok ()", "ok \"x\""]);
    assert!(!stage.logs("probe").contains("asked create create-own"));
    stage.umount();
}

#[test]
fn a_file_is_asked_about_under_each_of_its_names() {
    if !can_mount() {
        return;
    }
    let mut stage = with_probe("policy");
    let (inside, outside) = (stage.path("box"), stage.path("outside"));
    fs::create_dir(&outside).expect("made");
    fs::create_dir(inside.join("sub")).expect("made");
    fs::write(outside.join("file"), "x").expect("written");
    fs::hard_link(outside.join("file"), outside.join("again")).expect("linked");
    fs::write(outside.join("again"), "xy").expect("it has no name where somebody is asked");
    fs::hard_link(outside.join("file"), inside.join("attributes-a")).expect("linked");
    assert!(is_refused(chmod(&outside.join("again"), 0o600)));
    fs::write(outside.join("again"), "xyz").expect("that is not refused");
    fs::hard_link(outside.join("file"), inside.join("sub/modify-a")).expect("linked");
    assert!(is_refused(fs::write(inside.join("attributes-a"), "other")));
    assert!(is_refused(fs::write(outside.join("again"), "other")));
    assert_eq!(fs::read_to_string(outside.join("file")).expect("read"), "xyz");
    // The name that was seen last goes, and the others are still there.
    let open = fs::File::open(outside.join("again")).expect("opened");
    for name in ["again", "file"] {
        fs::remove_file(outside.join(name)).expect("removed");
    }
    assert!(is_refused(open.set_permissions(fs::Permissions::from_mode(0o600))));
    drop(open);
    stage.umount();
}

#[test]
fn who_is_asked_can_look_and_change_nothing() {
    if !can_mount() {
        return;
    }
    let mut stage = with_probe("policy");
    fs::write(stage.path("box/a"), "look").expect("written");
    for (command, outcome) in [
        ("read+box+a", "ok \"look\""),
        ("list+box+", "ok "),
        ("write+box+made+x", "not-granted"),
        ("edit+box+a+x", "not-granted"),
        ("remove+box+a", "not-granted"),
        ("mkdir+box+made", "not-granted"),
        ("set+key+value", "not-granted"),
        ("fetch+GET+http:", "not-granted"),
    ] {
        fs::write(stage.path(&format!("box/judge-{command}")), "").expect("written");
        stage.wait_for_log("probe", &format!("judged {command} -> {outcome}"));
    }
    assert!(!stage.path("box/made").exists());
    assert_eq!(fs::read_to_string(stage.path("box/a")).expect("read"), "look");
    stage.umount();
}

#[test]
fn who_gives_no_answer_holds_nobody_up_and_the_owner_says_what_holds_then() {
    if !can_mount() {
        return;
    }
    let mut stage = with_probe("policy");
    let inside = stage.path("box");
    let start = Instant::now();
    // Several at once, as many as there are event loops and more.
    std::thread::scope(|scope| {
        for number in 0..8 {
            let path = inside.join(format!("sub-{number}"));
            scope.spawn(move || fs::create_dir(path));
        }
        assert!(is_refused(fs::write(inside.join("judge-loop"), "")));
    });
    fs::write(stage.path("other"), "x").expect("elsewhere nobody is asked");
    // It is left alone for a while, which costs nobody anything.
    for number in 0..50 {
        assert!(is_refused(fs::write(inside.join(number.to_string()), "")), "{number}");
    }
    stage.app("grant", &["probe", "policy-fail-open"]).ok();
    fs::write(inside.join("open"), "").expect("what it does not answer is allowed now");
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    // Each time a new one: while nobody is asked, they are made.
    let mut names = (0..).map(|number| inside.join(format!("create-{number}")));
    wait_until("it is asked again", || names.next().is_some_and(|name| is_refused(fs::write(name, ""))));
    fs::write(inside.join("judge-panic"), "").expect("no answer is a yes");
    stage.umount();
}

#[test]
fn apps_that_may_refuse_each_other_do_not_wait_in_a_circle() {
    if !can_mount() {
        return;
    }
    let mut stage = with_probe("policy");
    install_probe(&stage, "other", "policy");
    let start = Instant::now();
    // Each hears of this, and writes what the other is asked about.
    fs::write(stage.path("box/both.do"), "write box rename-both x\nwrite box fine x").expect("written");
    for name in ["probe", "other"] {
        stage.wait_for_log(name, "write box rename-both x -> refused");
        stage.wait_for_log(name, "write box fine x -> ok ()");
    }
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    stage.app("disable", &["other"]).ok();
    assert_eq!(stage.probe_does("alone", &["write box create-alone x"]), ["ok ()"], "nobody else is asked");
    stage.umount();
}
