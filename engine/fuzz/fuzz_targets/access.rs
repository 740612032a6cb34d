//! A sector of access slots, and what is sealed in them: nothing opens that was not made for the principal that tries.
#![no_main]

use blocktree_engine::crypto::{Principal, Purpose, open_sealed};
use blocktree_engine::format::AccessSector;
use libfuzzer_sys::fuzz_target;
use zeroize::Zeroizing;

fuzz_target!(|data: &[u8]| {
    let Ok(sector) = AccessSector::decode(data) else { return };
    let holder = Principal::from_seeds(Zeroizing::new([7; 64]));
    let purpose = Purpose { context: "fuzz", store_id: &sector.store_id, place: b"" };
    for slot in sector.slots.iter().filter(|slot| !slot.is_free()) {
        assert!(open_sealed(&holder, &purpose, &slot.sealed).is_err());
    }
});
