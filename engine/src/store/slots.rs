//! The slots that a passphrase opens: the key slot, with what a node needs every day, and the root slot, with what
//! only commands need that give and take rights. And how a store gets a new node from its root.

use std::sync::Arc;

use super::open::{OpenError, find_key_slot, looks_like_a_store, read_sectors};
use super::{Store, WHOLE_STORE, keys::Keys};
use crate::crypto::{
    Certificate, KdfCost, KeySlotError, Principal, PublicKeys, Rights, Secret, Terms, random, seal_keyslot,
    seal_rootslot, unseal_rootslot,
};
use crate::device::{Device, Write};
use crate::error::{Error, Result};
use crate::format::{CertificateBytes, KeySlotSecrets, Layout, OTHER_VERSION};

/// Everything that a store can be opened, written and given away with. What a backup holds.
#[derive(Debug, Clone)]
pub struct MasterKeys {
    pub store_id: [u8; 16],
    /// Wraps the key of every block.
    pub owner: Secret,
    /// Encrypts index nodes and log records.
    pub structure: Secret,
    /// Whose signature every right begins with.
    pub root: Principal,
}

/// What the slots of a new node are made of.
pub(super) struct NodeSlots<'a> {
    pub(super) root: &'a Principal,
    pub(super) node: &'a Principal,
    pub(super) owner: &'a Secret,
    pub(super) structure: &'a Secret,
    pub(super) store_id: [u8; 16],
}

impl NodeSlots<'_> {
    /// The key slot and the root slot, under one passphrase.
    pub(super) fn seal(
        &self,
        passphrase: &[u8],
        cost: KdfCost,
        certificate: &Certificate,
    ) -> (Vec<u8>, Vec<u8>) {
        let secrets = KeySlotSecrets {
            owner_key: *self.owner.bytes(),
            structure_key: *self.structure.bytes(),
            node_seeds: *self.node.seeds(),
            root_principal: self.root.public().id(),
        };
        let keyslot = seal_keyslot(passphrase, cost, self.store_id, *certificate.bytes(), &secrets);
        (keyslot, seal_rootslot(passphrase, cost, self.store_id, self.root))
    }
}

/// The writecap of a node: all rights, for ever, over the whole store.
pub(super) fn node_certificate(root: &Principal, node: PublicKeys, store_id: [u8; 16]) -> Certificate {
    let terms = Terms {
        store_id,
        subject: node,
        block: WHOLE_STORE,
        rights: Rights::ALL,
        not_before: 0,
        expires: u64::MAX,
        serial: new_serial(),
    };
    Certificate::issue(root, &terms)
}

/// Names a capability: random, so that two nodes never choose the same, and never 0.
pub(super) fn new_serial() -> u64 {
    u64::from_le_bytes(random()).max(1)
}

/// Opens the root slot of the store on a device: the principal that all rights come from.
pub fn read_root(device: &dyn Device, passphrase: &[u8]) -> std::result::Result<Principal, OpenError> {
    let mut error = OpenError::NoRootSlot;
    for sector in Layout::candidates().flat_map(|layout| layout.rootslots()) {
        if sector >= device.sectors() {
            continue;
        }
        let bytes = read_sectors(device, sector, 1).map_err(OpenError::Read)?;
        match unseal_rootslot(passphrase, &bytes) {
            Ok((_, root)) => return Ok(root),
            Err(KeySlotError::WrongPassphrase) => return Err(OpenError::WrongPassphrase),
            Err(KeySlotError::Malformed(why)) if why.why == OTHER_VERSION => error = OpenError::Version,
            Err(KeySlotError::Malformed(why)) if why.why != "no magic number" => {
                error = OpenError::KeySlot(why)
            }
            Err(KeySlotError::Malformed(_)) => {}
        }
    }
    if matches!(error, OpenError::NoRootSlot) && !looks_like_a_store(device)? {
        return Err(OpenError::NotAStore);
    }
    Err(error)
}

