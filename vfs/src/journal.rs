//! The change journal: an [`Entry`] for each visible change, in the store, in the same record as the change.
//!
//! Key types: [`Entry`] is what is asked for again with [`Fs::events_since`], [`Actor`] on whose behalf a change was
//! made, `Happened` what an operation tells of its change. The engine keeps the entries and knows nothing of what
//! they say; [`crate::layout::Note`] is how they stand there.
//!
//! 1. After any crash the entries are exactly those of the changes that the tree has.
//! 2. Writes do not leave an entry each. A file is *being modified* from the first write by an actor on: one
//!    [`Event::Data`]. It is [`Event::Settled`] when nobody has it open any more, or nobody has written to it for
//!    [`QUIET`]. What was modified at a crash settles at the next mount.
//! 3. The newest entries are kept, so many as the engine's limits say. Who asks for older ones gets an
//!    [`Event::Overflow`] first.
//! 4. The first change after a mount leaves an [`Event::Mounted`] before it.
//! 5. Only owners read all of the journal. Who writes one directory leaves entries that it reads itself, and the owner. That
//!    they are its own, and about what is or was in its directory, is shown; the rest is what it says.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use blocktree_engine::format::BlockId;
use blocktree_engine::{Store, Transaction};
use parking_lot::{Condvar, Mutex};

use crate::events::{Event, Mask, Range, Seq};
use crate::fs::{Fs, Shared};
use crate::inode::Inode;
use crate::layout::{FileKind, Malformed, Note, NoteKind, Time};
use crate::{FsError, Ino, Result};

/// A file that nobody has written to for so long has settled, even if it is open.
pub const QUIET: Duration = Duration::from_secs(5);
/// How often that is looked at, while files are being modified.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// On whose behalf a change is made: the node itself, or a principal, such as an app, by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Actor {
    #[default]
    Node,
    Principal([u8; 32]),
}

impl Actor {
    fn id(self) -> Option<[u8; 32]> {
        match self {
            Self::Node => None,
            Self::Principal(id) => Some(id),
        }
    }
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub parent: Ino,
    pub name: Vec<u8>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Ask for what came later with this.
    pub seq: Seq,
    /// To the millisecond; of the machine that made the change.
    pub time: Time,
    /// The public signing key that signed it.
    pub author: [u8; 32],
    pub actor: Actor,
    pub event: Event,
    /// The name that came, went or changed; else one that the inode has, if that is known.
    pub name: Option<Name>,
    /// Of a rename.
    pub new_name: Option<Name>,
    /// It is about a directory; of a rename, perhaps about the one whose name was replaced or exchanged.
    pub is_directory: bool,
}

impl Entry {
    pub(crate) fn overflow(seq: Seq) -> Self {
        let (time, author, actor) = (Time::default(), [0; 32], Actor::Node);
        Self {
            seq,
            time,
            author,
            actor,
            event: Event::Overflow,
            name: None,
            new_name: None,
            is_directory: false,
        }
    }

    /// Reads what the engine keeps, for a mount that shows `root` at the top.
    pub fn read(note: &blocktree_engine::Note, root: BlockId) -> std::result::Result<Self, Malformed> {
        let decoded = Note::decode(&note.bytes)?;
        if let Some(blocks) = &note.blocks
            && !decoded.inodes().all(|ino| blocks.contains(&ino))
        {
            return Err(Malformed("note: names what its author does not show"));
        }
        let Note { kind, time_ms, actor, ino, name, new_name, other, whiteout, directory } =
            decoded.renumbered(root, Fs::ROOT);
        let parent = name.map_or(0, |(parent, _)| parent);
        let some = |ino| (ino != 0).then_some(ino);
        let event = match kind {
            NoteKind::Created => Event::Linked { parent, ino, is_new: true },
            NoteKind::Linked => Event::Linked { parent, ino, is_new: false },
            NoteKind::Unlinked => Event::Unlinked { parent, ino },
            NoteKind::Renamed | NoteKind::Exchanged => Event::Renamed {
                parent,
                new_parent: new_name.map_or(0, |(parent, _)| parent),
                ino,
                replaced: some(other),
                exchanged: kind == NoteKind::Exchanged,
                whiteout: some(whiteout),
            },
            NoteKind::Modified => Event::Data { ino, range: Range::ALL },
            NoteKind::Settled => Event::Settled { ino },
            NoteKind::Attributes => Event::Attributes { ino },
            NoteKind::Mounted => Event::Mounted,
            NoteKind::Unmounted => Event::Unmounted,
        };
        let own = |(parent, name): (Ino, &[u8])| Name { parent, name: name.to_vec() };
        let time = Time::new((time_ms / 1000) as i64, (time_ms % 1000) as u32 * 1_000_000);
        Ok(Self {
            seq: note.seq,
            time,
            author: note.author,
            actor: actor.map_or(Actor::Node, Actor::Principal),
            event,
            name: name.map(own),
            new_name: new_name.map(own),
            is_directory: directory,
        })
    }
}

