//! A store whose log is damaged: nothing but a repair gives the rest of it up, says what that was, and leaves the tree as it
//! was at the last record before.

use std::collections::BTreeMap;
use std::sync::Arc;

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{FaultyDevice, Image, SplitMix64};
use blocktree_engine::format::{BlockId, ItemKind, RecordHeader};
use blocktree_engine::{
    Block, CheckOptions, CheckReport, CreateOptions, Error, OpenError, OpenOptions, Store, check,
};

const SECTORS: u64 = 8192;
const SECTOR: usize = 4096;
const LOG_START: u64 = 64;
const LOG_SECTORS: u64 = 2048;
const PASSPHRASE: &[u8] = b"passphrase";
const KIND: ItemKind = ItemKind::FIRST_FREE;
const BLOCKS: u64 = 5;
const BLOCK_SECTORS: usize = 8;

/// What each block is: one item, and its sectors.
type Contents = BTreeMap<BlockId, (Vec<u8>, Vec<Vec<u8>>)>;

/// A store whose log holds records, and the tree after each of them.
struct Scene {
    image: Image,
    states: BTreeMap<u64, Contents>,
    /// Of each record its sector.
    records: BTreeMap<u64, u64>,
}

fn options() -> OpenOptions {
    OpenOptions { background: false, ..OpenOptions::default() }
}

fn device(image: &Image) -> Arc<FaultyDevice> {
    Arc::new(FaultyDevice::from_image(image.clone(), 0))
}

fn open(device: &Arc<FaultyDevice>) -> Result<Store, OpenError> {
    Store::open(device.clone(), PASSPHRASE, &options())
}

fn run(device: &Arc<FaultyDevice>, repair: bool) -> CheckReport {
    check(device.clone(), PASSPHRASE, &CheckOptions { repair }, &mut |done, total| assert!(done <= total))
        .unwrap()
}

fn assert_clean(device: &Arc<FaultyDevice>) {
    let report = run(device, false);
    assert_eq!((report.problems, report.notes, report.lost), (vec![], vec![], vec![]));
}

fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut rng = SplitMix64(seed);
    (0..bytes / 8).flat_map(|_| (rng.next_u64() | 1).to_le_bytes()).collect()
}

fn record(image: &Image, sector: u64) -> Option<RecordHeader> {
    RecordHeader::decode(&image.sector(LOG_START + sector)).ok()
}

/// Makes `count` records, each of which changes one or two blocks. With `full`, there is so little space that what is freed
/// is soon used again.
fn scene(count: u64, full: bool) -> Scene {
    let device = Arc::new(FaultyDevice::new(SECTORS, 0));
    let create = CreateOptions { capacity_sectors: SECTORS, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options()).unwrap();
    let mut transaction = store.transaction();
    let blocks: Vec<Block> = (0..BLOCKS).map(|_| transaction.create(b"block")).collect();
    transaction.apply().unwrap();
    let mut contents = Contents::new();
    for block in &blocks {
        change(&store, block, 0, &mut contents);
        let rest = &pattern(7, BLOCK_SECTORS * SECTOR);
        let mut transaction = store.transaction();
        transaction.write(block, 0, rest).unwrap();
        transaction.apply().unwrap();
        contents.get_mut(&block.id()).unwrap().1 = rest.chunks(SECTOR).map(<[u8]>::to_vec).collect();
    }
    if full {
        let mut transaction = store.transaction();
        let filler = transaction.create(b"filler");
        transaction.apply().unwrap();
        store.checkpoint().unwrap();
        let free = store.usage().free as usize - 200;
        for from in (0..free).step_by(64) {
            let mut transaction = store.transaction();
            let bytes = pattern(3, 64.min(free - from) * SECTOR);
            transaction.write(&filler, (from * SECTOR) as u64, &bytes).unwrap();
            transaction.apply().unwrap();
        }
    }
    store.checkpoint().unwrap();
    let mut states = BTreeMap::from([(store.info().seq, contents.clone())]);
    for number in 0..count {
        change(&store, &blocks[(number % BLOCKS) as usize], number, &mut contents);
        if number % 3 == 0 {
            change(&store, &blocks[(number * 7 % BLOCKS) as usize], number + 1000, &mut contents);
        }
        store.sync(store.newest()).unwrap();
        states.insert(store.info().seq, contents.clone());
    }
    let image = device.image();
    let place = |sector| Some((record(&image, sector)?.seq.get(), sector));
    let mut records: BTreeMap<u64, u64> = (0..LOG_SECTORS).filter_map(place).collect();
    records.retain(|seq, _| states.contains_key(seq) && states.first_key_value().unwrap().0 < seq);
    assert_eq!(records.len() as u64, count);
    Scene { image, states, records }
}

