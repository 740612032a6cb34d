//! `blocktree key`: the keys of a store that nobody has open, and their backups.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use blocktree_engine::crypto::{Certificate, KdfCost, Principal, hexadecimal};
use blocktree_engine::device::{Access, Device};
use blocktree_engine::identity::{
    BackupFile, Protection, Split, combine, root_from_words, root_to_shares, root_to_words, seal_backup,
    seal_shares,
};
use blocktree_engine::limits::SEALED_FILE_BYTES_MAX;
use blocktree_engine::{
    CapabilityError, MasterKeys, OpenError, OpenOptions, Store, change_passphrase, master_keys_of_root,
    node_of_key_slot, prove_master_keys, read_master_keys, replace_node,
};
use zeroize::Zeroizing;

use super::{open_failed, open_volume, print};
use crate::anchor::Choice;
use crate::cli::{BackupPassphraseSource, NewPassphraseSource, PassphraseSource};
use crate::failure::Result;
use crate::passphrase::{Passphrase, Source, obtain, obtain_another};
use crate::private_file;

/// Words of all that a root key may be written as.
const WORDS_BYTES_MAX: usize = 4096;

/// Back up and change the keys of a store.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write all keys of a store into a file, or into several shares
    Backup {
        /// A store that is not mounted
        store: PathBuf,
        /// A new file; of shares, FILE.1, FILE.2 and so on are made
        #[arg(required_unless_present = "words")]
        file: Option<PathBuf>,
        /// Make N shares, of which any K give the keys back: K-of-N, such as 2-of-3
        #[arg(long, value_name = "K-of-N", value_parser = parse_split)]
        split: Option<Split>,
        /// Print the root key as words, to write them down; the store then opens by them
        #[arg(long)]
        words: bool,
        /// Keep the backup without a passphrase: whoever can read it, or enough shares, has the store
        #[arg(long, conflicts_with_all = ["backup_passphrase_file", "backup_passphrase_from"])]
        no_backup_passphrase: bool,
        #[command(flatten)]
        backup_passphrase: BackupPassphraseSource,
        #[command(flatten)]
        passphrase: PassphraseSource,
    },
    /// Show that a backup opens, and that its keys are those of a store
    VerifyBackup {
        /// A store that is not mounted
        store: PathBuf,
        #[command(flatten)]
        backup: Backup,
    },
    /// Give a store a new passphrase and a new node from a backup
    Restore {
        /// A store that is not mounted
        store: PathBuf,
        #[command(flatten)]
        backup: Backup,
        /// From now on, refuse what the node writes that the store had: its machine is lost
        #[arg(long)]
        revoke_old_node: bool,
        #[command(flatten)]
        new_passphrase: NewPassphraseSource,
    },
    /// Keep a store's keys under another passphrase
    ChangePassphrase {
        /// A store that is not mounted
        store: PathBuf,
        #[command(flatten)]
        passphrase: PassphraseSource,
        #[command(flatten)]
        new_passphrase: NewPassphraseSource,
    },
    /// Take the root key out of a store, once a backup is shown to have it
    RemoveRoot {
        /// A store that is not mounted
        store: PathBuf,
        #[command(flatten)]
        backup: Backup,
        #[command(flatten)]
        passphrase: PassphraseSource,
    },
}

/// A backup: one file, or as many shares as are needed, or words.
#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    /// The backup, or as many of its shares as are needed
    #[arg(required_unless_present = "words", conflicts_with = "words")]
    files: Vec<PathBuf>,
    /// Take the root key from the words in this file (- for standard input); once for each share
    #[arg(long, value_name = "FILE")]
    words: Vec<PathBuf>,
    #[command(flatten)]
    passphrase: BackupPassphraseSource,
}

