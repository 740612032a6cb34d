//! Apps and HTTP: who reaches them, whom they reach, and what becomes of those who misbehave.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use crate::stage::{PROBE, Stage};
use crate::support::{can_mount, finish, program, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);
pub(crate) const HTTP: &[&str] = &["-o", "http=127.0.0.1:0"];

/// The probe, asking for more than a folder.
fn probe(stage: &Stage, more: &str) -> PathBuf {
    let project = PROBE.replace("VERSION", "1.0.0").replace("RIGHTS", "rw");
    stage.package("probe", &format!("{project}{more}"), "author")
}

pub(crate) const SERVE: &str = "[serve]\nreason = \"to be asked\"\n";

/// A probe that may answer, and where.
fn serving() -> (Stage, SocketAddr) {
    let stage = Stage::with(HTTP);
    fs::create_dir(stage.path("box")).expect("made");
    let package = probe(&stage, SERVE);
    stage.install(&package, &["--grant", "box=/box", "--grant", "http"]).ok();
    let address = stage.address("probe");
    (stage, address)
}

/// What comes back for what is sent, until the connection ends.
pub(crate) fn exchange(address: SocketAddr, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    // It may be refused before all of it was sent.
    let _ = stream.write_all(sent);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Status, head and body.
pub(crate) fn ask(address: SocketAddr, request: &str, headers: &str) -> (u16, String, String) {
    let sent = format!("{request} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n");
    parts(&exchange(address, sent.as_bytes()))
}

fn parts(answer: &str) -> (u16, String, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no answer: {answer:?}"));
    (status, head.to_ascii_lowercase(), body.to_owned())
}

fn status(address: SocketAddr, request: &str) -> u16 {
    ask(address, request, "").0
}

#[test]
fn an_app_answers_if_its_owner_lets_it() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::with(HTTP);
    fs::create_dir(stage.path("box")).expect("made");
    let package = stage.probe("0.9.0", "rw");
    stage
        .install(&package, &["--grant", "box=/box", "--grant", "http"])
        .failed(1, &["does not ask to answer HTTP"]);
    stage.install(&package, &["--grant", "box=/box"]).ok();
    // A version that asks for it needs a word of the owner; and that it may ask does not mean that it may.
    let package = probe(&stage, SERVE);
    stage.install(&package, &[]).failed(1, &["wants more", "to answer HTTP requests: to be asked"]);
    stage.install(&package, &["--approve"]).ok();
    stage.app("grant", &["probe", "http"]).ok();
    let address = stage.address("probe");
    stage.app("revoke", &["probe", "http"]).ok();
    assert_eq!(status(address, "GET /probe/echo"), 404);
    stage.app("grant", &["probe", "http"]).ok();

    let (status_code, head, body) = ask(address, "GET /probe/echo?a=b%20c", "");
    assert_eq!((status_code, body.as_str()), (200, "0\r\n\r\n"));
    assert!(head.contains("x-method: get") && head.contains("x-query: a=b%20c"), "{head}");
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    assert!(ask(address, "GET /probe", "").1.contains("location: /probe/\r\n"));
    for nothing in ["GET /", "GET /other/echo", "GET //echo", "GET /../probe/echo", "GET /probe/nothing"] {
        assert_eq!(status(address, nothing), 404, "{nothing}");
    }
    fs::write(stage.path("box/a"), "1").expect("written");
    assert!(ask(address, "GET /probe/files", "").2.contains("\r\na\r\n"));
    assert!(ask(address, "GET /probe/twice", "").2.contains("exists"), "status and headers are said once");
    let (_, head, body) = ask(address, "GET /probe/split", "");
    assert!(body.contains("malformed") && !head.contains("x-b") && !head.contains("gzip"), "{head} {body}");
    let (_, head, body) = ask(address, "HEAD /probe/files", "");
    assert!(head.contains("200 ok") && body.is_empty());
    // A body of more than is waited for before the app is called.
    let sent: Vec<u8> = (0..3_000_000).map(|at| b'a' + (at % 23) as u8).collect();
    let head =
        format!("POST /probe/echo HTTP/1.0\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n", sent.len());
    let (status_code, _, body) = parts(&exchange(address, &[head.as_bytes(), &sent].concat()));
    assert!(status_code == 200 && body.as_bytes() == sent);

    let shown = stage.app("show", &["probe"]).ok().stdout;
    assert!(shown.contains(&format!("to answer HTTP requests (http://{address}/probe/)")), "{shown}");
    stage.app("disable", &["probe"]).ok();
    assert_eq!(status(address, "GET /probe/echo"), 404);
    stage.umount();
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn pages_of_others_do_not_reach_an_app() {
    if !can_mount() {
        return;
    }
    let (mut stage, address) = serving();
    let port = address.port();
    let asked = |host: &str, more: &str| {
        let sent = format!("GET /probe/echo HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{more}\r\n");
        parts(&exchange(address, sent.as_bytes())).0
    };
    assert_eq!(asked(&format!("localhost:{port}"), ""), 200);
    // A name of somebody else's that leads to this machine.
    for host in [
        "evil.example",
        &format!("evil.example:{port}"),
        &format!("localhost.evil.example:{port}"),
        "localhost",
    ] {
        assert_eq!(asked(host, ""), 421, "{host}");
    }
    let own = address.to_string();
    assert_eq!(asked(&own, "origin: http://evil.example\r\n"), 403);
    assert_eq!(asked(&own, "sec-fetch-site: cross-site\r\nsec-fetch-mode: no-cors\r\n"), 403);
    assert_eq!(asked(&own, &format!("origin: http://{own}\r\n")), 200);
    stage.umount();
}

#[test]
fn clients_that_dawdle_and_apps_that_fail_hold_up_nobody() {
    if !can_mount() {
        return;
    }
    let (mut stage, address) = serving();
    // Heads that never end (slow loris), more than there are connections; bodies that never come.
    let mut idle = Vec::new();
    for number in 0..200 {
        let Ok(mut stream) = TcpStream::connect(address) else { break };
        let head = if number % 2 == 0 {
            "GET /probe/echo HTTP/1.1\r\nx-slow: ".to_owned()
        } else {
            format!("POST /probe/echo HTTP/1.1\r\nhost: {address}\r\ncontent-length: 1000\r\n\r\nx")
        };
        stream.write_all(head.as_bytes()).expect("sent");
        idle.push(stream);
    }
    assert_eq!(status(address, "GET /probe/echo"), 200);
    drop(idle);
    // Heads and bodies that are too long.
    assert_eq!(ask(address, "GET /probe/echo", &format!("x-long: {}\r\n", "x".repeat(100_000))).0, 431);
    assert_eq!(ask(address, "GET /probe/echo", &"x-many: 1\r\n".repeat(1000)).0, 431);
    assert_eq!(ask(address, "POST /probe/echo", "content-length: 99999999999\r\n").0, 413);
    for nonsense in [
        "\0\0\0\0",
        "GET\r\n\r\n",
        "GET /probe/echo HTTP/9.9\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n",
    ] {
        let answer = exchange(address, nonsense.as_bytes());
        assert!(!answer.contains(" 200 "), "{nonsense:?}: {answer}");
    }
    // A client that goes away in the middle of an endless answer.
    let mut stream = TcpStream::connect(address).expect("connected");
    write!(stream, "GET /probe/endless HTTP/1.1\r\nhost: {address}\r\n\r\n").expect("sent");
    stream.read_exact(&mut [0; 1000]).expect("it has begun");
    drop(stream);
    // Apps that fail, before and in the middle of an answer.
    for failing in ["silent", "fail", "panic", "loop"] {
        assert_eq!(status(address, &format!("GET /probe/{failing}")), 500, "{failing}");
    }
    let answer = exchange(address, format!("GET /probe/half HTTP/1.1\r\nhost: {address}\r\n\r\n").as_bytes());
    assert!(answer.contains("half") && !answer.ends_with("0\r\n\r\n"), "it breaks off: {answer:?}");
    assert_eq!(status(address, "GET /probe/echo"), 200);
    stage.wait_for_log("probe", "error: GET /half: as I was told");
    // Others do not notice.
    fs::write(stage.path("other"), "x").expect("written");
    assert_eq!(stage.probe_does("after", &["random"]), ["true"]);
    stage.umount();
}

/// Answers each connection with the same, and tells what was asked.
fn other_host(answer: &'static str) -> (u16, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut asked = vec![0; 10_000];
            let count = stream.read(&mut asked).expect("read");
            let _ = stream.write_all(answer.as_bytes());
            let _ = tell.send(String::from_utf8_lossy(&asked[..count]).into_owned());
        }
    });
    (port, told)
}

