//! The signed log: how a record is made, and how it is read back.

use zerocopy::IntoBytes;

use super::keys::Keys;
use crate::crypto::{ExtentKey, Hash, open_sectors, random, seal_sectors, tagged_hash, verify};
use crate::device::{Device, SectorBuf};
use crate::format::{FORMAT_VERSION, Malformed, RECORD_MAGIC, RecordHeader};
use crate::limits::SECTOR_BYTES;

const HEAD: usize = size_of::<RecordHeader>();

/// What the head of a new record says.
pub(super) struct RecordFields {
    pub(super) seq: u64,
    pub(super) durable_seq: u64,
    pub(super) volume_sectors: u64,
    pub(super) next_block: u64,
    pub(super) previous: Hash,
    pub(super) time_ns: u64,
}

/// Makes a record: encrypts the body, hashes and signs. Returns it with its hash.
pub(super) fn seal_record(
    device: &dyn Device,
    keys: &Keys,
    fields: &RecordFields,
    body: &[u8],
) -> (SectorBuf, Hash) {
    let sectors = record_sectors(body.len());
    let mut bytes = device.buffer(sectors as usize);
    let mut head = RecordHeader {
        magic: RECORD_MAGIC,
        version: FORMAT_VERSION.into(),
        sectors: (sectors as u32).into(),
        body_bytes: (body.len() as u32).into(),
        reserved: 0.into(),
        seq: fields.seq.into(),
        durable_seq: fields.durable_seq.into(),
        volume_sectors: fields.volume_sectors.into(),
        next_block: fields.next_block.into(),
        time_ns: fields.time_ns.into(),
        store_id: keys.store_id,
        nonce: random(),
        previous: fields.previous,
        author: keys.node.public().signing,
        signature: [0; 64],
    };
    bytes[HEAD..HEAD + body.len()].copy_from_slice(body);
    bytes[HEAD + body.len()..].fill(0);
    seal_sectors(&ExtentKey::derive(&keys.structure, &head.nonce), 0, &mut bytes[HEAD..]);
    let hash = record_hash(&head, &bytes[HEAD..]);
    head.signature = keys.node.sign(&hash);
    bytes[..HEAD].copy_from_slice(head.as_bytes());
    (bytes, hash)
}

/// How many sectors a record with a body of so many bytes takes.
pub(super) fn record_sectors(body_bytes: usize) -> u64 {
    (HEAD + body_bytes).div_ceil(SECTOR_BYTES) as u64
}

fn record_hash(head: &RecordHeader, body: &[u8]) -> Hash {
    tagged_hash("blocktree log record v1", &[&head.as_bytes()[..RecordHeader::SIGNED_BYTES], body])
}

/// A record whose signature was verified, its body decrypted.
pub(super) struct Record {
    pub(super) head: RecordHeader,
    pub(super) hash: Hash,
    pub(super) body: Vec<u8>,
}

impl Record {
    /// Reads a whole record, whoever its author is; `bytes` is as long as its head says.
    pub(super) fn open(keys: &Keys, head: RecordHeader, bytes: &[u8]) -> Result<Self, Malformed> {
        const WHAT: &str = "log record";
        let malformed = |why| Malformed { what: WHAT, why };
        if bytes.len() != head.sectors.get() as usize * SECTOR_BYTES {
            return Err(malformed("cut short"));
        }
        if head.store_id != keys.store_id {
            return Err(malformed("of another store"));
        }
        let hash = record_hash(&head, &bytes[HEAD..]);
        if !verify(&head.author, &hash, &head.signature) {
            return Err(malformed("wrong signature"));
        }
        let mut body = bytes[HEAD..].to_vec();
        open_sectors(&ExtentKey::derive(&keys.structure, &head.nonce), 0, &mut body);
        body.truncate(head.body_bytes.get() as usize);
        Ok(Self { head, hash, body })
    }
}
