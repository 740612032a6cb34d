//! Parsers that are private otherwise, for the fuzz targets in `engine/fuzz`.

use zerocopy::FromBytes;

use crate::format::DeadBytes;
use crate::store::{ReclaimItem, decode_shared};
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
}
