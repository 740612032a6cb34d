//! What an app may do to files: each request is looked at here, and nowhere else.
//!
//! 1. Whether a grant holds is asked again for every request, also of files that are open: what was revoked ends at
//!    once, in the middle of a file.
//! 2. Paths are walked part by part by inode from the granted directory; a symbolic link is no directory, so none leads
//!    out. What is renamed meanwhile is found where it is, or not at all.
//! 3. A new file is made in the app's own folder, and moved to its place when it is whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use blocktree_vfs::{Caller, FileKind, Fs, FsError, Ino, RenameFlags, Stat, Time, WriteFlags};
use parking_lot::{RwLock, RwLockReadGuard};

use super::ahead::Ahead;
use super::folder::{self, Folder, Held};
use super::grants::{Grant, error, parts, walk};
use super::locks::{self, Locks, Table};
use super::worker::seconds;
use crate::ipc::{self, Entry, Error, Handle, How, Kind, Reply};
use crate::limits::{ENTRIES_PER_PAGE, HANDLES_MAX};
use crate::package::Rights;

/// What the kernel remembers of a mounted tree: it must be told of changes that it did not ask for.
pub trait Kernel: Send + Sync {
    /// A name came, went, or leads elsewhere now.
    fn forget_name(&self, parent: Ino, name: &[u8]);
    /// An inode's bytes or attributes changed. What the kernel holds for it is written first.
    fn forget_inode(&self, ino: Ino);
    /// An inode is longer now, and ends with this byte. Call it behind [`Self::forget_inode`].
    fn lengthen_inode(&self, ino: Ino, size: u64, last: u8);
}

/// Where nothing is mounted.
impl Kernel for () {
    fn forget_name(&self, _: Ino, _: &[u8]) {}
    fn forget_inode(&self, _: Ino) {}
    fn lengthen_inode(&self, _: Ino, _: u64, _: u8) {}
}

/// The grants of an app, which may change at any time.
pub(super) type Grants = Arc<RwLock<Vec<Grant>>>;

pub(super) struct Files {
    /// Acts for the app.
    fs: Arc<Fs>,
    kernel: Arc<dyn Kernel>,
    grants: Grants,
    locks: Arc<Locks>,
    ahead: Ahead,
    /// For files that have no name yet; without it, no file can be made.
    unfinished: Option<Folder>,
    open: BTreeMap<Handle, Open>,
    next: Handle,
}

/// A file that the app has open.
struct Open {
    file: Held,
    grant: String,
    is_writable: bool,
    /// The app changed it.
    is_changed: bool,
    /// Of a new file: its name in the app's folder, and where it goes.
    target: Option<(String, String)>,
    /// The lock, and its number, under which alone it is changed.
    fence: Option<(locks::Place, u64)>,
}

/// A directory, held or the granted one itself, and a name in it.
struct Place<'a> {
    parent: Option<Held>,
    top: Ino,
    name: &'a str,
}

impl Place<'_> {
    fn parent(&self) -> Ino {
        self.parent.as_ref().map_or(self.top, Held::ino)
    }
}

impl Files {
    pub(super) fn new(
        fs: Arc<Fs>,
        kernel: Arc<dyn Kernel>,
        grants: Grants,
        locks: Arc<Locks>,
        unfinished: Option<Folder>,
    ) -> Self {
        let ahead = Ahead::new(Arc::clone(&fs));
        Self { fs, kernel, grants, locks, ahead, unfinished, open: BTreeMap::new(), next: 1 }
    }

    /// The granted directory, if the grant holds and allows that.
    fn granted(&self, name: &str, rights: Rights) -> Result<Ino, Error> {
        let now = seconds();
        let grants = self.grants.read();
        let grant = grants.iter().find(|grant| grant.name == name).ok_or(Error::NotGranted)?;
        match grant.holds_at(now) && grant.rights >= rights {
            true => Ok(grant.ino),
            false => Err(Error::NotGranted),
        }
    }