#[test]
fn an_app_reaches_the_hosts_that_its_owner_allows() {
    if !can_mount() {
        return;
    }
    let (port, asked) =
        other_host("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 2\r\n\r\nhi");
    let mut stage = Stage::new();
    fs::create_dir(stage.path("box")).expect("made");
    let hosts = format!(
        "[[connect]]\nhost = \"localhost:{port}\"\nreason = \"to ask\"\n[[connect]]\nhost = \"127.0.0.1\"\nreason = \"to ask\"\n"
    );
    let package = probe(&stage, &hosts);
    let outsider = ["--grant", "box=/box", "--grant", "host:example.org"];
    stage.install(&package, &outsider).failed(1, &["does not ask to send requests to example.org"]);
    stage.install(&package, &["--grant", "box=/box"]).ok();
    let own = |number: u32| format!("fetch GET http://localhost:{port}/a?{number}");
    assert_eq!(stage.probe_does("nothing", &[&own(1)]), ["not-granted"]);
    // The name leads to this machine: whoever has it, or answers for it, could make it lead there (DNS rebinding).
    stage.app("grant", &["probe", &format!("host:localhost:{port}")]).ok();
    assert_eq!(stage.probe_does("name", &[&own(2)]), ["private-address"]);
    assert!(asked.try_recv().is_err(), "nobody was asked");
    stage.app("grant", &["probe", &format!("private-host:localhost:{port}")]).ok();
    // It is told of the redirection, and not taken there.
    assert_eq!(stage.probe_does("private", &[&own(3)]), ["302 hi"]);
    let request = asked.recv_timeout(PATIENCE).expect("asked").to_ascii_lowercase();
    assert!(request.starts_with("get /a?3 http/1.1\r\n") && request.contains("x-probe: 1\r\n"), "{request}");
    assert!(
        request.contains(&format!("host: localhost:{port}\r\n")) && !request.contains("other"),
        "{request}"
    );
    let posted = format!("fetch POST http://LOCALHOST:{port}");
    let elsewhere = [
        posted.as_str(),
        "fetch GET http://localhost/",
        "fetch GET http://127.0.0.1:1/",
        "fetch GET http://example.org/",
        "fetch GET file:///etc/passwd",
        "fetch GET /",
        "fetch CONNECT http://localhost",
        "fetch GET http://user@localhost/",
    ];
    let outcomes = stage.probe_does("elsewhere", &elsewhere);
    let expected = [
        "302 hi",
        "not-granted",
        "not-granted",
        "not-granted",
        "malformed",
        "malformed",
        "not-granted",
        "malformed",
    ];
    assert_eq!(outcomes, expected);
    let request = asked.recv_timeout(PATIENCE).expect("asked");
    assert!(request.ends_with("posted"), "{request}");
    stage.app("revoke", &["probe", &format!("host:localhost:{port}")]).ok();
    assert_eq!(stage.probe_does("revoked", &[&own(4)]), ["not-granted"]);
    stage.umount();
}

#[test]
fn a_port_that_somebody_else_has_is_a_reason_not_to_mount() {
    if !can_mount() {
        return;
    }
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let address = taken.local_addr().expect("an address");
    let place = crate::support::Place::with_store();
    let option = format!("http={address}");
    let mut command = program();
    command.args(["mount", "-o", &option]).args(place.passphrase_arguments());
    command.arg(place.store()).arg(place.mountpoint());
    finish(&mut command).failed(1, &["cannot answer HTTP requests at", "in use"]);
    wait_until("it is not mounted", || !crate::support::is_mounted(&place.mountpoint()));
}
