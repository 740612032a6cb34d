//! A filesystem on a faulty device, beside the model of it; and what crashes leave of both.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{CrashPoint, FaultyDevice, Image, SplitMix64, Survivors};
use blocktree_engine::{CheckOptions, CreateOptions, OpenOptions, Refusals, Store, check};
use blocktree_vfs::{Fs, MountOptions, Time};

use crate::journal;
use crate::model::Model;
use crate::operation::{Operation, Refused};
use crate::shown::read_tree;

const PASSPHRASE: &[u8] = b"passphrase";

thread_local! {
    /// The simulated time, in milliseconds.
    static NOW_MS: Cell<i64> = const { Cell::new(0) };
    /// Whether each transaction is a record of its own, so that a crash can come between any two.
    static COMMIT_EACH: Cell<bool> = const { Cell::new(false) };
    /// What says where there is no space.
    static REFUSALS: RefCell<Option<Arc<Refusals>>> = const { RefCell::new(None) };
}

/// Lets the simulated clock go on.
pub(crate) fn pass_time(milliseconds: u64) {
    NOW_MS.set(NOW_MS.get() + milliseconds as i64);
}

pub(crate) fn set_time(milliseconds: i64) {
    NOW_MS.set(milliseconds);
}

pub(crate) fn commit_each(each: bool) {
    COMMIT_EACH.set(each);
}

/// Stores that are opened from now on ask these whether there is space.
pub(crate) fn set_refusals(refusals: Option<Arc<Refusals>>) {
    REFUSALS.set(refusals);
}

fn clock() -> Time {
    let now = NOW_MS.get();
    Time { seconds: 1_800_000_000 + now / 1000, nanoseconds: (now % 1000) as u32 * 1_000_000 }
}

/// The keyed hash would put names into an order that no seed repeats.
pub(crate) fn name_hash(name: &[u8]) -> u64 {
    name.iter().fold(7, |hash, byte| SplitMix64(hash ^ u64::from(*byte)).next_u64())
}

/// No background, so that a seed repeats a run; and room for all nodes in the cache, because which ones it drops
/// depends on their hashes. Checkpoints are due often.
pub(crate) fn open_options() -> OpenOptions {
    OpenOptions {
        background: false,
        cache_bytes: 64 << 20,
        memtable_bytes: 24 << 10,
        commit_each: COMMIT_EACH.get(),
        refusals: REFUSALS.with_borrow(Clone::clone),
        ..OpenOptions::default()
    }
}

pub(crate) fn mount_options() -> MountOptions {
    let unit_bytes = 16 << 10;
    MountOptions { clock: Some(clock), name_hash: Some(name_hash), unit_bytes, ..MountOptions::default() }
}

/// The state after some operation.
pub(crate) struct Moment {
    pub(crate) number: u64,
    pub(crate) model: Model,
    pub(crate) snapshots: BTreeMap<String, Model>,
}

/// What came of an operation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// It made no sense, and the filesystem said so.
    Impossible,
    NoSpace,
    /// The disk failed.
    Failed,
}

pub(crate) struct World {
    pub(crate) device: Arc<FaultyDevice>,
    pub(crate) fs: Fs,
    /// The newest state is the last. There are gaps where a state may or may not have come about.
    history: VecDeque<Arc<Moment>>,
    /// The number of the newest state that is known to be durable.
    durable: u64,
}

impl World {
    /// A store of `sectors` that may grow to `capacity`, with an empty root.
    pub(crate) fn create(sectors: u64, capacity: u64, seed: u64) -> Self {
        let device = Arc::new(FaultyDevice::new(sectors, seed));
        let create = CreateOptions { capacity_sectors: capacity, kdf: KdfCost::TRIVIAL };
        let store =
            Store::create_with(device.clone(), PASSPHRASE, &create, &open_options()).expect("a store");
        Fs::format(&store, 0, 0).expect("an empty store");
        device.reorder();
        let fs = Fs::mount(store, mount_options()).expect("a fresh store");
        let first = Moment { number: 0, model: Model::empty(), snapshots: BTreeMap::new() };
        Self { device, fs, history: VecDeque::from([Arc::new(first)]), durable: 0 }
    }

    /// Mounts an image whose state is known.
    pub(crate) fn open(image: Image, moment: Arc<Moment>, seed: u64) -> Result<Self, String> {
        let device = Arc::new(FaultyDevice::from_image(image, seed));
        device.reorder();
        let fs = mount(&device)?;
        let durable = moment.number;
        Ok(Self { device, fs, history: VecDeque::from([moment]), durable })
    }

    pub(crate) fn now(&self) -> &Arc<Moment> {
        self.history.back().expect("there always is a state")
    }

    /// What a crash right now may lead to.
    pub(crate) fn allowed(&self) -> Vec<Arc<Moment>> {
        self.history.iter().filter(|moment| moment.number >= self.durable).cloned().collect()
    }

