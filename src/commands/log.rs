//! `blocktree log`: who changed what, when; of mounted stores and of others.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use blocktree_engine::crypto::hexadecimal;
use blocktree_engine::{Seq, Store};
use blocktree_vfs::control::{Command, HISTORY_CHANGES_MAX, HISTORY_CHUNK_BYTES, HistoryChunk};
use blocktree_vfs::{Actor, Event, Fs, MountOptions, Past, PastChange, Time, TreePath};
use serde::{Deserialize, Serialize};

use super::{find_mount, info, open_store, print};
use crate::cli::PassphraseSource;
use crate::date::date;
use crate::failure::{Failure, Result};
use crate::mount_list::{StoreMount, mount_above, resolve};
use crate::system;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A path in a mounted store; or a store or where one is mounted, and a path in its tree
    ///
    /// The path need not exist any more. Of a directory, all changes below it are listed.
    #[arg(value_name = "STORE|MOUNTPOINT] [PATH", num_args = 1..=2, required = true)]
    paths: Vec<PathBuf>,
    /// List so many changes at most
    #[arg(long, value_name = "NUMBER", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(HISTORY_CHANGES_MAX)))]
    limit: u32,
    /// List changes that are older than this one
    #[arg(long, value_name = "SEQUENCE")]
    before: Option<u64>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    passphrase: PassphraseSource,
}

/// A history, as the control channel and `--json` have it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct History {
    /// Newest first.
    changes: Vec<Change>,
    /// For `--before`: there are older ones.
    more_before: Option<u64>,
    /// Milliseconds since 1970: the oldest change that is kept, of whatever file.
    kept_since_ms: Option<u64>,
    /// Older ones are not kept any more.
    is_cut: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Change {
    sequence: u64,
    /// Milliseconds since 1970.
    time_ms: u64,
    what: String,
    /// From the root of the tree; not there where it is not known.
    path: Option<String>,
    new_path: Option<String>,
    inode: Option<u64>,
    /// Public signing key of the node that signed the change.
    author: String,
    /// The principal on whose behalf it was made; not there if that is the node itself.
    actor: Option<String>,
}

impl From<&PastChange> for Change {
    fn from(change: &PastChange) -> Self {
        let text = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
        let (what, inode) = what(&change.entry.event);
        Self {
            sequence: change.entry.seq.0,
            time_ms: milliseconds(change.entry.time),
            what: what.to_owned(),
            path: change.path.as_ref().map(text),
            new_path: change.new_path.as_ref().map(text),
            inode,
            author: hexadecimal(&change.entry.author),
            actor: match change.entry.actor {
                Actor::Node => None,
                Actor::Principal(id) => Some(hexadecimal(&id)),
            },
        }
    }
}

impl From<&Past> for History {
    fn from(past: &Past) -> Self {
        Self {
            changes: past.changes.iter().map(Change::from).collect(),
            more_before: past.more_before.map(|seq| seq.0),
            kept_since_ms: past.kept_since.map(milliseconds),
            is_cut: past.is_cut,
        }
    }
}

/// What an event is called, and what it is about.
pub(crate) fn what(event: &Event) -> (&'static str, Option<u64>) {
    match *event {
        Event::Linked { ino, is_new: true, .. } => ("created", Some(ino)),
        Event::Linked { ino, is_new: false, .. } => ("linked", Some(ino)),
        Event::Unlinked { ino, .. } => ("removed", Some(ino)),
        Event::Renamed { ino, exchanged: false, .. } => ("renamed", Some(ino)),
        Event::Renamed { ino, exchanged: true, .. } => ("exchanged", Some(ino)),
        Event::Data { ino, .. } => ("modified", Some(ino)),
        Event::Settled { ino } => ("settled", Some(ino)),
        Event::Attributes { ino } => ("attributes", Some(ino)),
        Event::Mounted => ("mounted", None),
        Event::Unmounted => ("unmounted", None),
        Event::Overflow => ("missing", None),
    }
}

fn milliseconds(time: Time) -> u64 {
    u64::try_from(time.seconds).unwrap_or(0).saturating_mul(1000) + u64::from(time.nanoseconds / 1_000_000)
}

/// Where the history is to be found.
enum Place {
    Mounted(StoreMount),
    Store(PathBuf),
}

pub(crate) fn run(arguments: &Arguments) -> Result<u8> {
    let before = arguments.before.unwrap_or(u64::MAX);
    let (place, path) = find(&arguments.paths)?;
    let history: History = match &place {
        Place::Mounted(mount) => {
            let path = path.in_tree(|| root_of_mount(mount))?;
            let text = from_daemon(mount, &path, before, arguments.limit)?;
            serde_json::from_str(&text)
                .context("the daemon's answer makes no sense; is it another version?")?
        }
        Place::Store(store) => {
            let store = open_store(store, arguments.passphrase.source().as_ref(), true)?;
            let path = path.in_tree(|| Ok(store.info().root_principal))?;
            let history = read(&store, &path, before, arguments.limit);
            store.close().context("cannot close the store")?;
            history?
        }
    };
    if arguments.json {
        print(&(serde_json::to_string_pretty(&history).context("cannot write JSON")? + "\n"))?;
    } else {
        print(&for_people(&history))?;
    }
    Ok(0)
}