pub(crate) fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Backup {
            store,
            file,
            split,
            words,
            no_backup_passphrase,
            backup_passphrase,
            passphrase,
        } => {
            let files = file.as_deref().map(|file| names(file, *split)).unwrap_or_default();
            files.iter().try_for_each(|file| private_file::refuse_existing(file))?;
            let access = if *words { Access::ReadWrite } else { Access::ReadOnly };
            let device = open_volume(store, access)?;
            let passphrase = obtain(passphrase.source().as_ref(), store, false)?;
            let keys = read_master_keys(&*device, &passphrase).map_err(|error| no_keys(error, store))?;
            if let Some(file) = file {
                let passphrase = match no_backup_passphrase {
                    true => None,
                    false => Some(obtain_another(backup_passphrase.source().as_ref(), file, true)?),
                };
                write_backup(&keys, &files, *split, passphrase.as_ref())?;
            }
            if *words {
                let text = words_of(&keys, *split)?;
                let_root_in(device, &passphrase, &keys.root, store)?;
                print(&text)?;
            }
            for file in &files {
                print(&format!("Wrote {}.\n", file.display()))?;
            }
        }
        Command::VerifyBackup { store, backup } => {
            let device = open_volume(store, Access::ReadOnly)?;
            let keys = backup.open(&*device, store)?;
            prove(device, &keys, store)?;
            print(&format!(
                "The backup opens, and its keys are those of {}: its tree was opened with them.\n",
                store.display()
            ))?;
        }
        Command::Restore { store, backup, revoke_old_node, new_passphrase } => {
            restore(store, backup, *revoke_old_node, new_passphrase.source().as_ref())?;
        }
        Command::ChangePassphrase { store, passphrase, new_passphrase } => {
            let device = open_volume(store, Access::ReadWrite)?;
            let old = obtain(passphrase.source().as_ref(), store, false)?;
            // Before asking for the new one.
            check_passphrase(device.clone(), &old, store)?;
            let new = obtain_another(new_passphrase.source().as_ref(), store, true)?;
            change_passphrase(&device, &old, &new, KdfCost::STANDARD)
                .map_err(|error| open_failed(error, store))?;
            print(&format!("Changed the passphrase of {}.\n", store.display()))?;
        }
        Command::RemoveRoot { store, backup, passphrase } => {
            let device = open_volume(store, Access::ReadWrite)?;
            let keys = backup.open(&*device, store)?;
            prove(device.clone(), &keys, store)?;
            let passphrase = obtain(passphrase.source().as_ref(), store, false)?;
            let opened = open(device, &passphrase, store)?;
            let removed = opened.remove_root_slot();
            opened.close().context("cannot close the store")?;
            removed.context("cannot take the root key out")?;
            print(&format!("{} has no root key any more; keep the backup well.\n", store.display()))?;
        }
    }
    Ok(0)
}

fn restore(store: &Path, backup: &Backup, revoke: bool, source: Option<&Source>) -> Result<()> {
    let device = open_volume(store, Access::ReadWrite)?;
    let keys = backup.open(&*device, store)?;
    prove(device.clone(), &keys, store)?;
    let old = node_of_key_slot(&*device, &keys.store_id).context("cannot read the key slot")?;
    let old = old.and_then(|bytes| Certificate::verify(&bytes, &keys.store_id).ok());
    if revoke && old.is_none() {
        return Err(anyhow!(
            "{} does not say any more which node it had, so that one cannot be revoked; nothing was changed. \
             Restore it without --revoke-old-node, and see `blocktree cap list`",
            store.display()
        )
        .into());
    }
    let passphrase = obtain_another(source, store, true)?;
    replace_node(&device, &keys, &passphrase, KdfCost::STANDARD)
        .map_err(|error| open_failed(error, store))?;
    let opened = open(device, &passphrase, store)?;
    let revoked = match old.filter(|_| revoke) {
        Some(old) => opened.revoke_writecap(Some(&keys.root), old.serial()),
        None => Ok(()),
    };
    opened.close().context("cannot close the store")?;
    let store = store.display();
    match (old, revoked) {
        // The index had never heard of it, so nothing of it counts.
        (_, Err(CapabilityError::NoSuch)) => {}
        (_, Err(error)) => {
            let error = anyhow::Error::from(error);
            return Err(error
                .context(format!("{store} has a new node, but the old one is not revoked"))
                .into());
        }
        (Some(old), Ok(())) if !revoke => {
            let id = hexadecimal(&old.subject().id());
            print(&format!("The old node {id} may still write; `blocktree cap revoke` ends that.\n"))?;
        }
        _ => {}
    }
    print(&format!("{store} has a new node, under the new passphrase.\n"))
}

