//! Bulk encryption: AES-256-XTS (IEEE 1619) under a key of its own for every extent, the tweak being the
//! sector's place in the sealed run.

use std::cell::RefCell;

use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::Secret;
use crate::limits::SECTOR_BYTES;

/// The key of one extent or node: what a block key (or the structure key) gives with a nonce.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ExtentKey([u8; 32]);

impl ExtentKey {
    pub fn derive(key: &Secret, nonce: &[u8; 16]) -> Self {
        Self(*blake3::keyed_hash(key.bytes(), nonce).as_bytes())
    }

    pub fn from_secret(secret: &Secret) -> Self {
        Self(*secret.bytes())
    }

    pub fn to_secret(&self) -> Secret {
        Secret::new(self.0)
    }

    /// The two AES-256 keys of XTS.
    fn expand(&self) -> zeroize::Zeroizing<[u8; 64]> {
        let mut keys = zeroize::Zeroizing::new([0; 64]);
        blake3::Hasher::new_keyed(&self.0).update(b"xts").finalize_xof().fill(&mut keys[..]);
        keys
    }
}

thread_local! {
    // A context is costly to make and cheap to give a new key.
    static CONTEXT: RefCell<CipherCtx> = RefCell::new(CipherCtx::new().expect("memory for a cipher context"));
}

/// Encrypts whole units in place; `first` is the place of the first in the sealed run. A unit is a sector,
/// or, for an index node or a log record, what is left of it behind its clear part.
pub fn seal_sectors(key: &ExtentKey, first: u16, bytes: &mut [u8]) {
    run(key, first, true, bytes.chunks_mut(SECTOR_BYTES), |context, unit| {
        let length = unit.len();
        context.cipher_update_inplace(unit, length)
    });
}

/// Decrypts what [`seal_sectors`] made, in place.
pub fn open_sectors(key: &ExtentKey, first: u16, bytes: &mut [u8]) {
    run(key, first, false, bytes.chunks_mut(SECTOR_BYTES), |context, unit| {
        let length = unit.len();
        context.cipher_update_inplace(unit, length)
    });
}

/// As [`seal_sectors`], from `plain` to `sealed` of the same length.
pub fn seal_sectors_from(key: &ExtentKey, first: u16, plain: &[u8], sealed: &mut [u8]) {
    assert_eq!(plain.len(), sealed.len());
    let units = plain.chunks(SECTOR_BYTES).zip(sealed.chunks_mut(SECTOR_BYTES));
    run(key, first, true, units, |context, (plain, sealed)| context.cipher_update(plain, Some(sealed)));
}

/// As [`open_sectors`], from `sealed` to `plain` of the same length.
pub fn open_sectors_into(key: &ExtentKey, first: u16, sealed: &[u8], plain: &mut [u8]) {
    assert_eq!(plain.len(), sealed.len());
    let units = sealed.chunks(SECTOR_BYTES).zip(plain.chunks_mut(SECTOR_BYTES));
    run(key, first, false, units, |context, (sealed, plain)| context.cipher_update(sealed, Some(plain)));
}

fn run<T>(
    key: &ExtentKey,
    first: u16,
    encrypt: bool,
    units: impl Iterator<Item = T>,
    mut update: impl FnMut(&mut CipherCtx, T) -> Result<usize, ErrorStack>,
) {
    CONTEXT.with_borrow_mut(|context| {
        let keys = key.expand();
        let mut key = Some(&keys[..]);
        let mut cipher = Some(Cipher::aes_256_xts());
        for (tweak, unit) in (u128::from(first)..).zip(units) {
            let iv = tweak.to_le_bytes();
            // A key is set once; then only the tweak changes.
            let (cipher, key) = (cipher.take(), key.take());
            let done = if encrypt {
                context.encrypt_init(cipher, key, Some(&iv))
            } else {
                context.decrypt_init(cipher, key, Some(&iv))
            };
            // XTS over 16 bytes or more with a key of the right length has no way to fail.
            done.and_then(|()| update(context, unit)).expect("AES-256-XTS");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_open_one_by_one_and_differ() {
        let key = ExtentKey::derive(&Secret::new([7; 32]), &[1; 16]);
        let plain = vec![42; 4 * SECTOR_BYTES];
        let mut sealed = plain.clone();
        seal_sectors(&key, 3, &mut sealed);
        assert_ne!(sealed[..SECTOR_BYTES], sealed[SECTOR_BYTES..2 * SECTOR_BYTES]);
        let mut third = sealed[2 * SECTOR_BYTES..3 * SECTOR_BYTES].to_vec();
        open_sectors(&key, 5, &mut third);
        assert_eq!(third, plain[..SECTOR_BYTES]);
        let mut also_sealed = vec![0; plain.len()];
        seal_sectors_from(&key, 3, &plain, &mut also_sealed);
        assert_eq!(also_sealed, sealed);
        let mut opened = vec![0; plain.len()];
        open_sectors_into(&key, 3, &sealed, &mut opened);
        assert_eq!(opened, plain);
        open_sectors(&key, 3, &mut sealed);
        assert_eq!(sealed, plain);
    }

    /// IEEE 1619-2007, vector 10: XTS-AES-256, data unit 0xff.
    #[test]
    fn cipher_is_the_standard_one() {
        let mut context = CipherCtx::new().unwrap();
        let key = [
            "2718281828459045235360287471352662497757247093699959574966967627",
            "3141592653589793238462643383279502884197169399375105820974944592",
        ]
        .concat();
        let key: Vec<u8> = (0..64).map(|i| u8::from_str_radix(&key[2 * i..2 * i + 2], 16).unwrap()).collect();
        let mut iv = [0; 16];
        iv[0] = 0xff;
        let mut bytes: Vec<u8> = (0..512).map(|i| i as u8).collect();
        context.encrypt_init(Some(Cipher::aes_256_xts()), Some(&key), Some(&iv)).unwrap();
        context.cipher_update_inplace(&mut bytes, 512).unwrap();
        assert_eq!(bytes[..8], [0x1c, 0x3b, 0x3a, 0x10, 0x2f, 0x77, 0x03, 0x86]);
    }
}
