//! `flamegraph`: where a daemon's time goes while a job runs.
//!
//! `perf` takes a sample of every thread of the daemon many times a second, by its clock, since virtual machines seldom
//! have hardware counters. Frame pointers are kept in release builds, so that stacks are whole.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Cursor};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use inferno::collapse::Collapse;
use inferno::collapse::perf::{Folder, Options as CollapseOptions};
use inferno::flamegraph::{Options as GraphOptions, from_reader};
use rustix::process::{Pid, Signal, kill_process};
use xtask::command::target;
use xtask::scratch::Scratch;

use crate::jobs::{self, Scale};
use crate::process::Finished;
use crate::subject::{Subject, Watch, build, chosen};
use crate::{bytes, packages, source_tree};

/// Not a divisor of anything that a program does by the clock.
const SAMPLES_PER_SECOND: u32 = 997;

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The job, by its name in `compare`
    job: String,
    /// Where the graph goes [default: the target folder]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Whose daemon to look at
    #[arg(long, default_value = "blocktree")]
    subject: String,
    /// Size of the large file
    #[arg(long, default_value = "1G", value_parser = bytes)]
    size: u64,
    /// The longest that a random job runs
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Where the filesystem lies [default: the target folder]
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let jobs = jobs::all();
    let Some(job) = jobs.iter().find(|job| job.name == options.job) else {
        bail!("no such job: {}; there are\n{}", options.job, jobs::names());
    };
    packages::install(&["fio", "git", "sqlite3", "linux-perf"])?;
    build()?;
    let scratch = Scratch::new(&options.dir.clone().unwrap_or_else(target), "flamegraph")?;
    let filesystem = chosen(std::slice::from_ref(&options.subject))?
        .into_iter()
        .find(|filesystem| filesystem.name() == options.subject)
        .context("no such filesystem")?;
    packages::install(filesystem.packages())?;
    let scale = Scale {
        file_bytes: options.size,
        seconds: options.seconds,
        small_files: 20_000,
        entries: 100_000,
        tree_files: 10_000,
        commits: 2000,
        archive: source_tree::archive(&scratch, 10_000)?,
    };
    let mut subject =
        Subject::new(filesystem, &scratch, 2 * options.size + (4 << 30), Duration::from_secs(900))?;
    subject.make()?;
    ensure!(subject.process().is_some(), "{} has no daemon", options.subject);
    let perf = Rc::new(Perf { samples: scratch.join("perf.data"), recorded: RefCell::default() });
    subject.watch(Rc::clone(&perf) as Rc<dyn Watch>);
    job.run(&mut subject, &scale)?;
    subject.destroy()?;

    let out = options.out.clone().unwrap_or_else(|| target().join(format!("{}.svg", job.name)));
    let title = format!("{}: {}", subject.name(), job.name);
    draw(&perf.recorded.borrow(), &title, &out)?;
    println!("{}", out.display());
    Ok(())
}

/// Has `perf` look at the daemon while something is measured: the daemon may be another each time.
struct Perf {
    samples: PathBuf,
    /// As text.
    recorded: RefCell<Vec<u8>>,
}

impl Watch for Perf {
    fn around(&self, daemon: u32, work: &mut dyn FnMut() -> Result<Finished>) -> Result<Finished> {
        let mut perf = Command::new("perf");
        perf.args(["record", "--quiet", "-e", "cpu-clock", "-F", &SAMPLES_PER_SECOND.to_string(), "-g"]);
        perf.arg("-o").arg(&self.samples).arg("-p").arg(daemon.to_string());
        let mut perf = perf.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("cannot run perf")?;
        // It says nothing when it is attached.
        thread::sleep(Duration::from_millis(500));
        let finished = work();
        kill_process(Pid::from_child(&perf), Signal::INT)?;
        perf.wait()?;
        let mut script = Command::new("perf");
        // Looking up what was inlined takes minutes.
        script.args(["script", "--no-inline", "-i"]).arg(&self.samples).stdin(Stdio::null());
        let script = script.output().context("cannot run perf")?;
        ensure!(script.status.success(), "perf script failed: {}", String::from_utf8_lossy(&script.stderr));
        fs::remove_file(&self.samples)?;
        self.recorded.borrow_mut().extend(script.stdout);
        finished
    }
}

fn draw(samples: &[u8], title: &str, out: &Path) -> Result<()> {
    let mut folded = Vec::new();
    let mut options = CollapseOptions::default();
    options.annotate_kernel = true;
    Folder::from(options).collapse(BufReader::new(samples), &mut folded)?;
    ensure!(!folded.is_empty(), "perf took no samples: the job was too short, or the daemon idle");
    let mut options = GraphOptions::default();
    options.title = title.to_owned();
    options.subtitle =
        Some(format!("{SAMPLES_PER_SECOND} samples a second, by the clock; _[k] is the kernel"));
    options.count_name = "ns".to_owned();
    let file = File::create(out).with_context(|| format!("cannot write {}", out.display()))?;
    Ok(from_reader(&mut options, Cursor::new(folded), BufWriter::new(file))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_become_a_graph() {
        let samples = "daemon 12 3.4:     1000 cpu-clock:\n\t    55 blocktree::write+0x5 (/bin/blocktree)\n\
                       \t    66 main+0x6 (/bin/blocktree)\n\n";
        let scratch = Scratch::new(&std::env::temp_dir(), "flamegraph test").unwrap();
        let out = scratch.join("graph.svg");
        draw(samples.as_bytes(), "a title", &out).unwrap();
        let graph = fs::read_to_string(&out).unwrap();
        assert!(graph.contains("<svg") && graph.contains("blocktree::write") && graph.contains("a title"));
        assert!(draw(b"", "nothing", &out).is_err());
    }
}
