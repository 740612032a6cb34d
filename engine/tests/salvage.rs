//! A store of which parts are destroyed: after a repair it is consistent and takes changes, and whatever it still shows is
//! what was there.

use std::collections::BTreeMap;
use std::sync::Arc;

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{FaultyDevice, Image, SplitMix64};
use blocktree_engine::format::{BlockId, ItemKind};
use blocktree_engine::{CheckOptions, CheckReport, CreateOptions, OpenOptions, Store, check};

const SECTORS: u64 = 8192;
const SECTOR: usize = 4096;
const PASSPHRASE: &[u8] = b"passphrase";
const KIND: ItemKind = ItemKind::FIRST_FREE;
const LOG_END: u64 = 64 + 2048 + 16;
const BLOCKS: u64 = 60;
const SNAPSHOT: &str = "snapshot";

/// What a block is: attributes, items, and sectors, of which some are holes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Content {
    attributes: Vec<u8>,
    items: BTreeMap<u64, Vec<u8>>,
    sectors: Vec<Vec<u8>>,
}

type Contents = BTreeMap<BlockId, Content>;

fn options(snapshot: Option<&str>) -> OpenOptions {
    OpenOptions {
        background: false,
        cache_bytes: 1 << 20,
        snapshot: snapshot.map(str::to_owned),
        ..OpenOptions::default()
    }
}

fn device(image: &Image) -> Arc<FaultyDevice> {
    Arc::new(FaultyDevice::from_image(image.clone(), 0))
}

fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut rng = SplitMix64(seed);
    let words = bytes.div_ceil(8);
    // No byte is zero, so that a hole is not taken for data.
    let mut pattern: Vec<u8> =
        (0..words).flat_map(|_| (rng.next_u64() | 0x0101_0101_0101_0101).to_le_bytes()).collect();
    pattern.truncate(bytes);
    pattern
}

/// Blocks of which some are long, some fragmented, some share sectors and some have many items.
fn build(with_snapshot: bool) -> (Image, Vec<BlockId>) {
    let device = Arc::new(FaultyDevice::new(SECTORS, 0));
    let create = CreateOptions { capacity_sectors: SECTORS, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options(None)).unwrap();
    let mut blocks = Vec::new();
    for number in 0..BLOCKS {
        let mut transaction = store.transaction();
        let block = transaction.create(&pattern(number, 100));
        match number % 4 {
            0 => transaction.write(&block, 0, &pattern(number, 30 * SECTOR)).unwrap(),
            1 => (0..20).for_each(|n| {
                transaction.write(&block, n * 3 * SECTOR as u64, &pattern(n, SECTOR)).unwrap();
            }),
            2 => {
                transaction.write(&block, 5 * SECTOR as u64, &pattern(number, 4 * SECTOR)).unwrap();
            }
            _ => (0..12).for_each(|n| transaction.put(&block, KIND, n * 7, b"clear", &pattern(n, 600))),
        }
        transaction.apply().unwrap();
        blocks.push(block);
    }
    store.sync(store.newest()).unwrap();
    store.checkpoint().unwrap();
    let mut transaction = store.transaction();
    transaction.clone_range(&blocks[0], 3, &blocks[2], 40, 10).unwrap();
    transaction.clone_range(&blocks[4], 0, &blocks[6], 20, 20).unwrap();
    transaction.apply().unwrap();
    if with_snapshot {
        store.snapshot_create(SNAPSHOT).unwrap();
    }
    for number in (0..BLOCKS as usize).step_by(5) {
        let mut transaction = store.transaction();
        transaction.write(&blocks[number], 2 * SECTOR as u64, &pattern(99, 2 * SECTOR)).unwrap();
        transaction.apply().unwrap();
    }
    store.sync(store.newest()).unwrap();
    store.checkpoint().unwrap();
    let mut transaction = store.transaction();
    transaction.write(&blocks[8], 7 * SECTOR as u64, &pattern(77, SECTOR)).unwrap();
    store.sync(transaction.apply().unwrap()).unwrap();
    (device.image(), blocks.iter().map(|block| block.id()).collect())
}

