//! What these tests share: packages of the example apps, and commands on a mounted store.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::{Mount, Place, Ran, finish, program, wait_until};

/// Asks for one folder, `box`, with these rights, and hears of everything in it.
pub(crate) const PROBE: &str = r#"
name = "probe"
version = "VERSION"
summary = "Does what it is told."
component = "app.wasm"
[[grants]]
name = "box"
reason = "to be told what to do"
rights = "RIGHTS"
[[triggers]]
on = "files"
grant = "box"
glob = "**"
events = ["written", "created", "renamed", "deleted", "attributes"]
[limits]
memory-mib = 64
seconds = 1
"#;

pub(crate) const THUMBNAILS: &str = include_str!("../../sandbox/guests/thumbnails/app.toml");

pub(crate) const NOTES: &str = include_str!("../../sandbox/guests/notes-search/app.toml");

pub(crate) const MARKDOWN: &str = include_str!("../../sandbox/guests/markdown/app.toml");

pub(crate) const GUARD: &str = include_str!("../../sandbox/guests/guard/app.toml");

pub(crate) const SITE: &str = include_str!("../../sandbox/guests/site/app.toml");

/// Where the example apps are, built for WebAssembly.
fn guests() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| xtask::guests::build().expect("the example apps are built"))
}

/// Replaces bytes by as many others, wherever they stand; they do.
#[track_caller]
pub(crate) fn replace(code: &mut [u8], old: &[u8], new: &[u8]) {
    assert_eq!(old.len(), new.len());
    let places: Vec<usize> =
        code.windows(old.len()).enumerate().filter(|(_, part)| *part == old).map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| code[*at..*at + new.len()].copy_from_slice(new));
}

