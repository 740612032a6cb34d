//! A mounted store, perhaps with the app `stopwatch` at work on a folder of it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtask::command::{execute, output};

use crate::process::Daemon;
use crate::subject::PASSPHRASE;

pub(super) const APP: &str = "stopwatch";
/// How long the app may take for whatever it is asked.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) struct Stage {
    program: PathBuf,
    folder: PathBuf,
    daemon: Option<Daemon>,
}

impl Stage {
    /// A store of this size in `folder`, mounted by this program; `options` are those of the mount.
    pub(super) fn new(program: &Path, folder: PathBuf, size: &str, options: &[&str]) -> Result<Self> {
        let mut stage = Self { program: program.to_owned(), folder, daemon: None };
        fs::create_dir_all(stage.mount_point())?;
        fs::write(stage.passphrase(), format!("{PASSPHRASE}\n"))?;
        let store = stage.folder.join("store");
        execute(stage.blocktree().arg("init").arg(&store).args(["--size", size]))?;
        let mut mount = stage.blocktree();
        mount.arg("mount").arg(&store).arg(stage.mount_point()).arg("--foreground").args(options);
        let (daemon, _) = Daemon::start(&mut mount, &stage.mount_point(), &stage.folder.join("log"))?;
        stage.daemon = Some(daemon);
        Ok(stage)
    }

    pub(super) fn blocktree(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("BLOCKTREE_PASSPHRASE_FILE", self.passphrase()).stdin(Stdio::null());
        command.env("BLOCKTREE_ANCHOR_DIR", self.folder.join("anchors"));
        command
    }

    fn passphrase(&self) -> PathBuf {
        self.folder.join("passphrase")
    }

    pub(super) fn mount_point(&self) -> PathBuf {
        self.folder.join("mount")
    }

    /// The folder that the app is granted.
    pub(super) fn granted(&self) -> PathBuf {
        self.mount_point().join("box")
    }

    /// Installs the app, and has it run once, so that it is compiled; where it answers.
    pub(super) fn install(&self) -> Result<SocketAddr> {
        let package = xtask::guests::package(APP, &self.folder, &|| self.blocktree())?;
        fs::create_dir(self.granted())?;
        let mut install = self.app("install");
        execute(install.arg(&package).args(["--grant", "box=/box", "--grant", "http"]))?;
        let details = output(self.app("show").args([APP, "--json"]))?;
        let details: serde_json::Value = serde_json::from_str(&details)?;
        let url = details["url"].as_str().context("the app answers nowhere")?;
        let host = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
        let address = host.parse().with_context(|| format!("{url} is no address"))?;
        ask(address, "count")?;
        Ok(address)
    }

    /// `blocktree app NAME MOUNTPOINT`
    pub(super) fn app(&self, name: &str) -> Command {
        let mut command = self.blocktree();
        command.args(["app", name]).arg(self.mount_point());
        command
    }

    pub(super) fn enable(&self, is_enabled: bool) -> Result<()> {
        execute(self.app(if is_enabled { "enable" } else { "disable" }).arg(APP))
    }

    pub(super) fn unmount(mut self) -> Result<()> {
        let mut command = self.blocktree();
        command.arg("umount").arg(self.mount_point());
        self.daemon.take().map_or(Ok(()), |daemon| daemon.stop(&mut command))
    }
}

/// What the app answers.
pub(super) fn ask(address: SocketAddr, what: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /{APP}/{what} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the app gave no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "the app does not answer {what}: {head}");
    Ok(body.to_owned())
}

/// Waits until the app was called so often since it was asked the last time; for what, and when, in nanoseconds since 1970.
pub(super) fn heard(address: SocketAddr, count: usize) -> Result<Vec<(u64, String)>> {
    let start = Instant::now();
    while ask(address, "count")?.parse::<usize>()? < count {
        ensure!(start.elapsed() < PATIENCE, "the app did not hear of all {count}");
        sleep(Duration::from_millis(20));
    }
    let text = ask(address, "heard")?;
    let lines = text.lines().map(|line| {
        let (time, path) = line.split_once(' ').context("the app's list is malformed")?;
        Ok((time.parse()?, path.to_owned()))
    });
    lines.collect()
}
