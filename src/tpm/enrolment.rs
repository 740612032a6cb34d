//! Giving a store's passphrase to the TPM, with a key that approves other starts of the machine, and a key of the TPM that says
//! whose store it is.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use blocktree_engine::Store;
use blocktree_engine::attestation::NodeStatement;
use blocktree_engine::crypto::{Approver, Secret};
use blocktree_engine::device::peek_volume;
use blocktree_engine::identity::{Approval, Approvals, TpmFile};
use blocktree_engine::node_of_key_slot;

use super::{PcrValues, Tpm};
use crate::private_file;

/// What the approver is derived for, from a store's owner key.
pub(crate) const APPROVER_CONTEXT: &str = "blocktree TPM approver v1";

/// Has the TPM keep what opens a store, shows that it gives it back, and makes the file.
pub(crate) fn enroll(
    tpm: &mut Tpm,
    file: &Path,
    secret: &[u8],
    pcrs: u32,
    pin: Option<&[u8]>,
    store: &Store,
) -> anyhow::Result<()> {
    let approver = approver_of(store)?;
    let approvals = match pcrs {
        0 => None,
        _ => {
            let approver = Approver::from_secret(&approver);
            let mut approvals = Approvals { approver: *approver.public(), signed: Vec::new() };
            approve(tpm, pcrs, &PcrValues::new(), &approver, &mut approvals)?;
            Some(approvals)
        }
    };
    let made = TpmFile { sealed: tpm.seal(secret, pcrs, pin, approvals)?, node: state(tpm, store)? };
    let back = tpm.unseal(&made.sealed, pin.unwrap_or_default());
    if back.context("the TPM does not give back what it was given")?.as_slice() != secret {
        bail!("the TPM gives back something else than it was given");
    }
    private_file::write_new(file, &made.to_bytes())
}

/// The secret from which a store's approver follows.
pub(crate) fn approver_of(store: &Store) -> anyhow::Result<Secret> {
    store.derived_key(APPROVER_CONTEXT).ok_or_else(|| anyhow!("the passphrase gives no owner key"))
}

/// Has a new key of the TPM say who the node is that opened the store, and the node say that this is its key.
fn state(tpm: &mut Tpm, store: &Store) -> anyhow::Result<NodeStatement> {
    let (store_id, node) = (store.store_id(), store.holder());
    let (key, key_signature) = tpm.sign_once(&NodeStatement::message(&store_id, &node))?;
    let node_signature = store.sign(&NodeStatement::counter_hash(&store_id, &key.public));
    NodeStatement::new(store_id, node, key, key_signature, node_signature)
        .context("the TPM made another key than it was asked for")
}

/// Refuses what the TPM keeps in a file if that is about another node than the one of the store.
pub(crate) fn refuse_other_node(path: &Path, file: &TpmFile, store: &Path) -> anyhow::Result<()> {
    // Where there is no store, the passphrase is for something else, such as the file of a principal.
    let Ok(device) = peek_volume(store) else { return Ok(()) };
    let found = node_of_key_slot(&device, &file.node.store_id).context("cannot read the key slot")?;
    if found.is_none_or(|certificate| certificate.subject != file.node.node.to_bytes()) {
        bail!(
            "{} was made for another store than {}, or before the store got another node; make a new one with \
             `blocktree tpm enroll`",
            path.display(),
            store.display()
        );
    }
    Ok(())
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
