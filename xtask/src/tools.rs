//! Programs from crates.io that tests run. They are built once, into the target folder.

use std::path::PathBuf;

use anyhow::Result;

use xtask::command::{cargo, execute, output, target};

/// A crate with a program of the same name, and the version that the tests were written for.
pub(crate) struct Tool {
    name: &'static str,
    version: &'static str,
}

/// Random reads, writes, truncations and mappings of one file, checked against a copy in memory.
pub(crate) const FSX: Tool = Tool { name: "fsx", version: "0.3.2" };

/// What POSIX demands of each system call.
pub(crate) const PJDFSTEST: Tool = Tool { name: "pjdfstest", version: "0.2.2" };

/// Runs fuzz targets.
pub(crate) const CARGO_FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.2" };

/// Where a tool is; it is installed first where it is missing or has another version.
pub(crate) fn ensure(tool: &Tool) -> Result<PathBuf> {
    let folder = target().join("tools");
    let program = folder.join("bin").join(tool.name);
    let wanted = format!("{} {}", tool.name, tool.version);
    let found = output(std::process::Command::new(&program).arg("--version"));
    if found.is_ok_and(|found| found.trim() == wanted) {
        return Ok(program);
    }
    println!("installing {wanted}");
    execute(
        cargo()
            .args([
                "install",
                "--quiet",
                "--locked",
                "--force",
                tool.name,
                "--version",
                tool.version,
                "--root",
            ])
            .arg(&folder)
            .env("CARGO_TARGET_DIR", folder.join("build"))
            // The flags of this source tree are not for other people's programs.
            .current_dir(std::env::temp_dir()),
    )?;
    Ok(program)
}
