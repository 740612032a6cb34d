//! Where suites run: a new, empty filesystem in a temporary folder, mounted for all users, with devices and
//! set-user-id programs allowed.
//!
//! Key types: [`Ground`], [`Filesystem`].

use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fmt, io};

use anyhow::{Context, Result, bail};

use xtask::command::{execute, output, target};
use xtask::scratch::Scratch;

/// How large the filesystems are; the files below them are sparse.
const BYTES: u64 = 8 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filesystem {
    Blocktree,
    /// What Blocktree is measured by, in a file behind a loop device.
    Ext4,
}

impl fmt::Display for Filesystem {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str(match self {
            Self::Blocktree => "blocktree",
            Self::Ext4 => "ext4",
        })
    }
}

/// A mounted filesystem. It is unmounted when this is dropped, and all of it goes.
pub(super) struct Ground {
    filesystem: Filesystem,
    program: PathBuf,
    /// Only the mount point: the path of a socket in it must fit 108 bytes.
    places: Scratch,
    files: Scratch,
}

impl Ground {
    /// Makes and mounts it; `program` is `blocktree`.
    pub(super) fn make(filesystem: Filesystem, program: &Path) -> Result<Self> {
        let places = Scratch::new(&std::env::temp_dir(), &filesystem.to_string())?;
        let files = Scratch::new(&target(), &format!("conformance-{filesystem}"))?;
        let ground = Self { filesystem, program: program.to_owned(), places, files };
        fs::create_dir(ground.folder())?;
        fs::create_dir(ground.outside(""))?;
        match filesystem {
            Filesystem::Blocktree => {
                fs::write(ground.passphrase(), "correct horse battery staple\n")?;
                execute(ground.blocktree("init").arg(ground.store()).args(["--size", &BYTES.to_string()]))?;
            }
            Filesystem::Ext4 => {
                File::create(ground.store()).and_then(|file| file.set_len(BYTES))?;
                execute(Command::new("mkfs.ext4").arg("-q").arg(ground.store()))?;
            }
        }
        ground.mount()?;
        // Other users walk through it.
        fs::set_permissions(ground.folder(), Permissions::from_mode(0o755))?;
        Ok(ground)
    }

    pub(super) fn filesystem(&self) -> Filesystem {
        self.filesystem
    }

    /// `blocktree`, whatever the filesystem.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// The root of the mounted filesystem.
    pub(super) fn folder(&self) -> PathBuf {
        self.places.join("mount")
    }

    /// A place on the machine's own filesystem, for configuration and logs; its folder is empty at first.
    pub(super) fn outside(&self, name: &str) -> PathBuf {
        self.files.join("outside").join(name)
    }

    /// The file or folder that holds the filesystem.
    fn store(&self) -> PathBuf {
        self.files.join("store")
    }

    fn passphrase(&self) -> PathBuf {
        self.files.join("passphrase")
    }

    fn blocktree(&self, command: &str) -> Command {
        let mut blocktree = Command::new(&self.program);
        blocktree.arg(command).env("BLOCKTREE_PASSPHRASE_FILE", self.passphrase());
        blocktree.stdin(Stdio::null()).stdout(Stdio::null());
        blocktree
    }

    fn mount(&self) -> Result<()> {
        match self.filesystem {
            Filesystem::Blocktree => execute(
                self.blocktree("mount")
                    .args(["-o", "allow_other,suid,dev"])
                    .arg(self.store())
                    .arg(self.folder()),
            ),
            Filesystem::Ext4 => {
                execute(Command::new("mount").args(["-o", "loop"]).arg(self.store()).arg(self.folder()))
            }
        }
    }

    fn unmount(&self) -> Result<()> {
        match self.filesystem {
            Filesystem::Blocktree => execute(self.blocktree("umount").arg(self.folder())),
            Filesystem::Ext4 => execute(Command::new("umount").arg(self.folder())),
        }
    }

    /// Blocktree's daemon, as its folder in `/proc`; other filesystems have none.
    pub(super) fn daemon(&self) -> Result<Option<PathBuf>> {
        if self.filesystem != Filesystem::Blocktree {
            return Ok(None);
        }
        let folder = self.folder();
        for entry in fs::read_dir("/proc")? {
            let process = entry?.path();
            let Ok(line) = fs::read(process.join("cmdline")) else { continue };
            let mut words = line.split(|&byte| byte == 0);
            let is_daemon = words.clone().any(|word| word == b"--foreground");
            if is_daemon && words.any(|word| word == folder.as_os_str().as_bytes()) {
                return Ok(Some(process));
            }
        }
        bail!("{} has no daemon", folder.display())
    }

    /// Unmounts it and mounts it again.
    pub(super) fn remount(&self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    /// Unmounts it and checks what it has become.
    pub(super) fn finish(self) -> Result<()> {
        self.unmount()?;
        match self.filesystem {
            Filesystem::Blocktree => execute(self.blocktree("check").arg(self.store())),
            Filesystem::Ext4 => output(Command::new("e2fsck").arg("-fn").arg(self.store())).map(drop),
        }
    }
}

/// A program in the scratch folder that comes before the system's of the same name.
pub(super) fn shadow(ground: &Ground, name: &str, script: &str) -> Result<std::ffi::OsString> {
    let folder = ground.outside("bin");
    match fs::create_dir(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let program = folder.join(name);
    fs::write(&program, format!("#!/bin/sh\n{script}\n"))?;
    fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).context("PATH")
}
