//! A floor: a FUSE filesystem over a folder that adds nothing. Each request is one or two system calls.
//!
//! It asks the kernel for the same as Blocktree does (timeouts, write-back cache, sizes, readahead), has as many
//! event loops, and uses the crate `fuser`, as most filesystems in Rust do. [`nodes`] remembers which inode is
//! called what.
//!
//! Invariants:
//! 1. It is for measurements alone: it runs as root, and what it serves has one user. There are no extended
//!    attributes, and a file with several links is known by the name that was used last.

mod direct;
mod nodes;

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink,
};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use blocktree_vfs::fuse::tune;
use fuser::{
    BackgroundSession, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use rustix::fs::{
    AtFlags, CWD, Dev, FallocateFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
};

use nodes::{Handle, Nodes};

const BELIEVE: Duration = Duration::from_secs(3600);
const WRITE_BYTES_MAX: u32 = 1 << 20;
const READAHEAD_KIB: u32 = 4 << 10;
const BACKGROUND_REQUESTS_MAX: u16 = 64;
const GENERATION: Generation = Generation(0);

/// Serves `folder` on `mount_point` until that is unmounted.
pub(crate) fn serve(folder: &Path, mount_point: &Path) -> Result<()> {
    let session = start(folder, mount_point, SessionACL::All)?;
    // As for a mount of Blocktree.
    tune(mount_point)?;
    Ok(session.join()?)
}

fn start(folder: &Path, mount_point: &Path, access: SessionACL) -> Result<BackgroundSession> {
    let folder = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
    // The kernel has applied the caller's already.
    rustix::process::umask(Mode::empty());
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let mut config = fuser::Config::default();
    config.n_threads = Some((2 * cores).max(4));
    config.clone_fd = true;
    config.acl = access;
    config.mount_options = vec![
        MountOption::FSName(folder.display().to_string()),
        MountOption::Subtype("passthrough".into()),
        MountOption::DefaultPermissions,
    ];
    let filesystem = Passthrough { nodes: Nodes::new(&folder)? };
    Ok(Session::new(filesystem, mount_point, &config)?.spawn()?)
}

struct Passthrough {
    nodes: Nodes,
}

impl Passthrough {
    /// Looks at what a directory calls `name`, and remembers that the kernel knows it.
    fn known(&self, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let metadata = fs::symlink_metadata(self.nodes.path(parent.0)?.join(name))?;
        let ino = self.nodes.look_up(parent.0, name, metadata.ino());
        Ok(attributes(ino, &metadata))
    }

    /// Gives what was just made to whom it belongs.
    fn made(&self, request: &Request, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        if request.uid() != 0 || request.gid() != 0 {
            lchown(self.nodes.path(parent.0)?.join(name), Some(request.uid()), Some(request.gid()))?;
        }
        self.known(parent, name)
    }

    fn attributes(&self, ino: INodeNo) -> io::Result<FileAttr> {
        let metadata = match self.nodes.opened(ino.0, false) {
            // It may have no name any more.
            Some(handle) => handle.file.metadata()?,
            None => fs::symlink_metadata(self.nodes.path(ino.0)?)?,
        };
        Ok(attributes(ino.0, &metadata))
    }

    fn open_file(&self, path: &Path, flags: i32, mode: Option<u32>) -> io::Result<(Handle, FopenFlags)> {
        let flags = OFlags::from_bits_retain(flags as u32);
        let is_direct = flags.contains(OFlags::DIRECT);
        // The kernel appends by itself, and may have to read what it then writes back.
        let kept = flags & (OFlags::TRUNC | OFlags::EXCL | OFlags::DSYNC | OFlags::SYNC | OFlags::DIRECT);
        let writes = flags & (OFlags::WRONLY | OFlags::RDWR) != OFlags::empty();
        let mut options = File::options();
        options.read(true).write(writes).custom_flags(kept.bits() as i32);
        let is_writable = writes || mode.is_some();
        if let Some(mode) = mode {
            options.write(true).create(true).mode(mode);
        }
        let mut opened = FopenFlags::FOPEN_KEEP_CACHE;
        if is_direct {
            opened |= FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        }
        Ok((Handle { file: options.open(path)?, is_direct, is_writable }, opened))
    }

    fn set(&self, ino: INodeNo, changes: &Changes) -> io::Result<FileAttr> {
        let path = self.nodes.path(ino.0);
        if let Some(mode) = changes.mode {
            fs::set_permissions(path.as_ref().map_err(copy)?, Permissions::from_mode(mode))?;
        }
        if changes.uid.is_some() || changes.gid.is_some() {
            lchown(path.as_ref().map_err(copy)?, changes.uid, changes.gid)?;
        }
        if let Some(size) = changes.size {
            match self.nodes.opened(ino.0, true) {
                Some(handle) => handle.file.set_len(size)?,
                None => File::options().write(true).open(path.as_ref().map_err(copy)?)?.set_len(size)?,
            }
        }
        if changes.atime.is_some() || changes.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(changes.atime),
                last_modification: timespec(changes.mtime),
            };
            match self.nodes.opened(ino.0, false) {
                Some(handle) => rustix::fs::futimens(&handle.file, &times)?,
                None => rustix::fs::utimensat(
                    CWD,
                    path.as_ref().map_err(copy)?,
                    &times,
                    AtFlags::SYMLINK_NOFOLLOW,
                )?,
            }
        }
        self.attributes(ino)
    }

    fn rename_to(
        &self,
        from: (INodeNo, &OsStr),
        to: (INodeNo, &OsStr),
        flags: RenameFlags,
    ) -> io::Result<()> {
        let (old, new) = (self.nodes.path(from.0.0)?.join(from.1), self.nodes.path(to.0.0)?.join(to.1));
        rustix::fs::renameat_with(
            CWD,
            &old,
            CWD,
            &new,
            rustix::fs::RenameFlags::from_bits_retain(flags.bits()),
        )?;
        let is_exchange = flags.contains(RenameFlags::RENAME_EXCHANGE);
        for (path, parent, name) in [(&new, to.0, to.1), (&old, from.0, from.1)] {
            self.nodes.rename(fs::symlink_metadata(path)?.ino(), parent.0, name);
            if !is_exchange {
                break;
            }
        }
        Ok(())
    }
}

