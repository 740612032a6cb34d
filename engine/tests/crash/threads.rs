//! Crashes while threads change the store and its background works: what is recovered is one moment of all of them.
//!
//! Each thread has a block of its own and numbers its operations in it. The store gives every operation a place in
//! one order, so the numbers found after a crash must belong to one prefix of it, and that holds all that a
//! finished `sync` promised. A seed does not repeat these runs: the scheduler takes part.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{CrashPoint, FaultyDevice, Image, SplitMix64, Survivors};
use blocktree_engine::{Block, CreateOptions, Error, OpenOptions, SnapshotError, Store};

use crate::model::{BlockModel, COUNTER, KIND, PASSPHRASE, SECTOR, Tree, compare};
use crate::runner::{Tally, variable};

const THREADS: u64 = 3;
const SECTORS: u64 = 10_000;
const IMAGES: u64 = 6;

/// What one thread did: its block after each operation, and the place of that in the order of all.
struct Done {
    id: u64,
    states: Vec<(u64, Arc<BlockModel>)>,
}

/// What a crash would have met, and what was promised to be durable before.
struct Promised {
    point: CrashPoint,
    seq: u64,
}

fn options(background: bool) -> OpenOptions {
    OpenOptions { background, memtable_bytes: 128 << 10, cache_bytes: 1 << 20, ..OpenOptions::default() }
}

struct Worker<'a> {
    store: Store,
    block: Block,
    rng: SplitMix64,
    promised: &'a AtomicU64,
}

impl Worker<'_> {
    fn run(mut self, stop: &AtomicBool) -> Done {
        let mut states = vec![(0, Arc::new(BlockModel::default()))];
        while !stop.load(Ordering::Relaxed) {
            let mut model = states.last().map(|(_, model)| BlockModel::clone(model)).unwrap_or_default();
            let number = (states.len() as u64).to_le_bytes();
            let mut transaction = self.store.transaction();
            let built = self.change(&mut transaction, &mut model).map(|()| {
                transaction.put(&self.block, KIND, COUNTER, &number, b"");
                model.items.insert(COUNTER, Arc::new((number.to_vec(), Vec::new())));
            });
            match built.and_then(|()| transaction.apply()) {
                Ok(seq) => states.push((seq.0, Arc::new(model))),
                Err(Error::NoSpace) => continue,
                Err(error) => panic!("{error:?}"),
            }
            if self.rng.one_in(6) {
                let seq = self.store.newest();
                self.store.sync(seq).unwrap();
                self.promised.fetch_max(seq.0, Ordering::AcqRel);
            }
        }
        Done { id: self.block.id(), states }
    }

    fn change(
        &mut self,
        transaction: &mut blocktree_engine::Transaction,
        model: &mut BlockModel,
    ) -> Result<(), Error> {
        for _ in 0..1 + self.rng.below(3) {
            let sector = self.rng.below(150);
            match self.rng.below(8) {
                0 => {
                    transaction.punch(&self.block, sector, sector + 20)?;
                    model.punch(sector, sector + 20);
                }
                1..3 => {
                    let secret = vec![self.rng.next_u64() as u8; 3000];
                    let offset = self.rng.below(40);
                    transaction.put(&self.block, KIND, offset, b"", &secret);
                    model.items.insert(offset, Arc::new((Vec::new(), secret)));
                }
                kind => {
                    let sectors = if kind == 3 { 16 + self.rng.below(20) } else { 1 + self.rng.below(3) };
                    let bytes = vec![self.rng.next_u64() as u8; sectors as usize * SECTOR];
                    transaction.write(&self.block, sector * SECTOR as u64, &bytes)?;
                    model.write(sector * SECTOR as u64, &bytes);
                }
            }
        }
        Ok(())
    }
}

