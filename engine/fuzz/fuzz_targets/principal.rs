//! A principal's file and line, as somebody may have handed them over.
#![no_main]

use blocktree_engine::crypto::PublicKeys;
use blocktree_engine::format::SealedFileHeader;
use blocktree_engine::identity::PrincipalFile;
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(keys) = text.parse::<PublicKeys>()
    {
        assert_eq!(keys.to_string(), text.trim().to_lowercase());
    }
    let Ok(file) = PrincipalFile::parse(data) else { return };
    let Ok((header, _)) = SealedFileHeader::read_from_prefix(data) else { return };
    // What a guess may cost is bounded elsewhere; here it only has to be quick.
    if header.memory_kib.get() < 1 << 10 && header.passes.get() < 4 {
        let _ = file.open(b"fuzz").map(|principal| assert_eq!(principal.public(), file.public()));
    }
});
