//! A queue between two threads that holds a few things, and that either side may leave.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

struct State<T> {
    items: VecDeque<T>,
    is_left: bool,
}

type Shared<T> = Arc<(Mutex<State<T>>, Condvar)>;

pub(super) struct Giver<T>(Shared<T>, usize);

pub(super) struct Taker<T>(Shared<T>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The other side has gone.
    Left,
    TimedOut,
}

pub(super) fn pipe<T>(items_max: usize) -> (Giver<T>, Taker<T>) {
    let shared = Arc::new((Mutex::new(State { items: VecDeque::new(), is_left: false }), Condvar::new()));
    (Giver(Arc::clone(&shared), items_max), Taker(shared))
}

impl<T> Giver<T> {
    pub(super) fn give(&self, item: T, end: Instant) -> Result<(), Why> {
        let (state, changed) = &*self.0;
        let mut state = state.lock();
        while state.items.len() >= self.1 && !state.is_left {
            if changed.wait_until(&mut state, end).timed_out() {
                return Err(Why::TimedOut);
            }
        }
        if state.is_left {
            return Err(Why::Left);
        }
        state.items.push_back(item);
        changed.notify_all();
        Ok(())
    }

    pub(super) fn is_left(&self) -> bool {
        self.0.0.lock().is_left
    }
}

impl<T> Taker<T> {
    /// Also what was given before the other side went.
    pub(super) fn take(&self, end: Instant) -> Result<T, Why> {
        let (state, changed) = &*self.0;
        let mut state = state.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                changed.notify_all();
                return Ok(item);
            }
            if state.is_left {
                return Err(Why::Left);
            }
            if changed.wait_until(&mut state, end).timed_out() {
                return Err(Why::TimedOut);
            }
        }
    }
}

fn leave<T>((state, changed): &(Mutex<State<T>>, Condvar)) {
    state.lock().is_left = true;
    changed.notify_all();
}

impl<T> Drop for Giver<T> {
    fn drop(&mut self) {
        leave(&self.0);
    }
}

impl<T> Drop for Taker<T> {
    fn drop(&mut self) {
        leave(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_given_is_taken_and_then_it_ends() {
        let soon = || Instant::now() + Duration::from_millis(5);
        let (giver, taker) = pipe(2);
        assert_eq!((giver.give(1, soon()), giver.give(2, soon())), (Ok(()), Ok(())));
        assert_eq!(giver.give(3, soon()), Err(Why::TimedOut), "it is full");
        drop(giver);
        assert_eq!(
            (taker.take(soon()), taker.take(soon()), taker.take(soon())),
            (Ok(1), Ok(2), Err(Why::Left))
        );
        let (giver, taker) = pipe::<u8>(1);
        assert_eq!(taker.take(soon()), Err(Why::TimedOut));
        drop(taker);
        assert!(giver.is_left() && giver.give(1, soon()) == Err(Why::Left));
    }
}