/// Opens the store for writing, whatever an anchor elsewhere remembers of it.
fn open(device: Arc<dyn Device>, passphrase: &[u8], path: &Path) -> anyhow::Result<Store> {
    let options = OpenOptions { anchor: Choice::Usual.anchor(), ..OpenOptions::default() };
    Store::open(device, passphrase, &options).map_err(|error| open_failed(error, path))
}

fn check_passphrase(device: Arc<dyn Device>, passphrase: &[u8], path: &Path) -> anyhow::Result<()> {
    let options = OpenOptions { read_only: true, background: false, ..OpenOptions::default() };
    let store = Store::open(device, passphrase, &options).map_err(|error| open_failed(error, path))?;
    store.close().context("cannot close the store")
}

/// The principal that is the root gets an access slot, so that its key, which is what the words are, opens the store.
fn let_root_in(
    device: Arc<dyn Device>,
    passphrase: &[u8],
    root: &Principal,
    path: &Path,
) -> anyhow::Result<()> {
    let store = open(device, passphrase, path)?;
    let public = root.public();
    let list = store.access_list();
    let granted = list.and_then(|list| {
        let is_in = list.iter().any(|access| access.principal == public && access.is_owner);
        if is_in { Ok(()) } else { store.grant_access(&public, true) }
    });
    store.close().context("cannot close the store")?;
    granted.context("cannot let the root key open the store")
}

pub(super) fn write_backup(
    keys: &MasterKeys,
    files: &[PathBuf],
    split: Option<Split>,
    passphrase: Option<&Passphrase>,
) -> anyhow::Result<()> {
    let time_ns = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let protection = passphrase
        .map_or(Protection::None, |passphrase| Protection::Passphrase(passphrase, KdfCost::STANDARD));
    let contents = match split {
        None => vec![seal_backup(keys, time_ns, protection)],
        Some(split) => seal_shares(keys, time_ns, split, protection),
    };
    files.iter().zip(&contents).try_for_each(|(file, bytes)| private_file::write_new(file, bytes))
}

/// The files of a backup.
fn names(file: &Path, split: Option<Split>) -> Vec<PathBuf> {
    let Some(split) = split else { return vec![file.to_owned()] };
    let share = |number| {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{number}"));
        name.into()
    };
    (1..=split.shares()).map(share).collect()
}

/// The root key on a page, or on one for each share. Lines with # are for people.
fn words_of(keys: &MasterKeys, split: Option<Split>) -> anyhow::Result<Zeroizing<String>> {
    let head = format!(
        "# Root key of the store {}\n# Root principal {}\n",
        hexadecimal(&keys.store_id),
        hexadecimal(&keys.root.public().id())
    );
    let mut text = Zeroizing::new(String::with_capacity(64 << 10));
    let mut page = |title: &str, words: &[&str]| {
        text.push_str(&head);
        text.push_str(title);
        for (row, words) in words.chunks(4).enumerate() {
            for (column, word) in words.iter().enumerate() {
                text.push_str(&format!("{:>2}. {word:<10}", 4 * row + column + 1));
            }
            text.push('\n');
        }
        text.push('\n');
    };
    match split {
        None => page("", &root_to_words(&keys.root)?),
        Some(split) => {
            for (number, words) in (1..).zip(root_to_shares(&keys.root, split)?) {
                let (shares, needed) = (split.shares(), split.needed());
                page(&format!("# Share {number} of {shares}; any {needed} of them give the key\n"), &words);
            }
        }
    }
    Ok(text)
}

