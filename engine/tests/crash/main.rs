//! Crashes, I/O errors and concurrency against a reference model.

mod crowd;
mod model;
mod recovery;
mod runner;
mod simulation;
mod stress;
mod threads;

use blocktree_engine::device::SplitMix64;

use runner::{Play, Tally};
use simulation::Simulation;

/// Crashes anywhere; or, with `ERRORS`, some operations, then an error of the device, again and again.
struct Store<const ERRORS: bool>(Simulation);

impl<const ERRORS: bool> Play for Store<ERRORS> {
    fn start(seed: u64) -> Result<Self, String> {
        Simulation::new(if ERRORS { seed ^ 0xE10 } else { seed }).map(Self)
    }

    fn step(&mut self, rng: SplitMix64) -> Result<(), String> {
        if !ERRORS {
            return self.0.step(rng);
        }
        self.0.begin(rng);
        for _ in 0..5 {
            self.0.operation()?;
        }
        self.0.fail()
    }

    fn finish(&mut self) -> Result<(), String> {
        self.0.finish()
    }

    fn tally(&self) -> Tally {
        self.0.tally()
    }

    fn trace(&self) -> Vec<String> {
        self.0.trace.clone()
    }

    fn fingerprint(&self) -> u64 {
        self.0.fingerprint()
    }
}

#[test]
fn every_crash_leaves_a_prefix() {
    runner::run::<Store<false>>("store crashes", 6, 80);
}

#[test]
fn io_errors_leave_a_prefix() {
    runner::run::<Store<true>>("store errors", 6, 8);
}
