//! With servers in this process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use super::super::dial::tests::Deaf;
use super::*;

/// Far more than anything here takes.
const FAR_MS: u32 = u32::MAX;
/// As much as may be read at once.
const LENGTH: u32 = u32::MAX;

fn local(port: u16) -> Endpoint {
    Endpoint::new("127.0.0.1", port).expect("an endpoint")
}

fn powers(granted: &[&Endpoint]) -> RwLock<Powers> {
    RwLock::new(Powers { sockets: granted.iter().copied().cloned().collect(), ..Powers::default() })
}

/// A server that nobody has asked yet, and what leads to it.
fn server() -> (TcpListener, Endpoint) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let port = listener.local_addr().expect("an address").port();
    (listener, local(port))
}

/// A connection to a server of this process, and the server's end of it.
fn connected(sockets: &Sockets) -> (Handle, TcpStream, Endpoint) {
    let (listener, address) = server();
    let handle =
        sockets.connect(&address, FAR_MS, &powers(&[&address]), &Stop::default()).expect("connected");
    (handle, listener.accept().expect("a connection").0, address)
}

/// Sends until there is no room any more; how much that was.
fn fill(sockets: &Sockets, handle: Handle) -> usize {
    let bytes = vec![b'x'; DATA_BYTES_MAX];
    let writes = std::iter::from_fn(|| sockets.write(handle, &bytes, 200, &Stop::default()).ok());
    writes.map(|count| count as usize).sum()
}

/// Whether the kernel still has this process's end of a connection.
fn is_known(near: SocketAddr, far: SocketAddr) -> bool {
    let shown = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
    let ends = format!(" {} {} ", shown(near), shown(far));
    std::fs::read_to_string("/proc/self/net/tcp").expect("readable").contains(&ends)
}

#[test]
fn bytes_go_both_ways_until_either_side_says_that_no_more_come() {
    let (sockets, stop) = (Sockets::default(), Stop::default());
    let (handle, mut far, _) = connected(&sockets);
    assert_eq!(sockets.write(handle, b"hello", FAR_MS, &stop), Ok(5));
    sockets.shut_down(handle).expect("said");
    let mut heard = String::new();
    far.read_to_string(&mut heard).expect("read");
    assert_eq!(heard, "hello");
    assert_eq!(sockets.write(handle, b"more", FAR_MS, &stop), Err(Error::Closed));
    far.write_all(b"bye").expect("sent");
    assert_eq!(sockets.read(handle, LENGTH, FAR_MS, &stop).as_deref(), Ok(&b"bye"[..]));
    drop(far);
    assert_eq!(sockets.read(handle, LENGTH, FAR_MS, &stop).as_deref(), Ok(&[][..]));
    assert_eq!(sockets.close(handle), Ok(()));
    assert_eq!(sockets.read(handle, LENGTH, FAR_MS, &stop), Err(Error::NotFound));
}

#[test]
fn a_connection_is_open_until_either_side_has_ended_it() {
    let (sockets, stop) = (Sockets::default(), Stop::default());
    assert!(!sockets.has_open());
    let (closed, _far, _) = connected(&sockets);
    assert!(sockets.has_open());
    assert_eq!(sockets.close(closed), Ok(()));
    assert!(!sockets.has_open());
    let (ended, mut far, _) = connected(&sockets);
    far.write_all(b"bye").expect("sent");
    drop(far);
    assert!(sockets.has_open(), "something was not read yet");
    assert_eq!(sockets.read(ended, LENGTH, FAR_MS, &stop).as_deref(), Ok(&b"bye"[..]));
    assert_eq!(sockets.read(ended, LENGTH, FAR_MS, &stop).as_deref(), Ok(&[][..]));
    assert!(!sockets.has_open());
    let (broken, far, _) = connected(&sockets);
    assert_eq!(sockets.write(broken, b"x", FAR_MS, &stop), Ok(1));
    // What came and was not read makes it a cut.
    far.peek(&mut [0]).expect("it came");
    drop(far);
    assert_eq!(sockets.read(broken, LENGTH, FAR_MS, &stop), Err(Error::Closed));
    assert!(!sockets.has_open());
}

