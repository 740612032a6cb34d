//! Sealing to a principal: who knows its public key writes, and only its holder reads. Nothing says who sealed.
//!
//! As HPKE (RFC 9180) does it: a key pair for one use, X25519 (RFC 7748), and a key derived from the shared secret, both
//! public keys and the purpose; then AES-256-GCM.

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use zeroize::Zeroizing;

use super::{Principal, PublicKeys, Secret, Unopenable, open_item, random, seal_item};
use crate::format::SEALED_BOX_BYTES;

/// What is sealed for, so that nothing opens in another's place.
#[derive(Debug, Clone, Copy)]
pub struct Purpose<'a> {
    /// Of one use only.
    pub context: &'static str,
    pub store_id: &'a [u8; 16],
    /// What else the seal is bound to.
    pub place: &'a [u8],
}

/// Seals `plain` to `recipient`: a public key of 32 bytes, a nonce of 12, the ciphertext, a tag of 16. Fails where the
/// recipient's key is none, such as all zeros.
pub fn seal_to(recipient: &PublicKeys, purpose: &Purpose<'_>, plain: &[u8]) -> Result<Vec<u8>, Unopenable> {
    let seed = Zeroizing::new(random::<32>());
    let private = PrivateKey::from_private_key(&X25519, &seed[..]).map_err(|_| Unopenable)?;
    let ephemeral = public_of(&private)?;
    let key = shared_key(&private, &recipient.encryption, &ephemeral, &recipient.encryption, purpose)?;
    let mut sealed = Vec::with_capacity(SEALED_BOX_BYTES + plain.len());
    sealed.extend_from_slice(&ephemeral);
    seal_item(&key, purpose.place, plain, &mut sealed);
    Ok(sealed)
}

/// Opens what [`seal_to`] made for `recipient`.
pub fn open_sealed(
    recipient: &Principal,
    purpose: &Purpose<'_>,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Unopenable> {
    let (ephemeral, sealed) = sealed.split_first_chunk::<32>().ok_or(Unopenable)?;
    let private = PrivateKey::from_private_key(&X25519, &recipient.seeds()[32..]).map_err(|_| Unopenable)?;
    let key = shared_key(&private, ephemeral, ephemeral, &recipient.public().encryption, purpose)?;
    open_item(&key, purpose.place, sealed)
}

fn public_of(private: &PrivateKey) -> Result<[u8; 32], Unopenable> {
    let public = private.compute_public_key().map_err(|_| Unopenable)?;
    public.as_ref().try_into().map_err(|_| Unopenable)
}

fn shared_key(
    private: &PrivateKey,
    peer: &[u8; 32],
    ephemeral: &[u8; 32],
    recipient: &[u8; 32],
    purpose: &Purpose<'_>,
) -> Result<Secret, Unopenable> {
    agree(private, UnparsedPublicKey::new(&X25519, peer), Unopenable, |shared| {
        let mut hasher = blake3::Hasher::new_derive_key(purpose.context);
        for part in [shared, ephemeral, recipient, purpose.store_id] {
            hasher.update(part);
        }
        Ok(Secret::new(*hasher.finalize().as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PURPOSE: Purpose<'_> = Purpose { context: "test", store_id: &[1; 16], place: b"place" };

    #[test]
    fn only_the_recipient_opens_it_and_only_in_its_place() {
        let (recipient, other) = (Principal::generate(), Principal::generate());
        let sealed = seal_to(&recipient.public(), &PURPOSE, b"secret").unwrap();
        assert_eq!(sealed.len(), SEALED_BOX_BYTES + 6);
        assert_eq!(&open_sealed(&recipient, &PURPOSE, &sealed).unwrap()[..], b"secret");
        assert!(open_sealed(&other, &PURPOSE, &sealed).is_err());
        for purpose in [
            Purpose { context: "another", ..PURPOSE },
            Purpose { store_id: &[2; 16], ..PURPOSE },
            Purpose { place: b"elsewhere", ..PURPOSE },
        ] {
            assert!(open_sealed(&recipient, &purpose, &sealed).is_err());
        }
        for at in 0..sealed.len() {
            let mut sealed = sealed.clone();
            // The highest bit of a public key does not count.
            sealed[at] ^= 1;
            assert!(open_sealed(&recipient, &PURPOSE, &sealed).is_err(), "byte {at}");
            assert!(open_sealed(&recipient, &PURPOSE, &sealed[..at]).is_err());
        }
        let again = seal_to(&recipient.public(), &PURPOSE, b"secret").unwrap();
        assert_ne!(again[..32], sealed[..32], "the key pair is for one use");
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        let none = PublicKeys { signing: [0; 32], encryption: [0; 32] };
        assert!(seal_to(&none, &PURPOSE, b"secret").is_err());
        assert!(open_sealed(&Principal::generate(), &PURPOSE, &[0; 100]).is_err());
    }

    /// RFC 7748, section 5.2, the first vector.
    #[test]
    fn the_agreement_is_the_standard_one() {
        let bytes = |hex: &str| -> [u8; 32] {
            std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
        };
        let scalar = bytes("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4");
        let point = bytes("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c");
        let private = PrivateKey::from_private_key(&X25519, &scalar).unwrap();
        let shared =
            agree(&private, UnparsedPublicKey::new(&X25519, point), (), |shared| Ok(shared.to_vec()));
        let expected = bytes("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552");
        assert_eq!(shared.unwrap(), expected);
    }
}
