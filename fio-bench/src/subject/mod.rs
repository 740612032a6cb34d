//! What is measured: folders of several filesystems, all on the same disk.
//!
//! A [`Filesystem`] knows how it is made and mounted; a [`Subject`] is one that exists, with its daemon.
//! [`floors`] are what nothing can beat, [`peers`] what people would use instead.

mod floors;
mod ours;
mod peers;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use xtask::command::execute;
use xtask::scratch::Scratch;

use crate::process::{Cost, Daemon, Finished, peak_kib, run, spent};
use ours::{Blocktree, OpenedBy};
pub(crate) use ours::{build, program};

/// What a filesystem is measured for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    Ours,
    /// What FUSE, the kernel and the disk allow.
    Floor,
    Peer,
}

/// How one kind of filesystem is made and mounted.
pub(crate) trait Filesystem {
    fn name(&self) -> &'static str;

    fn role(&self) -> Role;

    /// Debian packages that it needs.
    fn packages(&self) -> &'static [&'static str] {
        &[]
    }

    /// What it calls its version.
    fn version(&self) -> Result<String>;

    /// Whether its fsync(2) returns only when the disk has it.
    fn is_durable(&self) -> bool {
        true
    }

    /// Only a file without a cache: nothing but fio makes sense on it.
    fn is_raw(&self) -> bool {
        false
    }

    /// Makes an empty one in `place.backing()`, an empty folder.
    fn make(&self, _place: &Place) -> Result<()> {
        Ok(())
    }

    /// What it takes of the disk, while it is mounted.
    fn taken_bytes(&self, place: &Place) -> Result<u64> {
        allocated_bytes(&place.backing())
    }

    /// What serves the mount, in the foreground; none if the kernel does.
    fn daemon(&self, place: &Place) -> Option<Command>;

    /// Returns when everything is durable.
    fn unmount(&self, place: &Place) -> Command {
        let mut command = Command::new("umount");
        command.arg(place.mount_point());
        command
    }
}

/// All of them, in the order of the tables.
fn all() -> Vec<Box<dyn Filesystem>> {
    vec![
        Box::new(Blocktree { opened_by: OpenedBy::Passphrase }),
        Box::new(Blocktree { opened_by: OpenedBy::Principal }),
        Box::new(floors::Ext4),
        Box::new(floors::Passthrough),
        Box::new(floors::Raw),
        Box::new(peers::Gocryptfs),
        Box::new(peers::Securefs),
        Box::new(peers::Cryfs),
        Box::new(peers::Encfs),
    ]
}

/// Blocktree, and what it is to be compared with.
pub(crate) fn chosen(names: &[String]) -> Result<Vec<Box<dyn Filesystem>>> {
    for name in names.iter().filter(|name| !name.is_empty()) {
        if !all().iter().any(|filesystem| filesystem.name() == name) {
            let known: Vec<_> = all().iter().map(|filesystem| filesystem.name()).collect();
            bail!("no such filesystem: {name}; there are {}", known.join(", "));
        }
    }
    let wanted = |filesystem: &dyn Filesystem| {
        filesystem.role() == Role::Ours || names.iter().any(|name| name == filesystem.name())
    };
    Ok(all().into_iter().filter(|filesystem| wanted(&**filesystem)).collect())
}

/// Where a subject lies.
pub(crate) struct Place {
    folder: PathBuf,
    passphrase: PathBuf,
    /// How much data it has to hold.
    pub(crate) room_bytes: u64,
}

pub(crate) const PASSPHRASE: &str = "benchmark";

impl Place {
    /// What the filesystem keeps on the disk.
    pub(crate) fn backing(&self) -> PathBuf {
        self.folder.join("backing")
    }

    pub(crate) fn mount_point(&self) -> PathBuf {
        self.folder.join("mount")
    }

    /// For what else it keeps, apart from its data.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    pub(crate) fn passphrase_file(&self) -> &Path {
        &self.passphrase
    }
}

