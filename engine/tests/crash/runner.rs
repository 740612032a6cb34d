//! Plays histories for the seeds that the environment asks for, counts what was tried, and looks for the shortest
//! history that still fails.
//!
//! A history is a seed and the numbers of its steps. What a step does depends on these two and on what is there, so
//! any of them can be left out. Shared with the tests of the layer above.
//!
//! | variable | |
//! | --- | --- |
//! | `BLOCKTREE_SEED=n` | this history alone, played twice: both must do the same |
//! | `BLOCKTREE_STEPS=1,2,5` | only these of its steps |
//! | `BLOCKTREE_SIM_SECONDS=n` | new histories for so long, from the seed on if there is one |
#![allow(dead_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use blocktree_engine::device::SplitMix64;

/// Up to this many unflushed writes, every subset is tried: in a short run, and in a long one.
const EXHAUSTIVE_SHORT: usize = 5;
const EXHAUSTIVE_LONG: usize = 12;
/// A run that is at least so long is a long one.
const LONG: Duration = Duration::from_secs(300);
const SHRINKING: Duration = Duration::from_secs(90);

/// What was done, for the report at the end.
#[derive(Default, Debug, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) histories: u64,
    pub(crate) operations: u64,
    /// Images that a crash may leave, each recovered and compared.
    pub(crate) crashes: u64,
    /// Faults of the device that happened, beside crashes.
    pub(crate) faults: u64,
    /// Operations that were refused for lack of space.
    pub(crate) refused: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.histories += other.histories;
        self.operations += other.operations;
        self.crashes += other.crashes;
        self.faults += other.faults;
        self.refused += other.refused;
    }
}

impl Tally {
    /// One line that `cargo xtask torture` adds up.
    pub(crate) fn print(&self, name: &str, began: Instant) {
        let Self { histories, operations, crashes, faults, refused } = self;
        println!(
            "tally: {name}: histories {histories}, operations {operations}, crashes {crashes}, faults {faults}, \
             refused {refused}"
        );
        let seconds = began.elapsed().as_secs_f64();
        println!("{name}: {seconds:.1} s, {:.0} crashes a minute", *crashes as f64 * 60.0 / seconds);
    }
}

/// One history on its way.
pub(crate) trait Play: Sized {
    /// Before the first step.
    fn start(seed: u64) -> Result<Self, String>;

    /// One step; whatever is random in it comes from `rng`.
    fn step(&mut self, rng: SplitMix64) -> Result<(), String>;

    /// After the last step.
    fn finish(&mut self) -> Result<(), String>;

    fn tally(&self) -> Tally;

    /// What was done, in words.
    fn trace(&self) -> Vec<String>;

    /// The same for the same history.
    fn fingerprint(&self) -> u64;
}

/// What came of a history.
struct Played {
    result: Result<(), String>,
    tally: Tally,
    trace: Vec<String>,
    fingerprint: u64,
}

/// Whether this is a long run.
pub(crate) fn is_long() -> bool {
    variable("BLOCKTREE_SIM_SECONDS").is_some_and(|seconds| Duration::from_secs(seconds) >= LONG)
}

/// Up to how many unflushed writes every subset is tried.
pub(crate) fn exhaustive_max() -> usize {
    if is_long() { EXHAUSTIVE_LONG } else { EXHAUSTIVE_SHORT }
}

pub(crate) fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// The number that a step's randomness starts from.
pub(crate) fn step_seed(seed: u64, step: u64) -> u64 {
    SplitMix64(SplitMix64(seed).next_u64() ^ step).next_u64()
}

/// Plays `count` histories of `steps` steps each, or what the environment asks for.
pub(crate) fn run<P: Play>(name: &str, count: u64, steps: u64) {
    let began = Instant::now();
    let seed = variable("BLOCKTREE_SEED");
    let end = variable("BLOCKTREE_SIM_SECONDS").map(|seconds| began + Duration::from_secs(seconds));
    let first = seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() as u64);
        if end.is_some() { now % 1_000_000_000 * 1000 } else { 1 }
    });
    let count = if seed.is_some() { 1 } else { count };
    let chosen = std::env::var("BLOCKTREE_STEPS").ok();
    let steps: Vec<u64> = match &chosen {
        Some(list) => list.split(',').map(|step| step.trim().parse().expect("a step is a number")).collect(),
        None => (0..steps).collect(),
    };
    let mut sum = Tally::default();
    let mut seed = first;
    while end.map_or(seed < first + count, |end| Instant::now() < end) {
        let played = play::<P>(seed, &steps);
        sum += played.tally;
        if let Err(why) = &played.result {
            fail::<P>(name, seed, &steps, why);
        }
        if seed == first {
            let again = play::<P>(seed, &steps);
            let differs = played.trace.iter().zip(&again.trace).find(|(one, other)| one != other);
            assert!(
                again.fingerprint == played.fingerprint,
                "{name}, seed {seed}: played again, it did something else; first difference: {differs:?}"
            );
        }
        seed += 1;
    }
    sum.print(name, began);
}

fn play<P: Play>(seed: u64, steps: &[u64]) -> Played {
    let mut play = match P::start(seed) {
        Ok(play) => play,
        Err(why) => {
            return Played { result: Err(why), tally: Tally::default(), trace: Vec::new(), fingerprint: 0 };
        }
    };
    let result = catch_unwind(AssertUnwindSafe(|| {
        steps.iter().try_for_each(|step| play.step(SplitMix64(step_seed(seed, *step))))?;
        play.finish()
    }));
    let result = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default()))
    });
    Played { result, tally: play.tally(), trace: play.trace(), fingerprint: play.fingerprint() }
}

/// Drops steps as long as what is left fails, then panics with the rest.
fn fail<P: Play>(name: &str, seed: u64, steps: &[u64], why: &str) -> ! {
    println!("{name}, seed {seed}: {why}\nlooking for a shorter history");
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let shortest = shrink(steps.to_vec(), |steps| play::<P>(seed, steps).result.is_err());
    let played = play::<P>(seed, &shortest);
    std::panic::set_hook(hook);
    let list: Vec<String> = shortest.iter().map(u64::to_string).collect();
    panic!(
        "{name}, BLOCKTREE_SEED={seed}: {why}\n\
         The shortest history found has {} of {} steps:\n  {}\nand fails with: {}\n\
         cargo xtask sim {seed} --only {} --steps {}",
        shortest.len(),
        steps.len(),
        played.trace.join("\n  "),
        played.result.err().unwrap_or_default(),
        std::thread::current().name().unwrap_or_default(),
        list.join(",")
    );
}

/// Delta debugging (Zeller, Hildebrandt, 2002), less its complements: leaves out runs of steps, shorter and shorter.
fn shrink(mut steps: Vec<u64>, fails: impl Fn(&[u64]) -> bool) -> Vec<u64> {
    let end = Instant::now() + SHRINKING;
    let mut length = steps.len().div_ceil(2);
    while length > 0 {
        let mut at = 0;
        let before = steps.len();
        while at < steps.len() && Instant::now() < end {
            let to = (at + length).min(steps.len());
            let without = [&steps[..at], &steps[to..]].concat();
            if fails(&without) {
                steps = without;
            } else {
                at = to;
            }
        }
        if Instant::now() >= end {
            break;
        }
        if length > 1 || steps.len() == before {
            length /= 2;
        }
    }
    steps
}

#[test]
fn a_failing_history_becomes_short() {
    let fails = |steps: &[u64]| [3, 11, 12].iter().all(|step| steps.contains(step));
    assert_eq!(shrink((0..40).collect(), fails), [3, 11, 12]);
}
