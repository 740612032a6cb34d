//! The anchor: a store that does not contain what was remembered of it is refused, and nothing else is.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blocktree_engine::anchor::{Anchor, AnchorError, Anchored, FileAnchor, Rollback};
use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{FaultyDevice, Image, MemoryDevice, SplitMix64, Survivors};
use blocktree_engine::format::ItemKind;
use blocktree_engine::limits::ANCHORS_MAX;
use blocktree_engine::{CreateOptions, OpenError, OpenOptions, Store};

const SECTORS: u64 = 8192;
const PASSPHRASE: &[u8] = b"passphrase";
const KIND: ItemKind = ItemKind::FIRST_FREE;

/// A machine's memory, which can fail.
#[derive(Debug, Default)]
struct Machine {
    known: Mutex<Option<Anchored>>,
    fails: Mutex<bool>,
}

impl Machine {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    fn seq(&self) -> u64 {
        self.known.lock().unwrap().expect("it was told").head.seq
    }
}

impl Anchor for Machine {
    fn place(&self, _: &[u8; 16]) -> String {
        "this machine".into()
    }

    fn read(&self, _: &[u8; 16]) -> Result<Option<Anchored>, AnchorError> {
        Ok(*self.known.lock().unwrap())
    }

    fn write(&self, anchored: &Anchored) -> Result<(), AnchorError> {
        if *self.fails.lock().unwrap() {
            return Err(AnchorError::Write(std::io::Error::other("full")));
        }
        *self.known.lock().unwrap() = Some(*anchored);
        Ok(())
    }
}

fn options(anchor: Option<Arc<dyn Anchor>>) -> OpenOptions {
    let anchor_interval = Duration::ZERO;
    OpenOptions { background: false, cache_bytes: 1 << 20, anchor, anchor_interval, ..OpenOptions::default() }
}

fn create(anchor: Option<Arc<dyn Anchor>>) -> (Arc<MemoryDevice>, Store) {
    let device = Arc::new(MemoryDevice::new(SECTORS));
    let create = CreateOptions { capacity_sectors: SECTORS, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options(anchor)).unwrap();
    (device, store)
}

fn device(image: &[u8]) -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::from_bytes(image.to_vec()))
}

fn open(image: &[u8], anchor: &Arc<Machine>) -> Result<Store, OpenError> {
    Store::open(device(image), PASSPHRASE, &options(Some(anchor.clone())))
}

/// A durable change.
fn change(store: &Store, value: &[u8]) {
    let mut transaction = store.transaction();
    let block = match store.block(Store::ROOT).unwrap() {
        Some(block) => block,
        None => transaction.create(b"root"),
    };
    transaction.put(&block, KIND, 1, b"", value);
    store.sync(transaction.apply().unwrap()).unwrap();
}

fn rollback(result: Result<Store, OpenError>) -> Rollback {
    match result.err().expect("refused") {
        OpenError::RolledBack { what, .. } => what,
        error => panic!("{error:?}"),
    }
}

#[test]
fn a_store_that_goes_on_is_accepted() {
    let machine = Machine::new();
    let (device, store) = create(Some(machine.clone()));
    assert_eq!(machine.seq(), 0);
    for round in 0..5 {
        change(&store, b"in the log");
        let status = store.anchor().unwrap();
        assert_eq!((status.seq, status.first_use, status.accepted), (Some(round), round == 0, None));
        // Neither a crash nor a checkpoint makes it strange.
        open(&device.snapshot(), &machine).unwrap();
        store.checkpoint().unwrap();
        assert_eq!(machine.seq(), round + 1);
        if round == 0 {
            store.close().unwrap();
            break;
        }
    }
    let mut image = device.snapshot();
    for _ in 0..4 {
        let device = self::device(&image);
        let store = Store::open(device.clone(), PASSPHRASE, &options(Some(machine.clone()))).unwrap();
        assert!(!store.anchor().unwrap().first_use);
        change(&store, b"more");
        store.close().unwrap();
        image = device.snapshot();
        assert_eq!(machine.seq(), store.info().seq);
    }
}

#[test]
fn an_older_image_is_refused_and_can_be_accepted() {
    let machine = Machine::new();
    let (device, store) = create(Some(machine.clone()));
    let mut older = Vec::new();
    for _ in 0..4 {
        change(&store, b"a change");
        older.push(device.snapshot());
        store.checkpoint().unwrap();
    }
    for (seq, image) in (1..).zip(&older[..3]) {
        assert_eq!(rollback(open(image, &machine)), Rollback::Older { found: seq, anchored: 4 });
        // Those who only read are told as well.
        let read_only = OpenOptions { read_only: true, ..options(Some(machine.clone())) };
        assert!(Store::open(self::device(image), PASSPHRASE, &read_only).is_err());
        let text = open(image, &machine).err().unwrap().to_string();
        assert!(text.contains("this machine") && text.contains("--accept-rollback"), "{text}");
    }
    // The record was durable before the checkpoint that the anchor heard of.
    open(&older[3], &machine).unwrap();

    let accepting = OpenOptions { accept_rollback: true, ..options(Some(machine.clone())) };
    let accepted = self::device(&older[1]);
    let store = Store::open(accepted.clone(), PASSPHRASE, &accepting).unwrap();
    assert!(store.anchor().unwrap().accepted.unwrap().contains("older"));
    assert_eq!(machine.seq(), 2, "from now on this is how far it has come");
    change(&store, b"another future");
    store.close().unwrap();
    open(&accepted.snapshot(), &machine).unwrap();
    // The future that was given up is strange now, however long it is.
    assert_eq!(rollback(open(&device.snapshot(), &machine)), Rollback::Forked { seq: 3 });
}

