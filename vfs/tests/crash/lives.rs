//! Long lives: months of work on files and snapshots, with crashes, full disks and disks that fail.

use std::cell::Cell;
use std::sync::Arc;

use blocktree_engine::Error;
use blocktree_engine::device::{Faults, FaultyDevice, SplitMix64, Survivors};
use blocktree_vfs::{Fs, FsError, rotation};

use crate::model::Kind;
use crate::operation::Operation;
use crate::runner::{self, Play, Tally, exhaustive_max};
use crate::world::{
    Outcome, World, commit_each, crash, mount, name_hash, pass_time, recognise, recover, set_time,
};

const STEPS: u64 = 150;
const FILES_MAX: usize = 40;
const FILE_BYTES_MAX: u64 = 1 << 20;
const SNAPSHOTS_MAX: usize = 3;
const HOUR_MS: u64 = 3_600_000;
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const ATTRIBUTES: [&str; 2] = ["user.colour", "user.shape"];

struct Life {
    world: World,
    rng: SplitMix64,
    tally: Tally,
    trace: Vec<String>,
    /// Of the devices before this one.
    fingerprint: u64,
    snapshots_made: u64,
}

impl Play for Life {
    fn start(seed: u64) -> Result<Self, String> {
        set_time(0);
        let mut rng = SplitMix64(seed);
        let sectors = 8192 + rng.below(1024);
        commit_each(seed.is_multiple_of(2));
        let capacity = if rng.one_in(3) { sectors + 2048 } else { sectors };
        Ok(Self {
            world: World::create(sectors, capacity, rng.next_u64()),
            rng,
            tally: Tally { histories: 1, ..Tally::default() },
            trace: Vec::new(),
            fingerprint: 0,
            snapshots_made: 0,
        })
    }

    fn step(&mut self, rng: SplitMix64) -> Result<(), String> {
        self.rng = rng;
        self.world.forget();
        pass_time(self.rng.below(24) * HOUR_MS);
        let armed = self.rng.one_in(3);
        if armed {
            let events = self.rng.below(12);
            self.world.device.arm_capture(events);
        }
        match self.rng.below(100) {
            0..72 => {
                for _ in 0..1 + self.rng.below(6) {
                    self.operation()?;
                }
            }
            72..80 => self.crash()?,
            80..84 => self.remount()?,
            84..89 => self.fail()?,
            89..95 => self.bad_disk()?,
            95 => self.fill()?,
            96 => self.crowd()?,
            97 => self.world.verify()?,
            _ => self.stumble()?,
        }
        if let Some(point) = self.world.device.take_capture() {
            let history = self.world.history();
            self.tally.crashes += crash(&[point], &history, exhaustive_max(), &mut self.rng)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        self.world.verify()?;
        self.remount()
    }

    fn tally(&self) -> Tally {
        Tally { faults: self.tally.faults + self.world.device.struck(), ..self.tally }
    }

    fn trace(&self) -> Vec<String> {
        self.trace.clone()
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint ^ self.world.device.fingerprint()
    }
}

impl Life {
    fn perform(&mut self, operation: &Operation) -> Result<Outcome, String> {
        self.tally.operations += 1;
        self.trace.push(format!("{operation:?}"));
        pass_time(1);
        let outcome = self.world.perform(operation)?;
        self.tally.refused += u64::from(outcome == Outcome::NoSpace);
        Ok(outcome)
    }

    fn operation(&mut self) -> Result<(), String> {
        let operation = self.choose();
        match self.perform(&operation)? {
            Outcome::Failed => Err(format!("{operation:?} failed without a fault")),
            _ => Ok(()),
        }
    }

    /// A path that is there, of the wanted kind, if there is one.
    fn existing(&mut self, wanted: impl Fn(&Kind) -> bool) -> Option<String> {
        let model = &self.world.now().model;
        let mut paths = model.paths();
        paths.retain(|(_, ino)| wanted(&model.nodes[ino].kind));
        (!paths.is_empty()).then(|| paths.swap_remove(self.rng.below(paths.len() as u64) as usize).0)
    }

    fn file(&mut self) -> String {
        let file = self.existing(|kind| matches!(kind, Kind::File { .. }));
        file.unwrap_or_else(|| "a".into())
    }

    fn any(&mut self) -> String {
        self.existing(|_| true).unwrap_or_else(|| "a".into())
    }

    /// A name in a directory that is there; it may be taken.
    fn place(&mut self) -> String {
        let name = NAMES[self.rng.below(NAMES.len() as u64) as usize];
        match self.existing(|kind| matches!(kind, Kind::Directory(_))) {
            Some(directory) if !self.rng.one_in(3) && directory.matches('/').count() < 3 => {
                format!("{directory}/{name}")
            }
            _ => name.to_owned(),
        }
    }

