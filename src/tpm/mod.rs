//! Secrets that a TPM keeps: it gives them out only on this machine, and only while what it measured of the machine's start
//! is as it was, or to who knows a PIN.
//!
//! `device` talks to the TPM, with the feature `tpm`. Without it, everything here says that this program has no support for
//! TPMs.

#[cfg(feature = "tpm")]
mod device;

use std::path::Path;

use anyhow::Context as _;
use blocktree_engine::identity::TpmFile;
use blocktree_engine::limits::SEALED_FILE_BYTES_MAX;
use zeroize::Zeroizing;

use crate::private_file;

#[cfg(feature = "tpm")]
pub(crate) use device::Tpm;

/// The longest PIN, in bytes: what a TPM's SHA-256 object takes.
pub(crate) const PIN_BYTES_MAX: usize = 32;
/// The longest secret, in bytes: what a TPM seals.
pub(crate) const SECRET_BYTES_MAX: usize = 128;

/// What a TPM says of itself.
pub(crate) struct Status {
    pub(crate) maker: String,
    /// It takes no PIN for now, because too many were wrong.
    pub(crate) is_locked: bool,
    /// Wrong PINs so far, and how many lock it.
    pub(crate) failures: u32,
    pub(crate) failures_max: u32,
}

/// The file of a sealed secret.
pub(crate) fn read(path: &Path) -> anyhow::Result<TpmFile> {
    let bytes = private_file::read(path, SEALED_FILE_BYTES_MAX)?;
    TpmFile::parse(&bytes).with_context(|| format!("{} is of no use", path.display()))
}

/// What the TPM kept in a file.
pub(crate) fn unseal(path: &Path, file: &TpmFile, pin: &[u8]) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut tpm = Tpm::open()?;
    tpm.unseal(file, pin).with_context(|| format!("the TPM does not open {}", path.display()))
}

/// A program without support for TPMs.
#[cfg(not(feature = "tpm"))]
mod none {
    use anyhow::bail;
    use blocktree_engine::identity::TpmFile;
    use zeroize::Zeroizing;

    use super::Status;

    /// Nobody has one.
    pub(crate) enum Tpm {}

    impl Tpm {
        pub(crate) fn open() -> anyhow::Result<Self> {
            bail!("this program was built without support for TPMs (`cargo build --features tpm`)")
        }

        pub(crate) fn status(&mut self) -> anyhow::Result<Status> {
            match *self {}
        }

        pub(crate) fn seal(&mut self, _: &[u8], _: u32, _: Option<&[u8]>) -> anyhow::Result<TpmFile> {
            match *self {}
        }

        pub(crate) fn unseal(&mut self, _: &TpmFile, _: &[u8]) -> anyhow::Result<Zeroizing<Vec<u8>>> {
            match *self {}
        }
    }
}

#[cfg(not(feature = "tpm"))]
pub(crate) use none::Tpm;
