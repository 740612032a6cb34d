//! The read path, and lseek's search for data and holes.

use blocktree_engine::Seq;

use super::{Fs, Whence};
use crate::inode::Inode;
use crate::layout::FileKind;
use crate::{FsError, Ino, Result};

/// relatime: an access time older than this is renewed even if nothing was modified since.
const ACCESS_SECONDS_MAX: i64 = 24 * 60 * 60;

impl Fs {
    /// Fills `bytes` from `offset` on; fewer only at the end of the file. Marks an access (relatime).
    pub fn read(&self, ino: Ino, offset: u64, bytes: &mut [u8]) -> Result<usize> {
        let inode = self.inode(ino)?;
        let attributes = inode.attributes();
        match attributes.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(FsError::IsDirectory),
            _ => return Err(FsError::Invalid("only files have bytes to read")),
        }
        let left = attributes.size.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        if length > 0 {
            self.store.read(&inode.block, offset, &mut bytes[..length])?;
        }
        self.accessed(&inode);
        Ok(length)
    }

    /// The last operation that changed an inode's bytes, or more of it: while this stays the same, so do they. Somebody must
    /// hold the inode in between.
    pub fn last_change(&self, ino: Ino) -> Result<Seq> {
        Ok(self.inode(ino)?.state().data_changed)
    }

    /// Moves the access time in memory, as relatime has it; the next change or the last release writes it.
    pub(super) fn accessed(&self, inode: &Inode) {
        if self.options.no_atime || self.options.read_only {
            return;
        }
        let now = self.now();
        let mut state = inode.state();
        let attributes = &mut state.attributes;
        if attributes.file_flags.no_atime {
            return;
        }
        let stale = attributes.atime <= attributes.mtime
            || attributes.atime <= attributes.ctime
            || now.seconds.saturating_sub(attributes.atime.seconds) >= ACCESS_SECONDS_MAX;
        if stale && attributes.atime != now {
            attributes.atime = now;
            state.atime_pending = true;
        }
    }

    /// The first byte of data, or of a hole, from `offset` on. The end of the file counts as a hole.
    pub fn seek(&self, ino: Ino, offset: u64, whence: Whence) -> Result<u64> {
        let inode = self.inode(ino)?;
        let attributes = inode.attributes();
        if attributes.kind != FileKind::Regular {
            return Err(FsError::Invalid("only files have holes"));
        }
        if offset >= attributes.size {
            return Err(FsError::PastEnd);
        }
        let hole = whence == Whence::Hole;
        let found = self.store.seek(&inode.block, offset, attributes.size, hole)?;
        match (found, hole) {
            (Some(at), _) => Ok(at.max(offset).min(attributes.size)),
            (None, true) => Ok(attributes.size),
            (None, false) => Err(FsError::PastEnd),
        }
    }
}
