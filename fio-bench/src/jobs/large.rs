//! One large file, by fio: in sequence, at random, several at once, durable at the end or each time.

use std::process::Command;

use anyhow::Result;

use super::{Job, Numbers, Scale, Unit};
use crate::fio::{Engine, Fio, Outcome};
use crate::subject::Subject;

/// The file that most jobs use.
const LARGE: &str = "large";

pub(super) fn jobs() -> Vec<Job> {
    let mut jobs = vec![
        Job::of_rows(
            "sequential-write",
            &[
                ("sequential-write", "write 1 MiB at a time, fsync at the end", Unit::MebibytesPerSecond),
                ("sequential-write-cpu", "write 1 MiB at a time: processor time", Unit::SecondsPerGibibyte),
                ("space-large", "disk space taken by the file, to its size", Unit::Ratio),
            ],
            sequential_write,
        )
        .for_raw(),
        Job::of_rows(
            "sequential-read-cold",
            &[
                ("sequential-read-cold", "read 1 MiB at a time, cold", Unit::MebibytesPerSecond),
                (
                    "sequential-read-cold-cpu",
                    "read 1 MiB at a time, cold: processor time",
                    Unit::SecondsPerGibibyte,
                ),
            ],
            sequential_read_cold,
        )
        .for_raw(),
        Job::new("sequential-read-warm", "read 1 MiB at a time, warm", Unit::MebibytesPerSecond, |s, x| {
            warm(s, x)?;
            let fio = large(s, x)?.arguments(&["--bs=1M", "--rw=read", "--invalidate=0", "--time_based"]);
            let fio = fio.at_once(Engine::Psync, 1).at_most(x.seconds);
            Ok(fio.run(s)?.mebibytes_per_second())
        }),
        Job::new("random-read-warm", "read 4 KiB anywhere, warm", Unit::PerSecond, |s, x| {
            warm(s, x)?;
            let fio = large(s, x)?.arguments(&["--bs=4k", "--rw=randread", "--invalidate=0", "--time_based"]);
            Ok(fio.at_once(Engine::Psync, 1).at_most(x.seconds).run(s)?.per_second)
        }),
    ];
    for (engine, engine_name) in [(Engine::Psync, "psync"), (Engine::Uring, "io_uring")] {
        for (is_direct, way) in [(false, "buffered"), (true, "direct")] {
            for depth in [1, 4, 32] {
                let job = Job::new(
                    format!("random-read-{engine_name}-{way}-{depth}"),
                    format!("read 4 KiB anywhere, cold, {way}, {depth} at once, {engine_name}"),
                    Unit::PerSecond,
                    move |s, x| {
                        ensure_large(s, x)?;
                        random_read(s, &[LARGE.into()], x.file_bytes, x.seconds, engine, depth, is_direct)
                    },
                );
                jobs.push(job.for_raw());
            }
        }
    }
    jobs.push(
        Job::new("random-write", "write 4 KiB anywhere, fsync at the end", Unit::PerSecond, |s, x| {
            ensure_large(s, x)?;
            random_write(s, &[LARGE.into()], x.file_bytes, x.file_bytes / 4)
        })
        .for_raw(),
    );
    for (at_once, title) in
        [(1, "write 4 KiB anywhere, fsync each"), (8, "write 4 KiB anywhere, fsync each, 8 files at once")]
    {
        let name = format!("random-write-fsync-{at_once}");
        let job = Job::new(name, title, Unit::PerSecond, move |s, x| {
            synced_write(s, x.file_bytes / 16, x.seconds, at_once)
        });
        jobs.push(job.for_raw());
    }
    for depth in [1, 32] {
        let job = Job::new(
            format!("random-write-direct-{depth}"),
            format!("write 4 KiB anywhere, direct, {depth} at once, io_uring"),
            Unit::PerSecond,
            move |s, x| {
                let fio = large(s, x)?.arguments(&["--bs=4k", "--rw=randwrite"]).direct();
                Ok(fio.at_once(Engine::Uring, depth).at_most(x.seconds).run(s)?.per_second)
            },
        );
        jobs.push(job.for_raw());
    }
    jobs.push(
        Job::new("mixed", "read 70 % and write 30 %, 16 KiB anywhere, 4 at once", Unit::PerSecond, |s, x| {
            ensure_large(s, x)?;
            s.make_cold()?;
            let fio = large(s, x)?.arguments(&["--bs=16k", "--rw=randrw", "--rwmixread=70", "--end_fsync=1"]);
            Ok(fio.at_once(Engine::Psync, 4).at_most(x.seconds).run(s)?.per_second)
        })
        .for_raw(),
    );
    jobs
}

