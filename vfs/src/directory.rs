//! The entries of a directory: finding, adding, removing.
//!
//! The caller holds the directory's `operation` lock where it changes or relies on the answer; [`find`] alone may
//! run without. Positions and bytes are drawn in [`crate::layout`].

use blocktree_engine::format::{BlockId, WRAPPED_KEY_BYTES};
use blocktree_engine::{Block, Item, Store, Transaction};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use crate::inode::Inode;
use crate::layout::{
    ENTRY_SLOTS, Entry, FileKind, ITEM_ENTRY, NAME_BYTES_MAX, bucket_of, decode_entry, encode_entry,
};
use crate::{FsError, Ino, Result};

/// Where a name is, or where it would go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Taken {
        position: u64,
        entry: Entry,
    },
    /// `None`: the bucket is full.
    Free(Option<u64>),
}

impl Place {
    pub(crate) fn taken(self) -> Result<(u64, Entry)> {
        match self {
            Self::Taken { position, entry } => Ok((position, entry)),
            Self::Free(_) => Err(FsError::NotFound),
        }
    }

    pub(crate) fn free(self) -> Result<u64> {
        match self {
            Self::Taken { .. } => Err(FsError::Exists),
            Self::Free(position) => position.ok_or(FsError::DirectoryFull),
        }
    }
}

/// Names and the hash that places them.
#[derive(Clone, Copy)]
pub(crate) struct NameHash(pub(crate) Option<fn(&[u8]) -> u64>);

impl NameHash {
    pub(crate) fn of(self, directory: &Inode, name: &[u8]) -> u64 {
        match self.0 {
            None => directory.block.name_hash(name),
            Some(hash) => hash(name),
        }
    }
}

/// Refuses what cannot be an entry's name.
pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(FsError::NameTooLong);
    }
    if name.is_empty() {
        return Err(FsError::NotFound);
    }
    if name.iter().any(|&byte| byte == 0 || byte == b'/') {
        return Err(FsError::Invalid("a name holds no NUL and no slash"));
    }
    Ok(())
}

pub(crate) fn decode(directory: Ino, item: &Item) -> Result<Entry> {
    decode_entry(&item.clear, &item.secret)
        .map_err(|malformed| FsError::Malformed { ino: directory, what: malformed.0 })
}

/// Looks a name up.
pub(crate) fn find(store: &Store, directory: &Inode, hash: u64, name: &[u8]) -> Result<Place> {
    let place = find_at(store, directory, hash, name)?;
    if matches!(place, Place::Free(_)) && store.has_older_items(&directory.block) {
        // A crash came while the directory got a new key: the name may stand where the one before wanted it.
        for hash in directory.block.older_name_hashes(name) {
            let older = find_at(store, directory, hash, name)?;
            if matches!(older, Place::Taken { .. }) {
                return Ok(older);
            }
        }
    }
    Ok(place)
}

fn find_at(store: &Store, directory: &Inode, hash: u64, name: &[u8]) -> Result<Place> {
    let bucket = bucket_of(hash);
    let end = bucket + ENTRY_SLOTS;
    let mut free = None;
    let mut expected = bucket;
    let mut from = bucket;
    // Nearly every bucket holds one entry, so one item is asked for before many are.
    let mut limit = 1;
    loop {
        let items = store.scan_within(&directory.block, ITEM_ENTRY, from..=end - 1, limit)?;
        let complete = items.len() < limit;
        for (position, item) in items {
            if position != expected && free.is_none() {
                free = Some(expected);
            }
            expected = position + 1;
            let entry = decode(directory.ino, &item)?;
            if entry.name == name {
                return Ok(Place::Taken { position, entry });
            }
        }
        if complete || expected >= end {
            return Ok(Place::Free(free.or((expected < end).then_some(expected))));
        }
        from = expected;
        limit = 16;
    }
}

/// Adds an entry, or lets one lead to another child.
pub(crate) fn put(
    transaction: &mut Transaction,
    directory: &Inode,
    position: u64,
    child: &Block,
    kind: FileKind,
    name: &[u8],
) {
    let wrapped_key = child.wrap_for(&directory.block);
    put_entry(transaction, &directory.block, position, child.id(), kind, wrapped_key, name);
}

/// As [`put`], with the child's key as it is wrapped already.
pub(crate) fn put_entry(
    transaction: &mut Transaction,
    directory: &Block,
    position: u64,
    child: BlockId,
    kind: FileKind,
    wrapped_key: [u8; WRAPPED_KEY_BYTES],
    name: &[u8],
) {
    let secret = encode_entry(child, kind, wrapped_key, name);
    transaction.put(directory, ITEM_ENTRY, position, U64::new(child).as_bytes(), &secret);
}

pub(crate) fn delete(transaction: &mut Transaction, directory: &Inode, position: u64) {
    transaction.delete(&directory.block, ITEM_ENTRY, position);
}
