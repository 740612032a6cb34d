//! All tests at once, as `cargo test` runs them, and the table of what the short forms among them tried.
//!
//! Tests tell it on their standard output, which is asked for and not passed on where they succeed.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::PARTS;
use super::table::{Row, print};
use xtask::command::{cargo, output, root};

/// Runs all tests with these words and this variable; prints what they say, and the table.
pub(crate) fn run_tests(words: &[&str], variable: (&str, &Path)) -> Result<()> {
    let parts = programs(words)?;
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let mut command = cargo();
    command.arg("test").args(words).args(["--", "--show-output"]).env(variable.0, variable.1);
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().context("cannot run cargo")?;
    // It holds the other end of the pipe.
    drop(command);
    let mut listener = Listener::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if listener.hear(&line, &parts) {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    let rows = PARTS.iter().enumerate();
    let rows = rows.map(|(part, what)| (what.what, listener.rows.remove(&part).unwrap_or_default()));
    print(&rows.collect::<Vec<_>>());
    ensure!(status.success(), "tests failed ({status})");
    Ok(())
}

/// Which programs belong to which part of the torture.
fn programs(words: &[&str]) -> Result<HashMap<PathBuf, usize>> {
    let mut command: Command = cargo();
    command.arg("test").args(words).args(["--no-run", "--quiet", "--message-format=json"]);
    let messages = output(&mut command)?;
    let mut parts = HashMap::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("cargo does not speak JSON")?;
        let Some(program) = message["executable"].as_str() else { continue };
        let [package, manifest] = ["package_id", "manifest_path"].map(|key| message[key].as_str());
        let is = |name: &str| {
            package.is_some_and(|id| id.contains(&format!("#{name}@")))
                || manifest.is_some_and(|path| path_names(Path::new(path), name))
        };
        let target = &message["target"];
        let is_test = target["kind"][0] == "test";
        let part = PARTS.iter().position(|part| is_test && target["name"] == part.test && is(part.package));
        parts.extend(part.map(|part| (PathBuf::from(program), part)));
    }
    Ok(parts)
}

/// Whether a package's manifest is where that package is: a package whose folder has its name does not repeat it in its
/// identity.
fn path_names(manifest: &Path, package: &str) -> bool {
    let folder = match package {
        "blocktree" => root(),
        name => root().join(name.trim_start_matches("blocktree-")),
    };
    manifest.parent() == Some(&folder)
}

/// What was heard until now.
#[derive(Default)]
struct Listener {
    rows: HashMap<usize, Row>,
    part: Option<usize>,
    is_hidden: bool,
}

impl Listener {
    /// Takes a line of cargo's; whether it is to be passed on.
    fn hear(&mut self, line: &str, parts: &HashMap<PathBuf, usize>) -> bool {
        if let Some(program) = line.trim_start().strip_prefix("Running ") {
            let program = program.rsplit_once('(').map(|(_, path)| root().join(path.trim_end_matches(')')));
            self.part = program.and_then(|program| parts.get(&program).copied());
        } else if line.trim_start().starts_with("Doc-tests ") {
            self.part = None;
        }
        let is_result = line.starts_with("test result: ");
        match line {
            "successes:" => self.is_hidden = true,
            "failures:" => self.is_hidden = false,
            _ if is_result => self.is_hidden = false,
            _ => {}
        }
        if let Some(part) = self.part {
            let row = self.rows.entry(part).or_default();
            row.hear(line);
            if let Some((_, seconds)) = line.rsplit_once("finished in ").filter(|_| is_result) {
                let seconds = seconds.trim_end_matches('s').parse::<f64>().unwrap_or(0.0);
                row.seconds += seconds.round() as u64;
            }
        }
        !self.is_hidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_part_says_is_its_row() {
        let program = root().join("target/debug/deps/crash-1");
        let parts = HashMap::from([(program, 1)]);
        let mut listener = Listener::default();
        let said = "     Running tests/crash/main.rs (target/debug/deps/crash-1)\n\nrunning 2 tests\n\
                    test a ... ok\n\nsuccesses:\n\n---- a stdout ----\ntally: lives: crashes 7\n\n\
                    successes:\n    a\n\nfailures:\n\n---- b stdout ----\nseed 1\n\n\
                    test result: FAILED. 1 passed; 1 failed; 0 ignored; finished in 3.61s\n\
                    \x20    Running tests/other.rs (target/debug/deps/other-1)\n\
                    test result: ok. 9 passed; 0 failed; 0 ignored; finished in 3.61s\n";
        let shown: Vec<_> = said.lines().filter(|line| listener.hear(line, &parts)).collect();
        assert!(shown.contains(&"seed 1") && !shown.iter().any(|line| line.contains("tally")));
        let row = &listener.rows[&1];
        assert_eq!((row.counts["crashes"], row.tests, row.failures, row.seconds), (7, 1, 1, 4));
        assert_eq!(listener.rows.len(), 1);
    }
}
