//! The space table: which sectors are in use, as of a checkpoint.
//!
//! A hash tree with fixed homes. Each region has a bitmap of one sector; a hundred bitmaps are named by one
//! table sector, a hundred of those by one above, and the superblock names the top. Every one of these has
//! two homes, side by side in the header of the first region that it covers, and a checkpoint writes the one
//! that the last checkpoint does not use. So writing the table never allocates, and never harms what the last
//! checkpoint needs.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::limits::{REGION_SECTORS, SECTOR_BYTES, SPACE_FANOUT, SPACE_LEVELS};

/// Names a bitmap or a table sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SpaceEntry {
    /// BLAKE3 of the sector. All zero where nothing was ever written: every sector below is free.
    pub hash: [u8; 32],
    /// Of a bitmap: its free sectors, and those of them that only index nodes may use. 0 of a table sector.
    pub free: U16,
    pub free_reserve: U16,
    /// Which of the two homes holds it: 0 or 1.
    pub slot: u8,
    pub reserved: [u8; 3],
}
const _: () = assert!(size_of::<SpaceEntry>() == 40);

/// A table sector.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SpaceTable {
    pub entries: [SpaceEntry; SPACE_FANOUT],
    pub reserved: [u8; SECTOR_BYTES - SPACE_FANOUT * 40],
}
const _: () = assert!(size_of::<SpaceTable>() == SECTOR_BYTES);

impl SpaceTable {
    /// Where the bitmap (level 0) or the table sector (levels 1 to 3) with this index at its level stands.
    pub fn home(level: usize, index: u64, slot: u8) -> u64 {
        assert!(level <= SPACE_LEVELS && slot < 2);
        let regions_each = (SPACE_FANOUT as u64).pow(level as u32);
        index * regions_each * REGION_SECTORS + 2 * level as u64 + u64::from(slot)
    }
}