    fn range(&mut self) -> (u64, u64) {
        let page = self.rng.below(60) * 4096;
        let (offset, length) = match self.rng.below(8) {
            0..3 => (page + self.rng.below(4096), 1 + self.rng.below(6000)),
            3..6 => (page, 4096 * (1 + self.rng.below(4))),
            6 => (page, 65536 + 4096 * self.rng.below(40)),
            _ => (0, 1 + self.rng.below(20_000)),
        };
        (offset, length.min(FILE_BYTES_MAX - offset))
    }

    fn choose(&mut self) -> Operation {
        let many = self.world.now().model.nodes.len() > FILES_MAX;
        let (offset, length) = self.range();
        let seed = self.rng.next_u64();
        let attribute = ATTRIBUTES[self.rng.below(2) as usize];
        match self.rng.below(100) {
            0..10 if !many => Operation::Create(self.place()),
            10..14 if !many => Operation::Mkdir(self.place()),
            14..16 if !many => Operation::Symlink(self.place()),
            0..16 => Operation::Unlink(self.any()),
            16..34 => Operation::Write(self.file(), offset, length, seed),
            34..39 => {
                let path = self.file();
                let small = self.world.now().model.find(&path);
                let small =
                    small.is_none_or(|ino| self.world.now().model.nodes[&ino].size() < FILE_BYTES_MAX);
                match small {
                    true => Operation::Append(path, 1 + self.rng.below(9000), seed),
                    false => Operation::Truncate(path, 0),
                }
            }
            39..43 => Operation::Truncate(self.file(), offset),
            43..45 => Operation::Allocate(self.file(), offset, length, self.rng.one_in(2)),
            45..48 => Operation::Punch(self.file(), offset, length),
            48 => Operation::Zero(self.file(), offset, length),
            49..51 => {
                let path = self.file();
                let now = self.world.now();
                let size = now.model.find(&path).map_or(0, |ino| now.model.nodes[&ino].size());
                // In at most so many pieces, a move is one transaction.
                let pages = 1 + self.rng.below(5) + size / 4096 / 25;
                match self.rng.one_in(2) {
                    true => Operation::Collapse(path, offset / 4096 * 4096, 4096 * pages),
                    false => Operation::Insert(path, offset / 4096 * 4096, 4096 * pages),
                }
            }
            51..53 => Operation::Copy(self.file(), self.file(), length),
            53..56 => Operation::Link(self.any(), self.place()),
            56..60 => Operation::Unlink(self.any()),
            60..62 => Operation::Rmdir(self.any()),
            62..69 => Operation::Rename(self.any(), self.place()),
            69..71 => Operation::Exchange(self.any(), self.any()),
            71..74 => Operation::SetXattr(self.any(), attribute, self.rng.below(1000), seed),
            74 => Operation::RemoveXattr(self.any(), attribute),
            75..77 => Operation::Chmod(self.any(), 0o400 + self.rng.below(0o400) as u32),
            77 => Operation::Hold(self.file()),
            78..84 => Operation::Fsync(self.any()),
            84..87 => Operation::Fdatasync(self.file()),
            87..89 => Operation::Sync,
            89..95 => Operation::WriteBack,
            95 => Operation::Checkpoint,
            96 => Operation::Reclaim,
            97..99 if self.world.now().snapshots.len() < SNAPSHOTS_MAX => {
                self.snapshots_made += 1;
                Operation::Snapshot(format!("snapshot {}", self.snapshots_made))
            }
            _ => {
                let snapshots = &self.world.now().snapshots;
                match snapshots.keys().nth(self.rng.below(snapshots.len().max(1) as u64) as usize) {
                    Some(name) => Operation::DeleteSnapshot(name.clone()),
                    None => Operation::Sync,
                }
            }
        }
    }

    /// Goes on with what a crash leaves.
    fn crash(&mut self) -> Result<(), String> {
        self.trace.push("crash".into());
        let (point, allowed) = (self.world.device.crash_point(), self.world.allowed());
        self.tally.crashes += crash(std::slice::from_ref(&point), &allowed, exhaustive_max(), &mut self.rng)?;
        let image = point.image(Survivors::Random(self.rng.next_u64()));
        let moment = recover(&image, &allowed)?;
        let world = World::open(image, moment, self.rng.next_u64())?;
        self.go_on(world);
        Ok(())
    }

    fn go_on(&mut self, world: World) {
        self.tally.faults += self.world.device.struck();
        self.fingerprint = SplitMix64(self.fingerprint()).next_u64();
        self.world = world;
    }

