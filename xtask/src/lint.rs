//! `cargo xtask lint`: what a reviewer should not have to look for.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use xtask::command::{EVERYTHING, cargo, execute, output, root};

/// Which crate of this workspace may depend on which others. The root package may depend on all.
const DIRECTION: &[(&str, &[&str])] = &[
    ("blocktree-engine", &[]),
    ("blocktree-vfs", &["blocktree-engine"]),
    ("blocktree-sandbox", &["blocktree-engine", "blocktree-vfs"]),
    ("fio-bench", &["blocktree-engine", "blocktree-vfs", "xtask"]),
    ("xtask", &[]),
];
/// The package that puts the others together.
const ROOT: &str = "blocktree";

/// Marks of unfinished code, in halves so that this file does not hold them.
const UNFINISHED: &[&str] = &[concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME")];

/// A file longer than this asks for a split.
const LINES_MAX: usize = 800;

pub(crate) fn run() -> Result<()> {
    execute(cargo().args(["fmt", "--all", "--check"]))?;
    execute(
        cargo()
            .arg("clippy")
            .args(EVERYTHING)
            .args(["--all-targets", "--quiet"])
            .args(["--", "-D", "warnings"]),
    )?;
    execute(
        cargo()
            .args([
                "doc",
                "--workspace",
                "--no-deps",
                "--all-features",
                "--document-private-items",
                "--quiet",
            ])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    direction()?;
    sources()?;
    println!("lint: clean");
    Ok(())
}

/// Dependencies point one way.
fn direction() -> Result<()> {
    let packages = output(cargo().args(["tree", "--workspace", "--depth", "0", "--prefix", "none"]))?;
    let packages: Vec<&str> = packages.lines().filter_map(name).collect();
    for package in &packages {
        if *package == ROOT {
            continue;
        }
        let (_, allowed) = DIRECTION
            .iter()
            .find(|(name, _)| name == package)
            .with_context(|| format!("xtask/src/lint.rs does not say on what {package} may depend"))?;
        let tree = [
            "tree",
            "--depth",
            "1",
            "--prefix",
            "none",
            "--all-features",
            "--target",
            "all",
            "--edges",
            "all",
        ];
        let tree = output(cargo().args(tree).args(["--package", package]))?;
        for dependency in tree.lines().skip(1).filter_map(name) {
            if packages.contains(&dependency) && !allowed.contains(&dependency) {
                bail!("{package} must not depend on {dependency}");
            }
        }
    }
    Ok(())
}

/// The package that a line of `cargo tree` names.
fn name(line: &str) -> Option<&str> {
    line.split_whitespace().next()
}

/// Nothing in a source file says that it is unfinished; long files are told.
fn sources() -> Result<()> {
    let mut unfinished = Vec::new();
    for path in rust_files(&root())? {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let shown = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        for (number, line) in text.lines().enumerate() {
            if UNFINISHED.iter().any(|mark| line.contains(mark)) {
                unfinished.push(format!("{shown}:{}: {}", number + 1, line.trim()));
            }
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            println!("warning: {shown} has {lines} lines: is there a noun to split by?");
        }
    }
    ensure!(unfinished.is_empty(), "unfinished code:\n{}", unfinished.join("\n"));
    Ok(())
}

/// All Rust files below a folder, except those that cargo made.
fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type()?.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                files.extend(rust_files(&path)?);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
