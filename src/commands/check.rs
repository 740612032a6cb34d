//! `blocktree check`: verifies a store that is not mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use blocktree_engine::device::{Access, Device};
use blocktree_engine::format::BlockId;
use blocktree_engine::limits::SECTOR_BYTES;
use blocktree_engine::{CheckOptions, CheckReport, Credential, OpenOptions, Problem, Role, Store};
use blocktree_vfs::repair::examine;

use super::{find_mount, open_volume, print, progress_bar};
use crate::anchor::{self, Choice};
use crate::cli::PassphraseSource;
use crate::failure::{DAMAGE_LEFT, FAILED, Result};
use crate::lost;
use crate::paths;
use crate::size;
use crate::store_key::{HolderArguments, StoreKey};

/// Check a store that is not mounted: its structure, every hash and every signature.
///
/// Exit codes: 0 all is well, 1 damage was found and all of it repaired (or the check could not be done), 4 damage is
/// left. Without --repair, nothing is written.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A directory or block device with a store
    store: PathBuf,
    /// Repair what can be repaired
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    passphrase: PassphraseSource,
    #[command(flatten)]
    holder: HolderArguments,
}

pub(crate) fn run(arguments: &Arguments) -> Result<u8> {
    let path = &arguments.store;
    if let Some(mount) = find_mount(path)? {
        return Err(anyhow!(
            "the store {} is mounted on {mountpoint}; `blocktree scrub {mountpoint}` verifies it there, or \
             `blocktree umount {mountpoint}` first",
            mount.store.display(),
            mountpoint = mount.mountpoint.display()
        )
        .into());
    }
    let access = if arguments.repair { Access::ReadWrite } else { Access::ReadOnly };
    let device = open_volume(path, access)?;
    let key = StoreKey::obtain(arguments.passphrase.source().as_ref(), &arguments.holder, path)?;
    let credential = key.credential();
    let bar = progress_bar("Checking");
    let mut progress = |done: u64, total: u64| {
        bar.set_length(total.saturating_mul(SECTOR_BYTES as u64));
        bar.set_position(done.saturating_mul(SECTOR_BYTES as u64));
    };
    let options = CheckOptions { repair: arguments.repair };
    let report = blocktree_engine::check_as(device.clone(), &credential, &options, &mut progress);
    bar.finish_and_clear();
    let report = report.with_context(|| format!("cannot check the store {}", path.display()))?;
    let mut report = report;
    let anchor = Choice::Usual.anchor();
    if let Some(what) = anchor.and_then(|anchor| anchor::examine(device.clone(), &credential, anchor)) {
        report.problems.push(Problem { what, place: "age".into(), repaired: false, block: None });
        report.damage_left += 1;
    }
    let is_complete = examine_tree(device.clone(), &credential, arguments.repair, &mut report)
        .with_context(|| format!("cannot repair the tree in {}", path.display()))?;
    let mut blocks: BTreeSet<BlockId> = report.problems.iter().filter_map(|problem| problem.block).collect();
    blocks.extend(lost::blocks(&report.lost));
    let paths = paths::of_blocks(device, &credential, &blocks);
    print(&for_people(&report, &paths, arguments.repair))?;
    if !is_complete {
        print("Structure, hashes and signatures only: names and files are for who has the owner key.\n")?;
    }
    Ok(exit_code(&report))
}

/// Adds what does not fit in the tree of files, and mends it where that was asked for. A store that does not open has
/// been reported. False where names and files could not be looked at, for want of the owner key.
fn examine_tree(
    device: Arc<dyn Device>,
    credential: &Credential<'_>,
    repair: bool,
    report: &mut CheckReport,
) -> anyhow::Result<bool> {
    let open = |read_only| {
        let options = OpenOptions { read_only, background: false, ..OpenOptions::default() };
        Store::open_as(device.clone(), credential, &options)
    };
    let Ok(store) = open(true) else { return Ok(true) };
    if store.role() != Role::Owner {
        return Ok(false);
    }
    // What cannot be read was reported too.
    let Ok(mut findings) = examine(&store, false) else { return Ok(true) };
    drop(store);
    if repair && !findings.is_empty() {
        let store = open(false)?;
        findings = examine(&store, true)?;
        store.close().context("cannot close the store")?;
    }
    for finding in findings {
        let count = if finding.repaired { &mut report.repaired } else { &mut report.damage_left };
        *count += 1;
        let place = format!("{} (inode {})", finding.path.display(), finding.ino);
        let (what, repaired) = (finding.what, finding.repaired);
        report.problems.push(Problem { what, place, repaired, block: None });
    }
    Ok(true)
}

fn exit_code(report: &CheckReport) -> u8 {
    match (report.damage_left, report.repaired) {
        (0, 0) => 0,
        (0, _) => FAILED,
        _ => DAMAGE_LEFT,
    }
}

fn for_people(report: &CheckReport, paths: &BTreeMap<BlockId, PathBuf>, is_repairing: bool) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        let repaired = if problem.repaired { " (repaired)" } else { "" };
        let path = problem.block.and_then(|block| paths.get(&block));
        let path = path.map(|path| format!("{}: ", path.display())).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(text, "{path}{}: {}{repaired}", problem.place, problem.what);
    }
    for note in &report.notes {
        let _ = writeln!(text, "Note: {note}");
    }
    let is_given_up = report.problems.iter().any(|problem| problem.place == "log" && problem.repaired);
    text += &lost::for_people(&report.lost, paths, is_given_up);
    let checked = size::display(report.sectors_checked.saturating_mul(SECTOR_BYTES as u64));
    let problems = |count| if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
    let _ = match (report.damage_left, report.repaired) {
        (0, 0) => writeln!(text, "Checked {checked}: all is well."),
        (0, repaired) => writeln!(text, "Checked {checked}: {}, all repaired.", problems(repaired)),
        (left, _) if is_repairing => writeln!(
            text,
            "Checked {checked}: {} left that cannot be repaired here; restore what is named from a backup.",
            problems(left)
        ),
        (left, _) => writeln!(
            text,
            "Checked {checked}: {}. Run it again with --repair to repair what can be.",
            problems(left)
        ),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_tells_what_is_left() {
        let report = |repaired, damage_left| CheckReport { repaired, damage_left, ..CheckReport::default() };
        assert_eq!(exit_code(&report(0, 0)), 0);
        assert_eq!(exit_code(&report(3, 0)), 1);
        assert_eq!(exit_code(&report(3, 1)), 4);
        assert_eq!(exit_code(&report(0, 1)), 4);
    }

    #[test]
    fn every_problem_is_listed() {
        let problem =
            |block| Problem { what: "wrong hash".into(), place: "sector 7".into(), repaired: true, block };
        let problems = vec![problem(None), problem(Some(5))];
        let report = CheckReport { problems, repaired: 2, sectors_checked: 256, ..CheckReport::default() };
        let text = for_people(&report, &BTreeMap::from([(5, PathBuf::from("/a/b"))]), true);
        assert_eq!(
            text,
            "sector 7: wrong hash (repaired)\n/a/b: sector 7: wrong hash (repaired)\n\
             Checked 1.0 MiB: 2 problems, all repaired.\n"
        );
    }
}
