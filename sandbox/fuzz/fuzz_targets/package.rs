//! Packages: nothing is verified that its author did not sign.
#![no_main]

use std::sync::OnceLock;

use blocktree_engine::crypto::Principal;
use blocktree_sandbox::package::{FORMAT, Limits, Manifest, Package, Version, pack, sign};
use libfuzzer_sys::fuzz_target;

/// A signed package, so that inputs are changes of one.
fn signed() -> &'static [u8] {
    static PACKAGE: OnceLock<Vec<u8>> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let manifest = Manifest {
            format: FORMAT,
            name: "app".into(),
            version: Version([1, 0, 0]),
            summary: "An app.".into(),
            author: String::new(),
            component: "app.wasm".into(),
            grants: Vec::new(),
            triggers: Vec::new(),
            limits: Limits::default(),
            serve: None,
            policy: None,
            receive: None,
            send: Vec::new(),
            connect: Vec::new(),
            sockets: Vec::new(),
            files: Vec::new(),
        };
        let packed = pack(manifest, &[("app.wasm".into(), b"code".to_vec())]).expect("packed");
        sign(&packed, &Principal::generate()).expect("signed")
    })
}

fuzz_target!(|data: &[u8]| {
    assert!(Package::verify(data).is_err());
    let _ = Package::parse(data);
    // Bytes at places.
    let mut package = signed().to_vec();
    for change in data.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % package.len();
        package[at] = change[2];
    }
    assert!(Package::verify(&package).is_err() || package == signed());
});
