//! Units of more than one sector: whatever is cut, cloned or punched, what is read is what was written.

use std::sync::Arc;

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::MemoryDevice;
use blocktree_engine::{Block, CheckOptions, CreateOptions, Error, OpenOptions, Store, check};

const SECTORS: u64 = 64 * 256;
const SECTOR: u64 = 4096;
const PASSPHRASE: &[u8] = b"units";
/// What the model knows of a block.
const BLOCK_SECTORS: u64 = 200;

fn options() -> OpenOptions {
    OpenOptions { background: false, ..OpenOptions::default() }
}

fn create(device: &Arc<MemoryDevice>) -> Store {
    let create = CreateOptions { capacity_sectors: SECTORS, kdf: KdfCost::TRIVIAL };
    Store::create_with(device.clone(), PASSPHRASE, &create, &options()).unwrap()
}

fn open(device: &Arc<MemoryDevice>) -> Store {
    Store::open(device.clone(), PASSPHRASE, &options()).unwrap()
}

fn make_block(store: &Store, unit: u64) -> Block {
    let mut transaction = store.transaction();
    let block = transaction.create(b"attributes");
    transaction.set_unit(&block, unit);
    transaction.apply().unwrap();
    block
}

fn write(store: &Store, block: &Block, offset: u64, bytes: &[u8]) {
    let mut transaction = store.transaction();
    transaction.write(block, offset, bytes).unwrap();
    transaction.apply().unwrap();
}

fn read(store: &Store, block: &Block, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0xEE; length];
    store.read(block, offset, &mut bytes).map(|()| bytes)
}

fn pattern(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(seed | 1) >> 5) as u8 ^ seed as u8).collect()
}

