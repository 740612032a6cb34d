//! Bounded exhaustive workloads, in the manner of ACE (Mohan et al., "Finding Crash-Consistency Bugs with Bounded
//! Black-Box Crash Testing", OSDI 2018): every sequence of one and of two operations out of those that matter to
//! persistence, on a small tree, with a crash at every point.
//!
//! Either nothing is written before the last operation, or each transaction is, without a flush. After the last, all
//! is written, and then made durable. Sequences of three are sampled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blocktree_engine::device::{Image, SplitMix64};

use crate::operation::Operation::{self, *};
use crate::runner::{Tally, exhaustive_max, variable};
use crate::world::{Moment, Outcome, World, commit_each, crash, set_time};

const STORE_SECTORS: u64 = 8192;
const ATTRIBUTE: &str = "user.colour";
const KIB: u64 = 1024;

/// The tree on which sequences start: a part of it in the index, a part in the log.
fn start() -> (Image, Arc<Moment>) {
    set_time(0);
    let mut world = World::create(STORE_SECTORS, STORE_SECTORS, 1);
    let path = |path: &str| path.to_owned();
    let before = [
        Mkdir(path("A")),
        Mkdir(path("B")),
        Create(path("foo")),
        Write(path("foo"), 0, 20 * KIB + 100, 1),
        SetXattr(path("foo"), ATTRIBUTE, 10, 2),
        Checkpoint,
        Create(path("A/foo")),
        Write(path("A/foo"), 0, 5000, 3),
        Mkdir(path("A/D")),
        Sync,
    ];
    for operation in &before {
        assert_eq!(world.perform(operation).unwrap(), Outcome::Done, "{operation:?}");
    }
    (world.device.image(), world.now().clone())
}

/// The operations that matter to persistence. Some make sense only after another.
fn operations() -> Vec<Operation> {
    let two = |one: &str, other: &str| (one.to_owned(), other.to_owned());
    let mut all = vec![Sync, WriteBack, Checkpoint];
    for path in ["foo", "A/foo"] {
        let path = || path.to_owned();
        all.extend([
            Write(path(), 0, 4 * KIB, 10),
            Write(path(), 1000, 3000, 11),
            // Long enough to be sealed and written at once.
            Write(path(), 0, 64 * KIB, 12),
            Write(path(), 40 * KIB, 4 * KIB, 13),
            Append(path(), 3000, 14),
            Truncate(path(), 0),
            Truncate(path(), 4500),
            Truncate(path(), 30 * KIB),
            Allocate(path(), 8 * KIB, 16 * KIB, true),
            Allocate(path(), 8 * KIB, 16 * KIB, false),
            Punch(path(), 0, 4 * KIB),
            Punch(path(), 1000, 2000),
            Zero(path(), 2 * KIB, 8 * KIB),
            Collapse(path(), 0, 4 * KIB),
            Insert(path(), 4 * KIB, 4 * KIB),
            Unlink(path()),
            SetXattr(path(), ATTRIBUTE, 20, 15),
            RemoveXattr(path(), ATTRIBUTE),
            Chmod(path(), 0o600),
            Fsync(path()),
            Fdatasync(path()),
        ]);
    }
    all.extend(["bar", "A/bar"].map(|path| Create(path.to_owned())));
    all.extend(["C", "A/C"].map(|path| Mkdir(path.to_owned())));
    all.extend(["bar", "B/bar"].map(|path| Symlink(path.to_owned())));
    all.extend(["B", "A/D", "A"].map(|path| Rmdir(path.to_owned())));
    all.extend(["", "A"].map(|path| Fsync(path.to_owned())));
    for (from, to) in [("foo", "bar"), ("foo", "A/bar"), ("A/foo", "B/foo")].map(|(a, b)| two(a, b)) {
        all.extend([Link(from.clone(), to.clone()), Rename(from, to)]);
    }
    for (from, to) in
        [("foo", "A/foo"), ("A/foo", "foo"), ("A", "C"), ("B", "A/D"), ("A/D", "B/D"), ("A", "B")]
    {
        let (from, to) = two(from, to);
        all.push(Rename(from, to));
    }
    for (one, other) in [("foo", "A/foo"), ("A", "B")] {
        let (one, other) = two(one, other);
        all.push(Exchange(one, other));
    }
    all.push(Copy("foo".into(), "A/foo".into(), 12 * KIB));
    all.push(SetXattr("A".into(), ATTRIBUTE, 300, 16));
    all
}

