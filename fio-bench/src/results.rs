//! What was measured: every number of every round, for each row and each subject, and what follows from them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::jobs::Row;
use crate::process::Cost;
use crate::subject::Role;

/// Whose numbers a column holds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    pub(crate) version: String,
    /// Whether its fsync(2) returns only when the disk has it.
    pub(crate) is_durable: bool,
    /// Why it was not measured at all.
    pub(crate) left_out: Option<String>,
}

/// All rounds of one row on one subject.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Cell {
    pub(crate) values: Vec<f64>,
    /// Why values are missing.
    pub(crate) errors: Vec<String>,
}

impl Cell {
    pub(crate) fn median(&self) -> Option<f64> {
        median(&self.values)
    }

    /// Smallest and largest.
    pub(crate) fn spread(&self) -> Option<(f64, f64)> {
        let least = self.values.iter().copied().min_by(f64::total_cmp)?;
        Some((least, self.values.iter().copied().max_by(f64::total_cmp)?))
    }
}

pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// What one run of one job cost.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    pub(crate) round: usize,
    pub(crate) job: String,
    pub(crate) subject: &'static str,
    /// From first to last, with what was only prepared.
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: Cost,
}

pub(crate) struct Results {
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Row>,
    /// By row and column.
    cells: Vec<Vec<Cell>>,
    pub(crate) runs: Vec<Run>,
}

impl Results {
    pub(crate) fn new(columns: Vec<Column>, rows: Vec<Row>) -> Self {
        let cells = vec![vec![Cell::default(); columns.len()]; rows.len()];
        Self { columns, rows, cells, runs: Vec::new() }
    }

    pub(crate) fn cell(&self, row: usize, column: usize) -> &Cell {
        &self.cells[row][column]
    }

    pub(crate) fn cell_mut(&mut self, row: usize, column: usize) -> &mut Cell {
        &mut self.cells[row][column]
    }

    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Blocktree's median.
    fn ours(&self, row: usize) -> Option<f64> {
        let column = self.columns.iter().position(|column| column.role == Role::Ours)?;
        self.cells[row][column].median()
    }

    /// The rows that failed on Blocktree in any round, and why.
    pub(crate) fn failures_of_ours(&self) -> Vec<String> {
        let Some(column) = self.columns.iter().position(|column| column.role == Role::Ours) else {
            return Vec::new();
        };
        let cells = self.rows.iter().zip(&self.cells);
        cells
            .filter_map(|(row, cells)| Some(format!("{}: {}", row.name, cells[column].errors.last()?)))
            .collect()
    }

    /// How many times as good Blocktree is as `column`: above 1 is better, whatever the unit.
    pub(crate) fn ratio(&self, row: usize, column: usize) -> Option<f64> {
        let (ours, theirs) = (self.ours(row)?, self.cells[row][column].median()?);
        let (better, worse) =
            if self.rows[row].unit.more_is_better() { (ours, theirs) } else { (theirs, ours) };
        // A processor time may be too short for its clock.
        (worse > 0.0).then(|| better / worse)
    }

    /// The peer that does best, and how many times as good Blocktree is.
    pub(crate) fn best_peer(&self, row: usize) -> Option<(&'static str, f64)> {
        // Who is done before anything is on the disk has not done the job.
        let is_synced = SYNCED.contains(&self.rows[row].name.as_str());
        let counts = |column: &Column| column.role == Role::Peer && (column.is_durable || !is_synced);
        let peers = self.columns.iter().enumerate().filter(|(_, column)| counts(column));
        let ratios = peers.filter_map(|(i, column)| Some((column.name, self.ratio(row, i)?)));
        ratios.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// For JSON: by the names of rows and columns.
    pub(crate) fn described(&self) -> Vec<DescribedRow<'_>> {
        let cell = |(column, cell): (&Column, _)| (column.name, DescribedCell::from(cell));
        let rows = self.rows.iter().zip(&self.cells);
        rows.map(|(row, cells)| DescribedRow {
            name: &row.name,
            title: &row.title,
            unit: row.unit.text(),
            more_is_better: row.unit.more_is_better(),
            subjects: self.columns.iter().zip(cells).map(cell).collect(),
        })
        .collect()
    }
}

#[derive(Serialize)]
pub(crate) struct DescribedRow<'a> {
    name: &'a str,
    title: &'a str,
    unit: &'static str,
    more_is_better: bool,
    subjects: BTreeMap<&'static str, DescribedCell<'a>>,
}

#[derive(Serialize)]
struct DescribedCell<'a> {
    median: Option<f64>,
    #[serde(flatten)]
    cell: &'a Cell,
}

impl<'a> From<&'a Cell> for DescribedCell<'a> {
    fn from(cell: &'a Cell) -> Self {
        Self { median: cell.median(), cell }
    }
}

/// Rows in which an fsync(2) is part of the job.
const SYNCED: &[&str] = &[
    "sequential-write",
    "random-write",
    "random-write-fsync-1",
    "random-write-fsync-8",
    "mixed",
    "sqlite-rollback",
    "sqlite-wal",
];

/// With as many digits as say something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// What Blocktree has to reach.
struct Target {
    row: &'static str,
    times: f64,
    against: Against,
}