/// Looks at a daemon while something is measured.
pub(crate) trait Watch {
    fn around(&self, daemon: u32, work: &mut dyn FnMut() -> Result<Finished>) -> Result<Finished>;
}

/// A filesystem under measurement.
pub(crate) struct Subject {
    filesystem: Box<dyn Filesystem>,
    place: Place,
    limit: Duration,
    daemon: Option<Daemon>,
    peak_kib: u64,
    cost: Cost,
    is_made: bool,
    watch: Option<Rc<dyn Watch>>,
}

impl Subject {
    /// `limit` is for each program that is run on it.
    pub(crate) fn new(
        filesystem: Box<dyn Filesystem>,
        scratch: &Scratch,
        room_bytes: u64,
        limit: Duration,
    ) -> Result<Self> {
        let folder = scratch.join(filesystem.name());
        fs::create_dir_all(&folder)?;
        let passphrase = folder.join("passphrase");
        fs::write(&passphrase, format!("{PASSPHRASE}\n"))?;
        let place = Place { folder, passphrase, room_bytes };
        let (daemon, cost, watch) = (None, Cost::default(), None);
        Ok(Self { filesystem, place, limit, daemon, peak_kib: 0, cost, is_made: false, watch })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.filesystem.name()
    }

    pub(crate) fn is_raw(&self) -> bool {
        self.filesystem.is_raw()
    }

    /// Whether it can be used: not if it was never made, or its daemon is gone.
    pub(crate) fn is_usable(&self) -> bool {
        self.is_made && fs::read_dir(self.folder()).is_ok()
    }

    /// Where its files are, while it is made.
    pub(crate) fn folder(&self) -> PathBuf {
        if self.is_served() { self.place.mount_point() } else { self.place.backing() }
    }

    fn is_served(&self) -> bool {
        self.filesystem.daemon(&self.place).is_some()
    }

    /// Makes an empty one and mounts it.
    pub(crate) fn make(&mut self) -> Result<()> {
        for folder in [self.place.backing(), self.place.mount_point(), self.place.state()] {
            fs::create_dir_all(folder)?;
        }
        self.filesystem.make(&self.place)?;
        self.peak_kib = 0;
        self.mount().map(|_| ())
    }

    /// Without a mount, what lies below it must not be taken for the filesystem: it is made only from here on.
    fn mount(&mut self) -> Result<Option<f64>> {
        let mut seconds = None;
        if let Some(mut command) = self.filesystem.daemon(&self.place) {
            let log = self.place.folder.join("log");
            let (daemon, took) = Daemon::start(&mut command, &self.place.mount_point(), &log)?;
            self.daemon = Some(daemon);
            seconds = Some(took);
        }
        self.is_made = true;
        Ok(seconds)
    }

    fn unmount(&mut self) -> Result<()> {
        self.is_made = false;
        if let Some(peak) = self.peak_mib() {
            self.peak_kib = (peak * 1024.0) as u64;
        }
        match self.daemon.take() {
            Some(daemon) => daemon.stop(&mut self.filesystem.unmount(&self.place)),
            None => Ok(()),
        }
    }

    /// Empties every cache: its own by mounting it anew, then the kernel's. How many seconds mounting took.
    pub(crate) fn make_cold(&mut self) -> Result<Option<f64>> {
        let unmounted = self.unmount();
        drop_caches()?;
        let mounted = self.mount();
        unmounted?;
        mounted
    }

    /// Removes it, whatever state it is in.
    pub(crate) fn destroy(&mut self) -> Result<()> {
        let unmounted = self.unmount();
        for folder in [self.place.backing(), self.place.state()] {
            if folder.exists() {
                fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
            }
        }
        unmounted
    }

