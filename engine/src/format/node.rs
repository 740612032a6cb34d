//! Index nodes: 16 KiB, a clear nonce and then ciphertext under the structure key.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::KeyBytes;

/// `BTND`, the first bytes of a decrypted node.
pub const NODE_MAGIC: u32 = u32::from_le_bytes(*b"BTND");

/// The head of a node. Only the nonce is in the clear.
///
/// A leaf (level 0) has `count` slots `{key, value offset, value length}` of [`SLOT_BYTES`] right behind the
/// header, sorted by key, and the values packed against the end of the node. An inner node has `count`
/// children `{lowest key, pointer}` of [`CHILD_BYTES`].
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NodeHeader {
    pub nonce: [u8; 16],
    pub magic: U32,
    pub level: u8,
    pub reserved: u8,
    pub count: U16,
    pub birth: U64,
}
const _: () = assert!(size_of::<NodeHeader>() == 32);

/// Where a node is, what it hashes to, and which checkpoint wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NodePtr {
    /// The first of its sectors; 0 where there is no node.
    pub sector: U64,
    /// The sequence number of the checkpoint that wrote it.
    pub birth: U64,
    /// BLAKE3 of its 16 KiB as they stand on disk.
    pub hash: [u8; 32],
}
const _: () = assert!(size_of::<NodePtr>() == 48);

/// A leaf's slot: a key, the offset of the value from the start of the node, its length.
pub const SLOT_BYTES: usize = size_of::<KeyBytes>() + 4;
/// An inner node's child: its lowest key and its pointer.
pub const CHILD_BYTES: usize = size_of::<KeyBytes>() + size_of::<NodePtr>();
