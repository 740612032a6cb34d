//! What histories are made of: operations that name files by path, and how each is done on a filesystem.

use blocktree_vfs::{
    Caller, FallocateMode, Fs, FsError, Ino, OpenFlags, RenameFlags, SetAttributes, SetXattrFlags, WriteFlags,
};

use crate::model::Model;

pub(crate) const CALLER: Caller = Caller { uid: 1000, gid: 1000, pid: 7, umask: 0 };

/// Paths are relative to the root, which is "".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    Create(String),
    /// Where, how many bytes, and what bytes.
    Write(String, u64, u64, u64),
    Append(String, u64, u64),
    Truncate(String, u64),
    /// Offset, length, whether the size stays.
    Allocate(String, u64, u64, bool),
    Punch(String, u64, u64),
    Zero(String, u64, u64),
    Collapse(String, u64, u64),
    Insert(String, u64, u64),
    /// Copies the first bytes of a file over those of another.
    Copy(String, String, u64),
    Link(String, String),
    Unlink(String),
    Rename(String, String),
    Exchange(String, String),
    Mkdir(String),
    Rmdir(String),
    Symlink(String),
    /// Name, length of the value, and what bytes.
    SetXattr(String, &'static str, u64, u64),
    RemoveXattr(String, &'static str),
    Chmod(String, u32),
    /// Keeps a file open until the next mount.
    Hold(String),
    Fsync(String),
    Fdatasync(String),
    Sync,
    /// What the background does after some time: writes what is pending, and waits for nothing.
    WriteBack,
    Checkpoint,
    Reclaim,
    Snapshot(String),
    DeleteSnapshot(String),
}

/// Bytes that a number stands for.
pub(crate) fn bytes(seed: u64, length: u64) -> Vec<u8> {
    let mut rng = blocktree_engine::device::SplitMix64(seed);
    let mut bytes = Vec::with_capacity(length as usize + 8);
    while (bytes.len() as u64) < length {
        bytes.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    bytes.truncate(length as usize);
    bytes
}

/// A path's directory and name.
pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Why an operation was not done: there is no such path, or the filesystem says no.
#[derive(Debug)]
pub(crate) enum Refused {
    NoPath,
    Fs(FsError),
}

impl From<FsError> for Refused {
    fn from(error: FsError) -> Self {
        Self::Fs(error)
    }
}

impl Operation {
    /// Does it; returns the inode that was made, if any. The model knows what is where.
    pub(crate) fn perform(&self, fs: &Fs, model: &Model) -> Result<Option<Ino>, Refused> {
        let find = |path: &str| model.find(path).ok_or(Refused::NoPath);
        let place = |path: &str| {
            let (directory, name) = split(path);
            Ok::<_, Refused>((find(directory)?, name.to_owned().into_bytes()))
        };
        let flags = WriteFlags::default();
        match self {
            Self::Create(path) => {
                let (parent, name) = place(path)?;
                let ino = fs.create(&CALLER, parent, &name, 0o644)?.ino;
                fs.release(ino, None);
                fs.forget(ino, 1);
                return Ok(Some(ino));
            }
            Self::Mkdir(path) => {
                let (parent, name) = place(path)?;
                let ino = fs.mkdir(&CALLER, parent, &name, 0o755)?.ino;
                fs.forget(ino, 1);
                return Ok(Some(ino));
            }
            Self::Symlink(path) => {
                let (parent, name) = place(path)?;
                let ino = fs.symlink(&CALLER, parent, &name, target(path).as_bytes())?.ino;
                fs.forget(ino, 1);
                return Ok(Some(ino));
            }
            Self::Write(path, offset, length, seed) => {
                let written = fs.write(find(path)?, *offset, &bytes(*seed, *length), flags)?;
                assert_eq!(written as u64, *length, "a short write");
            }
            Self::Append(path, length, seed) => {
                fs.append(find(path)?, &bytes(*seed, *length), flags)?;
            }
            Self::Truncate(path, size) => {
                let changes = SetAttributes { size: Some(*size), ..SetAttributes::default() };
                fs.setattr(&CALLER, find(path)?, &changes)?;
            }
            Self::Chmod(path, permissions) => {
                let changes = SetAttributes { permissions: Some(*permissions), ..SetAttributes::default() };
                fs.setattr(&CALLER, find(path)?, &changes)?;
            }
            Self::Allocate(path, offset, length, keep_size) => {
                fs.fallocate(
                    find(path)?,
                    FallocateMode::Allocate { keep_size: *keep_size },
                    *offset,
                    *length,
                    WriteFlags::default(),
                )?;
            }
            Self::Punch(path, offset, length) => {
                fs.fallocate(find(path)?, FallocateMode::PunchHole, *offset, *length, WriteFlags::default())?;
            }
            Self::Zero(path, offset, length) => {
                fs.fallocate(
                    find(path)?,
                    FallocateMode::ZeroRange { keep_size: false },
                    *offset,
                    *length,
                    WriteFlags::default(),
                )?;
            }
            Self::Collapse(path, offset, length) => {
                fs.fallocate(
                    find(path)?,
                    FallocateMode::CollapseRange,
                    *offset,
                    *length,
                    WriteFlags::default(),
                )?;
            }
            Self::Insert(path, offset, length) => {
                fs.fallocate(
                    find(path)?,
                    FallocateMode::InsertRange,
                    *offset,
                    *length,
                    WriteFlags::default(),
                )?;
            }
            Self::Copy(from, to, length) => {
                fs.copy_file_range(find(from)?, 0, find(to)?, 0, *length, WriteFlags::default())?;
            }
            Self::Link(from, to) => {
                let (parent, name) = place(to)?;
                let ino = fs.link(find(from)?, parent, &name)?.ino;
                fs.forget(ino, 1);
            }
            Self::Unlink(path) => {
                let (parent, name) = place(path)?;
                fs.unlink(parent, &name)?;
            }
            Self::Rmdir(path) => {
                let (parent, name) = place(path)?;
                fs.rmdir(parent, &name)?;
            }
            Self::Rename(from, to) | Self::Exchange(from, to) => {
                let ((parent, name), (new_parent, new_name)) = (place(from)?, place(to)?);
                let flags =
                    RenameFlags { exchange: matches!(self, Self::Exchange(..)), ..RenameFlags::default() };
                fs.rename(parent, &name, new_parent, &new_name, flags)?;
            }
            Self::SetXattr(path, name, length, seed) => {
                let value = bytes(*seed, *length);
                fs.setxattr(find(path)?, name.as_bytes(), &value, SetXattrFlags::default())?;
            }
            Self::RemoveXattr(path, name) => fs.removexattr(find(path)?, name.as_bytes())?,
            Self::Hold(path) => fs.open(find(path)?, OpenFlags::default())?,
            Self::Fsync(path) => fs.fsync(find(path)?, false)?,
            Self::Fdatasync(path) => fs.fsync(find(path)?, true)?,
            Self::Sync => fs.syncfs()?,
            Self::WriteBack => fs.store().write_back().map_err(FsError::from)?,
            Self::Checkpoint => fs.store().checkpoint().map_err(FsError::from)?,
            Self::Reclaim => fs.store().reclaim().map_err(FsError::from)?,
            Self::Snapshot(name) => match fs.store().snapshot_create(name) {
                Ok(()) => {}
                Err(blocktree_engine::SnapshotError::Store(error)) => {
                    return Err(FsError::from(error).into());
                }
                Err(error) => panic!("snapshot {name}: {error}"),
            },
            Self::DeleteSnapshot(name) => {
                if !fs.store().snapshot_delete(name).map_err(FsError::from)? {
                    return Err(Refused::NoPath);
                }
            }
        }
        Ok(None)
    }
}

/// Where the symlink at `path` points.
pub(crate) fn target(path: &str) -> String {
    format!("target of {path}")
}
