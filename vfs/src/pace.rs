//! How soon one who is told of changes looks for them while many come.

use std::time::{Duration, Instant};

/// So many times in a row it looks at once.
const EAGER_ROUNDS: u32 = 16;
/// Later, changes may gather for so long before it looks.
const GATHER: Duration = Duration::from_micros(500);
/// After so long without a change, they are few again.
const REST: Duration = Duration::from_millis(5);

/// A thread that is woken for each of many small changes takes the processor from those who make them. So it looks at a few of them at
/// once, and then at what half a millisecond brings.
#[derive(Debug, Default)]
pub struct Pace {
    rounds: u32,
    last: Option<Instant>,
}

impl Pace {
    /// Something has changed: how long to wait before looking what it is.
    pub fn before_looking(&mut self, now: Instant) -> Duration {
        let has_rested = self.last.is_none_or(|last| now.duration_since(last) >= REST);
        self.rounds = if has_rested { 0 } else { self.rounds.saturating_add(1) };
        self.last = Some(now);
        if self.rounds < EAGER_ROUNDS { Duration::ZERO } else { GATHER }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_changes_are_looked_at_at_once_and_many_together() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        let mut looks = |count: u32, apart: Duration| {
            let waits = (0..count).map(|_| {
                now += apart;
                pace.before_looking(now)
            });
            waits.collect::<Vec<_>>()
        };
        let soon = Duration::from_micros(100);
        let first = looks(40, soon);
        assert!(first[..EAGER_ROUNDS as usize].iter().all(Duration::is_zero));
        assert!(first[EAGER_ROUNDS as usize..].iter().all(|wait| *wait == GATHER));
        assert!(looks(20, REST).iter().all(Duration::is_zero), "they are few again");
        assert!(looks(1, soon)[0].is_zero());
    }
}
