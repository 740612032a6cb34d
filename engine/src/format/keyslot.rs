//! The key slot: the store's secrets under a passphrase, and the writecap of the node that signs.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A writecap: a certificate by which one principal lets another change a block and all below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CertificateBytes {
    /// 1: Ed25519 over `blake3("blocktree writecap v1", everything before the signature)`.
    pub version: U32,
    /// Bits: 1 read, 2 write, 4 pass on.
    pub rights: U32,
    /// The block at the top of what may be changed.
    pub block: U64,
    /// Seconds since 1970; `u64::MAX` where it does not end.
    pub not_before: U64,
    pub expires: U64,
    pub serial: U64,
    /// Public signing and encryption keys of who is trusted, then of who trusts.
    pub subject: [u8; 64],
    pub issuer: [u8; 64],
    pub signature: [u8; 64],
}
const _: () = assert!(size_of::<CertificateBytes>() == 232);

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
const _: () = assert!(size_of::<KeySlotHeader>() == 304);

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
    /// Seeds of the root principal's.
    pub root_seeds: [u8; 64],
    /// Which principal the store belongs to.
    pub root_principal: [u8; 32],
}
const _: () = assert!(size_of::<KeySlotSecrets>() == 224);
