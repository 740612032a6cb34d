//! Users and groups on disk, and whom a mount shows in their place.
//!
//! Key types: [`IdMap`], [`Ids`]. The rest of this crate, and the kernel, know only those that are shown; `fs/` asks
//! here where it reads or writes an inode's owner or an ACL.
//!
//! Who is not named by a range is shown as on disk. So is who is stored where a range already shows somebody: then two
//! on disk are one to the mount, and what that one makes is stored as the range says.

use crate::{FsError, Result};

/// Users and groups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdMap {
    pub users: Ids,
    pub groups: Ids,
}

/// How ids of one sort are shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ids {
    /// All inodes are shown as this one's; new ones are stored as their directory is.
    pub all: Option<u32>,
    /// The first that fits counts.
    pub ranges: Vec<IdRange>,
}

/// `count` ids from `stored` on are shown as those from `shown` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    pub stored: u32,
    pub shown: u32,
    pub count: u32,
}

impl Ids {
    /// As whose an inode is shown that is stored as this one's.
    pub(crate) fn owner_shown(&self, stored: u32) -> u32 {
        self.all.unwrap_or_else(|| self.shown(stored))
    }

    /// As whose a new inode is stored that this one makes in a directory that is stored as `above`'s.
    pub(crate) fn owner_made(&self, shown: u32, above: u32) -> u32 {
        if self.all.is_some() { above } else { self.stored(shown) }
    }

    /// As whose an inode is stored that is given to this one, and was stored as `before`'s.
    pub(crate) fn owner_given(&self, shown: u32, before: u32) -> Result<u32> {
        match self.all {
            None => Ok(self.stored(shown)),
            Some(all) if all == shown => Ok(before),
            Some(_) => Err(FsError::NotPermitted("the mount shows one owner for all")),
        }
    }

    /// Somebody whom an ACL names.
    pub(crate) fn shown(&self, stored: u32) -> u32 {
        self.translated(stored, |range| (range.stored, range.shown))
    }

    pub(crate) fn stored(&self, shown: u32) -> u32 {
        self.translated(shown, |range| (range.shown, range.stored))
    }

    fn translated(&self, id: u32, ends: impl Fn(&IdRange) -> (u32, u32)) -> u32 {
        let found = self.ranges.iter().find_map(|range| {
            let (from, to) = ends(range);
            let at = id.checked_sub(from).filter(|&at| at < range.count)?;
            to.checked_add(at)
        });
        found.unwrap_or(id)
    }
}

impl IdMap {
    /// Everybody is shown as on disk.
    pub(crate) fn is_identity(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_translate_both_ways_and_leave_others_alone() {
        let ranges = vec![
            IdRange { stored: 1000, shown: 0, count: 1 },
            IdRange { stored: 5000, shown: 100_000, count: 10 },
            IdRange { stored: 7, shown: u32::MAX, count: 5 },
        ];
        let ids = Ids { all: None, ranges };
        for (stored, shown) in [(1000, 0), (5000, 100_000), (5009, 100_009), (7, u32::MAX), (42, 42)] {
            assert_eq!((ids.owner_shown(stored), ids.stored(shown)), (shown, stored));
        }
        assert_eq!((ids.shown(5010), ids.shown(4999), ids.shown(8)), (5010, 4999, 8));
    }

    #[test]
    fn one_owner_for_all_changes_nothing_on_disk() {
        let ids = Ids { all: Some(1000), ranges: Vec::new() };
        assert_eq!(ids.owner_shown(5), 1000);
        assert_eq!(ids.owner_made(1000, 7), 7);
        assert_eq!(ids.owner_given(1000, 5).unwrap(), 5);
        assert!(ids.owner_given(0, 5).is_err());
        assert_eq!(ids.shown(5), 5, "an ACL still names whom it names");
    }
}
