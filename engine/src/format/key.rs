//! Keys of the index: which block, which kind of item, and where in it.

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Names a block for ever; never used again.
pub type BlockId = u64;

/// The items of the store itself hang below this id.
pub const SYSTEM_BLOCK: BlockId = 0;

/// What an item is. Kinds below 16 belong to the engine; the layers above choose theirs from 16 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemKind(pub u8);

impl ItemKind {
    /// A block's [`super::BlockHeader`] with its sealed attributes, at offset 0.
    pub const HEADER: Self = Self(0);
    /// An [`super::Extent`], at the offset of its first sector.
    pub const EXTENT: Self = Self(1);
    /// An older key of a block, wrapped under the newer, at the offset of its epoch.
    pub const OLD_KEY: Self = Self(2);
    /// System: whose an access slot is, at the offset of its number.
    pub const ACCESS: Self = Self(3);
    /// System: a readcap, at the offset of its serial.
    pub const READCAP: Self = Self(4);
    /// System: the end of a writecap, at the offset of its serial.
    pub const REVOCATION: Self = Self(5);
    /// System: new keys for a block and all below it, at the offset of the number that these keys have.
    pub const ROTATION: Self = Self(6);
    /// System: a block of which something stands under older keys, at the offset of its id.
    pub const STALE: Self = Self(7);
    /// System: a block that has no name any more and dies when nobody has it open.
    pub const ORPHAN: Self = Self(8);
    /// System: a block whose items from a sector on are being removed.
    pub const RECLAIM: Self = Self(9);
    /// System: sectors that several extents refer to; value: length and count.
    pub const SHARED: Self = Self(10);
    /// System: a named snapshot, at the offset of its checkpoint's sequence number.
    pub const SNAPSHOT: Self = Self(11);
    /// A snapshot's dead sectors: block is the system block, offset the sector; see `docs/FORMAT.md`.
    pub const DEAD: Self = Self(12);
    /// System: a writecap, at the offset of its serial.
    pub const WRITECAP: Self = Self(13);
    /// System: a range of a block that a repair had to give up: what no extent covers there cannot be read.
    pub const LOST: Self = Self(14);
    /// System: says that the block which is its offset is the journal. And of that block, an item of it, at the offset
    /// of the last operation that it holds a note of.
    pub const JOURNAL: Self = Self(15);
    /// The first kind of the layers above.
    pub const FIRST_FREE: Self = Self(16);
}

/// A key of the index, ordered by block, kind, offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub block: BlockId,
    pub kind: ItemKind,
    pub offset: u64,
}

impl Key {
    pub const MIN: Self = Self { block: 0, kind: ItemKind(0), offset: 0 };
    pub const MAX: Self = Self { block: u64::MAX, kind: ItemKind(u8::MAX), offset: u64::MAX };

    pub const fn new(block: BlockId, kind: ItemKind, offset: u64) -> Self {
        Self { block, kind, offset }
    }
}

/// A key as it stands on disk.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct KeyBytes {
    pub block: U64,
    pub kind: u8,
    pub offset: U64,
}
const _: () = assert!(size_of::<KeyBytes>() == 17);

impl From<Key> for KeyBytes {
    fn from(key: Key) -> Self {
        Self { block: key.block.into(), kind: key.kind.0, offset: key.offset.into() }
    }
}

impl From<&KeyBytes> for Key {
    fn from(bytes: &KeyBytes) -> Self {
        Self { block: bytes.block.get(), kind: ItemKind(bytes.kind), offset: bytes.offset.get() }
    }
}
