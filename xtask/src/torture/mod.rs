//! `cargo xtask torture`: crashes, faults and attacks for as long as one likes, and a table of what was tried.
//!
//! Simulations go on with new seeds until their time is over; tests of attacks and of processes run once. A test
//! tells what it tried in lines of the form `tally: NAME: histories 3, crashes 40`. [`listen`] hears the same of the short
//! forms, when all tests run.

mod listen;
mod table;

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};

pub(crate) use self::listen::run_tests;
use self::table::{Row, print, read};
use crate::guest::power;
use crate::packages;
use xtask::command::{EVERYTHING, cargo, execute, program_as_tested, root};

/// What is run: a test of a package, and which of its tests.
struct Part {
    what: &'static str,
    package: &'static str,
    test: &'static str,
    names: &'static [&'static str],
    /// Of the time, in percent; 0 for what runs once.
    share: u64,
}

const PARTS: &[Part] = &[
    Part {
        what: "simulated store",
        package: "blocktree-engine",
        test: "crash",
        names: &[
            "every_crash_leaves_a_prefix",
            "io_errors_leave_a_prefix",
            "what_is_freed_is_used_again_no_sooner_than_a_crash_allows",
            "threads_see_their_own_writes",
            "a_crash_beside_threads_leaves_one_moment",
        ],
        share: 40,
    },
    Part {
        what: "simulated filesystem",
        package: "blocktree-vfs",
        test: "crash",
        names: &[
            "every_short_sequence_survives_every_crash",
            "long_lives_lose_nothing",
            "no_space_at_any_decision_leaves_nothing_half_done",
        ],
        share: 60,
    },
    Part { what: "attacks on the disk", package: "blocktree-engine", test: "hostile", names: &[], share: 0 },
    Part { what: "attackers", package: "blocktree-vfs", test: "adversary", names: &[], share: 0 },
    Part { what: "rollback", package: "blocktree-engine", test: "anchor", names: &[], share: 0 },
    Part { what: "check and repair", package: "blocktree-engine", test: "check", names: &[], share: 0 },
    Part { what: "damaged logs", package: "blocktree-engine", test: "log_damage", names: &[], share: 0 },
    Part { what: "salvage", package: "blocktree-engine", test: "salvage", names: &[], share: 0 },
    Part { what: "processes and hosts", package: "blocktree", test: "hostile", names: &[], share: 0 },
];

const MINUTES: u64 = 2;

/// From so many minutes on, virtual machines lose their power, unless it is said how often.
const MINUTES_LONG: u64 = 30;
const POWER_CUTS_LONG: u64 = 100;

const USAGE: &str = "torture [--minutes N] [--seed S] [--power-cuts N] [--only PART]";

pub(crate) fn run(words: &[String]) -> Result<()> {
    let (mut minutes, mut seed, mut cuts, mut only) = (MINUTES, None, None, None);
    let mut rest = words;
    while let [option, value, others @ ..] = rest {
        let number = || value.parse::<u64>().with_context(|| format!("{value:?} is no number"));
        match option.as_str() {
            "--minutes" => minutes = number()?,
            "--seed" => seed = Some(number()?),
            "--power-cuts" => cuts = Some(number()?),
            "--only" => only = Some(value.as_str()),
            _ => bail!("no such option: {option}; {USAGE}"),
        }
        rest = others;
    }
    if !rest.is_empty() {
        bail!("what is {}? {USAGE}", rest.join(" "));
    }
    let is_wanted = |what: &str| only.is_none_or(|only| only == what);
    let known = || PARTS.iter().map(|part| part.what).chain([POWER]);
    if !known().any(is_wanted) {
        bail!("there are only {}", known().collect::<Vec<_>>().join(", "));
    }
    packages::ensure()?;
    if only != Some(POWER) {
        execute(cargo().arg("test").args(EVERYTHING).args(["--no-run", "--quiet"]))?;
    }
    let mut rows = Vec::new();
    for part in PARTS.iter().filter(|part| is_wanted(part.what)) {
        println!("{}…", part.what);
        rows.push((part.what, part.run(minutes * 60 * part.share / 100, seed)?));
    }
    let cuts = cuts.unwrap_or(if minutes < MINUTES_LONG { 0 } else { POWER_CUTS_LONG });
    if cuts > 0 && is_wanted(POWER) {
        rows.push((POWER, cut_power(cuts, seed.unwrap_or_else(rand::random))?));
    }
    print(&rows);
    match rows.iter().map(|(_, row)| row.failures).sum::<u64>() {
        0 => Ok(()),
        failures => bail!("{failures} failures"),
    }
}

const POWER: &str = "power cuts";

/// Virtual machines that lose their power.
fn cut_power(cuts: u64, seed: u64) -> Result<Row> {
    println!("{POWER}…");
    let began = Instant::now();
    let program = program_as_tested()?;
    let mut row = Row { tests: 1, ..Row::default() };
    let mut tally = power::Tally::default();
    if let Err(error) = power::run(&program, seed, cuts, &mut tally) {
        println!("{error:#}");
        row.failures = 1;
    }
    let counts = [("histories", tally.cuts), ("operations", tally.operations), ("crashes", tally.disks)];
    row.counts = counts.into_iter().map(|(word, count)| (word.to_owned(), count)).collect();
    row.seconds = began.elapsed().as_secs();
    Ok(row)
}

impl Part {
    fn run(&self, seconds: u64, seed: Option<u64>) -> Result<Row> {
        let began = Instant::now();
        let mut command = cargo();
        command.args(["test", "--package", self.package, "--test", self.test, "--quiet", "--"]);
        command.arg("--show-output").args(self.names).current_dir(root());
        command.env("RUST_BACKTRACE", "0");
        if self.share > 0 {
            command.env("BLOCKTREE_SIM_SECONDS", seconds.to_string());
            if let Some(seed) = seed {
                command.env("BLOCKTREE_SEED", seed.to_string());
            }
        }
        let output = command.stdin(Stdio::null()).output().context("cannot run cargo")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut row = read(&text);
        row.seconds = began.elapsed().as_secs();
        if !output.status.success() {
            row.failures = row.failures.max(1);
            println!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(row)
    }
}
