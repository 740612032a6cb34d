//! An inode's attributes.
#![no_main]

use blocktree_vfs::layout::Attributes;
use libfuzzer_sys::fuzz_target;
use zerocopy::IntoBytes;

fuzz_target!(|data: &[u8]| {
    if let Ok(attributes) = Attributes::decode(data) {
        let again = attributes.encode();
        assert_eq!(Attributes::decode(again.as_bytes()).ok(), Some(attributes));
    }
});
