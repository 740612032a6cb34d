//! Extended attributes: buckets of records, cut into pieces that fit an item.
//!
//! All attributes whose names share the upper 56 bits of the keyed hash are one bucket: records one after the
//! other, in no order. Piece `n` of the bucket is the item at `bucket | n`. The first piece's header tells how
//! long the whole bucket is, and each piece how many there are, so that pieces of two versions never mix unseen.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use blocktree_engine::limits::{ITEM_BYTES_MAX, ITEM_SEAL_BYTES};

use super::Malformed;

const PIECE_VERSION: u8 = 1;

/// The longest name of an attribute, in bytes.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// The longest value, in bytes.
pub const XATTR_VALUE_BYTES_MAX: usize = 64 << 10;
/// A piece's share of its bucket.
pub const PIECE_BYTES_MAX: usize = ITEM_BYTES_MAX - ITEM_SEAL_BYTES - size_of::<PieceBytes>();
/// The longest bucket: as many pieces as a byte counts.
pub const BUCKET_BYTES_MAX: usize = 255 * PIECE_BYTES_MAX;

const _: () = assert!(BUCKET_BYTES_MAX > 8 * (XATTR_VALUE_BYTES_MAX + XATTR_NAME_BYTES_MAX + 8));

/// The offset of the first piece of the bucket of a name with this hash.
pub const fn xattr_bucket_of(hash: u64) -> u64 {
    hash & !0xff
}

/// What stands before each piece.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct PieceBytes {
    pub version: u8,
    /// Pieces of the bucket.
    pub pieces: u8,
    /// Bytes of the whole bucket.
    pub bucket_bytes: U32,
}
const _: () = assert!(size_of::<PieceBytes>() == 6);

/// What stands before each attribute of a bucket; then come name and value.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct XattrRecordBytes {
    pub name_bytes: u8,
    pub value_bytes: U32,
}
const _: () = assert!(size_of::<XattrRecordBytes>() == 5);

/// Names and values.
pub type XattrRecords = Vec<(Vec<u8>, Vec<u8>)>;

/// A bucket's bytes; `None` if they are too many.
pub fn encode_bucket(records: &[(Vec<u8>, Vec<u8>)]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for (name, value) in records {
        let name_bytes = u8::try_from(name.len()).ok()?;
        let value_bytes = u32::try_from(value.len()).ok()?;
        bytes.extend_from_slice(XattrRecordBytes { name_bytes, value_bytes: value_bytes.into() }.as_bytes());
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(value);
    }
    (bytes.len() <= BUCKET_BYTES_MAX).then_some(bytes)
}

/// The names and values of a bucket.
pub fn decode_bucket(mut bytes: &[u8]) -> Result<XattrRecords, Malformed> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (record, rest) =
            XattrRecordBytes::ref_from_prefix(bytes).map_err(|_| Malformed("extended attribute: record"))?;
        let name_bytes = usize::from(record.name_bytes);
        let value_bytes = record.value_bytes.get() as usize;
        if name_bytes == 0 || value_bytes > XATTR_VALUE_BYTES_MAX || rest.len() < name_bytes + value_bytes {
            return Err(Malformed("extended attribute: lengths"));
        }
        let (name, rest) = rest.split_at(name_bytes);
        let (value, rest) = rest.split_at(value_bytes);
        records.push((name.to_vec(), value.to_vec()));
        bytes = rest;
    }
    Ok(records)
}

/// One item's secret part for each piece of a bucket that is not empty.
pub fn encode_piece(bucket: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let pieces = bucket.len().div_ceil(PIECE_BYTES_MAX);
    debug_assert!(pieces <= 255);
    bucket.chunks(PIECE_BYTES_MAX).map(move |piece| {
        let header = PieceBytes {
            version: PIECE_VERSION,
            pieces: pieces as u8,
            bucket_bytes: (bucket.len() as u32).into(),
        };
        [header.as_bytes(), piece].concat()
    })
}

/// The header of a piece, and the piece.
pub fn decode_piece(secret: &[u8]) -> Result<(PieceBytes, &[u8]), Malformed> {
    let (header, piece) =
        PieceBytes::ref_from_prefix(secret).map_err(|_| Malformed("extended attribute: piece"))?;
    let bucket_bytes = header.bucket_bytes.get() as usize;
    if header.version != PIECE_VERSION
        || bucket_bytes == 0
        || bucket_bytes.div_ceil(PIECE_BYTES_MAX) != usize::from(header.pieces)
    {
        return Err(Malformed("extended attribute: piece"));
    }
    Ok((*header, piece))
}
