//! A temporary store, its mount point, and a guard that cleans up even if this program is killed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::command::{execute, outcome, output, target};

/// Where the demo takes place.
pub(crate) struct Stage {
    /// Holds all the rest.
    folder: PathBuf,
    _guard: Guard,
}

impl Stage {
    /// Makes an empty store of 1 GiB.
    pub(crate) fn new() -> Result<Self> {
        let folder = target().join(format!("demo-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let stage = Self { _guard: Guard::start(&folder)?, folder };
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
    let parent = folder.parent().context("a mount point has a parent")?;
    Ok(fs::metadata(folder)?.dev() != fs::metadata(parent)?.dev())
}

/// A shell that waits until this program is gone, in whatever way, then unmounts what is still mounted and
/// removes the folder. That is the only path by which the demo cleans up, so it is taken every time.
struct Guard {
    shell: Child,
}

impl Guard {
    const SCRIPT: &str = r#"
        trap '' INT TERM HUP
        cat >/dev/null
        if mountpoint -q "$1/mount"; then
            fusermount3 -u "$1/mount" || fusermount3 -u -z "$1/mount" || umount -l "$1/mount"
        fi 2>/dev/null
        rm -rf --one-file-system "$1"
    "#;

    fn start(folder: &Path) -> Result<Self> {
        let shell = Command::new("sh")
            .args(["-c", Self::SCRIPT, "sh"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start a shell")?;
        Ok(Self { shell })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // `wait` closes its standard input first: that is the sign for it to go on.
        if let Err(error) = self.shell.wait() {
            eprintln!("cannot clean up: {error}");
        }
    }
}
