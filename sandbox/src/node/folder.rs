//! A directory of the store by its inode, and the few things that the node does to files in it.

use std::sync::Arc;

use blocktree_vfs::{
    Caller, Fs, FsError, Ino, OpenFlags, RenameFlags, Result, SetAttributes, Stat, WriteFlags,
};

/// As much as one read or write of the store takes.
const PIECE_BYTES: usize = 1 << 20;
/// What a file is called while it is being written.
const UNFINISHED: &[u8] = b"being-written";

/// An inode that somebody holds: it stays in memory, and numbers stay valid, until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    fs: HeldFs,
    pub(super) stat: Stat,
}

struct HeldFs(Arc<Fs>);

impl std::fmt::Debug for HeldFs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Fs")
    }
}

impl Held {
    /// What was just looked up or made.
    pub(super) fn new(fs: &Arc<Fs>, stat: Stat) -> Self {
        Self { fs: HeldFs(Arc::clone(fs)), stat }
    }

    pub(super) fn lookup(fs: &Arc<Fs>, parent: Ino, name: &[u8]) -> Result<Self> {
        fs.lookup(parent, name).map(|stat| Self::new(fs, stat))
    }

    pub(super) fn ino(&self) -> Ino {
        self.stat.ino
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.fs.0.forget(self.stat.ino, 1);
    }
}

/// The node itself.
const NODE: Caller = Caller { uid: 0, gid: 0, pid: 0, umask: 0o077 };

/// A directory of the node's own. Only the node changes what is in it.
#[derive(Clone)]
pub(super) struct Folder {
    fs: Arc<Fs>,
    ino: Ino,
}

impl Folder {
    pub(super) fn new(fs: &Arc<Fs>, ino: Ino) -> Self {
        Self { fs: Arc::new(fs.unnoted()), ino }
    }

    pub(super) fn ino(&self) -> Ino {
        self.ino
    }

    /// A directory in it.
    pub(super) fn folder(&self, name: &str) -> Result<Option<Self>> {
        Ok(self.find(name)?.map(|held| Self::new(&self.fs, held.ino())))
    }

    pub(super) fn make_folder(&self, name: &str) -> Result<Self> {
        if let Some(folder) = self.folder(name)? {
            return Ok(folder);
        }
        let made = Held::new(&self.fs, self.fs.mkdir(&NODE, self.ino, name.as_bytes(), 0o700)?);
        Ok(Self::new(&self.fs, made.ino()))
    }

    fn find(&self, name: &str) -> Result<Option<Held>> {
        match Held::lookup(&self.fs, self.ino, name.as_bytes()) {
            Ok(held) => Ok(Some(held)),
            Err(FsError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn size(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.find(name)?.map(|held| held.stat.size))
    }

    /// All of a file, if there is one.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.find(name)? else { return Ok(None) };
        let length = usize::try_from(file.stat.size).map_err(|_| FsError::TooLarge)?;
        let mut bytes = vec![0; length];
        let mut done = 0;
        while done < length {
            let end = length.min(done + PIECE_BYTES);
            let count = self.fs.read(file.ino(), done as u64, &mut bytes[done..end])?;
            if count == 0 {
                break;
            }
            done += count;
        }
        bytes.truncate(done);
        Ok(Some(bytes))
    }

    /// Replaces a file as a whole: after any crash it is the old one or the new one.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        match self.fs.unlink(self.ino, UNFINISHED) {
            Ok(()) | Err(FsError::NotFound) => {}
            Err(error) => return Err(error),
        }
        let made = self.create(UNFINISHED)?;
        for (number, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
            self.fs.write(made.ino(), (number * PIECE_BYTES) as u64, piece, WriteFlags::default())?;
        }
        drop(made);
        self.fs.rename(self.ino, UNFINISHED, self.ino, name.as_bytes(), RenameFlags::default())
    }

    /// Replaces the start of a file in one step; makes the file if there is none.
    pub(super) fn overwrite(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let file = match self.find(name)? {
            Some(file) => file,
            None => self.create(name.as_bytes())?,
        };
        self.fs.write(file.ino(), 0, bytes, WriteFlags::default()).map(drop)
    }

    pub(super) fn append(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let file = match self.find(name)? {
            Some(file) => file,
            None => self.create(name.as_bytes())?,
        };
        self.fs.append(file.ino(), bytes, WriteFlags::default()).map(drop)
    }

    fn create(&self, name: &[u8]) -> Result<Held> {
        let made = Held::new(&self.fs, self.fs.create(&NODE, self.ino, name, 0o600)?);
        self.fs.release(made.ino(), None);
        Ok(made)
    }

    pub(super) fn rename(&self, name: &str, new_name: &str) -> Result<()> {
        self.fs.rename(self.ino, name.as_bytes(), self.ino, new_name.as_bytes(), RenameFlags::default())
    }

    /// Removes a file; nothing happens if there is none.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        match self.fs.unlink(self.ino, name.as_bytes()) {
            Err(FsError::NotFound) => Ok(()),
            result => result,
        }
    }

    /// Removes a directory with everything in it; nothing happens if there is none.
    pub(super) fn remove_folder(&self, name: &str) -> Result<()> {
        let Some(folder) = self.folder(name)? else { return Ok(()) };
        folder.clear()?;
        self.fs.rmdir(self.ino, name.as_bytes())
    }

    /// Removes everything in it.
    pub(super) fn clear(&self) -> Result<()> {
        for (name, is_folder) in self.list()? {
            if is_folder { self.remove_folder(&name)? } else { self.remove(&name)? }
        }
        Ok(())
    }

    /// Names, in order, and whether each is a directory.
    pub(super) fn list(&self) -> Result<Vec<(String, bool)>> {
        let mut found = Vec::new();
        self.fs.readdir(self.ino, 0, &mut |entry| {
            if let (Ok(name), false) = (std::str::from_utf8(entry.name), matches!(entry.name, b"." | b"..")) {
                found.push((name.to_owned(), entry.kind == blocktree_vfs::FileKind::Directory));
            }
            true
        })?;
        found.sort();
        Ok(found)
    }

    /// A new file for an app, open for writing, that nothing shows so far. The caller releases it.
    pub(super) fn create_open(&self, name: &str, owner: Caller) -> Result<Held> {
        let stat = self.fs.create(&owner, self.ino, name.as_bytes(), 0o644)?;
        Ok(Held::new(&self.fs, stat))
    }
}

/// Opens a file that is there: counts the open, which the caller takes back.
pub(super) fn open(fs: &Fs, ino: Ino, write: bool) -> Result<()> {
    fs.open(ino, OpenFlags { write, ..OpenFlags::default() })
}

/// Sets a file's length.
pub(super) fn resize(fs: &Fs, ino: Ino, size: u64) -> Result<()> {
    let changes = SetAttributes { size: Some(size), ..SetAttributes::default() };
    fs.setattr(&NODE, ino, &changes).map(drop)
}
