//! The items that a record puts or deletes, in order.

use crate::format::Key;

/// What an item will be; `None`: nothing.
pub(super) type Behind<'a> = Option<&'a [u8]>;

#[derive(Default)]
pub(super) struct Changes<'a>(Vec<(Key, Behind<'a>)>);

impl<'a> Changes<'a> {
    /// Of several changes of one item, the last counts.
    pub(super) fn new(mut all: Vec<(Key, Behind<'a>)>) -> Self {
        // Stable, so that equal keys stay in order. Honest records are sorted.
        all.sort_by_key(|(key, _)| *key);
        all.reverse();
        all.dedup_by_key(|(key, _)| *key);
        all.reverse();
        Self(all)
    }

    pub(super) fn all(&self) -> &[(Key, Behind<'a>)] {
        &self.0
    }

    /// `None` if the item stays as it is.
    pub(super) fn get(&self, key: &Key) -> Option<Behind<'a>> {
        self.0.binary_search_by(|(other, _)| other.cmp(key)).ok().map(|at| self.0[at].1)
    }

    /// Those with keys from the first to the last.
    pub(super) fn between(&self, first: &Key, last: &Key) -> &[(Key, Behind<'a>)] {
        let from = self.0.partition_point(|(key, _)| key < first);
        let behind = &self.0[from..];
        &behind[..behind.partition_point(|(key, _)| key <= last)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ItemKind;

    #[test]
    fn they_are_in_order_and_the_last_of_several_counts() {
        let key = |offset| Key::new(9, ItemKind::EXTENT, offset);
        let put = |offset, value: &'static [u8]| (key(offset), Some(value));
        let changes =
            Changes::new(vec![put(5, b"a"), put(1, b"b"), (key(5), None), put(3, b"c"), put(1, b"d")]);
        assert_eq!(changes.all(), [put(1, b"d"), put(3, b"c"), (key(5), None)]);
        assert_eq!(changes.get(&key(1)), Some(Some(&b"d"[..])));
        assert_eq!((changes.get(&key(5)), changes.get(&key(2))), (Some(None), None));
        assert_eq!(changes.between(&key(2), &key(5)), &changes.all()[1..]);
        assert_eq!(changes.between(&key(1), &key(1)), &changes.all()[..1]);
        assert!(changes.between(&key(6), &key(9)).is_empty());
        assert!(changes.between(&key(9), &key(2)).is_empty());
    }
}
