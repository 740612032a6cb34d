//! Writers of a directory, as a mount shows them: what they do is in the history, and new keys for their directory leave
//! them what they may still do.

mod support;

use std::sync::Arc;

use blocktree_engine::crypto::{KdfCost, Principal, PublicKeys, Rights};
use blocktree_engine::device::MemoryDevice;
use blocktree_engine::format::BlockId;
use blocktree_engine::{
    CheckOptions, CreateOptions, Credential, Grant, OpenOptions, Seq, StaleInfo, Store, check,
};
use blocktree_vfs::{Event, Fs, MountOptions, RenameFlags, repair, rotation};
use support::{ROOT, Words, tick};

const PASSPHRASE: &[u8] = b"passphrase";
const SECTORS: u64 = (64 << 20) / 4096;

/// A store with two directories, and a principal that may write the first.
struct World {
    device: Arc<MemoryDevice>,
    writer: Principal,
    shared: BlockId,
    /// What gives the writer the directory's key, and the right to change it.
    readcap: u64,
    writecap: u64,
}

fn options() -> OpenOptions {
    OpenOptions { background: false, ..OpenOptions::default() }
}

fn mount(store: &Store, read_only: bool) -> Fs {
    let options = MountOptions { read_only, clock: Some(tick), ..MountOptions::default() };
    Fs::mount(store.clone(), options).unwrap()
}

fn give(store: &Store, directory: BlockId, to: &PublicKeys) -> (u64, u64) {
    let rights = Rights(Rights::READ.0 | Rights::WRITE.0);
    let grant = Grant { subject: *to, block: directory, rights, not_before: 0, expires: u64::MAX };
    let writecap = store.issue_writecap(None, &grant).unwrap();
    store.grant_access(to, false).unwrap();
    let block = store.block(directory).unwrap().unwrap();
    (store.share(&block, to, u64::MAX, true).unwrap(), writecap)
}

impl World {
    fn new() -> Self {
        let device = Arc::new(MemoryDevice::new(SECTORS));
        let create = CreateOptions { capacity_sectors: SECTORS, kdf: KdfCost::TRIVIAL };
        let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options()).unwrap();
        Fs::format(&store, 0, 0).unwrap();
        let fs = mount(&store, false);
        let shared = fs.dir(ROOT, "shared");
        let other = fs.dir(ROOT, "other");
        fs.file_with(shared, "old", b"by the owner");
        fs.file_with(other, "private", b"of no concern");
        fs.unmount().unwrap();
        let writer = Principal::generate();
        let (readcap, writecap) = give(&store, shared, &writer.public());
        store.close().unwrap();
        Self { device, writer, shared, readcap, writecap }
    }

    fn owner(&self) -> Store {
        Store::open(self.device.clone(), PASSPHRASE, &options()).unwrap()
    }

    /// The store as the writer opens it.
    fn opened(&self) -> Store {
        let credential = Credential::Principal { holder: &self.writer, root: None };
        Store::open_as(self.device.clone(), &credential, &options()).unwrap()
    }

    /// Does something as the owner, and closes the store.
    fn as_owner(&self, act: impl FnOnce(&Fs)) {
        let store = self.owner();
        assert_eq!(store.refused_record(), None);
        let fs = mount(&store, false);
        act(&fs);
        fs.unmount().unwrap();
        store.close().unwrap();
    }

    fn as_writer(&self, act: impl FnOnce(&Fs)) {
        let store = self.opened();
        assert!(store.writes_below().is_some());
        let fs = mount(&store, false);
        act(&fs);
        fs.unmount().unwrap();
        store.close().unwrap();
    }

    /// Gives the directory and all below it new keys, takes these readcaps away, and seals old data anew.
    fn rotate(&self, taken: &[u64]) {
        let store = self.owner();
        let rotation = store.begin_rotation(self.shared, taken).unwrap();
        assert!(rotation::rotate(&store, &rotation, &mut |_| true).unwrap());
        store.reencrypt(&|_, _| true).unwrap();
        assert_eq!(store.stale().unwrap(), StaleInfo::default());
        store.close().unwrap();
    }

    fn assert_clean(&self) {
        let report =
            check(self.device.clone(), PASSPHRASE, &CheckOptions::default(), &mut |_, _| {}).unwrap();
        assert_eq!(report.problems, []);
        let found = repair::examine(&self.owner(), false).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }
}

