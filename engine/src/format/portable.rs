//! What stands outside of stores: files of keys that people carry.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The head of a file of keys. A clear part follows, then the sealed one (nonce, ciphertext, tag), whose seal also covers
/// all before it, and a check sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SealedFileHeader {
    pub magic: [u8; 8],
    pub version: U32,
    /// What the file is of: see `FORMAT.md`.
    pub kind: U32,
    /// Argon2id: memory in KiB, passes, lanes; all zero where there is no passphrase.
    pub memory_kib: U32,
    pub passes: U32,
    pub lanes: U32,
    /// Lengths of the clear part, and of what is sealed.
    pub clear_bytes: U32,
    pub secret_bytes: U32,
    pub reserved: U32,
    pub salt: [u8; 32],
}
const _: () = assert!(size_of::<SealedFileHeader>() == 72);

impl SealedFileHeader {
    pub const MAGIC: [u8; 8] = *b"BTSEALED";
}
