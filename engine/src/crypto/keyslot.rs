//! The key slot: a passphrase through Argon2id (RFC 9106) opens the store's secrets.

use argon2::{Algorithm, Argon2, Params, Version};
use zerocopy::{FromBytes, IntoBytes};
use zeroize::Zeroizing;

use super::{Secret, open_item, random, seal_item};
use crate::format::{
    CertificateBytes, FORMAT_VERSION, KeySlotHeader, KeySlotSecrets, Malformed, OTHER_VERSION,
};
use crate::limits::{KDF_MEMORY_KIB_MAX, KDF_PASSES_MAX, SECTOR_BYTES};

/// What one guess at a passphrase costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfCost {
    pub memory_kib: u32,
    pub passes: u32,
}

impl KdfCost {
    /// The second choice that RFC 9106 recommends (64 MiB, three passes): about 0.2 s.
    pub const STANDARD: Self = Self { memory_kib: 64 << 10, passes: 3 };
    /// For tests only: no protection at all.
    pub const TRIVIAL: Self = Self { memory_kib: 64, passes: 1 };
}

/// Why a key slot does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySlotError {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("wrong passphrase")]
    WrongPassphrase,
}

/// Seals `secrets` into a sector.
pub fn seal_keyslot(
    passphrase: &[u8],
    cost: KdfCost,
    store_id: [u8; 16],
    certificate: CertificateBytes,
    secrets: &KeySlotSecrets,
) -> Vec<u8> {
    let header = KeySlotHeader {
        magic: KeySlotHeader::MAGIC,
        version: FORMAT_VERSION.into(),
        memory_kib: cost.memory_kib.into(),
        passes: cost.passes.into(),
        lanes: 1.into(),
        salt: random(),
        store_id,
        certificate,
    };
    let key = stretch(passphrase, &header).expect("the cost is within Argon2's limits");
    let mut sector = header.as_bytes().to_vec();
    seal_item(&key, header.as_bytes(), secrets.as_bytes(), &mut sector);
    sector.resize(SECTOR_BYTES, 0);
    sector
}

/// Opens a key slot.
pub fn unseal_keyslot(
    passphrase: &[u8],
    sector: &[u8],
) -> Result<(KeySlotHeader, KeySlotSecrets), KeySlotError> {
    const WHAT: &str = "key slot";
    let malformed = |why| Malformed { what: WHAT, why };
    let (header, rest) = KeySlotHeader::read_from_prefix(sector).map_err(|_| malformed("too short"))?;
    if header.magic != KeySlotHeader::MAGIC {
        return Err(malformed("no magic number").into());
    }
    if header.version.get() != FORMAT_VERSION {
        return Err(malformed(OTHER_VERSION).into());
    }
    let sealed = rest.get(..12 + size_of::<KeySlotSecrets>() + 16).ok_or(malformed("too short"))?;
    let key = stretch(passphrase, &header)?;
    let plain = open_item(&key, header.as_bytes(), sealed).map_err(|_| KeySlotError::WrongPassphrase)?;
    let secrets = KeySlotSecrets::read_from_bytes(&plain).map_err(|_| malformed("secrets too short"))?;
    Ok((header, secrets))
}

fn stretch(passphrase: &[u8], header: &KeySlotHeader) -> Result<Secret, KeySlotError> {
    let out_of_range = Malformed { what: "key slot", why: "passphrase cost out of range" };
    let (memory, passes) = (header.memory_kib.get(), header.passes.get());
    if memory > KDF_MEMORY_KIB_MAX || passes > KDF_PASSES_MAX || header.lanes.get() != 1 {
        return Err(out_of_range.into());
    }
    let params = Params::new(memory, passes, 1, Some(32)).map_err(|_| out_of_range)?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, &header.salt, &mut key[..])
        .map_err(|_| Malformed { what: "key slot", why: "passphrase too long" })?;
    Ok(Secret::new(*key))
}
