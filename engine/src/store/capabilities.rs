//! Giving and taking capabilities: what the owner's commands do.
//!
//! Who signs need not be who has the store open: [`Store::give`] and [`Store::end_writecap`] take what was signed elsewhere,
//! and believe no more of it than its signature and the chain behind that. Capabilities are items of the index, and durable
//! when these methods return.

use zerocopy::{FromBytes, IntoBytes};

use super::authors::Moment;
use super::batch::Change;
use super::keys::Role;
use super::layers::Found;
use super::readers::{ReadcapInfo, decode_readcap, seal_readcap};
use super::slots::new_serial;
use super::{Block, Core, Store, WHOLE_STORE, now_ns};
use crate::crypto::{Certificate, CertificateError, Principal, PublicKeys, Revocation, Rights, Terms};
use crate::error::{Error, Result};
use crate::format::{BlockHeader, BlockId, CertificateBytes, ItemKind, Key, RevocationBytes, SYSTEM_BLOCK};
use crate::limits::DEPTH_MAX;

/// Why a capability is not given or taken.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    #[error("the issuer may not give this")]
    NotGiven(#[from] CertificateError),
    #[error("there is no such capability")]
    NoSuch,
    #[error("only the root and who issued a writecap can revoke it")]
    NotTheIssuer,
    #[error("the store is open by this very writecap; open it by another to revoke it")]
    Own,
    #[error("there is a capability with this number already")]
    Exists,
    #[error("nobody gives such rights for such a block")]
    Senseless,
    #[error("it would end with a record that is not made yet")]
    Ahead,
    #[error(transparent)]
    Store(#[from] Error),
}

/// A writecap to be issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    pub subject: PublicKeys,
    pub block: BlockId,
    pub rights: Rights,
    /// Seconds since 1970; `u64::MAX` where it does not end.
    pub not_before: u64,
    pub expires: u64,
}

impl Grant {
    /// As a store's certificate says it, with a new serial.
    pub fn terms(&self, store_id: [u8; 16]) -> Terms {
        let Self { subject, block, rights, not_before, expires } = *self;
        Terms { store_id, subject, block, rights, not_before, expires, serial: new_serial() }
    }
}

/// A writecap that the store knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WritecapInfo {
    pub certificate: Certificate,
    /// The last record for which it counts, where it was revoked.
    pub revoked: Option<u64>,
    /// Why it does not count now, where it does not.
    pub refused: Option<CertificateError>,
}

impl Store {
    /// What whoever opened the store may do with it.
    pub fn role(&self) -> Role {
        self.core.keys.role()
    }

    /// Whether nothing can be changed.
    pub fn is_read_only(&self) -> bool {
        self.core.options.read_only
    }

    /// Who opened the store.
    pub fn holder(&self) -> PublicKeys {
        self.core.keys.node.public()
    }

    /// The signature of who opened the store, of a hash that nothing else has signed.
    pub fn sign(&self, hash: &[u8; 32]) -> [u8; 64] {
        self.core.keys.node.sign(hash)
    }

    /// The principal that every right comes from.
    pub fn root_principal(&self) -> [u8; 32] {
        self.core.keys.root_principal
    }

    pub fn store_id(&self) -> [u8; 16] {
        self.core.keys.store_id
    }

    /// The directory that a block belongs to, as the structure key shows it; `None` where there is no such block.
    pub fn home(&self, id: BlockId) -> Result<Option<BlockId>> {
        self.core.home_of(id)
    }

    /// Whether a block is another or below it, as far as the homes of blocks say.
    pub fn is_within(&self, block: BlockId, above: BlockId) -> Result<bool> {
        self.core.lies_within(block, above)
    }

    /// All writecaps, good and bad, by their serials.
    pub fn writecaps(&self) -> Vec<WritecapInfo> {
        let authors = self.core.authors.lock().clone();
        let at = self.core.next_moment();
        let info = |(certificate, revoked): (&Certificate, Option<u64>)| {
            let within = &mut |block, above| self.core.is_within(block, above);
            WritecapInfo {
                certificate: *certificate,
                revoked,
                refused: authors.chain_of(certificate, at, within).err(),
            }
        };
        authors.all().map(info).collect()
    }

    /// Issues a writecap, signed by `issuer` or else by whoever opened the store. Returns its serial.
    pub fn issue_writecap(
        &self,
        issuer: Option<&Principal>,
        grant: &Grant,
    ) -> std::result::Result<u64, CapabilityError> {
        let certificate =
            Certificate::issue(issuer.unwrap_or(&self.core.keys.node), &grant.terms(self.store_id()));
        self.add_writecap(&certificate)?;
        Ok(certificate.serial())
    }