    fn remount(&mut self) -> Result<(), String> {
        self.trace.push("remount".into());
        let fs = &self.world.fs;
        fs.unmount().map_err(|error| format!("unmount: {error:?}"))?;
        if self.rng.one_in(2) {
            self.change_keys()?;
        }
        self.world.fs.store().close().map_err(|error| format!("close: {error:?}"))?;
        let (image, moment) = (self.world.device.crash(Survivors::Mask(0)), self.world.now().clone());
        recover(&image, std::slice::from_ref(&moment))?;
        let world = World::open(image, moment, self.rng.next_u64())?;
        self.go_on(world);
        Ok(())
    }

    /// Gives a directory and all below it new keys, or some of it; and seals some of what is under old ones anew.
    fn change_keys(&mut self) -> Result<(), String> {
        let store = self.world.fs.store().clone();
        let directory = self.existing(|kind| matches!(kind, Kind::Directory(_))).unwrap_or_default();
        let mut at = Fs::ROOT;
        for name in directory.split('/').filter(|name| !name.is_empty()) {
            at = self.world.fs.lookup(at, name.as_bytes()).map_err(|error| format!("lookup: {error:?}"))?.ino;
        }
        let (keys, steps) = (self.rng.below(20), Cell::new(self.rng.below(20)));
        self.trace
            .push(format!("new keys for {keys} below {directory:?}, {} steps of sealing anew", steps.get()));
        let rotate = || -> Result<(), FsError> {
            if at != Fs::ROOT {
                store.begin_rotation(at, &[])?;
            }
            for begun in store.rotations()? {
                rotation::rotate_with(&store, &begun, Some(name_hash), &mut |done| done < keys)?;
            }
            let report = store.reencrypt(&|_, _| steps.replace(steps.get().saturating_sub(1)) > 0)?;
            assert_eq!(report.damaged, 0);
            Ok(())
        };
        match rotate() {
            Ok(()) | Err(FsError::NoSpace | FsError::Engine(Error::NoSpace)) => Ok(()),
            Err(error) => Err(format!("new keys: {error:?}")),
        }
    }

    /// Crashes in a checkpoint, goes on with what is left, and crashes in the next one.
    fn stumble(&mut self) -> Result<(), String> {
        let _ = self.world.device.take_capture();
        for _ in 0..4 {
            self.operation()?;
            self.world.device.capture_all();
            let allowed = self.world.allowed();
            self.perform(&Operation::Checkpoint)?;
            let mut points = self.world.device.take_captures();
            let point = points.swap_remove(self.rng.below(points.len() as u64) as usize);
            self.trace.push(format!("crash before flush {}", point.flushes()));
            let image = point.image(Survivors::Random(self.rng.next_u64()));
            let moment = recover(&image, &allowed)?;
            self.tally.crashes += 1;
            let world = World::open(image, moment, self.rng.next_u64())?;
            self.go_on(world);
        }
        Ok(())
    }

    /// Works where hardly any room is left, so that what is freed is used again at once, and crashes there.
    fn crowd(&mut self) -> Result<(), String> {
        let _ = self.world.device.take_capture();
        let (full, small) = ("full".to_owned(), "small".to_owned());
        self.perform(&Operation::Create(full.clone()))?;
        let mut offset = 0;
        for length in [1 << 20, 64 << 10, 4096] {
            let write = |offset| Operation::Write(full.clone(), offset, length, offset);
            while self.perform(&write(offset))? == Outcome::Done {
                offset += length;
            }
        }
        self.perform(&Operation::Truncate(full.clone(), offset.saturating_sub(12 * 4096)))?;
        self.perform(&Operation::Checkpoint)?;
        self.perform(&Operation::Create(small.clone()))?;
        for _ in 0..12 {
            self.world.forget();
            let events = self.rng.below(16);
            self.world.device.arm_capture(events);
            for _ in 0..2 + self.rng.below(3) {
                let (page, seed) = (self.rng.below(4), self.rng.next_u64());
                self.perform(&Operation::Write(small.clone(), page * 4096, 4096, seed))?;
                self.perform(&Operation::WriteBack)?;
            }
            self.perform(&Operation::Sync)?;
            let write = Operation::Write(small.clone(), 4096 * self.rng.below(4), 4096, self.rng.next_u64());
            self.perform(&write)?;
            self.perform(&Operation::WriteBack)?;
            let now = (self.world.device.crash_point(), self.world.allowed());
            let captured = self.world.device.take_capture().map(|point| (point, self.world.history()));
            for (point, allowed) in captured.into_iter().chain([now]) {
                self.tally.crashes += crash(&[point], &allowed, 4, &mut self.rng)?;
            }
        }
        for path in [small, full] {
            self.perform(&Operation::Unlink(path))?;
        }
        self.perform(&Operation::Sync)?;
        Ok(())
    }

