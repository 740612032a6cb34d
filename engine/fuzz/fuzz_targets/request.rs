//! A request for a right, as anybody may have written it.
#![no_main]

use blocktree_engine::identity::Request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Request::parse(text).map(|request| request.id());
    }
});
