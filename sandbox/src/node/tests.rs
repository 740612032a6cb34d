//! The node's side without a sandbox: what requests may do, what the journal is turned into, what is kept.

use std::sync::Arc;

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::MemoryDevice;
use blocktree_engine::{CreateOptions, Store};
use blocktree_vfs::events::Actor;
use blocktree_vfs::{Caller, Fs, Ino, MountOptions, WriteFlags};
use parking_lot::RwLock;

use super::feed::Feed;
use super::files::{Files, Grants};
use super::folder::Folder;
use super::grants::Grant;
use super::locks::Locks;
use super::registry::{DeadLetter, Registry, State};
use crate::ipc::{Error, Event, Handle, How, Reply};
use crate::limits::{DEAD_LETTERS_MAX, HANDLES_MAX, LOG_BYTES_MAX, VALUE_BYTES_MAX};
use crate::package::{FORMAT, FileEvent, Limits, Manifest, Rights, Trigger, Version, Wanted};

const USER: Caller = Caller { uid: 1000, gid: 1000, pid: 1, umask: 0 };
const APP: [u8; 32] = [7; 32];

/// A filesystem in memory with a folder `/box`, which an app is granted.
pub(super) struct World {
    pub(super) fs: Arc<Fs>,
    pub(super) top: Ino,
    pub(super) grants: Grants,
}

impl World {
    pub(super) fn new(rights: Rights) -> Self {
        const CAPACITY_SECTORS: u64 = (64 << 20) / 4096;
        let device = Arc::new(MemoryDevice::new(CAPACITY_SECTORS));
        let options = CreateOptions { capacity_sectors: CAPACITY_SECTORS, kdf: KdfCost::TRIVIAL };
        let store = Store::create(device, b"passphrase", &options).unwrap();
        Fs::format(&store, 0, 0).unwrap();
        let fs = Arc::new(Fs::mount(store, MountOptions::default()).unwrap());
        let top = fs.mkdir(&USER, Fs::ROOT, b"box", 0o755).unwrap().ino;
        let grant = Grant { name: "box".into(), ino: top, path: "/box".into(), rights, expires: None };
        Self { fs, top, grants: Arc::new(RwLock::new(vec![grant])) }
    }

    pub(super) fn files(&self) -> Files {
        let acting = Arc::new(self.fs.acting_for(Actor::Principal(APP)));
        let folder = Folder::new(&self.fs, self.fs.make_system_directory().unwrap());
        let unfinished = folder.make_folder("unfinished").unwrap();
        Files::new(
            acting,
            Arc::new(()),
            Arc::clone(&self.grants),
            Arc::new(Locks::new(&self.fs)),
            Some(unfinished),
        )
    }

    pub(super) fn put(&self, parent: Ino, name: &str, bytes: &[u8]) -> Ino {
        let ino = self.fs.create(&USER, parent, name.as_bytes(), 0o644).unwrap().ino;
        self.fs.write(ino, 0, bytes, WriteFlags::default()).unwrap();
        self.fs.release(ino, None);
        ino
    }

    pub(super) fn dir(&self, parent: Ino, name: &str) -> Ino {
        self.fs.mkdir(&USER, parent, name.as_bytes(), 0o755).unwrap().ino
    }

    fn is_there(&self, parent: Ino, name: &str) -> bool {
        self.fs.lookup(parent, name.as_bytes()).is_ok()
    }
}

