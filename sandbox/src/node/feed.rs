//! From the store's journal to what an app is called for.
//!
//! This is all that the crate knows of the journal: entries after a number, with names and actors, also from before the
//! last restart. An app's own changes are left out; so is what is not below its grants, or not asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use blocktree_vfs::events::{Actor, Entry, Event as Happened, Mask, Name, Observer, Seq};
use blocktree_vfs::{Fs, Ino};
use parking_lot::{Condvar, Mutex};

use super::grants::{Grant, names_below};
use crate::ipc::Event;
use crate::package::{FileEvent, Glob, Manifest, Trigger};

/// Entries that are looked at in one go.
const ENTRIES: usize = 1024;
/// Directories that are remembered although they are gone.
const GONE_MAX: usize = 16 << 10;

/// Wakes those who wait for changes.
#[derive(Default)]
pub(super) struct Wake {
    count: Mutex<u64>,
    changed: Condvar,
}

impl Wake {
    pub(super) fn count(&self) -> u64 {
        *self.count.lock()
    }

    pub(super) fn notify(&self) {
        *self.count.lock() += 1;
        self.changed.notify_all();
    }

    /// Waits until somebody has called [`Self::notify`] since the count was `seen`, or until `end`; or not at all if what
    /// `is_over` says became true before a call of [`Self::notify`].
    pub(super) fn wait(&self, seen: u64, end: std::time::Instant, is_over: impl Fn() -> bool) {
        let mut count = self.count.lock();
        // That call may have come before the count was looked at.
        while *count == seen && !is_over() {
            if self.changed.wait_until(&mut count, end).timed_out() {
                return;
            }
        }
    }
}

/// Hears that something happened; what, is in the journal.
pub(super) struct Listener(pub(super) Arc<Wake>);

impl Observer for Listener {
    fn mask(&self) -> Mask {
        Mask::LINK.union(Mask::UNLINK).union(Mask::RENAME).union(Mask::SETTLED).union(Mask::ATTRIBUTES)
    }

    fn after(&self, _: Seq, _: &Happened) {
        self.0.notify();
    }
}

/// What one app is to hear of.
pub(super) struct Feed {
    fs: Arc<Fs>,
    actor: Actor,
    triggers: Vec<(String, Glob, BTreeSet<FileEvent>)>,
    /// Directories that were removed, and where they were.
    gone: BTreeMap<Ino, (Ino, String)>,
    /// Paths of directories below granted ones, for one page.
    paths: HashMap<(Ino, Ino), Option<String>>,
}

/// A page of the journal, as the app sees it.
pub(super) struct Page {
    pub(super) events: Vec<Event>,
    /// Where to go on. `None`: there was nothing at all.
    pub(super) last: Option<Seq>,
}

impl Feed {
    pub(super) fn new(fs: &Arc<Fs>, actor: [u8; 32], manifest: &Manifest) -> Self {
        let triggers = manifest.triggers.iter().filter_map(|trigger| match trigger {
            Trigger::Files { grant, glob, events } => {
                Some((grant.clone(), Glob::parse(glob).ok()?, events.iter().copied().collect()))
            }
            Trigger::Timer { .. } => None,
        });
        Self {
            fs: Arc::clone(fs),
            actor: Actor::Principal(actor),
            triggers: triggers.collect(),
            gone: BTreeMap::new(),
            paths: HashMap::new(),
        }
    }

    /// What came after `after`, as far as one page goes.
    pub(super) fn next(&mut self, after: Seq, grants: &[Grant]) -> blocktree_vfs::Result<Page> {
        let entries = self.fs.events_since(after, ENTRIES)?;
        let last = entries.last().map(|entry| entry.seq);
        self.paths.clear();
        self.remember_gone(&entries);
        let mut events: Vec<Event> = Vec::new();
        let own = self.actor;
        for entry in entries.iter().filter(|entry| entry.actor != own) {
            self.translate(entry, grants, &mut events);
        }
        // A file that was written twice needs to be looked at once.
        let mut seen = BTreeSet::new();
        events.reverse();
        events.retain(|event| !matches!(event, Event::Written { .. }) || seen.insert(event.clone()));
        events.reverse();
        Ok(Page { events, last })
    }

