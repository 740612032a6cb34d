//! Manifests: there is one text of each, patterns, hosts and addresses in it are what they seem.
#![no_main]

use blocktree_sandbox::package::{Endpoint, Glob, Manifest, host_of};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = Manifest::from_canonical(data) {
        assert_eq!(manifest.to_canonical().expect("it has a text"), data);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (pattern, path) = text.split_at(text.find('\n').unwrap_or(text.len()));
    if let Ok(glob) = Glob::parse(pattern) {
        let _ = glob.matches(path.trim_start());
    }
    if let Some((host, _)) = host_of(text) {
        assert!(!host.contains(['/', '@', '\r', '\n', ' ']));
    }
    if let Ok(endpoint) = Endpoint::try_from(text.to_owned()) {
        assert_eq!(endpoint.to_string(), text);
        assert_eq!(Endpoint::new(endpoint.host(), endpoint.port()), Some(endpoint));
    }
    if let Some(endpoint) = Endpoint::new(text, 1) {
        assert_eq!(Endpoint::try_from(endpoint.to_string()), Ok(endpoint));
    }
});
