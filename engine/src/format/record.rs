//! Log records: one commit each, signed and chained.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FORMAT_VERSION, Key, KeyBytes, Malformed, OTHER_VERSION, malformed};
use crate::limits::{ITEM_BYTES_MAX, RECORD_SECTORS_MAX, SECTOR_BYTES};

pub const RECORD_MAGIC: [u8; 8] = *b"BTRECORD";

/// The head of a record, in the clear; the body follows, encrypted under the structure key, filled up with
/// zeros to whole sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RecordHeader {
    pub magic: [u8; 8],
    pub version: U32,
    /// Length of the record with its head, in sectors.
    pub sectors: U32,
    /// Length of the body, in bytes.
    pub body_bytes: U32,
    pub reserved: U32,
    pub seq: U64,
    /// Every record up to this one was durable when this one was written.
    pub durable_seq: U64,
    /// Length of the volume once this record counts, in sectors.
    pub volume_sectors: U64,
    pub next_block: U64,
    pub time_ns: U64,
    pub store_id: [u8; 16],
    pub nonce: [u8; 16],
    /// Hash of the record before this one.
    pub previous: [u8; 32],
    /// Public signing key of the author.
    pub author: [u8; 32],
    /// Ed25519 over the record's hash; the hash covers all of the record but this field.
    pub signature: [u8; 64],
}
const _: () = assert!(size_of::<RecordHeader>() == 224);

impl RecordHeader {
    /// Offset of the signature, up to which the head is hashed.
    pub const SIGNED_BYTES: usize = size_of::<Self>() - 64;

    /// Reads a head and checks all that needs no key.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        const WHAT: &str = "log record";
        let (head, _) = Self::read_from_prefix(bytes).map_err(|_| malformed(WHAT, "too short"))?;
        if head.magic != RECORD_MAGIC {
            return Err(malformed(WHAT, "no magic number"));
        }
        if head.version.get() != FORMAT_VERSION {
            return Err(malformed(WHAT, OTHER_VERSION));
        }
        let sectors = u64::from(head.sectors.get());
        if sectors == 0 || sectors > RECORD_SECTORS_MAX {
            return Err(malformed(WHAT, "length out of range"));
        }
        if size_of::<Self>() as u64 + u64::from(head.body_bytes.get()) > sectors * SECTOR_BYTES as u64 {
            return Err(malformed(WHAT, "body longer than the record"));
        }
        if head.durable_seq.get() >= head.seq.get() {
            return Err(malformed(WHAT, "durable before it was written"));
        }
        Ok(head)
    }
}

/// One change that a record makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    Put(Key, &'a [u8]),
    Delete(Key),
    /// These sectors are in use from now on.
    Allocate {
        sector: u64,
        sectors: u32,
    },
    /// These are not any more.
    Free {
        sector: u64,
        sectors: u32,
    },
}

const PUT: u8 = 1;
const DELETE: u8 = 2;
const ALLOCATE: u8 = 3;
const FREE: u8 = 4;

/// Appends a change to a body.
pub fn encode_change(body: &mut Vec<u8>, change: &Change<'_>) {
    match change {
        Change::Put(key, value) => {
            assert!(value.len() <= ITEM_BYTES_MAX);
            body.push(PUT);
            body.extend_from_slice(KeyBytes::from(*key).as_bytes());
            body.extend_from_slice(&(value.len() as u16).to_le_bytes());
            body.extend_from_slice(value);
        }
        Change::Delete(key) => {
            body.push(DELETE);
            body.extend_from_slice(KeyBytes::from(*key).as_bytes());
        }
        Change::Allocate { sector, sectors } => encode_range(body, ALLOCATE, *sector, *sectors),
        Change::Free { sector, sectors } => encode_range(body, FREE, *sector, *sectors),
    }
}

fn encode_range(body: &mut Vec<u8>, tag: u8, sector: u64, sectors: u32) {
    body.push(tag);
    body.extend_from_slice(&sector.to_le_bytes());
    body.extend_from_slice(&sectors.to_le_bytes());
}

/// Reads a body change by change; ends after the first malformed one.
pub fn decode_changes(body: &[u8]) -> impl Iterator<Item = Result<Change<'_>, Malformed>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let change = decode_change(&mut rest);
        if change.is_err() {
            rest = &[];
        }
        Some(change)
    })
}

fn decode_change<'a>(rest: &mut &'a [u8]) -> Result<Change<'a>, Malformed> {
    const SHORT: Malformed = malformed("log record", "change too short");
    let (tag, body) = rest.split_first().ok_or(SHORT)?;
    *rest = body;
    match *tag {
        PUT => {
            let (key, body) = KeyBytes::ref_from_prefix(rest).map_err(|_| SHORT)?;
            let (length, body) = U16::read_from_prefix(body).map_err(|_| SHORT)?;
            let length = usize::from(length.get());
            if length > ITEM_BYTES_MAX {
                return Err(malformed("log record", "value too long"));
            }
            let (value, body) = body.split_at_checked(length).ok_or(SHORT)?;
            *rest = body;
            Ok(Change::Put(key.into(), value))
        }
        DELETE => {
            let (key, body) = KeyBytes::ref_from_prefix(rest).map_err(|_| SHORT)?;
            *rest = body;
            Ok(Change::Delete(key.into()))
        }
        tag @ (ALLOCATE | FREE) => {
            let (sector, body) = U64::read_from_prefix(rest).map_err(|_| SHORT)?;
            let (sectors, body) = U32::read_from_prefix(body).map_err(|_| SHORT)?;
            *rest = body;
            let (sector, sectors) = (sector.get(), sectors.get());
            if sectors == 0 || sector.checked_add(u64::from(sectors)).is_none() {
                return Err(malformed("log record", "range out of bounds"));
            }
            Ok(if tag == ALLOCATE {
                Change::Allocate { sector, sectors }
            } else {
                Change::Free { sector, sectors }
            })
        }
        _ => Err(malformed("log record", "unknown change")),
    }
}
