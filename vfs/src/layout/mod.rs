//! The layer of bytes: what this layer stores in the engine's attributes and items. Nothing here does I/O.
//!
//! Every structure starts with a version byte, is little-endian and without padding; decoding checks everything
//! and never panics, since a disk may hold anything.
//!
//! | what | where in the engine | clear to the structure key | only for holders of the block's key |
//! | --- | --- | --- | --- |
//! | inode | attributes of its block | nothing | [`InodeBytes`] |
//! | directory entry | item 16 of the directory, at its position | the child's id | [`EntryBytes`], then the name |
//! | extended attributes | item 17, at bucket + piece | nothing | [`PieceBytes`], then a piece of the bucket |
//! | a file's bytes, a symlink's target | data of the block | nothing | the bytes |
//! | a change that happened | note of the journal | nothing | [`NoteBytes`], then inodes and names |
//!
//! The root directory is block 1. The journal's block has no attributes, and is no inode. A directory knows its parent; the root is its own.

mod entry;
mod inode;
mod note;
mod xattr;

pub use entry::{
    ENTRY_POSITION_FIRST, ENTRY_SLOTS, Entry, EntryBytes, HIDDEN_NAME, NAME_BYTES_MAX, bucket_of,
    decode_entry, encode_entry,
};
pub use inode::{Attributes, FileFlags, FileKind, InodeBytes, LINKS_MAX, Time, TimeBytes};
pub use note::{Note, NoteBytes, NoteKind};
pub use xattr::{
    BUCKET_BYTES_MAX, PIECE_BYTES_MAX, PieceBytes, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
    XattrRecordBytes, XattrRecords, decode_bucket, decode_piece, encode_bucket, encode_piece,
    xattr_bucket_of,
};

use blocktree_engine::format::ItemKind;

/// Directory entries, by position.
pub const ITEM_ENTRY: ItemKind = ItemKind(16);
/// Extended attributes, by bucket and piece.
pub const ITEM_XATTR: ItemKind = ItemKind(17);

/// Bytes that are not what they claim to be; the value names the structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

#[cfg(test)]
mod tests;
