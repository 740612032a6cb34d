//! The four files of an attestation. A node asks for a challenge ([`Request`]), a verifier makes one ([`Challenge`]) and keeps what it must
//! know later ([`Kept`]), and the node's TPM answers ([`Answer`]).
//!
//! Each is a magic number and a version, parts with their lengths before them, and a check sum against accidents.

use zeroize::Zeroizing;

use super::statement::NodeStatement;
use super::structures::{EndorsementKey, EndorsementKind, RSA_BYTES, SigningKey, name_of};
use crate::crypto::{Secret, Seed, make_credential, random, read_certificate, tagged_hash};
use crate::format::{FORMAT_VERSION, Malformed, check_kind, malformed};
use crate::limits::ATTESTATION_FILE_BYTES_MAX;

const CHECK_BYTES: usize = 32;
/// A magic number and a version.
const HEAD_BYTES: usize = 12;
/// How many PCRs of the SHA-256 bank there are.
const PCRS: u32 = 24;

/// Who wants to be believed: the public areas of two keys of one TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The endorsement key, by which a TPM is known from its making on.
    pub endorsement: Vec<u8>,
    /// What the TPM's memory has as its certificate, X.509 in DER; empty where there is none.
    pub certificate: Vec<u8>,
    /// The attestation key, which signs only what the TPM itself says.
    pub attestation: Vec<u8>,
}

/// What only the TPM with both keys of a request can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    pub nonce: [u8; 32],
    /// PCRs of the SHA-256 bank, a bit each.
    pub pcrs: u32,
    /// TPMS_ID_OBJECT: a secret, for the attestation key.
    pub credential: Vec<u8>,
    /// The seed that protects it, encrypted to the endorsement key.
    pub seed: Vec<u8>,
}

/// What a verifier keeps of its challenge, and shows nobody: until it was answered, when the secret is worth nothing any more.
#[derive(Clone)]
pub struct Kept {
    pub request: Request,
    pub nonce: [u8; 32],
    pub pcrs: u32,
    pub(super) secret: Secret,
}

/// TPMS_ATTEST, and the attestation key's signature of it, r and s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    pub attest: Vec<u8>,
    pub signature: [u8; 64],
}

/// What the TPM answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub secret: [u8; 32],
    /// Of the PCRs, and of the key that made the statement.
    pub quote: Signed,
    pub certify: Signed,
    /// Of the PCRs that were asked for, the lowest first.
    pub values: Vec<[u8; 32]>,
    pub statement: NodeStatement,
}

impl Request {
    const WHAT: &str = "request for attestation";
    const MAGIC: [u8; 8] = *b"BTATTREQ";

    pub fn to_bytes(&self) -> Vec<u8> {
        file(Self::MAGIC, &[&self.endorsement, &self.certificate, &self.attestation])
    }

    /// Reads a request, and sees to it that both keys are of the right kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let [endorsement, certificate, attestation] = parts(Self::WHAT, Self::MAGIC, bytes)?;
        let request = Self {
            endorsement: endorsement.to_vec(),
            certificate: certificate.to_vec(),
            attestation: attestation.to_vec(),
        };
        EndorsementKey::parse(endorsement)?;
        if !request.attestation_key()?.is_restricted {
            return Err(malformed(Self::WHAT, "its attestation key is not restricted: it signs anything"));
        }
        Ok(request)
    }

    pub(super) fn attestation_key(&self) -> Result<SigningKey, Malformed> {
        SigningKey::parse(&self.attestation)
    }

    /// SHA-256 of the endorsement key's public area: the TPM's name for it, without the two bytes that say so.
    pub fn endorsement_name(&self) -> [u8; 32] {
        *name_of(&self.endorsement).last_chunk().expect("34 bytes")
    }

    /// The certificate as text (PEM); `None` where there is none.
    pub fn certificate_pem(&self) -> Result<Option<String>, Malformed> {
        if self.certificate.is_empty() {
            return Ok(None);
        }
        let key = EndorsementKey::parse(&self.endorsement)?;
        let read = read_certificate(&self.certificate);
        let text = read.filter(|(certified, _)| key.is(certified)).map(|(_, text)| text);
        text.map(Some).ok_or(malformed(Self::WHAT, "its certificate is not for its endorsement key"))
    }
}

impl Challenge {
    const WHAT: &str = "challenge";
    const MAGIC: [u8; 8] = *b"BTATTCHA";

