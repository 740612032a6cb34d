//! `compare`: every job on every filesystem, in turn, several times.
//!
//! Invariants:
//! 1. All subjects exist at the same time, and each job goes round all of them before the next begins, with a
//!    different one first each time: what drifts, drifts for all.
//! 2. What fails on one subject is written down and holds up nobody. A subject that cannot be used any more is made
//!    anew.
//! 3. What was measured is on the disk after every round.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;
use xtask::command::target;
use xtask::scratch::Scratch;

use crate::jobs::{self, Job, Scale};
use crate::page::{self, circumstances};
use crate::results::{Column, Results, Run};
use crate::subject::{Filesystem, Subject, build, chosen};
use crate::{bytes, packages, report, scale, source_tree};

const PACKAGES: &[&str] = &["fio", "git", "sqlite3", "tar"];

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// What to measure beside Blocktree
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "ext4,passthrough,raw,gocryptfs,securefs,cryfs,encfs"
    )]
    pub(crate) with: Vec<String>,
    /// How often everything is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only jobs whose names contain one of these
    #[arg(long, value_delimiter = ',')]
    jobs: Vec<String>,
    /// Size of the large file
    #[arg(long, default_value = "1G", value_parser = bytes)]
    size: u64,
    /// The longest that a random job runs
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Files in the large directory
    #[arg(long, default_value_t = 1_000_000)]
    entries: usize,
    /// A program that runs for longer is ended, in seconds
    #[arg(long, default_value_t = 900)]
    limit: u64,
    /// Everything small and once: shows that all of it works
    #[arg(long)]
    pub(crate) quick: bool,
    /// Where the filesystems lie: choose the disk to measure [default: the target folder]
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Where results go [default: the target folder]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Also write the table to docs/benchmarks.md
    #[arg(long)]
    publish: bool,
}

impl Options {
    fn scale(&self) -> Scale {
        let archive = PathBuf::new();
        if self.quick {
            let (small_files, entries, tree_files, commits) = (200, 500, 60, 10);
            return Scale {
                file_bytes: 16 << 20,
                seconds: 1,
                small_files,
                entries,
                tree_files,
                commits,
                archive,
            };
        }
        Scale {
            file_bytes: self.size,
            seconds: self.seconds,
            small_files: 5000,
            entries: self.entries,
            tree_files: 10_000,
            commits: 500,
            archive,
        }
    }
}

pub(crate) fn run(options: &Options, command: &str) -> Result<()> {
    let jobs = jobs::chosen(&options.jobs)?;
    let rounds = if options.quick { 1 } else { options.rounds };
    ensure!(rounds > 0, "--rounds must be at least 1");
    packages::install(PACKAGES)?;
    build()?;
    let dir = options.dir.clone().unwrap_or_else(target);
    let filesystems = chosen(&options.with)?;
    let mut scale = options.scale();
    let room_bytes = room_bytes(&scale);
    scale::check_room(&dir, room_bytes * filesystems.len() as u64 / 2 * 3)?;
    let scratch = Scratch::new(&dir, "compare")?;
    scale.archive = source_tree::archive(&scratch, scale.tree_files)?;

    let limit = Duration::from_secs(if options.quick { 120 } else { options.limit });
    let (columns, mut subjects) = take_part(filesystems, &scratch, room_bytes, limit)?;
    let rows = jobs.iter().flat_map(|job| job.rows.clone()).collect();
    let mut results = Results::new(columns, rows);
    let out = options.out.clone().unwrap_or_else(|| target().join("compare"));
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let circumstances = circumstances(command)?;
    for round in 0..rounds {
        measure(&jobs, &scale, &mut subjects, round, rounds, &mut results)?;
        write(&results, &scale, &circumstances, round + 1, &out)?;
    }
    println!("{}", report::table(&results));
    eprintln!("written: {0}/compare.json, {0}/compare.md, {0}/compare.html", out.display());
    // A peer may lack something; Blocktree may not.
    let failed = results.failures_of_ours();
    ensure!(failed.is_empty(), "these jobs failed on Blocktree:\n{}", failed.join("\n"));
    if options.publish {
        page::write("fio-bench", command, &report::table(&results))?;
    }
    Ok(())
}

/// Blocktree alone, everything small: fails if any job does.
pub(crate) fn smoke(dir: Option<PathBuf>, command: &str) -> Result<()> {
    let options = Options {
        with: Vec::new(),
        rounds: 1,
        jobs: Vec::new(),
        size: 0,
        seconds: 0,
        entries: 0,
        limit: 0,
        quick: true,
        dir,
        out: Some(target().join("smoke")),
        publish: false,
    };
    run(&options, command)
}