/// A mounted store, an author, and packages.
pub(crate) struct Stage {
    // First, so that it ends before its folder does.
    pub(crate) mount: Option<Mount>,
    pub(crate) place: Place,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// Mounted with these arguments.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        let place = Place::with_store();
        let stage = Self { mount: Some(place.mount_with(arguments)), place };
        stage.make_author("author");
        stage
    }

    pub(crate) fn make_author(&self, name: &str) {
        let file = self.place.path(name);
        let line = ["principal", "create", name, "--no-passphrase", "--file"];
        finish(program().args(line).arg(file)).ok();
    }

    /// With a folder `/box`, and the probe in it.
    pub(crate) fn with_probe() -> Self {
        let stage = Self::new();
        fs::create_dir(stage.path("box")).expect("made");
        let package = stage.probe("1.0.0", "rw");
        stage.install(&package, &["--grant", "box=/box"]).ok();
        stage
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.mountpoint().join(name)
    }

    pub(crate) fn remount(&mut self) {
        self.remount_with(&[]);
    }

    pub(crate) fn remount_with(&mut self, arguments: &[&str]) {
        self.umount();
        self.mount = Some(self.place.mount_with(arguments));
    }

    pub(crate) fn umount(&mut self) {
        self.mount.take().expect("mounted").umount();
    }

    pub(crate) fn probe(&self, version: &str, rights: &str) -> PathBuf {
        let project = PROBE.replace("VERSION", version).replace("RIGHTS", rights);
        self.package("probe", &project, "author")
    }

    /// A signed package of one of the example apps.
    pub(crate) fn package(&self, guest: &str, project: &str, author: &str) -> PathBuf {
        let code = guests().join(format!("{}.wasm", guest.replace('-', "_")));
        self.package_of(&fs::read(code).expect("built"), guest, project, author)
    }

    /// The code of an example app as a component, as it stands behind the manifest of a package.
    pub(crate) fn component(&self, guest: &str, project: &str) -> Vec<u8> {
        let package = fs::read(self.package(guest, project, "author")).expect("read");
        let length = u32::from_le_bytes(package[8..12].try_into().expect("four bytes")) as usize;
        let manifest: serde_json::Value = serde_json::from_slice(&package[12..12 + length]).expect("JSON");
        let bytes = manifest["files"][0]["bytes"].as_u64().expect("a number") as usize;
        package[package.len() - bytes..].to_vec()
    }

    /// A signed package of this code.
    pub(crate) fn package_of(&self, code: &[u8], guest: &str, project: &str, author: &str) -> PathBuf {
        let folder = self.place.path(&format!("{guest}-source"));
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join("app.wasm"), code).expect("written");
        let project: Vec<&str> = project.lines().filter(|line| !line.starts_with("build =")).collect();
        let project = project.join("\n");
        let project = match project.find("component = ") {
            Some(at) => {
                let end = at + project[at..].find('\n').expect("a line");
                format!("{}component = \"app.wasm\"{}", &project[..at], &project[end..])
            }
            None => project,
        };
        fs::write(folder.join("app.toml"), project).expect("written");
        let package = self.place.path(&format!("{guest}.btapp"));
        finish(program().args(["app", "pack"]).arg(&folder).arg("--output").arg(&package)).ok();
        let author = self.place.path(author);
        finish(program().args(["app", "sign"]).arg(&package).arg("--author").arg(author)).ok();
        package
    }

    /// `blocktree app COMMAND MOUNTPOINT ARGUMENTS…`
    pub(crate) fn app<S: AsRef<OsStr>>(&self, command: &str, arguments: &[S]) -> Ran {
        finish(program().args(["app", command]).arg(self.place.mountpoint()).args(arguments))
    }

    pub(crate) fn install(&self, package: &Path, arguments: &[&str]) -> Ran {
        let all: Vec<&OsStr> =
            std::iter::once(package.as_os_str()).chain(arguments.iter().map(OsStr::new)).collect();
        self.app("install", &all)
    }

    /// The same by somebody at a terminal, who types this; what that shows is the output.
    pub(crate) fn install_on_terminal(&self, package: &Path, arguments: &[&str], typed: &str) -> Ran {
        let keys = self.place.path("typed");
        fs::write(&keys, typed).expect("written");
        let mut ours = program();
        ours.args(["app", "install"]).arg(self.place.mountpoint()).arg(package).args(arguments);
        let words = std::iter::once(ours.get_program()).chain(ours.get_args());
        let line = words.collect::<Vec<_>>().join(OsStr::new(" "));
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--echo", "never", "--command"]).arg(line).arg("/dev/null");
        for (name, value) in ours.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        let ran = finish(script.stdin(File::open(keys).expect("opened")));
        Ran { stdout: ran.stdout.replace("\r\n", "\n"), ..ran }
    }

    pub(crate) fn logs(&self, app: &str) -> String {
        self.app("logs", &[app]).ok().stdout
    }

    #[track_caller]
    pub(crate) fn wait_for_log(&self, app: &str, text: &str) {
        wait_until(&format!("the log of {app} has {text:?}"), || self.logs(app).contains(text));
    }

    /// Has the probe do something; what came of each command.
    #[track_caller]
    pub(crate) fn probe_does(&self, name: &str, commands: &[&str]) -> Vec<String> {
        fs::write(self.path("box").join(format!("{name}.do")), commands.join("\n")).expect("written");
        let last = format!("{} -> ", commands.last().expect("a command"));
        self.wait_for_log("probe", &last);
        let log = self.logs("probe");
        let outcome = |command: &&str| {
            let marked = format!("info: {command} -> ");
            let line = log.lines().rev().find(|line| line.contains(&marked));
            let line = line.unwrap_or_else(|| panic!("{command:?} is not in {log}"));
            line.split_once(&marked).expect("found").1.to_owned()
        };
        commands.iter().map(outcome).collect()
    }

    /// Where an app answers HTTP requests.
    pub(crate) fn address(&self, app: &str) -> SocketAddr {
        let details = self.app("show", &[app, "--json"]).ok().stdout;
        let details: serde_json::Value = serde_json::from_str(&details).expect("JSON");
        let url = details["url"].as_str().expect("it answers");
        url.trim_start_matches("http://").split('/').next().expect("a host").parse().expect("an address")
    }

    /// The process of an app that has done something, and still runs.
    pub(crate) fn process(&self, app: &str) -> u32 {
        let stats = self.app("stats", &[app, "--json"]).ok().stdout;
        let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
        stats["process"].as_u64().expect("a number") as u32
    }
}
