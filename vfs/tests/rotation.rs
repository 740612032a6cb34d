//! New keys for a directory and all below it: the tree stays what it was, for who may still read it, whenever it is
//! interrupted.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use blocktree_engine::crypto::{KdfCost, Principal};
use blocktree_engine::device::{Device, FaultyDevice, SplitMix64, Survivors};
use blocktree_engine::format::BlockId;
use blocktree_engine::{CheckOptions, CreateOptions, Credential, OpenOptions, StaleInfo, Store, check};
use blocktree_vfs::{Fs, Ino, MountOptions, repair, rotation};
use support::{ROOT, USER, Words, tick};

const PASSPHRASE: &[u8] = b"passphrase";
const SECTORS: u64 = (64 << 20) / 4096;

/// What a tree shows: each path with the kind, mode, number of names, bytes and attributes of what it leads to.
type Shown = BTreeMap<String, String>;

fn options() -> OpenOptions {
    OpenOptions { background: false, cache_bytes: 64 << 20, ..OpenOptions::default() }
}

fn create() -> (Arc<FaultyDevice>, Store) {
    let device = Arc::new(FaultyDevice::new(SECTORS, 1));
    let create = CreateOptions { capacity_sectors: SECTORS, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options()).unwrap();
    Fs::format(&store, 0, 0).unwrap();
    (device, store)
}

fn open(device: &Arc<FaultyDevice>) -> Store {
    Store::open(device.clone(), PASSPHRASE, &options()).unwrap()
}

fn mount(store: &Store, read_only: bool) -> Fs {
    let options = MountOptions { read_only, clock: Some(tick), ..MountOptions::default() };
    Fs::mount(store.clone(), options).unwrap()
}

/// A tree with `many` names in one directory and as many bytes of attributes; the id of the directory to be rotated, and
/// of one in it.
fn fill(store: &Store, many: usize) -> [BlockId; 2] {
    let fs = mount(store, false);
    let shared = fs.dir(ROOT, "shared");
    let other = fs.dir(ROOT, "other");
    let deeper = fs.dir(shared, "deeper");
    let large = fs.dir(deeper, "large");
    for number in 0..many {
        fs.file_with(large, &format!("number {number}"), format!("{number}").as_bytes());
    }
    let long = fs.file_with(deeper, "long", &vec![7; 300_000]);
    fs.link(long, other, b"long elsewhere").unwrap();
    let twice = fs.file_with(shared, "named twice", b"twice");
    fs.link(twice, deeper, b"second name").unwrap();
    fs.symlink(&USER, shared, b"a link", b"to somewhere").unwrap();
    fs.setxattr(twice, b"user.small", b"value", Default::default()).unwrap();
    for number in 0..1 + many / 100 {
        let name = format!("user.number{number}");
        fs.setxattr(large, name.as_bytes(), &vec![number as u8; 60_000], Default::default()).unwrap();
    }
    fs.file_with(other, "untouched", b"other");
    fs.mkdir(&USER, deeper, b"empty", 0o700).unwrap();
    fs.unmount().unwrap();
    [shared, deeper]
}

fn show(fs: &Fs) -> Shown {
    let mut shown = Shown::new();
    let mut left = vec![(ROOT, String::new())];
    while let Some((directory, path)) = left.pop() {
        let names = fs.names(directory);
        assert_eq!(fs.stat(directory).size, names.len() as u64, "{path}");
        for name in names {
            let stat = fs.lookup(directory, name.as_bytes()).unwrap();
            let path = format!("{path}/{name}");
            let bytes = match stat.kind {
                blocktree_vfs::FileKind::Directory => {
                    left.push((stat.ino, path.clone()));
                    Vec::new()
                }
                blocktree_vfs::FileKind::Symlink => fs.readlink(stat.ino).unwrap(),
                _ => fs.bytes(stat.ino),
            };
            let described = format!(
                "{:?} {:o} {} {} {:?}",
                stat.kind,
                stat.permissions,
                stat.nlink,
                blake3_of(&bytes),
                attributes(fs, stat.ino)
            );
            shown.insert(path, described);
        }
    }
    shown
}

