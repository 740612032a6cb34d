//! Runs fio and reads what it says.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::command::output;

/// A run of fio with one kind of job.
pub(crate) struct Fio {
    command: Command,
}

/// What of a run counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// What came of a run, all its jobs together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) bytes_per_second: f64,
    pub(crate) per_second: f64,
}

impl Outcome {
    pub(crate) fn mebibytes_per_second(self) -> f64 {
        self.bytes_per_second / f64::from(1 << 20)
    }
}

impl Fio {
    /// All jobs work on one file.
    pub(crate) fn new(folder: &Path, file: &str, bytes: u64) -> Self {
        let mut fio = Self::bare(folder, file, bytes);
        fio.command.arg(format!("--filename={file}"));
        fio
    }

    /// Each job works on a file of its own.
    pub(crate) fn of_their_own(folder: &Path, name: &str, bytes: u64) -> Self {
        Self::bare(folder, name, bytes)
    }

    fn bare(folder: &Path, name: &str, bytes: u64) -> Self {
        let mut command = Command::new("fio");
        command
            // In its own folder, since it leaves files where it runs, and colons in paths mean something to it.
            .current_dir(folder)
            .args(["--output-format=json", "--ioengine=psync", "--fallocate=none", "--group_reporting"])
            // Compressible or repeated data would flatter whoever notices.
            .args(["--refill_buffers", "--randrepeat=1"])
            .arg(format!("--name={name}"))
            .arg(format!("--size={bytes}"));
        Self { command }
    }

    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    pub(crate) fn at_once(mut self, jobs: u32) -> Self {
        self.command.arg(format!("--numjobs={jobs}"));
        self
    }

    pub(crate) fn at_most(mut self, seconds: u32) -> Self {
        self.command.arg(format!("--runtime={seconds}"));
        self
    }

    pub(crate) fn bytes(mut self, bytes: u64) -> Self {
        self.command.arg(format!("--io_size={bytes}"));
        self
    }

    pub(crate) fn run(mut self, direction: Direction) -> Result<Outcome> {
        parse(&output(&mut self.command)?, direction)
    }
}

fn parse(text: &str, direction: Direction) -> Result<Outcome> {
    // Notes to the user may stand before the JSON.
    let start = text.find('{').context("fio printed no JSON")?;
    let report: Value = serde_json::from_str(&text[start..]).context("fio printed malformed JSON")?;
    let jobs = report["jobs"].as_array().context("fio reported no jobs")?;
    let direction = match direction {
        Direction::Read => "read",
        Direction::Write => "write",
    };
    let mut total = Outcome { bytes_per_second: 0.0, per_second: 0.0 };
    for job in jobs {
        ensure!(job["error"] == 0, "a job of fio failed with error {}", job["error"]);
        total.bytes_per_second += job[direction]["bw_bytes"].as_f64().context("fio reported no bandwidth")?;
        total.per_second += job[direction]["iops"].as_f64().context("fio reported no rate")?;
    }
    ensure!(total.per_second > 0.0, "fio did nothing");
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fio_itself_is_understood() {
        let folder = std::env::temp_dir();
        let file = format!("fio-bench-{}", std::process::id());
        let fio =
            Fio::new(&folder, &file, 1 << 20).arguments(&["--bs=4k", "--rw=randwrite", "--end_fsync=1"]);
        let outcome = fio.at_most(5).run(Direction::Write);
        let length = std::fs::metadata(folder.join(&file)).map(|file| file.len());
        std::fs::remove_file(folder.join(&file)).unwrap();
        let outcome = outcome.unwrap();
        assert_eq!(length.unwrap(), 1 << 20);
        assert!((outcome.bytes_per_second / outcome.per_second / 4096.0 - 1.0).abs() < 0.01);
    }

    #[test]
    fn report_is_read() {
        let report = r#"note: something
            {"jobs": [{"jobname": "x", "error": 0,
                       "read": {"bw_bytes": 0, "iops": 0.0},
                       "write": {"bw_bytes": 2097152, "iops": 512.5}}]}"#;
        let outcome = parse(report, Direction::Write).unwrap();
        assert_eq!(outcome, Outcome { bytes_per_second: 2097152.0, per_second: 512.5 });
        assert_eq!(outcome.mebibytes_per_second(), 2.0);
        assert!(parse(report, Direction::Read).is_err());
        assert!(parse(&report.replace("\"error\": 0", "\"error\": 5"), Direction::Write).is_err());
        assert!(parse("fio: out of memory", Direction::Write).is_err());
    }
}