fn large(subject: &Subject, scale: &Scale) -> Result<Fio> {
    ensure_large(subject, scale)?;
    Ok(Fio::new(subject, &[LARGE.into()], scale.file_bytes))
}

fn ensure_large(subject: &Subject, scale: &Scale) -> Result<()> {
    let is_there =
        std::fs::metadata(subject.folder().join(LARGE)).is_ok_and(|file| file.len() == scale.file_bytes);
    if is_there { Ok(()) } else { write_large(subject, scale).prepare(subject) }
}

fn write_large(subject: &Subject, scale: &Scale) -> Fio {
    let fio = Fio::new(subject, &[LARGE.into()], scale.file_bytes);
    fio.arguments(&["--bs=1M", "--rw=write", "--end_fsync=1"]).at_once(Engine::Psync, 1)
}

fn sequential_write(subject: &mut Subject, scale: &Scale) -> Result<Numbers> {
    let before = subject.taken_bytes()?;
    let outcome = write_large(subject, scale).run(subject)?;
    let cpu = cpu_per_gibibyte(subject, outcome);
    // Some write only when they are unmounted.
    subject.make_cold()?;
    let taken = subject.taken_bytes()?.saturating_sub(before);
    Ok(Some(vec![outcome.mebibytes_per_second(), cpu, taken as f64 / scale.file_bytes as f64]))
}

fn sequential_read_cold(subject: &mut Subject, scale: &Scale) -> Result<Numbers> {
    ensure_large(subject, scale)?;
    subject.make_cold()?;
    let fio = large(subject, scale)?.arguments(&["--bs=1M", "--rw=read"]).at_once(Engine::Psync, 1);
    let outcome = fio.run(subject)?;
    Ok(Some(vec![outcome.mebibytes_per_second(), cpu_per_gibibyte(subject, outcome)]))
}

/// Of the daemon and of fio, whose own share is the same for all.
fn cpu_per_gibibyte(subject: &Subject, outcome: Outcome) -> f64 {
    let cost = subject.cost();
    (cost.daemon + cost.client) / (outcome.bytes / f64::from(1 << 30))
}

/// Has the file in the kernel's page cache, as far as that goes.
fn warm(subject: &Subject, scale: &Scale) -> Result<()> {
    ensure_large(subject, scale)?;
    for _ in 0..2 {
        let mut command = Command::new("dd");
        command.arg(format!("if={}", subject.folder().join(LARGE).display()));
        subject.prepare(command.args(["of=/dev/null", "bs=1M", "status=none"]))?;
    }
    Ok(())
}

/// From these files of `bytes` each, which nothing has cached.
pub(crate) fn random_read(
    subject: &mut Subject,
    files: &[String],
    bytes: u64,
    seconds: u32,
    engine: Engine,
    depth: u32,
    is_direct: bool,
) -> Result<f64> {
    subject.make_cold()?;
    let fio = Fio::new(subject, files, bytes).arguments(&["--bs=4k", "--rw=randread"]);
    let fio = if is_direct { fio.direct() } else { fio };
    Ok(fio.at_once(engine, depth).at_most(seconds).run(subject)?.per_second)
}

/// Bounded by amount, not by time: what counts is when all of it is durable.
pub(crate) fn random_write(subject: &mut Subject, files: &[String], bytes: u64, amount: u64) -> Result<f64> {
    let fio = Fio::new(subject, files, bytes).arguments(&["--bs=4k", "--rw=randwrite", "--end_fsync=1"]);
    Ok(fio.bytes(amount).at_once(Engine::Psync, 1).run(subject)?.per_second)
}

/// Each job has a file of its own, written before the measurement.
pub(crate) fn synced_write(subject: &mut Subject, bytes: u64, seconds: u32, at_once: u32) -> Result<f64> {
    let fio = Fio::of_their_own(subject, &format!("synced-{at_once}"), bytes)
        .arguments(&["--bs=4k", "--rw=randwrite", "--fsync=1", "--overwrite=1"])
        .at_once(Engine::Psync, at_once)
        .at_most(seconds);
    Ok(fio.run(subject)?.per_second)
}
