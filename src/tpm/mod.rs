//! Secrets that a TPM keeps: it gives them out only on this machine, and only while what it measured of the machine's start
//! is as it was, or to who knows a PIN. And what it counts: `counter`.
//!
//! `device` talks to the TPM, with the feature `tpm`. Without it, everything here says that this program has no support for
//! TPMs.

mod counter;
#[cfg(feature = "tpm")]
mod device;
mod enrolment;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use blocktree_engine::anchor::CountedFile;
use blocktree_engine::identity::TpmFile;
use blocktree_engine::limits::SEALED_FILE_BYTES_MAX;
use zeroize::Zeroizing;

use crate::private_file;

pub(crate) use counter::TpmCounter;
#[cfg(feature = "tpm")]
pub(crate) use device::Tpm;
pub(crate) use enrolment::{APPROVER_CONTEXT, approve, approver_of, enroll, refuse_other_node};

/// PCR 7, the state of Secure Boot, which updates of a kernel leave alone.
pub(crate) const PCRS_USUAL: u32 = 1 << 7;

/// The longest PIN, in bytes: what a TPM's SHA-256 object takes.
pub(crate) const PIN_BYTES_MAX: usize = 32;
/// The longest secret, in bytes: what a TPM seals.
pub(crate) const SECRET_BYTES_MAX: usize = 128;

/// Values that PCRs of the SHA-256 bank are to have.
pub(crate) type PcrValues = BTreeMap<u32, [u8; 32]>;

/// What a TPM says of itself.
pub(crate) struct Status {
    pub(crate) maker: String,
    /// It takes no PIN for now, because too many were wrong.
    pub(crate) is_locked: bool,
    /// Wrong PINs so far, and how many lock it.
    pub(crate) failures: u32,
    pub(crate) failures_max: u32,
}

/// The file of a store's passphrase.
pub(crate) fn read(path: &Path) -> anyhow::Result<TpmFile> {
    let bytes = private_file::read(path, SEALED_FILE_BYTES_MAX)?;
    TpmFile::parse(&bytes).with_context(|| format!("{} is of no use", path.display()))
}

/// Has the TPM forget what it keeps beside a file, which is an anchor's counter if anything.
pub(crate) fn forget(path: &Path) -> anyhow::Result<()> {
    let bytes = private_file::read(path, SEALED_FILE_BYTES_MAX)?;
    match CountedFile::parse(&bytes) {
        Ok(file) => Tpm::open()?.remove_counter(file.counter.index),
        Err(_) => read(path).map(drop),
    }
}

/// What the TPM kept in a file.
pub(crate) fn unseal(path: &Path, file: &TpmFile, pin: &[u8]) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut tpm = Tpm::open()?;
    let what = || {
        format!(
            "the TPM does not open {} (use the passphrase, or see `blocktree tpm approve --help`)",
            path.display()
        )
    };
    tpm.check_node_key(&file.node.key).with_context(what)?;
    tpm.unseal(&file.sealed, pin).with_context(what)
}

/// A program without support for TPMs.
#[cfg(not(feature = "tpm"))]
mod none {
    use anyhow::bail;
    use blocktree_engine::attestation::{Answer, Challenge, NodeStatement, Request, StatementKey};
    use blocktree_engine::identity::{Approvals, Sealed};
    use zeroize::Zeroizing;

    use super::{PcrValues, Status};

    /// Nobody has one.
    pub(crate) enum Tpm {}

    impl Tpm {
        pub(crate) fn open() -> anyhow::Result<Self> {
            bail!("this program was built without support for TPMs (`cargo build --features tpm`)")
        }

        pub(crate) fn status(&mut self) -> anyhow::Result<Status> {
            match *self {}
        }

        pub(crate) fn seal(
            &mut self,
            _: &[u8],
            _: u32,
            _: Option<&[u8]>,
            _: Option<Approvals>,
        ) -> anyhow::Result<Sealed> {
            match *self {}
        }

        pub(crate) fn policy_of(&mut self, _: u32, _: &PcrValues) -> anyhow::Result<[u8; 32]> {
            match *self {}
        }

        pub(crate) fn unseal(&mut self, _: &Sealed, _: &[u8]) -> anyhow::Result<Zeroizing<Vec<u8>>> {
            match *self {}
        }

        pub(crate) fn sign_once(&mut self, _: &[u8]) -> anyhow::Result<(StatementKey, [u8; 64])> {
            match *self {}
        }

        pub(crate) fn check_node_key(&mut self, _: &StatementKey) -> anyhow::Result<()> {
            match *self {}
        }

        pub(crate) fn request_attestation(&mut self) -> anyhow::Result<Request> {
            match *self {}
        }

        pub(crate) fn answer(&mut self, _: &Challenge, _: &NodeStatement) -> anyhow::Result<Answer> {
            match *self {}
        }

        pub(crate) fn create_counter(&mut self, _: &[u8]) -> anyhow::Result<u32> {
            match *self {}
        }

        pub(crate) fn read_counter(&mut self, _: u32, _: &[u8]) -> anyhow::Result<u64> {
            match *self {}
        }

        pub(crate) fn increment_counter(&mut self, _: u32, _: &[u8]) -> anyhow::Result<u64> {
            match *self {}
        }

        pub(crate) fn remove_counter(&mut self, _: u32) -> anyhow::Result<()> {
            match *self {}
        }
    }
}

#[cfg(not(feature = "tpm"))]
pub(crate) use none::Tpm;
