//! Builds the apps of `sandbox/guests` for WebAssembly: here those in Rust, in [`typescript`] the others.
//!
//! rustup has the target `wasm32-unknown-unknown` where it can fetch it. Debian has another way, which is taken here: a
//! compiler that knows the target (`rustc-web`) and the source of the standard library (`rust-web-src`), which cargo
//! builds with the apps, once, into a folder of its own; the linker is rustup's.

pub mod typescript;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::{cargo, execute, output, root, target};

const TARGET: &str = "wasm32-unknown-unknown";
const COMPILER: &str = "/usr/bin/rustc";
const SOURCE: &str = "/usr/lib/rustlib/src/rust/library/Cargo.lock";

/// What a cargo needs in its environment to build an app for WebAssembly with Debian's compiler, into the same folder as the
/// apps here: what they have in common is built once.
pub fn environment() -> Result<Vec<(&'static str, OsString)>> {
    ensure!(
        Path::new(COMPILER).exists() && Path::new(SOURCE).exists(),
        "the packages rustc-web and rust-web-src are needed: `cargo xtask test` installs them"
    );
    Ok(vec![
        ("PATH", path()?),
        ("RUSTC", COMPILER.into()),
        // It takes unstable options only with this; what concerns programs for this machine does not concern these.
        ("RUSTC_BOOTSTRAP", "1".into()),
        ("CARGO_ENCODED_RUSTFLAGS", "".into()),
        ("CARGO_UNSTABLE_BUILD_STD", "std,panic_abort".into()),
        ("CARGO_TARGET_DIR", target().join("guests").into()),
    ])
}

/// Builds what is out of date; the folder with a `.wasm` for each app.
pub fn build() -> Result<PathBuf> {
    build_rust()?;
    typescript::build(&built())?;
    Ok(built())
}

/// As [`build`], of the apps in Rust alone, for which no other tools have to be fetched.
pub fn build_rust() -> Result<()> {
    let mut command = cargo();
    command.current_dir(root().join("sandbox/guests"));
    command.args(["build", "--release", "--quiet", "--locked", "--target", TARGET]);
    execute(command.envs(environment()?).env_remove("RUSTFLAGS"))
}

/// Where what was built is.
pub fn built() -> PathBuf {
    target().join("guests").join(TARGET).join("release")
}

/// Makes a package of an app that was built, in `folder`, signed by an author who is made for it; `blocktree` is the program.
pub fn package(name: &str, folder: &Path, blocktree: &dyn Fn() -> Command) -> Result<PathBuf> {
    let (source, package, author) =
        (folder.join(name), folder.join(format!("{name}.btapp")), folder.join("author"));
    fs::create_dir(&source).with_context(|| format!("cannot make {}", source.display()))?;
    fs::copy(built().join(format!("{}.wasm", name.replace('-', "_"))), source.join("app.wasm"))?;
    let project = fs::read_to_string(root().join("sandbox/guests").join(name).join("app.toml"))?;
    let line = project.lines().find(|line| line.starts_with("component")).unwrap_or_default();
    fs::write(source.join("app.toml"), project.replace(line, "component = \"app.wasm\""))?;
    output(blocktree().args(["app", "pack"]).arg(&source).arg("--output").arg(&package))?;
    output(blocktree().args(["principal", "create", "author", "--no-passphrase", "--file"]).arg(&author))?;
    output(blocktree().args(["app", "sign"]).arg(&package).arg("--author").arg(&author))?;
    Ok(package)
}

/// With the linker that rustup has.
fn path() -> Result<OsString> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let tools = Path::new(sysroot.trim()).join("lib/rustlib/x86_64-unknown-linux-gnu/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths: Vec<PathBuf> =
        [tools.clone(), tools.join("gcc-ld")].into_iter().chain(std::env::split_paths(&path)).collect();
    std::env::join_paths(paths).context("PATH")
}
