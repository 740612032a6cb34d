//! The superblock: the signed root of everything, in four copies.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{CertificateBytes, FORMAT_VERSION, Malformed, NodePtr, OTHER_VERSION, SpaceEntry, malformed};
use crate::limits::{
    ACCESS_SECTORS, ANCHORS_MAX, LOG_SECTORS_MAX, LOG_SECTORS_MIN, REGION_HEADER_SECTORS, SECTOR_BYTES,
    STORE_SECTORS_MAX, STORE_SECTORS_MIN, SUPERBLOCK_CHAIN_MAX,
};

pub const SUPERBLOCK_MAGIC: [u8; 8] = *b"BLKTREE\x01";

/// A head of the store that a memory outside the store was told of. All zero: not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct AnchorBytes {
    /// Which memory.
    pub id: [u8; 8],
    /// The last record of the checkpoint that it was told of, and that record's hash.
    pub seq: U64,
    pub record_hash: [u8; 32],
}
const _: () = assert!(size_of::<AnchorBytes>() == 48);

const RESERVED: usize = SECTOR_BYTES
    - 368
    - ANCHORS_MAX * size_of::<AnchorBytes>()
    - SUPERBLOCK_CHAIN_MAX * size_of::<CertificateBytes>();

/// The newest superblock of which two copies are valid describes the store.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Superblock {
    pub magic: [u8; 8],
    pub version: U32,
    pub reserved0: U32,
    pub store_id: [u8; 16],
    /// Counts checkpoints; the newest wins.
    pub generation: U64,
    /// How long the volume is, and how long it may become, in sectors.
    pub volume_sectors: U64,
    pub capacity_sectors: U64,
    /// Sectors from here on were never written (a hint for speed).
    pub written_sectors: U64,
    /// The log zone's length in sectors, and the place in it where the next record goes.
    pub log_sectors: U64,
    pub log_position: U64,
    /// The last record that this checkpoint contains: sequence number and hash.
    pub seq: U64,
    pub record_hash: [u8; 32],
    /// The index as of that record.
    pub root: NodePtr,
    /// Height of the index: 0 where there is none, 1 for a single leaf.
    pub height: U32,
    pub reserved1: U32,
    /// Nodes of the index.
    pub nodes: U64,
    /// The space table as of that record and this checkpoint's own nodes.
    pub space: SpaceEntry,
    /// The next block to be made.
    pub next_block: U64,
    /// When it was written, in nanoseconds since 1970.
    pub time_ns: U64,
    /// Hash of the root principal's public keys, and the public signing key of the node that signs.
    pub root_principal: [u8; 32],
    pub author: [u8; 32],
    /// What anchors outside the store were told, or are about to be.
    pub anchors: [AnchorBytes; ANCHORS_MAX],
    /// Why the author's signature counts: its writecap for the whole store, and, unless the root issued that, the one
    /// of who did. All zeros: none.
    pub chain: [CertificateBytes; SUPERBLOCK_CHAIN_MAX],
    pub reserved2: [u8; RESERVED],
    /// Ed25519 over `blake3("blocktree superblock v1", everything before)`.
    pub signature: [u8; 64],
}
const _: () = assert!(size_of::<Superblock>() == SECTOR_BYTES);

impl Superblock {
    /// What the signature covers.
    pub fn signed_bytes(&self) -> &[u8] {
        &self.as_bytes()[..SECTOR_BYTES - 64]
    }

    /// Reads a copy and checks all that needs no key.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        const WHAT: &str = "superblock";
        let (sb, _) = Self::read_from_prefix(bytes).map_err(|_| malformed(WHAT, "too short"))?;
        if sb.magic != SUPERBLOCK_MAGIC {
            return Err(malformed(WHAT, "no magic number: not a Blocktree store"));
        }
        if sb.version.get() != FORMAT_VERSION {
            return Err(malformed(WHAT, OTHER_VERSION));
        }
        let (volume, capacity) = (sb.volume_sectors.get(), sb.capacity_sectors.get());
        if volume < STORE_SECTORS_MIN || volume > capacity || capacity > STORE_SECTORS_MAX {
            return Err(malformed(WHAT, "size out of range"));
        }
        let log = sb.log_sectors.get();
        if !log.is_power_of_two() || !(LOG_SECTORS_MIN..=LOG_SECTORS_MAX).contains(&log) {
            return Err(malformed(WHAT, "log zone out of range"));
        }
        if sb.log_position.get() >= log || Layout::new(log).reserved_end() > volume {
            return Err(malformed(WHAT, "log position out of range"));
        }
        if (sb.height.get() == 0) != (sb.root.sector.get() == 0) || sb.height.get() > 16 {
            return Err(malformed(WHAT, "height of the index out of range"));
        }
        // No store gets so far, and one that was signed so could not go on.
        if [sb.generation, sb.seq, sb.next_block].iter().any(|count| count.get() >> 62 != 0) {
            return Err(malformed(WHAT, "count out of range"));
        }
        Ok(sb)
    }
}

/// Where the fixed parts of a volume stand, in sectors. They fill the start of the first region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    log_sectors: u64,
}

const _: () = assert!(REGION_HEADER_SECTORS + 16 + ACCESS_SECTORS <= Layout::LOG_START);

impl Layout {
    pub const LOG_START: u64 = 64;

    pub fn new(log_sectors: u64) -> Self {
        Self { log_sectors }
    }

    /// The log zone that suits a store of this capacity.
    pub fn for_capacity(capacity_sectors: u64) -> Self {
        let log = (capacity_sectors / 16).next_power_of_two().clamp(LOG_SECTORS_MIN, LOG_SECTORS_MAX);
        // The smallest store must keep room for data behind its log.
        Self::new(if log * 2 > capacity_sectors { LOG_SECTORS_MIN } else { log })
    }

    pub fn log_sectors(&self) -> u64 {
        self.log_sectors
    }

    /// Two copies stand before the log and two behind it.
    pub fn superblocks(&self) -> [u64; 4] {
        let end = Self::LOG_START + self.log_sectors;
        [REGION_HEADER_SECTORS, REGION_HEADER_SECTORS + 4, end, end + 4]
    }

    pub fn keyslots(&self) -> [u64; 2] {
        [REGION_HEADER_SECTORS + 8, Self::LOG_START + self.log_sectors + 8]
    }

    pub fn rootslots(&self) -> [u64; 2] {
        [REGION_HEADER_SECTORS + 12, Self::LOG_START + self.log_sectors + 12]
    }

    /// The places of both copies of each sector of access slots.
    pub fn access(&self) -> impl Iterator<Item = [u64; 2]> + use<> {
        let (front, rear) = (REGION_HEADER_SECTORS + 16, Self::LOG_START + self.log_sectors + 16);
        (0..ACCESS_SECTORS).map(move |index| [front + index, rear + index])
    }

    /// The first sector that the allocator may hand out.
    pub fn reserved_end(&self) -> u64 {
        Self::LOG_START + self.log_sectors + 16 + ACCESS_SECTORS
    }

    /// Every length that a log zone may have: where to look for the rear copies when the front is gone.
    pub fn candidates() -> impl Iterator<Item = Self> {
        (0..).map(|shift| LOG_SECTORS_MIN << shift).take_while(|log| *log <= LOG_SECTORS_MAX).map(Self::new)
    }
}
