//! New keys for a directory and all below it, in a store that nobody has mounted.
//!
//! From the top down: each block gets a key, and its directory's entry wraps it, in one transaction. The names of a
//! directory and the extended attributes of an inode stand where a hash under the block's key says, so they move. Where
//! that is too much for one transaction, the block gets its key first and its items follow in steps; until then they are
//! found under both keys.
//!
//! All of it can be interrupted at any moment, and begun again: a block that has the key of this rotation keeps it.

use std::collections::{BTreeMap, BTreeSet};

use blocktree_engine::format::{BlockId, WRAPPED_KEY_BYTES};
use blocktree_engine::{Block, Item, NewKey, Rotation, Store, Transaction};

use crate::directory::{decode, put_entry};
use crate::fs::attributes_of;
use crate::inode::Inode;
use crate::layout::{Attributes, ENTRY_SLOTS, Entry, FileKind, ITEM_ENTRY, bucket_of};
use crate::xattr;
use crate::{FsError, Result};

/// Entries that one transaction moves.
const ENTRIES_STEP: usize = 512;
/// Extended attributes that do, in bytes.
const XATTR_BYTES_STEP: usize = 512 << 10;
/// Files that one transaction gives new keys.
const FILES_STEP: usize = 64;

/// Goes on with a rotation until all blocks have their new keys, and ends it. `progress` is told how many have, and says
/// whether to go on. Whether it came to the end.
pub fn rotate(store: &Store, rotation: &Rotation, progress: &mut dyn FnMut(u64) -> bool) -> Result<bool> {
    rotate_with(store, rotation, None, progress)
}

/// As [`rotate`], where something else takes the place of the keyed hash of names: for tests.
#[doc(hidden)]
pub fn rotate_with(
    store: &Store,
    rotation: &Rotation,
    name_hash: Option<fn(&[u8]) -> u64>,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<bool> {
    let mut rotating = Rotating {
        store,
        number: rotation.number,
        name_hash,
        files: None,
        visited: BTreeSet::new(),
        linked: BTreeMap::new(),
        done: 0,
        progress,
    };
    if let Some(top) = store.block(rotation.top)?
        && !rotating.below(&top)?
    {
        return Ok(false);
    }
    rotating.names_elsewhere()?;
    store.sync(store.newest())?;
    store.end_rotation(rotation)?;
    Ok(true)
}

struct Rotating<'a> {
    store: &'a Store,
    number: u32,
    name_hash: Option<fn(&[u8]) -> u64>,
    /// Files that get their keys with the next transaction.
    files: Option<(Transaction, usize)>,
    visited: BTreeSet<BlockId>,
    /// Files with several names: how many, and how many of them were met.
    linked: BTreeMap<BlockId, (u32, u32)>,
    done: u64,
    progress: &'a mut dyn FnMut(u64) -> bool,
}

/// An entry, and where it is.
struct Placed<'a> {
    directory: &'a Block,
    position: u64,
    entry: Entry,
}

impl Placed<'_> {
    /// Lets the entry give the child's key as it is wrapped here.
    fn put(&self, transaction: &mut Transaction, wrapped: [u8; WRAPPED_KEY_BYTES]) {
        let Entry { child, kind, name, .. } = &self.entry;
        put_entry(transaction, self.directory, self.position, *child, *kind, wrapped, name);
    }
}

