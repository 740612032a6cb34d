//! copy_file_range(2).

use blocktree_engine::limits::{CLONE_SECTORS_MAX, SECTOR_BYTES};

use super::attributes::FILE_BYTES_MAX;
use super::flags::check_unrestricted;
use super::{Fs, WriteFlags};
use crate::events::{Intent, Mask, Range};
use crate::inode::{Inode, lock_all};
use crate::journal::Happened;
use crate::layout::FileKind;
use crate::{FsError, Ino, Result};

use super::change::Change;

const SECTOR: u64 = SECTOR_BYTES as u64;
/// What one call copies at most where it cannot share; the kernel or the program asks again.
const COPY_BYTES_MAX: u64 = 4 << 20;

impl Fs {
    /// Copies up to `length` bytes, sharing whole sectors where both offsets lie alike in theirs; answers how many
    /// bytes. Fewer than asked for at the source's end and for long ranges.
    pub fn copy_file_range(
        &self,
        source: Ino,
        source_offset: u64,
        target: Ino,
        target_offset: u64,
        length: u64,
        flags: WriteFlags,
    ) -> Result<u64> {
        let to = self.writable_file(target)?;
        let from = self.inode(source)?;
        match from.attributes().kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(FsError::IsDirectory),
            _ => return Err(FsError::Invalid("only files have bytes to copy")),
        }
        let in_range = |offset: u64| offset.checked_add(length).is_some_and(|end| end <= FILE_BYTES_MAX);
        if !in_range(source_offset) || !in_range(target_offset) {
            return Err(FsError::TooLarge);
        }
        let overlaps = source_offset < target_offset + length && target_offset < source_offset + length;
        if source == target && overlaps {
            return Err(FsError::Invalid("ranges of one file that overlap"));
        }
        let range = Range { start: target_offset, end: target_offset + length };
        self.announce(Mask::DATA, || Intent::Data { ino: target, range })?;
        let _guards = lock_all(&[&from, &to])?;
        check_unrestricted(&to)?;
        let length = length.min(from.attributes().size.saturating_sub(source_offset));
        if length == 0 {
            return Ok(0);
        }
        let mut change = self.change()?;
        let copied = if source_offset % SECTOR == target_offset % SECTOR {
            self.share(&mut change, &from, source_offset, &to, target_offset, length)?
        } else {
            let length = length.min(COPY_BYTES_MAX);
            self.copy(&mut change, &from, source_offset, &to, target_offset, length)?;
            length
        };
        if flags.kill_privileges {
            self.drop_privileges(&mut change, &to)?;
        }
        let now = change.now;
        let end = target_offset + copied;
        let attributes = change.edit(&to);
        attributes.size = attributes.size.max(end);
        attributes.mtime = now;
        attributes.ctime = now;
        change.commit(Happened::Data { inode: &to, range: Range { start: target_offset, end } })?;
        self.accessed(&from);
        Ok(copied)
    }

    /// Shares the whole sectors and copies the parts at both ends.
    fn share(
        &self,
        change: &mut Change<'_>,
        from: &Inode,
        source_offset: u64,
        to: &Inode,
        target_offset: u64,
        length: u64,
    ) -> Result<u64> {
        let head = (source_offset.next_multiple_of(SECTOR) - source_offset).min(length);
        let sectors = ((length - head) / SECTOR).min(CLONE_SECTORS_MAX);
        let mut copied = head + sectors * SECTOR;
        if sectors < CLONE_SECTORS_MAX {
            copied = length;
        }
        let tail = copied - head - sectors * SECTOR;
        self.copy(change, from, source_offset, to, target_offset, head)?;
        if sectors > 0 {
            let (source_sector, target_sector) =
                ((source_offset + head) / SECTOR, (target_offset + head) / SECTOR);
            change.transaction.clone_range(&from.block, source_sector, &to.block, target_sector, sectors)?;
        }
        let done = copied - tail;
        self.copy(change, from, source_offset + done, to, target_offset + done, tail)?;
        Ok(copied)
    }

    fn copy(
        &self,
        change: &mut Change<'_>,
        from: &Inode,
        source_offset: u64,
        to: &Inode,
        target_offset: u64,
        length: u64,
    ) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        let mut bytes = vec![0; length as usize];
        self.store.read(&from.block, source_offset, &mut bytes)?;
        change.transaction.write(&to.block, target_offset, &bytes)?;
        Ok(())
    }
}
