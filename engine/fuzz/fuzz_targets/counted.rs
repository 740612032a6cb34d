//! An anchor's file with a counter, as anybody may have written it.
#![no_main]

use blocktree_engine::anchor::CountedFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(file) = CountedFile::parse(data) {
        assert_eq!(file.to_bytes(), data);
    }
});