fn change(store: &Store, block: &Block, number: u64, contents: &mut Contents) {
    let mut transaction = store.transaction();
    let (item, at) = (number.to_le_bytes().to_vec(), number as usize % (BLOCK_SECTORS - 2));
    let bytes = pattern(number, 3 * SECTOR);
    transaction.put(block, KIND, 1, b"", &item);
    transaction.write(block, (at * SECTOR) as u64, &bytes).unwrap();
    transaction.apply().unwrap();
    let content = contents.entry(block.id()).or_default();
    content.0 = item;
    content.1.resize(BLOCK_SECTORS, vec![0; SECTOR]);
    for (sector, bytes) in content.1[at..].iter_mut().zip(bytes.chunks(SECTOR)) {
        *sector = bytes.to_vec();
    }
}

/// Everything is as it was, but sectors that answer with an error: how many.
fn compare(store: &Store, contents: &Contents) -> usize {
    let mut damaged = 0;
    for (id, (item, sectors)) in contents {
        let block = store.block(*id).unwrap().unwrap();
        assert_eq!(store.get(&block, KIND, 1).unwrap().unwrap().secret[..], item[..], "item of block {id}");
        for (at, expected) in sectors.iter().enumerate() {
            let mut bytes = vec![0; SECTOR];
            match store.read(&block, (at * SECTOR) as u64, &mut bytes) {
                Ok(()) => assert!(bytes == *expected, "sector {at} of block {id}"),
                Err(Error::Corrupt { .. }) => damaged += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    damaged
}

/// The store takes changes, and no old record comes back.
fn go_on(device: &Arc<FaultyDevice>, times: u8) {
    for number in 0..times {
        let store = open(device).unwrap();
        let block = store.block(1).unwrap().unwrap();
        for item in 0..3 {
            let mut transaction = store.transaction();
            transaction.put(&block, KIND, 100 + item, b"", &[number]);
            store.sync(transaction.apply().unwrap()).unwrap();
        }
        drop(store);
    }
    let store = open(device).unwrap();
    let block = store.block(1).unwrap().unwrap();
    assert_eq!(store.get(&block, KIND, 101).unwrap().unwrap().secret[..], [times - 1]);
}

#[test]
fn damage_in_the_log_is_given_up_by_a_repair_alone() {
    let Scene { image, states, records } = scene(24, false);
    let last = *records.last_key_value().unwrap().0;
    assert_clean(&device(&image));
    for (seq, sector) in &records {
        let device = device(&image);
        device.flip_bit(LOG_START + sector, 8 * 99);
        if *seq == last {
            // It looks like one that a crash tore.
            assert_clean(&device);
            assert_eq!(compare(&open(&device).unwrap(), &states[&(seq - 1)]), 0);
            continue;
        }
        let refused = open(&device).err();
        assert!(matches!(&refused, Some(OpenError::Log { seq: at, .. }) if at == seq), "{refused:?}");
        let (events, before) = (device.events(), run(&device, false));
        assert_eq!((before.repaired, before.damage_left), (0, 1), "{before:?}");
        assert_eq!(device.events(), events, "a check writes nothing");
        let lost: Vec<u64> = before.lost.iter().map(|record| record.seq).collect();
        assert_eq!(lost, (seq + 1..=last).collect::<Vec<_>>());
        assert!(before.lost.iter().all(|record| !record.blocks.is_empty() && record.time_ns > 0));

        let report = run(&device, true);
        assert_eq!((report.repaired, report.damage_left), (1, 0), "{report:?}");
        assert_eq!(report.lost, before.lost);
        assert_clean(&device);
        assert_eq!(compare(&open(&device).unwrap(), &states[&(seq - 1)]), 0);
        go_on(&device, 12);
        assert_clean(&device);
    }
}

/// What was read back once, or stood there for a while, is not taken for a torn tail any more.
fn assert_last_record_counts(image: &Image, records: &BTreeMap<u64, u64>, state: &Contents) {
    let (last, sector) = records.last_key_value().unwrap();
    let damaged = device(image);
    damaged.flip_bit(LOG_START + sector, 8 * 99);
    let refused = open(&damaged).err();
    assert!(matches!(&refused, Some(OpenError::Log { seq, .. }) if seq == last), "{refused:?}");

    let whole = device(image);
    assert_eq!(compare(&open(&whole).unwrap(), state), 0);
    // Once more says nothing new.
    let events = whole.events();
    drop(open(&whole).unwrap());
    assert_eq!(whole.events(), events + 1, "a flush");
}

#[test]
fn what_a_mount_has_shown_is_not_taken_for_torn() {
    let Scene { image, states, records } = scene(6, false);
    let device = device(&image);
    drop(open(&device).unwrap());
    assert_last_record_counts(&device.image(), &records, states.last_key_value().unwrap().1);
}

#[test]
fn what_stood_for_seconds_is_not_taken_for_torn() {
    let device = Arc::new(FaultyDevice::new(SECTORS, 0));
    let create = CreateOptions { capacity_sectors: SECTORS, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), PASSPHRASE, &create, &OpenOptions::default()).unwrap();
    let mut transaction = store.transaction();
    let block = transaction.create(b"block");
    transaction.apply().unwrap();
    store.checkpoint().unwrap();
    let mut contents = Contents::new();
    change(&store, &block, 0, &mut contents);
    store.sync(store.newest()).unwrap();
    let last = store.info().seq;
    let find = |image: &Image, seq| {
        (0..LOG_SECTORS).find(|sector| record(image, *sector).is_some_and(|head| head.seq.get() == seq))
    };
    let mut tries = (0..1200).map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        device.image()
    });
    let image = tries.find(|image| find(image, last + 1).is_some());
    let image = image.expect("another record within a minute");
    let records = BTreeMap::from([(last, find(&image, last).unwrap())]);
    assert_last_record_counts(&image, &records, &contents);
}

