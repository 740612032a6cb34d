//! Against a node that says what a test wants.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::super::network::tests::four;
use super::*;
use crate::guest::node::tests::answering;

/// An instance that may wait for so long, and what it asks the node, which answers this.
fn stage(time: Duration, answer: Result<Reply, Error>) -> (Host, Receiver<Request>) {
    let (tell, told) = channel();
    let node = answering(move |request| {
        tell.send(request).expect("somebody listens");
        answer.clone()
    });
    (Host::new(node, 0, Instant::now() + time), told)
}

/// As many as there can be, and why there are no more.
fn hoard<T>(mut make: impl FnMut() -> Asked<T>) -> (Vec<T>, Code) {
    let mut made = Vec::new();
    loop {
        match make().expect("no trap") {
            Ok(one) => made.push(one),
            Err(code) => return (made, code),
        }
    }
}

#[test]
fn a_look_up_waits_no_longer_than_the_app_has_time() {
    let (mut host, told) = stage(Duration::from_secs(3), Err(Error::TimedOut));
    let waited_for = |host: &mut Host| {
        assert_eq!(look_up(host, "nas.example".into()), Err(Error::TimedOut));
        match told.recv().expect("it was asked") {
            Request::LookUp { milliseconds, .. } => milliseconds,
            other => panic!("{other:?}"),
        }
    };
    assert!(waited_for(&mut host) <= 3000);
    host.end = Instant::now();
    assert_eq!(waited_for(&mut host), 0);
}

#[test]
fn who_has_no_room_for_a_connection_is_told_so() {
    for room in 0..2 {
        let (mut host, told) = stage(Duration::ZERO, Ok(Reply::Done));
        let socket = create_socket(&mut host.table, Family::Ipv4).expect("no trap").expect("a socket");
        host.table.get_mut(&socket).expect("there").state = State::Connecting(7, four([10, 0, 0, 1], 22));
        let mut others: Vec<_> = std::iter::from_fn(|| host.table.push(Pollable::Ready).ok()).collect();
        for other in others.drain(..room) {
            host.table.delete(other).expect("there");
        }
        assert_eq!(finish_connect(&mut host, &socket).expect("no trap").err(), Some(Code::OutOfMemory));
        assert_eq!(finish_connect(&mut host, &socket).expect("no trap").err(), Some(Code::NotInProgress));
        let asked = [Request::FinishConnect { handle: 7 }, Request::SocketClose { handle: 7 }];
        assert_eq!(told.try_iter().collect::<Vec<_>>(), asked, "the node keeps nothing");
        let rest = std::iter::from_fn(|| host.table.push(Pollable::Ready).ok());
        assert_eq!(rest.count(), room, "nothing is left of the streams");
    }
}

#[test]
fn whatever_else_there_is_each_socket_has_room_for_what_waits_for_it() {
    let (mut host, _told) = stage(Duration::ZERO, Ok(Reply::Done));
    let (sockets, code) = hoard(|| create_socket(&mut host.table, Family::Ipv4));
    assert_eq!((sockets.len(), code), (CONNECTIONS_MAX, Code::NewSocketLimit));
    let (names, code) = hoard(|| resolve(&mut host, "10.0.0.1".into()));
    assert!(!names.is_empty());
    assert_eq!(code, Code::OutOfMemory);
    let table = &mut host.table;
    for socket in &sockets {
        let (input, output) = streams(table, socket).expect("no trap").expect("there is room");
        table.push_child(Pollable::Socket(socket.rep()), socket).expect("there is room");
        table.push_child(Pollable::Input(socket.rep()), &input).expect("there is room");
        table.push_child(Pollable::Output(socket.rep()), &output).expect("there is room");
    }
    // Who made others first has no socket that there is no room for.
    let (mut host, _told) = stage(Duration::ZERO, Ok(Reply::Done));
    hoard(|| resolve(&mut host, "10.0.0.1".into()));
    let made = create_socket(&mut host.table, Family::Ipv4).expect("no trap");
    assert_eq!(made.err(), Some(Code::NewSocketLimit));
}
