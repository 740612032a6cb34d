//! Real threads on a store with its background work: each changes and verifies blocks of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{MemoryDevice, SplitMix64};
use blocktree_engine::{Block, CreateOptions, Error, OpenOptions, SnapshotError, Store};

use crate::model::{BlockModel, KIND, PASSPHRASE, SECTOR, Tree, compare};
use crate::runner::{Tally, variable};

const THREADS: u64 = 4;
const BLOCKS_EACH: usize = 3;
const SECTORS: u64 = 700;
/// Longer than any step may take: then threads wait for each other.
const PATIENCE: Duration = Duration::from_secs(60);

struct Worker {
    rng: SplitMix64,
    store: Store,
    blocks: Vec<(Block, BlockModel)>,
}

impl Worker {
    fn step(&mut self) -> Result<(), Error> {
        let at = self.rng.below(BLOCKS_EACH as u64) as usize;
        let (block, model) = &mut self.blocks[at];
        let mut next = model.clone();
        let mut transaction = self.store.transaction();
        match self.rng.below(20) {
            0..10 => {
                let sector = self.rng.below(SECTORS);
                let sectors = if self.rng.one_in(3) { self.rng.below(100) } else { self.rng.below(3) };
                let mut bytes = vec![self.rng.next_u64() as u8; sectors as usize * SECTOR + 1];
                bytes.truncate(bytes.len() - self.rng.below(2) as usize);
                transaction.write(block, sector * SECTOR as u64, &bytes)?;
                next.write(sector * SECTOR as u64, &bytes);
            }
            10 => {
                let from = self.rng.below(SECTORS);
                let to = if self.rng.one_in(2) { u64::MAX / 4096 } else { from + 60 };
                transaction.punch(block, from, to)?;
                next.punch(from, to);
            }
            11 => {
                let (from, count) = (self.rng.below(SECTORS / 2), 1 + self.rng.below(100));
                let to = from + count + self.rng.below(100);
                transaction.clone_range(&block.clone(), from, block, to, count)?;
                next.clone_range(model, from, to, count);
            }
            12..15 => {
                let offset = self.rng.below(40);
                let secret = vec![self.rng.next_u64() as u8; self.rng.below(2000) as usize];
                transaction.put(block, KIND, offset, b"", &secret);
                next.items.insert(offset, Arc::new((Vec::new(), secret)));
            }
            15 if self.rng.one_in(4) => {
                // Another block takes its place; a fragmented one dies in the background. Made first: where there
                // is no space for the new one, the old one stays.
                let fresh = transaction.create(b"");
                next = BlockModel::default();
                if self.rng.one_in(3) {
                    for index in 0..1200 {
                        transaction.write(&fresh, index * 2 * SECTOR as u64, &[7])?;
                        next.write(index * 2 * SECTOR as u64, &[7]);
                    }
                }
                transaction.apply()?;
                *model = next;
                let old = std::mem::replace(block, fresh);
                let mut transaction = self.store.transaction();
                transaction.destroy(&old);
                transaction.apply().expect("removing needs no space");
                return Ok(());
            }
            _ => return self.verify(at),
        }
        transaction.apply()?;
        *model = next;
        if self.rng.one_in(10) {
            self.store.sync(self.store.newest())?;
        }
        Ok(())
    }

    fn verify(&mut self, at: usize) -> Result<(), Error> {
        let (block, model) = &self.blocks[at];
        let first = self.rng.below(SECTORS);
        let mut bytes = vec![0xA5; 64 * SECTOR];
        self.store.read(block, first * SECTOR as u64, &mut bytes)?;
        for (index, found) in bytes.chunks_exact(SECTOR).enumerate() {
            let expected = model.pages.get(&(first + index as u64)).map_or([0; SECTOR], |page| **page);
            assert!(
                found == expected,
                "sector {} of {block:?}: {:?}… instead of {:?}…",
                first + index as u64,
                &found[..4],
                &expected[..4]
            );
        }
        let offset = self.rng.below(40);
        let item = self.store.get(block, KIND, offset)?.map(|item| item.secret.to_vec());
        assert_eq!(item, model.items.get(&offset).map(|item| item.1.clone()), "item {offset} of {block:?}");
        Ok(())
    }
}