/// All that can be read, with nothing in the place of what cannot.
fn contents(store: &Store, blocks: &[BlockId]) -> Contents {
    let mut contents = Contents::new();
    for id in blocks {
        let Ok(Some(block)) = store.block(*id) else { continue };
        let attributes = store.attributes(&block).map_or(Vec::new(), |attributes| attributes.to_vec());
        let items = store.scan(&block, KIND, 0, 1000).unwrap_or_default();
        let items = items.into_iter().map(|(offset, item)| (offset, item.secret.to_vec())).collect();
        let mut sectors = Vec::new();
        for sector in 0..70 {
            let mut bytes = vec![0; SECTOR];
            let read = store.read(&block, sector * SECTOR as u64, &mut bytes);
            sectors.push(read.map_or(Vec::new(), |()| bytes));
        }
        contents.insert(*id, Content { attributes, items, sectors });
    }
    contents
}

/// Everything in `now` is true; what of `before` is not in it.
fn missing(now: &Contents, before: &Contents) -> u64 {
    let mut missing = 0;
    for (id, before) in before {
        let Some(now) = now.get(id) else {
            missing += 1;
            continue;
        };
        assert_eq!(now.attributes, before.attributes, "attributes of block {id}");
        for (offset, item) in &now.items {
            assert_eq!(before.items.get(offset), Some(item), "item {offset} of block {id}");
        }
        missing += (before.items.len() - now.items.len()) as u64;
        for (at, (now, before)) in now.sectors.iter().zip(&before.sectors).enumerate() {
            assert!(now.is_empty() || now == before, "sector {at} of block {id}");
            missing += u64::from(now.is_empty());
        }
    }
    missing
}

fn run(device: &Arc<FaultyDevice>, repair: bool) -> CheckReport {
    check(device.clone(), PASSPHRASE, &CheckOptions { repair }, &mut |_, _| {}).unwrap()
}

/// Problems that are not data which is not what was written.
fn beside_data(report: &CheckReport) -> Vec<&str> {
    let problems = report.problems.iter().filter(|problem| !problem.repaired);
    problems.map(|problem| &problem.what[..]).filter(|what| !what.contains("the data at sector")).collect()
}

fn in_use(image: &Image) -> Vec<u64> {
    (LOG_END..SECTORS).filter(|sector| image.sector(*sector) != [0; SECTOR]).collect()
}

fn damage(image: &Image, sectors: &[u64]) -> Image {
    let mut damaged = image.clone();
    for sector in sectors {
        let mut bytes = image.sector(*sector);
        bytes[1000] ^= 4;
        damaged.set_sector(*sector, bytes);
    }
    damaged
}

/// Repairs, and looks at what is left; whether anything was given up.
fn repair(image: &Image, blocks: &[BlockId], before: &Contents, sectors: &[u64]) -> bool {
    let device = device(&damage(image, sectors));
    let report = run(&device, true);
    let after = run(&device, false);
    assert_eq!(beside_data(&after), [""; 0], "{sectors:?}: {report:#?}, then {after:#?}");
    let store = Store::open(device.clone(), PASSPHRASE, &options(None)).unwrap();
    let now = contents(&store, blocks);
    let gone = missing(&now, before);
    let is_reported = !report.problems.is_empty();
    assert!(gone == 0 || is_reported, "{sectors:?}");

    // It takes changes, where data was lost too.
    for id in now.keys() {
        let block = store.block(*id).unwrap().unwrap();
        let mut transaction = store.transaction();
        transaction.write(&block, 0, &pattern(*id, 50 * SECTOR)).unwrap();
        transaction.put(&block, KIND, 3, b"", b"new");
        transaction.apply().unwrap();
    }
    store.checkpoint().unwrap();
    for (number, id) in now.keys().enumerate() {
        let block = store.block(*id).unwrap().unwrap();
        let mut bytes = vec![0; 50 * SECTOR];
        store.read(&block, 0, &mut bytes).unwrap();
        assert_eq!(bytes, pattern(*id, 50 * SECTOR));
        if number % 2 == 0 {
            let mut transaction = store.transaction();
            transaction.destroy(&block);
            transaction.apply().unwrap();
        }
    }
    store.reclaim().unwrap();
    store.close().unwrap();
    assert_eq!(beside_data(&run(&device, false)), [""; 0], "{sectors:?}");
    report.repaired > 0 && gone > 0
}

