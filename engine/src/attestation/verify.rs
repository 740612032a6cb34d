//! What an answer shows: that one TPM has the endorsement key and the attestation key, that its PCRs have these values, and that a
//! key in it signed the statement of a node.

use std::collections::BTreeMap;

use super::messages::{Answer, Kept, Signed};
use super::statement::NodeStatement;
use super::structures::{Attested, SigningKey, name_of, parse_attest};
use crate::crypto::{hexadecimal, sha256, verify_p256};
use crate::format::Malformed;

/// What a verifier knows beforehand.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// [`Request::endorsement_name`](super::Request::endorsement_name) of the machine's TPM.
    pub endorsement: Option<[u8; 32]>,
    /// Values of PCRs of the SHA-256 bank.
    pub pcrs: BTreeMap<u32, [u8; 32]>,
}

/// What was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub statement: NodeStatement,
    pub pcrs: BTreeMap<u32, [u8; 32]>,
}

/// Why an answer shows nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the endorsement key is {}, and not the one that was expected", hexadecimal(.0))]
    OtherEndorsement([u8; 32]),
    #[error("it does not know the challenge's secret: another TPM answered, or another challenge was")]
    OtherSecret,
    #[error("its {0} is not signed by the attestation key of the request")]
    Signature(&'static str),
    #[error("its {0} is no such thing, or damaged")]
    Attest(&'static str),
    #[error("its {0} is for another challenge: it has another nonce")]
    OtherNonce(&'static str),
    #[error("its quote is of other PCRs than were asked for")]
    OtherPcrs,
    #[error("the values of PCRs are not those that the TPM quoted")]
    OtherValues,
    #[error("PCR {0} has another value than was expected")]
    UnexpectedValue(u32),
    #[error("PCR {0} was not asked for in the challenge")]
    NotAsked(u32),
    #[error("the TPM certified another key than the one that signed the statement")]
    OtherKey,
}

const QUOTE: &str = "quote";
const CERTIFICATION: &str = "certification";

/// Holds an answer against what was kept of the challenge and what is expected.
pub fn verify(kept: &Kept, answer: &Answer, expected: &Expected) -> Result<Verified, AttestationError> {
    let endorsement = kept.request.endorsement_name();
    if expected.endorsement.is_some_and(|expected| expected != endorsement) {
        return Err(AttestationError::OtherEndorsement(endorsement));
    }
    if !kept.secret.is(&answer.secret) {
        return Err(AttestationError::OtherSecret);
    }
    let key = kept.request.attestation_key()?;
    let quoted = attested(kept, &key, &answer.quote, QUOTE)?;
    let Attested::Quote { pcrs, digest } = quoted else { return Err(AttestationError::Attest(QUOTE)) };
    if pcrs != kept.pcrs || answer.values.len() != pcrs.count_ones() as usize {
        return Err(AttestationError::OtherPcrs);
    }
    if digest != sha256(&[answer.values.as_flattened()]) {
        return Err(AttestationError::OtherValues);
    }
    let numbers = (0..u32::BITS).filter(|pcr| pcrs & 1 << pcr != 0);
    let found: BTreeMap<_, _> = numbers.zip(answer.values.iter().copied()).collect();
    for (pcr, expected) in &expected.pcrs {
        let value = found.get(pcr).ok_or(AttestationError::NotAsked(*pcr))?;
        if value != expected {
            return Err(AttestationError::UnexpectedValue(*pcr));
        }
    }
    let certified = attested(kept, &key, &answer.certify, CERTIFICATION)?;
    let Attested::Certify { name } = certified else {
        return Err(AttestationError::Attest(CERTIFICATION));
    };
    if name != name_of(&answer.statement.key.public) {
        return Err(AttestationError::OtherKey);
    }
    Ok(Verified { statement: answer.statement.clone(), pcrs: found })
}

/// What the attestation key signed for this challenge.
fn attested(
    kept: &Kept,
    key: &SigningKey,
    signed: &Signed,
    what: &'static str,
) -> Result<Attested, AttestationError> {
    if !verify_p256(&key.point, &signed.attest, &signed.signature) {
        return Err(AttestationError::Signature(what));
    }
    let (nonce, attested) = parse_attest(&signed.attest).ok_or(AttestationError::Attest(what))?;
    if nonce != kept.nonce {
        return Err(AttestationError::OtherNonce(what));
    }
    Ok(attested)
}

#[cfg(test)]
mod tests {
    use super::super::messages::{Challenge, Request};
    use super::super::structures::tests::{
        RESTRICTED_SIGNING, SIGNING, attest_certify, attest_quote, endorsement, public,
    };
    use super::super::tests::statement;
    use super::*;
    use crate::crypto::{Approver, Principal, Secret};

    /// What a TPM knows, in software.
    struct Machine {
        attestation: Approver,
        kept: Kept,
        statement: NodeStatement,
        values: Vec<[u8; 32]>,
    }

    const PCRS: u32 = 1 << 2 | 1 << 7;

    impl Machine {
        fn new() -> Self {
            let attestation = Approver::from_secret(&Secret::random());
            let request = Request {
                endorsement: endorsement(),
                certificate: Vec::new(),
                attestation: public(RESTRICTED_SIGNING, attestation.public()),
            };
            let (_, kept) = Challenge::make(request, PCRS).unwrap();
            let statement = statement(&Principal::generate(), SIGNING).unwrap();
            Self { attestation, kept, statement, values: vec![[2; 32], [7; 32]] }
        }

        fn sign(&self, attest: Vec<u8>) -> Signed {
            Signed { signature: self.attestation.sign(&attest), attest }
        }

        fn quote(&self, nonce: &[u8; 32], pcrs: u32) -> Signed {
            self.sign(attest_quote(nonce, pcrs, &sha256(&[self.values.as_flattened()])))
        }

        fn certify(&self, nonce: &[u8; 32], key: &[u8]) -> Signed {
            self.sign(attest_certify(nonce, &name_of(key)))
        }

        fn answer(&self) -> Answer {
            let nonce = &self.kept.nonce;
            Answer {
                secret: *self.kept.secret.bytes(),
                quote: self.quote(nonce, PCRS),
                certify: self.certify(nonce, &self.statement.key.public),
                values: self.values.clone(),
                statement: self.statement.clone().without_private(),
            }
        }

        fn refuses(&self, answer: Answer, expected: &Expected) -> AttestationError {
            // As it comes from elsewhere.
            let answer = Answer::parse(&answer.to_bytes()).unwrap();
            verify(&self.kept, &answer, expected).unwrap_err()
        }
    }

    #[test]
    fn an_answer_to_this_challenge_shows_what_the_tpm_signed() {
        let machine = Machine::new();
        let expected = Expected {
            endorsement: Some(machine.kept.request.endorsement_name()),
            pcrs: [(7, [7; 32])].into(),
        };
        let kept = Kept::parse(&machine.kept.to_bytes()).unwrap();
        assert_eq!(kept.to_bytes(), machine.kept.to_bytes());
        let answer = Answer::parse(&machine.answer().to_bytes()).unwrap();
        let verified = verify(&kept, &answer, &expected).unwrap();
        assert_eq!(verified.statement, machine.statement.clone().without_private());
        assert_eq!(verified.pcrs, [(2, [2; 32]), (7, [7; 32])].into());
    }

    #[test]
    fn whatever_is_another_is_refused() {
        use AttestationError::*;
        let (machine, other) = (Machine::new(), Machine::new());
        let nothing = Expected::default();
        let good = machine.answer();
        let refuses = |answer: Answer| machine.refuses(answer, &nothing);
        // Another challenge's: the nonce, the secret.
        let nonce = &other.kept.nonce;
        assert_eq!(refuses(Answer { quote: machine.quote(nonce, PCRS), ..good.clone() }), OtherNonce(QUOTE));
        let certify = machine.certify(nonce, &machine.statement.key.public);
        assert_eq!(refuses(Answer { certify, ..good.clone() }), OtherNonce(CERTIFICATION));
        assert_eq!(refuses(Answer { secret: *other.kept.secret.bytes(), ..good.clone() }), OtherSecret);
        // Another attestation key's.
        let nonce = &machine.kept.nonce;
        assert_eq!(refuses(Answer { quote: other.quote(nonce, PCRS), ..good.clone() }), Signature(QUOTE));
        let certify = other.certify(nonce, &machine.statement.key.public);
        assert_eq!(refuses(Answer { certify, ..good.clone() }), Signature(CERTIFICATION));
        // Another node's key and statement; each is right by itself.
        assert_eq!(refuses(Answer { statement: other.statement.clone(), ..good.clone() }), OtherKey);
        // Other PCRs, and other values than were quoted.
        assert_eq!(refuses(Answer { quote: machine.quote(nonce, 1 << 7), ..good.clone() }), OtherPcrs);
        assert_eq!(refuses(Answer { values: vec![[2; 32]], ..good.clone() }), OtherPcrs);
        assert_eq!(refuses(Answer { values: vec![[2; 32], [8; 32]], ..good.clone() }), OtherValues);
        // One signed thing in the place of the other.
        let swapped = Answer { quote: good.certify.clone(), ..good.clone() };
        assert_eq!(refuses(swapped), Attest(QUOTE));
        let swapped = Answer { certify: good.quote.clone(), ..good.clone() };
        assert_eq!(refuses(swapped), Attest(CERTIFICATION));
        let foreign = machine.sign(b"something that no TPM said".to_vec());
        assert_eq!(refuses(Answer { quote: foreign, ..good.clone() }), Attest(QUOTE));
        // Not what the verifier knows.
        let name = [1; 32];
        let expected = Expected { endorsement: Some(name), ..Expected::default() };
        let found = machine.kept.request.endorsement_name();
        assert_eq!(machine.refuses(good.clone(), &expected), OtherEndorsement(found));
        let of_pcr = |pcr, value| Expected { pcrs: [(pcr, value)].into(), ..Expected::default() };
        assert_eq!(machine.refuses(good.clone(), &of_pcr(7, [8; 32])), UnexpectedValue(7));
        assert_eq!(machine.refuses(good, &of_pcr(4, [4; 32])), NotAsked(4));
    }

    #[test]
    fn no_byte_of_an_answer_can_be_changed() {
        let machine = Machine::new();
        let bytes = machine.answer().to_bytes();
        for at in 0..bytes.len() {
            assert!(Answer::parse(&bytes[..at]).is_err(), "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(Answer::parse(&flipped).is_err(), "byte {at}");
        }
        assert!(Answer::parse(&[&bytes[..], b"x"].concat()).is_err());
        // What was signed, by somebody who knows how check sums are made. Which signer and clock it was is not looked at,
        // but signed.
        for at in 0..machine.answer().quote.attest.len() {
            let mut answer = machine.answer();
            answer.quote.attest[at] ^= 1;
            assert_eq!(machine.refuses(answer, &Expected::default()), AttestationError::Signature(QUOTE));
        }
    }
}
