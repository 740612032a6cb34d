//! What can go wrong in a file operation. [`crate::errno`] turns it into a number.

use blocktree_engine::Error;

/// Why a file operation failed. Nothing was changed, except where an operation says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    #[error(transparent)]
    Engine(#[from] Error),
    /// A structure of this layer is malformed on disk.
    #[error("inode {ino}: malformed {what}")]
    Malformed { ino: u64, what: &'static str },
    #[error("no such file or directory")]
    NotFound,
    #[error("the inode does not exist any more")]
    Stale,
    #[error("the name exists")]
    Exists,
    #[error("not a directory")]
    NotDirectory,
    #[error("is a directory")]
    IsDirectory,
    #[error("the directory is not empty")]
    NotEmpty,
    #[error("the name is too long")]
    NameTooLong,
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// The operation does not exist here, or not for this kind of file.
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    #[error("not permitted: {0}")]
    NotPermitted(&'static str),
    /// Nothing is shared with who opened the store, or not what was asked for.
    #[error("nothing in the store is shared with this principal, or not what was asked for")]
    NotShared,
    /// More than one readcap, by their serials.
    #[error("several directories are shared with this principal: {}", serials(.0))]
    SeveralShared(Vec<u64>),
    /// An observer refused.
    #[error("refused by policy")]
    Refused,
    #[error("the file would become too large")]
    TooLarge,
    #[error("too many links")]
    TooManyLinks,
    /// More names in one directory hash alike than a bucket holds.
    #[error("the directory has no room for this name")]
    DirectoryFull,
    #[error("no such extended attribute")]
    NoAttribute,
    #[error("the extended attribute is too big")]
    AttributeTooBig,
    #[error("the extended attributes take too much room")]
    AttributesFull,
    #[error("the list of extended attributes is too long")]
    AttributeListTooLong,
    #[error("offset lies past the end")]
    PastEnd,
    #[error("the lock is held by somebody else")]
    WouldBlock,
    #[error("waiting for the lock would never end")]
    Deadlock,
    #[error("interrupted")]
    Interrupted,
    #[error("no space left")]
    NoSpace,
}

fn serials(serials: &[u64]) -> String {
    let serials: Vec<String> = serials.iter().map(|serial| format!("{serial:016x}")).collect();
    serials.join(", ")
}

pub type Result<T> = std::result::Result<T, FsError>;
