//! Structures as TPMs write them: TPM 2.0 Library, part 2. Numbers in them begin with the most significant byte.
//!
//! Only what Blocktree makes is read; a key of another kind is refused with the reason.

use crate::crypto::{ApproverPublic, CertifiedKey, sha256};
use crate::format::{Malformed, malformed};

// TPM_ALG_ID, TPM_ECC_CURVE.
const ALG_RSA: u16 = 0x0001;
const ALG_AES: u16 = 0x0006;
const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECC: u16 = 0x0023;
const ALG_CFB: u16 = 0x0043;
const ECC_P256: u16 = 0x0003;

/// What stands before a point with both coordinates (SEC 1, 2.3.3).
const UNCOMPRESSED: u8 = 4;

// TPM_GENERATED, TPM_ST.
const MADE_BY_TPM: u32 = 0xff54_4347;
const ATTEST_CERTIFY: u16 = 0x8017;
const ATTEST_QUOTE: u16 = 0x8018;

// TPMA_OBJECT.
const FIXED_TPM: u32 = 1 << 1;
const FIXED_PARENT: u32 = 1 << 4;
const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
const SIGN: u32 = 1 << 18;

/// Bytes that are still to be read.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A TPM2B: a length, and as many bytes.
    pub(super) fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.bytes(length.into())
    }

    /// TPMS_ECC_POINT of P-256: x and y.
    fn point(&mut self) -> Option<[u8; 64]> {
        let mut point = [0; 64];
        for half in point.chunks_exact_mut(32) {
            let coordinate = self.sized()?;
            half[32_usize.checked_sub(coordinate.len())?..].copy_from_slice(coordinate);
        }
        Some(point)
    }

    /// Whether these are the next 16-bit numbers.
    pub(super) fn are(&mut self, numbers: &[u16]) -> Option<()> {
        numbers.iter().try_for_each(|number| (self.u16()? == *number).then_some(()))
    }

    /// Whether all was read.
    pub(super) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// The name of an object, by which TPMs speak of it: the hash's algorithm, and SHA-256 of its public area.
pub(super) fn name_of(public: &[u8]) -> [u8; 34] {
    let mut name = [0; 34];
    name[..2].copy_from_slice(&ALG_SHA256.to_be_bytes());
    name[2..].copy_from_slice(&sha256(&[public]));
    name
}

/// The public area (TPMT_PUBLIC) of a key that a TPM made and keeps, and that signs with ECDSA over P-256 with SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey {
    pub(super) point: ApproverPublic,
    pub(super) is_restricted: bool,
}

impl SigningKey {
    pub fn parse(public: &[u8]) -> Result<Self, Malformed> {
        const WHAT: &str = "public part of a TPM's signing key";
        let read = || {
            let mut reader = Reader(public);
            reader.are(&[ALG_ECC, ALG_SHA256])?;
            let attributes = reader.u32()?;
            let _policy = reader.sized()?;
            // No symmetric algorithm; the scheme; the curve; no key derivation.
            reader.are(&[ALG_NULL, ALG_ECDSA, ALG_SHA256, ECC_P256, ALG_NULL])?;
            let point = reader.point()?;
            reader.end()?;
            Some((attributes, point))
        };
        let (attributes, point) = read().ok_or(malformed(WHAT, "it is no such key, or damaged"))?;
        check_kept(WHAT, attributes)?;
        if attributes & (SIGN | DECRYPT) != SIGN {
            return Err(malformed(WHAT, "it is for something else than signing"));
        }
        Ok(Self { point, is_restricted: attributes & RESTRICTED != 0 })
    }
}

/// The TCG's default templates for endorsement keys (EK Credential Profile, B.3.3 and B.3.4). TPMs have one of them, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndorsementKind {
    /// RSA-2048.
    Rsa,
    /// ECC over P-256.
    Ecc,
}

/// How many bytes a modulus has, and what is encrypted to it.
pub(super) const RSA_BYTES: usize = 256;

