//! Peers: other encrypted filesystems in user space, as Debian has them, with their own defaults.

use std::process::{Command, Stdio};

use anyhow::Result;
use xtask::command::{execute, outcome};

use super::{Filesystem, PASSPHRASE, Place, Role};

/// <https://nuetzlich.net/gocryptfs/>
pub(super) struct Gocryptfs;

/// <https://github.com/netheril96/securefs>
pub(super) struct Securefs;

/// <https://www.cryfs.org/>
pub(super) struct Cryfs;

/// <https://vgough.github.io/encfs/>
pub(super) struct Encfs;

/// The first line that a program says of itself, on whichever stream.
fn first_line(program: &str, argument: &str) -> Result<String> {
    let said = outcome(Command::new(program).arg(argument))?;
    let text = [said.stdout, said.stderr].concat();
    Ok(String::from_utf8_lossy(&text).lines().find(|line| !line.is_empty()).unwrap_or("unknown").to_owned())
}

impl Filesystem for Gocryptfs {
    fn name(&self) -> &'static str {
        "gocryptfs"
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn packages(&self) -> &'static [&'static str] {
        &["gocryptfs", "fuse3"]
    }

    fn version(&self) -> Result<String> {
        first_line("gocryptfs", "-version")
    }

    fn make(&self, place: &Place) -> Result<()> {
        let mut command = Command::new("gocryptfs");
        command.args(["-q", "-passfile"]).arg(place.passphrase_file()).arg("-init").arg(place.backing());
        execute(command.stdin(Stdio::null()))
    }

    fn daemon(&self, place: &Place) -> Option<Command> {
        let mut command = Command::new("gocryptfs");
        command.args(["-fg", "-q", "-passfile"]).arg(place.passphrase_file());
        command.arg(place.backing()).arg(place.mount_point()).stdin(Stdio::null());
        Some(command)
    }
}

impl Filesystem for Securefs {
    fn name(&self) -> &'static str {
        "securefs"
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn packages(&self) -> &'static [&'static str] {
        &["securefs"]
    }

    fn version(&self) -> Result<String> {
        first_line("securefs", "version")
    }

    fn make(&self, place: &Place) -> Result<()> {
        let mut command = Command::new("securefs");
        command.args(["create", "--pass", PASSPHRASE]).arg(place.backing());
        execute(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
    }

    fn daemon(&self, place: &Place) -> Option<Command> {
        let mut command = Command::new("securefs");
        command.args(["mount", "--pass", PASSPHRASE]).arg(place.backing()).arg(place.mount_point());
        command.stdin(Stdio::null());
        Some(command)
    }
}

impl Filesystem for Cryfs {
    fn name(&self) -> &'static str {
        "cryfs"
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn packages(&self) -> &'static [&'static str] {
        &["cryfs"]
    }

    fn version(&self) -> Result<String> {
        first_line("cryfs", "--version")
    }

    /// strace shows of 0.11.3 that a write and its fsync make it write nothing and sync nothing; it writes later.
    fn is_durable(&self) -> bool {
        false
    }

    /// It makes one where it finds none.
    fn daemon(&self, place: &Place) -> Option<Command> {
        let mut command = Command::new("cryfs");
        command.env("CRYFS_FRONTEND", "noninteractive").env("CRYFS_NO_UPDATE_CHECK", "true");
        // What it remembers of filesystems must not outlive this one, nor find another in its place.
        command.env("CRYFS_LOCAL_STATE_DIR", place.state());
        command.arg("-f").arg(place.backing()).arg(place.mount_point());
        command.stdin(std::fs::File::open(place.passphrase_file()).ok()?);
        Some(command)
    }
}

impl Filesystem for Encfs {
    fn name(&self) -> &'static str {
        "encfs"
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn packages(&self) -> &'static [&'static str] {
        &["encfs"]
    }

    fn version(&self) -> Result<String> {
        first_line("encfs", "--version")
    }

    /// It makes one where it finds none.
    fn daemon(&self, place: &Place) -> Option<Command> {
        let mut command = Command::new("encfs");
        let ask = format!("cat {}", place.passphrase_file().display());
        command.args(["-f", "--standard", "--extpass", &ask]).arg(place.backing()).arg(place.mount_point());
        command.stdin(Stdio::null());
        Some(command)
    }
}
