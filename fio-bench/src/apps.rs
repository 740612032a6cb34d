//! `apps`: how soon an app is called, how much it gets done, and what the mount pays for it.
//!
//! The app is `stopwatch` of sandbox/guests; it says itself when it was called and how long what it asked for took.
//! [`stage`] is the store that it works on.

mod stage;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::{self, sleep};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;
use xtask::command::target;
use xtask::scratch::Scratch;

use self::stage::{Stage, ask, heard};
use crate::page;
use crate::results::{median, number};
use crate::scale::check_room;
use crate::subject::{build, program, settle};

const HTTP: &[&str] = &["-o", "http=127.0.0.1:0"];
const SMALL: &[u8] = &[b'x'; 100];
/// Between two events of which each is to find everything at rest.
const REST: Duration = Duration::from_millis(10);
/// What a cold start is waited for before the app is asked anything, which would start it too.
const COLD_REST: Duration = Duration::from_millis(500);
const MIB: usize = 1 << 20;

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Everything small and once: shows that all of it works
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "publish")]
    only: Vec<Part>,
    /// A blocktree that was built with --no-default-features: what a mount without anything for apps does
    #[arg(long, value_name = "PROGRAM")]
    without: Option<PathBuf>,
    /// Where the stores lie [default: the target folder]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Also write the table to docs/benchmarks.md
    #[arg(long)]
    publish: bool,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Latency,
    ColdStart,
    Rate,
    Calls,
    Reading,
    Mount,
    Runaway,
}

/// How often everything is done.
struct Plan {
    files: usize,
    cold_starts: usize,
    renames: usize,
    calls: usize,
    large_mib: usize,
    rounds: usize,
    files_per_round: usize,
}

impl Plan {
    const FULL: Self = Self {
        files: 500,
        cold_starts: 15,
        renames: 10_000,
        calls: 20_000,
        large_mib: 512,
        rounds: 15,
        files_per_round: 2000,
    };
    const QUICK: Self = Self {
        files: 20,
        cold_starts: 2,
        renames: 500,
        calls: 500,
        large_mib: 16,
        rounds: 2,
        files_per_round: 100,
    };
}

/// A line of the table.
struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    wanted: Option<Wanted>,
}

#[derive(Clone, Copy)]
enum Wanted {
    Below(f64),
    AtLeast(f64),
}

pub(crate) fn run(options: &Options, command: &str) -> Result<()> {
    let plan = if options.quick { Plan::QUICK } else { Plan::FULL };
    let dir = options.dir.clone().unwrap_or_else(target);
    check_room(&dir, 3 << 30)?;
    build()?;
    xtask::guests::build_rust()?;
    let scratch = Scratch::new(&dir, "apps")?;
    let ours = program()?;
    let mut rows = Vec::new();
    let is_wanted = |part| options.only.is_empty() || options.only.contains(&part);
    let stage = Stage::new(&ours, scratch.join("measured"), "4G", HTTP)?;
    let address = stage.install()?;
    if is_wanted(Part::Latency) {
        latency(&stage, address, &plan, &mut rows)?;
    }
    if is_wanted(Part::ColdStart) {
        cold_start(&stage, address, &plan, &mut rows)?;
    }
    if is_wanted(Part::Rate) {
        rate(&stage, address, &plan, &mut rows)?;
    }
    if is_wanted(Part::Calls) {
        calls(address, &plan, &mut rows)?;
    }
    if is_wanted(Part::Reading) {
        reading(&stage, address, &plan, &mut rows)?;
    }
    stage.unmount()?;
    if is_wanted(Part::Mount) {
        mount_cost(&ours, options.without.as_deref(), &scratch, &plan, &mut rows)?;
    }
    if is_wanted(Part::Runaway) {
        runaway(&ours, &scratch, &plan, &mut rows)?;
    }
    let table = table(&rows);
    println!("{table}");
    if options.publish {
        page::write("fio-bench apps", command, &table)?;
    }
    Ok(())
}

fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64)
}

