//! The system packages that building and testing need, in one list, and their installation; and those of which a virtual
//! machine is made, which are not installed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use xtask::command::{execute, is_installed, outcome, output, target};

/// Debian packages: to build the vendored OpenSSL and AWS-LC, to mount, and to test with real programs.
const PACKAGES: &[&str] = &[
    // Building.
    "gcc",
    "libc6-dev",
    "libtss2-dev",
    "make",
    "perl",
    // Building apps for WebAssembly.
    "rustc-web",
    "rust-web-src",
    // Mounting.
    "fuse3",
    "mount",
    "util-linux",
    // Testing.
    "acl",
    "attr",
    "coreutils",
    "diffutils",
    "e2fsprogs",
    "fio",
    "git",
    "inotify-tools",
    "keyutils",
    "postgresql",
    "procps",
    "python3",
    "python3-venv",
    "rsync",
    "samba",
    "samba-common-bin",
    "samba-testsuite",
    "samba-vfs-modules",
    "smbclient",
    "sqlite3",
    "tar",
    "vim-tiny",
    "stress-ng",
    "swtpm",
    "swtpm-tools",
    "tpm2-tools",
];

/// What builds apps in TypeScript. Who gives out a newer Node.js than Debian's gives npm out with it, and it excludes Debian's;
/// so these are installed only where the programs are not there.
const NODE_PACKAGES: [&str; 2] = ["nodejs", "npm"];

/// What runs virtual machines.
pub(crate) const EMULATOR: &str = "qemu-system-x86_64";
const EMULATOR_PACKAGE: &str = "qemu-system-x86";
/// Of these only files are used, inside of virtual machines.
const MACHINE_PACKAGES: [&str; 2] = ["busybox-static", "linux-image-cloud-amd64"];

/// The folder below which files are that virtual machines need: `boot/vmlinuz-*`, `lib/modules`, `bin/busybox`, and QEMU
/// where this machine has none. Debian's packages are fetched once and unpacked there; none is installed.
pub(crate) fn machine() -> Result<PathBuf> {
    let folder = target().join("machine");
    if folder.is_dir() {
        return Ok(folder);
    }
    if !is_installed("dpkg-deb") || !is_installed("apt-get") {
        bail!("virtual machines are made of Debian's packages, and this is not a Debian system");
    }
    let new = target().join(format!("machine-{}", std::process::id()));
    let packages = new.join("packages");
    fs::create_dir_all(packages.join("partial")).context("cannot make a folder for packages")?;
    println!("fetching {} and {EMULATOR_PACKAGE}", MACHINE_PACKAGES.join(", "));
    apt_get(&["update", "--quiet"])?;
    let settings = [
        format!("-oDir::Cache::archives={}", packages.display()),
        // Nothing is installed: nobody has to wait, nor be root.
        "-oDebug::NoLocking=1".to_owned(),
        "-oAPT::Sandbox::User=root".to_owned(),
    ];
    let fetch = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        output(command.args(&settings).args(words).arg("--quiet").current_dir(&packages))
    };
    for package in MACHINE_PACKAGES {
        fetch(&["download", &of_which_it_is_made(package)?])?;
    }
    if !is_installed(EMULATOR) {
        // With the libraries that are not installed either.
        fetch(&["install", "--yes", "--download-only", "--no-install-recommends", EMULATOR_PACKAGE])?;
    }
    for entry in fs::read_dir(&packages)? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            execute(Command::new("dpkg-deb").arg("--extract").args([&package, &new]))?;
        }
    }
    fs::remove_dir_all(&packages)?;
    match fs::rename(&new, &folder) {
        // Somebody else was faster.
        Err(_) if folder.is_dir() => fs::remove_dir_all(&new)?,
        renamed => renamed.context("cannot rename the unpacked packages")?,
    }
    Ok(folder)
}

/// A package has no files if it is only the name of the newest kernel's.
fn of_which_it_is_made(package: &str) -> Result<String> {
    let needed = output(Command::new("apt-cache").args(["depends", "--important", package]))?;
    let kernel = needed.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    Ok(kernel.map_or_else(|| package.to_owned(), |kernel| format!("linux-image-{kernel}")))
}

/// Installs what is missing.
pub(crate) fn ensure() -> Result<()> {
    if !is_installed("dpkg-query") || !is_installed("apt-get") {
        eprintln!(
            "not a Debian system: these packages' programs must be there: {} {}",
            PACKAGES.join(" "),
            NODE_PACKAGES.join(" ")
        );
        return Ok(());
    }
    let mut missing = missing(&installed()?);
    if !is_installed("node") || !is_installed("npm") {
        missing.extend(NODE_PACKAGES);
    }
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    // An old list of packages names files that the mirrors no longer have.
    apt_get(&["update", "--quiet"])?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends", "--no-remove"];
    arguments.extend(&missing);
    apt_get(&arguments).with_context(|| format!("install these packages by hand: {}", missing.join(" ")))
}

/// What dpkg says of each package of the list: lines of name and status.
fn installed() -> Result<String> {
    // It fails where it does not know a package; what it says of the others still counts.
    let known = outcome(
        Command::new("dpkg-query").args(["-W", "-f", "${Package} ${db:Status-Status}\n"]).args(PACKAGES),
    )?;
    Ok(String::from_utf8_lossy(&known.stdout).into_owned())
}

fn missing(installed: &str) -> Vec<&'static str> {
    let is_there = |package: &str| {
        installed.lines().any(|line| {
            line.split_once(' ').is_some_and(|(name, status)| name == package && status == "installed")
        })
    };
    PACKAGES.iter().copied().filter(|package| !is_there(package)).collect()
}

/// Runs apt-get as root. Never removes a package (`--no-remove`), so it fails rather than harm a machine on
/// which something else was chosen.
fn apt_get(arguments: &[&str]) -> Result<()> {
    let environment = ["DEBIAN_FRONTEND=noninteractive"];
    let mut command = if is_root()? {
        Command::new("env")
    } else if is_installed("sudo") {
        let mut command = Command::new("sudo");
        command.arg("env");
        command
    } else {
        bail!(
            "only root can install packages, and there is no sudo: run `apt-get {}` as root",
            arguments.join(" ")
        );
    };
    execute(command.args(environment).arg("apt-get").args(arguments))
}

pub(crate) fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("-u"))?.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_installed_counts() {
        let all: String = PACKAGES.iter().map(|package| format!("{package} installed\n")).collect();
        assert!(missing(&all).is_empty());
        let some = all.replace("fio installed", "fio config-files").replace("rsync installed\n", "");
        assert_eq!(missing(&some), ["fio", "rsync"]);
        assert_eq!(missing(""), PACKAGES);
    }

    #[test]
    fn list_is_sorted_by_purpose_and_has_no_doubles() {
        let mut sorted = PACKAGES.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), PACKAGES.len());
    }
}
