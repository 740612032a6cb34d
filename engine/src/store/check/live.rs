//! The newest tree: the index of the checkpoint, with what the log changed since.

use zerocopy::FromBytes;

use super::salvage::Missing;
use super::{Fix, Job, Survey};
use crate::crypto::{Certificate, CertificateError, Revocation, Secret};
use crate::format::{
    BlockHeader, BlockId, CertificateBytes, Extent, ItemKind, Key, LostBytes, RevocationBytes, SYSTEM_BLOCK,
    Superblock,
};
use crate::space::Run;
use crate::store::access::decode_access;
use crate::store::block::open_older_key;
use crate::store::block_keys::BlockKeys;
use crate::store::journal::why_no_notes;
use crate::store::layers::Found;
use crate::store::readers::decode_readcap;
use crate::store::resolve::decode_shared;
use crate::store::rotation::{Rotation, Stale};
use crate::store::snapshot::{Snapshot, State};
use crate::store::transaction::Reclaim;
use crate::store::{Block, Core, open_at, open_found};
use crate::tree::{Root, WalkEvent, WalkStep};

/// Visits all of the newest tree, in the order of keys.
pub(super) fn check_live(core: &Core, superblock: &Superblock, survey: &mut Survey<'_>) {
    let layers = core.layers.read();
    let mut changed = layers.active.items.iter().peekable();
    let checkpoint = (superblock.seq.get(), layers.root);
    let mut live = Live {
        core,
        survey,
        checkpoint,
        current: None,
        shared_end: 0,
        owners: Vec::new(),
        orphan_lists: None,
    };
    // What the leaf being visited was written by.
    let mut birth = 0;
    let walked = core.tree.walk(&layers.root, &mut |event| {
        match event {
            WalkEvent::Node { ptr, .. } => {
                birth = ptr.birth.get();
                live.survey.live_nodes += 1;
                live.survey.node(ptr, true);
            }
            WalkEvent::Damaged { ptr, level, lowest, upper, error } => {
                let place = format!("index node of level {level} at sector {}", ptr.sector.get());
                let block = lowest.map(|key| key.block);
                let from = block.map_or(String::new(), |block| format!(", items from block {block} on"));
                live.survey.missing_node(Missing { lowest: lowest.unwrap_or(Key::MIN), upper });
                live.survey.findings.add(place, format!("{error}{from}"), block, Fix::Salvage);
            }
            WalkEvent::Item { key, value } => {
                while let Some((key, value)) = changed.next_if(|(changed, _)| **changed < key) {
                    value.iter().for_each(|value| live.item(*key, value));
                }
                match changed.next_if(|(changed, _)| **changed == key) {
                    Some((_, newer)) => {
                        newer.iter().for_each(|newer| live.item(key, newer));
                        live.superseded(key, value, birth);
                    }
                    None => live.item(key, value),
                }
            }
        }
        WalkStep::On
    });
    for (key, value) in changed {
        value.iter().for_each(|value| live.item(*key, value));
    }
    live.finish_block();
    live.check_owners();
    if let Err(error) = walked {
        survey.gap("index", error.to_string(), None);
    }
    if survey.live_nodes != superblock.nodes.get() && !survey.incomplete {
        let what = format!("counts {} nodes, not {}", superblock.nodes.get(), survey.live_nodes);
        survey.repairable("superblock", what, None);
    }
    for miscount in survey.ledger.miscounts() {
        if !survey.incomplete {
            let place =
                format!("sectors {} to {}", miscount.run.sector, miscount.run.sector + miscount.run.sectors);
            let what = format!("shared by {} extents, recorded as {}", miscount.extents, miscount.recorded);
            survey.repairable(place, what, None);
        }
    }
}

struct Live<'a, 'b, 'c> {
    core: &'a Core,
    survey: &'b mut Survey<'c>,
    /// The last record that the checkpoint contains, and its root.
    checkpoint: (u64, Root),
    current: Option<Current>,
    /// Where the last shared item ends.
    shared_end: u64,
    /// Items of the system that are about a block, which must exist.
    owners: Vec<Key>,
    /// The last id below which dead lists of no snapshot were found.
    orphan_lists: Option<BlockId>,
}

/// The block whose items are being visited.
struct Current {
    id: BlockId,
    block: Option<Block>,
    header: Option<(BlockHeader, Vec<u8>)>,
    /// Sectors of its extents, and where the last one ends.
    sectors: u64,
    end: u64,
    /// Its items were reported as nobody's.
    reported: bool,
    /// It has a header, which does not open.
    is_unopened: bool,
}

