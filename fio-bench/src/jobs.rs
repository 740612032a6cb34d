//! What is measured: one entry for each row of the table.

use anyhow::Result;

use crate::fio::{Direction, Fio};
use crate::small_files::{SmallFiles, Step};
use crate::subject::Subject;

/// How much each job does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Length of the large file.
    pub(crate) file_bytes: u64,
    /// No random job takes longer.
    pub(crate) seconds_max: u32,
    pub(crate) small_files: usize,
}

impl Scale {
    pub(crate) const TINY: Self = Self { file_bytes: 16 << 20, seconds_max: 1, small_files: 100 };

    pub(crate) const fn of(file_bytes: u64) -> Self {
        Self { file_bytes, seconds_max: 10, small_files: 5000 }
    }
}

/// What a number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    MebibytesPerSecond,
    PerSecond,
}

pub(crate) struct Job {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    run: fn(&mut dyn Subject, &Scale) -> Result<f64>,
}

impl Job {
    pub(crate) fn run(&self, subject: &mut dyn Subject, scale: &Scale) -> Result<f64> {
        (self.run)(subject, scale)
    }
}

/// The order matters: what reads a file comes after what writes it.
pub(crate) const JOBS: &[Job] = &[
    Job {
        name: "write a file, 1 MiB at a time, and fsync",
        unit: Unit::MebibytesPerSecond,
        run: sequential_write,
    },
    Job { name: "read it, 1 MiB at a time, cold", unit: Unit::MebibytesPerSecond, run: sequential_read },
    Job { name: "read 4 KiB anywhere, cold", unit: Unit::PerSecond, run: |s, x| random_read(s, x, 1) },
    Job { name: "the same, 4 at once", unit: Unit::PerSecond, run: |s, x| random_read(s, x, 4) },
    Job { name: "write 4 KiB anywhere, fsync at the end", unit: Unit::PerSecond, run: random_write },
    Job {
        name: "write 4 KiB anywhere, fsync each",
        unit: Unit::PerSecond,
        run: |s, x| synced_write(s, x, 1),
    },
    Job { name: "the same, 8 files at once", unit: Unit::PerSecond, run: |s, x| synced_write(s, x, 8) },
    Job { name: "create files of 4 KiB", unit: Unit::PerSecond, run: |s, x| small(s, x, Step::Create) },
    Job { name: "stat them, cold", unit: Unit::PerSecond, run: |s, x| small(s, x, Step::Stat) },
    Job { name: "read them, cold", unit: Unit::PerSecond, run: |s, x| small(s, x, Step::Read) },
    Job { name: "delete them", unit: Unit::PerSecond, run: |s, x| small(s, x, Step::Delete) },
];

const LARGE: &str = "large";

fn sequential_write(subject: &mut dyn Subject, scale: &Scale) -> Result<f64> {
    let fio = Fio::new(&subject.folder(), LARGE, scale.file_bytes).arguments(&[
        "--bs=1M",
        "--rw=write",
        "--end_fsync=1",
    ]);
    Ok(fio.run(Direction::Write)?.mebibytes_per_second())
}

fn sequential_read(subject: &mut dyn Subject, scale: &Scale) -> Result<f64> {
    subject.make_cold()?;
    let fio = Fio::new(&subject.folder(), LARGE, scale.file_bytes).arguments(&["--bs=1M", "--rw=read"]);
    Ok(fio.run(Direction::Read)?.mebibytes_per_second())
}

fn random_read(subject: &mut dyn Subject, scale: &Scale, jobs: u32) -> Result<f64> {
    subject.make_cold()?;
    let fio = Fio::new(&subject.folder(), LARGE, scale.file_bytes)
        .arguments(&["--bs=4k", "--rw=randread"])
        .at_once(jobs)
        .at_most(scale.seconds_max);
    Ok(fio.run(Direction::Read)?.per_second)
}

fn random_write(subject: &mut dyn Subject, scale: &Scale) -> Result<f64> {
    // Bounded by amount, not by time: what counts is when all of it is durable.
    let fio = Fio::new(&subject.folder(), LARGE, scale.file_bytes)
        .arguments(&["--bs=4k", "--rw=randwrite", "--end_fsync=1"])
        .bytes(scale.file_bytes / 4);
    Ok(fio.run(Direction::Write)?.per_second)
}

fn synced_write(subject: &mut dyn Subject, scale: &Scale, jobs: u32) -> Result<f64> {
    // Each job has a file of its own, written before the measurement.
    let fio = Fio::of_their_own(&subject.folder(), &format!("synced-{jobs}"), scale.file_bytes / 16)
        .arguments(&["--bs=4k", "--rw=randwrite", "--fsync=1", "--overwrite=1"])
        .at_once(jobs)
        .at_most(scale.seconds_max);
    Ok(fio.run(Direction::Write)?.per_second)
}

fn small(subject: &mut dyn Subject, scale: &Scale, step: Step) -> Result<f64> {
    if matches!(step, Step::Stat | Step::Read) {
        subject.make_cold()?;
    }
    SmallFiles::new(subject.folder().join("small"), scale.small_files).run(step)
}
