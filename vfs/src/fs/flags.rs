//! What chattr(1) sets on files and directories, and what it forbids: as ext4 and Linux's `fs/namei.c` have it.
//!
//! An immutable inode does not change; an append-only one only grows: a file at its end, a directory by names. What is
//! forbidden fails with EPERM, for root too; setting the flags is for CAP_LINUX_IMMUTABLE, which the kernel checks.

use crate::events::{Intent, Mask};
use crate::inode::Inode;
use crate::journal::Happened;
use crate::layout::{Attributes, FileKind};
use crate::stat::SetTime;
use crate::{FileFlags, FsError, Ino, Result, SetAttributes};

use super::{Fs, OpenFlags, WriteFlags};

const IMMUTABLE: FsError = FsError::NotPermitted("it is immutable (chattr +i)");
const APPEND_ONLY: FsError = FsError::NotPermitted("it is append-only (chattr +a)");

impl Fs {
    pub fn file_flags(&self, ino: Ino) -> Result<FileFlags> {
        let inode = self.inode(ino)?;
        can_have_flags(&inode)?;
        Ok(inode.attributes().file_flags)
    }

    pub fn set_file_flags(&self, ino: Ino, flags: FileFlags) -> Result<()> {
        self.announce(Mask::ATTRIBUTES, || Intent::Attributes { ino, permissions: None })?;
        let inode = self.inode(ino)?;
        can_have_flags(&inode)?;
        let _guard = inode.lock()?;
        let mut change = self.change()?;
        let now = change.now;
        let attributes = change.edit_metadata(&inode);
        attributes.file_flags = flags;
        attributes.ctime = now;
        change.commit(Happened::Attributes { inode: &inode })?;
        Ok(())
    }
}

fn can_have_flags(inode: &Inode) -> Result<()> {
    match inode.attributes().kind {
        FileKind::Regular | FileKind::Directory => Ok(()),
        _ => Err(FsError::NotSupported("flags are for files and directories")),
    }
}

/// What a new inode gets of the flags of its directory.
pub(super) fn inherited_flags(above: &Attributes) -> FileFlags {
    FileFlags { immutable: false, append_only: false, ..above.file_flags }
}

pub(super) fn check_mutable(inode: &Inode) -> Result<()> {
    if inode.attributes().file_flags.immutable { Err(IMMUTABLE) } else { Ok(()) }
}

/// Neither immutable nor append-only.
pub(super) fn check_unrestricted(inode: &Inode) -> Result<()> {
    check_mutable(inode)?;
    if inode.attributes().file_flags.append_only { Err(APPEND_ONLY) } else { Ok(()) }
}

/// What is opened to be written to or truncated.
pub(super) fn check_open(inode: &Inode, flags: OpenFlags) -> Result<()> {
    check_mutable(inode)?;
    match inode.attributes().file_flags.append_only && (!flags.append || flags.truncate) {
        true => Err(APPEND_ONLY),
        false => Ok(()),
    }
}

/// Whoever wrote into the kernel's cache was let in, and must not lose it.
pub(super) fn check_write(inode: &Inode, offset: u64, flags: WriteFlags) -> Result<()> {
    if flags.from_cache {
        return Ok(());
    }
    check_mutable(inode)?;
    let attributes = inode.attributes();
    match attributes.file_flags.append_only && offset < attributes.size {
        true => Err(APPEND_ONLY),
        false => Ok(()),
    }
}

/// Linux's `notify_change`: touching an append-only file is allowed, setting any other time is not.
pub(super) fn check_set(inode: &Inode, changes: &SetAttributes) -> Result<()> {
    let SetAttributes { permissions, uid, gid, size, atime, mtime, ctime, .. } = changes;
    let only_times = permissions.is_none() && uid.is_none() && gid.is_none() && size.is_none();
    // A kernel with a write-back cache sends its own ctime with each change, and its own time for "now".
    let is_now =
        |time: &Option<SetTime>| matches!(time, Some(SetTime::Now)) || (time.is_some() && ctime.is_some());
    if only_times && matches!(atime, Some(SetTime::Now)) && is_now(mtime) {
        return check_mutable(inode);
    }
    // It also writes back the times of what it let in while somebody may still write.
    if only_times && atime.is_none() && ctime.is_some() && inode.is_open() {
        return Ok(());
    }
    check_unrestricted(inode)
}