/// A path in a tree, as it was typed.
enum Typed {
    /// Below a mountpoint.
    Bytes(Vec<u8>),
    Tree(TreePath),
}

impl Typed {
    /// From the root of the tree on; empty for the root. `root` is asked for the hexadecimal id of the root principal.
    fn in_tree(&self, root: impl FnOnce() -> anyhow::Result<String>) -> Result<Vec<u8>> {
        match self {
            Self::Bytes(path) => Ok(path.clone()),
            Self::Tree(path) => {
                let root = if path.root().is_some() { Some(root()?) } else { None };
                let root = root.as_deref().map_or(Some([0; 32]), parse_id);
                let root = root.context("the root principal of the store makes no sense")?;
                let names = path.names_in(&root).map_err(|other| Failure::usage(other.to_string()))?;
                Ok(names.iter().flat_map(|name| [b"/", name.as_bytes()].concat()).collect())
            }
        }
    }
}

fn parse_id(text: &str) -> Option<[u8; 32]> {
    let mut id = [0; 32];
    let pairs = text.as_bytes().chunks_exact(2);
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(id)
}

fn find(paths: &[PathBuf]) -> Result<(Place, Typed)> {
    if let [place, path] = paths {
        let text = path.to_str().ok_or_else(|| Failure::usage("the path is not UTF-8"))?;
        let path = text.parse::<TreePath>().map_err(|error| Failure::usage(error.to_string()))?;
        let place = match find_mount(place)? {
            Some(mount) => Place::Mounted(mount),
            None => Place::Store(place.clone()),
        };
        return Ok((place, Typed::Tree(path)));
    }
    let path = paths.first().map(PathBuf::as_path).unwrap_or(Path::new("."));
    // The whole tree of a store, if that is what is named.
    if let Some(mount) = find_mount(path)? {
        return Ok((Place::Mounted(mount), Typed::Bytes(Vec::new())));
    }
    let resolved = resolve_lost(path);
    if let Some(mount) = mount_above(&resolved).context("cannot read the list of mounts")? {
        let below = resolved.strip_prefix(&mount.mountpoint).unwrap_or(Path::new(""));
        let names = below.components().flat_map(|name| [b"/", name.as_os_str().as_bytes()].concat());
        return Ok((Place::Mounted(mount), Typed::Bytes(names.collect())));
    }
    Ok((Place::Store(path.to_owned()), Typed::Bytes(Vec::new())))
}

/// The path without symlinks, as far as it exists: the rest may have been there once.
fn resolve_lost(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // The last part is meant itself, not where it leads.
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else { return absolute };
    match parent.exists() {
        true => resolve(parent).join(name),
        false => resolve_lost(parent).join(name),
    }
}

/// What a store has of a path.
fn read(store: &Store, path: &[u8], before: u64, limit: u32) -> anyhow::Result<History> {
    let options = MountOptions { read_only: true, ..MountOptions::default() };
    let fs = Fs::mount(store.clone(), options).context("cannot read the tree of the store")?;
    if !fs.has_journal() {
        bail!("the store has no history yet: one begins when it is mounted for writing");
    }
    let history = fs.history(&names(path), Seq(before), limit as usize);
    Ok(History::from(&history.context("cannot read the history")?))
}

fn names(path: &[u8]) -> Vec<&[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect()
}

/// What the control channel carries.
pub(crate) fn to_json(
    fs: &Fs,
    path: &[u8],
    before: u64,
    limit: u32,
) -> std::result::Result<String, blocktree_vfs::FsError> {
    let history = fs.history(&names(path), Seq(before), limit as usize)?;
    // A struct of numbers and strings always has a JSON form.
    Ok(serde_json::to_string(&History::from(&history)).unwrap_or_default())
}

fn root_of_mount(mount: &StoreMount) -> anyhow::Result<String> {
    info::root_principal_of(&mount.mountpoint)
}