    /// The disk fails and says so: the filesystem goes on to show nothing that is wrong, until it is mounted anew.
    fn fail(&mut self) -> Result<(), String> {
        let after = Some(self.rng.below(20));
        let (stay_broken, write_lacks_space) = (self.rng.one_in(2), self.rng.one_in(3));
        let faults = match self.rng.below(5) {
            0 | 1 => Faults { write: after, stay_broken, write_lacks_space, ..Faults::default() },
            2 => Faults { flush: after.map(|after| after / 4), stay_broken, ..Faults::default() },
            3 => Faults { grow: Some(0), ..Faults::default() },
            _ => Faults { read: after, ..Faults::default() },
        };
        self.trace.push(format!("{faults:?}"));
        self.world.device.set_faults(faults);
        for _ in 0..30 {
            let operation = self.choose();
            if self.perform(&operation)? == Outcome::Failed {
                break;
            }
        }
        self.world.device.set_faults(Faults::default());
        // What could not be written need not be in memory any more.
        self.world.verify_readable()?;
        self.crash()
    }

    /// The disk fails and does not say so. What comes of it happens to a copy: the damage is for good.
    fn bad_disk(&mut self) -> Result<(), String> {
        // What is durable now may be gone later, and what was durable before it may come back.
        let allowed = self.world.allowed();
        let point = self.world.device.crash_point();
        let image = point.image(Survivors::All);
        let moment = recover(&image, &allowed)?;
        let mut world = World::open(image, moment, self.rng.next_u64())?;
        std::mem::swap(&mut world, &mut self.world);
        let result = self.damage();
        std::mem::swap(&mut world, &mut self.world);
        self.tally.faults += world.device.struck();
        result
    }

    fn damage(&mut self) -> Result<(), String> {
        let device = self.world.device.clone();
        let after = Some(self.rng.below(12));
        let faults = match self.rng.below(7) {
            0 => Faults { flush_lies: true, ..Faults::default() },
            1 => Faults { lost_write: after, ..Faults::default() },
            2 => Faults { misdirected_write: after, ..Faults::default() },
            3 => Faults { misdirected_read: after, ..Faults::default() },
            4 => Faults { stale_read: after, ..Faults::default() },
            5 => Faults { flipped_read: after, ..Faults::default() },
            _ => {
                for _ in 0..1 + self.rng.below(30) {
                    let (sector, bit) = (self.rng.below(device.image().sectors()), self.rng.below(8 * 4096));
                    match self.rng.one_in(3) {
                        true => device.break_sector(sector),
                        false => device.flip_bit(sector, bit as usize),
                    }
                }
                Faults::default()
            }
        };
        self.trace.push(format!("on a copy: {faults:?}"));
        device.set_faults(faults);
        let mut history = self.world.history();
        for _ in 0..1 + self.rng.below(12) {
            let operation = self.choose();
            let before = self.world.now().number;
            self.perform(&operation)?;
            history.extend((self.world.now().number > before).then(|| self.world.now().clone()));
            if self.rng.one_in(4) {
                self.world.verify_readable()?;
            }
        }
        let image = device.crash(Survivors::Random(self.rng.next_u64()));
        let device = Arc::new(FaultyDevice::from_image(image, self.rng.next_u64()));
        // A store too damaged to be opened says so.
        if let Ok(fs) = mount(&device) {
            recognise(&device, &fs, &history, true).map_err(|why| format!("on a bad disk: {why}"))?;
        }
        self.tally.crashes += 1;
        Ok(())
    }

    /// Fills the store to the end, then makes room again.
    fn fill(&mut self) -> Result<(), String> {
        // Too much to be compared for a crash in the middle.
        let _ = self.world.device.take_capture();
        let path = "full".to_owned();
        self.perform(&Operation::Create(path.clone()))?;
        let mut offset = 0;
        let length = if self.rng.one_in(3) { 40_000 } else { 1 << 20 };
        while self.world.now().model.find(&path).is_some() {
            let operation = Operation::Write(path.clone(), offset, length, offset);
            if self.perform(&operation)? != Outcome::Done {
                break;
            }
            offset += length;
        }
        for _ in 0..self.rng.below(10) {
            self.operation()?;
        }
        self.world.verify()?;
        if self.rng.one_in(2) {
            self.crash()?;
        }
        // What removes must work on a full store.
        if self.world.now().model.find(&path).is_some() {
            let outcome = self.perform(&Operation::Unlink(path))?;
            if outcome != Outcome::Done {
                return Err(format!("a full store does not remove: {outcome:?}"));
            }
        }
        self.perform(&Operation::Sync)?;
        Ok(())
    }
}

#[test]
fn long_lives_lose_nothing() {
    runner::run::<Life>("long lives", 3, STEPS);
}
