//! Programs that open connections by the sockets of WASI: they reach whom apps reach otherwise, and wait as programs do.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

use crate::http::{HTTP, SERVE, ask};
use crate::sockets::{accept, echo, project, server, stage, was_not_asked};
use crate::stage::{Stage, replace};
use crate::support::{Place, can_mount, finish, program, wait_until};

/// More than the kernel keeps of what was written to a connection.
const MUCH: u64 = 32 << 20;

/// An installed program that asks for these addresses, and is granted all of them.
fn granted(addresses: &[&str]) -> Stage {
    let stage = stage("dialer", addresses);
    for address in addresses {
        stage.app("grant", &["probe", &format!("socket:{address}")]).ok();
    }
    stage
}

#[test]
fn a_program_for_wasi_talks_to_what_its_owner_grants() {
    if !can_mount() {
        return;
    }
    let ((listener, port), (other, other_port)) = (server(), server());
    let (address, name) = (format!("127.0.0.1:{port}"), format!("localhost:{port}"));
    let mut stage = stage("dialer", &[&address, &name]);
    let (connect, by_name) = (format!("connect 127.0.0.1 {port}"), format!("connect localhost {port}"));
    assert_eq!(stage.probe_does("nothing", &[&connect, &by_name]), ["access-denied", "access-denied"]);
    // The name leads to this machine: whoever answers for it could make it lead there (DNS rebinding).
    stage.app("grant", &["probe", &format!("socket:{name}")]).ok();
    assert_eq!(stage.probe_does("name", &[&by_name, &connect]), ["access-denied", "access-denied"]);
    stage.app("revoke", &["probe", &format!("socket:{name}")]).ok();
    stage.app("grant", &["probe", &format!("socket:{address}")]).ok();
    let elsewhere = [
        (by_name, "access-denied"),
        (format!("connect 127.0.0.1 {other_port}"), "access-denied"),
        (format!("connect 127.0.0.2 {port}"), "access-denied"),
        (format!("connect ::1 {port}"), "access-denied"),
        (format!("connect 127.1 {port}"), "invalid-argument"),
        (format!("connect ::ffff:127.0.0.1 {port}"), "invalid-argument"),
        ("connect 127.0.0.1 0".to_owned(), "invalid-argument"),
        (format!("connect {} {port}", "a".repeat(300)), "invalid-argument"),
        // Nobody connects to an app.
        ("listen".to_owned(), "Err(\"access-denied\") Err(\"access-denied\") Err(\"invalid-state\") false"),
        ("datagram".to_owned(), "not-supported"),
        ("folders".to_owned(), "0"),
    ];
    let (commands, expected): (Vec<&str>, Vec<&str>) =
        elsewhere.iter().map(|(command, outcome)| (command.as_str(), *outcome)).unzip();
    assert_eq!(stage.probe_does("elsewhere", &commands), expected);
    was_not_asked(&listener);
    was_not_asked(&other);

    let echo = echo(listener);
    let bytes = 5 << 20;
    assert_eq!(stage.probe_does("echo", &[&format!("echo 127.0.0.1 {port} {bytes}")]), ["ok true closed"]);
    assert_eq!(echo.join().expect("no panic"), bytes);
    assert_eq!(stage.probe_does("gone", &[&connect, "hang-up"]), ["connection-refused", "ok 0"]);
    stage.umount();
}