/// What an operation did that others may want to know.
pub(crate) enum Happened<'a> {
    Linked {
        parent: Ino,
        name: &'a [u8],
        inode: &'a Arc<Inode>,
        is_new: bool,
    },
    Unlinked {
        parent: Ino,
        name: &'a [u8],
        inode: &'a Arc<Inode>,
    },
    Renamed {
        from: (Ino, &'a [u8]),
        to: (Ino, &'a [u8]),
        inode: &'a Arc<Inode>,
        /// Whose name that was, and whether it has the old one now.
        other: Option<&'a Arc<Inode>>,
        exchanged: bool,
        whiteout: Option<&'a Arc<Inode>>,
    },
    Data {
        inode: &'a Arc<Inode>,
        range: Range,
    },
    Attributes {
        inode: &'a Arc<Inode>,
    },
    /// Nothing that anybody could know of.
    Nothing,
}

impl Happened<'_> {
    pub(crate) fn mask(&self) -> Mask {
        match self {
            Self::Linked { .. } => Mask::LINK,
            Self::Unlinked { .. } => Mask::UNLINK,
            Self::Renamed { .. } => Mask::RENAME,
            Self::Data { .. } => Mask::DATA,
            Self::Attributes { .. } => Mask::ATTRIBUTES,
            Self::Nothing => Mask::default(),
        }
    }

    /// For observers. `None` if there is nothing to tell.
    pub(crate) fn event(&self) -> Option<Event> {
        Some(match *self {
            Self::Linked { parent, inode, is_new, .. } => Event::Linked { parent, ino: inode.ino, is_new },
            Self::Unlinked { parent, inode, .. } => Event::Unlinked { parent, ino: inode.ino },
            Self::Renamed { from, to, inode, other, exchanged, whiteout } => Event::Renamed {
                parent: from.0,
                new_parent: to.0,
                ino: inode.ino,
                replaced: other.map(|other| other.ino),
                exchanged,
                whiteout: whiteout.map(|left| left.ino),
            },
            Self::Data { inode, range } => Event::Data { ino: inode.ino, range },
            Self::Attributes { inode } => Event::Attributes { ino: inode.ino },
            Self::Nothing => return None,
        })
    }

    /// For the journal, of a mount that shows `root` at the top.
    fn note(&self, now: Time, actor: Actor, root: BlockId) -> Option<Encoded> {
        let is_directory = |inode: &Inode| inode.attributes().kind == FileKind::Directory;
        let note = |kind, inode: &Inode| Note {
            ino: inode.ino,
            directory: is_directory(inode),
            ..plain(kind, now, actor)
        };
        let known = |kind, inode: &Inode| {
            let place = inode.place();
            let name = place.as_ref().map(|place| (place.parent, &place.name[..]));
            Encoded::new(Note { name, ..note(kind, inode) }, root)
        };
        let number = |inode: Option<&Arc<Inode>>| inode.map_or(0, |inode| inode.ino);
        Some(match *self {
            Self::Linked { parent, name, inode, is_new } => {
                let kind = if is_new { NoteKind::Created } else { NoteKind::Linked };
                Encoded::new(Note { name: Some((parent, name)), ..note(kind, inode) }, root)
            }
            Self::Unlinked { parent, name, inode } => {
                Encoded::new(Note { name: Some((parent, name)), ..note(NoteKind::Unlinked, inode) }, root)
            }
            Self::Renamed { from, to, inode, other, exchanged, whiteout } => {
                let kind = if exchanged { NoteKind::Exchanged } else { NoteKind::Renamed };
                let directory = is_directory(inode) || other.is_some_and(|other| is_directory(other));
                let (other, whiteout) = (number(other), number(whiteout));
                let (name, new_name) = (Some(from), Some(to));
                let note = Note { name, new_name, other, whiteout, directory, ..note(kind, inode) };
                Encoded::new(note, root)
            }
            Self::Data { inode, .. } => known(NoteKind::Modified, inode),
            Self::Attributes { inode } => known(NoteKind::Attributes, inode),
            Self::Nothing => return None,
        })
    }

    /// Keeps the inodes' known names true, once it has happened.
    fn rename_known(&self) {
        match *self {
            Self::Linked { parent, name, inode, .. } => inode.seen_at(parent, name),
            Self::Unlinked { parent, name, inode } => inode.unseen_at(parent, name),
            Self::Renamed { from, to, inode, other, exchanged, .. } => {
                if let Some(other) = other {
                    match exchanged {
                        true => other.seen_at(from.0, from.1),
                        false => other.unseen_at(to.0, to.1),
                    }
                }
                inode.seen_at(to.0, to.1);
            }
            Self::Data { .. } | Self::Attributes { .. } | Self::Nothing => {}
        }
    }
}

