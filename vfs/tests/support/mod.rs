//! What all tests share: a filesystem in memory, and short words for what they do to it.
#![allow(dead_code, unreachable_pub)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::MemoryDevice;
use blocktree_engine::{CreateOptions, OpenOptions, Store};
use blocktree_vfs::{Caller, Fs, FsError, Ino, MountOptions, SetAttributes, Stat, Time, WriteFlags};

pub const ROOT: Ino = Fs::ROOT;
pub const USER: Caller = Caller { uid: 1000, gid: 1000, pid: 7, umask: 0 };
/// A change by somebody who takes no privileges away.
pub const KEEP: WriteFlags = WriteFlags { kill_privileges: false, from_cache: false };
const CAPACITY_SECTORS: u64 = (256 << 20) / 4096;

/// A store with a root directory, ready to be mounted.
pub fn store() -> Store {
    store_on(Arc::new(MemoryDevice::new(CAPACITY_SECTORS)))
}

fn store_on(device: Arc<MemoryDevice>) -> Store {
    let options = CreateOptions { capacity_sectors: CAPACITY_SECTORS, kdf: KdfCost::TRIVIAL };
    let store = Store::create(device, b"passphrase", &options).unwrap();
    Fs::format(&store, 0, 0).unwrap();
    store
}

pub fn mount() -> Fs {
    mount_with(MountOptions { clock: Some(tick), ..MountOptions::default() })
}

pub fn mount_with(options: MountOptions) -> Fs {
    Fs::mount(store(), options).unwrap()
}

/// A filesystem with what `make` made in it, of which it has loaded nothing.
pub fn made_and_mounted_again(make: impl FnOnce(&Fs)) -> Fs {
    let device = Arc::new(MemoryDevice::new(CAPACITY_SECTORS));
    let fs = Fs::mount(store_on(device.clone()), MountOptions::default()).unwrap();
    make(&fs);
    fs.unmount().unwrap();
    drop(fs);
    let store = Store::open(device, b"passphrase", &OpenOptions::default()).unwrap();
    Fs::mount(store, MountOptions::default()).unwrap()
}

/// A new directory of so many files.
pub fn directory_of(fs: &Fs, name: &str, files: usize) {
    let directory = fs.dir(ROOT, name);
    for number in 0..files {
        fs.file(directory, &format!("file {number}"));
    }
}

/// A clock that is later whenever it is asked.
pub fn tick() -> Time {
    static NOW: AtomicU64 = AtomicU64::new(0);
    let now = NOW.fetch_add(1, Ordering::Relaxed);
    Time { seconds: 2_000_000_000 + (now / 1000) as i64, nanoseconds: (now % 1000) as u32 * 1_000_000 }
}

/// Asserts that it failed with this errno.
#[track_caller]
pub fn fails<T: std::fmt::Debug>(result: Result<T, FsError>, errno: i32) {
    match result {
        Ok(value) => panic!("succeeded with {value:?} where errno {errno} was expected"),
        Err(error) => assert_eq!(error.errno(), errno, "{error}"),
    }
}

/// Short words. All inodes they make stay known, as if a kernel held them.
pub trait Words {
    fn file(&self, parent: Ino, name: &str) -> Ino;
    fn file_with(&self, parent: Ino, name: &str, bytes: &[u8]) -> Ino;
    fn dir(&self, parent: Ino, name: &str) -> Ino;
    fn put(&self, ino: Ino, offset: u64, bytes: &[u8]);
    fn bytes(&self, ino: Ino) -> Vec<u8>;
    fn stat(&self, ino: Ino) -> Stat;
    fn find(&self, parent: Ino, name: &str) -> Result<Ino, FsError>;
    fn names(&self, ino: Ino) -> Vec<String>;
    fn chmod(&self, ino: Ino, permissions: u32);
    fn truncate(&self, ino: Ino, size: u64) -> Result<Stat, FsError>;
}

impl Words for Fs {
    #[track_caller]
    fn file(&self, parent: Ino, name: &str) -> Ino {
        let ino = self.create(&USER, parent, name.as_bytes(), 0o644).unwrap().ino;
        self.release(ino, None);
        ino
    }

    fn file_with(&self, parent: Ino, name: &str, bytes: &[u8]) -> Ino {
        let ino = self.file(parent, name);
        self.put(ino, 0, bytes);
        ino
    }

    #[track_caller]
    fn dir(&self, parent: Ino, name: &str) -> Ino {
        self.mkdir(&USER, parent, name.as_bytes(), 0o755).unwrap().ino
    }

    #[track_caller]
    fn put(&self, ino: Ino, offset: u64, bytes: &[u8]) {
        assert_eq!(self.write(ino, offset, bytes, WriteFlags::default()).unwrap(), bytes.len());
    }

    fn bytes(&self, ino: Ino) -> Vec<u8> {
        let mut bytes = vec![0xee; self.stat(ino).size as usize + 10];
        let length = self.read(ino, 0, &mut bytes).unwrap();
        bytes.truncate(length);
        bytes
    }

    #[track_caller]
    fn stat(&self, ino: Ino) -> Stat {
        self.getattr(ino).unwrap()
    }

    /// Finds a name without keeping the lookup.
    fn find(&self, parent: Ino, name: &str) -> Result<Ino, FsError> {
        let ino = self.lookup(parent, name.as_bytes())?.ino;
        self.forget(ino, 1);
        Ok(ino)
    }

    fn names(&self, ino: Ino) -> Vec<String> {
        let mut names = Vec::new();
        self.readdir(ino, 0, &mut |entry| {
            names.push(String::from_utf8_lossy(entry.name).into_owned());
            true
        })
        .unwrap();
        names.retain(|name| name != "." && name != "..");
        names.sort();
        names
    }

    fn chmod(&self, ino: Ino, permissions: u32) {
        let changes = SetAttributes { permissions: Some(permissions), ..SetAttributes::default() };
        self.setattr(&USER, ino, &changes).unwrap();
    }

    fn truncate(&self, ino: Ino, size: u64) -> Result<Stat, FsError> {
        self.setattr(&USER, ino, &SetAttributes { size: Some(size), ..SetAttributes::default() })
    }
}
