//! A request for a right: a few lines of text that the principal signed who asks. It gives nothing; it is what somebody who
//! may give rights reads before deciding.
//!
//! Invariant: of a [`Request`] that was parsed, the principal that it names signed every byte.

use super::TextError;
use crate::crypto::{
    Hash, Principal, PublicKeys, Rights, from_hexadecimal, hexadecimal, tagged_hash, verify,
};
use crate::limits::CAP_REQUEST_BYTES_MAX;

const TITLE: &str = "blocktree request 1";
/// The longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 200;

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub principal: PublicKeys,
    /// Below what, as a path in the tree.
    pub path: String,
    /// [`Rights::READ`], with or without [`Rights::WRITE`].
    pub rights: Rights,
    /// For people; may be empty.
    pub reason: String,
    /// When it was made, as its maker says: seconds since 1970.
    pub seconds: u64,
}

/// Why a text is no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("it is no request of Blocktree's")]
    Foreign,
    #[error("it was written by another version of Blocktree")]
    Version,
    #[error("its line {0:?} is missing or makes no sense")]
    Line(&'static str),
    #[error("it is longer than a request may be")]
    TooLong,
    #[error(transparent)]
    Principal(#[from] TextError),
    #[error("its signature is wrong: it was changed, or who it names did not make it")]
    Signature,
}

impl Request {
    /// The text, signed by who asks.
    pub fn sign(
        principal: &Principal,
        path: &str,
        rights: Rights,
        reason: &str,
        seconds: u64,
    ) -> Result<String, RequestError> {
        let request = Self {
            principal: principal.public(),
            path: path.to_owned(),
            rights,
            reason: reason.to_owned(),
            seconds,
        };
        request.check()?;
        let lines = request.lines();
        let signature = hexadecimal(&principal.sign(&signed_hash(&lines)));
        Ok(format!("{lines}signature {signature}\n"))
    }

    /// Reads a request, and verifies it.
    pub fn parse(text: &str) -> Result<Self, RequestError> {
        if text.len() > CAP_REQUEST_BYTES_MAX {
            return Err(RequestError::TooLong);
        }
        match text.lines().next() {
            Some(TITLE) => {}
            Some(title) if title.starts_with("blocktree request ") => return Err(RequestError::Version),
            _ => return Err(RequestError::Foreign),
        }
        let mut lines = text.lines().skip(1);
        let mut field = |name: &'static str| {
            let line = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.ok_or(RequestError::Line(name))
        };
        let request = Self {
            principal: field("principal")?.parse()?,
            path: field("path")?.to_owned(),
            rights: match field("rights")? {
                "r" => Rights::READ,
                "rw" => READ_WRITE,
                _ => return Err(RequestError::Line("rights")),
            },
            seconds: field("time")?.parse().map_err(|_| RequestError::Line("time"))?,
            reason: field("reason")?.to_owned(),
        };
        let signature = field("signature")?;
        request.check()?;
        // There is one way to write it: every other one is a changed one.
        let written = request.lines();
        if text.strip_prefix(&*written).is_none_or(|rest| rest != format!("signature {signature}\n")) {
            return Err(RequestError::Signature);
        }
        let signature = from_hexadecimal(signature)
            .filter(|bytes| hexadecimal(bytes) == signature)
            .ok_or(RequestError::Signature)?;
        if !verify(&request.principal.signing, &signed_hash(&written), &signature) {
            return Err(RequestError::Signature);
        }
        Ok(request)
    }

    /// Names it: the hash of all that was signed.
    pub fn id(&self) -> Hash {
        signed_hash(&self.lines())
    }

    fn check(&self) -> Result<(), RequestError> {
        let is_line = |text: &str| !text.chars().any(char::is_control);
        if !self.path.starts_with('/') || !is_line(&self.path) {
            return Err(RequestError::Line("path"));
        }
        if self.reason.len() > REASON_BYTES_MAX || !is_line(&self.reason) {
            return Err(RequestError::Line("reason"));
        }
        if ![Rights::READ, READ_WRITE].contains(&self.rights) {
            return Err(RequestError::Line("rights"));
        }
        if self.lines().len() + SIGNATURE_LINE_BYTES > CAP_REQUEST_BYTES_MAX {
            return Err(RequestError::TooLong);
        }
        Ok(())
    }

    fn lines(&self) -> String {
        let rights = if self.rights == READ_WRITE { "rw" } else { "r" };
        format!(
            "{TITLE}\nprincipal {}\npath {}\nrights {rights}\ntime {}\nreason {}\n",
            self.principal, self.path, self.seconds, self.reason
        )
    }
}