    /// Gives what a certificate says, with the keys that go with it: a writecap for the whole store or below a block; the
    /// key of a block, where it says to read; or only the structure key, where it gives no right.
    ///
    /// A certificate that gives no right to write is not kept: the readcap has its serial.
    pub fn give(&self, bytes: &CertificateBytes) -> std::result::Result<(), CapabilityError> {
        let certificate = Certificate::verify(bytes, &self.core.keys.store_id)?;
        let (subject, block, rights) = (certificate.subject(), certificate.block(), certificate.rights());
        let writes_and_reads = Rights(Rights::READ.0 | Rights::WRITE.0);
        match (block == WHOLE_STORE, rights) {
            (true, Rights(0)) => {
                self.check_given(&certificate)?;
                Ok(self.grant_access(&subject, false)?)
            }
            (true, rights) if rights.contains(writes_and_reads) => {
                self.add_writecap(&certificate)?;
                Ok(self.grant_access(&subject, true)?)
            }
            (false, Rights::READ) => {
                self.check_given(&certificate)?;
                self.share_with(&certificate, certificate.serial(), false)
            }
            (false, rights) if rights == writes_and_reads => {
                // Before the key: who is refused the one has no use for the other.
                self.add_writecap(&certificate)?;
                self.share_with(&certificate, new_serial(), true)
            }
            _ => Err(CapabilityError::Senseless),
        }
    }

    fn add_writecap(&self, certificate: &Certificate) -> std::result::Result<(), CapabilityError> {
        self.check_given(certificate)?;
        self.put_capability(ItemKind::WRITECAP, certificate.serial(), certificate.bytes().as_bytes())?;
        Ok(self.core.authors.lock().add(certificate.bytes())?)
    }

    /// Whether a certificate that the store does not have yet leads to the root.
    fn check_given(&self, certificate: &Certificate) -> std::result::Result<(), CapabilityError> {
        let core = &self.core;
        if certificate.serial() == 0 {
            return Err(CapabilityError::Senseless);
        }
        if core.home_of(certificate.block())?.is_none() {
            return Err(CapabilityError::NoSuch);
        }
        let authors = core.authors.lock().clone();
        if authors.get(certificate.serial()).is_some() {
            return Err(CapabilityError::Exists);
        }
        let mut at = core.next_moment();
        // One that begins later must hold then.
        at.seconds = at.seconds.max(certificate.not_before());
        let within = &mut |block, above| core.is_within(block, above);
        authors.chain_of(certificate, at, within)?;
        Ok(())
    }

    /// Seals the key of a certificate's block to its subject.
    fn share_with(
        &self,
        certificate: &Certificate,
        serial: u64,
        writes: bool,
    ) -> std::result::Result<(), CapabilityError> {
        let subject = certificate.subject();
        let block = self.block(certificate.block())?.ok_or(CapabilityError::NoSuch)?;
        if self.readcaps()?.iter().any(|cap| cap.serial == serial) {
            return Err(CapabilityError::Exists);
        }
        if !self.access_list()?.iter().any(|slot| slot.principal == subject) {
            self.grant_access(&subject, false)?;
        }
        Ok(self.put_readcap(&block, &subject, serial, certificate.expires(), writes)?)
    }

    /// Ends a writecap with the records that were made so far, signed by `issuer` or else by whoever opened the store.
    pub fn revoke_writecap(
        &self,
        issuer: Option<&Principal>,
        serial: u64,
    ) -> std::result::Result<(), CapabilityError> {
        let issuer = issuer.unwrap_or(&self.core.keys.node);
        let revocation = Revocation::issue(issuer, self.core.keys.store_id, serial, self.newest_record());
        self.end_writecap(revocation.bytes())
    }

    /// The number of the newest record.
    pub fn newest_record(&self) -> u64 {
        self.core.layers.read().sealed_seq
    }

    /// Ends a writecap as a signed revocation says.
    pub fn end_writecap(&self, bytes: &RevocationBytes) -> std::result::Result<(), CapabilityError> {
        let core = &self.core;
        let revocation = Revocation::verify(bytes, &core.keys.store_id)?;
        let (serial, issuer) = (revocation.serial(), revocation.issuer());
        let certificate = *core.authors.lock().get(serial).ok_or(CapabilityError::NoSuch)?;
        if issuer != certificate.issuer() && issuer.id() != core.keys.root_principal {
            return Err(CapabilityError::NotTheIssuer);
        }
        if core.keys.chain.iter().any(|link| link.serial() == serial) {
            return Err(CapabilityError::Own);
        }
        if revocation.seq() > self.newest_record() {
            return Err(CapabilityError::Ahead);
        }
        self.put_capability(ItemKind::REVOCATION, serial, bytes.as_bytes())?;
        let key = Key::new(SYSTEM_BLOCK, ItemKind::REVOCATION, serial);
        Ok(core.authors.lock().note(&key, bytes.as_bytes())?)
    }

