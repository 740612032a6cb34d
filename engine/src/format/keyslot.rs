//! What a passphrase opens: the key slot with the node's secrets and its writecap, and the root slot with the root's.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::CertificateBytes;

/// The head of a key slot, in the clear. The sealed [`KeySlotSecrets`] follow (nonce, ciphertext, tag), then
/// zeros up to a sector. The seal also covers this head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct KeySlotHeader {
    pub magic: [u8; 8],
    pub version: U32,
    /// Argon2id: memory in KiB, passes, lanes.
    pub memory_kib: U32,
    pub passes: U32,
    pub lanes: U32,
    pub salt: [u8; 32],
    pub store_id: [u8; 16],
    pub certificate: CertificateBytes,
}
const _: () = assert!(size_of::<KeySlotHeader>() == 320);

impl KeySlotHeader {
    pub const MAGIC: [u8; 8] = *b"BTKEYSLT";
}

/// What a passphrase opens.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Zeroize, ZeroizeOnDrop)]
#[repr(C)]
pub struct KeySlotSecrets {
    /// Wraps every block key.
    pub owner_key: [u8; 32],
    /// Encrypts index nodes and log records.
    pub structure_key: [u8; 32],
    /// Seeds of the node's signing and encryption key pairs.
    pub node_seeds: [u8; 64],
    /// Which principal the store belongs to.
    pub root_principal: [u8; 32],
}
const _: () = assert!(size_of::<KeySlotSecrets>() == 160);

/// The head of the root slot, in the clear. The sealed [`RootSlotSecrets`] follow as in a key slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RootSlotHeader {
    pub magic: [u8; 8],
    pub version: U32,
    /// Argon2id: memory in KiB, passes, lanes.
    pub memory_kib: U32,
    pub passes: U32,
    pub lanes: U32,
    pub salt: [u8; 32],
    pub store_id: [u8; 16],
}
const _: () = assert!(size_of::<RootSlotHeader>() == 72);

impl RootSlotHeader {
    pub const MAGIC: [u8; 8] = *b"BTROOTSL";
}

/// What daily use does not need.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Zeroize, ZeroizeOnDrop)]
#[repr(C)]
pub struct RootSlotSecrets {
    /// Seeds of the root principal's signing and encryption key pairs.
    pub root_seeds: [u8; 64],
}
const _: () = assert!(size_of::<RootSlotSecrets>() == 64);
