//! Secret bytes.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

use super::vault::Slot;

/// A 32-byte key: zeroized when dropped, never dumped, never shown.
pub struct Secret(Slot);

impl Secret {
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Slot::new(&Zeroizing::new(bytes)))
    }

    pub fn random() -> Self {
        Self::new(random())
    }

    /// A key for one purpose only, named by `context`.
    pub fn derive(&self, context: &str) -> Self {
        Self::new(blake3::derive_key(context, self.bytes()))
    }

    pub fn bytes(&self) -> &[u8; 32] {
        self.0.bytes()
    }

    /// Whether these bytes are this secret; how long it takes says nothing of it.
    pub fn is(&self, bytes: &[u8; 32]) -> bool {
        verify_slices_are_equal(self.bytes(), bytes).is_ok()
    }
}

impl Clone for Secret {
    fn clone(&self) -> Self {
        Self(Slot::new(self.bytes()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Fresh random bytes from the operating system's generator, seeded anew after fork and VM clone by it. Not from that of the
/// cryptographic library, which gathers entropy of its own first, for a tenth of a second in each process.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
