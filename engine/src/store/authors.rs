//! Whose commits count: the writecaps that a store knows, and their ends.
//!
//! Anything may be added: a certificate that was signed by who it says is worth nothing until a chain of them leads
//! from the root principal to an author. So it does no harm that whoever writes items can write these.

use std::collections::{BTreeMap, HashMap};

use super::WHOLE_STORE;
use crate::crypto::{
    Certificate, CertificateError, Chain, PrincipalId, PublicKeys, Revocation, Rights, hexadecimal,
};
use crate::format::{BlockId, CertificateBytes, ItemKind, Key, RevocationBytes, SYSTEM_BLOCK};
use crate::limits::CHAIN_MAX;
use zerocopy::FromBytes;

/// How many certificates are looked at for one chain: more than honest stores have.
const STEPS_MAX: usize = 4096;

/// The writecaps that a store knows.
#[derive(Debug, Clone)]
pub(super) struct Authors {
    store_id: [u8; 16],
    root: PrincipalId,
    certificates: BTreeMap<u64, Certificate>,
    by_signing_key: HashMap<[u8; 32], Vec<u64>>,
    /// The last record for which a writecap counts, as each issuer says.
    revocations: BTreeMap<u64, Vec<Revocation>>,
    /// No part of the index with writecaps was unreadable.
    is_complete: bool,
}

/// When an author is asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) seconds: u64,
    pub(super) seq: u64,
}

impl Authors {
    pub(super) fn new(store_id: [u8; 16], root: PrincipalId) -> Self {
        Self {
            store_id,
            root,
            certificates: BTreeMap::new(),
            by_signing_key: HashMap::new(),
            revocations: BTreeMap::new(),
            is_complete: true,
        }
    }

    pub(super) fn set_complete(&mut self, is_complete: bool) {
        self.is_complete = is_complete;
    }

    /// Where its items are in the index.
    pub(super) fn ranges() -> [(Key, Key); 2] {
        [ItemKind::WRITECAP, ItemKind::REVOCATION]
            .map(|kind| (Key::new(SYSTEM_BLOCK, kind, 0), Key::new(SYSTEM_BLOCK, kind, u64::MAX)))
    }

