//! `cargo xtask fuzz`: bytes that nobody honest wrote, for every parser and for whole images.
//!
//! cargo-fuzz needs flags of a nightly compiler; the stable one takes them with `RUSTC_BOOTSTRAP`. What it comes across
//! goes into the folder `corpus` beside the targets, which is not kept; `seeds` is.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::tools::{self, CARGO_FUZZ};
use xtask::command::{cargo, execute, root, target};

/// The crates that have targets, in the folder `fuzz` of each.
const CRATES: [&str; 2] = ["engine", "sandbox"];

const USAGE: &str = "fuzz [TARGET] [--minutes N]";
/// AddressSanitizer takes several times what a program does.
const MEMORY_MIB: u32 = 4096;

/// Runs one target, or all of them one after the other, for so many minutes each.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let (mut minutes, mut chosen): (u32, _) = (1, None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--minutes" => {
                let value = words.next().context(USAGE)?;
                minutes = value.parse().with_context(|| format!("not a number of minutes: {value}"))?;
            }
            name if !name.starts_with('-') && chosen.is_none() => chosen = Some(name.to_owned()),
            _ => bail!(USAGE),
        }
    }
    let mut targets = Vec::new();
    for of in CRATES {
        for entry in fs::read_dir(root().join(of).join("fuzz/fuzz_targets")).context(of)? {
            let name = entry?.path().file_stem().map(|name| name.to_string_lossy().into_owned());
            targets.extend(name.map(|name| (name, of)));
        }
    }
    targets.sort();
    if let Some(chosen) = chosen {
        if !targets.iter().any(|(name, _)| *name == chosen) {
            bail!("no such target: {chosen}; there are {}", listed(&targets));
        }
        targets.retain(|(name, _)| *name == chosen);
    }
    let program = tools::ensure(&CARGO_FUZZ)?;
    let bin = program.parent().context("a tool is in a folder")?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(bin.to_owned()).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(paths).context("PATH")?;
    for (name, of) in &targets {
        let folder = root().join(of).join("fuzz");
        let [corpus, seeds] = ["corpus", "seeds"].map(|kind| folder.join(kind).join(name));
        fs::create_dir_all(&corpus).context("the corpus")?;
        let mut command = cargo();
        command.current_dir(root().join(of)).args(["fuzz", "run", name.as_str()]).arg(corpus);
        if seeds.exists() {
            command.arg(seeds);
        }
        command.arg("--").args([
            format!("-max_total_time={}", 60 * minutes.max(1)),
            format!("-rss_limit_mb={MEMORY_MIB}"),
            "-print_final_stats=1".to_owned(),
            // Most inputs say nothing below a certain length.
            "-len_control=0".to_owned(),
        ]);
        command.env("RUSTC_BOOTSTRAP", "1").env("PATH", &path).env("CARGO_TARGET_DIR", target().join("fuzz"));
        println!("fuzzing {name} for {minutes} minutes");
        execute(&mut command)?;
    }
    println!("nothing found in {}", listed(&targets));
    Ok(())
}

fn listed(targets: &[(String, &str)]) -> String {
    targets.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}
