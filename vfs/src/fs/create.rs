//! New inodes.

use std::sync::Arc;

use super::change::{Change, live_directory};
use super::flags::{check_mutable, inherited_flags};
use super::{Caller, Fs};
use crate::directory::{check_name, put};
use crate::events::{Intent, Mask};
use crate::inode::Inode;
use crate::journal::Happened;
use crate::layout::{Attributes, FileKind, LINKS_MAX};
use crate::{FsError, Ino, Result, Stat, acl, xattr};

const SET_GROUP_ID: u32 = 0o2000;
/// Linux's PATH_MAX less its NUL.
const SYMLINK_BYTES_MAX: usize = 4095;

/// What a new inode is to be.
struct New<'a> {
    kind: FileKind,
    permissions: u32,
    rdev: u32,
    target: &'a [u8],
    opens: u64,
}

impl Fs {
    /// `mode` is type and permissions; `rdev` counts for devices only.
    pub fn mknod(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32, rdev: u32) -> Result<Stat> {
        let kind = match FileKind::from_mode(mode) {
            Some(FileKind::Directory) => return Err(FsError::NotPermitted("mknod makes no directory")),
            Some(FileKind::Symlink) | None => return Err(FsError::Invalid("mknod does not make this type")),
            Some(kind) => kind,
        };
        let rdev = match kind {
            FileKind::CharacterDevice | FileKind::BlockDevice => rdev,
            _ => 0,
        };
        self.make(caller, parent, name, New { kind, permissions: mode & 0o7777, rdev, target: b"", opens: 0 })
    }

    pub fn mkdir(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32) -> Result<Stat> {
        // As in Linux's vfs_mkdir: of the upper bits only the sticky one is the caller's to choose.
        let new =
            New { kind: FileKind::Directory, permissions: mode & 0o1777, rdev: 0, target: b"", opens: 0 };
        self.make(caller, parent, name, new)
    }