    /// All states that are still remembered.
    pub(crate) fn history(&self) -> Vec<Arc<Moment>> {
        self.history.iter().cloned().collect()
    }

    /// Forgets the states before the last that is known to be durable.
    pub(crate) fn forget(&mut self) {
        let durable = self.durable;
        self.history.retain(|moment| moment.number >= durable);
    }

    /// Does an operation; fails if the filesystem and the model disagree on whether it can be done.
    pub(crate) fn perform(&mut self, operation: &Operation) -> Result<Outcome, String> {
        let now = self.now().clone();
        let number = now.number + 1;
        let result = operation.perform(&self.fs, &now.model);
        let made = result.as_ref().ok().copied().flatten();
        let expected = now.model.after(operation, number, made);
        let refused = match (result, expected) {
            (Ok(_), Ok((mut model, touched))) => {
                let times = |ino| self.fs.getattr(ino).ok().map(|stat| (stat.mtime, stat.ctime));
                model.note_times(&touched, times);
                self.succeeded(operation, &now, model);
                return Ok(Outcome::Done);
            }
            (Ok(_), Err(_)) => return Err(format!("{operation:?} was done, which is impossible")),
            (Err(Refused::NoPath), _) => return Ok(Outcome::Impossible),
            (Err(Refused::Fs(refused)), expected) => match refused.errno() {
                libc::ENOSPC => return Ok(Outcome::NoSpace),
                libc::EIO | libc::EROFS => return Ok(self.failed(operation, &now)),
                _ if expected.is_err() => return Ok(Outcome::Impossible),
                _ => refused,
            },
        };
        Err(format!("{operation:?} failed with {refused:?}"))
    }

    fn succeeded(&mut self, operation: &Operation, now: &Moment, model: Model) {
        let found = |path: &str| now.model.find(path).and_then(|ino| now.model.nodes.get(&ino));
        match operation {
            Operation::Hold(_) | Operation::WriteBack | Operation::Reclaim => {}
            Operation::Fsync(path) => {
                self.durable = self.durable.max(found(path).map_or(0, |node| node.changed));
            }
            Operation::Fdatasync(path) => {
                self.durable = self.durable.max(found(path).map_or(0, |node| node.data_changed));
            }
            Operation::Sync | Operation::Checkpoint => self.durable = now.number,
            Operation::Snapshot(_) | Operation::DeleteSnapshot(_) => {
                let moment = with_snapshot(operation, now);
                self.durable = moment.number;
                self.history.push_back(Arc::new(moment));
            }
            _ => {
                let snapshots = now.snapshots.clone();
                self.history.push_back(Arc::new(Moment { number: now.number + 1, model, snapshots }));
            }
        }
    }

    /// The disk failed. Most operations then did not happen; a snapshot is there or not.
    fn failed(&mut self, operation: &Operation, now: &Moment) -> Outcome {
        if matches!(operation, Operation::Snapshot(_) | Operation::DeleteSnapshot(_)) {
            let moment = with_snapshot(operation, now);
            self.history.insert(self.history.len() - 1, Arc::new(moment));
        }
        Outcome::Failed
    }

    /// Whether the mounted filesystem shows the newest state.
    pub(crate) fn verify(&self) -> Result<(), String> {
        let tree = read_tree(&self.fs, false)?;
        let compared = tree.compare(&self.now().model).and_then(|()| journal::compare(&self.fs, &tree));
        compared.map_err(|why| format!("while mounted: {why}"))
    }

    /// Whether what can be read of it is right.
    pub(crate) fn verify_readable(&self) -> Result<(), String> {
        read_tree(&self.fs, true)?.compare(&self.now().model).map_err(|why| format!("on a bad disk: {why}"))
    }
}

fn with_snapshot(operation: &Operation, now: &Moment) -> Moment {
    let mut snapshots = now.snapshots.clone();
    match operation {
        Operation::Snapshot(name) => drop(snapshots.insert(name.clone(), now.model.clone())),
        Operation::DeleteSnapshot(name) => drop(snapshots.remove(name)),
        _ => {}
    }
    Moment { number: now.number + 1, model: now.model.clone(), snapshots }
}

pub(crate) fn mount(device: &Arc<FaultyDevice>) -> Result<Fs, String> {
    let store = Store::open(device.clone(), PASSPHRASE, &open_options());
    let store = store.map_err(|error| format!("open: {error}"))?;
    Fs::mount(store, mount_options()).map_err(|error| format!("mount: {error:?}"))
}

/// Mounts an image; it must show one of the states. Returns which.
pub(crate) fn recover(image: &Image, allowed: &[Arc<Moment>]) -> Result<Arc<Moment>, String> {
    let device = Arc::new(FaultyDevice::from_image(image.clone(), 0));
    recognise(&device, &mount(&device)?, allowed, false)
}

