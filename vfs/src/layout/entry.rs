//! A directory entry, and where it stands.
//!
//! A name's keyed hash chooses a bucket of [`ENTRY_SLOTS`] positions; the entry takes its first free one. A lookup
//! scans the bucket, so removing an entry needs no tombstone. The position is the readdir cookie: 63 bits, and
//! never below [`ENTRY_POSITION_FIRST`], since 1 and 2 are `.` and `..`. With 55 bits of hash two names among a
//! million share a bucket once in 65 000 directories; 257 names of one bucket only exist if somebody who knows the
//! key searched for them, and then the last of them is refused.

use blocktree_engine::format::{BlockId, WRAPPED_KEY_BYTES};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FileKind, Malformed};

const ENTRY_VERSION: u8 = 1;

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Positions of one bucket.
pub const ENTRY_SLOTS: u64 = 256;
/// The first position that an entry may have.
pub const ENTRY_POSITION_FIRST: u64 = ENTRY_SLOTS;

/// The first position of the bucket of a name with this hash.
pub const fn bucket_of(hash: u64) -> u64 {
    let bucket = (hash >> 1) & !(ENTRY_SLOTS - 1);
    if bucket < ENTRY_POSITION_FIRST { ENTRY_POSITION_FIRST } else { bucket }
}

/// An entry's secret part on disk, followed by the name. Its clear part is the child's id alone.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct EntryBytes {
    pub version: u8,
    pub kind: u8,
    pub name_bytes: u8,
    pub child: U64,
    /// The child's key under the directory's.
    pub wrapped_key: [u8; WRAPPED_KEY_BYTES],
}
const _: () = assert!(size_of::<EntryBytes>() == 71);

/// An entry in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub child: BlockId,
    pub kind: FileKind,
    pub name: Vec<u8>,
    /// The child's key under the directory's.
    pub wrapped_key: [u8; WRAPPED_KEY_BYTES],
}

/// An entry's secret part.
pub fn encode_entry(
    child: BlockId,
    kind: FileKind,
    wrapped_key: [u8; WRAPPED_KEY_BYTES],
    name: &[u8],
) -> Vec<u8> {
    debug_assert!(!name.is_empty() && name.len() <= NAME_BYTES_MAX);
    let header = EntryBytes {
        version: ENTRY_VERSION,
        kind: kind as u8,
        name_bytes: name.len() as u8,
        child: child.into(),
        wrapped_key,
    };
    let mut bytes = Vec::with_capacity(size_of::<EntryBytes>() + name.len());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(name);
    bytes
}

/// The one name that no path can spell: of a directory in the root that no mount shows.
pub const HIDDEN_NAME: &[u8] = b"/system";

/// Both parts of an entry: the clear one must name the same child.
pub fn decode_entry(clear: &[u8], secret: &[u8]) -> Result<Entry, Malformed> {
    let (header, name) = EntryBytes::ref_from_prefix(secret).map_err(|_| Malformed("entry: length"))?;
    if header.version != ENTRY_VERSION {
        return Err(Malformed("entry: version"));
    }
    let kind = FileKind::from_number(header.kind).ok_or(Malformed("entry: kind"))?;
    if clear != header.child.as_bytes() || header.child.get() == 0 {
        return Err(Malformed("entry: child"));
    }
    if name.is_empty() || name.len() != usize::from(header.name_bytes) {
        return Err(Malformed("entry: length of the name"));
    }
    let is_spelled = !name.iter().any(|&byte| byte == 0 || byte == b'/') && name != b"." && name != b"..";
    if !is_spelled && name != HIDDEN_NAME {
        return Err(Malformed("entry: name"));
    }
    Ok(Entry { child: header.child.get(), kind, name: name.to_vec(), wrapped_key: header.wrapped_key })
}
