//! Keys whose signatures a TPM can verify: ECDSA over P-256 with SHA-256 (FIPS 186-5), since TPMs know no Ed25519.

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

use super::Secret;

/// A point: x and y, 32 bytes each, with the most significant one first.
pub type ApproverPublic = [u8; 64];

/// A key that is made again from a secret each time that it is needed.
#[derive(Debug)]
pub struct Approver {
    pair: EcdsaKeyPair,
    public: ApproverPublic,
}

impl Approver {
    /// The key that follows from a secret that is for nothing else.
    pub fn from_secret(secret: &Secret) -> Self {
        // About one in 2³² secrets is no key of this curve; the next one is derived from it.
        let mut secret = secret.clone();
        loop {
            match Self::from_scalar(&secret) {
                Some(approver) => return approver,
                None => secret = secret.derive("blocktree approver again v1"),
            }
        }
    }

    fn from_scalar(scalar: &Secret) -> Option<Self> {
        let private = PrivateKey::from_private_key(&ECDH_P256, scalar.bytes()).ok()?;
        let point = private.compute_public_key().ok()?;
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair =
            EcdsaKeyPair::from_private_key_and_public_key(algorithm, scalar.bytes(), point.as_ref()).ok()?;
        // Uncompressed: a byte of 4 stands before x and y.
        let public = point.as_ref().strip_prefix(&[4])?.try_into().ok()?;
        Some(Self { pair, public })
    }

    pub fn public(&self) -> &ApproverPublic {
        &self.public
    }

    /// r and s, 32 bytes each.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.pair.sign(&SystemRandom::new(), message).expect("a key signs any bytes");
        signature.as_ref().try_into().expect("r and s")
    }
}

#[cfg(test)]
mod tests {
    use super::super::{from_hexadecimal, verify_p256};
    use super::*;

    /// RFC 6979, annex A.2.5: the key, and its signature of "sample" with SHA-256.
    #[test]
    fn keys_and_signatures_are_the_standard_ones() {
        let scalar = from_hexadecimal("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721");
        let approver = Approver::from_scalar(&Secret::new(scalar.unwrap())).unwrap();
        let point = from_hexadecimal(
            "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6\
             7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299",
        );
        assert_eq!(Some(*approver.public()), point);
        let signature: [u8; 64] = from_hexadecimal(
            "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716\
             f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
        )
        .unwrap();
        assert!(verify_p256(approver.public(), b"sample", &signature));
        assert!(!verify_p256(approver.public(), b"test", &signature));
    }

    #[test]
    fn the_same_secret_gives_the_same_key() {
        let secret = Secret::random();
        let (one, other) = (Approver::from_secret(&secret), Approver::from_secret(&secret));
        assert_eq!(one.public(), other.public());
        assert!(verify_p256(one.public(), b"policy", &other.sign(b"policy")));
        assert!(!verify_p256(one.public(), b"another", &other.sign(b"policy")));
    }

    #[test]
    fn a_secret_that_is_no_key_leads_to_one() {
        // The order of the curve is below this.
        let secret = Secret::new([0xff; 32]);
        assert!(Approver::from_scalar(&secret).is_none());
        Approver::from_secret(&secret);
    }
}
