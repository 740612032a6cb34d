//! What runs in a machine whose power is going to be cut, and what must be there afterwards.
//!
//! A *life* is the time between two cuts. It mounts the store, makes a folder of its own and works in it: operations
//! that a seed chooses, so that whoever knows the seed knows them all. Each is told on the serial line before it starts,
//! and each fsync when it has ended. Beside it, a second thread overwrites files as fast as it can, so that there is
//! always something under way.
//!
//! Key types: [`Model`], what the operations make of a folder; [`Told`], what was heard of a life.
//!
//! What must hold of the folder after the cut:
//! 1. Its names are those after one of the operations, and not of an earlier one than the last that changed what was
//!    made durable by an fsync that has ended: of the file, or of the names of the folder.
//! 2. A file that was not changed since its last fsync is as it was then. Of one that was, each page is one of those
//!    that were written since, or as it was then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};

use xtask::command::execute;

const PAGE: usize = 4096;
const FILE_PAGES_MAX: usize = 64;
const FOLDERS: [&str; 2] = ["a", "b"];
/// Names in each folder.
const NAMES: u8 = 8;
/// A file's number is its mode.
const FILES_MAX: usize = 0o777;
const NOISE_FILES: usize = 4;
const NOISE_PAGES: usize = 256;

pub(super) const MOUNTING: &str = "mounting";
pub(super) const MOUNTED: &str = "mounted";
pub(super) const BEGIN: &str = "begin";
pub(super) const OPERATION: &str = "operation ";
pub(super) const DURABLE: &str = "durable ";
pub(super) const FAILED: &str = "failed";

/// A folder's and a name's number.
type Name = (u8, u8);

#[derive(Debug, Clone)]
enum Operation {
    Create(Name),
    /// From a page on, so many.
    Write(Name, usize, usize),
    Truncate(Name, usize),
    Fsync(Name),
    Fdatasync(Name),
    FsyncFolder(u8),
    Link(Name, Name),
    Rename(Name, Name),
    Exchange(Name, Name),
    Unlink(Name),
}
use Operation::*;

/// A file: which operation wrote each of its pages, 0 if none did, and what it may be after a cut.
#[derive(Debug, Clone, Default)]
struct Contents {
    now: Vec<u64>,
    /// For each page, what it may be beside zeros.
    possible: Vec<BTreeSet<u64>>,
    /// Pages may be zeros, as its end moved.
    moved: bool,
    pages_min: usize,
    pages_max: usize,
    /// The last operation that changed its pages, and the last that changed its names.
    written: u64,
    named: u64,
}

impl Contents {
    fn write(&mut self, page: usize, pages: usize, operation: u64) {
        if self.now.len() < page + pages {
            // What comes first, the new end or the pages before it, is the kernel's choice.
            self.moved = true;
            self.now.resize(page + pages, 0);
        }
        self.now[page..page + pages].fill(operation);
        self.remember(operation);
    }

    fn truncate(&mut self, pages: usize, operation: u64) {
        self.now.resize(pages, 0);
        self.moved = true;
        self.remember(operation);
    }

    fn remember(&mut self, operation: u64) {
        self.written = operation;
        self.pages_min = self.pages_min.min(self.now.len());
        self.pages_max = self.pages_max.max(self.now.len());
        if self.possible.len() < self.now.len() {
            self.possible.resize(self.now.len(), BTreeSet::new());
        }
        for (possible, now) in self.possible.iter_mut().zip(&self.now) {
            possible.insert(*now);
        }
    }

    /// From now on it can only be what it is.
    fn make_durable(&mut self) {
        *self = Self {
            possible: self.now.iter().map(|&operation| BTreeSet::from([operation])).collect(),
            moved: false,
            pages_min: self.now.len(),
            pages_max: self.now.len(),
            now: std::mem::take(&mut self.now),
            ..*self
        };
    }

    fn verify(&self, number: usize, bytes: &[u8]) -> Result<()> {
        ensure!(bytes.len().is_multiple_of(PAGE), "{} bytes", bytes.len());
        let pages = bytes.len() / PAGE;
        let range = self.pages_min..=self.pages_max;
        ensure!(range.contains(&pages), "{pages} pages, instead of {range:?}");
        for (at, page) in bytes.chunks(PAGE).enumerate() {
            let possible = &self.possible[at];
            let is_zero = page.iter().all(|&byte| byte == 0);
            if is_zero && (self.moved || possible.contains(&0)) {
                continue;
            }
            let operation = u64::from_le_bytes(page[..8].try_into()?);
            ensure!(
                possible.contains(&operation) && page == contents(number, at, operation),
                "page {at} is of operation {operation}, zero: {is_zero}, instead of one of {possible:?}"
            );
        }
        Ok(())
    }
}

