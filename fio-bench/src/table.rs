//! The table of results.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use xtask::command::output;

use crate::jobs::{JOBS, Unit};

const BEGIN: &str = "<!-- fio-bench: begin -->";
const END: &str = "<!-- fio-bench: end -->";

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

    /// Puts the table into a page, between its two marks, with what is needed to read it.
    pub(crate) fn write(&self, page: &Path, command: &str) -> Result<()> {
        let old = fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
        let new = replace(&old, &format!("{}\n\n{self}", circumstances(command)?))?;
        fs::write(page, new).with_context(|| format!("cannot write {}", page.display()))
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

fn replace(page: &str, text: &str) -> Result<String> {
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("the page lacks {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("the page lacks {END}"))?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", text.trim_end()))
}

/// The machine, its kernel, the day, and how to do it again.
fn circumstances(command: &str) -> Result<String> {
    let ask = |program: &str, arguments: &[&str]| -> Result<String> {
        Ok(output(Command::new(program).args(arguments))?.trim().to_owned())
    };
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
    Ok(format!(
        "{model}, {} cores, {} MiB of memory; Linux {}; {}; {}.\n\n```\n{command}\n```",
        ask("nproc", &[])?,
        memory_kib >> 10,
        ask("uname", &["-r"])?,
        ask("fio", &["--version"])?,
        ask("date", &["-u", "+%Y-%m-%d"])?,
    ))
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

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let page = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let once = replace(&page, "new\n").unwrap();
        assert_eq!(once, format!("a\n{BEGIN}\n\nnew\n\n{END}\nb\n"));
        assert_eq!(replace(&once, "new").unwrap(), once);
        assert!(replace("no marks", "new").is_err());
    }
}
