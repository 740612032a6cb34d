//! Access slots: the structure key of a store, sealed to each principal that may have it.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{FORMAT_VERSION, Malformed, OTHER_VERSION, SEALED_BOX_BYTES, malformed};
use crate::limits::{ACCESS_SLOTS, SECTOR_BYTES};

pub const ACCESS_MAGIC: [u8; 8] = *b"BTACCESS";

/// Flag of an access slot: it holds the owner key too.
pub const ACCESS_OWNER: u32 = 1;

/// [`AccessSecrets`], sealed to a principal: public key, nonce, ciphertext, tag. All zeros: free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct AccessSlot {
    pub sealed: [u8; SEALED_BOX_BYTES + size_of::<AccessSecrets>()],
}
const _: () = assert!(size_of::<AccessSlot>() == 164);

impl AccessSlot {
    pub fn is_free(&self) -> bool {
        self.sealed.iter().all(|byte| *byte == 0)
    }
}

/// A sector of access slots. Each has a copy behind the log; of the two, the valid one with the higher generation
/// counts.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct AccessSector {
    pub magic: [u8; 8],
    pub version: U32,
    pub reserved0: U32,
    /// Counts how often this sector was written.
    pub generation: U64,
    pub store_id: [u8; 16],
    pub slots: [AccessSlot; ACCESS_SLOTS],
    pub reserved1: [u8; 88],
    /// `blake3("blocktree access slots v1", everything before)`: only against writes that were torn.
    pub hash: [u8; 32],
}
const _: () = assert!(size_of::<AccessSector>() == SECTOR_BYTES);

impl AccessSector {
    /// What the hash covers.
    pub fn hashed_bytes(&self) -> &[u8] {
        &self.as_bytes()[..SECTOR_BYTES - 32]
    }

    /// Reads a sector; who calls compares its hash.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        const WHAT: &str = "access slots";
        let (sector, _) = Self::read_from_prefix(bytes).map_err(|_| malformed(WHAT, "too short"))?;
        if sector.magic != ACCESS_MAGIC {
            return Err(malformed(WHAT, "no magic number"));
        }
        if sector.version.get() != FORMAT_VERSION {
            return Err(malformed(WHAT, OTHER_VERSION));
        }
        Ok(sector)
    }
}

/// What an access slot gives.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Zeroize, ZeroizeOnDrop)]
#[repr(C)]
pub struct AccessSecrets {
    /// Encrypts index nodes and log records.
    pub structure_key: [u8; 32],
    /// Wraps every block key; zeros without [`ACCESS_OWNER`].
    pub owner_key: [u8; 32],
    /// Which principal the store belongs to, as whoever made the slot says.
    pub root_principal: [u8; 32],
    /// 1: [`ACCESS_OWNER`].
    #[zeroize(skip)]
    pub flags: U32,
    #[zeroize(skip)]
    pub reserved: U32,
}
const _: () = assert!(size_of::<AccessSecrets>() == 104);
