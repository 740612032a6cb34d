//! The suite `ranges`: random operations on a file, compared with a copy in memory, with what `fsx` does not know:
//! O_DIRECT, zeroed, collapsed and inserted ranges, and remounts in between.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::fs::{FallocateFlags, OFlags, copy_file_range, fallocate};
use rustix::io::Errno;

use super::ground::Ground;
use super::report::{Report, Verdict};
use super::{Form, Suite};

pub(super) struct Ranges;

const SECTOR: usize = 4096;
const FILE_BYTES_MAX: usize = 1 << 20;
const OPERATION_BYTES_MAX: usize = 128 << 10;

/// How a file is opened and used.
#[derive(Debug, Clone, Copy)]
struct Kind {
    name: &'static str,
    is_direct: bool,
    /// Whether offsets and lengths are whole sectors.
    is_aligned: bool,
    /// Whether ranges are collapsed and inserted.
    moves: bool,
}

const KINDS: [Kind; 4] = [
    Kind { name: "cached", is_direct: false, is_aligned: false, moves: false },
    Kind { name: "cached, whole sectors", is_direct: false, is_aligned: true, moves: false },
    Kind { name: "direct", is_direct: true, is_aligned: true, moves: false },
    Kind { name: MOVES, is_direct: false, is_aligned: true, moves: true },
];
/// The only cases that collapse and insert ranges.
pub(super) const MOVES: &str = "collapsed and inserted";

impl Suite for Ranges {
    fn name(&self) -> &'static str {
        "ranges"
    }

    fn is_short(&self) -> bool {
        true
    }

    fn run(&self, ground: &Ground, form: Form) -> Result<Report> {
        let (operations, seeds) = match form {
            Form::Short => (3_000, 1),
            Form::Long => (350_000, 3),
        };
        let mut report = Report::default();
        let mut contents = Vec::new();
        for kind in KINDS {
            for seed in 1..=seeds {
                let case = format!("{}, seed {seed}", kind.name);
                let path = ground.folder().join(&case);
                let mut exerciser = Exerciser::new(&path, kind, seed)?;
                if kind.moves && !exerciser.can_move()? {
                    report.add(case, Verdict::Skipped("fallocate(2) answers EOPNOTSUPP".into()));
                    continue;
                }
                let exercised = (|| {
                    for operation in 0..operations {
                        exerciser.step().with_context(|| format!("operation {operation}"))?;
                    }
                    exerciser.compare()?;
                    contents.push((case.clone(), path.clone(), exerciser.expected));
                    Ok(())
                })();
                report.judge(case, exercised);
            }
        }
        ground.remount()?;
        for (case, path, expected) in contents {
            let found = std::fs::read(path)?;
            report.judge(format!("{case}, remounted"), equal(&found, &expected, 0));
        }
        Ok(report)
    }
}

/// A file and what it must hold.
struct Exerciser {
    file: File,
    kind: Kind,
    expected: Vec<u8>,
    random: StdRng,
}

impl Exerciser {
    fn new(path: &Path, kind: Kind, seed: u64) -> Result<Self> {
        let flags = if kind.is_direct { OFlags::DIRECT.bits() as i32 } else { 0 };
        let mut options = File::options();
        let file =
            options.read(true).write(true).create(true).truncate(true).custom_flags(flags).open(path)?;
        Ok(Self { file, kind, expected: Vec::new(), random: StdRng::seed_from_u64(seed) })
    }

    /// Whether the filesystem moves ranges at all.
    fn can_move(&self) -> Result<bool> {
        self.file.set_len(4 * SECTOR as u64)?;
        let tried = fallocate(&self.file, FallocateFlags::COLLAPSE_RANGE, 0, SECTOR as u64);
        self.file.set_len(0)?;
        match tried {
            Err(Errno::OPNOTSUPP) => Ok(false),
            result => Ok(result.map(|()| true)?),
        }
    }

    fn step(&mut self) -> Result<()> {
        match self.random.random_range(0..100) {
            0..25 => self.write(),
            25..50 => self.read(),
            50..56 => self.truncate(),
            56..62 => self.punch(),
            62..68 => self.zero(),
            68..74 if self.kind.moves => self.collapse(),
            74..80 if self.kind.moves => self.insert(),
            68..80 => self.write(),
            80..86 => self.allocate(),
            86..98 => self.copy(),
            98 => Ok(self.file.sync_all()?),
            _ => self.compare(),
        }
    }

    /// A number up to `max`, which may be a multiple of the sector.
    fn number(&mut self, max: usize, is_aligned: bool) -> usize {
        match is_aligned {
            true => self.random.random_range(0..=max / SECTOR) * SECTOR,
            false => self.random.random_range(0..=max),
        }
    }

    /// A range within the longest file.
    fn range(&mut self, is_aligned: bool) -> (usize, usize) {
        let offset = self.number(FILE_BYTES_MAX - SECTOR, is_aligned);
        let length = self.number(OPERATION_BYTES_MAX, is_aligned).min(FILE_BYTES_MAX - offset);
        (offset, length.max(if is_aligned { SECTOR } else { 1 }))
    }

