//! POSIX ACLs in their extended-attribute form (`linux/posix_acl_xattr.h`), and what mode bits and ACLs do to each
//! other (POSIX 1003.1e draft 17, as in Linux's `fs/posix_acl.c`).

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(crate) const NAME_ACCESS: &[u8] = b"system.posix_acl_access";
pub(crate) const NAME_DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const UNDEFINED_ID: u32 = u32::MAX;

const USER_OBJECT: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJECT: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct EntryBytes {
    tag: U16,
    permissions: U16,
    id: U32,
}
const _: () = assert!(size_of::<EntryBytes>() == 8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// A valid ACL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acl {
    entries: Vec<Entry>,
}

/// Bytes that are no valid ACL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InvalidAcl;

impl Acl {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, InvalidAcl> {
        let (version, rest) = U32::ref_from_prefix(bytes).map_err(|_| InvalidAcl)?;
        let raw = <[EntryBytes]>::ref_from_bytes(rest).map_err(|_| InvalidAcl)?;
        if version.get() != VERSION {
            return Err(InvalidAcl);
        }
        let entries: Vec<_> = raw
            .iter()
            .map(|entry| Entry {
                tag: entry.tag.get(),
                permissions: entry.permissions.get(),
                id: entry.id.get(),
            })
            .collect();
        let acl = Self { entries };
        if acl.is_valid() { Ok(acl) } else { Err(InvalidAcl) }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = U32::new(VERSION).as_bytes().to_vec();
        for entry in &self.entries {
            let raw = EntryBytes {
                tag: entry.tag.into(),
                permissions: entry.permissions.into(),
                id: entry.id.into(),
            };
            bytes.extend_from_slice(raw.as_bytes());
        }
        bytes
    }

    /// With other ids for the users and groups that it names.
    pub(crate) fn named(mut self, user: impl Fn(u32) -> u32, group: impl Fn(u32) -> u32) -> Self {
        for entry in &mut self.entries {
            match entry.tag {
                USER => entry.id = user(entry.id),
                GROUP => entry.id = group(entry.id),
                _ => {}
            }
        }
        self
    }

    /// An ACL without entries: setting it removes the ACL.
    pub(crate) fn is_empty_form(bytes: &[u8]) -> bool {
        bytes == U32::new(VERSION).as_bytes()
    }

    fn is_valid(&self) -> bool {
        let count = |tag| self.entries.iter().filter(|entry| entry.tag == tag).count();
        let known = [USER_OBJECT, USER, GROUP_OBJECT, GROUP, MASK, OTHER];
        let named = count(USER) + count(GROUP) > 0;
        self.entries.windows(2).all(|pair| pair[0].tag <= pair[1].tag)
            && self.entries.iter().all(|entry| {
                let needs_id = entry.tag == USER || entry.tag == GROUP;
                known.contains(&entry.tag)
                    && entry.permissions & !7 == 0
                    && (!needs_id || entry.id != UNDEFINED_ID)
            })
            && count(USER_OBJECT) == 1
            && count(GROUP_OBJECT) == 1
            && count(OTHER) == 1
            && count(MASK) <= 1
            && (!named || count(MASK) == 1)
    }

    fn permissions(&self, tag: u16) -> Option<u16> {
        self.entries.iter().find(|entry| entry.tag == tag).map(|entry| entry.permissions)
    }

    fn set(&mut self, tag: u16, permissions: u32) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.tag == tag) {
            entry.permissions = (permissions & 7) as u16;
        }
    }

    /// The entry that the mode's group bits stand for.
    fn group_class(&self) -> u16 {
        if self.permissions(MASK).is_some() { MASK } else { GROUP_OBJECT }
    }

    /// Says no more than a mode does.
    pub(crate) fn is_minimal(&self) -> bool {
        self.entries.len() == 3
    }

    /// The nine permission bits.
    pub(crate) fn mode(&self) -> u32 {
        let bits = |tag| u32::from(self.permissions(tag).unwrap_or(0));
        bits(USER_OBJECT) << 6 | bits(self.group_class()) << 3 | bits(OTHER)
    }

    /// What chmod does to an access ACL.
    pub(crate) fn set_mode(&mut self, mode: u32) {
        self.set(USER_OBJECT, mode >> 6);
        self.set(self.group_class(), mode >> 3);
        self.set(OTHER, mode);
    }

    /// Turns a default ACL into the access ACL of a new inode that is made with `permissions`; answers the
    /// permissions it gets. Those that neither allows are gone from both.
    pub(crate) fn mask_for_create(&mut self, permissions: u32) -> u32 {
        let both = permissions & (self.mode() | !0o777);
        self.set_mode(both);
        both
    }
}
