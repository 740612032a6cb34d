//! `cargo xtask conformance`: other people's test suites on Blocktree and, beside it, on ext4.
//!
//! Each [`Suite`] runs on a freshly made [`Ground`] of either filesystem and says of each of its cases how it went.
//! Blocktree is behind where a case passes on ext4 and not on Blocktree; the run then fails. Afterwards each ground
//! is unmounted and checked, which is one more case.
//!
//! A new suite is a file here that implements [`Suite`], and a line in [`suites`].

mod fio;
mod fsx;
mod ground;
pub(crate) mod kernel_smb;
mod pjdfstest;
mod ranges;
mod report;
mod rules;
mod smbtorture;
mod stress;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use self::ground::{Filesystem, Ground};
use self::report::{Report, Row};
use crate::packages;
use xtask::command::{EVERYTHING, cargo, execute, program_as_tested, target};

/// A set of cases that run on any mounted filesystem.
trait Suite {
    fn name(&self) -> &'static str;

    /// Whether the short form has it, in which it takes a minute or two at most.
    fn is_short(&self) -> bool;

    /// Runs all cases. An error means that the suite could not run, not that a case failed.
    fn run(&self, ground: &Ground, form: Form) -> Result<Report>;

    /// Runs all cases on each of two filesystems.
    fn run_on_both(&self, grounds: [&Ground; 2], form: Form) -> Result<[Report; 2]> {
        let run =
            |ground: &Ground| self.run(ground, form).with_context(|| format!("on {}", ground.filesystem()));
        Ok([run(grounds[0])?, run(grounds[1])?])
    }
}

/// How much to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// What runs with every `cargo xtask test`.
    Short,
    /// Everything, for up to an hour or two.
    Long,
}

fn suites() -> Vec<Box<dyn Suite>> {
    vec![
        Box::new(pjdfstest::Pjdfstest),
        Box::new(rules::Rules),
        Box::new(fio::Fio),
        Box::new(ranges::Ranges),
        Box::new(smbtorture::Smbtorture),
        Box::new(kernel_smb::KernelSmb),
        Box::new(fsx::Fsx),
        Box::new(stress::Stress),
    ]
}

/// `words`: `--long`, and names of suites where not all are wanted.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let mut form = Form::Short;
    let mut names = Vec::new();
    for word in words {
        match word.as_str() {
            "--long" => form = Form::Long,
            name => names.push(name),
        }
    }
    let suites = suites();
    for name in &names {
        if !suites.iter().any(|suite| suite.name() == *name) {
            let known: Vec<_> = suites.iter().map(|suite| suite.name()).collect();
            bail!("no such suite: {name}; there are {}", known.join(", "));
        }
    }
    let is_wanted = |suite: &dyn Suite| match names.is_empty() {
        true => form == Form::Long || suite.is_short(),
        false => names.contains(&suite.name()),
    };
    let wanted = suites.iter().filter(|suite| is_wanted(&***suite));
    ensure!(packages::is_root()?, "only root can mount ext4 and change to other users: run this as root");
    packages::ensure()?;
    let program = build(form)?;
    let mut rows = Vec::new();
    for suite in wanted {
        println!("{}", suite.name());
        rows.extend(compare(&**suite, form, &program)?);
    }
    let behind = report::print(&rows);
    ensure!(behind.is_empty(), "Blocktree is behind ext4 in {} cases", behind.len());
    Ok(())
}

/// The program under test. The short form takes what the tests have built already.
fn build(form: Form) -> Result<std::path::PathBuf> {
    if form == Form::Short {
        return program_as_tested();
    }
    execute(cargo().arg("build").args(EVERYTHING).args(["--bin", "blocktree", "--release"]))?;
    Ok(target().join("release/blocktree"))
}

/// One suite on both filesystems.
fn compare(suite: &dyn Suite, form: Form, program: &Path) -> Result<Vec<Row>> {
    let blocktree = Ground::make(Filesystem::Blocktree, program)?;
    let ext4 = Ground::make(Filesystem::Ext4, program)?;
    let reports = suite.run_on_both([&blocktree, &ext4], form);
    let reports = reports.with_context(|| format!("the suite {} cannot run", suite.name()))?;
    let mut rows = Vec::new();
    for (ground, mut report) in [blocktree, ext4].into_iter().zip(reports) {
        let filesystem = ground.filesystem();
        report.judge("what is left is sound", ground.finish());
        rows.push(Row { suite: suite.name(), filesystem, report });
    }
    Ok(rows)
}
