//! Access slots: how a principal gets the structure key with nothing but a copy of the store and its own key.
//!
//! Nothing in them needs to be trusted: what one gives must then open what the root principal's signatures cover.
//!
//! Invariants:
//! 1. A sector of slots has two copies, written one after the other with a flush between: one is always whole.
//! 2. An item of the index says whose a slot is. A slot that none names is free, whatever it holds.

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::batch::Change;
use super::keys::Keys;
use super::open::{OpenError, read_sectors};
use super::{Core, Store};
use crate::crypto::{Hash, Principal, PrincipalId, PublicKeys, Purpose, open_sealed, seal_to, tagged_hash};
use crate::device::{Device, Write};
use crate::error::{Error, Result};
use crate::format::{
    ACCESS_MAGIC, ACCESS_OWNER, AccessBytes, AccessSecrets, AccessSector, AccessSlot, FORMAT_VERSION,
    ItemKind, Key, Layout, SYSTEM_BLOCK,
};
use crate::limits::{ACCESS_SECTORS, ACCESS_SLOTS};

const CONTEXT: &str = "blocktree access slot v1";

/// Who has an access slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessInfo {
    pub principal: PublicKeys,
    /// It holds the owner key: its holder reads everything.
    pub is_owner: bool,
}

/// One copy of a sector of slots; `None` where it is damaged, or was never written.
pub(super) fn read_copy(device: &dyn Device, sector: u64) -> std::io::Result<Option<AccessSector>> {
    if sector >= device.sectors() {
        return Ok(None);
    }
    let bytes = read_sectors(device, sector, 1)?;
    let decoded = AccessSector::decode(&bytes).ok();
    Ok(decoded.filter(|sector| sector.hash == access_hash(sector)))
}

fn access_hash(sector: &AccessSector) -> Hash {
    tagged_hash("blocktree access slots v1", &[sector.hashed_bytes()])
}

/// What every slot gives that was made for `holder`, in any place where one may be.
pub(super) fn open_slots(
    device: &dyn Device,
    holder: &Principal,
    root: Option<PrincipalId>,
) -> std::result::Result<Vec<Keys>, OpenError> {
    let mut tried: Vec<AccessSector> = Vec::new();
    let mut found = Vec::new();
    let mut is_other_root = false;
    let mut places: Vec<u64> = Layout::candidates().flat_map(|layout| layout.access()).flatten().collect();
    places.sort_unstable();
    places.dedup();
    for place in places {
        let Some(sector) = read_copy(device, place).map_err(OpenError::Read)? else { continue };
        if tried.contains(&sector) {
            continue;
        }
        for slot in sector.slots.iter().filter(|slot| !slot.is_free()) {
            let Some(secrets) = open_slot(&sector.store_id, holder, slot) else { continue };
            if root.is_some_and(|root| root != secrets.root_principal) {
                is_other_root = true;
                continue;
            }
            found.push(Keys::from_access_slot(sector.store_id, holder, &secrets));
        }
        tried.push(sector);
    }
    match (found.is_empty(), is_other_root, tried.is_empty()) {
        (false, ..) => Ok(found),
        (true, true, _) => Err(OpenError::OtherRoot),
        (true, false, true) if !super::open::looks_like_a_store(device)? => Err(OpenError::NotAStore),
        (true, false, _) => Err(OpenError::NoAccess),
    }
}

fn purpose(store_id: &[u8; 16]) -> Purpose<'_> {
    Purpose { context: CONTEXT, store_id, place: b"" }
}

fn open_slot(store_id: &[u8; 16], holder: &Principal, slot: &AccessSlot) -> Option<AccessSecrets> {
    let plain = open_sealed(holder, &purpose(store_id), &slot.sealed).ok()?;
    AccessSecrets::read_from_bytes(&plain).ok()
}

/// Whose each slot is, as the index says.
pub(crate) fn decode_access(key: &Key, value: &[u8]) -> Option<AccessBytes> {
    let bytes = AccessBytes::read_from_bytes(value).ok()?;
    let is_possible = key.offset < ACCESS_SECTORS * ACCESS_SLOTS as u64;
    (is_possible && bytes.flags.get() & !ACCESS_OWNER == 0).then_some(bytes)
}

impl Store {
    /// Who has an access slot.
    pub fn access_list(&self) -> Result<Vec<AccessInfo>> {
        let slots = self.core.access_slots()?;
        Ok(slots
            .into_iter()
            .map(|(_, bytes)| AccessInfo {
                principal: PublicKeys::from_bytes(&bytes.principal),
                is_owner: bytes.flags.get() & ACCESS_OWNER != 0,
            })
            .collect())
    }

