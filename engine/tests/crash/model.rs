//! The reference model: what a store must hold after each operation, and the comparison of a store with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use blocktree_engine::device::Device;
use blocktree_engine::format::ItemKind;
use blocktree_engine::{Error, OpenOptions, Store};

/// An item's clear and its secret part.
type ItemParts = (Vec<u8>, Vec<u8>);
pub(crate) const KIND: ItemKind = ItemKind::FIRST_FREE;
pub(crate) const SECTOR: usize = 4096;
pub(crate) const PASSPHRASE: &[u8] = b"passphrase";
/// Each seek costs: of a fragmented block, only the first runs are compared so.
const RUNS_MAX: usize = 20;
/// Every transaction writes its number into this item of the first block.
pub(crate) const COUNTER: u64 = u64::MAX;

pub(crate) type Page = Arc<[u8; SECTOR]>;

#[derive(Clone, Default)]
pub(crate) struct BlockModel {
    pub(crate) attributes: Arc<Vec<u8>>,
    /// Clear and secret part, by offset.
    pub(crate) items: BTreeMap<u64, Arc<ItemParts>>,
    /// Sectors that are not holes.
    pub(crate) pages: BTreeMap<u64, Page>,
    pub(crate) orphan: bool,
}

impl BlockModel {
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (sector, skip) = (at / SECTOR as u64, (at % SECTOR as u64) as usize);
            let count = rest.len().min(SECTOR - skip);
            let mut page = self.pages.get(&sector).map_or([0; SECTOR], |page| **page);
            page[skip..skip + count].copy_from_slice(&rest[..count]);
            self.pages.insert(sector, Arc::new(page));
            rest = &rest[count..];
            at += count as u64;
        }
    }

    pub(crate) fn punch(&mut self, from: u64, to: u64) {
        self.pages.retain(|sector, _| !(from..to).contains(sector));
    }

    pub(crate) fn clone_range(&mut self, source: &Self, from: u64, to: u64, sectors: u64) {
        self.punch(to, to + sectors);
        for (sector, page) in source.pages.range(from..from + sectors) {
            self.pages.insert(sector - from + to, page.clone());
        }
    }
}

/// All blocks at one moment. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Tree {
    pub(crate) counter: u64,
    pub(crate) blocks: BTreeMap<u64, Arc<BlockModel>>,
    /// No block ever had this id or a higher one.
    ids_end: u64,
}

impl Tree {
    pub(crate) fn insert(&mut self, id: u64, block: Arc<BlockModel>) {
        self.ids_end = self.ids_end.max(id + 1);
        self.blocks.insert(id, block);
    }
}

/// A store at one moment.
#[derive(Clone, Default)]
pub(crate) struct Moment {
    pub(crate) tree: Tree,
    pub(crate) snapshots: BTreeMap<String, Tree>,
}

/// Which nodes a cache drops depends on their hashes, and so on random nonces: it is large enough for all, so that
/// a seed repeats each read.
pub(crate) fn options() -> OpenOptions {
    OpenOptions { background: false, cache_bytes: 64 << 20, ..OpenOptions::default() }
}

/// The number that the newest transaction wrote.
pub(crate) fn counter(store: &Store) -> Result<u64, Error> {
    let Some(root) = store.block(Store::ROOT)? else { return Ok(0) };
    let item = store.get(&root, KIND, COUNTER)?;
    Ok(item.map_or(0, |item| u64::from_le_bytes(item.clear[..].try_into().expect("8 bytes"))))
}

