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

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;
    use crate::limits::{KDF_MEMORY_KIB_MAX, KDF_PASSES_MAX};

    const PASSPHRASE: &[u8] = b"passphrase";

    fn slot() -> Vec<u8> {
        let certificate = CertificateBytes::new_zeroed();
        let secrets = KeySlotSecrets::new_zeroed();
        seal_keyslot(PASSPHRASE, KdfCost::TRIVIAL, [7; 16], certificate, &secrets)
    }

    fn why(sector: &[u8]) -> KeySlotError {
        unseal_keyslot(PASSPHRASE, sector).err().expect("it does not open")
    }

    #[test]
    fn what_a_guess_costs_cannot_be_changed() {
        let whole = slot();
        assert!(unseal_keyslot(PASSPHRASE, &whole).is_ok());
        let with = |change: &dyn Fn(&mut KeySlotHeader)| {
            let mut sector = whole.clone();
            change(KeySlotHeader::mut_from_prefix(&mut sector).unwrap().0);
            why(&sector)
        };
        // Less, more, and another salt: another key.
        for refused in [
            with(&|header| header.memory_kib = 32.into()),
            with(&|header| header.memory_kib = 128.into()),
            with(&|header| header.passes = 2.into()),
            with(&|header| header.salt[0] ^= 1),
        ] {
            assert_eq!(refused, KeySlotError::WrongPassphrase);
        }
        // None, or more than is spent on a stranger's word.
        for refused in [
            with(&|header| header.memory_kib = 0.into()),
            with(&|header| header.memory_kib = (KDF_MEMORY_KIB_MAX + 1).into()),
            with(&|header| header.passes = 0.into()),
            with(&|header| header.passes = (KDF_PASSES_MAX + 1).into()),
            with(&|header| header.lanes = 2.into()),
        ] {
            assert!(matches!(
                refused,
                KeySlotError::Malformed(Malformed { why: "passphrase cost out of range", .. })
            ));
        }
    }

    #[test]
    fn no_byte_of_a_slot_can_be_changed() {
        let whole = slot();
        let sealed_end = size_of::<KeySlotHeader>() + 12 + size_of::<KeySlotSecrets>() + 16;
        let cost = std::mem::offset_of!(KeySlotHeader, memory_kib)..std::mem::offset_of!(KeySlotHeader, salt);
        for at in (0..sealed_end).filter(|at| !cost.contains(at)) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            why(&flipped);
        }
        for length in [0, 12, size_of::<KeySlotHeader>(), sealed_end - 1] {
            assert!(matches!(why(&whole[..length]), KeySlotError::Malformed(_)), "{length} bytes");
        }
        assert_eq!(unseal_keyslot(b"another", &whole).err(), Some(KeySlotError::WrongPassphrase));
    }
}