#[test]
fn a_revoked_grant_cuts_the_connection_of_a_program_for_wasi() {
    if !can_mount() {
        return;
    }
    let (listener, port) = server();
    let address = format!("127.0.0.1:{port}");
    let grant = format!("socket:{address}");
    let mut stage = granted(&[&address]);
    let connect = format!("connect 127.0.0.1 {port}");
    assert_eq!(stage.probe_does("one", &[&connect, "say hello"]), ["ok", "ok"]);
    let mut far = accept(&listener);
    far.read_exact(&mut [0; 5]).expect("it came");
    // What came before is not given out either.
    far.write_all(b"unread").expect("sent");
    stage.app("revoke", &["probe", &grant]).ok();
    assert!(matches!(far.read(&mut [0]), Ok(0) | Err(_)), "it has ended");
    let revoked = stage.probe_does("two", &["hear", "say more", &connect, "hang-up"]);
    assert_eq!(revoked, ["not granted", "not granted", "access-denied", "ok 1"]);
    was_not_asked(&listener);

    // While it waits for an answer, and while it has more to say than the other side takes.
    for waits in ["hear", "say-much"] {
        stage.app("grant", &["probe", &grant]).ok();
        let commands = format!("{connect}\nsay hello\n{waits}\nhang-up {waits}");
        fs::write(stage.path(&format!("box/{waits}.do")), commands).expect("written");
        let far = accept(&listener);
        far.peek(&mut [0]).expect("it came");
        if waits == "say-much" {
            wait_until("it has said much", || {
                let mut part = [0; 1 << 16];
                far.peek(&mut part).is_ok_and(|count| count == part.len())
            });
        }
        stage.app("revoke", &["probe", &grant]).ok();
        stage.wait_for_log("probe", &format!("hang-up {waits} -> ok 1"));
        let log = stage.logs("probe");
        let told = log.lines().rfind(|line| line.contains(&format!(": {waits} -> ")));
        assert!(told.is_some_and(|line| line.ends_with(" -> not granted")), "it is told why: {log}");
    }
    stage.umount();
}

#[test]
fn a_program_for_wasi_waits_for_several_and_is_told_which_is_ready() {
    if !can_mount() {
        return;
    }
    let ((one, one_port), (two, two_port)) = (server(), server());
    let addresses = [format!("127.0.0.1:{one_port}"), format!("127.0.0.1:{two_port}")];
    let mut stage = granted(&[&addresses[0], &addresses[1]]);
    let connects = [format!("connect 127.0.0.1 {one_port}"), format!("connect 127.0.0.1 {two_port}")];
    assert_eq!(stage.probe_does("both", &[&connects[0], &connects[1]]), ["ok", "ok"]);
    let (mut far_of_one, mut far_of_two) = (accept(&one), accept(&two));
    // The last place is the clock's.
    assert_eq!(stage.probe_does("nobody", &["who-speaks 50", "hear-at-once"]), ["[2] true", "ok "]);
    far_of_two.write_all(b"two").expect("sent");
    assert_eq!(stage.probe_does("second", &["who-speaks 60000", "hear"]), ["[1] true", "ok two"]);
    let waiting = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        far_of_one.write_all(b"one").expect("sent");
        far_of_one
    });
    assert_eq!(stage.probe_does("later", &["who-speaks 59999"]), ["[0] true"]);
    let _far_of_one = waiting.join().expect("no panic");
    drop(far_of_two);
    assert_eq!(stage.probe_does("end", &["who-speaks 59998", "hear"]), ["[0, 1] true", "closed"]);
    assert_eq!(stage.probe_does("clock", &["sleep 60", "hang-up"]), ["true", "ok 2"]);
    stage.umount();
}

#[test]
fn what_a_program_for_wasi_wrote_is_sent_though_it_does_not_wait_for_that() {
    if !can_mount() {
        return;
    }
    let (listener, port) = server();
    let mut stage = granted(&[&format!("127.0.0.1:{port}")]);
    for (says, open) in [("say-and-leave", "ok 1"), ("say-and-drop", "ok 0")] {
        let commands = format!("connect 127.0.0.1 {port}\n{says} {MUCH}");
        fs::write(stage.path(&format!("box/{says}.do")), commands).expect("written");
        let mut far = accept(&listener);
        let reading = std::thread::spawn(move || {
            // So that it says more than the kernel keeps.
            far.peek(&mut [0]).expect("it came");
            std::thread::sleep(Duration::from_millis(500));
            io::copy(&mut far, &mut io::sink()).expect("to its proper end")
        });
        let marked = format!("{says} {MUCH} -> ok ");
        stage.wait_for_log("probe", &marked);
        let log = stage.logs("probe");
        let left = log.split(&marked).nth(1).and_then(|rest| rest.lines().next()).expect("it is there");
        let left: u64 = left.parse().expect("a number");
        assert!(left > 0, "the kernel kept all of it");
        assert_eq!(stage.probe_does(&format!("{says}-end"), &[&format!("hang-up {says}")]), [open]);
        assert_eq!(reading.join().expect("no panic"), MUCH - left, "all that it wrote, and nothing else");
    }
    stage.umount();
}

