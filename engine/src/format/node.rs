//! Index nodes: 16 KiB, a clear nonce and then ciphertext under the structure key.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::KeyBytes;

/// `BTND`, the first bytes of a decrypted node.
pub const NODE_MAGIC: u32 = u32::from_le_bytes(*b"BTND");

/// The head of a node. Only the nonce is in the clear; the rest of the node is encrypted as sectors 0 to 3 of a
/// sealed run, the last of them 16 bytes short.
///
/// A leaf (level 0):
///
/// ```text
/// 0         32                 32 + 21 * count        offset of the first value      16384
/// | header  | Slot, by key ... | zeros                | values, in the order of slots    |
/// ```
///
/// The values touch each other and the last one ends with the node, so a leaf has one encoding only. There is
/// at least one slot; a value may be empty, and is never longer than [`crate::limits::ITEM_BYTES_MAX`].
///
/// An inner node, whose children are one level lower:
///
/// ```text
/// 0         32                      32 + 65 * count                                  16384
/// | header  | Child, by lowest ...  | zeros                                              |
/// ```
///
/// It has at least two children, none younger than itself. The lowest key of a child is exactly the first key
/// of that node, and all its keys are below the lowest key of the next child.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NodeHeader {
    pub nonce: [u8; 16],
    pub magic: U32,
    /// 0 for a leaf.
    pub level: u8,
    /// Zero.
    pub reserved: u8,
    /// How many slots or children follow.
    pub count: U16,
    /// The sequence number of the checkpoint that wrote it.
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

/// A leaf's slot.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Slot {
    pub key: KeyBytes,
    /// Where the value begins, in bytes from the start of the node.
    pub offset: U16,
    /// How long it is, in bytes.
    pub length: U16,
}
const _: () = assert!(size_of::<Slot>() == 21);

/// An inner node's child.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Child {
    pub lowest: KeyBytes,
    pub ptr: NodePtr,
}
const _: () = assert!(size_of::<Child>() == 65);