#[test]
fn what_was_written_is_sent_although_the_connection_is_closed() {
    let sockets = Sockets::default();
    let (handle, mut far, _) = connected(&sockets);
    far.write_all(&[b'x'; 3 * UNREAD_BYTES]).expect("sent");
    // All of it came, and nobody reads it.
    let near = sockets.stream(handle).expect("open");
    while !near.peek(&mut [0; 3 * UNREAD_BYTES]).is_ok_and(|count| count == 3 * UNREAD_BYTES) {
        std::thread::yield_now();
    }
    drop(near);
    let sent = fill(&sockets, handle);
    assert_eq!(sockets.close(handle), Ok(()));
    assert_eq!(far.read_to_end(&mut Vec::new()).expect("to its proper end"), sent);
}

#[test]
fn what_nobody_takes_is_given_up_a_while_after_the_connection_was_closed() {
    let sockets = Sockets { linger: Duration::from_millis(50), ..Sockets::default() };
    let (handle, mut far, _) = connected(&sockets);
    let ends = (far.peer_addr().expect("an address"), far.local_addr().expect("an address"));
    let sent = fill(&sockets, handle);
    assert_eq!(sockets.close(handle), Ok(()));
    let begun = Instant::now();
    while is_known(ends.0, ends.1) {
        assert!(begun.elapsed() < CONNECTION_PATIENCE / 2, "the kernel goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut bytes = Vec::new();
    assert!(far.read_to_end(&mut bytes).is_err(), "it has no proper end");
    assert!(bytes.len() < sent);
}

#[test]
fn a_connection_of_which_something_is_missing_has_no_proper_end() {
    let sockets = Sockets::default();
    let (handle, mut far, _) = connected(&sockets);
    assert_eq!(sockets.write(handle, b"begun", FAR_MS, &Stop::default()), Ok(5));
    far.peek(&mut [0]).expect("it came");
    assert_eq!(sockets.reset(handle), Ok(()));
    let ended = far.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
    assert_eq!(ended, Err(io::ErrorKind::ConnectionReset));
    assert_eq!(sockets.close(handle), Err(Error::NotFound));
}

#[test]
fn what_is_not_granted_is_not_asked() {
    let (sockets, stop) = (Sockets::default(), Stop::default());
    let (listener, address) = server();
    listener.set_nonblocking(true).expect("set");
    let name = Endpoint::new("localhost", address.port()).expect("an endpoint");
    let mapped = Endpoint::new("::ffff:127.0.0.1", address.port()).expect("an endpoint");
    let others =
        [local(1), Endpoint::new("127.0.0.2", address.port()).expect("an endpoint"), name.clone(), mapped];
    for other in &others {
        assert_eq!(
            sockets.connect(&address, FAR_MS, &powers(&[other]), &stop),
            Err(Error::NotGranted),
            "{other}"
        );
        assert_eq!(
            sockets.connect(other, FAR_MS, &powers(&[&address]), &stop),
            Err(Error::NotGranted),
            "{other}"
        );
    }
    assert_eq!(sockets.connect(&address, FAR_MS, &powers(&[]), &stop), Err(Error::NotGranted));
    // A name may not lead to what its owner has for himself, whoever says where it leads.
    assert_eq!(sockets.connect(&name, FAR_MS, &powers(&[&name]), &stop), Err(Error::PrivateAddress));
    assert!(listener.accept().is_err(), "nobody was asked");
    assert!(!sockets.has_open());
    sockets.connect(&address, FAR_MS, &powers(&[&address]), &stop).expect("what is granted is");
}

#[test]
fn a_connection_ends_with_its_grant() {
    let (sockets, stop) = (Sockets::default(), Stop::default());
    let (handle, mut far, _) = connected(&sockets);
    let (kept, mut far_of_kept, address) = connected(&sockets);
    fill(&sockets, handle);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| sockets.read(handle, LENGTH, FAR_MS, &stop));
        std::thread::sleep(Duration::from_millis(50));
        sockets.cut(&powers(&[&address]).read());
        assert_eq!(reading.join().expect("no panic"), Err(Error::NotGranted), "who waits is told");
    });
    assert_eq!(sockets.write(handle, b"x", FAR_MS, &stop), Err(Error::NotGranted));
    assert_eq!(sockets.shut_down(handle), Err(Error::NotGranted));
    // What it had not sent by then is not sent afterwards: the connection has no proper end.
    assert!(far.read_to_end(&mut Vec::new()).is_err());
    assert_eq!(sockets.close(handle), Ok(()), "that it may always");
    assert_eq!(sockets.write(kept, b"x", FAR_MS, &stop), Ok(1), "the other is still granted");
    far_of_kept.read_exact(&mut [0]).expect("it comes");
}

