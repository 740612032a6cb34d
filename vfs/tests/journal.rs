//! The change journal: what it says of each change, and that it says it again after whatever happened.

mod support;

use std::sync::Arc;
use std::time::Duration;

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::MemoryDevice;
use blocktree_engine::{CreateOptions, OpenOptions, Seq, Store};
use blocktree_vfs::layout::Attributes;
use blocktree_vfs::{
    Actor, Entry, Event, FileFlags, FileKind, Fs, MountOptions, Name, RenameFlags, Time, WriteFlags,
};
use support::*;
use zerocopy::IntoBytes;

const PASSPHRASE: &[u8] = b"passphrase";
const SECTORS_MIN: u64 = 8192;

fn options() -> OpenOptions {
    OpenOptions { background: false, ..OpenOptions::default() }
}

fn fresh(sectors: u64) -> Arc<MemoryDevice> {
    let device = Arc::new(MemoryDevice::new(sectors));
    let create = CreateOptions { capacity_sectors: sectors, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options()).unwrap();
    Fs::format(&store, 0, 0).unwrap();
    store.close().unwrap();
    device
}

fn mount_on(device: &Arc<MemoryDevice>) -> Fs {
    let store = Store::open(device.clone(), PASSPHRASE, &options()).unwrap();
    Fs::mount(store, MountOptions { clock: Some(tick), ..MountOptions::default() }).unwrap()
}

/// The disk as a crash would leave it now, if nothing were on its way.
fn crashed(device: &Arc<MemoryDevice>) -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::from_bytes(device.snapshot()))
}

fn all(fs: &Fs, since: Seq) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let from = entries.last().map_or(since, |entry| entry.seq);
        let page = fs.events_since(from, 7).unwrap();
        if page.is_empty() {
            return entries;
        }
        entries.extend(page);
    }
}

fn events(entries: &[Entry]) -> Vec<Event> {
    entries.iter().map(|entry| entry.event.clone()).collect()
}

fn name(parent: u64, name: &str) -> Option<Name> {
    Some(Name { parent, name: name.as_bytes().to_vec() })
}

fn open_and_write(fs: &Fs, ino: u64, bytes: &[u8]) {
    fs.open(ino, blocktree_vfs::OpenFlags { write: true, ..Default::default() }).unwrap();
    fs.put(ino, 0, bytes);
    fs.put(ino, 10, bytes);
    fs.release(ino, None);
}

#[test]
fn entries_have_names_times_and_who_did_it() {
    let fs = mount();
    let folder = fs.dir(ROOT, "folder");
    let app = fs.acting_for(Actor::Principal([7; 32]));
    let file = app.file(folder, "f");
    open_and_write(&app, file, b"bytes");
    fs.rename(folder, b"f", ROOT, b"g", RenameFlags::default()).unwrap();
    fs.chmod(file, 0o600);
    fs.unlink(ROOT, b"g").unwrap();
    let entries = all(&fs, Seq(0));
    let data = Event::Data { ino: file, range: blocktree_vfs::Range::ALL };
    assert_eq!(
        events(&entries),
        [
            Event::Mounted,
            Event::Linked { parent: ROOT, ino: folder, is_new: true },
            Event::Linked { parent: folder, ino: file, is_new: true },
            data,
            Event::Settled { ino: file },
            Event::Renamed {
                parent: folder,
                new_parent: ROOT,
                ino: file,
                replaced: None,
                exchanged: false,
                whiteout: None
            },
            Event::Attributes { ino: file },
            Event::Unlinked { parent: ROOT, ino: file },
        ]
    );
    let names: Vec<_> = entries.iter().map(|entry| (entry.name.clone(), entry.new_name.clone())).collect();
    assert_eq!(names[1], (name(ROOT, "folder"), None));
    for at in [2, 3, 4] {
        assert_eq!(names[at], (name(folder, "f"), None));
        assert_eq!(entries[at].actor, Actor::Principal([7; 32]));
    }
    assert_eq!(names[5], (name(folder, "f"), name(ROOT, "g")));
    assert_eq!(names[6], (name(ROOT, "g"), None));
    assert_eq!(names[7], (name(ROOT, "g"), None));
    assert!(entries[5..].iter().all(|entry| entry.actor == Actor::Node));
    assert!(entries.windows(2).all(|pair| pair[0].seq < pair[1].seq && pair[0].time <= pair[1].time));
    assert!(entries.iter().all(|entry| entry.author == entries[0].author && entry.author != [0; 32]));
}

