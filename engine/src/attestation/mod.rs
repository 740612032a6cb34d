//! The layer of attestation: what a TPM says of a node and its machine, read and verified by those who have no TPM.
//!
//! It talks to no TPM. [`NodeStatement`] is what a key that never leaves a TPM says of a node's own key. A verifier believes that
//! the key is in a certain TPM, and how the machine started, after a [`Challenge`] that [`verify()`] holds the [`Answer`] against.
//!
//! Invariants:
//! 1. All of it may have been written by anybody: nothing is believed but what was signed, and nothing panics.
//! 2. A key counts as a TPM's only if it says of itself that it was made there and stays there.

mod messages;
mod statement;
mod structures;
mod verify;

pub use messages::{Answer, Challenge, Kept, Request, Signed};
pub use statement::{NodeStatement, StatementKey};
#[cfg(feature = "fuzzing")]
pub(crate) use structures::parse_attest;
pub use structures::{EndorsementKey, EndorsementKind, SigningKey};
pub use verify::{AttestationError, Expected, Verified, verify};

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::statement::tests::statement;
    pub(crate) use super::structures::tests::SIGNING;
}
