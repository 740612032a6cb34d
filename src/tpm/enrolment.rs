//! Giving a store's passphrase to the TPM, with a key that approves other starts of the machine.

use std::path::Path;

use anyhow::{Context as _, bail};
use blocktree_engine::crypto::{Approver, Secret};
use blocktree_engine::identity::{Approval, Approvals};

use super::{PcrValues, Tpm};
use crate::private_file;

/// What the approver is derived for, from a store's owner key.
pub(crate) const APPROVER_CONTEXT: &str = "blocktree TPM approver v1";

/// Has the TPM keep a secret, shows that it gives it back, and makes the file.
pub(crate) fn enroll(
    tpm: &mut Tpm,
    file: &Path,
    secret: &[u8],
    pcrs: u32,
    pin: Option<&[u8]>,
    approver: &Secret,
) -> anyhow::Result<()> {
    let approvals = match pcrs {
        0 => None,
        _ => {
            let approver = Approver::from_secret(approver);
            let mut approvals = Approvals { approver: *approver.public(), signed: Vec::new() };
            approve(tpm, pcrs, &PcrValues::new(), &approver, &mut approvals)?;
            Some(approvals)
        }
    };
    let sealed = tpm.seal(secret, pcrs, pin, approvals)?;
    let back = tpm.unseal(&sealed, pin.unwrap_or_default());
    if back.context("the TPM does not give back what it was given")?.as_slice() != secret {
        bail!("the TPM gives back something else than it was given");
    }
    private_file::write_new(file, &sealed.to_bytes())
}

/// Adds the values that the PCRs have, or are to have, to those that were approved.
pub(crate) fn approve(
    tpm: &mut Tpm,
    pcrs: u32,
    named: &PcrValues,
    approver: &Approver,
    approvals: &mut Approvals,
) -> anyhow::Result<()> {
    let policy = tpm.policy_of(pcrs, named).context("the TPM does not say how the machine started")?;
    approvals.add(Approval { policy, signature: approver.sign(&policy) });
    Ok(())
}
