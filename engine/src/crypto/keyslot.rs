//! The key slot and the root slot: a passphrase through Argon2id (RFC 9106) opens the store's secrets.

use zerocopy::{FromBytes, IntoBytes};
use zeroize::Zeroizing;

use super::stretch::{KdfCost, stretch};
use super::{Principal, open_item, random, seal_item};
use crate::format::{
    CertificateBytes, FORMAT_VERSION, KeySlotHeader, KeySlotSecrets, Malformed, OTHER_VERSION,
    RootSlotHeader, RootSlotSecrets,
};
use crate::limits::SECTOR_BYTES;

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
    seal_slot(passphrase, cost, &header.salt, header.as_bytes(), secrets.as_bytes())
}

/// A slot's sector: its head in the clear, what is secret under the passphrase and bound to the head.
fn seal_slot(passphrase: &[u8], cost: KdfCost, salt: &[u8; 32], header: &[u8], secrets: &[u8]) -> Vec<u8> {
    let key = stretch(passphrase, salt, cost).expect("the cost is within Argon2's limits");
    let mut sector = header.to_vec();
    seal_item(&key, header, secrets, &mut sector);
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
    let cost = KdfCost::from_fields(header.memory_kib, header.passes, header.lanes).map_err(malformed)?;
    let key = stretch(passphrase, &header.salt, cost).map_err(malformed)?;
    let plain = open_item(&key, header.as_bytes(), sealed).map_err(|_| KeySlotError::WrongPassphrase)?;
    let secrets = KeySlotSecrets::read_from_bytes(&plain).map_err(|_| malformed("secrets too short"))?;
    Ok((header, secrets))
}

/// Seals the root's seeds into a sector.
pub fn seal_rootslot(passphrase: &[u8], cost: KdfCost, store_id: [u8; 16], root: &Principal) -> Vec<u8> {
    let header = RootSlotHeader {
        magic: RootSlotHeader::MAGIC,
        version: FORMAT_VERSION.into(),
        memory_kib: cost.memory_kib.into(),
        passes: cost.passes.into(),
        lanes: 1.into(),
        salt: random(),
        store_id,
    };
    seal_slot(passphrase, cost, &header.salt, header.as_bytes(), root.seeds())
}

/// Opens a root slot.
pub fn unseal_rootslot(
    passphrase: &[u8],
    sector: &[u8],
) -> Result<(RootSlotHeader, Principal), KeySlotError> {
    let malformed = |why| Malformed { what: "root slot", why };
    let (header, rest) = RootSlotHeader::read_from_prefix(sector).map_err(|_| malformed("too short"))?;
    if header.magic != RootSlotHeader::MAGIC {
        return Err(malformed("no magic number").into());
    }
    if header.version.get() != FORMAT_VERSION {
        return Err(malformed(OTHER_VERSION).into());
    }
    let sealed = rest.get(..12 + size_of::<RootSlotSecrets>() + 16).ok_or(malformed("too short"))?;
    let cost = KdfCost::from_fields(header.memory_kib, header.passes, header.lanes).map_err(malformed)?;
    let key = stretch(passphrase, &header.salt, cost).map_err(malformed)?;
    let plain = open_item(&key, header.as_bytes(), sealed).map_err(|_| KeySlotError::WrongPassphrase)?;
    let secrets = RootSlotSecrets::read_from_bytes(&plain).map_err(|_| malformed("secrets too short"))?;
    Ok((header, Principal::from_seeds(Zeroizing::new(secrets.root_seeds))))
}