const READ_WRITE: Rights = Rights(Rights::READ.0 | Rights::WRITE.0);
const SIGNATURE_LINE_BYTES: usize = "signature \n".len() + 128;

fn signed_hash(lines: &str) -> Hash {
    tagged_hash("blocktree request v1", &[lines.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(principal: &Principal) -> String {
        Request::sign(principal, "/photos/2026", READ_WRITE, "my phone's pictures", 1_764_000_000).unwrap()
    }

    #[test]
    fn what_was_signed_is_read() {
        let principal = Principal::generate();
        let text = signed(&principal);
        let request = Request::parse(&text).unwrap();
        assert_eq!((request.principal, &*request.path), (principal.public(), "/photos/2026"));
        assert_eq!((request.rights, &*request.reason), (READ_WRITE, "my phone's pictures"));
        assert_eq!(request.seconds, 1_764_000_000);
        let other = Request::sign(&principal, "/", Rights::READ, "", 0).unwrap();
        assert_ne!(Request::parse(&other).unwrap().id(), request.id());
    }

    #[test]
    fn nothing_is_changed_unnoticed() {
        let principal = Principal::generate();
        let text = signed(&principal);
        for at in 0..text.len() {
            assert!(Request::parse(&text[..at]).is_err(), "cut at {at}");
            for bit in [1, 0x20] {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= bit;
                assert!(
                    String::from_utf8(bytes).is_ok_and(|text| Request::parse(&text).is_err()),
                    "byte {at}"
                );
            }
        }
        let parse = |text: &str| Request::parse(text).unwrap_err();
        let other = Principal::generate().public().to_string();
        assert_eq!(parse(&text.replace(&principal.public().to_string(), &other)), RequestError::Signature);
        assert_eq!(parse(&text.replace("rights rw", "rights rwx")), RequestError::Line("rights"));
        assert_eq!(parse(&text.replace("request 1", "request 2")), RequestError::Version);
        assert_eq!(parse(&text.replace('\n', "\r\n")), RequestError::Signature);
        assert_eq!(parse(&(text.clone() + "\n")), RequestError::Signature);
        assert_eq!(parse("hello"), RequestError::Foreign);
        assert_eq!(parse(&"x".repeat(9000)), RequestError::TooLong);
    }

    #[test]
    fn what_makes_no_sense_is_not_signed() {
        let principal = Principal::generate();
        let sign =
            |path: &str, rights, reason: &str| Request::sign(&principal, path, rights, reason, 0).map(drop);
        assert_eq!(sign("photos", Rights::READ, ""), Err(RequestError::Line("path")));
        assert_eq!(sign("/a\nrights rw", Rights::READ, ""), Err(RequestError::Line("path")));
        assert_eq!(sign("/", Rights::ALL, ""), Err(RequestError::Line("rights")));
        assert_eq!(sign("/", Rights::READ, "a\u{1b}[2J"), Err(RequestError::Line("reason")));
        assert_eq!(sign("/", Rights::READ, &"x".repeat(201)), Err(RequestError::Line("reason")));
        assert_eq!(sign(&"/x".repeat(4000), Rights::READ, ""), Err(RequestError::TooLong));
    }
}
