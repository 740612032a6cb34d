//! What only a mount shows, of what the program does not offer yet: locks that [`blocktree_vfs::Fs`] keeps.
//!
//! It needs `/dev/fuse` and root; without, each test says so and passes.
#![cfg(feature = "fuse")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blocktree_vfs::Fs;
use blocktree_vfs::control::{CallChunk, Callee, Refusal, ScrubStatus, Service, SnapshotEntry};
use blocktree_vfs::fuse::{self, Access, Ending, Flags, Locks, MountOptions, Mounted, Transport};
use support::*;
use tempfile::TempDir;

/// Offers nothing.
struct NoService;

impl Service for NoService {
    fn info(&self) -> String {
        String::new()
    }
    fn scrub_start(&self) -> Result<(), Refusal> {
        Err(Refusal::Unknown)
    }
    fn scrub_status(&self) -> ScrubStatus {
        ScrubStatus::default()
    }
    fn scrub_stop(&self) {}
    fn snapshot_create(&self, _name: &str) -> Result<(), Refusal> {
        Err(Refusal::Unknown)
    }
    fn snapshot_delete(&self, _name: &str) -> Result<(), Refusal> {
        Err(Refusal::Unknown)
    }
    fn call(&self, _: Callee, _: u32, _: &CallChunk) -> Result<CallChunk, Refusal> {
        Err(Refusal::Unknown)
    }
    fn snapshot_list(&self) -> Result<Vec<SnapshotEntry>, Refusal> {
        Err(Refusal::Unknown)
    }
    fn sync(&self) -> Result<(), Refusal> {
        Err(Refusal::Unknown)
    }
    fn history(&self, _: &[u8], _: u64, _: u32, _: u32) -> Result<(u32, Arc<str>), Refusal> {
        Err(Refusal::Failed)
    }
}

/// A mount that ends with the test.
struct Mount {
    mounted: Option<Mounted>,
    folder: TempDir,
}

impl Mount {
    /// `None` where nothing can be mounted.
    fn with(change: impl FnOnce(&mut MountOptions)) -> Option<Self> {
        Self::of(&Arc::new(mount()), change)
    }

