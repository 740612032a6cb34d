//! An inode's attributes.

use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Malformed;

const INODE_VERSION: u8 = 1;

/// Names that one inode may have.
pub const LINKS_MAX: u32 = i32::MAX as u32;

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FileKind {
    Fifo = 1,
    CharacterDevice = 2,
    Directory = 4,
    BlockDevice = 6,
    Regular = 8,
    Symlink = 10,
    Socket = 12,
}

impl FileKind {
    /// From the bits of `S_IFMT`; no type means a regular file, as mknod(2) has it.
    pub fn from_mode(mode: u32) -> Option<Self> {
        match (mode & libc::S_IFMT) >> 12 {
            0 => Some(Self::Regular),
            number => Self::from_number(number as u8),
        }
    }

    /// The bits of `S_IFMT`.
    pub fn mode(self) -> u32 {
        u32::from(self as u8) << 12
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Fifo,
            2 => Self::CharacterDevice,
            4 => Self::Directory,
            6 => Self::BlockDevice,
            8 => Self::Regular,
            10 => Self::Symlink,
            12 => Self::Socket,
            _ => return None,
        })
    }
}

/// A moment: seconds since 1970 (also before it) and nanoseconds within the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Time {
    pub seconds: i64,
    /// Below 10^9.
    pub nanoseconds: u32,
}

impl Time {
    pub const fn new(seconds: i64, nanoseconds: u32) -> Self {
        Self { seconds, nanoseconds }
    }
}

/// What an inode is, in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    pub kind: FileKind,
    /// `0o7777`.
    pub permissions: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub rdev: u32,
    /// In bytes; a directory's is the number of its entries, a symlink's the length of its target.
    pub size: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub btime: Time,
    /// A directory's parent; 0 otherwise.
    pub parent: u64,
    /// Extended attributes, and the bytes of their names with a NUL each.
    pub xattr_count: u32,
    pub xattr_name_bytes: u32,
    pub has_access_acl: bool,
    pub has_default_acl: bool,
    pub has_capability: bool,
    pub file_flags: FileFlags,
}

/// What chattr(1) sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileFlags {
    /// `i`: nothing changes it.
    pub immutable: bool,
    /// `a`: a file only grows at its end, a directory only gets names.
    pub append_only: bool,
    /// `d`: dump(8) leaves it out.
    pub no_dump: bool,
    /// `A`: reading does not change its access time.
    pub no_atime: bool,
}

const FLAG_ACCESS_ACL: u8 = 1;
const FLAG_DEFAULT_ACL: u8 = 2;
const FLAG_CAPABILITY: u8 = 4;

const FILE_FLAG_IMMUTABLE: u8 = 1;
const FILE_FLAG_APPEND_ONLY: u8 = 2;
const FILE_FLAG_NO_DUMP: u8 = 4;
const FILE_FLAG_NO_ATIME: u8 = 8;

impl FileFlags {
    fn encode(self) -> u8 {
        [
            (self.immutable, FILE_FLAG_IMMUTABLE),
            (self.append_only, FILE_FLAG_APPEND_ONLY),
            (self.no_dump, FILE_FLAG_NO_DUMP),
            (self.no_atime, FILE_FLAG_NO_ATIME),
        ]
        .into_iter()
        .fold(0, |byte, (is_set, flag)| if is_set { byte | flag } else { byte })
    }

    fn decode(byte: u8) -> Result<Self, Malformed> {
        let flags = Self {
            immutable: byte & FILE_FLAG_IMMUTABLE != 0,
            append_only: byte & FILE_FLAG_APPEND_ONLY != 0,
            no_dump: byte & FILE_FLAG_NO_DUMP != 0,
            no_atime: byte & FILE_FLAG_NO_ATIME != 0,
        };
        if flags.encode() == byte { Ok(flags) } else { Err(Malformed("inode: file flags")) }
    }
}

/// A moment as it stands on disk.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TimeBytes {
    pub seconds: I64,
    pub nanoseconds: U32,
}
const _: () = assert!(size_of::<TimeBytes>() == 12);

impl TimeBytes {
    fn new(time: Time) -> Self {
        Self { seconds: time.seconds.into(), nanoseconds: time.nanoseconds.into() }
    }