/// Oldest first: what, where, and whether it was the writer.
fn told(fs: &Fs, path: &str, writer: &Principal) -> Vec<(String, bool)> {
    let names: Vec<&[u8]> = path.split('/').filter(|name| !name.is_empty()).map(str::as_bytes).collect();
    let past = fs.history(&names, Seq(u64::MAX), 1000).unwrap();
    let mut told: Vec<(String, bool)> = past
        .changes
        .iter()
        .filter_map(|change| {
            let what = match change.entry.event {
                Event::Linked { .. } => "new",
                Event::Unlinked { .. } => "gone",
                Event::Renamed { .. } => "moved",
                Event::Data { .. } => "data",
                Event::Attributes { .. } => "attributes",
                _ => return None,
            };
            let path = |path: &Option<Vec<u8>>| path.clone().map(|path| String::from_utf8(path).unwrap());
            let places = [path(&change.path), path(&change.new_path)];
            let text =
                std::iter::once(what.to_owned()).chain(places.into_iter().flatten()).collect::<Vec<_>>();
            Some((text.join(" "), change.entry.author == writer.public().signing))
        })
        .collect();
    told.reverse();
    told
}

#[test]
fn what_a_writer_did_is_in_the_history() {
    let world = World::new();
    world.as_writer(|fs| {
        let folder = fs.dir(ROOT, "folder");
        let file = fs.file_with(folder, "draft", b"text");
        fs.rename(folder, b"draft", ROOT, b"letter", RenameFlags::default()).unwrap();
        fs.chmod(file, 0o600);
        fs.rmdir(ROOT, b"folder").unwrap();
        // Here and gone, before anybody could know of it.
        fs.file_with(ROOT, "brief", b"x");
        fs.unlink(ROOT, b"brief").unwrap();
        let old = fs.find(ROOT, "old").unwrap();
        fs.put(old, 0, b"by the writer");
    });
    let own = |prefix: &str| -> Vec<(String, bool)> {
        let all = [
            ("new", "/folder", ""),
            ("new", "/folder/draft", ""),
            ("data", "/folder/draft", ""),
            ("moved", "/folder/draft", "/letter"),
            ("attributes", "/letter", ""),
            ("gone", "/folder", ""),
            ("new", "/brief", ""),
            ("data", "/brief", ""),
            ("gone", "/brief", ""),
            ("data", "/old", ""),
        ];
        let text = |path: &str| if path.is_empty() { String::new() } else { format!(" {prefix}{path}") };
        all.iter().map(|(what, path, to)| (format!("{what}{}{}", text(path), text(to)), true)).collect()
    };
    // The writer finds what it did, and nothing of what others did.
    world.as_writer(|fs| {
        assert_eq!(told(fs, "/", &world.writer), own(""));
        assert_eq!(told(fs, "/letter", &world.writer).len(), 4);
        fs.file(ROOT, "later");
    });
    world.as_owner(|fs| {
        let by_owner = |text: &str| (text.to_owned(), false);
        let mut expected = ["new /shared", "new /shared/old", "data /shared/old"].map(by_owner).to_vec();
        expected.extend(own("/shared"));
        expected.push(("new /shared/later".to_owned(), true));
        assert_eq!(told(fs, "/shared", &world.writer), expected);
        assert!(told(fs, "/other", &world.writer).iter().all(|(_, by_writer)| !by_writer));
        let shared = fs.find(ROOT, "shared").unwrap();
        fs.file(shared, "by the owner again");
    });
    world.as_writer(|fs| {
        let told = told(fs, "/", &world.writer);
        assert_eq!(told.last(), Some(&("new /later".to_owned(), true)));
    });
    world.assert_clean();
}