fn blake3_of(bytes: &[u8]) -> String {
    blocktree_engine::crypto::hexadecimal(&blocktree_engine::crypto::hash(bytes)[..8])
}

fn attributes(fs: &Fs, ino: Ino) -> Vec<(Vec<u8>, String)> {
    let listed = fs.listxattr(ino, true).unwrap();
    let mut names: Vec<Vec<u8>> = listed.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    names.retain(|name| !name.is_empty());
    names.sort();
    let value = |name: Vec<u8>| {
        let value = fs.getxattr(ino, &name).unwrap();
        (name, blake3_of(&value))
    };
    names.into_iter().map(value).collect()
}

fn is_clean(device: &Arc<FaultyDevice>) {
    let image = Arc::new(FaultyDevice::from_image(device.image(), 0));
    let report = check(image.clone(), PASSPHRASE, &CheckOptions::default(), &mut |_, _| {}).unwrap();
    assert_eq!(report.problems, []);
    let found = repair::examine(&open(&image), false).unwrap();
    assert!(found.is_empty(), "{found:?}");
}

fn reader_shows(device: &Arc<FaultyDevice>, reader: &Principal) -> Shown {
    let credential = Credential::Principal { holder: reader, root: None };
    let store = Store::open_as(device.clone(), &credential, &options()).unwrap();
    show(&mount(&store, true))
}

fn below(shown: &Shown, path: &str) -> Shown {
    let inside =
        shown.iter().filter_map(|(key, value)| Some((key.strip_prefix(path)?.to_owned(), value.clone())));
    inside.filter(|(key, _)| key.starts_with('/')).collect()
}

#[test]
fn a_tree_with_new_keys_is_the_same_for_who_may_read_it() {
    let (device, store) = create();
    let [shared, deeper] = fill(&store, 1200);
    let [all, part, goes] = [(); 3].map(|()| Principal::generate());
    let share = |who: &Principal, id| {
        store.grant_access(&who.public(), false).unwrap();
        store.share(&store.block(id).unwrap().unwrap(), &who.public(), u64::MAX, false).unwrap()
    };
    share(&all, shared);
    share(&part, deeper);
    let taken = share(&goes, shared);
    let before = show(&mount(&store, true));
    assert!(before.len() > 1200);
    store.checkpoint().unwrap();
    drop(store);

    let store = open(&device);
    let rotation = store.begin_rotation(shared, &[taken]).unwrap();
    let mut last = 0;
    let ended = rotation::rotate(&store, &rotation, &mut |done| {
        last = done;
        true
    });
    assert!(ended.unwrap());
    assert!(last > 1200, "{last}");
    assert!(store.rotations().unwrap().is_empty());
    let is_the_same = |store: &Store| {
        assert_eq!(show(&mount(store, true)), before);
        assert_eq!(reader_shows(&device, &all), below(&before, "/shared"));
        assert_eq!(reader_shows(&device, &part), below(&before, "/shared/deeper"));
        is_clean(&device);
    };
    is_the_same(&store);
    store.checkpoint().unwrap();
    drop(store);
    let store = open(&device);
    is_the_same(&store);
    let fs = mount(&store, true);
    let epoch = |name| store.block(fs.find(ROOT, name).unwrap()).unwrap().unwrap().epoch();
    assert_eq!((epoch("other"), epoch("shared")), (0, rotation.number), "what is not below keeps its key");
    let report = store.reencrypt(&|_, _| true).unwrap();
    assert!(report.sectors >= 1200 + 74, "{report:?}");
    assert_eq!(store.stale().unwrap(), StaleInfo::default());
    is_the_same(&store);
    // It lives on: names are found, made and removed.
    let fs = mount(&store, false);
    let shared = fs.find(ROOT, "shared").unwrap();
    fs.file_with(shared, "new", b"new");
    fs.unlink(shared, b"a link").unwrap();
    fs.unmount().unwrap();
    is_clean(&device);
}