    /// A challenge for the TPM of a request, and what to keep of it.
    pub fn make(request: Request, pcrs: u32) -> Result<(Self, Kept), Malformed> {
        let kept = Kept { request, nonce: random(), pcrs, secret: Secret::random() };
        let seed = match EndorsementKey::parse(&kept.request.endorsement)? {
            EndorsementKey::Rsa(modulus) => Seed::for_rsa(&modulus),
            EndorsementKey::Ecc(point) => Seed::for_p256(&point),
        };
        let name = name_of(&kept.request.attestation);
        let made =
            seed.and_then(|seed| Some((make_credential(&seed, &name, kept.secret.bytes())?, seed.encrypted)));
        let (credential, seed) =
            made.ok_or(malformed(Request::WHAT, "nothing can be encrypted to its endorsement key"))?;
        Ok((Self { nonce: kept.nonce, pcrs, credential, seed }, kept))
    }

    /// To which key of a TPM the seed is encrypted: what RSA encrypts is as long as its modulus.
    pub fn endorsement(&self) -> EndorsementKind {
        if self.seed.len() == RSA_BYTES { EndorsementKind::Rsa } else { EndorsementKind::Ecc }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        file(Self::MAGIC, &[&self.nonce, &self.pcrs.to_le_bytes(), &self.credential, &self.seed])
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let [nonce, pcrs, credential, seed] = parts(Self::WHAT, Self::MAGIC, bytes)?;
        Ok(Self {
            nonce: exactly(Self::WHAT, nonce)?,
            pcrs: parse_pcrs(Self::WHAT, pcrs)?,
            credential: credential.to_vec(),
            seed: seed.to_vec(),
        })
    }
}

impl Kept {
    const WHAT: &str = "what was kept of a challenge";
    const MAGIC: [u8; 8] = *b"BTATTKEP";

    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let request = self.request.to_bytes();
        file(Self::MAGIC, &[&request, &self.nonce, &self.pcrs.to_le_bytes(), self.secret.bytes()]).into()
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let [request, nonce, pcrs, secret] = parts(Self::WHAT, Self::MAGIC, bytes)?;
        Ok(Self {
            request: Request::parse(request)?,
            nonce: exactly(Self::WHAT, nonce)?,
            pcrs: parse_pcrs(Self::WHAT, pcrs)?,
            secret: Secret::new(exactly(Self::WHAT, secret)?),
        })
    }
}

impl Answer {
    const WHAT: &str = "answer to a challenge";
    const MAGIC: [u8; 8] = *b"BTATTANS";

    pub fn to_bytes(&self) -> Vec<u8> {
        let statement = self.statement.to_bytes();
        let (quote, certify) = (&self.quote, &self.certify);
        file(
            Self::MAGIC,
            &[
                &self.secret,
                &quote.attest,
                &quote.signature,
                &certify.attest,
                &certify.signature,
                self.values.as_flattened(),
                &statement,
            ],
        )
    }

    /// Reads an answer. Its statement holds; whether the rest does, [`verify()`](super::verify()) says.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let [secret, quote, quote_signature, certify, certify_signature, values, statement] =
            parts(Self::WHAT, Self::MAGIC, bytes)?;
        let signed = |attest: &[u8], signature| {
            Ok(Signed { attest: attest.to_vec(), signature: exactly(Self::WHAT, signature)? })
        };
        let (values, []) = values.as_chunks() else { return Err(damaged(Self::WHAT)) };
        let (statement, []) = NodeStatement::parse(statement)? else { return Err(damaged(Self::WHAT)) };
        Ok(Self {
            secret: exactly(Self::WHAT, secret)?,
            quote: signed(quote, quote_signature)?,
            certify: signed(certify, certify_signature)?,
            values: values.to_vec(),
            statement,
        })
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("request", &self.request).finish_non_exhaustive()
    }
}

fn file(magic: [u8; 8], parts: &[&[u8]]) -> Vec<u8> {
    let mut file = [&magic[..], &FORMAT_VERSION.to_le_bytes()].concat();
    for part in parts {
        file.extend_from_slice(&(part.len() as u32).to_le_bytes());
        file.extend_from_slice(part);
    }
    file.extend_from_slice(&check_sum(&file));
    file
}

fn parts<'a, const N: usize>(
    what: &'static str,
    magic: [u8; 8],
    bytes: &'a [u8],
) -> Result<[&'a [u8]; N], Malformed> {
    check_kind(what, magic, bytes)?;
    let (all, check) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or(damaged(what))?;
    if bytes.len() > ATTESTATION_FILE_BYTES_MAX || *check != check_sum(all) {
        return Err(damaged(what));
    }
    let mut rest = all.get(HEAD_BYTES..).ok_or(damaged(what))?;
    let mut parts = [&[][..]; N];
    for part in &mut parts {
        let (length, behind) = rest.split_first_chunk().ok_or(damaged(what))?;
        let length = u32::from_le_bytes(*length) as usize;
        (*part, rest) = behind.split_at_checked(length).ok_or(damaged(what))?;
    }
    if rest.is_empty() { Ok(parts) } else { Err(damaged(what)) }
}

fn exactly<const N: usize>(what: &'static str, part: &[u8]) -> Result<[u8; N], Malformed> {
    part.try_into().map_err(|_| damaged(what))
}

