//! Apps that do what they should not: each meets a wall, and nobody else notices.

use std::fs;
use std::os::unix::fs::symlink;

use crate::stage::Stage;
use crate::support::{can_mount, wait_until};

#[test]
fn no_path_leads_out_of_a_grant() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::with_probe();
    fs::write(stage.path("secret"), "secret").expect("written");
    fs::create_dir(stage.path("elsewhere")).expect("made");
    fs::write(stage.path("elsewhere/secret"), "secret").expect("written");
    let inside = stage.path("box");
    symlink("../secret", inside.join("link")).expect("linked");
    symlink("../elsewhere", inside.join("folder-link")).expect("linked");
    symlink("/", inside.join("root-link")).expect("linked");
    let commands = [
        "read box ../secret",
        "read box /secret",
        "read box a/../../secret",
        "read box link",
        "read box folder-link/secret",
        "read box root-link/etc/passwd",
        "write box folder-link/new x",
        "write box link x",
        "read other secret",
        "read box ",
        "rename box link ../out",
        "remove box ..",
        "list box folder-link",
        "mkdir box ../made",
    ];
    let outcomes = stage.probe_does("paths", &commands);
    for (command, outcome) in commands.iter().zip(&outcomes) {
        // A link may be replaced by a file in its place; what it led to stays as it was.
        if *command == "write box link x" {
            assert_eq!(outcome, "ok ()");
            continue;
        }
        assert!(!outcome.starts_with("ok"), "{command}: {outcome}");
    }
    assert_eq!(fs::read_to_string(stage.path("secret")).expect("read"), "secret");
    assert!(
        !stage.path("elsewhere/new").exists() && !stage.path("made").exists() && !stage.path("out").exists()
    );
    stage.umount();
}

#[test]
fn what_runs_away_is_stopped_and_the_next_event_is_handled() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::with_probe();
    for (name, command, says) in [
        ("a", "loop", "it took too long"),
        ("b", "recurse", "it trapped"),
        ("c", "bomb", "it trapped"),
        ("d", "panic", "it trapped"),
        ("e", "fail", "as I was told"),
    ] {
        fs::write(stage.path(&format!("box/{name}.do")), command).expect("written");
        stage.wait_for_log("probe", &format!("given up: written box/{name}.do: {says}"));
        // The mount is there for others all the while.
        fs::write(stage.path("other"), name).expect("written");
        assert_eq!(fs::read_to_string(stage.path("other")).expect("read"), name);
    }
    assert_eq!(stage.probe_does("after", &["random"]), ["true"]);
    let shown = stage.app("show", &["probe"]).ok().stdout;
    assert_eq!(shown.matches("not handled").count(), 5, "{shown}");
    stage.umount();
}

#[test]
fn a_component_that_lies_about_its_imports_does_not_run() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::new();
    fs::create_dir(stage.path("box")).expect("made");
    let project = crate::stage::PROBE.replace("RIGHTS", "rw");
    // What is there under another name; what is nowhere; a function that an interface does not have.
    let lies = [
        ("blocktree:app/kv@0.1.0", "blocktree:app/kx@0.1.0"),
        ("blocktree:app/clock@0.1.0", "wasi:clock/mono-clk@0.1.0"),
        ("monotonic", "monotonik"),
    ];
    for (number, (real, lie)) in lies.iter().enumerate() {
        let version = format!("1.{number}.0");
        let project = project.replace("VERSION", &version);
        let mut code = stage.component("probe", &project);
        crate::stage::replace(&mut code, real.as_bytes(), lie.as_bytes());
        let package = stage.package_of(&code, "probe", &project, "author");
        stage.install(&package, &["--grant", "box=/box", "--allow-older"]).ok();
        fs::write(stage.path(&format!("box/{number}.do")), "random").expect("written");
        stage.wait_for_log("probe", &format!("given up: written box/{number}.do"));
        assert!(!stage.logs("probe").contains("info:"), "it did not run: {}", stage.logs("probe"));
    }
    assert!(stage.logs("probe").contains("it does not start"));
    let package = stage.probe("2.0.0", "rw");
    stage.install(&package, &[]).ok();
    assert_eq!(stage.probe_does("honest", &["random"]), ["true"]);
    stage.umount();
}

#[test]
fn handles_and_logs_have_an_end() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::with_probe();
    fs::write(stage.path("box/file"), "x").expect("written");
    let outcome = stage.probe_does("hoard", &["hoard box file"]).pop().expect("one");
    assert!(outcome.starts_with("too-large after"), "{outcome}");
    // What the instance had open is closed, so it may again.
    assert_eq!(stage.probe_does("again", &["read box file"]), ["ok \"x\""]);
    fs::write(stage.path("box/flood.do"), "flood\nflood\nflood").expect("written");
    wait_until("the flood is over", || {
        let stats = stage.app("stats", &["probe", "--json"]).ok().stdout;
        let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
        stats["requests"].as_u64().expect("a number") >= 3000
    });
    assert!(stage.logs("probe").len() < 300 << 10);
    stage.umount();
}

fn nice_of(process: &str) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("readable");
    // Behind the name, which may have anything in it, the state is the third field, this the nineteenth.
    let fields = stat.rsplit(')').next().expect("a name");
    fields.split_whitespace().nth(19 - 3).expect("so many").parse().expect("a number")
}

#[test]
fn a_process_has_nothing_but_its_channel_and_its_death_harms_nobody() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::with_probe();
    stage.probe_does("one", &["random"]);
    let process = stage.process("probe");
    assert_ne!(process, 0);
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("readable");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("a line");
        line.split_whitespace().nth(1).expect("a value").to_owned()
    };
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("Uid:"), "65534");
    assert_eq!(nice_of(&process.to_string()), (nice_of("self") + 5).min(19), "others come first");
    for entry in fs::read_dir(format!("/proc/{process}/fd")).expect("readable") {
        let target = fs::read_link(entry.expect("an entry").path()).expect("a link");
        let target = target.to_string_lossy();
        let is_its_own =
            target.starts_with("socket:") || target.starts_with("/memfd:") || target == "/dev/null";
        assert!(is_its_own, "{target}");
    }
    let id = process.to_string();
    crate::support::finish(std::process::Command::new("kill").args(["-9", "--", &id])).ok();
    assert_eq!(stage.probe_does("two", &["clock"]), ["true"]);
    assert_ne!(stage.process("probe"), process);
    stage.umount();
}
