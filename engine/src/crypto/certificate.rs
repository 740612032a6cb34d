//! Writecaps: signed certificates from one principal to another, chains of them, and their end.
//!
//! Key types, by how far they are believed: bytes may say anything; a [`Certificate`] was signed by who it says; a
//! [`Chain`] leads from the root principal, link by link, to a subject, at one moment.

use zerocopy::IntoBytes;

use super::{Hash, Principal, PrincipalId, PublicKeys, tagged_hash, verify};
use crate::format::{BlockId, CertificateBytes, RevocationBytes};
use crate::limits::CHAIN_MAX;

/// What a certificate allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights(pub u32);

impl Rights {
    pub const READ: Self = Self(1);
    pub const WRITE: Self = Self(2);
    pub const PASS_ON: Self = Self(4);
    pub const ALL: Self = Self(7);

    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Why a certificate, or a chain of them, does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("the writecap has an unknown version")]
    Version,
    #[error("the writecap is for another store")]
    Store,
    #[error("the writecap was issued by somebody else")]
    Issuer,
    #[error("the writecap's signature is wrong")]
    Signature,
    #[error("the writecap is not valid at this time")]
    Time,
    #[error("the writecap's issuer could not pass it on")]
    NotPassedOn,
    #[error("the writecap allows more than its issuer may")]
    Wider,
    #[error("the writecap is for a block that its issuer has no right to")]
    Elsewhere,
    #[error("the writecap was revoked")]
    Revoked,
    #[error("the chain of writecaps is longer than {CHAIN_MAX}")]
    TooLong,
    #[error("the chain of writecaps comes back to where it was")]
    Loop,
    #[error("the writecap stands in another's place")]
    Misplaced,
    #[error("there is no such writecap")]
    Missing,
}

/// What is to be certified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub store_id: [u8; 16],
    pub subject: PublicKeys,
    /// The block at the top of what may be changed.
    pub block: BlockId,
    pub rights: Rights,
    /// Seconds since 1970; `u64::MAX` where it does not end.
    pub not_before: u64,
    pub expires: u64,
    pub serial: u64,
}

/// A certificate that its issuer signed. Whether the issuer had any right to is another matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate(CertificateBytes);

impl Certificate {
    /// Signs what `terms` say.
    pub fn issue(issuer: &Principal, terms: &Terms) -> Self {
        let mut bytes = CertificateBytes {
            version: 1.into(),
            rights: terms.rights.0.into(),
            block: terms.block.into(),
            not_before: terms.not_before.into(),
            expires: terms.expires.into(),
            serial: terms.serial.into(),
            store_id: terms.store_id,
            subject: terms.subject.to_bytes(),
            issuer: issuer.public().to_bytes(),
            signature: [0; 64],
        };
        bytes.signature = issuer.sign(&certificate_hash(&bytes));
        Self(bytes)
    }

    /// Believes that the issuer that `bytes` name signed them, for this store.
    pub fn verify(bytes: &CertificateBytes, store_id: &[u8; 16]) -> Result<Self, CertificateError> {
        if bytes.version.get() != 1 {
            return Err(CertificateError::Version);
        }
        if bytes.store_id != *store_id {
            return Err(CertificateError::Store);
        }
        let issuer = PublicKeys::from_bytes(&bytes.issuer);
        if !verify(&issuer.signing, &certificate_hash(bytes), &bytes.signature) {
            return Err(CertificateError::Signature);
        }
        Ok(Self(*bytes))
    }

    pub fn bytes(&self) -> &CertificateBytes {
        &self.0
    }

    pub fn subject(&self) -> PublicKeys {
        PublicKeys::from_bytes(&self.0.subject)
    }

    pub fn issuer(&self) -> PublicKeys {
        PublicKeys::from_bytes(&self.0.issuer)
    }

    pub fn block(&self) -> BlockId {
        self.0.block.get()
    }

    pub fn rights(&self) -> Rights {
        Rights(self.0.rights.get())
    }

    pub fn serial(&self) -> u64 {
        self.0.serial.get()
    }

    pub fn not_before(&self) -> u64 {
        self.0.not_before.get()
    }

    pub fn expires(&self) -> u64 {
        self.0.expires.get()
    }

    /// Whether it holds at `seconds`.
    pub fn holds_at(&self, seconds: u64) -> bool {
        (self.not_before()..self.expires()).contains(&seconds)
    }

