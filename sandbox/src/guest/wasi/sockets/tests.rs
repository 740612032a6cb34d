//! Against a node that says what a test wants.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

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
