//! What the TPM says of itself to those who ask: its endorsement key, its attestation key, and what that signs.
//!
//! Both keys are made anew each time, from templates; they are the same as long as the TPM is not cleared, and nothing of them is
//! stored.

use anyhow::Context as _;
use blocktree_engine::attestation::{Answer, Challenge, EndorsementKind, NodeStatement, Request, Signed};
use tss_esapi::Context;
use tss_esapi::abstraction::AsymmetricAlgorithmSelection;
use tss_esapi::abstraction::ek::{create_ek_public_from_default_template_2, retrieve_ek_pubcert};
use tss_esapi::constants::{CapabilityType, CommandCode, SessionType};
use tss_esapi::handles::{AuthHandle, KeyHandle};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Attest, CapabilityData, Data, Digest, EccPoint, EncryptedSecret, IdObject, Nonce, Public, Signature,
    SignatureScheme,
};
use tss_esapi::traits::Marshall as _;

use super::node_key::r_and_s;
use super::policy::{selection, with_policy};
use super::{Tpm, TpmResult, explain, flushing, made_in_tpm, signing_key};

impl Tpm {
    /// The keys by which others know this TPM. Of endorsement keys, the one that has a certificate; where none has, the first that
    /// the TPM makes.
    pub(crate) fn request_attestation(&mut self) -> anyhow::Result<Request> {
        use EndorsementKind::{Ecc, Rsa};
        // A certificate of ECC that cannot be read is none: the other key may do.
        let ecc = self.certificate(Ecc).unwrap_or_default();
        let mut keys = [(Rsa, self.certificate(Rsa)?), (Ecc, ecc)];
        keys.sort_by_key(|(_, certificate)| certificate.is_empty());
        let mut show =
            |(kind, certificate)| anyhow::Ok((self.public_of(endorsement_key(kind))?, certificate));
        let [first, other] = keys;
        let (endorsement, certificate) =
            show(first).or_else(|_| show(other)).context("the TPM does not show its endorsement key")?;
        let attestation = self.public_of(attestation_key()).context("the TPM makes no attestation key")?;
        Ok(Request { endorsement, certificate, attestation })
    }

    fn public_of(&mut self, template: TpmResult<Public>) -> anyhow::Result<Vec<u8>> {
        let read = |context: &mut Context, key| context.read_public(key).map(|(public, ..)| public);
        let made = template.and_then(|template| with_primary(&mut self.0, template, read));
        made.and_then(|public| public.marshall()).map_err(explain)
    }

    /// Answers a challenge that was made for this TPM.
    pub(crate) fn answer(
        &mut self,
        challenge: &Challenge,
        statement: &NodeStatement,
    ) -> anyhow::Result<Answer> {
        let secret = self.activate(challenge).map_err(explain);
        let secret = secret.context("the TPM does not open the challenge: was it made for another one?")?;
        let nonce = Data::try_from(challenge.nonce.to_vec()).map_err(explain)?;
        let quote = self.quote(nonce.clone(), challenge.pcrs).map_err(explain)?;
        let certify = self.with_node_key(&statement.key, |context, node| certify(context, node, nonce))?;
        let mut values = Vec::new();
        for pcr in (0..u32::BITS).filter(|pcr| challenge.pcrs & 1 << pcr != 0) {
            values.push(self.pcr(pcr)?.value().try_into().context("a PCR has no value of SHA-256")?);
        }
        Ok(Answer {
            secret: secret.value().try_into().context("the challenge has no secret of 32 bytes")?,
            quote: signed(quote).map_err(explain)?,
            certify: signed(certify).map_err(explain)?,
            values,
            statement: statement.clone().without_private(),
        })
    }

    /// Empty where there is none.
    fn certificate(&mut self, kind: EndorsementKind) -> anyhow::Result<Vec<u8>> {
        let (algorithm, index) = template(kind);
        let list = |context: &mut Context| context.get_capability(CapabilityType::Handles, index, 1);
        let listed = self.0.execute_without_session(list).map(|(found, _)| found);
        let read = listed.and_then(|found| match found {
            CapabilityData::Handles(found)
                if found.first().is_some_and(|first| u32::from(*first) == index) =>
            {
                retrieve_ek_pubcert(&mut self.0, algorithm)
            }
            _ => Ok(Vec::new()),
        });
        read.map_err(explain).context("the TPM does not show its certificate")
    }

