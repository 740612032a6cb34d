//! fallocate(2): holes, zeros, and ranges that go or come in the middle.

use std::sync::Arc;

use blocktree_engine::limits::{CLONE_SECTORS_MAX, SECTOR_BYTES};

use super::attributes::FILE_BYTES_MAX;
use super::change::Change;
use super::flags::{check_mutable, check_unrestricted};
use super::{FallocateMode, Fs, WriteFlags};
use crate::events::{Intent, Mask, Range};
use crate::inode::Inode;
use crate::journal::Happened;
use crate::{FsError, Ino, Result};

const SECTOR: u64 = SECTOR_BYTES as u64;

/// What a step of a long move counts at least, in sectors: its two ends have a price too.
const MOVE_COST_MIN: u64 = 32;

impl Fs {
    /// One transaction, except that collapsing or inserting before more than [`CLONE_SECTORS_MAX`] sectors, or in
    /// more pieces of `length` than that allows, takes several: a crash, or no space, in the middle leaves a part of the range
    /// moved and the old length.
    pub fn fallocate(
        &self,
        ino: Ino,
        mode: FallocateMode,
        offset: u64,
        length: u64,
        flags: WriteFlags,
    ) -> Result<()> {
        if length == 0 {
            return Err(FsError::Invalid("a range without bytes"));
        }
        let end = offset.checked_add(length).filter(|&end| end <= FILE_BYTES_MAX).ok_or(FsError::TooLarge)?;
        let inode = self.writable_file(ino)?;
        let moves = matches!(mode, FallocateMode::CollapseRange | FallocateMode::InsertRange);
        let range = Range { start: offset, end: if moves { u64::MAX } else { end } };
        self.announce(Mask::DATA, || Intent::Data { ino, range })?;
        let _guard = inode.lock()?;
        match mode {
            FallocateMode::Allocate { .. } => check_mutable(&inode)?,
            _ => check_unrestricted(&inode)?,
        }
        let size = inode.attributes().size;
        let mut change = self.change()?;
        let new_size = match mode {
            FallocateMode::Allocate { keep_size } => {
                self.check_space(&inode, offset, end)?;
                if keep_size { size } else { size.max(end) }
            }
            FallocateMode::PunchHole => {
                self.zero(&mut change, &inode, offset, end, size)?;
                size
            }
            FallocateMode::ZeroRange { keep_size } => {
                self.zero(&mut change, &inode, offset, end, size)?;
                if keep_size { size } else { size.max(end) }
            }
            FallocateMode::CollapseRange => {
                check_aligned(offset, length)?;
                if end >= size {
                    return Err(FsError::Invalid("a collapsed range ends before the file does"));
                }
                change = self.collapse(change, &inode, offset / SECTOR, end / SECTOR, size)?;
                size - length
            }
            FallocateMode::InsertRange => {
                check_aligned(offset, length)?;
                if offset >= size {
                    return Err(FsError::Invalid("a range is inserted before the file's end"));
                }
                if size + length > FILE_BYTES_MAX {
                    return Err(FsError::TooLarge);
                }
                change = self.insert(change, &inode, offset / SECTOR, length / SECTOR, size)?;
                size + length
            }
        };
        if flags.kill_privileges {
            self.drop_privileges(&mut change, &inode)?;
        }
        let now = change.now;
        let attributes = change.edit(&inode);
        attributes.size = new_size;
        attributes.mtime = now;
        attributes.ctime = now;
        change.commit(Happened::Data { inode: &inode, range })?;
        Ok(())
    }

    /// Nothing is reserved, since a sector gets its place when it is written; but what cannot fit fails now.
    fn check_space(&self, inode: &Inode, offset: u64, end: u64) -> Result<()> {
        let sectors = end.div_ceil(SECTOR) - offset / SECTOR;
        let missing = sectors - sectors.min(inode.block.sectors());
        if missing > self.store.usage().free { Err(FsError::NoSpace) } else { Ok(()) }
    }

    /// Lets a range read as zeros: a hole where it covers whole sectors, zeros written elsewhere.
    fn zero(&self, change: &mut Change<'_>, inode: &Inode, start: u64, end: u64, size: u64) -> Result<()> {
        // What lies past the end is zeros already; a hole to the end takes the last sector with it.
        let end = if end >= size { size.next_multiple_of(SECTOR) } else { end };
        if start >= end {
            return Ok(());
        }
        let (first, last) = (start.div_ceil(SECTOR), end / SECTOR);
        if first > last {
            return self.zero_part(change, inode, start, end);
        }
        self.zero_part(change, inode, start, first * SECTOR)?;
        if first < last {
            self.punch(change, inode, first, last)?;
        }
        self.zero_part(change, inode, last * SECTOR, end)
    }

