//! `cargo xtask test`: whatever the tests need, then all tests, mounted ones included.

use anyhow::Result;

use crate::packages;
use crate::tools::{self, FSX};
use xtask::command::{cargo, execute};

/// Runs all tests, or with `words` what `cargo test` makes of them: `xtask test --test programs`.
pub(crate) fn run(words: &[String]) -> Result<()> {
    packages::ensure()?;
    let fsx = tools::ensure(&FSX)?;
    execute(
        cargo()
            .args(["test", "--workspace", "--all-features", "--no-fail-fast"])
            .args(words)
            .env("BLOCKTREE_TEST_FSX", fsx),
    )
}