    fn of(fs: &Arc<Fs>, change: impl FnOnce(&mut MountOptions)) -> Option<Self> {
        let device = std::fs::File::options().read(true).write(true).open("/dev/fuse");
        let is_root = std::fs::metadata("/proc/self")
            .is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0);
        if device.is_err() || !is_root {
            eprintln!("not tested here: it needs /dev/fuse and root");
            return None;
        }
        let mut options = MountOptions {
            source: "test".into(),
            read_only: false,
            access: Access::Owner,
            flags: Flags::default(),
            write_back: true,
            locks: Locks::Kernel,
            read_bytes_max: None,
            event_loops: None,
            transport: Transport::Device,
        };
        change(&mut options);
        let folder = tempfile::tempdir().unwrap();
        let mounted = fuse::mount(fs, folder.path(), &options, Arc::new(NoService)).unwrap();
        Some(Self { mounted: Some(mounted), folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn end(mut self) {
        let mounted = self.mounted.take().unwrap();
        assert_eq!(mounted.handle().end().unwrap(), Ending::Unmounted);
        mounted.join().unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted.is_some() {
            let _ = fuse::detach(self.folder.path(), true);
        }
    }
}

/// Runs a script of Python; one that hangs is ended.
#[track_caller]
fn python(script: &str, path: &Path, argument: &str) {
    let mut command = Command::new("timeout");
    command.args(["60", "python3", "-c", script]).arg(path).arg(argument);
    assert!(command.status().unwrap().success());
}

#[test]
fn waits_for_locks_can_be_interrupted() {
    let Some(mount) = Mount::with(|options| options.locks = Locks::Fs) else { return };
    let script = "import fcntl, os, signal, sys
path, kind = sys.argv[1:]
lock = {'fcntl': fcntl.lockf, 'flock': fcntl.flock}[kind]
EX, UN, NB = fcntl.LOCK_EX, fcntl.LOCK_UN, fcntl.LOCK_NB
f = open(path, 'w+')
lock(f, EX)

def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work(open(path, 'r+'))
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return pid

class Woken(Exception):
    pass

def interrupted(g):
    def wake(*_):
        raise Woken
    signal.signal(signal.SIGALRM, wake)
    for number in range(30):
        signal.setitimer(signal.ITIMER_REAL, 0.0005 * (1 + number % 8))
        try:
            lock(g, EX)
            assert False, 'it got the lock'
        except Woken:
            pass

def busy(g):
    try:
        lock(g, EX | NB)
        assert False, 'it got the lock'
    except BlockingIOError:
        pass

def waits(g):
    lock(g, EX)

def ends(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

assert ends(child(busy)) == 0
assert ends(child(interrupted)) == 0
waiting = child(waits)
os.kill(waiting, signal.SIGKILL)
assert ends(waiting) == -signal.SIGKILL
waiting = [child(waits) for _ in range(3)]
lock(f, UN)
assert [ends(pid) for pid in waiting] == [0, 0, 0]
lock(f, EX | NB)
";
    for kind in ["fcntl", "flock"] {
        python(script, &mount.path("locked"), kind);
    }
    mount.end();
}

/// Waits until so many inodes are in memory, or for long.
fn wait_for_inodes(fs: &Fs, count: usize) -> usize {
    wait_for_inodes_within(Duration::from_secs(20), fs, count)
}

fn wait_for_inodes_within(time: Duration, fs: &Fs, count: usize) -> usize {
    let begun = Instant::now();
    while fs.inodes_in_memory() < count && begun.elapsed() < time {
        std::thread::sleep(Duration::from_millis(10));
    }
    fs.inodes_in_memory()
}

#[test]
fn what_a_listing_wants_next_is_loaded_while_it_pauses() {
    let fs = Arc::new(made_and_mounted_again(|fs| directory_of(fs, "directory", 2000)));
    let Some(mount) = Mount::of(&fs, |_| {}) else { return };
    let mut listing = std::fs::read_dir(mount.path("directory")).unwrap();
    assert!(listing.next().unwrap().is_ok());
    // The kernel was given less than two hundred; about as many are loaded on top of that, without anybody asking.
    let loaded = wait_for_inodes(&fs, 220);
    assert!((220..600).contains(&loaded), "{loaded}");
    assert_eq!(listing.count(), 1999);
    drop(fs);
    mount.end();
}

#[test]
fn the_next_directory_is_loaded_for_who_goes_through_a_tree() {
    let make = |fs: &Fs| (0..20).for_each(|number| directory_of(fs, &format!("{number}"), 100));
    let fs = Arc::new(made_and_mounted_again(make));
    let Some(mount) = Mount::of(&fs, |_| {}) else { return };
    let above = std::fs::read_dir(mount.folder.path()).unwrap();
    let directories: Vec<PathBuf> = above.map(|entry| entry.unwrap().path()).collect();
    let before = fs.inodes_in_memory();
    let list = |number: usize| assert_eq!(std::fs::read_dir(&directories[number]).unwrap().count(), 100);
    // The thread that loads hears of the newest listing only, so on a busy machine it may miss where somebody begins.
    let followed = (0..15).find(|number| {
        list(*number);
        let wanted = before + 100 * (number + 2);
        wait_for_inodes_within(Duration::from_secs(1), &fs, wanted) == wanted
    });
    let followed = followed.expect("the one behind it is loaded");
    list(followed + 2);
    let in_memory = fs.inodes_in_memory();
    assert_eq!(in_memory, before + 100 * (followed + 3), "nobody goes from there to the next yet");
    list(followed + 3);
    let wanted = before + 100 * (followed + 4);
    assert!(wait_for_inodes(&fs, wanted) >= wanted);
    drop(fs);
    mount.end();
}