enum Against {
    /// So many times as good as this subject.
    Subject(&'static str),
    /// No more than so much, in the row's unit.
    Number,
}

const fn target(row: &'static str, times: f64, subject: &'static str) -> Target {
    Target { row, times, against: Against::Subject(subject) }
}

/// Beside what holds for every job: no peer does better.
const TARGETS: &[Target] = &[
    target("sequential-write", 0.8, "ext4"),
    target("sequential-read-cold", 0.8, "ext4"),
    target("sequential-read-warm", 0.95, "ext4"),
    target("random-read-warm", 0.95, "ext4"),
    target("random-read-psync-buffered-1", 0.85, "ext4"),
    target("random-read-psync-buffered-4", 0.85, "ext4"),
    target("random-write", 10.0, "gocryptfs"),
    target("random-write", 0.7, "ext4"),
    target("random-write-fsync-1", 0.9, "ext4"),
    target("random-write-fsync-8", 1.2, "ext4"),
    target("mixed", 10.0, "gocryptfs"),
    target("files-create", 5.0, "gocryptfs"),
    target("files-create", 1.5, "passthrough"),
    target("files-read-cold", 5.0, "gocryptfs"),
    target("files-read-cold", 1.5, "passthrough"),
    target("files-delete", 5.0, "gocryptfs"),
    target("files-delete", 1.5, "passthrough"),
    target("files-walk-cold", 1.0, "ext4"),
    target("sequential-write-cpu", 1.0, "gocryptfs"),
    target("sequential-read-cold-cpu", 1.0, "gocryptfs"),
    Target { row: "memory", times: 300.0, against: Against::Number },
];

/// A target, what was reached, and whether that is enough.
#[derive(Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) title: String,
    pub(crate) wanted: String,
    pub(crate) reached: f64,
    pub(crate) is_met: bool,
}

impl Results {
    /// Of all targets that this run can say something about. That no peer does better is wanted of jobs; time,
    /// memory and space that they take have targets of their own.
    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        let mut verdicts: Vec<Verdict> = TARGETS.iter().filter_map(|target| self.verdict(target)).collect();
        for (i, row) in self.rows.iter().enumerate() {
            if row.unit.is_of_job()
                && let Some((peer, reached)) = self.best_peer(i)
            {
                let wanted = format!("1.0 × the best peer, {peer}");
                verdicts.push(Verdict { title: row.title.clone(), wanted, reached, is_met: reached >= 1.0 });
            }
        }
        verdicts
    }

    fn verdict(&self, target: &Target) -> Option<Verdict> {
        let row = self.rows.iter().position(|row| row.name == target.row)?;
        let times = target.times;
        let (wanted, reached, is_met) = match target.against {
            Against::Subject(name) => {
                let reached = self.ratio(row, self.column(name)?)?;
                (format!("{times} × {name}"), reached, reached >= times)
            }
            Against::Number => {
                let reached = self.ours(row)?;
                (format!("at most {times} {}", self.rows[row].unit.text()), reached, reached <= times)
            }
        };
        Some(Verdict { title: self.rows[row].title.clone(), wanted, reached, is_met })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::jobs::Unit;

    /// Two rows, one where more is better and one where less is.
    pub(crate) fn sample() -> Results {
        let column = |name, role| Column {
            name,
            role,
            version: "1 <x>".into(),
            is_durable: name != "cryfs",
            left_out: None,
        };
        let columns = vec![
            column("blocktree", Role::Ours),
            column("ext4", Role::Floor),
            column("gocryptfs", Role::Peer),
            column("encfs", Role::Peer),
            column("cryfs", Role::Peer),
        ];
        let row = |name: &str, unit| Row { name: name.into(), title: format!("{name} & more"), unit };
        let rows = vec![row("random-write", Unit::PerSecond), row("memory", Unit::Mebibytes)];
        let mut results = Results::new(columns, rows);
        let values: [[&[f64]; 5]; 2] = [
            [&[90.0, 100.0, 80.0], &[200.0], &[6.0, 12.0], &[], &[900.0]],
            [&[50.0], &[], &[100.0], &[25.0], &[]],
        ];
        for (i, row) in values.iter().enumerate() {
            for (j, values) in row.iter().enumerate() {
                results.cell_mut(i, j).values = values.to_vec();
            }
        }
        results.cell_mut(0, 3).errors.push("it fell over".into());
        results
    }

    #[test]
    fn medians_and_numbers() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[5.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!([1234.5, 12.34, 1.234, 0.1234].map(number), ["1234", "12.3", "1.23", "0.123"]);
    }

    #[test]
    fn ratios_are_above_one_where_ours_is_better() {
        let results = sample();
        assert_eq!(results.ratio(0, 1), Some(0.45));
        assert_eq!(results.best_peer(0), Some(("gocryptfs", 10.0)));
        assert_eq!(results.best_peer(1), Some(("encfs", 0.5)));
        assert_eq!(results.ratio(1, 1), None);
    }

    #[test]
    fn verdicts_follow_the_targets() {
        let verdicts = sample().verdicts();
        let met: Vec<_> = verdicts.iter().map(|verdict| (verdict.wanted.as_str(), verdict.is_met)).collect();
        let expected = [
            ("10 × gocryptfs", true),
            ("0.7 × ext4", false),
            ("at most 300 MiB", true),
            ("1.0 × the best peer, gocryptfs", true),
        ];
        assert_eq!(met, expected);
    }

    #[test]
    fn targets_name_rows_that_there_are() {
        let rows: Vec<String> =
            crate::jobs::all().into_iter().flat_map(|job| job.rows).map(|row| row.name).collect();
        for name in TARGETS.iter().map(|target| target.row).chain(SYNCED.iter().copied()) {
            assert!(rows.iter().any(|row| row == name), "{name}");
        }
    }
}
