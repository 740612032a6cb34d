//! Floors: what the filesystem below, a FUSE filesystem that adds nothing, and the bare file allow.

use std::process::Command;

use anyhow::Result;
use xtask::command::output;

use super::{Filesystem, Place, Role};

/// An ordinary folder on the disk that is measured.
pub(super) struct Ext4;

/// FUSE over a folder: [`crate::passthrough`].
pub(super) struct Passthrough;

/// A file with O_DIRECT: what the disk can do below a filesystem.
pub(super) struct Raw;

fn kernel() -> Result<String> {
    Ok(format!("Linux {}", output(Command::new("uname").arg("-r"))?.trim()))
}

impl Filesystem for Ext4 {
    fn name(&self) -> &'static str {
        "ext4"
    }

    fn role(&self) -> Role {
        Role::Floor
    }

    fn version(&self) -> Result<String> {
        kernel()
    }

    fn daemon(&self, _place: &Place) -> Option<Command> {
        None
    }
}

impl Filesystem for Passthrough {
    fn name(&self) -> &'static str {
        "passthrough"
    }

    fn role(&self) -> Role {
        Role::Floor
    }

    fn version(&self) -> Result<String> {
        Ok(format!("fio-bench {}, with the crate fuser", env!("CARGO_PKG_VERSION")))
    }

    fn daemon(&self, place: &Place) -> Option<Command> {
        let mut command = Command::new(std::env::current_exe().ok()?);
        command.arg("passthrough-daemon").arg(place.backing()).arg(place.mount_point());
        Some(command)
    }
}

impl Filesystem for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn role(&self) -> Role {
        Role::Floor
    }

    fn version(&self) -> Result<String> {
        kernel()
    }

    fn is_raw(&self) -> bool {
        true
    }

    fn daemon(&self, _place: &Place) -> Option<Command> {
        None
    }
}
