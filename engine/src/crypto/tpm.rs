//! What TPMs compute with, for those who have none: TPM 2.0 Library, part 1.

use aws_lc_rs::agreement::{self, ECDH_P256, EphemeralPrivateKey, agree_ephemeral};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use aws_lc_rs::{digest, hmac};
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::PointConversionForm;
use openssl::error::ErrorStack;
use openssl::md::Md;
use openssl::pkey::PKey;
use openssl::pkey_ctx::PkeyCtx;
use openssl::rsa::{Padding, Rsa};
use openssl::symm::{Cipher, encrypt};
use openssl::x509::X509;
use zeroize::Zeroizing;

use super::{ApproverPublic, random};

/// SHA-256 (FIPS 180-4) of `parts`, one after the other.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().try_into().expect("32 bytes")
}

/// Whether `signature` (r and s) is that of the holder of the key over `message`: ECDSA over P-256 with SHA-256.
pub(crate) fn verify_p256(key: &ApproverPublic, message: &[u8], signature: &[u8; 64]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, uncompressed(key)).verify(message, signature).is_ok()
}

/// A point of P-256 as others write it: a byte of 4 before x and y.
fn uncompressed(point: &[u8; 64]) -> Vec<u8> {
    [&[4], &point[..]].concat()
}

/// What protects a credential, and the form in which only the TPM with an endorsement key learns it. TPM 2.0 Library, part 1,
/// "Credential Protection".
pub(crate) struct Seed {
    secret: Zeroizing<[u8; 32]>,
    /// TPM2B_ENCRYPTED_SECRET's buffer.
    pub(crate) encrypted: Vec<u8>,
}

/// The label of what is encrypted to an endorsement key, with the byte of 0 at its end.
const IDENTITY: &[u8] = b"IDENTITY\0";

impl Seed {
    /// For a key of RSA-2048 with SHA-256; `None` where the modulus is none. RSA-OAEP (RFC 8017) as part 1, annex B.10.4 has it.
    pub(crate) fn for_rsa(modulus: &[u8; 256]) -> Option<Self> {
        let secret = Zeroizing::new(random::<32>());
        let encrypted = encrypt_to_rsa(modulus, &secret).ok()?;
        Some(Self { secret, encrypted })
    }

    /// For a key of P-256 with SHA-256; `None` where that is no point of the curve. A shared secret with a key that is used once (part
    /// 1, annex C.6.4), whose point is what the TPM is told.
    pub(crate) fn for_p256(key: &[u8; 64]) -> Option<Self> {
        let once = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).ok()?;
        let point: [u8; 65] = once.compute_public_key().ok()?.as_ref().try_into().ok()?;
        let (x, y) = point[1..].split_at(32);
        let peer = agreement::UnparsedPublicKey::new(&ECDH_P256, uncompressed(key));
        // KDFe (part 1, 11.4.10.3), of which one block is enough.
        let derive = |shared: &[u8]| Ok(sha256(&[&1_u32.to_be_bytes(), shared, IDENTITY, x, &key[..32]]));
        let secret = Zeroizing::new(agree_ephemeral(once, peer, (), derive).ok()?);
        let sized = |part: &[u8]| [&(part.len() as u16).to_be_bytes()[..], part].concat();
        Some(Self { secret, encrypted: [sized(x), sized(y)].concat() })
    }
}

/// What TPM2_MakeCredential makes, without a TPM: a secret that only the TPM that the seed is for learns, and only while it has an
/// object of this name. TPMS_ID_OBJECT, for endorsement keys with AES-128-CFB and SHA-256.
pub(crate) fn make_credential(seed: &Seed, name: &[u8], secret: &[u8; 32]) -> Option<Vec<u8>> {
    let seed = &*seed.secret;
    let storage = derive(seed, b"STORAGE", name, 128);
    let sized = Zeroizing::new([&(secret.len() as u16).to_be_bytes()[..], secret].concat());
    let hidden = encrypt(Cipher::aes_128_cfb128(), &storage[..16], Some(&[0; 16]), &sized).ok()?;
    let integrity = derive(seed, b"INTEGRITY", &[], 256);
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &*integrity));
    mac.update(&hidden);
    mac.update(name);
    let mac = mac.sign();
    Some([&(mac.as_ref().len() as u16).to_be_bytes(), mac.as_ref(), &hidden].concat())
}

fn encrypt_to_rsa(modulus: &[u8], seed: &[u8; 32]) -> Result<Vec<u8>, ErrorStack> {
    const EXPONENT: u32 = 65537;
    let key = Rsa::from_public_components(BigNum::from_slice(modulus)?, BigNum::from_u32(EXPONENT)?)?;
    let key = PKey::from_rsa(key)?;
    let mut context = PkeyCtx::new(&key)?;
    context.encrypt_init()?;
    context.set_rsa_padding(Padding::PKCS1_OAEP)?;
    context.set_rsa_oaep_md(Md::sha256())?;
    context.set_rsa_mgf1_md(Md::sha256())?;
    context.set_rsa_oaep_label(IDENTITY)?;
    let mut encrypted = Vec::new();
    context.encrypt_to_vec(seed, &mut encrypted)?;
    Ok(encrypted)
}

/// KDFa (part 1, 11.4.10.2) with SHA-256, of which one block is enough.
fn derive(key: &[u8], label: &[u8], context: &[u8], bits: u32) -> Zeroizing<[u8; 32]> {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in [&1_u32.to_be_bytes(), label, &[0], context, &bits.to_be_bytes()] {
        mac.update(part);
    }
    Zeroizing::new(mac.sign().as_ref().try_into().expect("32 bytes"))
}

/// The key that an X.509 certificate (DER) is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CertifiedKey {
    /// The modulus.
    Rsa(Vec<u8>),
    /// Of any curve: the point, uncompressed.
    Ecc(Vec<u8>),
}

/// The key that an X.509 certificate (DER) is for, and the certificate as text (PEM).
pub(crate) fn read_certificate(der: &[u8]) -> Option<(CertifiedKey, String)> {
    let certificate = X509::from_der(der).ok()?;
    let key = certificate.public_key().ok()?;
    let key = match (key.rsa(), key.ec_key()) {
        (Ok(rsa), _) => CertifiedKey::Rsa(rsa.n().to_vec()),
        (_, Ok(ecc)) => {
            let mut context = BigNumContext::new().ok()?;
            let form = PointConversionForm::UNCOMPRESSED;
            CertifiedKey::Ecc(ecc.public_key().to_bytes(ecc.group(), form, &mut context).ok()?)
        }
        _ => return None,
    };
    Some((key, String::from_utf8(certificate.to_pem().ok()?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::from_hexadecimal;
    use super::*;

    /// FIPS 180-4, the first example; in two parts.
    #[test]
    fn hashes_are_the_standard_ones() {
        let expected = from_hexadecimal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(Some(sha256(&[b"a", b"bc"])), expected);
    }
}
