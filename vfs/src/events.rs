//! How the layers above hook filesystem events: the [`Observer`] seam, and the journal behind it.
//!
//! Key types: [`Observer`], [`Intent`] (before), [`Event`] (after), [`Mask`]; [`Entry`] is an event as the journal keeps
//! it, with names, time, author and actor: see [`crate::journal`] and [`crate::Fs::events_since`].
//!
//! 1. Without observers an operation pays two relaxed atomic loads, and what its entry in the journal costs. Who only listens
//!    is not asked.
//! 2. `after` is called in the order in which changes became visible, which is the order in which they become
//!    durable, on a thread of the observer's own.
//! 3. The queue holds the newest [`EVENTS_MAX`] events. An observer that falls further behind is told the rest out of
//!    the journal: all but single writes, of which only the first and the settling of the file are kept. If the journal
//!    does not reach so far back either, the observer gets one [`Event::Overflow`] in place of what is missing: it must
//!    look at everything again.
//!    While many come, they are told some at a time: see [`Pace`].
//! 4. Events carry ids and ranges, never names or data. Who needs names asks for the entries, which have them; an
//!    observer may take a call of `after` as a sign to do so.
//! 5. Numbers rise for ever: over unmounting, and over a crash. A number that an observer or [`crate::Fs::events_since`]
//!    has named is never given to another change, even if its change was lost in a crash. So whoever keeps the number
//!    of the last event it dealt with, and asks with it after any restart, misses nothing that is kept, and nothing it
//!    has dealt with comes again. What it keeps in this store is as old as what it was told of.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

pub use blocktree_engine::Seq;
use blocktree_engine::format::BlockId;
use blocktree_engine::{Store, Transaction};
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use crate::journal::read_entry;
pub use crate::journal::{Actor, Entry, Name, QUIET};
pub use crate::pace::Pace;
use crate::{FileKind, FsError, Ino, Result};

/// Events that the queue holds.
pub const EVENTS_MAX: usize = 16 << 10;
/// Entries of the journal that are read at once for an observer.
const PAGE_ENTRIES: usize = 1 << 10;

/// Which events an observer wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mask(pub u32);

impl Mask {
    /// New names: create, mkdir, mknod, symlink, link.
    pub const LINK: Self = Self(1);
    /// Names that end: unlink, rmdir.
    pub const UNLINK: Self = Self(2);
    pub const RENAME: Self = Self(4);
    /// Bytes: write, truncate, fallocate, copy.
    pub const DATA: Self = Self(8);
    /// Mode, owner, times, extended attributes.
    pub const ATTRIBUTES: Self = Self(16);
    /// Nobody modifies the file any more, for now.
    pub const SETTLED: Self = Self(32);
    /// The store was mounted or unmounted.
    pub const MOUNT: Self = Self(64);
    /// A file that is about to be opened for writing, or to be cut off. Nothing is told of that.
    pub const MODIFY: Self = Self(128);
    pub const ALL: Self = Self(255);

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A range of a file's bytes; `end` is `u64::MAX` for "to the end".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub end: u64,
}

impl Range {
    pub const ALL: Self = Self { start: 0, end: u64::MAX };
}

/// What is about to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent<'a> {
    /// A new name; `ino` is `None` if the inode is new too.
    Link {
        parent: Ino,
        name: &'a [u8],
        ino: Option<Ino>,
        kind: FileKind,
        permissions: u32,
    },
    Unlink {
        parent: Ino,
        name: &'a [u8],
    },
    Rename {
        parent: Ino,
        name: &'a [u8],
        new_parent: Ino,
        new_name: &'a [u8],
        exchange: bool,
    },
    /// Once, before the [`Intent::Data`] of a file that is opened for writing.
    Modify {
        ino: Ino,
    },
    Data {
        ino: Ino,
        range: Range,
    },
    /// Mode, owner, extended attributes. Nobody is asked about times alone, which the kernel also writes back by itself.
    Attributes {
        ino: Ino,
        /// If they are to change.
        permissions: Option<u32>,
    },
}

/// An observer's answer to an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    /// The operation fails with EACCES.
    Refuse,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `is_new`: the inode is new too, or had no name before.
    Linked {
        parent: Ino,
        ino: Ino,
        is_new: bool,
    },
    Unlinked {
        parent: Ino,
        ino: Ino,
    },
    /// `replaced` lost its name `parent` → `new_parent`; with `exchanged` it got the other one's. A `whiteout` was made
    /// that has the old name.
    Renamed {
        parent: Ino,
        new_parent: Ino,
        ino: Ino,
        replaced: Option<Ino>,
        exchanged: bool,
        whiteout: Option<Ino>,
    },
    /// Bytes changed. In the journal: from here on they change, anywhere in the file.
    Data {
        ino: Ino,
        range: Range,
    },
    /// After [`Event::Data`]: nobody has the file open any more, or nobody has written for [`QUIET`].
    Settled {
        ino: Ino,
    },
    Attributes {
        ino: Ino,
    },
    /// The first change after a mount follows. If the mount before did not end with [`Event::Unmounted`], there was a
    /// crash, and what it had not made durable was lost. Only in the journal.
    Mounted,
    Unmounted,
    /// Events are missing here: look at everything again.
    Overflow,
}

