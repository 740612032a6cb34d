//! The store's own items: they hang below the system block, or below a snapshot's id.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::NodePtr;

/// A snapshot; its name follows, sealed under the owner key.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SnapshotBytes {
    /// 0: its checkpoint is being written. 1: there. 2: its own nodes are being found. 3: its dead are freed.
    pub state: u8,
    pub reserved: [u8; 3],
    pub height: U32,
    /// The last record that it contains.
    pub seq: U64,
    pub time_ns: U64,
    pub next_block: U64,
    pub root: NodePtr,
}
const _: () = assert!(size_of::<SnapshotBytes>() == 80);

/// Sectors that more than one extent of the newest tree refers to.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SharedBytes {
    pub sectors: U32,
    /// How many extents refer to each of them: two or more.
    pub extents: U32,
}
const _: () = assert!(size_of::<SharedBytes>() == 8);

/// Sectors that died while a snapshot held them.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DeadBytes {
    pub sectors: U64,
    /// The record or checkpoint that wrote them.
    pub birth: U64,
}
const _: () = assert!(size_of::<DeadBytes>() == 16);

/// A block that is being emptied.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ReclaimBytes {
    /// Its extents from this sector on are dead.
    pub from: U64,
    /// 1: so is all the rest of it.
    pub destroy: u8,
}
const _: () = assert!(size_of::<ReclaimBytes>() == 9);

/// Sectors of a block whose extents were lost with a part of the index. What no extent covers there is not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LostBytes {
    /// The first, and one past the last.
    pub from: U64,
    pub to: U64,
}
const _: () = assert!(size_of::<LostBytes>() == 16);

/// New keys for a block and all below it; the item's offset is the number that these keys have.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RotationBytes {
    /// The block at the top.
    pub block: U64,
    /// 1: all of them have their key.
    pub is_complete: u8,
}
const _: () = assert!(size_of::<RotationBytes>() == 9);

/// A block that has older keys, or an extent that is sealed under one of another block.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct StaleBytes {
    /// All extents before this sector are sealed under the newest key.
    pub from: U64,
    /// 1: items of the upper layers may not be.
    pub items: u8,
}
const _: () = assert!(size_of::<StaleBytes>() == 9);
