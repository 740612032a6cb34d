//! A TPM's counter as the memory of an anchor: see `anchor/counted.rs` in the engine.

use blocktree_engine::anchor::{AnchorError, Counter, CounterPlace};
use blocktree_engine::crypto::Secret;

use super::{PCRS_USUAL, Tpm};

/// Counters of this machine's TPM.
#[derive(Debug)]
pub(crate) struct TpmCounter;

impl Counter for TpmCounter {
    fn create(&self) -> Result<CounterPlace, AnchorError> {
        let key = Secret::random();
        let make = || {
            let mut tpm = Tpm::open()?;
            let sealed = tpm.seal(key.bytes(), PCRS_USUAL, None, None)?;
            Ok(CounterPlace { index: tpm.create_counter(auth(&key).bytes())?, key: sealed })
        };
        make().map_err(refused)
    }

    fn key(&self, place: &CounterPlace) -> Result<Secret, AnchorError> {
        let opened = Tpm::open().and_then(|mut tpm| tpm.unseal(&place.key, &[])).map_err(refused)?;
        let key = opened.as_slice().try_into().map_err(|_| AnchorError::Damaged("its key is none"))?;
        Ok(Secret::new(key))
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

/// What the TPM asks for before it counts: nobody else on this machine shall make a store look old.
fn auth(key: &Secret) -> Secret {
    key.derive("blocktree counter authorisation v1")
}

fn refused(error: anyhow::Error) -> AnchorError {
    AnchorError::Counter(format!("{error:#}"))
}
