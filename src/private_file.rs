//! Files that only their owner may read: keys of principals, backups of a store's.
//!
//! Invariant: one that others may read is refused, not used in spite of that.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

use crate::system::effective_user_and_group;

/// For commands that make a file in the end: before they ask people for anything.
pub(crate) fn refuse_existing(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        bail!("{} exists already; choose another name", path.display());
    }
    Ok(())
}

/// Makes a file that is not there yet: as a whole and durable, or not at all.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write(path, bytes, |new| fs::hard_link(new, path))
        .with_context(|| format!("cannot make {}", path.display()))
}

/// Puts a file in the place of one that is there.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write(path, bytes, |new| fs::rename(new, path))
        .with_context(|| format!("cannot replace {}", path.display()))
}

fn write(path: &Path, bytes: &[u8], place: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let new = Temporary::beside(path);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new.0)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    place(&new.0)?;
    drop(new);
    File::open(folder)?.sync_all()
}

/// A name that is gone when this is.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(path: &Path) -> Self {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        Self(name.into())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove.
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes a folder that only its owner may look into, with those above it; or sees to it that it is one.
pub(crate) fn make_folder(path: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make the folder {}", path.display()))?;
    refuse_if_open(path, 0o700)
}

/// All of a file that only its owner may read. One that is longer than `bytes_max` is an error.
pub(crate) fn read_private(path: &Path, bytes_max: usize) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let bytes = read(path, bytes_max)?;
    refuse_if_open(path, 0o600)?;
    Ok(bytes)
}

/// All of a file, whoever may read it.
pub(crate) fn read(path: &Path, bytes_max: usize) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let what = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(what)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(bytes_max + 1));
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).with_context(what)?;
    if bytes.len() > bytes_max {
        bail!("{} is longer than {bytes_max} bytes; is this the right file?", path.display());
    }
    Ok(bytes)
}

/// Whether others than its owner may do anything with it.
pub(crate) fn is_open(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.mode() & 0o077 != 0)
}

fn refuse_if_open(path: &Path, mode: u32) -> anyhow::Result<()> {
    let metadata = fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    let owner = metadata.uid();
    if owner != effective_user_and_group().0 && owner != 0 {
        bail!(
            "{} belongs to another user (number {owner}), who can change it; it is not used",
            path.display()
        );
    }
    if metadata.mode() & 0o077 != 0 {
        bail!(
            "{path} is open to others (mode {:o}); `chmod {mode:o} {path}` if nobody has read it, else make new keys",
            metadata.mode() & 0o777,
            path = path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_the_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_new(&path, b"secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(write_new(&path, b"other").is_err());
        assert_eq!(read_private(&path, 6).unwrap().as_slice(), b"secret");
        assert!(read_private(&path, 5).is_err());
        replace(&path, b"new").unwrap();
        assert_eq!(read_private(&path, 6).unwrap().as_slice(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read_private(&path, 6).unwrap_err().to_string().contains("chmod 600"));
        assert_eq!(read(&path, 6).unwrap().as_slice(), b"new");

        let inner = folder.path().join("a/b");
        make_folder(&inner).unwrap();
        assert!(!is_open(&inner).unwrap());
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(make_folder(&inner).unwrap_err().to_string().contains("chmod 700"));
    }
}
