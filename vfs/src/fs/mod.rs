//! The file operations: [`Fs`], one method each.
//!
//! The methods take inode numbers and bytes and know no transport. What each file holds: `lookup.rs` names to
//! inodes and their lifetime, `create.rs` new inodes, `remove.rs` the end of names, `rename.rs`, `attributes.rs`,
//! `read.rs`, `write.rs`, `allocate.rs` holes and ranges, `copy.rs`, `readdir.rs`, `extended.rs` extended
//! attributes and ACLs, `flags.rs` what chattr(1) sets, `home.rs` where inodes belong, `locks.rs`, `sync.rs`,
//! `system.rs` a directory that no mount shows.
//!
//! # What the kernel does and this does not
//!
//! Mounted through FUSE with `default_permissions`, the kernel checks before it asks: search, read, write and
//! owner rights (also by ACL), the sticky bit, who may chmod, chown and set times, rights to `user.*` and
//! `trusted.*` attributes, set-group-id on chmod by someone outside the group, append-only opens, `RLIMIT_FSIZE`,
//! path walking and its loops. None of it is repeated here.
//!
//! What the kernel leaves to the filesystem is here: set-group-id inheritance, default ACLs and the umask,
//! chmod's effect on an ACL and an ACL's on the mode, clearing of set-user-id and capabilities, times, link
//! counts, lifetime of open files, emptiness of directories, loops by rename, locks, immutable and append-only
//! inodes (of which the kernel's FUSE knows nothing).
//!
//! # Invariants
//!
//! 1. Each change is one engine transaction with all its attribute updates, unless its method says otherwise.
//! 2. An inode's `operation` lock is held while a transaction that changes its block is built and applied;
//!    several are taken in the order of their ids. No lock is held across the engine's `sync`.
//! 3. Reading data or attributes takes no `operation` lock.

mod allocate;
mod attributes;
mod change;
mod copy;
mod create;
mod extended;
mod flags;
mod home;
mod locks;
mod lookup;
mod mount;
mod read;
mod readdir;
mod remove;
mod rename;
mod sync;
mod system;
mod unit;
mod write;

pub(crate) use mount::{attributes_of, directory_attributes};
pub use unit::{NAME_UNIT, parse_unit};

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use blocktree_engine::Store;
use blocktree_engine::format::BlockId;
use parking_lot::Mutex;

use crate::Ino;
use crate::directory::NameHash;
use crate::error::{FsError, Result};
use crate::events::{Hub, Intent, Mask};
use crate::ids::IdMap;
use crate::inode::InodeTable;
use crate::journal::{Actor, Journal};
use crate::layout::Time;
use crate::lock::LockTable;

/// A mounted filesystem, as one [`Actor`] sees it: the node itself, unless it was made by [`Fs::acting_for`]. All
/// methods may be called from many threads.
pub struct Fs {
    shared: Arc<Shared>,
    actor: Actor,
    /// Nobody hears of what is changed through this: see [`Fs::unnoted`].
    is_unnoted: bool,
}

/// What all actors share.
#[doc(hidden)]
pub struct Shared {
    store: Store,
    options: MountOptions,
    /// The block of the directory at the top: everything that is shown is below it. Its inode is [`Fs::ROOT`],
    /// whichever block it is.
    root: BlockId,
    inodes: InodeTable,
    names: NameHash,
    pub(crate) events: Hub,
    pub(crate) journal: Journal,
    locks: Arc<LockTable>,
    /// Held while a directory changes its parent, so that two renames do not make a loop together.
    tree_shape: Mutex<()>,
    /// The newest operation that is known to be durable.
    durable: AtomicU64,
}

impl std::ops::Deref for Fs {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Fs {
    pub(crate) fn of(shared: Arc<Shared>) -> Self {
        Self { shared, actor: Actor::Node, is_unnoted: false }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    pub(crate) fn with_actor(self, actor: Actor) -> Self {
        Self { actor, ..self }
    }

    pub(crate) fn without_notes(self) -> Self {
        Self { is_unnoted: true, ..self }
    }

    /// Asks those who may object to what is about to be done.
    fn announce<'a>(&self, mask: Mask, intent: impl FnOnce() -> Intent<'a>) -> Result<()> {
        match self.is_unnoted {
            true => Ok(()),
            false => self.events.announce(self.actor, mask, intent),
        }
    }
}

/// The process that something is created for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    /// The process's umask; the transport must not have applied it (`FUSE_DONT_MASK`).
    pub umask: u32,
}