/// A writer that crashes leaves the entries of what is there, and what it was writing settles with the owner.
#[test]
fn a_writers_entries_are_those_of_what_it_left_behind() {
    let world = World::new();
    let store = world.opened();
    let fs = mount(&store, false);
    let file = fs.file_with(ROOT, "durable", b"bytes");
    fs.fsync(file, false).unwrap();
    fs.file(ROOT, "lost");
    let crashed = World {
        device: Arc::new(MemoryDevice::from_bytes(world.device.snapshot())),
        writer: world.writer.clone(),
        ..world
    };
    drop((fs, store));
    crashed.as_owner(|fs| {
        let told = told(fs, "/shared", &crashed.writer);
        assert!(told.contains(&("new /shared/durable".to_owned(), true)), "{told:?}");
        assert!(!told.iter().any(|(text, _)| text.contains("lost")), "{told:?}");
        let events = fs.events_since(Seq(0), 1000).unwrap();
        assert!(events.iter().any(|entry| entry.event == Event::Settled { ino: file }), "{events:?}");
    });
    crashed.assert_clean();
}

#[test]
fn a_writer_goes_on_after_its_directory_got_new_keys() {
    let world = World::new();
    let reader = Principal::generate();
    let store = world.owner();
    store.grant_access(&reader.public(), false).unwrap();
    let taken = store.share(&store.block(world.shared).unwrap().unwrap(), &reader.public(), u64::MAX, false);
    store.close().unwrap();
    drop(store);
    world.as_writer(|fs| {
        let folder = fs.dir(ROOT, "folder");
        fs.file_with(folder, "mine", &vec![1; 50_000]);
    });
    world.rotate(&[taken.unwrap()]);
    world.assert_clean();
    // With the readcap that it had, which was made anew: what was there, its own and others', and new things.
    world.as_writer(|fs| {
        let folder = fs.find(ROOT, "folder").unwrap();
        let mine = fs.find(folder, "mine").unwrap();
        assert_eq!(fs.bytes(mine), vec![1; 50_000]);
        fs.put(mine, 0, b"again");
        let old = fs.find(ROOT, "old").unwrap();
        assert_eq!(fs.bytes(old), b"by the owner");
        fs.file_with(folder, "new", b"after it");
        fs.rename(folder, b"new", ROOT, b"moved", RenameFlags::default()).unwrap();
        fs.unlink(ROOT, b"old").unwrap();
        assert_eq!(told(fs, "/folder/mine", &world.writer).len(), 3, "and its history");
    });
    world.as_owner(|fs| {
        let shared = fs.find(ROOT, "shared").unwrap();
        assert_eq!(fs.names(shared), ["folder", "moved"]);
    });
    world.assert_clean();
    // Once more, now with what was made since.
    world.rotate(&[]);
    world.as_writer(|fs| {
        let moved = fs.find(ROOT, "moved").unwrap();
        assert_eq!(fs.bytes(moved), b"after it");
        fs.put(moved, 0, b"AFTER");
    });
    world.assert_clean();
    let credential = Credential::Principal { holder: &reader, root: None };
    let store = Store::open_as(world.device.clone(), &credential, &options()).unwrap();
    assert_eq!(store.own_readcaps(), [], "the directory was taken back from the reader");
}

#[test]
fn a_writer_from_whom_the_directory_was_taken_back_has_nothing_until_it_gets_it_again() {
    let world = World::new();
    world.as_writer(|fs| {
        fs.file_with(ROOT, "mine", b"before");
    });
    let store = world.owner();
    store.revoke_writecap(None, world.writecap).unwrap();
    store.close().unwrap();
    drop(store);
    world.rotate(&[world.readcap]);
    let store = world.opened();
    assert!(store.is_read_only() && store.own_readcaps().is_empty());
    let mounted = Fs::mount(store.clone(), MountOptions { read_only: true, ..MountOptions::default() });
    assert!(mounted.is_err(), "nothing is shared with it");
    drop(store);

    let store = world.owner();
    give(&store, world.shared, &world.writer.public());
    store.close().unwrap();
    drop(store);
    world.as_writer(|fs| {
        let mine = fs.find(ROOT, "mine").unwrap();
        assert_eq!(fs.bytes(mine), b"before");
        fs.put(mine, 0, b"after!");
        fs.file_with(ROOT, "more", b"more");
    });
    world.rotate(&[]);
    world.as_owner(|fs| {
        let shared = fs.find(ROOT, "shared").unwrap();
        assert_eq!(fs.bytes(fs.find(shared, "mine").unwrap()), b"after!");
    });
    world.assert_clean();
}
