//! What stands behind a store's path: a directory with a volume file, or a block device.
//!
//! Key functions: [`create_volume`], [`open_volume`]. Neighbours: the devices of this layer, which they choose from, and
//! the engine, which lays out and checks what is in a volume.
//!
//! Invariants:
//! 1. At most one device that is not [`Access::Shared`] is open on a volume, in all processes of the machine.
//! 2. Making a volume destroys nothing: a volume file is always a new one. (A block device is taken as it is; what
//!    is on it is for the caller to ask about.)
//! 3. A volume that could not be made whole leaves nothing behind.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::host::{HostFile, allocate, length_sectors};
use super::{Device, FileDevice, SectorBuf, UringDevice};
use crate::limits::{
    SECTOR_BYTES, STORE_SECTORS_DEFAULT, STORE_SECTORS_MAX, STORE_SECTORS_MIN, VOLUME_SECTORS_INITIAL,
};

/// The volume file in a store's directory.
const VOLUME_FILE: &str = "volume";
/// What a fresh filesystem contains; a directory with only this is empty.
const LOST_AND_FOUND: &str = "lost+found";
/// How long a block device may stay claimed that was closed just now: a child process that another thread starts at
/// that moment has it open too, until it executes its program.
const CLOSE_PATIENCE: Duration = Duration::from_millis(50);
/// How long udev may hold a block device's lock while it looks what is on it.
const UDEV_PATIENCE: Duration = Duration::from_secs(2);

/// What a device may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// By its only user.
    ReadWrite,
    /// By its only user, who does not write: works on read-only media.
    ReadOnly,
    /// Beside another user; reads only, without a lock.
    Shared,
}

/// A volume without contents.
pub struct NewVolume {
    pub device: Arc<dyn Device>,
    /// How long it may become.
    pub capacity_sectors: u64,
    /// How long it is to begin with. A block device may be longer, if it is not to be used as a whole.
    pub volume_sectors: u64,
    made: Made,
}

impl NewVolume {
    /// Removes what was made, if the store cannot be made after all. A block device stays as it is.
    pub fn discard(self) {
        drop(self.device);
        self.made.remove();
    }
}

/// Why a volume cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("{} does not exist; `blocktree init` makes a store", path.display())]
    Missing { path: PathBuf },
    #[error("{} is not a store: name a directory that `blocktree init` made, or a block device", path.display())]
    NotAStore { path: PathBuf },
    #[error("{} already contains a store; choose another place, or remove it if nobody needs it", path.display())]
    AlreadyAStore { path: PathBuf },
    #[error("{} contains other files; name a new or an empty directory", path.display())]
    NotEmpty { path: PathBuf },
    #[error("{} is in use; unmount it or end the other program that has it open", path.display())]
    Busy { path: PathBuf },
    #[error("{} would have {bytes} bytes, and a store needs {} at least; choose a larger size", path.display(),
        STORE_SECTORS_MIN * SECTOR_BYTES as u64)]
    TooSmall { path: PathBuf, bytes: u64 },
    #[error("{} would have {bytes} bytes, and a store has {} at most; choose a smaller size", path.display(),
        STORE_SECTORS_MAX * SECTOR_BYTES as u64)]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("no room for {}: a new store takes {bytes} bytes at once; free some space or choose a smaller size", path.display())]
    NoRoom { path: PathBuf, bytes: u64 },
    #[error("no permission to {action} {}; change its owner or mode, run as its owner, or mount it read-only", path.display())]
    Permission { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {action} {}: {source}; check the filesystem or disk it is on", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// Makes a volume at `path`: in a directory, which is made if missing, or on a block device. `size_bytes` is how
/// large it may become, rounded down to sectors; without it, a block device is used as a whole and a directory's
/// volume grows as the host has room.
pub fn create_volume(path: &Path, size_bytes: Option<u64>) -> Result<NewVolume, VolumeError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_block_device() => create_on_block_device(path, size_bytes),
        Ok(metadata) if metadata.is_dir() => create_in_directory(path, size_bytes, false),
        Ok(_) => Err(VolumeError::NotAStore { path: path.into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create_in_directory(path, size_bytes, true),
        Err(error) => Err(io_error("look at", path, error)),
    }
}

/// Opens the volume at `path`. Whoever else has it open, unless one of the two is [`Access::Shared`], makes this fail
/// with [`VolumeError::Busy`] at once.
pub fn open_volume(path: &Path, access: Access) -> Result<Arc<dyn Device>, VolumeError> {
    let (path, lock) = find_volume(path, access)?;
    open_device(&path, access, lock)
}

/// The volume at `path`, to read a few sectors beside whoever has it open. Takes no memory for many requests, as
/// [`open_volume`] does.
pub fn peek_volume(path: &Path) -> Result<FileDevice, VolumeError> {
    let (path, lock) = find_volume(path, Access::Shared)?;
    Ok(FileDevice::on(host_file(&path, Access::Shared, lock)?))
}

/// Whether [`open_volume`] can open the volume at `path` now; takes no memory for that.
pub fn try_volume(path: &Path, access: Access) -> Result<(), VolumeError> {
    let (path, lock) = find_volume(path, access)?;
    host_file(&path, access, lock).map(drop)
}

/// What is to be opened, locked.
fn find_volume(path: &Path, access: Access) -> Result<(PathBuf, Option<File>), VolumeError> {
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => VolumeError::Missing { path: path.into() },
        _ => io_error("look at", path, error),
    })?;
    if metadata.file_type().is_block_device() {
        let lock = if access == Access::Shared { None } else { Some(lock_block_device(path, access)?) };
        return Ok((path.into(), lock));
    }
    let volume = path.join(VOLUME_FILE);
    let not_a_store = || VolumeError::NotAStore { path: path.into() };
    if !metadata.is_dir() {
        return Err(not_a_store());
    }
    match fs::metadata(&volume) {
        Ok(metadata) if metadata.is_file() => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("look at", &volume, error));
        }
        _ => return Err(not_a_store()),
    }
    let lock = if access == Access::Shared { None } else { Some(lock_volume_file(path, &volume, access)?) };
    Ok((volume, lock))
}

