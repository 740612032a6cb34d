//! BLAKE3 (specification: <https://github.com/BLAKE3-team/BLAKE3-specs>).

use crate::limits::SECTOR_BYTES;

/// A 32-byte BLAKE3 hash.
pub type Hash = [u8; 32];

pub fn hash(bytes: &[u8]) -> Hash {
    *blake3::hash(bytes).as_bytes()
}

/// Hash of `parts`, one after the other, under a context that no other use shares.
pub fn tagged_hash(context: &str, parts: &[&[u8]]) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    parts.iter().for_each(|part| {
        hasher.update(part);
    });
    *hasher.finalize().as_bytes()
}

/// The hash of each sector of `bytes`.
pub fn hash_sectors(bytes: &[u8]) -> impl Iterator<Item = Hash> + '_ {
    assert!(bytes.len().is_multiple_of(SECTOR_BYTES));
    bytes.chunks_exact(SECTOR_BYTES).map(hash)
}