#[test]
fn many_writes_are_one_entry_for_each_who_writes() {
    let fs = mount();
    let app = fs.acting_for(Actor::Principal([9; 32]));
    let file = fs.file(ROOT, "f");
    let before = fs.events_since(Seq(0), 100).unwrap().last().unwrap().seq;
    for at in 0..50 {
        fs.put(file, at, b"x");
        app.put(file, at, b"y");
    }
    let actors: Vec<_> = all(&fs, before).into_iter().map(|entry| (entry.event, entry.actor)).collect();
    let data = Event::Data { ino: file, range: blocktree_vfs::Range::ALL };
    assert_eq!(actors, [(data.clone(), Actor::Node), (data.clone(), Actor::Principal([9; 32]))]);

    // Not quiet yet by the clock of this mount; then it is.
    let last = all(&fs, Seq(0)).last().unwrap().seq;
    fs.settle_quiet(Duration::from_secs(3600));
    assert_eq!(all(&fs, last), []);
    fs.settle_quiet(Duration::ZERO);
    let settled: Vec<_> = all(&fs, last).into_iter().map(|entry| (entry.event, entry.actor)).collect();
    let event = Event::Settled { ino: file };
    assert_eq!(settled, [(event.clone(), Actor::Node), (event, Actor::Principal([9; 32]))]);
    let last = all(&fs, Seq(0)).last().unwrap().seq;
    fs.put(file, 0, b"again");
    assert_eq!(events(&all(&fs, last)), [data]);
}