/// Makes a small file; when its closing began.
fn put(path: &Path) -> Result<u64> {
    let mut file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(SMALL)?;
    now()
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100]
}

/// From closing a file to the app's handler, one at a time.
fn latency(stage: &Stage, address: SocketAddr, plan: &Plan, rows: &mut Vec<Row>) -> Result<()> {
    let mut closed = Vec::with_capacity(plan.files);
    for number in 0..plan.files {
        sleep(REST);
        closed.push(put(&stage.granted().join(format!("{number}")))?);
    }
    let mut took = Vec::with_capacity(plan.files);
    for (time, path) in heard(address, plan.files)? {
        let closed = closed[path.parse::<usize>().context("an event of another file")?];
        took.push(time.saturating_sub(closed) as f64 / 1e6);
    }
    took.sort_by(f64::total_cmp);
    for (percent, wanted) in [(50, Wanted::Below(1.0)), (99, Wanted::Below(10.0))] {
        rows.push(Row {
            what: format!("file closed → handler running, p{percent}"),
            value: percentile(&took, percent),
            unit: "ms",
            wanted: Some(wanted),
        });
    }
    Ok(())
}

/// The same where the app's process has to be started first. It was compiled before.
fn cold_start(stage: &Stage, address: SocketAddr, plan: &Plan, rows: &mut Vec<Row>) -> Result<()> {
    let mut took = Vec::new();
    for number in 0..plan.cold_starts {
        stage.enable(false)?;
        stage.enable(true)?;
        sleep(COLD_REST);
        let closed = put(&stage.granted().join(format!("cold-{number}")))?;
        sleep(COLD_REST);
        let heard = heard(address, 1)?;
        took.push(heard[0].0.saturating_sub(closed) as f64 / 1e6);
    }
    rows.push(Row {
        what: "the same, its process started for it".to_owned(),
        value: median(&took).context("nothing was measured")?,
        unit: "ms",
        wanted: Some(Wanted::Below(50.0)),
    });
    Ok(())
}

/// Renames one file again and again; each is an event of its own.
fn rate(stage: &Stage, address: SocketAddr, plan: &Plan, rows: &mut Vec<Row>) -> Result<()> {
    let count = plan.renames;
    let rename_all = |name: &str| -> Result<()> {
        let path = |number: usize| stage.granted().join(format!("{name}-{number}"));
        put(&path(0))?;
        for number in 0..count {
            fs::rename(path(number), path(number + 1))?;
        }
        Ok(())
    };
    // One more: the file was made.
    let all_heard = |name: &str| -> Result<(u64, u64)> {
        let heard = heard(address, count + 1)?;
        let paths: BTreeSet<&str> = heard.iter().map(|(_, path)| path.as_str()).collect();
        let missing = (1..=count).filter(|number| !paths.contains(format!("{name}-{number}").as_str()));
        ensure!(missing.count() == 0, "events are missing");
        let times = heard.iter().map(|(time, _)| *time);
        times.clone().min().zip(times.max()).context("nothing was heard")
    };
    let mut tell = |what: &str, from: u64, to: u64, wanted| {
        rows.push(Row {
            what: format!("{count} events {what}, none lost"),
            value: count as f64 / (to.saturating_sub(from) as f64 / 1e9),
            unit: "a second",
            wanted,
        });
    };
    ask(address, "heard")?;
    let begun = now()?;
    rename_all("live")?;
    tell("as a program makes them", begun, all_heard("live")?.1, None);
    stage.enable(false)?;
    rename_all("waiting")?;
    stage.enable(true)?;
    let (first, last) = all_heard("waiting")?;
    tell("that wait", first, last, Some(Wanted::AtLeast(10_000.0)));
    Ok(())
}

