//! Calls of a daemon about capabilities, as any process may send them that may open the mount.
#![no_main]

use blocktree_vfs::control::CapabilityCall;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(call) = CapabilityCall::decode(data) {
        assert_eq!(call.encode(), data);
    }
});