impl Backup {
    /// The keys that it holds, or, of words, those that the root's key opens in the store.
    fn open(&self, device: &dyn Device, store: &Path) -> anyhow::Result<MasterKeys> {
        if self.words.is_empty() {
            return open_backup(&self.files, self.passphrase.source().as_ref());
        }
        let lists = self.words.iter().map(|file| read_words(file)).collect::<anyhow::Result<Vec<_>>>()?;
        let root = root_from_words(&lists).context("cannot make a root key of these words")?;
        master_keys_of_root(device, &root).map_err(|error| {
            let advice = match error {
                OpenError::NoAccess | OpenError::OtherRoot => {
                    "; they are another store's, or the store never let them in (`blocktree key backup --words`)"
                }
                _ => "",
            };
            let what = format!("cannot open {} with these words{advice}", store.display());
            anyhow::Error::from(error).context(what)
        })
    }
}

/// The keys in a backup's file, or in as many shares as are needed.
pub(super) fn open_backup(paths: &[PathBuf], source: Option<&Source>) -> anyhow::Result<MasterKeys> {
    let mut files = Vec::new();
    for path in paths {
        let bytes = private_file::read(path, SEALED_FILE_BYTES_MAX)?;
        let file = BackupFile::parse(&bytes);
        files.push((path, file.with_context(|| format!("{} is of no use", path.display()))?));
    }
    let mut parts = Vec::new();
    for (path, file) in &files {
        let passphrase = match file.is_protected() {
            true => obtain_another(source, path, false)?,
            false => Passphrase::default(),
        };
        let part = file.open(&passphrase);
        parts.push(part.with_context(|| format!("cannot open the backup {}", path.display()))?);
    }
    combine(&parts).with_context(|| match paths {
        [file] => format!("cannot use the backup {}", file.display()),
        _ => "cannot put these shares of a backup together".to_owned(),
    })
}

fn read_words(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Zeroizing::new(Vec::with_capacity(WORDS_BYTES_MAX + 1));
        let input = std::io::stdin().lock();
        let read = input.take(WORDS_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
        read.context("cannot read the words from standard input")?;
        bytes
    } else {
        private_file::read(path, WORDS_BYTES_MAX)?
    };
    let Ok(text) = std::str::from_utf8(&bytes) else { bail!("{} holds no words", path.display()) };
    let mut words = Zeroizing::new(String::with_capacity(bytes.len() + 1));
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        words.push_str(line);
        words.push('\n');
    }
    Ok(words)
}

fn prove(device: Arc<dyn Device>, keys: &MasterKeys, store: &Path) -> anyhow::Result<()> {
    prove_master_keys(device, keys).map_err(|error| {
        let what = format!("the keys of the backup do not open {}; nothing was changed", store.display());
        anyhow::Error::from(error).context(what)
    })
}

fn no_keys(error: OpenError, store: &Path) -> anyhow::Error {
    let advice = match error {
        OpenError::NoRootSlot => {
            "; the root key was taken out of it, so only the backup that was made then has it"
        }
        _ => "",
    };
    anyhow::Error::from(error).context(format!("cannot read the keys of {}{advice}", store.display()))
}

/// `2-of-3`, or `2/3`.
fn parse_split(text: &str) -> std::result::Result<Split, String> {
    let parts = text.split_once("-of-").or_else(|| text.split_once('/'));
    let numbers =
        parts.and_then(|(needed, shares)| Some((u8::from_str(needed).ok()?, u8::from_str(shares).ok()?)));
    numbers
        .and_then(|(needed, shares)| Split::new(needed, shares))
        .ok_or_else(|| "such as 2-of-3: at least 2, of at most 15".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_written_as_words() {
        for text in ["2-of-3", "2/3"] {
            let split = parse_split(text).unwrap();
            assert_eq!((split.needed(), split.shares()), (2, 3));
        }
        for text in ["", "2", "1-of-3", "4-of-3", "2-of-16", "-1-of-3", "2-of-300", "a-of-b"] {
            assert!(parse_split(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shares_have_files_of_their_own() {
        assert_eq!(names(Path::new("/a/keys"), None), [Path::new("/a/keys")]);
        let files = names(Path::new("/a/keys"), Split::new(2, 3));
        assert_eq!(files, ["/a/keys.1", "/a/keys.2", "/a/keys.3"].map(Path::new));
    }
}
