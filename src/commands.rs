//! One file for each command; what several of them need is here.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use blocktree_engine::device::{Access, Device, VolumeError};
use blocktree_engine::{OpenError, OpenOptions, Store};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::anchor::Choice;
use crate::failure::Result;
use crate::mount_list::{StoreMount, mounts_of, resolve, store_mounted_on};
use crate::passphrase::Source;
use crate::store_key::{HolderArguments, StoreKey};

#[cfg(feature = "apps")]
pub(crate) mod app;
pub(crate) mod cap;
pub(crate) mod check;
pub(crate) mod info;
pub(crate) mod init;
pub(crate) mod key;
pub(crate) mod log;
pub(crate) mod mount;
pub(crate) mod principal;
pub(crate) mod request;
pub(crate) mod samba_config;
pub(crate) mod scrub;
pub(crate) mod snapshot;
pub(crate) mod tpm;
pub(crate) mod umount;
mod unshare;

/// Opens the store at `path`, which is not mounted.
pub(crate) fn open_store(path: &Path, source: Option<&Source>, is_read_only: bool) -> Result<Store> {
    open_store_as(path, source, &HolderArguments::default(), is_read_only)
}

/// As [`open_store`], by a principal where one is named.
pub(crate) fn open_store_as(
    path: &Path,
    source: Option<&Source>,
    holder: &HolderArguments,
    is_read_only: bool,
) -> Result<Store> {
    let access = if is_read_only { Access::ReadOnly } else { Access::ReadWrite };
    // Before asking for the passphrase: there may be nothing to open.
    let device = open_volume(path, access)?;
    let key = StoreKey::obtain(source, holder, path)?;
    let options = OpenOptions {
        read_only: is_read_only,
        anchor: Choice::Usual.anchor(),
        // What only reads may show what is there.
        accept_rollback: is_read_only,
        ..OpenOptions::default()
    };
    Ok(Store::open_as(device, &key.credential(), &options).map_err(|error| open_failed(error, path))?)
}

/// What to tell of a store that does not open, and what to do where the error itself does not say so.
pub(crate) fn open_failed(error: OpenError, path: &Path) -> anyhow::Error {
    let is_damage = matches!(error, OpenError::Space(_) | OpenError::Store(_) | OpenError::Read(_));
    let advice = if is_damage { DAMAGE_ADVICE } else { "" };
    anyhow::Error::from(error).context(format!("cannot open the store {}{advice}", path.display()))
}

pub(crate) const DAMAGE_ADVICE: &str = " (`blocktree check` on it shows what is damaged)";

/// Opens the volume of the store at `path`. Where that is in use, says by which mount, if it is one.
pub(crate) fn open_volume(path: &Path, access: Access) -> Result<Arc<dyn Device>> {
    blocktree_engine::device::open_volume(path, access).or_else(|error| refuse(path, error))
}

/// Whether [`open_volume`] can open it now.
pub(crate) fn try_volume(path: &Path, access: Access) -> Result<()> {
    blocktree_engine::device::try_volume(path, access).or_else(|error| refuse(path, error))
}

fn refuse<T>(path: &Path, error: VolumeError) -> Result<T> {
    if matches!(error, VolumeError::Busy { .. }) {
        refuse_if_mounted(path)?;
    }
    Err(error.into())
}

pub(crate) fn refuse_if_mounted(store: &Path) -> Result<()> {
    match mounts_of(store).unwrap_or_default().first() {
        None => Ok(()),
        Some(mount) => Err(anyhow::anyhow!(
            "the store {} is mounted on {}; use that path, or `blocktree umount {}` first",
            resolve(store).display(),
            mount.mountpoint.display(),
            mount.mountpoint.display()
        )
        .into()),
    }
}

/// The mount whose daemon answers for `path`: the one on it, or else one of the store at it. `None` where `path` is a
/// store that no daemon has open; mounts of its snapshots do not count.
pub(crate) fn find_mount(path: &Path) -> anyhow::Result<Option<StoreMount>> {
    const WHAT: &str = "cannot read the list of mounts";
    if let Some(mount) = store_mounted_on(path).context(WHAT)? {
        return Ok(Some(mount));
    }
    let mount = mounts_of(path).context(WHAT)?.into_iter().next();
    let is_busy = |_: &StoreMount| {
        let opened = blocktree_engine::device::open_volume(path, Access::ReadOnly);
        matches!(opened, Err(VolumeError::Busy { .. }))
    };
    Ok(mount.filter(is_busy))
}

/// Prints to standard output. A reader that has gone away is no failure.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output").map_err(Into::into)
        }
        _ => Ok(()),
    }
}

/// A bar of sectors done, shown only to people.
pub(crate) fn progress_bar(what: &'static str) -> ProgressBar {
    let is_shown = std::io::stderr().is_terminal();
    let target = if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    let style = ProgressStyle::with_template(
        "{prefix} [{bar:32}] {percent:>3}%  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left",
    );
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(what);
    if is_shown {
        bar.enable_steady_tick(Duration::from_millis(250));
    }
    bar
}