/// What is left of a connection for somebody who reads nothing before the call of a program is over, which may take so long, and
/// which has more to say than is taken.
#[track_caller]
fn said_to_who_never_reads(says: &str, seconds: u32) -> io::Result<u64> {
    let (listener, port) = server();
    let address = format!("127.0.0.1:{port}");
    let mut stage = granted(&[&address]);
    let limited =
        project("probe", "1.1.0", &[&address]).replace("seconds = 60", &format!("seconds = {seconds}"));
    stage.install(&stage.package("dialer", &limited, "author"), &[]).ok();
    let commands = format!("connect 127.0.0.1 {port}\n{says}");
    fs::write(stage.path(&format!("box/{says}.do")), commands).expect("written");
    let mut far = accept(&listener);
    // It is written when the call is over.
    stage.wait_for_log("probe", &format!("{says} -> ok"));
    let outcome = io::copy(&mut far, &mut io::sink());
    stage.umount();
    outcome
}

#[test]
fn who_does_not_read_what_a_program_for_wasi_wrote_is_told_that_something_is_missing() {
    if !can_mount() {
        return;
    }
    // When the connection is dropped, and at the end of the call, whose time is over before the patience is.
    for (says, seconds) in [("fill-and-drop", 60), ("fill", 5)] {
        let outcome = said_to_who_never_reads(says, seconds).map_err(|error| error.kind());
        assert_eq!(outcome, Err(io::ErrorKind::ConnectionReset), "{says}");
    }
}

#[test]
fn a_client_has_its_answer_before_others_have_what_a_program_for_wasi_wrote() {
    if !can_mount() {
        return;
    }
    let (listener, port) = server();
    let address = format!("127.0.0.1:{port}");
    let mut stage = Stage::with(HTTP);
    fs::create_dir(stage.path("box")).expect("made");
    let asks = format!("{}{SERVE}", project("probe", "1.0.0", &[&address]));
    let grants = ["--grant", "box=/box", "--grant", "http", "--grant", &format!("socket:{address}")];
    stage.install(&stage.package("dialer", &asks, "author"), &grants).ok();
    let http = stage.address("probe");
    let does = |command: &str| {
        let (_, _, body) = ask(http, &format!("GET /probe/{command}"), "");
        let whole = body.strip_suffix("\r\n0\r\n\r\n").unwrap_or_else(|| panic!("it breaks off: {body:?}"));
        whole.split_once("\r\n").expect("one part, and its length").1.to_owned()
    };
    assert_eq!(does(&format!("connect/127.0.0.1/{port}")), "ok");
    let mut far = accept(&listener);
    let said = does("fill");
    // Only who has the answer lets the rest go out.
    let reading = std::thread::spawn(move || io::copy(&mut far, &mut io::sink()));
    assert_eq!(does("hang-up"), "ok 1");
    let heard = reading.join().expect("no panic").expect("to its proper end");
    assert_eq!(said, format!("ok {heard}"));
    stage.umount();
}

