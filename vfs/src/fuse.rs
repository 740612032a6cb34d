//! The FUSE transport: mounts an [`Fs`] and serves the kernel's requests.
//!
//! Key functions and types: [`mount`], [`MountOptions`], [`Mounted`], [`detach`]. Inside, from the kernel upwards:
//! `attach` mounts, `kernel` says what is agreed at the start and tunes what the kernel offers afterwards, `session`
//! runs the event loops, `device` and `uring` move messages, `protocol` knows what they mean, and `adapter` turns each
//! request into one call of `Fs`. Only this folder knows FUSE.
//!
//! Invariants:
//! 1. A panic in an operation fails that operation with EIO; the mount goes on.
//! 2. No event loop waits for another process: what may wait for long is handed to a thread. For the kernel, which
//!    needs event loops for what it does, all but one may wait.
//! 3. However a mount ends, [`MountHandle::close`] has returned before [`Mounted::join`] does.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use self::session::Session;
use crate::Fs;
use crate::control::Service;

mod adapter;
mod ahead;
mod answer;
mod attach;
mod buffer;
mod convert;
mod device;
mod kernel;
mod kernel_cache;
mod locks;
mod placement;
mod protocol;
mod seek;
mod session;
mod uring;
mod writers;

pub(crate) use answer::Failure;
pub use attach::{FILESYSTEM_TYPE, detach};
pub use kernel::tune;
pub use kernel_cache::KernelCache;

/// Who may use the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The user that mounted.
    Owner,
    OwnerAndRoot,
    Everyone,
}

/// What the kernel allows on the mount: the defaults of mount(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags {
    pub set_user_id: bool,
    pub devices: bool,
    pub execute: bool,
    pub access_times: bool,
    pub directory_access_times: bool,
    pub synchronous: bool,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            set_user_id: true,
            devices: true,
            execute: true,
            access_times: true,
            directory_access_times: true,
            synchronous: false,
        }
    }
}

/// Who keeps POSIX and BSD file locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locks {
    /// The kernel: right where every user of the tree comes through this mount. A waiter can be interrupted, and
    /// closing a file costs no request.
    Kernel,
    /// [`Fs`] keeps them: for trees that other machines use as well.
    Fs,
}

/// How requests and answers move between the kernel and this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// Reads and writes of `/dev/fuse`.
    Device,
    /// io_uring, where the kernel offers it; the device otherwise. Not with [`Locks::Fs`]: the kernel does not pass
    /// interrupts on then.
    #[default]
    Uring,
}

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// What `/proc/mounts` shows as the source.
    pub source: OsString,
    pub read_only: bool,
    pub access: Access,
    pub flags: Flags,
    /// Whether the kernel collects writes in its cache.
    pub write_back: bool,
    pub locks: Locks,
    /// The longest read that the kernel may ask for; `None` leaves it to the kernel.
    pub read_bytes_max: Option<u32>,
    /// Threads that take requests; `None` for a number that suits the machine.
    pub event_loops: Option<usize>,
    pub transport: Transport,
}

impl MountOptions {
    fn wants_uring(&self) -> bool {
        self.transport == Transport::Uring && self.locks == Locks::Kernel
    }
}

/// Why a tree cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("there is no /dev/fuse; load the kernel module with `modprobe fuse`")]
    NoFuse(#[source] io::Error),
    #[error(
        "allow_other and allow_root are not allowed to ordinary users here; root can allow them with the line \
         user_allow_other in /etc/fuse.conf"
    )]
    AllowOther,
    #[error("the system refused the mount")]
    Mount(#[source] io::Error),
    #[error("the kernel and this program found no common FUSE protocol")]
    Session(#[source] io::Error),
}

/// How asking a mount to end went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Nothing uses it any more, and [`Mounted::join`] returns soon.
    Unmounted,
    /// It is out of the tree, but processes still hold files of it: [`Mounted::join`] returns when they let go.
    StillUsed,
}