/// Plays a sequence; returns how many images were recovered, or `None` if it holds an impossible operation.
fn play(
    start: &(Image, Arc<Moment>),
    sequence: &[&Operation],
    apart: bool,
    tally: &mut Tally,
    rng: &mut SplitMix64,
) -> Result<Option<u64>, String> {
    set_time(1000);
    commit_each(apart);
    let mut world = World::open(start.0.clone(), start.1.clone(), rng.next_u64())?;
    world.device.capture_all();
    let mut images = 0;
    let (last, others) = sequence.split_last().expect("a sequence is not empty");
    let steps = others.iter().chain([last, &&WriteBack, &&Sync]);
    for operation in steps {
        // What was durable before it is durable during it.
        let mut allowed = world.allowed();
        match world.perform(operation)? {
            Outcome::Done => {}
            Outcome::Impossible => return Ok(None),
            other => return Err(format!("{operation:?}: {other:?}")),
        }
        world.verify()?;
        let newest = allowed.last().map_or(0, |moment| moment.number);
        allowed.extend(world.allowed().into_iter().filter(|moment| moment.number > newest));
        let points = world.device.take_captures();
        images += crash(&points, &allowed, exhaustive_max(), rng)?;
        tally.operations += 1;
    }
    // Now all of it is durable.
    images += crash(&[world.device.crash_point()], &world.allowed(), exhaustive_max(), rng)?;
    Ok(Some(images))
}

/// A sequence's number among all of its length.
fn sequence(operations: &[Operation], length: u32, mut number: u64) -> Vec<&Operation> {
    (0..length)
        .map(|_| {
            let (rest, at) = (number / operations.len() as u64, number % operations.len() as u64);
            number = rest;
            &operations[at as usize]
        })
        .collect()
}

#[test]
fn every_short_sequence_survives_every_crash() {
    let began = Instant::now();
    let seed = variable("BLOCKTREE_SEED").unwrap_or(1);
    let end = variable("BLOCKTREE_SIM_SECONDS").map(|seconds| began + Duration::from_secs(seconds));
    let (start, operations) = (start(), operations());
    let mut tally = Tally::default();
    for length in 1..=3 {
        let all = (operations.len() as u64).pow(length);
        // In an order that a seed chooses; as many as there is time for.
        let limit = match length {
            2 if end.is_none() => 30,
            3 if end.is_none() => 4,
            _ => all,
        };
        let offset = SplitMix64(seed).below(all);
        let stride = stride(all);
        let mut tried = 0;
        while tried < limit && (length == 1 || end.is_none_or(|end| Instant::now() < end)) {
            let number = (offset + tried * stride) % all;
            let sequence = sequence(&operations, length, number);
            for apart in [false, true] {
                let mut rng = SplitMix64(seed ^ number);
                match play(&start, &sequence, apart, &mut tally, &mut rng) {
                    Ok(Some(images)) => {
                        tally.histories += 1;
                        tally.crashes += images;
                    }
                    Ok(None) => {}
                    Err(why) => panic!("seed {seed}: {sequence:?}, apart: {apart}: {why}"),
                }
            }
            tried += 1;
        }
        println!("sequences of {length}: {tried} of {all} tried");
    }
    tally.print("short sequences", began);
}

/// A step that visits all of `all` numbers in an order that looks random.
fn stride(all: u64) -> u64 {
    let coprime = |candidate: &u64| {
        let (mut a, mut b) = (*candidate, all);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a == 1
    };
    (all * 618 / 1000..).find(coprime).unwrap_or(1)
}
