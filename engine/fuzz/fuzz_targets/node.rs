//! A decrypted index node, and the small items of the store's own.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    blocktree_engine::fuzzing::node(data);
    blocktree_engine::fuzzing::items(data);
});
