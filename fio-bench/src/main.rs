//! Benchmarks of Blocktree with fio, beside the filesystem that its volume lies on and beside its peers.
//!
//! [`jobs`] says what is measured, [`fio`] and [`small_files`] measure it, [`subject`] mounts what it is measured
//! on, [`table`] writes it down. [`scale`] and [`ageing`] drive engine and `Fs` without a mount. [`page`] is
//! where results go.
//!
//! Invariants:
//! 1. Only what is mounted anew, with the kernel's caches dropped, is called cold.
//! 2. Each round measures every subject; rounds begin with different ones. What disturbs one disturbs all.
//! 3. A number is the median of the rounds; the table shows the smallest and largest beside it.

mod ageing;
mod fio;
mod jobs;
mod page;
mod scale;
mod small_files;
mod subject;
mod table;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use xtask::command::{is_installed, output, target};
use xtask::scratch::Scratch;

use jobs::{JOBS, Scale};
use subject::{Blocktree, Gocryptfs, Plain, Subject};
use table::Table;

const USAGE: &str = "\
usage: fio-bench smoke [--dir D]
       fio-bench table [--rounds N] [--size 1G] [--dir D] [--with gocryptfs]
       fio-bench scale [--files 10000,1000000,10000000:0] [--data 1G,10G] [--dir D]
       fio-bench ageing [--rounds N] [--size 2G] [--dir D]

  smoke   each job once, small, on a Blocktree mount: shows that all of it works
  table   measures, and writes docs/benchmarks.md
  scale   opens stores of growing size after a crash; writes docs/benchmarks.md
  ageing  overwrites a store many times over; writes docs/benchmarks.md

The first two need root, to drop the kernel's caches, and the release build: `cargo build --release`.

  --rounds N         how often everything is measured (5), or the store overwritten (20)
  --size S           size of the large file (1G), or of the store (2G)
  --files N[:B],...  how many files, and bytes in each (1024)
  --data S,...       how much data in large files
  --dir D            where volumes and files lie: choose the disk to measure (the target folder)
  --with gocryptfs   also measure this peer; it must be installed";

/// How the benchmarks are to be run.
struct Options {
    rounds: usize,
    scale: Scale,
    dir: PathBuf,
    with_gocryptfs: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fio-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let Some((task, rest)) = arguments.split_first() else { bail!("what to do?\n{USAGE}") };
    let command = format!("cargo run --release -p fio-bench -- {}", arguments.join(" "));
    match task.as_str() {
        "scale" => return scale::run(rest, &command),
        scale::MAKE | scale::READ => return scale::child(task, rest),
        "ageing" => return ageing::run(rest, &command),
        _ => {}
    }
    let options = options(rest)?;
    ensure!(is_installed("fio"), "fio is not installed: apt-get install fio");
    match task.as_str() {
        "smoke" => {
            let table = measure(&Options { rounds: 1, scale: Scale::TINY, ..options }, false)?;
            println!("{table}");
            Ok(())
        }
        "table" => {
            let table = measure(&options, true)?;
            println!("{table}");
            let fio = output(Command::new("fio").arg("--version"))?;
            page::write("fio-bench", &command, &format!("With {}.\n\n{table}", fio.trim()))
        }
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        _ => bail!("no such task: {task}\n{USAGE}"),
    }
}

fn options(words: &[String]) -> Result<Options> {
    let mut options = Options { rounds: 5, scale: Scale::of(1 << 30), dir: target(), with_gocryptfs: false };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--rounds" => options.rounds = value()?.parse().context("--rounds needs a number")?,
            "--size" => options.scale = Scale::of(bytes(value()?)?),
            "--dir" => options.dir = value()?.into(),
            "--with" => match value()?.as_str() {
                "gocryptfs" => options.with_gocryptfs = true,
                other => bail!("unknown peer: {other}"),
            },
            _ => bail!("unknown option: {word}\n{USAGE}"),
        }
    }
    ensure!(options.rounds > 0, "--rounds must be at least 1");
    Ok(options)
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

fn measure(options: &Options, beside_others: bool) -> Result<Table> {
    let scratch = Scratch::new(&options.dir, "fio-bench")?;
    let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
    if beside_others {
        subjects.push(Box::new(Plain::new(&scratch)));
    }
    subjects.push(Box::new(Blocktree::new(&scratch, &options.scale)?));
    if options.with_gocryptfs {
        subjects.push(Box::new(Gocryptfs::new(&scratch)?));
    }
    let mut table = Table::new(subjects.iter().map(|subject| subject.name()).collect());
    for round in 0..options.rounds {
        for i in 0..subjects.len() {
            let i = (i + round) % subjects.len();
            let subject = &mut subjects[i];
            eprintln!("round {} of {}: {}", round + 1, options.rounds, subject.name());
            subject.make()?;
            for (row, job) in JOBS.iter().enumerate() {
                let value = job.run(subject.as_mut(), &options.scale);
                table.add(row, i, value.with_context(|| format!("{} on {}", job.name, subject.name()))?);
            }
            subject.destroy()?;
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(bytes("1G").unwrap(), 1 << 30);
        assert_eq!(bytes("64M").unwrap(), 64 << 20);
        assert!(bytes("1K").is_err() && bytes("G").is_err() && bytes("99999999999G").is_err());
    }

    #[test]
    fn options_are_read() {
        let words = ["--rounds", "3", "--size", "64M", "--with", "gocryptfs"].map(str::to_owned);
        let options = options(&words).unwrap();
        assert_eq!((options.rounds, options.scale.file_bytes), (3, 64 << 20));
        assert!(options.with_gocryptfs);
        assert!(super::options(&["--rounds".to_owned()]).is_err());
        assert!(super::options(&["--fast".to_owned()]).is_err());
    }
}
