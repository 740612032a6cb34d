//! The kernel's words for what [`crate::Fs`] has its own for.

use super::kernel::BELIEVE;
use super::protocol::{Attributes, AttributesOut, EntryOut, SetattrIn, Statx, StatxOut, StatxTime, setattr};
use crate::{FallocateMode, FileKind, FsError, LockKind, SetAttributes, SetTime, Stat, Time};

/// What `st_blksize` says: the size in which programs should read and write.
const PREFERRED_BYTES: u32 = 4096;

pub(super) fn attributes(stat: &Stat) -> Attributes {
    Attributes {
        ino: stat.ino,
        size: stat.size,
        blocks: stat.blocks,
        atime: stat.atime.seconds,
        mtime: stat.mtime.seconds,
        ctime: stat.ctime.seconds,
        atimensec: stat.atime.nanoseconds,
        mtimensec: stat.mtime.nanoseconds,
        ctimensec: stat.ctime.nanoseconds,
        mode: stat.mode(),
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        rdev: stat.rdev,
        blksize: PREFERRED_BYTES,
        flags: 0,
    }
}

pub(super) fn attributes_out(stat: &Stat) -> AttributesOut {
    AttributesOut { attr_valid: BELIEVE.as_secs(), attr: attributes(stat), ..AttributesOut::default() }
}

/// Ids of blocks are never used again, so there are no generations to tell apart.
pub(super) fn entry(stat: &Stat) -> EntryOut {
    EntryOut {
        nodeid: stat.ino,
        entry_valid: BELIEVE.as_secs(),
        attr_valid: BELIEVE.as_secs(),
        attr: attributes(stat),
        ..EntryOut::default()
    }
}

/// There is no such name, and the kernel may believe that.
pub(super) fn no_entry() -> EntryOut {
    EntryOut { entry_valid: BELIEVE.as_secs(), ..EntryOut::default() }
}

pub(super) fn statx(stat: &Stat) -> StatxOut {
    let time = |time: Time| StatxTime { tv_sec: time.seconds, tv_nsec: time.nanoseconds, reserved: 0 };
    let stat = Statx {
        mask: libc::STATX_BASIC_STATS | libc::STATX_BTIME,
        blksize: PREFERRED_BYTES,
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        mode: stat.mode() as u16,
        ino: stat.ino,
        size: stat.size,
        blocks: stat.blocks,
        atime: time(stat.atime),
        btime: time(stat.btime),
        ctime: time(stat.ctime),
        mtime: time(stat.mtime),
        rdev_major: libc::major(stat.rdev.into()),
        rdev_minor: libc::minor(stat.rdev.into()),
        ..Statx::default()
    };
    StatxOut { attr_valid: BELIEVE.as_secs(), stat, ..StatxOut::default() }
}

pub(super) fn set_attributes(wanted: &SetattrIn) -> SetAttributes {
    let has = |flag: u32| wanted.valid & flag != 0;
    let time = |flag, now, seconds, nanoseconds| match (has(now), has(flag)) {
        (true, _) => Some(SetTime::Now),
        (false, true) => Some(SetTime::At(Time::new(seconds, nanoseconds))),
        (false, false) => None,
    };
    SetAttributes {
        permissions: has(setattr::MODE).then_some(wanted.mode & 0o7777),
        uid: has(setattr::UID).then_some(wanted.uid),
        gid: has(setattr::GID).then_some(wanted.gid),
        size: has(setattr::SIZE).then_some(wanted.size),
        atime: time(setattr::ATIME, setattr::ATIME_NOW, wanted.atime, wanted.atimensec),
        mtime: time(setattr::MTIME, setattr::MTIME_NOW, wanted.mtime, wanted.mtimensec),
        ctime: time(setattr::CTIME, 0, wanted.ctime, wanted.ctimensec),
        kill_privileges: has(setattr::KILL_SUIDGID),
    }
}

/// The type in an entry of READDIR: the upper bits of `st_mode`.
pub(super) fn entry_kind(kind: FileKind) -> u32 {
    kind.mode() >> 12
}

pub(super) fn lock_kind(number: u32) -> Result<LockKind, FsError> {
    match number as i32 {
        libc::F_RDLCK => Ok(LockKind::Read),
        libc::F_WRLCK => Ok(LockKind::Write),
        libc::F_UNLCK => Ok(LockKind::Unlock),
        _ => Err(FsError::Invalid("this type of lock")),
    }
}

pub(super) fn lock_number(kind: LockKind) -> u32 {
    let number = match kind {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    };
    number as u32
}

pub(super) fn fallocate_mode(mode: u32) -> Result<FallocateMode, FsError> {
    FallocateMode::from_bits(mode as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_marked_is_not_set() {
        let all = SetattrIn {
            size: 1,
            atime: 2,
            mtime: 3,
            ctime: 4,
            mode: 5,
            uid: 6,
            gid: 7,
            ..SetattrIn::default()
        };
        assert_eq!(set_attributes(&all), SetAttributes::default());
    }

    #[test]
    fn times_of_all_ages_are_passed_on() {
        for (seconds, nanoseconds) in
            [(i64::MIN, 0), (-2, 800_000_000), (-1, 0), (0, 1), (i64::MAX, 999_999_999)]
        {
            let valid = setattr::ATIME | setattr::MTIME | setattr::MTIME_NOW | setattr::CTIME;
            let (atime, ctime) = (seconds, seconds);
            let (atimensec, ctimensec) = (nanoseconds, nanoseconds);
            let wanted = SetattrIn { valid, atime, ctime, atimensec, ctimensec, ..SetattrIn::default() };
            let there = Some(SetTime::At(Time::new(seconds, nanoseconds)));
            let set = set_attributes(&wanted);
            assert_eq!((set.atime, set.mtime, set.ctime), (there, Some(SetTime::Now), there));
        }
    }
}
