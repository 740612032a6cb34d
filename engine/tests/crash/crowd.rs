//! A store with hardly a free sector, where what is freed is used again at once: every short sequence of writes and
//! flushes, with a crash at every moment.

use std::sync::Arc;
use std::time::Instant;

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{FaultyDevice, Image, SplitMix64};
use blocktree_engine::format::BlockId;
use blocktree_engine::{CreateOptions, OpenOptions, Store};

use crate::runner::{Tally, is_long};

const SECTORS: u64 = 8192;
const SECTOR: usize = 4096;
const PASSPHRASE: &[u8] = b"passphrase";
const PAGES: usize = 2;
/// Free sectors at the start.
const FREE: [u64; 3] = [2, 3, 5];
/// The longest sequences.
const LENGTH_SHORT: u32 = 4;
const LENGTH_LONG: u32 = 7;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Writes a page, as a record of its own, without waiting for it.
    Write(usize),
    Sync,
}

const STEPS: [Step; 3] = [Step::Write(0), Step::Write(1), Step::Sync];

/// What each page holds.
type Pages = [u8; PAGES];

fn options() -> OpenOptions {
    OpenOptions { background: false, cache_bytes: 1 << 20, ..OpenOptions::default() }
}

/// A store that is full, but for so many sectors, one of them before the block's pages and the others behind them: so what
/// the first writes freed is soon what comes next. Returns it with the block whose pages are written.
fn full(free: u64) -> (Image, BlockId) {
    let device = Arc::new(FaultyDevice::new(SECTORS, 1));
    let create = CreateOptions { capacity_sectors: SECTORS, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options()).unwrap();
    let mut transaction = store.transaction();
    let [gap, block, filler] = [&b"gap"[..], b"pages", b"filler"].map(|name| transaction.create(name));
    transaction.apply().unwrap();
    for (block, sectors) in [(&gap, 1), (&block, PAGES)] {
        let mut transaction = store.transaction();
        transaction.write(block, 0, &vec![0; sectors * SECTOR]).unwrap();
        store.sync(transaction.apply().unwrap()).unwrap();
    }
    let mut at = 0;
    for step in [256, 1] {
        loop {
            store.checkpoint().unwrap();
            let left = store.usage().free.saturating_sub(free - 1);
            if left < step {
                break;
            }
            let sectors = (left / step * step).min(256);
            let mut transaction = store.transaction();
            transaction.write(&filler, at * SECTOR as u64, &vec![7; sectors as usize * SECTOR]).unwrap();
            transaction.apply().unwrap();
            at += sectors;
        }
    }
    let mut transaction = store.transaction();
    transaction.punch(&gap, 0, 1).unwrap();
    transaction.apply().unwrap();
    // What a checkpoint replaced is free after the next.
    (0..2).for_each(|_| store.checkpoint().unwrap());
    assert_eq!(store.usage().free, free);
    store.close().unwrap();
    (device.image(), block.id())
}

fn read(image: &Image, block: BlockId) -> Result<Pages, String> {
    let device = Arc::new(FaultyDevice::from_image(image.clone(), 0));
    let store = Store::open(device, PASSPHRASE, &options()).map_err(|error| format!("open: {error}"))?;
    let block = store.block(block).ok().flatten().ok_or("the block is gone")?;
    let mut pages = Pages::default();
    for (at, page) in pages.iter_mut().enumerate() {
        let mut bytes = [0; SECTOR];
        store
            .read(&block, (at * SECTOR) as u64, &mut bytes)
            .map_err(|error| format!("page {at}: {error}"))?;
        if bytes != [bytes[0]; SECTOR] {
            return Err(format!("page {at} is of several writes"));
        }
        *page = bytes[0];
    }
    Ok(pages)
}

/// Plays a sequence, and crashes in its last step.
fn play(start: &(Image, BlockId), sequence: &[Step], seed: u64, tally: &mut Tally) -> Result<(), String> {
    let mut rng = SplitMix64(seed);
    let device = Arc::new(FaultyDevice::from_image(start.0.clone(), rng.next_u64()));
    device.reorder();
    let store = Store::open(device.clone(), PASSPHRASE, &options()).map_err(|error| error.to_string())?;
    let block = store.block(start.1).ok().flatten().ok_or("the block is gone")?;
    let mut history = vec![Pages::default()];
    let mut durable = 0;
    for (number, step) in sequence.iter().enumerate() {
        if number + 1 == sequence.len() {
            device.capture_all();
        }
        let (before, mut now) = (durable, *history.last().expect("there is a first"));
        match *step {
            Step::Write(page) => {
                now[page] = number as u8 + 1;
                let mut transaction = store.transaction();
                let written = transaction.write(&block, (page * SECTOR) as u64, &[now[page]; SECTOR]);
                written.and_then(|()| transaction.apply()).map_err(|error| format!("{step:?}: {error}"))?;
                history.push(now);
                store.write_back().map_err(|error| error.to_string())?;
            }
            Step::Sync => {
                store.sync(store.newest()).map_err(|error| error.to_string())?;
                durable = history.len() - 1;
            }
        }
        tally.operations += 1;
        let mut points = device.take_captures();
        points.push(device.crash_point());
        let is_last = number + 1 == sequence.len();
        for between in points.chunk_by(|one, other| one.flushes() == other.flushes()).filter(|_| is_last) {
            let point = &between[between.len() - 1];
            for survivors in point.choices(if is_long() { 6 } else { 4 }, 1, &mut rng) {
                tally.crashes += 1;
                let pages = read(&point.image(survivors), start.1)
                    .map_err(|why| format!("{survivors:?} of {}: {why}", point.unflushed()))?;
                if !history[before..].contains(&pages) {
                    return Err(format!("{survivors:?}: {pages:?} is not one of {:?}", &history[before..]));
                }
            }
        }
    }
    tally.histories += 1;
    Ok(())
}

#[test]
fn what_is_freed_is_used_again_no_sooner_than_a_crash_allows() {
    let began = Instant::now();
    let longest = if is_long() { LENGTH_LONG } else { LENGTH_SHORT };
    let mut tally = Tally::default();
    // A few of everything in the short form: what is told apart best comes first.
    let free = if is_long() { &FREE[..] } else { &FREE[..2] };
    for free in free.iter().copied() {
        let start = full(free);
        for length in 1..=longest {
            for number in 0..STEPS.len().pow(length) {
                let digit = |place| number / STEPS.len().pow(place) % STEPS.len();
                let sequence: Vec<Step> = (0..length).map(|place| STEPS[digit(place)]).collect();
                let played = play(&start, &sequence, number as u64, &mut tally);
                played.unwrap_or_else(|why| panic!("{free} sectors are free, {sequence:?}: {why}"));
            }
        }
    }
    tally.print("crowded stores", began);
}
