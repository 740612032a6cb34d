//! Crashes, I/O errors and concurrency against a reference model.
//!
//! `BLOCKTREE_SEED=n` repeats one history; `BLOCKTREE_SIM_SECONDS=n` runs new ones for so long.

mod model;
mod simulation;
mod stress;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use simulation::{Counts, Simulation};

const HISTORIES: u64 = 12;
const OPERATIONS: u64 = 80;

/// Runs `history` for the seeds that the environment asks for.
fn run(name: &str, history: impl Fn(u64) -> Result<Counts, String>) {
    let variable = |name| std::env::var(name).ok().and_then(|value: String| value.parse::<u64>().ok());
    let began = Instant::now();
    let (first, end) = match (variable("BLOCKTREE_SEED"), variable("BLOCKTREE_SIM_SECONDS")) {
        (Some(seed), None) => (seed, None),
        (seed, Some(seconds)) => {
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() as u64);
            (seed.unwrap_or(now % 1_000_000_000 * 1000), Some(began + Duration::from_secs(seconds)))
        }
        (None, None) => (1, None),
    };
    let count = if variable("BLOCKTREE_SEED").is_some() { 1 } else { HISTORIES };
    let mut sum = Counts::default();
    let mut seed = first;
    while end.map_or(seed < first + count, |end| Instant::now() < end) {
        match history(seed) {
            Ok(counts) => sum += counts,
            Err(why) => panic!("{name}, BLOCKTREE_SEED={seed}: {why}"),
        }
        seed += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{name}: {sum:?} in {seconds:.1} s, {:.0} images a second", sum.images as f64 / seconds);
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.histories += other.histories;
        self.operations += other.operations;
        self.images += other.images;
        self.continued += other.continued;
        self.refused += other.refused;
        self.failures += other.failures;
    }
}

/// Turns a panic into a failure that names the last operations.
fn traced(
    simulation: &mut Simulation,
    run: impl FnOnce(&mut Simulation) -> Result<(), String>,
) -> Result<(), String> {
    let result = catch_unwind(AssertUnwindSafe(|| run(simulation)));
    let result = result.unwrap_or_else(|_| Err("panic".into()));
    result.map_err(|why| {
        let trace: Vec<String> = simulation.trace.iter().cloned().collect();
        format!("{why}\nafter: {}", trace.join("; "))
    })
}

#[test]
fn every_crash_leaves_a_prefix() {
    run("crashes", |seed| {
        let mut simulation = Simulation::new(seed)?;
        traced(&mut simulation, |simulation| {
            for _ in 0..OPERATIONS {
                simulation.step()?;
            }
            simulation.finish()
        })?;
        Ok(simulation.counts)
    });
}

#[test]
fn io_errors_leave_a_prefix() {
    run("I/O errors", |seed| {
        let mut simulation = Simulation::new(seed ^ 0xE10)?;
        traced(&mut simulation, |simulation| {
            for _ in 0..8 {
                for _ in 0..5 {
                    simulation.operation()?;
                }
                simulation.fail()?;
            }
            simulation.finish()
        })?;
        Ok(simulation.counts)
    });
}
