//! `blocktree tpm`: passphrases that a TPM keeps, so that a machine opens its store by itself and a stolen disk does not.

mod attest;

use std::path::{Path, PathBuf};
use std::slice;

use anyhow::{Context as _, anyhow};
use blocktree_engine::crypto::{Approver, hexadecimal};
use blocktree_engine::device::Access;
use blocktree_engine::identity::TpmFile;
use blocktree_engine::{OpenOptions, Store};

use super::key::open_backup;
use super::{open_failed, open_volume, print};
use crate::cli::{BackupPassphraseSource, NewPassphraseSource, PassphraseSource};
use crate::failure::{Failure, Result};
use crate::passphrase::{Passphrase, obtain, obtain_another};
use crate::private_file;
use crate::store_key::parse_id;
use crate::tpm::{
    self, APPROVER_CONTEXT, PIN_BYTES_MAX, PcrValues, SECRET_BYTES_MAX, Tpm, approve, approver_of, enroll,
};

/// How many PCRs a TPM has.
const PCRS: u32 = 24;

/// Let a TPM keep passphrases.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show whether there is a TPM and whether it takes PINs, and for which node it keeps a file
    Status {
        /// A file that `tpm enroll` made
        file: Option<PathBuf>,
    },
    /// Let the TPM keep a store's passphrase; commands take it with --passphrase-from tpm:FILE
    Enroll {
        /// A store that is not mounted
        store: PathBuf,
        /// A new file for what the TPM makes of it
        file: PathBuf,
        /// PCRs that must be as they are now, such as 7 or 0,2,7; none: do not ask for any
        #[arg(long, value_name = "LIST", default_value = "7", value_parser = parse_pcrs)]
        pcrs: u32,
        /// Ask for a PIN too; where it comes from, --new-passphrase-file and -from say
        #[arg(long)]
        pin: bool,
        #[command(flatten)]
        passphrase: PassphraseSource,
        #[command(flatten)]
        new_passphrase: NewPassphraseSource,
    },
    /// Approve how the machine starts now, or will: the TPM gives the passphrase out then, too
    Approve {
        /// The store, which is not mounted
        store: PathBuf,
        /// The file that `tpm enroll` made for it
        file: PathBuf,
        /// A value of SHA-256 that a PCR will have, such as 7=1f3d...; may be repeated; those not named: as they are now
        #[arg(long = "pcr", value_name = "NUMBER=VALUE", value_parser = parse_pcr_value)]
        pcrs: Vec<(u32, [u8; 32])>,
        /// Take the owner key from this backup instead of the store
        #[arg(long, value_name = "BACKUP", conflicts_with_all = ["passphrase_file", "passphrase_from"])]
        backup: Option<PathBuf>,
        #[command(flatten)]
        backup_passphrase: BackupPassphraseSource,
        #[command(flatten)]
        passphrase: PassphraseSource,
    },
    #[command(subcommand)]
    Attest(attest::Command),
    /// Forget what a TPM keeps in a file; the store keeps its passphrase
    Remove {
        /// The file that `tpm enroll` made, or an anchor's, whose counter goes with it
        file: PathBuf,
    },
}