/// Compares everything that a store shows with the model; says what differs.
pub(crate) fn compare(store: &Store, tree: &Tree) -> Result<(), String> {
    let failed = |what: &str, error: Error| format!("{what}: {error}");
    // Also those that were destroyed: a state before that must not pass for one behind it.
    for id in 1..tree.ids_end + 3 {
        let block = store.block(id).map_err(|error| failed("block", error))?;
        let (block, model) = match (block, tree.blocks.get(&id)) {
            (None, None) => continue,
            (Some(_), None) => return Err(format!("block {id} should not be there")),
            (None, Some(_)) => return Err(format!("block {id} is missing")),
            (Some(block), Some(model)) => (block, model),
        };
        let attributes =
            store.attributes(&block).map_err(|error| failed(&format!("attributes of {id}"), error))?;
        if attributes[..] != model.attributes[..] {
            return Err(format!("attributes of block {id} differ"));
        }
        let items = store.scan(&block, KIND, 0, 10_000).map_err(|error| failed("scan", error))?;
        let items: BTreeMap<_, _> = items.into_iter().collect();
        if !items.keys().eq(model.items.keys()) {
            let (found, expected): (Vec<_>, Vec<_>) =
                (items.keys().collect(), model.items.keys().collect::<Vec<_>>());
            return Err(format!("block {id} has items {found:?} instead of {expected:?}"));
        }
        for (offset, item) in &items {
            let expected = &model.items[offset];
            if item.clear != expected.0 || item.secret[..] != expected.1[..] {
                return Err(format!("item {offset} of block {id} differs"));
            }
        }
        compare_data(store, &block, model)?;
    }
    let orphans = store.orphans().map_err(|error| failed("orphans", error))?;
    let expected = tree.blocks.iter().filter(|(_, block)| block.orphan).map(|(id, _)| *id);
    if !orphans.iter().copied().eq(expected.clone()) {
        return Err(format!("orphans are {orphans:?} instead of {:?}", expected.collect::<Vec<_>>()));
    }
    Ok(())
}

fn compare_data(store: &Store, block: &blocktree_engine::Block, model: &BlockModel) -> Result<(), String> {
    const STEP: usize = 256 * SECTOR;
    let end = (model.pages.keys().next_back().map_or(0, |last| last + 1) + 40) * SECTOR as u64;
    let mut bytes = vec![0xA5; STEP];
    let mut at = 0;
    let id = block.id();
    while at < end {
        let first = at / SECTOR as u64;
        store.read(block, at, &mut bytes).map_err(|error| format!("read of {id} at {first}: {error:?}"))?;
        for (index, found) in bytes.chunks_exact(SECTOR).enumerate() {
            let sector = first + index as u64;
            let right = match model.pages.get(&sector) {
                Some(page) => found == &page[..],
                None => found == [0; SECTOR],
            };
            if !right {
                let expected = model.pages.get(&sector).map(|page| page[..8].to_vec());
                return Err(format!(
                    "sector {sector} of block {id} holds {:?} instead of {expected:?}",
                    &found[..8]
                ));
            }
        }
        at += STEP as u64;
        // Long holes are left to the comparison of extents.
        let next = model.pages.range(at / SECTOR as u64..).next();
        at = at.max(next.map_or(at, |(sector, _)| sector * SECTOR as u64)) / STEP as u64 * STEP as u64;
    }
    let mut runs = Vec::new();
    let mut at = 0;
    while let Some(start) =
        store.seek(block, at, u64::MAX / 4, false).map_err(|error| format!("seek in {id}: {error}"))?
    {
        let stop = store.seek(block, start, u64::MAX / 4, true).map_err(|error| format!("seek: {error}"))?;
        let stop = stop.unwrap_or(u64::MAX / 4);
        if stop <= start {
            return Err(format!("block {id} has data and a hole at {start}"));
        }
        runs.push((start / SECTOR as u64, stop / SECTOR as u64));
        at = stop;
        if runs.len() == RUNS_MAX {
            break;
        }
    }
    let mut expected = model.pages.keys().fold(Vec::<(u64, u64)>::new(), |mut runs, sector| {
        match runs.last_mut() {
            Some((_, end)) if *end == *sector => *end += 1,
            _ => runs.push((*sector, sector + 1)),
        }
        runs
    });
    expected.truncate(RUNS_MAX);
    if runs != expected {
        return Err(format!("block {id} has data at {runs:?} instead of {expected:?}"));
    }
    Ok(())
}

/// Compares each snapshot of the store on a device with what it has to show.
pub(crate) fn compare_snapshots(device: Arc<dyn Device>, moment: &Moment) -> Result<(), String> {
    for (name, tree) in &moment.snapshots {
        let options = OpenOptions { snapshot: Some(name.clone()), ..options() };
        let store = Store::open(device.clone(), PASSPHRASE, &options)
            .map_err(|error| format!("snapshot {name}: {error}"))?;
        compare(&store, tree).map_err(|why| format!("snapshot {name}: {why}"))?;
    }
    Ok(())
}
