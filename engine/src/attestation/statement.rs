//! What a key that never leaves a TPM says of a node: that it is this one, of this store.
//!
//! A node signs every commit, with a key that is fast because it is in memory. Whoever has the passphrase can copy that key; the one
//! in the TPM nobody can copy, and it signs the statement and nothing more. The node in turn signs the TPM key's name, so
//! that nobody else's TPM can claim the node.

use zerocopy::{FromBytes, IntoBytes};

use super::structures::{SigningKey, name_of};
use crate::crypto::{Hash, PublicKeys, hash, hexadecimal, tagged_hash, verify, verify_p256};
use crate::format::{Malformed, NodeStatementBytes, malformed};

const WHAT: &str = "statement of a TPM's key";
/// No key of P-256 takes more, neither its public nor its private part.
const PART_BYTES_MAX: usize = 512;

/// A TPM key, as the TPM writes it: TPMT_PUBLIC and TPM2B_PRIVATE's buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementKey {
    pub public: Vec<u8>,
    /// Of use to that TPM alone; empty where it is shown to others.
    pub private: Vec<u8>,
}

/// A statement that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatement {
    pub store_id: [u8; 16],
    pub node: PublicKeys,
    pub key: StatementKey,
    key_signature: [u8; 64],
    node_signature: [u8; 64],
}

impl NodeStatement {
    /// What the TPM's key signs, with SHA-256.
    pub fn message(store_id: &[u8; 16], node: &PublicKeys) -> Vec<u8> {
        [&b"blocktree TPM node statement v1\0"[..], store_id, &node.to_bytes()].concat()
    }

    /// What the node signs of the TPM's key.
    pub fn counter_hash(store_id: &[u8; 16], key_public: &[u8]) -> Hash {
        tagged_hash("blocktree TPM key of a node v1", &[store_id, &name_of(key_public)])
    }

    /// A statement that both have signed, if it holds.
    pub fn new(
        store_id: [u8; 16],
        node: PublicKeys,
        key: StatementKey,
        key_signature: [u8; 64],
        node_signature: [u8; 64],
    ) -> Result<Self, Malformed> {
        if key.public.len().max(key.private.len()) > PART_BYTES_MAX {
            return Err(malformed(WHAT, "its key is too long"));
        }
        let point = SigningKey::parse(&key.public)?.point;
        if !verify_p256(&point, &Self::message(&store_id, &node), &key_signature) {
            return Err(malformed(WHAT, "it is not signed by the key in the TPM"));
        }
        if !verify(&node.signing, &Self::counter_hash(&store_id, &key.public), &node_signature) {
            return Err(malformed(WHAT, "the node that it is about has not signed it"));
        }
        Ok(Self { store_id, node, key, key_signature, node_signature })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let head = NodeStatementBytes {
            store_id: self.store_id,
            node: self.node.to_bytes(),
            key_signature: self.key_signature,
            node_signature: self.node_signature,
            public_bytes: (self.key.public.len() as u32).into(),
            private_bytes: (self.key.private.len() as u32).into(),
        };
        [head.as_bytes(), &self.key.public, &self.key.private].concat()
    }

    /// Reads and verifies a statement; what follows it is left.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        const SHORT: Malformed = malformed(WHAT, "it is cut off");
        let (head, rest) = NodeStatementBytes::read_from_prefix(bytes).map_err(|_| SHORT)?;
        let (public, rest) = rest.split_at_checked(head.public_bytes.get() as usize).ok_or(SHORT)?;
        let (private, rest) = rest.split_at_checked(head.private_bytes.get() as usize).ok_or(SHORT)?;
        let key = StatementKey { public: public.to_vec(), private: private.to_vec() };
        let node = PublicKeys::from_bytes(&head.node);
        let statement = Self::new(head.store_id, node, key, head.key_signature, head.node_signature)?;
        Ok((statement, rest))
    }

    /// For others: without what only the TPM reads.
    pub fn without_private(mut self) -> Self {
        self.key.private.clear();
        self
    }

    /// Names the TPM's key, for people.
    pub fn key_fingerprint(&self) -> String {
        hexadecimal(&hash(&self.key.public))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::structures::tests::{SIGNING, public};
    use super::*;
    use crate::crypto::{Approver, Principal, Secret};

    /// Signed by a node and a key that could be a TPM's.
    pub(crate) fn statement(node: &Principal, attributes: u32) -> Result<NodeStatement, Malformed> {
        let approver = Approver::from_secret(&Secret::random());
        let key = StatementKey { public: public(attributes, approver.public()), private: vec![3; 40] };
        let (store_id, of) = ([8; 16], node.public());
        let key_signature = approver.sign(&NodeStatement::message(&store_id, &of));
        let node_signature = node.sign(&NodeStatement::counter_hash(&store_id, &key.public));
        NodeStatement::new(store_id, of, key, key_signature, node_signature)
    }

    #[test]
    fn what_both_signed_is_read_and_nothing_else() {
        let node = Principal::generate();
        let stated = statement(&node, SIGNING).unwrap();
        let bytes = stated.to_bytes();
        let followed = [&bytes[..], b"more"].concat();
        assert_eq!(NodeStatement::parse(&followed), Ok((stated.clone(), &b"more"[..])));
        for at in 0..bytes.len() - 40 {
            assert!(NodeStatement::parse(&bytes[..at]).is_err(), "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(NodeStatement::parse(&flipped).is_err(), "byte {at}");
        }
        let shown = stated.without_private().to_bytes();
        assert_eq!(shown.len(), bytes.len() - 40);
        assert!(NodeStatement::parse(&shown).is_ok());
    }

    #[test]
    fn others_cannot_claim_a_node_or_be_claimed() {
        let (node, other) = (Principal::generate(), Principal::generate());
        let (one, two) = (statement(&node, SIGNING).unwrap(), statement(&other, SIGNING).unwrap());
        let whys = [
            // Another TPM's key, and what it signed itself; another node.
            NodeStatement::new(
                one.store_id,
                one.node,
                two.key.clone(),
                two.key_signature,
                one.node_signature,
            ),
            NodeStatement::new(
                two.store_id,
                two.node,
                two.key.clone(),
                two.key_signature,
                one.node_signature,
            ),
            NodeStatement::new([9; 16], one.node, one.key.clone(), one.key_signature, one.node_signature),
        ];
        let whys = whys.map(|refused| refused.unwrap_err().why);
        assert_eq!(
            whys,
            [
                "it is not signed by the key in the TPM",
                "the node that it is about has not signed it",
                "it is not signed by the key in the TPM"
            ]
        );
        // One that could be copied.
        assert!(statement(&node, SIGNING & !2).unwrap_err().why.contains("exported"));
    }
}
