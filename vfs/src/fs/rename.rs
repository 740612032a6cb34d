//! renameat2(2).

use std::sync::Arc;

use super::change::live_directory;
use super::flags::{check_mutable, check_unrestricted};
use super::{Caller, Fs, RenameFlags};
use crate::directory::{Place, check_name, delete, put};
use crate::events::{Intent, Mask};
use crate::inode::{Inode, lock_all};
use crate::journal::Happened;
use crate::layout::{Entry, FileKind, LINKS_MAX};
use crate::{FsError, Ino, Result};

/// The four inodes of a rename, locked, and where their entries are.
struct Move<'a> {
    source: &'a Arc<Inode>,
    target: &'a Arc<Inode>,
    child: Arc<Inode>,
    from: (u64, Entry),
    victim: Option<(u64, Entry, Arc<Inode>)>,
    /// Where the new name goes if there is no victim.
    free: Option<u64>,
}

impl Fs {
    pub fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        check_name(name)?;
        check_name(new_name)?;
        if [name, new_name].iter().any(|name| *name == b"." || *name == b"..") {
            return Err(FsError::Invalid("dot and dot-dot are not renamed"));
        }
        if flags.no_replace && flags.exchange {
            return Err(FsError::Invalid("NOREPLACE with EXCHANGE"));
        }
        if flags.whiteout.is_some() && flags.exchange {
            return Err(FsError::Invalid("WHITEOUT with EXCHANGE"));
        }
        let exchange = flags.exchange;
        self.announce(Mask::RENAME, || Intent::Rename { parent, name, new_parent, new_name, exchange })?;
        let source = self.inode(parent)?;
        let target = self.inode(new_parent)?;
        let _shape = (parent != new_parent).then(|| self.tree_shape.lock());
        loop {
            live_directory(&source)?;
            live_directory(&target)?;
            let from = self.place(&source, name)?.taken()?;
            let to = self.place(&target, new_name)?;
            let Some(child) = self.child(&source, name, &from.1)? else { continue };
            let victim = match &to {
                Place::Free(_) => None,
                Place::Taken { entry, .. } => match self.child(&target, new_name, entry)? {
                    Some(victim) => Some(victim),
                    None => continue,
                },
            };
            let (victim, free) = match (&to, victim) {
                (Place::Taken { position, entry }, Some(victim)) => {
                    (Some((*position, entry.clone(), victim)), None)
                }
                (Place::Free(position), _) => (None, *position),
                (Place::Taken { .. }, None) => continue,
            };
            let moving = Move { source: &source, target: &target, child, from, victim, free };
            // Nothing is prepared for what will fail; what counts is said under the locks.
            let elsewhere = parent != new_parent;
            let prepared = elsewhere && matches!(self.may_move(&moving, flags), Ok(true));
            if prepared {
                self.prepare_homes(&moving.child, &source, &target)?;
                if let (Some((.., victim)), true) = (&moving.victim, flags.exchange) {
                    self.prepare_homes(victim, &target, &source)?;
                }
            }
            let mut inodes = vec![&source, &target, &moving.child];
            inodes.extend(moving.victim.as_ref().map(|(.., victim)| victim));
            let Ok(_guards) = lock_all(&inodes) else {
                moving.child.settle();
                if let Some((.., victim)) = &moving.victim {
                    victim.settle();
                }
                continue;
            };
            if self.place(&source, name)?.taken()? != moving.from || self.place(&target, new_name)? != to {
                continue;
            }
            return match self.may_move(&moving, flags)? {
                false => Ok(()),
                true if elsewhere && !prepared => continue,
                true if flags.exchange => self.exchange(&moving, name, new_name),
                true => self.replace(&moving, name, new_name, flags.whiteout),
            };
        }
    }

    /// Whether there is something to be done; fails if it cannot be. True only under the locks of all four.
    fn may_move(&self, moving: &Move<'_>, flags: RenameFlags) -> Result<bool> {
        let Move { source, target, child, .. } = moving;
        let is_directory = child.attributes().kind == FileKind::Directory;
        if flags.no_replace && moving.victim.is_some() {
            return Err(FsError::Exists);
        }
        if flags.exchange && moving.victim.is_none() {
            return Err(FsError::NotFound);
        }
        check_unrestricted(source)?;
        check_unrestricted(child)?;
        match &moving.victim {
            // A name that comes is no harm to a directory that only gets names.
            None => check_mutable(target)?,
            Some((.., victim)) => {
                check_unrestricted(target)?;
                check_unrestricted(victim)?;
            }
        }
        let elsewhere = source.ino != target.ino;
        if is_directory && elsewhere && self.is_within(target, child.ino)? {
            return Err(FsError::Invalid("a directory does not move below itself"));
        }
        if let Some((.., victim)) = &moving.victim {
            if victim.ino == child.ino {
                // Two names of one file: POSIX says nothing happens.
                return Ok(false);
            }
            let victim_is_directory = victim.attributes().kind == FileKind::Directory;
            if victim_is_directory && elsewhere && self.is_within(source, victim.ino)? {
                return Err(match flags.exchange {
                    true => FsError::Invalid("a directory does not move below itself"),
                    false => FsError::NotEmpty,
                });
            }
            if !flags.exchange {
                match (is_directory, victim_is_directory) {
                    (true, false) => return Err(FsError::NotDirectory),
                    (false, true) => return Err(FsError::IsDirectory),
                    (true, true) => self.check_empty(victim)?,
                    (false, false) => {}
                }
            }
        }
        Ok(true)
    }

    fn replace(
        &self,
        moving: &Move<'_>,
        name: &[u8],
        new_name: &[u8],
        whiteout: Option<Caller>,
    ) -> Result<()> {
        let Move { source, target, child, from, victim, free } = moving;
        let kind = from.1.kind;
        let mut change = self.change()?;
        let now = change.now;
        let whiteout = match whiteout {
            None => None,
            Some(caller) => Some(self.prepare_whiteout(&mut change, &caller, source)?),
        };
        match &whiteout {
            None => delete(&mut change.transaction, source, from.0),
            Some(left) => {
                put(&mut change.transaction, source, from.0, &left.block, FileKind::CharacterDevice, name);
            }
        }
        let position = match victim {
            Some((position, ..)) => *position,
            None => free.ok_or(FsError::DirectoryFull)?,
        };
        put(&mut change.transaction, target, position, &child.block, kind, new_name);
        change.edit_directory(source, if whiteout.is_some() { 0 } else { -1 });
        change.edit_directory(target, if victim.is_some() { 0 } else { 1 });
        if let Some((_, entry, victim)) = victim {
            change.unname(victim);
            if entry.kind == FileKind::Directory {
                leave_directory(change.edit(target));
            }
        }
        change.edit(child).ctime = now;
        if source.ino != target.ino {
            change.set_home(child, self.home_moved(child, target)?);
        }
        if kind == FileKind::Directory && source.ino != target.ino {
            change.edit(child).parent = target.block.id();
            leave_directory(change.edit(source));
            enter_directory(change.edit(target))?;
        }
        let happened = Happened::Renamed {
            from: (source.ino, name),
            to: (target.ino, new_name),
            inode: child,
            other: victim.as_ref().map(|(.., victim)| victim),
            exchanged: false,
            whiteout: whiteout.as_ref(),
        };
        match &whiteout {
            None => change.commit(happened).map(drop),
            Some(left) => {
                self.insert_new(change, left, 0, happened)?;
                // Nobody has looked it up.
                self.forget(left.ino, 1);
                Ok(())
            }
        }
    }

    fn exchange(&self, moving: &Move<'_>, name: &[u8], new_name: &[u8]) -> Result<()> {
        let Move { source, target, child, from, victim, .. } = moving;
        let (position, entry, other) = victim.as_ref().ok_or(FsError::NotFound)?;
        let mut change = self.change()?;
        let now = change.now;
        put(&mut change.transaction, target, *position, &child.block, from.1.kind, new_name);
        put(&mut change.transaction, source, from.0, &other.block, entry.kind, name);
        change.edit_directory(source, 0);
        change.edit_directory(target, 0);
        change.edit(child).ctime = now;
        change.edit(other).ctime = now;
        if source.ino != target.ino {
            for (kind, moved, old, new) in
                [(from.1.kind, child, source, target), (entry.kind, other, target, source)]
            {
                change.set_home(moved, self.home_moved(moved, new)?);
                if kind == FileKind::Directory {
                    change.edit(moved).parent = new.block.id();
                    leave_directory(change.edit(old));
                    enter_directory(change.edit(new))?;
                }
            }
        }
        change.commit(Happened::Renamed {
            from: (source.ino, name),
            to: (target.ino, new_name),
            inode: child,
            other: Some(other),
            exchanged: true,
            whiteout: None,
        })?;
        Ok(())
    }
}

fn leave_directory(attributes: &mut crate::layout::Attributes) {
    attributes.nlink = attributes.nlink.saturating_sub(1);
}

fn enter_directory(attributes: &mut crate::layout::Attributes) -> Result<()> {
    if attributes.nlink >= LINKS_MAX {
        return Err(FsError::TooManyLinks);
    }
    attributes.nlink += 1;
    Ok(())
}