/// Which of the states a mounted filesystem shows. What a bad disk damaged may be unreadable, but not wrong.
pub(crate) fn recognise(
    device: &Arc<FaultyDevice>,
    fs: &Fs,
    allowed: &[Arc<Moment>],
    damaged: bool,
) -> Result<Arc<Moment>, String> {
    let tree = read_tree(fs, damaged)?;
    if !damaged && !fs.store().orphans().map_err(|error| error.to_string())?.is_empty() {
        return Err("orphans are left".into());
    }
    let mut names: Vec<String> =
        fs.store().snapshot_list().into_iter().map(|snapshot| snapshot.name).collect();
    names.sort();
    let mut why = format!("has snapshots {names:?}");
    let found = allowed.iter().rev().find(|moment| {
        moment.snapshots.keys().eq(&names)
            && tree.compare(&moment.model).inspect_err(|reason| why.clone_from(reason)).is_ok()
    });
    let Some(found) = found else {
        let numbers = (allowed.first().map(|m| m.number), allowed.last().map(|m| m.number));
        return Err(format!("shows none of the states {numbers:?}; compared with the oldest: {why}"));
    };
    if !damaged {
        journal::compare(fs, &tree)?;
    }
    // Reading takes long: one of the snapshots each time.
    let shown = device.events() + found.number;
    if let Some((name, model)) = found.snapshots.iter().nth(shown as usize % (names.len() + 1)) {
        let options = OpenOptions { snapshot: Some(name.clone()), ..open_options() };
        let compared = Store::open(device.clone(), PASSPHRASE, &options)
            .map_err(|error| error.to_string())
            .and_then(|store| {
                let options = MountOptions { read_only: true, ..mount_options() };
                let fs = Fs::mount(store, options).map_err(|error| format!("{error:?}"))?;
                let tree = read_tree(&fs, damaged)?;
                Ok(match damaged {
                    true => tree.compare(model),
                    false => tree.compare(model).and_then(|()| journal::compare(&fs, &tree)),
                })
            });
        match compared {
            Ok(result) => result.map_err(|why| format!("snapshot {name}: {why}"))?,
            Err(why) if !damaged => return Err(format!("snapshot {name}: {why}")),
            Err(_) => {}
        }
    }
    Ok(found.clone())
}

/// Recovers what crashes at these points may leave; of points between two flushes, the last. Returns how many
/// images.
pub(crate) fn crash(
    points: &[CrashPoint],
    allowed: &[Arc<Moment>],
    exhaustive_max: usize,
    rng: &mut SplitMix64,
) -> Result<u64, String> {
    const TEARS: usize = 3;
    let mut count = 0;
    for between in points.chunk_by(|one, other| one.flushes() == other.flushes()) {
        let point = between.last().expect("chunks are not empty");
        for choice in point.choices(exhaustive_max, TEARS, rng) {
            let image = point.image(choice);
            let failed =
                |why| format!("after a crash with {choice:?} of {} writes: {why}", point.unflushed());
            let moment = recover(&image, allowed).map_err(failed)?;
            count += 1;
            if rng.one_in(16) {
                count += interrupted(image, &moment, rng).map_err(failed)?;
            }
        }
    }
    Ok(count)
}

/// Crashes at each moment of a recovery and of the unmount after it: nothing may come of it. Nor may the store's
/// own check find anything.
fn interrupted(image: Image, moment: &Arc<Moment>, rng: &mut SplitMix64) -> Result<u64, String> {
    let report = check(
        Arc::new(FaultyDevice::from_image(image.clone(), 0)),
        PASSPHRASE,
        &CheckOptions::default(),
        &mut |_, _| {},
    );
    let report = report.map_err(|error| format!("check: {error}"))?;
    // At most, copies of the superblock are torn, which is no problem.
    if !report.problems.is_empty() || report.notes.len() > 2 {
        return Err(format!("check finds {:?}", report.problems));
    }
    let device = Arc::new(FaultyDevice::from_image(image, rng.next_u64()));
    device.reorder();
    device.capture_all();
    let fs = mount(&device)?;
    let closed = fs.unmount().and_then(|()| Ok(fs.store().reclaim().and_then(|()| fs.store().close())?));
    closed.map_err(|error| format!("unmount: {error:?}"))?;
    drop(fs);
    let allowed = [moment.clone()];
    let points = device.take_captures();
    for point in &points {
        let image = point.image(Survivors::Random(rng.next_u64()));
        recover(&image, &allowed).map_err(|why| format!("a second crash: {why}"))?;
    }
    recover(&device.image(), &allowed).map_err(|why| format!("mounted a second time: {why}"))?;
    Ok(points.len() as u64 + 1)
}
