//! One region's bitmap: a set bit is a used sector.

use crate::limits::SECTOR_BYTES;

const BITS: u64 = u64::BITS as u64;
const WORDS: usize = SECTOR_BYTES / 8;

/// A bit for each sector of a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bitmap {
    words: [u64; WORDS],
}

impl Bitmap {
    pub(crate) fn empty() -> Self {
        Self { words: [0; WORDS] }
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        }
        Self { words }
    }

    pub(crate) fn write_bytes(&self, bytes: &mut [u8]) {
        for (word, bytes) in self.words.iter().zip(bytes.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }

    pub(crate) fn is_used(&self, bit: u64) -> bool {
        self.words[(bit / BITS) as usize] & (1 << (bit % BITS)) != 0
    }

    /// Sets a range to `used`; `false`, and nothing changed, if any of it already was.
    pub(crate) fn set_range(&mut self, from: u64, count: u64, used: bool) -> bool {
        let all_differ = masks(from, count).all(|(word, mask)| {
            if used { self.words[word] & mask == 0 } else { self.words[word] & mask == mask }
        });
        if all_differ {
            self.fill_range(from, count, used);
        }
        all_differ
    }

    /// Sets a range to `used`, whatever it was.
    pub(crate) fn fill_range(&mut self, from: u64, count: u64, used: bool) {
        for (word, mask) in masks(from, count) {
            if used {
                self.words[word] |= mask;
            } else {
                self.words[word] &= !mask;
            }
        }
    }

    pub(crate) fn count_free(&self, from: u64, count: u64) -> u64 {
        masks(from, count).map(|(word, mask)| u64::from((!self.words[word] & mask).count_ones())).sum()
    }

    /// The bits that are set here but not in `other`.
    pub(crate) fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u64> + 'a {
        self.words.iter().zip(&other.words).enumerate().flat_map(|(index, (own, other))| {
            let mut bits = own & !other;
            std::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros())?;
                bits &= bits - 1;
                Some(index as u64 * BITS + u64::from(bit))
            })
        })
    }

    /// The first free run at or behind `from` that is at least `min` long, cut at `max`.
    pub(crate) fn find_free(&self, from: u64, min: u64, max: u64) -> Option<(u64, u64)> {
        let end = WORDS as u64 * BITS;
        let mut at = from;
        while let Some(start) = self.next(at, false) {
            let stop = self.next(start, true).unwrap_or(end);
            if stop - start >= min {
                return Some((start, (stop - start).min(max)));
            }
            at = stop;
        }
        None
    }

    /// The first free run of `count` in `from..to` that starts at a multiple of `count`.
    pub(crate) fn find_free_aligned(&self, from: u64, to: u64, count: u64) -> Option<u64> {
        let mut at = from.next_multiple_of(count);
        while at + count <= to {
            match self.next(at, false) {
                Some(free) if free > at => at = free.next_multiple_of(count),
                Some(_) if self.count_free(at, count) == count => return Some(at),
                Some(_) => at += count,
                None => return None,
            }
        }
        None
    }

    /// The first free run at or behind `from` that is no part of a wholly free group of `group`, cut at `max`.
    pub(crate) fn find_free_partial(&self, from: u64, group: u64, max: u64) -> Option<(u64, u64)> {
        let mut at = from;
        while let Some(start) = self.next(at, false) {
            let first = start / group * group;
            if self.count_free(first, group) < group {
                let stop = self.next(start, true).unwrap_or(u64::MAX).min(first + group);
                return Some((start, (stop - start).min(max)));
            }
            at = first + group;
        }
        None
    }

    /// How many groups of `group`, each starting at a multiple of it, are wholly free and touched by a range.
    pub(crate) fn count_free_groups(&self, from: u64, count: u64, group: u64) -> u64 {
        let end = if count == 0 { 0 } else { (from + count).div_ceil(group) };
        let groups = from / group..end;
        groups.filter(|index| self.count_free(index * group, group) == group).count() as u64
    }

    /// The first bit at or behind `from` that is used or free as asked.
    fn next(&self, from: u64, used: bool) -> Option<u64> {
        let mut word = (from / BITS) as usize;
        let mut mask = u64::MAX.checked_shl((from % BITS) as u32).unwrap_or(0);
        while word < WORDS {
            let bits = if used { self.words[word] } else { !self.words[word] } & mask;
            if bits != 0 {
                return Some(word as u64 * BITS + u64::from(bits.trailing_zeros()));
            }
            word += 1;
            mask = u64::MAX;
        }
        None
    }
}

/// The words that a range touches, each with the bits of it that are in the range.
fn masks(from: u64, count: u64) -> impl Iterator<Item = (usize, u64)> {
    let end = from + count;
    let mut at = from;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (word, bit) = (at / BITS, at % BITS);
        let bits = (BITS - bit).min(end - at);
        at += bits;
        let mask = if bits == BITS { u64::MAX } else { ((1 << bits) - 1) << bit };
        Some((word as usize, mask))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_set_count_and_find() {
        let mut bitmap = Bitmap::empty();
        assert!(bitmap.set_range(60, 200, true));
        assert!(!bitmap.set_range(259, 2, true), "overlap is refused");
        assert_eq!(bitmap.count_free(0, 300), 100);
        assert_eq!(bitmap.find_free(0, 1, 10), Some((0, 10)));
        assert_eq!(bitmap.find_free(50, 32, 64), Some((260, 64)));
        assert_eq!(bitmap.find_free_aligned(57, 300, 4), Some(260));
        assert!(bitmap.set_range(60, 200, false));
        assert_eq!(bitmap, Bitmap::empty());
    }

    #[test]
    fn partial_groups_are_told_from_whole_ones() {
        let mut bitmap = Bitmap::empty();
        bitmap.fill_range(0, 32768, true);
        bitmap.fill_range(6, 12, false);
        bitmap.fill_range(32767, 1, false);
        assert_eq!(bitmap.count_free_groups(0, 32768, 4), 2);
        assert_eq!(bitmap.count_free_groups(9, 1, 4), 1);
        assert_eq!(bitmap.count_free_groups(5, 3, 4), 0);
        assert_eq!(bitmap.count_free_groups(9, 0, 4), 0);
        assert_eq!(bitmap.find_free_partial(0, 4, 9), Some((6, 2)));
        assert_eq!(bitmap.find_free_partial(7, 4, 9), Some((7, 1)));
        assert_eq!(bitmap.find_free_partial(9, 4, 9), Some((16, 2)));
        assert_eq!(bitmap.find_free_partial(18, 4, 9), Some((32767, 1)));
        assert_eq!(Bitmap::empty().find_free_partial(0, 4, 9), None);
    }

    #[test]
    fn a_full_bitmap_has_nothing() {
        let mut bitmap = Bitmap::empty();
        bitmap.fill_range(0, 32768, true);
        assert_eq!(bitmap.find_free(0, 1, 1), None);
        assert_eq!(bitmap.find_free_aligned(0, 32768, 4), None);
        bitmap.fill_range(32767, 1, false);
        assert_eq!(bitmap.find_free(0, 1, 9), Some((32767, 1)));
    }
}