/// A note as the engine takes it.
struct Encoded {
    bytes: Vec<u8>,
    blocks: Vec<BlockId>,
}

impl Encoded {
    /// Of a mount that shows `root` at the top.
    fn new(note: Note<'_>, root: BlockId) -> Self {
        let note = note.renumbered(Fs::ROOT, root);
        Self { bytes: note.encode(), blocks: note.inodes().collect() }
    }

    fn add_to(&self, transaction: &mut Transaction) {
        transaction.note(&self.bytes, &self.blocks);
    }
}

fn plain(kind: NoteKind, now: Time, actor: Actor) -> Note<'static> {
    let milliseconds = i64::from(now.nanoseconds / 1_000_000);
    let time_ms =
        now.seconds.saturating_mul(1000).saturating_add(milliseconds).clamp(0, (1 << 48) - 1) as u64;
    Note {
        kind,
        time_ms,
        actor: actor.id(),
        ino: 0,
        name: None,
        new_name: None,
        other: 0,
        whiteout: 0,
        directory: false,
    }
}

/// What a mount knows of its journal.
pub(crate) struct Journal {
    /// The block at the top.
    root: BlockId,
    /// This mount left its first entry.
    begun: AtomicBool,
    beginning: Mutex<()>,
    modified: Arc<(Mutex<Modified>, Condvar)>,
}

/// Files that are being modified, and by whom.
#[derive(Default)]
struct Modified {
    files: HashMap<Ino, Vec<Actor>>,
    /// Nobody looks at them until told to. To tell it costs more than a small file's write, so that happens when there are
    /// some for the first time in a while, not each time that there are some.
    is_unwatched: bool,
    closed: bool,
}

/// A change that is to be noted: see [`Journal::announce`].
#[must_use]
pub(crate) struct Announced {
    modifies: bool,
}

impl Journal {
    pub(crate) fn new(root: BlockId) -> Self {
        Self { root, begun: AtomicBool::new(false), beginning: Mutex::new(()), modified: Arc::default() }
    }

    pub(crate) fn root(&self) -> BlockId {
        self.root
    }

    /// Adds the entry of a change to its transaction.
    pub(crate) fn announce(
        &self,
        store: &Store,
        transaction: &mut Transaction,
        happened: &Happened<'_>,
        now: Time,
        actor: Actor,
    ) -> Result<Announced> {
        let mut announced = Announced { modifies: false };
        if let Happened::Data { inode, .. } = happened {
            if inode.is_noted(actor) {
                return Ok(announced);
            }
            // An inode that was forgotten and loaded again.
            let is_known = self.modified.0.lock().files.get(&inode.ino).is_some_and(|by| by.contains(&actor));
            if is_known {
                inode.set_noted(Some(actor));
                return Ok(announced);
            }
            announced.modifies = true;
        }
        if let Some(note) = happened.note(now, actor, self.root) {
            self.begin(store, now)?;
            note.add_to(transaction);
        }
        Ok(announced)
    }

    /// The change has happened.
    pub(crate) fn happened(&self, announced: &Announced, happened: &Happened<'_>, actor: Actor) {
        happened.rename_known();
        if let (true, Happened::Data { inode, .. }) = (announced.modifies, happened) {
            inode.set_noted(Some(actor));
            let (modified, changed) = &*self.modified;
            let mut modified = modified.lock();
            if std::mem::take(&mut modified.is_unwatched) {
                changed.notify_all();
            }
            modified.files.entry(inode.ino).or_default().push(actor);
        }
    }

