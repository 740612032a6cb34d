//! A directory's entry, both of its parts, and pieces of extended attributes.
#![no_main]

use blocktree_vfs::layout::{decode_bucket, decode_entry, decode_piece, encode_bucket};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (clear, secret) = data.split_at(data.len().min(8));
    if let Ok(entry) = decode_entry(clear, secret) {
        assert!(!entry.name.is_empty() && !entry.name.contains(&b'/'));
    }
    let _ = decode_piece(data);
    if let Ok(records) = decode_bucket(data) {
        assert!(encode_bucket(&records).is_none_or(|bytes| bytes == data));
    }
});
