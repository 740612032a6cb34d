//! From a store to a filesystem and back.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use blocktree_engine::format::BlockId;
use blocktree_engine::{Block, Error, Role, Seq, Store};
use parking_lot::Mutex;
use zerocopy::IntoBytes;

use super::{Fs, MountOptions, Shared};
use crate::directory::NameHash;
use crate::events::{Hub, Observer};
use crate::inode::{Inode, InodeTable};
use crate::journal::{Happened, Journal};
use crate::layout::{Attributes, Entry, FileFlags, FileKind, Time};
use crate::lock::LockTable;
use crate::{FsError, Ino, Result};

const INODE_CACHE_COUNT: usize = 64 << 10;

/// Times are multiples of this: a burst of writes within one changes an inode's attributes once. Linux's own
/// filesystems count in ticks of 1 to 10 ms.
const TIME_GRANULARITY_NS: u32 = 1_000_000;

impl Fs {
    /// The root directory.
    pub const ROOT: BlockId = Store::ROOT;

    /// Makes the root directory, mode 0755, of a store that was just created, and makes it durable.
    pub fn format(store: &Store, uid: u32, gid: u32) -> Result<()> {
        let attributes = directory_attributes(uid, gid, 0o755, Self::ROOT);
        let mut transaction = store.transaction();
        let root = transaction.create(attributes.encode().as_bytes());
        if root.id() != Self::ROOT {
            return Err(FsError::Invalid("the store holds something already"));
        }
        transaction.create_journal(b"");
        let seq = transaction.apply()?;
        Ok(store.sync(seq)?)
    }

    /// Starts to serve a store's tree; ends what was unlinked but still open at a crash.
    ///
    /// Who has the owner key sees all of it; others what one of their readcaps gives.
    pub fn mount(store: Store, mut options: MountOptions) -> Result<Self> {
        options.read_only |= store.is_read_only();
        let root = root_block(&store, &options)?;
        if !options.read_only {
            make_journal(&store)?;
            end_orphans(&store)?;
        }
        let unused_max = match options.inode_cache_count {
            0 => INODE_CACHE_COUNT,
            count => count,
        };
        let is_read_only = options.read_only;
        let is_timed = options.clock.is_none();
        let fs = Self::of(Arc::new(Shared {
            names: NameHash(options.name_hash),
            events: Hub::new(is_read_only, root.id()),
            journal: Journal::new(root.id()),
            store,
            options,
            root: root.id(),
            inodes: InodeTable::new(unused_max),
            locks: Arc::new(LockTable::default()),
            tree_shape: Mutex::new(()),
            durable: AtomicU64::new(0),
        }));
        let root = fs.inodes.get(Self::ROOT, |changed| fs.load(Self::ROOT, Some(root), changed))?;
        if root.attributes().kind != FileKind::Directory {
            return Err(FsError::Malformed { ino: Self::ROOT, what: "the root is no directory" });
        }
        // The kernel knows it from the start and never forgets it.
        fs.inodes.count_lookup(&root);
        drop(root);
        if !is_read_only {
            fs.settle_after_crash()?;
            if is_timed {
                fs.journal.watch(Arc::downgrade(&fs.shared()));
            }
        }
        Ok(fs)
    }

    /// Writes down what is pending (access times, orphans) and makes everything durable. Call it when no
    /// operation runs any more; the store stays open.
    pub fn unmount(&self) -> Result<()> {
        if self.options.read_only {
            return Ok(());
        }
        for inode in self.inodes.all() {
            if inode.attributes().nlink == 0 {
                if self.inodes.kill(&inode) {
                    self.destroy(&inode);
                }
            } else {
                self.write_access_time(&inode);
            }
        }
        self.end_journal()?;
        self.syncfs()
    }

    /// The store below.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Inodes in memory: those in use, and a bounded number of others.
    pub fn inodes_in_memory(&self) -> usize {
        self.inodes.len()
    }

