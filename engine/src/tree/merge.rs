//! The write path: a batch of changes goes down the old tree, new nodes come up.
//!
//! The merge goes through the old tree once, in the order of keys, into those nodes only that changes fall
//! into. A leaf in which a change makes a difference is *dissolved*, and so are the nodes above it: their
//! entries go into the *run* of their level, where they meet those of the nodes next to them and the changes,
//! and are cut into new nodes. A node beside that is *kept*: its pointer goes into the run of the level above,
//! and the runs below end there.
//!
//! A run that ends with too little for a good node takes up a neighbour: the kept node to the right if that is
//! what ends it, or else the one to the left, whose pointer still waits in the run above.
//!
//! Invariants:
//! 1. Of each level's entries that are not yet in nodes, all come behind those of the levels above.
//! 2. The pointer before a run that has not yet given a node is to an old node: it was kept, and ended the run
//!    before. So what was written never has to be taken back.
//! 3. A run holds less than two nodes.

use std::sync::Arc;

use zerocopy::IntoBytes;

use super::ahead::ReadAhead;
use super::cache::NodeKey;
use super::node::Node;
use super::read::{Link, NONCE_BYTES};
use super::run::{Need, Run};
use super::{MergeError, NodeBytes, NodeSink, Root, Tree, TreeError};
use crate::crypto::{ExtentKey, hash, random, seal_sectors};
use crate::format::{Key, NodePtr};
use crate::limits::{ITEM_BYTES_MAX, MERGE_AHEAD_NODES, NODE_BYTES};

impl Tree {
    /// Merges changes into the index below `root` and returns the root of the outcome, which is `root` itself if
    /// they make no difference.
    ///
    /// `changes` are sorted by key, each key at most once; a value puts an item, `None` deletes it, and deleting
    /// what is not there is fine. `birth` is the sequence number of this checkpoint, not below that of any
    /// earlier one.
    ///
    /// # Errors
    ///
    /// After an error, everything that `nodes` was told has to be forgotten.
    ///
    /// # Panics
    ///
    /// If `changes` are not sorted.
    pub(crate) fn merge<V: AsRef<[u8]>>(
        &self,
        root: &Root,
        birth: u64,
        changes: impl IntoIterator<Item = (Key, Option<V>), IntoIter: Clone>,
        nodes: &mut dyn NodeSink,
    ) -> Result<Root, MergeError> {
        self.merge_with(root, birth, changes, nodes, false)
    }

    /// As [`Tree::merge`], without the nodes that cannot be had: where a change falls into one, everything in it is
    /// left out but the changes.
    pub(crate) fn merge_without_damaged<V: AsRef<[u8]>>(
        &self,
        root: &Root,
        birth: u64,
        changes: impl IntoIterator<Item = (Key, Option<V>), IntoIter: Clone>,
        nodes: &mut dyn NodeSink,
    ) -> Result<Root, MergeError> {
        self.merge_with(root, birth, changes, nodes, true)
    }

    fn merge_with<V: AsRef<[u8]>>(
        &self,
        root: &Root,
        birth: u64,
        changes: impl IntoIterator<Item = (Key, Option<V>), IntoIter: Clone>,
        nodes: &mut dyn NodeSink,
        leaves_out_damaged: bool,
    ) -> Result<Root, MergeError> {
        if birth < root.ptr.birth.get() {
            let sector = root.ptr.sector.get();
            return Err(TreeError::Corrupt { sector, what: "younger than the checkpoint after it" }.into());
        }
        let mut changes = changes.into_iter();
        let mut merge = Merge {
            tree: self,
            birth,
            leaves_out_damaged,
            nodes,
            change: changes.next(),
            changes,
            ahead: ReadAhead::default(),
            path: Vec::new(),
            runs: Vec::new(),
            stale: Vec::new(),
            plain: Box::new([0; NODE_BYTES]),
            sealed: Box::new([0; NODE_BYTES]),
        };
        match Link::root(root)? {
            Some(link) if !merge.visit(link)? => return Ok(*root),
            Some(_) => {}
            None => merge.put_changes(None)?,
        }
        let root = merge.finish()?;
        merge.stale.iter().for_each(|key| self.cache.remove(key));
        Ok(root)
    }
}

