//! How often a cache had what it was asked for.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what a cache was asked for, and what it did not have.
#[derive(Default)]
pub(crate) struct Hits {
    asked: AtomicU64,
    missed: AtomicU64,
}

impl Hits {
    pub(crate) fn asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn missed(&self) {
        self.missed.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it was asked.
    pub(crate) fn count(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Between 0 and 1; 1 where nothing was asked for.
    pub(crate) fn rate(&self) -> f64 {
        let missed = self.missed.load(Ordering::Relaxed) as f64;
        match self.asked.load(Ordering::Relaxed) {
            0 => 1.0,
            asked => (1.0 - missed / asked as f64).max(0.0),
        }
    }
}
