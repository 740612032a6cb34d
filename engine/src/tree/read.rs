//! The read path: from a root down to an item or a range of them.

use std::io;
use std::sync::Arc;

use super::ahead::ReadAhead;
use super::node::Node;
use super::{NodeBytes, Root, Tree, TreeError};
use crate::crypto::{ExtentKey, hash, open_sectors};
use crate::format::{Key, NodePtr};
use crate::limits::{NODE_BYTES, NODE_HEIGHT_MAX};

/// The bytes of a node that are in the clear.
pub(super) const NONCE_BYTES: usize = 16;

/// What a parent says of a node.
#[derive(Clone, Copy)]
pub(super) struct Link {
    pub(super) ptr: NodePtr,
    pub(super) level: u8,
    /// The node's first key; the parent of the root does not say.
    lowest: Option<Key>,
    /// All the node's keys are below this.
    upper: Option<Key>,
}

impl Link {
    /// The link to the highest node, if the index has one.
    pub(super) fn root(root: &Root) -> Result<Option<Self>, TreeError> {
        let Some(level) = root.height.checked_sub(1) else { return Ok(None) };
        let sector = root.ptr.sector.get();
        match u8::try_from(level) {
            Ok(level) if root.height <= NODE_HEIGHT_MAX => {
                Ok(Some(Self { ptr: root.ptr, level, lowest: None, upper: None }))
            }
            _ => Err(TreeError::Corrupt { sector, what: "impossible height" }),
        }
    }

    /// A link whose parent is no more, to a node before what begins with `upper`.
    pub(super) fn before(ptr: NodePtr, level: u8, lowest: Key, upper: Option<Key>) -> Self {
        Self { ptr, level, lowest: Some(lowest), upper }
    }

    /// The link to a child of this link's `node`. `None` where there is no such child.
    pub(super) fn child(&self, node: &Node, index: usize) -> Option<Self> {
        let children = node.children();
        let child = children.get(index)?;
        Some(Self {
            ptr: child.ptr,
            level: node.level().checked_sub(1)?,
            lowest: Some(Key::from(&child.lowest)),
            upper: children.get(index + 1).map(|next| Key::from(&next.lowest)).or(self.upper),
        })
    }

    pub(super) fn lowest(&self) -> Option<Key> {
        self.lowest
    }

    pub(super) fn upper(&self) -> Option<Key> {
        self.upper
    }

    fn check(&self, node: &Node) -> Result<(), TreeError> {
        let sector = self.ptr.sector.get();
        let wrong = |what| Err(TreeError::Corrupt { sector, what });
        if node.level() != self.level {
            return wrong("not the level that its parent says");
        }
        if node.birth() != self.ptr.birth.get() {
            return wrong("not the birth that its parent says");
        }
        let Some((first, last)) = node.key_range() else { return wrong("no entries") };
        if self.lowest.is_some_and(|lowest| lowest != first) {
            return wrong("not the lowest key that its parent says");
        }
        if self.upper.is_some_and(|upper| upper <= last) {
            return wrong("keys beyond those that its parent says");
        }
        Ok(())
    }
}

impl Tree {
    /// The value of one item.
    pub(crate) fn get(&self, root: &Root, key: &Key) -> Result<Option<Vec<u8>>, TreeError> {
        let mut next = Link::root(root)?;
        while let Some(link) = next {
            let node = self.node(&link)?;
            if link.level == 0 {
                let slot = node.find(key).ok().and_then(|index| node.slots().get(index));
                return Ok(slot.map(|slot| node.value(slot).to_vec()));
            }
            next = node.child_of(key).and_then(|index| link.child(&node, index));
        }
        Ok(None)
    }

    /// Calls `visit` with all items from `from` to `to`, both included, in order, until it returns false.
    pub(crate) fn scan(
        &self,
        root: &Root,
        from: &Key,
        to: &Key,
        visit: &mut dyn FnMut(Key, &[u8]) -> bool,
    ) -> Result<(), TreeError> {
        if let Some(link) = Link::root(root)? {
            self.scan_node(&link, from, to, visit)?;
        }
        Ok(())
    }

