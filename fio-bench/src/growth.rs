//! `growth`: the same random operations on more and more data and files, and how their cost grows.
//!
//! Invariants:
//! 1. A cost is time per operation, the median of the rounds; it is fitted to `size^exponent` by least squares
//!    between the logarithms.
//! 2. Data is added to what is there: the largest step is as old and as fragmented as the steps before made it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::json;
use xtask::command::target;
use xtask::scratch::Scratch;

use crate::fio::{Engine, Fio};
use crate::jobs::{random_read, random_write, synced_write};
use crate::page::{self, circumstances};
use crate::report::{self, Series, growth_chart};
use crate::results::{median, number};
use crate::scale::check_room;
use crate::small_files::{SmallFiles, Step};
use crate::subject::{Filesystem, Role, Subject, build, chosen};
use crate::{bytes, packages};

/// Data lies in files of this size.
const FILE_BYTES: u64 = 1 << 30;
const SMALL_BYTES: usize = 4096;
const PER_FOLDER: usize = 1000;
/// Files that are made and deleted beside those that are there.
const SAMPLE: usize = 2000;

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// What to measure beside Blocktree
    #[arg(long, value_delimiter = ',', default_value = "ext4")]
    with: Vec<String>,
    /// How much data is there, in steps
    #[arg(long, value_delimiter = ',', default_value = "1G,10G,40G", value_parser = bytes)]
    data: Vec<u64>,
    /// How many files are there, in steps
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000")]
    files: Vec<usize>,
    /// How often each step is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The longest that a random job runs
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Tiny steps: shows that all of it works
    #[arg(long)]
    quick: bool,
    /// Where the filesystems lie: choose the disk to measure [default: the target folder]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where results go [default: the target folder]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Also write the table to docs/benchmarks.md
    #[arg(long)]
    publish: bool,
}

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Growing {
    Data,
    Files,
}