    /// Runs a program that uses the filesystem, which is at rest before, and counts what it costs.
    pub(crate) fn measure(&mut self, command: &mut Command) -> Result<Finished> {
        settle()?;
        match (self.watch.clone(), self.process()) {
            (Some(watch), Some(daemon)) => watch.around(daemon, &mut || self.run_counted(command)),
            _ => self.run_counted(command),
        }
    }

    /// From now on, `watch` is there when something is measured.
    pub(crate) fn watch(&mut self, watch: Rc<dyn Watch>) {
        self.watch = Some(watch);
    }

    fn run_counted(&mut self, command: &mut Command) -> Result<Finished> {
        let before = spent(self.process())?;
        let finished = run(command.stdin(Stdio::null()), self.limit, self.process());
        // A daemon that is gone has no costs left to read.
        if let Ok(after) = spent(self.process()) {
            self.cost += after - before;
        }
        finished
    }

    /// Runs a program whose work is not measured.
    pub(crate) fn prepare(&self, command: &mut Command) -> Result<Finished> {
        run(command.stdin(Stdio::null()), self.limit, self.process())
    }

    /// The cost of what was measured so far.
    pub(crate) fn cost(&self) -> Cost {
        self.cost
    }

    /// The same, and counts anew.
    pub(crate) fn take_cost(&mut self) -> Cost {
        std::mem::take(&mut self.cost)
    }

    /// The daemon, if there is one.
    pub(crate) fn process(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::process)
    }

    /// The most memory that any of its daemons had resident since it was made; none without a daemon.
    pub(crate) fn peak_mib(&self) -> Option<f64> {
        let now = peak_kib(self.process()?).unwrap_or(0);
        Some(self.peak_kib.max(now) as f64 / 1024.0)
    }

    /// What it takes of the disk.
    pub(crate) fn taken_bytes(&self) -> Result<u64> {
        self.filesystem.taken_bytes(&self.place)
    }
}

fn allocated_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += allocated_bytes(&path)?;
        }
    }
    Ok(bytes)
}

/// Lets the disk come to rest, so that nobody pays for what another left to be written.
pub(crate) fn settle() -> Result<()> {
    // Once for what lies in the mounts, once for what their daemons then wrote.
    execute(&mut Command::new("sync"))?;
    execute(&mut Command::new("sync"))
}

/// Writes back and drops all that the kernel caches: see proc(5).
fn drop_caches() -> Result<()> {
    settle()?;
    fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop the kernel's caches: only root can")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_always_there_and_names_are_checked() {
        let names = |names: &[&str]| -> Result<Vec<_>> {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            Ok(chosen(&names)?.iter().map(|filesystem| filesystem.name()).collect())
        };
        assert_eq!(names(&[]).unwrap(), ["blocktree"]);
        assert_eq!(names(&["cryfs", "ext4"]).unwrap(), ["blocktree", "ext4", "cryfs"]);
        assert_eq!(names(&["blocktree-principal"]).unwrap(), ["blocktree", "blocktree-principal"]);
        assert!(names(&["zfs"]).is_err());
    }

    #[test]
    fn an_ordinary_folder_is_a_subject() {
        let scratch = Scratch::new(&std::env::temp_dir(), "subject test").unwrap();
        let limit = Duration::from_secs(60);
        let mut subject = Subject::new(Box::new(floors::Ext4), &scratch, 1 << 20, limit).unwrap();
        subject.make().unwrap();
        let file = subject.folder().join("file");
        subject
            .measure(
                Command::new("dd")
                    .args(["if=/dev/zero", "bs=4k", "count=256"])
                    .arg(format!("of={}", file.display())),
            )
            .unwrap();
        assert_eq!(fs::metadata(&file).unwrap().len(), 1 << 20);
        settle().unwrap();
        assert!(subject.taken_bytes().unwrap() >= 1 << 20);
        assert!(subject.take_cost().daemon == 0.0 && subject.peak_mib().is_none());
        subject.destroy().unwrap();
        assert!(!file.exists() && !subject.is_usable());
    }
}