/// An inner node on the way to where the merge is.
struct Step {
    link: Link,
    node: Arc<Node>,
    cached: bool,
    /// The child that the merge is in.
    index: usize,
    dissolved: bool,
}

struct Merge<'a, V, I: Iterator<Item = (Key, Option<V>)>> {
    tree: &'a Tree,
    birth: u64,
    leaves_out_damaged: bool,
    nodes: &'a mut dyn NodeSink,
    /// The next change, and those after it.
    change: Option<(Key, Option<V>)>,
    changes: I,
    ahead: ReadAhead,
    /// From the root down.
    path: Vec<Step>,
    /// By level.
    runs: Vec<Run>,
    /// Old nodes in the cache that nobody needs when this is over.
    stale: Vec<NodeKey>,
    plain: Box<NodeBytes>,
    sealed: Box<NodeBytes>,
}

impl<V: AsRef<[u8]>, I: Iterator<Item = (Key, Option<V>)> + Clone> Merge<'_, V, I> {
    /// Applies the changes that fall into a node. Returns whether it was dissolved; if not, nothing happened.
    fn visit(&mut self, link: Link) -> Result<bool, MergeError> {
        let (node, cached) = match self.tree.node_once(&link, &mut self.ahead) {
            Err(_) if self.leaves_out_damaged => {
                self.dissolve_path()?;
                self.put_changes(link.upper())?;
                return Ok(true);
            }
            result => result?,
        };
        if link.level == 0 {
            return self.visit_leaf(link, &node, cached);
        }
        self.path.push(Step { link, node: node.clone(), cached, index: 0, dissolved: false });
        let mut dissolved = false;
        let mut is_read = 0;
        for index in 0..node.count() {
            let Some(child) = link.child(&node, index) else { break };
            if let Some(step) = self.path.last_mut() {
                step.index = index;
            }
            if link.level == 1 && index >= is_read {
                is_read = self.read_ahead(&link, &node, index);
            }
            if self.is_change_below(child.upper()) && self.visit(child)? {
                dissolved = true;
            } else if dissolved {
                self.keep(child)?;
            }
        }
        self.path.pop();
        Ok(dissolved)
    }

    /// Reads some of a node's leaves from a first one on, those that changes fall into; tells up to which one.
    fn read_ahead(&mut self, link: &Link, node: &Node, first: usize) -> usize {
        let next = self.change.iter().map(|(key, _)| *key);
        let mut keys = next.chain(self.changes.clone().map(|(key, _)| key)).peekable();
        let mut wanted = Vec::new();
        let mut index = first;
        while wanted.len() < MERGE_AHEAD_NODES
            && let Some(child) = link.child(node, index)
        {
            let is_below = |key: &Key| child.upper().is_none_or(|upper| *key < upper);
            if keys.next_if(is_below).is_some() {
                wanted.push(child.ptr);
                while keys.next_if(is_below).is_some() {}
            }
            index += 1;
        }
        self.ahead.fill(self.tree, wanted);
        index
    }

    fn visit_leaf(&mut self, link: Link, node: &Node, cached: bool) -> Result<bool, MergeError> {
        let slots = node.slots();
        // How many of the slots are behind us.
        let mut done = 0;
        let mut dissolved = false;
        while self.is_change_below(link.upper()) {
            let Some((key, change)) = self.next_change()? else { break };
            let (index, old) = match node.find(&key) {
                Ok(index) => (index, slots.get(index).map(|slot| node.value(slot))),
                Err(index) => (index, None),
            };
            let new = change.as_ref().map(AsRef::as_ref);
            if old == new {
                continue;
            }
            if !dissolved {
                dissolved = true;
                self.dissolve_path()?;
                self.dissolve(&link, node, cached);
            }
            self.push_items(node, done..index)?;
            done = index + usize::from(old.is_some());
            if let Some(value) = new {
                self.push(0, key, value, old.is_none())?;
            }
        }
        if dissolved {
            self.push_items(node, done..slots.len())?;
        }
        Ok(dissolved)
    }

    /// Puts the changes below `upper` where the old index has nothing.
    fn put_changes(&mut self, upper: Option<Key>) -> Result<(), MergeError> {
        while self.is_change_below(upper) {
            let Some((key, change)) = self.next_change()? else { break };
            if let Some(value) = change {
                self.push(0, key, value.as_ref(), true)?;
            }
        }
        Ok(())
    }

    fn is_change_below(&self, upper: Option<Key>) -> bool {
        self.change.as_ref().is_some_and(|(key, _)| upper.is_none_or(|upper| *key < upper))
    }

    fn next_change(&mut self) -> Result<Option<(Key, Option<V>)>, MergeError> {
        let next = self.changes.next();
        let change = std::mem::replace(&mut self.change, next);
        if let (Some((key, _)), Some((next, _))) = (&change, &self.change) {
            assert!(key < next, "changes are sorted by key");
        }
        if let Some((_, Some(value))) = &change
            && value.as_ref().len() > ITEM_BYTES_MAX
        {
            return Err(MergeError::TooLong);
        }
        Ok(change)
    }

    /// Dissolves the nodes above the present one that are not yet, with everything in them that is behind us.
    fn dissolve_path(&mut self) -> Result<(), MergeError> {
        for place in 0..self.path.len() {
            let step = &mut self.path[place];
            if std::mem::replace(&mut step.dissolved, true) {
                continue;
            }
            let (link, node, cached, index) = (step.link, step.node.clone(), step.cached, step.index);
            self.dissolve(&link, &node, cached);
            for child in (0..index).filter_map(|index| link.child(&node, index)) {
                self.keep(child)?;
            }
        }
        Ok(())
    }

    /// Ends an old node; its entries have to go into the run of its level.
    fn dissolve(&mut self, link: &Link, node: &Node, cached: bool) {
        self.nodes.free(&link.ptr);
        if cached {
            self.stale.push(NodeKey::from(&link.ptr));
        }
        self.run(usize::from(link.level)).dissolve(node, cached);
    }

    /// Lets an old node stand, unless the run that ends before it has need of it.
    fn keep(&mut self, link: Link) -> Result<(), MergeError> {
        let level = usize::from(link.level);
        let Some(lowest) = link.lowest() else { return Ok(()) };
        while self.is_pending(level + 1) {
            let need = self.need(level);
            if need != Need::No {
                match self.tree.node_once(&link, &mut self.ahead) {
                    Ok((node, cached)) => return self.take_up(&link, &node, cached),
                    Err(error) if need == Need::Must => return Err(error.into()),
                    // The node is none of our business, and should not be in the way of ours.
                    Err(_) => {}
                }
            }
            if !self.settle_one(level)? {
                for level in 0..=level {
                    self.end_run(level)?;
                }
            }
        }
        self.push(level + 1, lowest, link.ptr.as_bytes(), false)
    }

    /// Adds an old node to the run before it.
    fn take_up(&mut self, link: &Link, node: &Node, cached: bool) -> Result<(), MergeError> {
        self.dissolve(link, node, cached);
        self.push_items(node, 0..node.slots().len())?;
        (0..node.children().len())
            .filter_map(|index| link.child(node, index))
            .try_for_each(|child| self.keep(child))
    }

    /// Lets one run of a level below `top` that has need of it take up its left neighbour; false if none has.
    fn settle_one(&mut self, top: usize) -> Result<bool, MergeError> {
        // From the top, because the neighbour of a lower level may have to come down from there.
        for level in (0..top).rev() {
            let need = self.need(level);
            if need == Need::No {
                continue;
            }
            let upper = (0..=level).rev().find_map(|level| self.runs[level].first_key());
            let Some((lowest, ptr)) = self.run(level + 1).pop_old() else { continue };
            let link = Link::before(ptr, level as u8, lowest, upper);
            match self.tree.node_once(&link, &mut self.ahead) {
                Ok((node, cached)) => {
                    self.dissolve(&link, &node, cached);
                    self.run(level).prepend(&node);
                    return Ok(true);
                }
                Err(error) if need == Need::Must => return Err(error.into()),
                Err(_) => self.push(level + 1, lowest, ptr.as_bytes(), false)?,
            }
        }
        Ok(false)
    }

    fn need(&mut self, level: usize) -> Need {
        let more_below = self.is_pending(level);
        self.run(level).need(more_below)
    }

    /// Whether any level below `top` has entries that are not yet in nodes.
    fn is_pending(&self, top: usize) -> bool {
        self.runs.iter().take(top).any(|run| !run.is_empty())
    }

    fn push_items(&mut self, node: &Node, range: std::ops::Range<usize>) -> Result<(), MergeError> {
        for slot in node.slots().get(range).unwrap_or_default() {
            self.push(0, Key::from(&slot.key), node.value(slot), false)?;
        }
        Ok(())
    }

    fn push(&mut self, level: usize, key: Key, value: &[u8], fresh: bool) -> Result<(), MergeError> {
        let run = self.run(level);
        run.push(key, value, fresh);
        match run.cut_overflow() {
            Some(count) => self.write(level, count),
            None => Ok(()),
        }
    }

    fn end_run(&mut self, level: usize) -> Result<(), MergeError> {
        while !self.run(level).is_empty() {
            let count = self.run(level).cut_end();
            self.write(level, count)?;
        }
        self.run(level).clear();
        Ok(())
    }

    /// Ends all runs; what the highest of them comes to is the root.
    fn finish(&mut self) -> Result<Root, MergeError> {
        while let Some(top) = self.runs.iter().rposition(|run| !run.is_empty())
            && self.settle_one(top)?
        {}
        let mut level = 0;
        while let Some(top) = self.runs.iter().rposition(|run| !run.is_empty()) {
            if level > 0 && top == level && self.runs[level].len() == 1 {
                let (_, ptr) = self.runs[level].last_child().expect("levels above 0 hold pointers");
                return Ok(Root { ptr, height: level as u32 });
            }
            self.end_run(level)?;
            level += 1;
        }
        Ok(Root::EMPTY)
    }

    /// Makes a node of the first `count` entries of a run.
    fn write(&mut self, level: usize, count: usize) -> Result<(), MergeError> {
        let birth = self.birth;
        let run = &mut self.runs[level];
        let cached = run.cached || level > 0;
        let Some(lowest) = run.build(count, birth, &mut self.plain) else { return Ok(()) };
        let nonce: [u8; NONCE_BYTES] = random();
        self.plain[..NONCE_BYTES].copy_from_slice(&nonce);
        self.sealed.copy_from_slice(&self.plain[..]);
        seal_sectors(
            &ExtentKey::derive(&self.tree.structure_key, &nonce),
            0,
            &mut self.sealed[NONCE_BYTES..],
        );

        let sector = self.nodes.allocate().map_err(MergeError::Sink)?;
        self.nodes.write(sector, &self.sealed).map_err(MergeError::Sink)?;
        let ptr = NodePtr { sector: sector.into(), birth: birth.into(), hash: hash(&self.sealed[..]) };
        if cached {
            let plain = std::mem::replace(&mut self.plain, Box::new([0; NODE_BYTES]));
            let node = Node::parse(plain);
            debug_assert!(node.is_ok());
            if let Ok(node) = node {
                self.tree.cache.insert(&ptr, node);
            }
        }
        self.push(level + 1, lowest, ptr.as_bytes(), true)
    }

    fn run(&mut self, level: usize) -> &mut Run {
        while self.runs.len() <= level {
            self.runs.push(Run::new(self.runs.len() as u8));
        }
        &mut self.runs[level]
    }
}