/// An operation on a filesystem of some size.
type Kind = (Growing, &'static str);

/// The rounds of one operation at one size.
#[derive(Debug, Clone, Serialize)]
struct Point {
    subject: &'static str,
    growing: Growing,
    operation: &'static str,
    /// GiB, or files.
    size: f64,
    microseconds: Vec<f64>,
}

pub(crate) fn run(options: &Options, command: &str) -> Result<()> {
    let mut options = options.clone();
    if options.quick {
        (options.data, options.files) = (vec![16 << 20, 32 << 20], vec![100, 300]);
        (options.rounds, options.seconds) = (1, 1);
    }
    options.data.sort_unstable();
    options.files.sort_unstable();
    ensure!(options.rounds > 0, "--rounds must be at least 1");
    ensure!(options.files.first() != Some(&0), "a step without files measures nothing");
    packages::install(&["fio"])?;
    build()?;
    let dir = options.dir.clone().unwrap_or_else(target);
    let room = options
        .data
        .last()
        .copied()
        .unwrap_or(0)
        .max(options.files.last().copied().unwrap_or(0) as u64 * 8192);
    // One filesystem at a time; those that do not overwrite in place take more.
    check_room(&dir, room / 8 * 9 + (2 << 30))?;
    let mut points = Vec::new();
    for filesystem in chosen(&options.with)? {
        let name = filesystem.name();
        if filesystem.is_raw() {
            bail!("raw has no files that could become more");
        }
        let scratch = Scratch::new(&dir, "growth")?;
        let measured = packages::install(filesystem.packages())
            .and_then(|()| measure(filesystem, &scratch, room, &options, &mut points));
        if let Err(error) = measured {
            eprintln!("{name} is measured no further: {error:#}");
        }
    }
    ensure!(!points.is_empty(), "nothing was measured");
    let out = options.out.clone().unwrap_or_else(|| target().join("growth"));
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let circumstances = circumstances(command)?;
    let table = table(&points);
    let json = json!({ "circumstances": circumstances, "points": points });
    fs::write(out.join("growth.json"), serde_json::to_string_pretty(&json)? + "\n")?;
    fs::write(out.join("growth.md"), format!("{circumstances}\n\n{table}"))?;
    fs::write(out.join("growth.html"), report::growth_page(&charts(&points), &circumstances))?;
    println!("{table}");
    eprintln!("written: {0}/growth.json, {0}/growth.md, {0}/growth.html", out.display());
    if options.publish {
        page::write("fio-bench growth", command, &table)?;
    }
    Ok(())
}

fn measure(
    filesystem: Box<dyn Filesystem>,
    scratch: &Scratch,
    room: u64,
    options: &Options,
    points: &mut Vec<Point>,
) -> Result<()> {
    let limit = Duration::from_secs(4 * 3600);
    let mut subject = Subject::new(filesystem, scratch, room, limit)?;
    let steps = options.data.iter().map(|&bytes| (Growing::Data, bytes));
    let steps = steps.chain(options.files.iter().map(|&count| (Growing::Files, count as u64)));
    let mut last = None;
    for (growing, size) in steps {
        if last.replace(growing) != Some(growing) {
            subject.destroy()?;
            subject.make()?;
        }
        eprintln!("{}: {growing:?} {size}", subject.name());
        let name = subject.name();
        let measured = match growing {
            Growing::Data => on_data(&mut subject, size, options)?,
            Growing::Files => on_files(&mut subject, size as usize, options)?,
        };
        let size = if growing == Growing::Data { size as f64 / f64::from(1 << 30) } else { size as f64 };
        for (operation, rates) in measured {
            let microseconds = rates.iter().map(|rate| 1e6 / rate).collect();
            points.push(Point { subject: name, growing, operation, size, microseconds });
        }
    }
    subject.destroy()
}

/// Operations in a second, for each round.
type Rates = BTreeMap<&'static str, Vec<f64>>;

fn on_data(subject: &mut Subject, bytes: u64, options: &Options) -> Result<Rates> {
    let file_bytes = FILE_BYTES.min(bytes);
    // All files are as long: fio spreads its requests evenly over them.
    let file_bytes = if options.quick { 16 << 20 } else { file_bytes };
    let files: Vec<String> = (0..bytes / file_bytes).map(|i| format!("data-{i:04}")).collect();
    for file in &files {
        if !subject.folder().join(file).exists() {
            let fio = Fio::new(subject, std::slice::from_ref(file), file_bytes);
            fio.arguments(&["--bs=1M", "--rw=write", "--end_fsync=1"])
                .at_once(Engine::Psync, 1)
                .prepare(subject)?;
        }
    }
    let mut rates = Rates::new();
    for _ in 0..options.rounds {
        let seconds = options.seconds;
        let amount = (u64::from(seconds) << 24).min(bytes / 4);
        let read = |subject: &mut Subject, depth| {
            random_read(subject, &files, file_bytes, seconds, Engine::Psync, depth, false)
        };
        for (operation, rate) in [
            ("read 4 KiB, cold", read(subject, 1)?),
            ("read 4 KiB, cold, 4 at once", read(subject, 4)?),
            ("write 4 KiB, fsync at the end", random_write(subject, &files, file_bytes, amount)?),
            ("write 4 KiB, fsync each", synced_write(subject, 16 << 20, seconds, 1)?),
        ] {
            rates.entry(operation).or_default().push(rate);
        }
    }
    Ok(rates)
}

fn on_files(subject: &mut Subject, count: usize, options: &Options) -> Result<Rates> {
    let make = |folder: String, count| SmallFiles {
        folder: subject.folder().join(folder),
        count,
        per_folder: PER_FOLDER,
        bytes: SMALL_BYTES,
    };
    let files = make("files".into(), count);
    let sample = make("sample".into(), SAMPLE.min(count));
    files.prepare(subject, Step::Create)?;
    let mut rates = Rates::new();
    for _ in 0..options.rounds {
        for (operation, files, step) in [
            ("stat, cold", &files, Step::StatRandom),
            ("read a file, cold", &files, Step::ReadRandom),
            ("create a file", &sample, Step::Create),
            ("delete it", &sample, Step::Delete),
        ] {
            if matches!(step, Step::StatRandom | Step::ReadRandom) {
                subject.make_cold()?;
            }
            rates.entry(operation).or_default().push(files.measure(subject, step)?);
        }
    }
    Ok(rates)
}

/// The lines of each kind of operation.
fn lines(points: &[Point]) -> BTreeMap<Kind, Vec<Series>> {
    let mut lines: BTreeMap<Kind, Vec<Series>> = BTreeMap::new();
    for point in points {
        let Some(cost) = median(&point.microseconds) else { continue };
        let series = lines.entry((point.growing, point.operation)).or_default();
        match series.iter_mut().find(|series| series.name == point.subject) {
            Some(series) => series.points.push((point.size, cost)),
            None => series.push(Series {
                name: point.subject.to_owned(),
                is_ours: is_ours(point.subject),
                points: vec![(point.size, cost)],
                exponent: None,
            }),
        }
    }
    for series in lines.values_mut().flatten() {
        series.exponent = exponent(&series.points);
    }
    lines
}

fn is_ours(name: &str) -> bool {
    chosen(&[]).is_ok_and(|ours| ours.iter().any(|ours| ours.role() == Role::Ours && ours.name() == name))
}

/// Of the power of the size by which a cost grows; none with fewer than two sizes.
fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(|point| of(point).ln()).sum::<f64>() / count;
    let (mean_size, mean_cost) = (mean(|point| point.0), mean(|point| point.1));
    let (mut together, mut alone) = (0.0, 0.0);
    for &(size, cost) in points {
        together += (size.ln() - mean_size) * (cost.ln() - mean_cost);
        alone += (size.ln() - mean_size).powi(2);
    }
    (alone > 0.0).then(|| together / alone)
}

