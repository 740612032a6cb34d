//! A temporary store and its mount point.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use xtask::command::{execute, outcome, output, target};
use xtask::scratch::Scratch;

/// Where the demo takes place.
pub(crate) struct Stage {
    folder: Scratch,
}

impl Stage {
    /// Makes an empty store of 1 GiB.
    pub(crate) fn new() -> Result<Self> {
        let stage = Self { folder: Scratch::new(&target(), "demo")? };
        fs::create_dir(stage.mount_point())?;
        fs::write(stage.passphrase(), "correct horse battery staple\n")?;
        execute(stage.blocktree().arg("init").arg(stage.store()).args(["--size", "1G"]))?;
        Ok(stage)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    pub(crate) fn mount_point(&self) -> PathBuf {
        self.folder.join("mount")
    }

    /// A folder outside the store, for copies.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn passphrase(&self) -> PathBuf {
        self.folder.join("passphrase")
    }

    /// The program under demonstration; it finds the passphrase by itself.
    pub(crate) fn blocktree(&self) -> Command {
        let mut command = Command::new(target().join("release/blocktree"));
        command.env("BLOCKTREE_PASSPHRASE_FILE", self.passphrase()).stdin(Stdio::null());
        command.env("BLOCKTREE_ANCHOR_DIR", self.outside("anchors"));
        command
    }

    pub(crate) fn mount(&self) -> Result<()> {
        execute(self.blocktree().arg("mount").arg(self.store()).arg(self.mount_point()))?;
        ensure!(is_mounted(&self.mount_point())?, "nothing is mounted after `blocktree mount`");
        Ok(())
    }

    pub(crate) fn unmount(&self) -> Result<()> {
        execute(self.blocktree().arg("umount").arg(self.mount_point()))
    }

    /// `blocktree check`: its exit code and what it says.
    pub(crate) fn check(&self) -> Result<(i32, String)> {
        let outcome = outcome(self.blocktree().arg("check").arg(self.store()))?;
        let said = [outcome.stdout, outcome.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok((outcome.status.code().context("`blocktree check` was killed")?, said.concat()))
    }

    pub(crate) fn check_is_clean(&self) -> Result<()> {
        let (code, said) = self.check()?;
        ensure!(code == 0, "`blocktree check` finds damage (exit code {code}):\n{said}");
        Ok(())
    }

    /// The file that holds the store's sectors: the largest of its folder.
    pub(crate) fn volume(&self) -> Result<PathBuf> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.store())? {
            let entry = entry?;
            files.push((entry.metadata()?.len(), entry.path()));
        }
        Ok(files.into_iter().max().context("the store's folder is empty")?.1)
    }
}

/// The hash and name of every file below a folder, as `sha256sum` prints them.
pub(crate) fn hashes(folder: &Path) -> Result<String> {
    let script = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum";
    let hashes = output(Command::new("sh").args(["-c", script]).current_dir(folder))?;
    if hashes.is_empty() {
        bail!("no files in {}", folder.display());
    }
    Ok(hashes)
}

fn is_mounted(folder: &Path) -> Result<bool> {
    Ok(outcome(Command::new("mountpoint").arg("-q").arg(folder))?.status.success())
}
