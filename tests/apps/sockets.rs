//! Apps and sockets: whom they reach, and that nobody waits for those who do not answer.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::stage::{PROBE, Stage};
use crate::support::{can_mount, wait_until};

pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The description of a probe that asks for these addresses, and has time to wait for them.
pub(crate) fn project(name: &str, version: &str, addresses: &[&str]) -> String {
    let project =
        PROBE.replace("VERSION", version).replace("RIGHTS", "rw").replace("\"probe\"", &format!("{name:?}"));
    let asks =
        addresses.iter().map(|address| format!("[[sockets]]\naddress = {address:?}\nreason = \"to talk\"\n"));
    project.replace("seconds = 1", "seconds = 60") + &asks.collect::<String>()
}

/// An installed guest, called `probe`, that asks for these addresses, and is granted none.
pub(crate) fn stage(guest: &str, addresses: &[&str]) -> Stage {
    let stage = Stage::new();
    fs::create_dir(stage.path("box")).expect("made");
    let package = stage.package(guest, &project("probe", "1.0.0", addresses), "author");
    stage.install(&package, &["--grant", "box=/box"]).ok();
    stage
}

/// A server that nobody has asked, and its port.
pub(crate) fn server() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

/// The next one who connects.
#[track_caller]
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).expect("set");
    let mut accepted = None;
    wait_until("somebody connects", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let stream = accepted.expect("a connection").0;
    stream.set_nonblocking(false).expect("set");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// Sends back what the next one who connects sends, and says how much that was.
pub(crate) fn echo(listener: TcpListener) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut stream = accept(&listener);
        let mut out = stream.try_clone().expect("cloned");
        std::io::copy(&mut stream, &mut out).expect("echoed")
    })
}

#[track_caller]
pub(crate) fn was_not_asked(listener: &TcpListener) {
    listener.set_nonblocking(true).expect("set");
    assert!(listener.accept().is_err(), "somebody has connected");
    listener.set_nonblocking(false).expect("set");
}

#[test]
fn an_app_talks_to_what_its_owner_grants() {
    if !can_mount() {
        return;
    }
    let ((listener, port), (other, other_port)) = (server(), server());
    let (address, name) = (format!("127.0.0.1:{port}"), format!("localhost:{port}"));
    let mut stage = stage("probe", &[&address, &name]);
    let show = || stage.app("show", &["probe"]).ok().stdout;
    let own = format!("{address} (this machine, or a network of your own)");
    assert!(show().contains(&format!("asks for         opening connections to {own}: to talk\n")));
    assert!(show().contains(&format!("asks for         opening connections to {name}: to talk\n")));
    let connect = format!("connect 127.0.0.1 {port}");
    assert_eq!(stage.probe_does("nothing", &[&connect]), ["not-granted"]);
    stage
        .app("grant", &["probe", &format!("socket:127.0.0.1:{other_port}")])
        .failed(1, &["does not ask to open"]);
    stage.app("grant", &["probe", "socket:127.0.0.1"]).failed(2, &["is no host and port"]);
    // The name leads to this machine: whoever answers for it could make it lead there (DNS rebinding).
    stage.app("grant", &["probe", &format!("socket:{name}")]).ok();
    let by_name = format!("connect localhost {port}");
    assert_eq!(stage.probe_does("name", &[&connect, &by_name]), ["not-granted", "private-address"]);
    was_not_asked(&listener);

    stage.app("revoke", &["probe", &format!("socket:{name}")]).ok();
    stage.app("grant", &["probe", &format!("socket:{address}")]).ok();
    assert!(show().contains(&format!("granted          to open connections to {own}\n")));
    let elsewhere = [
        by_name,
        format!("connect 127.0.0.1 {other_port}"),
        format!("connect 127.0.0.2 {port}"),
        format!("connect 127.1 {port}"),
        format!("connect ::ffff:127.0.0.1 {port}"),
        // It is no word for requests.
        format!("fetch GET http://127.0.0.1:{port}/"),
    ];
    let elsewhere: Vec<&str> = elsewhere.iter().map(String::as_str).collect();
    let expected = ["not-granted", "not-granted", "not-granted", "malformed", "not-granted", "not-granted"];
    assert_eq!(stage.probe_does("elsewhere", &elsewhere), expected);
    was_not_asked(&listener);
    was_not_asked(&other);

    let echo = echo(listener);
    let bytes = 5 << 20;
    assert_eq!(stage.probe_does("echo", &[&format!("echo 127.0.0.1 {port} {bytes}")]), ["ok true"]);
    assert_eq!(echo.join().expect("no panic"), bytes);
    assert_eq!(stage.probe_does("gone", &[&connect, "hang-up"]), ["unreachable", "ok false"]);

    // An update keeps what was granted, and does not get what it asks for beyond that.
    let more = stage.package("probe", &project("probe", "1.1.0", &[&address, "10.0.0.1:22"]), "author");
    stage.install(&more, &[]).failed(1, &["to open connections to 10.0.0.1:22"]);
    stage.install(&more, &["--approve"]).ok();
    assert_eq!(
        stage.probe_does("updated", &[&connect, "connect 10.0.0.1 22"]),
        ["unreachable", "not-granted"]
    );
    let less = stage.package("probe", &project("probe", "1.2.0", &[]), "author");
    stage.install(&less, &[]).ok();
    assert_eq!(stage.probe_does("less", &[&connect, "say x"]), ["not-granted", "none"]);
    stage.umount();
}

