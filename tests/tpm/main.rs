//! What a TPM does for stores, each with a software TPM of its own: `sealed` is the passphrase that it keeps, `init`
//! a store that has no other, `anchor` the counter by which older copies are noticed, `node` what a key of the TPM says of
//! the store's node, `attest` what somebody elsewhere is shown.
#![cfg(feature = "tpm")]

mod anchor;
mod attest;
mod init;
mod node;
mod sealed;
#[path = "../support/mod.rs"]
mod support;
mod swtpm;