#[test]
fn a_program_for_wasi_does_not_take_a_broken_connection_for_its_end() {
    if !can_mount() {
        return;
    }
    let (listener, port) = server();
    let mut stage = granted(&[&format!("127.0.0.1:{port}")]);
    let connect = format!("connect 127.0.0.1 {port}");
    assert_eq!(stage.probe_does("begin", &[&connect, "say hello"]), ["ok", "ok"]);
    let far = accept(&listener);
    // What came and was not read makes it a cut.
    far.peek(&mut [0]).expect("it came");
    drop(far);
    let broken = "the connection has ended";
    let commands = ["say more", "hear", "hear-at-once", "hang-up"];
    assert_eq!(stage.probe_does("broken", &commands), [broken, broken, "closed", "ok 1"]);
    stage.umount();
}

#[test]
fn a_program_for_wasi_waits_no_longer_than_it_has_time() {
    if !can_mount() {
        return;
    }
    let ((listener, port), (_other, other_port)) = (server(), server());
    let (address, other) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{other_port}"));
    let mut stage = granted(&[&address, &other]);
    let connect = format!("connect 127.0.0.1 {port}");
    // Nobody accepts these, but the kernel does.
    assert_eq!(stage.probe_does("begun", &["has-waited"]), ["true"]);
    let knock = format!("knock 127.0.0.1 {other_port} 60000");
    assert_eq!(stage.probe_does("knock", &[&knock]), ["not-in-progress [1] ok"]);
    let hoard = format!("hoard 127.0.0.1 {other_port}");
    assert_eq!(stage.probe_does("many", &[&hoard]), ["new-socket-limit after 16"]);
    assert_eq!(stage.probe_does("sockets", &["hoard-sockets"]), ["new-socket-limit out-of-memory 16"]);
    let again = format!("connect 127.0.0.1 {other_port}");
    assert_eq!(stage.probe_does("again", &[&again, "hang-up"]), ["ok", "ok 1"]);

    let waits = stage.path("box/waits.do");
    fs::write(&waits, format!("{connect}\nwho-speaks 60000")).expect("written");
    let _far = accept(&listener);
    let begun = Instant::now();
    stage.app("disable", &["probe"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(8), "the end took {:?}", begun.elapsed());
    // It comes again, since it was not handled.
    let hasty = project("probe", "1.1.0", &[&address, &other]).replace("seconds = 60", "seconds = 1");
    stage.install(&stage.package("dialer", &hasty, "author"), &[]).ok();
    stage.app("enable", &["probe"]).ok();
    stage.wait_for_log("probe", "given up: written box/waits.do: it took too long");
    assert!(begun.elapsed() < Duration::from_secs(55), "it was stopped");
    stage.umount();
}

#[test]
fn a_program_that_imports_sockets_asks_for_addresses() {
    let stage = Stage { mount: None, place: Place::empty() };
    stage.make_author("author");
    let folder = stage.place.path("dialer-source");
    fs::create_dir(&folder).expect("made");
    let code = stage.component("dialer", &project("probe", "1.0.0", &["nas:22"]));
    fs::write(folder.join("app.wasm"), code).expect("written");
    fs::write(folder.join("app.toml"), project("probe", "1.0.0", &[])).expect("written");
    finish(program().args(["app", "pack"]).arg(&folder)).failed(1, &["wasi:sockets/", "asks for no sockets"]);
}

#[test]
fn what_else_wasi_has_is_not_there() {
    if !can_mount() {
        return;
    }
    let mut stage = stage("dialer", &["nas:22"]);
    let project = project("probe", "2.0.0", &["nas:22"]);
    let mut code = stage.component("probe", &project);
    replace(&mut code, b"blocktree:app/sockets@0.1.0", b"wasi:clocks/timezone@0.2.12");
    let package = stage.package_of(&code, "probe", &project, "author");
    stage.install(&package, &[]).ok();
    fs::write(stage.path("box/one.do"), "random").expect("written");
    stage.wait_for_log("probe", "it does not start: ");
    let log = stage.logs("probe");
    assert!(log.contains("wasi:clocks/timezone@0.2.12"), "it says why: {log}");
    stage.umount();
}
