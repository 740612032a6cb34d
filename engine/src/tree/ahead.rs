//! Leaves that a merge is about to need, read many at once: one after the other, it would wait for the device most of
//! the time.

use std::collections::VecDeque;

use super::cache::NodeKey;
use super::{NodeBytes, Tree};
use crate::format::NodePtr;

/// What was read, in the order in which the merge comes to it. Nothing here is verified yet.
#[derive(Default)]
pub(super) struct ReadAhead(VecDeque<(NodeKey, Box<NodeBytes>)>);

impl ReadAhead {
    /// Takes out a node, with all that the merge has passed.
    pub(super) fn take(&mut self, ptr: &NodePtr) -> Option<Box<NodeBytes>> {
        let place = self.0.iter().position(|(key, _)| *key == NodeKey::from(ptr))?;
        self.0.drain(..=place).next_back().map(|(_, bytes)| bytes)
    }

    /// Reads those that the cache lacks. What cannot be read like this is read alone later, and then says what is wrong
    /// with it.
    pub(super) fn fill(&mut self, tree: &Tree, mut wanted: Vec<NodePtr>) {
        wanted.retain(|ptr| tree.cache.peek(ptr).is_none());
        if wanted.len() < 2 {
            return;
        }
        let sectors: Vec<u64> = wanted.iter().map(|ptr| ptr.sector.get()).collect();
        if let Ok(nodes) = tree.reader.read_nodes(&sectors) {
            self.0.extend(wanted.iter().map(NodeKey::from).zip(nodes));
        }
    }
}
