//! Loads the inodes that a listing will want next, on a thread of its own: while the kernel and the program are busy with
//! one part of a directory, the next is read, opened and decrypted. Whoever goes through a tree, directory by directory, has
//! the next directory loaded too.
//!
//! Invariants:
//! 1. It only fills the inode table, as a look-up would: what is answered later is what is there then.
//! 2. It is ahead by about as much as the kernel asked for last, or by one directory, and waits for the next request there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use crate::{Fs, Ino, Result};

/// How much of the next directory is loaded: about as much as the kernel asks for at once.
const NEXT_ENTRIES: usize = 160;

/// A part of a directory that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) directory: Ino,
    /// The cookie of the last entry in it.
    pub(super) cookie: u64,
    pub(super) entries: usize,
    /// The first directory in it.
    pub(super) first_below: Option<Ino>,
    /// Nothing is behind it.
    pub(super) is_last: bool,
}

/// After so many it looks whether the mount has ended.
const AT_ONCE: usize = 32;

pub(super) struct Ahead {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The newest part; older ones that nobody has come to are of no use any more.
    handed_out: Option<Part>,
    has_ended: bool,
}

impl Ahead {
    /// Its thread runs on all processors that the calling one runs on, as those that serve requests may not.
    pub(super) fn start(fs: &Arc<Fs>) -> Self {
        let shared = Arc::<Shared>::default();
        let (own, fs) = (Arc::clone(&shared), Arc::clone(fs));
        let started = std::thread::Builder::new().name("ahead".into()).spawn(move || own.run(&fs));
        // Without it a listing is slower, and as right.
        let thread = started.inspect_err(|error| tracing::warn!(%error, "nothing is loaded ahead")).ok();
        Self { shared, thread: Mutex::new(thread) }
    }

    /// The kernel was given a part of a directory, and will want what is behind it.
    pub(super) fn continue_behind(&self, part: Part) {
        // No request waits for this: what is not heard of is not loaded ahead.
        if let Some(mut state) = self.shared.state.try_lock() {
            state.handed_out = Some(part);
            drop(state);
            self.shared.changed.notify_one();
        }
    }

    /// Returns once nobody uses the tree here any more.
    pub(super) fn end(&self) {
        self.shared.state.lock().has_ended = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            // Its panics were caught.
            let _ = thread.join();
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn run(&self, fs: &Fs) {
        let mut course = Course::default();
        while let Some(part) = self.next() {
            let behind = |directory| fs.directory_behind(directory);
            let load = |directory, from, entries| self.load(fs, directory, from, entries);
            // What cannot be loaded is said to who comes there.
            let followed = catch_unwind(AssertUnwindSafe(|| course.follow(&part, behind, load)));
            if !matches!(followed, Ok(Ok(()))) {
                course = Course::default();
            }
        }
    }

    fn next(&self) -> Option<Part> {
        let mut state = self.state.lock();
        loop {
            if state.has_ended {
                return None;
            }
            if let Some(part) = state.handed_out.take() {
                return Some(part);
            }
            self.changed.wait(&mut state);
        }
    }

    /// Loads entries behind a cookie; answers that of the last.
    fn load(&self, fs: &Fs, directory: Ino, mut from: u64, mut entries: usize) -> Result<u64> {
        while entries > 0 && !self.state.lock().has_ended {
            let some = entries.min(AT_ONCE);
            let to = fs.load_ahead(directory, from, some)?;
            if to == from {
                break;
            }
            (from, entries) = (to, entries - some);
        }
        Ok(from)
    }
}

/// Where the kernel is going, as far as that can be told from where it was.
#[derive(Default)]
struct Course {
    loaded: Option<Loaded>,
    /// The directory whose parts come, and the first directory in them.
    below: Option<(Ino, Ino)>,
    /// Which directory comes next if somebody goes through the whole tree.
    next: Option<Ino>,
}

/// Entries of a directory that were loaded last: those behind one cookie, up to another.
#[derive(Clone, Copy)]
struct Loaded {
    directory: Ino,
    from: u64,
    to: u64,
}

impl Course {
    /// `behind` finds the directory behind one, `load` loads entries as [`Shared::load`] does.
    fn follow(
        &mut self,
        part: &Part,
        behind: impl Fn(Ino) -> Result<Option<Ino>>,
        load: impl Fn(Ino, u64, usize) -> Result<u64>,
    ) -> Result<()> {
        let directory = part.directory;
        if self.below.is_none_or(|(above, _)| above != directory) {
            self.below = part.first_below.map(|first| (directory, first));
        }
        if !part.is_last {
            let Some(from) = Loaded::goes_on_at(self.loaded, part) else { return Ok(()) };
            let to = load(directory, from, part.entries)?;
            self.loaded = Some(Loaded { directory, from: part.cookie, to });
            return Ok(());
        }
        let was_expected = self.next == Some(directory);
        self.next = match self.below.take() {
            Some((_, first)) => Some(first),
            None => behind(directory)?,
        };
        match self.next {
            // One who lists a single directory does not go to the next.
            Some(next) if was_expected => load(next, 0, NEXT_ENTRIES).map(drop),
            _ => Ok(()),
        }
    }
}

impl Loaded {
    /// Where to go on: behind what is loaded, if that is where the kernel is now. `None`: it was there before.
    fn goes_on_at(loaded: Option<Self>, part: &Part) -> Option<u64> {
        match loaded {
            Some(loaded) if loaded.directory == part.directory => match part.cookie {
                cookie if cookie == loaded.from => None,
                cookie if (loaded.from..=loaded.to).contains(&cookie) => Some(loaded.to),
                cookie => Some(cookie),
            },
            _ => Some(part.cookie),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn it_goes_on_where_it_was_if_the_kernel_follows() {
        let loaded = Loaded { directory: 7, from: 100, to: 200 };
        let at = |directory, cookie| {
            let part = Part { directory, cookie, entries: 10, first_below: None, is_last: false };
            Loaded::goes_on_at(Some(loaded), &part)
        };
        assert_eq!(at(7, 150), Some(200));
        assert_eq!(at(7, 200), Some(200));
        assert_eq!(at(7, 201), Some(201), "the kernel was faster");
        assert_eq!(at(7, 100), None, "it asked for the same again");
        assert_eq!(at(7, 50), Some(50), "it began again");
        assert_eq!(at(8, 150), Some(150), "another directory");
    }

    #[test]
    fn below_a_directory_of_several_parts_the_first_directory_of_all_is_next() {
        let part = |directory, first_below, is_last| Part {
            directory,
            cookie: 100,
            entries: 10,
            first_below,
            is_last,
        };
        let loaded = RefCell::new(Vec::new());
        let mut course = Course::default();
        let mut follow = |part: Part| {
            let load = |directory, _, _| {
                loaded.borrow_mut().push(directory);
                Ok(200)
            };
            course.follow(&part, |behind| Ok(Some(behind + 1)), load).unwrap();
            (course.next, std::mem::take(&mut *loaded.borrow_mut()))
        };
        assert_eq!(follow(part(1, Some(20), false)), (None, vec![1]), "what is behind it in the directory");
        assert_eq!(follow(part(1, Some(30), true)), (Some(20), vec![]), "one directory says nothing yet");
        assert_eq!(follow(part(20, None, true)), (Some(21), vec![21]), "it goes through the tree");
        assert_eq!(follow(part(7, Some(40), true)), (Some(40), vec![]), "it went somewhere else");
    }
}
