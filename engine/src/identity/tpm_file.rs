//! A secret that one TPM keeps, in a file: what that TPM made of it, and what it asks for before it gives it out.
//!
//! Only the TPM that made it can open it. All that is in the file may be known to anybody.
//!
//! The TPM asks for certain values of its PCRs. They are in the object itself and fixed; or it names a key, the approver,
//! and the file has that key's signatures of policies, one for each way in which the machine may start.
//!
//! A file that keeps a store's passphrase says of which node's store. One that keeps the key of a counter has no such statement, so
//! neither is ever taken for the other.
//!
//! Invariant: a statement of a file that was parsed was signed by the key and by the node that it names.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::attestation::NodeStatement;
use crate::crypto::{ApproverPublic, tagged_hash};
use crate::format::{FORMAT_VERSION, Malformed, OTHER_VERSION, TpmFileHeader, check_kind, malformed};
use crate::limits::{APPROVALS_MAX, SEALED_FILE_BYTES_MAX};

const WHAT: &str = "TPM file";
const DAMAGED: Malformed = malformed(WHAT, "it is damaged or cut off");
const CHECK_BYTES: usize = 32;
const PIN: u32 = 1;
const APPROVED: u32 = 2;
const NODE: u32 = 4;

/// A store's passphrase that a TPM keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmFile {
    pub sealed: Sealed,
    /// What a key of that TPM says of the node whose store the passphrase opens.
    pub node: NodeStatement,
}

/// A secret that is sealed to a TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The PCRs of the SHA-256 bank that must be as they were, or as was approved, a bit each.
    pub pcrs: u32,
    /// A PIN is needed.
    pub has_pin: bool,
    /// The object as the TPM writes it: TPMT_PUBLIC and TPM2B_PRIVATE's buffer.
    pub public: Vec<u8>,
    pub private: Vec<u8>,
    /// Who says which values of the PCRs are right; `None`: those of the time when it was sealed.
    pub approvals: Option<Approvals>,
}

/// Policies that a key signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approvals {
    pub approver: ApproverPublic,
    /// The newest last.
    pub signed: Vec<Approval>,
}

/// A policy that was approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Approval {
    /// The digest that PolicyPCR makes of the values.
    pub policy: [u8; 32],
    /// The approver's, r and s, of `policy`.
    pub signature: [u8; 64],
}

impl Approvals {
    pub fn find(&self, policy: &[u8]) -> Option<&Approval> {
        self.signed.iter().find(|approval| approval.policy == policy)
    }

    /// Where there is no room, the oldest makes room.
    pub fn add(&mut self, approval: Approval) {
        self.signed.retain(|signed| signed.policy != approval.policy);
        if self.signed.len() >= APPROVALS_MAX {
            self.signed.remove(0);
        }
        self.signed.push(approval);
    }
}

impl TpmFile {
    pub fn to_bytes(&self) -> Vec<u8> {
        write(&self.sealed, Some(&self.node))
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        const NO_STATEMENT: &str = "it does not say of which node's store: a statement was taken out of it, or it is none that \
             keeps a passphrase; make a new one with `blocktree tpm enroll`";
        let (sealed, node) = read(bytes)?;
        Ok(Self { sealed, node: node.ok_or(malformed(WHAT, NO_STATEMENT))? })
    }
}

impl Sealed {
    pub fn to_bytes(&self) -> Vec<u8> {
        write(self, None)
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        match read(bytes)? {
            (sealed, None) => Ok(sealed),
            _ => Err(malformed(WHAT, "it keeps a store's passphrase, and no key of a counter")),
        }
    }

    /// Takes over what was approved for another secret, if both ask for the same. Whether they do.
    pub fn approve_as(&mut self, other: &Self) -> bool {
        match (&mut self.approvals, &other.approvals) {
            _ if self.pcrs != other.pcrs => false,
            (Some(own), Some(others)) if own.approver == others.approver => {
                others.signed.iter().for_each(|approval| own.add(*approval));
                true
            }
            (None, None) => self.pcrs == 0,
            _ => false,
        }
    }
}

