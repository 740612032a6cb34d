//! Who makes things durable: one at a time, while the others wait for what it does.
//!
//! Those who wait are woken all at once when it is done, not one by another: most of them find that it was done for them too,
//! and a chain of threads that wake each other took longer than the device.

use std::sync::{Condvar, Mutex, PoisonError};

/// The turn to make things durable.
#[derive(Default)]
pub(super) struct Turn {
    is_taken: Mutex<bool>,
    ended: Condvar,
}

/// Whoever holds it has the turn, until it is dropped.
pub(super) struct Taken<'a>(&'a Turn);

impl Turn {
    /// Waits for the turn.
    pub(super) fn take(&self) -> Taken<'_> {
        self.take_unless(|| false).expect("nothing else ends the wait")
    }

    /// Waits for the turn, or until, at the end of somebody else's, `is_done`: then `None`.
    pub(super) fn take_unless(&self, is_done: impl Fn() -> bool) -> Option<Taken<'_>> {
        let mut is_taken = self.is_taken.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if is_done() {
                return None;
            }
            if !*is_taken {
                *is_taken = true;
                return Some(Taken(self));
            }
            is_taken = self.ended.wait(is_taken).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.0.is_taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.ended.notify_all();
    }
}