    /// Makes sectors a hole. Where they are too fragmented for one transaction, all but the last part of them goes
    /// in transactions of its own.
    fn punch(&self, change: &mut Change<'_>, inode: &Inode, first: u64, last: u64) -> Result<()> {
        let (mut first, mut sectors) = (first, last - first);
        loop {
            let end = first + sectors;
            let mut part = self.store.transaction();
            let transaction = if end == last { &mut change.transaction } else { &mut part };
            match transaction.punch(&inode.block, first, end) {
                Err(blocktree_engine::Error::TooLong) if sectors > 1 => sectors /= 2,
                result => {
                    result?;
                    if end == last {
                        return Ok(());
                    }
                    inode.changed_by(part.apply()?);
                    (first, sectors) = (end, last - end);
                }
            }
        }
    }

    /// Zeros a part of one sector, unless that is a hole.
    pub(super) fn zero_part(
        &self,
        change: &mut Change<'_>,
        inode: &Inode,
        start: u64,
        end: u64,
    ) -> Result<()> {
        if start >= end {
            return Ok(());
        }
        let sector_start = start - start % SECTOR;
        if self.store.seek(&inode.block, sector_start, sector_start + SECTOR, false)?.is_some() {
            const ZEROS: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];
            change.transaction.write(&inode.block, start, &ZEROS[..(end - start) as usize])?;
        }
        Ok(())
    }

    /// Moves the sectors from `from` on down to `to`, first to last, and ends the file's data after them.
    fn collapse<'a>(
        &'a self,
        mut change: Change<'a>,
        inode: &Arc<Inode>,
        to: u64,
        from: u64,
        size: u64,
    ) -> Result<Change<'a>> {
        let distance = from - to;
        let end = size.div_ceil(SECTOR);
        let mut at = from;
        let mut moved = 0;
        while at < end {
            let data = self.store.seek(&inode.block, at * SECTOR, end * SECTOR, false)?;
            let data = data.map_or(end, |offset| offset / SECTOR).max(at);
            if data > at {
                change.transaction.punch(&inode.block, at - distance, data - distance)?;
                at = data;
                moved += MOVE_COST_MIN;
            } else {
                let sectors = distance.min(end - at).min(CLONE_SECTORS_MAX - moved);
                change.transaction.clone_range(&inode.block, at, &inode.block, at - distance, sectors)?;
                at += sectors;
                moved += sectors.max(MOVE_COST_MIN);
            }
            if moved >= CLONE_SECTORS_MAX && at < end {
                change = self.next_step(change, inode)?;
                moved = 0;
            }
        }
        change.transaction.punch(&inode.block, end - distance, u64::MAX / SECTOR)?;
        Ok(change)
    }

    /// Moves the sectors from `from` on up by `distance`, last to first, and leaves a hole.
    fn insert<'a>(
        &'a self,
        mut change: Change<'a>,
        inode: &Arc<Inode>,
        from: u64,
        distance: u64,
        size: u64,
    ) -> Result<Change<'a>> {
        let mut end = size.div_ceil(SECTOR);
        let mut moved = 0;
        while end > from {
            let sectors = distance.min(end - from).min(CLONE_SECTORS_MAX - moved);
            let start = end - sectors;
            match self.store.seek(&inode.block, start * SECTOR, end * SECTOR, false)? {
                None => change.transaction.punch(&inode.block, start + distance, end + distance)?,
                Some(_) => {
                    change.transaction.clone_range(
                        &inode.block,
                        start,
                        &inode.block,
                        start + distance,
                        sectors,
                    )?;
                }
            }
            moved += sectors.max(MOVE_COST_MIN);
            end = start;
            if moved >= CLONE_SECTORS_MAX && end > from {
                change = self.next_step(change, inode)?;
                moved = 0;
            }
        }
        change.transaction.punch(&inode.block, from, from + distance)?;
        Ok(change)
    }

    /// Commits what one transaction may hold of a long move, and goes on with the next.
    fn next_step<'a>(&'a self, mut change: Change<'a>, inode: &Arc<Inode>) -> Result<Change<'a>> {
        change.edit(inode).mtime = change.now;
        change.commit(Happened::Nothing)?;
        self.change()
    }
}

fn check_aligned(offset: u64, length: u64) -> Result<()> {
    match offset.is_multiple_of(SECTOR) && length.is_multiple_of(SECTOR) {
        true => Ok(()),
        false => Err(FsError::Invalid("a range of whole sectors is needed")),
    }
}