struct Changes {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
}

fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

fn timespec(time: Option<TimeOrNow>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(TimeOrNow::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(TimeOrNow::SpecificTime(time)) => {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            Timespec { tv_sec: since.as_secs() as i64, tv_nsec: i64::from(since.subsec_nanos()) }
        }
    }
}

fn attributes(ino: u64, metadata: &Metadata) -> FileAttr {
    let time = |seconds: i64, nanoseconds: i64| {
        UNIX_EPOCH + Duration::new(seconds.max(0) as u64, nanoseconds.clamp(0, 999_999_999) as u32)
    };
    FileAttr {
        ino: INodeNo(ino),
        size: metadata.size(),
        blocks: metadata.blocks(),
        atime: time(metadata.atime(), metadata.atime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
        crtime: UNIX_EPOCH,
        kind: FileType::from_std(metadata.file_type()).unwrap_or(FileType::RegularFile),
        perm: (metadata.mode() & 0o7777) as u16,
        nlink: metadata.nlink() as u32,
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: metadata.rdev() as u32,
        blksize: 4096,
        flags: 0,
    }
}

/// What stands for "there is no such name, and you may believe that".
fn nothing() -> FileAttr {
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
        blksize: 4096,
        flags: 0,
    }
}

fn answer_entry(reply: ReplyEntry, result: io::Result<FileAttr>) {
    match result {
        Ok(attributes) => reply.entry(&BELIEVE, &attributes, GENERATION),
        Err(error) => reply.error(Errno::from(error)),
    }
}

fn answer_attributes(reply: ReplyAttr, result: io::Result<FileAttr>) {
    match result {
        Ok(attributes) => reply.attr(&BELIEVE, &attributes),
        Err(error) => reply.error(Errno::from(error)),
    }
}

fn answer_empty(reply: ReplyEmpty, result: io::Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(Errno::from(error)),
    }
}

