//! What is measured: folders of several filesystems, all on the same disk.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use xtask::command::{execute, is_installed, target};
use xtask::scratch::Scratch;

use crate::jobs::Scale;

/// A filesystem under measurement.
pub(crate) trait Subject {
    fn name(&self) -> &'static str;

    /// Where its files are, while it is made.
    fn folder(&self) -> PathBuf;

    /// Makes an empty one.
    fn make(&mut self) -> Result<()>;

    /// Empties every cache: its own by mounting it anew, then the kernel's.
    fn make_cold(&mut self) -> Result<()>;

    fn destroy(&mut self) -> Result<()>;
}

/// An ordinary folder: what the disk and the filesystem below can do.
pub(crate) struct Plain {
    folder: PathBuf,
}

impl Plain {
    pub(crate) fn new(scratch: &Scratch) -> Self {
        Self { folder: scratch.join("plain") }
    }
}

impl Subject for Plain {
    fn name(&self) -> &'static str {
        "filesystem below"
    }

    fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    fn make(&mut self) -> Result<()> {
        Ok(fs::create_dir(&self.folder)?)
    }

    fn make_cold(&mut self) -> Result<()> {
        drop_caches()
    }

    fn destroy(&mut self) -> Result<()> {
        Ok(fs::remove_dir_all(&self.folder)?)
    }
}

/// A new store with the program that was built beside this one.
pub(crate) struct Blocktree {
    program: PathBuf,
    store: PathBuf,
    mount_point: PathBuf,
    passphrase: PathBuf,
    anchors: PathBuf,
    size: String,
}

impl Blocktree {
    pub(crate) fn new(scratch: &Scratch, scale: &Scale) -> Result<Self> {
        let program = target().join("release/blocktree");
        ensure!(program.is_file(), "{} is missing: run `cargo build --release`", program.display());
        let passphrase = scratch.join("passphrase");
        fs::write(&passphrase, "benchmark\n")?;
        // Ample: a full filesystem is another matter.
        let size = (4 * scale.file_bytes + (1 << 30)) >> 20;
        Ok(Self {
            program,
            store: scratch.join("store"),
            mount_point: scratch.join("blocktree"),
            passphrase,
            anchors: scratch.join("anchors"),
            size: format!("{size}M"),
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("BLOCKTREE_PASSPHRASE_FILE", &self.passphrase).stdin(Stdio::null());
        command.env("BLOCKTREE_ANCHOR_DIR", &self.anchors);
        command
    }

    fn mount(&self) -> Result<()> {
        execute(self.command().arg("mount").arg(&self.store).arg(&self.mount_point))
    }

    fn unmount(&self) -> Result<()> {
        execute(self.command().arg("umount").arg(&self.mount_point))
    }
}

impl Subject for Blocktree {
    fn name(&self) -> &'static str {
        "Blocktree"
    }

    fn folder(&self) -> PathBuf {
        self.mount_point.clone()
    }

    fn make(&mut self) -> Result<()> {
        fs::create_dir_all(&self.mount_point)?;
        execute(self.command().arg("init").arg(&self.store).args(["--size", &self.size]))?;
        self.mount()
    }

    fn make_cold(&mut self) -> Result<()> {
        self.unmount()?;
        drop_caches()?;
        self.mount()
    }

    fn destroy(&mut self) -> Result<()> {
        self.unmount()?;
        Ok(fs::remove_dir_all(&self.store)?)
    }
}

/// A peer: <https://nuetzlich.net/gocryptfs/>.
pub(crate) struct Gocryptfs {
    cipher: PathBuf,
    mount_point: PathBuf,
    passphrase: PathBuf,
}

impl Gocryptfs {
    pub(crate) fn new(scratch: &Scratch) -> Result<Self> {
        ensure!(is_installed("gocryptfs"), "gocryptfs is not installed: apt-get install gocryptfs");
        let passphrase = scratch.join("gocryptfs.passphrase");
        fs::write(&passphrase, "benchmark\n")?;
        Ok(Self {
            cipher: scratch.join("gocryptfs.cipher"),
            mount_point: scratch.join("gocryptfs"),
            passphrase,
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("gocryptfs");
        command.arg("-q").arg("-passfile").arg(&self.passphrase).stdin(Stdio::null());
        command
    }

    fn mount(&self) -> Result<()> {
        execute(self.command().arg(&self.cipher).arg(&self.mount_point))
    }

    fn unmount(&self) -> Result<()> {
        execute(Command::new("fusermount3").arg("-u").arg(&self.mount_point))
    }
}

impl Subject for Gocryptfs {
    fn name(&self) -> &'static str {
        "gocryptfs"
    }

    fn folder(&self) -> PathBuf {
        self.mount_point.clone()
    }

    fn make(&mut self) -> Result<()> {
        fs::create_dir_all(&self.mount_point)?;
        fs::create_dir(&self.cipher)?;
        execute(self.command().arg("-init").arg(&self.cipher))?;
        self.mount()
    }

    fn make_cold(&mut self) -> Result<()> {
        self.unmount()?;
        drop_caches()?;
        self.mount()
    }

    fn destroy(&mut self) -> Result<()> {
        self.unmount()?;
        Ok(fs::remove_dir_all(&self.cipher)?)
    }
}

/// Writes back and drops all that the kernel caches: see proc(5).
fn drop_caches() -> Result<()> {
    execute(&mut Command::new("sync"))?;
    fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop the kernel's caches: only root can")
}