#[test]
fn a_revoked_grant_cuts_the_connection() {
    if !can_mount() {
        return;
    }
    let (listener, port) = server();
    let grant = format!("socket:127.0.0.1:{port}");
    let mut stage = stage("probe", &[&format!("127.0.0.1:{port}")]);
    stage.app("grant", &["probe", &grant]).ok();
    let connect = format!("connect 127.0.0.1 {port}");
    assert_eq!(stage.probe_does("one", &[&connect, "say hello"]), ["ok", "ok 5"]);
    let mut far = accept(&listener);
    far.read_exact(&mut [0; 5]).expect("it came");
    // It is still there for the next event.
    far.write_all(b"answer").expect("sent");
    assert_eq!(stage.probe_does("two", &["hear 10000", "hear 0"]), ["ok answer", "timed-out"]);

    // While the app does nothing.
    stage.app("revoke", &["probe", &grant]).ok();
    assert!(matches!(far.read(&mut [0]), Ok(0) | Err(_)), "it has ended");
    let revoked = stage.probe_does("revoked", &[&connect, "say more", "hear 1"]);
    assert_eq!(revoked, ["not-granted", "not-granted", "not-granted"]);
    was_not_asked(&listener);

    // While it waits, and has more to say than the other side takes.
    stage.app("grant", &["probe", &grant]).ok();
    fs::write(stage.path("box/three.do"), format!("{connect}\nsay-much 10000")).expect("written");
    let far = accept(&listener);
    wait_until("it has said much", || {
        let mut part = [0; 1 << 16];
        far.peek(&mut part).is_ok_and(|count| count == part.len())
    });
    stage.app("revoke", &["probe", &grant]).ok();
    stage.wait_for_log("probe", "say-much 10000 -> not-granted");
    stage.umount();
}

#[test]
fn a_server_that_keeps_silent_holds_up_neither_others_nor_the_end_of_its_app() {
    if !can_mount() {
        return;
    }
    let (listener, port) = server();
    let address = format!("127.0.0.1:{port}");
    let mut stage = stage("probe", &[&address]);
    fs::create_dir(stage.path("other")).expect("made");
    let other = stage.package("probe", &project("other", "1.0.0", &[&address]), "author");
    stage.install(&other, &["--grant", "box=/other"]).ok();
    stage.app("grant", &["probe", &format!("socket:{address}")]).ok();
    let connect = format!("connect 127.0.0.1 {port}");

    for waits in ["hear 10000", "say-much 10000"] {
        let (file, kind) = (stage.path(&format!("box/{waits}.do")), waits.split(' ').next().expect("a word"));
        fs::write(&file, [&connect, waits, waits, waits, waits].join("\n")).expect("written");
        let mut far = accept(&listener);
        // What was granted to one is nothing to the other, which is served meanwhile.
        let commands = format!("{connect}\nsay {kind}");
        fs::write(stage.path("other").join(format!("{kind}.do")), commands).expect("written");
        stage.wait_for_log("other", &format!("say {kind} -> none"));
        assert!(stage.logs("other").contains(&format!("{connect} -> not-granted")));
        let begun = Instant::now();
        stage.app("disable", &["probe"]).ok();
        assert!(begun.elapsed() < Duration::from_secs(8), "the end took {:?}", begun.elapsed());
        // Its connection ends with it, whatever was not taken yet.
        let _ = std::io::copy(&mut far, &mut std::io::sink());
        // It would come again, since it was not handled.
        fs::remove_file(file).expect("removed");
        stage.app("enable", &["probe"]).ok();
        let say = format!("say after-{kind}");
        assert_eq!(stage.probe_does(kind, &[&say]), ["none"], "no connection outlives its instance");
    }
    let mut outcomes = stage.probe_does("many", &[&format!("hoard-connections 127.0.0.1 {port}")]);
    assert_eq!(outcomes.pop().as_deref(), Some("too-large after 16"));
    assert_eq!(stage.probe_does("again", &[&connect, "hang-up"]), ["ok", "ok true"]);
    stage.umount();
}

#[test]
fn the_owner_is_asked_about_each_address_before_an_app_is_installed() {
    if !can_mount() {
        return;
    }
    let (own, public) = ("10.0.0.2:22", "example.org:443");
    let mut stage = Stage::new();
    fs::create_dir(stage.path("box")).expect("made");
    let granted = |stage: &Stage| {
        let shown = stage.app("show", &["probe"]).ok().stdout;
        let lines =
            shown.lines().filter_map(|line| line.strip_prefix("granted          to open connections to "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let package = stage.package("probe", &project("probe", "1.0.0", &[own, public]), "author");
    let of_its_owner = format!("{own} (this machine, or a network of your own)");
    // Who only hits return, or hangs up, has not said yes.
    let asked = stage.install_on_terminal(&package, &["--grant", "box=/box"], "\n").ok().stdout;
    for address in [&of_its_owner, public] {
        let question = format!("probe 1.0.0 asks to open connections to {address}: to talk\nMay it? ");
        assert!(asked.contains(&question), "{asked}");
    }
    assert_eq!(granted(&stage), [""; 0]);
    stage.install_on_terminal(&package, &[], "\nn\ny\n").ok();
    assert_eq!(granted(&stage), [public]);
    // What is said on the command line is not asked again; what was granted before stays until somebody says no.
    let said = format!("socket:{own}");
    let asked = stage.install_on_terminal(&package, &["--grant", &said], "\n\n").ok().stdout;
    assert!(asked.contains(public) && !asked.contains(own), "{asked}");
    assert_eq!(granted(&stage), [public, of_its_owner.as_str()]);
    stage.install_on_terminal(&package, &[], "\n\nno\n").ok();
    assert_eq!(granted(&stage), [of_its_owner.as_str()]);
    stage.umount();
}
