//! Decisions on space that are refused on purpose.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts how often a store decides whether there is space for something, and says no at some of those times: for tests of
/// what happens where there is none.
#[derive(Debug, Default)]
pub struct Refusals {
    asked: AtomicU64,
    from: AtomicU64,
    to: AtomicU64,
}

impl Refusals {
    /// From now on refuses those with these numbers; the next one has number 0.
    pub fn refuse(&self, numbers: Range<u64>) {
        self.asked.store(0, Ordering::Relaxed);
        self.from.store(numbers.start, Ordering::Relaxed);
        self.to.store(numbers.end, Ordering::Relaxed);
    }

    /// How many there were since.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    pub(super) fn strikes(&self) -> bool {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        (self.from.load(Ordering::Relaxed)..self.to.load(Ordering::Relaxed)).contains(&number)
    }
}