    /// Whether `issuer` could give this: never more than it has itself. Which block is above which, `is_within` says.
    fn is_given_by(
        &self,
        issuer: &Self,
        is_within: &mut dyn FnMut(BlockId, BlockId) -> bool,
    ) -> Result<(), CertificateError> {
        if issuer.subject() != self.issuer() {
            return Err(CertificateError::Issuer);
        }
        if !issuer.rights().contains(Rights::PASS_ON) {
            return Err(CertificateError::NotPassedOn);
        }
        let is_longer = self.expires() > issuer.expires() || self.not_before() < issuer.not_before();
        if is_longer || !issuer.rights().contains(self.rights()) {
            return Err(CertificateError::Wider);
        }
        if !is_within(self.block(), issuer.block()) {
            return Err(CertificateError::Elsewhere);
        }
        Ok(())
    }
}

/// Certificates from a subject up to the root principal, all of which hold at the same moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain(Vec<Certificate>);

impl Chain {
    /// Believes `links`, the subject's own first, if the last was issued by the principal `root` and each other by the
    /// subject of the next. `is_within(block, above)` says whether a block is another or below it.
    pub fn verify(
        links: &[Certificate],
        root: &PrincipalId,
        seconds: u64,
        is_within: &mut dyn FnMut(BlockId, BlockId) -> bool,
    ) -> Result<Self, CertificateError> {
        let (Some(_), Some(last)) = (links.first(), links.last()) else {
            return Err(CertificateError::Missing);
        };
        if links.len() > CHAIN_MAX {
            return Err(CertificateError::TooLong);
        }
        let subjects = |at: usize| links[..at].iter().map(Certificate::subject);
        for (at, link) in links.iter().enumerate() {
            if subjects(at).any(|subject| subject == link.subject()) || link.subject() == link.issuer() {
                return Err(CertificateError::Loop);
            }
            if !link.holds_at(seconds) {
                return Err(CertificateError::Time);
            }
        }
        for pair in links.windows(2) {
            pair[0].is_given_by(&pair[1], is_within)?;
        }
        if last.issuer().id() != *root {
            return Err(CertificateError::Issuer);
        }
        Ok(Self(links.to_vec()))
    }

    /// The links, the subject's own first.
    pub fn links(&self) -> &[Certificate] {
        &self.0
    }

    /// The subject's own.
    pub fn own(&self) -> &Certificate {
        &self.0[0]
    }
}

/// The end of a writecap, signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation(RevocationBytes);

impl Revocation {
    /// Ends the writecap with this serial behind the record `seq`.
    pub fn issue(issuer: &Principal, store_id: [u8; 16], serial: u64, seq: u64) -> Self {
        let mut bytes = RevocationBytes {
            version: 1.into(),
            reserved: 0.into(),
            serial: serial.into(),
            seq: seq.into(),
            store_id,
            issuer: issuer.public().to_bytes(),
            signature: [0; 64],
        };
        bytes.signature = issuer.sign(&revocation_hash(&bytes));
        Self(bytes)
    }

    /// Believes that the issuer that `bytes` name signed them, for this store.
    pub fn verify(bytes: &RevocationBytes, store_id: &[u8; 16]) -> Result<Self, CertificateError> {
        if bytes.version.get() != 1 {
            return Err(CertificateError::Version);
        }
        if bytes.store_id != *store_id {
            return Err(CertificateError::Store);
        }
        let issuer = PublicKeys::from_bytes(&bytes.issuer);
        if !verify(&issuer.signing, &revocation_hash(bytes), &bytes.signature) {
            return Err(CertificateError::Signature);
        }
        Ok(Self(*bytes))
    }

    pub fn bytes(&self) -> &RevocationBytes {
        &self.0
    }

    pub fn serial(&self) -> u64 {
        self.0.serial.get()
    }

    pub fn seq(&self) -> u64 {
        self.0.seq.get()
    }

    pub fn issuer(&self) -> PublicKeys {
        PublicKeys::from_bytes(&self.0.issuer)
    }
}

fn certificate_hash(bytes: &CertificateBytes) -> Hash {
    let all = bytes.as_bytes();
    tagged_hash("blocktree writecap v1", &[&all[..all.len() - 64]])
}

