//! A TPM's counter as the memory of an anchor: see `anchor/counted.rs` in the engine.

use std::path::PathBuf;

use anyhow::Context as _;
use blocktree_engine::anchor::{AnchorError, Counter, CounterPlace};
use blocktree_engine::crypto::Secret;
use blocktree_engine::identity::Sealed;

use super::{PCRS_USUAL, Tpm, read};

/// Counters of this machine's TPM. It gives their keys out while the machine starts as it did, or as the passphrase asks for it.
#[derive(Debug)]
pub(crate) struct TpmCounter {
    /// The file from which the store's passphrase came, if that is the TPM's.
    pub(crate) enrolment: Option<PathBuf>,
}

impl Counter for TpmCounter {
    fn create(&self) -> Result<CounterPlace, AnchorError> {
        let key = Secret::random();
        let make = || {
            let mut tpm = Tpm::open()?;
            let sealed = match self.enrolled()? {
                Some(asked) => seal_as(&mut tpm, &key, asked)?,
                None => tpm.seal(key.bytes(), PCRS_USUAL, None, None)?,
            };
            Ok(CounterPlace { index: tpm.create_counter(auth(&key).bytes())?, key: sealed })
        };
        make().map_err(refused)
    }

    fn key(&self, place: &CounterPlace) -> Result<Secret, AnchorError> {
        let open = || {
            let mut sealed = place.key.clone();
            if let Some(asked) = self.enrolled()? {
                sealed.approve_as(&asked);
            }
            Tpm::open()?.unseal(&sealed, &[])
        };
        let opened = open().map_err(refused)?;
        let key = opened.as_slice().try_into().map_err(|_| AnchorError::Damaged("its key is none"))?;
        Ok(Secret::new(key))
    }

    fn renew(&self, place: &CounterPlace, key: &Secret) -> Result<CounterPlace, AnchorError> {
        let renew = || {
            let mut place = place.clone();
            if let Some(asked) = self.enrolled()?
                && !place.key.approve_as(&asked)
            {
                place.key = seal_as(&mut Tpm::open()?, key, asked)?;
            }
            Ok(place)
        };
        renew().map_err(refused)
    }

    fn value(&self, place: &CounterPlace, key: &Secret) -> Result<u64, AnchorError> {
        let read = |mut tpm: Tpm| tpm.read_counter(place.index, auth(key).bytes());
        Tpm::open().and_then(read).map_err(refused)
    }

    fn increment(&self, place: &CounterPlace, key: &Secret) -> Result<u64, AnchorError> {
        let increment = |mut tpm: Tpm| tpm.increment_counter(place.index, auth(key).bytes());
        Tpm::open().and_then(increment).map_err(refused)
    }

    fn remove(&self, place: &CounterPlace) -> Result<(), AnchorError> {
        Tpm::open().and_then(|mut tpm| tpm.remove_counter(place.index)).map_err(refused)
    }
}

impl TpmCounter {
    /// How the TPM keeps the passphrase. It gave that out, so what the file says of it is true.
    fn enrolled(&self) -> anyhow::Result<Option<Sealed>> {
        let read = |path| read(path).context("how its key is to be kept is not known");
        Ok(self.enrolment.as_deref().map(read).transpose()?.map(|file| file.sealed))
    }
}

/// Keeps a key as something else is kept, but for its PIN: whoever mounts has shown that one.
fn seal_as(tpm: &mut Tpm, key: &Secret, asked: Sealed) -> anyhow::Result<Sealed> {
    tpm.seal(key.bytes(), asked.pcrs, None, asked.approvals)
}

/// What the TPM asks for before it counts: nobody else on this machine shall make a store look old.
fn auth(key: &Secret) -> Secret {
    key.derive("blocktree counter authorisation v1")
}

fn refused(error: anyhow::Error) -> AnchorError {
    AnchorError::Counter(format!("{error:#}"))
}
