//! What the holder of keys sees of an image: nodes, records and items, and how to make others in their place.

use blocktree_engine::crypto::{
    ExtentKey, Principal, Secret, hash, open_key, open_sectors, seal_sectors, tagged_hash, unseal_keyslot,
};
use blocktree_engine::device::Image;
use blocktree_engine::format::{
    BlockHeader, BlockId, Change, Child, Extent, ItemKind, Key, KeyBytes, KeySlotSecrets, Layout, NODE_MAGIC,
    NodeHeader, RecordHeader, Slot, Superblock, decode_changes, encode_change,
};
use blocktree_engine::limits::{NODE_BYTES, NODE_SECTORS};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::victim::{PASSPHRASE, SECTOR, SECTORS};

pub(crate) struct Node {
    pub(crate) sector: u64,
    pub(crate) level: u8,
    /// Decrypted.
    pub(crate) plain: Vec<u8>,
    /// Which child of which node.
    parent: Option<(usize, usize)>,
}

/// A log record, decrypted.
#[derive(Clone)]
pub(crate) struct Record {
    pub(crate) sector: u64,
    pub(crate) head: RecordHeader,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Insight {
    pub(crate) image: Image,
    pub(crate) superblock: Superblock,
    pub(crate) layout: Layout,
    /// Parents before children.
    pub(crate) nodes: Vec<Node>,
    pub(crate) records: Vec<Record>,
    pub(crate) secrets: KeySlotSecrets,
}

pub(crate) type Items = Vec<(Key, Vec<u8>)>;

pub(crate) fn read(image: &Image, sector: u64, sectors: usize) -> Vec<u8> {
    (0..sectors as u64).flat_map(|index| image.sector(sector + index)).collect()
}

pub(crate) fn write(image: &mut Image, sector: u64, bytes: &[u8]) {
    for (index, bytes) in bytes.chunks_exact(SECTOR).enumerate() {
        image.set_sector(sector + index as u64, bytes.try_into().unwrap());
    }
}

impl Insight {
    pub(crate) fn of(image: &Image) -> Self {
        let layout = Layout::for_capacity(SECTORS);
        let (_, secrets) = unseal_keyslot(PASSPHRASE, &image.sector(layout.keyslots()[0])).unwrap();
        let superblock = Superblock::decode(&image.sector(layout.superblocks()[0])).unwrap();
        let mut insight = Self {
            image: image.clone(),
            superblock,
            layout,
            nodes: Vec::new(),
            records: Vec::new(),
            secrets,
        };
        let root = insight.superblock.root;
        insight.visit(root.sector.get(), None);
        insight.read_log();
        insight
    }

    fn structure(&self, nonce: &[u8; 16]) -> ExtentKey {
        ExtentKey::derive(&Secret::new(self.secrets.structure_key), nonce)
    }

    fn visit(&mut self, sector: u64, parent: Option<(usize, usize)>) {
        let mut plain = read(&self.image, sector, NODE_SECTORS);
        let nonce = plain[..16].try_into().unwrap();
        open_sectors(&self.structure(&nonce), 0, &mut plain[16..]);
        let head = NodeHeader::read_from_prefix(&plain).unwrap().0;
        assert_eq!(head.magic.get(), NODE_MAGIC);
        let index = self.nodes.len();
        self.nodes.push(Node { sector, level: head.level, plain, parent });
        if head.level > 0 {
            for child in 0..usize::from(head.count.get()) {
                let sector = self.child(index, child).ptr.sector.get();
                self.visit(sector, Some((index, child)));
            }
        }
    }

    fn child(&self, node: usize, child: usize) -> Child {
        Child::read_from_prefix(&self.nodes[node].plain[32 + 65 * child..]).unwrap().0
    }

    fn read_log(&mut self) {
        let mut position = self.superblock.log_position.get();
        loop {
            let sector = Layout::LOG_START + position;
            let Ok(head) = RecordHeader::decode(&self.image.sector(sector)) else { return };
            let newest = self.records.last().map_or(self.superblock.seq.get(), |last| last.head.seq.get());
            if head.seq.get() != newest + 1 {
                return;
            }
            let mut body = read(&self.image, sector, head.sectors.get() as usize).split_off(224);
            open_sectors(&self.structure(&head.nonce), 0, &mut body);
            body.truncate(head.body_bytes.get() as usize);
            position += u64::from(head.sectors.get());
            self.records.push(Record { sector, head, body });
        }
    }