fn revocation_hash(bytes: &RevocationBytes) -> Hash {
    let all = bytes.as_bytes();
    tagged_hash("blocktree revocation v1", &[&all[..all.len() - 64]])
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: [u8; 16] = [3; 16];

    fn terms(subject: &Principal, rights: Rights, block: BlockId) -> Terms {
        let (not_before, expires, serial) = (100, 1000, 1);
        Terms { store_id: STORE, subject: subject.public(), block, rights, not_before, expires, serial }
    }

    /// Blocks are numbers here, and a block is within all those that divide it.
    fn verify_links(
        links: &[Certificate],
        root: &Principal,
        seconds: u64,
    ) -> Result<Chain, CertificateError> {
        Chain::verify(links, &root.public().id(), seconds, &mut |block, above| block % above == 0)
    }

    #[test]
    fn a_chain_counts_only_as_far_as_each_link_may_give() {
        let [root, a, b, c] = [(); 4].map(|()| Principal::generate());
        let first = Certificate::issue(&root, &terms(&a, Rights::ALL, 2));
        let second = Certificate::issue(&a, &terms(&b, Rights::ALL, 6));
        let third = Certificate::issue(&b, &terms(&c, Rights::WRITE, 12));
        let chain = verify_links(&[third, second, first], &root, 500).unwrap();
        assert_eq!((chain.own(), chain.links().len()), (&third, 3));
        let fails = |links: &[Certificate], seconds, error| {
            assert_eq!(verify_links(links, &root, seconds), Err(error));
        };
        for seconds in [0, 99, 1000, u64::MAX] {
            fails(&[third, second, first], seconds, CertificateError::Time);
        }
        fails(&[], 500, CertificateError::Missing);
        fails(&[third, first], 500, CertificateError::Issuer);
        fails(&[third, second], 500, CertificateError::Issuer);
        fails(&[third], 500, CertificateError::Issuer);
        // Each of them more than its issuer has.
        let wide = Certificate::issue(&a, &terms(&b, Rights::ALL, 3));
        fails(&[wide, first], 500, CertificateError::Elsewhere);
        let longer = Terms { expires: 1001, ..terms(&b, Rights::WRITE, 6) };
        fails(&[Certificate::issue(&a, &longer), first], 500, CertificateError::Wider);
        let earlier = Terms { not_before: 99, ..terms(&b, Rights::WRITE, 6) };
        fails(&[Certificate::issue(&a, &earlier), first], 500, CertificateError::Wider);
        let less = Certificate::issue(&root, &terms(&a, Rights(Rights::WRITE.0 | Rights::PASS_ON.0), 2));
        fails(&[second, less], 500, CertificateError::Wider);
        let mere = Certificate::issue(&root, &terms(&a, Rights::WRITE, 2));
        fails(
            &[Certificate::issue(&a, &terms(&b, Rights::WRITE, 2)), mere],
            500,
            CertificateError::NotPassedOn,
        );
    }

    #[test]
    fn chains_that_loop_or_do_not_end_are_refused() {
        let [root, a, b] = [(); 3].map(|()| Principal::generate());
        let own = Certificate::issue(&a, &terms(&a, Rights::ALL, 1));
        let verify = |links: &[Certificate]| verify_links(links, &root, 500);
        assert_eq!(verify(&[own]), Err(CertificateError::Loop));
        let there = Certificate::issue(&a, &terms(&b, Rights::ALL, 1));
        let back = Certificate::issue(&b, &terms(&a, Rights::ALL, 1));
        let from_root = Certificate::issue(&root, &terms(&a, Rights::ALL, 1));
        assert_eq!(verify(&[back, there, from_root]), Err(CertificateError::Loop));
        let mut links = vec![from_root];
        let mut issuer = a;
        while links.len() <= CHAIN_MAX {
            let next = Principal::generate();
            links.insert(0, Certificate::issue(&issuer, &terms(&next, Rights::ALL, 1)));
            issuer = next;
        }
        assert_eq!(verify(&links), Err(CertificateError::TooLong));
        assert!(verify(&links[1..]).is_ok());
    }

    #[test]
    fn what_was_altered_or_is_for_another_store_does_not_verify() {
        let [root, a] = [(); 2].map(|()| Principal::generate());
        let good = *Certificate::issue(&root, &terms(&a, Rights::ALL, 1)).bytes();
        assert!(Certificate::verify(&good, &STORE).is_ok());
        assert_eq!(Certificate::verify(&good, &[4; 16]), Err(CertificateError::Store));
        let revocation = *Revocation::issue(&root, STORE, 7, 9).bytes();
        assert!(Revocation::verify(&revocation, &STORE).is_ok());
        for at in 0..size_of::<CertificateBytes>() {
            let mut bytes = good;
            bytes.as_mut_bytes()[at] ^= 1;
            assert!(Certificate::verify(&bytes, &STORE).is_err(), "byte {at}");
        }
        for at in 0..size_of::<RevocationBytes>() {
            let mut bytes = revocation;
            bytes.as_mut_bytes()[at] ^= 1;
            assert!(Revocation::verify(&bytes, &STORE).is_err(), "byte {at}");
        }
    }
}
