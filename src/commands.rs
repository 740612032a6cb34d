//! One file for each command; what several of them need is here.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use blocktree_engine::device::{Access, open_volume};
use blocktree_engine::{OpenOptions, Store};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Result;
use crate::mount_list::{resolve, store_mounts};
use crate::passphrase::obtain;

pub(crate) mod check;
pub(crate) mod info;
pub(crate) mod init;
pub(crate) mod mount;
pub(crate) mod scrub;
pub(crate) mod snapshot;
pub(crate) mod umount;

/// Opens the store at `path`, which is not mounted.
pub(crate) fn open_store(path: &Path, passphrase_file: Option<&Path>, is_read_only: bool) -> Result<Store> {
    refuse_if_mounted(path)?;
    let access = if is_read_only { Access::ReadOnly } else { Access::ReadWrite };
    // Before asking for the passphrase: there may be nothing to open.
    let device = open_volume(path, access)?;
    let passphrase = obtain(passphrase_file, path, false)?;
    let options = OpenOptions { read_only: is_read_only, ..OpenOptions::default() };
    let store = Store::open(device, &passphrase, &options);
    Ok(store.with_context(|| format!("cannot open the store {}", path.display()))?)
}

/// A clearer answer than "in use", where the reason is known.
pub(crate) fn refuse_if_mounted(store: &Path) -> Result<()> {
    let store = resolve(store);
    let mounted = store_mounts().unwrap_or_default().into_iter().find(|mount| mount.store == store);
    match mounted {
        None => Ok(()),
        Some(mount) => Err(anyhow::anyhow!(
            "the store {} is mounted on {}; use that path, or `blocktree umount {}` first",
            store.display(),
            mount.mountpoint.display(),
            mount.mountpoint.display()
        )
        .into()),
    }
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