impl Live<'_, '_, '_> {
    fn item(&mut self, key: Key, value: &[u8]) {
        if key.block == SYSTEM_BLOCK {
            return self.system_item(key, value);
        }
        if key.kind == ItemKind::DEAD {
            return self.dead_item(key);
        }
        if self.current.as_ref().is_none_or(|current| current.id != key.block) {
            self.finish_block();
            self.current = Some(Current {
                id: key.block,
                block: None,
                header: None,
                sectors: 0,
                end: 0,
                reported: false,
                is_unopened: false,
            });
            if key.block >= self.core.next_block.load(std::sync::atomic::Ordering::Relaxed) {
                let what = "its id was not given out yet";
                self.survey.problem(format!("block {}", key.block), what, Some(key.block));
            }
        }
        let Some(mut current) = self.current.take() else { return };
        match key.kind {
            ItemKind::HEADER => self.header(key, value, &mut current),
            _ if current.header.is_none() => {
                if !current.is_unopened {
                    self.survey.salvage.homeless.push(key);
                }
                if !current.reported && !self.survey.incomplete {
                    let what = "has items but no header";
                    self.survey.problem(format!("block {}", key.block), what, Some(key.block));
                }
                current.reported = true;
                // Its sectors are in use all the same.
                if key.kind == ItemKind::EXTENT {
                    self.extent(key, value, &mut current);
                }
            }
            ItemKind::EXTENT => self.extent(key, value, &mut current),
            _ => check_item(self.survey, current.block.as_ref(), &key, value, None),
        }
        self.current = Some(current);
    }

    fn header(&mut self, key: Key, value: &[u8], current: &mut Current) {
        let place = format!("block {}", key.block);
        match open_header(self.core, &key, value, None) {
            Ok((block, header)) => {
                current.block = block;
                current.header = Some((header, value[size_of::<BlockHeader>()..].to_vec()));
            }
            Err(what) => {
                self.survey.problem(place, what, Some(key.block));
                // Its other items are its own all the same.
                (current.reported, current.is_unopened) = (true, true);
            }
        }
    }

    fn extent(&mut self, key: Key, value: &[u8], current: &mut Current) {
        let place = format!("block {}, extent at sector {}", key.block, key.offset);
        let Some(extent) = check_extent(self.core, self.survey, current.block.as_ref(), &key, value, &place)
        else {
            return;
        };
        let run = Run { sector: extent.sector(), sectors: extent.sectors() };
        if key.offset < current.end {
            self.survey.problem(&place, "overlaps the extent before it", Some(key.block));
        }
        let longest = current.header.as_ref().map_or(u8::MAX, |(header, _)| header.units >> 4);
        if extent.header.unit_log2 > longest {
            self.survey.problem(&place, "its units are longer than the block's header says", Some(key.block));
        }
        current.sectors += run.sectors;
        current.end = current.end.max(key.offset.saturating_add(run.sectors));
        let taken = match extent.is_shared() {
            true => self.survey.ledger.share(run),
            false => self.survey.ledger.claim(run),
        };
        if let Some(sector) = taken {
            let what = format!("sector {sector} of the volume belongs to something else too");
            self.survey.problem(&place, what, Some(key.block));
        }
        self.survey.verify(Job::new(key.block, key.offset, extent, None));
    }

    /// The last item of a block was seen.
    fn finish_block(&mut self) {
        let Some(Current { id, header: Some((mut header, attributes)), sectors, .. }) = self.current.take()
        else {
            return;
        };
        let counted = header.sectors();
        if counted != sectors && self.survey.incomplete {
            header.sectors = BlockHeader::encode_sectors(sectors);
            let value = [zerocopy::IntoBytes::as_bytes(&header), &attributes].concat();
            self.survey.salvage.short.push((id, counted.saturating_sub(sectors), value.into()));
        }
        if counted != sectors && !self.survey.incomplete {
            header.sectors = BlockHeader::encode_sectors(sectors);
            let value = [zerocopy::IntoBytes::as_bytes(&header), &attributes].concat();
            self.survey.repairs.insert(Key::new(id, ItemKind::HEADER, 0), Some(value.into()));
            let what = format!("its header counts {counted} sectors, its extents have {sectors}");
            self.survey.repairable(format!("block {id}"), what, Some(id));
        }
    }

    fn system_item(&mut self, key: Key, value: &[u8]) {
        let wrong = match key.kind {
            ItemKind::SHARED => match decode_shared(value) {
                Some((sectors, extents)) => {
                    let run = Run { sector: key.offset, sectors: u64::from(sectors) };
                    self.survey.salvage.shared.push(key);
                    let overlaps = run.sector < self.shared_end;
                    if self.survey.ledger.is_possible(run) {
                        self.shared_end = run.sector + run.sectors;
                        self.survey.ledger.record_shared(run, extents);
                    }
                    overlaps.then_some("overlaps the shared item before it")
                }
                None => Some("not a shared item"),
            },
            ItemKind::SNAPSHOT => match Snapshot::decode(self.core.keys.owner.as_ref(), &key, value) {
                Some(mut snapshot) => {
                    let (seq, root) = self.checkpoint;
                    snapshot.settle(seq, root);
                    self.survey.snapshots.push(snapshot);
                    None
                }
                None => {
                    self.survey.incomplete = true;
                    Some("not a snapshot, or not sealed under this store's key")
                }
            },
            ItemKind::RECLAIM => {
                self.owners.push(key);
                Reclaim::decode(value).is_none().then_some("not a reclaim item")
            }
            ItemKind::ORPHAN => {
                self.owners.push(key);
                (!value.is_empty()).then_some("not an orphan item")
            }
            ItemKind::LOST => {
                self.owners.push(key);
                LostBytes::read_from_bytes(value).is_err().then_some("not a lost item")
            }
            ItemKind::JOURNAL => {
                self.owners.push(key);
                (!value.is_empty()).then_some("not what names a journal")
            }
            ItemKind::WRITECAP => {
                let bytes = CertificateBytes::read_from_bytes(value).map_err(|_| CertificateError::Version);
                let verified = bytes.and_then(|bytes| Certificate::verify(&bytes, &self.core.keys.store_id));
                (!verified.is_ok_and(|cap| cap.serial() == key.offset))
                    .then_some("not a writecap that verifies")
            }
            ItemKind::REVOCATION => {
                let bytes = RevocationBytes::read_from_bytes(value).map_err(|_| CertificateError::Version);
                let verified = bytes.and_then(|bytes| Revocation::verify(&bytes, &self.core.keys.store_id));
                (!verified.is_ok_and(|end| end.serial() == key.offset))
                    .then_some("not a revocation that verifies")
            }
            ItemKind::STALE => {
                self.owners.push(key);
                Stale::decode(value).is_none().then_some("not an item of a block with older keys")
            }
            ItemKind::ROTATION => Rotation::decode(&key, value).is_none().then_some("not a rotation"),
            ItemKind::READCAP => decode_readcap(&key, value).is_err().then_some("not a readcap"),
            ItemKind::ACCESS => decode_access(&key, value).is_none().then_some("not an access item"),
            _ => Some("of an unknown kind"),
        };
        if let Some(what) = wrong {
            self.survey.problem(format!("system item {}/{}", key.kind.0, key.offset), what, None);
        }
    }

    /// A dead list whose snapshot is gone is nobody's.
    fn dead_item(&mut self, key: Key) {
        if self.survey.snapshots.iter().any(|snapshot| snapshot.id == key.block) {
            return;
        }
        self.survey.repairs.insert(key, None);
        if self.orphan_lists.replace(key.block) != Some(key.block) {
            self.survey.repairable(format!("dead list {}", key.block), "its snapshot does not exist", None);
        }
    }

    /// The log replaced an item of the index. A snapshot may still show it.
    fn superseded(&mut self, key: Key, value: &[u8], birth: u64) {
        let newest = self.survey.snapshots.iter().rev().find(|snapshot| snapshot.state == State::There);
        // A node of this index that is not younger than the snapshot is a node of the snapshot too.
        if key.block != SYSTEM_BLOCK && newest.is_some_and(|newest| birth <= newest.seq) {
            self.survey.superseded.push((key, value.to_vec()));
        }
    }

    fn check_owners(&mut self) {
        for key in std::mem::take(&mut self.owners) {
            let header = Key::new(key.offset, ItemKind::HEADER, 0);
            if !self.survey.incomplete && self.core.find_sealed(&header).is_ok_and(|found| found.is_none()) {
                self.survey.repairs.insert(key, None);
                let kind = match key.kind {
                    ItemKind::ORPHAN => "orphan",
                    ItemKind::LOST => "block that is not whole",
                    ItemKind::JOURNAL => "journal",
                    ItemKind::STALE => "block with older keys",
                    _ => "block to be emptied",
                };
                self.survey.repairable(format!("{kind} {}", key.offset), "does not exist", None);
            }
        }
    }
}

