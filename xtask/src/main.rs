//! The project's own tasks, run as `cargo xtask TASK`.
//!
//! [`packages`] installs what the tests need, [`lint`] and [`test`] are what CI runs, [`conformance`] measures by
//! ext4 and other people's test suites, [`torture`] by crashes, faults and attacks, [`fuzz`] by random bytes; [`guest`] is a
//! virtual machine for these, [`simulate`] plays a simulation again, [`demo`] shows the filesystem at work and under attack.

mod conformance;
mod demo;
mod fuzz;
mod guest;
mod lint;
mod packages;
mod simulate;
mod test;
mod tools;
mod torture;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask TASK

  demo         build, mount and use a filesystem, then attack it
  test         install the system packages that the tests need, and run all tests
  conformance  run other people's test suites on Blocktree and on ext4, and compare:
               conformance [--long] [SUITE...]
  guests       build the example apps for WebAssembly, and say where they are
  lint         formatting, clippy, documentation, direction of dependencies
  check        lint, then test: what CI runs
  torture      crashes, faults and attacks, and a table of what was tried:
               torture [--minutes N] [--seed S] [--power-cuts N] [--only PART]
  fuzz         bytes that nobody honest wrote, for every parser and whole images:
               fuzz [TARGET] [--minutes N]
  sim SEED     play the simulations of this seed again, exactly; of their steps only these:
               sim SEED [--steps 1,2,5] [--only NAME]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let Some((task, rest)) = arguments.split_first() else { bail!("which task?\n{USAGE}") };
    match (task.as_str(), rest) {
        ("demo", []) => demo::run(),
        ("test", filter) => test::run(filter),
        ("conformance", words) => conformance::run(words),
        ("torture", words) => torture::run(words),
        ("fuzz", words) => fuzz::run(words),
        ("guest", words) => guest::run(words),
        ("sim", words) => simulate::run(words),
        ("guests", []) => {
            packages::ensure()?;
            println!("{}", xtask::guests::build()?.display());
            Ok(())
        }
        ("lint", []) => lint::run(),
        ("check", []) => {
            lint::run()?;
            test::run(&[])
        }
        ("help" | "--help" | "-h", _) => {
            println!("{USAGE}");
            Ok(())
        }
        _ => bail!("no such task: {}\n{USAGE}", arguments.join(" ")),
    }
}
