//! From a passphrase to a key: Argon2id (RFC 9106, version 0x13).
//!
//! Invariant: costs that come from a file are bounded before anything is spent on them.

use argon2::{Algorithm, Argon2, Params, Version};
use zerocopy::little_endian::U32;
use zeroize::Zeroizing;

use super::Secret;
use crate::limits::{KDF_MEMORY_KIB_MAX, KDF_PASSES_MAX};

/// What one guess at a passphrase costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfCost {
    pub memory_kib: u32,
    pub passes: u32,
}

impl KdfCost {
    /// The second choice that RFC 9106 recommends (64 MiB, three passes): about 0.2 s.
    pub const STANDARD: Self = Self { memory_kib: 64 << 10, passes: 3 };
    /// For tests only: no protection at all.
    pub const TRIVIAL: Self = Self { memory_kib: 64, passes: 1 };

    /// What a file says that a guess costs; else which rule that breaks.
    pub(crate) fn from_fields(memory_kib: U32, passes: U32, lanes: U32) -> Result<Self, &'static str> {
        let cost = Self { memory_kib: memory_kib.get(), passes: passes.get() };
        if cost.memory_kib > KDF_MEMORY_KIB_MAX || cost.passes > KDF_PASSES_MAX || lanes.get() != 1 {
            return Err(OUT_OF_RANGE);
        }
        Ok(cost)
    }
}

const OUT_OF_RANGE: &str = "passphrase cost out of range";

/// The key that a passphrase gives with this salt; else why there is none.
pub(crate) fn stretch(passphrase: &[u8], salt: &[u8], cost: KdfCost) -> Result<Secret, &'static str> {
    let params = Params::new(cost.memory_kib, cost.passes, 1, Some(32)).map_err(|_| OUT_OF_RANGE)?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, &mut key[..])
        .map_err(|_| "passphrase too long")?;
    Ok(Secret::new(*key))
}

#[cfg(test)]
mod tests {
    use super::super::from_hexadecimal;
    use super::*;

    /// Of the reference implementation (github.com/P-H-C/phc-winner-argon2, `src/test.c`, Argon2id).
    #[test]
    fn stretching_is_the_standard_one() {
        let cost = KdfCost { memory_kib: 64 << 10, passes: 2 };
        let key = stretch(b"password", b"somesalt", cost).unwrap();
        let expected = "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7";
        assert_eq!(Some(*key.bytes()), from_hexadecimal(expected));
    }
}
