//! Writecaps: signed certificates from one principal to another.

use zerocopy::IntoBytes;

use super::{Hash, Principal, PublicKeys, tagged_hash, verify};
use crate::format::{BlockId, CertificateBytes};

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

/// Why a certificate does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("the writecap has an unknown version")]
    Version,
    #[error("the writecap was issued by somebody else")]
    Issuer,
    #[error("the writecap's signature is wrong")]
    Signature,
    #[error("the writecap is not valid at this time")]
    Time,
}

/// A certificate whose signature was verified.
#[derive(Debug, Clone)]
pub struct Certificate(CertificateBytes);

impl Certificate {
    /// Lets `subject` do `rights` to `block` and all below it.
    pub fn issue(
        issuer: &Principal,
        subject: &PublicKeys,
        block: BlockId,
        rights: Rights,
    ) -> CertificateBytes {
        let mut bytes = CertificateBytes {
            version: 1.into(),
            rights: rights.0.into(),
            block: block.into(),
            not_before: 0.into(),
            expires: u64::MAX.into(),
            serial: 0.into(),
            subject: subject.to_bytes(),
            issuer: issuer.public().to_bytes(),
            signature: [0; 64],
        };
        bytes.signature = issuer.sign(&signed_hash(&bytes));
        bytes
    }

    /// Believes `bytes` if the principal with the id `issuer` signed them and they hold at `now` (seconds).
    pub fn verify(bytes: &CertificateBytes, issuer: &Hash, now: u64) -> Result<Self, CertificateError> {
        let public = PublicKeys::from_bytes(&bytes.issuer);
        if bytes.version.get() != 1 {
            return Err(CertificateError::Version);
        }
        if public.id() != *issuer {
            return Err(CertificateError::Issuer);
        }
        if !verify(&public.signing, &signed_hash(bytes), &bytes.signature) {
            return Err(CertificateError::Signature);
        }
        if now < bytes.not_before.get() || now >= bytes.expires.get() {
            return Err(CertificateError::Time);
        }
        Ok(Self(*bytes))
    }

    pub fn subject(&self) -> PublicKeys {
        PublicKeys::from_bytes(&self.0.subject)
    }

    pub fn block(&self) -> BlockId {
        self.0.block.get()
    }

    pub fn rights(&self) -> Rights {
        Rights(self.0.rights.get())
    }
}

fn signed_hash(bytes: &CertificateBytes) -> Hash {
    let all = bytes.as_bytes();
    tagged_hash("blocktree writecap v1", &[&all[..all.len() - 64]])
}
