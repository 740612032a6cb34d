//! BLAKE3 (specification: <https://github.com/BLAKE3-team/BLAKE3-specs>).

use blake3::IncrementCounter;
use blake3::platform::Platform;

use super::Secret;
use crate::limits::SECTOR_BYTES;

/// A 32-byte BLAKE3 hash.
pub type Hash = [u8; 32];

/// The hash of `bytes`.
pub fn hash(bytes: &[u8]) -> Hash {
    *blake3::hash(bytes).as_bytes()
}

/// Hash of `parts`, one after the other, under a context that no other use shares.
pub fn tagged_hash(context: &str, parts: &[&[u8]]) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    parts.iter().for_each(|part| {
        hasher.update(part);
    });
    *hasher.finalize().as_bytes()
}

/// What only who has the key can compute of `bytes`. The key is for nothing else.
pub(crate) fn keyed_hash(key: &Secret, bytes: &[u8]) -> Hash {
    *blake3::keyed_hash(key.bytes(), bytes).as_bytes()
}

/// Bytes as people read them.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that hexadecimal digits stand for, whether letters are large or small.
pub(crate) fn from_hexadecimal<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let digits = digits.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |digit: u8| char::from(digit).to_digit(16);
        *byte = (value(pair[0])? << 4 | value(pair[1])?) as u8;
    }
    Some(bytes)
}

/// Sectors that are hashed side by side: as many as the widest processors have lanes.
const LANES: usize = 16;
const CHUNK_BYTES: usize = 1024;
const CHUNKS: usize = SECTOR_BYTES / CHUNK_BYTES;

/// The hash of each sector of `bytes`: what [`hash`] gives for each, in less than half the time.
///
/// A sector alone is four chunks, too few to fill a processor's vector lanes, so the same chunk of several
/// sectors is hashed at once. The `blake3` crate does that only within one input; what it uses for it is public
/// but not documented, and the test below holds it against the documented function.
pub fn hash_sectors(bytes: &[u8]) -> Vec<Hash> {
    assert!(bytes.len().is_multiple_of(SECTOR_BYTES));
    let platform = Platform::detect();
    let mut hashes = Vec::with_capacity(bytes.len() / SECTOR_BYTES);
    for group in bytes.chunks(LANES * SECTOR_BYTES) {
        match group.len() / SECTOR_BYTES {
            // Nothing to do side by side.
            1 => hashes.push(hash(group)),
            _ => hash_group(platform, group, &mut hashes),
        }
    }
    hashes
}

/// The hash of each unit of `unit` sectors of `bytes`.
pub fn hash_units(bytes: &[u8], unit: u64) -> Vec<Hash> {
    match unit {
        1 => hash_sectors(bytes),
        // Longer inputs fill the lanes by themselves.
        _ => bytes.chunks_exact(unit as usize * SECTOR_BYTES).map(hash).collect(),
    }
}

fn hash_group(platform: Platform, group: &[u8], hashes: &mut Vec<Hash>) {
    const KEY: [u32; 8] = [
        0x6A09_E667,
        0xBB67_AE85,
        0x3C6E_F372,
        0xA54F_F53A,
        0x510E_527F,
        0x9B05_688C,
        0x1F83_D9AB,
        0x5BE0_CD19,
    ];
    const CHUNK_START: u8 = 1;
    const CHUNK_END: u8 = 2;
    const PARENT: u8 = 4;
    const ROOT: u8 = 8;

    let (sectors, _) = group.as_chunks::<SECTOR_BYTES>();
    let count = sectors.len();
    // The chaining values of all chunks, sector by sector.
    let mut chunks = [[0; 32 * CHUNKS]; LANES];
    for index in 0..CHUNKS {
        let mut inputs = [&[0; CHUNK_BYTES]; LANES];
        for (input, sector) in inputs.iter_mut().zip(sectors) {
            *input = &sector.as_chunks::<CHUNK_BYTES>().0[index];
        }
        let mut out = [0; 32 * LANES];
        let (counter, fixed) = (index as u64, IncrementCounter::No);
        platform.hash_many(&inputs[..count], &KEY, counter, fixed, 0, CHUNK_START, CHUNK_END, &mut out);
        for (chunks, value) in chunks.iter_mut().zip(out.as_chunks::<32>().0) {
            chunks[32 * index..][..32].copy_from_slice(value);
        }
    }
    // Two levels of parents: four chunks to two, two to the root.
    let mut parents = [0; 64 * LANES];
    let pairs = chunks.as_flattened().as_chunks::<64>().0;
    hash_parents(platform, &KEY, &pairs[..2 * count], PARENT, &mut parents);
    let mut roots = [0; 32 * LANES];
    hash_parents(platform, &KEY, &parents.as_chunks::<64>().0[..count], PARENT | ROOT, &mut roots);
    hashes.extend_from_slice(&roots.as_chunks::<32>().0[..count]);
}

fn hash_parents(platform: Platform, key: &[u32; 8], parents: &[[u8; 64]], flags: u8, out: &mut [u8]) {
    for (parents, out) in parents.chunks(LANES).zip(out.chunks_mut(32 * LANES)) {
        let mut inputs = [&[0; 64]; LANES];
        for (input, parent) in inputs.iter_mut().zip(parents) {
            *input = parent;
        }
        platform.hash_many(&inputs[..parents.len()], key, 0, IncrementCounter::No, flags, 0, 0, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the BLAKE3 team (github.com/BLAKE3-team/BLAKE3, `test_vectors/test_vectors.json`).
    #[test]
    fn hashes_are_the_standard_ones() {
        let input: Vec<u8> = (0..SECTOR_BYTES).map(|at| (at % 251) as u8).collect();
        for (length, expected) in [
            (0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
            (1, "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"),
            (1024, "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7"),
            (2048, "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a"),
            (SECTOR_BYTES, "015094013f57a5277b59d8475c0501042c0b642e531b0a1c8f58d2163229e969"),
        ] {
            assert_eq!(hexadecimal(&hash(&input[..length])), expected, "{length} bytes");
        }
        assert_eq!(hash_sectors(&input), [hash(&input)]);
        let key = Secret::new(*b"whats the Elvish word for friend");
        let expected = "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26";
        assert_eq!(hexadecimal(&keyed_hash(&key, b"")), expected);
    }

    #[test]
    fn side_by_side_is_the_same_as_one_by_one() {
        let bytes: Vec<u8> =
            (0..40 * SECTOR_BYTES).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
        for count in 0..=40 {
            let bytes = &bytes[..count * SECTOR_BYTES];
            let expected: Vec<Hash> = bytes.chunks_exact(SECTOR_BYTES).map(hash).collect();
            assert_eq!(hash_sectors(bytes), expected);
        }
    }
}
