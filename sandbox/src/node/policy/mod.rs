//! The layer of policies: apps that may refuse what others are about to do below their grants.
//!
//! [`Gate`] is asked before each operation, and says what it means for which app; [`Judge`] asks that app, in a process of
//! its own, and waits for a bounded time.
//!
//! 1. An app is not asked about what it does itself, and none about what the node keeps for itself.
//! 2. An app that is asked can only look (see `requests`), so it waits for nobody whom a question keeps waiting. It is asked
//!    in another process than the one in which it handles events, so it does not wait for itself either.
//! 3. No answer in time, or none at all, is what the owner said it is.

mod judge;
mod names;

use std::sync::{Arc, Weak};

use blocktree_vfs::events::{Actor, Intent, Mask, Observer, Seq, Verdict};
use blocktree_vfs::{FileKind, Fs, FsError, Ino, Result};
use parking_lot::RwLock;

pub(super) use self::judge::Judge;
use self::names::{path_below, paths_below};
use super::files::kind;
use super::folder::Held;
use super::grants::Grant;
use crate::ipc::{Operation, Subject};

/// Asks the apps that may refuse.
pub(super) struct Gate {
    fs: Weak<Fs>,
    judges: RwLock<Vec<Arc<Judge>>>,
}

impl Gate {
    pub(super) fn new(fs: &Arc<Fs>) -> Self {
        Self { fs: Arc::downgrade(fs), judges: RwLock::default() }
    }

    pub(super) fn add(&self, judge: Arc<Judge>) {
        self.judges.write().push(judge);
    }

    /// From now on, this app is not asked.
    pub(super) fn remove(&self, app: &str) {
        let removed: Vec<Arc<Judge>> =
            self.judges.write().extract_if(.., |judge| judge.app() == app).collect();
        // Only now, without the lock: its thread is waited for.
        removed.iter().for_each(|judge| judge.stop());
    }
}

impl Observer for Gate {
    fn mask(&self) -> Mask {
        Mask::default()
    }

    fn before_mask(&self) -> Mask {
        Mask::LINK.union(Mask::UNLINK).union(Mask::RENAME).union(Mask::ATTRIBUTES).union(Mask::MODIFY)
    }

    fn before(&self, actor: Actor, intent: &Intent<'_>) -> Verdict {
        let judges = self.judges.read().clone();
        let Some(fs) = self.fs.upgrade().filter(|_| !judges.is_empty()) else { return Verdict::Allow };
        let others = judges.iter().filter(|judge| actor != Actor::Principal(judge.actor()));
        let refuses = others.into_iter().any(|judge| {
            let grants = judge.grants();
            grants.iter().any(|grant| match operations(&fs, grant, intent) {
                Ok(operations) => operations.into_iter().any(|operation| !judge.allows(operation)),
                // Then the operation fails too, and says why.
                Err(FsError::NotFound | FsError::Stale | FsError::NotDirectory) => false,
                Err(_) => !judge.allows_unasked(),
            })
        });
        if refuses { Verdict::Refuse } else { Verdict::Allow }
    }

    fn after(&self, _: Seq, _: &blocktree_vfs::Event) {}
}

/// What an intent means below a grant; most mean nothing there.
fn operations(fs: &Arc<Fs>, grant: &Grant, intent: &Intent<'_>) -> Result<Vec<Operation>> {
    let path = |parent: Ino, name: &[u8]| path_below(fs, grant.ino, parent, name);
    let subject = |path: String, kind_of: FileKind, permissions: u32| Subject {
        grant: grant.name.clone(),
        path,
        kind: kind(kind_of),
        permissions,
    };
    // As it is now, under another path perhaps.
    let found = |parent: Ino, name: &[u8], path: String| {
        let held = Held::lookup(fs, parent, name)?;
        Ok::<_, FsError>(subject(path, held.stat.kind, held.stat.permissions))
    };
    // Under each of its names.
    let named = |ino: Ino, permissions: Option<u32>| {
        let stat = fs.getattr(ino)?;
        let permissions = permissions.unwrap_or(stat.permissions) & 0o7777;
        let subjects = paths_below(fs, grant.ino, &stat)?.into_iter();
        Ok::<_, FsError>(subjects.map(move |path| subject(path, stat.kind, permissions)))
    };
    Ok(match *intent {
        Intent::Link { parent, name, kind, permissions, .. } => {
            let path = path(parent, name)?;
            path.map(|path| Operation::Create(subject(path, kind, permissions))).into_iter().collect()
        }
        Intent::Unlink { parent, name } => match path(parent, name)? {
            Some(path) => vec![Operation::Remove(found(parent, name, path)?)],
            None => Vec::new(),
        },
        Intent::Rename { parent, name, new_parent, new_name, exchange } => {
            let moved = |parent: Ino, name: &[u8], old: Option<String>, new: Option<String>| {
                Ok::<_, FsError>(match (old, new) {
                    (old, Some(new)) => Some(Operation::Rename(old, found(parent, name, new)?)),
                    (Some(old), None) => Some(Operation::Remove(found(parent, name, old)?)),
                    (None, None) => None,
                })
            };
            let (old, new) = (path(parent, name)?, path(new_parent, new_name)?);
            let there = moved(parent, name, old.clone(), new.clone())?;
            let back = if exchange { moved(new_parent, new_name, new, old)? } else { None };
            there.into_iter().chain(back).collect()
        }
        Intent::Modify { ino } => named(ino, None)?.map(Operation::Modify).collect(),
        Intent::Attributes { ino, permissions } => {
            named(ino, permissions)?.map(Operation::Attributes).collect()
        }
        Intent::Data { .. } => Vec::new(),
    })
}
