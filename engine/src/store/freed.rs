//! Sectors that records freed, until they may be used again.
//!
//! A freed sector must not be overwritten while recovery could still need it. Recovery re-hashes the data of
//! every record behind the newest that the last valid record names as durable. So what record `k` freed is
//! reused only once a record that names `k` as durable is durable itself, or a checkpoint contains `k`.

use std::collections::VecDeque;

use crate::space::Run;

#[derive(Default)]
pub(super) struct Freed {
    /// By record: its sequence number, what it names as durable, what it freed.
    records: VecDeque<(u64, u64, Vec<Run>)>,
    /// Records whose runs were already released, but whose names still count.
    released: u64,
    /// While a checkpoint is being made: its last record. What later records free is not free in its space table,
    /// so that its nodes must not be put there.
    edge: Option<u64>,
}

impl Freed {
    pub(super) fn push(&mut self, seq: u64, names: u64, runs: Vec<Run>) {
        self.records.push_back((seq, names, runs));
    }

    /// Records up to `durable` are durable: returns what may be used again.
    pub(super) fn on_durable(&mut self, durable: u64) -> Vec<Run> {
        let named = self.records.iter().filter(|(seq, ..)| *seq <= durable).map(|(_, names, _)| *names).max();
        self.release(named.unwrap_or(0))
    }

    /// A checkpoint of the records up to `seq` begins.
    pub(super) fn on_edge(&mut self, seq: u64) {
        self.edge = Some(seq);
    }

    /// It ended, well or not.
    pub(super) fn on_checkpoint_end(&mut self) {
        self.edge = None;
    }

    /// A checkpoint contains the records up to `seq`, or recovery does not look at their data.
    pub(super) fn on_settled(&mut self, seq: u64) -> Vec<Run> {
        self.release(seq)
    }

    fn release(&mut self, seq: u64) -> Vec<Run> {
        self.released = self.released.max(seq.min(self.edge.unwrap_or(u64::MAX)));
        let mut runs = Vec::new();
        while let Some(front) = self.records.front_mut()
            && front.0 <= self.released
        {
            runs.append(&mut front.2);
            self.records.pop_front();
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_a_durable_record_that_says_so() {
        let run = |sector| Run { sector, sectors: 1 };
        let mut freed = Freed::default();
        freed.push(1, 0, vec![run(1)]);
        freed.push(2, 0, vec![run(2)]);
        assert!(freed.on_durable(2).is_empty(), "no record names them yet");
        freed.push(3, 2, vec![run(3)]);
        assert!(freed.on_durable(2).is_empty(), "the record that names them is not durable");
        assert_eq!(freed.on_durable(3), [run(1), run(2)]);
        assert_eq!(freed.on_settled(3), [run(3)]);
    }

    #[test]
    fn what_later_records_free_waits_for_the_end_of_a_checkpoint() {
        let run = |sector| Run { sector, sectors: 1 };
        let mut freed = Freed::default();
        freed.push(1, 0, vec![run(1)]);
        freed.on_edge(1);
        freed.push(2, 1, vec![run(2)]);
        freed.push(3, 2, vec![run(3)]);
        assert_eq!(freed.on_durable(3), [run(1)]);
        freed.on_checkpoint_end();
        assert_eq!(freed.on_durable(3), [run(2)]);
    }
}
