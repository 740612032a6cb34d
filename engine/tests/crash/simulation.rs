//! Random operations on a store and on the model, and crashes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{CrashPoint, Faults, FaultyDevice, Image, SplitMix64, Survivors};
use blocktree_engine::{CreateOptions, Error, SnapshotError, Store, Transaction};

use crate::model::{
    BlockModel, COUNTER, KIND, Moment, PASSPHRASE, SECTOR, Tree, compare, compare_snapshots, options,
};
use crate::recovery::{self, recover};
use crate::runner::Tally;

const BLOCKS_MAX: usize = 10;
const SNAPSHOTS_MAX: usize = 4;

pub(crate) struct Simulation {
    rng: SplitMix64,
    device: Arc<FaultyDevice>,
    store: Store,
    /// What a crash during this step may lead to.
    history: VecDeque<Moment>,
    /// The place in the history of the newest state known to be durable.
    durable: usize,
    tally: Tally,
    /// What was done, for messages.
    pub(crate) trace: Vec<String>,
    /// Of the devices before this one.
    fingerprint: u64,
    next_counter: u64,
    snapshots_made: u64,
    capacity: u64,
    /// Sectors in use with nothing but the first block.
    used_when_empty: u64,
}

impl Simulation {
    pub(crate) fn new(seed: u64) -> Result<Self, String> {
        let mut rng = SplitMix64(seed);
        let sectors = (32 + rng.below(12)) * 256;
        let capacity = if rng.one_in(3) { sectors + 8 * 256 } else { sectors };
        let device = Arc::new(FaultyDevice::new(sectors, rng.next_u64()));
        device.reorder();
        let create = CreateOptions { capacity_sectors: capacity, kdf: KdfCost::TRIVIAL };
        let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options())
            .map_err(|error| format!("create: {error}"))?;
        let mut simulation = Self {
            rng,
            device,
            store,
            history: VecDeque::from([Moment::default()]),
            durable: 0,
            tally: Tally { histories: 1, ..Tally::default() },
            trace: Vec::new(),
            fingerprint: 0,
            next_counter: 1,
            snapshots_made: 0,
            capacity,
            used_when_empty: 0,
        };
        simulation.transaction()?;
        simulation.check(|store| store.checkpoint())?;
        simulation.durable();
        simulation.used_when_empty = simulation.used();
        Ok(simulation)
    }

    fn used(&self) -> u64 {
        // Against what it may become, so that growing makes no difference.
        self.capacity - self.store.usage().free.min(self.capacity)
    }

    pub(crate) fn tally(&self) -> Tally {
        Tally { faults: self.tally.faults + self.device.struck(), ..self.tally }
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint ^ self.device.fingerprint()
    }

    fn now(&self) -> &Moment {
        self.history.back().expect("there always is a state")
    }

    /// All that happened is durable.
    fn durable(&mut self) {
        self.durable = self.history.len() - 1;
    }

    /// What a crash right now may lead to.
    fn allowed(&self) -> VecDeque<Moment> {
        self.history.iter().skip(self.durable).cloned().collect()
    }

    /// Forgets the states before the last that is known to be durable.
    fn forget(&mut self) {
        self.history.drain(..self.durable);
        self.durable = 0;
    }

    fn note(&mut self, what: String) {
        self.trace.push(what);
    }

    fn check<T>(&mut self, call: impl FnOnce(&Store) -> Result<T, Error>) -> Result<T, String> {
        call(&self.store).map_err(|error| format!("unexpected error: {error:?}"))
    }

    /// A step begins.
    pub(crate) fn begin(&mut self, rng: SplitMix64) {
        self.rng = rng;
        self.forget();
        self.tally.operations += 1;
    }

    /// One random step, with a crash somewhere in it now and then.
    pub(crate) fn step(&mut self, rng: SplitMix64) -> Result<(), String> {
        self.begin(rng);
        let armed = self.rng.one_in(4);
        if armed {
            let events = self.rng.below(24);
            self.device.arm_capture(events);
        }
        self.operation()?;
        if let Some(point) = self.device.take_capture() {
            let history = self.history.clone();
            self.crash(&point, &history)?;
        }
        Ok(())
    }

    /// One random operation on the store and the model.
    pub(crate) fn operation(&mut self) -> Result<(), String> {
        match self.rng.below(100) {
            0..61 => self.transaction()?,
            61..64 => self.rotate()?,
            64..66 => self.reencrypt()?,
            66..74 => {
                self.note("sync".into());
                self.check(|store| store.sync(store.newest()))?;
                self.durable();
            }
            74..79 => {
                self.note("checkpoint".into());
                self.check(|store| store.checkpoint())?;
                self.durable();
            }
            79..82 => {
                self.note("reclaim".into());
                self.check(|store| store.reclaim())?;
            }
            82..85 => self.make_snapshot()?,
            85..87 => self.delete_snapshot()?,
            87 => self.fragment()?,
            88 if self.rng.one_in(3) => self.fill()?,
            89..91 => self.reopen()?,
            91..94 => {
                let now = self.now().clone();
                compare(&self.store, &now.tree).map_err(|why| format!("while open: {why}"))?;
            }
            _ => {
                // What a step left in flight may end in any way.
                let point = self.device.crash_point();
                let allowed = self.allowed();
                self.crash(&point, &allowed)?;
            }
        }
        Ok(())
    }

    /// Arranges an I/O error and goes on until it was met; then the store only reads, and what the disk holds is
    /// opened anew.
    pub(crate) fn fail(&mut self) -> Result<(), String> {
        let after = Some(self.rng.below(40));
        let stay_broken = self.rng.one_in(2);
        let write_lacks_space = self.rng.one_in(3);
        let faults = match self.rng.below(6) {
            0..2 => Faults { write: after, stay_broken, write_lacks_space, ..Faults::default() },
            2..4 => Faults { flush: after.map(|after| after / 4), stay_broken, ..Faults::default() },
            4 => Faults { grow: after.map(|after| after / 20), ..Faults::default() },
            _ => Faults { read: after, ..Faults::default() },
        };
        self.note(format!("{faults:?}"));
        self.device.set_faults(faults);
        let device = self.device.clone();
        for _ in 0..60 {
            // Only those that go on with the same device.
            let result = match self.rng.below(14) {
                0..7 => self.transaction(),
                12 => self.rotate(),
                13 => self.reencrypt(),
                7 => self.check(|store| store.sync(store.newest())).map(|()| self.durable()),
                8 => self.check(|store| store.checkpoint()).map(|()| self.durable()),
                9 => self.make_snapshot(),
                10 => self.delete_snapshot(),
                _ => self.check(|store| store.reclaim()),
            };
            let Err(why) = result else { continue };
            if !["Poisoned", "Read(", "code: 5"].iter().any(|expected| why.contains(expected)) {
                return Err(why);
            }
            break;
        }
        device.set_faults(Faults::default());
        let now = self.now().clone();
        if let Err(why) = compare(&self.store, &now.tree)
            && !why.contains("Read(")
        {
            return Err(format!("after an I/O error: {why}"));
        }
        let point = device.crash_point();
        let allowed = self.allowed();
        for _ in 0..3 {
            let image = point.image(Survivors::Random(self.rng.next_u64()));
            recover(&image, &allowed).map_err(|why| format!("crash after an I/O error: {why}"))?;
            self.tally.crashes += 1;
        }
        let image = point.image(Survivors::Random(self.rng.next_u64()));
        self.adopt(image, &allowed)
    }

    fn pick(&mut self, tree: &Tree) -> Option<u64> {
        let count = tree.blocks.len() as u64;
        (count > 0).then(|| {
            let at = self.rng.below(count) as usize;
            *tree.blocks.keys().nth(at).expect("in range")
        })
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut seed = SplitMix64(self.rng.next_u64());
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&seed.next_u64().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// Makes a transaction with its number in it, and applies it to the model if it is accepted.
    fn transact(
        &mut self,
        change: impl FnOnce(&mut Self, &mut Transaction, &Tree, &mut Tree) -> Result<(), Error>,
    ) -> Result<bool, String> {
        let base = self.now().clone();
        let mut tree = base.tree.clone();
        let mut transaction = self.store.transaction();
        tree.counter = self.next_counter;
        let number = self.next_counter.to_le_bytes();
        let root = match tree.blocks.get(&Store::ROOT) {
            Some(_) => match self.store.block(Store::ROOT) {
                Ok(Some(root)) => root,
                other => return Err(format!("the first block is lost: {other:?}")),
            },
            None => {
                tree.insert(Store::ROOT, Default::default());
                transaction.create(b"")
            }
        };
        let result = change(self, &mut transaction, &base.tree, &mut tree).and_then(|()| {
            transaction.put(&root, KIND, COUNTER, &number, b"");
            transaction.apply()
        });
        match result {
            Ok(_) => {
                let model = Arc::make_mut(tree.blocks.get_mut(&Store::ROOT).expect("never destroyed"));
                model.items.insert(COUNTER, Arc::new((number.to_vec(), Vec::new())));
                self.next_counter += 1;
                self.history.push_back(Moment { tree, snapshots: base.snapshots });
                Ok(true)
            }
            Err(Error::NoSpace | Error::TooLong) => {
                self.note("refused".into());
                self.tally.refused += 1;
                Ok(false)
            }
            Err(error) => Err(format!("transaction: {error:?}")),
        }
    }

    fn transaction(&mut self) -> Result<(), String> {
        let changes = 1 + self.rng.below(4);
        self.transact(|sim, transaction, base, tree| {
            for _ in 0..changes {
                sim.change(transaction, base, tree)?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// One change in a transaction.
    fn change(&mut self, transaction: &mut Transaction, base: &Tree, tree: &mut Tree) -> Result<(), Error> {
        let kind = self.rng.below(100);
        let Some(id) = self.pick(tree).filter(|_| kind >= 8 || tree.blocks.len() > BLOCKS_MAX) else {
            let length = self.rng.below(300) as usize;
            let attributes = self.bytes(length);
            let block = transaction.create(&attributes);
            transaction.set_unit(&block, 1 << self.rng.below(6));
            self.note(format!("create {}", block.id()));
            let model = BlockModel { attributes: Arc::new(attributes), ..BlockModel::default() };
            tree.insert(block.id(), Arc::new(model));
            return Ok(());
        };
        // A block that this transaction made is not in the store yet.
        let Some(block) = self.store.block(id)? else { return Ok(()) };
        let model = Arc::make_mut(tree.blocks.get_mut(&id).expect("picked"));
        match kind {
            0..55 => {
                let (offset, bytes) = self.random_write();
                self.note(format!("write {id} at {offset} + {}", bytes.len()));
                transaction.write(&block, offset, &bytes)?;
                model.write(offset, &bytes);
            }
            55..64 => {
                let from = self.rng.below(700);
                let to = if self.rng.one_in(3) { u64::MAX / 4096 } else { from + 1 + self.rng.below(300) };
                self.note(format!("punch {id} {from}..{to}"));
                transaction.punch(&block, from, to)?;
                model.punch(from, to);
            }
            64..74 => {
                let Some(source_id) = self.pick(base) else { return Ok(()) };
                let Some(source) = self.store.block(source_id)? else { return Ok(()) };
                let (from, to, count) = (self.rng.below(500), self.rng.below(500), 1 + self.rng.below(200));
                if source_id == id && from < to + count && to < from + count {
                    return Ok(());
                }
                self.note(format!("clone {source_id} {from} -> {id} {to} + {count}"));
                transaction.clone_range(&source, from, &block, to, count)?;
                model.clone_range(&base.blocks[&source_id], from, to, count);
            }
            74..84 => {
                let (offset, a, b) = (self.rng.below(30), self.rng.below(60), self.rng.below(200));
                let (clear, secret) = (self.bytes(a as usize), self.bytes(b as usize));
                transaction.put(&block, KIND, offset, &clear, &secret);
                model.items.insert(offset, Arc::new((clear, secret)));
            }
            84..87 => {
                // Much at once, so that the log goes round.
                self.note(format!("many items in {id}"));
                for offset in 0..60 {
                    let secret = self.bytes(3900);
                    transaction.put(&block, KIND, 100 + offset, b"", &secret);
                    model.items.insert(100 + offset, Arc::new((Vec::new(), secret)));
                }
            }
            87..91 => {
                let from = if self.rng.one_in(2) { 0 } else { 100 };
                self.note(format!("delete items of {id} from {from}"));
                for offset in from..from + 60 {
                    transaction.delete(&block, KIND, offset);
                    model.items.remove(&offset);
                }
            }
            91..95 => {
                let length = self.rng.below(2048) as usize;
                let attributes = self.bytes(length);
                self.note(format!("attributes of {id}"));
                transaction.set_attributes(&block, &attributes);
                model.attributes = Arc::new(attributes);
            }
            95 if id != Store::ROOT => {
                self.note(format!("orphan {id}"));
                transaction.orphan(&block);
                model.orphan = true;
            }
            // Nothing else may touch a block that dies.
            96.. if id != Store::ROOT
                && base.blocks.get(&id).is_some_and(|old| Arc::ptr_eq(old, &tree.blocks[&id])) =>
            {
                self.note(format!("destroy {id}"));
                transaction.destroy(&block);
                tree.blocks.remove(&id);
            }
            _ => {}
        }
        Ok(())
    }

    fn random_write(&mut self) -> (u64, Vec<u8>) {
        let sector = self.rng.below(600);
        let (offset, length) = match self.rng.below(10) {
            0..2 => (sector * 4096 + self.rng.below(4096), 1 + self.rng.below(3000)),
            2..5 => (sector * 4096, 4096),
            5..7 => (sector * 4096, 4096 * (1 + self.rng.below(15))),
            7 => (sector * 4096 + self.rng.below(4096), self.rng.below(200_000)),
            8 => (sector * 4096, 65536 + 4096 * self.rng.below(60)),
            _ => (sector * 4096, 4096 * (1 + self.rng.below(400))),
        };
        let bytes = self.bytes(length as usize);
        (offset, bytes)
    }

    /// Makes a block of many short extents, so that emptying it takes the background.
    fn fragment(&mut self) -> Result<(), String> {
        if self.now().tree.blocks.len() > BLOCKS_MAX {
            return Ok(());
        }
        self.note("fragmented block".into());
        let count = 1100 + self.rng.below(400);
        let mut made = None;
        // Longer than one transaction may be.
        for part in 0..2 {
            self.transact(|sim, transaction, _, tree| {
                let block = made.get_or_insert_with(|| transaction.create(b"fragmented")).clone();
                let attributes = Arc::new(b"fragmented".to_vec());
                let model = tree.blocks.entry(block.id());
                let model =
                    model.or_insert_with(|| Arc::new(BlockModel { attributes, ..Default::default() }));
                let model = Arc::make_mut(model);
                let bytes = sim.bytes(SECTOR);
                for index in part * count / 2..(part + 1) * count / 2 {
                    transaction.write(&block, index * 2 * SECTOR as u64, &bytes)?;
                    model.write(index * 2 * SECTOR as u64, &bytes);
                }
                Ok(())
            })?;
            if !made.as_ref().is_some_and(|block| self.now().tree.blocks.contains_key(&block.id())) {
                break;
            }
        }
        Ok(())
    }

    /// Fills the store to the end, then makes room.
    fn fill(&mut self) -> Result<(), String> {
        self.note("fill".into());
        let coarse = !self.rng.one_in(3);
        if coarse {
            // Somewhere on the way, perhaps while the volume grows.
            let events = self.rng.below(240);
            self.device.arm_capture(events);
        } else {
            // Too many states to keep for a crash in the middle.
            let _ = self.device.take_capture();
        }
        let id = {
            let mut id = None;
            let made = self.transact(|_, transaction, _, tree| {
                let block = transaction.create(b"full");
                let model = BlockModel { attributes: Arc::new(b"full".to_vec()), ..Default::default() };
                tree.insert(block.id(), Arc::new(model));
                id = Some(block.id());
                Ok(())
            })?;
            if !made { None } else { id }
        };
        if let Some(id) = id {
            let step = if coarse { 100 } else { 7 };
            for round in 0..2000 {
                let bytes = self.bytes(step * SECTOR);
                let Some(block) = self.check(|store| store.block(id))? else {
                    return Err("lost the block".into());
                };
                let offset = round * (step as u64 + 1) * SECTOR as u64;
                let written = self.transact(|_, transaction, _, tree| {
                    transaction.write(&block, offset, &bytes)?;
                    Arc::make_mut(tree.blocks.get_mut(&id).expect("made")).write(offset, &bytes);
                    Ok(())
                })?;
                if !written {
                    break;
                }
                // Only the newest states count here; keep few.
                if round % 8 == 7 {
                    self.check(|store| store.sync(store.newest()))?;
                    self.durable();
                    if !coarse {
                        self.forget();
                    }
                }
            }
        }
        let now = self.now().clone();
        compare(&self.store, &now.tree).map_err(|why| format!("full: {why}"))?;
        // Removing must work now.
        while let Some(id) = self.now().tree.blocks.keys().copied().rfind(|id| *id != Store::ROOT) {
            if !self.destroy(id)? {
                return Err("a full store refuses to remove".into());
            }
            if self.rng.one_in(3) {
                break;
            }
        }
        Ok(())
    }

    /// Destroys a block without anything else that could need space.
    fn destroy(&mut self, id: u64) -> Result<bool, String> {
        let block = self.check(|store| store.block(id))?.ok_or("lost a block")?;
        let base = self.now().clone();
        let mut tree = base.tree.clone();
        let mut transaction = self.store.transaction();
        // The number is in attributes' stead: deletions alone are allowed on a full store.
        transaction.destroy(&block);
        match transaction.apply() {
            Ok(_) => {}
            Err(Error::NoSpace | Error::TooLong) => return Ok(false),
            Err(error) => return Err(format!("destroy: {error:?}")),
        }
        tree.blocks.remove(&id);
        self.history.push_back(Moment { tree, snapshots: base.snapshots });
        Ok(true)
    }

    /// Gives a block a new key. Nothing that is shown changes.
    fn rotate(&mut self) -> Result<(), String> {
        let tree = self.now().tree.clone();
        let Some(id) = self.pick(&tree) else { return Ok(()) };
        self.note(format!("rotate {id}"));
        let result = self.store.begin_rotation(id, &[]).and_then(|rotation| {
            let block = self.store.block(id)?.expect("the model has it");
            let mut transaction = self.store.transaction();
            transaction.rotate(&block, rotation.number, false)?;
            for (offset, item) in self.store.scan(&block, KIND, 0, 10_000)? {
                transaction.put(&block, KIND, offset, &item.clear, &item.secret);
            }
            transaction.apply()?;
            self.store.end_rotation(&rotation)
        });
        match result {
            Ok(()) => {
                self.durable();
                Ok(())
            }
            Err(Error::NoSpace | Error::TooLong) => Ok(()),
            Err(error) => Err(format!("rotation: {error:?}")),
        }
    }

    /// Seals some of what stands under older keys anew, or all of it.
    fn reencrypt(&mut self) -> Result<(), String> {
        let steps = std::cell::Cell::new(1 + self.rng.below(8));
        self.note(format!("seal anew in {} steps", steps.get()));
        match self.store.reencrypt(&|_, _| steps.replace(steps.get().saturating_sub(1)) > 0) {
            Ok(report) if report.damaged > 0 => Err("undamaged data is called damaged".into()),
            Ok(_) => {
                self.durable();
                Ok(())
            }
            Err(Error::NoSpace | Error::TooLong) => Ok(()),
            Err(error) => Err(format!("sealing anew: {error:?}")),
        }
    }

    fn make_snapshot(&mut self) -> Result<(), String> {
        if self.now().snapshots.len() >= SNAPSHOTS_MAX {
            return Ok(());
        }
        self.snapshots_made += 1;
        let name = format!("snapshot {}", self.snapshots_made);
        self.note(name.clone());
        let mut moment = self.now().clone();
        moment.snapshots.insert(name.clone(), moment.tree.clone());
        match self.store.snapshot_create(&name) {
            Ok(()) => {
                self.history.push_back(moment);
                self.durable();
                Ok(())
            }
            Err(SnapshotError::Store(Error::NoSpace)) => Ok(()),
            Err(error) => {
                // Before the newest: it need not be there.
                self.history.insert(self.durable, moment);
                Err(format!("snapshot: {error:?}"))
            }
        }
    }

    fn delete_snapshot(&mut self) -> Result<(), String> {
        let count = self.now().snapshots.len() as u64;
        if count == 0 {
            return Ok(());
        }
        let at = self.rng.below(count) as usize;
        let name = self.now().snapshots.keys().nth(at).expect("in range").clone();
        self.note(format!("delete {name}"));
        let mut moment = self.now().clone();
        moment.snapshots.remove(&name);
        match self.store.snapshot_delete(&name) {
            Ok(true) => {}
            Ok(false) => return Err(format!("{name} is missing")),
            Err(error) => {
                self.history.insert(self.durable, moment);
                return Err(format!("snapshot: {error:?}"));
            }
        }
        self.history.push_back(moment);
        self.durable();
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), String> {
        if self.rng.one_in(2) {
            self.note("close and open".into());
            self.check(|store| store.close())?;
            self.durable();
            self.store = Store::open(self.device.clone(), PASSPHRASE, &options())
                .map_err(|error| format!("open after close: {error}"))?;
        } else {
            self.note("end and open".into());
            let point = self.device.crash_point();
            let allowed = self.allowed();
            self.adopt(point.image(Survivors::All), &allowed)?;
        }
        self.verify_open()
    }

    fn verify_open(&mut self) -> Result<(), String> {
        let now = self.now().clone();
        compare(&self.store, &now.tree)
            .and_then(|()| compare_snapshots(self.device.clone(), &now))
            .map_err(|why| format!("after opening: {why}"))
    }

    /// Verifies what a crash may leave; goes on with it sometimes.
    fn crash(&mut self, point: &CrashPoint, allowed: &VecDeque<Moment>) -> Result<(), String> {
        let mut rng = SplitMix64(self.rng.next_u64());
        self.tally.crashes += recovery::crash(point, allowed, &mut rng)?;
        if self.rng.one_in(3) {
            self.note("crash".into());
            let survivors = Survivors::Random(self.rng.next_u64());
            self.adopt(point.image(survivors), allowed)?;
        }
        Ok(())
    }

    /// Goes on with the store on an image.
    fn adopt(&mut self, image: Image, allowed: &VecDeque<Moment>) -> Result<(), String> {
        let moment = recover(&image, allowed)?;
        self.tally.faults += self.device.struck();
        self.fingerprint = SplitMix64(self.fingerprint()).next_u64();
        self.device = Arc::new(FaultyDevice::from_image(image, self.rng.next_u64()));
        self.device.reorder();
        self.store = Store::open(self.device.clone(), PASSPHRASE, &options())
            .map_err(|error| format!("open: {error}"))?;
        self.next_counter = moment.tree.counter + 1;
        self.history = VecDeque::from([moment]);
        self.durable = 0;
        Ok(())
    }

    /// Removes everything; space must be what it was in the beginning.
    pub(crate) fn finish(&mut self) -> Result<(), String> {
        let names: Vec<String> = self.now().snapshots.keys().cloned().collect();
        for name in names {
            if !self.check(|store| store.snapshot_delete(&name))? {
                return Err(format!("{name} is missing"));
            }
        }
        let mut moment = self.now().clone();
        moment.snapshots = BTreeMap::new();
        self.history.push_back(moment);
        self.check(|store| store.reclaim())?;
        while let Some(id) = self.now().tree.blocks.keys().copied().find(|id| *id != Store::ROOT) {
            if !self.destroy(id)? {
                return Err("a store refuses to remove".into());
            }
        }
        let root = self.check(|store| store.block(Store::ROOT))?.ok_or("lost the first block")?;
        let emptied = self.transact(|_, transaction, _, tree| {
            transaction.punch(&root, 0, u64::MAX)?;
            transaction.set_attributes(&root, b"");
            let mut model = BlockModel::default();
            for offset in tree.blocks[&Store::ROOT].items.keys() {
                transaction.delete(&root, KIND, *offset);
            }
            model.items.clear();
            tree.insert(Store::ROOT, Arc::new(model));
            Ok(())
        })?;
        if !emptied {
            return Err("an empty store is full".into());
        }
        for _ in 0..2 {
            self.check(|store| store.reclaim())?;
            self.check(|store| store.checkpoint())?;
        }
        self.durable();
        self.forget();
        self.verify_open()?;
        let (used, empty) = (self.used(), self.used_when_empty);
        if used > empty + 16 {
            return Err(format!("{} sectors are lost", used - empty));
        }
        self.adopt(self.device.image(), &self.history.clone())?;
        let reopened = self.used();
        if reopened != used {
            return Err(format!("{used} sectors in use, {reopened} after opening again"));
        }
        Ok(())
    }
}