    /// Takes note of an item, if it is one that matters here.
    pub(super) fn note(&mut self, key: &Key, value: &[u8]) -> Result<(), CertificateError> {
        match (key.block, key.kind) {
            (SYSTEM_BLOCK, ItemKind::WRITECAP) => {
                let bytes =
                    CertificateBytes::read_from_bytes(value).map_err(|_| CertificateError::Version)?;
                // At another's place it would keep that one's serial.
                if bytes.serial.get() != key.offset {
                    return Err(CertificateError::Misplaced);
                }
                self.add(&bytes)
            }
            (SYSTEM_BLOCK, ItemKind::REVOCATION) => {
                let bytes = RevocationBytes::read_from_bytes(value).map_err(|_| CertificateError::Version)?;
                if bytes.serial.get() != key.offset {
                    return Err(CertificateError::Misplaced);
                }
                let revocation = Revocation::verify(&bytes, &self.store_id)?;
                self.revocations.entry(revocation.serial()).or_default().push(revocation);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Takes note of a certificate.
    pub(super) fn add(&mut self, bytes: &CertificateBytes) -> Result<(), CertificateError> {
        let certificate = Certificate::verify(bytes, &self.store_id)?;
        let serial = certificate.serial();
        // Whoever is first keeps the serial: another one with it is nobody's.
        if self.certificates.contains_key(&serial) {
            return Ok(());
        }
        self.by_signing_key.entry(certificate.subject().signing).or_default().push(serial);
        self.certificates.insert(serial, certificate);
        Ok(())
    }

    pub(super) fn get(&self, serial: u64) -> Option<&Certificate> {
        self.certificates.get(&serial)
    }

    /// All of them, and for which record each counts last, if it was revoked.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Certificate, Option<u64>)> {
        self.certificates.values().map(|certificate| (certificate, self.revoked_at(certificate)))
    }

    /// The last record for which a certificate counts, if there is an end: the root may set one, and who issued it.
    pub(super) fn revoked_at(&self, certificate: &Certificate) -> Option<u64> {
        let ends = self.revocations.get(&certificate.serial())?;
        let may = |issuer: PublicKeys| issuer == certificate.issuer() || issuer.id() == self.root;
        ends.iter().filter(|end| may(end.issuer())).map(Revocation::seq).min()
    }

    /// Whether no part of the index with writecaps was unreadable.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Chains that let the author write something at a moment, whatever is below what: who believes one has to look at
    /// that, and at what was written.
    pub(super) fn parts(&self, signing: &[u8; 32], at: Moment) -> Result<Vec<Chain>, CertificateError> {
        self.chains(signing, at, false, &mut |_, _| true)
    }

    /// Whether the author may say of records that they are durable: whoever may write anything, and, where a writecap may
    /// have been lost, everybody.
    pub(super) fn may_testify(&self, signing: &[u8; 32], at: Moment) -> bool {
        !self.is_complete || self.parts(signing, at).is_ok()
    }

    /// Whether it has, or may have lost, a certificate for the author, good or bad.
    pub(super) fn may_know(&self, signing: &[u8; 32]) -> bool {
        !self.is_complete || self.by_signing_key.contains_key(signing)
    }

    /// A chain that lets the author write the whole store at a moment.
    pub(super) fn whole_store(&self, signing: &[u8; 32], at: Moment) -> Result<Chain, CertificateError> {
        let mut chains =
            self.chains(signing, at, true, &mut |block, above| above == WHOLE_STORE && block == WHOLE_STORE)?;
        chains.pop().ok_or(CertificateError::Missing)
    }

    /// The chain from one certificate to the root at a moment, whatever it allows.
    pub(super) fn chain_of(
        &self,
        certificate: &Certificate,
        at: Moment,
        is_within: &mut dyn FnMut(BlockId, BlockId) -> bool,
    ) -> Result<Chain, CertificateError> {
        let mut search = Search::new(self, at, is_within);
        search.visit(&mut vec![*certificate]);
        search.found.pop().ok_or(search.why)
    }

    fn chains(
        &self,
        signing: &[u8; 32],
        at: Moment,
        whole_store: bool,
        is_within: &mut dyn FnMut(BlockId, BlockId) -> bool,
    ) -> Result<Vec<Chain>, CertificateError> {
        let mut search = Search::new(self, at, is_within);
        for certificate in self.of(signing) {
            let is_wanted = !whole_store || certificate.block() == WHOLE_STORE;
            if is_wanted && certificate.rights().contains(Rights::WRITE) {
                search.visit(&mut vec![*certificate]);
            }
        }
        if search.found.is_empty() { Err(search.why) } else { Ok(search.found) }
    }

    fn of(&self, signing: &[u8; 32]) -> impl Iterator<Item = &Certificate> {
        let serials = self.by_signing_key.get(signing).map_or(&[][..], Vec::as_slice);
        serials.iter().filter_map(|serial| self.certificates.get(serial))
    }
}

/// Looks for chains upwards from an author's own certificate.
struct Search<'a> {
    authors: &'a Authors,
    at: Moment,
    is_within: &'a mut dyn FnMut(BlockId, BlockId) -> bool,
    steps: usize,
    found: Vec<Chain>,
    /// Why the last one was none.
    why: CertificateError,
}

impl<'a> Search<'a> {
    fn new(authors: &'a Authors, at: Moment, is_within: &'a mut dyn FnMut(BlockId, BlockId) -> bool) -> Self {
        Self { authors, at, is_within, steps: 0, found: Vec::new(), why: CertificateError::Missing }
    }

    fn visit(&mut self, links: &mut Vec<Certificate>) {
        self.steps += 1;
        let last = links[links.len() - 1];
        if self.authors.revoked_at(&last).is_some_and(|seq| self.at.seq > seq) {
            self.why = CertificateError::Revoked;
            return;
        }
        if last.issuer().id() == self.authors.root {
            match Chain::verify(links, &self.authors.root, self.at.seconds, self.is_within) {
                Ok(chain) => self.found.push(chain),
                Err(why) => self.why = why,
            }
            return;
        }
        if links.len() >= CHAIN_MAX || self.steps >= STEPS_MAX {
            self.why = CertificateError::TooLong;
            return;
        }
        let issuers: Vec<Certificate> = self.authors.of(&last.issuer().signing).copied().collect();
        if issuers.is_empty() {
            self.why = CertificateError::Issuer;
        }
        for issuer in issuers {
            if issuer.subject() != last.issuer() {
                continue;
            }
            if links.iter().any(|link| link.subject() == issuer.subject()) {
                self.why = CertificateError::Loop;
                continue;
            }
            links.push(issuer);
            self.visit(links);
            links.pop();
        }
    }
}

/// A principal's signing key as people read it.
pub(super) fn describe_author(signing: &[u8; 32]) -> String {
    hexadecimal(&signing[..8])
}

#[cfg(test)]
mod tests;
