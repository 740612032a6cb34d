//! Benchmarks of Blocktree, beside the filesystem that its volume lies on, beside what FUSE allows, and beside its
//! peers.
//!
//! [`compare`] runs what [`jobs`] lists on what [`subject`] mounts; [`growth`] runs some of it on more and more.
//! [`results`] holds the numbers, [`report`] and [`page`] write them down. [`fio`], [`small_files`] and
//! [`source_tree`] are what jobs are made of, [`process`] runs and limits them, [`passthrough`] is a subject.
//! [`apps`] measures what apps wait for and cost. [`flamegraph`] and [`instructions`] say where time goes. [`scale`] and [`ageing`] drive engine and `Fs` without
//! a mount.
//!
//! Invariants:
//! 1. Only what is mounted anew, with the kernel's caches dropped, is called cold.
//! 2. Each job goes round all subjects before the next begins. What disturbs one disturbs all.
//! 3. A number is the median of the rounds; the table shows the smallest and largest beside it.

mod ageing;
mod apps;
mod compare;
mod fio;
mod flamegraph;
mod growth;
mod instructions;
mod jobs;
mod packages;
mod page;
mod passthrough;
mod process;
mod report;
mod results;
mod scale;
mod small_files;
mod source_tree;
mod subject;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

use small_files::{SmallFiles, Step};

/// Measures Blocktree. As root, from the top of the source tree, and built with --release.
#[derive(Debug, Parser)]
#[command(name = "fio-bench")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Each job once, small, on Blocktree alone: shows that all of it works
    Smoke {
        /// Where the volume lies [default: the target folder]
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Every job on Blocktree, on floors and on peers; JSON, Markdown and HTML
    Compare(compare::Options),
    /// The names of the jobs of `compare`
    Jobs,
    /// The same operations on more and more data and files, with a fitted exponent
    Growth(growth::Options),
    /// Where the daemon's time goes while a job runs, as SVG
    Flamegraph(flamegraph::Options),
    /// Counts the instructions of hot paths, and compares them with those of the last time
    Instructions(instructions::Options),
    /// Opens stores of growing size after a crash
    Scale(scale::Options),
    /// Overwrites a store many times over
    Ageing(ageing::Options),
    /// How soon apps are called, how much they get done, and what the mount pays for them
    Apps(apps::Options),
    #[command(name = scale::MAKE, hide = true)]
    ScaleMake { words: Vec<String> },
    #[command(name = scale::READ, hide = true)]
    ScaleRead { words: Vec<String> },
    #[command(name = small_files::CHILD, hide = true)]
    SmallFiles {
        #[command(flatten)]
        files: SmallFiles,
        #[arg(long)]
        step: Step,
    },
    #[command(name = instructions::CHILD, hide = true)]
    InstructionsChild { operation: String, count: u64 },
    #[command(hide = true)]
    PassthroughDaemon { folder: PathBuf, mount_point: PathBuf },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fio-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let command = format!("cargo run --release -p fio-bench -- {}", words.join(" "));
    match task {
        Task::Smoke { dir } => compare::smoke(dir, &command),
        Task::Compare(options) => compare::run(&options, &command),
        Task::Jobs => {
            println!("{}", jobs::names());
            Ok(())
        }
        Task::Growth(options) => growth::run(&options, &command),
        Task::Flamegraph(options) => flamegraph::run(&options),
        Task::Instructions(options) => instructions::run(&options),
        Task::Scale(options) => scale::run(&options, &command),
        Task::Ageing(options) => ageing::run(&options, &command),
        Task::Apps(options) => apps::run(&options, &command),
        Task::ScaleMake { words } => scale::child(scale::MAKE, &words),
        Task::ScaleRead { words } => scale::child(scale::READ, &words),
        Task::SmallFiles { files, step } => {
            println!("{}", files.run(step)?);
            Ok(())
        }
        Task::InstructionsChild { operation, count } => instructions::child(&operation, count),
        Task::PassthroughDaemon { folder, mount_point } => passthrough::serve(&folder, &mount_point),
    }
}

/// A size such as `512M` or `1G`.
fn bytes(text: &str) -> Result<u64> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().with_context(|| format!("not a size: {text}"))?;
    let bytes = number.checked_mul(1 << shift).with_context(|| format!("too large: {text}"))?;
    ensure!(bytes >= 16 << 20, "a size below 16M measures nothing");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn sizes_are_read() {
        assert_eq!(bytes("1G").unwrap(), 1 << 30);
        assert_eq!(bytes("64M").unwrap(), 64 << 20);
        assert!(bytes("1K").is_err() && bytes("G").is_err() && bytes("99999999999G").is_err());
    }

    #[test]
    fn options_are_read() {
        Arguments::command().debug_assert();
        let parse = |words: &[&str]| Arguments::try_parse_from([&["fio-bench", "compare"], words].concat());
        let parsed = parse(&["--rounds", "3", "--size", "64M", "--with", "gocryptfs,ext4"]).unwrap();
        let Task::Compare(options) = parsed.task else { panic!("{parsed:?}") };
        assert_eq!(options.with, ["gocryptfs", "ext4"]);
        assert!(parse(&["--size", "1K"]).is_err() && parse(&["--fast"]).is_err());
    }
}
