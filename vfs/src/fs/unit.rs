//! How many bytes of a file have one hash: an extended attribute that is kept in the block's header.
//!
//! A long unit suits what is written and read from end to end; where little is read at a time it costs, since a unit is
//! read whole. A directory's is what new files and directories in it get.

use blocktree_engine::Block;
use blocktree_engine::limits::{EXTENT_SECTORS_MAX, SECTOR_BYTES};

use super::Fs;
use super::change::Change;
use crate::inode::Inode;
use crate::layout::FileKind;
use crate::{FsError, Result};

/// The attribute. Its value is a number of bytes, or of KiB with a `k` behind it.
pub const NAME_UNIT: &[u8] = b"user.blocktree.unit";

/// What the attribute says, if the file has units of more than one sector.
pub(super) fn value_of(block: &Block) -> Option<Vec<u8>> {
    let unit = block.unit();
    (unit > 1).then(|| format!("{}k", (unit * SECTOR_BYTES as u64) >> 10).into_bytes())
}

/// A unit in bytes: a power of two from 4 KiB to 128 KiB.
pub fn parse_unit(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let bytes: u64 = match text.strip_suffix(['k', 'K']) {
        Some(kib) => kib.parse::<u64>().ok()?.checked_mul(1 << 10)?,
        None => text.parse().ok()?,
    };
    let range = SECTOR_BYTES as u64..=(EXTENT_SECTORS_MAX * SECTOR_BYTES) as u64;
    (bytes.is_power_of_two() && range.contains(&bytes)).then_some(bytes)
}

/// Sets the unit of what is written to a file from now on, or of what is made in a directory; `None`: as it was.
pub(super) fn put_unit(change: &mut Change<'_>, inode: &Inode, value: Option<&[u8]>) -> Result<()> {
    let bytes = match value {
        Some(value) => {
            parse_unit(value).ok_or(FsError::Invalid("a unit is a power of two from 4k to 128k"))?
        }
        None => SECTOR_BYTES as u64,
    };
    change.transaction.set_unit(&inode.block, bytes / SECTOR_BYTES as u64);
    Ok(())
}

impl Fs {
    /// What a new file or directory gets of its directory, or else of the mount.
    pub(super) fn inherit_unit(
        &self,
        change: &mut Change<'_>,
        directory: &Inode,
        block: &Block,
        kind: FileKind,
    ) {
        let unit = match directory.block.unit() {
            1 => self.options.unit_bytes / SECTOR_BYTES as u64,
            unit => unit,
        };
        if unit > 1 && matches!(kind, FileKind::Regular | FileKind::Directory) {
            change.transaction.set_unit(block, unit);
        }
    }
}