#[test]
fn no_bit_of_a_record_may_be_another() {
    let Scene { image, records, .. } = scene(6, false);
    let (seq, sector) = records.iter().nth(2).unwrap();
    let head = size_of::<RecordHeader>();
    // All of the head, whatever it is for, and some of the rest.
    for byte in (0..head).chain((head..SECTOR).step_by(61)) {
        let device = device(&image);
        device.flip_bit(LOG_START + sector, 8 * byte + byte % 8);
        let refused = open(&device).err();
        assert!(
            matches!(&refused, Some(OpenError::Log { seq: at, .. }) if at == seq),
            "byte {byte}: {refused:?}"
        );
    }
}

#[test]
fn what_was_used_again_is_an_error_and_not_other_bytes() {
    let Scene { image, states, records } = scene(120, true);
    let mut damaged = 0;
    for (seq, sector) in records.iter().step_by(5).take(20) {
        let device = device(&image);
        device.flip_bit(LOG_START + sector, 8 * 99);
        let report = run(&device, true);
        let now = compare(&open(&device).unwrap(), &states[&(seq - 1)]);
        assert_eq!(report.damage_left > 0, now > 0, "{report:?}");
        let left = report.problems.iter().filter(|problem| !problem.repaired);
        assert!(
            left.into_iter().all(|problem| problem.block.is_some() && problem.what.contains("the data at"))
        );
        damaged += now;
    }
    assert!(damaged > 0, "nothing was used again");
}