/// What the app asks for, with and without the node.
fn calls(address: SocketAddr, plan: &Plan, rows: &mut Vec<Row>) -> Result<()> {
    let each = |what: &str| -> Result<f64> {
        let rounds = (0..3).map(|_| {
            let nanoseconds: f64 = ask(address, &format!("{what}/{}", plan.calls))?.parse()?;
            Ok(nanoseconds / plan.calls as f64 / 1e3)
        });
        median(&rounds.collect::<Result<Vec<_>>>()?).context("nothing was measured")
    };
    let mut row = |what: &str, value, wanted| {
        rows.push(Row { what: what.to_owned(), value, unit: "µs", wanted });
    };
    row("a host call that the sandbox answers", each("local")?, Some(Wanted::Below(5.0)));
    let (asked, round_trip) = (each("asked")?, round_trip(plan.calls)?);
    row("a host call that the node answers (`stat`)", asked, None);
    row("a round trip over a socket pair, a byte each way", round_trip, None);
    row("the difference", asked - round_trip, Some(Wanted::Below(5.0)));
    Ok(())
}

/// Microseconds from one thread to another and back: what a request costs whatever it is about.
fn round_trip(count: usize) -> Result<f64> {
    let (mut near, mut far) = UnixStream::pair()?;
    let echo = thread::spawn(move || {
        let mut byte = [0];
        while far.read_exact(&mut byte).is_ok() && far.write_all(&byte).is_ok() {}
    });
    let mut byte = [0];
    let start = Instant::now();
    for _ in 0..count {
        near.write_all(&byte)?;
        near.read_exact(&mut byte)?;
    }
    let took = start.elapsed();
    drop(near);
    let _ = echo.join();
    Ok(took.as_secs_f64() * 1e6 / count as f64)
}

