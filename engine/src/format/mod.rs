//! The layer of bytes: every structure that stands on a disk, and nothing else.
//!
//! All are little-endian, unaligned and without padding; their sizes are asserted here and drawn in
//! `docs/FORMAT.md`, and a test compares the two. Nothing here does I/O or cryptography.

mod access;
mod block;
mod capability;
mod extent;
mod journal;
mod key;
mod keyslot;
mod node;
mod portable;
mod record;
mod space;
mod superblock;
mod system;

pub use access::{ACCESS_MAGIC, ACCESS_OWNER, AccessSecrets, AccessSector, AccessSlot};
pub use block::{BlockHeader, LINK_BYTES, WRAPPED_KEY_BYTES};
pub use capability::{
    AccessBytes, CertificateBytes, ReadcapBytes, ReadcapSecrets, RevocationBytes, SEALED_BOX_BYTES,
};
pub use extent::{EXTENT_FOREIGN_KEY, EXTENT_SHARED, Extent, ExtentHeader};
pub use journal::{
    JournalBytes, JournalPart, decode_journal_item, decode_notes, encode_journal_head, encode_note,
    put_number, take_number,
};
pub use key::{BlockId, ItemKind, Key, KeyBytes, SYSTEM_BLOCK};
pub use keyslot::{KeySlotHeader, KeySlotSecrets, RootSlotHeader, RootSlotSecrets};
pub use node::{Child, NODE_MAGIC, NodeHeader, NodePtr, Slot};
pub(crate) use portable::check_kind;
pub use portable::{
    BackupClear, BackupSecrets, CountedAnchorHeader, NodeStatementBytes, SealedFileHeader, TpmFileHeader,
};
pub use record::{Change, RECORD_MAGIC, RecordHeader, decode_changes, encode_change};
pub use space::{SpaceEntry, SpaceTable};
pub use superblock::{AnchorBytes, Layout, SUPERBLOCK_MAGIC, Superblock};
pub use system::{DeadBytes, LostBytes, ReclaimBytes, RotationBytes, SharedBytes, SnapshotBytes, StaleBytes};

/// The version that this code writes, and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Why a structure of another version is malformed.
pub(crate) const OTHER_VERSION: &str = "written by another version of Blocktree";

/// Bytes that are not what they claim to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}: {why}")]
pub struct Malformed {
    /// Which structure.
    pub what: &'static str,
    /// Which rule it breaks.
    pub why: &'static str,
}

pub(crate) const fn malformed(what: &'static str, why: &'static str) -> Malformed {
    Malformed { what, why }
}
