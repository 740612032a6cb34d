//! The copies of key slot and superblock: valid and equal, and how they are made so again.

use zerocopy::IntoBytes;

use super::{Findings, Fix};
use crate::device::{Device, Write};
use crate::format::{Layout, OTHER_VERSION, RootSlotHeader, Superblock};
use crate::store::access::read_copy;
use crate::store::keys::Keys;
use crate::store::open::{
    NO_WRITECAP, OTHER_STORE, OpenError, TOO_SHORT, UNREADABLE, read_sectors, read_superblock,
};

/// Holds both key slots against the one that opened.
pub(super) fn check_keyslots(device: &dyn Device, layout: Layout, good: &[u8], findings: &mut Findings) {
    for (copy, sector) in layout.keyslots().into_iter().enumerate() {
        let place = format!("key slot {} at sector {sector}", copy + 1);
        match read_sectors(device, sector, 1) {
            Err(error) => findings.add(place, format!("cannot be read: {error}"), None, Fix::Heads),
            Ok(bytes) if bytes[..] != *good => {
                findings.add(place, "not the same as the copy that opens", None, Fix::Heads);
            }
            Ok(_) => {}
        }
    }
}

/// The slots that hold nothing the check could open: each is whole, and the same as its copy.
pub(super) fn check_other_slots(device: &dyn Device, layout: Layout, findings: &mut Findings) {
    let [front, rear] = layout.rootslots();
    let read = |sector| read_sectors(device, sector, 1).map(|bytes| bytes.to_vec());
    match (read(front), read(rear)) {
        (Ok(front), Ok(rear)) if front == rear => {}
        _ => findings.add("root slot", "its two copies are not the same", None, Fix::Heads),
    }
    for (index, places) in layout.access().enumerate() {
        let [front, rear] = places.map(|sector| read_copy(device, sector).ok().flatten());
        let is_unused =
            places.iter().all(|sector| read(*sector).is_ok_and(|bytes| bytes.iter().all(|b| *b == 0)));
        if front != rear || (front.is_none() && !is_unused) {
            let place = format!("access slots {} at sectors {} and {}", index + 1, places[0], places[1]);
            let is_lost = front.is_none() && rear.is_none();
            let (what, fix) = match is_lost {
                true => ("both copies are damaged", Fix::No),
                false => ("its two copies are not the same", Fix::Heads),
            };
            findings.add(place, what, None, fix);
        }
    }
}

/// The copies of the root slot and of the access slots that are to be written anew: from the one that is whole, or
/// newer.
fn other_slots(device: &dyn Device, layout: Layout) -> Vec<(u64, Vec<u8>)> {
    let mut good = Vec::new();
    let [front, rear] = layout.rootslots();
    let is_slot = |bytes: &[u8]| bytes.starts_with(&RootSlotHeader::MAGIC);
    if let (Ok(a), Ok(b)) = (read_sectors(device, front, 1), read_sectors(device, rear, 1)) {
        match (is_slot(&a), is_slot(&b)) {
            (true, false) => good.push((rear, a.to_vec())),
            (false, true) => good.push((front, b.to_vec())),
            // Which of the two opens, only its passphrase tells.
            _ => {}
        }
    }
    for places in layout.access() {
        let copies = places.map(|sector| read_copy(device, sector).ok().flatten());
        let newest = copies.iter().flatten().max_by_key(|copy| copy.generation.get());
        if let Some(newest) = newest {
            good.extend(places.map(|sector| (sector, newest.as_bytes().to_vec())));
        }
    }
    good
}

/// Verifies all copies of the superblock; returns the one that counts: the newest of which two copies are valid,
/// or, where there is none such, the newest. Everything that a superblock names is durable before its first copy
/// is written, so one copy is as good as two; it is only less sure that no newer one is lost.
pub(super) fn check_superblocks(
    device: &dyn Device,
    layout: Layout,
    keys: &Keys,
    findings: &mut Findings,
) -> Option<Superblock> {
    let copies = layout.superblocks().map(|sector| read_superblock(device, keys, sector));
    let mut valid: Vec<&Superblock> = copies.iter().filter_map(|copy| copy.as_ref().ok()).collect();
    valid.sort_by_key(|superblock| std::cmp::Reverse(superblock.generation.get()));
    let pair = valid.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
    let Some(chosen) = pair.or(valid.first().copied()) else {
        findings.add("superblock", "no copy of it is valid: the store cannot be read", None, Fix::No);
        return None;
    };
    if pair.is_none() {
        let what = "no two copies of it are valid and equal: the store does not open";
        findings.add("superblock", what, None, Fix::Heads);
    }
    let generation = chosen.generation.get();
    for (index, copy) in copies.iter().enumerate() {
        let place = format!("superblock copy {} at sector {}", index + 1, layout.superblocks()[index]);
        match copy {
            // A crash can tear those that a checkpoint was writing; the next one writes them anew.
            Err(why) if pair.is_some() && can_be_torn(why) => {
                findings.notes.push(format!(
                    "{place}: {why}, as a crash leaves it; the next checkpoint writes it anew"
                ));
            }
            Err(why) => findings.add(place, *why, None, Fix::Heads),
            Ok(copy) if copy == chosen => {}
            // A checkpoint writes two copies and then the other two: a crash can leave them one apart.
            Ok(copy) if copy.generation.get().abs_diff(generation) == 1 => {
                tracing::info!("{place}: one checkpoint from the others, as a crash leaves it");
            }
            Ok(copy) => {
                let what = format!("of checkpoint {}, not {generation}", copy.generation.get());
                findings.add(place, what, None, Fix::Heads);
            }
        }
    }
    Some(chosen.clone())
}

/// Whether a copy that is not valid may be one of which only a part was written.
fn can_be_torn(why: &str) -> bool {
    ![OTHER_VERSION, OTHER_STORE, NO_WRITECAP, UNREADABLE, TOO_SHORT].contains(&why)
}

/// Whether any copy of the superblock is not this one.
pub(super) fn differ(device: &dyn Device, layout: Layout, superblock: &Superblock) -> bool {
    let same =
        |sector| read_sectors(device, sector, 1).is_ok_and(|bytes| bytes[..] == *superblock.as_bytes());
    !layout.superblocks().into_iter().all(same)
}

/// Writes every copy anew that is not as it should be.
pub(super) fn repair(
    device: &dyn Device,
    layout: Layout,
    keyslot: Option<&[u8]>,
    superblock: &Superblock,
) -> Result<(), OpenError> {
    let keyslots = layout.keyslots().into_iter().filter_map(|sector| Some((sector, keyslot?)));
    let others = other_slots(device, layout);
    let others = others.iter().map(|(sector, bytes)| (*sector, &bytes[..]));
    let superblocks = layout.superblocks().into_iter().map(|sector| (sector, superblock.as_bytes()));
    for (sector, good) in keyslots.chain(others).chain(superblocks) {
        if read_sectors(device, sector, 1).is_ok_and(|bytes| bytes[..] == *good) {
            continue;
        }
        let mut bytes = device.buffer(1);
        bytes.copy_from_slice(good);
        // One after the other: whatever happens, no two good copies are under way at once.
        device.write(vec![Write { sector, bytes }]).wait().map_err(OpenError::Write)?;
        device.flush().map_err(OpenError::Write)?;
    }
    Ok(())
}
