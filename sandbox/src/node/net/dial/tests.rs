//! To hosts in this process.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::net::{bind, getsockname, listen};

use super::*;

/// Far more than anything here takes.
const FAR: Duration = Duration::from_secs(600);

/// A host that answers nobody who wants to connect, since more wait for it already than it has room for.
pub(in crate::node::net) struct Deaf {
    pub(in crate::node::net) port: u16,
    _listener: OwnedFd,
    _waiting: Vec<TcpStream>,
}

impl Deaf {
    pub(in crate::node::net) fn new() -> Self {
        let listener = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let listener = listener.expect("a socket");
        bind(&listener, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("bound");
        listen(&listener, 0).expect("listening");
        let address = SocketAddr::try_from(getsockname(&listener).expect("a name")).expect("an address");
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            waiting.push(stream);
        }
        Self { port: address.port(), _listener: listener, _waiting: waiting }
    }
}

#[test]
fn only_addresses_that_were_looked_at_are_asked() {
    let address = |text: &str| -> SocketAddr { text.parse().expect("an address") };
    let (public, own, mapped) =
        (address("1.1.1.1:80"), address("10.0.0.1:80"), address("[::ffff:127.0.0.1]:80"));
    // One name with both: what somebody does who wants the second try to lead inside.
    assert_eq!(usable(&[own, public, mapped], false), Ok(vec![public]));
    assert_eq!(usable(&[own, mapped], false), Err(Error::PrivateAddress));
    assert_eq!(usable(&[own, public], true), Ok(vec![own, public]));
    assert_eq!(usable(&[], true), Err(Error::Unreachable));
}

#[test]
fn who_is_answered_is_connected_and_who_is_refused_is_told() {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let dialed = || dial("127.0.0.1", port, true, Instant::now() + FAR, &|| true);
    let stream = dialed().expect("connected");
    let (_, from) = listener.accept().expect("a connection");
    assert_eq!(stream.local_addr().expect("an address"), from);
    drop(listener);
    assert_eq!(dialed().expect_err("nobody is there"), Error::Unreachable);
}

#[test]
fn nobody_waits_for_a_connection_that_is_not_wanted_any_more() {
    let deaf = Deaf::new();
    let dialed = |end, is_wanted: &dyn Fn() -> bool| {
        dial("127.0.0.1", deaf.port, true, end, is_wanted).expect_err("nobody answers")
    };
    assert_eq!(dialed(Instant::now() + Duration::from_millis(50), &|| true), Error::TimedOut);
    let begun = Instant::now();
    let looks = AtomicU32::new(0);
    // Wanted when its name is looked up, and when connecting begins.
    let is_wanted = || looks.fetch_add(1, Ordering::Relaxed) < 3;
    assert_eq!(dialed(begun + FAR, &is_wanted), Error::TimedOut);
    assert!(looks.into_inner() > 3 && begun.elapsed() < FAR);
}

#[test]
fn a_name_server_that_keeps_silent_holds_up_nobody() {
    let address: SocketAddr = "1.1.1.1:80".parse().expect("an address");
    let asked = |silence: mpsc::Receiver<()>, end, is_wanted: &dyn Fn() -> bool| {
        let system = move |_: &str| {
            // Until nobody holds the other end.
            let _ = silence.recv();
            Ok(vec![address])
        };
        look_up("example.org", system, end, is_wanted)
    };
    let (held, silence) = mpsc::channel();
    let begun = Instant::now();
    assert_eq!(asked(silence, begun + Duration::from_millis(50), &|| true), Err(Error::TimedOut));
    let (also_held, silence) = mpsc::channel();
    let looks = AtomicU32::new(0);
    let is_wanted = || looks.fetch_add(1, Ordering::Relaxed) < 2;
    assert_eq!(asked(silence, begun + FAR, &is_wanted), Err(Error::TimedOut));
    // Both still wait for their answers; that is nothing to who asks now.
    let (_, silence) = mpsc::channel();
    assert_eq!(asked(silence, begun + FAR, &|| true), Ok(vec![address]));
    assert!(begun.elapsed() < FAR);
    drop((held, also_held));
}
