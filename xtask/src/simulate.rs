//! `cargo xtask sim SEED`: plays the histories of one seed again, exactly.
//!
//! What fails in a simulation names its seed, and the steps of the shortest history that still fails.

use anyhow::{Context, Result, bail};

use xtask::command::{cargo, execute};

/// The tests that are simulations: package, test, and the names of those that go by a seed.
const SIMULATIONS: &[(&str, &str, &[&str])] = &[
    ("blocktree-engine", "crash", &["every_crash_leaves_a_prefix", "io_errors_leave_a_prefix"]),
    ("blocktree-vfs", "crash", &["lives::long_lives_lose_nothing"]),
];

/// `words`: the seed; then perhaps `--steps 1,2,5`, and `--only` with a history's name.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let Some((seed, mut rest)) = words.split_first() else { bail!("which seed?") };
    let seed: u64 = seed.parse().with_context(|| format!("{seed:?} is no seed: a number"))?;
    let (mut steps, mut only) = (None, None);
    while let [option, value, others @ ..] = rest {
        match option.as_str() {
            "--steps" => steps = Some(value),
            "--only" => only = Some(value),
            _ => bail!("no such option: {option}"),
        }
        rest = others;
    }
    if !rest.is_empty() {
        bail!("what is {}?", rest.join(" "));
    }
    for (package, test, names) in SIMULATIONS {
        let chosen: Vec<&&str> =
            names.iter().filter(|name| only.is_none_or(|only| name.contains(only))).collect();
        if chosen.is_empty() {
            continue;
        }
        let mut command = cargo();
        command.args(["test", "--package", package, "--test", test, "--", "--nocapture"]).args(chosen);
        command.env("BLOCKTREE_SEED", seed.to_string()).env_remove("BLOCKTREE_SIM_SECONDS");
        if let Some(steps) = steps {
            command.env("BLOCKTREE_STEPS", steps);
        }
        execute(&mut command)?;
    }
    Ok(())
}
