//! Runs fio and reads what it says.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::subject::Subject;

/// A run of fio with one kind of job.
pub(crate) struct Fio {
    command: Command,
}

/// What came of a run, all its jobs together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) bytes: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) per_second: f64,
}

impl Outcome {
    pub(crate) fn mebibytes_per_second(self) -> f64 {
        self.bytes_per_second / f64::from(1 << 20)
    }
}

/// How fio asks the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// pread(2) and pwrite(2): one request at a time for each job.
    Psync,
    Uring,
}

impl Fio {
    /// All jobs work on these files, of `bytes` each.
    pub(crate) fn new(subject: &Subject, files: &[String], bytes: u64) -> Self {
        let mut fio = Self::bare(subject, "shared", bytes * files.len() as u64);
        fio.command.arg(format!("--filename={}", files.join(":")));
        fio
    }

    /// Each job works on a file of its own.
    pub(crate) fn of_their_own(subject: &Subject, name: &str, bytes: u64) -> Self {
        Self::bare(subject, name, bytes)
    }

    fn bare(subject: &Subject, name: &str, bytes: u64) -> Self {
        let mut command = Command::new("fio");
        command
            // In its own folder, since it leaves files where it runs, and colons in paths mean something to it.
            .current_dir(subject.folder())
            .args(["--output-format=json", "--fallocate=none", "--group_reporting"])
            // Compressible or repeated data would flatter whoever notices.
            .args(["--refill_buffers", "--randrepeat=1"])
            .arg(format!("--name={name}"))
            .arg(format!("--size={bytes}"))
            .args(subject.is_raw().then_some("--direct=1"));
        Self { command }
    }

    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    /// This many requests at once: by as many jobs, where a job has only one.
    pub(crate) fn at_once(mut self, engine: Engine, depth: u32) -> Self {
        match engine {
            Engine::Psync => self.command.arg("--ioengine=psync").arg(format!("--numjobs={depth}")),
            Engine::Uring => self.command.arg("--ioengine=io_uring").arg(format!("--iodepth={depth}")),
        };
        self
    }

    pub(crate) fn direct(mut self) -> Self {
        self.command.arg("--direct=1");
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

    /// Measures it.
    pub(crate) fn run(mut self, subject: &mut Subject) -> Result<Outcome> {
        parse(&subject.measure(&mut self.command)?.text)
    }

    /// Only does it, as for files that a measurement needs.
    pub(crate) fn prepare(mut self, subject: &Subject) -> Result<()> {
        parse(&subject.prepare(&mut self.command)?.text).map(|_| ())
    }
}

/// Reads and writes count alike.
fn parse(text: &str) -> Result<Outcome> {
    // Notes to the user may stand before the JSON.
    let start = text.find('{').context("fio printed no JSON")?;
    let report: Value = serde_json::from_str(&text[start..]).context("fio printed malformed JSON")?;
    let jobs = report["jobs"].as_array().context("fio reported no jobs")?;
    let mut total = Outcome { bytes: 0.0, bytes_per_second: 0.0, per_second: 0.0 };
    for job in jobs {
        ensure!(job["error"] == 0, "a job of fio failed with error {}", job["error"]);
        for direction in ["read", "write"] {
            let number = |name: &str| {
                let number = job[direction][name].as_f64();
                number.with_context(|| format!("fio reported no {name}"))
            };
            total.bytes += number("io_bytes")?;
            total.bytes_per_second += number("bw_bytes")?;
            total.per_second += number("iops")?;
        }
    }
    ensure!(total.per_second > 0.0, "fio did nothing");
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_read() {
        let report = r#"note: something
            {"jobs": [{"jobname": "x", "error": 0,
                       "read": {"io_bytes": 4096, "bw_bytes": 2048, "iops": 0.5},
                       "write": {"io_bytes": 4194304, "bw_bytes": 2097152, "iops": 512.0}}]}"#;
        let outcome = parse(report).unwrap();
        let expected = Outcome { bytes: 4198400.0, bytes_per_second: 2099200.0, per_second: 512.5 };
        assert_eq!(outcome, expected);
        assert!(parse(&report.replace("\"error\": 0", "\"error\": 5")).is_err());
        assert!(parse(&report.replace("512.0", "0.0").replace("0.5", "0.0")).is_err());
        assert!(parse("fio: out of memory").is_err());
    }
}
