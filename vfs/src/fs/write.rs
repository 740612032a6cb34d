//! The write path.

use std::sync::Arc;

use super::attributes::FILE_BYTES_MAX;
use super::flags::check_write;
use super::{Fs, WriteFlags};
use crate::events::{Intent, Mask, Range};
use crate::inode::Inode;
use crate::journal::Happened;
use crate::layout::FileKind;
use crate::{FsError, Ino, Result};

impl Fs {
    /// Writes all of `bytes`.
    pub fn write(&self, ino: Ino, offset: u64, bytes: &[u8], flags: WriteFlags) -> Result<usize> {
        let inode = self.writable_file(ino)?;
        let range = Range { start: offset, end: offset.saturating_add(bytes.len() as u64) };
        self.announce(Mask::DATA, || Intent::Data { ino, range })?;
        let _guard = inode.lock()?;
        check_write(&inode, offset, flags)?;
        self.write_locked(&inode, offset, bytes, flags)?;
        Ok(bytes.len())
    }

    /// Writes at the end, wherever it is by then; answers the offset.
    pub fn append(&self, ino: Ino, bytes: &[u8], flags: WriteFlags) -> Result<u64> {
        let inode = self.writable_file(ino)?;
        let range = Range { start: inode.attributes().size, end: u64::MAX };
        self.announce(Mask::DATA, || Intent::Data { ino, range })?;
        let _guard = inode.lock()?;
        let offset = inode.attributes().size;
        check_write(&inode, offset, flags)?;
        self.write_locked(&inode, offset, bytes, flags)?;
        Ok(offset)
    }

    fn write_locked(&self, inode: &Arc<Inode>, offset: u64, bytes: &[u8], flags: WriteFlags) -> Result<()> {
        let end = offset
            .checked_add(bytes.len() as u64)
            .filter(|&end| end <= FILE_BYTES_MAX)
            .ok_or(FsError::TooLarge)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let mut change = self.change()?;
        change.transaction.write(&inode.block, offset, bytes)?;
        if flags.kill_privileges {
            self.drop_privileges(&mut change, inode)?;
        }
        let now = change.now;
        let attributes = change.edit(inode);
        attributes.size = attributes.size.max(end);
        attributes.mtime = now;
        attributes.ctime = now;
        change.commit(Happened::Data { inode, range: Range { start: offset, end } })?;
        Ok(())
    }

    pub(super) fn writable_file(&self, ino: Ino) -> Result<Arc<Inode>> {
        self.writable()?;
        let inode = self.inode(ino)?;
        match inode.attributes().kind {
            FileKind::Regular => Ok(inode),
            FileKind::Directory => Err(FsError::IsDirectory),
            _ => Err(FsError::Invalid("only files have bytes to write")),
        }
    }
}
