//! A root slot, as whoever writes the disk may have made it. What a guess at the passphrase may cost is bounded elsewhere.
#![no_main]

use blocktree_engine::crypto::unseal_rootslot;
use blocktree_engine::format::RootSlotHeader;
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes;

fuzz_target!(|data: &[u8]| {
    let Ok((header, _)) = RootSlotHeader::read_from_prefix(data) else { return };
    if header.memory_kib.get() < 1 << 10 && header.passes.get() < 4 {
        assert!(unseal_rootslot(b"fuzz", data).is_err());
    }
});
