//! The table of what was tried, and the lines from which it is made.
//!
//! Key type: [`Row`].

use std::collections::BTreeMap;

/// Columns of the table: their titles, and the words of the tallies that they add up.
const COLUMNS: &[(&str, &str)] = &[
    ("histories", "histories"),
    ("operations", "operations"),
    ("crash points", "crashes"),
    ("faults", "faults"),
    ("attacks", "attacks"),
];

/// What came of a part.
#[derive(Default)]
pub(super) struct Row {
    pub(super) counts: BTreeMap<String, u64>,
    pub(super) tests: u64,
    pub(super) failures: u64,
    pub(super) seconds: u64,
}

/// Adds up what tests told.
pub(super) fn read(text: &str) -> Row {
    let mut row = Row::default();
    text.lines().for_each(|line| row.hear(line));
    row
}

impl Row {
    /// Adds what one line tells.
    pub(super) fn hear(&mut self, line: &str) {
        if let Some((_, counts)) = line.strip_prefix("tally: ").and_then(|line| line.split_once(": ")) {
            for count in counts.split(", ") {
                if let Some((word, number)) = count.split_once(' ')
                    && let Ok(number) = number.parse::<u64>()
                {
                    *self.counts.entry(word.to_owned()).or_default() += number;
                }
            }
        } else if let Some(result) = line.strip_prefix("test result: ") {
            let count = |what: &str| {
                let before = result.split(what).next()?.trim_end();
                before.rsplit(' ').next()?.parse::<u64>().ok()
            };
            self.tests += count("passed").unwrap_or(0);
            self.failures += count("failed").unwrap_or(0);
        }
    }
}

pub(super) fn print(rows: &[(&str, Row)]) {
    let line = |cells: &[String]| {
        let cells = cells.iter().enumerate();
        let cells =
            cells.map(|(at, cell)| if at == 0 { format!("{cell:22}") } else { format!("{cell:>12}") });
        println!("{}", cells.collect::<Vec<_>>().join(" "));
    };
    let titles = COLUMNS.iter().map(|(title, _)| *title).chain(["tests", "seconds", "failures"]);
    println!();
    line(&std::iter::once("").chain(titles).map(str::to_owned).collect::<Vec<_>>());
    let mut sum = vec![0; COLUMNS.len() + 3];
    for (what, row) in rows {
        let counts = COLUMNS.iter().map(|(_, word)| row.counts.get(*word).copied().unwrap_or(0));
        let counts: Vec<u64> = counts.chain([row.tests, row.seconds, row.failures]).collect();
        sum.iter_mut().zip(&counts).for_each(|(sum, count)| *sum += count);
        line(&std::iter::once((*what).to_owned()).chain(shown(&counts)).collect::<Vec<_>>());
    }
    line(&std::iter::once("all".to_owned()).chain(shown(&sum)).collect::<Vec<_>>());
}

/// Numbers as cells: no failures are "none".
fn shown(counts: &[u64]) -> impl Iterator<Item = String> {
    let last = counts.len() - 1;
    counts.iter().enumerate().map(move |(at, count)| match (at == last, count) {
        (true, 0) => "none".to_owned(),
        _ => count.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tests_tell_is_added_up() {
        let row = read(
            "noise\ntally: long lives: histories 2, crashes 40, faults 1\n\
             tally: short sequences: histories 3, crashes 2\n\
             test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.5s\n",
        );
        let counts: Vec<_> = row.counts.iter().map(|(word, count)| (word.as_str(), *count)).collect();
        assert_eq!(counts, [("crashes", 42), ("faults", 1), ("histories", 5)]);
        assert_eq!((row.tests, row.failures), (3, 1));
    }
}