#[test]
fn a_crash_at_any_moment_of_the_repair_leaves_it_to_be_done() {
    let Scene { image, states, records } = scene(30, true);
    let mut rng = SplitMix64(5);
    let mut tried = 0;
    for seq in records.keys().step_by(9).take(2) {
        let device = device(&image);
        device.flip_bit(LOG_START + records[seq], 8 * 99);
        device.capture_all();
        run(&device, true);
        let points = device.take_captures();
        for (index, point) in points.iter().enumerate() {
            // Of what stands between two flushes, the last shows all.
            let is_last = points.get(index + 1).is_none_or(|next| next.flushes() > point.flushes());
            if !is_last {
                continue;
            }
            for survivors in point.choices(3, 3, &mut rng) {
                let device = self::device(&point.image(survivors));
                let what = format!("record {seq}, point {index}, {survivors:?}");
                match open(&device) {
                    Ok(store) => drop(compare(&store, &states[&(seq - 1)])),
                    Err(OpenError::Log { .. }) => drop(run(&device, true)),
                    Err(error) => panic!("{what}: {error}"),
                }
                compare(&open(&device).unwrap(), &states[&(seq - 1)]);
                go_on(&device, 4);
                let left = run(&device, false).problems;
                assert!(left.iter().all(|problem| problem.what.contains("the data at")), "{what}: {left:?}");
                tried += 1;
            }
        }
    }
    assert!(tried > 50, "{tried}");
}

#[test]
fn a_sector_of_the_log_that_cannot_be_read_is_mended() {
    let Scene { image, states, records } = scene(12, false);
    let (seq, sector) = records.iter().nth(6).unwrap();
    let last = *records.last_key_value().unwrap().0;
    // In the middle, behind the end, and nowhere near.
    for (sector, kept) in [(*sector, seq - 1), (records[&last] + 40, last), (records[&last] + 1500, last)] {
        let device = device(&image);
        device.break_sector(LOG_START + sector);
        let opened = open(&device);
        assert_eq!(opened.is_ok(), sector == records[&last] + 1500, "{:?}", opened.err());
        let report = run(&device, true);
        assert_eq!(report.damage_left, 0, "{report:?}");
        assert_eq!(compare(&open(&device).unwrap(), &states[&kept]), 0);
        go_on(&device, 12);
        assert_clean(&device);
    }
}

#[test]
fn a_damaged_log_and_a_damaged_index_are_given_up_together() {
    let Scene { image, states, records } = scene(30, false);
    let (seq, sector) = records.iter().nth(11).unwrap();
    // Where nodes are, or were.
    let nodes: Vec<u64> = (LOG_START + LOG_SECTORS + 32..LOG_START + LOG_SECTORS + 1024)
        .step_by(4)
        .filter(|sector| image.sector(*sector) != [0; SECTOR])
        .collect();
    let mut salvaged = 0;
    for node in nodes {
        let device = device(&image);
        device.flip_bit(LOG_START + sector, 8 * 99);
        device.flip_bit(node, 1000);
        let report = run(&device, true);
        assert!(report.repaired > 0, "{report:?}");
        salvaged += u64::from(report.problems.iter().any(|problem| problem.what.contains("index")));
        assert_clean(&device);
        let store = open(&device).unwrap();
        for id in states[&(seq - 1)].keys() {
            let _ = store.block(*id).unwrap();
        }
    }
    assert!(salvaged > 0);
}