/// Makes and deletes snapshots, checkpoints and flushes.
fn disturb(store: &Store, rng: &mut SplitMix64, names: &mut Vec<String>) -> Result<(), Error> {
    match rng.below(10) {
        0..3 => store.checkpoint(),
        3..5 if names.len() < 3 => {
            let name = format!("{}", rng.next_u64());
            match store.snapshot_create(&name) {
                Ok(()) => names.push(name),
                Err(SnapshotError::Store(error)) => return Err(error),
                Err(error) => panic!("{error}"),
            }
            Ok(())
        }
        5..7 if !names.is_empty() => {
            let name = names.swap_remove(rng.below(names.len() as u64) as usize);
            assert!(store.snapshot_delete(&name)?, "snapshot {name} is lost");
            Ok(())
        }
        _ => {
            thread::sleep(Duration::from_millis(rng.below(20)));
            Ok(())
        }
    }
}

fn run(seed: u64, duration: Duration) {
    let sectors = 192 * 256;
    let device = Arc::new(MemoryDevice::new(sectors));
    let create = CreateOptions { capacity_sectors: sectors, kdf: KdfCost::TRIVIAL };
    let options = OpenOptions { memtable_bytes: 256 << 10, cache_bytes: 1 << 20, ..OpenOptions::default() };
    let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options).unwrap();
    let empty = store.usage().used;
    let steps = AtomicU64::new(0);
    let finished = AtomicBool::new(false);
    let end = Instant::now() + duration;
    let mut tree = Tree::default();
    let mut refused = 0;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|number| {
                let (store, steps) = (store.clone(), &steps);
                scope.spawn(move || {
                    let mut worker = Worker {
                        rng: SplitMix64(seed * 1000 + number),
                        store: store.clone(),
                        blocks: Vec::new(),
                    };
                    for _ in 0..BLOCKS_EACH {
                        let mut transaction = store.transaction();
                        let block = transaction.create(b"");
                        transaction.apply().unwrap();
                        worker.blocks.push((block, BlockModel::default()));
                    }
                    let mut refused = 0;
                    while Instant::now() < end {
                        match worker.step() {
                            Ok(()) => {}
                            Err(Error::NoSpace) => refused += 1,
                            Err(error) => panic!("{error:?}"),
                        }
                        steps.fetch_add(1, Ordering::Relaxed);
                    }
                    (worker.blocks, refused)
                })
            })
            .collect();
        let disturber = scope.spawn(|| {
            let (mut rng, mut names) = (SplitMix64(seed), Vec::new());
            while Instant::now() < end {
                match disturb(&store, &mut rng, &mut names) {
                    Ok(()) | Err(Error::NoSpace) => {}
                    Err(error) => panic!("{error:?}"),
                }
                steps.fetch_add(1, Ordering::Relaxed);
            }
        });
        // A deadlock must end the test, not hang it.
        scope.spawn(|| {
            let (mut seen, mut since) = (0, Instant::now());
            while !finished.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(50));
                let now = steps.load(Ordering::Relaxed);
                if now != seen {
                    (seen, since) = (now, Instant::now());
                }
                if since.elapsed() > PATIENCE {
                    eprintln!("no step for {PATIENCE:?}: a deadlock");
                    std::process::abort();
                }
            }
        });
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        let disturbed = disturber.join();
        finished.store(true, Ordering::Relaxed);
        disturbed.unwrap();
        for result in results {
            let (blocks, count) = result.unwrap();
            refused += count;
            for (block, model) in blocks {
                // One whose replacement was refused is gone.
                if store.block(block.id()).unwrap().is_some() {
                    tree.insert(block.id(), Arc::new(model));
                }
            }
        }
    });
    let tally = Tally { histories: 1, operations: steps.into_inner(), refused, ..Tally::default() };
    tally.print("store threads", end - duration);
    compare(&store, &tree).unwrap();
    store.close().unwrap();
    let store = Store::open(device, PASSPHRASE, &options).unwrap();
    compare(&store, &tree).unwrap();
    let blocks: BTreeMap<u64, _> = tree.blocks;
    for id in blocks.keys() {
        let mut transaction = store.transaction();
        transaction.destroy(&store.block(*id).unwrap().unwrap());
        transaction.apply().unwrap();
    }
    for snapshot in store.snapshot_list() {
        store.snapshot_delete(&snapshot.name).unwrap();
    }
    for _ in 0..2 {
        store.reclaim().unwrap();
        store.checkpoint().unwrap();
    }
    let lost = store.usage().used - empty;
    assert!(lost < 60, "{lost} sectors are lost");
    store.close().unwrap();
}

#[test]
fn threads_see_their_own_writes() {
    let seconds = variable("BLOCKTREE_SIM_SECONDS").unwrap_or(5);
    run(variable("BLOCKTREE_SEED").unwrap_or(1), Duration::from_secs(seconds));
}
