//! The TPM itself, through libtss2 (TCG TSS 2.0 Enhanced System API).
//!
//! Invariants:
//! 1. Every object and session that is loaded is flushed, whatever happens: a TPM has room for few, and without a resource
//!    manager nobody else frees it.
//! 2. A secret crosses the bus encrypted, under a session that is salted with the storage key.

mod attest;
mod counter;
mod node_key;
mod policy;

use std::str::FromStr as _;

use anyhow::{Context as _, anyhow};
use blocktree_engine::identity::{Approvals, Sealed};
use tss_esapi::attributes::{ObjectAttributes, ObjectAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::response_code::Tss2ResponseCodeKind;
use tss_esapi::constants::{PropertyTag, SessionType};
use tss_esapi::handles::{KeyHandle, ObjectHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::{EccSchemeAlgorithm, HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Auth, Digest, EccPoint, EccScheme, KeyedHashScheme, Private, Public, PublicBuilder,
    PublicEccParametersBuilder, PublicKeyedHashParameters, SensitiveData, SymmetricDefinition,
    SymmetricDefinitionObject,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::traits::{Marshall as _, UnMarshall as _};
use tss_esapi::{Context, Error};
use zeroize::Zeroizing;

use super::{PcrValues, Status};

/// Where the TPM is, as its libraries name it: `device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`.
const VARIABLE: &str = "BLOCKTREE_TPM";
const DEFAULT: &str = "device:/dev/tpmrm0";

/// An open TPM.
pub(crate) struct Tpm(Context);

type TpmResult<T> = Result<T, Error>;

impl Tpm {
    pub(crate) fn open() -> anyhow::Result<Self> {
        let place = std::env::var(VARIABLE).ok().filter(|place| !place.is_empty());
        let place = place.unwrap_or_else(|| DEFAULT.to_owned());
        // Its libraries would say the same in their own way, on standard error.
        if let Some(device) = place.strip_prefix("device:") {
            std::fs::metadata(device)
                .with_context(|| format!("there is no TPM at {device}; {VARIABLE} names another place"))?;
        }
        let name = TctiNameConf::from_str(&place)
            .map_err(|_| anyhow!("{VARIABLE} is {place:?}, and that names no TPM"))?;
        let context = Context::new(name).map_err(explain);
        Ok(Self(context.with_context(|| format!("cannot talk to the TPM at {place}"))?))
    }

    pub(crate) fn status(&mut self) -> anyhow::Result<Status> {
        let mut property = |tag| self.0.get_tpm_property(tag).map(Option::unwrap_or_default).map_err(explain);
        let maker = property(PropertyTag::Manufacturer)?.to_be_bytes();
        let permanent = property(PropertyTag::Permanent)?;
        Ok(Status {
            maker: String::from_utf8_lossy(&maker).trim_matches(['\0', ' ']).to_owned(),
            // TPMA_PERMANENT: inLockout.
            is_locked: permanent & 1 << 9 != 0,
            failures: property(PropertyTag::LockoutCounter)?,
            failures_max: property(PropertyTag::MaxAuthFail)?,
        })
    }

    /// Has the TPM keep `secret`, and give it out to who knows the PIN, while these PCRs (a bit each) are as was approved; if
    /// nobody approves, as they are now.
    pub(crate) fn seal(
        &mut self,
        secret: &[u8],
        pcrs: u32,
        pin: Option<&[u8]>,
        approvals: Option<Approvals>,
    ) -> anyhow::Result<Sealed> {
        let secret = SensitiveData::try_from(secret.to_vec()).map_err(explain)?;
        let auth = pin.map(|pin| Auth::try_from(pin.to_vec())).transpose().map_err(explain)?;
        let sealed = self.below_storage_key(|context, storage| {
            let has_pin = auth.is_some();
            let policy = policy::demanded(context, pcrs, has_pin, approvals.as_ref())?;
            let public = sealed_object(policy, has_pin)?;
            salted(context, storage, |context| {
                context.create(storage, public, auth, Some(secret), None, None)
            })
        });
        let sealed = sealed.map_err(explain).context("the TPM does not keep the secret")?;
        let public = sealed.out_public.marshall().map_err(explain)?;
        Ok(Sealed { pcrs, has_pin: pin.is_some(), public, private: sealed.out_private.to_vec(), approvals })
    }

    pub(crate) fn unseal(&mut self, sealed: &Sealed, pin: &[u8]) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let public = Public::unmarshall(&sealed.public).map_err(explain)?;
        let private = Private::try_from(sealed.private.clone()).map_err(explain)?;
        let auth = Auth::try_from(pin.to_vec()).map_err(explain)?;
        let secret = self.below_storage_key(|context, storage| {
            let object =
                context.execute_with_nullauth_session(|context| context.load(storage, private, public))?;
            flushing(context, object.into(), |context| {
                if sealed.has_pin {
                    context.tr_set_auth(object.into(), auth)?;
                }
                policy::fulfilled(context, storage, sealed, |context, session| {
                    let session = Some(AuthSession::from(session));
                    context.execute_with_session(session, |context| context.unseal(object.into()))
                })
            })
        });
        let secret = secret.map_err(explain)?;
        Ok(Zeroizing::new(secret.value().to_vec()))
    }

    /// What an approver signs: the policy that these PCRs have now; those that are named with a value, with that.
    pub(crate) fn policy_of(&mut self, pcrs: u32, named: &PcrValues) -> anyhow::Result<[u8; 32]> {
        let mut values = Vec::new();
        for pcr in (0..32).filter(|pcr| pcrs & 1 << pcr != 0) {
            match named.get(&pcr) {
                Some(value) => values.extend_from_slice(value),
                None => values.extend_from_slice(self.pcr(pcr)?.value()),
            }
        }
        let values = policy::sha256(&mut self.0, &values).map_err(explain)?;
        let policy = policy::measured(&mut self.0, pcrs, values).map_err(explain)?;
        policy.value().try_into().context("the TPM makes no policy of SHA-256")
    }

    fn pcr(&mut self, pcr: u32) -> anyhow::Result<Digest> {
        let wanted = policy::selection(1 << pcr).map_err(explain)?;
        let read = self.0.execute_without_session(|context| context.pcr_read(wanted));
        let (_, _, values) = read.map_err(explain)?;
        values.value().first().cloned().with_context(|| format!("the TPM has no PCR {pcr} of SHA-256"))
    }

    /// With the storage key, which is the same each time: it is made from the owner hierarchy's seed.
    fn below_storage_key<T>(
        &mut self,
        work: impl FnOnce(&mut Context, KeyHandle) -> TpmResult<T>,
    ) -> TpmResult<T> {
        let context = &mut self.0;
        let public = storage_key()?;
        let made = context.execute_with_nullauth_session(|context| {
            context.create_primary(Hierarchy::Owner, public, None, None, None, None)
        })?;
        let key = made.key_handle;
        flushing(context, key.into(), |context| work(context, key))
    }
}

/// Runs `work`, and flushes `object` however it ends.
fn flushing<T>(
    context: &mut Context,
    object: ObjectHandle,
    work: impl FnOnce(&mut Context) -> TpmResult<T>,
) -> TpmResult<T> {
    let result = work(context);
    let flushed = context.flush_context(object);
    result.and_then(|value| flushed.map(|()| value))
}

/// Starts a session; with a salt, one whose parameters are encrypted, also for those who listen from its start on.
fn start_session(
    context: &mut Context,
    salt: Option<KeyHandle>,
    kind: SessionType,
) -> TpmResult<AuthSession> {
    let cipher = SymmetricDefinition::AES_128_CFB;
    let session = context.start_auth_session(salt, None, None, kind, cipher, HashingAlgorithm::Sha256)?;
    let session = session.ok_or_else(wrong_value)?;
    if salt.is_some() {
        let (attributes, mask) =
            SessionAttributesBuilder::new().with_encrypt(true).with_decrypt(true).build();
        context.tr_sess_set_attributes(session, attributes, mask)?;
    }
    Ok(session)
}

/// Runs `work` with a session that nobody on the way to the TPM can read, nor change anything in unnoticed where it
/// knows an authorisation.
fn salted<T>(
    context: &mut Context,
    storage: KeyHandle,
    work: impl FnOnce(&mut Context) -> TpmResult<T>,
) -> TpmResult<T> {
    let session = start_session(context, Some(storage), SessionType::Hmac)?;
    flushing(context, SessionHandle::from(session).into(), |context| {
        context.execute_with_session(Some(session), work)
    })
}

/// Attributes of a key that the TPM makes and keeps, and that wrong authorisations do not lock.
fn made_in_tpm() -> ObjectAttributesBuilder {
    ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
}

fn storage_key() -> TpmResult<Public> {
    let attributes = made_in_tpm().with_decrypt(true).with_restricted(true).build()?;
    let parameters = PublicEccParametersBuilder::new_restricted_decryption_key(
        SymmetricDefinitionObject::AES_128_CFB,
        EccCurve::NistP256,
    );
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters.build()?)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// A key for signatures of ECDSA over P-256 with SHA-256; `point` is its own where it exists already.
fn signing_key(attributes: ObjectAttributes, policy: Digest, point: EccPoint) -> TpmResult<Public> {
    let scheme = EccScheme::create(EccSchemeAlgorithm::EcDsa, Some(HashingAlgorithm::Sha256), None)?;
    let parameters = PublicEccParametersBuilder::new_unrestricted_signing_key(scheme, EccCurve::NistP256)
        .with_restricted(attributes.restricted());
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(policy)
        .with_ecc_parameters(parameters.build()?)
        .with_ecc_unique_identifier(point)
        .build()
}

/// With a PIN, wrong ones count, and too many lock the TPM.
fn sealed_object(policy: Digest, has_pin: bool) -> TpmResult<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_admin_with_policy(true)
        .with_no_da(!has_pin)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(policy)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
}

fn wrong_value() -> Error {
    Error::WrapperError(tss_esapi::WrapperErrorKind::WrongValueFromTpm)
}

fn kind(error: &Error) -> Option<Tss2ResponseCodeKind> {
    match error {
        Error::Tss2Error(code) => code.kind(),
        Error::WrapperError(_) => None,
    }
}

/// What a TPM's error means here.
fn explain(error: Error) -> anyhow::Error {
    match kind(&error) {
        Some(Tss2ResponseCodeKind::AuthFail) => anyhow!("wrong PIN"),
        Some(Tss2ResponseCodeKind::BadAuth) => {
            anyhow!(
                "the TPM asks for a password that Blocktree does not have, such as one of its owner hierarchy"
            )
        }
        Some(Tss2ResponseCodeKind::PolicyFail) => {
            anyhow!(
                "the machine did not start as it did when this was made: a PCR has a value that was not approved"
            )
        }
        Some(Tss2ResponseCodeKind::Signature) => {
            anyhow!("an approval of a PCR's value is not signed by who may approve it")
        }
        Some(Tss2ResponseCodeKind::Lockout) => {
            anyhow!("the TPM is locked, because too many PINs were wrong; it takes PINs again after a while")
        }
        Some(Tss2ResponseCodeKind::Integrity) => {
            anyhow!("it is another TPM's, or this one was cleared since")
        }
        _ => error.into(),
    }
}
