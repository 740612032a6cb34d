//! Each request of the kernel as one call of [`Fs`].
//!
//! Opens carry no state in `Fs`, so every file handle is 0, and directories are not opened at all: the first OPENDIR
//! answers ENOSYS, and the kernel keeps their listings in its cache from then on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use parking_lot::Mutex;

use super::convert::{
    attributes, errno, fallocate_mode, file_type, loses_privileges, nothing, open_flags, set_time, time,
    write_flags,
};
use super::kernel::{BELIEVE, negotiate};
use super::locks::Waiters;
use super::{Locks, MountOptions, attach};
use crate::control::{self, Service};
use crate::file_flags;
use crate::{Caller, Fs, FsError, Ino, Result, SetAttributes, SetXattrFlags, Stat, Whence};

/// Ids of blocks are never used again, so a generation has nothing to tell apart.
const GENERATION: Generation = Generation(0);
/// Opens have no state.
const HANDLE: FileHandle = FileHandle(0);
/// One copy_file_range request does no more, so that an event loop is not away for long; the caller asks again.
const COPY_BYTES_MAX: u64 = 1 << 30;
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

thread_local! {
    /// Where reads go before they are sent; grows to the longest request that the thread has served.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct Adapter {
    fs: Arc<Fs>,
    service: Arc<dyn Service>,
    options: MountOptions,
    owner: u32,
    waiters: Arc<Waiters>,
    /// How often each inode is open for writing, where the kernel has a write-back cache.
    writers: Mutex<HashMap<Ino, usize>>,
}

impl Adapter {
    pub(super) fn new(fs: Arc<Fs>, service: Arc<dyn Service>, options: &MountOptions) -> Self {
        Self {
            fs,
            service,
            options: options.clone(),
            owner: attach::user(),
            waiters: Arc::default(),
            writers: Mutex::default(),
        }
    }

    /// How the kernel is to treat a file that is opened with these flags.
    ///
    /// Not with FOPEN_NOFLUSH: on closing, the kernel would then not write back what was changed through mmap(2), and
    /// SEEK_DATA would miss it. That FLUSH answers ENOSYS saves the request just as well.
    fn opened_as(flags: i32) -> FopenFlags {
        let mut opened = FopenFlags::FOPEN_KEEP_CACHE;
        if flags & libc::O_DIRECT != 0 {
            opened |= FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        }
        opened
    }

    /// Somebody may have changes of this file in the kernel's write-back cache from now on.
    fn count_writer(&self, ino: Ino, flags: i32) {
        if may_collect(&self.options, flags) {
            *self.writers.lock().entry(ino).or_default() += 1;
        }
    }

    fn uncount_writer(&self, ino: Ino, flags: i32) {
        if may_collect(&self.options, flags)
            && let Entry::Occupied(mut writers) = self.writers.lock().entry(ino)
        {
            *writers.get_mut() -= 1;
            if *writers.get() == 0 {
                writers.remove();
            }
        }
    }

    /// As the kernel does it: the access ACL set by somebody outside the file's group takes set-group-id away.
    /// `fuser` lacks the flag by which the kernel says so.
    fn acl_kills_set_group_id(&self, request: &Request, ino: INodeNo, name: &OsStr) -> Result<bool> {
        if name.as_bytes() != ACCESS_ACL || request.uid() == 0 {
            return Ok(false);
        }
        let group = self.fs.getattr(ino.0)?.gid;
        Ok(group != request.gid() && !is_in_group(request.pid(), group))
    }
}

/// Whether the kernel collects what is written through a file that is opened with these flags.
fn may_collect(options: &MountOptions, flags: i32) -> bool {
    options.write_back && !options.read_only && flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// Whether a process has this supplementary group; not, if it has gone.
fn is_in_group(process: u32, group: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{process}/status")) else { return false };
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_whitespace().any(|one| one.parse() == Ok(group))
}

fn caller(request: &Request, umask: u32) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid(), umask }
}

/// Runs one operation. A reply that is dropped, as by a panic, answers EIO.
pub(super) fn guarded(operation: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(operation)).is_err() {
        tracing::error!("an operation panicked; it answered EIO");
    }
}

fn answer_empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

fn answer_entry(reply: ReplyEntry, result: Result<Stat>) {
    match result {
        Ok(stat) => reply.entry(&BELIEVE, &attributes(&stat), GENERATION),
        Err(error) => reply.error(errno(&error)),
    }
}

fn answer_attributes(reply: ReplyAttr, result: Result<Stat>) {
    match result {
        Ok(stat) => reply.attr(&BELIEVE, &attributes(&stat)),
        Err(error) => reply.error(errno(&error)),
    }
}