impl Event {
    fn mask(&self) -> Mask {
        match self {
            Self::Linked { .. } => Mask::LINK,
            Self::Unlinked { .. } => Mask::UNLINK,
            Self::Renamed { .. } => Mask::RENAME,
            Self::Data { .. } => Mask::DATA,
            Self::Settled { .. } => Mask::SETTLED,
            Self::Attributes { .. } => Mask::ATTRIBUTES,
            Self::Mounted | Self::Unmounted => Mask::MOUNT,
            Self::Overflow => Mask::ALL,
        }
    }
}

/// Someone who wants to know, and may object.
pub trait Observer: Send + Sync {
    /// What it wants to hear of; asked once.
    fn mask(&self) -> Mask;
    /// What it wants to be asked about; asked once.
    fn before_mask(&self) -> Mask {
        Mask::default()
    }
    /// Called before a change on behalf of `actor`, on the caller's thread, with no lock held. It may look at the tree, but
    /// not change it, and must answer within a bounded time. Nobody is asked about what [`crate::Fs::unnoted`] changes.
    fn before(&self, _actor: Actor, _intent: &Intent<'_>) -> Verdict {
        Verdict::Allow
    }
    /// Called after a change, in commit order.
    fn after(&self, seq: Seq, event: &Event);
}

/// Where operations announce and publish, and observers listen.
pub(crate) struct Hub {
    root: BlockId,
    /// The unions of all masks: of what somebody hears of, and of what somebody is asked about.
    mask: AtomicU32,
    before_mask: AtomicU32,
    /// Those who are asked, and about what.
    asked: RwLock<Vec<(Mask, Arc<dyn Observer>)>>,
    /// Held across apply and publish, so that the queue has the order of the changes. Only taken when somebody
    /// observes.
    order: Mutex<()>,
    queue: Arc<Shared>,
}

/// What the threads of observers share with the hub.
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Numbers of this mount are durable: see [`Shared::fix_numbers`].
    fixed: AtomicBool,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<(Seq, Mask, Event)>,
    /// Events that were ever dropped from the front.
    dropped: u64,
    /// The queue holds what came after this.
    missing_to: Seq,
    closed: bool,
}

impl Shared {
    /// Numbers are given out anew after a crash, from behind the last that is durable. So before the first one is
    /// named to anybody, one of this mount must be.
    fn fix_numbers(&self, store: &Store, seq: Seq) -> blocktree_engine::Result<()> {
        if !self.fixed.load(Ordering::Acquire) {
            store.sync(seq)?;
            self.fixed.store(true, Ordering::Release);
        }
        Ok(())
    }
}

impl Hub {
    /// `is_fixed`: no numbers are given out that a crash could take back. `root` is the block at the top.
    pub(crate) fn new(is_fixed: bool, root: BlockId) -> Self {
        let (queue, changed) = (Mutex::default(), Condvar::new());
        Self {
            root,
            mask: AtomicU32::new(0),
            before_mask: AtomicU32::new(0),
            asked: RwLock::default(),
            order: Mutex::new(()),
            queue: Arc::new(Shared { queue, changed, fixed: AtomicBool::new(is_fixed) }),
        }
    }

    fn wants(&self, mask: Mask) -> bool {
        self.mask.load(Ordering::Relaxed) & mask.0 != 0
    }

