//! Extended attributes and POSIX ACLs.

use std::sync::Arc;

use super::change::Change;
use super::flags::check_unrestricted;
use super::unit::{self, NAME_UNIT, put_unit};
use super::{Fs, SetXattrFlags};
use crate::acl::{Acl, NAME_ACCESS, NAME_DEFAULT};
use crate::events::{Intent, Mask};
use crate::inode::Inode;
use crate::journal::Happened;
use crate::layout::{FileKind, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use crate::{FsError, Ino, Result, xattr};

pub(super) const NAME_CAPABILITY: &[u8] = b"security.capability";

/// What listxattr(2) can answer at most (`XATTR_LIST_MAX`).
const LIST_BYTES_MAX: u32 = 64 << 10;

impl Fs {
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        check_attribute_name(name)?;
        let inode = self.inode(ino)?;
        if name == NAME_UNIT {
            return unit::value_of(&inode.block).ok_or(FsError::NoAttribute);
        }
        let attributes = inode.attributes();
        // The kernel asks for these far more often than they exist.
        let exists = match name {
            NAME_ACCESS => attributes.has_access_acl,
            NAME_DEFAULT => attributes.has_default_acl,
            NAME_CAPABILITY => attributes.has_capability,
            _ => attributes.xattr_count > 0,
        };
        if !exists {
            return Err(FsError::NoAttribute);
        }
        let value = xattr::get(&self.store, &inode, self.names, name)?.ok_or(FsError::NoAttribute)?;
        let ids = &self.options.ids;
        if ids.is_identity() || (name != NAME_ACCESS && name != NAME_DEFAULT) {
            return Ok(value);
        }
        let acl = Acl::decode(&value).map_err(|_| FsError::Malformed { ino, what: "ACL" })?;
        Ok(acl.named(|id| ids.users.shown(id), |id| ids.groups.shown(id)).encode())
    }

    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], flags: SetXattrFlags) -> Result<()> {
        check_attribute_name(name)?;
        if flags.create && flags.replace {
            return Err(FsError::Invalid("CREATE with REPLACE"));
        }
        if value.len() > XATTR_VALUE_BYTES_MAX {
            return Err(FsError::AttributeTooBig);
        }
        self.announce(Mask::ATTRIBUTES, || {
            // An access ACL brings a mode with it.
            let acl = (name == NAME_ACCESS).then(|| Acl::decode(value).ok()).flatten();
            Intent::Attributes { ino, permissions: acl.map(|acl| acl.mode()) }
        })?;
        let inode = self.inode(ino)?;
        let _guard = inode.lock()?;
        check_unrestricted(&inode)?;
        let kind = inode.attributes().kind;
        if name.starts_with(b"user.") && !matches!(kind, FileKind::Regular | FileKind::Directory) {
            return Err(FsError::NotPermitted("user attributes are for files and directories"));
        }
        let mut change = self.change()?;
        let mut value = Some(value.to_vec());
        if name == NAME_ACCESS || name == NAME_DEFAULT {
            value =
                self.prepare_acl(&mut change, &inode, name, value.as_deref().unwrap_or_default(), flags)?;
        }
        let exists = self.has_attribute(&inode, name)?;
        if exists && flags.create {
            return Err(FsError::Exists);
        }
        if !exists && flags.replace {
            return Err(FsError::NoAttribute);
        }
        match name {
            NAME_UNIT => put_unit(&mut change, &inode, value.as_deref())?,
            _ => self.put_attribute(&mut change, &inode, name, value.as_deref(), exists)?,
        }
        change.edit(&inode).ctime = change.now;
        change.commit(Happened::Attributes { inode: &inode })?;
        Ok(())
    }

    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        check_attribute_name(name)?;
        self.announce(Mask::ATTRIBUTES, || Intent::Attributes { ino, permissions: None })?;
        let inode = self.inode(ino)?;
        let _guard = inode.lock()?;
        check_unrestricted(&inode)?;
        let mut change = self.change()?;
        let exists = self.has_attribute(&inode, name)?;
        if !exists && name != NAME_ACCESS && name != NAME_DEFAULT {
            return Err(FsError::NoAttribute);
        }
        match name {
            NAME_UNIT => put_unit(&mut change, &inode, None)?,
            _ if exists => self.put_attribute(&mut change, &inode, name, None, true)?,
            _ => {}
        }
        change.edit(&inode).ctime = change.now;
        change.commit(Happened::Attributes { inode: &inode })?;
        Ok(())
    }

    fn has_attribute(&self, inode: &Inode, name: &[u8]) -> Result<bool> {
        match (name, inode.attributes().xattr_count) {
            (NAME_UNIT, _) => Ok(unit::value_of(&inode.block).is_some()),
            (_, 0) => Ok(false),
            _ => Ok(xattr::get(&self.store, inode, self.names, name)?.is_some()),
        }
    }

    /// The names, each with a NUL after it. `trusted.*` only with `privileged` (the kernel leaves that to us).
    pub fn listxattr(&self, ino: Ino, privileged: bool) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        let mut list = Vec::new();
        let mut names = match inode.attributes().xattr_count {
            0 => Vec::new(),
            _ => xattr::names(&self.store, &inode)?,
        };
        if unit::value_of(&inode.block).is_some() {
            names.push(NAME_UNIT.to_vec());
        }
        names.sort_unstable();
        for name in names.iter().filter(|name| privileged || !name.starts_with(b"trusted.")) {
            list.extend_from_slice(name);
            list.push(0);
        }
        match list.len() > LIST_BYTES_MAX as usize {
            true => Err(FsError::AttributeListTooLong),
            false => Ok(list),
        }
    }

    /// Checks an ACL that is being set and does to the mode what it demands; answers what is to be stored.
    fn prepare_acl(
        &self,
        change: &mut Change<'_>,
        inode: &Arc<Inode>,
        name: &[u8],
        value: &[u8],
        flags: SetXattrFlags,
    ) -> Result<Option<Vec<u8>>> {
        let kind = inode.attributes().kind;
        if kind == FileKind::Symlink {
            return Err(FsError::NotSupported("a symlink has no ACL"));
        }
        if name == NAME_DEFAULT && kind != FileKind::Directory {
            return Err(FsError::Refused);
        }
        if value.is_empty() || Acl::is_empty_form(value) {
            return Ok(None);
        }
        let acl = Acl::decode(value).map_err(|_| FsError::Invalid("not a valid ACL"))?;
        let ids = &self.options.ids;
        let acl = acl.named(|id| ids.users.stored(id), |id| ids.groups.stored(id));
        if name == NAME_DEFAULT {
            return Ok(Some(acl.encode()));
        }
        let attributes = change.edit(inode);
        attributes.permissions = attributes.permissions & !0o777 | acl.mode();
        if flags.kill_set_group_id {
            attributes.permissions &= !0o2000;
        }
        Ok(if acl.is_minimal() { None } else { Some(acl.encode()) })
    }

    /// Stores or removes an attribute and keeps count of them.
    fn put_attribute(
        &self,
        change: &mut Change<'_>,
        inode: &Arc<Inode>,
        name: &[u8],
        value: Option<&[u8]>,
        exists: bool,
    ) -> Result<()> {
        if value.is_none() && !exists {
            return Ok(());
        }
        let attributes = change.edit(inode);
        let name_bytes = name.len() as u32 + 1;
        match (exists, value.is_some()) {
            (false, true) => {
                if attributes.xattr_name_bytes + name_bytes > LIST_BYTES_MAX {
                    return Err(FsError::AttributesFull);
                }
                attributes.xattr_count += 1;
                attributes.xattr_name_bytes += name_bytes;
            }
            (true, false) => {
                attributes.xattr_count = attributes.xattr_count.saturating_sub(1);
                attributes.xattr_name_bytes = attributes.xattr_name_bytes.saturating_sub(name_bytes);
            }
            _ => {}
        }
        match name {
            NAME_ACCESS => attributes.has_access_acl = value.is_some(),
            NAME_DEFAULT => attributes.has_default_acl = value.is_some(),
            NAME_CAPABILITY => attributes.has_capability = value.is_some(),
            _ => {}
        }
        xattr::set(&self.store, &mut change.transaction, inode, self.names, name, value)
    }

    /// What a write or a change of owner takes away: set-user-id, set-group-id of what its group may execute, and
    /// capabilities.
    pub(super) fn drop_privileges(&self, change: &mut Change<'_>, inode: &Arc<Inode>) -> Result<()> {
        let attributes = change.edit(inode);
        if attributes.kind == FileKind::Directory {
            return Ok(());
        }
        attributes.permissions &= !0o4000;
        if attributes.permissions & 0o0010 != 0 {
            attributes.permissions &= !0o2000;
        }
        if attributes.has_capability {
            self.put_attribute(change, inode, NAME_CAPABILITY, None, true)?;
        }
        Ok(())
    }

    /// What chmod does to an access ACL.
    pub(super) fn set_acl_mode(&self, change: &mut Change<'_>, inode: &Arc<Inode>, mode: u32) -> Result<()> {
        let stored = xattr::get(&self.store, inode, self.names, NAME_ACCESS)?.unwrap_or_default();
        let mut acl =
            Acl::decode(&stored).map_err(|_| FsError::Malformed { ino: inode.ino, what: "access ACL" })?;
        acl.set_mode(mode);
        self.put_attribute(change, inode, NAME_ACCESS, Some(&acl.encode()), true)
    }
}

fn check_attribute_name(name: &[u8]) -> Result<()> {
    if name.len() > XATTR_NAME_BYTES_MAX {
        return Err(FsError::NameTooLong);
    }
    let spaces: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    let known = spaces.iter().any(|space| name.starts_with(space) && name.len() > space.len());
    match known || name == NAME_ACCESS || name == NAME_DEFAULT {
        true => Ok(()),
        false => Err(FsError::NotSupported("no such class of extended attributes")),
    }
}
