//! A log record's head, and the changes of its body.
#![no_main]

use blocktree_engine::format::{Change, Extent, ItemKind, RecordHeader, decode_changes, encode_change};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = RecordHeader::decode(data);
    let mut again = Vec::new();
    let mut is_whole = true;
    for change in decode_changes(data) {
        match &change {
            Ok(change) => encode_change(&mut again, change),
            Err(_) => is_whole = false,
        }
        if let Ok(Change::Put(key, value)) = change
            && key.kind == ItemKind::EXTENT
            && let Ok(extent) = Extent::decode(value)
        {
            assert_eq!(extent.encode(), value);
        }
    }
    assert!(!is_whole || again == data);
});