#[test]
fn a_grant_that_goes_while_nobody_answers_leaves_no_connection() {
    let (sockets, stop, deaf) = (Sockets::default(), Stop::default(), Deaf::new());
    let address = local(deaf.port);
    let (powers, begun) = (powers(&[&address]), Instant::now());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| sockets.connect(&address, FAR_MS, &powers, &stop));
        std::thread::sleep(Duration::from_millis(50));
        powers.write().sockets.clear();
        assert_eq!(waiting.join().expect("no panic"), Err(Error::NotGranted));
    });
    assert!(begun.elapsed() < CONNECT_TIME / 2 && !sockets.has_open());
}

#[test]
fn a_server_that_says_nothing_and_takes_nothing_is_not_waited_for_any_longer_than_was_said() {
    let (sockets, stop) = (Sockets::default(), Stop::default());
    let (handle, mut far, _) = connected(&sockets);
    assert_eq!(sockets.read(handle, LENGTH, 0, &stop), Err(Error::TimedOut));
    assert_eq!(sockets.read(handle, LENGTH, 20, &stop), Err(Error::TimedOut));
    fill(&sockets, handle);
    assert_eq!(sockets.write(handle, b"x", 20, &stop), Err(Error::TimedOut));
    // Nor when the app is to end.
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| sockets.read(handle, LENGTH, FAR_MS, &stop));
        let writing = scope.spawn(|| sockets.write(handle, b"x", FAR_MS, &stop));
        std::thread::sleep(Duration::from_millis(50));
        stop.store(true, Ordering::Release);
        assert_eq!(reading.join().expect("no panic"), Err(Error::TimedOut));
        assert_eq!(writing.join().expect("no panic"), Err(Error::TimedOut));
    });
    assert!(begun.elapsed() < CONNECTION_PATIENCE / 2);
    // The connection was not harmed by it.
    far.write_all(b"x").expect("sent");
    assert_eq!(sockets.read(handle, LENGTH, FAR_MS, &Stop::default()).as_deref(), Ok(&b"x"[..]));
}

#[test]
fn so_many_connections_are_open_at_once() {
    let (sockets, stop) = (Sockets::default(), Stop::default());
    let (listener, address) = server();
    let granted = powers(&[&address]);
    let connect = || sockets.connect(&address, FAR_MS, &granted, &stop);
    let handles: Vec<_> = (0..CONNECTIONS_MAX).map(|_| connect().expect("connected")).collect();
    assert_eq!(connect(), Err(Error::TooLarge));
    sockets.close(handles[3]).expect("closed");
    connect().expect("there is room for one");
    assert_eq!(connect(), Err(Error::TooLarge));
    // One whose grant has gone counts until the app has let go of it.
    sockets.cut(&Powers::default());
    assert_eq!(connect(), Err(Error::TooLarge));
    sockets.close_all();
    connect().expect("there is room again");
    drop(listener);
}

/// Begins a connection to a port of this machine, which is granted.
fn begun(sockets: &Sockets, port: u16) -> Handle {
    let address = local(port);
    sockets.start_connect((Ipv4Addr::LOCALHOST, port).into(), &powers(&[&address])).expect("begun")
}