impl Rotating<'_> {
    fn below(&mut self, top: &Block) -> Result<bool> {
        let above = attributes_of(self.store, top)?.parent;
        let above = self.store.block(above)?.ok_or(FsError::Stale)?;
        let found = find_child(self.store, &above, top.id())?.ok_or(FsError::NotFound)?;
        self.give_key(&found, top)?;
        let mut directories = vec![top.id()];
        while let Some(id) = directories.pop() {
            let Some(directory) = self.store.block(id)?.filter(|_| self.visited.insert(id)) else { continue };
            let mut from = 0;
            loop {
                let items = self.store.scan(&directory, ITEM_ENTRY, from, ENTRIES_STEP)?;
                let Some((last, _)) = items.last() else { break };
                from = last.saturating_add(1);
                let decoded = items.iter().map(|(position, item)| Ok((*position, decode(id, item)?)));
                let mut entries: Vec<(u64, Entry)> = decoded.collect::<Result<_>>()?;
                // What was made together lies together in the index.
                entries.sort_by_key(|(_, entry)| entry.child);
                for (position, entry) in entries {
                    let Some(child) = self.store.block(entry.child)? else { continue };
                    if entry.kind == FileKind::Directory {
                        directories.push(entry.child);
                    }
                    let placed = Placed { directory: &directory, position, entry };
                    self.give_key(&placed, &child)?;
                    self.done += 1;
                    if !(self.progress)(self.done) {
                        self.flush_files()?;
                        self.store.sync(self.store.newest())?;
                        return Ok(false);
                    }
                }
            }
        }
        self.flush_files()?;
        Ok(true)
    }

    /// Gives a block the key of this rotation, and its entry too.
    fn give_key(&mut self, placed: &Placed<'_>, child: &Block) -> Result<()> {
        let attributes = attributes_of(self.store, child)?;
        if attributes.kind != FileKind::Directory && attributes.nlink > 1 {
            self.linked.entry(child.id()).or_insert((attributes.nlink, 0)).1 += 1;
            // Whether it was met before must be known.
            self.flush_files()?;
        }
        if child.epoch() >= self.number {
            self.flush_files()?;
            if self.store.has_older_items(child) {
                self.move_items(child)?;
            }
            if !child.is_wrapped_for(placed.directory, &placed.entry.wrapped_key) {
                let mut transaction = self.store.transaction();
                placed.put(&mut transaction, child.wrap_for(placed.directory));
                transaction.apply()?;
            }
            return Ok(());
        }
        if attributes.kind == FileKind::Directory || attributes.xattr_count > 0 {
            self.flush_files()?;
            return self.give_key_with_items(placed, child, attributes);
        }
        let (transaction, count) = self.files.get_or_insert_with(|| (self.store.transaction(), 0));
        let new = transaction.rotate(child, self.number, false)?;
        placed.put(transaction, new.wrap_for(placed.directory));
        *count += 1;
        if *count == FILES_STEP { self.flush_files() } else { Ok(()) }
    }

    fn flush_files(&mut self) -> Result<()> {
        if let Some((transaction, _)) = self.files.take() {
            transaction.apply()?;
        }
        Ok(())
    }

    fn give_key_with_items(&self, placed: &Placed<'_>, child: &Block, attributes: Attributes) -> Result<()> {
        let inode = Inode::new(child.id(), child.clone(), attributes, Default::default());
        let entries = self.store.scan(child, ITEM_ENTRY, 0, ENTRIES_STEP + 1)?;
        let (buckets, all) = xattr::buckets(self.store, &inode, XATTR_BYTES_STEP)?;
        let items_left = entries.len() > ENTRIES_STEP || !all;
        let mut transaction = self.store.transaction();
        let new = transaction.rotate(child, self.number, items_left)?;
        if !items_left {
            self.move_entries(
                &mut transaction,
                child,
                &entries,
                &|name| self.hash(name, |name| new.name_hash(name)),
                &|entry| self.wrapped_anew(&new, entry),
            )?;
            xattr::move_buckets(self.store, &mut transaction, &inode, &buckets, &|name| {
                self.hash(name, |name| new.name_hash(name))
            })?;
        }
        placed.put(&mut transaction, new.wrap_for(placed.directory));
        transaction.apply()?;
        if items_left { self.move_items(child) } else { Ok(()) }
    }

    fn hash(&self, name: &[u8], keyed: impl FnOnce(&[u8]) -> u64) -> u64 {
        self.name_hash.map_or_else(|| keyed(name), |hash| hash(name))
    }

    fn wrapped_anew(&self, new: &NewKey, entry: &Entry) -> Result<[u8; WRAPPED_KEY_BYTES]> {
        match new.rewrap(entry.child, &entry.wrapped_key) {
            Some(wrapped) => Ok(wrapped),
            None => Ok(self.store.block(entry.child)?.map_or(entry.wrapped_key, |child| new.wrap(&child))),
        }
    }

    /// Moves what is left of a block's items to where its newest key wants them.
    fn move_items(&self, block: &Block) -> Result<()> {
        let attributes = attributes_of(self.store, block)?;
        let hash = |name: &[u8]| self.hash(name, |name| block.name_hash(name));
        let mut from = 0;
        loop {
            let entries = self.store.scan(block, ITEM_ENTRY, from, ENTRIES_STEP)?;
            let Some((last, _)) = entries.last() else { break };
            from = last.saturating_add(1);
            let mut transaction = self.store.transaction();
            self.move_entries(&mut transaction, block, &entries, &hash, &|entry| match block
                .rewrap(entry.child, &entry.wrapped_key)
            {
                Some(wrapped) => Ok(wrapped),
                None => {
                    let child = self.store.block(entry.child)?;
                    Ok(child.map_or(entry.wrapped_key, |child| child.wrap_for(block)))
                }
            })?;
            transaction.apply()?;
        }
        let inode = Inode::new(block.id(), block.clone(), attributes, Default::default());
        let mut from = Some(0);
        while let Some(bucket) =
            from.map(|from| xattr::bucket_from(self.store, &inode, from)).transpose()?.flatten()
        {
            let mut transaction = self.store.transaction();
            xattr::move_buckets(self.store, &mut transaction, &inode, std::slice::from_ref(&bucket), &hash)?;
            transaction.apply()?;
            from = bucket.at.checked_add(256);
        }
        let mut transaction = self.store.transaction();
        transaction.items_are_new(block)?;
        transaction.apply()?;
        Ok(())
    }

    /// Puts entries where their names' hashes want them, with their children's keys wrapped anew.
    fn move_entries(
        &self,
        transaction: &mut Transaction,
        directory: &Block,
        entries: &[(u64, Item)],
        hash: &dyn Fn(&[u8]) -> u64,
        wrapped: &dyn Fn(&Entry) -> Result<[u8; WRAPPED_KEY_BYTES]>,
    ) -> Result<()> {
        let mut taken = BTreeSet::new();
        for (position, item) in entries {
            let entry = decode(directory.id(), item)?;
            let bucket = bucket_of(hash(&entry.name));
            let mut to = *position;
            if bucket_of_position(to) != bucket {
                to = free_position(self.store, directory, bucket, &taken)?;
                taken.insert(to);
                transaction.delete(directory, ITEM_ENTRY, *position);
            }
            let wrapped = wrapped(&entry)?;
            Placed { directory, position: to, entry }.put(transaction, wrapped);
        }
        Ok(())
    }

    /// Files with names in other directories too: their entries there.
    fn names_elsewhere(&mut self) -> Result<()> {
        self.linked.retain(|_, (names, met)| met < names);
        let mut from = 0;
        while !self.linked.is_empty()
            && let Some(id) = self.store.next_block(from)?
        {
            from = id + 1;
            let Some(directory) = self.store.block(id)?.filter(|_| !self.visited.contains(&id)) else {
                continue;
            };
            let is_directory = attributes_of(self.store, &directory);
            if is_directory.is_ok_and(|attributes| attributes.kind == FileKind::Directory) {
                self.names_in(&directory)?;
            }
        }
        Ok(())
    }

    fn names_in(&self, directory: &Block) -> Result<()> {
        let mut from = 0;
        loop {
            let items = self.store.scan(directory, ITEM_ENTRY, from, ENTRIES_STEP)?;
            let Some((last, _)) = items.last() else { return Ok(()) };
            from = last.saturating_add(1);
            let mut transaction = self.store.transaction();
            for (position, item) in &items {
                let entry = decode(directory.id(), item)?;
                if !self.linked.contains_key(&entry.child) {
                    continue;
                }
                if let Some(child) = self.store.block(entry.child)?
                    && !child.is_wrapped_for(directory, &entry.wrapped_key)
                {
                    let wrapped = child.wrap_for(directory);
                    Placed { directory, position: *position, entry }.put(&mut transaction, wrapped);
                }
            }
            transaction.apply()?;
        }
    }
}