    fn place<'a>(&self, grant: &str, rights: Rights, path: &'a str) -> Result<Place<'a>, Error> {
        let top = self.granted(grant, rights)?;
        let parts = parts(path)?;
        let (name, above) = parts.split_last().ok_or(Error::Malformed)?;
        let parent = walk(&self.fs, top, above)?;
        // The last step may have come to a link, or to a file.
        if parent.as_ref().is_some_and(|held| held.stat.kind != FileKind::Directory) {
            return Err(Error::NotADirectory);
        }
        Ok(Place { parent, top, name })
    }

    fn find(&self, grant: &str, rights: Rights, path: &str) -> Result<Held, Error> {
        let place = self.place(grant, rights, path)?;
        Held::lookup(&self.fs, place.parent(), place.name.as_bytes()).map_err(error)
    }

    fn handle(&self, handle: Handle, rights: Rights) -> Result<&Open, Error> {
        let open = self.open.get(&handle).ok_or(Error::NotFound)?;
        if rights == Rights::ReadWrite && !open.is_writable {
            return Err(Error::NotGranted);
        }
        self.granted(&open.grant, rights)?;
        Ok(open)
    }

    pub(super) fn open(&mut self, grant: String, path: String, how: How) -> Result<Reply, Error> {
        if self.open.len() >= HANDLES_MAX {
            return Err(Error::TooLarge);
        }
        let opened = match how {
            How::Read | How::Edit => {
                let is_writable = how == How::Edit;
                let rights = if is_writable { Rights::ReadWrite } else { Rights::Read };
                let file = self.find(&grant, rights, &path)?;
                if file.stat.kind != FileKind::Regular {
                    return Err(Error::NotAFile);
                }
                folder::open(&self.fs, file.ino(), is_writable).map_err(error)?;
                Open { file, grant, is_writable, is_changed: false, target: None, fence: None }
            }
            How::Create => self.create(grant, path)?,
        };
        let handle = self.next;
        self.next = self.next.wrapping_add(1);
        self.open.insert(handle, opened);
        Ok(Reply::Handle(handle))
    }

    fn create(&mut self, grant: String, path: String) -> Result<Open, Error> {
        let place = self.place(&grant, Rights::ReadWrite, &path)?;
        let above = self.fs.getattr(place.parent()).map_err(error)?;
        // It is the directory's owner's, as if that had made it.
        let owner = Caller { uid: above.uid, gid: above.gid, pid: 0, umask: 0o022 };
        let name = format!("{}", self.next);
        let unfinished = self.unfinished.as_ref().ok_or(Error::NotGranted)?;
        let file = unfinished.create_open(&name, owner).map_err(error)?;
        Ok(Open {
            file,
            grant,
            is_writable: true,
            is_changed: false,
            target: Some((name, path)),
            fence: None,
        })
    }

    pub(super) fn read(&mut self, handle: Handle, offset: u64, length: u32) -> Result<&[u8], Error> {
        let ino = self.handle(handle, Rights::Read)?.file.ino();
        self.ahead.read(handle, ino, offset, length as usize).map_err(error)
    }

    /// What an app means by the name of a lock.
    pub(super) fn lock_place(&self, grant: &str, path: &str) -> Result<locks::Place, Error> {
        let place = self.place(grant, Rights::ReadWrite, path)?;
        Ok((place.parent(), place.name.to_owned()))
    }

    pub(super) fn fence(&mut self, handle: Handle, place: locks::Place, token: u64) -> Result<Reply, Error> {
        self.handle(handle, Rights::ReadWrite)?;
        drop(self.locks.under(&place, token)?);
        if let Some(open) = self.open.get_mut(&handle) {
            open.fence = Some((place, token));
        }
        Ok(Reply::Done)
    }

    /// Held while a file is changed that has a fence.
    fn fenced<'a>(
        locks: &'a Locks,
        fence: &Option<(locks::Place, u64)>,
    ) -> Result<Option<RwLockReadGuard<'a, Table>>, Error> {
        fence.as_ref().map(|(place, token)| locks.under(place, *token)).transpose()
    }

    pub(super) fn write(&mut self, handle: Handle, offset: u64, bytes: &[u8]) -> Result<Reply, Error> {
        let locks = Arc::clone(&self.locks);
        let open = self.handle(handle, Rights::ReadWrite)?;
        let _held = Self::fenced(&locks, &open.fence)?;
        let ino = open.file.ino();
        self.fs
            .write(ino, offset, bytes, WriteFlags { kill_privileges: true, ..WriteFlags::default() })
            .map_err(error)?;
        self.changed(handle);
        Ok(Reply::Done)
    }

    pub(super) fn resize(&mut self, handle: Handle, size: u64) -> Result<Reply, Error> {
        let locks = Arc::clone(&self.locks);
        let open = self.handle(handle, Rights::ReadWrite)?;
        let _held = Self::fenced(&locks, &open.fence)?;
        let ino = open.file.ino();
        folder::resize(&self.fs, ino, size).map_err(error)?;
        self.changed(handle);
        Ok(Reply::Done)
    }

    fn changed(&mut self, handle: Handle) {
        if let Some(open) = self.open.get_mut(&handle) {
            open.is_changed = true;
        }
    }

    pub(super) fn stat_open(&self, handle: Handle) -> Result<Reply, Error> {
        let open = self.handle(handle, Rights::Read)?;
        Ok(Reply::Stat(stat(&self.fs.getattr(open.file.ino()).map_err(error)?)))
    }

    pub(super) fn sync(&self, handle: Handle) -> Result<Reply, Error> {
        let open = self.handle(handle, Rights::Read)?;
        self.fs.fsync(open.file.ino(), false).map_err(error)?;
        Ok(Reply::Done)
    }

    pub(super) fn finish(&mut self, handle: Handle) -> Result<Reply, Error> {
        let locks = Arc::clone(&self.locks);
        let open = self.handle(handle, Rights::ReadWrite)?;
        let _held = Self::fenced(&locks, &open.fence)?;
        let (unfinished, path) = open.target.clone().ok_or(Error::Malformed)?;
        let place = self.place(&open.grant, Rights::ReadWrite, &path)?;
        let from = self.unfinished.as_ref().ok_or(Error::NotGranted)?.ino();
        let to = place.parent();
        let name = place.name.as_bytes();
        self.fs.rename(from, unfinished.as_bytes(), to, name, RenameFlags::default()).map_err(error)?;
        self.kernel.forget_name(to, name);
        if let Some(open) = self.open.get_mut(&handle) {
            open.target = None;
            // The kernel does not know this inode yet.
            open.is_changed = false;
        }
        Ok(Reply::Done)
    }

    pub(super) fn close(&mut self, handle: Handle) -> Result<Reply, Error> {
        let open = self.open.remove(&handle).ok_or(Error::NotFound)?;
        self.ahead.close(handle);
        self.end(&open);
        Ok(Reply::Done)
    }

    pub(super) fn close_all(&mut self) {
        self.ahead.end();
        for open in std::mem::take(&mut self.open).into_values() {
            self.end(&open);
        }
    }

    fn end(&self, open: &Open) {
        if open.target.is_none() && open.is_changed {
            self.tell_kernel(open);
        }
        self.fs.release(open.file.ino(), None);
        if let (Some((name, _)), Some(unfinished)) = (&open.target, &self.unfinished) {
            // What fails here is removed when the app is started the next time.
            let _ = unfinished.remove(name);
        }
    }

    fn tell_kernel(&self, open: &Open) {
        let ino = open.file.ino();
        self.kernel.forget_inode(ino);
        let mut last = [0];
        if let Ok(stat) = self.fs.getattr(ino)
            && stat.size > open.file.stat.size
            && self.fs.read(ino, stat.size - 1, &mut last).is_ok_and(|count| count == 1)
        {
            self.kernel.lengthen_inode(ino, stat.size, last[0]);
        }
    }

    pub(super) fn stat(&self, grant: &str, path: &str) -> Result<Reply, Error> {
        let found = match path {
            "" => self.fs.getattr(self.granted(grant, Rights::Read)?).map_err(error)?,
            path => self.find(grant, Rights::Read, path)?.stat,
        };
        Ok(Reply::Stat(stat(&found)))
    }

    pub(super) fn list(&self, grant: &str, path: &str, after: Option<u64>) -> Result<Reply, Error> {
        let top = self.granted(grant, Rights::Read)?;
        let directory = walk(&self.fs, top, &parts(path)?)?;
        let ino = directory.as_ref().map_or(top, Held::ino);
        let (mut entries, mut last, mut is_full) = (Vec::new(), None, false);
        let mut take = |entry: &blocktree_vfs::DirectoryEntry<'_>| {
            if entries.len() == ENTRIES_PER_PAGE {
                is_full = true;
                return false;
            }
            last = Some(entry.cookie);
            // A name that is no UTF-8 cannot be told.
            if let (Ok(name), false) = (std::str::from_utf8(entry.name), matches!(entry.name, b"." | b"..")) {
                entries.push(Entry { name: name.to_owned(), kind: kind(entry.kind) });
            }
            true
        };
        self.fs.readdir(ino, after.unwrap_or(0), &mut take).map_err(error)?;
        Ok(Reply::Entries { entries, after: last.filter(|_| is_full) })
    }

    pub(super) fn rename(&self, grant: &str, path: &str, new_path: &str) -> Result<Reply, Error> {
        let from = self.place(grant, Rights::ReadWrite, path)?;
        let to = self.place(grant, Rights::ReadWrite, new_path)?;
        let (name, new_name) = (from.name.as_bytes(), to.name.as_bytes());
        self.fs.rename(from.parent(), name, to.parent(), new_name, RenameFlags::default()).map_err(error)?;
        self.kernel.forget_name(from.parent(), name);
        self.kernel.forget_name(to.parent(), new_name);
        Ok(Reply::Done)
    }

    pub(super) fn remove(&self, grant: &str, path: &str) -> Result<Reply, Error> {
        let place = self.place(grant, Rights::ReadWrite, path)?;
        let name = place.name.as_bytes();
        match self.fs.unlink(place.parent(), name) {
            Err(FsError::IsDirectory) => self.fs.rmdir(place.parent(), name),
            result => result,
        }
        .map_err(error)?;
        self.kernel.forget_name(place.parent(), name);
        Ok(Reply::Done)
    }

    pub(super) fn make_directory(&self, grant: &str, path: &str) -> Result<Reply, Error> {
        let place = self.place(grant, Rights::ReadWrite, path)?;
        let above = self.fs.getattr(place.parent()).map_err(error)?;
        let owner = Caller { uid: above.uid, gid: above.gid, pid: 0, umask: 0o022 };
        let name = place.name.as_bytes();
        drop(Held::new(&self.fs, self.fs.mkdir(&owner, place.parent(), name, 0o777).map_err(error)?));
        self.kernel.forget_name(place.parent(), name);
        Ok(Reply::Done)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.close_all();
    }
}

fn stat(stat: &Stat) -> ipc::Stat {
    ipc::Stat {
        kind: kind(stat.kind),
        size: stat.size,
        modified: nanoseconds(stat.mtime),
        changed: nanoseconds(stat.ctime),
    }
}

fn nanoseconds(time: Time) -> u64 {
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(time.nanoseconds.into())
}

pub(super) fn kind(kind: FileKind) -> Kind {
    match kind {
        FileKind::Regular => Kind::File,
        FileKind::Directory => Kind::Directory,
        FileKind::Symlink => Kind::Symlink,
        _ => Kind::Other,
    }
}