    /// Asks the observers.
    pub(crate) fn announce<'a>(
        &self,
        actor: Actor,
        mask: Mask,
        intent: impl FnOnce() -> Intent<'a>,
    ) -> Result<()> {
        if self.before_mask.load(Ordering::Relaxed) & mask.0 == 0 {
            return Ok(());
        }
        let intent = intent();
        let observers: Vec<_> =
            self.asked.read().iter().filter(|(wanted, _)| wanted.contains(mask)).cloned().collect();
        match observers.iter().any(|(_, observer)| observer.before(actor, &intent) == Verdict::Refuse) {
            true => Err(FsError::Refused),
            false => Ok(()),
        }
    }

    /// Applies a transaction and tells the observers.
    pub(crate) fn apply(
        &self,
        transaction: Transaction,
        mask: Mask,
        event: impl FnOnce() -> Option<Event>,
    ) -> blocktree_engine::Result<Seq> {
        if !self.wants(mask) {
            return transaction.apply();
        }
        let _order = self.order.lock();
        let seq = transaction.apply()?;
        let Some(event) = event() else { return Ok(seq) };
        let mut queue = self.queue.queue.lock();
        queue.events.push_back((seq, mask, event));
        if queue.events.len() > EVENTS_MAX
            && let Some((seq, ..)) = queue.events.pop_front()
        {
            queue.dropped += 1;
            queue.missing_to = seq;
        }
        self.queue.changed.notify_all();
        Ok(seq)
    }

    pub(crate) fn observe(&self, observer: Arc<dyn Observer>, store: &Store) {
        let mask = observer.mask();
        let _order = self.order.lock();
        let mut queue = self.queue.queue.lock();
        let told = store.newest();
        if self.mask.fetch_or(mask.0, Ordering::Relaxed) & mask.0 != mask.0 {
            // What nobody wanted before was not queued.
            queue.missing_to = queue.missing_to.max(told);
        }
        let cursor = queue.dropped + queue.events.len() as u64;
        drop(queue);
        let before_mask = observer.before_mask();
        if before_mask != Mask::default() {
            self.asked.write().push((before_mask, observer.clone()));
            self.before_mask.fetch_or(before_mask.0, Ordering::Relaxed);
        }
        if mask == Mask::default() {
            return;
        }
        let (shared, store, root) = (self.queue.clone(), store.clone(), self.root);
        let delivery = Delivery { shared, store, root, observer, wanted: mask };
        std::thread::spawn(move || delivery.run(cursor, told));
    }

    /// Sees to it that the numbers up to `seq`, of which one was just named, mean the same after a crash.
    pub(crate) fn fix_numbers(&self, store: &Store, seq: Seq) -> Result<()> {
        Ok(self.queue.fix_numbers(store, seq)?)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.queue.queue.lock().closed = true;
        self.queue.changed.notify_all();
    }
}

/// One observer's thread.
struct Delivery {
    shared: Arc<Shared>,
    store: Store,
    root: BlockId,
    observer: Arc<dyn Observer>,
    wanted: Mask,
}

impl Delivery {
    /// From `cursor`, the number of an event since the mount, to the end of the mount. What came up to `told` is known.
    fn run(&self, mut cursor: u64, mut told: Seq) {
        let mut pace = Pace::default();
        let mut queue = self.shared.queue.lock();
        loop {
            if cursor < queue.dropped {
                let (to, dropped) = (queue.missing_to, queue.dropped);
                drop(queue);
                self.catch_up(told, to);
                (cursor, told) = (dropped, to);
                queue = self.shared.queue.lock();
            } else if let Some((seq, mask, event)) = queue.events.get((cursor - queue.dropped) as usize) {
                cursor += 1;
                told = *seq;
                if self.wanted.contains(*mask) {
                    let event = event.clone();
                    drop(queue);
                    self.tell(told, &event);
                    queue = self.shared.queue.lock();
                }
            } else if queue.closed {
                return;
            } else {
                self.shared.changed.wait(&mut queue);
                let pause = pace.before_looking(Instant::now());
                if !pause.is_zero() && !queue.closed {
                    MutexGuard::unlocked(&mut queue, || std::thread::sleep(pause));
                }
            }
        }
    }

    fn tell(&self, seq: Seq, event: &Event) {
        // A store that cannot do that takes no changes, either, that could get the same number.
        let _ = self.shared.fix_numbers(&self.store, seq);
        self.observer.after(seq, event);
    }

    /// Tells what the queue does not hold any more: out of the journal, what came after `seq`, up to `to`.
    fn catch_up(&self, mut seq: Seq, to: Seq) {
        while seq < to {
            let page = match self.store.notes_since(seq, PAGE_ENTRIES) {
                Ok(page) if self.store.takes_notes() => page,
                _ => return self.tell(to, &Event::Overflow),
            };
            if let Some(missing_to) = page.missing_to {
                self.tell(missing_to.min(to), &Event::Overflow);
            }
            let Some(last) = page.notes.last() else { return };
            seq = last.seq;
            for note in page.notes.iter().take_while(|note| note.seq <= to) {
                match read_entry(note, self.root) {
                    Some(Ok(entry)) if self.wanted.contains(entry.event.mask()) => {
                        self.tell(note.seq, &entry.event)
                    }
                    Some(Ok(_)) | None => {}
                    Some(Err(_)) => self.tell(note.seq, &Event::Overflow),
                }
            }
        }
    }
}
