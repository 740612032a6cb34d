//! A secret that one TPM keeps, in a file: what that TPM made of it, and what it asks for before it gives it out.
//!
//! Only the TPM that made it can open it. All that is in the file may be known to anybody.
//!
//! The TPM asks for certain values of its PCRs. They are in the object itself and fixed; or it names a key, the approver,
//! and the file has that key's signatures of policies, one for each way in which the machine may start.
//!
//! Invariant: a statement of a file that was parsed was signed by the key and by the node that it names.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::attestation::NodeStatement;
use crate::crypto::{ApproverPublic, tagged_hash};
use crate::format::{FORMAT_VERSION, Malformed, OTHER_VERSION, TpmFileHeader, check_kind, malformed};
use crate::limits::{APPROVALS_MAX, SEALED_FILE_BYTES_MAX};

const WHAT: &str = "TPM file";
const CHECK_BYTES: usize = 32;
const PIN: u32 = 1;
const APPROVED: u32 = 2;
const NODE: u32 = 4;

/// A secret that is sealed to a TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmFile {
    /// The PCRs of the SHA-256 bank that must be as they were, or as was approved, a bit each.
    pub pcrs: u32,
    /// A PIN is needed.
    pub has_pin: bool,
    /// The object as the TPM writes it: TPMT_PUBLIC and TPM2B_PRIVATE's buffer.
    pub public: Vec<u8>,
    pub private: Vec<u8>,
    /// What a key of that TPM says of the node whose store the secret opens. Files of anchors have none, nor have those that were
    /// made by programs that knew of none.
    pub node: Option<NodeStatement>,
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
        let pin = if self.has_pin { PIN } else { 0 };
        let approved = if self.approvals.is_some() { APPROVED } else { 0 };
        let node = if self.node.is_some() { NODE } else { 0 };
        let header = TpmFileHeader {
            magic: TpmFileHeader::MAGIC,
            version: FORMAT_VERSION.into(),
            pcrs: self.pcrs.into(),
            flags: (pin | approved | node).into(),
            public_bytes: (self.public.len() as u32).into(),
            private_bytes: (self.private.len() as u32).into(),
        };
        let mut file = [header.as_bytes(), &self.public, &self.private].concat();
        if let Some(node) = &self.node {
            file.extend_from_slice(&node.to_bytes());
        }
        if let Some(approvals) = &self.approvals {
            file.extend_from_slice(&approvals.approver);
            file.extend_from_slice(approvals.signed.as_bytes());
        }
        file.extend_from_slice(&check_sum(&file));
        file
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        const DAMAGED: Malformed = malformed(WHAT, "it is damaged or cut off");
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
        Ok(Self {
            pcrs: header.pcrs.get(),
            has_pin: flags & PIN != 0,
            public: public.to_vec(),
            private: private.to_vec(),
            node,
            approvals,
        })
    }
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

    fn file(approvals: Option<usize>) -> TpmFile {
        let approval = |number| Approval { policy: [number as u8; 32], signature: [9; 64] };
        let approvals = approvals
            .map(|count| Approvals { approver: [5; 64], signed: (0..count).map(approval).collect() });
        TpmFile {
            pcrs: 0x80,
            has_pin: true,
            public: vec![1; 78],
            private: vec![2; 190],
            node: None,
            approvals,
        }
    }

    #[test]
    fn what_a_file_says_of_a_node_was_signed() {
        for approvals in [None, Some(2), Some(APPROVALS_MAX)] {
            let node = Some(statement(&Principal::generate(), SIGNING).unwrap());
            let file = TpmFile { node, ..file(approvals) };
            let bytes = file.to_bytes();
            assert_eq!(TpmFile::parse(&bytes), Ok(file));
            // Changed by somebody who knows how check sums are made.
            for at in [28 + 78 + 190, 28 + 78 + 190 + 100] {
                let mut forged = bytes[..bytes.len() - CHECK_BYTES].to_vec();
                forged[at] ^= 1;
                forged.extend_from_slice(&check_sum(&forged));
                assert!(TpmFile::parse(&forged).unwrap_err().why.contains("not signed"), "byte {at}");
            }
        }
        let mut newer = file(None).to_bytes();
        newer[16] |= 8;
        newer.truncate(newer.len() - CHECK_BYTES);
        newer.extend_from_slice(&check_sum(&newer));
        assert_eq!(TpmFile::parse(&newer).unwrap_err().why, OTHER_VERSION);
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_noticed() {
        for file in [file(None), file(Some(0)), file(Some(2)), file(Some(APPROVALS_MAX))] {
            let bytes = file.to_bytes();
            assert_eq!(TpmFile::parse(&bytes), Ok(file));
            for at in 0..bytes.len() {
                assert!(TpmFile::parse(&bytes[..at]).is_err(), "cut at {at}");
                let mut flipped = bytes.clone();
                flipped[at] ^= 1;
                assert!(TpmFile::parse(&flipped).is_err(), "byte {at}");
            }
            assert!(TpmFile::parse(&[&bytes[..], b"x"].concat()).is_err());
        }
        assert!(TpmFile::parse(&file(Some(APPROVALS_MAX + 1)).to_bytes()).is_err());
    }

    #[test]
    fn the_oldest_approval_makes_room() {
        let mut approvals = file(Some(APPROVALS_MAX)).approvals.unwrap();
        let new = Approval { policy: [200; 32], signature: [1; 64] };
        approvals.add(new);
        approvals.add(new);
        assert_eq!(approvals.signed.len(), APPROVALS_MAX);
        assert_eq!(approvals.find(&new.policy), Some(&new));
        assert_eq!(approvals.find(&[0; 32]), None);
        assert!(approvals.find(&[1; 32]).is_some());
    }
}