    pub(crate) fn leaves(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].level == 0)
    }

    pub(crate) fn items(&self, leaf: usize) -> Items {
        let plain = &self.nodes[leaf].plain;
        let head = NodeHeader::read_from_prefix(plain).unwrap().0;
        let slot = |index| Slot::read_from_prefix(&plain[32 + 21 * index..]).unwrap().0;
        let slots = (0..usize::from(head.count.get())).map(slot);
        slots
            .map(|slot| {
                let value = &plain[usize::from(slot.offset.get())..][..usize::from(slot.length.get())];
                (Key::from(&slot.key), value.to_vec())
            })
            .collect()
    }

    /// All items of the index: the leaf that holds each, and its place there.
    pub(crate) fn all_items(&self) -> Vec<(usize, usize, Key, Vec<u8>)> {
        let of = |leaf| {
            let items = self.items(leaf).into_iter().enumerate();
            items.map(move |(at, (key, value))| (leaf, at, key, value))
        };
        self.leaves().flat_map(of).collect()
    }

    pub(crate) fn find(&self, wanted: Key) -> Option<(usize, usize, Vec<u8>)> {
        let found = self.all_items().into_iter().find(|(_, _, key, _)| *key == wanted);
        found.map(|(leaf, at, _, value)| (leaf, at, value))
    }

    /// The data, item and name keys of a block: what a readcap gives.
    pub(crate) fn block_keys(&self, id: BlockId) -> Option<[Secret; 2]> {
        let (_, _, value) = self.find(Key::new(id, ItemKind::HEADER, 0))?;
        let header = BlockHeader::read_from_prefix(&value).ok()?.0;
        let key =
            open_key(&Secret::new(self.secrets.owner_key), &id.to_le_bytes(), &header.owner_key).ok()?;
        Some([key.derive("blocktree block data v1"), key.derive("blocktree block items v1")])
    }

    pub(crate) fn extents(&self) -> Vec<(Key, Extent)> {
        let items = self.all_items().into_iter().filter(|(_, _, key, _)| key.kind == ItemKind::EXTENT);
        items.map(|(_, _, key, value)| (key, Extent::decode(&value).unwrap())).collect()
    }

    /// The image with these items in place of a leaf's, encrypted as it should be. With `rehash`, every node up to
    /// the root names the new hash, and the superblock the new root; its signature is left.
    pub(crate) fn with_leaf(&self, leaf: usize, items: &Items, rehash: bool) -> (Image, Superblock) {
        self.with_node(leaf, encode_leaf(&self.nodes[leaf].plain, items), rehash)
    }

    pub(crate) fn with_node(&self, node: usize, plain: Vec<u8>, rehash: bool) -> (Image, Superblock) {
        let mut image = self.image.clone();
        let mut superblock = self.superblock.clone();
        let (mut at, mut plain) = (node, plain);
        loop {
            let mut sealed = plain;
            let nonce = sealed[..16].try_into().unwrap();
            seal_sectors(&self.structure(&nonce), 0, &mut sealed[16..]);
            write(&mut image, self.nodes[at].sector, &sealed);
            if !rehash {
                return (image, superblock);
            }
            let hash = hash(&sealed);
            match self.nodes[at].parent {
                Some((parent, child)) => {
                    plain = self.nodes[parent].plain.clone();
                    plain[32 + 65 * child + 17 + 16..][..32].copy_from_slice(&hash);
                    at = parent;
                }
                None => {
                    superblock.root.hash = hash;
                    return (image, superblock);
                }
            }
        }
    }

    /// The record on the disk, encrypted as it should be, its signature as it is in the head or by `signer`.
    pub(crate) fn put_record(&self, image: &mut Image, record: &Record, signer: Option<&Principal>) {
        let mut head = record.head;
        head.body_bytes = (record.body.len() as u32).into();
        let mut bytes = vec![0; head.sectors.get() as usize * SECTOR];
        bytes[224..224 + record.body.len()].copy_from_slice(&record.body);
        seal_sectors(&self.structure(&head.nonce), 0, &mut bytes[224..]);
        if let Some(signer) = signer {
            head.author = signer.public().signing;
            let hash = tagged_hash("blocktree log record v1", &[&head.as_bytes()[..160], &bytes[224..]]);
            head.signature = signer.sign(&hash);
        }
        bytes[..224].copy_from_slice(head.as_bytes());
        write(image, record.sector, &bytes);
    }
}

/// The hash by which the next record would name this one.
pub(crate) fn record_hash(image: &Image, record: &Record) -> [u8; 32] {
    let bytes = read(image, record.sector, record.head.sectors.get() as usize);
    tagged_hash("blocktree log record v1", &[&bytes[..160], &bytes[224..]])
}

pub(crate) fn sign(superblock: &mut Superblock, signer: &Principal) {
    superblock.author = signer.public().signing;
    let hash = tagged_hash("blocktree superblock v1", &[superblock.signed_bytes()]);
    superblock.signature = signer.sign(&hash);
}

/// A leaf as its head says, with other items.
fn encode_leaf(old: &[u8], items: &Items) -> Vec<u8> {
    let mut plain = vec![0; NODE_BYTES];
    let mut head = NodeHeader::read_from_prefix(old).unwrap().0;
    head.count = (items.len() as u16).into();
    plain[..32].copy_from_slice(head.as_bytes());
    let mut offset = NODE_BYTES - items.iter().map(|(_, value)| value.len()).sum::<usize>();
    for (index, (key, value)) in items.iter().enumerate() {
        let mut slot = Slot::new_zeroed();
        slot.key = KeyBytes::from(*key);
        slot.offset = (offset as u16).into();
        slot.length = (value.len() as u16).into();
        plain[32 + 21 * index..][..21].copy_from_slice(slot.as_bytes());
        plain[offset..][..value.len()].copy_from_slice(value);
        offset += value.len();
    }
    plain
}

/// A record's body with its puts changed; what `change` returns nothing for is left out.
pub(crate) fn edit_body(
    body: &[u8],
    mut change: impl FnMut(Key, Vec<u8>) -> Option<(Key, Vec<u8>)>,
) -> Vec<u8> {
    let mut edited = Vec::new();
    for found in decode_changes(body) {
        match found.unwrap() {
            Change::Put(key, value) => {
                if let Some((key, value)) = change(key, value.to_vec()) {
                    encode_change(&mut edited, &Change::Put(key, &value));
                }
            }
            other => encode_change(&mut edited, &other),
        }
    }
    edited
}
