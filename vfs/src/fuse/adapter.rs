//! Each request of the kernel as one call of [`Fs`].
//!
//! Opens carry no state in `Fs`, so every file handle is 0, and directories are not opened at all: the first OPENDIR
//! answers ENOSYS, and the kernel keeps their listings in its cache from then on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::ahead::{Ahead, Part};
use super::answer::{Answer, Body, Entries, Failure};
use super::convert::{attributes_out, entry, entry_kind, fallocate_mode, no_entry, set_attributes, statx};
use super::device::Origin;
use super::locks::{self, Waiters};
use super::protocol::{
    Arguments, CopyFileRangeIn, CreateIn, CreateOut, Dirent, FSYNC_FDATASYNC, GetxattrOut, InHeader, IoctlIn,
    IoctlOut, LseekIn, LseekOut, OPEN_KILL_SUIDGID, OpenIn, OpenOut, Operation, RELEASE_FLOCK_UNLOCK, ReadIn,
    Rename2In, Request, SETXATTR_ACL_KILL_SGID, SetxattrIn, StatfsOut, WRITE_CACHE, WRITE_KILL_SUIDGID,
    WriteIn, WriteOut, opened,
};
use super::seek;
use super::writers::Writers;
use super::{Access, Locks, MountOptions, attach};
use crate::control::{self, Service};
use crate::file_flags;
use crate::layout::FileKind;
use crate::{Caller, Fs, FsError, OpenFlags, RenameFlags, SetXattrFlags, Stat, Whence, WriteFlags};

/// One copy_file_range request does no more, so that an event loop is not away for long; the caller asks again.
const COPY_BYTES_MAX: u64 = 1 << 30;

type Answered = Result<Answer, Failure>;

pub(super) struct Adapter {
    fs: Arc<Fs>,
    service: Arc<dyn Service>,
    options: MountOptions,
    owner: u32,
    waiters: Arc<Waiters>,
    ahead: Ahead,
    /// Only counted where the kernel has a write-back cache.
    writers: Writers,
}

impl Adapter {
    pub(super) fn new(fs: Arc<Fs>, service: Arc<dyn Service>, options: &MountOptions) -> Self {
        Self {
            ahead: Ahead::start(&fs),
            fs,
            service,
            options: options.clone(),
            owner: attach::user(),
            waiters: Arc::default(),
            writers: Writers::default(),
        }
    }

    /// Answers one request. What the user cannot have caused goes to the log as well.
    pub(super) fn answer(
        &self,
        header: &InHeader,
        arguments: Arguments<'_>,
        mut body: Body<'_>,
        origin: &Origin<'_>,
    ) -> Answered {
        let answer = || self.dispatch(&Request::parse(header, arguments)?, &mut body, origin);
        let answered = catch_unwind(AssertUnwindSafe(answer)).unwrap_or(Err(Failure::Panicked));
        if let Err(failure) = &answered
            && failure.errno() == libc::EIO
        {
            tracing::error!(%failure, opcode = header.opcode, "an operation failed");
        }
        answered
    }

    /// The mount has ended. The tree is closed by [`super::Mounted::join`], which can tell how that went.
    pub(super) fn end(&self) {
        self.waiters.end();
        self.ahead.end();
    }