/// What operations make of a folder.
struct Model {
    random: StdRng,
    names: BTreeMap<Name, usize>,
    files: Vec<Contents>,
    operations: u64,
    /// The last operation that changed the names of each folder.
    changed: [u64; FOLDERS.len()],
    /// Operations up to this are certain to be there after a cut.
    durable: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let (names, files) = (BTreeMap::new(), Vec::new());
        Self { random, names, files, operations: 0, changed: [0; _], durable: 0 }
    }

    /// Chooses an operation that is possible now.
    fn choose(&mut self) -> Operation {
        let random = &mut self.random;
        let any = (random.random_range(0..FOLDERS.len() as u8), random.random_range(0..NAMES));
        let mut known = || self.names.keys().copied().choose(random);
        let (Some(one), Some(other)) = (known(), known()) else { return Create(any) };
        let is_free = !self.names.contains_key(&any);
        let pages = random.random_range(1..=16);
        let page = random.random_range(0..FILE_PAGES_MAX - pages);
        match random.random_range(0..100) {
            0..15 if is_free && self.files.len() < FILES_MAX => Create(any),
            15..50 => Write(one, page, pages),
            50..55 => Truncate(one, page),
            55..70 => Fsync(one),
            70..77 => Fdatasync(one),
            77..81 => FsyncFolder(any.0),
            81..84 if is_free => Link(one, any),
            84..92 if any != one => Rename(one, any),
            92..95 if one != other => Exchange(one, other),
            95..98 => Unlink(one),
            _ => Write(one, page, pages),
        }
    }

    /// What an operation changes; one that makes something durable does so only if that `is_known`.
    fn apply(&mut self, operation: &Operation, is_known: bool) {
        self.operations += 1;
        let number = self.operations;
        match *operation {
            Create(name) => {
                self.files.push(Contents::default());
                self.name(name, Some(self.files.len() - 1));
            }
            Write(name, page, pages) => self.file(name).write(page, pages, number),
            Truncate(name, pages) => self.file(name).truncate(pages, number),
            Fsync(name) | Fdatasync(name) if is_known => {
                self.file(name).make_durable();
                let (written, named) = (self.file(name).written, self.file(name).named);
                self.durable = self.durable.max(written);
                if let Fsync(_) = operation {
                    self.durable = self.durable.max(named);
                }
            }
            FsyncFolder(folder) if is_known => {
                self.durable = self.durable.max(self.changed[folder as usize]);
            }
            Fsync(_) | Fdatasync(_) | FsyncFolder(_) => {}
            Link(from, to) => self.name(to, Some(self.names[&from])),
            // Between two names of one file it does nothing.
            Rename(from, to) if self.names.get(&to) == Some(&self.names[&from]) => {}
            Rename(from, to) => {
                let file = self.names[&from];
                self.name(from, None);
                self.name(to, Some(file));
            }
            Exchange(one, other) => {
                let (first, second) = (self.names[&one], self.names[&other]);
                self.name(one, Some(second));
                self.name(other, Some(first));
            }
            Unlink(name) => self.name(name, None),
        }
    }

    /// Gives a name to a file, or to none.
    fn name(&mut self, name: Name, file: Option<usize>) {
        self.changed[name.0 as usize] = self.operations;
        let before = match file {
            Some(file) => self.names.insert(name, file),
            None => self.names.remove(&name),
        };
        for file in before.into_iter().chain(file) {
            self.files[file].named = self.operations;
        }
    }

    fn file(&mut self, name: Name) -> &mut Contents {
        &mut self.files[self.names[&name]]
    }
}

/// What a page of a file contains that an operation wrote.
fn contents(file: usize, page: usize, operation: u64) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(operation << 32 ^ (file as u64) << 16 ^ page as u64);
    let mut bytes = vec![0; PAGE];
    random.fill(&mut bytes[..]);
    bytes[..8].copy_from_slice(&operation.to_le_bytes());
    bytes
}

/// The folder of a life.
pub(super) fn folder(mount: &Path, life: u64) -> PathBuf {
    mount.join(format!("life {life}"))
}

