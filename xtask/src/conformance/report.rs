//! How the cases of a suite went, and the table of all suites.
//!
//! Key types: [`Report`], [`Verdict`], [`Row`].

use std::collections::BTreeMap;
use std::fmt;

use super::ground::Filesystem;

/// Suites and beginnings of cases that no filesystem over FUSE passes, and why. Each has a line in
/// `vfs/SEMANTICS.md`.
const BEYOND_FUSE: [(&str, &str, &str); 1] = [(
    "ranges",
    super::ranges::MOVES,
    "the kernel hands neither FALLOC_FL_COLLAPSE_RANGE nor FALLOC_FL_INSERT_RANGE to FUSE",
)];

/// How one case went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    /// With what the suite said about it.
    Failed(String),
    /// With the reason.
    Skipped(String),
}

/// The cases of one suite on one filesystem, by name.
#[derive(Debug, Default)]
pub(super) struct Report {
    cases: BTreeMap<String, Verdict>,
}

impl Report {
    /// A later verdict on the same case replaces an earlier one.
    pub(super) fn add(&mut self, case: impl Into<String>, verdict: Verdict) {
        self.cases.insert(case.into(), verdict);
    }

    /// Adds a case that passed unless there is an error.
    pub(super) fn judge(&mut self, case: impl Into<String>, result: anyhow::Result<()>) {
        let verdict = match result {
            Ok(()) => Verdict::Passed,
            Err(error) => Verdict::Failed(format!("{error:#}")),
        };
        self.add(case, verdict);
    }

    /// The cases that pass here and not there.
    pub(super) fn passed_only_here(&self, there: &Self) -> Vec<String> {
        let passed = self.cases.iter().filter(|(_, verdict)| **verdict == Verdict::Passed);
        let only_here = passed.filter(|(case, _)| there.cases.get(*case) != Some(&Verdict::Passed));
        only_here.map(|(case, _)| case.clone()).collect()
    }

    /// All cases, by name.
    pub(super) fn into_cases(self) -> impl Iterator<Item = (String, Verdict)> {
        self.cases.into_iter()
    }

    /// How many passed, failed and were skipped.
    fn counts(&self) -> [usize; 3] {
        let count = |is: fn(&Verdict) -> bool| self.cases.values().filter(|&verdict| is(verdict)).count();
        [
            count(|verdict| *verdict == Verdict::Passed),
            count(|verdict| matches!(verdict, Verdict::Failed(_))),
            count(|verdict| matches!(verdict, Verdict::Skipped(_))),
        ]
    }
}

/// One line of the table.
pub(super) struct Row {
    pub(super) suite: &'static str,
    pub(super) filesystem: Filesystem,
    pub(super) report: Report,
}

impl fmt::Display for Row {
    fn fmt(&self, line: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [passed, failed, skipped] = self.report.counts();
        let filesystem = self.filesystem.to_string();
        write!(
            line,
            "{:<16} {filesystem:<10} {:>6} {passed:>7} {failed:>7} {skipped:>8}",
            self.suite,
            passed + failed
        )
    }
}

/// Prints what did not pass, and the table; answers the cases in which Blocktree is behind ext4.
pub(super) fn print(rows: &[Row]) -> Vec<String> {
    for row in rows {
        for (case, verdict) in &row.report.cases {
            match verdict {
                Verdict::Passed => {}
                Verdict::Failed(why) => println!("{} {} {case} failed: {why}", row.suite, row.filesystem),
                Verdict::Skipped(why) => println!("{} {} {case} skipped: {why}", row.suite, row.filesystem),
            }
        }
    }
    println!("{:<16} {:<10} {:>6} {:>7} {:>7} {:>8}", "suite", "on", "run", "passed", "failed", "skipped");
    for row in rows {
        println!("{row}");
    }
    for (suite, case, why) in BEYOND_FUSE {
        if rows.iter().any(|row| row.suite == suite) {
            println!("not counted: {suite} {case}: {why}");
        }
    }
    let behind = behind(rows);
    for case in &behind {
        println!("behind ext4: {case}");
    }
    behind
}

/// The cases that pass on ext4 and not on Blocktree.
fn behind(rows: &[Row]) -> Vec<String> {
    let of = |filesystem| rows.iter().filter(move |row| row.filesystem == filesystem);
    let mut behind = Vec::new();
    for ext4 in of(Filesystem::Ext4) {
        let ours = of(Filesystem::Blocktree).find(|row| row.suite == ext4.suite);
        let is_possible = |case: &String| {
            !BEYOND_FUSE.iter().any(|(suite, start, _)| *suite == ext4.suite && case.starts_with(start))
        };
        let missing = Report::default();
        let only_there = ext4.report.passed_only_here(ours.map_or(&missing, |ours| &ours.report));
        behind
            .extend(only_there.into_iter().filter(is_possible).map(|case| format!("{} {case}", ext4.suite)));
    }
    behind
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(filesystem: Filesystem, verdicts: [Option<Verdict>; 3]) -> Row {
        let mut report = Report::default();
        for (case, verdict) in ["a", "b", "c"].into_iter().zip(verdicts) {
            if let Some(verdict) = verdict {
                report.add(case, verdict);
            }
        }
        Row { suite: "suite", filesystem, report }
    }

    #[test]
    fn behind_is_what_only_ext4_passes() {
        let failed = || Some(Verdict::Failed(String::new()));
        let skipped = || Some(Verdict::Skipped(String::new()));
        let passed = || Some(Verdict::Passed);
        let compared = |ours, ext4| behind(&[row(Filesystem::Blocktree, ours), row(Filesystem::Ext4, ext4)]);
        let all_pass = [passed(), passed(), passed()];
        assert!(compared(all_pass.clone(), all_pass.clone()).is_empty());
        assert_eq!(
            compared([failed(), skipped(), None], all_pass.clone()),
            ["suite a", "suite b", "suite c"]
        );
        assert!(compared([failed(), passed(), None], [failed(), skipped(), skipped()]).is_empty());
        assert_eq!(behind(&[row(Filesystem::Ext4, all_pass)]).len(), 3);
    }

    #[test]
    fn skipped_cases_were_not_run() {
        let row = row(
            Filesystem::Ext4,
            [Some(Verdict::Passed), Some(Verdict::Failed("x".into())), Some(Verdict::Skipped("y".into()))],
        );
        let line = row.to_string();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words, ["suite", "ext4", "2", "1", "1", "1"]);
    }
}