    /// Lets a principal have the structure key, and with `is_owner` the owner key too. Who has a slot already keeps
    /// one, with what it is given now. Durable when it returns.
    pub fn grant_access(&self, principal: &PublicKeys, is_owner: bool) -> Result<()> {
        let _one = self.core.granting.lock();
        let slots = self.core.access_slots()?;
        let mine = slots.iter().find(|(_, bytes)| bytes.principal == principal.to_bytes());
        let free = |number: &u64| slots.iter().all(|(taken, _)| taken != number);
        let number = match mine {
            Some((number, _)) => *number,
            None => (0..ACCESS_SECTORS * ACCESS_SLOTS as u64).find(free).ok_or(Error::NoAccessSlot)?,
        };
        let keys = &self.core.keys;
        let owner = if is_owner { *keys.owner.as_ref().ok_or(Error::NoKey)?.bytes() } else { [0; 32] };
        let flags = if is_owner { ACCESS_OWNER } else { 0 };
        let secrets = AccessSecrets {
            structure_key: *keys.structure.bytes(),
            owner_key: owner,
            root_principal: keys.root_principal,
            flags: flags.into(),
            reserved: 0.into(),
        };
        let sealed = seal_to(principal, &purpose(&keys.store_id), secrets.as_bytes());
        let sealed = sealed.map_err(|_| Error::BadPublicKey)?;
        let mut slot = AccessSlot::new_zeroed();
        slot.sealed.copy_from_slice(&sealed);
        self.core.write_slot(number, slot)?;
        let item = AccessBytes { principal: principal.to_bytes(), flags: flags.into(), reserved: 0.into() };
        let mut transaction = self.transaction();
        let key = Key::new(SYSTEM_BLOCK, ItemKind::ACCESS, number);
        transaction.put_system(key, Change::Raw(item.as_bytes().into()));
        self.sync(transaction.apply()?)
    }

    /// Takes a principal's access slot away. It still knows what it knew. Durable when it returns.
    pub fn revoke_access(&self, principal: &PublicKeys) -> Result<()> {
        let _one = self.core.granting.lock();
        for (number, bytes) in self.core.access_slots()? {
            if bytes.principal == principal.to_bytes() {
                self.core.write_slot(number, AccessSlot::new_zeroed())?;
                let mut transaction = self.transaction();
                transaction.put_system(Key::new(SYSTEM_BLOCK, ItemKind::ACCESS, number), Change::Delete);
                self.sync(transaction.apply()?)?;
            }
        }
        Ok(())
    }
}

impl Core {
    fn access_slots(&self) -> Result<Vec<(u64, AccessBytes)>> {
        let items = self.system_items(ItemKind::ACCESS)?;
        let decode = |(key, value): (Key, super::layers::Value)| {
            let bytes =
                decode_access(&key, &value).ok_or(Error::Corrupt { what: "access item", sector: 0 })?;
            Ok((key.offset, bytes))
        };
        items.into_iter().map(decode).collect()
    }

    /// Writes one slot into both copies of its sector.
    fn write_slot(&self, number: u64, slot: AccessSlot) -> Result<()> {
        self.check_writable()?;
        let (index, at) = (number / ACCESS_SLOTS as u64, number as usize % ACCESS_SLOTS);
        let places = self.layout.access().nth(index as usize).ok_or(Error::NoAccessSlot)?;
        let mut newest: Option<AccessSector> = None;
        for place in places {
            let copy = read_copy(&*self.device, place).map_err(Error::Read)?;
            let copy = copy.filter(|copy| copy.store_id == self.keys.store_id);
            newest = newest.into_iter().chain(copy).max_by_key(|copy| copy.generation.get());
        }
        let mut sector = newest.unwrap_or_else(|| {
            let mut sector = AccessSector::new_zeroed();
            (sector.magic, sector.version) = (ACCESS_MAGIC, FORMAT_VERSION.into());
            sector.store_id = self.keys.store_id;
            sector
        });
        sector.generation = (sector.generation.get().saturating_add(1)).into();
        sector.slots[at] = slot;
        sector.hash = access_hash(&sector);
        for place in places {
            let mut bytes = self.device.buffer(1);
            bytes.copy_from_slice(sector.as_bytes());
            self.write_and_wait(vec![Write { sector: place, bytes }])?;
            self.flush()?;
        }
        Ok(())
    }
}