    fn time(&self) -> Result<Time, Malformed> {
        let nanoseconds = self.nanoseconds.get();
        if nanoseconds >= 1_000_000_000 {
            return Err(Malformed("inode: nanoseconds"));
        }
        Ok(Time { seconds: self.seconds.get(), nanoseconds })
    }
}

/// An inode's attributes as they stand on disk.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct InodeBytes {
    pub version: u8,
    pub kind: u8,
    /// 1: access ACL, 2: default ACL, 4: `security.capability`.
    pub flags: u8,
    /// What chattr(1) sets: 1: immutable, 2: append only, 4: no dump, 8: no access times. Programs from before these
    /// flags refuse an inode that has one.
    pub file_flags: u8,
    pub permissions: U32,
    pub uid: U32,
    pub gid: U32,
    pub nlink: U32,
    pub rdev: U32,
    pub size: U64,
    pub parent: U64,
    pub xattr_count: U32,
    pub xattr_name_bytes: U32,
    pub atime: TimeBytes,
    pub mtime: TimeBytes,
    pub ctime: TimeBytes,
    pub btime: TimeBytes,
}
const _: () = assert!(size_of::<InodeBytes>() == 96);
const _: () = assert!(size_of::<InodeBytes>() <= blocktree_engine::limits::ATTRIBUTES_BYTES_MAX);

impl Attributes {
    pub fn encode(&self) -> InodeBytes {
        let mut flags = 0;
        if self.has_access_acl {
            flags |= FLAG_ACCESS_ACL;
        }
        if self.has_default_acl {
            flags |= FLAG_DEFAULT_ACL;
        }
        if self.has_capability {
            flags |= FLAG_CAPABILITY;
        }
        InodeBytes {
            version: INODE_VERSION,
            kind: self.kind as u8,
            flags,
            file_flags: self.file_flags.encode(),
            permissions: self.permissions.into(),
            uid: self.uid.into(),
            gid: self.gid.into(),
            nlink: self.nlink.into(),
            rdev: self.rdev.into(),
            size: self.size.into(),
            parent: self.parent.into(),
            xattr_count: self.xattr_count.into(),
            xattr_name_bytes: self.xattr_name_bytes.into(),
            atime: TimeBytes::new(self.atime),
            mtime: TimeBytes::new(self.mtime),
            ctime: TimeBytes::new(self.ctime),
            btime: TimeBytes::new(self.btime),
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let raw = InodeBytes::ref_from_bytes(bytes).map_err(|_| Malformed("inode: length"))?;
        if raw.version != INODE_VERSION {
            return Err(Malformed("inode: version"));
        }
        let kind = FileKind::from_number(raw.kind).ok_or(Malformed("inode: kind"))?;
        if raw.flags & !(FLAG_ACCESS_ACL | FLAG_DEFAULT_ACL | FLAG_CAPABILITY) != 0 {
            return Err(Malformed("inode: flags"));
        }
        let permissions = raw.permissions.get();
        if permissions & !0o7777 != 0 {
            return Err(Malformed("inode: permissions"));
        }
        let size = raw.size.get();
        if i64::try_from(size).is_err() {
            return Err(Malformed("inode: size"));
        }
        let parent = raw.parent.get();
        if (kind == FileKind::Directory) != (parent != 0) {
            return Err(Malformed("inode: parent"));
        }
        if raw.nlink.get() > LINKS_MAX {
            return Err(Malformed("inode: links"));
        }
        Ok(Self {
            kind,
            permissions,
            uid: raw.uid.get(),
            gid: raw.gid.get(),
            nlink: raw.nlink.get(),
            rdev: raw.rdev.get(),
            size,
            atime: raw.atime.time()?,
            mtime: raw.mtime.time()?,
            ctime: raw.ctime.time()?,
            btime: raw.btime.time()?,
            parent,
            xattr_count: raw.xattr_count.get(),
            xattr_name_bytes: raw.xattr_name_bytes.get(),
            has_access_acl: raw.flags & FLAG_ACCESS_ACL != 0,
            has_default_acl: raw.flags & FLAG_DEFAULT_ACL != 0,
            has_capability: raw.flags & FLAG_CAPABILITY != 0,
            file_flags: FileFlags::decode(raw.file_flags)?,
        })
    }
}
