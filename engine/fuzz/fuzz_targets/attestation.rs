//! Files of an attestation, as anybody may have written them, and what a TPM is said to have written in them.
#![no_main]

use blocktree_engine::attestation::{
    Answer, Challenge, EndorsementKey, Kept, NodeStatement, Request, SigningKey,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = Request::parse(data) {
        assert_eq!(request.to_bytes(), data);
        let _ = request.certificate_pem();
    }
    if let Ok(challenge) = Challenge::parse(data) {
        assert_eq!(challenge.to_bytes(), data);
    }
    if let Ok(kept) = Kept::parse(data) {
        assert_eq!(*kept.to_bytes(), data);
    }
    if let Ok(answer) = Answer::parse(data) {
        assert_eq!(answer.to_bytes(), data);
    }
    let _ = (NodeStatement::parse(data).is_ok(), SigningKey::parse(data), EndorsementKey::parse(data));
    blocktree_engine::fuzzing::attested(data);
});