pub(crate) fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Status { file } => {
            let file = file.as_deref().map(tpm::read).transpose()?;
            let mut tpm = Tpm::open()?;
            let status = tpm.status()?;
            let node = file.map_or(Ok(String::new()), |file| describe_node(&mut tpm, &file))?;
            let lock = if status.is_locked { "locked: it takes no PIN for now" } else { "takes PINs" };
            print(&format!(
                "Maker:      {}\nPINs:       {lock}\nWrong PINs: {} of {} that lock it\n{node}",
                status.maker, status.failures, status.failures_max
            ))?;
        }
        Command::Enroll { store, file, pcrs, pin, passphrase, new_passphrase } => {
            private_file::refuse_existing(file)?;
            if new_passphrase.source().is_some() && !pin {
                return Err(Failure::usage("a new passphrase is for the PIN; add --pin"));
            }
            // Before asking for the passphrase.
            let mut tpm = Tpm::open()?;
            let (secret, opened) = open(store, passphrase)?;
            if secret.len() > SECRET_BYTES_MAX {
                return Err(anyhow!(
                    "a TPM keeps at most {SECRET_BYTES_MAX} bytes; choose a shorter passphrase"
                )
                .into());
            }
            let pin = match pin {
                true => Some(obtain_another(new_passphrase.source().as_ref(), file, true)?),
                false => None,
            };
            if pin.as_ref().is_some_and(|pin| pin.len() > PIN_BYTES_MAX) {
                return Err(anyhow!("a PIN has at most {PIN_BYTES_MAX} bytes").into());
            }
            let pin = pin.as_ref().map(|pin| pin.as_slice());
            enroll(&mut tpm, file, &secret, *pcrs, pin, &opened)?;
            opened.close().context("cannot close the store")?;
            let file = file.display();
            print(&format!("The TPM keeps the passphrase: --passphrase-from tpm:{file}\n"))?;
        }
        Command::Approve { store, file, pcrs, backup, backup_passphrase, passphrase } => {
            let mut kept = tpm::read(file)?;
            let sealed = &mut kept.sealed;
            let Some(approvals) = &mut sealed.approvals else {
                return Err(anyhow!("{} asks for no PCR that could be approved", file.display()).into());
            };
            let named: PcrValues = pcrs.iter().copied().collect();
            if let Some(other) = named.keys().find(|pcr| sealed.pcrs & 1 << **pcr == 0) {
                return Err(Failure::usage(format!("{} does not ask for PCR {other}", file.display())));
            }
            let mut tpm = Tpm::open()?;
            let secret = match backup {
                Some(backup) => {
                    let keys = open_backup(slice::from_ref(backup), backup_passphrase.source().as_ref())?;
                    keys.owner.derive(APPROVER_CONTEXT)
                }
                None => {
                    let opened = open(store, passphrase)?.1;
                    opened.close().context("cannot close the store")?;
                    approver_of(&opened)?
                }
            };
            let approver = Approver::from_secret(&secret);
            if approvals.approver != *approver.public() {
                let (file, store) = (file.display(), store.display());
                return Err(anyhow!("{file} was made for another store than {store}").into());
            }
            approve(&mut tpm, sealed.pcrs, &named, &approver, approvals)?;
            private_file::replace(file, &kept.to_bytes())?;
        }
        Command::Attest(command) => return attest::run(command),
        Command::Remove { file } => {
            tpm::forget(file)?;
            std::fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
    }
    Ok(0)
}

/// A store's passphrase, and the store that it opens.
fn open(store: &Path, passphrase: &PassphraseSource) -> Result<(Passphrase, Store)> {
    let device = open_volume(store, Access::ReadOnly)?;
    let secret = obtain(passphrase.source().as_ref(), store, false)?;
    let options = OpenOptions { read_only: true, background: false, ..OpenOptions::default() };
    let opened = Store::open(device, &secret, &options).map_err(|error| open_failed(error, store))?;
    Ok((secret, opened))
}

/// Whose passphrase the TPM keeps in a file, as a key says that this TPM has.
fn describe_node(tpm: &mut Tpm, file: &TpmFile) -> anyhow::Result<String> {
    let statement = &file.node;
    tpm.check_node_key(&statement.key)?;
    Ok(format!(
        "Store:      {}\nNode:       {}\nTPM key:    {}, which signed that this is the node\n",
        hexadecimal(&statement.store_id),
        statement.node,
        statement.key_fingerprint()
    ))
}

/// `7=` and 64 hexadecimal digits.
fn parse_pcr_value(text: &str) -> std::result::Result<(u32, [u8; 32]), String> {
    let parse = || {
        let (number, value) = text.split_once('=')?;
        Some((number.parse().ok().filter(|number| *number < PCRS)?, parse_id(value).ok()?))
    };
    parse().ok_or_else(|| "a number from 0 to 23, =, and 64 hexadecimal digits".to_owned())
}

/// `7`, `0,2,7`, or `none`.
pub(super) fn parse_pcrs(text: &str) -> std::result::Result<u32, String> {
    if text == "none" {
        return Ok(0);
    }
    let bit =
        |number: &str| number.parse::<u32>().ok().filter(|number| *number < PCRS).map(|number| 1 << number);
    let bits: Option<Vec<u32>> = text.split(',').map(bit).collect();
    bits.map(|bits| bits.iter().fold(0, |all, bit| all | bit))
        .ok_or_else(|| "numbers from 0 to 23 between commas, or none".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pcrs_are_numbers() {
        assert_eq!(parse_pcrs("7"), Ok(0x80));
        assert_eq!(parse_pcrs("0,2,7"), Ok(0x85));
        assert_eq!(parse_pcrs("none"), Ok(0));
        for text in ["", "24", "-1", "7,", "x"] {
            assert!(parse_pcrs(text).is_err(), "{text}");
        }
        let digits = "0a".repeat(32);
        assert_eq!(parse_pcr_value(&format!("7={digits}")), Ok((7, [10; 32])));
        for text in ["7", "7=0a", &format!("24={digits}"), &digits] {
            assert!(parse_pcr_value(text).is_err(), "{text}");
        }
    }
}
