//! A temporary store and its mounts, with the built program.
//!
//! Needs FUSE. `cargo xtask test` installs what is missing.

// Not every file of tests needs all of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A new store in a temporary folder.
pub(crate) struct Store {
    folder: TempDir,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self::with_size("2G")
    }

    pub(crate) fn with_size(size: &str) -> Self {
        // Not in /tmp, which may be memory.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
        let store = Self { folder };
        std::fs::write(store.passphrase_file(), "correct horse battery staple\n").expect("passphrase file");
        std::fs::create_dir(store.mount_point()).expect("mount point");
        succeed(store.blocktree().arg("init").arg(store.path()).args(["--size", size]));
        store
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub(crate) fn mount_point(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    pub(crate) fn passphrase_file(&self) -> PathBuf {
        self.folder.path().join("passphrase")
    }

    /// A folder beside the store, outside any mount.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path).expect("a folder beside the store");
        path
    }

    /// The program; it finds the passphrase by itself.
    pub(crate) fn blocktree(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blocktree"));
        command.env("BLOCKTREE_PASSPHRASE_FILE", self.passphrase_file());
        command
    }

    pub(crate) fn mount(&self) -> Mount<'_> {
        let log = std::fs::File::create(self.folder.path().join("mount.log")).expect("mount.log");
        let mut command = self.blocktree();
        // A pipe would stay open as long as the daemon in the background lives.
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("mount.log")).stderr(log);
        let status = command.arg("mount").arg(self.path()).arg(self.mount_point()).status();
        let mount = Mount { store: self, path: self.mount_point() };
        let said = std::fs::read_to_string(self.folder.path().join("mount.log")).unwrap_or_default();
        assert!(status.expect("blocktree runs").success(), "blocktree mount failed: {said}");
        mount
    }

    /// Fails unless `blocktree check` finds the store clean.
    pub(crate) fn assert_clean(&self) {
        succeed(self.blocktree().arg("check").arg(self.path()));
    }
}

/// A mounted store; unmounted when dropped.
pub(crate) struct Mount<'a> {
    store: &'a Store,
    path: PathBuf,
}

impl Mount<'_> {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts, and fails if that fails.
    pub(crate) fn unmount(self) {
        succeed(self.store.blocktree().arg("umount").arg(&self.path));
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        // After `unmount` nothing is there any more, and each of these says so.
        let commands: [(&str, &[&str]); 3] = [
            (env!("CARGO_BIN_EXE_blocktree"), &["umount"]),
            ("fusermount3", &["-u", "-z"]),
            ("umount", &["-l"]),
        ];
        for (program, arguments) in commands {
            if !is_mounted(&self.path) {
                return;
            }
            let _ = Command::new(program).args(arguments).arg(&self.path).output();
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    // A dead mount answers no call on its path, but is in this list.
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let path = path.to_string_lossy().replace(' ', "\\040");
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(&path))
}

/// Runs a program that has to succeed; what it says on standard output.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; `cargo xtask test` installs what tests need"));
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{stdout}{stderr}");
    stdout.into_owned()
}
