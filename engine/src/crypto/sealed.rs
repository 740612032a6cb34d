//! Small sealed values: items of the index and wrapped keys, under AES-256-GCM (NIST SP 800-38D) with a random
//! nonce. The associated data binds a value to its place.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::{Secret, Unopenable, random};
use crate::format::WRAPPED_KEY_BYTES;

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// Appends nonce, ciphertext and tag to `out`.
pub fn seal_item(key: &Secret, place: &[u8], plain: &[u8], out: &mut Vec<u8>) {
    let nonce: [u8; NONCE_BYTES] = random();
    out.extend_from_slice(&nonce);
    let start = out.len();
    out.extend_from_slice(plain);
    let tag = gcm(key)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut out[start..])
        .expect("an item is far below the cipher's limit");
    out.extend_from_slice(tag.as_ref());
}

/// Opens what [`seal_item`] made.
pub fn open_item(key: &Secret, place: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unopenable> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES).ok_or(Unopenable)?;
    if sealed.len() < TAG_BYTES {
        return Err(Unopenable);
    }
    let mut plain = Zeroizing::new(sealed.to_vec());
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unopenable)?;
    gcm(key).open_in_place(nonce, Aad::from(place), &mut plain).map_err(|_| Unopenable)?;
    plain.truncate(sealed.len() - TAG_BYTES);
    Ok(plain)
}

/// Wraps a key for the holders of another.
pub fn wrap_key(under: &Secret, place: &[u8], key: &Secret) -> [u8; WRAPPED_KEY_BYTES] {
    let mut out = Vec::with_capacity(WRAPPED_KEY_BYTES);
    seal_item(under, place, key.bytes(), &mut out);
    out.try_into().expect("a wrapped key has a fixed length")
}

/// Opens what [`wrap_key`] made.
pub fn open_key(under: &Secret, place: &[u8], wrapped: &[u8]) -> Result<Secret, Unopenable> {
    let plain = open_item(under, place, wrapped)?;
    Ok(Secret::new(plain.as_slice().try_into().map_err(|_| Unopenable)?))
}

fn gcm(key: &Secret) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.bytes()).expect("the key has the cipher's length"))
}

#[cfg(test)]
mod tests {
    use super::super::from_hexadecimal;
    use super::*;

    /// McGrew and Viega, "The Galois/Counter Mode of Operation", test case 16, as NIST has it for AES-256-GCM.
    #[test]
    fn cipher_is_the_standard_one() {
        let key = from_hexadecimal("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
        let place: [u8; 20] = from_hexadecimal("feedfacedeadbeeffeedfacedeadbeefabaddad2").unwrap();
        let plain: [u8; 60] = from_hexadecimal(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
             1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        )
        .unwrap();
        // Nonce, ciphertext and tag.
        let sealed: [u8; 12 + 60 + 16] = from_hexadecimal(
            "cafebabefacedbaddecaf888\
             522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
             8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662\
             76fc6ece0f4e1768cddf8853bb2d551b",
        )
        .unwrap();
        let key = Secret::new(key.unwrap());
        assert_eq!(open_item(&key, &place, &sealed).unwrap()[..], plain);
        for at in 0..sealed.len() {
            let mut flipped = sealed;
            flipped[at] ^= 1;
            assert!(open_item(&key, &place, &flipped).is_err(), "byte {at}");
            assert!(open_item(&key, &place, &sealed[..at]).is_err(), "{at} bytes");
        }
        assert!(open_item(&key, &place[1..], &sealed).is_err());
    }
}
