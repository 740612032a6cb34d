//! The keys of an open store: who opens it, and what that gives.
//!
//! A store is opened by a passphrase, through the key slot, or by a principal, through an access slot. Neither is
//! believed by itself: whose commits count follows from the root principal, in [`super::authors`].
//!
//! Invariant: where a block's key comes from is decided here and in [`super::readers`] alone.

use zeroize::Zeroizing;

use super::readers::Readcap;
use super::slots::MasterKeys;
use crate::crypto::{Certificate, Hash, Principal, PrincipalId, Secret, Unopenable, open_key};
use crate::error::Error;
use crate::format::{AccessSecrets, BlockHeader, BlockId, CertificateBytes, KeySlotHeader, KeySlotSecrets};

/// By what a store is opened.
#[derive(Debug, Clone, Copy)]
pub enum Credential<'a> {
    /// Opens the key slot.
    Passphrase(&'a [u8]),
    /// Opens the access slot that was made for this principal.
    Principal {
        holder: &'a Principal,
        /// The principal that the store must belong to. Without it, what the slot says is believed.
        root: Option<PrincipalId>,
    },
    /// Opens everything, for reading only: the root signs nothing but rights.
    Master(&'a MasterKeys),
}

/// What whoever opened a store may do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads and writes everything; signs superblocks.
    Owner,
    /// Writes and reads below some blocks.
    Writer,
    /// Reads below some blocks.
    Reader,
    /// Reads no block: checks, scrubs and copies.
    Keeper,
}

/// The keys of an open store.
pub(super) struct Keys {
    pub(super) store_id: [u8; 16],
    pub(super) structure: Secret,
    pub(super) root_principal: Hash,
    /// Wraps the key of every block; readers and keepers have none.
    pub(super) owner: Option<Secret>,
    /// Who opened the store, and signs what is written.
    pub(super) node: Principal,
    /// Its writecap for the whole store up to the root; empty where it has none that holds.
    pub(super) chain: Vec<Certificate>,
    /// What it may read without the owner key.
    pub(super) readcaps: Vec<Readcap>,
    /// What the key slot says of its node: worth no more than its signature.
    pub(super) slot_certificate: Option<CertificateBytes>,
}

impl Keys {
    pub(super) fn from_key_slot(header: &KeySlotHeader, secrets: &KeySlotSecrets) -> Self {
        Self {
            store_id: header.store_id,
            structure: Secret::new(secrets.structure_key),
            root_principal: secrets.root_principal,
            owner: Some(Secret::new(secrets.owner_key)),
            node: Principal::from_seeds(Zeroizing::new(secrets.node_seeds)),
            chain: Vec::new(),
            readcaps: Vec::new(),
            slot_certificate: Some(header.certificate),
        }
    }

    /// Those with which everything can be read, and the root's own signature.
    pub(super) fn from_master(master: &MasterKeys) -> Self {
        Self {
            store_id: master.store_id,
            structure: master.structure.clone(),
            root_principal: master.root.public().id(),
            owner: Some(master.owner.clone()),
            node: master.root.clone(),
            chain: Vec::new(),
            readcaps: Vec::new(),
            slot_certificate: None,
        }
    }

    pub(super) fn from_access_slot(store_id: [u8; 16], holder: &Principal, secrets: &AccessSecrets) -> Self {
        let has_owner_key = secrets.flags.get() & crate::format::ACCESS_OWNER != 0;
        Self {
            store_id,
            structure: Secret::new(secrets.structure_key),
            root_principal: secrets.root_principal,
            owner: has_owner_key.then(|| Secret::new(secrets.owner_key)),
            node: holder.clone(),
            chain: Vec::new(),
            readcaps: Vec::new(),
            slot_certificate: None,
        }
    }

    /// What wraps the keys of new blocks, and the readcap that it comes with (0: none).
    pub(super) fn wrapping_of_new(&self) -> Option<(Secret, u64)> {
        if let Some(owner) = &self.owner {
            return Some((owner.clone(), 0));
        }
        self.readcaps.iter().find_map(|cap| Some((cap.wrap_key.clone()?, cap.serial)))
    }

    /// What seals the notes of who writes with a readcap: that one knows it, and the owner.
    pub(super) fn notes_key(&self, readcap: u64) -> Option<Secret> {
        let wrap_key = match &self.owner {
            Some(owner) => Some(wrap_key_of(owner, readcap)),
            None => self.readcaps.iter().find(|cap| cap.serial == readcap)?.wrap_key.clone(),
        };
        Some(wrap_key?.derive("blocktree writer notes v1"))
    }

    /// A block's key, out of its header.
    pub(super) fn open_header(&self, id: BlockId, header: &BlockHeader) -> Result<Secret, Unopenable> {
        let place = id.to_le_bytes();
        match (&self.owner, header.wrapped_by.get()) {
            (Some(owner), 0) => open_key(owner, &place, &header.owner_key),
            (Some(owner), serial) => open_key(&wrap_key_of(owner, serial), &place, &header.owner_key),
            // What this holder made.
            (None, serial) => {
                let own = self.readcaps.iter().filter(|cap| cap.serial == serial);
                let wrap = own.filter_map(|cap| cap.wrap_key.as_ref()).next().ok_or(Unopenable)?;
                open_key(wrap, &place, &header.owner_key)
            }
        }
    }

    /// What to say of a block whose header does not open: to the owner, `damage`.
    pub(super) fn why_closed(&self, damage: Error) -> Error {
        if self.owner.is_some() { damage } else { Error::NoKey }
    }

    pub(super) fn role(&self) -> Role {
        match (&self.owner, self.readcaps.is_empty()) {
            (Some(_), _) => Role::Owner,
            (None, true) => Role::Keeper,
            (None, false) if self.readcaps.iter().any(|cap| cap.wrap_key.is_some()) => Role::Writer,
            (None, false) => Role::Reader,
        }
    }

    /// Until when the writecap holds, in nanoseconds since 1970.
    pub(super) fn expires_ns(&self) -> u64 {
        let expires = self.chain.iter().map(Certificate::expires).min().unwrap_or(u64::MAX);
        expires.saturating_mul(1_000_000_000)
    }

    /// The chain as superblocks show it.
    pub(super) fn chain_bytes<const N: usize>(&self) -> [CertificateBytes; N] {
        let mut links = self.chain.iter().map(|link| *link.bytes());
        std::array::from_fn(|_| links.next().unwrap_or_else(zerocopy::FromZeros::new_zeroed))
    }
}

/// What the holder of a readcap wraps the keys of its new blocks with: the owner can tell it, nobody else.
pub(super) fn wrap_key_of(owner: &Secret, serial: u64) -> Secret {
    let base = owner.derive("blocktree writer wrap v1");
    Secret::new(*blake3::keyed_hash(base.bytes(), &serial.to_le_bytes()).as_bytes())
}

impl super::Core {
    /// Whether a repair may write: it changes headers and signs a superblock.
    pub(super) fn may_repair(&mut self) -> bool {
        let sealer = self.sealer.get_mut();
        let now_ns = super::now_ns().max(sealer.time_ns);
        let at = super::authors::Moment { seconds: now_ns / 1_000_000_000, seq: sealer.seq + 1 };
        let chain = self.authors.get_mut().whole_store(&self.keys.node.public().signing, at);
        match chain {
            Ok(chain) if self.keys.owner.is_some() => {
                self.keys.chain = chain.links().to_vec();
                true
            }
            _ => false,
        }
    }
}
