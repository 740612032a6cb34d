//! Running programs: one way to do it, with errors that name the program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The top of the source tree.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the source tree").to_owned()
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The cargo that runs this program, in the top of the source tree.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// What whoever builds or tests the project selects. With another selection, crates get other features, and the large
/// ones are built once more.
pub const EVERYTHING: [&str; 2] = ["--workspace", "--all-features"];

/// `blocktree` as the tests have it. A plain build would be of other features, which those of crates for tests only bring
/// along, and the large crates would be built once more.
pub fn program_as_tested() -> Result<PathBuf> {
    execute(cargo().arg("test").args(EVERYTHING).args(["--no-run", "--quiet", "--test", "cli"]))?;
    Ok(target().join("debug/blocktree"))
}

/// Runs a program to its end; fails unless it succeeds.
pub fn execute(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs a program that succeeds; what it prints on standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = outcome(command)?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", shown(command), output.status, errors.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program, whatever comes of it.
pub fn outcome(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", shown(command)))
}

/// Newer kernels have FUSE over io_uring, switched off. It concerns only filesystems that ask for it.
pub fn let_fuse_use_io_uring() -> std::io::Result<()> {
    std::fs::write("/sys/module/fuse/parameters/enable_uring", "Y")
}

/// Whether a program is found by `PATH`.
pub fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    format!("`{}`", words.join(" "))
}