    fn dispatch(&self, request: &Request<'_>, body: &mut Body<'_>, origin: &Origin<'_>) -> Answered {
        if self.options.access == Access::OwnerAndRoot {
            self.refuse_outsiders(request)?;
        }
        let (fs, ino) = (&*self.fs, request.ino);
        match request.operation {
            Operation::Lookup { name } => match fs.lookup(ino, name) {
                Err(FsError::NotFound) => body.put(&no_entry()),
                found => body.put(&entry(&found?)),
            },
            Operation::MakeNode(wanted, name) => {
                let caller = caller(request, wanted.umask);
                body.put(&entry(&fs.mknod(&caller, ino, name, wanted.mode, wanted.rdev)?))
            }
            Operation::MakeDirectory(wanted, name) => {
                body.put(&entry(&fs.mkdir(&caller(request, wanted.umask), ino, name, wanted.mode)?))
            }
            Operation::Symlink { name, target } => {
                body.put(&entry(&fs.symlink(&caller(request, 0), ino, name, target)?))
            }
            Operation::Link(wanted, name) => body.put(&entry(&fs.link(wanted.oldnodeid, ino, name)?)),
            Operation::Unlink { name } => done(fs.unlink(ino, name)),
            Operation::RemoveDirectory { name } => done(fs.rmdir(ino, name)),
            Operation::Rename { wanted, name, new_name } => {
                done(self.rename(request, &wanted, name, new_name))
            }

            Operation::GetAttributes => body.put(&attributes_out(&fs.getattr(ino)?)),
            Operation::Statx => body.put(&statx(&fs.getattr(ino)?)),
            Operation::SetAttributes(wanted) => {
                let stat = fs.setattr(&caller(request, 0), ino, &set_attributes(&wanted))?;
                body.put(&attributes_out(&stat))
            }
            Operation::ReadLink => body.copy(&fs.readlink(ino)?),
            Operation::Statfs => self.statfs(body),

            Operation::Open(wanted) => self.open(request, &wanted, body),
            Operation::Create(wanted, name) => {
                let stat = fs.create(&caller(request, wanted.umask), ino, name, wanted.mode)?;
                self.created(&stat, &wanted, body)
            }
            Operation::TemporaryFile(wanted) => {
                let stat = fs.make_nameless(&caller(request, wanted.umask), ino, wanted.mode)?;
                self.created(&stat, &wanted, body)
            }
            Operation::Read(wanted) => {
                let count = fs.read(ino, wanted.offset, body.first(wanted.size))?;
                Ok(Answer::Body(count))
            }
            Operation::Write(wanted, bytes) => self.write(request, &wanted, bytes, body),
            Operation::Allocate(wanted) => {
                let mode = fallocate_mode(wanted.mode)?;
                done(fs.fallocate(ino, mode, wanted.offset, wanted.length, unasked(request)))
            }
            Operation::CopyRange(wanted) => self.copy_range(request, &wanted, body),
            Operation::Seek(wanted) => self.seek(request, &wanted, body, origin),
            Operation::Fsync(wanted) => done(fs.fsync(ino, wanted.fsync_flags & FSYNC_FDATASYNC != 0)),
            Operation::Flush(wanted) => match self.options.locks {
                // There is nothing to do: the kernel need not ask again.
                Locks::Kernel => Err(Failure::NeverNeeded),
                Locks::Fs => done(fs.flush(ino, wanted.lock_owner)),
            },
            Operation::Release(wanted) => {
                if self.may_collect(wanted.flags) {
                    self.writers.remove(ino);
                }
                let unlocks = wanted.release_flags & RELEASE_FLOCK_UNLOCK != 0;
                fs.release(ino, unlocks.then_some(wanted.lock_owner));
                Ok(Answer::Body(0))
            }

            Operation::OpenDirectory => Err(Failure::NeverNeeded),
            Operation::ReadDirectory(wanted) => self.read_directory(request, &wanted, body),
            Operation::ReadDirectoryPlus(wanted) => self.read_directory_plus(request, &wanted, body),
            Operation::ReleaseDirectory => Ok(Answer::Body(0)),

            Operation::SetXattr { wanted, name, value } => {
                done(fs.setxattr(ino, name, value, set_xattr_flags(&wanted)))
            }
            Operation::GetXattr(wanted, name) => sized(body, wanted.size, &fs.getxattr(ino, name)?),
            Operation::ListXattr(wanted) => sized(body, wanted.size, &fs.listxattr(ino, request.uid == 0)?),
            Operation::RemoveXattr { name } => done(fs.removexattr(ino, name)),

            Operation::GetLock(wanted) => body.put(&locks::get(fs, ino, &wanted)?),
            Operation::SetLock { wanted, may_wait } => {
                self.waiters.set(&self.fs, ino, &wanted, may_wait.then_some((request.unique, origin)))
            }
            Operation::Interrupt(wanted) => match self.options.locks {
                // Nothing waits here for another process: the kernel need not say so again.
                Locks::Kernel => Err(Failure::NeverNeeded),
                Locks::Fs => {
                    self.waiters.interrupt(wanted.unique);
                    Ok(Answer::Silence)
                }
            },
            Operation::Ioctl(wanted, input) => self.ioctl(request, &wanted, input, body),

            Operation::Forget(wanted) => {
                fs.forget(ino, wanted.nlookup);
                Ok(Answer::Silence)
            }
            Operation::BatchForget(inodes) => {
                inodes.iter().for_each(|one| fs.forget(one.nodeid, one.nlookup));
                Ok(Answer::Silence)
            }
            Operation::Destroy => Ok(Answer::Body(0)),
            // The kernel checks permissions itself, so that ACCESS is one of these.
            Operation::Init(_) | Operation::Unknown => Err(Failure::NeverNeeded),
        }
    }

