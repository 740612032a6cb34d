//! The head of a block: its key under the owner's, and how much it holds.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A wrapped key: a nonce of 12 bytes, the 32 bytes under AES-256-GCM, the tag of 16.
pub const WRAPPED_KEY_BYTES: usize = 12 + 32 + 16;
/// The id of a block that an item names, in its clear part.
pub const LINK_BYTES: usize = size_of::<super::BlockId>();

/// The fixed part of a header item; the sealed attributes follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct BlockHeader {
    /// The block's newest key under the owner key, or under one derived from it, bound to the block's id.
    pub owner_key: [u8; WRAPPED_KEY_BYTES],
    /// Which of the block's keys that is: the number of the rotation that made it, 0 for the first.
    pub epoch: U32,
    /// Sectors that the block's extents cover, little-endian.
    pub sectors: [u8; 7],
    /// How many sectors one hash covers, as powers of two: of new data at most in the low four bits, of any data at most
    /// in the high four.
    pub units: u8,
    /// A directory that all names of the block are below or in; 0 of the root.
    pub home: U64,
    /// The readcap whose key wraps `owner_key`; 0: the owner key itself does.
    pub wrapped_by: U64,
}
const _: () = assert!(size_of::<BlockHeader>() == 88);

impl BlockHeader {
    pub fn sectors(&self) -> u64 {
        self.sectors.iter().rev().fold(0, |sectors, byte| sectors << 8 | u64::from(*byte))
    }

    /// What stands in the header for so many sectors: no block has more than 2^51.
    pub fn encode_sectors(sectors: u64) -> [u8; 7] {
        *sectors.to_le_bytes().first_chunk().expect("seven of eight")
    }
}