fn unit(growing: Growing) -> &'static str {
    match growing {
        Growing::Data => "GiB of data",
        Growing::Files => "files",
    }
}

fn charts(points: &[Point]) -> Vec<(String, String)> {
    let chart = |((growing, operation), series): (Kind, Vec<Series>)| {
        let title = format!("{operation}, by {}", unit(growing));
        let chart = growth_chart(&title, unit(growing), "µs per operation", &series);
        (title, chart)
    };
    lines(points).into_iter().map(chart).collect()
}

/// One row for each line: costs, growth from first to last, exponent.
fn table(points: &[Point]) -> String {
    let mut text = String::from(
        "| operation | subject | µs per operation, by size | last/first | exponent |\n| --- | --- | --- | ---: | ---: |\n",
    );
    for ((growing, operation), series) in lines(points) {
        for series in series {
            let costs: Vec<String> = series
                .points
                .iter()
                .map(|&(size, cost)| format!("{} at {}", number(cost), number(size)))
                .collect();
            let ratio = match series.points.as_slice() {
                [first, .., last] => format!("{:.2}", last.1 / first.1),
                _ => "–".into(),
            };
            let exponent = series.exponent.map_or("–".into(), |exponent| format!("{exponent:.3}"));
            text += &format!(
                "| {operation}, by {} | {} | {} | {ratio} | {exponent} |\n",
                unit(growing),
                series.name,
                costs.join(", ")
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_recognized() {
        let points = |exponent: f64| -> Vec<(f64, f64)> {
            [1.0_f64, 10.0, 40.0].iter().map(|&size| (size, 7.0 * size.powf(exponent))).collect()
        };
        for power in [0.0, 0.5, 1.0] {
            assert!((exponent(&points(power)).unwrap() - power).abs() < 1e-9);
        }
        assert_eq!(exponent(&[(1.0, 1.0)]), None);
        assert_eq!(exponent(&[]), None);
    }

    #[test]
    fn table_tells_growth() {
        let point = |size, cost| Point {
            subject: "blocktree",
            growing: Growing::Files,
            operation: "stat, cold",
            size,
            microseconds: vec![cost, 1000.0, 1.0],
        };
        let text = table(&[point(100.0, 10.0), point(10_000.0, 20.0)]);
        let row = "| stat, cold, by files | blocktree | 10.0 at 100, 20.0 at 10000 | 2.00 | 0.151 |";
        assert!(text.contains(row), "{text}");
        assert_eq!(charts(&[point(100.0, 10.0)]).len(), 1);
    }
}
