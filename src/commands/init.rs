//! `blocktree init`: makes a store.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{VolumeError, create_volume};
use blocktree_engine::limits::SECTOR_BYTES;
use blocktree_engine::{CreateOptions, OpenOptions, Store};
use blocktree_vfs::Fs;

use super::{print, refuse_if_mounted};
use crate::anchor::Choice;
use crate::cli::{PassphraseSource, parse_size};
use crate::failure::Result;
use crate::passphrase::obtain;
use crate::{signature, size, system};

/// Make a new store.
///
/// STORE is a directory, which is made if it does not exist, or a block device. A directory that contains anything is
/// refused; a block device with a known filesystem on it is refused without --force.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A new or empty directory, or a block device
    store: PathBuf,
    /// How large the store may become, such as 10G; a directory's volume grows as it is filled
    #[arg(long, value_parser = parse_size)]
    size: Option<u64>,
    #[command(flatten)]
    passphrase: PassphraseSource,
    /// Overwrite what is on a block device
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<u8> {
    let path = &arguments.store;
    refuse_if_mounted(path)?;
    refuse_what_is_there(path, arguments.force)?;
    let passphrase = obtain(arguments.passphrase.source().as_ref(), path, true)?;
    let volume = create_volume(path, arguments.size).map_err(explain)?;
    let options = CreateOptions { capacity_sectors: volume.capacity_sectors, kdf: KdfCost::STANDARD };
    let open_options = OpenOptions { anchor: Choice::Usual.anchor(), ..OpenOptions::default() };
    let made = Store::create_with(volume.device.clone(), &passphrase, &options, &open_options)
        .map_err(anyhow::Error::from)
        .and_then(format);
    if let Err(error) = made {
        volume.discard();
        return Err(error.context(format!("cannot make a store in {}", path.display())).into());
    }
    let capacity = size::display(volume.capacity_sectors * SECTOR_BYTES as u64);
    print(&format!("Made the store {}, for up to {capacity}.\n", path.display()))?;
    Ok(0)
}

/// Makes the root directory, which belongs to the caller, and makes it all durable.
fn format(store: Store) -> anyhow::Result<()> {
    let (user, group) = system::effective_user_and_group();
    Fs::format(&store, user, group).context("cannot make its root directory")?;
    store.close().context("cannot make it durable")
}

fn refuse_what_is_there(path: &Path, is_forced: bool) -> Result<()> {
    let is_block_device = path.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device());
    if !is_block_device || is_forced {
        return Ok(());
    }
    let found =
        signature::find(path).with_context(|| format!("cannot look what is on {}", path.display()))?;
    match found {
        None => Ok(()),
        Some(found) => Err(anyhow!(
            "{} contains {found}; choose another device, or add --force to destroy what is on it",
            path.display()
        )
        .into()),
    }
}

fn explain(error: VolumeError) -> anyhow::Error {
    anyhow::Error::from(error).context("nothing was made")
}