/// What one subject takes at most: the file, those of the synced writes, and the rest.
fn room_bytes(scale: &Scale) -> u64 {
    let small = (scale.small_files + scale.entries) as u64 * 8192;
    2 * scale.file_bytes + small + scale.tree_files as u64 * (64 << 10) + (256 << 20)
}

/// A subject, and where its numbers go.
struct Contender {
    column: usize,
    subject: Subject,
}

/// A column for each filesystem, and a subject for each that can be had here.
fn take_part(
    filesystems: Vec<Box<dyn Filesystem>>,
    scratch: &Scratch,
    room_bytes: u64,
    limit: Duration,
) -> Result<(Vec<Column>, Vec<Contender>)> {
    let (mut columns, mut subjects) = (Vec::new(), Vec::new());
    for (column, filesystem) in filesystems.into_iter().enumerate() {
        let (name, role, is_durable) = (filesystem.name(), filesystem.role(), filesystem.is_durable());
        let version = packages::install(filesystem.packages()).and_then(|()| filesystem.version());
        let (version, left_out) = match version {
            Ok(version) => (version, None),
            Err(error) => {
                eprintln!("{name} is left out: {error:#}");
                (String::new(), Some(format!("{error:#}")))
            }
        };
        if left_out.is_none() {
            let subject = Subject::new(filesystem, scratch, room_bytes, limit)?;
            subjects.push(Contender { column, subject });
        }
        columns.push(Column { name, role, version, is_durable, left_out });
    }
    Ok((columns, subjects))
}

/// One round: makes all, runs every job on each in turn, removes all.
fn measure(
    jobs: &[Job],
    scale: &Scale,
    subjects: &mut [Contender],
    round: usize,
    rounds: usize,
    results: &mut Results,
) -> Result<()> {
    for Contender { subject, .. } in subjects.iter_mut() {
        if let Err(error) = subject.make() {
            eprintln!("{}: {error:#}", subject.name());
        }
    }
    let mut first_row = 0;
    for (number, job) in jobs.iter().enumerate() {
        let rows = first_row..first_row + job.rows.len();
        first_row = rows.end;
        if job.is_long && round > 0 {
            continue;
        }
        for turn in 0..subjects.len() {
            let turn = (turn + round + number) % subjects.len();
            let Contender { column, subject } = &mut subjects[turn];
            eprintln!("round {} of {rounds}: {} on {}", round + 1, job.name, subject.name());
            let start = Instant::now();
            let numbers = ready(subject).and_then(|()| job.run(subject, scale));
            let (seconds, cpu_seconds) = (start.elapsed().as_secs_f64(), subject.take_cost());
            match numbers {
                Ok(None) => {}
                Ok(Some(numbers)) => {
                    for (row, number) in rows.clone().zip(numbers) {
                        results.cell_mut(row, *column).values.push(number);
                    }
                    let (job, subject) = (job.name.clone(), subject.name());
                    results.runs.push(Run { round: round + 1, job, subject, seconds, cpu_seconds });
                }
                Err(error) => {
                    eprintln!("  failed: {error:#}");
                    for row in rows.clone() {
                        results.cell_mut(row, *column).errors.push(format!("{error:#}"));
                    }
                }
            }
        }
    }
    for Contender { subject, .. } in subjects.iter_mut() {
        if let Err(error) = subject.destroy() {
            eprintln!("{}: {error:#}", subject.name());
        }
    }
    Ok(())
}

/// A subject whose daemon has gone, or which could not be made, gets another chance with each job.
fn ready(subject: &mut Subject) -> Result<()> {
    if subject.is_usable() {
        return Ok(());
    }
    // What is wrong with it is why it is made anew.
    let _ = subject.destroy();
    subject.make().context("it cannot be made or mounted")
}

fn write(results: &Results, scale: &Scale, circumstances: &str, rounds: usize, out: &Path) -> Result<()> {
    let put = |name: &str, text: String| {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let behind: BTreeSet<String> = results
        .verdicts()
        .into_iter()
        .filter(|verdict| !verdict.is_met)
        .map(|verdict| format!("{}: {}", verdict.title, verdict.wanted))
        .collect();
    let json = json!({
        "circumstances": circumstances,
        "rounds": rounds,
        "scale": scale,
        "subjects": results.columns,
        "rows": results.described(),
        "behind": behind,
        "runs": results.runs,
    });
    put("compare.json", serde_json::to_string_pretty(&json)? + "\n")?;
    put("compare.md", format!("{circumstances}\n\n{}", report::table(results)))?;
    put("compare.html", report::compare_page(results, circumstances))
}
