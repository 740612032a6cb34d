//! What stands outside of stores: files of keys that people carry.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{AnchorBytes, FORMAT_VERSION, Malformed, OTHER_VERSION, malformed};

/// Sees to it that `bytes` begin as such a file does: with its magic number and our version.
pub(crate) fn check_kind(what: &'static str, magic: [u8; 8], bytes: &[u8]) -> Result<(), Malformed> {
    let too_short = malformed(what, "it is too short");
    let (found, rest) = bytes.split_first_chunk().ok_or(too_short.clone())?;
    let (version, _) = rest.split_first_chunk().ok_or(too_short)?;
    if *found != magic {
        return Err(malformed(what, "it is another kind of file"));
    }
    if u32::from_le_bytes(*version) != FORMAT_VERSION {
        return Err(malformed(what, OTHER_VERSION));
    }
    Ok(())
}

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

/// What everybody may know of a backup of a store's keys, or of a share of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct BackupClear {
    pub store_id: [u8; 16],
    pub root_principal: [u8; 32],
    /// When it was made: nanoseconds since 1970.
    pub time_ns: U64,
    /// Shares of one backup have this in common; random.
    pub set: [u8; 8],
    /// How many shares are needed; 0: it is whole.
    pub needed: u8,
    /// Which share, from 1 on; 0: it is whole.
    pub share: u8,
    pub reserved: [u8; 6],
}
const _: () = assert!(size_of::<BackupClear>() == 72);

/// What a backup of a store's keys holds.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Zeroize, ZeroizeOnDrop)]
#[repr(C)]
pub struct BackupSecrets {
    pub store_id: [u8; 16],
    pub owner_key: [u8; 32],
    pub structure_key: [u8; 32],
    /// Seeds of the root principal's signing and encryption key pairs.
    pub root_seeds: [u8; 64],
    /// Shows that shares were put together rightly.
    pub check: [u8; 32],
}
const _: () = assert!(size_of::<BackupSecrets>() == 176);

/// The head of a file with a secret that a TPM keeps. What the TPM made follows, and a check sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TpmFileHeader {
    pub magic: [u8; 8],
    pub version: U32,
    /// Which PCRs of the SHA-256 bank must be as they were, a bit each.
    pub pcrs: U32,
    /// Bits: 1 a PIN is needed, 2 an approver and what it signed follow, 4 a node's statement follows before them.
    pub flags: U32,
    pub public_bytes: U32,
    pub private_bytes: U32,
}
const _: () = assert!(size_of::<TpmFileHeader>() == 28);

impl TpmFileHeader {
    pub const MAGIC: [u8; 8] = *b"BTTPMKEY";
}

/// What a key in a TPM says of a node. The key follows, as the TPM wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NodeStatementBytes {
    pub store_id: [u8; 16],
    /// The node's public signing and encryption keys.
    pub node: [u8; 64],
    /// The TPM key's, r and s, of the statement.
    pub key_signature: [u8; 64],
    /// The node's, of the TPM key.
    pub node_signature: [u8; 64],
    pub public_bytes: U32,
    /// 0 where it is shown to others.
    pub private_bytes: U32,
}
const _: () = assert!(size_of::<NodeStatementBytes>() == 216);

/// The head of an anchor's file that counts together with a TPM's counter. The counter's key follows, as the file that
/// [`TpmFileHeader`] begins, and a keyed hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CountedAnchorHeader {
    pub magic: [u8; 8],
    pub version: U32,
    /// Where in the TPM's non-volatile memory the counter is.
    pub index: U32,
    /// The value of the counter at which `now` counts.
    pub value: U64,
    pub store_id: [u8; 16],
    /// To whom the store belongs; all zero where that is not known.
    pub root_principal: [u8; 32],
    pub now: AnchorBytes,
    /// What counts at the next value; all zero where nothing does.
    pub next: AnchorBytes,
}
const _: () = assert!(size_of::<CountedAnchorHeader>() == 168);

impl CountedAnchorHeader {
    pub const MAGIC: [u8; 8] = *b"BTCOUNTD";
}
