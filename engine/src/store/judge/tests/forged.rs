//! Changes that no honest program makes: each is refused for what it is.

use super::*;

/// Changes as a record has them, made by hand.
#[derive(Default)]
pub(super) struct Forged {
    pub(super) body: Vec<u8>,
    pub(super) next_block: Option<BlockId>,
    pub(super) time_ns: u64,
}

impl Forged {
    pub(super) fn put(mut self, key: Key, value: &[u8]) -> Self {
        encode_change(&mut self.body, &Change::Put(key, value));
        self
    }

    pub(super) fn delete(mut self, key: Key) -> Self {
        encode_change(&mut self.body, &Change::Delete(key));
        self
    }

    pub(super) fn allocate(mut self, sector: u64) -> Self {
        encode_change(&mut self.body, &Change::Allocate { sector, sectors: 1 });
        self
    }

    pub(super) fn free(mut self, extent: &Extent) -> Self {
        encode_change(
            &mut self.body,
            &Change::Free { sector: extent.sector(), sectors: extent.sectors() as u32 },
        );
        self
    }
}

pub(super) fn header_key(id: BlockId) -> Key {
    Key::new(id, ItemKind::HEADER, 0)
}

pub(super) fn extent_key(id: BlockId, at: u64) -> Key {
    Key::new(id, ItemKind::EXTENT, at)
}

pub(super) fn system_key(kind: ItemKind, offset: u64) -> Key {
    Key::new(SYSTEM_BLOCK, kind, offset)
}

pub(super) fn value(store: &Store, key: Key) -> Vec<u8> {
    store.core.find_sealed(&key).unwrap().unwrap().to_vec()
}

/// The header of a block, with something else in it.
pub(super) fn header(store: &Store, id: BlockId, change: impl FnOnce(&mut BlockHeader)) -> Vec<u8> {
    let mut value = value(store, header_key(id));
    let (mut header, _) = BlockHeader::read_from_prefix(&value).unwrap();
    change(&mut header);
    value[..size_of::<BlockHeader>()].copy_from_slice(header.as_bytes());
    value
}

pub(super) fn item(names: &[BlockId]) -> Vec<u8> {
    let clear: Vec<u8> = names.iter().flat_map(|id| id.to_le_bytes()).collect();
    [&(clear.len() as u16).to_le_bytes()[..], &clear, &[0; 40]].concat()
}
/// Everything by which a writer could reach beyond its directory, as changes of a record, and why it is refused.
pub(super) fn forgeries(world: &World, store: &Store) -> Vec<(Forged, &'static str)> {
    [items::forgeries(world, store), sectors::forgeries(world, store)].into_iter().flatten().collect()
}

#[test]
fn nothing_beyond_a_writers_directory_is_reached() {
    let world = World::new();
    let store = world.open_as_writer();
    let opened = world.opened(&store);
    let core = &store.core;
    let bounds = core.bounds.clone().unwrap();
    let (next_block, seq) = (bounds.next_block, core.layers.read().sealed_seq + 1);
    for (index, (forged, why)) in forgeries(&world, &store).into_iter().enumerate() {
        let next_block = forged.next_block.unwrap_or(next_block);
        let claims = Claims { seq, next_block, time_ns: forged.time_ns, body: &forged.body };
        match judge(core, &bounds, &claims) {
            Err(Judgement::Refused(refused)) => assert_eq!(refused, why, "forgery {index}"),
            other => panic!("forgery {index} ({why}): {other:?}"),
        }
    }
    drop(opened);
}
