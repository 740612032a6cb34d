//! Where this machine remembers how far stores had come, so that an older copy of one is noticed.
//!
//! In this order: what the mount option `anchor=` names, the folder that `BLOCKTREE_ANCHOR_DIR` names, and root's or the
//! user's own folder for state.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blocktree_engine::anchor::{Anchor, AnchorStatus, CountedAnchor, FileAnchor};
use blocktree_engine::device::Device;
use blocktree_engine::limits::COUNTER_SECONDS;
use blocktree_engine::{Credential, OpenError, OpenOptions, Store};

use crate::system;
use crate::tpm::TpmCounter;

const COUNTER_INTERVAL: Duration = Duration::from_secs(COUNTER_SECONDS);
const VARIABLE: &str = "BLOCKTREE_ANCHOR_DIR";
const ROOT_FOLDER: &str = "/var/lib/blocktree/anchors";

/// What `-o anchor=` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Choice {
    /// The usual place.
    #[default]
    Usual,
    /// None at all.
    Nowhere,
    /// This file; or, of a folder, the store's own file in it.
    At(PathBuf),
    /// This file, together with a counter of the TPM, whose key is kept as the passphrase is in the other file, if there is one.
    Counted { file: PathBuf, enrolment: Option<PathBuf> },
}

impl Choice {
    /// The anchor; `None` where there is to be none, or no place for one.
    pub(crate) fn anchor(&self) -> Option<Arc<dyn Anchor>> {
        // Whoever uses it later may stand elsewhere.
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Some(match self {
            Self::Nowhere => return None,
            Self::Usual => Arc::new(FileAnchor::in_folder(usual_folder()?)),
            Self::At(path) if path.is_dir() => Arc::new(FileAnchor::in_folder(absolute(path))),
            Self::At(path) => Arc::new(FileAnchor::at(absolute(path))),
            Self::Counted { file, enrolment } => {
                let counter = TpmCounter { enrolment: enrolment.as_ref().map(absolute) };
                Arc::new(CountedAnchor::at(absolute(file), counter, COUNTER_INTERVAL))
            }
        })
    }

    /// Somebody relies on it: it must work.
    pub(crate) fn is_named(&self) -> bool {
        matches!(self, Self::At(_) | Self::Counted { .. })
    }

    /// Has the key of a counter kept as this file says of the passphrase.
    pub(crate) fn follow(&mut self, passphrase: Option<&Path>) {
        if let Self::Counted { enrolment, .. } = self {
            *enrolment = passphrase.map(Path::to_owned);
        }
    }

    /// What was given to [`Choice::follow`], if it matters.
    pub(crate) fn enrolment(&self) -> Option<&Path> {
        match self {
            Self::Counted { enrolment, .. } => enrolment.as_deref(),
            _ => None,
        }
    }
}

fn usual_folder() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = variable(VARIABLE) {
        return Some(std::path::absolute(&folder).unwrap_or(folder));
    }
    if system::effective_user_and_group().0 == 0 {
        return Some(ROOT_FOLDER.into());
    }
    // As the XDG base directory specification has it: relative paths do not count.
    let state = variable("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(variable("HOME")?.join(".local/state")));
    state.map(|state| state.join("blocktree/anchors"))
}

/// What whoever mounts a store should know about its anchor; `None` where all is as usual.
pub(crate) fn notice(status: Option<&AnchorStatus>, choice: &Choice, is_read_only: bool) -> Option<String> {
    let Some(status) = status else {
        let is_missing = *choice == Choice::Usual;
        return is_missing.then(|| {
            format!(
                "nothing here remembers this store, so an older copy of it would not be noticed; set {VARIABLE}, or \
                 give -o anchor=FILE (or anchor=none)"
            )
        });
    };
    let place = &status.place;
    if let Some(failure) = &status.failure {
        return Some(format!(
            "{place} cannot remember this store ({failure}), so an older copy of it would not be noticed"
        ));
    }
    if let Some(accepted) = &status.accepted {
        return Some(format!("accepted as it is, although {place} disagrees: {accepted}"));
    }
    (status.first_use && !is_read_only).then(|| {
        format!(
            "this machine did not know this store yet, so its age was believed; {place} remembers it from now on"
        )
    })
}

/// Holds a store that nobody has open against its anchor: what is wrong, if that can be told.
pub(crate) fn examine(
    device: Arc<dyn Device>,
    credential: &Credential<'_>,
    anchor: Arc<dyn Anchor>,
) -> Option<String> {
    let options =
        OpenOptions { read_only: true, background: false, anchor: Some(anchor), ..OpenOptions::default() };
    match Store::open_as(device, credential, &options) {
        Err(
            error @ (OpenError::RolledBack { .. }
            | OpenError::Anchor { .. }
            | OpenError::OtherRootThanKnown { .. }),
        ) => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            Some(error.to_string() + &source.unwrap_or_default())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> AnchorStatus {
        AnchorStatus { place: "/place".into(), seq: Some(3), first_use: false, accepted: None, failure: None }
    }

    #[test]
    fn only_what_is_unusual_is_said() {
        let say = |status: &AnchorStatus, read_only| notice(Some(status), &Choice::Usual, read_only);
        assert_eq!(say(&status(), false), None);
        let first = AnchorStatus { first_use: true, ..status() };
        assert!(say(&first, false).is_some_and(|text| text.contains("/place remembers it from now on")));
        assert_eq!(say(&first, true), None);
        let failed = AnchorStatus { failure: Some("full".into()), ..status() };
        assert!(say(&failed, true).is_some_and(|text| text.contains("full")));
        let accepted = AnchorStatus { accepted: Some("older".into()), ..status() };
        assert!(say(&accepted, false).is_some_and(|text| text.contains("older")));
        assert_eq!(notice(None, &Choice::Nowhere, false), None);
        assert!(notice(None, &Choice::Usual, false).is_some_and(|text| text.contains(VARIABLE)));
    }
}
