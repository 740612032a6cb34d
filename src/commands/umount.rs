//! `blocktree umount`: unmounts, and waits until the daemon has made everything durable.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use blocktree_engine::device::{Access, VolumeError, try_volume};
use blocktree_vfs::control::{Command, Hello, Plain};
use blocktree_vfs::fuse::detach;

use crate::failure::Result;
use crate::mount_list::store_mounted_on;
use crate::system::{Process, effective_user_and_group, request, says_dead, write_back};

/// Unmount a store.
///
/// Returns once everything is durable. A mount that is in use stays mounted, unless --lazy is given.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the store is mounted
    pub(crate) mountpoint: PathBuf,
    /// Take it out of the tree now, even if it is in use; do not wait
    #[arg(long, short = 'l')]
    pub(crate) lazy: bool,
}

pub(crate) fn run(path: &Path, is_lazy: bool) -> Result<u8> {
    let Some(mount) = store_mounted_on(path).context("cannot read the list of mounts")? else {
        return Err(anyhow!(
            "{} is not where a store is mounted; `findmnt -t fuse.blocktree` lists those",
            path.display()
        )
        .into());
    };
    let mountpoint = mount.mountpoint;
    let root = match File::open(&mountpoint) {
        Ok(root) => root,
        // The daemon is dead: nobody is left to wait for, and nothing to write back to.
        Err(error) if says_dead(&error) => return detach_only(&mountpoint, true),
        // The kernel keeps even root out of other users' mounts, but root may still end them.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && is_root() => {
            detach_only(&mountpoint, is_lazy)?;
            // Who only reads has nothing to make durable, and whoever shows a snapshot has no lock.
            return if is_lazy || mount.is_read_only { Ok(0) } else { wait_for_lock(&mount.store) };
        }
        Err(error) => {
            return Err(anyhow::Error::from(error)
                .context(format!(
                    "cannot open {}; only the user that mounted it and root may unmount it",
                    mountpoint.display()
                ))
                .into());
        }
    };
    if is_lazy {
        return detach_only(&mountpoint, true);
    }
    // What cannot be made durable must not be lost in silence; the mount ends all the same, since trying again
    // would not help.
    let durable = make_durable(&root, &mountpoint);
    let mut hello = Hello::default();
    match request(&root, Command::Hello, &mut hello) {
        Ok(()) => {}
        // A kernel that knows that directories need not be opened lets the root of a dead daemon be opened.
        Err(error) if says_dead(&error) => return detach_only(&mountpoint, true),
        Err(error) => {
            let what = format!("the daemon of {} does not answer", mountpoint.display());
            return Err(anyhow::Error::from(error).context(what).into());
        }
    }
    let daemon = Process::open(hello.process);
    drop(root);
    detach_only(&mountpoint, false)?;
    match daemon {
        Ok(daemon) => daemon.wait().context("cannot wait for the daemon to end")?,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
        Err(error) => {
            return Err(anyhow::Error::from(error).context("cannot wait for the daemon to end").into());
        }
    }
    durable.map(|()| 0)
}

fn make_durable(root: &File, mountpoint: &Path) -> Result<()> {
    let what = || format!("{} is unmounted, but not all of its data is durable", mountpoint.display());
    write_back(root).with_context(what)?;
    Ok(request(root, Command::Sync, &mut Plain::default()).with_context(what)?)
}

fn is_root() -> bool {
    effective_user_and_group().0 == 0
}

/// The daemon has its store locked until it ends.
fn wait_for_lock(store: &Path) -> Result<u8> {
    while let Err(VolumeError::Busy { .. }) = try_volume(store, Access::ReadOnly) {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(0)
}

fn detach_only(mountpoint: &Path, is_lazy: bool) -> Result<u8> {
    match detach(mountpoint, is_lazy) {
        Ok(()) => Ok(0),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Err(anyhow!(
            "{0} is busy: a process has a file open there or works in it; `fuser -vm {0}` shows which",
            mountpoint.display()
        )
        .into()),
        Err(error) => {
            Err(anyhow::Error::from(error).context(format!("cannot unmount {}", mountpoint.display())).into())
        }
    }
}