impl Filesystem for Passthrough {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP
            | InitFlags::FUSE_WRITEBACK_CACHE;
        let offered = config.capabilities();
        config.add_capabilities(wanted & offered).map_err(|_| io::ErrorKind::Unsupported)?;
        // Each of these answers with the nearest value that it takes.
        if let Err(nearest) = config.set_max_write(WRITE_BYTES_MAX) {
            let _ = config.set_max_write(nearest);
        }
        if let Err(nearest) = config.set_max_readahead(READAHEAD_KIB << 10) {
            let _ = config.set_max_readahead(nearest);
        }
        let _ = config.set_max_background(BACKGROUND_REQUESTS_MAX);
        let _ = config.set_congestion_threshold(BACKGROUND_REQUESTS_MAX / 4 * 3);
        let _ = config.set_time_granularity(Duration::from_nanos(1));
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.known(parent, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                reply.entry(&BELIEVE, &nothing(), GENERATION)
            }
            result => answer_entry(reply, result),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.nodes.forget(ino.0, count);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        answer_attributes(reply, self.attributes(ino));
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mode = mode.map(|mode| mode & 0o7777);
        let is_only_times = mode.is_none() && uid.is_none() && gid.is_none() && size.is_none();
        match self.set(ino, &Changes { mode, uid, gid, size, atime, mtime }) {
            // For its write-back cache, the kernel sends the times even of a file that was deleted.
            Err(error) if is_only_times && error.kind() == io::ErrorKind::NotFound => {
                reply.attr(&Duration::ZERO, &FileAttr { ino, ..nothing() });
            }
            result => answer_attributes(reply, result),
        }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.nodes.path(ino.0).and_then(fs::read_link) {
            Ok(target) => reply.data(target.as_os_str().as_bytes()),
            Err(error) => reply.error(Errno::from(error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let kind = rustix::fs::FileType::from_raw_mode(mode);
        let permissions = Mode::from_raw_mode(mode & 0o7777);
        let made = self.nodes.path(parent.0).and_then(|path| {
            Ok(rustix::fs::mknodat(CWD, path.join(name), kind, permissions, Dev::from(device))?)
        });
        answer_entry(reply, made.and_then(|()| self.made(request, parent, name)));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let made = self
            .nodes
            .path(parent.0)
            .and_then(|path| fs::DirBuilder::new().mode(mode).create(path.join(name)));
        answer_entry(reply, made.and_then(|()| self.made(request, parent, name)));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(reply, self.nodes.path(parent.0).and_then(|path| fs::remove_file(path.join(name))));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(reply, self.nodes.path(parent.0).and_then(|path| fs::remove_dir(path.join(name))));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let made = self.nodes.path(parent.0).and_then(|path| symlink(target, path.join(name)));
        answer_entry(reply, made.and_then(|()| self.made(request, parent, name)));
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
        answer_empty(reply, self.rename_to((parent, name), (new_parent, new_name), flags));
    }

    fn link(&self, _request: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.nodes.path(ino.0).and_then(|old| {
            fs::hard_link(old, self.nodes.path(parent.0)?.join(name))?;
            self.known(parent, name)
        });
        answer_entry(reply, linked);
    }

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.nodes.path(ino.0).and_then(|path| self.open_file(&path, flags.0, None));
        match opened {
            Ok((handle, flags)) => reply.opened(FileHandle(self.nodes.open(ino.0, handle)), flags),
            Err(error) => reply.error(Errno::from(error)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let created = self.nodes.path(parent.0).and_then(|path| {
            let (handle, flags) = self.open_file(&path.join(name), flags, Some(mode))?;
            Ok((handle, flags, self.made(request, parent, name)?))
        });
        match created {
            Ok((handle, flags, attributes)) => {
                let handle = FileHandle(self.nodes.open(attributes.ino.0, handle));
                reply.created(&BELIEVE, &attributes, GENERATION, handle, flags);
            }
            Err(error) => reply.error(Errno::from(error)),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(handle) = self.nodes.handle(handle.0) else { return reply.error(Errno::EBADF) };
        direct::with_buffer(size as usize, |buffer| match read_fully(&handle.file, buffer, offset) {
            Ok(count) => reply.data(&buffer[..count]),
            Err(error) => reply.error(Errno::from(error)),
        });
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(handle) = self.nodes.handle(handle.0) else { return reply.error(Errno::EBADF) };
        let written = if handle.is_direct {
            direct::with_buffer(bytes.len(), |buffer| {
                buffer.copy_from_slice(bytes);
                handle.file.write_all_at(buffer, offset)
            })
        } else {
            handle.file.write_all_at(bytes, offset)
        };
        match written {
            Ok(()) => reply.written(bytes.len() as u32),
            Err(error) => reply.error(Errno::from(error)),
        }
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.nodes.release(ino.0, handle.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let Some(handle) = self.nodes.handle(handle.0) else { return reply.error(Errno::EBADF) };
        answer_empty(reply, if data_only { handle.file.sync_data() } else { handle.file.sync_all() });
    }

    /// The listing is taken here, so that what is deleted between two requests moves nothing.
    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.nodes.path(ino.0).and_then(|path| nodes::list(&path)) {
            Ok(list) => reply.opened(
                FileHandle(self.nodes.open_list(list)),
                FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR,
            ),
            Err(error) => reply.error(Errno::from(error)),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(list) = self.nodes.list(handle.0) else { return reply.error(Errno::EBADF) };
        for (entry, next) in list.iter().zip(1..).skip(offset as usize) {
            if reply.add(INodeNo(entry.ino), next, entry.kind, &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(list) = self.nodes.list(handle.0) else { return reply.error(Errno::EBADF) };
        let Ok(folder) = self.nodes.path(ino.0) else { return reply.error(Errno::ENOENT) };
        for (entry, next) in list.iter().zip(1..).skip(offset as usize) {
            // What has gone meanwhile is left out.
            let Ok(metadata) = fs::symlink_metadata(folder.join(&entry.name)) else { continue };
            let found = self.nodes.number(metadata.ino());
            if reply.add(
                INodeNo(found),
                next,
                &entry.name,
                &BELIEVE,
                &attributes(found, &metadata),
                GENERATION,
            ) {
                break;
            }
            self.nodes.look_up(ino.0, &entry.name, metadata.ino());
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.nodes.release_list(handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        answer_empty(reply, self.nodes.path(ino.0).and_then(File::open).and_then(|folder| folder.sync_all()));
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match rustix::fs::statvfs(self.nodes.root()) {
            Ok(found) => reply.statfs(
                found.f_blocks,
                found.f_bfree,
                found.f_bavail,
                found.f_files,
                found.f_ffree,
                found.f_bsize as u32,
                found.f_namemax as u32,
                found.f_frsize as u32,
            ),
            Err(error) => reply.error(Errno::from(io::Error::from(error))),
        }
    }

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(handle) = self.nodes.handle(handle.0) else { return reply.error(Errno::EBADF) };
        let mode = FallocateFlags::from_bits_retain(mode as u32);
        answer_empty(
            reply,
            rustix::fs::fallocate(&handle.file, mode, offset, length).map_err(io::Error::from),
        );
    }
}

fn read_fully(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read_at(&mut buffer[count..], offset + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The end of a file that is read with O_DIRECT is not aligned: what is behind it is nothing.
            Err(_) if count > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use xtask::scratch::Scratch;

    use super::*;

    #[test]
    fn it_is_the_folder_below() {
        let scratch = Scratch::new(&std::env::temp_dir(), "passthrough-test").unwrap();
        let (folder, mount) = (scratch.join("folder"), scratch.join("mount"));
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(&mount).unwrap();
        let session = start(&folder, &mount, SessionACL::Owner).unwrap();

        fs::create_dir_all(mount.join("a/b")).unwrap();
        fs::write(mount.join("a/b/file"), "contents").unwrap();
        fs::hard_link(mount.join("a/b/file"), mount.join("link")).unwrap();
        fs::rename(mount.join("a"), mount.join("c")).unwrap();
        assert_eq!(fs::read(mount.join("c/b/file")).unwrap(), b"contents");
        assert_eq!(fs::metadata(mount.join("link")).unwrap().nlink(), 2);
        symlink("c/b/file", mount.join("symlink")).unwrap();
        assert_eq!(fs::read(mount.join("symlink")).unwrap(), b"contents");
        assert_eq!(fs::metadata(mount.join("nothing")).unwrap_err().kind(), io::ErrorKind::NotFound);

        let mut open =
            File::options().create_new(true).append(true).read(true).open(mount.join("open")).unwrap();
        fs::remove_file(mount.join("open")).unwrap();
        open.write_all(&[1; 9000]).unwrap();
        open.set_len(5000).unwrap();
        assert_eq!(open.metadata().unwrap().len(), 5000);
        drop(open);

        let bytes: Vec<u8> = (0..300_000_u32).map(|at| (at / 7) as u8).collect();
        fs::write(mount.join("large"), &bytes).unwrap();
        let mut direct = File::options();
        direct.read(true).custom_flags(OFlags::DIRECT.bits() as i32);
        // With O_DIRECT, lengths are whole sectors.
        let mut read = vec![0; 1 << 20];
        let length = direct.open(mount.join("large")).unwrap().read(&mut read).unwrap();
        assert!(read[..length] == bytes);

        let names = |folder: &Path| -> Vec<_> {
            let mut names: Vec<_> =
                fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&mount), ["c", "large", "link", "symlink"]);
        assert_eq!(names(&folder), names(&mount));
        fs::remove_dir_all(mount.join("c")).unwrap();
        session.umount_and_join().unwrap();
        assert_eq!(names(&folder), ["large", "link", "symlink"]);
        assert!(fs::read(folder.join("large")).unwrap() == bytes);
    }
}
