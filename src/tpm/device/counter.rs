//! Counters in the TPM's non-volatile memory (TPM 2.0 Library, part 1, "NV Counters").
//!
//! Invariant: nothing in that memory is touched that is not such a counter as is made here.

use anyhow::{Context as _, bail};
use blocktree_engine::crypto::random;
use tss_esapi::Context;
use tss_esapi::attributes::{NvIndexAttributes, NvIndexAttributesBuilder};
use tss_esapi::constants::NvIndexType;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::structures::{Auth, NvPublic};

use super::{Tpm, TpmResult, explain, kind, salted, wrong_value};

const COUNTER_BYTES: usize = 8;

impl Tpm {
    /// Makes a counter and says where. Whoever reads or increments it must show `auth`.
    pub(crate) fn create_counter(&mut self, auth: &[u8]) -> anyhow::Result<u32> {
        const TRIES_MAX: u32 = 8;
        for _ in 0..TRIES_MAX {
            let index = random_index();
            let place = NvIndexTpmHandle::new(index).map_err(explain)?;
            let given = Auth::try_from(auth.to_vec()).map_err(explain)?;
            let made = self.below_storage_key(|context, storage| {
                let public = counter(place)?;
                salted(context, storage, |context| {
                    context.nv_define_space(Provision::Owner, Some(given), public)
                })
            });
            match made {
                Ok(_) => {}
                Err(error) if kind(&error) == Some(Tss2ResponseCodeKind::NvDefined) => continue,
                Err(error) => return Err(explain(error)).context("the TPM makes no counter"),
            }
            // It has no value before that.
            return match self.increment_counter(index, auth) {
                Ok(_) => Ok(index),
                Err(error) => {
                    let _ = self.remove_counter(index);
                    Err(error)
                }
            };
        }
        bail!("the TPM makes no counter: all places that were tried are taken")
    }

    pub(crate) fn read_counter(&mut self, index: u32, auth: &[u8]) -> anyhow::Result<u64> {
        self.with_counter(index, auth, read)
    }

    pub(crate) fn increment_counter(&mut self, index: u32, auth: &[u8]) -> anyhow::Result<u64> {
        self.with_counter(index, auth, |context, counter| {
            context.nv_increment(NvAuth::NvIndex(counter), counter)?;
            read(context, counter)
        })
    }

    /// Frees its place; nothing where there is none.
    pub(crate) fn remove_counter(&mut self, index: u32) -> anyhow::Result<()> {
        let place = NvIndexTpmHandle::new(index).map_err(explain)?;
        let found = match find(&mut self.0, place) {
            Err(error) if kind(&error) == Some(Tss2ResponseCodeKind::Handle) => return Ok(()),
            found => found.map_err(explain)?,
        };
        let (public, _) = self.0.nv_read_public(found).map_err(explain)?;
        let ours = counter(place).map_err(explain)?;
        let is_ours =
            NvIndexAttributesBuilder::with_attributes(public.attributes()).with_written(false).build();
        if is_ours.map_err(explain)? != ours.attributes() || public.data_size() != COUNTER_BYTES {
            bail!("what the TPM keeps at {index:#x} is no counter of Blocktree's; it is left as it is");
        }
        let removed = self.below_storage_key(|context, storage| {
            salted(context, storage, |context| context.nv_undefine_space(Provision::Owner, found))
        });
        removed.map_err(explain).context("the TPM does not remove the counter")
    }

    fn with_counter<T>(
        &mut self,
        index: u32,
        auth: &[u8],
        work: impl FnOnce(&mut Context, NvIndexHandle) -> TpmResult<T>,
    ) -> anyhow::Result<T> {
        let place = NvIndexTpmHandle::new(index).map_err(explain)?;
        let auth = Auth::try_from(auth.to_vec()).map_err(explain)?;
        let worked = self.below_storage_key(|context, storage| {
            let counter = find(context, place)?;
            context.tr_set_auth(counter.into(), auth)?;
            salted(context, storage, |context| work(context, counter))
        });
        worked.map_err(|error| match kind(&error) {
            Some(Tss2ResponseCodeKind::Handle) => anyhow::anyhow!("the TPM has no such counter any more"),
            _ => explain(error),
        })
    }
}

fn find(context: &mut Context, place: NvIndexTpmHandle) -> TpmResult<NvIndexHandle> {
    let find = |context: &mut Context| context.tr_from_tpm_public(TpmHandle::NvIndex(place));
    context.execute_without_session(find).map(Into::into)
}

fn read(context: &mut Context, counter: NvIndexHandle) -> TpmResult<u64> {
    let bytes = context.nv_read(NvAuth::NvIndex(counter), counter, COUNTER_BYTES as u16, 0)?;
    Ok(u64::from_be_bytes(bytes.value().try_into().map_err(|_| wrong_value())?))
}

/// A place in what the TCG's registry of handles leaves to the owner.
fn random_index() -> u32 {
    const FIRST: u32 = 0x0180_0000;
    const COUNT: u32 = 0x0040_0000;
    FIRST + u32::from_le_bytes(random()) % COUNT
}

fn counter(place: NvIndexTpmHandle) -> TpmResult<NvPublic> {
    NvPublic::builder()
        .with_nv_index(place)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes()?)
        .with_data_area_size(COUNTER_BYTES)
        .build()
}

/// Guesses are hopeless, and shall not lock the TPM.
fn attributes() -> TpmResult<NvIndexAttributes> {
    NvIndexAttributesBuilder::new()
        .with_nv_index_type(NvIndexType::Counter)
        .with_auth_read(true)
        .with_auth_write(true)
        .with_no_da(true)
        .build()
}
