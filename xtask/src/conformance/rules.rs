//! The suite `rules`: what POSIX and Linux leave to filesystems beyond pjdfstest, as Python tests in the folder
//! `rules/`: locks, permissions, ACLs, flags, file handles. What they demand is what ext4 does in the same run.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use super::ground::Ground;
use super::report::{Report, Verdict};
use super::{Form, Suite};
use xtask::command::{outcome, output, root};

pub(super) struct Rules;

/// Their tests run with Python's `unittest`.
const MODULES: [&str; 4] = ["flags", "locks", "names", "permissions"];

impl Suite for Rules {
    fn name(&self) -> &'static str {
        "rules"
    }

    fn is_short(&self) -> bool {
        true
    }

    fn run(&self, ground: &Ground, _form: Form) -> Result<Report> {
        let mut report = Report::default();
        for module in MODULES {
            let ran = outcome(python(ground).args(["-m", "unittest", "-v", module]))?;
            let said = String::from_utf8_lossy(&ran.stderr);
            ensure!(said.contains("\nRan "), "the tests did not end well: {said}");
            parse(&said, &mut report);
        }
        let handles = ground.outside("handles.json");
        let work = |word: &str| {
            output(python(ground).arg(folder().join("handles.py")).arg(word).arg(&handles)).map(drop)
        };
        report.judge("handles::open", work("take").and_then(|()| work("open")));
        ground.remount()?;
        report.judge("handles::open, remounted", work("open"));
        Ok(report)
    }
}

fn folder() -> PathBuf {
    root().join("xtask/src/conformance/rules")
}

fn python(ground: &Ground) -> Command {
    let mut python = Command::new("python3");
    python.current_dir(ground.folder()).env("PYTHONPATH", folder()).env("PYTHONDONTWRITEBYTECODE", "1");
    python
}

/// Lines such as `test_a (flags.Flags.test_a) ... ok`; at the end come the reasons of those that failed, each behind
/// `FAIL: test_a (flags.Flags.test_a)`. A test may print between its name and its verdict.
fn parse(said: &str, report: &mut Report) {
    let (verdicts, reasons) = said.split_once(&"=".repeat(70)).unwrap_or((said, ""));
    let mut lines = verdicts.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((name, mut verdict)) = line.split_once(" ... ") else { continue };
        let Some(case) = case(name) else { continue };
        while !is_verdict(verdict) && lines.peek().is_some_and(|line| !line.contains(" ... ")) {
            verdict = lines.next().unwrap_or_default();
        }
        let verdict = match verdict {
            "ok" => Verdict::Passed,
            _ => match verdict.strip_prefix("skipped") {
                Some(why) => Verdict::Skipped(why.trim().to_owned()),
                None => Verdict::Failed(reason(reasons, name)),
            },
        };
        report.add(case, verdict);
    }
}

fn is_verdict(text: &str) -> bool {
    matches!(text, "ok" | "FAIL" | "ERROR") || text.starts_with("skipped ")
}

/// `flags::Flags::test_a` of `test_a (flags.Flags.test_a)`, which older versions write without the last word.
fn case(name: &str) -> Option<String> {
    let (test, place) = name.split_once(" (")?;
    let place = place.strip_suffix(')')?;
    let place = place.strip_suffix(&format!(".{test}")).unwrap_or(place);
    Some(format!("{}::{test}", place.replace('.', "::")))
}

/// The last line of what is said of a failure.
fn reason(reasons: &str, name: &str) -> String {
    let said = reasons.split(&"=".repeat(70)).find(|said| said.lines().any(|line| line.ends_with(name)));
    let lines = said.into_iter().flat_map(str::lines);
    let is_said = |line: &&str| !line.trim().is_empty() && !line.starts_with("---");
    let last = lines.take_while(|line| !line.starts_with("Ran ")).filter(is_said).last();
    last.unwrap_or("no reason given").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_unittest_says_is_understood() {
        let double = "=".repeat(70);
        let said = format!(
            "test_a (flags.Flags.test_a) ... ok\n\
             test_b (flags.Flags) ... a message\nERROR\n\
             test_c (flags.Flags.test_c) ... skipped 'no'\n\
             test_d (flags.Flags.test_d) ... FAIL\n\n\
             {double}\nERROR: test_b (flags.Flags)\n---\nTraceback\nOSError: bad\n\
             {double}\nFAIL: test_d (flags.Flags.test_d)\n---\nAssertionError: worse\n\n---\nRan 4 tests\n"
        );
        let mut report = Report::default();
        parse(&said, &mut report);
        let cases: Vec<_> = report.into_cases().collect();
        assert_eq!(
            cases,
            [
                ("flags::Flags::test_a".into(), Verdict::Passed),
                ("flags::Flags::test_b".into(), Verdict::Failed("OSError: bad".into())),
                ("flags::Flags::test_c".into(), Verdict::Skipped("'no'".into())),
                ("flags::Flags::test_d".into(), Verdict::Failed("AssertionError: worse".into())),
            ]
        );
    }
}
