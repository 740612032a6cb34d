//! What people run: tar, git, grep, rm and SQLite.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Job, Scale, Unit};
use crate::source_tree::{NEEDLE, TREE};
use crate::subject::Subject;

pub(super) fn jobs() -> Vec<Job> {
    vec![
        Job::new("tree-unpack", "unpack a source tree, and syncfs", Unit::Seconds, |s, x| {
            Ok(s.measure(&mut unpack(s, x))?.seconds)
        }),
        Job::new("git-status-cold", "git status, cold", Unit::Seconds, |s, x| {
            ensure_repository(s, x)?;
            s.make_cold()?;
            git_status(s)
        }),
        Job::new("git-status-warm", "git status, warm", Unit::Seconds, |s, x| {
            ensure_repository(s, x)?;
            s.prepare(git(s).arg("status"))?;
            git_status(s)
        }),
        Job::new("grep-cold", "grep -r over the tree, cold", Unit::Seconds, |s, x| {
            ensure_tree(s, x)?;
            s.make_cold()?;
            let mut command = Command::new("grep");
            command.args(["-rlF", "--exclude-dir=.git", NEEDLE]).arg(tree(s));
            let finished = s.measure(&mut command)?;
            ensure!(finished.text.lines().count() == 1, "grep found other than what is there");
            Ok(finished.seconds)
        }),
        Job::new("tree-remove", "remove the tree, and syncfs", Unit::Seconds, |s, x| {
            ensure_tree(s, x)?;
            let mut command = Command::new("sh");
            command.args(["-c", r#"rm -r "$1" && sync -f "$2""#, "sh"]).arg(tree(s)).arg(s.folder());
            Ok(s.measure(&mut command)?.seconds)
        }),
        Job::new("sqlite-rollback", "SQLite commits, rollback journal", Unit::PerSecond, |s, x| {
            sqlite(s, x, "delete")
        }),
        Job::new("sqlite-wal", "SQLite commits, write-ahead log, synchronous", Unit::PerSecond, |s, x| {
            sqlite(s, x, "wal")
        }),
    ]
}

fn tree(subject: &Subject) -> PathBuf {
    subject.folder().join(TREE)
}

fn unpack(subject: &Subject, scale: &Scale) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", r#"tar -xf "$1" -C "$2" && sync -f "$2""#, "sh"]);
    command.arg(&scale.archive).arg(subject.folder());
    command
}

fn ensure_tree(subject: &Subject, scale: &Scale) -> Result<()> {
    if tree(subject).exists() { Ok(()) } else { subject.prepare(&mut unpack(subject, scale)).map(|_| ()) }
}

/// Without what users have set for themselves.
fn git(subject: &Subject) -> Command {
    let mut command = Command::new("git");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    command.env("HOME", "/nonexistent").arg("-C").arg(tree(subject));
    // Nothing in the background while something else is measured.
    command.args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"]);
    command.args(["-c", "user.name=fio-bench", "-c", "user.email=fio-bench@localhost"]);
    command.args(["-c", "safe.directory=*"]);
    command
}

fn ensure_repository(subject: &Subject, scale: &Scale) -> Result<()> {
    ensure_tree(subject, scale)?;
    if !tree(subject).join(".git/HEAD").exists() {
        subject.prepare(git(subject).args(["init", "--quiet"]))?;
        subject.prepare(git(subject).args(["add", "--all"]))?;
        subject.prepare(git(subject).args(["commit", "--quiet", "--message", "all"]))?;
        // The first one reads all files whose times do not show that they are older than the index.
        subject.prepare(git(subject).arg("status"))?;
    }
    Ok(())
}

fn git_status(subject: &mut Subject) -> Result<f64> {
    let mut command = git(subject);
    let finished = subject.measure(command.args(["status", "--porcelain"]))?;
    ensure!(finished.text.is_empty(), "git sees changes where there are none");
    Ok(finished.seconds)
}

fn sqlite(subject: &mut Subject, scale: &Scale, journal: &str) -> Result<f64> {
    let folder = subject.folder().join(format!("sqlite-{journal}"));
    fs::create_dir_all(&folder)?;
    let script = folder.join("script");
    let mut text = format!(
        "PRAGMA journal_mode={journal}; PRAGMA synchronous=FULL; CREATE TABLE IF NOT EXISTS t(i, text);\n"
    );
    for i in 0..scale.commits {
        // Each is a transaction of its own.
        text += &format!("INSERT INTO t VALUES({i}, 'something of an ordinary length, {i}');\n");
    }
    fs::write(&script, text + "SELECT count(*) FROM t;\n")?;
    let mut command = Command::new("sqlite3");
    command.current_dir(&folder).args(["-bail", "database", ".read script"]);
    let finished = subject.measure(&mut command);
    // The next round begins with an empty one.
    fs::remove_dir_all(&folder)?;
    let finished = finished?;
    let count = finished.text.lines().last().context("sqlite3 said nothing")?;
    ensure!(finished.text.lines().next() == Some(journal), "this journal does not work here");
    ensure!(count == scale.commits.to_string(), "rows are missing: {count}");
    Ok(scale.commits as f64 / finished.seconds)
}
