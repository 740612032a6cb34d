//! Messages between apps: each waits in a file of its receiver's until that has handled it.
//!
//! 1. What was sent is in the store when its sender is told so, and in no later state of the store than what the sender did next:
//!    a crash takes both back, or none.
//! 2. A message goes when it was handled or given up. So it comes at least once.
//! 3. So many wait for an app; then senders are told.
//! 4. What is remembered of a receiver is what its folder says; where something failed, that is asked again.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::feed::Wake;
use super::registry::{self, App, Registry, RegistryError};
use crate::ipc::{Error, Event};
use crate::limits::{LETTER_BYTES_MAX, LETTERS_MAX};
use crate::package::is_name;

pub(super) struct Post {
    registry: Registry,
    wake: Arc<Wake>,
    /// For apps that are installed. Held while a message is put down or taken away.
    receivers: Mutex<BTreeMap<String, Receiver>>,
}

#[derive(Default)]
struct Receiver {
    /// Something may wait that it was not asked about since.
    is_noticed: bool,
    /// `None` until the folder was looked at.
    letters: Option<Letters>,
}

/// What waits for an app.
#[derive(Clone, Copy)]
struct Letters {
    count: usize,
    /// The number of the next one.
    next: u64,
}

impl Letters {
    fn of(names: &[String]) -> Self {
        let next = names.iter().filter_map(|name| number(name)).max().map_or(0, |last| last.wrapping_add(1));
        Self { count: names.len(), next }
    }
}

impl Post {
    pub(super) fn new(registry: Registry, wake: Arc<Wake>) -> Self {
        Self { registry, wake, receivers: Mutex::default() }
    }

    /// Puts a message down for another app, if its owner lets that take some.
    pub(super) fn send(&self, from: &str, to: &str, bytes: &[u8]) -> Result<(), Error> {
        if !is_name(to) {
            return Err(Error::Malformed);
        }
        if bytes.len() > LETTER_BYTES_MAX {
            return Err(Error::TooLarge);
        }
        self.put(from, to, bytes)?;
        self.wake.notify();
        Ok(())
    }

    fn put(&self, from: &str, to: &str, bytes: &[u8]) -> Result<(), Error> {
        let failed = |error: RegistryError| {
            tracing::warn!(%error, "a message could not be put down");
            Error::Failed
        };
        let mut receivers = self.receivers.lock();
        let app = self.registry.app(to).map_err(failed)?.ok_or(Error::NotGranted)?;
        if !app.state().map_err(failed)?.powers.receives {
            return Err(Error::NotGranted);
        }
        let receiver = receivers.entry(to.to_owned()).or_default();
        let Letters { count, next } = match receiver.letters.take() {
            Some(letters) => letters,
            None => Letters::of(&waiting(&app).map_err(failed)?),
        };
        if count >= LETTERS_MAX {
            receiver.letters = Some(Letters { count, next });
            return Err(Error::TooLarge);
        }
        let letter = postcard::to_allocvec(&(from, bytes)).map_err(|_| Error::Failed)?;
        let folder = app.letters().map_err(failed)?;
        folder.write(&file_name(next), &letter).map_err(super::grants::error)?;
        receiver.letters = Some(Letters { count: count + 1, next: next.wrapping_add(1) });
        receiver.is_noticed = true;
        Ok(())
    }

    /// Whether something may wait for an app that was not asked for since.
    pub(super) fn take_notice(&self, app: &str) -> bool {
        let mut receivers = self.receivers.lock();
        receivers.get_mut(app).is_some_and(|receiver| std::mem::take(&mut receiver.is_noticed))
    }

    /// There may be something for an app.
    pub(super) fn notice(&self, app: &str) {
        self.receivers.lock().entry(app.to_owned()).or_default().is_noticed = true;
    }

    /// A message was handled, or given up.
    pub(super) fn remove(&self, app: &App, name: &str) -> registry::Result<()> {
        let mut receivers = self.receivers.lock();
        let mut receiver = receivers.get_mut(&app.name);
        let letters = receiver.as_mut().and_then(|receiver| receiver.letters.take());
        app.letters()?.remove(name)?;
        if let (Some(receiver), Some(Letters { count, next })) = (receiver, letters) {
            receiver.letters = Some(Letters { count: count.saturating_sub(1), next });
        }
        Ok(())
    }

    /// An app is being removed, with what waits for it.
    pub(super) fn forget(&self, app: &str) {
        self.receivers.lock().remove(app);
    }
}

