//! What the kernel remembers of the tree, and how it is told that somebody else than the kernel changed it.

use std::io;
use std::sync::Arc;

use zerocopy::IntoBytes;

use super::device::Device;
use super::protocol::{
    NOTIFY_INVAL_ENTRY, NOTIFY_INVAL_INODE, NOTIFY_STORE, NotifyInvalEntry, NotifyInvalInode, NotifyStore,
};
use crate::Ino;

/// The kernel's cache of one mount.
///
/// Its methods may wait for requests that the kernel makes of this mount meanwhile: no event loop calls them, and nobody
/// who holds a lock that an event loop may want. After the end of the mount they do nothing.
#[derive(Clone)]
pub struct KernelCache(Arc<Device>);

impl KernelCache {
    pub(super) fn new(device: Arc<Device>) -> Self {
        Self(device)
    }

    /// A name came, went, or leads elsewhere now. Also the directory's listing and times are read anew.
    pub fn forget_name(&self, parent: Ino, name: &[u8]) {
        let Ok(namelen) = u32::try_from(name.len()) else { return };
        let body = NotifyInvalEntry { parent, namelen, flags: 0 };
        self.notify(NOTIFY_INVAL_ENTRY, &[body.as_bytes(), name, &[0]]);
    }

    /// An inode's bytes or attributes changed. What the kernel has to write is written first.
    pub fn forget_inode(&self, ino: Ino) {
        self.notify(NOTIFY_INVAL_INODE, &[NotifyInvalInode { ino, off: 0, len: 0 }.as_bytes()]);
    }

    /// An inode is longer than it was, and ends with this byte, which somebody just wrote there. With the write-back cache the
    /// kernel believes its own size while anybody has the file open, and makes it longer only for bytes that it is given.
    pub fn lengthen_inode(&self, ino: Ino, size: u64, last: u8) {
        let Some(offset) = size.checked_sub(1) else { return };
        let body = NotifyStore { ino, offset, size: 1, padding: 0 };
        self.notify(NOTIFY_STORE, &[body.as_bytes(), &[last]]);
    }

    fn notify(&self, what: i32, parts: &[&[u8]]) {
        match self.0.notify(what, parts) {
            Ok(()) => {}
            // It knows nothing of that, or has gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOTCONN | libc::ENOTDIR)) => {}
            Err(error) => tracing::warn!(%error, "the kernel keeps what it should forget"),
        }
    }
}