/// Who signs rights for a passphrase: the root, if it opens the root slot, or else the node of the key slot.
pub fn read_signer(device: &dyn Device, passphrase: &[u8]) -> std::result::Result<Principal, OpenError> {
    match read_root(device, passphrase) {
        // The root has another passphrase, or is kept elsewhere.
        Err(OpenError::NoRootSlot | OpenError::WrongPassphrase) => {
            let (header, secrets, _) = find_key_slot(device, passphrase)?;
            Ok(Keys::from_key_slot(&header, &secrets).node)
        }
        root => root,
    }
}

/// What a backup of the store on a device holds: the keys of its key slot and the root of its root slot.
pub fn read_master_keys(
    device: &dyn Device,
    passphrase: &[u8],
) -> std::result::Result<MasterKeys, OpenError> {
    let (header, secrets, _) = find_key_slot(device, passphrase)?;
    let root = read_root(device, passphrase)?;
    if root.public().id() != secrets.root_principal {
        return Err(OpenError::OtherRoot);
    }
    let keys = Keys::from_key_slot(&header, &secrets);
    let owner = keys.owner.ok_or(Error::NoKey)?;
    Ok(MasterKeys { store_id: keys.store_id, owner, structure: keys.structure, root })
}

/// Gives a store that nobody has open a new node and a new passphrase, from its master keys: both copies of its key
/// slot and of its root slot are written anew. The old node's writecap is not revoked by that.
pub fn replace_node(
    device: &Arc<dyn Device>,
    master: &MasterKeys,
    passphrase: &[u8],
    cost: KdfCost,
) -> std::result::Result<CertificateBytes, OpenError> {
    let keys = Keys::from_master(master);
    let layout = super::open::find_layout(&**device, &keys).ok_or(OpenError::OtherRoot)?;
    let node = Principal::generate();
    let certificate = node_certificate(&master.root, node.public(), master.store_id);
    let slots = NodeSlots {
        root: &master.root,
        node: &node,
        owner: &master.owner,
        structure: &master.structure,
        store_id: master.store_id,
    };
    let (keyslot, rootslot) = slots.seal(passphrase, cost, &certificate);
    write_copies(device, layout.keyslots(), &keyslot)?;
    write_copies(device, layout.rootslots(), &rootslot)?;
    Ok(*certificate.bytes())
}

/// One copy after the other: one of them is whole at any time.
pub(super) fn write_copies(
    device: &Arc<dyn Device>,
    places: [u64; 2],
    sector: &[u8],
) -> std::result::Result<(), OpenError> {
    for place in places {
        let mut bytes = device.buffer(1);
        bytes.copy_from_slice(sector);
        device.write(vec![Write { sector: place, bytes }]).wait().map_err(OpenError::Write)?;
        device.flush().map_err(OpenError::Write)?;
    }
    Ok(())
}

impl Store {
    /// Keeps the root in the store's root slot, under a passphrase of its own if that is meant.
    pub fn write_root_slot(&self, root: &Principal, passphrase: &[u8], cost: KdfCost) -> Result<()> {
        self.core.check_writable()?;
        if root.public().id() != self.core.keys.root_principal {
            return Err(Error::NoKey);
        }
        self.write_root_sector(&seal_rootslot(passphrase, cost, self.core.keys.store_id, root))
    }

    /// Takes the root out of the store: from then on, only who has a backup of it can give and take rights.
    pub fn remove_root_slot(&self) -> Result<()> {
        self.core.check_writable()?;
        self.write_root_sector(&[0; crate::limits::SECTOR_BYTES])
    }

    fn write_root_sector(&self, sector: &[u8]) -> Result<()> {
        for place in self.core.layout.rootslots() {
            let mut bytes = self.core.device.buffer(1);
            bytes.copy_from_slice(sector);
            self.core.write_and_wait(vec![Write { sector: place, bytes }])?;
            self.core.flush()?;
        }
        Ok(())
    }
}