    /// From now on the observer is asked and told.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        self.events.observe(observer, &self.store);
    }

    pub(crate) fn now(&self) -> Time {
        match self.options.clock {
            Some(clock) => clock(),
            None => system_time(),
        }
    }

    /// The inode, from memory or from the store. Without the owner key, it must be one that is in use, or else it is as
    /// if it were gone: its key is found only on the way through the directory that it is in.
    pub(crate) fn inode(&self, ino: Ino) -> Result<Arc<Inode>> {
        self.inodes.get(ino, |changed| self.load(ino, self.block(ino)?, changed))
    }

    /// The inode that an entry of a directory leads to.
    pub(crate) fn inode_in(&self, directory: &Inode, entry: &Entry) -> Result<Arc<Inode>> {
        let inode = self.inodes.get(entry.child, |changed| {
            let block = self.store.block_in(&directory.block, entry.child, &entry.wrapped_key)?;
            self.load(entry.child, block, changed)
        })?;
        // Whoever may write this directory could name anything in it; what belongs elsewhere has no name here.
        let (above, home) = (directory.block.id(), inode.block.home());
        if home != above && !self.store.is_within(above, home).unwrap_or(false) {
            return Err(FsError::Stale);
        }
        Ok(inode)
    }

    /// The inode whose block is `id`, as directories name the one they are in.
    pub(super) fn ino_of(&self, id: BlockId) -> Ino {
        if id == self.root { Self::ROOT } else { id }
    }

    fn block(&self, ino: Ino) -> Result<Option<Block>> {
        // The directory at the top is there once, under its own number.
        if ino == self.root && ino != Self::ROOT {
            return Ok(None);
        }
        match self.store.block(ino) {
            Err(Error::NoKey) => Ok(None),
            found => Ok(found?),
        }
    }

    fn load(&self, ino: Ino, block: Option<Block>, changed: Seq) -> Result<Arc<Inode>> {
        let block = block.ok_or(FsError::Stale)?;
        let attributes = attributes_of(&self.store, &block)?;
        if attributes.nlink == 0 {
            return Err(FsError::Stale);
        }
        Ok(Inode::new(ino, block, attributes, changed))
    }

    /// Destroys the block of an inode that is dead.
    pub(super) fn destroy(&self, inode: &Inode) {
        let guard = inode.lock_dead();
        let mut transaction = self.store.transaction();
        transaction.destroy(&inode.block);
        // If it fails, it stays an orphan until the next mount.
        if let Err(error) = transaction.apply() {
            tracing::warn!(ino = inode.ino, %error, "an inode without names stays until the next mount");
        }
        drop(guard);
        self.forget_uses(inode.ino);
    }

    /// Writes a pending access time down; if that fails, it is lost.
    pub(super) fn write_access_time(&self, inode: &Arc<Inode>) {
        if !inode.state().atime_pending {
            return;
        }
        let Ok(_guard) = inode.lock() else { return };
        let Ok(mut change) = self.change() else { return };
        change.edit_metadata(inode);
        let _ = change.commit(Happened::Nothing);
    }

    /// The inode is gone, and so is what was known of its use.
    pub(super) fn forget_uses(&self, ino: u64) {
        self.locks.forget(ino);
        self.journal.forget(ino);
    }
}

/// What an inode's block says of it.
pub(crate) fn attributes_of(store: &Store, block: &Block) -> Result<Attributes> {
    let bytes = store.attributes(block)?;
    Attributes::decode(&bytes).map_err(|malformed| FsError::Malformed { ino: block.id(), what: malformed.0 })
}

/// Destroys what was unlinked but still open at a crash, as far as that is for whoever opened the store to do.
fn end_orphans(store: &Store) -> Result<()> {
    for id in store.orphans()? {
        let block = match store.block(id) {
            Err(Error::NoKey) => continue,
            found => found?,
        };
        if let Some(block) = block {
            let mut transaction = store.transaction();
            transaction.destroy(&block);
            match transaction.apply() {
                Ok(_) | Err(Error::Outside | Error::LogFull) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Stores of earlier versions have no journal.
fn make_journal(store: &Store) -> Result<()> {
    if store.journal()?.is_some() {
        return Ok(());
    }
    let mut transaction = store.transaction();
    transaction.create_journal(b"");
    match transaction.apply() {
        // It does without one until there is space, and an owner.
        Ok(_) | Err(Error::NoSpace | Error::NoKey) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The block of the directory at the top of what is shown.
fn root_block(store: &Store, options: &MountOptions) -> Result<Block> {
    if store.role() == Role::Owner {
        return store.block(Fs::ROOT)?.ok_or(FsError::Stale);
    }
    let caps = store.own_readcaps();
    let serial = match (options.subtree, caps.as_slice()) {
        (Some(serial), _) if caps.iter().any(|(own, _)| *own == serial) => serial,
        (Some(_), _) | (None, []) => return Err(FsError::NotShared),
        (None, [(serial, _)]) => *serial,
        (None, several) => return Err(FsError::SeveralShared(several.iter().map(|(own, _)| *own).collect())),
    };
    store.shared_block(serial)?.ok_or(FsError::NotShared)
}

/// Those of a new and empty directory.
pub(crate) fn directory_attributes(uid: u32, gid: u32, permissions: u32, parent: u64) -> Attributes {
    let now = system_time();
    Attributes {
        kind: FileKind::Directory,
        permissions,
        uid,
        gid,
        nlink: 2,
        rdev: 0,
        size: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        parent,
        xattr_count: 0,
        xattr_name_bytes: 0,
        has_access_acl: false,
        has_default_acl: false,
        has_capability: false,
        file_flags: FileFlags::default(),
    }
}

fn system_time() -> Time {
    let (seconds, nanoseconds) = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => (since.as_secs() as i64, since.subsec_nanos()),
        Err(_) => (0, 0),
    };
    Time { seconds, nanoseconds: nanoseconds - nanoseconds % TIME_GRANULARITY_NS }
}