    /// All readcaps, by their serials.
    pub fn readcaps(&self) -> Result<Vec<ReadcapInfo>> {
        let items = self.core.system_items(ItemKind::READCAP)?;
        let decoded = items.iter().map(|(key, value)| decode_readcap(key, value));
        let corrupt = |_| Error::Corrupt { what: "readcap", sector: 0 };
        decoded.map(|bytes| Ok(ReadcapInfo::from(&bytes.map_err(corrupt)?))).collect()
    }

    /// Seals a block's key, and with it those of all below it, to a principal; with `writes`, also what it needs to
    /// make blocks there. Returns the readcap's serial. The recipient needs an access slot to get at it.
    pub fn share(&self, block: &Block, recipient: &PublicKeys, expires: u64, writes: bool) -> Result<u64> {
        let serial = new_serial();
        self.put_readcap(block, recipient, serial, expires, writes)?;
        Ok(serial)
    }

    fn put_readcap(
        &self,
        block: &Block,
        recipient: &PublicKeys,
        serial: u64,
        expires: u64,
        writes: bool,
    ) -> Result<()> {
        let (id, epoch, recipient) = (block.id(), block.epoch(), *recipient);
        let info = ReadcapInfo { serial, block: id, epoch, expires, recipient, writes };
        let sealed = match block.with_key(|key| seal_readcap(&self.core.keys, &info, key)) {
            Ok(sealed) => sealed,
            Err(_) if writes && self.core.keys.owner.is_none() => return Err(Error::NoKey),
            Err(_) => return Err(Error::BadPublicKey),
        };
        self.put_capability(ItemKind::READCAP, serial, sealed.as_bytes())
    }

    /// Takes a readcap out of the index. Its holder still knows the key that was in it, until that is replaced.
    pub fn remove_readcap(&self, serial: u64) -> Result<()> {
        let mut transaction = self.transaction();
        transaction.put_system(Key::new(SYSTEM_BLOCK, ItemKind::READCAP, serial), Change::Delete);
        self.sync(transaction.apply()?)
    }

    fn put_capability(&self, kind: ItemKind, serial: u64, value: &[u8]) -> Result<()> {
        let mut transaction = self.transaction();
        transaction.put_system(Key::new(SYSTEM_BLOCK, kind, serial), Change::Raw(value.into()));
        self.sync(transaction.apply()?)
    }
}

impl Core {
    /// When the next record will be made, at the earliest.
    pub(super) fn next_moment(&self) -> Moment {
        let sealer = self.sealer.lock();
        Moment { seconds: sealer.time_ns.max(now_ns()) / 1_000_000_000, seq: sealer.seq + 1 }
    }

    /// The directory that a block belongs to; `None` where there is no such block.
    pub(super) fn home_of(&self, id: BlockId) -> Result<Option<BlockId>> {
        match self.find(&Key::new(id, ItemKind::HEADER, 0))? {
            None => Ok(None),
            Some(Found::Change(Change::Attributes { home, .. })) => Ok(Some(home)),
            Some(Found::Change(_)) => Err(Error::Corrupt { what: "block header", sector: 0 }),
            Some(Found::Value(value)) => match BlockHeader::ref_from_prefix(&value) {
                Ok((header, _)) => Ok(Some(header.home.get())),
                Err(_) => Err(Error::Corrupt { what: "block header", sector: 0 }),
            },
        }
    }

    /// As [`Store::is_within`], where what cannot be told is no.
    pub(super) fn is_within(&self, block: BlockId, above: BlockId) -> bool {
        self.lies_within(block, above).unwrap_or(false)
    }

    fn lies_within(&self, block: BlockId, above: BlockId) -> Result<bool> {
        climb(block, |at| at == above || above == WHOLE_STORE, |at| self.home_of(at))
    }
}

/// Whether a block, or one above it, is one of those that are looked for; `home_of` says where each belongs.
pub(super) fn climb(
    block: BlockId,
    is_wanted: impl Fn(BlockId) -> bool,
    home_of: impl Fn(BlockId) -> Result<Option<BlockId>>,
) -> Result<bool> {
    let mut at = block;
    for _ in 0..DEPTH_MAX {
        if is_wanted(at) {
            return Ok(true);
        }
        match home_of(at)? {
            Some(home) if home != SYSTEM_BLOCK => at = home,
            _ => return Ok(false),
        }
    }
    Ok(false)
}
