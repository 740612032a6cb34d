//! Installs what a measurement needs from Debian.

use std::process::Command;

use anyhow::{Context, Result, bail};
use xtask::command::{execute, is_installed, output};

/// Installs those that are missing, as root.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_there(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !is_installed("apt-get") {
        bail!("not a Debian system: install {names} by hand");
    }
    eprintln!("installing {names}");
    // Others may be installing, too.
    let apt_get = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=300"]);
        execute(command.arg("--quiet").args(words).stdout(std::io::stderr()))
    };
    // An old list of packages names files that the mirrors no longer have.
    apt_get(&["update"])?;
    let install = ["install", "--yes", "--no-install-recommends", "--no-remove"];
    apt_get(&[&install[..], &missing].concat()).with_context(|| format!("cannot install {names}"))
}

fn is_there(package: &str) -> bool {
    let status = output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]));
    status.is_ok_and(|status| status == "installed")
}
