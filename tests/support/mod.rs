//! What the tests of the binary share: running it, stores in temporary folders, and mounts that end with the test.

#![allow(dead_code)]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) const PASSPHRASE: &str = "correct horse battery staple";
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_blocktree");
/// Where the program remembers the stores of tests.
pub(crate) const ANCHORS: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/anchors");

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// It failed with this code and said all of these.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, says: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        for text in says {
            assert!(self.stderr.contains(text), "{text:?} is not in {self:?}");
        }
        assert!(!self.stderr.contains("panicked") && !self.stderr.contains("RUST_BACKTRACE"), "{self:?}");
        self
    }
}

/// The program, without anything of ours in its environment and without a terminal to ask on.
pub(crate) fn program() -> Command {
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(BINARY);
    for variable in [
        "BLOCKTREE_PASSPHRASE_FILE",
        "BLOCKTREE_ASKPASS",
        "CREDENTIALS_DIRECTORY",
        "BLOCKTREE_LOG_FILE",
        "BLOCKTREE_LOG",
    ] {
        command.env_remove(variable);
    }
    command.env("BLOCKTREE_ANCHOR_DIR", ANCHORS);
    command.stdin(Stdio::null());
    command
}

pub(crate) fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    finish(program().args(arguments))
}

/// Runs a command; one that hangs is killed, so that the test fails instead of hanging.
pub(crate) fn finish(command: &mut Command) -> Ran {
    const PATIENCE: Duration = Duration::from_secs(60);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let read = |stream: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut stream) = stream {
                let _ = stream.read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = read(child.stdout.take().map(|stream| Box::new(stream) as _));
    let stderr = read(child.stderr.take().map(|stream| Box::new(stream) as _));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            break status;
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} did not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let code = status.code().unwrap_or(-1);
    Ran { code, stdout: stdout.join().expect("read"), stderr: stderr.join().expect("read") }
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
}

/// Whether stores can be mounted here; says why not.
pub(crate) fn can_mount() -> bool {
    let reason = match fs::File::options().read(true).write(true).open("/dev/fuse") {
        Err(error) => format!("/dev/fuse: {error}"),
        Ok(_) if !is_root() => "not root".to_owned(),
        Ok(_) => return true,
    };
    eprintln!("not tested here: {reason}");
    false
}

/// A folder with a store, a passphrase file and a mountpoint, removed with everything in it when dropped.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    /// Without a store.
    pub(crate) fn empty() -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        fs::write(place.passphrase_file(), format!("{PASSPHRASE}\n")).expect("written");
        fs::create_dir(place.mountpoint()).expect("made");
        place
    }

    pub(crate) fn with_store() -> Self {
        let place = Self::empty();
        place.init().ok();
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    pub(crate) fn mountpoint(&self) -> PathBuf {
        self.path("mnt")
    }

    pub(crate) fn passphrase_file(&self) -> PathBuf {
        self.path("passphrase")
    }

    pub(crate) fn init(&self) -> Ran {
        finish(
            program()
                .arg("init")
                .arg(self.store())
                .args(["--size", "256M"])
                .args(self.passphrase_arguments()),
        )
    }

    pub(crate) fn passphrase_arguments(&self) -> [OsString; 2] {
        ["--passphrase-file".into(), self.passphrase_file().into()]
    }

    /// A command of ours on the store, with the passphrase.
    pub(crate) fn on_store(&self, command: &[&str], arguments: &[&str]) -> Command {
        let mut line = program();
        line.args(command).arg(self.store()).args(arguments).args(self.passphrase_arguments());
        line
    }

    #[track_caller]
    pub(crate) fn mount(&self) -> Mount {
        self.mount_with(&[])
    }

    #[track_caller]
    pub(crate) fn mount_with(&self, arguments: &[&str]) -> Mount {
        let mut command = program();
        command.arg("mount").arg(self.store()).arg(self.mountpoint());
        command.args(self.passphrase_arguments()).args(arguments);
        Mount::by(&mut command, self.mountpoint())
    }
}

/// A mount, which ends when it is dropped, however the test ends.
pub(crate) struct Mount {
    mountpoint: PathBuf,
    pub(crate) daemon: u32,
}

