//! The sector engine of Blocktree: a copy-on-write, log-structured store of encrypted, hashed and signed
//! sectors. It knows blocks, items and sectors; it knows no names, no paths and no POSIX.

pub mod anchor;
pub mod attestation;
pub mod crypto;
pub mod device;
mod error;
pub mod format;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod hits;
pub mod identity;
pub mod limits;
mod space;
mod store;
mod tree;

pub use error::{Error, Result};
#[doc(hidden)]
pub use space::Refusals;
pub use store::{
    AccessInfo, Block, CapabilityError, CheckOptions, CheckReport, CreateOptions, Credential, Grant, Item,
    LostRecord, MasterKeys, NewKey, Note, NotesPage, OpenError, OpenOptions, Problem, ReadcapInfo,
    Reencrypted, Refusal, RefusedRecord, Role, Rotation, ScrubReport, Seq, SnapshotError, SnapshotInfo,
    StaleInfo, Store, StoreInfo, Transaction, Usage, WritecapInfo, change_passphrase, check, check_as,
    master_keys_of_root, node_of_key_slot, prove_master_keys, read_master_keys, read_root, read_signer,
    replace_node,
};
