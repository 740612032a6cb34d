//! What an app was granted: for each name that its manifest asks for, a directory, rights, and perhaps an end.
//!
//! A directory is known by its inode, so it stays granted when it is renamed, and what takes its name is not.

use blocktree_vfs::{FileKind, Fs, FsError, Ino};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use super::folder::Held;
use crate::ipc::Error;
use crate::limits::{PATH_BYTES_MAX, PATH_PARTS_MAX};
use crate::package::{Endpoint, Rights};

/// A granted directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// What the app calls it.
    pub name: String,
    pub ino: Ino,
    /// Where it was when it was granted, for people.
    pub path: String,
    pub rights: Rights,
    /// Seconds since 1970; no longer granted from then on.
    pub expires: Option<u64>,
}

impl Grant {
    pub fn holds_at(&self, now: u64) -> bool {
        self.expires.is_none_or(|end| now < end)
    }
}

/// What an app may do beside working on files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Powers {
    /// Answer HTTP requests.
    pub serves: bool,
    /// Send requests to these.
    pub hosts: Vec<Host>,
    /// Open connections to these.
    pub sockets: Vec<Endpoint>,
    /// Refuse what others want to do below its grants.
    pub policy: Option<Otherwise>,
    /// Take messages of other apps.
    pub receives: bool,
    /// Send messages to these.
    pub sends: Vec<String>,
}

/// What becomes of an operation for which an app that may refuse it gives no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Otherwise {
    Refuse,
    Allow,
}

/// A host that an app may send requests to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// A name or an address, and perhaps a port; without one, the usual one.
    pub host: String,
    /// Also if its address is one of this machine or of a network of the owner's own.
    pub is_private: bool,
}

/// The parts of a path that an app names: no part is empty or leads up.
pub(super) fn parts(path: &str) -> Result<Vec<&str>, Error> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(Error::Malformed);
    }
    let parts: Vec<&str> = path.split('/').collect();
    let is_part = |part: &&str| !matches!(*part, "" | "." | "..") && !part.contains('\0');
    match parts.len() <= PATH_PARTS_MAX && parts.iter().all(is_part) {
        true => Ok(parts),
        false => Err(Error::Malformed),
    }
}

/// Walks from a granted directory down; every part is a real directory, never a link.
pub(super) fn walk(fs: &Arc<Fs>, from: Ino, parts: &[&str]) -> Result<Option<Held>, Error> {
    let mut at: Option<Held> = None;
    for part in parts {
        let next = Held::lookup(fs, at.as_ref().map_or(from, Held::ino), part.as_bytes()).map_err(error)?;
        at = Some(next);
    }
    Ok(at)
}

/// The names that lead from a granted directory to another, if that is below it; none for that itself. Goes up by inode.
pub(super) fn names_below(fs: &Arc<Fs>, top: Ino, directory: Ino) -> Result<Option<Vec<Vec<u8>>>, FsError> {
    // First whether it is below at all, since names take longer.
    let mut steps: Vec<(Held, Ino)> = Vec::new();
    let mut at = directory;
    while at != top {
        if at == Fs::ROOT {
            return Ok(None);
        }
        if steps.len() > PATH_PARTS_MAX {
            return Err(FsError::TooLarge);
        }
        let above = Held::lookup(fs, at, b"..")?;
        let next = above.ino();
        steps.push((above, at));
        at = next;
    }
    let names = steps.iter().rev().map(|(above, below)| name_of(fs, above.ino(), *below));
    names.collect::<Result<_, _>>().map(Some)
}

/// The name of a directory in the one above it.
fn name_of(fs: &Fs, above: Ino, directory: Ino) -> Result<Vec<u8>, FsError> {
    let mut found = None;
    fs.readdir(above, 0, &mut |entry| {
        if entry.ino == directory && entry.kind == FileKind::Directory && !matches!(entry.name, b"." | b"..")
        {
            found = Some(entry.name.to_owned());
            return false;
        }
        true
    })?;
    found.ok_or(FsError::NotFound)
}

/// What an app is told of a failure.
pub(super) fn error(error: FsError) -> Error {
    use blocktree_engine::Error as Engine;
    match error {
        FsError::NotFound | FsError::Stale => Error::NotFound,
        FsError::Exists => Error::Exists,
        FsError::NotDirectory => Error::NotADirectory,
        FsError::IsDirectory => Error::NotAFile,
        FsError::NotEmpty => Error::NotEmpty,
        FsError::NameTooLong | FsError::Invalid(_) => Error::Malformed,
        FsError::NotPermitted(_) | FsError::Refused => Error::Refused,
        FsError::TooLarge | FsError::TooManyLinks | FsError::DirectoryFull => Error::TooLarge,
        FsError::NoSpace | FsError::Engine(Engine::NoSpace) => Error::NoSpace,
        FsError::Engine(Engine::ReadOnly) => Error::ReadOnly,
        error => {
            tracing::warn!(%error, "a request of an app failed");
            Error::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_do_not_lead_out() {
        assert_eq!(parts("a/b"), Ok(vec!["a", "b"]));
        assert_eq!(parts(""), Ok(vec![]));
        for path in ["/", "/a", "a/", "a//b", "..", "a/../b", ".", "a/.", "a\0"] {
            assert_eq!(parts(path), Err(Error::Malformed), "{path:?}");
        }
        assert_eq!(parts(&"a/".repeat(PATH_PARTS_MAX + 1)), Err(Error::Malformed));
        assert_eq!(parts(&"a".repeat(PATH_BYTES_MAX + 1)), Err(Error::Malformed));
    }

    #[test]
    fn a_grant_ends() {
        let grant = Grant {
            name: "notes".to_owned(),
            ino: 1,
            path: "/notes".to_owned(),
            rights: Rights::Read,
            expires: Some(10),
        };
        assert!(grant.holds_at(9) && !grant.holds_at(10));
        assert!(Grant { expires: None, ..grant }.holds_at(u64::MAX));
    }
}
