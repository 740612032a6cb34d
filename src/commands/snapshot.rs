//! `blocktree snapshot`: makes, lists, deletes and mounts snapshots, of mounted stores and of others.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use blocktree_engine::SnapshotError;
use blocktree_vfs::control::{self, SNAPSHOT_NAME_BYTES_MAX, SnapshotName, SnapshotPage};
use serde::Serialize;

use super::{find_mount, mount, open_store, print};
use crate::cli::PassphraseSource;
use crate::date::date;
use crate::failure::{Failure, Result};
use crate::passphrase::Source;
use crate::system;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Keep the tree as it is now, under a name
    Create(Named),
    /// List the snapshots
    List {
        /// A store, or where one is mounted
        #[arg(value_name = "STORE|MOUNTPOINT")]
        path: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        passphrase: PassphraseSource,
    },
    /// Delete a snapshot; what only it holds becomes free space
    Delete(Named),
    /// Mount a snapshot, for reading
    Mount {
        /// A directory or block device with a store; it may be mounted at the same time
        store: PathBuf,
        /// The snapshot's name
        #[arg(value_parser = parse_name)]
        name: String,
        /// Where to mount it
        mountpoint: PathBuf,
        /// Mount options between commas, as for `blocktree mount`
        #[arg(short = 'o', value_name = "OPTIONS")]
        options: Vec<OsString>,
        #[command(flatten)]
        passphrase: PassphraseSource,
        /// Stay in the foreground
        #[arg(long)]
        foreground: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    /// A store, or where one is mounted
    #[arg(value_name = "STORE|MOUNTPOINT")]
    path: PathBuf,
    /// The snapshot's name
    #[arg(value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    passphrase: PassphraseSource,
}

/// One line of `snapshot list --json`.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    /// Nanoseconds since 1970.
    time_ns: u64,
    sequence: u64,
}

pub(crate) fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Create(named) => create(named)?,
        Command::Delete(named) => delete(named)?,
        Command::List { path, json, passphrase } => {
            let snapshots = list(path, passphrase.source().as_ref())?;
            print(&if *json {
                serde_json::to_string_pretty(&snapshots).context("cannot write JSON")? + "\n"
            } else {
                snapshots.iter().map(|one| format!("{}  {}\n", date(one.time_ns), one.name)).collect()
            })?;
        }
        Command::Mount { store, name, mountpoint, options, passphrase, foreground } => {
            let mut options = options.clone();
            let escaped = name.replace('\\', "\\\\").replace(',', "\\,");
            options.push(format!("snapshot={escaped}").into());
            return mount::run(&mount::Arguments {
                store: store.clone(),
                mountpoint: mountpoint.clone(),
                options,
                passphrase: passphrase.clone(),
                principal: None,
                foreground: *foreground,
                accept_rollback: false,
                as_daemon: false,
                enrolment: None,
            });
        }
    }
    Ok(0)
}

fn create(Named { path, name, passphrase }: &Named) -> Result<()> {
    if let Some(root) = open_mount(path)? {
        return ask(&root, control::Command::SnapshotCreate, name);
    }
    let store = open_store(path, passphrase.source().as_ref(), false)?;
    let result = match store.snapshot_create(name) {
        Err(SnapshotError::Exists) => Err(exists_already(name)),
        result => result.with_context(|| format!("cannot make the snapshot {name:?}")).map_err(Into::into),
    };
    let closed = store.close();
    result?;
    Ok(closed.context("cannot close the store")?)
}

fn delete(Named { path, name, passphrase }: &Named) -> Result<()> {
    if let Some(root) = open_mount(path)? {
        return ask(&root, control::Command::SnapshotDelete, name);
    }
    let store = open_store(path, passphrase.source().as_ref(), false)?;
    let result = store.snapshot_delete(name).with_context(|| format!("cannot delete the snapshot {name:?}"));
    let closed = store.close();
    if !result? {
        return Err(not_found(name));
    }
    Ok(closed.context("cannot close the store")?)
}

fn list(path: &Path, source: Option<&Source>) -> Result<Vec<Listed>> {
    let Some(root) = open_mount(path)? else {
        let store = open_store(path, source, true)?;
        let closed = store.close();
        let listed = store
            .snapshot_list()
            .into_iter()
            .map(|one| Listed { name: one.name, time_ns: one.time_ns, sequence: one.seq })
            .collect();
        closed.context("cannot close the store")?;
        return Ok(listed);
    };
    let mut snapshots = Vec::new();
    loop {
        let mut page = SnapshotPage::request(snapshots.len() as u64);
        system::request(&root, control::Command::SnapshotList, &mut page)
            .context("cannot list the snapshots")?;
        for entry in page.entries() {
            let name = entry.name().context("the daemon's answer makes no sense; is it another version?")?;
            snapshots.push(Listed { name: name.to_owned(), time_ns: entry.time_ns, sequence: entry.seq });
        }
        if page.entries().is_empty() || snapshots.len() as u64 >= page.total {
            return Ok(snapshots);
        }
    }
}

/// The root of the mount, if a store is mounted there or is itself there and mounted.
fn open_mount(path: &Path) -> Result<Option<File>> {
    let mount = find_mount(path)?;
    let open = |mount: crate::mount_list::StoreMount| {
        File::open(&mount.mountpoint).with_context(|| format!("cannot open {}", mount.mountpoint.display()))
    };
    Ok(mount.map(open).transpose()?)
}

fn ask(root: &File, command: control::Command, name: &str) -> Result<()> {
    let mut message =
        SnapshotName::new(name).ok_or_else(|| Failure::usage("the name is empty or too long"))?;
    system::request(root, command, &mut message).map_err(|error: io::Error| match error.kind() {
        ErrorKind::AlreadyExists => exists_already(name),
        ErrorKind::NotFound => not_found(name),
        ErrorKind::PermissionDenied => {
            anyhow!("only root and the user that mounted the store may make or delete snapshots").into()
        }
        _ => anyhow::Error::from(error)
            .context(format!("the daemon could not do it for the snapshot {name:?}"))
            .into(),
    })
}

fn exists_already(name: &str) -> Failure {
    anyhow!("there is a snapshot {name:?} already; choose another name, or delete that one first").into()
}

fn not_found(name: &str) -> Failure {
    anyhow!("there is no snapshot {name:?}; `blocktree snapshot list` shows those that there are").into()
}

fn parse_name(text: &str) -> std::result::Result<String, String> {
    if text.is_empty() || text.len() > SNAPSHOT_NAME_BYTES_MAX {
        return Err(format!("a name has 1 to {SNAPSHOT_NAME_BYTES_MAX} bytes"));
    }
    if text.chars().any(|character| character.is_control() || character == '/') {
        return Err("a name has no slashes and no control characters".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        assert!(parse_name("monday evening, 2").is_ok());
        for bad in ["", "a/b", "a\nb", &"x".repeat(256)] {
            assert!(parse_name(bad).is_err());
        }
    }
}
