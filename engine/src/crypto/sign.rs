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

/// Whether `signature` is that of the holder of `signing` over `hash`.
pub fn verify(signing: &[u8; 32], hash: &Hash, signature: &[u8; 64]) -> bool {
    UnparsedPublicKey::new(&ED25519, signing).verify(hash, signature).is_ok()
}