/// The public area of an endorsement key, of either template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndorsementKey {
    /// The modulus; the exponent is 65537.
    Rsa([u8; RSA_BYTES]),
    /// x and y.
    Ecc([u8; 64]),
}

impl EndorsementKey {
    pub fn parse(public: &[u8]) -> Result<Self, Malformed> {
        const WHAT: &str = "public part of a TPM's endorsement key";
        const BITS: u16 = RSA_BYTES as u16 * 8;
        let read = || {
            let mut reader = Reader(public);
            let algorithm = reader.u16()?;
            reader.are(&[ALG_SHA256])?;
            let attributes = reader.u32()?;
            let _policy = reader.sized()?;
            // The cipher for what is below it; no scheme.
            reader.are(&[ALG_AES, 128, ALG_CFB, ALG_NULL])?;
            let key = match algorithm {
                ALG_RSA => {
                    // The default exponent.
                    reader.are(&[BITS, 0, 0])?;
                    Self::Rsa(reader.sized()?.try_into().ok()?)
                }
                ALG_ECC => {
                    // The curve; no key derivation.
                    reader.are(&[ECC_P256, ALG_NULL])?;
                    Self::Ecc(reader.point()?)
                }
                _ => return None,
            };
            reader.end()?;
            Some((attributes, key))
        };
        let (attributes, key) = read().ok_or(malformed(WHAT, "it is no such key, or damaged"))?;
        check_kept(WHAT, attributes)?;
        if attributes & (RESTRICTED | DECRYPT | SIGN) != RESTRICTED | DECRYPT {
            return Err(malformed(WHAT, "it is for something else than endorsing"));
        }
        Ok(key)
    }

    /// Whether this is the key that somebody certified.
    pub(super) fn is(&self, certified: &CertifiedKey) -> bool {
        match (self, certified) {
            (Self::Rsa(modulus), CertifiedKey::Rsa(other)) => other == modulus,
            (Self::Ecc(point), CertifiedKey::Ecc(other)) => {
                other.split_first() == Some((&UNCOMPRESSED, &point[..]))
            }
            _ => false,
        }
    }
}

/// What a TPM attests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attested {
    /// That it has an object of this name.
    Certify { name: [u8; 34] },
    /// That SHA-256 of the values of these PCRs of the SHA-256 bank, a bit each, is `digest`.
    Quote { pcrs: u32, digest: [u8; 32] },
}

/// Reads TPMS_ATTEST: the nonce that was given to the TPM, and what it attests.
pub(crate) fn parse_attest(bytes: &[u8]) -> Option<([u8; 32], Attested)> {
    let mut reader = Reader(bytes);
    // So that a restricted key signs nothing that looks as if the TPM had said it.
    (reader.u32()? == MADE_BY_TPM).then_some(())?;
    let kind = reader.u16()?;
    let _signer = reader.sized()?;
    let nonce = reader.sized()?.try_into().ok()?;
    // Clock, resets, restarts, whether the clock is safe; the firmware's version.
    reader.bytes(8 + 4 + 4 + 1 + 8)?;
    let attested = match kind {
        ATTEST_CERTIFY => {
            let name = reader.sized()?.try_into().ok()?;
            let _qualified = reader.sized()?;
            Attested::Certify { name }
        }
        ATTEST_QUOTE => {
            Attested::Quote { pcrs: selection(&mut reader)?, digest: reader.sized()?.try_into().ok()? }
        }
        _ => return None,
    };
    reader.end()?;
    Some((nonce, attested))
}

/// TPML_PCR_SELECTION of the SHA-256 bank.
fn selection(reader: &mut Reader<'_>) -> Option<u32> {
    if reader.u32()? == 0 {
        return Some(0);
    }
    reader.are(&[ALG_SHA256])?;
    let [length] = reader.array()?;
    let mut bits = [0; 4];
    let selected = reader.bytes(length.into())?;
    bits.get_mut(..selected.len())?.copy_from_slice(selected);
    Some(u32::from_le_bytes(bits))
}

