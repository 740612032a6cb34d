//! Other keys for a store that nobody has open: another passphrase, and what must hold before its keys are trusted to a
//! backup. A new node is in [`super::slots`].

use std::sync::Arc;

use zerocopy::FromBytes;

use super::access::open_slots;
use super::keys::{Credential, Keys};
use super::open::{OpenError, find_key_slot, find_layout, read_sectors};
use super::slots::{MasterKeys, read_root, write_copies};
use super::{OpenOptions, Store};
use crate::crypto::{Certificate, KdfCost, Principal, seal_keyslot, seal_rootslot};
use crate::device::Device;
use crate::error::Error;
use crate::format::{CertificateBytes, KeySlotHeader, Layout};

type Result<T> = std::result::Result<T, OpenError>;

/// The master keys of a store whose root has an access slot in it, which its own key opens.
pub fn master_keys_of_root(device: &dyn Device, root: &Principal) -> Result<MasterKeys> {
    let found = open_slots(device, root, Some(root.public().id()))?;
    let whole = |keys: Keys| {
        let owner = keys.owner.clone()?;
        Some(MasterKeys { store_id: keys.store_id, owner, structure: keys.structure, root: root.clone() })
    };
    found.into_iter().find_map(whole).ok_or(OpenError::NoAccess)
}

/// Shows that these keys are those of the store on a device: its superblock and index verify, and its root directory
/// opens.
pub fn prove_master_keys(device: Arc<dyn Device>, master: &MasterKeys) -> Result<()> {
    let options = OpenOptions { read_only: true, background: false, ..OpenOptions::default() };
    let store = Store::open_as(device, &Credential::Master(master), &options)?;
    match store.block(Store::ROOT)? {
        Some(block) => store.attributes(&block).map(drop)?,
        None => return Err(Error::NoKey.into()),
    }
    Ok(store.close()?)
}

/// Keeps the key slot under another passphrase, and the root slot too if the old passphrase opens it.
pub fn change_passphrase(device: &Arc<dyn Device>, old: &[u8], new: &[u8], cost: KdfCost) -> Result<()> {
    let (header, secrets, _) = find_key_slot(&**device, old)?;
    let root = match read_root(&**device, old) {
        Ok(root) => Some(root),
        // It was taken out, or has a passphrase of its own.
        Err(OpenError::NoRootSlot | OpenError::WrongPassphrase) => None,
        Err(error) => return Err(error),
    };
    let keys = Keys::from_key_slot(&header, &secrets);
    let layout = find_layout(&**device, &keys).ok_or(OpenError::OtherRoot)?;
    let slot = seal_keyslot(new, cost, header.store_id, header.certificate, &secrets);
    if let Some(root) = root {
        write_copies(device, layout.rootslots(), &seal_rootslot(new, cost, header.store_id, &root))?;
    }
    write_copies(device, layout.keyslots(), &slot)
}

/// The writecap that the key slot shows of its node, for which no passphrase is needed; `None` where no copy has one for
/// this store that was signed.
pub fn node_of_key_slot(device: &dyn Device, store_id: &[u8; 16]) -> Result<Option<CertificateBytes>> {
    for sector in Layout::candidates().flat_map(|layout| layout.keyslots()) {
        if sector >= device.sectors() {
            continue;
        }
        let bytes = read_sectors(device, sector, 1).map_err(OpenError::Read)?;
        let Ok((header, _)) = KeySlotHeader::read_from_prefix(&bytes) else { continue };
        let is_whole = header.magic == KeySlotHeader::MAGIC && header.store_id == *store_id;
        if is_whole && Certificate::verify(&header.certificate, store_id).is_ok() {
            return Ok(Some(header.certificate));
        }
    }
    Ok(None)
}