/// The older keys of a block in the newest tree, or in that of a snapshot.
fn older_keys(
    core: &Core,
    id: BlockId,
    epoch: u32,
    key: &Secret,
    root: Option<&Root>,
) -> crate::error::Result<Vec<(u32, Secret)>> {
    let Some(root) = root.filter(|_| epoch > 0) else { return core.older_keys(id, epoch, key) };
    let item_key = BlockKeys::of(epoch, key).item;
    let at = |offset| Key::new(id, ItemKind::OLD_KEY, offset);
    let mut older = Vec::new();
    core.tree.scan(root, &at(0), &at(u64::MAX), &mut |key, value| {
        older.extend(open_older_key(&item_key, key.offset, value));
        true
    })?;
    older.reverse();
    Ok(older)
}

/// Opens a block's key and attributes. Without the owner key, there is a header but no block.
pub(super) fn open_header(
    core: &Core,
    key: &Key,
    value: &[u8],
    root: Option<&Root>,
) -> Result<(Option<Block>, BlockHeader), &'static str> {
    let (header, sealed) = BlockHeader::read_from_prefix(value).map_err(|_| "its header is too short")?;
    if key.offset != 0 {
        return Err("a header at the wrong place");
    }
    if core.keys.owner.is_none() {
        return Ok((None, header));
    }
    let block_key = core.keys.open_header(key.block, &header);
    let block_key = block_key.map_err(|_| "its key does not open under the owner key")?;
    // Where they are lost, what stands under them is reported.
    let older = older_keys(core, key.block, header.epoch.get(), &block_key, root).unwrap_or_default();
    let block = core.open_blocks.opened(key.block, &header, block_key, older);
    open_at(&block, key, sealed).map_err(|_| "its attributes do not open under its key")?;
    Ok((Some(block), header))
}