fn write(sealed: &Sealed, node: Option<&NodeStatement>) -> Vec<u8> {
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    let flags =
        flag(sealed.has_pin, PIN) | flag(sealed.approvals.is_some(), APPROVED) | flag(node.is_some(), NODE);
    let header = TpmFileHeader {
        magic: TpmFileHeader::MAGIC,
        version: FORMAT_VERSION.into(),
        pcrs: sealed.pcrs.into(),
        flags: flags.into(),
        public_bytes: (sealed.public.len() as u32).into(),
        private_bytes: (sealed.private.len() as u32).into(),
    };
    let mut file = [header.as_bytes(), &sealed.public, &sealed.private].concat();
    if let Some(node) = node {
        file.extend_from_slice(&node.to_bytes());
    }
    if let Some(approvals) = &sealed.approvals {
        file.extend_from_slice(&approvals.approver);
        file.extend_from_slice(approvals.signed.as_bytes());
    }
    file.extend_from_slice(&check_sum(&file));
    file
}

fn read(bytes: &[u8]) -> Result<(Sealed, Option<NodeStatement>), Malformed> {
    check_kind(WHAT, TpmFileHeader::MAGIC, bytes)?;
    let Ok((header, rest)) = TpmFileHeader::read_from_prefix(bytes) else {
        return Err(malformed(WHAT, "it is too short"));
    };
    let (all, check) = bytes.split_last_chunk().ok_or(DAMAGED)?;
    let flags = header.flags.get();
    if bytes.len() > SEALED_FILE_BYTES_MAX || *check != check_sum(all) {
        return Err(DAMAGED);
    }
    if flags & !(PIN | APPROVED | NODE) != 0 {
        return Err(malformed(WHAT, OTHER_VERSION));
    }
    let rest = rest.len().checked_sub(CHECK_BYTES).map(|length| &rest[..length]).ok_or(DAMAGED)?;
    let (public, rest) = rest.split_at_checked(header.public_bytes.get() as usize).ok_or(DAMAGED)?;
    let (private, rest) = rest.split_at_checked(header.private_bytes.get() as usize).ok_or(DAMAGED)?;
    let (node, rest) = if flags & NODE != 0 {
        let (statement, rest) = NodeStatement::parse(rest)?;
        (Some(statement), rest)
    } else {
        (None, rest)
    };
    let approvals = if flags & APPROVED != 0 {
        Some(parse_approvals(rest).ok_or(DAMAGED)?)
    } else if rest.is_empty() {
        None
    } else {
        return Err(DAMAGED);
    };
    let sealed = Sealed {
        pcrs: header.pcrs.get(),
        has_pin: flags & PIN != 0,
        public: public.to_vec(),
        private: private.to_vec(),
        approvals,
    };
    Ok((sealed, node))
}

fn parse_approvals(bytes: &[u8]) -> Option<Approvals> {
    let (approver, rest) = bytes.split_first_chunk()?;
    let signed = <[Approval]>::ref_from_bytes(rest).ok()?;
    let is_few = signed.len() <= APPROVALS_MAX;
    is_few.then(|| Approvals { approver: *approver, signed: signed.to_vec() })
}

