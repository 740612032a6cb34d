//! `blocktree init`: makes a store.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use blocktree_engine::crypto::{KdfCost, random};
use blocktree_engine::device::{Device, VolumeError, create_volume};
use blocktree_engine::limits::SECTOR_BYTES;
use blocktree_engine::{CreateOptions, OpenOptions, Store, read_master_keys};
use blocktree_vfs::Fs;
use zeroize::Zeroizing;

use super::key::write_backup;
use super::tpm::parse_pcrs;
use super::{print, refuse_if_mounted};
use crate::anchor::Choice;
use crate::cli::{BackupPassphraseSource, PassphraseSource, parse_size};
use crate::failure::Result;
use crate::passphrase::{Passphrase, obtain, obtain_another};
use crate::tpm::{PCRS_USUAL, Tpm, enroll};
use crate::{private_file, signature, size, system};

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
    /// Have the TPM keep a random passphrase, in this new file; commands take it with --passphrase-from tpm:FILE
    #[arg(long, value_name = "FILE", requires = "backup")]
    #[arg(conflicts_with_all = ["passphrase_file", "passphrase_from"])]
    tpm: Option<PathBuf>,
    /// With --tpm: PCRs that must be as they are now, such as 7 or 0,2,7; 7 if not said; none: do not ask for any
    #[arg(long, value_name = "LIST", requires = "tpm", value_parser = parse_pcrs)]
    pcrs: Option<u32>,
    /// With --tpm: write a backup of the keys into this new file, for when the TPM is lost
    #[arg(long, value_name = "FILE", requires = "tpm")]
    backup: Option<PathBuf>,
    #[command(flatten)]
    backup_passphrase: BackupPassphraseSource,
    /// Overwrite what is on a block device
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<u8> {
    let path = &arguments.store;
    refuse_if_mounted(path)?;
    refuse_what_is_there(path, arguments.force)?;
    // Before asking for anything, and before making anything.
    let keeper = Keeper::of(arguments)?;
    let passphrase = match &keeper {
        Some(_) => random_passphrase(),
        None => obtain(arguments.passphrase.source().as_ref(), path, true)?,
    };
    let volume = create_volume(path, arguments.size).map_err(explain)?;
    let options = CreateOptions { capacity_sectors: volume.capacity_sectors, kdf: KdfCost::STANDARD };
    let open_options = OpenOptions { anchor: Choice::Usual.anchor(), ..OpenOptions::default() };
    let made = Store::create_with(volume.device.clone(), &passphrase, &options, &open_options)
        .map_err(anyhow::Error::from)
        .and_then(|store| {
            format(&store)?;
            keeper.map_or(Ok(()), |keeper| keeper.keep(&store, &*volume.device, &passphrase))
        });
    if let Err(error) = made {
        volume.discard();
        return Err(error.context(format!("cannot make a store in {}", path.display())).into());
    }
    let capacity = size::display(volume.capacity_sectors * SECTOR_BYTES as u64);
    print(&format!("Made the store {}, for up to {capacity}.\n", path.display()))?;
    if let (Some(file), Some(backup)) = (&arguments.tpm, &arguments.backup) {
        let (file, backup) = (file.display(), backup.display());
        print(&format!(
            "The TPM keeps its passphrase: --passphrase-from tpm:{file}\n\
             Nobody else knows it: without the TPM, the keys are in {backup} alone.\n"
        ))?;
    }
    Ok(0)
}

/// What keeps a store's keys where people have no passphrase for it: the TPM, and a backup.
struct Keeper<'a> {
    tpm: Tpm,
    file: &'a Path,
    pcrs: u32,
    backup: &'a Path,
    backup_passphrase: Passphrase,
}

impl<'a> Keeper<'a> {
    fn of(arguments: &'a Arguments) -> anyhow::Result<Option<Self>> {
        let (Some(file), Some(backup)) = (&arguments.tpm, &arguments.backup) else { return Ok(None) };
        for file in [file, backup] {
            private_file::refuse_existing(file)?;
        }
        let tpm = Tpm::open()?;
        let backup_passphrase = obtain_another(arguments.backup_passphrase.source().as_ref(), backup, true)?;
        let pcrs = arguments.pcrs.unwrap_or(PCRS_USUAL);
        Ok(Some(Self { tpm, file, pcrs, backup, backup_passphrase }))
    }

    /// Makes both files, or none.
    fn keep(mut self, store: &Store, device: &dyn Device, passphrase: &[u8]) -> anyhow::Result<()> {
        let keys = read_master_keys(device, passphrase).context("cannot read its keys")?;
        write_backup(&keys, &[self.backup.to_owned()], None, Some(&self.backup_passphrase))?;
        let enrolled = enroll(&mut self.tpm, self.file, passphrase, self.pcrs, None, store);
        if enrolled.is_err() {
            let _ = std::fs::remove_file(self.backup);
        }
        enrolled
    }
}

/// One that nobody needs to type: 256 bits.
fn random_passphrase() -> Passphrase {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let random = Zeroizing::new(random::<32>());
    // Text, since what reads passphrases takes a newline at the end for none of it.
    let digits = random.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let mut passphrase = Passphrase::new(Vec::with_capacity(64));
    passphrase.extend(digits.map(|digit| DIGITS[usize::from(digit)]));
    passphrase
}

/// Makes the root directory, which belongs to the caller, and makes it all durable.
fn format(store: &Store) -> anyhow::Result<()> {
    let (user, group) = system::effective_user_and_group();
    Fs::format(store, user, group).context("cannot make its root directory")?;
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