/// Refuses a key that could be anywhere else than in the TPM.
fn check_kept(what: &'static str, attributes: u32) -> Result<(), Malformed> {
    if attributes & (FIXED_TPM | FIXED_PARENT) != FIXED_TPM | FIXED_PARENT {
        return Err(malformed(what, "it can be exported from the TPM"));
    }
    if attributes & SENSITIVE_DATA_ORIGIN == 0 {
        return Err(malformed(what, "it was not made by the TPM"));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a TPM signs statements and quotes with.
    pub(crate) const KEPT: u32 = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN;
    pub(crate) const SIGNING: u32 = KEPT | SIGN;

    /// A public area as a TPM writes it.
    pub(crate) fn public(attributes: u32, point: &[u8; 64]) -> Vec<u8> {
        let number = |number: u16| number.to_be_bytes().to_vec();
        let (x, y) = point.split_at(32);
        let parts = [
            number(ALG_ECC),
            number(ALG_SHA256),
            attributes.to_be_bytes().to_vec(),
            number(0),
            [ALG_NULL, ALG_ECDSA, ALG_SHA256, ECC_P256, ALG_NULL].into_iter().flat_map(number).collect(),
            number(32),
            x.to_vec(),
            number(32),
            y.to_vec(),
        ];
        parts.concat()
    }

    pub(crate) const RESTRICTED_SIGNING: u32 = SIGNING | RESTRICTED;
    const ENDORSING: u32 = KEPT | RESTRICTED | DECRYPT;

    fn endorsement_with(algorithm: u16, attributes: u32, parameters: &[u16], unique: &[&[u8]]) -> Vec<u8> {
        let number = |number: u16| number.to_be_bytes().to_vec();
        let numbers = |numbers: &[u16]| numbers.iter().copied().flat_map(number).collect();
        let sized = |bytes: &&[u8]| [number(bytes.len() as u16), bytes.to_vec()].concat();
        let parts = [
            numbers(&[algorithm, ALG_SHA256]),
            attributes.to_be_bytes().to_vec(),
            sized(&&[9; 32][..]),
            numbers(&[ALG_AES, 128, ALG_CFB, ALG_NULL]),
            numbers(parameters),
            unique.iter().flat_map(sized).collect(),
        ];
        parts.concat()
    }

    fn rsa_endorsement_with(attributes: u32) -> Vec<u8> {
        endorsement_with(ALG_RSA, attributes, &[2048, 0, 0], &[&[0xc5; 256]])
    }

    /// An endorsement key whose private part nobody has.
    pub(crate) fn endorsement() -> Vec<u8> {
        rsa_endorsement_with(ENDORSING)
    }

    /// One of the other template.
    pub(crate) fn ecc_endorsement(point: &[u8; 64]) -> Vec<u8> {
        let (x, y) = point.split_at(32);
        endorsement_with(ALG_ECC, ENDORSING, &[ECC_P256, ALG_NULL], &[x, y])
    }

    fn attest(kind: u16, nonce: &[u8; 32], attested: &[u8]) -> Vec<u8> {
        let head = [&MADE_BY_TPM.to_be_bytes()[..], &kind.to_be_bytes(), &[0, 3, 1, 2, 3, 0, 32], nonce];
        [&head.concat()[..], &[5; 25], attested].concat()
    }

    pub(crate) fn attest_certify(nonce: &[u8; 32], name: &[u8; 34]) -> Vec<u8> {
        attest(ATTEST_CERTIFY, nonce, &[&[0, 34][..], name, &[0, 2, 1, 1]].concat())
    }

    pub(crate) fn attest_quote(nonce: &[u8; 32], pcrs: u32, digest: &[u8; 32]) -> Vec<u8> {
        let selected = &pcrs.to_le_bytes()[..3];
        let attested = [&[0, 0, 0, 1, 0, 0x0b, 3][..], selected, &[0, 32], digest].concat();
        attest(ATTEST_QUOTE, nonce, &attested)
    }

    #[test]
    fn what_a_tpm_attests_is_read_whole_or_not_at_all() {
        let quote = attest_quote(&[1; 32], 0x80_0085, &[4; 32]);
        let quoted = Attested::Quote { pcrs: 0x80_0085, digest: [4; 32] };
        assert_eq!(parse_attest(&quote), Some(([1; 32], quoted)));
        let certify = attest_certify(&[1; 32], &[6; 34]);
        assert_eq!(parse_attest(&certify), Some(([1; 32], Attested::Certify { name: [6; 34] })));
        for bytes in [quote, certify] {
            for at in 0..bytes.len() {
                assert_eq!(parse_attest(&bytes[..at]), None, "cut at {at}");
            }
            assert_eq!(parse_attest(&[&bytes[..], &[0]].concat()), None);
            // Not said by a TPM; of another kind.
            for at in [0, 5] {
                let mut flipped = bytes.clone();
                flipped[at] ^= 2;
                assert_eq!(parse_attest(&flipped), None);
            }
        }
    }

    #[test]
    fn an_endorsement_key_is_one_of_the_usual_templates() {
        assert_eq!(EndorsementKey::parse(&endorsement()), Ok(EndorsementKey::Rsa([0xc5; 256])));
        assert_eq!(EndorsementKey::parse(&ecc_endorsement(&[7; 64])), Ok(EndorsementKey::Ecc([7; 64])));
        for (attributes, why) in [
            (ENDORSING & !FIXED_TPM, "exported"),
            (ENDORSING & !SENSITIVE_DATA_ORIGIN, "not made by the TPM"),
            (ENDORSING & !RESTRICTED, "something else"),
            (ENDORSING | SIGN, "something else"),
        ] {
            assert!(EndorsementKey::parse(&rsa_endorsement_with(attributes)).unwrap_err().why.contains(why));
        }
        for bytes in [endorsement(), ecc_endorsement(&[7; 64])] {
            for at in 0..bytes.len() {
                assert!(EndorsementKey::parse(&bytes[..at]).is_err(), "cut at {at}");
            }
            assert!(EndorsementKey::parse(&[&bytes[..], &[0]].concat()).is_err());
        }
        // Neither a key of one kind with the parameters of the other, nor another curve.
        for (algorithm, parameters) in [(ALG_RSA, &[ECC_P256, ALG_NULL][..]), (ALG_ECC, &[4, ALG_NULL])] {
            let other = endorsement_with(algorithm, ENDORSING, parameters, &[&[7; 32], &[7; 32]]);
            assert!(EndorsementKey::parse(&other).unwrap_err().why.contains("no such key"));
        }
    }

    #[test]
    fn a_key_is_one_that_was_made_in_the_tpm_and_stays_there() {
        let point = [7; 64];
        let bytes = public(SIGNING, &point);
        assert_eq!(SigningKey::parse(&bytes), Ok(SigningKey { point, is_restricted: false }));
        assert!(SigningKey::parse(&public(SIGNING | RESTRICTED, &point)).unwrap().is_restricted);
        for (attributes, why) in [
            (SIGNING & !FIXED_TPM, "exported"),
            (SIGNING & !FIXED_PARENT, "exported"),
            (SIGNING & !SENSITIVE_DATA_ORIGIN, "not made by the TPM"),
            (SIGNING & !SIGN, "something else"),
            (SIGNING | DECRYPT, "something else"),
        ] {
            let refused = SigningKey::parse(&public(attributes, &point)).unwrap_err();
            assert!(refused.why.contains(why), "{attributes:#x}: {refused}");
        }
        for at in 0..bytes.len() {
            assert!(SigningKey::parse(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(SigningKey::parse(&[&bytes[..], &[0]].concat()).is_err());
        // A coordinate that begins with zeros may be written without them.
        let mut short = public(SIGNING, &[[0; 32], [7; 32]].concat().try_into().unwrap());
        let at = short.len() - 34 - 32 - 2;
        short.splice(at..at + 34, [0, 1, 0]);
        assert_eq!(SigningKey::parse(&short).unwrap().point[..32], [0; 32]);
    }
}
