//! Another ciphertext with the same AES-GCM tag: what everybody who knows the key can make (NIST SP 800-38D).
//!
//! The tag is a polynomial in `H`, the encryption of a block of zeros: a change of one block of ciphertext is made up for
//! by a change of the next one, `H` times as large.

use blocktree_engine::crypto::Secret;
use openssl::symm::{Cipher, Crypter, Mode};

const NONCE_BYTES: usize = 12;
const BLOCK: usize = 16;

/// A sealed item whose plaintext differs in byte `at` of its first block by `by`; its tag stays.
pub(crate) fn with_same_tag(key: &Secret, sealed: &[u8], at: usize, by: u8) -> Vec<u8> {
    assert!(at < BLOCK && sealed.len() >= NONCE_BYTES + 3 * BLOCK);
    let mut change = [0; BLOCK];
    change[at] = by;
    let made_up = multiply(change, hash_key(key));
    let mut forged = sealed.to_vec();
    let blocks = forged[NONCE_BYTES..][..2 * BLOCK].iter_mut();
    blocks.zip(change.iter().chain(&made_up)).for_each(|(byte, by)| *byte ^= by);
    forged
}

fn hash_key(key: &Secret) -> [u8; BLOCK] {
    let mut cipher = Crypter::new(Cipher::aes_256_ecb(), Mode::Encrypt, key.bytes(), None).unwrap();
    cipher.pad(false);
    let mut out = [0; 2 * BLOCK];
    assert_eq!(cipher.update(&[0; BLOCK], &mut out).unwrap(), BLOCK);
    out[..BLOCK].try_into().unwrap()
}

/// The product in GF(2^128) as GCM has it: bit 0 is the highest of the first byte.
fn multiply(a: [u8; BLOCK], b: [u8; BLOCK]) -> [u8; BLOCK] {
    const REDUCTION: u128 = 0xe1 << 120;
    let (a, mut factor) = (u128::from_be_bytes(a), u128::from_be_bytes(b));
    let mut product = 0;
    for bit in (0..128).rev() {
        if a >> bit & 1 == 1 {
            product ^= factor;
        }
        let carry = factor & 1;
        factor >>= 1;
        if carry == 1 {
            factor ^= REDUCTION;
        }
    }
    product.to_be_bytes()
}