#[test]
fn an_open_file_settles_by_itself() {
    let fs = mount_with(MountOptions::default());
    let file = fs.create(&USER, ROOT, b"f", 0o600).unwrap().ino;
    fs.write(file, 0, b"bytes", WriteFlags::default()).unwrap();
    let is_settled = || events(&all(&fs, Seq(0))).contains(&Event::Settled { ino: file });
    let began = std::time::Instant::now();
    while !is_settled() {
        assert!(began.elapsed() < Duration::from_secs(60), "does not settle");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn who_was_away_misses_nothing() {
    let device = fresh(4 * SECTORS_MIN);
    let fs = mount_on(&device);
    fs.file(ROOT, "before");
    let known = all(&fs, Seq(0)).last().unwrap().seq;
    let file = fs.file(ROOT, "f");
    fs.put(file, 0, b"bytes");
    fs.unmount().unwrap();
    fs.store().close().unwrap();
    drop(fs);

    let fs = mount_on(&device);
    fs.file(ROOT, "after");
    let missed = all(&fs, known);
    assert!(matches!(
        events(&missed)[..],
        [
            Event::Linked { .. },
            Event::Data { .. },
            Event::Settled { .. },
            Event::Unmounted,
            Event::Mounted,
            Event::Linked { .. }
        ]
    ));
    assert!(missed.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    assert_eq!(missed[5].name, name(ROOT, "after"));
}

#[test]
fn what_was_being_modified_at_a_crash_settles() {
    let device = fresh(4 * SECTORS_MIN);
    let fs = mount_on(&device);
    let app = fs.acting_for(Actor::Principal([3; 32]));
    let [durable, lost] = ["durable", "lost"].map(|name| fs.file(ROOT, name));
    app.put(durable, 0, b"bytes");
    fs.syncfs().unwrap();
    fs.put(lost, 0, b"bytes");
    let device = crashed(&device);

    // Even if the next mount crashes too.
    for _ in 0..2 {
        drop(mount_on(&device));
    }
    let fs = mount_on(&device);
    let entries = all(&fs, Seq(0));
    let settled: Vec<_> =
        entries.iter().filter(|entry| matches!(entry.event, Event::Settled { .. })).collect();
    assert_eq!(settled.len(), 1, "{entries:?}");
    assert_eq!(settled[0].event, Event::Settled { ino: durable });
    assert_eq!((&settled[0].name, settled[0].actor), (&name(ROOT, "durable"), Actor::Principal([3; 32])));
}

#[test]
fn a_number_means_one_thing_whatever_is_lost() {
    let device = fresh(4 * SECTORS_MIN);
    let fs = mount_on(&device);
    fs.file(ROOT, "kept");
    let kept = all(&fs, Seq(0)).last().unwrap().seq;
    for number in 0..100 {
        fs.file(ROOT, &number.to_string());
    }
    // Told, and then lost.
    let told = all(&fs, kept).last().unwrap().seq;
    let fs = mount_on(&crashed(&device));
    assert_eq!(fs.names(ROOT), ["kept"]);
    assert_eq!(all(&fs, told), []);
    fs.file(ROOT, "new");
    let after = all(&fs, told);
    assert_eq!(events(&after)[0], Event::Mounted);
    assert_eq!(after[1].name, name(ROOT, "new"));
}

#[test]
fn the_journal_is_bounded_and_says_what_is_missing() {
    let device = fresh(SECTORS_MIN);
    let fs = mount_on(&device);
    let file = fs.file(ROOT, "f");
    let long = "x".repeat(200);
    // The share of a store like this is half a mebibyte.
    for round in 0..3000 {
        fs.link(file, ROOT, long.as_bytes()).unwrap();
        fs.unlink(ROOT, long.as_bytes()).unwrap();
        if round % 100 == 99 {
            fs.store().write_back().unwrap();
        }
    }
    let check = |fs: &Fs| {
        let entries = all(fs, Seq(0));
        assert_eq!(entries[0].event, Event::Overflow);
        let bytes: usize =
            entries[1..].iter().map(|entry| entry.name.as_ref().map_or(0, |n| n.name.len())).sum();
        assert!((200 << 10..600 << 10).contains(&bytes), "{bytes} bytes of names are kept");
        assert!(entries[1..].iter().all(|entry| entry.seq > entries[0].seq));
        // From where it begins, nothing is missing.
        assert_eq!(all(fs, entries[0].seq), entries[1..]);
        entries.last().unwrap().seq
    };
    let last = check(&fs);
    fs.unmount().unwrap();
    fs.store().close().unwrap();
    drop(fs);
    let fs = mount_on(&device);
    assert_eq!(events(&all(&fs, last)), [Event::Unmounted]);
    check(&fs);
}

#[test]
fn a_full_store_can_be_emptied_and_its_journal_does_not_grow() {
    let device = fresh(SECTORS_MIN);
    let fs = mount_on(&device);
    let mut files = 0;
    let name = |number: u32| format!("{number}{}", "n".repeat(180));
    while fs.create(&USER, ROOT, name(files).as_bytes(), 0o600).is_ok() {
        files += 1;
    }
    assert!(files > 1000, "{files} files fill the store");
    let file = fs.find(ROOT, &name(0)).unwrap();
    // What neither adds nor removes leaves entries all the same; they must not take what removing needs.
    for round in 0..20_000 {
        fs.chmod(file, 0o600 + round % 8);
        if round % 10 == 0 {
            fs.store().write_back().unwrap();
        }
    }
    for number in 0..files {
        fs.unlink(ROOT, name(number).as_bytes()).unwrap();
    }
    assert_eq!(fs.names(ROOT), [""; 0]);
    let newest = all(&fs, Seq(0)).pop().unwrap();
    assert!(matches!(newest.event, Event::Unlinked { parent: ROOT, .. }));
    fs.file(ROOT, "there is room again");
}

#[test]
fn a_store_without_a_journal_gets_one() {
    let device = Arc::new(MemoryDevice::new(SECTORS_MIN));
    let create = CreateOptions { capacity_sectors: SECTORS_MIN, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options()).unwrap();
    let attributes = Attributes {
        kind: FileKind::Directory,
        permissions: 0o755,
        uid: 0,
        gid: 0,
        nlink: 2,
        rdev: 0,
        size: 0,
        atime: Time::default(),
        mtime: Time::default(),
        ctime: Time::default(),
        btime: Time::default(),
        parent: ROOT,
        xattr_count: 0,
        xattr_name_bytes: 0,
        has_access_acl: false,
        has_default_acl: false,
        has_capability: false,
        file_flags: FileFlags::default(),
    };
    let mut transaction = store.transaction();
    transaction.create(attributes.encode().as_bytes());
    transaction.apply().unwrap();
    store.close().unwrap();
    drop(store);

    let store =
        Store::open(device.clone(), PASSPHRASE, &OpenOptions { read_only: true, ..options() }).unwrap();
    let fs = Fs::mount(store, MountOptions { read_only: true, ..MountOptions::default() }).unwrap();
    assert!(!fs.has_journal());
    drop(fs);
    let fs = mount_on(&device);
    assert!(fs.has_journal());
    fs.file(ROOT, "f");
    assert_eq!(all(&fs, Seq(0)).len(), 2);
    assert_eq!(fs.names(ROOT), ["f"], "the journal is no file");
}

#[test]
fn a_snapshot_has_the_journal_of_its_time() {
    let device = fresh(4 * SECTORS_MIN);
    let fs = mount_on(&device);
    fs.file(ROOT, "before");
    fs.store().snapshot_create("s").unwrap();
    fs.file(ROOT, "after");
    fs.syncfs().unwrap();
    let open = OpenOptions { snapshot: Some("s".into()), ..options() };
    let store = Store::open(device, PASSPHRASE, &open).unwrap();
    let shown = Fs::mount(store, MountOptions { read_only: true, ..MountOptions::default() }).unwrap();
    assert_eq!(shown.names(ROOT), ["before"]);
    let entries = all(&shown, Seq(0));
    assert_eq!(entries.last().unwrap().name, name(ROOT, "before"));
    assert_eq!(all(&fs, Seq(0))[..entries.len()], entries);
}
