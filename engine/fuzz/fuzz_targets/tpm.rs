//! A file with a secret that a TPM keeps, as anybody may have written it.
#![no_main]

use blocktree_engine::identity::{Sealed, TpmFile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(file) = TpmFile::parse(data) {
        assert_eq!(file.to_bytes(), data);
        assert!(Sealed::parse(data).is_err());
    }
    if let Ok(sealed) = Sealed::parse(data) {
        assert_eq!(sealed.to_bytes(), data);
    }
});