#[test]
fn a_fork_is_refused_however_far_it_went() {
    let machine = Machine::new();
    let (device, store) = create(Some(machine.clone()));
    change(&store, b"common");
    store.checkpoint().unwrap();
    let common = device.snapshot();
    change(&store, b"the one that was anchored");
    store.close().unwrap();
    assert_eq!(machine.seq(), 2);

    // Somebody puts the older image back and uses it where nobody remembers it.
    let fork = self::device(&common);
    let elsewhere = Machine::new();
    let store = Store::open(fork.clone(), PASSPHRASE, &options(Some(elsewhere.clone()))).unwrap();
    change(&store, b"another");
    let in_the_log = fork.snapshot();
    store.checkpoint().unwrap();
    let as_head = fork.snapshot();
    for _ in 0..100 {
        change(&store, b"and on");
        store.checkpoint().unwrap();
    }
    for image in [in_the_log, as_head, fork.snapshot()] {
        assert_eq!(rollback(open(&image, &machine)), Rollback::Forked { seq: 2 });
    }
    open(&fork.snapshot(), &elsewhere).unwrap();
}

#[test]
fn a_store_that_travels_is_known_wherever_it_was() {
    let (device, store) = create(None);
    change(&store, b"first");
    store.close().unwrap();
    let machines: Vec<_> = (0..ANCHORS_MAX / 2 - 1).map(|_| Machine::new()).collect();
    let mut image = device.snapshot();
    for round in 0..2 {
        for (index, machine) in machines.iter().enumerate() {
            let device = self::device(&image);
            let store = Store::open(device.clone(), PASSPHRASE, &options(Some(machine.clone()))).unwrap();
            assert_eq!(store.anchor().unwrap().first_use, round == 0);
            for _ in 0..3 {
                change(&store, b"here");
                store.checkpoint().unwrap();
            }
            if round == 1 && index % 8 == 0 {
                // Without its anchor it goes on being known.
                let device = self::device(&device.snapshot());
                let store = Store::open(device.clone(), PASSPHRASE, &options(None)).unwrap();
                change(&store, b"unseen");
                store.close().unwrap();
                image = device.snapshot();
            } else {
                store.close().unwrap();
                image = device.snapshot();
            }
        }
    }
    assert!(machines.iter().all(|machine| open(&image, machine).is_ok()));
    // With too many, the oldest is forgotten, and that shows as a fork, not as agreement.
    let mut more = 0;
    while open(&image, &machines[0]).is_ok() {
        more += 1;
        assert!(more < ANCHORS_MAX);
        let device = self::device(&image);
        let store = Store::open(device.clone(), PASSPHRASE, &options(Some(Machine::new()))).unwrap();
        change(&store, b"one more machine");
        store.close().unwrap();
        image = device.snapshot();
    }
    let seq = machines[0].seq();
    assert_eq!(rollback(open(&image, &machines[0])), Rollback::Forked { seq });
    assert!(machines[2..].iter().all(|machine| open(&image, machine).is_ok()), "after {more}");
}

#[test]
fn an_anchor_that_fails_is_named_and_asked_no_more() {
    let machine = Machine::new();
    let (device, store) = create(Some(machine.clone()));
    change(&store, b"told");
    store.checkpoint().unwrap();
    *machine.fails.lock().unwrap() = true;
    change(&store, b"not told");
    store.checkpoint().unwrap();
    assert_eq!(store.anchor().unwrap().failure.as_deref(), Some("cannot write it: full"));
    assert_eq!(machine.seq(), 1);
    for _ in 0..5 {
        change(&store, b"nor this");
        store.checkpoint().unwrap();
    }
    *machine.fails.lock().unwrap() = false;
    open(&device.snapshot(), &machine).unwrap();
}

