//! A node's key in the TPM: made there, and used once.
//!
//! Invariant: whoever would have the key sign must show an authorisation that was random and is kept nowhere. Without it, the key can
//! only be certified by other keys of the TPM.

use anyhow::Context as _;
use blocktree_engine::attestation::StatementKey;
use blocktree_engine::crypto::Secret;
use tss_esapi::Context;
use tss_esapi::constants::tss::{TPM2_RH_NULL, TPM2_ST_HASHCHECK};
use tss_esapi::constants::{CommandCode, SessionType};
use tss_esapi::handles::KeyHandle;
use tss_esapi::structures::{Auth, EccPoint, HashcheckTicket, Private, Public, Signature, SignatureScheme};
use tss_esapi::traits::{Marshall as _, UnMarshall as _};
use tss_esapi::tss2_esys::{TPM2B_DIGEST, TPMT_TK_HASHCHECK};

use super::policy::{sha256, with_policy};
use super::{Tpm, TpmResult, explain, flushing, made_in_tpm, salted, signing_key, wrong_value};

impl Tpm {
    /// Makes a key that signs `message` (ECDSA, r and s) and nothing after it.
    pub(crate) fn sign_once(&mut self, message: &[u8]) -> anyhow::Result<(StatementKey, [u8; 64])> {
        let secret = Secret::random();
        let auth = Auth::try_from(secret.bytes().to_vec()).map_err(explain)?;
        let signed = self.below_storage_key(|context, storage| {
            let public = node_key(context)?;
            salted(context, storage, |context| {
                let made = context.create(storage, public, Some(auth.clone()), None, None, None)?;
                let key = context.load(storage, made.out_private.clone(), made.out_public.clone())?;
                let signature = flushing(context, key.into(), |context| {
                    context.tr_set_auth(key.into(), auth)?;
                    let digest = sha256(context, message)?;
                    context.sign(key, digest, SignatureScheme::Null, no_ticket()?)
                })?;
                Ok((made, signature))
            })
        });
        let (made, signature) = signed.map_err(explain).context("the TPM does not sign for the node")?;
        let public = made.out_public.marshall().map_err(explain)?;
        let key = StatementKey { public, private: made.out_private.to_vec() };
        Ok((key, r_and_s(&signature).map_err(explain)?))
    }

    /// Sees to it that this TPM has the key.
    pub(crate) fn check_node_key(&mut self, key: &StatementKey) -> anyhow::Result<()> {
        self.with_node_key(key, |_, _| Ok(()))
    }

    pub(super) fn with_node_key<T>(
        &mut self,
        key: &StatementKey,
        work: impl FnOnce(&mut Context, KeyHandle) -> TpmResult<T>,
    ) -> anyhow::Result<T> {
        let public = Public::unmarshall(&key.public).map_err(explain)?;
        let private = Private::try_from(key.private.clone()).map_err(explain)?;
        let worked = self.below_storage_key(|context, storage| {
            let key =
                context.execute_with_nullauth_session(|context| context.load(storage, private, public))?;
            flushing(context, key.into(), |context| work(context, key))
        });
        worked.map_err(explain).context("the TPM does not have the node's key")
    }
}

/// r and s, 32 bytes each.
pub(super) fn r_and_s(signature: &Signature) -> TpmResult<[u8; 64]> {
    let Signature::EcDsa(signature) = signature else { return Err(wrong_value()) };
    let mut both = [0; 64];
    let parts = [signature.signature_r().value(), signature.signature_s().value()];
    for (half, part) in both.chunks_exact_mut(32).zip(parts) {
        let zeros = 32_usize.checked_sub(part.len()).ok_or_else(wrong_value)?;
        half[zeros..].copy_from_slice(part);
    }
    Ok(both)
}

fn node_key(context: &mut Context) -> TpmResult<Public> {
    let certify_only = with_policy(context, None, SessionType::Trial, |context, session| {
        context.policy_command_code(session, CommandCode::Certify)?;
        context.policy_get_digest(session)
    })?;
    let attributes = made_in_tpm().with_admin_with_policy(true).with_sign_encrypt(true).build()?;
    signing_key(attributes, certify_only, EccPoint::default())
}

/// A key that is not restricted signs any digest, whoever computed it.
fn no_ticket() -> TpmResult<HashcheckTicket> {
    HashcheckTicket::try_from(TPMT_TK_HASHCHECK {
        tag: TPM2_ST_HASHCHECK,
        hierarchy: TPM2_RH_NULL,
        digest: TPM2B_DIGEST::default(),
    })
}
