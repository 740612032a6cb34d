//! The table of results.

use std::fmt;

use crate::jobs::{JOBS, Unit};

/// All numbers of all rounds: one row for each job, one column for each subject.
pub(crate) struct Table {
    subjects: Vec<&'static str>,
    values: Vec<Vec<Vec<f64>>>,
}

impl Table {
    pub(crate) fn new(subjects: Vec<&'static str>) -> Self {
        let values = vec![vec![Vec::new(); subjects.len()]; JOBS.len()];
        Self { subjects, values }
    }

    pub(crate) fn add(&mut self, row: usize, column: usize, value: f64) {
        self.values[row][column].push(value);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| job | unit | {} |", self.subjects.join(" | "))?;
        writeln!(f, "| --- | --- |{}", " ---: |".repeat(self.subjects.len()))?;
        for (job, row) in JOBS.iter().zip(&self.values) {
            let unit = match job.unit {
                Unit::MebibytesPerSecond => "MiB/s",
                Unit::PerSecond => "per second",
            };
            write!(f, "| {} | {unit} |", job.name)?;
            for values in row {
                write!(f, " {} |", cell(values))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Median, and where there are several, smallest and largest.
fn cell(values: &[f64]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.as_slice() {
        [] => "–".to_owned(),
        [value] => format!("{value:.0}"),
        [first, .., last] => {
            let middle = sorted.len() / 2;
            let median = if sorted.len() % 2 == 1 {
                sorted[middle]
            } else {
                f64::midpoint(sorted[middle - 1], sorted[middle])
            };
            format!("{median:.0} ({first:.0}–{last:.0})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(cell(&[]), "–");
        assert_eq!(cell(&[3.4]), "3");
        assert_eq!(cell(&[5.0, 1.0, 3.0]), "3 (1–5)");
        assert_eq!(cell(&[4.0, 1.0]), "2 (1–4)");
    }
}