    /// The kernel knows only "the owner" and "everyone". What it does on its own behalf has nobody's name.
    fn refuse_outsiders(&self, request: &Request<'_>) -> Result<(), Failure> {
        let is_the_kernels = matches!(
            request.operation,
            Operation::Init(_)
                | Operation::Destroy
                | Operation::Interrupt(_)
                | Operation::Forget(_)
                | Operation::BatchForget(_)
                | Operation::Read(_)
                | Operation::Write(..)
                | Operation::Fsync(_)
                | Operation::Flush(_)
                | Operation::Release(_)
                | Operation::ReadDirectory(_)
                | Operation::ReadDirectoryPlus(_)
                | Operation::ReleaseDirectory
        );
        match is_the_kernels || request.uid == 0 || request.uid == self.owner {
            true => Ok(()),
            false => Err(Failure::Outsider),
        }
    }

    /// Whether the kernel collects what is written through a file that is opened with these flags.
    fn may_collect(&self, flags: u32) -> bool {
        self.options.write_back && !self.options.read_only && is_for_writing(flags)
    }

    fn rename(
        &self,
        request: &Request<'_>,
        wanted: &Rename2In,
        name: &[u8],
        new_name: &[u8],
    ) -> Result<(), FsError> {
        let flags = RenameFlags::from_bits(wanted.flags, caller(request, 0))?;
        self.fs.rename(request.ino, name, wanted.newdir, new_name, flags)
    }

    fn statfs(&self, body: &mut Body<'_>) -> Answered {
        let found = self.fs.statfs()?;
        body.put(&StatfsOut {
            blocks: found.blocks,
            bfree: found.blocks_free,
            bavail: found.blocks_free,
            files: found.files,
            ffree: found.files_free,
            bsize: found.block_bytes,
            namelen: found.name_bytes_max,
            frsize: found.block_bytes,
            ..StatfsOut::default()
        })
    }

    fn open(&self, request: &Request<'_>, wanted: &OpenIn, body: &mut Body<'_>) -> Answered {
        let flags = OpenFlags {
            write: is_for_writing(wanted.flags),
            append: wanted.flags & libc::O_APPEND as u32 != 0,
            truncate: wanted.flags & libc::O_TRUNC as u32 != 0,
            kill_privileges: wanted.open_flags & OPEN_KILL_SUIDGID != 0,
        };
        self.fs.open(request.ino, flags)?;
        body.put(&self.opened(request.ino, wanted.flags))
    }

    fn created(&self, stat: &Stat, wanted: &CreateIn, body: &mut Body<'_>) -> Answered {
        body.put(&CreateOut { entry: entry(stat), open: self.opened(stat.ino, wanted.flags) })
    }

    /// Notes that a file was opened, and says how the kernel is to treat it.
    ///
    /// Not with FOPEN_NOFLUSH: on closing, the kernel would then not write back what was changed through mmap(2), and
    /// SEEK_DATA would miss it. That FLUSH answers ENOSYS saves the request just as well.
    fn opened(&self, ino: u64, flags: u32) -> OpenOut {
        if self.may_collect(flags) {
            self.writers.add(ino);
        }
        let mut open_flags = opened::KEEP_CACHE;
        if flags & libc::O_DIRECT as u32 != 0 {
            open_flags |= opened::DIRECT_IO | opened::PARALLEL_DIRECT_WRITES;
        }
        OpenOut { open_flags, ..OpenOut::default() }
    }

    fn write(&self, request: &Request<'_>, wanted: &WriteIn, bytes: &[u8], body: &mut Body<'_>) -> Answered {
        let from_cache = wanted.write_flags & WRITE_CACHE != 0;
        let how = WriteFlags { kill_privileges: wanted.write_flags & WRITE_KILL_SUIDGID != 0, from_cache };
        let count = self.fs.write(request.ino, wanted.offset, bytes, how)?;
        // For files that bypass its cache, the kernel leaves O_DSYNC, O_SYNC, RWF_DSYNC and RWF_SYNC to us; for
        // others it asks for an fsync too, which then finds nothing to do.
        let flags = wanted.flags as i32;
        if flags & libc::O_DSYNC != 0 && !from_cache {
            self.fs.fsync(request.ino, flags & libc::O_SYNC != libc::O_SYNC)?;
        }
        body.put(&WriteOut { size: count as u32, padding: 0 })
    }

    fn copy_range(&self, request: &Request<'_>, wanted: &CopyFileRangeIn, body: &mut Body<'_>) -> Answered {
        let length = wanted.len.min(COPY_BYTES_MAX);
        let (from, to) = (wanted.off_in, wanted.off_out);
        let count =
            self.fs.copy_file_range(request.ino, from, wanted.nodeid_out, to, length, unasked(request))?;
        body.put(&WriteOut { size: count as u32, padding: 0 })
    }