impl Mount {
    /// What `command` mounts, which must succeed.
    #[track_caller]
    pub(crate) fn by(command: &mut Command, mountpoint: PathBuf) -> Self {
        match Self::attempt(command, mountpoint) {
            Ok(mount) => {
                assert_ne!(mount.daemon, 0, "a mount has a daemon");
                mount
            }
            Err(ran) => panic!("{ran:?}"),
        }
    }

    /// What `command` mounts, or how it failed. Its daemon is 0 if it mounted and has ended since.
    pub(crate) fn attempt(command: &mut Command, mountpoint: PathBuf) -> Result<Self, Ran> {
        let mut mount = Self { mountpoint, daemon: 0 };
        let ran = finish(command);
        if ran.code != 0 {
            return Err(ran);
        }
        mount.daemon = find_daemon(&mount.mountpoint).unwrap_or(0);
        Ok(mount)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.mountpoint.join(name)
    }

    /// Unmounts it with `blocktree umount`.
    #[track_caller]
    pub(crate) fn umount(self) {
        finish(program().arg("umount").arg(&self.mountpoint)).ok();
        assert!(!is_mounted(&self.mountpoint));
        // Where root unmounts what it may not look into, umount waits for the store's lock, which the daemon gives up
        // shortly before it ends.
        let patience = Instant::now() + Duration::from_secs(10);
        while is_alive(self.daemon) {
            assert!(Instant::now() < patience, "umount returned, and the daemon goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends its daemon a signal and waits until that has ended.
    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        assert_ne!(self.daemon, 0, "kill takes 0 for everybody in this group");
        finish(Command::new("kill").args(["-s", name, "--", &self.daemon.to_string()])).ok();
        wait_until("the daemon has ended", || !is_alive(self.daemon));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if is_mounted(&self.mountpoint) {
            let lazily = |program: &str, arguments: &[&str]| {
                let _ = Command::new(program)
                    .args(arguments)
                    .arg(&self.mountpoint)
                    .stderr(Stdio::null())
                    .status();
            };
            lazily("umount", &["--lazy", "--no-canonicalize", "--internal-only"]);
            if is_mounted(&self.mountpoint) {
                lazily("fusermount3", &["-u", "-z", "--"]);
            }
        }
        let start = Instant::now();
        while self.daemon != 0 && is_alive(self.daemon) {
            if start.elapsed() > Duration::from_secs(10) {
                let _ = Command::new("kill").args(["-9", "--", &self.daemon.to_string()]).status();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// As mountinfo writes it; the temporary paths have nothing to escape.
pub(crate) fn is_mounted(mountpoint: &Path) -> bool {
    let list = fs::read_to_string("/proc/self/mountinfo").expect("readable");
    list.lines().any(|line| line.split(' ').nth(4) == mountpoint.to_str())
}

/// Neither gone nor a zombie that its parent has not collected.
pub(crate) fn is_alive(process: u32) -> bool {
    let Ok(mut file) = fs::File::open(format!("/proc/{process}/stat")) else { return false };
    let mut text = String::new();
    if file.read_to_string(&mut text).is_err() {
        return false;
    }
    let state = text.rsplit(") ").next().and_then(|rest| rest.chars().next());
    // A killed process is a zombie as soon as its first thread has ended; until the last one has, it holds its locks.
    let threads = fs::read_dir(format!("/proc/{process}/task")).map_or(0, Iterator::count);
    threads > 1 || !matches!(state, Some('Z' | 'X') | None)
}

/// The process that was started as the daemon of this mountpoint.
fn find_daemon(mountpoint: &Path) -> Option<u32> {
    let mountpoint = mountpoint.to_str()?;
    let entries = fs::read_dir("/proc").ok()?;
    for entry in entries.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let mut arguments = line.split(|&byte| byte == 0);
        let is_daemon = arguments.clone().any(|argument| argument == b"--foreground");
        if is_daemon && arguments.any(|argument| argument == mountpoint.as_bytes()) && is_alive(process) {
            return Some(process);
        }
    }
    None
}
