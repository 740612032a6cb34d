//! From names to inodes, and how long the kernel knows them.

use std::sync::Arc;

use super::change::live_directory;
use super::flags::check_open;
use super::{Fs, OpenFlags};
use crate::directory::{Place, check_name, find};
use crate::events::{Intent, Mask, Range};
use crate::inode::{Inode, Unused};
use crate::layout::{Attributes, Entry, FileKind};
use crate::lock::LockOwner;
use crate::{FsError, Ino, Name, Result, SetAttributes, Stat};

/// How often a lookup starts again when entry and inode do not fit, before that is believed to be damage.
const LOOKUP_ATTEMPTS: usize = 16;

impl Fs {
    /// Finds a name and counts the kernel's knowledge of the inode up by one: see [`Fs::forget`]. `.` and `..`
    /// are found too.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Stat> {
        check_name(name)?;
        if name == b"." {
            // What a server of NFS holds may be of any type, and the kernel may ask again after a restart.
            return match self.count_child(parent)? {
                Some(inode) => Ok(self.stat(&inode)),
                None => Err(FsError::Stale),
            };
        }
        let directory = self.inode(parent)?;
        for _ in 0..LOOKUP_ATTEMPTS {
            let attributes = live_directory(&directory)?;
            let child = match name {
                b".." => self.count_child(self.above(&directory, &attributes))?,
                _ => {
                    let place = find(&self.store, &directory, self.names.of(&directory, name), name)?;
                    self.count_entry(&directory, &place.taken()?.1)?
                }
            };
            if let Some(inode) = child {
                if name != b".." {
                    inode.seen_at(parent, name);
                }
                return Ok(self.stat(&inode));
            }
        }
        Err(FsError::Malformed { ino: parent, what: "an entry leads to no inode" })
    }

    /// A name that an inode has, if one is known: of several the one that was seen last.
    pub fn known_name(&self, ino: Ino) -> Result<Option<Name>> {
        Ok(self.inode(ino)?.place().clone())
    }

    /// A directory that all names of an inode are below or in. It may be far above them.
    pub fn directory_above(&self, ino: Ino) -> Result<Ino> {
        Ok(self.ino_of(self.inode(ino)?.block.home()))
    }

    /// The directory that a directory is in; the one at the top is in itself.
    pub(super) fn above(&self, directory: &Inode, attributes: &Attributes) -> Ino {
        if directory.ino == Self::ROOT { Self::ROOT } else { self.ino_of(attributes.parent) }
    }

    /// Counts a lookup of the inode that an entry was just seen to lead to. `None` if it has gone since.
    pub(super) fn count_entry(&self, directory: &Inode, entry: &Entry) -> Result<Option<Arc<Inode>>> {
        self.count(self.inode_in(directory, entry))
    }

    /// Counts a lookup of an inode by its number. `None` if it has gone.
    fn count_child(&self, ino: Ino) -> Result<Option<Arc<Inode>>> {
        self.count(self.inode(ino))
    }

    fn count(&self, inode: Result<Arc<Inode>>) -> Result<Option<Arc<Inode>>> {
        match inode {
            Ok(inode) if self.inodes.count_lookup(&inode) => Ok(Some(inode)),
            Ok(inode) => {
                inode.settle();
                Ok(None)
            }
            Err(FsError::Stale) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes `count` lookups back. lookup, create, mknod, mkdir, symlink, link and each accepted entry of
    /// readdirplus except `.` and `..` count one each.
    pub fn forget(&self, ino: Ino, count: u64) {
        if ino != Self::ROOT {
            self.ended(self.inodes.uncount_lookups(ino, count));
        }
    }

    /// Counts an open up. Opens carry no other state: a transport may use any number as file handle. An inode
    /// without names lives until the last release and forget.
    pub fn open(&self, ino: Ino, flags: OpenFlags) -> Result<()> {
        let inode = self.inode(ino)?;
        let kind = inode.attributes().kind;
        if flags.write || flags.truncate {
            match kind {
                FileKind::Directory => return Err(FsError::IsDirectory),
                FileKind::Symlink => return Err(FsError::Invalid("a symlink is not opened")),
                _ => {}
            }
            self.writable()?;
            check_open(&inode, flags)?;
        }
        if flags.write {
            self.announce(Mask::MODIFY, || Intent::Modify { ino })?;
            self.announce(Mask::DATA, || Intent::Data { ino, range: Range::ALL })?;
        }
        if flags.truncate && kind == FileKind::Regular {
            let changes = SetAttributes {
                size: Some(0),
                kill_privileges: flags.kill_privileges,
                ..SetAttributes::default()
            };
            self.set(&inode, &changes)?;
        }
        if self.inodes.count_open(&inode) { Ok(()) } else { Err(FsError::Stale) }
    }

    /// Counts an open down, and ends the flock locks of `flock_owner`.
    pub fn release(&self, ino: Ino, flock_owner: Option<LockOwner>) {
        if let Some(owner) = flock_owner {
            self.locks.end_flock(ino, owner);
        }
        let (unused, modified) = self.inodes.uncount_open(ino);
        if let Some(inode) = modified {
            self.settle(&inode);
        }
        self.ended(unused);
    }

    pub fn opendir(&self, ino: Ino) -> Result<()> {
        let inode = self.inode(ino)?;
        if inode.attributes().kind != FileKind::Directory {
            return Err(FsError::NotDirectory);
        }
        if self.inodes.count_open(&inode) { Ok(()) } else { Err(FsError::Stale) }
    }

    pub fn releasedir(&self, ino: Ino) {
        self.ended(self.inodes.uncount_open(ino).0);
    }

    fn ended(&self, unused: Unused) {
        match unused {
            Unused::Nothing => {}
            Unused::Idle(inode) => self.write_access_time(&inode),
            Unused::Destroy(inode) => self.destroy(&inode),
        }
    }

    pub(super) fn stat(&self, inode: &Inode) -> Stat {
        let ids = &self.options.ids;
        let mut stat = Stat::new(inode.ino, &inode.attributes(), inode.block.sectors());
        stat.uid = ids.users.owner_shown(stat.uid);
        stat.gid = ids.groups.owner_shown(stat.gid);
        stat
    }

    /// Where a name is in a directory.
    pub(super) fn place(&self, directory: &Inode, name: &[u8]) -> Result<Place> {
        find(&self.store, directory, self.names.of(directory, name), name)
    }
}
