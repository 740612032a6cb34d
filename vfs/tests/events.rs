//! Observers.

mod support;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use blocktree_engine::Seq;
use blocktree_vfs::events::EVENTS_MAX;
use blocktree_vfs::{
    Actor, Caller, Event, Intent, Mask, Observer, OpenFlags, RenameFlags, SetAttributes, SetTime, Verdict,
    WriteFlags,
};
use parking_lot::Mutex;
use support::*;

struct Recorder {
    mask: Mask,
    sender: Mutex<Sender<(Seq, Event)>>,
}

impl Observer for Recorder {
    fn mask(&self) -> Mask {
        self.mask
    }

    fn before_mask(&self) -> Mask {
        self.mask
    }

    fn before(&self, _: Actor, intent: &Intent<'_>) -> Verdict {
        match intent {
            Intent::Link { name: b"forbidden", .. } => Verdict::Refuse,
            _ => Verdict::Allow,
        }
    }

    fn after(&self, seq: Seq, event: &Event) {
        let _ = self.sender.lock().send((seq, event.clone()));
    }
}

fn recorder(mask: Mask) -> (Arc<Recorder>, Receiver<(Seq, Event)>) {
    let (sender, receiver) = channel();
    (Arc::new(Recorder { mask, sender: Mutex::new(sender) }), receiver)
}

fn next(receiver: &Receiver<(Seq, Event)>) -> (Seq, Event) {
    receiver.recv_timeout(Duration::from_secs(10)).unwrap()
}