/// The entry of a directory that leads to a child.
fn find_child<'a>(store: &Store, directory: &'a Block, child: BlockId) -> Result<Option<Placed<'a>>> {
    let mut from = 0;
    loop {
        let items = store.scan(directory, ITEM_ENTRY, from, ENTRIES_STEP)?;
        let Some((last, _)) = items.last() else { return Ok(None) };
        from = last.saturating_add(1);
        for (position, item) in &items {
            let entry = decode(directory.id(), item)?;
            if entry.child == child {
                return Ok(Some(Placed { directory, position: *position, entry }));
            }
        }
    }
}

/// A place in a bucket that nothing has, neither in the store nor in the transaction that took these.
fn free_position(store: &Store, directory: &Block, bucket: u64, taken: &BTreeSet<u64>) -> Result<u64> {
    let within = bucket..=bucket + ENTRY_SLOTS - 1;
    let items = store.scan_within(directory, ITEM_ENTRY, within.clone(), ENTRY_SLOTS as usize)?;
    let mut used: BTreeSet<u64> = items.iter().map(|(position, _)| *position).collect();
    used.extend(taken.range(within.clone()));
    within.into_iter().find(|position| !used.contains(position)).ok_or(FsError::DirectoryFull)
}

const fn bucket_of_position(position: u64) -> u64 {
    position & !(ENTRY_SLOTS - 1)
}
