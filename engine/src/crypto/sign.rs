//! Principals: Ed25519 signing keys (RFC 8032) and X25519 encryption keys (RFC 7748).

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use openssl::pkey::{Id, PKey};
use zeroize::Zeroizing;

use super::{Hash, Secret, tagged_hash};

/// Hash of a principal's public keys.
pub type PrincipalId = Hash;

/// A principal's public keys: 32 bytes that verify, 32 bytes to encrypt to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKeys {
    pub signing: [u8; 32],
    pub encryption: [u8; 32],
}

impl PublicKeys {
    pub fn id(&self) -> PrincipalId {
        tagged_hash("blocktree principal v1", &[&self.signing, &self.encryption])
    }

    pub fn to_bytes(self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&self.signing);
        bytes[32..].copy_from_slice(&self.encryption);
        bytes
    }

    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let (signing, encryption) = bytes.split_at(32);
        Self { signing: signing.try_into().expect("half"), encryption: encryption.try_into().expect("half") }
    }
}

/// How the encryption key of a principal follows from its signing seed.
const ENCRYPTION_CONTEXT: &str = "blocktree principal encryption key v1";

/// The holder of a key pair.
pub struct Principal {
    pair: Ed25519KeyPair,
    seeds: Zeroizing<[u8; 64]>,
    public: PublicKeys,
}

impl Principal {
    pub fn generate() -> Self {
        Self::from_seed(&Secret::random())
    }

    /// The principal that grows from one seed, which is its signing seed: the encryption key is derived from it, so that
    /// 32 bytes are enough to bring all of it back.
    pub fn from_seed(seed: &Secret) -> Self {
        let mut seeds = Zeroizing::new([0; 64]);
        seeds[..32].copy_from_slice(seed.bytes());
        seeds[32..].copy_from_slice(seed.derive(ENCRYPTION_CONTEXT).bytes());
        Self::from_seeds(seeds)
    }

    /// Rebuilds a principal: 32 bytes of signing seed, 32 bytes of encryption key.
    pub fn from_seeds(seeds: Zeroizing<[u8; 64]>) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seeds[..32]).expect("any 32 bytes are a seed");
        let encryption = PKey::private_key_from_raw_bytes(&seeds[32..], Id::X25519)
            .and_then(|key| key.raw_public_key())
            .expect("any 32 bytes are an X25519 key");
        let public = PublicKeys {
            signing: pair.public_key().as_ref().try_into().expect("32 bytes"),
            encryption: encryption.try_into().expect("32 bytes"),
        };
        Self { pair, seeds, public }
    }

    pub fn public(&self) -> PublicKeys {
        self.public
    }

    pub fn seeds(&self) -> &[u8; 64] {
        &self.seeds
    }

    pub fn sign(&self, hash: &Hash) -> [u8; 64] {
        self.pair.sign(hash).as_ref().try_into().expect("64 bytes")
    }
}

impl Clone for Principal {
    fn clone(&self) -> Self {
        Self::from_seeds(self.seeds.clone())
    }
}

impl std::fmt::Debug for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Principal").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Whether `signature` is that of the holder of `signing` over `hash`. Keys under which one signature fits many hashes,
/// whoever made it, have no holder.
pub fn verify(signing: &[u8; 32], hash: &Hash, signature: &[u8; 64]) -> bool {
    !is_of_small_order(signing) && UnparsedPublicKey::new(&ED25519, signing).verify(hash, signature).is_ok()
}

/// Whether a public key is a point of order 1, 2, 4 or 8 of edwards25519 (RFC 8032, section 5.1), in any encoding.
fn is_of_small_order(key: &[u8; 32]) -> bool {
    /// Their y; of 0 and 1 also p and p + 1, which some take for them.
    const SMALL: [[u8; 32]; 7] = [
        [0; 32],
        with_ends(1, 0, 0),
        with_ends(0xec, 0xff, 0x7f),
        with_ends(0xed, 0xff, 0x7f),
        with_ends(0xee, 0xff, 0x7f),
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
            0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
            0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
    ];
    let mut y = *key;
    // The highest bit is the sign of x.
    y[31] &= 0x7f;
    SMALL.contains(&y)
}

const fn with_ends(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::from_hexadecimal;
    use super::*;

    /// RFC 8032, section 7.1, tests 1 and 3.
    #[test]
    fn signatures_are_the_standard_ones() {
        for (seed, public, message, signature) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                &b""[..],
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555\
                 fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                b"\xaf\x82",
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac1\
                 8ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
            ),
        ] {
            let principal = Principal::from_seed(&Secret::new(from_hexadecimal(seed).unwrap()));
            let signing = principal.public().signing;
            let signature: [u8; 64] = from_hexadecimal(signature).unwrap();
            assert_eq!(Some(signing), from_hexadecimal(public));
            assert_eq!(principal.pair.sign(message).as_ref(), signature);
            assert!(UnparsedPublicKey::new(&ED25519, signing).verify(message, &signature).is_ok());
        }
    }

    /// R = y(0), S = 0 fits a quarter of all hashes under the key 0 for libraries that do not look at the key.
    #[test]
    fn a_key_without_a_holder_signs_nothing() {
        let signature = [0; 64];
        let is_taken =
            |first| UnparsedPublicKey::new(&ED25519, [0; 32]).verify(&[first; 32], &signature).is_ok();
        assert!((0..64).any(is_taken), "the library looks at the key itself now");
        assert!((0..64).all(|first| !verify(&[0; 32], &[first; 32], &signature)));
        let mut negative = with_ends(1, 0, 0);
        negative[31] |= 0x80;
        assert!(is_of_small_order(&negative) && is_of_small_order(&with_ends(0xee, 0xff, 0x7f)));
        let principal = Principal::generate();
        assert!(verify(&principal.public().signing, &[7; 32], &principal.sign(&[7; 32])));
    }
}
