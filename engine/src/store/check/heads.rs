//! The copies of key slot and superblock: valid and equal, and how they are made so again.

use zerocopy::IntoBytes;

use super::{Findings, Fix};
use crate::device::{Device, Write};
use crate::format::{Layout, Superblock};
use crate::store::Keys;
use crate::store::open::{OpenError, read_sectors, read_superblock};

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
    keyslot: &[u8],
    superblock: &Superblock,
) -> Result<(), OpenError> {
    let keyslots = layout.keyslots().into_iter().map(|sector| (sector, keyslot));
    let superblocks = layout.superblocks().into_iter().map(|sector| (sector, superblock.as_bytes()));
    for (sector, good) in keyslots.chain(superblocks) {
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