    /// Whether to go on.
    fn scan_node(
        &self,
        link: &Link,
        from: &Key,
        to: &Key,
        visit: &mut dyn FnMut(Key, &[u8]) -> bool,
    ) -> Result<bool, TreeError> {
        let node = self.node(link)?;
        if link.level == 0 {
            let start = node.find(from).unwrap_or_else(|index| index);
            for slot in node.slots().iter().skip(start) {
                let key = Key::from(&slot.key);
                if key > *to || !visit(key, node.value(slot)) {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        let start = node.child_of(from).unwrap_or(0);
        for index in start..node.count() {
            let Some(child) = link.child(&node, index) else { break };
            if child.lowest.is_some_and(|lowest| lowest > *to) || !self.scan_node(&child, from, to, visit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A node, through the cache.
    fn node(&self, link: &Link) -> Result<Arc<Node>, TreeError> {
        let node = self.cache.get_or_load(&link.ptr, || self.load_cached(&link.ptr))?;
        link.check(&node)?;
        Ok(node)
    }

    /// A node that is going to be replaced, and whether it was in the cache; it is not put there.
    pub(super) fn node_once(
        &self,
        link: &Link,
        ahead: &mut ReadAhead,
    ) -> Result<(Arc<Node>, bool), TreeError> {
        let (node, cached) = match (self.cache.peek(&link.ptr), ahead.take(&link.ptr)) {
            (Some(node), _) => (node, true),
            (None, Some(bytes)) => (Arc::new(self.open(&link.ptr, bytes)?), false),
            (None, None) => (Arc::new(self.load_cached(&link.ptr)?), false),
        };
        link.check(&node)?;
        Ok((node, cached))
    }

    /// A node as it is on the device now, whatever the cache has.
    pub(super) fn node_on_device(&self, link: &Link) -> Result<Node, TreeError> {
        let node = self.load(&link.ptr)?;
        link.check(&node)?;
        Ok(node)
    }

    /// Out of the host's cache if that has what was written last.
    fn load_cached(&self, ptr: &NodePtr) -> Result<Node, TreeError> {
        let mut bytes: Box<NodeBytes> = Box::new([0; NODE_BYTES]);
        if self.reader.read_node_cached(ptr.sector.get(), &mut bytes).is_ok()
            && let Ok(node) = self.open(ptr, bytes)
        {
            return Ok(node);
        }
        self.load(ptr)
    }

    fn load(&self, ptr: &NodePtr) -> Result<Node, TreeError> {
        let sector = ptr.sector.get();
        let corrupt = |what| TreeError::Corrupt { sector, what };
        let mut bytes: Box<NodeBytes> = Box::new([0; NODE_BYTES]);
        self.reader.read_node(sector, &mut bytes).map_err(|source| match source.kind() {
            io::ErrorKind::InvalidInput => corrupt("its parent points outside of the volume"),
            _ => TreeError::Read { sector, source },
        })?;
        self.open(ptr, bytes)
    }

    /// Verifies what was read as a node, and decrypts it.
    fn open(&self, ptr: &NodePtr, mut bytes: Box<NodeBytes>) -> Result<Node, TreeError> {
        let corrupt = |what| TreeError::Corrupt { sector: ptr.sector.get(), what };
        if hash(&bytes[..]) != ptr.hash {
            return Err(corrupt("not the hash that its parent says"));
        }
        let (nonce, sealed) = bytes.split_at_mut(NONCE_BYTES);
        let nonce = (&*nonce).try_into().map_err(|_| corrupt("no nonce"))?;
        open_sectors(&ExtentKey::derive(&self.structure_key, nonce), 0, sealed);
        Node::parse(bytes).map_err(|malformed| corrupt(malformed.why))
    }
}
