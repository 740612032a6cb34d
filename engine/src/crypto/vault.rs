//! Where keys are kept in memory: pages of their own, which are left out of core dumps and, as far as the limit for locked
//! memory goes, never written to swap.
//!
//! Invariants:
//! 1. A slot has one owner; it is filled with zeros before it is given back.
//! 2. Pages are never unmapped: keys come and go by the thousand, and a page costs 4 KiB.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use parking_lot::Mutex;
use zeroize::Zeroize;

const SLOT_BYTES: usize = 32;
/// Pages are mapped so many bytes at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// Slots that nobody has.
static FREE: Mutex<Vec<Free>> = Mutex::new(Vec::new());

struct Free(NonNull<[u8; SLOT_BYTES]>);

// SAFETY: whoever has this has the slot alone, and slots belong to no thread.
unsafe impl Send for Free {}

/// The only owner of 32 bytes in the vault.
pub(super) struct Slot(NonNull<[u8; SLOT_BYTES]>);

// SAFETY: the slot is owned, and shared references to it only read.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Slot {
    pub(super) fn new(bytes: &[u8; SLOT_BYTES]) -> Self {
        let slot = {
            let mut free = FREE.lock();
            if free.is_empty() {
                more(&mut free);
            }
            free.pop().expect("there are more now").0
        };
        // SAFETY: the slot is 32 bytes of mapped memory that nobody else has.
        unsafe { slot.as_ptr().write(*bytes) };
        Self(slot)
    }

    pub(super) fn bytes(&self) -> &[u8; SLOT_BYTES] {
        // SAFETY: the slot is ours and was written when it was taken.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: the slot is ours, and nobody borrows it any more.
        unsafe { self.0.as_mut() }.zeroize();
        FREE.lock().push(Free(self.0));
    }
}

/// Maps another chunk of pages. Locking may be refused; the keys are needed all the same.
fn more(free: &mut Vec<Free>) {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at a place of the kernel's choice touches no memory of ours.
    let chunk = unsafe { libc::mmap(std::ptr::null_mut(), CHUNK_BYTES, protection, flags, -1, 0) };
    assert!(chunk != libc::MAP_FAILED, "no memory for keys");
    // SAFETY: the range is the mapping that was just made.
    unsafe {
        libc::mlock(chunk, CHUNK_BYTES);
        libc::madvise(chunk, CHUNK_BYTES, libc::MADV_DONTDUMP);
    }
    let first = chunk.cast::<[u8; SLOT_BYTES]>();
    for index in 0..CHUNK_BYTES / SLOT_BYTES {
        // SAFETY: the mapping is as long as so many slots.
        free.extend(NonNull::new(unsafe { first.add(index) }).map(Free));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_apart_and_come_back_empty() {
        let slots: Vec<Slot> =
            (0..5000_u32).map(|n| Slot::new(&std::array::from_fn(|at| n.to_le_bytes()[at % 4]))).collect();
        for (n, slot) in (0..5000_u32).zip(&slots) {
            assert!(slot.bytes().iter().zip(n.to_le_bytes().iter().cycle()).all(|(a, b)| a == b));
        }
        let pointer = slots[17].0;
        drop(slots);
        let free = FREE.lock();
        let slot = free.iter().find(|free| free.0 == pointer);
        // SAFETY: nobody can take the slot while the list is locked.
        assert_eq!(slot.map(|free| *unsafe { free.0.as_ref() }), Some([0; SLOT_BYTES]));
    }

    #[test]
    fn no_core_dump_holds_them() {
        let slot = Slot::new(&[7; SLOT_BYTES]);
        let address = slot.0.as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_inside = false;
        for line in maps.lines() {
            if let Some((from, rest)) = line.split_once('-')
                && let (Ok(from), Some((to, _))) = (usize::from_str_radix(from, 16), rest.split_once(' '))
            {
                is_inside = usize::from_str_radix(to, 16).is_ok_and(|to| (from..to).contains(&address));
            }
            if is_inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                assert!(flags.split_whitespace().any(|flag| flag == "dd"), "{flags}");
                return;
            }
        }
        panic!("the page is in no mapping");
    }
}