    pub fn symlink(&self, caller: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> Result<Stat> {
        if target.is_empty() {
            return Err(FsError::NotFound);
        }
        if target.len() > SYMLINK_BYTES_MAX {
            return Err(FsError::NameTooLong);
        }
        if target.contains(&0) {
            return Err(FsError::Invalid("a symlink's target holds no NUL"));
        }
        self.make(
            caller,
            parent,
            name,
            New { kind: FileKind::Symlink, permissions: 0o777, rdev: 0, target, opens: 0 },
        )
    }

    /// Makes a regular file and opens it: one lookup and one open to take back.
    pub fn create(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32) -> Result<Stat> {
        let new = New { kind: FileKind::Regular, permissions: mode & 0o7777, rdev: 0, target: b"", opens: 1 };
        self.make(caller, parent, name, new)
    }

    /// Makes a regular file that has no name and opens it: one lookup and one open to take back (`O_TMPFILE`). It
    /// takes after `directory` as if it were made in it. [`Fs::link`] may give it a name, once.
    pub fn make_nameless(&self, caller: &Caller, directory: Ino, mode: u32) -> Result<Stat> {
        let directory = self.inode(directory)?;
        let _guard = directory.lock().map_err(gone)?;
        let above = live_directory(&directory)?;
        check_mutable(&directory)?;
        let new = New { kind: FileKind::Regular, permissions: mode & 0o7777, rdev: 0, target: b"", opens: 1 };
        let mut change = self.change()?;
        let inode = self.prepare(&mut change, caller, &directory, &above, &new, 0)?;
        change.orphan(&inode);
        inode.set_nameless(true);
        self.insert_new(change, &inode, new.opens, Happened::Nothing)?;
        Ok(self.stat(&inode))
    }

    fn make(&self, caller: &Caller, parent: Ino, name: &[u8], new: New<'_>) -> Result<Stat> {
        check_name(name)?;
        if name == b"." || name == b".." {
            return Err(FsError::Exists);
        }
        let directory = self.inode(parent)?;
        self.announce(Mask::LINK, || {
            // A default ACL takes the umask's place.
            let masked = if directory.attributes().has_default_acl { 0 } else { caller.umask };
            let permissions = new.permissions & !masked;
            Intent::Link { parent, name, ino: None, kind: new.kind, permissions }
        })?;
        let _guard = directory.lock().map_err(gone)?;
        let above = live_directory(&directory)?;
        let position = self.place(&directory, name)?.free()?;
        check_mutable(&directory)?;
        let is_directory = new.kind == FileKind::Directory;
        if is_directory && above.nlink >= LINKS_MAX {
            return Err(FsError::TooManyLinks);
        }

        let mut change = self.change()?;
        let nlink = if is_directory { 2 } else { 1 };
        let inode = self.prepare(&mut change, caller, &directory, &above, &new, nlink)?;
        put(&mut change.transaction, &directory, position, &inode.block, new.kind, name);
        let above = change.edit_directory(&directory, 1);
        if is_directory {
            above.nlink += 1;
        }
        let happened = Happened::Linked { parent, name, inode: &inode, is_new: true };
        self.insert_new(change, &inode, new.opens, happened)?;
        Ok(self.stat(&inode))
    }

    /// What overlayfs takes for "this name is gone".
    pub(super) fn prepare_whiteout(
        &self,
        change: &mut Change<'_>,
        caller: &Caller,
        directory: &Inode,
    ) -> Result<Arc<Inode>> {
        let kind = FileKind::CharacterDevice;
        let new = New { kind, permissions: 0, rdev: 0, target: b"", opens: 0 };
        self.prepare(change, caller, directory, &directory.attributes(), &new, 1)
    }

    /// A new directory's inode, without a name so far.
    pub(super) fn prepare_directory(
        &self,
        change: &mut Change<'_>,
        caller: &Caller,
        directory: &Inode,
        above: &Attributes,
        permissions: u32,
    ) -> Result<Arc<Inode>> {
        let new = New { kind: FileKind::Directory, permissions, rdev: 0, target: b"", opens: 0 };
        self.prepare(change, caller, directory, above, &new, 2)
    }

    /// Adds a new inode's block to the change, with what it takes over from the directory.
    fn prepare(
        &self,
        change: &mut Change<'_>,
        caller: &Caller,
        directory: &Inode,
        above: &Attributes,
        new: &New<'_>,
        nlink: u32,
    ) -> Result<Arc<Inode>> {
        let is_directory = new.kind == FileKind::Directory;
        let now = change.now;
        let mut attributes = Attributes {
            kind: new.kind,
            permissions: new.permissions,
            uid: self.options.ids.users.owner_made(caller.uid, above.uid),
            gid: self.options.ids.groups.owner_made(caller.gid, above.gid),
            nlink,
            rdev: new.rdev,
            size: new.target.len() as u64,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            parent: if is_directory { directory.block.id() } else { 0 },
            xattr_count: 0,
            xattr_name_bytes: 0,
            has_access_acl: false,
            has_default_acl: false,
            has_capability: false,
            file_flags: inherited_flags(above),
        };
        if above.permissions & SET_GROUP_ID != 0 {
            attributes.gid = above.gid;
            if is_directory {
                attributes.permissions |= SET_GROUP_ID;
            }
        }
        let inherited = self.inherit(directory, above, caller, &mut attributes)?;
        for (name, _) in &inherited {
            attributes.xattr_count += 1;
            attributes.xattr_name_bytes += name.len() as u32 + 1;
        }

        let encoded = attributes.encode();
        let block =
            change.transaction.create_in(directory.block.id(), zerocopy::IntoBytes::as_bytes(&encoded));
        self.inherit_unit(change, directory, &block, new.kind);
        let inode = Inode::new(block.id(), block, attributes, Default::default());
        xattr::put_first(&mut change.transaction, &inode, self.names, &inherited);
        if !new.target.is_empty() {
            change.transaction.write(&inode.block, 0, new.target)?;
        }
        Ok(inode)
    }

    /// Commits the change that makes an inode: one lookup and `opens` opens to take back.
    pub(super) fn insert_new(
        &self,
        change: Change<'_>,
        inode: &Arc<Inode>,
        opens: u64,
        happened: Happened<'_>,
    ) -> Result<()> {
        let _reservation = self.inodes.reserve(inode.ino);
        let seq = change.commit(happened)?;
        inode.changed_by(seq);
        self.inodes.insert(inode, opens);
        Ok(())
    }

    /// Applies the directory's default ACL or else the umask to a new inode; answers the ACLs it gets.
    fn inherit(
        &self,
        directory: &Inode,
        above: &Attributes,
        caller: &Caller,
        attributes: &mut Attributes,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        if attributes.kind == FileKind::Symlink {
            return Ok(Vec::new());
        }
        let default = match above.has_default_acl {
            true => xattr::get(&self.store, directory, self.names, acl::NAME_DEFAULT)?,
            false => None,
        };
        let Some(default) = default else {
            attributes.permissions &= !(caller.umask & 0o777);
            return Ok(Vec::new());
        };
        let mut access = acl::Acl::decode(&default)
            .map_err(|_| FsError::Malformed { ino: directory.ino, what: "default ACL" })?;
        attributes.permissions = access.mask_for_create(attributes.permissions);
        let mut inherited = Vec::new();
        if !access.is_minimal() {
            attributes.has_access_acl = true;
            inherited.push((acl::NAME_ACCESS.to_vec(), access.encode()));
        }
        if attributes.kind == FileKind::Directory {
            attributes.has_default_acl = true;
            inherited.push((acl::NAME_DEFAULT.to_vec(), default));
        }
        Ok(inherited)
    }
}

/// A directory that is gone has no names.
pub(super) fn gone(error: FsError) -> FsError {
    match error {
        FsError::Stale => FsError::NotFound,
        other => other,
    }
}