/// A mounted tree. Dropping it does not unmount.
pub struct Mounted {
    session: Session,
    handle: MountHandle,
}

/// What someone does who uses the tree beside the kernel, to use it no more.
type Farewell = Box<dyn FnOnce() + Send>;

/// What ends a mount from any thread.
#[derive(Clone)]
pub struct MountHandle {
    fs: Arc<Fs>,
    mountpoint: PathBuf,
    closed: Arc<Mutex<Option<bool>>>,
    before_close: Arc<Mutex<Vec<Farewell>>>,
}

/// Mounts `fs` and starts serving. The mount is usable when this returns. If it fails, `fs` is left open.
pub fn mount(
    fs: &Arc<Fs>,
    mountpoint: &Path,
    options: &MountOptions,
    service: Arc<dyn Service>,
) -> Result<Mounted, MountError> {
    let mountpoint = mountpoint.canonicalize().map_err(MountError::Mount)?;
    let device = attach::attach(&mountpoint, options)?;
    let adapter = adapter::Adapter::new(Arc::clone(fs), service, options);
    let session = Session::start(device, adapter, options).map_err(|error| {
        // The error that is being reported matters more than one of this.
        let _ = detach(&mountpoint, true);
        MountError::Session(error)
    })?;
    if let Err(error) = tune(&mountpoint) {
        tracing::debug!(%error, "the mount's bdi stays as it is");
    }
    let handle =
        MountHandle { fs: Arc::clone(fs), mountpoint, closed: Arc::default(), before_close: Arc::default() };
    Ok(Mounted { session, handle })
}

impl Mounted {
    pub fn handle(&self) -> MountHandle {
        self.handle.clone()
    }

    /// For who changes the tree without asking the kernel.
    pub fn kernel_cache(&self) -> KernelCache {
        self.session.kernel_cache()
    }

    /// Unmounts; [`Mounted::join`] then returns once everything is durable.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`] if the mount is in use: it stays, and serves on.
    pub fn unmount(&self) -> io::Result<()> {
        detach(&self.handle.mountpoint, false)
    }

    /// Returns once the mount has ended, however that came, and everything is durable.
    pub fn join(self) -> io::Result<()> {
        let served = self.session.join();
        self.handle.close()?;
        served
    }
}

impl MountHandle {
    /// Makes the mount end: writes back what the kernel holds, then unmounts; if it is in use, takes it out of the
    /// tree.
    pub fn end(&self) -> io::Result<Ending> {
        if let Err(error) = File::open(&self.mountpoint).and_then(|root| attach::write_back(&root)) {
            tracing::warn!(%error, "the kernel could not write everything back");
        }
        match detach(&self.mountpoint, false) {
            Ok(()) => Ok(Ending::Unmounted),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                detach(&self.mountpoint, true).map(|()| Ending::StillUsed)
            }
            // Somebody else unmounted it meanwhile.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => {
                Ok(Ending::Unmounted)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes everything durable and closes the tree, once; what still uses it gets errors from then on.
    pub fn close(&self) -> io::Result<()> {
        let mut closed = self.closed.lock();
        let result = match *closed {
            Some(true) => return Ok(()),
            Some(false) => Err(io::Error::other("the store was not closed cleanly")),
            None => self.close_once(),
        };
        *closed = Some(result.is_ok());
        result
    }

    /// Is called when nobody comes through the mount any more, before the tree is closed.
    pub fn before_close(&self, farewell: impl FnOnce() + Send + 'static) {
        self.before_close.lock().push(Box::new(farewell));
    }

    fn close_once(&self) -> io::Result<()> {
        let farewells = std::mem::take(&mut *self.before_close.lock());
        farewells.into_iter().for_each(|farewell| farewell());
        let unmounted = self.fs.unmount().map_err(io::Error::other);
        // Whatever came of that, the store must not stay open.
        let closed = self.fs.store().close().map_err(io::Error::other);
        unmounted.and(closed)
    }
}
