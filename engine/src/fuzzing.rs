//! Parsers that are private otherwise, for the fuzz targets in `engine/fuzz`.

use zerocopy::FromBytes;

use crate::format::{DeadBytes, ItemKind, Key, SYSTEM_BLOCK};
use crate::store::{ReclaimItem, RotationItem, StaleItem, decode_access, decode_readcap, decode_shared};
use crate::tree::Node;

/// Validates a decrypted node, filled up with zeros.
pub fn node(bytes: &[u8]) {
    let mut node = Box::new([0; crate::limits::NODE_BYTES]);
    let length = bytes.len().min(node.len());
    node[..length].copy_from_slice(&bytes[..length]);
    let _ = Node::parse(node);
}

/// Reads the values of the store's own items.
pub fn items(bytes: &[u8]) {
    let _ = (decode_shared(bytes), DeadBytes::read_from_bytes(bytes).ok(), ReclaimItem::decode(bytes));
    let number = u64::from(bytes.first().copied().unwrap_or_default());
    let key = Key::new(SYSTEM_BLOCK, ItemKind::ROTATION, number);
    let _ = (StaleItem::decode(bytes), RotationItem::decode(&key, bytes));
}

/// Reads a readcap, and an item that says whose an access slot is.
pub fn capabilities(bytes: &[u8]) {
    let at = |kind| Key::new(SYSTEM_BLOCK, kind, u64::from(bytes.first().copied().unwrap_or_default()));
    let _ = decode_readcap(&at(ItemKind::READCAP), bytes);
    let _ = decode_access(&at(ItemKind::ACCESS), bytes);
}

/// Reads what a TPM attests.
pub fn attested(bytes: &[u8]) {
    let _ = crate::attestation::parse_attest(bytes);
}
