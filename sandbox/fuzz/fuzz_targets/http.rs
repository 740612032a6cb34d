//! What stands on a connection: heads and bodies, of clients and of other hosts.
#![no_main]

use blocktree_sandbox::node::read_http;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| read_http(data));
