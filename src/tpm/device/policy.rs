//! What a TPM asks for before it gives a secret out (TPM 2.0 Library, part 1, "Enhanced Authorization"): values of PCRs, and a
//! PIN. The values are those of the time of sealing, or whichever an approver signed (PolicyAuthorize).

use blocktree_engine::identity::{Approvals, Sealed};
use tss_esapi::Context;
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::constants::tss::{TPM2_RH_NULL, TPM2_ST_VERIFIED};
use tss_esapi::handles::{KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::PolicySession;
use tss_esapi::structures::{
    Digest, EccParameter, EccPoint, EccSignature, MaxBuffer, Name, Nonce, PcrSelectionList,
    PcrSelectionListBuilder, PcrSlot, Public, Signature, VerifiedTicket,
};
use tss_esapi::tss2_esys::{TPM2B_DIGEST, TPMT_TK_VERIFIED};

use super::{TpmResult, flushing, signing_key, start_session};

/// The digest that a sealed object carries.
pub(super) fn demanded(
    context: &mut Context,
    pcrs: u32,
    has_pin: bool,
    approvals: Option<&Approvals>,
) -> TpmResult<Digest> {
    with_policy(context, None, SessionType::Trial, |context, session| {
        match approvals {
            None => measure(context, session, pcrs, Digest::default())?,
            Some(approvals) => with_approver(context, approvals, |context, _, name| {
                context.policy_authorize(session, Digest::default(), Nonce::default(), name, no_ticket()?)
            })?,
        }
        if has_pin {
            context.policy_auth_value(session)?;
        }
        context.policy_get_digest(session)
    })
}

/// Runs `work` with a session in which all that the secret asks for was shown.
pub(super) fn fulfilled<T>(
    context: &mut Context,
    storage: KeyHandle,
    sealed: &Sealed,
    work: impl FnOnce(&mut Context, PolicySession) -> TpmResult<T>,
) -> TpmResult<T> {
    with_policy(context, Some(storage), SessionType::Policy, |context, session| {
        measure(context, session, sealed.pcrs, Digest::default())?;
        if let Some(approvals) = &sealed.approvals {
            authorize(context, session, approvals)?;
        }
        if sealed.has_pin {
            context.policy_auth_value(session)?;
        }
        work(context, session)
    })
}

/// The digest that these PCRs make with `values`, a hash of theirs one after the other; if that is empty, as they are now.
pub(super) fn measured(context: &mut Context, pcrs: u32, values: Digest) -> TpmResult<Digest> {
    with_policy(context, None, SessionType::Trial, |context, session| {
        measure(context, session, pcrs, values)?;
        context.policy_get_digest(session)
    })
}

/// SHA-256 as the TPM computes it.
pub(super) fn sha256(context: &mut Context, bytes: &[u8]) -> TpmResult<Digest> {
    let bytes = MaxBuffer::try_from(bytes.to_vec())?;
    let hash = |context: &mut Context| context.hash(bytes, HashingAlgorithm::Sha256, Hierarchy::Null);
    context.execute_without_session(hash).map(|(digest, _)| digest)
}

/// A selection of the SHA-256 bank.
pub(super) fn selection(pcrs: u32) -> TpmResult<PcrSelectionList> {
    let slots = (0..32).map(|slot| 1 << slot).filter(|bit| pcrs & bit != 0);
    let slots = slots.map(PcrSlot::try_from).collect::<TpmResult<Vec<_>>>()?;
    let builder = PcrSelectionListBuilder::new();
    if slots.is_empty() {
        builder.build()
    } else {
        builder.with_selection(HashingAlgorithm::Sha256, &slots).build()
    }
}

fn measure(context: &mut Context, session: PolicySession, pcrs: u32, values: Digest) -> TpmResult<()> {
    if pcrs == 0 { Ok(()) } else { context.policy_pcr(session, values, selection(pcrs)?) }
}

/// Puts what the approver signed in the place of the values that were measured.
fn authorize(context: &mut Context, session: PolicySession, approvals: &Approvals) -> TpmResult<()> {
    let policy = context.policy_get_digest(session)?;
    // Values that nobody approved do not lead to what the secret asks for: the TPM refuses by itself.
    let Some(approval) = approvals.find(policy.value()) else { return Ok(()) };
    let (r, s) = approval.signature.split_at(32);
    let [r, s] = [r, s].map(|part| EccParameter::try_from(part.to_vec()));
    let signature = Signature::EcDsa(EccSignature::create(HashingAlgorithm::Sha256, r?, s?)?);
    with_approver(context, approvals, |context, approver, name| {
        let digest = sha256(context, policy.value())?;
        let ticket = context.verify_signature(approver, digest, signature)?;
        context.policy_authorize(session, policy, Nonce::default(), name, ticket)
    })
}

fn with_approver<T>(
    context: &mut Context,
    approvals: &Approvals,
    work: impl FnOnce(&mut Context, KeyHandle, &Name) -> TpmResult<T>,
) -> TpmResult<T> {
    let public = verifying_key(&approvals.approver)?;
    // In a hierarchy, without which its tickets would count nowhere.
    let approver = context.load_external_public(public, Hierarchy::Owner)?;
    flushing(context, approver.into(), |context| {
        let name = context.tr_get_name(approver.into())?;
        work(context, approver, &name)
    })
}

pub(super) fn with_policy<T>(
    context: &mut Context,
    salt: Option<KeyHandle>,
    kind: SessionType,
    work: impl FnOnce(&mut Context, PolicySession) -> TpmResult<T>,
) -> TpmResult<T> {
    let session = start_session(context, salt, kind)?;
    flushing(context, SessionHandle::from(session).into(), |context| {
        work(context, PolicySession::try_from(session)?)
    })
}

/// In a trial, no signature is looked at.
fn no_ticket() -> TpmResult<VerifiedTicket> {
    VerifiedTicket::try_from(TPMT_TK_VERIFIED {
        tag: TPM2_ST_VERIFIED,
        hierarchy: TPM2_RH_NULL,
        digest: TPM2B_DIGEST::default(),
    })
}

fn verifying_key(point: &[u8; 64]) -> TpmResult<Public> {
    let (x, y) = point.split_at(32);
    let [x, y] = [x, y].map(|part| EccParameter::try_from(part.to_vec()));
    let attributes =
        ObjectAttributesBuilder::new().with_user_with_auth(true).with_sign_encrypt(true).build()?;
    signing_key(attributes, Digest::default(), EccPoint::new(x?, y?))
}
