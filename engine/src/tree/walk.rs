//! A walk over the whole of an index, for what has to see every node: check, scrub, recovery of lost space.

use super::read::Link;
use super::{Root, Tree, TreeError};
use crate::format::{Key, NodePtr};

/// What a walk comes across, parents before children, in the order of keys.
#[derive(Debug)]
pub(crate) enum WalkEvent<'a> {
    /// A pointer to a node that is about to be read.
    Node { ptr: &'a NodePtr, level: u8 },
    /// The node of the pointer before cannot be had; the walk continues with its neighbour.
    /// `lowest` is its first key, if a parent says; all its keys are below `upper`.
    Damaged { ptr: &'a NodePtr, level: u8, lowest: Option<Key>, upper: Option<Key>, error: TreeError },
    /// An item of the leaf of the pointer before.
    Item { key: Key, value: &'a [u8] },
}

/// How a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WalkStep {
    /// With what comes next.
    On,
    /// Without what is in this node, or without the other items of this leaf.
    Skip,
    /// Not at all.
    Stop,
}

impl Tree {
    /// Visits every pointer and every item below `root`. Reads from the device even what the cache has, and
    /// leaves the cache as it is. Fails only if `root` is impossible; damaged nodes are events.
    pub(crate) fn walk(
        &self,
        root: &Root,
        visit: &mut dyn FnMut(WalkEvent<'_>) -> WalkStep,
    ) -> Result<(), TreeError> {
        self.walk_from(root, Key::MIN, visit)
    }

    /// As [`Tree::walk`], without what is before `from`: whole nodes are left out, and items.
    pub(crate) fn walk_from(
        &self,
        root: &Root,
        from: Key,
        visit: &mut dyn FnMut(WalkEvent<'_>) -> WalkStep,
    ) -> Result<(), TreeError> {
        if let Some(link) = Link::root(root)? {
            self.walk_node(&link, from, visit);
        }
        Ok(())
    }

    /// Whether to go on.
    fn walk_node(&self, link: &Link, from: Key, visit: &mut dyn FnMut(WalkEvent<'_>) -> WalkStep) -> bool {
        let (ptr, level) = (&link.ptr, link.level);
        match visit(WalkEvent::Node { ptr, level }) {
            WalkStep::On => {}
            WalkStep::Skip => return true,
            WalkStep::Stop => return false,
        }
        let node = match self.node_on_device(link) {
            Ok(node) => node,
            Err(error) => {
                let (lowest, upper) = (link.lowest(), link.upper());
                return visit(WalkEvent::Damaged { ptr, level, lowest, upper, error }) != WalkStep::Stop;
            }
        };
        let slots = node.slots().iter().filter(|slot| Key::from(&slot.key) >= from);
        for slot in slots {
            match visit(WalkEvent::Item { key: Key::from(&slot.key), value: node.value(slot) }) {
                WalkStep::On => {}
                WalkStep::Skip => return true,
                WalkStep::Stop => return false,
            }
        }
        let children = 0..node.children().len();
        children
            .filter_map(|index| link.child(&node, index))
            .filter(|child| child.upper().is_none_or(|upper| upper > from))
            .all(|child| self.walk_node(&child, from, visit))
    }
}
