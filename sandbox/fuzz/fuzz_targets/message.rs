//! Messages between node and sandbox: whoever breaks out of the runtime writes them.
#![no_main]

use blocktree_sandbox::ipc::{FromGuest, ToGuest, VERSION, decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // Most inputs would be of another version.
    let message = [&VERSION.to_le_bytes()[..], data].concat();
    let _ = decode::<FromGuest>(data);
    if let Ok(known) = decode::<FromGuest>(&message) {
        let again = encode(&known).expect("it was not too long");
        assert_eq!(decode::<FromGuest>(&again), Ok(known));
    }
    if let Ok(known) = decode::<ToGuest>(&message) {
        let again = encode(&known).expect("it was not too long");
        assert_eq!(decode::<ToGuest>(&again), Ok(known));
    }
});