fn create_on_block_device(path: &Path, size_bytes: Option<u64>) -> Result<NewVolume, VolumeError> {
    let lock = lock_block_device(path, Access::ReadWrite)?;
    let device_sectors = length_sectors(&lock).map_err(|error| io_error("measure", path, error))?;
    let device_bytes = device_sectors * SECTOR_BYTES as u64;
    let bytes = size_bytes.unwrap_or(device_bytes).min(device_bytes);
    let capacity_sectors = checked_capacity(path, bytes)?;
    let device = open_device(path, Access::ReadWrite, Some(lock))?;
    Ok(NewVolume { device, capacity_sectors, volume_sectors: capacity_sectors, made: Made::default() })
}

fn create_in_directory(
    path: &Path,
    size_bytes: Option<u64>,
    is_missing: bool,
) -> Result<NewVolume, VolumeError> {
    let bytes = size_bytes.unwrap_or(STORE_SECTORS_DEFAULT * SECTOR_BYTES as u64);
    let capacity_sectors = checked_capacity(path, bytes)?;
    let volume_sectors = capacity_sectors.min(VOLUME_SECTORS_INITIAL);
    let mut made = Made::default();
    let made_device = make_volume_file(path, volume_sectors, is_missing, &mut made);
    match made_device {
        Ok(device) => Ok(NewVolume { device, capacity_sectors, volume_sectors, made }),
        Err(error) => {
            made.remove();
            Err(error)
        }
    }
}

fn make_volume_file(
    path: &Path,
    volume_sectors: u64,
    is_missing: bool,
    made: &mut Made,
) -> Result<Arc<dyn Device>, VolumeError> {
    if is_missing {
        let result = DirBuilder::new().mode(0o700).create(path);
        result.map_err(|error| io_error("make the directory", path, error))?;
        made.directory = Some(path.into());
    } else {
        check_empty(path)?;
    }
    let volume = path.join(VOLUME_FILE);
    let result = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&volume);
    let file = result.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => VolumeError::AlreadyAStore { path: path.into() },
        _ => io_error("make", &volume, error),
    })?;
    made.file = Some(volume.clone());
    try_lock(&file, path)?;
    let bytes = volume_sectors * SECTOR_BYTES as u64;
    allocate(&file, 0, bytes).map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            VolumeError::NoRoom { path: path.into(), bytes }
        }
        _ => io_error("allocate", &volume, error),
    })?;
    // The names must be as durable as what the engine is going to flush.
    file.sync_all().map_err(|error| io_error("flush", &volume, error))?;
    sync_directory(path)?;
    if is_missing {
        let absolute = std::path::absolute(path).map_err(|error| io_error("look at", path, error))?;
        if let Some(parent) = absolute.parent() {
            sync_directory(parent)?;
        }
    }
    open_device(&volume, Access::ReadWrite, Some(file))
}