fn check_is_clean(device: &Arc<MemoryDevice>) {
    let report = check(device.clone(), PASSPHRASE, &CheckOptions::default(), &mut |_, _| {}).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Random writes, cuts, clones and snapshots on blocks of all units, beside a model that is bytes.
#[test]
fn blocks_of_all_units_are_what_was_written() {
    for seed in 1..=12 {
        println!("seed {seed}");
        run(seed);
    }
}

fn run(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let device = Arc::new(MemoryDevice::new(SECTORS));
    let mut store = create(&device);
    let ids: Vec<u64> = [1, 2, 8, 32].map(|unit| make_block(&store, unit).id()).to_vec();
    let mut model = vec![vec![0; (BLOCK_SECTORS * SECTOR) as usize]; ids.len()];
    let mut before = None;
    for step in 0..400 {
        let blocks: Vec<Block> = ids.iter().map(|id| store.block(*id).unwrap().unwrap()).collect();
        let which = random.below(ids.len() as u64) as usize;
        let (block, bytes) = (&blocks[which], &mut model[which]);
        match random.below(12) {
            // Long enough to be sealed at once.
            0..=2 => {
                let from = random.below(BLOCK_SECTORS - 64);
                let length = ((16 + random.below(48)) * SECTOR) as usize;
                let new = pattern(seed * 1000 + step, length);
                write(&store, block, from * SECTOR, &new);
                bytes[(from * SECTOR) as usize..][..length].copy_from_slice(&new);
            }
            3..=5 => {
                let offset = random.below((BLOCK_SECTORS - 8) * SECTOR);
                let length = 1 + random.below(4 * SECTOR) as usize;
                let new = pattern(seed * 1000 + step, length);
                write(&store, block, offset, &new);
                bytes[offset as usize..][..length].copy_from_slice(&new);
            }
            6..=7 => {
                let from = random.below(BLOCK_SECTORS);
                let to = from + 1 + random.below(BLOCK_SECTORS - from);
                let to_end = random.below(3) == 0;
                let mut transaction = store.transaction();
                transaction.punch(block, from, if to_end { u64::MAX / SECTOR } else { to }).unwrap();
                transaction.apply().unwrap();
                let to = if to_end { BLOCK_SECTORS } else { to };
                bytes[(from * SECTOR) as usize..(to * SECTOR) as usize].fill(0);
            }
            8..=9 => {
                let source = random.below(ids.len() as u64) as usize;
                let length = 1 + random.below(60);
                let (from, to) = (random.below(BLOCK_SECTORS - length), random.below(BLOCK_SECTORS - length));
                if source == which && from.abs_diff(to) < length {
                    continue;
                }
                let mut transaction = store.transaction();
                transaction.clone_range(&blocks[source], from, block, to, length).unwrap();
                transaction.apply().unwrap();
                let cloned = model[source][(from * SECTOR) as usize..][..(length * SECTOR) as usize].to_vec();
                model[which][(to * SECTOR) as usize..][..cloned.len()].copy_from_slice(&cloned);
            }
            10 => match random.below(4) {
                0 => store.checkpoint().unwrap(),
                1 => store.sync(store.newest()).unwrap(),
                2 if before.is_none() => {
                    store.snapshot_create("before").unwrap();
                    before = Some(model.clone());
                }
                _ => store.reclaim().unwrap(),
            },
            // The machine stops: what is not durable may be lost, so make it so first.
            _ => {
                store.sync(store.newest()).unwrap();
                drop(blocks);
                drop(store);
                store = open(&device);
            }
        }
        let which = random.below(ids.len() as u64) as usize;
        let offset = random.below((BLOCK_SECTORS - 1) * SECTOR);
        let length = 1 + random.below(BLOCK_SECTORS * SECTOR - offset) as usize;
        let block = store.block(ids[which]).unwrap().unwrap();
        let found =
            read(&store, &block, offset, length).unwrap_or_else(|e| panic!("seed {seed}, step {step}: {e}"));
        assert!(found == model[which][offset as usize..][..length], "seed {seed}, step {step}");
    }
    store.close().unwrap();
    check_is_clean(&device);
    if let Some(before) = before {
        let held = OpenOptions { snapshot: Some("before".into()), read_only: true, ..options() };
        let store = Store::open(device.clone(), PASSPHRASE, &held).unwrap();
        for (id, model) in ids.iter().zip(&before) {
            let block = store.block(*id).unwrap().unwrap();
            assert!(read(&store, &block, 0, model.len()).unwrap() == *model, "seed {seed}");
        }
    }
}

#[test]
fn a_changed_sector_spoils_its_unit_and_nothing_else() {
    let device = Arc::new(MemoryDevice::new(SECTORS));
    let store = create(&device);
    let block = make_block(&store, 8);
    let marked = pattern(77, (32 * SECTOR) as usize);
    write(&store, &block, 0, &marked);
    store.close().unwrap();

    let before = device.snapshot();
    // Where the data is: the sectors that change when one hash more is wrong.
    let mut spoilt = 0;
    for sector in 0..SECTORS {
        let bytes = &before[(sector * SECTOR) as usize..][..SECTOR as usize];
        if bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        let mut changed = before.clone();
        changed[(sector * SECTOR) as usize + 9] ^= 1;
        let damaged = Arc::new(MemoryDevice::from_bytes(changed));
        let Ok(store) = Store::open(damaged, PASSPHRASE, &options()) else { continue };
        let Ok(Some(block)) = store.block(block.id()) else { continue };
        let good: Vec<bool> = (0..32)
            .map(|at| match read(&store, &block, at * SECTOR, SECTOR as usize) {
                Ok(found) => {
                    assert!(found == marked[(at * SECTOR) as usize..][..SECTOR as usize]);
                    true
                }
                Err(_) => false,
            })
            .collect();
        let bad = good.iter().filter(|good| !**good).count();
        if bad == 8 {
            let first = good.iter().position(|good| !good).unwrap();
            assert!(first % 8 == 0 && good[first..first + 8].iter().all(|good| !good));
            // What cannot be verified is not cut either: nothing changes.
            let mut transaction = store.transaction();
            assert!(transaction.write(&block, (first as u64 + 3) * SECTOR, &[1; 4096]).is_err());
            assert!(transaction.punch(&block, 0, first as u64 + 3).is_err());
            spoilt += 1;
        }
    }
    assert_eq!(spoilt, 32);
}

#[test]
fn a_unit_saves_hashes_and_stays_with_its_block() {
    let length = 16 << 20;
    let held = [1, 32].map(|unit| {
        let device = Arc::new(MemoryDevice::new(SECTORS));
        let store = create(&device);
        let block = make_block(&store, unit);
        write(&store, &block, 0, &pattern(3, length));
        let id = block.id();
        drop(block);
        store.close().unwrap();
        let store = open(&device);
        let block = store.block(id).unwrap().unwrap();
        assert_eq!(block.unit(), unit);
        assert_eq!(read(&store, &block, 12_345, 1).unwrap(), [pattern(3, length)[12_345]]);
        let image = device.snapshot();
        image.chunks_exact(SECTOR as usize).filter(|bytes| bytes.iter().any(|byte| *byte != 0)).count()
    });
    // 32 bytes for each of 4096 sectors, and for each of 128 units: nodes of four sectors, and records.
    assert!(held[1] + 4 * 4 <= held[0], "{held:?}");
}
