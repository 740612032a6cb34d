//! What is measured: each [`Job`] gives one or more [`Row`]s of the table.
//!
//! [`large`] measures one large file with fio, [`small`] many small files, [`programs`] what people run.
//!
//! Invariants:
//! 1. A job makes what it needs where it is missing, and does not measure that: any job can be run alone.
//! 2. Only what is mounted anew, with the kernel's caches dropped, is called cold.

mod large;
mod programs;
mod small;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::subject::Subject;
pub(crate) use large::{random_read, random_write, synced_write};

/// How much each job does.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Scale {
    /// Length of the large file.
    pub(crate) file_bytes: u64,
    /// No random job takes longer, and warm ones take as long.
    pub(crate) seconds: u32,
    pub(crate) small_files: usize,
    /// Files in the large directory.
    pub(crate) entries: usize,
    /// Files in the source tree.
    pub(crate) tree_files: usize,
    /// Commits to a database.
    pub(crate) commits: usize,
    /// The source tree as an archive.
    #[serde(skip)]
    pub(crate) archive: PathBuf,
}

/// What a number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    MebibytesPerSecond,
    PerSecond,
    Seconds,
    SecondsPerGibibyte,
    Mebibytes,
    Ratio,
}

impl Unit {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::MebibytesPerSecond => "MiB/s",
            Self::PerSecond => "per second",
            Self::Seconds => "s",
            Self::SecondsPerGibibyte => "s/GiB",
            Self::Mebibytes => "MiB",
            Self::Ratio => "times",
        }
    }

    /// Whether it says how well a job went, not what that took.
    pub(crate) fn is_of_job(self) -> bool {
        matches!(self, Self::MebibytesPerSecond | Self::PerSecond | Self::Seconds)
    }

    pub(crate) fn more_is_better(self) -> bool {
        matches!(self, Self::MebibytesPerSecond | Self::PerSecond)
    }
}

/// A row of the table.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) unit: Unit,
}

/// One number for each of a job's rows; none if there is no such thing on that subject.
type Numbers = Option<Vec<f64>>;

type Run = Box<dyn Fn(&mut Subject, &Scale) -> Result<Numbers>>;

pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) rows: Vec<Row>,
    /// Whether it takes so long that the first round has to do.
    pub(crate) is_long: bool,
    /// Whether it makes sense on a file without a cache.
    is_for_raw: bool,
    run: Run,
}

impl Job {
    fn new(
        name: impl Into<String>,
        title: impl Into<String>,
        unit: Unit,
        run: impl Fn(&mut Subject, &Scale) -> Result<f64> + 'static,
    ) -> Self {
        let name = name.into();
        let row = Row { name: name.clone(), title: title.into(), unit };
        let run: Run = Box::new(move |subject, scale| Ok(Some(vec![run(subject, scale)?])));
        Self { name, rows: vec![row], is_long: false, is_for_raw: false, run }
    }

    /// With several rows, or not for every subject.
    fn of_rows(
        name: &str,
        rows: &[(&str, &str, Unit)],
        run: impl Fn(&mut Subject, &Scale) -> Result<Numbers> + 'static,
    ) -> Self {
        let row =
            |&(name, title, unit): &(&str, &str, Unit)| Row { name: name.into(), title: title.into(), unit };
        let rows = rows.iter().map(row).collect();
        Self { name: name.into(), rows, is_long: false, is_for_raw: false, run: Box::new(run) }
    }

    fn for_raw(mut self) -> Self {
        self.is_for_raw = true;
        self
    }

    fn long(mut self) -> Self {
        self.is_long = true;
        self
    }

    pub(crate) fn run(&self, subject: &mut Subject, scale: &Scale) -> Result<Numbers> {
        if subject.is_raw() && !self.is_for_raw {
            return Ok(None);
        }
        let numbers = (self.run)(subject, scale)?;
        if let Some(numbers) = &numbers {
            ensure!(numbers.len() == self.rows.len(), "{} gives a wrong number of rows", self.name);
        }
        Ok(numbers)
    }
}

/// All jobs, in the order in which they are run: what reads comes after what writes, and memory is last.
pub(crate) fn all() -> Vec<Job> {
    let mut jobs = large::jobs();
    jobs.extend(small::jobs());
    jobs.extend(programs::jobs());
    jobs.push(Job::of_rows(
        "mount",
        &[("mount", "mount, with the passphrase", Unit::Seconds)],
        |subject, _| Ok(subject.make_cold()?.map(|seconds| vec![seconds])),
    ));
    jobs.push(Job::of_rows(
        "memory",
        &[("memory", "most memory resident, over all of it", Unit::Mebibytes)],
        |subject, _| Ok(subject.peak_mib().map(|mebibytes| vec![mebibytes])),
    ));
    jobs
}

/// Those whose name contains one of the patterns; all, if there is none.
pub(crate) fn chosen(patterns: &[String]) -> Result<Vec<Job>> {
    let mut jobs = all();
    if !patterns.is_empty() {
        jobs.retain(|job| patterns.iter().any(|pattern| job.name.contains(pattern)));
    }
    ensure!(!jobs.is_empty(), "no job has such a name; there are\n{}", names());
    Ok(jobs)
}

pub(crate) fn names() -> String {
    all().iter().map(|job| job.name.clone()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_patterns_find_them() {
        let rows: Vec<String> =
            all().iter().flat_map(|job| job.rows.iter().map(|row| row.name.clone())).collect();
        assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), rows.len());
        let names: Vec<String> =
            chosen(&["git".into(), "grep".into()]).unwrap().iter().map(|job| job.name.clone()).collect();
        assert_eq!(names, ["git-status-cold", "git-status-warm", "grep-cold"]);
        assert!(chosen(&["nothing".into()]).is_err());
        assert_eq!(chosen(&[]).unwrap().len(), all().len());
    }
}