#[test]
fn any_one_sector_destroyed_is_repaired() {
    let (image, blocks) = build(false);
    let before = contents(&Store::open(device(&image), PASSPHRASE, &options(None)).unwrap(), &blocks);
    assert_eq!(missing(&before, &before), 0);
    let mut given_up = 0;
    let sectors = in_use(&image);
    // Every node has four: one of them is enough. Of data, a part.
    let is_node = |sector: &u64| *sector < LOG_END + 1024;
    for sector in sectors.iter().filter(|sector| *sector % if is_node(sector) { 4 } else { 64 } == 1) {
        given_up += u32::from(repair(&image, &blocks, &before, &[*sector]));
    }
    assert!(given_up >= 8, "{given_up} of {}", sectors.len());
}

#[test]
fn several_sectors_destroyed_are_repaired() {
    let (image, blocks) = build(false);
    let before = contents(&Store::open(device(&image), PASSPHRASE, &options(None)).unwrap(), &blocks);
    let sectors = in_use(&image);
    let mut rng = SplitMix64(std::env::var("BLOCKTREE_SEED").map_or(1, |seed| seed.parse().unwrap()));
    println!("seed {}", rng.0);
    for _ in 0..20 {
        let count = 1 + rng.below(40);
        let chosen: Vec<u64> =
            (0..count).map(|_| sectors[rng.below(sectors.len() as u64) as usize]).collect();
        repair(&image, &blocks, &before, &chosen);
    }
}

/// What only a snapshot holds stays damaged; the newest tree is repaired all the same.
#[test]
fn damage_beside_a_snapshot_is_repaired_or_left_but_never_made_up() {
    let (image, blocks) = build(true);
    let open = |device: Arc<FaultyDevice>, snapshot| Store::open(device, PASSPHRASE, &options(snapshot));
    let before = contents(&open(device(&image), None).unwrap(), &blocks);
    let held = contents(&open(device(&image), Some(SNAPSHOT)).unwrap(), &blocks);
    let mut left = 0;
    for sector in in_use(&image).iter().filter(|sector| *sector % 16 == 1) {
        let device = device(&damage(&image, &[*sector]));
        run(&device, true);
        left += u64::from(run(&device, false).damage_left > 0);
        let store = open(device.clone(), None).unwrap();
        let now = contents(&store, &blocks);
        missing(&now, &before);
        if let Ok(snapshot) = open(device.clone(), Some(SNAPSHOT)) {
            missing(&contents(&snapshot, &blocks), &held);
        }
        for id in now.keys() {
            let block = store.block(*id).unwrap().unwrap();
            let mut transaction = store.transaction();
            transaction.write(&block, 0, &pattern(*id, 50 * SECTOR)).unwrap();
            transaction.apply().unwrap();
        }
        store.close().unwrap();
        // What was written since harms what the snapshot holds as little as before.
        if let Ok(snapshot) = open(device.clone(), Some(SNAPSHOT)) {
            missing(&contents(&snapshot, &blocks), &held);
        }
        let store = open(device.clone(), None).unwrap();
        let now = contents(&store, &blocks);
        for (id, content) in &now {
            assert_eq!(content.sectors[..50].concat(), pattern(*id, 50 * SECTOR), "sector {sector}");
        }
    }
    assert!(left > 0);
}
