//! Somebody who can write the disk and has no key.

use blocktree_engine::device::{Image, SplitMix64};
use blocktree_engine::format::Layout;

use super::Attempt;
use super::insight::{Insight, read, write};
use super::victim::{SECTOR, SECTORS, Victim};

/// Single sectors: each that is in use, by some of these means.
pub(crate) fn sectors(victim: &Victim, rng: &mut SplitMix64, attempt: &mut Attempt<'_>) {
    let image = &victim.image;
    let used: Vec<u64> = (0..SECTORS).filter(|sector| image.sector(*sector) != [0; SECTOR]).collect();
    assert!(used.len() > 250, "{}", used.len());
    for &sector in &used {
        let whole = image.sector(sector);
        let mut chosen = SplitMix64(rng.next_u64());
        let mut with = |what, bytes| {
            if chosen.below(5) > 1 {
                return;
            }
            let mut image = image.clone();
            image.set_sector(sector, bytes);
            attempt(what, &image);
        };
        let mut flipped = whole;
        // Beginnings of sectors hold most fields.
        let bits = if rng.one_in(2) { 8 * 512 } else { 8 * SECTOR as u64 };
        let bit = rng.below(bits) as usize;
        flipped[bit / 8] ^= 1 << (bit % 8);
        with("flip a bit", flipped);
        with("zero a sector", [0; SECTOR]);
        let other = used[rng.below(used.len() as u64) as usize];
        with("move a sector", image.sector(other));
        for past in &victim.past {
            if past.sector(sector) != whole {
                with("replay a sector", past.sector(sector));
            }
        }
        if victim.fork.sector(sector) != whole {
            with("splice a sector of a fork", victim.fork.sector(sector));
        }
        with("plant a sector of another store", victim.other.sector(sector));
        if rng.one_in(3) {
            let mut swapped = image.clone();
            swapped.set_sector(sector, image.sector(other));
            swapped.set_sector(other, whole);
            attempt("swap two sectors", &swapped);
        }
    }
}

/// Whole structures.
pub(crate) fn structures(victim: &Victim, attempt: &mut Attempt<'_>) {
    let insight = Insight::of(&victim.image);
    let image = &victim.image;
    // The attacker finds nodes by what changes together; their places are taken from the index here.
    for node in &insight.nodes {
        for other in &insight.nodes {
            if other.sector != node.sector {
                let mut image = image.clone();
                write(&mut image, node.sector, &read(&victim.image, other.sector, 4));
                attempt("move a node", &image);
            }
        }
        for old in victim.past.iter().chain([&victim.fork, &victim.other]) {
            let bytes = read(old, node.sector, 4);
            if bytes != read(image, node.sector, 4) {
                let mut image = image.clone();
                write(&mut image, node.sector, &bytes);
                attempt("replay a node", &image);
            }
        }
    }
    for record in &insight.records {
        let sectors = record.head.sectors.get() as usize;
        let mut zeroed = image.clone();
        write(&mut zeroed, record.sector, &vec![0; sectors * SECTOR]);
        attempt("remove a record", &zeroed);
        for other in &insight.records {
            if other.sector != record.sector {
                let mut image = image.clone();
                let sectors = other.head.sectors.get() as usize;
                write(&mut image, record.sector, &read(&victim.image, other.sector, sectors));
                attempt("move a record", &image);
            }
        }
    }
    // The newest record again, behind itself.
    if let Some(last) = insight.records.last() {
        let sectors = last.head.sectors.get() as usize;
        let mut again = image.clone();
        write(&mut again, last.sector + sectors as u64, &read(image, last.sector, sectors));
        attempt("repeat a record", &again);
    }
    superblocks(victim, insight.layout, attempt);
    regions(victim, insight.layout, attempt);
}

/// Every subset of the copies of the superblock, and of the key slot, replaced by older or foreign ones.
fn superblocks(victim: &Victim, layout: Layout, attempt: &mut Attempt<'_>) {
    let olds = victim.past.iter().chain([&victim.fork, &victim.other]);
    for old in olds {
        for subset in 1_u32..16 {
            let mut image = victim.image.clone();
            for (copy, sector) in layout.superblocks().into_iter().enumerate() {
                if subset & 1 << copy != 0 {
                    image.set_sector(sector, old.sector(sector));
                }
            }
            attempt("replay superblocks", &image);
        }
        for subset in 1_u32..4 {
            let mut image = victim.image.clone();
            for (copy, sector) in layout.keyslots().into_iter().enumerate() {
                if subset & 1 << copy != 0 {
                    image.set_sector(sector, old.sector(sector));
                }
            }
            attempt("replay key slots", &image);
        }
    }
}

/// The log, the space table, everything before or behind a sector: from other states of the store.
fn regions(victim: &Victim, layout: Layout, attempt: &mut Attempt<'_>) {
    let end = layout.reserved_end();
    let log = Layout::LOG_START..Layout::LOG_START + layout.log_sectors();
    let heads: Vec<u64> = (0..64).chain(log.end..end).collect();
    let parts: [(&str, Vec<u64>); 4] = [
        ("replay the space table", (0..8).collect()),
        ("replay the log", log.collect()),
        ("replay all heads", heads),
        ("replay nodes and data", (end..SECTORS).collect()),
    ];
    for (what, sectors) in parts {
        for old in victim.past.iter().chain([&victim.fork, &victim.other]) {
            let mut image = victim.image.clone();
            sectors.iter().for_each(|sector| image.set_sector(*sector, old.sector(*sector)));
            attempt(what, &image);
        }
    }
}

/// The whole image: older, forked, cut off.
pub(crate) fn images(victim: &Victim, attempt: &mut Attempt<'_>) {
    for old in &victim.past[..2] {
        attempt("roll the image back", old);
    }
    attempt("put a fork in its place", &victim.fork);
    for sectors in (0..SECTORS).step_by(173).chain([1, 8, 16, 64, SECTORS - 1]) {
        let mut short = Image::new(sectors);
        (0..sectors).for_each(|sector| short.set_sector(sector, victim.image.sector(sector)));
        attempt("cut the volume off", &short);
    }
}