    /// The tree may be ahead of the journal: what is in a directory that is gone by now was somewhere once.
    fn remember_gone(&mut self, entries: &[Entry]) {
        if self.gone.len() > GONE_MAX {
            self.gone.clear();
        }
        for entry in entries {
            if let (Happened::Unlinked { ino, .. }, Some(name)) = (&entry.event, &entry.name)
                && let Ok(text) = std::str::from_utf8(&name.name)
            {
                self.gone.insert(*ino, (name.parent, text.to_owned()));
            }
        }
    }

    fn translate(&mut self, entry: &Entry, grants: &[Grant], events: &mut Vec<Event>) {
        if entry.event == Happened::Overflow {
            events.push(Event::Overflow);
            return;
        }
        for grant in grants {
            let place = |feed: &mut Self, name: &Option<Name>| {
                name.as_ref().and_then(|name| feed.path(grant.ino, name))
            };
            let path = place(self, &entry.name);
            let name = || grant.name.clone();
            let event = match (&entry.event, path) {
                (Happened::Settled { .. }, Some(path)) => {
                    Some((FileEvent::Written, Event::Written { grant: name(), path }))
                }
                (Happened::Linked { .. }, Some(path)) => {
                    Some((FileEvent::Created, Event::Created { grant: name(), path }))
                }
                (Happened::Unlinked { .. }, Some(path)) => {
                    Some((FileEvent::Deleted, Event::Deleted { grant: name(), path }))
                }
                (Happened::Attributes { .. }, Some(path)) => {
                    Some((FileEvent::Attributes, Event::Attributes { grant: name(), path }))
                }
                (Happened::Renamed { exchanged, .. }, old_path) => {
                    let new_path = place(self, &entry.new_name);
                    if let (true, Some(old), Some(_)) = (*exchanged, &old_path, &entry.new_name) {
                        // The other one has this name now.
                        let event =
                            Event::Renamed { grant: name(), old_path: new_path.clone(), path: old.clone() };
                        self.push(FileEvent::Renamed, event, events);
                    }
                    match (old_path, new_path) {
                        (old_path, Some(path)) => {
                            Some((FileEvent::Renamed, Event::Renamed { grant: name(), old_path, path }))
                        }
                        (Some(path), None) => {
                            Some((FileEvent::Deleted, Event::Deleted { grant: name(), path }))
                        }
                        (None, None) => None,
                    }
                }
                _ => None,
            };
            if let Some((kind, event)) = event {
                self.push(kind, event, events);
            }
        }
    }

    /// Keeps the event if a trigger asks for it.
    fn push(&self, kind: FileEvent, event: Event, events: &mut Vec<Event>) {
        let (grant, paths) = match &event {
            Event::Written { grant, path }
            | Event::Created { grant, path }
            | Event::Deleted { grant, path }
            | Event::Attributes { grant, path } => (grant, vec![path]),
            Event::Renamed { grant, old_path, path } => (grant, old_path.iter().chain([path]).collect()),
            Event::Timer(_) | Event::Message { .. } | Event::Overflow => return,
        };
        let wants = |(of, glob, kinds): &(String, Glob, BTreeSet<FileEvent>)| {
            of == grant && kinds.contains(&kind) && paths.iter().any(|path| glob.matches(path))
        };
        if self.triggers.iter().any(wants) {
            events.push(event);
        }
    }

    /// The path of a name below a granted directory.
    fn path(&mut self, top: Ino, name: &Name) -> Option<String> {
        let own = std::str::from_utf8(&name.name).ok()?;
        let above = self.directory(top, name.parent)?;
        Some(if above.is_empty() { own.to_owned() } else { format!("{above}/{own}") })
    }

    fn directory(&mut self, top: Ino, directory: Ino) -> Option<String> {
        if let Some(known) = self.paths.get(&(top, directory)) {
            return known.clone();
        }
        let path = match names_below(&self.fs, top, directory) {
            // Names that are no UTF-8 cannot be told.
            Ok(names) => names.and_then(|names| String::from_utf8(names.join(&b'/')).ok()),
            // It is gone; where was it?
            Err(_) => match self.gone.get(&directory).cloned() {
                Some((parent, own)) if parent != directory => self
                    .directory(top, parent)
                    .map(|above| if above.is_empty() { own } else { format!("{above}/{own}") }),
                _ => None,
            },
        };
        self.paths.insert((top, directory), path.clone());
        path
    }
}