    /// The challenge's secret, which the TPM gives out if it has both keys.
    fn activate(&mut self, challenge: &Challenge) -> TpmResult<Digest> {
        let credential = IdObject::try_from(challenge.credential.clone())?;
        let seed = EncryptedSecret::try_from(challenge.seed.clone())?;
        with_primary(&mut self.0, attestation_key()?, |context, attestation| {
            with_primary(context, endorsement_key(challenge.endorsement())?, |context, endorsement| {
                with_policy(context, None, SessionType::Policy, |context, session| {
                    show_endorsement(context, session)?;
                    let sessions = (Some(AuthSession::Password), Some(session.into()), None);
                    context.execute_with_sessions(sessions, |context| {
                        context.activate_credential(attestation, endorsement, credential, seed)
                    })
                })
            })
        })
    }

    fn quote(&mut self, nonce: Data, pcrs: u32) -> TpmResult<(Attest, Signature)> {
        with_primary(&mut self.0, attestation_key()?, |context, attestation| {
            context.execute_with_nullauth_session(|context| {
                context.quote(attestation, nonce, SignatureScheme::Null, selection(pcrs)?)
            })
        })
    }
}

/// Has the attestation key say that the TPM has this key, which lets itself be certified and no more.
fn certify(context: &mut Context, key: KeyHandle, nonce: Data) -> TpmResult<(Attest, Signature)> {
    with_primary(context, attestation_key()?, |context, attestation| {
        with_policy(context, None, SessionType::Policy, |context, session| {
            context.policy_command_code(session, CommandCode::Certify)?;
            let sessions = (Some(session.into()), Some(AuthSession::Password), None);
            context.execute_with_sessions(sessions, |context| {
                context.certify(key.into(), attestation, nonce, SignatureScheme::Null)
            })
        })
    })
}

/// What endorsement keys of the default template ask for: the (empty) password of their hierarchy.
fn show_endorsement(context: &mut Context, session: PolicySession) -> TpmResult<()> {
    context.execute_with_nullauth_session(|context| {
        let (nonce, empty) = (Nonce::default(), Digest::default());
        context.policy_secret(session, AuthHandle::Endorsement, nonce.clone(), empty, nonce, None)
    })?;
    Ok(())
}

fn with_primary<T>(
    context: &mut Context,
    template: Public,
    work: impl FnOnce(&mut Context, KeyHandle) -> TpmResult<T>,
) -> TpmResult<T> {
    let made = context.execute_with_nullauth_session(|context| {
        context.create_primary(Hierarchy::Endorsement, template, None, None, None, None)
    })?;
    let key = made.key_handle;
    flushing(context, key.into(), |context| work(context, key))
}

fn signed((attest, signature): (Attest, Signature)) -> TpmResult<Signed> {
    Ok(Signed { attest: attest.marshall()?, signature: r_and_s(&signature)? })
}

/// TCG EK Credential Profile: how an endorsement key is made, and where in the TPM's memory its certificate is.
fn template(kind: EndorsementKind) -> (AsymmetricAlgorithmSelection, u32) {
    match kind {
        EndorsementKind::Rsa => (AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048), 0x01c0_0002),
        EndorsementKind::Ecc => (AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256), 0x01c0_000a),
    }
}

fn endorsement_key(kind: EndorsementKind) -> TpmResult<Public> {
    create_ek_public_from_default_template_2(template(kind).0, None)
}

/// Restricted: it signs nothing that the TPM did not say.
fn attestation_key() -> TpmResult<Public> {
    let attributes = made_in_tpm().with_restricted(true).with_sign_encrypt(true).build()?;
    signing_key(attributes, Digest::default(), EccPoint::default())
}
