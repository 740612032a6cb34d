//! The kernel's words for what [`crate::Fs`] has its own for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, TimeOrNow};

use crate::{FallocateMode, FileKind, FsError, LockKind, OpenFlags, SetTime, Stat, Time, WriteFlags};

/// What `st_blksize` says: the size in which programs should read and write.
const PREFERRED_BYTES: u32 = 4096;

pub(super) fn attributes(stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(stat.ino),
        size: stat.size,
        blocks: stat.blocks,
        atime: system_time(stat.atime),
        mtime: system_time(stat.mtime),
        ctime: system_time(stat.ctime),
        crtime: system_time(stat.btime),
        kind: file_type(stat.kind),
        perm: (stat.permissions & 0o7777) as u16,
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        rdev: stat.rdev,
        blksize: PREFERRED_BYTES,
        flags: 0,
    }
}

/// What stands for "there is no such name, and you may believe that".
pub(super) fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: PREFERRED_BYTES,
        flags: 0,
    }
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::CharacterDevice => FileType::CharDevice,
        FileKind::Directory => FileType::Directory,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::Regular => FileType::RegularFile,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Socket => FileType::Socket,
    }
}

pub(super) fn system_time(time: Time) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole =
        if time.seconds < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    let exact = whole.and_then(|whole| whole.checked_add(Duration::from_nanos(time.nanoseconds.into())));
    exact.unwrap_or(UNIX_EPOCH)
}

/// `fuser` makes of the kernel's (seconds, nanoseconds) before 1970 the moment `-(|seconds| + nanoseconds)`, which is
/// too early by twice the nanoseconds. Undone here, exactly.
pub(super) fn time(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Time::new(i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let seconds = 0_i64.checked_sub_unsigned(before.as_secs()).unwrap_or(i64::MIN);
            Time::new(seconds, before.subsec_nanos())
        }
    }
}

pub(super) fn set_time(wanted: TimeOrNow) -> SetTime {
    match wanted {
        TimeOrNow::SpecificTime(at) => SetTime::At(time(at)),
        TimeOrNow::Now => SetTime::Now,
    }
}

pub(super) fn open_flags(flags: i32, user: u32) -> OpenFlags {
    let truncate = flags & libc::O_TRUNC != 0;
    OpenFlags {
        write: flags & libc::O_ACCMODE != libc::O_RDONLY,
        append: flags & libc::O_APPEND != 0,
        truncate,
        kill_privileges: truncate && loses_privileges(user),
    }
}

/// Whether what this user does to a file's contents takes its set-user-id away. The kernel knows exactly, by
/// CAP_FSETID, but `fuser` does not pass on what it says except for writes.
pub(super) fn loses_privileges(user: u32) -> bool {
    user != 0
}

/// For changes of contents that come without the kernel's word on it.
pub(super) fn write_flags(user: u32) -> WriteFlags {
    WriteFlags { kill_privileges: loses_privileges(user), from_cache: false }
}

pub(super) fn fallocate_mode(mode: i32) -> Option<FallocateMode> {
    let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    match mode & !libc::FALLOC_FL_KEEP_SIZE {
        0 => Some(FallocateMode::Allocate { keep_size }),
        libc::FALLOC_FL_PUNCH_HOLE if keep_size => Some(FallocateMode::PunchHole),
        libc::FALLOC_FL_ZERO_RANGE => Some(FallocateMode::ZeroRange { keep_size }),
        libc::FALLOC_FL_COLLAPSE_RANGE if !keep_size => Some(FallocateMode::CollapseRange),
        libc::FALLOC_FL_INSERT_RANGE if !keep_size => Some(FallocateMode::InsertRange),
        _ => None,
    }
}

pub(super) fn lock_kind(number: i32) -> Option<LockKind> {
    match number {
        libc::F_RDLCK => Some(LockKind::Read),
        libc::F_WRLCK => Some(LockKind::Write),
        libc::F_UNLCK => Some(LockKind::Unlock),
        _ => None,
    }
}

pub(super) fn lock_number(kind: LockKind) -> i32 {
    match kind {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    }
}

/// What the system call answers with. What the user cannot have caused goes to the log as well.
pub(super) fn errno(error: &FsError) -> Errno {
    let number = error.errno();
    if number == libc::EIO {
        tracing::error!(%error, "an operation failed");
    }
    Errno::from_i32(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive() {
        for (seconds, nanoseconds) in [(0, 0), (1, 999_999_999), (-1, 0), (i64::MAX, 5), (i64::MIN, 0)] {
            let there = system_time(Time::new(seconds, nanoseconds));
            if seconds >= 0 || nanoseconds == 0 {
                assert_eq!(time(there), Time::new(seconds, nanoseconds));
            }
        }
        // What fuser makes of the kernel's (-2, 800_000_000), which is 1.2 s before 1970.
        let as_fuser_has_it = UNIX_EPOCH - Duration::new(2, 800_000_000);
        assert_eq!(time(as_fuser_has_it), Time::new(-2, 800_000_000));
        assert_eq!(system_time(Time::new(-2, 800_000_000)), UNIX_EPOCH - Duration::new(1, 200_000_000));
    }

    #[test]
    fn fallocate_knows_the_modes_that_exist() {
        assert_eq!(fallocate_mode(0), Some(FallocateMode::Allocate { keep_size: false }));
        assert_eq!(fallocate_mode(3), Some(FallocateMode::PunchHole));
        assert_eq!(fallocate_mode(2), None);
        assert_eq!(fallocate_mode(0x11), Some(FallocateMode::ZeroRange { keep_size: true }));
        assert_eq!(fallocate_mode(0x12), None);
        assert_eq!(fallocate_mode(0x40), None);
    }
}
