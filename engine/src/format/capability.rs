//! Capabilities as bytes: writecaps, their revocation, readcaps, and who has an access slot.

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
    /// Names it for ever: random, and never 0.
    pub serial: U64,
    pub store_id: [u8; 16],
    /// Public signing and encryption keys of who is trusted, then of who trusts.
    pub subject: [u8; 64],
    pub issuer: [u8; 64],
    pub signature: [u8; 64],
}
const _: () = assert!(size_of::<CertificateBytes>() == 248);

/// The end of a writecap: records behind `seq` whose author needs it do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RevocationBytes {
    /// 1: Ed25519 over `blake3("blocktree revocation v1", everything before the signature)`.
    pub version: U32,
    pub reserved: U32,
    /// Of the writecap.
    pub serial: U64,
    /// The last record for which it still counts.
    pub seq: U64,
    pub store_id: [u8; 16],
    /// Public keys of who issued the writecap, or of the root.
    pub issuer: [u8; 64],
    pub signature: [u8; 64],
}
const _: () = assert!(size_of::<RevocationBytes>() == 168);

/// A readcap: a block's key, sealed to a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ReadcapBytes {
    pub version: U32,
    /// Bit 1: the holder makes blocks of its own, and has a key to wrap their keys with.
    pub flags: U32,
    /// The block whose key it is.
    pub block: U64,
    /// Which of its keys.
    pub epoch: U32,
    pub reserved: U32,
    /// Seconds since 1970; `u64::MAX` where it does not end. What was read cannot be taken back: honest programs stop.
    pub expires: U64,
    /// Names it for ever: random, and never 0.
    pub serial: U64,
    /// Public signing and encryption keys of who may read.
    pub recipient: [u8; 64],
    /// [`ReadcapSecrets`], sealed to the recipient: public key, nonce, ciphertext, tag.
    pub sealed: [u8; SEALED_READCAP_BYTES],
}
const _: () = assert!(size_of::<ReadcapBytes>() == 228);

impl ReadcapBytes {
    /// What the seal is bound to, beside the item's key: everything before it.
    pub fn bound_bytes(&self) -> &[u8] {
        &self.as_bytes()[..size_of::<Self>() - SEALED_READCAP_BYTES]
    }
}

/// What sealing to a principal adds: a public key of 32 bytes, a nonce of 12, a tag of 16.
pub const SEALED_BOX_BYTES: usize = 32 + 12 + 16;
const SEALED_READCAP_BYTES: usize = SEALED_BOX_BYTES + size_of::<ReadcapSecrets>();

/// What a readcap gives.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Zeroize, ZeroizeOnDrop)]
#[repr(C)]
pub struct ReadcapSecrets {
    pub block_key: [u8; 32],
    /// Wraps the keys of blocks that the holder makes; zeros for who only reads.
    pub wrap_key: [u8; 32],
}
const _: () = assert!(size_of::<ReadcapSecrets>() == 64);

/// Whose an access slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct AccessBytes {
    /// Public signing and encryption keys.
    pub principal: [u8; 64],
    /// As in [`super::AccessSecrets`].
    pub flags: U32,
    pub reserved: U32,
}
const _: () = assert!(size_of::<AccessBytes>() == 72);
