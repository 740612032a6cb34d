//! The code of a package, as it is looked at before anybody has agreed to anything.
#![no_main]

use blocktree_sandbox::package::sockets_import;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // Most inputs would be no component.
    let component = [b"\0asm\x0d\0\x01\0", data].concat();
    for code in [data, &component] {
        assert!(sockets_import(code).is_none_or(|name| name.starts_with("wasi:sockets/")));
    }
});
