//! What stat(2) shows of an inode, and what chmod, chown, truncate and utimensat change.

use crate::Ino;
use crate::layout::{Attributes, FileKind, Time};

/// What stat(2) and statx(2) show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub ino: Ino,
    pub kind: FileKind,
    /// Permission bits with set-user-id, set-group-id and sticky: `0o7777`, without the type.
    pub permissions: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// As `makedev(3)` packs it for Linux; 0 for what is no device.
    pub rdev: u32,
    /// In bytes.
    pub size: u64,
    /// Occupied, in units of 512 bytes.
    pub blocks: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub btime: Time,
}

impl Stat {
    pub(crate) fn new(ino: Ino, attributes: &Attributes, sectors: u64) -> Self {
        Self {
            ino,
            kind: attributes.kind,
            permissions: attributes.permissions,
            nlink: attributes.nlink,
            uid: attributes.uid,
            gid: attributes.gid,
            rdev: attributes.rdev,
            size: attributes.size,
            blocks: sectors.saturating_mul(8),
            atime: attributes.atime,
            mtime: attributes.mtime,
            ctime: attributes.ctime,
            btime: attributes.btime,
        }
    }

    /// `st_mode`: the type and the permissions.
    pub fn mode(&self) -> u32 {
        self.kind.mode() | self.permissions
    }
}

/// A time to set: a given one, or that of the clock when the change happens (`UTIME_NOW`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    Now,
    At(Time),
}

/// What setattr changes; `None` stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttributes {
    /// New permission bits (`0o7777`; bits of the type are ignored).
    pub permissions: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// Only a kernel with a write-back cache sets this; otherwise it becomes now with any other change.
    pub ctime: Option<SetTime>,
    /// With `size`: clear set-user-id, set-group-id and capabilities as a write does
    /// (`FATTR_KILL_SUIDGID`). A change of owner always does.
    pub kill_privileges: bool,
}
