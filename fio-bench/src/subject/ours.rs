//! Blocktree itself: the program that was built beside this one.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use xtask::command::{cargo, execute, let_fuse_use_io_uring, output, root};

use super::{Filesystem, Place, Role};

pub(super) struct Blocktree {
    pub(super) opened_by: OpenedBy,
}

/// What a mount opens the store with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenedBy {
    Passphrase,
    /// The key of a principal with a writecap for the whole store: what capabilities cost who uses them.
    Principal,
}

/// Builds the program as this one was built, so that what is measured is what is in the source tree; and lets it use what
/// the kernel has.
pub(crate) fn build() -> Result<()> {
    if let Err(error) = let_fuse_use_io_uring() {
        eprintln!("requests come over /dev/fuse: {error}");
    }
    let mut command = cargo();
    command.args(["build", "--quiet", "--package", "blocktree"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    execute(&mut command)
}

/// The program that was built.
pub(crate) fn program() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    Ok(this.parent().context("this program lies nowhere")?.join("blocktree"))
}

fn command(place: &Place) -> Command {
    // Where it cannot be found, running it says so.
    let mut command = Command::new(program().unwrap_or_else(|_| "blocktree".into()));
    command.env("BLOCKTREE_PASSPHRASE_FILE", place.passphrase_file()).stdin(Stdio::null());
    // The next store at the same place is another.
    command.env("BLOCKTREE_ANCHOR_DIR", place.state());
    command
}

/// The file of the principal that mounts.
fn principal(place: &Place) -> PathBuf {
    place.state().join("principal")
}

impl Filesystem for Blocktree {
    fn name(&self) -> &'static str {
        match self.opened_by {
            OpenedBy::Passphrase => "blocktree",
            OpenedBy::Principal => "blocktree-principal",
        }
    }

    fn role(&self) -> Role {
        match self.opened_by {
            OpenedBy::Passphrase => Role::Ours,
            OpenedBy::Principal => Role::Peer,
        }
    }

    fn version(&self) -> Result<String> {
        let program = output(Command::new(program()?).arg("--version"))?;
        let commit =
            output(Command::new("git").current_dir(root()).args(["describe", "--always", "--dirty"]));
        Ok(format!("{} ({})", program.trim(), commit.as_deref().unwrap_or("no commit").trim()))
    }

    fn make(&self, place: &Place) -> Result<()> {
        // Ample: a full filesystem is another matter.
        let size = format!("{}M", (4 * place.room_bytes + (1 << 30)) >> 20);
        execute(command(place).arg("init").arg(place.backing()).args(["--size", &size]))?;
        if self.opened_by == OpenedBy::Passphrase {
            return Ok(());
        }
        let mut create = command(place);
        create.args(["principal", "create", "node", "--no-passphrase", "--file"]).arg(principal(place));
        output(&mut create)?;
        output(command(place).args(["cap", "issue"]).arg(place.backing()).arg("--to").arg(principal(place)))?;
        Ok(())
    }

    /// What it says itself: the volume is allocated ahead of what is in use, by up to a region.
    fn taken_bytes(&self, place: &Place) -> Result<u64> {
        let info = output(command(place).arg("info").arg(place.mount_point()).arg("--json"))?;
        let info: serde_json::Value = serde_json::from_str(&info)?;
        info["used_bytes"].as_u64().context("blocktree info does not say what is in use")
    }

    fn daemon(&self, place: &Place) -> Option<Command> {
        let mut command = command(place);
        command.arg("mount").arg(place.backing()).arg(place.mount_point()).arg("--foreground");
        if self.opened_by == OpenedBy::Principal {
            command.arg("--principal").arg(principal(place));
        }
        Some(command)
    }

    fn unmount(&self, place: &Place) -> Command {
        let mut command = command(place);
        command.arg("umount").arg(place.mount_point());
        command
    }
}
