//! Opens what a crash leaves and compares it with what was allowed.

use std::collections::VecDeque;
use std::sync::Arc;

use blocktree_engine::Store;
use blocktree_engine::device::{CrashPoint, FaultyDevice, Image, SplitMix64, Survivors};

use crate::model::{Moment, PASSPHRASE, compare, compare_snapshots, counter, options};
use crate::runner::exhaustive_max;

const TEARS: usize = 3;

/// Recovers what a crash may leave, in many ways; returns how many.
pub(crate) fn crash(
    point: &CrashPoint,
    allowed: &VecDeque<Moment>,
    rng: &mut SplitMix64,
) -> Result<u64, String> {
    let mut count = 0;
    for choice in point.choices(exhaustive_max(), TEARS, rng) {
        let image = point.image(choice);
        let failed = |why| format!("after a crash with {choice:?} of {} writes: {why}", point.unflushed());
        let moment = recover(&image, allowed).map_err(failed)?;
        count += 1;
        if rng.one_in(8) {
            count += interrupted(image, &moment, rng).map_err(failed)?;
        }
    }
    Ok(count)
}

/// Crashes at each moment of recovery and of the first checkpoint after it: nothing may come of it.
fn interrupted(image: Image, moment: &Moment, rng: &mut SplitMix64) -> Result<u64, String> {
    let device = Arc::new(FaultyDevice::from_image(image, rng.next_u64()));
    device.reorder();
    device.capture_all();
    let store =
        Store::open(device.clone(), PASSPHRASE, &options()).map_err(|error| format!("open: {error}"))?;
    store.reclaim().and_then(|()| store.close()).map_err(|error| format!("close: {error}"))?;
    drop(store);
    let allowed = VecDeque::from([moment.clone()]);
    let points = device.take_captures();
    for point in &points {
        let image = point.image(Survivors::Random(rng.next_u64()));
        recover(&image, &allowed).map_err(|why| format!("a second crash: {why}"))?;
    }
    Ok(points.len() as u64)
}

/// Opens an image twice and finds out which of the states it shows.
pub(crate) fn recover(image: &Image, allowed: &VecDeque<Moment>) -> Result<Moment, String> {
    let device = Arc::new(FaultyDevice::from_image(image.clone(), 0));
    let store =
        Store::open(device.clone(), PASSPHRASE, &options()).map_err(|error| format!("open: {error}"))?;
    let number = counter(&store).map_err(|error| format!("counter: {error}"))?;
    let names: Vec<String> = store.snapshot_list().into_iter().map(|snapshot| snapshot.name).collect();
    let mut why = String::new();
    let fits = |moment: &&Moment| {
        moment.tree.counter == number && moment.snapshots.keys().cloned().eq(sorted(&names))
    };
    let found = allowed.iter().rev().filter(fits).find(|moment| match compare(&store, &moment.tree) {
        Ok(()) => true,
        Err(reason) => {
            why = reason;
            false
        }
    });
    let Some(found) = found else {
        let range = (allowed.front().map(|m| m.tree.counter), allowed.back().map(|m| m.tree.counter));
        return Err(format!("shows state {number} with {names:?} (allowed {range:?}): {why}"));
    };
    drop(store);
    let again =
        Store::open(device.clone(), PASSPHRASE, &options()).map_err(|error| format!("again: {error}"))?;
    let mut moment = found.clone();
    // Each comparison reads everything: the second look is at the number alone, or else at one snapshot.
    if counter(&again).ok() != Some(number) {
        return Err("opened again, it shows another state".into());
    }
    let shown = number as usize % (names.len() + 1);
    let looked_at = moment.snapshots.clone().into_iter().skip(shown).take(1).collect();
    let all = std::mem::replace(&mut moment.snapshots, looked_at);
    compare_snapshots(device, &moment)?;
    moment.snapshots = all;
    Ok(moment)
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort();
    names
}
