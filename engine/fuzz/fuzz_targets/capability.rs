//! Capabilities, as whoever holds the structure key may have made them.
#![no_main]

use blocktree_engine::crypto::{Certificate, Revocation};
use blocktree_engine::format::{CertificateBytes, RevocationBytes};
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes;

fuzz_target!(|data: &[u8]| {
    if let Ok((bytes, _)) = CertificateBytes::read_from_prefix(data) {
        assert!(Certificate::verify(&bytes, &bytes.store_id).is_err());
    }
    if let Ok((bytes, _)) = RevocationBytes::read_from_prefix(data) {
        assert!(Revocation::verify(&bytes, &bytes.store_id).is_err());
    }
    blocktree_engine::fuzzing::capabilities(data);
});
