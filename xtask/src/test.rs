//! `cargo xtask test`: whatever the tests need, then all tests, mounted ones included.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::tools::{self, FSX};
use crate::{conformance, packages, torture};
use xtask::command::{EVERYTHING, cargo, execute, let_fuse_use_io_uring};

const ALL: [&str; 3] = [EVERYTHING[0], EVERYTHING[1], "--no-fail-fast"];

/// Runs all tests and prints what the torture among them tried, or with `words` what `cargo test` makes of them: `xtask test --test programs`.
pub(crate) fn run(words: &[String]) -> Result<()> {
    packages::ensure()?;
    open_fuse_to_users()?;
    if let Err(error) = let_fuse_use_io_uring() {
        eprintln!("not tested here: FUSE over io_uring: {error}");
    }
    let fsx = tools::ensure(&FSX)?;
    xtask::guests::build()?;
    let variable = ("BLOCKTREE_TEST_FSX", fsx.as_path());
    // Whoever names tests wants those only.
    if !words.is_empty() {
        return execute(cargo().arg("test").args(ALL).args(words).env(variable.0, variable.1));
    }
    let tested = torture::run_tests(&ALL, variable);
    if !packages::is_root()? {
        eprintln!("not tested here: only root can compare with ext4 (`cargo xtask conformance`)");
        return tested;
    }
    let compared = conformance::run(&[]);
    tested.and(compared)
}

/// Gives /dev/fuse the mode that Debian's udev gives it, which a machine without udev lacks: a test mounts as an
/// ordinary user.
fn open_fuse_to_users() -> Result<()> {
    let device = Path::new("/dev/fuse");
    if !packages::is_root()? || !device.exists() {
        return Ok(());
    }
    fs::set_permissions(device, Permissions::from_mode(0o666)).context("cannot change the mode of /dev/fuse")
}
