//! Builds the apps in TypeScript, each in a folder of its own below the target folder, as its author would build it.
//!
//! The tools, and what an app depends on, come from the npm registry, at the versions and with the hashes that the app's lock file
//! has. They are fetched once; what was built stays until something that it is made of changes. Whoever has neither Node.js nor the
//! registry is told so.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::{is_installed, output, root, target};

/// What makes an app in TypeScript one.
const PROJECT: &str = "package.json";
const LOCK: &str = "package-lock.json";
/// What npm writes when it is done.
const INSTALLED: &str = "node_modules/.package-lock.json";
const COMPONENT: &str = "build/app.wasm";
/// The inputs of the last build that succeeded.
const BUILT_OF: &str = "build/inputs";

/// Builds what is out of date, and puts a `.wasm` for each app into this folder.
pub(super) fn build(into: &Path) -> Result<()> {
    for entry in fs::read_dir(root().join("sandbox/guests"))? {
        let source = entry?.path();
        if source.join(PROJECT).is_file() {
            let name = source.file_name().unwrap_or_default();
            build_app(&source, &folder().join(name), &into.join(name).with_extension("wasm"))
                .with_context(|| format!("the app in {} is not built", source.display()))?;
        }
    }
    Ok(())
}

/// Makes a component of a script for this world, with the tools of an app that was built.
pub fn componentize(script: &Path, world: &str, component: &Path) -> Result<()> {
    let mut command = Command::new("node");
    command.arg(tools().join("componentize-qjs/cli.mjs"));
    command.args(["--sync", "--world", world, "--wit"]).arg(root().join("sandbox/wit"));
    output(command.arg("--js").arg(script).arg("--output").arg(component)).map(drop)
}

/// Where the tools are, once the apps were built.
pub fn tools() -> PathBuf {
    folder().join("markdown/node_modules")
}

fn folder() -> PathBuf {
    target().join("guests/typescript")
}

fn build_app(source: &Path, folder: &Path, component: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    // Several programs of tests may begin at once.
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    let mut inputs = BTreeMap::new();
    read_all(source, Path::new(""), &mut inputs)?;
    let listed = listed(&inputs);
    if component.is_file() && fs::read(folder.join(BUILT_OF)).is_ok_and(|built_of| built_of == listed) {
        return Ok(());
    }
    let has_packages = folder.join(INSTALLED).is_file()
        && fs::read(folder.join(LOCK)).is_ok_and(|lock| Some(&lock) == inputs.get(Path::new(LOCK)));
    for old in ["src", "build"].map(|name| folder.join(name)).into_iter().filter(|old| old.is_dir()) {
        fs::remove_dir_all(old)?;
    }
    for (path, bytes) in &inputs {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(path, bytes)?;
    }
    if !has_packages {
        npm(folder, &["ci", "--no-audit", "--no-fund", "--no-update-notifier"])
            .context("are the packages of npm's registry within reach?")?;
    }
    npm(folder, &["run", "--silent", "build"])?;
    fs::copy(folder.join(COMPONENT), component)?;
    Ok(fs::write(folder.join(BUILT_OF), listed)?)
}

fn npm(folder: &Path, arguments: &[&str]) -> Result<()> {
    ensure!(
        is_installed("node") && is_installed("npm"),
        "apps in TypeScript are built with Node.js and npm: `cargo xtask test` installs them"
    );
    // What is well is not said: this runs below tests, too.
    output(Command::new("npm").args(arguments).current_dir(folder)).map(drop)
}

/// All files below a folder, and below what symbolic links in it lead to.
fn read_all(folder: &Path, below: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> Result<()> {
    for entry in fs::read_dir(folder.join(below))? {
        let name = entry?.file_name();
        // What an author's own build leaves.
        if name == "node_modules" || name == "build" {
            continue;
        }
        let path = below.join(name);
        let full = folder.join(&path);
        match fs::metadata(&full).with_context(|| format!("cannot read {}", full.display()))? {
            found if found.is_dir() => read_all(folder, &path, files)?,
            _ => {
                files.insert(path, fs::read(&full)?);
            }
        }
    }
    Ok(())
}

/// The same for the same inputs only.
fn listed(inputs: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<u8> {
    let mut all = Vec::new();
    for (path, bytes) in inputs {
        all.extend(format!("{} {}\n", path.display(), bytes.len()).bytes());
        all.extend(bytes);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_app_and_the_example_have_the_same_tools() {
        let read = |folder: &str| fs::read_to_string(root().join(folder).join(LOCK)).expect("read");
        let (example, template) = (read("sandbox/guests/markdown"), read("sandbox/template/typescript"));
        let versions = |lock: &str| -> Vec<String> {
            lock.lines().filter(|line| line.contains("\"integrity\"")).map(str::to_owned).collect()
        };
        let example = versions(&example);
        assert!(versions(&template).len() > 3);
        assert!(versions(&template).iter().all(|version| example.contains(version)));
    }
}
