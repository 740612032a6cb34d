//! No space, at every decision on it: a history in which one of them is refused, or all from one on for some time.
//!
//! What is refused leaves nothing behind, what was promised stays, and with space again all goes on.

use std::sync::Arc;
use std::time::Instant;

use blocktree_engine::Refusals;
use blocktree_engine::device::{Image, SplitMix64};

use crate::operation::Operation::{self, *};
use crate::runner::{Tally, is_long};
use crate::world::{Moment, Outcome, World, commit_each, crash, set_refusals, set_time};

const STORE_SECTORS: u64 = 8192;
const KIB: u64 = 1024;
/// So many decisions in a row: whoever is refused tries a few times.
const FOR_SOME_TIME: u64 = 24;
/// In the short form so many of all are refused.
const TRIED_SHORT: u64 = 24;

fn start() -> (Image, Arc<Moment>) {
    set_time(0);
    commit_each(false);
    set_refusals(None);
    let mut world = World::create(STORE_SECTORS, STORE_SECTORS, 1);
    let path = |path: &str| path.to_owned();
    let before = [Mkdir(path("A")), Create(path("foo")), Write(path("foo"), 0, 300 * KIB, 1), Checkpoint];
    for operation in &before {
        assert_eq!(world.perform(operation).unwrap(), Outcome::Done, "{operation:?}");
    }
    (world.device.image(), world.now().clone())
}

/// Some of everything that takes space or gives it back.
fn history() -> Vec<Operation> {
    let path = |path: &str| path.to_owned();
    vec![
        Create(path("bar")),
        Write(path("bar"), 0, 20 * KIB, 2),
        Fsync(path("bar")),
        Write(path("foo"), 8 * KIB, 64 * KIB, 3),
        WriteBack,
        Mkdir(path("A/B")),
        Symlink(path("A/link")),
        SetXattr(path("foo"), "user.colour", 900, 4),
        Link(path("foo"), path("A/hard")),
        Checkpoint,
        Snapshot(path("one")),
        Write(path("foo"), 0, 128 * KIB, 5),
        Append(path("bar"), 9000, 6),
        Fdatasync(path("bar")),
        Allocate(path("bar"), 64 * KIB, 32 * KIB, false),
        Punch(path("foo"), 4 * KIB, 16 * KIB),
        Copy(path("foo"), path("bar"), 40 * KIB),
        WriteBack,
        Insert(path("bar"), 4 * KIB, 8 * KIB),
        // In at most so many pieces, a move is one transaction.
        Collapse(path("foo"), 0, 16 * KIB),
        Sync,
        Zero(path("bar"), 2 * KIB, 20 * KIB),
        Rename(path("bar"), path("A/bar")),
        Exchange(path("foo"), path("A/link")),
        Checkpoint,
        Truncate(path("A/bar"), 5000),
        DeleteSnapshot(path("one")),
        Reclaim,
        Checkpoint,
        Unlink(path("A/hard")),
        Truncate(path("A/bar"), 0),
        Rmdir(path("A/B")),
        Sync,
    ]
}

/// Plays the history; returns how many decisions on space there were, and how many operations were refused.
fn play(
    start: &(Image, Arc<Moment>),
    refused: std::ops::Range<u64>,
    tally: &mut Tally,
) -> Result<(u64, u64), String> {
    set_time(1000);
    let refusals = Arc::new(Refusals::default());
    set_refusals(Some(refusals.clone()));
    let mut rng = SplitMix64(refused.start);
    let mut world = World::open(start.0.clone(), start.1.clone(), rng.next_u64())?;
    // What is opened beside it, to see what a crash leaves, has space.
    set_refusals(None);
    refusals.refuse(refused);
    let mut count = 0;
    for operation in &history() {
        tally.operations += 1;
        match world.perform(operation)? {
            Outcome::Done | Outcome::Impossible => {}
            Outcome::Failed => return Err(format!("{operation:?} failed for want of space")),
            Outcome::NoSpace => {
                world.verify().map_err(|why| format!("{operation:?} was refused: {why}"))?;
                let point = world.device.crash_point();
                tally.crashes += crash(&[point], &world.allowed(), 2, &mut rng)?;
                count += 1;
            }
        }
    }
    let asked = refusals.asked();
    refusals.refuse(0..0);
    for operation in [Write("foo".into(), 0, 4 * KIB, 9), Sync, Checkpoint] {
        if world.perform(&operation)? == Outcome::NoSpace {
            return Err(format!("{operation:?} was refused, although there is space again"));
        }
    }
    world.verify()?;
    tally.crashes += crash(&[world.device.crash_point()], &world.allowed(), 2, &mut rng)?;
    Ok((asked, count))
}

#[test]
fn no_space_at_any_decision_leaves_nothing_half_done() {
    let began = Instant::now();
    let start = start();
    let mut tally = Tally::default();
    for apart in [false, true] {
        commit_each(apart);
        let (all, refused) = play(&start, 0..0, &mut tally).unwrap();
        assert!(all > 20 && refused == 0, "{all} decisions, {refused} operations were refused");
        let stride = if is_long() { 1 } else { all.div_ceil(TRIED_SHORT) };
        for number in (0..all).step_by(stride as usize) {
            for length in [1, FOR_SOME_TIME] {
                let what = format!("decisions {number} to {} are refused, apart: {apart}", number + length);
                let (_, refused) = play(&start, number..number + length, &mut tally)
                    .unwrap_or_else(|why| panic!("{what}: {why}"));
                tally.refused += refused;
                tally.faults += 1;
                tally.histories += 1;
            }
        }
    }
    set_refusals(None);
    assert!(tally.refused > 10, "{tally:?}");
    tally.print("no space", began);
}