fn check_sum(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    tagged_hash("blocktree TPM file v1", &[bytes])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attestation::tests::{SIGNING, statement};
    use crate::crypto::Principal;

    fn sealed(approvals: Option<usize>) -> Sealed {
        let approval = |number| Approval { policy: [number as u8; 32], signature: [9; 64] };
        let approvals = approvals
            .map(|count| Approvals { approver: [5; 64], signed: (0..count).map(approval).collect() });
        Sealed { pcrs: 0x80, has_pin: true, public: vec![1; 78], private: vec![2; 190], approvals }
    }

    /// By somebody who knows how check sums are made.
    fn forge(bytes: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut forged = bytes[..bytes.len() - CHECK_BYTES].to_vec();
        change(&mut forged);
        forged.extend_from_slice(&check_sum(&forged));
        forged
    }

    #[test]
    fn what_a_file_says_of_a_node_was_signed() {
        for approvals in [None, Some(2), Some(APPROVALS_MAX)] {
            let node = statement(&Principal::generate(), SIGNING).unwrap();
            let file = TpmFile { node, sealed: sealed(approvals) };
            let bytes = file.to_bytes();
            assert_eq!(TpmFile::parse(&bytes), Ok(file.clone()));
            for at in [28 + 78 + 190, 28 + 78 + 190 + 100] {
                let forged = forge(&bytes, |bytes| bytes[at] ^= 1);
                assert!(TpmFile::parse(&forged).unwrap_err().why.contains("not signed"), "byte {at}");
            }
            // Taken out: with its flag, which is what a counter's key looks like, and without.
            let without = file.sealed.to_bytes();
            assert!(TpmFile::parse(&without).unwrap_err().why.contains("taken out"));
            assert_eq!(Sealed::parse(&without), Ok(file.sealed));
            let claimed = forge(&without, |bytes| bytes[16] |= NODE as u8);
            assert!(TpmFile::parse(&claimed).is_err());
            assert!(Sealed::parse(&bytes).unwrap_err().why.contains("passphrase"));
            let hidden = forge(&bytes, |bytes| bytes[16] &= !NODE as u8);
            assert!(TpmFile::parse(&hidden).is_err() && Sealed::parse(&hidden).is_err());
        }
        let newer = forge(&sealed(None).to_bytes(), |bytes| bytes[16] |= 8);
        assert_eq!(Sealed::parse(&newer).unwrap_err().why, OTHER_VERSION);
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_noticed() {
        for sealed in [sealed(None), sealed(Some(0)), sealed(Some(2)), sealed(Some(APPROVALS_MAX))] {
            let bytes = sealed.to_bytes();
            assert_eq!(Sealed::parse(&bytes), Ok(sealed));
            for at in 0..bytes.len() {
                assert!(Sealed::parse(&bytes[..at]).is_err(), "cut at {at}");
                let mut flipped = bytes.clone();
                flipped[at] ^= 1;
                assert!(Sealed::parse(&flipped).is_err(), "byte {at}");
            }
            assert!(Sealed::parse(&[&bytes[..], b"x"].concat()).is_err());
        }
        assert!(Sealed::parse(&sealed(Some(APPROVALS_MAX + 1)).to_bytes()).is_err());
    }

    #[test]
    fn approvals_count_for_all_that_asks_for_the_same() {
        let with = |change: &dyn Fn(&mut Sealed)| {
            let mut other = sealed(Some(3));
            change(&mut other);
            other
        };
        let mut own = sealed(Some(1));
        assert!(own.approve_as(&sealed(Some(3))));
        assert_eq!(own, sealed(Some(3)));
        for other in [
            with(&|other| other.pcrs = 0x10),
            with(&|other| other.approvals = None),
            with(&|other| other.approvals.as_mut().unwrap().approver = [6; 64]),
        ] {
            let mut own = sealed(Some(1));
            assert!(!own.approve_as(&other));
            assert_eq!(own, sealed(Some(1)));
        }
        // Values of one time are no approvals; where no PCR is asked for, there is nothing to approve.
        assert!(!sealed(None).approve_as(&sealed(None)));
        let mut open = Sealed { pcrs: 0, ..sealed(None) };
        assert!(open.clone().approve_as(&open) && !open.approve_as(&sealed(Some(1))));
    }

    #[test]
    fn the_oldest_approval_makes_room() {
        let mut approvals = sealed(Some(APPROVALS_MAX)).approvals.unwrap();
        let new = Approval { policy: [200; 32], signature: [1; 64] };
        approvals.add(new);
        approvals.add(new);
        assert_eq!(approvals.signed.len(), APPROVALS_MAX);
        assert_eq!(approvals.find(&new.policy), Some(&new));
        assert_eq!(approvals.find(&[0; 32]), None);
        assert!(approvals.find(&[1; 32]).is_some());
    }
}