/// Checks all of an extent item but its data.
pub(super) fn check_extent(
    core: &Core,
    survey: &mut Survey<'_>,
    block: Option<&Block>,
    key: &Key,
    value: &[u8],
    place: &str,
) -> Option<Extent> {
    let extent = match Extent::decode(value) {
        Ok(extent) => extent,
        Err(malformed) => {
            survey.gap(place, malformed.to_string(), Some(key.block));
            return None;
        }
    };
    if !survey.ledger.is_possible(Run { sector: extent.sector(), sectors: extent.sectors() }) {
        survey.gap(place, "refers to sectors that cannot hold data", Some(key.block));
        return None;
    }
    if extent.birth() == 0 || extent.birth() > core.sealer.lock().seq {
        survey.problem(place, "was born with a record that does not exist", Some(key.block));
    }
    if block.is_some_and(|block| core.extent_key(block, &extent).is_err()) {
        survey.problem(place, "its key does not open under the block's", Some(key.block));
    }
    Some(extent)
}

/// Checks an item of a block that is neither header nor extent.
pub(super) fn check_item(
    survey: &mut Survey<'_>,
    block: Option<&Block>,
    key: &Key,
    value: &[u8],
    snapshot: Option<&str>,
) {
    let wrong = match (key.kind, block) {
        (ItemKind::OLD_KEY, Some(block)) => {
            let opened = open_older_key(&block.keys().item, key.offset, value);
            opened.is_err().then_some("an older key does not open")
        }
        // That an item follows the one before it is not asked: a repair may have given that one up, and readers of the
        // journal notice.
        (ItemKind::JOURNAL, Some(block)) => why_no_notes(block, key, value),
        (kind, Some(block)) if kind >= ItemKind::FIRST_FREE => {
            let opened = open_found(block, key, &Found::Value(value.into()));
            opened.is_err().then_some("does not open under the block's key")
        }
        (_, None) => None,
        _ => Some("of an unknown kind"),
    };
    if let Some(what) = wrong {
        let snapshot = snapshot.map_or(String::new(), |name| format!(" in snapshot {name:?}"));
        let place = format!("block {}{snapshot}, item {}/{}", key.block, key.kind.0, key.offset);
        survey.problem(place, what, Some(key.block));
    }
}