/// Names of what waits for an app, in the order in which it was sent.
pub(super) fn waiting(app: &App) -> registry::Result<Vec<String>> {
    let names = app.letters()?.list()?;
    Ok(names.into_iter().map(|(name, _)| name).filter(|name| number(name).is_some()).collect())
}

/// One of them; `None` if it is malformed or gone.
pub(super) fn read(app: &App, name: &str) -> registry::Result<Option<Event>> {
    let bytes = app.letters()?.read(name)?.unwrap_or_default();
    let letter = postcard::from_bytes::<(String, Vec<u8>)>(&bytes).ok();
    Ok(letter.map(|(app, bytes)| Event::Message { app, bytes }))
}

/// Names of one length, so that their order is that of the numbers.
fn file_name(number: u64) -> String {
    format!("{number:020}")
}

fn number(name: &str) -> Option<u64> {
    name.parse().ok().filter(|number| file_name(*number) == name)
}

#[cfg(test)]
mod tests {
    use super::super::grants::Powers;
    use super::super::registry::State;
    use super::super::tests::World;
    use super::*;
    use crate::package::Rights;

    #[test]
    fn names_have_the_order_of_their_numbers() {
        for pair in [0, 1, 9, 10, 99, 1 << 40, u64::MAX].windows(2) {
            assert!(file_name(pair[0]) < file_name(pair[1]));
            assert_eq!(number(&file_name(pair[1])), Some(pair[1]));
        }
        for name in ["", "1", "being-written", "+0000000000000000001"] {
            assert_eq!(number(name), None, "{name}");
        }
    }

    struct Place {
        world: World,
        registry: Registry,
        post: Post,
    }

    impl Place {
        fn new() -> Self {
            let world = World::new(Rights::Read);
            let registry = Registry::new(&world.fs);
            let place = Self { post: Post::new(registry.clone(), Arc::default()), registry, world };
            place.install("one");
            place.install("other");
            place
        }

        fn install(&self, name: &str) {
            let powers = Powers { receives: true, ..Powers::default() };
            self.registry.make(name).unwrap().set_state(&State { powers, ..State::new() }).unwrap();
        }

        fn app(&self, name: &str) -> App {
            self.registry.app(name).unwrap().unwrap()
        }

        fn numbers(&self, name: &str) -> Vec<u64> {
            waiting(&self.app(name)).unwrap().iter().map(|name| number(name).unwrap()).collect()
        }

        fn take(&self, name: &str, number: u64) {
            self.post.remove(&self.app(name), &file_name(number)).unwrap();
        }

        fn send(&self, to: &str) -> Result<(), Error> {
            self.post.send("sender", to, b"text")
        }

        /// As after a restart.
        fn forget_all(&mut self) {
            self.post = Post::new(Registry::new(&self.world.fs), Arc::default());
        }
    }

    #[test]
    fn numbers_go_on_for_each_receiver_whatever_was_taken_and_forgotten() {
        let mut place = Place::new();
        for to in ["one", "one", "other", "one"] {
            place.send(to).unwrap();
        }
        place.take("one", 0);
        place.send("one").unwrap();
        assert_eq!((place.numbers("one"), place.numbers("other")), (vec![1, 2, 3], vec![0]));
        place.forget_all();
        place.take("one", 2);
        place.send("one").unwrap();
        place.send("other").unwrap();
        assert_eq!((place.numbers("one"), place.numbers("other")), (vec![1, 3, 4], vec![0, 1]));
        // While one is there, no number comes again that it could be mistaken for.
        place.take("one", 4);
        place.send("one").unwrap();
        assert_eq!(place.numbers("one"), [1, 3, 5]);
        place.registry.remove("one").unwrap();
        place.post.forget("one");
        assert_eq!(place.send("one"), Err(Error::NotGranted));
        place.install("one");
        place.send("one").unwrap();
        assert_eq!((place.numbers("one"), place.numbers("other")), (vec![0], vec![0, 1]));
    }

    #[test]
    fn so_many_wait_and_what_is_taken_makes_room() {
        let mut place = Place::new();
        for _ in 0..LETTERS_MAX {
            place.send("one").unwrap();
        }
        assert_eq!(place.send("one"), Err(Error::TooLarge));
        place.send("other").unwrap();
        place.take("one", 7);
        place.send("one").unwrap();
        assert_eq!(place.send("one"), Err(Error::TooLarge));
        place.forget_all();
        assert_eq!(place.send("one"), Err(Error::TooLarge));
        assert_eq!(place.numbers("one").len(), LETTERS_MAX);
        place.take("one", 8);
        place.send("one").unwrap();
        assert_eq!(place.send("one"), Err(Error::TooLarge));
    }
}
