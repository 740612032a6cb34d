//! A key slot and its certificate, as whoever writes the disk may have made them. What a guess at the passphrase may cost
//! is bounded elsewhere; here it only has to be quick.
#![no_main]

use blocktree_engine::crypto::{Certificate, unseal_keyslot};
use blocktree_engine::format::KeySlotHeader;
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes;

/// A seed, with a certificate that its owner did sign.
const FROZEN: &[u8] = include_bytes!("../seeds/keyslot/frozen");

fuzz_target!(|data: &[u8]| {
    let Ok((header, _)) = KeySlotHeader::read_from_prefix(data) else { return };
    let (frozen, _) = KeySlotHeader::read_from_prefix(FROZEN).expect("a key slot");
    let is_frozen = header.certificate == frozen.certificate && header.store_id == frozen.store_id;
    assert_eq!(Certificate::verify(&header.certificate, &header.store_id).is_ok(), is_frozen);
    if header.memory_kib.get() < 1 << 10 && header.passes.get() < 4 {
        assert!(unseal_keyslot(b"fuzz", data).is_err());
    }
});