#[test]
fn a_connection_opens_while_nobody_waits_for_it() {
    let (sockets, stop, deaf) = (Sockets::default(), Stop::default(), Deaf::new());
    let (listener, address) = server();
    let handle = begun(&sockets, address.port());
    assert_eq!(sockets.wait(&[(handle, Side::Output)], FAR_MS, &stop), Ok(vec![0]));
    assert_eq!(sockets.finish_connect(handle), Ok(true));
    assert_eq!(sockets.finish_connect(handle), Ok(true), "it stays open");
    let (mut far, _) = listener.accept().expect("a connection");
    far.write_all(b"hello").expect("sent");
    assert_eq!(sockets.read(handle, 2, FAR_MS, &stop).as_deref(), Ok(&b"he"[..]));
    assert_eq!(sockets.read(handle, LENGTH, FAR_MS, &stop).as_deref(), Ok(&b"llo"[..]));

    let waits = begun(&sockets, deaf.port);
    assert_eq!(sockets.finish_connect(waits), Ok(false));
    assert_eq!(sockets.wait(&[(waits, Side::Output)], 20, &stop), Ok(vec![]));
    assert_eq!(sockets.read(waits, LENGTH, 0, &stop), Err(Error::TimedOut));
    // It goes on for so long and no longer.
    sockets.table.lock().open.get_mut(&waits).expect("open").opening = Some(Instant::now());
    assert_eq!(sockets.wait(&[(waits, Side::Output)], FAR_MS, &stop), Ok(vec![0]));
    assert_eq!(sockets.finish_connect(waits), Err(Error::TimedOut));
    assert_eq!(sockets.close(waits), Ok(()));
    // Not even if it has opened, and nobody has asked for so long.
    sockets.close_all();
    let late = begun(&sockets, address.port());
    assert!(sockets.has_open());
    sockets.table.lock().open.get_mut(&late).expect("open").opening = Some(Instant::now());
    assert!(!sockets.has_open());
    assert_eq!(sockets.finish_connect(late), Err(Error::TimedOut));
    assert_eq!(sockets.write(late, b"x", FAR_MS, &stop), Err(Error::TimedOut));
    assert_eq!(sockets.close(late), Ok(()));

    let cut = begun(&sockets, deaf.port);
    sockets.cut(&Powers::default());
    assert_eq!(sockets.wait(&[(cut, Side::Output)], FAR_MS, &stop), Ok(vec![0]));
    assert_eq!(sockets.finish_connect(cut), Err(Error::NotGranted));

    drop(listener);
    let nobody_there = (Ipv4Addr::LOCALHOST, address.port()).into();
    let outcome = sockets.start_connect(nobody_there, &powers(&[&address])).and_then(|handle| {
        sockets.wait(&[(handle, Side::Output)], FAR_MS, &stop)?;
        sockets.finish_connect(handle)
    });
    assert_eq!(outcome, Err(Error::Rejected));
}

#[test]
fn an_address_is_reached_by_a_granted_name_only_where_that_led() {
    let (sockets, stop) = (Sockets::default(), Stop::default());
    let (listener, address) = server();
    listener.set_nonblocking(true).expect("set");
    let name = |port| Endpoint::new("nas.example", port).expect("an endpoint");
    let granted = powers(&[&name(address.port())]);
    let start = |ip: [u8; 4], port| sockets.start_connect((ip, port).into(), &granted);
    let (here, there) = ([127, 0, 0, 1], [127, 0, 0, 2]);
    assert_eq!(start(here, address.port()), Err(Error::NotGranted), "nobody has looked the name up");
    let leads_to = |ip: [u8; 4]| {
        sockets.table.lock().names.insert("nas.example".into(), vec![ip.into()]);
    };
    leads_to(there);
    assert_eq!(start(here, address.port()), Err(Error::NotGranted));
    leads_to(here);
    assert_eq!(start(here, 1), Err(Error::NotGranted));
    assert_eq!(start(there, address.port()), Err(Error::NotGranted));
    let mapped = ("::ffff:127.0.0.1".parse::<IpAddr>().expect("an address"), address.port()).into();
    assert_eq!(sockets.start_connect(mapped, &granted), Err(Error::NotGranted));
    assert!(listener.accept().is_err(), "nobody was asked");
    let handle = start(here, address.port()).expect("begun");
    // What is granted is the name: the connection goes with it, and so does the knowledge of where it led.
    sockets.cut(&Powers::default());
    assert_eq!(sockets.finish_connect(handle), Err(Error::NotGranted));
    assert_eq!(start(here, address.port()), Err(Error::NotGranted));
    leads_to(here);
    sockets.close_all();
    assert_eq!(start(here, address.port()), Err(Error::NotGranted), "another instance has not asked");

    let localhost = powers(&[&Endpoint::new("localhost", 1).expect("an endpoint"), &local(2)]);
    for other in ["example.org", "nas.example", "127.0.0.1"] {
        assert_eq!(sockets.look_up(other, FAR_MS, &localhost, &stop), Err(Error::NotGranted), "{other}");
    }
    assert_eq!(sockets.look_up("localhost", FAR_MS, &localhost, &stop), Err(Error::PrivateAddress));
    assert_eq!(sockets.look_up("localhost", 0, &localhost, &stop), Err(Error::TimedOut), "it has no time");
    assert!(sockets.table.lock().names.is_empty());
}