#[test]
fn events_come_in_order_and_can_be_asked_for_again() {
    let fs = mount();
    fs.file(ROOT, "unseen");
    let (observer, receiver) = recorder(Mask::ALL);
    fs.observe(observer);
    let file = fs.file_with(ROOT, "f", b"bytes");
    fs.rename(ROOT, b"f", ROOT, b"g", RenameFlags::default()).unwrap();
    fs.chmod(file, 0o600);
    fs.unlink(ROOT, b"g").unwrap();
    let events: Vec<_> = (0..5).map(|_| next(&receiver)).collect();
    assert_eq!(events[0].1, Event::Linked { parent: ROOT, ino: file, is_new: true });
    assert!(matches!(&events[1].1, Event::Data { ino, range } if *ino == file && range.end == 5));
    assert!(matches!(&events[2].1, Event::Renamed { ino, replaced: None, .. } if *ino == file));
    assert_eq!(events[3].1, Event::Attributes { ino: file });
    assert_eq!(events[4].1, Event::Unlinked { parent: ROOT, ino: file });
    assert!(events.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let since: Vec<_> = fs
        .events_since(events[2].0, 100)
        .unwrap()
        .into_iter()
        .map(|entry| (entry.seq, entry.event))
        .collect();
    assert_eq!(since, events[3..]);
    assert_eq!(fs.events_since(Seq(0), 100).unwrap()[0].event, Event::Mounted);
}

#[test]
fn an_observer_hears_what_it_asked_for_and_may_refuse() {
    let fs = mount();
    let (observer, receiver) = recorder(Mask::UNLINK.union(Mask::LINK));
    fs.observe(observer);
    fails(fs.create(&USER, ROOT, b"forbidden", 0o600), libc::EACCES);
    let file = fs.file_with(ROOT, "f", b"bytes");
    fs.unlink(ROOT, b"f").unwrap();
    assert_eq!(next(&receiver).1, Event::Linked { parent: ROOT, ino: file, is_new: true });
    assert_eq!(next(&receiver).1, Event::Unlinked { parent: ROOT, ino: file });
}

#[test]
fn who_is_asked_hears_who_asks_and_what_permissions_there_will_be() {
    struct Asked(Mutex<Vec<(Actor, Option<u32>)>>);
    impl Observer for Asked {
        fn mask(&self) -> Mask {
            Mask::default()
        }
        fn before_mask(&self) -> Mask {
            Mask::LINK.union(Mask::ATTRIBUTES).union(Mask::MODIFY)
        }
        fn before(&self, actor: Actor, intent: &Intent<'_>) -> Verdict {
            let permissions = match intent {
                Intent::Link { permissions, .. } => Some(*permissions),
                Intent::Attributes { permissions, .. } => *permissions,
                _ => None,
            };
            self.0.lock().push((actor, permissions));
            Verdict::Allow
        }
        fn after(&self, _: Seq, _: &Event) {}
    }
    let fs = mount();
    let asked = Arc::new(Asked(Mutex::default()));
    fs.observe(asked.clone());
    let heard = || std::mem::take(&mut *asked.0.lock());
    let caller = Caller { umask: 0o027, ..USER };
    let file = fs.create(&caller, ROOT, b"f", 0o777).unwrap().ino;
    assert_eq!(heard(), [(Actor::Node, Some(0o750))], "behind the umask");
    fs.write(file, 0, b"x", WriteFlags::default()).unwrap();
    let times = SetAttributes { mtime: Some(SetTime::Now), ..SetAttributes::default() };
    fs.setattr(&USER, file, &times).unwrap();
    assert_eq!(heard(), [], "about single writes and times nobody is asked");
    let someone = Actor::Principal([1; 32]);
    let theirs = fs.acting_for(someone);
    theirs.link(file, ROOT, b"g").unwrap();
    let changes = SetAttributes { permissions: Some(0o700), ..SetAttributes::default() };
    theirs.setattr(&USER, file, &changes).unwrap();
    theirs.open(file, OpenFlags { write: true, truncate: true, ..OpenFlags::default() }).unwrap();
    let expected = [Some(0o750), Some(0o700), None, None];
    assert_eq!(heard(), expected.map(|permissions| (someone, permissions)));
    fs.unnoted().create(&USER, ROOT, b"own", 0o600).unwrap();
    assert_eq!(heard(), [], "what the node keeps for itself concerns nobody");
}

#[test]
fn events_of_many_threads_have_the_order_of_their_numbers() {
    let fs = mount();
    let (observer, receiver) = recorder(Mask::DATA);
    fs.observe(observer);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let file = fs.file(ROOT, &format!("f{number}"));
            let fs = &fs;
            scope.spawn(move || (0..500).for_each(|at| fs.put(file, at, b"x")));
        }
    });
    let events: Vec<_> = (0..2000).map(|_| next(&receiver).0).collect();
    assert!(events.windows(2).all(|pair| pair[0] < pair[1]));
}

#[test]
fn who_is_too_slow_is_told_the_rest_out_of_the_journal() {
    struct Slow(Mutex<Receiver<()>>, Mutex<Sender<(Seq, Event)>>);
    impl Observer for Slow {
        fn mask(&self) -> Mask {
            Mask::LINK.union(Mask::UNLINK)
        }
        fn after(&self, seq: Seq, event: &Event) {
            let _ = self.0.lock().recv();
            let _ = self.1.lock().send((seq, event.clone()));
        }
    }
    let (go, wait) = channel();
    let (sender, receiver) = channel();
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.observe(Arc::new(Slow(Mutex::new(wait), Mutex::new(sender))));
    let rounds = EVENTS_MAX / 2 + 100;
    for _ in 0..rounds {
        fs.link(file, ROOT, b"g").unwrap();
        fs.unlink(ROOT, b"g").unwrap();
    }
    drop(go);
    let events: Vec<_> = (0..2 * rounds).map(|_| next(&receiver)).collect();
    assert!(events.windows(2).all(|pair| pair[0].0 < pair[1].0));
    for pair in events.chunks(2) {
        assert_eq!(pair[0].1, Event::Linked { parent: ROOT, ino: file, is_new: false });
        assert_eq!(pair[1].1, Event::Unlinked { parent: ROOT, ino: file });
    }
}