fn check_empty(path: &Path) -> Result<(), VolumeError> {
    let failed = |error| io_error("list", path, error);
    let mut is_empty = true;
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name == VOLUME_FILE {
            return Err(VolumeError::AlreadyAStore { path: path.into() });
        }
        is_empty &= name == LOST_AND_FOUND;
    }
    if is_empty { Ok(()) } else { Err(VolumeError::NotEmpty { path: path.into() }) }
}

fn checked_capacity(path: &Path, bytes: u64) -> Result<u64, VolumeError> {
    let sectors = bytes / SECTOR_BYTES as u64;
    if sectors < STORE_SECTORS_MIN {
        return Err(VolumeError::TooSmall { path: path.into(), bytes });
    }
    if sectors > STORE_SECTORS_MAX {
        return Err(VolumeError::TooLarge { path: path.into(), bytes });
    }
    Ok(sectors)
}

/// What making a volume has made so far.
#[derive(Default)]
struct Made {
    directory: Option<PathBuf>,
    file: Option<PathBuf>,
}

impl Made {
    fn remove(self) {
        // Nothing more can be done about a failure here, and the caller has an error to tell already.
        if let Some(file) = &self.file {
            let _ = fs::remove_file(file);
        }
        if let Some(directory) = &self.directory {
            let _ = fs::remove_dir(directory);
        }
    }
}

fn lock_volume_file(path: &Path, volume: &Path, access: Access) -> Result<File, VolumeError> {
    let file = options(access).open(volume).map_err(|error| io_error("open", volume, error))?;
    try_lock(&file, path)?;
    Ok(file)
}

/// O_EXCL keeps away mounts and other exclusive users; the lock keeps udev from looking at a device that changes.
fn lock_block_device(path: &Path, access: Access) -> Result<File, VolumeError> {
    let claim = || {
        options(access).custom_flags(libc::O_EXCL).open(path).map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => VolumeError::Busy { path: path.into() },
            _ => io_error("open", path, error),
        })
    };
    let file = while_busy(CLOSE_PATIENCE, claim)?;
    while_busy(UDEV_PATIENCE, || try_lock(&file, path))?;
    Ok(file)
}

/// Tries again while the answer is [`VolumeError::Busy`], for this long.
fn while_busy<T>(
    patience: Duration,
    mut attempt: impl FnMut() -> Result<T, VolumeError>,
) -> Result<T, VolumeError> {
    let deadline = Instant::now() + patience;
    loop {
        match attempt() {
            Err(VolumeError::Busy { .. }) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5))
            }
            result => return result,
        }
    }
}

fn try_lock(file: &File, path: &Path) -> Result<(), VolumeError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => VolumeError::Busy { path: path.into() },
        TryLockError::Error(error) => io_error("lock", path, error),
    })
}

fn options(access: Access) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(access == Access::ReadWrite);
    options
}

/// Opens for I/O what is locked already, and chooses how.
fn open_device(path: &Path, access: Access, lock: Option<File>) -> Result<Arc<dyn Device>, VolumeError> {
    Ok(match UringDevice::on(host_file(path, access, lock)?) {
        Ok(device) => Arc::new(device),
        Err((error, host)) => {
            tracing::warn!(%error, path = %path.display(), "no io_uring here; using slower plain reads and writes");
            Arc::new(FileDevice::on(host))
        }
    })
}

fn host_file(path: &Path, access: Access, lock: Option<File>) -> Result<HostFile, VolumeError> {
    let file = open_direct(path, access).map_err(|error| io_error("open", path, error))?;
    HostFile::with_lock(file, lock).map_err(|error| io_error("measure", path, error))
}

/// With O_DIRECT where the host can do that for whole sectors.
fn open_direct(path: &Path, access: Access) -> io::Result<File> {
    let refused = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
    let direct = options(access).custom_flags(libc::O_DIRECT).open(path).and_then(|file| {
        // Some hosts only refuse the first read.
        file.read_at(&mut SectorBuf::heap(1), 0)?;
        Ok(file)
    });
    match direct {
        Err(error) if refused(&error) => options(access).open(path),
        result => result,
    }
}

fn sync_directory(path: &Path) -> Result<(), VolumeError> {
    let result = File::open(path).and_then(|directory| directory.sync_all());
    result.map_err(|error| io_error("flush", path, error))
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> VolumeError {
    let path = path.into();
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            VolumeError::Permission { action, path, source }
        }
        _ => VolumeError::Io { action, path, source },
    }
}
