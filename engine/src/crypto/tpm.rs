//! What TPMs compute with, for those who have none: TPM 2.0 Library, part 1.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use aws_lc_rs::{digest, hmac};
use openssl::bn::BigNum;
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
    // Uncompressed: a byte of 4 stands before x and y.
    let point = [&[4], &key[..]].concat();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
}

/// What TPM2_MakeCredential makes, without a TPM: a secret that only the TPM with this endorsement key (RSA-2048 with
/// AES-128-CFB and SHA-256) learns, and only while it has an object of this name. TPM 2.0 Library, part 1, "Credential Protection".
///
/// TPMS_ID_OBJECT, and the encrypted seed; `None` where the modulus is none.
pub(crate) fn make_credential(modulus: &[u8], name: &[u8], secret: &[u8; 32]) -> Option<(Vec<u8>, Vec<u8>)> {
    let seed = Zeroizing::new(random::<32>());
    let encrypted = encrypt_seed(modulus, &seed).ok()?;
    let storage = derive(&*seed, b"STORAGE", name, 128);
    let sized = Zeroizing::new([&(secret.len() as u16).to_be_bytes()[..], secret].concat());
    let hidden = encrypt(Cipher::aes_128_cfb128(), &storage[..16], Some(&[0; 16]), &sized).ok()?;
    let integrity = derive(&*seed, b"INTEGRITY", &[], 256);
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &*integrity));
    mac.update(&hidden);
    mac.update(name);
    let mac = mac.sign();
    let credential = [&(mac.as_ref().len() as u16).to_be_bytes(), mac.as_ref(), &hidden].concat();
    Some((credential, encrypted))
}

/// RSA-OAEP (RFC 8017) as part 1, annex B.10.4 has it: the label ends with a byte of 0.
fn encrypt_seed(modulus: &[u8], seed: &[u8; 32]) -> Result<Vec<u8>, ErrorStack> {
    const EXPONENT: u32 = 65537;
    let key = Rsa::from_public_components(BigNum::from_slice(modulus)?, BigNum::from_u32(EXPONENT)?)?;
    let key = PKey::from_rsa(key)?;
    let mut context = PkeyCtx::new(&key)?;
    context.encrypt_init()?;
    context.set_rsa_padding(Padding::PKCS1_OAEP)?;
    context.set_rsa_oaep_md(Md::sha256())?;
    context.set_rsa_mgf1_md(Md::sha256())?;
    context.set_rsa_oaep_label(b"IDENTITY\0")?;
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

/// An X.509 certificate (DER) as text (PEM), if it is for the RSA key with this modulus.
pub(crate) fn certificate_of(modulus: &[u8], der: &[u8]) -> Option<String> {
    let certificate = X509::from_der(der).ok()?;
    let key = certificate.public_key().and_then(|key| key.rsa()).ok()?;
    let is_for_key = key.n().to_vec() == modulus;
    is_for_key.then(|| String::from_utf8(certificate.to_pem().ok()?).ok())?
}
