//! Making a store.

use std::sync::Arc;

use zerocopy::FromZeros;

use super::checkpoint::Moment;
use super::keys::Keys;
use super::nodes::DeviceNodes;
use super::open::{OpenError, build};
use super::slots::{NodeSlots, node_certificate};
use super::{CreateOptions, OpenOptions, Store, now_ns};
use crate::crypto::{Principal, Secret, random};
use crate::device::{Device, Write};
use crate::format::{Layout, Superblock};
use crate::limits::{REQUEST_SECTORS_MAX, STORE_SECTORS_MAX, STORE_SECTORS_MIN};
use crate::space::{Space, Table};
use crate::tree::Root;

/// What must be left behind the log of a new volume: room for nodes and some data.
const DATA_SECTORS_MIN: u64 = 4096;

impl Store {
    /// Makes a store on a device and opens it. It has no blocks: the first that is made gets [`Store::ROOT`].
    pub fn create(
        device: Arc<dyn Device>,
        passphrase: &[u8],
        options: &CreateOptions,
    ) -> Result<Self, OpenError> {
        Self::create_with(device, passphrase, options, &OpenOptions::default())
    }

    /// As [`Store::create`], opened with these options.
    pub fn create_with(
        device: Arc<dyn Device>,
        passphrase: &[u8],
        options: &CreateOptions,
        open_options: &OpenOptions,
    ) -> Result<Self, OpenError> {
        let capacity = options.capacity_sectors;
        let volume = device.sectors().min(capacity);
        if volume < STORE_SECTORS_MIN || capacity > STORE_SECTORS_MAX {
            return Err(OpenError::Size(volume));
        }
        let layout = Layout::for_capacity(capacity);
        // The volume may be much shorter than what it may grow to.
        let layout = if layout.reserved_end() + DATA_SECTORS_MIN > volume {
            Layout::for_capacity(volume)
        } else {
            layout
        };

        let (root, node) = (Principal::generate(), Principal::generate());
        let (owner, structure) = (Secret::random(), Secret::random());
        let store_id = random();
        let certificate = node_certificate(&root, node.public(), store_id);
        let slots = NodeSlots { root: &root, node: &node, owner: &owner, structure: &structure, store_id };
        let (keyslot, rootslot) = slots.seal(passphrase, options.kdf, &certificate);
        let keys = Keys {
            store_id,
            owner: Some(owner),
            structure,
            node,
            root_principal: root.public().id(),
            chain: vec![certificate],
            readcaps: Vec::new(),
            slot_certificate: Some(*certificate.bytes()),
        };

        clear_log(&*device, layout)?;
        let mut superblock = Superblock::new_zeroed();
        superblock.store_id = store_id;
        superblock.capacity_sectors = capacity.into();
        superblock.next_block = Store::ROOT.into();
        let space = Space::load(device.clone(), Table::empty(), layout, volume, layout.reserved_end())?;
        let mut core = build(
            device.clone(),
            DeviceNodes::new(&device),
            layout,
            keys,
            open_options.clone(),
            &superblock,
            space,
        );
        core.authors.get_mut().add(certificate.bytes())?;
        let slots = [(layout.keyslots(), keyslot), (layout.rootslots(), rootslot)];
        let writes = slots.iter().flat_map(|(sectors, slot)| {
            sectors.map(|sector| {
                let mut bytes = core.device.buffer(1);
                bytes.copy_from_slice(slot);
                Write { sector, bytes }
            })
        });
        core.write_and_wait(writes.collect())?;
        core.write_superblock(&Moment {
            generation: 0,
            seq: 0,
            record_hash: [0; 32],
            log_position: 0,
            volume_sectors: volume,
            next_block: Store::ROOT,
            root: Root::EMPTY,
            nodes: 0,
            space: Table::empty().top(),
            time_ns: now_ns(),
        })?;
        Ok(Self::start(core))
    }
}

/// Writes the log zone once, so that a record never meets what an older store left there, and a file below
/// never has to commit new space to its own journal on a flush.
fn clear_log(device: &dyn Device, layout: Layout) -> Result<(), OpenError> {
    let mut writes = Vec::new();
    let end = layout.reserved_end();
    let mut sector = 0;
    while sector < end {
        let sectors = REQUEST_SECTORS_MAX.min(end - sector);
        writes.push(Write::zeros(device, sector, sectors));
        sector += sectors;
        if writes.len() == 8 || sector == end {
            device.write(std::mem::take(&mut writes)).wait().map_err(OpenError::Write)?;
        }
    }
    Ok(())
}
