//! The layer of cryptography: typed keys and the few operations the engine needs.
//!
//! Sectors are encrypted with AES-256-XTS, because it is the fastest here and because integrity does not
//! depend on the cipher: every sector's ciphertext is hashed with BLAKE3 and the hash stands, under a
//! signature, beside the pointer. Small items are sealed with AES-256-GCM. Signatures are Ed25519.
//!
//! Invariants:
//! 1. No (key, nonce) pair is ever used twice: nonces are random, drawn from the operating system's generator
//!    at the moment of use, so that copies and rolled-back images of a store cannot repeat them.
//! 2. Secrets are zeroized when dropped, stand in memory that is not dumped, and have no `Debug` that shows them.
//! 3. Whether a tag fits is compared in constant time, by the libraries that open what is sealed, and so are secrets.
//!    Hashes and signatures are of public bytes.

mod approver;
mod certificate;
mod hash;
mod keyslot;
mod sealed;
mod sealedbox;
mod secret;
mod sectors;
mod sign;
mod stretch;
mod tpm;
mod vault;

pub use approver::{Approver, ApproverPublic};
pub use certificate::{Certificate, CertificateError, Chain, Revocation, Rights, Terms};
pub use hash::{Hash, hash, hash_sectors, hash_units, hexadecimal, tagged_hash};
pub(crate) use hash::{from_hexadecimal, keyed_hash};
pub use keyslot::{KeySlotError, seal_keyslot, seal_rootslot, unseal_keyslot, unseal_rootslot};
pub use sealed::{open_item, open_key, seal_item, wrap_key};
pub use sealedbox::{Purpose, open_sealed, seal_to};
pub use secret::{Secret, random};
pub use sectors::{ExtentKey, open_sectors, open_sectors_into, seal_sectors, seal_sectors_from};
pub use sign::{Principal, PrincipalId, PublicKeys, verify};
pub use stretch::KdfCost;
pub(crate) use stretch::stretch;
pub(crate) use tpm::{CertifiedKey, Seed, make_credential, read_certificate, sha256, verify_p256};

/// Ciphertext that does not open: altered, or the wrong key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("does not open under this key")]
pub struct Unopenable;
