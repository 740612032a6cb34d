//! Superblocks, record heads and bodies, extents, certificates: by the first byte.
#![no_main]

use blocktree_engine::crypto::Certificate;
use blocktree_engine::format::{CertificateBytes, Extent, RecordHeader, Superblock, decode_changes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((which, bytes)) = data.split_first() else { return };
    match which % 5 {
        0 => drop(Superblock::decode(bytes)),
        1 => drop(RecordHeader::decode(bytes)),
        2 => decode_changes(bytes).for_each(drop),
        3 => {
            if let Ok(extent) = Extent::decode(bytes) {
                assert_eq!(extent.encode(), bytes);
            }
        }
        _ => {
            if let Some(bytes) = blocktree_engine::fuzzing::certificate(bytes) {
                let _: &CertificateBytes = &bytes;
                let _ = Certificate::verify(&bytes, &[0; 32], 0);
            }
        }
    }
});
