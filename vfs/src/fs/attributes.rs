//! getattr and setattr: stat, chmod, chown, truncate, utimensat. And readlink and statfs.

use std::sync::Arc;

use blocktree_engine::limits::SECTOR_BYTES;

use super::change::Change;
use super::flags::check_set;
use super::{Caller, Fs, Statfs};
use crate::events::{Intent, Mask, Range};
use crate::inode::Inode;
use crate::journal::Happened;
use crate::layout::{FileKind, NAME_BYTES_MAX, Time};
use crate::stat::SetTime;
use crate::{FsError, Ino, Result, SetAttributes, Stat};

/// The longest file: what an `off_t` reaches.
pub(super) const FILE_BYTES_MAX: u64 = i64::MAX as u64;

impl Fs {
    pub fn getattr(&self, ino: Ino) -> Result<Stat> {
        Ok(self.stat(&*self.inode(ino)?))
    }

    /// chmod, chown, truncate and utimensat, together if need be. Who may is the kernel's to check.
    pub fn setattr(&self, _caller: &Caller, ino: Ino, changes: &SetAttributes) -> Result<Stat> {
        let inode = self.inode(ino)?;
        self.set(&inode, changes)?;
        Ok(self.stat(&inode))
    }

    pub(super) fn set(&self, inode: &Arc<Inode>, changes: &SetAttributes) -> Result<()> {
        let ino = inode.ino;
        let range = changes.size.map(|start| Range { start, end: u64::MAX });
        if let Some(range) = range {
            self.announce(Mask::MODIFY, || Intent::Modify { ino })?;
            self.announce(Mask::DATA, || Intent::Data { ino, range })?;
        }
        let permissions = changes.permissions;
        if permissions.is_some() || changes.uid.is_some() || changes.gid.is_some() {
            self.announce(Mask::ATTRIBUTES, || Intent::Attributes { ino, permissions })?;
        }
        let _guard = inode.lock()?;
        check_set(inode, changes)?;
        let mut change = self.change()?;
        let now = change.now;
        if let Some(size) = changes.size {
            self.truncate(&mut change, inode, size)?;
            if changes.kill_privileges {
                self.drop_privileges(&mut change, inode)?;
            }
        }
        if let Some(permissions) = changes.permissions {
            let permissions = permissions & 0o7777;
            change.edit_metadata(inode).permissions = permissions;
            if inode.attributes().has_access_acl {
                self.set_acl_mode(&mut change, inode, permissions)?;
            }
        }
        if changes.uid.is_some() || changes.gid.is_some() {
            let attributes = change.edit_metadata(inode);
            let ids = &self.options.ids;
            if let Some(uid) = changes.uid {
                attributes.uid = ids.users.owner_given(uid, attributes.uid)?;
            }
            if let Some(gid) = changes.gid {
                attributes.gid = ids.groups.owner_given(gid, attributes.gid)?;
            }
            self.drop_privileges(&mut change, inode)?;
        }
        let attributes = change.edit_metadata(inode);
        if let Some(atime) = changes.atime {
            attributes.atime = chosen(atime, now)?;
        }
        if let Some(mtime) = changes.mtime {
            attributes.mtime = chosen(mtime, now)?;
        }
        attributes.ctime = match changes.ctime {
            Some(ctime) => chosen(ctime, now)?,
            None => now,
        };
        change.commit(match range {
            Some(range) => Happened::Data { inode, range },
            None => Happened::Attributes { inode },
        })?;
        Ok(())
    }

    fn truncate(&self, change: &mut Change<'_>, inode: &Arc<Inode>, size: u64) -> Result<()> {
        let attributes = inode.attributes();
        match attributes.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(FsError::IsDirectory),
            _ => return Err(FsError::Invalid("only files have a length to set")),
        }
        if size > FILE_BYTES_MAX {
            return Err(FsError::TooLarge);
        }
        if size < attributes.size {
            let sector_bytes = SECTOR_BYTES as u64;
            let sector_end = size.next_multiple_of(sector_bytes);
            self.zero_part(change, inode, size, sector_end)?;
            change.transaction.punch(&inode.block, size.div_ceil(sector_bytes), u64::MAX / sector_bytes)?;
        }
        let now = change.now;
        let attributes = change.edit(inode);
        attributes.size = size;
        attributes.mtime = now;
        Ok(())
    }

    /// Where a symlink leads.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        let attributes = inode.attributes();
        if attributes.kind != FileKind::Symlink {
            return Err(FsError::Invalid("not a symlink"));
        }
        let size = usize::try_from(attributes.size).ok().filter(|&size| size <= SECTOR_BYTES);
        let mut target = vec![0; size.ok_or(FsError::Malformed { ino, what: "length of a symlink" })?];
        self.store.read(&inode.block, 0, &mut target)?;
        self.accessed(&inode);
        Ok(target)
    }

    pub fn statfs(&self) -> Result<Statfs> {
        let usage = self.store.usage();
        Ok(Statfs {
            block_bytes: SECTOR_BYTES as u32,
            blocks: usage.capacity,
            blocks_free: usage.free,
            // A small inode with its entry takes about a tenth of a sector, but few trees are only those.
            files: usage.capacity,
            files_free: usage.free,
            name_bytes_max: NAME_BYTES_MAX as u32,
        })
    }
}

fn chosen(time: SetTime, now: Time) -> Result<Time> {
    match time {
        SetTime::Now => Ok(now),
        SetTime::At(time) if time.nanoseconds < 1_000_000_000 => Ok(time),
        SetTime::At(_) => Err(FsError::Invalid("nanoseconds are below 10^9")),
    }
}
