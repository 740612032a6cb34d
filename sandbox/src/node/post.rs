//! Messages between apps: each waits in a file of its receiver's until that has handled it.
//!
//! 1. What was sent is in the store when its sender is told so, and in no later state of the store than what the sender did next:
//!    a crash takes both back, or none.
//! 2. A message goes when it was handled or given up. So it comes at least once.
//! 3. So many wait for an app; then senders are told.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::feed::Wake;
use super::registry::{self, App, Registry};
use crate::ipc::{Error, Event};
use crate::limits::{LETTER_BYTES_MAX, LETTERS_MAX};
use crate::package::is_name;

pub(super) struct Post {
    registry: Registry,
    wake: Arc<Wake>,
    /// Apps for which something may wait. Held while a message is put down.
    receivers: Mutex<BTreeSet<String>>,
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
        let mut receivers = self.receivers.lock();
        self.put(from, to, bytes)?;
        receivers.insert(to.to_owned());
        drop(receivers);
        self.wake.notify();
        Ok(())
    }

    fn put(&self, from: &str, to: &str, bytes: &[u8]) -> Result<(), Error> {
        let failed = |error: registry::RegistryError| {
            tracing::warn!(%error, "a message could not be put down");
            Error::Failed
        };
        let app = self.registry.app(to).map_err(failed)?.ok_or(Error::NotGranted)?;
        if !app.state().map_err(failed)?.powers.receives {
            return Err(Error::NotGranted);
        }
        let folder = app.letters().map_err(failed)?;
        let waiting = folder.list().map_err(super::grants::error)?;
        if waiting.len() >= LETTERS_MAX {
            return Err(Error::TooLarge);
        }
        let last = waiting.iter().filter_map(|(name, _)| number(name)).max();
        let name = file_name(last.map_or(0, |last| last.wrapping_add(1)));
        let letter = postcard::to_allocvec(&(from, bytes)).map_err(|_| Error::Failed)?;
        folder.write(&name, &letter).map_err(super::grants::error)
    }

    /// Whether something may wait for an app that was not asked for since.
    pub(super) fn take_notice(&self, app: &str) -> bool {
        self.receivers.lock().remove(app)
    }

    /// There may be something for an app.
    pub(super) fn notice(&self, app: &str) {
        self.receivers.lock().insert(app.to_owned());
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

/// It was handled, or given up.
pub(super) fn remove(app: &App, name: &str) -> registry::Result<()> {
    Ok(app.letters()?.remove(name)?)
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
    use super::*;

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
}