/// How to mount.
#[derive(Clone, Default)]
pub struct MountOptions {
    /// Refuse changes with EROFS, and leave access times alone.
    pub read_only: bool,
    /// Never update access times (`noatime`); otherwise as `relatime`.
    pub no_atime: bool,
    /// Whom the mount shows in place of those on disk.
    pub ids: IdMap,
    /// Which of the readcaps of who opened the store is shown, by its serial; needed where there are several.
    pub subtree: Option<u64>,
    /// How many bytes have one hash in files that are made where the directory says nothing of it; 0: 4 KiB. As
    /// [`parse_unit`] gives it.
    pub unit_bytes: u64,
    /// Inodes kept in memory that the kernel does not know; 0 chooses.
    pub inode_cache_count: usize,
    /// The clock, for tests.
    #[doc(hidden)]
    pub clock: Option<fn() -> Time>,
    /// Replaces the keyed hash of names, to force collisions in tests.
    #[doc(hidden)]
    pub name_hash: Option<fn(&[u8]) -> u64>,
}

/// How a file is opened, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFlags {
    /// `O_RDWR` or `O_WRONLY`.
    pub write: bool,
    /// `O_APPEND`.
    pub append: bool,
    /// `O_TRUNC`, if the transport hands it down (`FUSE_ATOMIC_O_TRUNC`).
    pub truncate: bool,
    /// With `truncate`: see [`WriteFlags::kill_privileges`].
    pub kill_privileges: bool,
}

/// How to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteFlags {
    /// Clear set-user-id, set-group-id and `security.capability` (`FUSE_WRITE_KILL_SUIDGID`: the kernel knows
    /// whether the writer has CAP_FSETID).
    pub kill_privileges: bool,
    /// The kernel writes back what it collected (`FUSE_WRITE_CACHE`), perhaps long after the writer was let in.
    pub from_cache: bool,
}

/// renameat2(2)'s flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RenameFlags {
    pub no_replace: bool,
    pub exchange: bool,
    /// `RENAME_WHITEOUT`: the old name is left to a whiteout, a device without a driver, which this caller makes.
    pub whiteout: Option<Caller>,
}

/// How setxattr works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetXattrFlags {
    /// `XATTR_CREATE`: fail if it exists.
    pub create: bool,
    /// `XATTR_REPLACE`: fail if it does not exist.
    pub replace: bool,
    /// `FUSE_SETXATTR_ACL_KILL_SGID`: setting this access ACL takes set-group-id away.
    pub kill_set_group_id: bool,
}

/// fallocate(2)'s modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FallocateMode {
    Allocate { keep_size: bool },
    PunchHole,
    ZeroRange { keep_size: bool },
    CollapseRange,
    InsertRange,
}

impl FallocateMode {
    /// From the flags of the system call. `FALLOC_FL_UNSHARE_RANGE` and others to come are not supported.
    pub fn from_bits(bits: i32) -> Result<Self> {
        const KEEP_SIZE: i32 = libc::FALLOC_FL_KEEP_SIZE;
        let keep_size = bits & KEEP_SIZE != 0;
        match (bits & !KEEP_SIZE, keep_size) {
            (0, _) => Ok(Self::Allocate { keep_size }),
            (libc::FALLOC_FL_PUNCH_HOLE, true) => Ok(Self::PunchHole),
            (libc::FALLOC_FL_ZERO_RANGE, _) => Ok(Self::ZeroRange { keep_size }),
            (libc::FALLOC_FL_COLLAPSE_RANGE, false) => Ok(Self::CollapseRange),
            (libc::FALLOC_FL_INSERT_RANGE, false) => Ok(Self::InsertRange),
            _ => Err(FsError::NotSupported("this mode of fallocate")),
        }
    }
}

impl RenameFlags {
    /// From the flags of the system call, and who called.
    pub fn from_bits(bits: u32, caller: Caller) -> Result<Self> {
        if bits & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE | libc::RENAME_WHITEOUT) != 0 {
            return Err(FsError::Invalid("this flag of renameat2"));
        }
        Ok(Self {
            no_replace: bits & libc::RENAME_NOREPLACE != 0,
            exchange: bits & libc::RENAME_EXCHANGE != 0,
            whiteout: (bits & libc::RENAME_WHITEOUT != 0).then_some(caller),
        })
    }
}

/// What lseek(2) looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whence {
    Data,
    Hole,
}

/// One entry of a directory, as readdir hands it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryEntry<'a> {
    pub ino: Ino,
    pub kind: crate::FileKind,
    pub name: &'a [u8],
    /// Where to go on after this entry. Positive as an `off_t`; stays valid when the directory changes.
    pub cookie: u64,
}

/// What statvfs(3) shows; sizes are in units of `block_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statfs {
    pub block_bytes: u32,
    pub blocks: u64,
    pub blocks_free: u64,
    /// There is no table of inodes: these are an estimate.
    pub files: u64,
    pub files_free: u64,
    pub name_bytes_max: u32,
}