fn from_daemon(mount: &StoreMount, path: &[u8], before: u64, limit: u32) -> Result<String> {
    /// Others may ask for histories meanwhile, and the daemon keeps one text.
    const TRIES_MAX: usize = 16;
    /// As many changes as there may be, with the longest names.
    const TEXT_BYTES_MAX: u64 = 64 << 20;
    let mountpoint = mount.mountpoint.display();
    let root = File::open(&mount.mountpoint).with_context(|| format!("cannot open {mountpoint}"))?;
    let request = HistoryChunk::request(path, before, limit)
        .ok_or_else(|| Failure::usage(format!("the path is longer than {HISTORY_CHUNK_BYTES} bytes")))?;
    'again: for _ in 0..TRIES_MAX {
        let (mut text, mut stamp) = (Vec::new(), 0);
        loop {
            let mut chunk = HistoryChunk { offset: text.len() as u64, stamp, ..request };
            system::request(&root, Command::History, &mut chunk).map_err(|error| match error.kind() {
                ErrorKind::PermissionDenied => {
                    anyhow!("only root and the user that mounted the store may see its history")
                }
                _ => {
                    anyhow::Error::from(error).context(format!("the daemon of {mountpoint} does not answer"))
                }
            })?;
            if stamp != 0 && chunk.stamp != stamp {
                continue 'again;
            }
            stamp = chunk.stamp;
            text.extend_from_slice(chunk.text());
            if text.len() as u64 >= chunk.total {
                return Ok(String::from_utf8(text).context("the daemon's answer makes no sense")?);
            }
            if chunk.text().is_empty() || chunk.total > TEXT_BYTES_MAX {
                return Err(anyhow!("the daemon's answer makes no sense").into());
            }
        }
    }
    Err(anyhow!("others ask for the history all the time; try again").into())
}

fn for_people(history: &History) -> String {
    let mut text = String::new();
    for change in &history.changes {
        let inode = change.inode.map_or(String::new(), |inode| format!("(inode {inode})"));
        let path = change.path.as_deref().map_or(inode, printable);
        let new_path =
            change.new_path.as_deref().map_or(String::new(), |path| format!(" -> {}", printable(path)));
        let who = match &change.actor {
            None => short(&change.author).to_owned(),
            Some(actor) => format!("{} for {}", short(&change.author), short(actor)),
        };
        let time = format!("{}.{:03}", &date(change.time_ms * 1_000_000)[..19], change.time_ms % 1000);
        text += &format!("{time}  {who}  {:<10} {path}{new_path}\n", change.what);
    }
    if let Some(before) = history.more_before {
        text += &format!("There are older changes: --before {before}\n");
    }
    let since = history.kept_since_ms.map(|time_ms| date(time_ms.saturating_mul(1_000_000)));
    text += &match (since, history.is_cut) {
        (None, _) => "Nothing was changed since this store keeps a history.\n".to_owned(),
        (Some(since), false) => format!("The history begins on {since}.\n"),
        (Some(since), true) => format!("What was before {since} is not kept any more.\n"),
    };
    text
}

/// The beginning of a key or id, to tell one from another.
fn short(hexadecimal: &str) -> &str {
    hexadecimal.get(..12).unwrap_or(hexadecimal)
}

/// Names may hold anything; a terminal is not to obey them.
pub(crate) fn printable(path: &str) -> String {
    path.chars()
        .map(|character| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> Change {
        Change {
            sequence: 7,
            time_ms: 1_795_521_301_042,
            what: "renamed".into(),
            path: Some("/a\u{1b}[31m".into()),
            new_path: Some("/b".into()),
            inode: Some(9),
            author: "0123456789abcdef".into(),
            actor: Some("fedcba9876543210".into()),
        }
    }

    #[test]
    fn people_are_told_all_and_terminals_nothing() {
        let history = History {
            changes: vec![change(), Change { path: None, new_path: None, actor: None, ..change() }],
            more_before: Some(7),
            kept_since_ms: Some(1000),
            is_cut: true,
        };
        assert_eq!(
            for_people(&history),
            "2026-11-24 11:55:01.042  0123456789ab for fedcba987654  renamed    /a\u{fffd}[31m -> /b\n\
             2026-11-24 11:55:01.042  0123456789ab  renamed    (inode 9)\n\
             There are older changes: --before 7\n\
             What was before 1970-01-01 00:00:01 UTC is not kept any more.\n"
        );
        let text = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
    }

    #[test]
    fn paths_that_are_gone_are_resolved_as_far_as_they_exist() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(resolve_lost(&real.join("link/gone/file")), real.join("gone/file"));
        assert_eq!(resolve_lost(&real.join("link")), real.join("link"), "the link itself");
    }

    #[test]
    fn a_certified_path_is_of_one_store() {
        let root = "ab".repeat(32);
        let path = Typed::Tree(format!("/{root}/a/b").parse().unwrap());
        assert_eq!(path.in_tree(|| Ok(root.clone())).unwrap(), b"/a/b");
        assert!(path.in_tree(|| Ok("cd".repeat(32))).is_err());
        assert_eq!(Typed::Tree("/".parse().unwrap()).in_tree(|| bail!("not asked")).unwrap(), b"");
    }
}