fn path(folder: &Path, name: Name) -> PathBuf {
    folder.join(FOLDERS[name.0 as usize]).join(name.1.to_string())
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// In the machine: one life, until its power is cut.
pub(super) fn run(seed: u64, life: u64) -> Result<()> {
    let (disk, mount) = (Path::new("/dev/vda"), Path::new("/mnt"));
    rustix::process::umask(Mode::empty());
    if life == 0 {
        execute(Command::new("blocktree").arg("init").arg(disk))?;
    }
    println!("{MOUNTING}");
    execute(Command::new("blocktree").arg("mount").args([disk, mount]))?;
    println!("{MOUNTED}");
    if let Some(old) = life.checked_sub(2) {
        match fs::remove_dir_all(folder(mount, old)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let own = folder(mount, life);
    // The life before may have had no time to begin, and this number with it.
    let _ = fs::remove_dir_all(&own);
    fs::create_dir(&own)?;
    for name in FOLDERS {
        fs::create_dir(own.join(name))?;
        sync(&own.join(name))?;
    }
    sync(&own)?;
    sync(mount)?;
    println!("{BEGIN}");
    let noisy = mount.join("noise");
    fs::create_dir_all(&noisy)?;
    thread::spawn(move || {
        if let Err(error) = make_noise(&noisy, seed) {
            println!("{FAILED}: noise: {error}");
        }
    });
    let mut model = Model::new(seed);
    let mut said = io::stdout().lock();
    loop {
        let operation = model.choose();
        let number = model.operations + 1;
        writeln!(said, "{OPERATION}{number}")?;
        perform(&own, &model, &operation, number).with_context(|| format!("{number}: {operation:?}"))?;
        if matches!(operation, Fsync(_) | Fdatasync(_) | FsyncFolder(_)) {
            writeln!(said, "{DURABLE}{number}")?;
        }
        model.apply(&operation, true);
    }
}

fn perform(folder: &Path, model: &Model, operation: &Operation, number: u64) -> io::Result<()> {
    let at = |name: Name| path(folder, name);
    let opened = |name: Name| OpenOptions::new().write(true).open(at(name));
    match *operation {
        Create(name) => {
            let mode = model.files.len() as u32;
            OpenOptions::new().write(true).create_new(true).mode(mode).open(at(name)).map(drop)
        }
        Write(name, page, pages) => {
            let file = model.names[&name];
            let bytes: Vec<u8> = (page..page + pages).flat_map(|page| contents(file, page, number)).collect();
            opened(name)?.write_all_at(&bytes, (page * PAGE) as u64)
        }
        Truncate(name, pages) => opened(name)?.set_len((pages * PAGE) as u64),
        Fsync(name) => opened(name)?.sync_all(),
        Fdatasync(name) => opened(name)?.sync_data(),
        FsyncFolder(number) => sync(&folder.join(FOLDERS[number as usize])),
        Link(from, to) => fs::hard_link(at(from), at(to)),
        Rename(from, to) => fs::rename(at(from), at(to)),
        Exchange(one, other) => Ok(renameat_with(CWD, at(one), CWD, at(other), RenameFlags::EXCHANGE)?),
        Unlink(name) => fs::remove_file(at(name)),
    }
}

/// Overwrites files past the page cache, so that there is always something that the disk may lose.
fn make_noise(folder: &Path, seed: u64) -> io::Result<()> {
    let mut random = StdRng::seed_from_u64(!seed);
    let direct = OFlags::DIRECT.bits() as i32;
    loop {
        let name = folder.join(random.random_range(0..NOISE_FILES).to_string());
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).custom_flags(direct).open(name)?;
        let pages = random.random_range(1..=NOISE_PAGES / 4);
        let mut contents = vec![0; pages * PAGE];
        random.fill(&mut contents[..]);
        file.write_all_at(&contents, (random.random_range(0..NOISE_PAGES - pages) * PAGE) as u64)?;
        if random.random_ratio(1, 8) {
            file.set_len((random.random_range(0..NOISE_PAGES) * PAGE) as u64)?;
        }
    }
}

/// What was heard of a life.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    pub(super) has_begun: bool,
    /// The number of the last operation that started, and of the last fsync that ended.
    pub(super) started: u64,
    pub(super) durable: u64,
}

impl Told {
    pub(super) fn hear(&mut self, line: &str) {
        self.has_begun |= line == BEGIN;
        let number = |start: &str| line.strip_prefix(start).and_then(|number| number.parse().ok());
        self.started = number(OPERATION).unwrap_or(self.started);
        self.durable = number(DURABLE).unwrap_or(self.durable);
    }
}

/// Fails unless a life's folder is what it may be after the cut.
pub(super) fn verify(folder: &Path, seed: u64, told: Told) -> Result<()> {
    let mut found = BTreeMap::new();
    for (number, place) in FOLDERS.iter().enumerate() {
        for entry in fs::read_dir(folder.join(place))? {
            let entry = entry?;
            let name = (number as u8, entry.file_name().to_string_lossy().parse::<u8>()?);
            let metadata = entry.metadata()?;
            let file = (metadata.mode() & 0o777) as usize;
            found.insert(name, (file, metadata.nlink()));
        }
    }
    let names: BTreeMap<Name, usize> = found.iter().map(|(name, (file, _))| (*name, *file)).collect();
    let mut model = Model::new(seed);
    let mut moments = vec![(0, model.names.clone())];
    for number in 1..=told.started {
        let operation = model.choose();
        model.apply(&operation, number <= told.durable);
        moments.push((number, model.names.clone()));
    }
    moments.retain(|(number, _)| *number >= model.durable);
    let is_one_of_them = moments.iter().any(|(_, moment)| *moment == names);
    ensure!(is_one_of_them, "the names are {names:?}, instead of one of {moments:?}");
    for (name, (file, links)) in found {
        let all = names.values().filter(|other| **other == file).count() as u64;
        ensure!(links == all, "{} has {links} links and {all} names", path(folder, name).display());
        let bytes = fs::read(path(folder, name)).with_context(|| path(folder, name).display().to_string())?;
        model.files[file]
            .verify(file, &bytes)
            .with_context(|| format!("file {file}, {}", path(folder, name).display()))?;
    }
    Ok(())
}

/// All that is in a folder, to compare: names, modes, lengths and bytes.
pub(super) fn fingerprint(folder: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for place in FOLDERS {
        for entry in fs::read_dir(folder.join(place))? {
            let entry = entry?;
            let (metadata, bytes) = (entry.metadata()?, fs::read(entry.path())?);
            let sum = bytes.chunks(PAGE).fold(bytes.len() as u64, |sum, page| {
                let number = u64::from_le_bytes(page[..8].try_into().unwrap_or_default());
                sum.wrapping_mul(31).wrapping_add(number)
            });
            lines.push(format!("{place}/{:?} {:o} {sum:x}", entry.file_name(), metadata.mode()));
        }
    }
    lines.sort();
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> xtask::scratch::Scratch {
        let scratch = xtask::scratch::Scratch::new(&std::env::temp_dir(), name).unwrap();
        for name in FOLDERS {
            fs::create_dir_all(scratch.join(name)).unwrap();
        }
        scratch
    }

    /// Operations on the machine's own filesystem: what is there is one of the things that may be.
    #[test]
    fn what_was_done_is_what_is_expected() {
        rustix::process::umask(Mode::empty());
        let scratch = scratch("workload");
        let folder = scratch.join("");
        let mut model = Model::new(3);
        let (mut told, mut durable) = (Told { has_begun: true, ..Told::default() }, 0);
        for number in 1..400 {
            let operation = model.choose();
            perform(&folder, &model, &operation, number).unwrap();
            told.hear(&format!("{OPERATION}{number}"));
            if matches!(operation, Fsync(_) | Fdatasync(_) | FsyncFolder(_)) {
                told.hear(&format!("{DURABLE}{number}"));
                durable += 1;
            }
            model.apply(&operation, true);
        }
        assert!(durable > 50 && model.names.len() > 3);
        verify(&folder, 3, told).unwrap();
        // Another history is not this one.
        assert!(verify(&folder, 4, told).is_err());
        // A file that was made durable and lost a page.
        told.durable = told.started;
        let file = |model: &Model| {
            *model.names.iter().find(|(_, file)| !model.files[**file].now.is_empty()).unwrap().0
        };
        let victim = path(&folder, file(&model));
        OpenOptions::new().write(true).open(victim).unwrap().write_all_at(&[7; 9], 0).unwrap();
        assert!(verify(&folder, 3, told).is_err());
    }

    #[test]
    fn a_lost_name_is_noticed() {
        rustix::process::umask(Mode::empty());
        let scratch = scratch("workload names");
        let folder = scratch.join("");
        let mut model = Model::new(9);
        let mut number = 0;
        while model.names.len() < 5 {
            let operation = model.choose();
            number += 1;
            perform(&folder, &model, &operation, number).unwrap();
            model.apply(&operation, true);
        }
        let told = Told { has_begun: true, started: number, durable: number };
        fs::remove_file(path(&folder, *model.names.keys().next().unwrap())).unwrap();
        assert!(verify(&folder, 9, told).is_err());
    }
}
