//! The only place that knows numbers of errors.

use blocktree_engine::Error;

use crate::FsError;
use crate::control::Refusal;
#[cfg(feature = "fuse")]
use crate::fuse::Failure;

impl FsError {
    /// The errno(3) that a system call answers with.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Engine(error) => match error {
                Error::Corrupt { .. } | Error::Read(_) | Error::Poisoned => libc::EIO,
                Error::ReadOnly | Error::Expired => libc::EROFS,
                Error::NoSpace | Error::NoAccessSlot | Error::LogFull => libc::ENOSPC,
                Error::NoKey | Error::Outside => libc::EACCES,
                Error::OwnersOnly => libc::EPERM,
                Error::TooLong | Error::BadPublicKey => libc::EINVAL,
            },
            Self::Malformed { .. } => libc::EIO,
            Self::NotFound => libc::ENOENT,
            Self::Stale => libc::ESTALE,
            Self::Exists => libc::EEXIST,
            Self::NotDirectory => libc::ENOTDIR,
            Self::IsDirectory => libc::EISDIR,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::Invalid(_) => libc::EINVAL,
            Self::NotSupported(_) => libc::EOPNOTSUPP,
            Self::NotPermitted(_) => libc::EPERM,
            Self::Refused | Self::NotShared | Self::SeveralShared(_) => libc::EACCES,
            Self::TooLarge => libc::EFBIG,
            Self::TooManyLinks => libc::EMLINK,
            Self::DirectoryFull | Self::AttributesFull | Self::NoSpace => libc::ENOSPC,
            Self::NoAttribute => libc::ENODATA,
            Self::AttributeTooBig | Self::AttributeListTooLong => libc::E2BIG,
            Self::PastEnd => libc::ENXIO,
            Self::WouldBlock => libc::EAGAIN,
            Self::Deadlock => libc::EDEADLK,
            Self::Interrupted => libc::EINTR,
        }
    }
}

impl Refusal {
    /// The errno(3) that the ioctl answers with.
    pub fn errno(self) -> i32 {
        match self {
            Self::Unknown => libc::ENOTTY,
            Self::Version => libc::EPROTO,
            Self::Malformed => libc::EINVAL,
            Self::NotPermitted => libc::EPERM,
            Self::Exists => libc::EEXIST,
            Self::NotFound => libc::ENOENT,
            Self::ReadOnly => libc::EROFS,
            Self::NoSpace => libc::ENOSPC,
            Self::Failed => libc::EIO,
        }
    }
}

#[cfg(feature = "fuse")]
impl Failure {
    /// The errno(3) that a request of the kernel is answered with.
    pub(crate) fn errno(&self) -> i32 {
        match self {
            Self::Fs(error) => error.errno(),
            Self::Control(refusal) => refusal.errno(),
            Self::Malformed(_) | Self::NoRoom | Self::Panicked => libc::EIO,
            Self::NeverNeeded => libc::ENOSYS,
            Self::NotTheRoot => libc::ENOTTY,
            Self::CallerHasNoRoom => libc::ERANGE,
            Self::TooManyWaiters => libc::ENOLCK,
            Self::Outsider => libc::EACCES,
        }
    }
}