/// Crashes at one moment after another, with and without a mount in between; what was begun is ended.
#[test]
fn whatever_interrupts_it_the_tree_is_the_same_and_it_goes_on() {
    let seed = std::env::var("BLOCKTREE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("seed {seed}");
    let mut rng = SplitMix64(seed);
    let (device, store) = create();
    let [shared, _] = fill(&store, 600);
    let reader = Principal::generate();
    store.grant_access(&reader.public(), false).unwrap();
    store.share(&store.block(shared).unwrap().unwrap(), &reader.public(), u64::MAX, false).unwrap();
    let before = show(&mount(&store, true));
    let rotation = store.begin_rotation(shared, &[]).unwrap();
    store.checkpoint().unwrap();
    drop(store);
    let start = device.image();
    let (mut crashes, mut events) = (0, 0);
    loop {
        let device = Arc::new(FaultyDevice::from_image(start.clone(), rng.next_u64()));
        let each = OpenOptions { commit_each: true, ..options() };
        let store = Store::open(device.clone(), PASSPHRASE, &each).unwrap();
        device.arm_capture(events);
        assert!(rotation::rotate(&store, &rotation, &mut |_| true).unwrap());
        store.reencrypt(&|_, _| true).unwrap();
        store.close().unwrap();
        let Some(point) = device.take_capture() else { break };
        drop(store);

        let image = point.image(Survivors::Random(rng.next_u64()));
        let device = Arc::new(FaultyDevice::from_image(image, rng.next_u64()));
        let store = open(&device);
        assert_eq!(show(&mount(&store, true)), before, "crash at {events}");
        let mut expected = before.clone();
        if rng.one_in(2) {
            // Somebody works on it, as it is.
            let fs = mount(&store, false);
            let large =
                ["shared", "deeper", "large"].iter().fold(ROOT, |at, name| fs.find(at, name).unwrap());
            for name in ["number 3", "number 599"] {
                fs.unlink(large, name.as_bytes()).unwrap();
                expected.remove(&format!("/shared/deeper/large/{name}"));
            }
            fs.rename(large, b"number 5", large, b"number 6", Default::default()).unwrap();
            let five = expected.remove("/shared/deeper/large/number 5").unwrap();
            expected.insert("/shared/deeper/large/number 6".into(), five);
            fs.setxattr(large, b"user.number2", b"another", Default::default()).unwrap();
            fs.removexattr(large, b"user.number3").unwrap();
            let described = expected.get_mut("/shared/deeper/large").unwrap();
            *described = show(&fs)["/shared/deeper/large"].clone();
            assert!(!described.contains(&format!("{:?}", b"user.number3")), "{described}");
            assert_eq!(show(&fs), expected, "crash at {events}");
            fs.unmount().unwrap();
        }
        for rotation in store.rotations().unwrap() {
            assert!(rotation::rotate(&store, &rotation, &mut |_| true).unwrap());
        }
        assert_eq!(show(&mount(&store, true)), expected, "crash at {events}");
        let report = store.reencrypt(&|_, _| true).unwrap();
        assert_eq!((report.damaged, report.stopped), (0, false));
        assert_eq!(store.stale().unwrap(), StaleInfo::default(), "crash at {events}");
        store.close().unwrap();
        drop(store);
        let store = open(&device);
        assert_eq!(show(&mount(&store, true)), expected, "crash at {events}");
        assert_eq!(reader_shows(&device, &reader), below(&expected, "/shared"));
        is_clean(&device);
        let all = store.block(shared).unwrap().unwrap().epoch();
        assert_eq!(all, rotation.number);
        crashes += 1;
        // Every moment at first, then further and further apart.
        events += 1 + events / 2;
    }
    println!("tally: rotation: crashes {crashes}");
    assert!(crashes > 8, "{crashes}");
    assert!(device.sectors() > 0);
}