    /// The inode is gone, and settles no more.
    pub(crate) fn forget(&self, ino: Ino) {
        self.modified.0.lock().files.remove(&ino);
    }

    /// The first entry of this mount.
    fn begin(&self, store: &Store, now: Time) -> Result<()> {
        if self.begun.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one = self.beginning.lock();
        if !self.begun.load(Ordering::Acquire) {
            let mut transaction = store.transaction();
            Encoded::new(plain(NoteKind::Mounted, now, Actor::Node), self.root).add_to(&mut transaction);
            transaction.apply()?;
            self.begun.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// The last entry of this mount, if there was a first.
    fn end(&self, store: &Store, now: Time) -> Result<()> {
        let _one = self.beginning.lock();
        if self.begun.load(Ordering::Acquire) {
            let mut transaction = store.transaction();
            Encoded::new(plain(NoteKind::Unmounted, now, Actor::Node), self.root).add_to(&mut transaction);
            transaction.apply()?;
            self.begun.store(false, Ordering::Release);
        }
        Ok(())
    }

    fn modified_files(&self) -> Vec<Ino> {
        self.modified.0.lock().files.keys().copied().collect()
    }

    /// Starts the thread that settles what is quiet; it ends with the mount.
    pub(crate) fn watch(&self, shared: Weak<Shared>) {
        let modified = self.modified.clone();
        let thread = std::thread::Builder::new().name("blocktree-settle".into());
        if let Err(error) = thread.spawn(move || watch(&modified, &shared)) {
            tracing::warn!(%error, "files that stay open do not settle");
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.modified.0.lock().closed = true;
        self.modified.1.notify_all();
    }
}

fn watch((modified, changed): &(Mutex<Modified>, Condvar), shared: &Weak<Shared>) {
    loop {
        {
            let mut modified = modified.lock();
            modified.is_unwatched = modified.files.is_empty();
            while modified.is_unwatched && !modified.closed {
                changed.wait(&mut modified);
            }
            if !modified.closed {
                changed.wait_for(&mut modified, LOOK_INTERVAL);
            }
            if modified.closed {
                return;
            }
        }
        let Some(shared) = shared.upgrade() else { return };
        Fs::of(shared).settle_quiet(QUIET);
    }
}

impl Fs {
    /// The entries after `seq`: the oldest `limit` of them, and those of the same operation as the last. None, if there
    /// are none. Starts with an [`Event::Overflow`] where some are not kept any more. What is returned is what is
    /// visible; it may not be durable yet, but its numbers will mean nothing else, whatever happens.
    pub fn events_since(&self, seq: Seq, limit: usize) -> Result<Vec<Entry>> {
        let mut from = seq;
        loop {
            let page = self.store().notes_since(from, limit)?;
            let missing = page.missing_to.map(Entry::overflow);
            let read = page.notes.iter().filter_map(|note| read_entry(note, self.journal.root));
            let entries = missing.into_iter().map(Ok).chain(read).collect::<Result<Vec<_>>>()?;
            match (entries.last(), page.notes.last()) {
                // All of them were left out; what follows is not.
                (None, Some(last)) => from = last.seq,
                (None, None) => return Ok(entries),
                (Some(last), _) => {
                    self.events.fix_numbers(self.store(), last.seq)?;
                    return Ok(entries);
                }
            }
        }
    }

    /// Whether the store has a journal in which this mount finds its own changes, and, unless it is read-only, notes them.
    pub fn has_journal(&self) -> bool {
        self.store().takes_notes()
    }

    /// This filesystem, as someone who acts on behalf of another sees it: what is changed through it is attributed to
    /// that one. Cheap; may outlive what it was made of.
    pub fn acting_for(&self, actor: Actor) -> Self {
        Self::of(self.shared()).with_actor(actor)
    }

    /// This filesystem, for what the layers above keep in [`Fs::system_directory`]: what is changed through it stands in no
    /// journal, and observers do not hear of it.
    pub fn unnoted(&self) -> Self {
        Self::of(self.shared()).without_notes()
    }

    /// Settles what nobody has written to for `quiet`, by the mount's clock.
    #[doc(hidden)]
    pub fn settle_quiet(&self, quiet: Duration) {
        let now = self.now();
        let seconds = quiet.as_secs() as i64;
        for ino in self.journal.modified_files() {
            let Ok(inode) = self.inode(ino) else {
                self.journal.forget(ino);
                continue;
            };
            let changed = inode.attributes().ctime;
            if (changed.seconds.saturating_add(seconds), changed.nanoseconds)
                <= (now.seconds, now.nanoseconds)
            {
                self.settle(&inode);
            }
        }
    }

    /// Nobody modifies the inode any more. If this cannot be written down, it is still being modified.
    pub(crate) fn settle(&self, inode: &Arc<Inode>) {
        let Ok(_guard) = inode.lock() else { return self.journal.forget(inode.ino) };
        inode.set_noted(None);
        let actors = match self.journal.modified.0.lock().files.entry(inode.ino) {
            Slot::Occupied(actors) => actors.remove(),
            Slot::Vacant(_) => return,
        };
        if let Err(error) = self.note_settled(inode, &actors) {
            tracing::debug!(ino = inode.ino, %error, "does not settle");
            self.journal.modified.0.lock().files.insert(inode.ino, actors);
        }
    }

    fn note_settled(&self, inode: &Inode, actors: &[Actor]) -> Result<()> {
        let now = self.now();
        self.journal.begin(self.store(), now)?;
        let place = inode.place();
        let name = place.as_ref().map(|place| (place.parent, &place.name[..]));
        for actor in actors {
            let mut transaction = self.store().transaction();
            let note = Note { ino: inode.ino, name, ..plain(NoteKind::Settled, now, *actor) };
            Encoded::new(note, self.journal.root).add_to(&mut transaction);
            self.events.apply(transaction, Mask::SETTLED, || Some(Event::Settled { ino: inode.ino }))?;
        }
        Ok(())
    }

    /// Settles everything, and leaves the last entry of the mount.
    pub(crate) fn end_journal(&self) -> Result<()> {
        for ino in self.journal.modified_files() {
            match self.inode(ino) {
                Ok(inode) => self.settle(&inode),
                Err(_) => self.journal.forget(ino),
            }
        }
        match self.journal.modified_files().is_empty() {
            true => self.journal.end(self.store(), self.now()),
            false => Ok(()),
        }
    }

    /// What was being modified when the last mount ended without saying so settles now.
    pub(crate) fn settle_after_crash(&self) -> Result<()> {
        let mut settled: HashMap<Ino, ()> = HashMap::new();
        let mut modified: Vec<Entry> = Vec::new();
        let mut malformed = None;
        let own = self.store().holder().signing;
        self.store().notes_before(Seq(u64::MAX), &mut |note| {
            let entry = match read_entry(&note, self.journal.root) {
                Some(Ok(entry)) => entry,
                Some(Err(error)) => {
                    malformed = Some(error);
                    return false;
                }
                None => return true,
            };
            match entry.event {
                // Who writes one directory settles only what is there.
                Event::Unmounted if note.blocks.is_some() && note.author != own => {}
                // Nothing was left then. A mount that crashed may have left what others before it did.
                Event::Unmounted => return false,
                Event::Settled { ino } => drop(settled.insert(ino, ())),
                Event::Data { ino, .. } if !settled.contains_key(&ino) => modified.push(entry),
                _ => {}
            }
            true
        })?;
        if let Some(error) = malformed {
            return Err(error);
        }
        for Entry { actor, event, name, .. } in modified.into_iter().rev() {
            let Event::Data { ino, .. } = event else { continue };
            let Ok(inode) = self.inode(ino) else { continue };
            let is_nameless = inode.place().is_none();
            if let (true, Some(name)) = (is_nameless, &name) {
                // It may have another by now; an entry says one that is known.
                inode.seen_at(name.parent, &name.name);
            }
            self.note_settled(&inode, &[actor])?;
        }
        Ok(())
    }
}

/// Reads a note for a mount that shows `root` at the top. `None` for what a writer of one directory wrote and nobody
/// believes.
pub(crate) fn read_entry(note: &blocktree_engine::Note, root: BlockId) -> Option<Result<Entry>> {
    match Entry::read(note, root) {
        Err(_) if note.blocks.is_some() => None,
        read => Some(read.map_err(|malformed| FsError::Malformed { ino: 0, what: malformed.0 })),
    }
}