pub(super) fn open(files: &mut Files, path: &str, how: How) -> Result<Handle, Error> {
    match files.open("box".into(), path.into(), how)? {
        Reply::Handle(handle) => Ok(handle),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_revoked_ends_in_the_middle_of_a_file() {
    let world = World::new(Rights::ReadWrite);
    world.put(world.top, "a", b"hello");
    let mut files = world.files();
    let handle = open(&mut files, "a", How::Edit).unwrap();
    assert_eq!(files.read(handle, 1, 3).unwrap(), b"ell");
    files.write(handle, 0, b"J").unwrap();
    world.grants.write()[0].rights = Rights::Read;
    assert_eq!(files.write(handle, 0, b"x"), Err(Error::NotGranted));
    assert_eq!(files.read(handle, 0, 5).unwrap(), b"Jello");
    world.grants.write()[0].expires = Some(1);
    assert_eq!(files.read(handle, 0, 5), Err(Error::NotGranted));
    world.grants.write().clear();
    assert_eq!(files.stat_open(handle), Err(Error::NotGranted));
    assert_eq!(files.close(handle), Ok(Reply::Done), "that it may always");
    assert_eq!(files.read(handle, 0, 5), Err(Error::NotFound));
}

#[test]
fn a_grant_is_the_folder_and_not_its_name() {
    let world = World::new(Rights::ReadWrite);
    world.put(world.top, "a", b"1");
    world.fs.rename(Fs::ROOT, b"box", Fs::ROOT, b"moved", Default::default()).unwrap();
    let other = world.dir(Fs::ROOT, "box");
    world.put(other, "secret", b"2");
    let mut files = world.files();
    assert!(open(&mut files, "a", How::Read).is_ok());
    assert_eq!(open(&mut files, "secret", How::Read), Err(Error::NotFound));
}

#[test]
fn a_link_is_no_way_and_a_hard_link_is_a_file_of_its_folder() {
    let world = World::new(Rights::ReadWrite);
    let secret = world.put(Fs::ROOT, "secret", b"2");
    let outside = world.dir(Fs::ROOT, "outside");
    world.put(outside, "secret", b"2");
    world.fs.symlink(&USER, world.top, b"file", b"../secret").unwrap();
    world.fs.symlink(&USER, world.top, b"folder", b"../outside").unwrap();
    world.fs.link(secret, world.top, b"hard").unwrap();
    let mut files = world.files();
    assert_eq!(open(&mut files, "file", How::Read), Err(Error::NotAFile));
    assert_eq!(open(&mut files, "folder/secret", How::Read), Err(Error::NotADirectory));
    assert_eq!(open(&mut files, "folder/new", How::Create), Err(Error::NotADirectory));
    assert!(files.list("box", "folder", None).is_err());
    let handle = open(&mut files, "hard", How::Read).unwrap();
    assert_eq!(files.read(handle, 0, 9).unwrap(), b"2");
}

#[test]
fn a_new_file_is_there_whole_or_not_at_all() {
    let world = World::new(Rights::ReadWrite);
    let mut files = world.files();
    let handle = open(&mut files, "new", How::Create).unwrap();
    files.write(handle, 0, b"whole").unwrap();
    assert!(!world.is_there(world.top, "new"));
    files.finish(handle).unwrap();
    assert!(world.is_there(world.top, "new"));
    assert_eq!(files.finish(handle), Err(Error::Malformed), "once");
    let stat = world.fs.lookup(world.top, b"new").unwrap();
    assert_eq!((stat.uid, stat.gid, stat.permissions), (1000, 1000, 0o644), "it is the folder's owner's");
    files.close(handle).unwrap();

    let handle = open(&mut files, "half", How::Create).unwrap();
    files.write(handle, 0, b"half").unwrap();
    // The folder is taken away in between.
    world.grants.write()[0].rights = Rights::Read;
    assert_eq!(files.finish(handle), Err(Error::NotGranted));
    files.close_all();
    assert!(!world.is_there(world.top, "half"));
    let folder = Folder::new(&world.fs, world.fs.make_system_directory().unwrap());
    let unfinished = folder.folder("unfinished").unwrap().unwrap();
    assert_eq!(unfinished.list().unwrap(), [], "nothing is left of it");
}

#[test]
fn what_moves_away_meanwhile_is_not_followed() {
    let world = World::new(Rights::ReadWrite);
    let sub = world.dir(world.top, "sub");
    world.put(sub, "a", b"1");
    let outside = world.dir(Fs::ROOT, "outside");
    let mut files = world.files();
    let new = open(&mut files, "sub/new", How::Create).unwrap();
    files.write(new, 0, b"2").unwrap();
    world.fs.rename(world.top, b"sub", outside, b"sub", Default::default()).unwrap();
    assert_eq!(files.finish(new), Err(Error::NotFound));
    assert_eq!(open(&mut files, "sub/a", How::Read), Err(Error::NotFound));
    assert_eq!(files.rename("box", "sub/a", "a"), Err(Error::NotFound));
    // Something else takes its place: a link to where it went.
    world.fs.symlink(&USER, world.top, b"sub", b"../outside/sub").unwrap();
    assert_eq!(files.finish(new), Err(Error::NotADirectory));
    assert_eq!(files.remove("box", "sub/a"), Err(Error::NotADirectory));
    assert!(world.is_there(sub, "a") && !world.is_there(sub, "new"));
}

#[test]
fn the_values_of_another_app_are_out_of_reach() {
    let world = World::new(Rights::Read);
    let registry = Registry::new(&world.fs);
    let (mut one, mut other) =
        (registry.make("one").unwrap().keys().unwrap(), registry.make("other").unwrap().keys().unwrap());
    one.set("secret", b"1").unwrap();
    for key in ["secret", "../../one/keys/secret", "../../one/keys/736563726574", "/apps/one/keys/secret"] {
        assert_eq!(other.get(key).unwrap(), None, "{key}");
        other.set(key, b"2").unwrap();
        other.delete(key).unwrap();
    }
    assert_eq!(one.get("secret").unwrap().unwrap(), b"1");
    assert_eq!(other.list("", None).unwrap(), (Vec::new(), true));
    // Nor is there a way by files: what is kept is below no folder that can be granted.
    let mut files = world.files();
    for path in ["..", "/system", "../apps/one/keys"] {
        assert_eq!(open(&mut files, path, How::Read), Err(Error::Malformed), "{path}");
    }
}

#[test]
fn so_many_files_are_open_at_once() {
    let world = World::new(Rights::Read);
    world.put(world.top, "a", b"1");
    let mut files = world.files();
    for _ in 0..HANDLES_MAX {
        open(&mut files, "a", How::Read).unwrap();
    }
    assert_eq!(open(&mut files, "a", How::Read), Err(Error::TooLarge));
    files.close_all();
    assert!(open(&mut files, "a", How::Read).is_ok());
    assert_eq!(open(&mut files, "a", How::Edit), Err(Error::NotGranted));
    assert_eq!(open(&mut files, "b", How::Create), Err(Error::NotGranted));
    assert_eq!(files.remove("box", "a"), Err(Error::NotGranted));
    assert_eq!(files.make_directory("box", "d"), Err(Error::NotGranted));
    assert_eq!(files.rename("box", "a", "b"), Err(Error::NotGranted));
}

pub(super) fn manifest() -> Manifest {
    Manifest {
        format: FORMAT,
        name: "probe".into(),
        version: Version([1, 0, 0]),
        summary: "A probe.".into(),
        author: String::new(),
        component: "app.wasm".into(),
        grants: vec![Wanted { name: "box".into(), reason: "to look".into(), rights: Rights::Read }],
        triggers: vec![Trigger::Files {
            grant: "box".into(),
            glob: "**/*.txt".into(),
            events: vec![FileEvent::Written, FileEvent::Renamed, FileEvent::Deleted],
        }],
        limits: Limits::default(),
        serve: None,
        policy: None,
        receive: None,
        send: Vec::new(),
        connect: Vec::new(),
        sockets: Vec::new(),
        files: Vec::new(),
    }
}

fn written(path: &str) -> Event {
    Event::Written { grant: "box".into(), path: path.into() }
}

fn deleted(path: &str) -> Event {
    Event::Deleted { grant: "box".into(), path: path.into() }
}

fn renamed(old_path: Option<&str>, path: &str) -> Event {
    Event::Renamed { grant: "box".into(), old_path: old_path.map(str::to_owned), path: path.into() }
}

#[test]
fn the_journal_becomes_what_triggers_ask_for() {
    let world = World::new(Rights::ReadWrite);
    let start = world.fs.store().newest();
    let sub = world.dir(world.top, "sub");
    world.put(sub, "a.txt", b"1");
    world.put(world.top, "a.png", b"1");
    world.put(Fs::ROOT, "b.txt", b"1");
    world.fs.rename(sub, b"a.txt", world.top, b"c.txt", Default::default()).unwrap();
    world.fs.rename(Fs::ROOT, b"b.txt", sub, b"b.txt", Default::default()).unwrap();
    world.fs.rename(world.top, b"c.txt", Fs::ROOT, b"c.txt", Default::default()).unwrap();
    world.fs.unlink(sub, b"b.txt").unwrap();
    // A directory that is gone by the time that the journal is read.
    let gone = world.dir(sub, "gone");
    world.put(gone, "d.txt", b"1");
    world.fs.unlink(gone, b"d.txt").unwrap();
    world.fs.rmdir(sub, b"gone").unwrap();
    // What the app does itself.
    let mut files = world.files();
    let handle = open(&mut files, "own.txt", How::Create).unwrap();
    files.write(handle, 0, b"1").unwrap();
    files.finish(handle).unwrap();
    files.close(handle).unwrap();
    files.remove("box", "own.txt").unwrap();

    let mut feed = Feed::new(&world.fs, APP, &manifest());
    let grants = world.grants.read().clone();
    let (mut events, mut after) = (Vec::new(), start);
    loop {
        let page = feed.next(after, &grants).unwrap();
        events.extend(page.events);
        match page.last {
            Some(last) => after = last,
            None => break,
        }
    }
    let expected = [
        written("sub/a.txt"),
        renamed(Some("sub/a.txt"), "c.txt"),
        renamed(None, "sub/b.txt"),
        deleted("c.txt"),
        deleted("sub/b.txt"),
        written("sub/gone/d.txt"),
        deleted("sub/gone/d.txt"),
    ];
    assert_eq!(events, expected);
    // Another app hears of what this one did.
    let mut other = Feed::new(&world.fs, [8; 32], &manifest());
    let page = other.next(start, &grants).unwrap();
    assert!(page.events.contains(&deleted("own.txt")), "{:?}", page.events);
}

#[test]
fn what_is_kept_for_an_app_is_bounded_and_goes_with_it() {
    let world = World::new(Rights::Read);
    let registry = Registry::new(&world.fs);
    assert_eq!(registry.list().unwrap(), Vec::<String>::new());
    let app = registry.make("probe").unwrap();
    assert!(registry.app("probe").unwrap().is_none(), "it is not installed before it has a state");
    let state = State::new();
    app.set_state(&state).unwrap();
    assert_eq!(registry.app("probe").unwrap().unwrap().state().unwrap(), state);

    for number in 0..40 {
        app.log(&format!("{number} {}\n", "ä".repeat(LOG_BYTES_MAX / 20))).unwrap();
    }
    let logs = app.logs().unwrap();
    assert!(logs.len() <= LOG_BYTES_MAX && logs.contains("\n39 ") && !logs.contains("\n1 "));
    app.log(&"ä".repeat(LOG_BYTES_MAX)).unwrap();
    assert!(app.logs().unwrap().len() <= LOG_BYTES_MAX);

    for time in 0..DEAD_LETTERS_MAX as u64 + 5 {
        app.add_dead_letter(DeadLetter { time, event: Event::Overflow, reason: "it failed".into() }).unwrap();
    }
    let letters = app.dead_letters().unwrap();
    assert_eq!((letters.len(), letters[0].time), (DEAD_LETTERS_MAX, 5));

    let mut keys = app.keys().unwrap();
    assert_eq!(keys.set("", b""), Err(Error::Malformed));
    assert_eq!(keys.set(&"k".repeat(121), b""), Err(Error::Malformed));
    assert_eq!(keys.set("k", &vec![0; VALUE_BYTES_MAX + 1]), Err(Error::TooLarge));
    for key in ["b/../c", "a", "ä"] {
        keys.set(key, key.as_bytes()).unwrap();
    }
    assert_eq!(keys.get("b/../c").unwrap().unwrap(), b"b/../c");
    assert_eq!(keys.list("", Some("a")).unwrap(), (vec!["b/../c".to_owned(), "ä".to_owned()], true));

    registry.remove("probe").unwrap();
    assert_eq!(registry.list().unwrap(), Vec::<String>::new());
    assert_eq!(registry.make("probe").unwrap().keys().unwrap().list("", None).unwrap(), (Vec::new(), true));
}
