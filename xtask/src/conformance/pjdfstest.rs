//! The suite `pjdfstest`: what POSIX and habit demand of each system call, as root and through its changes of user.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use super::ground::{Filesystem, Ground, shadow};
use super::report::{Report, Verdict};
use super::{Form, Suite};
use crate::tools::{self, PJDFSTEST};
use xtask::command::outcome;

pub(super) struct Pjdfstest;

/// Every feature that there is on Linux. The users are those of any Debian.
const FEATURES: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]

[settings]
naptime = 0.02
"#;

/// glibc answers pathconf(_PC_LINK_MAX) by the type of the filesystem, and does not know that of FUSE, so this case
/// skips itself; here it is done by hand.
const LINK_COUNT_MAX: &str = "link::link_count_max";

/// What ext4 allows.
const LINKS: usize = 65_000;

impl Suite for Pjdfstest {
    fn name(&self) -> &'static str {
        "pjdfstest"
    }

    fn is_short(&self) -> bool {
        true
    }

    fn run(&self, ground: &Ground, _form: Form) -> Result<Report> {
        let program = tools::ensure(&PJDFSTEST)?;
        // It calls mount(8) to make the filesystem read-only, which is to be the kernel's work alone.
        let path = shadow(ground, "mount", "exec /usr/bin/mount --internal-only \"$@\"")?;
        let run = |name: &str, settings: &str, patterns: &[&str]| -> Result<Report> {
            let config = ground.outside(name);
            fs::write(&config, format!("{FEATURES}{settings}\n"))?;
            let outcome = outcome(
                Command::new(&program)
                    .arg("-c")
                    .arg(&config)
                    .arg("-p")
                    .arg(ground.folder())
                    .arg("-s")
                    .arg(ground.outside(""))
                    .args(patterns)
                    .env("PATH", &path),
            )?;
            let said = String::from_utf8_lossy(&outcome.stdout);
            let errors = String::from_utf8_lossy(&outcome.stderr);
            let report = parse(&said);
            ensure!(said.contains("Summary: "), "pjdfstest did not end well: {errors}");
            Ok(report)
        };
        let mut report = run("most.toml", "", &[])?;
        // Some of the other cases leave files open for writing, so that nothing can be made read-only after them.
        for (case, verdict) in run("read-only.toml", "allow_remount = true", &["erofs"])?.into_cases() {
            report.add(case, verdict);
        }
        if ground.filesystem() == Filesystem::Blocktree {
            report.judge(LINK_COUNT_MAX, make_links(&ground.folder()));
        }
        Ok(report)
    }
}

fn make_links(folder: &Path) -> Result<()> {
    let file = folder.join("one file");
    fs::write(&file, "")?;
    let names = folder.join("names");
    fs::create_dir(&names)?;
    for number in 1..LINKS {
        fs::hard_link(&file, names.join(number.to_string()))?;
    }
    let links = std::os::unix::fs::MetadataExt::nlink(&fs::metadata(&file)?);
    ensure!(links == LINKS as u64, "{links} links");
    fs::remove_dir_all(names)?;
    Ok(fs::remove_file(file)?)
}

/// Lines of a name and `ok`, `FAILED` or `skipped`; what it says of a case stands below, after a tab.
fn parse(said: &str) -> Report {
    let mut report = Report::default();
    let mut lines = said.lines().peekable();
    while let Some(line) = lines.next() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [case, verdict] = words.as_slice() else { continue };
        let mut why = || {
            let mut why = Vec::new();
            while let Some(line) = lines.next_if(|line| line.starts_with('\t')) {
                why.push(line.trim());
            }
            why.join("; ")
        };
        match *verdict {
            "ok" => report.add(*case, Verdict::Passed),
            "FAILED" => report.add(*case, Verdict::Failed(why())),
            "skipped" => report.add(*case, Verdict::Skipped(why())),
            _ => {}
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_is_understood() {
        let said = "chmod::a    ok\nlink::b     FAILED\n\tassertion failed\nBacktrace:\n   0: _start\n\
                    open::c   skipped\n\tno root\n\nSummary: 1 failed, 1 skipped, 1 passed, 3 total\n";
        let cases: Vec<_> = parse(said).into_cases().collect();
        assert_eq!(
            cases,
            [
                ("chmod::a".into(), Verdict::Passed),
                ("link::b".into(), Verdict::Failed("assertion failed".into())),
                ("open::c".into(), Verdict::Skipped("no root".into())),
            ]
        );
    }
}
