//! How the layers above hook filesystem events: the [`Observer`] seam.
//!
//! Key types: [`Observer`], [`Intent`] (before), [`Event`] (after), [`Mask`].
//!
//! 1. Without observers an operation pays one relaxed atomic load.
//! 2. `after` is called in the order in which changes became visible, which is the order in which they become
//!    durable, on a thread of the observer's own.
//! 3. The queue holds the newest [`EVENTS_MAX`] events. An observer that falls further behind misses the oldest
//!    ones and gets one [`Event::Overflow`] in their place: it must look at everything again.
//! 4. Events carry ids and ranges, never names or data.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub use blocktree_engine::Seq;
use blocktree_engine::{Store, Transaction};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::{FsError, Ino, Result};

/// Events that the queue holds.
pub const EVENTS_MAX: usize = 16 << 10;

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
    pub const ALL: Self = Self(31);

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

/// What is about to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent<'a> {
    /// A new name; `ino` is `None` if the inode is new too.
    Link {
        parent: Ino,
        name: &'a [u8],
        ino: Option<Ino>,
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
    },
    Data {
        ino: Ino,
        range: Range,
    },
    Attributes {
        ino: Ino,
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
    Linked {
        parent: Ino,
        ino: Ino,
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
    Data {
        ino: Ino,
        range: Range,
    },
    Attributes {
        ino: Ino,
    },
    /// Events are missing here: look at everything again.
    Overflow,
}

/// The answer to [`crate::Fs::events_since`].
pub type Events = Vec<(Seq, Event)>;

/// Someone who wants to know, and may object.
pub trait Observer: Send + Sync {
    /// What it wants to hear of; asked once.
    fn mask(&self) -> Mask;
    /// Called before a change, on the caller's thread, with no lock held; must not block or call back.
    fn before(&self, intent: &Intent<'_>) -> Verdict;
    /// Called after a change, in commit order.
    fn after(&self, seq: Seq, event: &Event);
}

/// Where operations announce and publish, and observers listen.
pub(crate) struct Hub {
    /// The union of all masks.
    mask: AtomicU32,
    observers: RwLock<Vec<(Mask, Arc<dyn Observer>)>>,
    /// Held across apply and publish, so that the queue has the order of the changes. Only taken when somebody
    /// observes.
    order: Mutex<()>,
    queue: Arc<(Mutex<Queue>, Condvar)>,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<(Seq, Mask, Event)>,
    /// Events that were ever dropped from the front.
    dropped: u64,
    /// Nothing up to here is in the queue for sure.
    missing_to: Seq,
    closed: bool,
}

impl Hub {
    pub(crate) fn new(newest: Seq) -> Self {
        let queue = Queue { missing_to: newest, ..Queue::default() };
        Self {
            mask: AtomicU32::new(0),
            observers: RwLock::default(),
            order: Mutex::new(()),
            queue: Arc::new((Mutex::new(queue), Condvar::new())),
        }
    }

    fn wants(&self, mask: Mask) -> bool {
        self.mask.load(Ordering::Relaxed) & mask.0 != 0
    }

    /// Asks the observers.
    pub(crate) fn announce<'a>(&self, mask: Mask, intent: impl FnOnce() -> Intent<'a>) -> Result<()> {
        if !self.wants(mask) {
            return Ok(());
        }
        let intent = intent();
        let observers: Vec<_> =
            self.observers.read().iter().filter(|(wanted, _)| wanted.contains(mask)).cloned().collect();
        match observers.iter().any(|(_, observer)| observer.before(&intent) == Verdict::Refuse) {
            true => Err(FsError::Refused),
            false => Ok(()),
        }
    }

    /// Applies a transaction and tells the observers.
    pub(crate) fn apply(
        &self,
        transaction: Transaction,
        mask: Mask,
        event: impl FnOnce() -> Event,
    ) -> blocktree_engine::Result<Seq> {
        if !self.wants(mask) {
            return transaction.apply();
        }
        let _order = self.order.lock();
        let seq = transaction.apply()?;
        let (queue, changed) = &*self.queue;
        let mut queue = queue.lock();
        queue.events.push_back((seq, mask, event()));
        if queue.events.len() > EVENTS_MAX
            && let Some((seq, ..)) = queue.events.pop_front()
        {
            queue.dropped += 1;
            queue.missing_to = seq;
        }
        changed.notify_all();
        Ok(seq)
    }

    pub(crate) fn observe(&self, observer: Arc<dyn Observer>, store: &Store) {
        let mask = observer.mask();
        let _order = self.order.lock();
        let mut queue = self.queue.0.lock();
        if self.mask.fetch_or(mask.0, Ordering::Relaxed) & mask.0 != mask.0 {
            // What nobody wanted before was not queued.
            queue.missing_to = queue.missing_to.max(store.newest());
        }
        let cursor = queue.dropped + queue.events.len() as u64;
        drop(queue);
        self.observers.write().push((mask, observer.clone()));
        let shared = self.queue.clone();
        std::thread::spawn(move || deliver(&shared, observer.as_ref(), mask, cursor));
    }

    pub(crate) fn since(&self, seq: Seq) -> Events {
        let queue = self.queue.0.lock();
        let overflow = (seq < queue.missing_to).then(|| (queue.missing_to, Event::Overflow));
        let events =
            queue.events.iter().filter(|(at, ..)| *at > seq).map(|(at, _, event)| (*at, event.clone()));
        overflow.into_iter().chain(events).collect()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.queue.0.lock().closed = true;
        self.queue.1.notify_all();
    }
}

/// One observer's thread: from `cursor`, the number of an event since the mount, to the end of the mount.
fn deliver(shared: &(Mutex<Queue>, Condvar), observer: &dyn Observer, wanted: Mask, mut cursor: u64) {
    let (mutex, changed) = shared;
    let mut queue = mutex.lock();
    loop {
        let next = if cursor < queue.dropped {
            cursor = queue.dropped;
            Some((queue.missing_to, Event::Overflow))
        } else if let Some((seq, mask, event)) = queue.events.get((cursor - queue.dropped) as usize) {
            cursor += 1;
            if !wanted.contains(*mask) {
                continue;
            }
            Some((*seq, event.clone()))
        } else {
            None
        };
        match next {
            Some((seq, event)) => {
                drop(queue);
                observer.after(seq, &event);
                queue = mutex.lock();
            }
            None if queue.closed => return,
            None => changed.wait(&mut queue),
        }
    }
}
