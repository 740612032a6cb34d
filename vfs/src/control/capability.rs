//! Calls about capabilities: what is asked of whoever has a store open.
//!
//! Nothing in them is believed by itself. What gives or ends a right is signed by who has it to give, in the process that
//! asks: the daemon never sees such a key.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use blocktree_engine::format::{CertificateBytes, RevocationBytes};

use super::VERSION;

/// The longest path, and what stands before it.
pub const CAPABILITY_CALL_BYTES_MAX: usize = size_of::<Head>() + PATH_BYTES_MAX;
const PATH_BYTES_MAX: usize = 4095;
const _: () = assert!(size_of::<CertificateBytes>() <= PATH_BYTES_MAX);

/// How a call begins.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Head {
    version: u32,
    /// One of the constants below, which say what follows.
    what: u32,
}
const _: () = assert!(size_of::<Head>() == 8);

/// Nothing.
const LIST: u32 = 1;
/// A path in the tree, as UTF-8.
const FIND: u32 = 2;
/// A certificate.
const GIVE: u32 = 3;
/// A revocation.
const REVOKE: u32 = 4;

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CapabilityCall {
    /// Which capabilities are there?
    List,
    /// Which store is this, what was its last record, and which block is the directory at this path?
    Find(String),
    /// Give what a certificate says.
    Give(CertificateBytes),
    /// End a writecap.
    Revoke(RevocationBytes),
}

impl CapabilityCall {
    pub fn encode(&self) -> Vec<u8> {
        let (what, body): (u32, &[u8]) = match self {
            Self::List => (LIST, &[]),
            Self::Find(path) => (FIND, path.as_bytes()),
            Self::Give(certificate) => (GIVE, certificate.as_bytes()),
            Self::Revoke(revocation) => (REVOKE, revocation.as_bytes()),
        };
        [Head { version: VERSION, what }.as_bytes(), body].concat()
    }

    /// `None` for what is no call, or one of another version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, body) = Head::read_from_prefix(bytes).ok()?;
        match (head.version, head.what) {
            (VERSION, LIST) if body.is_empty() => Some(Self::List),
            (VERSION, FIND) if body.len() <= PATH_BYTES_MAX => {
                Some(Self::Find(std::str::from_utf8(body).ok()?.to_owned()))
            }
            (VERSION, GIVE) => Some(Self::Give(CertificateBytes::read_from_bytes(body).ok()?)),
            (VERSION, REVOKE) => Some(Self::Revoke(RevocationBytes::read_from_bytes(body).ok()?)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn calls_come_back_as_they_were() {
        let certificate = CertificateBytes { serial: 7.into(), ..CertificateBytes::new_zeroed() };
        let revocation = RevocationBytes { serial: 7.into(), ..RevocationBytes::new_zeroed() };
        let calls = [
            CapabilityCall::List,
            CapabilityCall::Find("/photos".into()),
            CapabilityCall::Find("x".repeat(PATH_BYTES_MAX)),
            CapabilityCall::Give(certificate),
            CapabilityCall::Revoke(revocation),
        ];
        for call in calls {
            let bytes = call.encode();
            assert!(bytes.len() <= CAPABILITY_CALL_BYTES_MAX);
            assert_eq!(CapabilityCall::decode(&bytes), Some(call.clone()));
            let is_path = matches!(call, CapabilityCall::Find(_));
            let longer = CapabilityCall::decode(&[&bytes[..], b"x"].concat());
            assert!(longer.is_none() || (is_path && bytes.len() < CAPABILITY_CALL_BYTES_MAX));
            let other = Head { version: VERSION + 1, what: LIST };
            assert_eq!(CapabilityCall::decode(&[other.as_bytes(), &bytes[8..]].concat()), None);
        }
        assert_eq!(CapabilityCall::decode(&[]), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_a_call_or_none(what in 0..6_u32, body: Vec<u8>) {
            let bytes = [Head { version: VERSION, what }.as_bytes(), &body].concat();
            if let Some(call) = CapabilityCall::decode(&bytes) {
                prop_assert_eq!(call.encode(), bytes);
            }
        }
    }
}