fn parse_pcrs(what: &'static str, part: &[u8]) -> Result<u32, Malformed> {
    let pcrs = u32::from_le_bytes(exactly(what, part)?);
    if pcrs >> PCRS == 0 { Ok(pcrs) } else { Err(malformed(what, "there are no such PCRs")) }
}

fn damaged(what: &'static str) -> Malformed {
    malformed(what, "it is damaged or cut off")
}

fn check_sum(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    tagged_hash("blocktree attestation file v1", &[bytes])
}

#[cfg(test)]
mod tests {
    use super::super::structures::tests::{
        RESTRICTED_SIGNING, SIGNING, ecc_endorsement, endorsement, public,
    };
    use super::*;
    use crate::crypto::Approver;

    fn request_of(endorsement: Vec<u8>, attributes: u32) -> Request {
        Request { endorsement, certificate: Vec::new(), attestation: public(attributes, &[7; 64]) }
    }

    fn request(attributes: u32) -> Request {
        request_of(endorsement(), attributes)
    }

    #[test]
    fn challenges_are_for_keys_of_either_kind() {
        let key = Approver::from_secret(&Secret::random());
        let of_ecc = request_of(ecc_endorsement(key.public()), RESTRICTED_SIGNING);
        for (request, kind, seed_bytes) in [
            (request(RESTRICTED_SIGNING), EndorsementKind::Rsa, 256),
            (of_ecc, EndorsementKind::Ecc, 2 + 32 + 2 + 32),
        ] {
            assert_eq!(Request::parse(&request.to_bytes()), Ok(request.clone()));
            let (challenge, _) = Challenge::make(request, 0x80).unwrap();
            assert_eq!((challenge.endorsement(), challenge.seed.len()), (kind, seed_bytes));
        }
        // No point of the curve.
        let nowhere = request_of(ecc_endorsement(&[7; 64]), RESTRICTED_SIGNING);
        let refused = Challenge::make(nowhere, 0x80).unwrap_err();
        assert!(refused.why.contains("nothing can be encrypted"), "{refused}");
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_noticed() {
        let request = request(RESTRICTED_SIGNING);
        assert_eq!(Request::parse(&request.to_bytes()), Ok(request.clone()));
        let (challenge, kept) = Challenge::make(request.clone(), 0x80).unwrap();
        assert_eq!(Challenge::parse(&challenge.to_bytes()), Ok(challenge.clone()));
        assert_eq!(Kept::parse(&kept.to_bytes()).unwrap().to_bytes(), kept.to_bytes());
        // TPMS_ID_OBJECT of 32 bytes, and what RSA-2048 encrypts.
        assert_eq!((challenge.credential.len(), challenge.seed.len()), (2 + 32 + 2 + 32, 256));
        let secrets = [&kept.secret.bytes()[..], &kept.secret.bytes()[..8]];
        for secret in secrets {
            assert!(!challenge.to_bytes().windows(secret.len()).any(|part| part == secret));
        }
        let files = [request.to_bytes(), challenge.to_bytes(), kept.to_bytes().to_vec()];
        let parses = |bytes: &[u8]| {
            [
                Request::parse(bytes).is_ok(),
                Challenge::parse(bytes).is_ok(),
                Kept::parse(bytes).is_ok(),
                Answer::parse(bytes).is_ok(),
            ]
        };
        for (kind, bytes) in files.iter().enumerate() {
            let only = std::array::from_fn(|other| other == kind);
            assert_eq!(parses(bytes), only);
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1;
                for damaged in [&bytes[..at], &flipped] {
                    assert_eq!(parses(damaged), [false; 4], "byte {at} of {kind}");
                }
            }
            assert_eq!(parses(&[&bytes[..], b"x"].concat()), [false; 4]);
        }
    }

    #[test]
    fn an_attestation_key_signs_only_what_the_tpm_says() {
        let refused = Request::parse(&request(SIGNING).to_bytes()).unwrap_err();
        assert!(refused.why.contains("not restricted"), "{refused}");
        let refused = Request::parse(&request(RESTRICTED_SIGNING & !2).to_bytes()).unwrap_err();
        assert!(refused.why.contains("exported"), "{refused}");
        let mut foreign = request(RESTRICTED_SIGNING);
        foreign.certificate = b"no certificate".to_vec();
        assert!(foreign.certificate_pem().unwrap_err().why.contains("not for its endorsement key"));
    }

    #[test]
    fn there_are_no_other_pcrs() {
        let (mut challenge, _) = Challenge::make(request(RESTRICTED_SIGNING), 0x80).unwrap();
        challenge.pcrs = 1 << 24;
        assert!(Challenge::parse(&challenge.to_bytes()).unwrap_err().why.contains("no such PCRs"));
    }
}
