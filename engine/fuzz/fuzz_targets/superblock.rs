//! A superblock, before anything is known of its signature.
#![no_main]

use blocktree_engine::format::Superblock;
use libfuzzer_sys::fuzz_target;
use zerocopy::IntoBytes;

fuzz_target!(|data: &[u8]| {
    if let Ok(superblock) = Superblock::decode(data) {
        assert_eq!(superblock.as_bytes(), &data[..4096]);
    }
});