/// The app reads a large file from one end to the other.
fn reading(stage: &Stage, address: SocketAddr, plan: &Plan, rows: &mut Vec<Row>) -> Result<()> {
    let piece: Vec<u8> = (0..MIB).map(|at| (at % 251) as u8).collect();
    let mut file = File::create(stage.granted().join("large"))?;
    for _ in 0..plan.large_mib {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    drop(file);
    heard(address, 1)?;
    settle()?;
    let rounds = (0..3).map(|_| {
        let told = ask(address, "read/large")?;
        let (bytes, nanoseconds) = told.split_once(' ').context("the app's answer is malformed")?;
        let (bytes, nanoseconds): (usize, f64) = (bytes.parse()?, nanoseconds.parse()?);
        ensure!(bytes == plan.large_mib * MIB, "the app read {bytes} bytes");
        Ok(bytes as f64 / nanoseconds * 1e9 / (1 << 30) as f64)
    });
    rows.push(Row {
        what: "reading a large file".to_owned(),
        value: median(&rounds.collect::<Result<Vec<_>>>()?).context("nothing was measured")?,
        unit: "GiB/s",
        wanted: Some(Wanted::AtLeast(1.0)),
    });
    Ok(())
}

/// Small files made and removed, on mounts in turn: without anything for apps, without an app, and with one that has
/// nothing to do with them.
fn mount_cost(
    ours: &Path,
    without: Option<&Path>,
    scratch: &Scratch,
    plan: &Plan,
    rows: &mut Vec<Row>,
) -> Result<()> {
    // The first is what the others are compared with.
    let mut stages = vec![Stage::new(ours, scratch.join("none"), "1G", &[])?];
    let one = Stage::new(ours, scratch.join("one"), "1G", HTTP)?;
    one.install()?;
    stages.push(one);
    if let Some(program) = without {
        stages.push(Stage::new(program, scratch.join("without"), "1G", &[])?);
    }
    let mut percents: Vec<Vec<f64>> = vec![Vec::new(); stages.len()];
    for round in 0..plan.rounds {
        let mut seconds = vec![0.0; stages.len()];
        // Who comes first changes, so that nobody always pays for the one before.
        for turn in 0..stages.len() {
            let which = (round + turn) % stages.len();
            let folder = stages[which].mount_point().join("files");
            seconds[which] = small_files(&folder, plan.files_per_round)?;
        }
        for (percents, seconds_of_it) in percents.iter_mut().zip(&seconds) {
            percents.push((seconds_of_it / seconds[0] - 1.0) * 100.0);
        }
    }
    let mut row = |what: &str, value: Option<f64>, wanted| {
        let value = value.context("nothing was measured")?;
        rows.push(Row { what: what.to_owned(), value, unit: "%", wanted });
        anyhow::Ok(())
    };
    row("more time for small files with an app that hears of none of them", median(&percents[1]), None)?;
    if let Some(without) = percents.get(2) {
        let more = median(without).map(|less| -less);
        row("the same without an app, against a program without apps", more, Some(Wanted::Below(1.0)))?;
    }
    stages.into_iter().try_for_each(Stage::unmount)
}

/// Small files made and removed while an app computes without end, and while it asks the node without end, each against the same mount
/// while the app rests.
fn runaway(ours: &Path, scratch: &Scratch, plan: &Plan, rows: &mut Vec<Row>) -> Result<()> {
    let stage = Stage::new(ours, scratch.join("runaway"), "1G", HTTP)?;
    let address = stage.install()?;
    let folder = stage.mount_point().join("files");
    // So often that it takes longer than the files do.
    let one = |what: &str| {
        ask(address, &format!("{what}/{}", plan.calls)).and_then(|time| Ok(time.parse::<f64>()?))
    };
    let wanted = [("local", "computes"), ("asked", "asks the node")];
    for (what, does) in wanted {
        let mut percents = Vec::new();
        for _ in 0..plan.rounds {
            let rested = small_files(&folder, plan.files_per_round)?;
            let calls = plan.calls as f64 / (one(what)? / 1e9) * rested * 4.0;
            let called = std::thread::spawn(move || ask(address, &format!("{what}/{calls:.0}")));
            let beside = small_files(&folder, plan.files_per_round)?;
            ensure!(!called.is_finished(), "the app was done before the files were");
            called.join().map_err(|_| anyhow::anyhow!("nobody was asked"))??;
            percents.push((beside / rested - 1.0) * 100.0);
        }
        rows.push(Row {
            what: format!("more time for small files while an app {does} without end"),
            value: median(&percents).context("nothing was measured")?,
            unit: "%",
            wanted: Some(Wanted::Below(20.0)),
        });
    }
    stage.unmount()
}

/// Makes and removes files; seconds.
fn small_files(folder: &Path, count: usize) -> Result<f64> {
    settle()?;
    fs::create_dir_all(folder)?;
    let start = Instant::now();
    for number in 0..count {
        put(&folder.join(number.to_string()))?;
    }
    for number in 0..count {
        fs::remove_file(folder.join(number.to_string()))?;
    }
    Ok(start.elapsed().as_secs_f64())
}

fn table(rows: &[Row]) -> String {
    let mut text = "| | measured | wanted | |\n| --- | ---: | ---: | --- |\n".to_owned();
    for Row { what, value, unit, wanted } in rows {
        let (wanted, verdict) = match wanted {
            None => (String::new(), ""),
            Some(Wanted::Below(most)) => (format!("< {most} {unit}"), said(value < most)),
            Some(Wanted::AtLeast(least)) => (format!("≥ {least} {unit}"), said(value >= least)),
        };
        text += &format!("| {what} | {} {unit} | {wanted} | {verdict} |\n", number(*value));
    }
    text
}

fn said(is_met: bool) -> &'static str {
    if is_met { "met" } else { "missed" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_stand_in_the_table() {
        let row = |value, wanted| Row { what: "a".into(), value, unit: "ms", wanted };
        let rows = [row(2.0, Some(Wanted::Below(1.0))), row(2.0, Some(Wanted::AtLeast(1.0))), row(2.0, None)];
        let table = table(&rows);
        let lines: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(lines[0], "| a | 2.00 ms | < 1 ms | missed |");
        assert_eq!(lines[1], "| a | 2.00 ms | ≥ 1 ms | met |");
        assert_eq!(lines[2], "| a | 2.00 ms |  |  |");
    }

    #[test]
    fn percentiles_and_round_trips() {
        let sorted: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!((percentile(&sorted, 50), percentile(&sorted, 99)), (50.0, 99.0));
        assert!(round_trip(10).unwrap() > 0.0);
    }
}
