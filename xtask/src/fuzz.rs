//! `cargo xtask fuzz`: bytes that nobody honest wrote, for every parser and for whole images.
//!
//! cargo-fuzz needs flags of a nightly compiler; the stable one takes them with `RUSTC_BOOTSTRAP`. What it comes across
//! goes into `engine/fuzz/corpus`, which is not kept; `engine/fuzz/seeds` is.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::tools::{self, CARGO_FUZZ};
use xtask::command::{cargo, execute, root, target};

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
    let folder = root().join("engine/fuzz");
    let mut targets = Vec::new();
    for entry in fs::read_dir(folder.join("fuzz_targets")).context("engine/fuzz/fuzz_targets")? {
        targets.extend(entry?.path().file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    targets.sort();
    if let Some(chosen) = chosen {
        if !targets.contains(&chosen) {
            bail!("no such target: {chosen}; there are {}", targets.join(", "));
        }
        targets = vec![chosen];
    }
    let program = tools::ensure(&CARGO_FUZZ)?;
    let bin = program.parent().context("a tool is in a folder")?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(bin.to_owned()).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(paths).context("PATH")?;
    for name in &targets {
        let [corpus, seeds] = ["corpus", "seeds"].map(|kind| folder.join(kind).join(name));
        fs::create_dir_all(&corpus).context("the corpus")?;
        let mut command = cargo();
        command.current_dir(root().join("engine")).args(["fuzz", "run", name.as_str()]).arg(corpus);
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
    println!("nothing found in {}", targets.join(", "));
    Ok(())
}