    fn seek(
        &self,
        request: &Request<'_>,
        wanted: &LseekIn,
        body: &mut Body<'_>,
        origin: &Origin<'_>,
    ) -> Answered {
        let whence = match wanted.whence as i32 {
            libc::SEEK_DATA => Whence::Data,
            libc::SEEK_HOLE => Whence::Hole,
            _ => return Err(FsError::Invalid("lseek for neither data nor hole").into()),
        };
        // Offsets are signed to those who ask.
        if i64::try_from(wanted.offset).is_err() {
            return Err(FsError::PastEnd.into());
        }
        let offset = match self.writers.contains(request.ino) {
            true => seek::behind_the_cache(&self.fs, request.ino, wanted.offset, whence, origin)?,
            false => self.fs.seek(request.ino, wanted.offset, whence)?,
        };
        body.put(&LseekOut { offset })
    }

    fn read_directory(&self, request: &Request<'_>, wanted: &ReadIn, body: &mut Body<'_>) -> Answered {
        let mut entries = Entries::new(body.first(wanted.size));
        self.fs.readdir(request.ino, wanted.offset, &mut |entry| {
            entries.add(None, &directory_entry(entry), entry.name)
        })?;
        Ok(entries.answer())
    }

    fn read_directory_plus(&self, request: &Request<'_>, wanted: &ReadIn, body: &mut Body<'_>) -> Answered {
        let mut entries = Entries::new(body.first(wanted.size));
        let (directory, cookie) = (request.ino, wanted.offset);
        let mut part = Part { directory, cookie, entries: 0, first_below: None, is_last: true };
        let result = self.fs.readdirplus(directory, cookie, &mut |found, stat| {
            part.is_last = entries.add(Some(&entry(stat)), &directory_entry(found), found.name);
            if part.is_last {
                (part.cookie, part.entries) = (found.cookie, part.entries + 1);
                let is_below = found.kind == FileKind::Directory && !matches!(found.name, b"." | b"..");
                part.first_below = part.first_below.or(is_below.then_some(found.ino));
            }
            part.is_last
        });
        if part.entries > 0 && result.is_ok() {
            self.ahead.continue_behind(part);
        }
        match result {
            // What was taken counts as looked up, so the kernel must hear of it; the error comes again.
            Err(error) if entries.is_empty() => Err(error.into()),
            _ => Ok(entries.answer()),
        }
    }

    fn ioctl(&self, request: &Request<'_>, wanted: &IoctlIn, input: &[u8], body: &mut Body<'_>) -> Answered {
        if let Some(output) = file_flags::answer(&self.fs, request.ino, wanted.cmd, input) {
            return body.put_with(&IoctlOut::default(), &output?);
        }
        if request.ino != Fs::ROOT {
            return Err(Failure::NotTheRoot);
        }
        let caller = control::Caller { user: request.uid, owner: self.owner };
        let output = control::answer(&*self.service, caller, wanted.cmd, input).map_err(Failure::Control)?;
        body.put_with(&IoctlOut::default(), &output)
    }
}

fn done(result: Result<(), FsError>) -> Answered {
    Ok(result.map(|()| Answer::Body(0))?)
}

/// For getxattr and listxattr: a caller without room asks how much it needs.
fn sized(body: &mut Body<'_>, room: u32, value: &[u8]) -> Answered {
    match room {
        0 => body.put(&GetxattrOut { size: value.len() as u32, padding: 0 }),
        _ if value.len() > room as usize => Err(Failure::CallerHasNoRoom),
        _ => body.copy(value),
    }
}

fn caller(request: &Request<'_>, umask: u32) -> Caller {
    Caller { uid: request.uid, gid: request.gid, pid: request.pid, umask }
}

/// For changes of contents that come without the kernel's word on whether the caller has CAP_FSETID.
fn unasked(request: &Request<'_>) -> WriteFlags {
    WriteFlags { kill_privileges: request.uid != 0, from_cache: false }
}

fn is_for_writing(flags: u32) -> bool {
    flags as i32 & libc::O_ACCMODE != libc::O_RDONLY
}

fn set_xattr_flags(wanted: &SetxattrIn) -> SetXattrFlags {
    SetXattrFlags {
        create: wanted.flags as i32 & libc::XATTR_CREATE != 0,
        replace: wanted.flags as i32 & libc::XATTR_REPLACE != 0,
        kill_set_group_id: wanted.setxattr_flags & SETXATTR_ACL_KILL_SGID != 0,
    }
}

fn directory_entry(entry: &crate::DirectoryEntry<'_>) -> Dirent {
    Dirent {
        ino: entry.ino,
        off: entry.cookie,
        namelen: entry.name.len() as u32,
        kind: entry_kind(entry.kind),
    }
}