    fn write(&mut self) -> Result<()> {
        let (offset, length) = self.range(self.kind.is_aligned);
        let mut bytes = Aligned::new(length);
        self.random.fill(bytes.bytes_mut());
        self.file.write_all_at(bytes.bytes(), offset as u64).context("write")?;
        self.grow(offset + length);
        self.expected[offset..offset + length].copy_from_slice(bytes.bytes());
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        let (offset, length) = self.range(self.kind.is_aligned);
        self.compare_range(offset, length)
    }

    fn truncate(&mut self) -> Result<()> {
        let size = self.number(FILE_BYTES_MAX, self.kind.is_aligned);
        self.file.set_len(size as u64).context("truncate")?;
        self.expected.resize(size, 0);
        Ok(())
    }

    fn punch(&mut self) -> Result<()> {
        let (offset, length) = self.range(self.kind.is_aligned);
        self.fallocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)?;
        self.clear(offset, length);
        Ok(())
    }

    fn zero(&mut self) -> Result<()> {
        let (offset, length) = self.range(self.kind.is_aligned);
        let keeps_size = self.random.random();
        let keep = if keeps_size { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
        self.fallocate(FallocateFlags::ZERO_RANGE | keep, offset, length)?;
        if !keeps_size {
            self.grow(offset + length);
        }
        self.clear(offset, length);
        Ok(())
    }

    fn allocate(&mut self) -> Result<()> {
        let (offset, length) = self.range(self.kind.is_aligned);
        self.fallocate(FallocateFlags::empty(), offset, length)?;
        self.grow(offset + length);
        Ok(())
    }

    fn collapse(&mut self) -> Result<()> {
        let (offset, length) = self.range(true);
        if offset + length >= self.expected.len() {
            return Ok(());
        }
        self.fallocate(FallocateFlags::COLLAPSE_RANGE, offset, length)?;
        self.expected.drain(offset..offset + length);
        Ok(())
    }

    fn insert(&mut self) -> Result<()> {
        let (offset, length) = self.range(true);
        if offset >= self.expected.len() || self.expected.len() + length > FILE_BYTES_MAX {
            return Ok(());
        }
        self.fallocate(FallocateFlags::INSERT_RANGE, offset, length)?;
        self.expected.splice(offset..offset, std::iter::repeat_n(0, length));
        Ok(())
    }

    fn copy(&mut self) -> Result<()> {
        let (from, length) = self.range(self.kind.is_aligned);
        let to = self.number(FILE_BYTES_MAX - length, self.kind.is_aligned);
        let length = length.min(self.expected.len().saturating_sub(from));
        if length == 0 || from.abs_diff(to) < length {
            return Ok(());
        }
        let (mut source, mut target) = (from as u64, to as u64);
        let mut left = length;
        while left > 0 {
            let copied = copy_file_range(&self.file, Some(&mut source), &self.file, Some(&mut target), left)
                .with_context(|| format!("copy {length} bytes from {from} to {to}"))?;
            ensure!(copied > 0, "{left} bytes of a copy are missing");
            left -= copied;
        }
        self.grow(to + length);
        self.expected.copy_within(from..from + length, to);
        Ok(())
    }

    fn fallocate(&self, mode: FallocateFlags, offset: usize, length: usize) -> Result<()> {
        fallocate(&self.file, mode, offset as u64, length as u64)
            .with_context(|| format!("fallocate {mode:?} {offset} {length}"))
    }

    fn grow(&mut self, end: usize) {
        let size = self.expected.len().max(end);
        self.expected.resize(size, 0);
    }

    fn clear(&mut self, offset: usize, length: usize) {
        let end = (offset + length).min(self.expected.len());
        if offset < end {
            self.expected[offset..end].fill(0);
        }
    }

    /// The whole file.
    fn compare(&mut self) -> Result<()> {
        let size = self.file.metadata()?.len();
        ensure!(size == self.expected.len() as u64, "the length is {size}, not {}", self.expected.len());
        self.compare_range(0, FILE_BYTES_MAX)
    }

    fn compare_range(&mut self, offset: usize, length: usize) -> Result<()> {
        let mut found = Aligned::new(length);
        let mut count = 0;
        while count < length {
            // A direct read goes on at a sector's edge; one that does not end there has met the end.
            match self.file.read_at(&mut found.bytes_mut()[count..], (offset + count) as u64)? {
                0 => break,
                read => count += read,
            }
            if self.kind.is_direct && !count.is_multiple_of(SECTOR) {
                break;
            }
        }
        let start = offset.min(self.expected.len());
        let end = (offset + length).min(self.expected.len());
        equal(&found.bytes()[..count], &self.expected[start..end], offset)
    }
}

fn equal(found: &[u8], expected: &[u8], offset: usize) -> Result<()> {
    ensure!(found.len() == expected.len(), "{} bytes at {offset}, not {}", found.len(), expected.len());
    match found.iter().zip(expected).position(|(found, expected)| found != expected) {
        None => Ok(()),
        Some(at) => Err(anyhow::anyhow!("byte {} is {}, not {}", offset + at, found[at], expected[at])),
    }
}

/// Bytes at an address that O_DIRECT accepts.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn new(length: usize) -> Self {
        let bytes = vec![0; length + SECTOR];
        let start = bytes.as_ptr().align_offset(SECTOR);
        Self { bytes, start, length }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}