/// For getxattr and listxattr: a caller without room asks how much it needs.
fn answer_sized(reply: ReplyXattr, size: u32, result: Result<Vec<u8>>) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(&error)),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config, &self.options)
    }

    /// The tree is closed by [`super::Mounted::join`], which can tell how that went.
    fn destroy(&mut self) {
        self.waiters.cancel_all();
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guarded(|| match self.fs.lookup(parent.0, name.as_bytes()) {
            Err(FsError::NotFound) => reply.entry(&BELIEVE, &nothing(), GENERATION),
            result => answer_entry(reply, result),
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        guarded(|| self.fs.forget(ino.0, count));
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        guarded(|| answer_attributes(reply, self.fs.getattr(ino.0)));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        guarded(|| {
            let changes = SetAttributes {
                permissions: mode.map(|mode| mode & 0o7777),
                uid,
                gid,
                size,
                atime: atime.map(set_time),
                mtime: mtime.map(set_time),
                ctime: ctime.map(|at| crate::SetTime::At(time(at))),
                kill_privileges: size.is_some() && loses_privileges(request.uid()),
            };
            answer_attributes(reply, self.fs.setattr(&caller(request, 0), ino.0, &changes));
        });
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        guarded(|| match self.fs.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        guarded(|| {
            let result = self.fs.mknod(&caller(request, umask), parent.0, name.as_bytes(), mode, rdev);
            answer_entry(reply, result);
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        guarded(|| {
            answer_entry(reply, self.fs.mkdir(&caller(request, umask), parent.0, name.as_bytes(), mode));
        });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded(|| answer_empty(reply, self.fs.unlink(parent.0, name.as_bytes())));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded(|| answer_empty(reply, self.fs.rmdir(parent.0, name.as_bytes())));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        guarded(|| {
            let target = target.as_os_str().as_bytes();
            answer_entry(reply, self.fs.symlink(&caller(request, 0), parent.0, name.as_bytes(), target));
        });
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        guarded(|| {
            if !RenameFlags::from_bits_retain(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE).contains(flags)
            {
                return reply.error(Errno::EINVAL);
            }
            let flags = crate::RenameFlags {
                no_replace: flags.contains(RenameFlags::RENAME_NOREPLACE),
                exchange: flags.contains(RenameFlags::RENAME_EXCHANGE),
            };
            let result = self.fs.rename(parent.0, name.as_bytes(), new_parent.0, new_name.as_bytes(), flags);
            answer_empty(reply, result);
        });
    }

    fn link(&self, _request: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guarded(|| answer_entry(reply, self.fs.link(ino.0, parent.0, name.as_bytes())));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        guarded(|| match self.fs.open(ino.0, open_flags(flags.0, request.uid())) {
            Ok(()) => {
                self.count_writer(ino.0, flags.0);
                reply.opened(HANDLE, Self::opened_as(flags.0));
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        guarded(|| match self.fs.create(&caller(request, umask), parent.0, name.as_bytes(), mode) {
            Ok(stat) => {
                self.count_writer(stat.ino, flags);
                reply.created(&BELIEVE, &attributes(&stat), GENERATION, HANDLE, Self::opened_as(flags))
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        guarded(|| {
            READ_BUFFER.with_borrow_mut(|buffer| {
                let size = size as usize;
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                match self.fs.read(ino.0, offset, &mut buffer[..size]) {
                    Ok(count) => reply.data(&buffer[..count]),
                    Err(error) => reply.error(errno(&error)),
                }
            });
        });
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        guarded(|| {
            let kill_privileges = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
            let is_from_cache = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
            let how = crate::WriteFlags { kill_privileges, from_cache: is_from_cache };
            let mut result = self.fs.write(ino.0, offset, bytes, how);
            // For files that bypass its cache, the kernel leaves O_DSYNC, O_SYNC, RWF_DSYNC and RWF_SYNC to us; for
            // others it asks for an fsync too, which then finds nothing to do.
            if flags.0 & libc::O_DSYNC != 0 && !is_from_cache {
                let data_only = flags.0 & libc::O_SYNC != libc::O_SYNC;
                result = result.and_then(|count| self.fs.fsync(ino.0, data_only).map(|()| count));
            }
            match result {
                Ok(count) => reply.written(count as u32),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn flush(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        guarded(|| match self.options.locks {
            // There is nothing to do: the kernel need not ask again.
            Locks::Kernel => reply.error(Errno::ENOSYS),
            Locks::Fs => answer_empty(reply, self.fs.flush(ino.0, owner.0)),
        });
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        guarded(|| {
            self.uncount_writer(ino.0, flags.0);
            self.fs.release(ino.0, None);
            reply.ok();
        });
    }

    fn fsync(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        guarded(|| answer_empty(reply, self.fs.fsync(ino.0, data_only)));
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        cookie: u64,
        mut reply: ReplyDirectory,
    ) {
        guarded(|| {
            let result = self.fs.readdir(ino.0, cookie, &mut |entry| {
                let name = OsStr::from_bytes(entry.name);
                !reply.add(INodeNo(entry.ino), entry.cookie, file_type(entry.kind), name)
            });
            match result {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        cookie: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        guarded(|| {
            let mut taken = 0;
            let result = self.fs.readdirplus(ino.0, cookie, &mut |entry, stat| {
                let name = OsStr::from_bytes(entry.name);
                let is_full = reply.add(
                    INodeNo(entry.ino),
                    entry.cookie,
                    name,
                    &BELIEVE,
                    &attributes(stat),
                    GENERATION,
                );
                taken += u64::from(!is_full);
                !is_full
            });
            match result {
                // What was taken counts as looked up, so the kernel must hear of it; the error comes again.
                Err(error) if taken == 0 => reply.error(errno(&error)),
                _ => reply.ok(),
            }
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        guarded(|| answer_empty(reply, self.fs.fsync(ino.0, data_only)));
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        guarded(|| match self.fs.statfs() {
            Ok(found) => reply.statfs(
                found.blocks,
                found.blocks_free,
                found.blocks_free,
                found.files,
                found.files_free,
                found.block_bytes,
                found.name_bytes_max,
                found.block_bytes,
            ),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        guarded(|| {
            let result = self.acl_kills_set_group_id(request, ino, name).and_then(|kill_set_group_id| {
                let create = flags & libc::XATTR_CREATE != 0;
                let replace = flags & libc::XATTR_REPLACE != 0;
                let flags = SetXattrFlags { create, replace, kill_set_group_id };
                self.fs.setxattr(ino.0, name.as_bytes(), value, flags)
            });
            answer_empty(reply, result);
        });
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        guarded(|| answer_sized(reply, size, self.fs.getxattr(ino.0, name.as_bytes())));
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        guarded(|| answer_sized(reply, size, self.fs.listxattr(ino.0, request.uid() == 0)));
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded(|| answer_empty(reply, self.fs.removexattr(ino.0, name.as_bytes())));
    }

    /// The kernel checks permissions itself, and need not ask again.
    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getlk(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        guarded(|| super::locks::get(&self.fs, ino.0, owner.0, (start, end), kind, pid, reply));
    }

    fn setlk(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        may_wait: bool,
        reply: ReplyEmpty,
    ) {
        guarded(|| {
            let lock = super::locks::Wanted { ino: ino.0, owner: owner.0, range: (start, end), kind, pid };
            self.waiters.set(&self.fs, lock, may_wait, reply);
        });
    }

    fn ioctl(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        number: u32,
        input: &[u8],
        _output_bytes: u32,
        reply: ReplyIoctl,
    ) {
        guarded(|| {
            match file_flags::answer(&self.fs, ino.0, number, input) {
                Some(Ok(output)) => return reply.ioctl(0, &output),
                Some(Err(error)) => return reply.error(errno(&error)),
                None => {}
            }
            if ino.0 != Fs::ROOT {
                return reply.error(Errno::ENOTTY);
            }
            let caller = control::Caller { user: request.uid(), owner: self.owner };
            match control::answer(&*self.service, caller, number, input) {
                Ok(output) => reply.ioctl(0, &output),
                Err(refusal) => reply.error(Errno::from_i32(refusal.errno())),
            }
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        guarded(|| match fallocate_mode(mode) {
            Some(mode) => {
                let flags = write_flags(request.uid());
                answer_empty(reply, self.fs.fallocate(ino.0, mode, offset, length, flags));
            }
            None => reply.error(Errno::EOPNOTSUPP),
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        guarded(|| {
            // The kernel does not write its cache back before it asks. What it has collected for somebody who has
            // the file open would be taken for a hole, and lost by a copy that skips holes. EINVAL says that this
            // cannot be asked, and the copy takes everything. Closing writes back, so then there is an answer.
            if self.writers.lock().contains_key(&ino.0) {
                return reply.error(Errno::EINVAL);
            }
            let whence = match whence {
                libc::SEEK_DATA => Whence::Data,
                libc::SEEK_HOLE => Whence::Hole,
                _ => return reply.error(Errno::EINVAL),
            };
            let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
            match self.fs.seek(ino.0, offset, whence) {
                Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        source: INodeNo,
        _source_handle: FileHandle,
        source_offset: u64,
        target: INodeNo,
        _target_handle: FileHandle,
        target_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        guarded(|| {
            let length = length.min(COPY_BYTES_MAX);
            let flags = write_flags(request.uid());
            match self.fs.copy_file_range(source.0, source_offset, target.0, target_offset, length, flags) {
                Ok(count) => reply.written(count as u32),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }
}
