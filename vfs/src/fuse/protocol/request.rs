//! From the bytes of a message to a typed request.

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::*;
use crate::Ino;

/// The bytes are no request of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kernel sent a malformed request")]
pub(crate) struct Malformed;

type Result<T> = std::result::Result<T, Malformed>;

/// One request.
#[derive(Debug, Clone, Copy)]
pub(in crate::fuse) struct Request<'a> {
    /// What the answer is to name.
    pub(in crate::fuse) unique: u64,
    pub(in crate::fuse) ino: Ino,
    pub(in crate::fuse) uid: u32,
    pub(in crate::fuse) gid: u32,
    pub(in crate::fuse) pid: u32,
    pub(in crate::fuse) operation: Operation<'a>,
}

/// What is asked for. Names come without their NUL; bytes are as many as the request says.
#[derive(Debug, Clone, Copy)]
pub(in crate::fuse) enum Operation<'a> {
    Init(InitIn),
    Destroy,
    Interrupt(InterruptIn),
    Lookup {
        name: &'a [u8],
    },
    Forget(ForgetIn),
    BatchForget(Forgets<'a>),
    GetAttributes,
    Statx,
    SetAttributes(SetattrIn),
    ReadLink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    MakeNode(MknodIn, &'a [u8]),
    MakeDirectory(MkdirIn, &'a [u8]),
    Unlink {
        name: &'a [u8],
    },
    RemoveDirectory {
        name: &'a [u8],
    },
    Rename {
        wanted: Rename2In,
        name: &'a [u8],
        new_name: &'a [u8],
    },
    Link(LinkIn, &'a [u8]),
    Open(OpenIn),
    Create(CreateIn, &'a [u8]),
    /// Below the directory; the kernel gives it a name that says nothing.
    TemporaryFile(CreateIn),
    Read(ReadIn),
    Write(WriteIn, &'a [u8]),
    Flush(FlushIn),
    Release(ReleaseIn),
    /// Of a file or a directory.
    Fsync(FsyncIn),
    OpenDirectory,
    ReadDirectory(ReadIn),
    ReadDirectoryPlus(ReadIn),
    ReleaseDirectory,
    Statfs,
    SetXattr {
        wanted: SetxattrIn,
        name: &'a [u8],
        value: &'a [u8],
    },
    GetXattr(GetxattrIn, &'a [u8]),
    ListXattr(GetxattrIn),
    RemoveXattr {
        name: &'a [u8],
    },
    GetLock(LkIn),
    SetLock {
        wanted: LkIn,
        may_wait: bool,
    },
    Ioctl(IoctlIn, &'a [u8]),
    Allocate(FallocateIn),
    Seek(LseekIn),
    CopyRange(CopyFileRangeIn),
    Unknown,
}

impl<'a> Request<'a> {
    /// Parses what follows `header`.
    pub(in crate::fuse) fn parse(header: &InHeader, arguments: Arguments<'a>) -> Result<Self> {
        Ok(Self {
            unique: header.unique,
            ino: header.nodeid,
            uid: header.uid,
            gid: header.gid,
            pid: header.pid,
            operation: Operation::parse(header.opcode, arguments)?,
        })
    }
}

impl<'a> Operation<'a> {
    fn parse(number: u32, mut arguments: Arguments<'a>) -> Result<Self> {
        let arguments = &mut arguments;
        Ok(match number {
            opcode::INIT => Self::Init(arguments.structure()?),
            opcode::DESTROY => Self::Destroy,
            opcode::INTERRUPT => Self::Interrupt(arguments.structure()?),
            opcode::LOOKUP => Self::Lookup { name: arguments.name()? },
            opcode::FORGET => Self::Forget(arguments.structure()?),
            opcode::BATCH_FORGET => {
                let BatchForgetIn { count, .. } = arguments.structure()?;
                let bytes = (count as usize).checked_mul(size_of::<ForgetOne>()).ok_or(Malformed)?;
                Self::BatchForget(Forgets(arguments.bytes(bytes)?))
            }
            opcode::GETATTR => Self::GetAttributes,
            opcode::STATX => Self::Statx,
            opcode::SETATTR => Self::SetAttributes(arguments.structure()?),
            opcode::READLINK => Self::ReadLink,
            opcode::SYMLINK => Self::Symlink { name: arguments.name()?, target: arguments.name()? },
            opcode::MKNOD => Self::MakeNode(arguments.structure()?, arguments.name()?),
            opcode::MKDIR => Self::MakeDirectory(arguments.structure()?, arguments.name()?),
            opcode::UNLINK => Self::Unlink { name: arguments.name()? },
            opcode::RMDIR => Self::RemoveDirectory { name: arguments.name()? },
            opcode::RENAME => {
                let RenameIn { newdir } = arguments.structure()?;
                let wanted = Rename2In { newdir, ..Rename2In::default() };
                Self::Rename { wanted, name: arguments.name()?, new_name: arguments.name()? }
            }
            opcode::RENAME2 => Self::Rename {
                wanted: arguments.structure()?,
                name: arguments.name()?,
                new_name: arguments.name()?,
            },
            opcode::LINK => Self::Link(arguments.structure()?, arguments.name()?),
            opcode::OPEN => Self::Open(arguments.structure()?),
            opcode::CREATE => Self::Create(arguments.structure()?, arguments.name()?),
            opcode::TMPFILE => Self::TemporaryFile(arguments.structure()?),
            opcode::READ => Self::Read(arguments.structure()?),
            opcode::WRITE => {
                let wanted: WriteIn = arguments.structure()?;
                Self::Write(wanted, arguments.bytes(wanted.size as usize)?)
            }
            opcode::FLUSH => Self::Flush(arguments.structure()?),
            opcode::RELEASE => Self::Release(arguments.structure()?),
            opcode::FSYNC | opcode::FSYNCDIR => Self::Fsync(arguments.structure()?),
            opcode::OPENDIR => Self::OpenDirectory,
            opcode::READDIR => Self::ReadDirectory(arguments.structure()?),
            opcode::READDIRPLUS => Self::ReadDirectoryPlus(arguments.structure()?),
            opcode::RELEASEDIR => Self::ReleaseDirectory,
            opcode::STATFS => Self::Statfs,
            opcode::SETXATTR => {
                let wanted: SetxattrIn = arguments.structure()?;
                let name = arguments.name()?;
                Self::SetXattr { wanted, name, value: arguments.bytes(wanted.size as usize)? }
            }
            opcode::GETXATTR => Self::GetXattr(arguments.structure()?, arguments.name()?),
            opcode::LISTXATTR => Self::ListXattr(arguments.structure()?),
            opcode::REMOVEXATTR => Self::RemoveXattr { name: arguments.name()? },
            opcode::GETLK => Self::GetLock(arguments.structure()?),
            opcode::SETLK => Self::SetLock { wanted: arguments.structure()?, may_wait: false },
            opcode::SETLKW => Self::SetLock { wanted: arguments.structure()?, may_wait: true },
            opcode::IOCTL => {
                let wanted: IoctlIn = arguments.structure()?;
                Self::Ioctl(wanted, arguments.bytes(wanted.in_size as usize)?)
            }
            opcode::FALLOCATE => Self::Allocate(arguments.structure()?),
            opcode::LSEEK => Self::Seek(arguments.structure()?),
            opcode::COPY_FILE_RANGE => Self::CopyRange(arguments.structure()?),
            _ => Self::Unknown,
        })
    }
}

/// What follows the header: at most one structure, then names and bytes.
#[derive(Debug, Clone, Copy)]
pub(in crate::fuse) struct Arguments<'a> {
    /// Where the structure stands, if that is not before the rest.
    structure: Option<&'a [u8]>,
    rest: &'a [u8],
}

impl<'a> Arguments<'a> {
    /// As they come from the device: one after the other.
    pub(in crate::fuse) fn joined(bytes: &'a [u8]) -> Self {
        Self { structure: None, rest: bytes }
    }

    /// As they come over io_uring.
    pub(in crate::fuse) fn apart(structure: &'a [u8], rest: &'a [u8]) -> Self {
        Self { structure: Some(structure), rest }
    }

    fn structure<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T> {
        let (structure, rest) =
            T::read_from_prefix(self.structure.unwrap_or(self.rest)).map_err(|_| Malformed)?;
        if self.structure.is_none() {
            self.rest = rest;
        }
        Ok(structure)
    }

    /// What comes before the next NUL.
    fn name(&mut self) -> Result<&'a [u8]> {
        let end = self.rest.iter().position(|&byte| byte == 0).ok_or(Malformed)?;
        let name = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(name)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(Malformed)?;
        self.rest = rest;
        Ok(bytes)
    }
}

/// The inodes of a BATCH_FORGET.
#[derive(Debug, Clone, Copy)]
pub(in crate::fuse) struct Forgets<'a>(&'a [u8]);

impl Forgets<'_> {
    pub(in crate::fuse) fn iter(&self) -> impl Iterator<Item = ForgetOne> {
        self.0.chunks_exact(size_of::<ForgetOne>()).filter_map(|bytes| ForgetOne::read_from_bytes(bytes).ok())
    }
}