#[test]
fn a_connection_goes_with_the_last_grant_that_leads_there() {
    let sockets = Sockets::default();
    let (listener, address) = server();
    let name = |host| Endpoint::new(host, address.port()).expect("an endpoint");
    let (one, two) = (name("one.example"), name("two.example"));
    for host in [&one, &two] {
        sockets.table.lock().names.insert(host.host().to_owned(), vec![Ipv4Addr::LOCALHOST.into()]);
    }
    let remote = (Ipv4Addr::LOCALHOST, address.port()).into();
    let handle = sockets.start_connect(remote, &powers(&[&one, &two, &address])).expect("begun");
    let (far, _) = listener.accept().expect("a connection");
    for left in [&[&two, &address][..], &[&address], &[&one, &address], &[&address]] {
        sockets.cut(&powers(left).read());
        assert_eq!(sockets.finish_connect(handle), Ok(true), "{left:?}");
    }
    // Where this name led, nobody knows any more.
    sockets.cut(&powers(&[&one]).read());
    assert_eq!(sockets.finish_connect(handle), Err(Error::NotGranted));
    drop(far);
}

#[test]
fn whoever_waits_for_several_is_told_of_those_that_are_ready() {
    let (sockets, stop) = (Sockets::default(), Stop::default());
    let ((one, mut far_of_one, _), (two, far_of_two, address)) = (connected(&sockets), connected(&sockets));
    let inputs = [(one, Side::Input), (two, Side::Input)];
    let wait = |wanted: &[(Handle, Side)], milliseconds| sockets.wait(wanted, milliseconds, &stop);
    assert_eq!(wait(&inputs, 0), Ok(vec![]));
    assert_eq!(wait(&[(one, Side::Input), (one, Side::Output), (two, Side::Input)], FAR_MS), Ok(vec![1]));
    assert_eq!(wait(&[], 20), Ok(vec![]));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| wait(&inputs, FAR_MS));
        std::thread::sleep(Duration::from_millis(50));
        drop(far_of_two);
        assert_eq!(waiting.join().expect("no panic"), Ok(vec![1]), "its end is told as well");
    });
    far_of_one.write_all(b"x").expect("sent");
    while wait(&inputs, FAR_MS) != Ok(vec![0, 1]) {}
    // What is told can be done without waiting, and what cannot be done is not told.
    assert_eq!(sockets.read(one, LENGTH, 0, &stop).as_deref(), Ok(&b"x"[..]));
    assert_eq!(sockets.read(two, LENGTH, 0, &stop).as_deref(), Ok(&[][..]));
    fill(&sockets, one);
    assert_eq!(wait(&[(one, Side::Output)], 20), Ok(vec![]));

    assert_eq!(wait(&[(one, Side::Input), (two + 1, Side::Input)], FAR_MS), Err(Error::NotFound));
    let too_many = vec![(one, Side::Input); 2 * CONNECTIONS_MAX + 1];
    assert_eq!(wait(&too_many, FAR_MS), Err(Error::TooLarge));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| wait(&inputs[..1], FAR_MS));
        std::thread::sleep(Duration::from_millis(50));
        sockets.cut(&powers(&[&address]).read());
        assert_eq!(waiting.join().expect("no panic"), Ok(vec![0]), "and that it was cut");
    });
    assert_eq!(wait(&[(one, Side::Output)], FAR_MS), Ok(vec![0]));
    let begun = Instant::now();
    let (three, _far, _) = connected(&sockets);
    let wanted = [(three, Side::Input)];
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| sockets.wait(&wanted, FAR_MS, &stop));
        std::thread::sleep(Duration::from_millis(50));
        stop.store(true, Ordering::Release);
        assert_eq!(waiting.join().expect("no panic"), Ok(vec![]));
    });
    assert!(begun.elapsed() < CONNECTION_PATIENCE / 2);
}
