//! Builds the apps of `sandbox/guests` for WebAssembly.
//!
//! rustup has the target `wasm32-unknown-unknown` where it can fetch it. Debian has another way, which is taken here: a
//! compiler that knows the target (`rustc-web`) and the source of the standard library (`rust-web-src`), which cargo
//! builds with the apps, once, into a folder of its own; the linker is rustup's.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::{cargo, execute, output, root, target};

const TARGET: &str = "wasm32-unknown-unknown";
const COMPILER: &str = "/usr/bin/rustc";
const SOURCE: &str = "/usr/lib/rustlib/src/rust/library/Cargo.lock";

/// Builds what is out of date; the folder with a `.wasm` for each app.
pub fn build() -> Result<PathBuf> {
    ensure!(
        Path::new(COMPILER).exists() && Path::new(SOURCE).exists(),
        "the packages rustc-web and rust-web-src are needed: `cargo xtask test` installs them"
    );
    let folder = target().join("guests");
    let mut command = cargo();
    command.current_dir(root().join("sandbox/guests"));
    command.args(["build", "--release", "--quiet", "--locked", "-Zbuild-std=std,panic_abort"]);
    command.args(["--target", TARGET, "--target-dir"]).arg(&folder);
    execute(with_compiler(&mut command)?)?;
    Ok(folder.join(TARGET).join("release"))
}

/// Has a cargo that is run with `-Zbuild-std` build for WebAssembly.
fn with_compiler(command: &mut Command) -> Result<&mut Command> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let tools = Path::new(sysroot.trim()).join("lib/rustlib/x86_64-unknown-linux-gnu/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths: Vec<PathBuf> =
        [tools.clone(), tools.join("gcc-ld")].into_iter().chain(std::env::split_paths(&path)).collect();
    let path: OsString = std::env::join_paths(paths).context("PATH")?;
    // The compiler takes unstable options only with this; what concerns programs for this machine does not concern
    // these.
    command
        .env("PATH", path)
        .env("RUSTC", COMPILER)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", "")
        .env_remove("RUSTFLAGS");
    Ok(command)
}
