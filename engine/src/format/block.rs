//! The head of a block: its key under the owner's, and how much it holds.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A wrapped key: a nonce of 12 bytes, the 32 bytes under AES-256-GCM, the tag of 16.
pub const WRAPPED_KEY_BYTES: usize = 12 + 32 + 16;

/// The fixed part of a header item; the sealed attributes follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct BlockHeader {
    /// The block's newest key under the owner key, or under one derived from it, bound to the block's id.
    pub owner_key: [u8; WRAPPED_KEY_BYTES],
    /// Which of the block's keys that is: the number of the rotation that made it, 0 for the first.
    pub epoch: U32,
    /// Sectors that the block's extents cover.
    pub sectors: U64,
    /// A directory that all names of the block are below or in; 0 of the root.
    pub home: U64,
    /// The readcap whose key wraps `owner_key`; 0: the owner key itself does.
    pub wrapped_by: U64,
}
const _: () = assert!(size_of::<BlockHeader>() == 88);
