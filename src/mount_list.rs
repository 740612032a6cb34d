//! What is mounted, from `/proc/self/mountinfo` (proc(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// One mounted store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreMount {
    pub(crate) mountpoint: PathBuf,
    pub(crate) store: PathBuf,
    pub(crate) is_read_only: bool,
    /// Whether users other than the one that mounted it may use it.
    pub(crate) is_for_everyone: bool,
}

/// The mounted stores, in the order they were mounted.
pub(crate) fn store_mounts() -> io::Result<Vec<StoreMount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The store that is mounted on exactly this path, if there is one. Does not ask the mount itself, whose daemon may be
/// dead.
pub(crate) fn store_mounted_on(path: &Path) -> io::Result<Option<StoreMount>> {
    let path = resolve(path);
    // The last one covers those before.
    Ok(store_mounts()?.into_iter().rev().find(|mount| mount.mountpoint == path))
}

/// The mounted store that a path is in, which has no symlinks and need not exist.
pub(crate) fn mount_above(path: &Path) -> io::Result<Option<StoreMount>> {
    let mounts = store_mounts()?.into_iter().filter(|mount| path.starts_with(&mount.mountpoint));
    // The last of the deepest, which covers the others.
    Ok(mounts.max_by_key(|mount| mount.mountpoint.components().count()))
}

/// Where this store is mounted, also by another name; those for writing first.
pub(crate) fn mounts_of(store: &Path) -> io::Result<Vec<StoreMount>> {
    let store = resolve(store);
    let identity = identity(&store);
    let mut mounts = store_mounts()?;
    mounts.retain(|mount| {
        mount.store == store || (identity.is_some() && identity == self::identity(&mount.store))
    });
    mounts.sort_by_key(|mount| mount.is_read_only);
    Ok(mounts)
}

/// What a store's path leads to: a block device has many nodes, a directory may be bound to several places.
fn identity(store: &Path) -> Option<(bool, u64, u64)> {
    let metadata = store.metadata().ok()?;
    let is_block_device = metadata.file_type().is_block_device();
    Some(if is_block_device { (true, metadata.rdev(), 0) } else { (false, metadata.dev(), metadata.ino()) })
}

/// The path without symlinks. The last part is not followed if that fails, as it does where a mount's daemon is dead.
pub(crate) fn resolve(path: &Path) -> PathBuf {
    if let Ok(path) = path.canonicalize() {
        return path;
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    match (absolute.parent().map(Path::canonicalize), absolute.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => absolute,
    }
}

fn parse(text: &[u8]) -> Vec<StoreMount> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<StoreMount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mountpoint = fields.nth(4)?;
    let is_read_only = fields.next()?.split(|&byte| byte == b',').any(|option| option == b"ro");
    // A dash ends the optional fields; the type and the source follow.
    fields.find(|&field| field == b"-")?;
    let kind = fields.next()?;
    if kind != blocktree_vfs::fuse::FILESYSTEM_TYPE.as_bytes() {
        return None;
    }
    let store = fields.next()?;
    let is_for_everyone = fields.next()?.split(|&byte| byte == b',').any(|option| option == b"allow_other");
    Some(StoreMount {
        mountpoint: unescape(mountpoint),
        store: unescape(store),
        is_read_only,
        is_for_everyone,
    })
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) = (first, tail) {
            path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = tail;
        } else {
            path.push(*first);
        }
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stores_are_listed() {
        let text = b"\
22 28 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw
60 28 0:50 / /mnt/a\\040b rw,nosuid,nodev shared:31 master:2 - fuse.blocktree /srv/my\\134store rw,user_id=0
61 28 0:51 / /mnt/c rw - fuse.sshfs host: rw
62 broken
";
        let expected = StoreMount {
            mountpoint: "/mnt/a b".into(),
            store: "/srv/my\\store".into(),
            is_read_only: false,
            is_for_everyone: false,
        };
        assert_eq!(parse(text), std::slice::from_ref(&expected));
        let text = String::from_utf8_lossy(text).replace("user_id=0", "user_id=0,allow_other");
        assert_eq!(parse(text.as_bytes()), [StoreMount { is_for_everyone: true, ..expected }]);
    }

    #[test]
    fn unfinished_escapes_stay() {
        assert_eq!(unescape(b"a\\04"), Path::new("a\\04"));
        assert_eq!(unescape(b"\\999"), Path::new("\\999"));
    }
}