/// Makes and deletes a snapshot, checkpoints.
fn disturb(store: &Store, rng: &mut SplitMix64) {
    let result = match rng.below(6) {
        0 => store.checkpoint(),
        1 => match store.snapshot_create("pinned") {
            Ok(()) | Err(SnapshotError::Exists) => Ok(()),
            Err(SnapshotError::Store(error)) => Err(error),
            Err(error) => panic!("{error}"),
        },
        2 => store.snapshot_delete("pinned").map(drop),
        _ => {
            thread::sleep(Duration::from_millis(rng.below(5)));
            Ok(())
        }
    };
    if !matches!(result, Ok(()) | Err(Error::NoSpace)) {
        panic!("{result:?}");
    }
}

/// Runs threads for some time; what they did, and what crashes would have met.
fn history(seed: u64) -> (Vec<Done>, Vec<Promised>) {
    let mut rng = SplitMix64(seed);
    let device = Arc::new(FaultyDevice::new(SECTORS, rng.next_u64()));
    let create = CreateOptions { capacity_sectors: SECTORS, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options(true)).unwrap();
    device.reorder();
    let blocks: Vec<Block> = (0..THREADS)
        .map(|_| {
            let mut transaction = store.transaction();
            let block = transaction.create(b"");
            transaction.apply().unwrap();
            block
        })
        .collect();
    store.sync(store.newest()).unwrap();
    let (promised, stop) = (AtomicU64::new(store.newest().0), AtomicBool::new(false));
    let mut met = Vec::new();
    let done = thread::scope(|scope| {
        let workers: Vec<_> = blocks
            .into_iter()
            .map(|block| {
                let rng = SplitMix64(rng.next_u64());
                let worker = Worker { store: store.clone(), block, rng, promised: &promised };
                scope.spawn(|| worker.run(&stop))
            })
            .collect();
        let end = Instant::now() + Duration::from_millis(400);
        while Instant::now() < end && !workers.iter().any(|worker| worker.is_finished()) {
            let seq = promised.load(Ordering::Acquire);
            device.arm_capture(rng.below(40));
            for _ in 0..10 {
                disturb(&store, &mut rng);
            }
            met.extend(device.take_capture().map(|point| Promised { point, seq }));
        }
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    (done, met)
}

fn recover(image: Image, done: &[Done], promised: u64) -> Result<(), String> {
    let device = Arc::new(FaultyDevice::from_image(image, 0));
    let store = Store::open(device, PASSPHRASE, &options(false)).map_err(|error| format!("open: {error}"))?;
    // Everything up to `from` is there, nothing from `to` on.
    let (mut from, mut to) = (promised, u64::MAX);
    let mut tree = Tree::default();
    for Done { id, states } in done {
        let block = store.block(*id).map_err(|error| error.to_string())?.ok_or("a block is lost")?;
        let item = store.get(&block, KIND, COUNTER).map_err(|error| error.to_string())?;
        let number = item.map_or(0, |item| u64::from_le_bytes(item.clear[..].try_into().expect("8 bytes")));
        let (seq, model) = states.get(number as usize).ok_or("a state that never was")?;
        from = from.max(*seq);
        to = to.min(states.get(number as usize + 1).map_or(u64::MAX, |(seq, _)| *seq));
        tree.insert(*id, model.clone());
    }
    if from >= to {
        return Err(format!("operation {from} is there or was promised, operation {to} is not"));
    }
    compare(&store, &tree)
}

#[test]
fn a_crash_beside_threads_leaves_one_moment() {
    let began = Instant::now();
    let seconds = variable("BLOCKTREE_SIM_SECONDS").unwrap_or(4);
    let mut seed = variable("BLOCKTREE_SEED").unwrap_or(1);
    let mut tally = Tally::default();
    while began.elapsed() < Duration::from_secs(seconds) {
        let (done, met) = history(seed);
        tally.histories += 1;
        tally.operations += done.iter().map(|done| done.states.len() as u64).sum::<u64>();
        for Promised { point, seq } in met {
            for image in 0..IMAGES {
                let survivors = Survivors::Random(SplitMix64(seed ^ image).next_u64());
                recover(point.image(survivors), &done, seq)
                    .unwrap_or_else(|why| panic!("seed {seed}, {survivors:?}: {why}"));
                tally.crashes += 1;
            }
        }
        seed += 1;
    }
    tally.print("store threads and crashes", began);
}
