//! A backup's file, a share of one, and words, as somebody may have handed them over.
#![no_main]

use blocktree_engine::format::SealedFileHeader;
use blocktree_engine::identity::{BackupFile, combine, from_words, root_from_words, to_words};
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(secret) = from_words(text) {
            assert_eq!(from_words(&to_words(&secret).join(" ")).as_ref(), Ok(&secret));
        }
        let lists: Vec<&str> = text.split(';').collect();
        let _ = root_from_words(&lists);
    }
    let Ok(file) = BackupFile::parse(data) else { return };
    let Ok((header, _)) = SealedFileHeader::read_from_prefix(data) else { return };
    // What a guess may cost is bounded elsewhere; here it only has to be quick.
    if header.memory_kib.get() < 1 << 10 && header.passes.get() < 4 {
        let _ = file.open(b"fuzz").map(|part| combine(&[part]));
    }
});