#[test]
fn a_damaged_anchor_is_an_error_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let anchor = |path: &Path| -> Option<Arc<dyn Anchor>> { Some(Arc::new(FileAnchor::at(path))) };
    let path = folder.path().join("anchor");
    let (device, store) = create(anchor(&path));
    change(&store, b"told");
    store.close().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let other = folder.path().join("other");
    create(anchor(&other));
    for bytes in [&whole[..20], b"", b"\xff\xfe", &std::fs::read(other).unwrap()] {
        std::fs::write(&path, bytes).unwrap();
        let error = Store::open(device.clone(), PASSPHRASE, &options(anchor(&path))).err().unwrap();
        assert!(matches!(error, OpenError::Anchor { .. }), "{error:?}");
        assert!(error.to_string().contains("--accept-rollback"), "{error}");
    }
    let accepting = OpenOptions { accept_rollback: true, ..options(anchor(&path)) };
    Store::open(device.clone(), PASSPHRASE, &accepting).unwrap().close().unwrap();
    Store::open(device.clone(), PASSPHRASE, &options(anchor(&path))).unwrap();
    // Lost altogether, it is as on a new machine.
    std::fs::remove_file(&path).unwrap();
    let store = Store::open(device, PASSPHRASE, &options(anchor(&path))).unwrap();
    assert!(store.anchor().unwrap().first_use && path.exists());
}

/// A memory that keeps, for each time it is told, what it knew before, what it knows then, and the least that a crash
/// at this moment leaves of the disk.
struct Witness {
    machine: Arc<Machine>,
    device: Arc<FaultyDevice>,
    told: Mutex<Vec<(Option<Anchored>, Anchored, Image)>>,
}

impl std::fmt::Debug for Witness {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Witness")
    }
}

impl Anchor for Witness {
    fn place(&self, store_id: &[u8; 16]) -> String {
        self.machine.place(store_id)
    }

    fn read(&self, store_id: &[u8; 16]) -> Result<Option<Anchored>, AnchorError> {
        self.machine.read(store_id)
    }

    fn write(&self, anchored: &Anchored) -> Result<(), AnchorError> {
        let before = *self.machine.known.lock().unwrap();
        self.told.lock().unwrap().push((before, *anchored, self.device.crash(Survivors::Mask(0))));
        self.machine.write(anchored)
    }
}

/// No crash leaves an anchor that knows more than the disk, nor one that does not know the disk any more.
#[test]
fn no_crash_leaves_an_anchor_ahead_of_the_disk() {
    let mut random = SplitMix64(11);
    let mut tried = 0;
    let mut image = None;
    let machine = Machine::new();
    for seed in 0..30 {
        let device = match image {
            None => Arc::new(FaultyDevice::new(SECTORS, seed)),
            Some(image) => Arc::new(FaultyDevice::from_image(image, seed)),
        };
        let witness =
            Arc::new(Witness { machine: machine.clone(), device: device.clone(), told: Mutex::default() });
        let options = options(Some(witness.clone()));
        let create = CreateOptions { capacity_sectors: SECTORS, kdf: KdfCost::TRIVIAL };
        let store = match seed {
            0 => Store::create_with(device.clone(), PASSPHRASE, &create, &options).unwrap(),
            _ => Store::open(device.clone(), PASSPHRASE, &options).unwrap(),
        };
        for _ in 0..1 + random.below(5) {
            change(&store, b"durable");
            if random.one_in(2) {
                store.checkpoint().unwrap();
            }
            let mut transaction = store.transaction();
            let block = store.block(Store::ROOT).unwrap().unwrap();
            transaction.put(&block, KIND, 2, b"", b"perhaps");
            transaction.apply().unwrap();
        }
        image = Some(device.crash(Survivors::Random(seed)));
        for (before, after, image) in std::mem::take(&mut *witness.told.lock().unwrap()) {
            for known in [before, Some(after)] {
                let machine = Arc::new(Machine { known: Mutex::new(known), ..Machine::default() });
                let crashed = Arc::new(FaultyDevice::from_image(image.clone(), seed));
                Store::open(crashed, PASSPHRASE, &self::options(Some(machine))).unwrap();
                tried += 1;
            }
        }
    }
    assert!(tried > 60, "{tried}");
}

/// Another store with the same id, however it came about, is not the one that was known, and nothing makes it so.
#[test]
fn a_store_of_another_root_is_refused_whatever_is_accepted() {
    let machine = Machine::new();
    let (device, store) = create(Some(machine.clone()));
    change(&store, b"one");
    let root = store.root_principal();
    store.close().unwrap();
    let image = device.snapshot();
    assert_eq!(machine.known.lock().unwrap().unwrap().root, Some(root));
    machine.known.lock().unwrap().as_mut().unwrap().root = Some([1; 32]);
    assert!(matches!(open(&image, &machine), Err(OpenError::OtherRootThanKnown { .. })));
    let accepting = OpenOptions { accept_rollback: true, ..options(Some(machine.clone())) };
    let refused = Store::open(self::device(&image), PASSPHRASE, &accepting);
    assert!(matches!(refused, Err(OpenError::OtherRootThanKnown { .. })));
    // What was remembered before roots were learns it.
    machine.known.lock().unwrap().as_mut().unwrap().root = None;
    let store = open(&image, &machine).unwrap();
    change(&store, b"two");
    store.close().unwrap();
    assert_eq!(machine.known.lock().unwrap().unwrap().root, Some(root));
}
