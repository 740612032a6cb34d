//! `blocktree cap`: who may read and write a store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow};
use blocktree_engine::crypto::{Principal, PublicKeys, Rights, hexadecimal};
use blocktree_engine::device::{Access, Device};
use blocktree_engine::format::BlockId;
use blocktree_engine::{Grant, OpenError, OpenOptions, Store, read_root};
use blocktree_vfs::{Fs, MountOptions, TreePath};
use serde::Serialize;

use super::{open_failed, open_volume, print, request, unshare};
use crate::anchor::Choice;
use crate::cli::PassphraseSource;
use crate::failure::{Failure, Result};
use crate::paths;
use crate::principals::Who;
use crate::store_key::{HolderArguments, StoreKey, parse_serial};

/// A store, and by what it is opened.
#[derive(Debug, clap::Args)]
pub(crate) struct Opening {
    /// A store that is not mounted
    store: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseSource,
    #[command(flatten)]
    holder: HolderArguments,
}

impl Opening {
    pub(super) fn store(&self) -> &Path {
        &self.store
    }
}

/// Who may read and write a store.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Let a principal write the store or a directory, or check and copy it without reading
    Issue {
        #[command(flatten)]
        opening: Opening,
        /// A directory in the store, such as /photos: what is below it, and nothing else
        #[arg(long, value_name = "PATH")]
        path: Option<TreePath>,
        /// Who gets it: a name, a file, or a line that begins with btp1
        #[arg(long, value_name = "PRINCIPAL")]
        to: Who,
        /// r: read a directory; rw: read and write; rwp: and pass that on; none: only keep the store
        #[arg(long, value_name = "RIGHTS", default_value = "rw", value_parser = ["r", "rw", "rwp", "none"])]
        rights: String,
        /// When it ends, from now: a number of s, m, h, d or y; never if not said
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        expires: Option<u64>,
    },
    /// Let a principal read a directory and everything below it
    Share {
        #[command(flatten)]
        opening: Opening,
        /// A directory in the store, such as /photos
        path: TreePath,
        /// Who may read it: a name, a file, or a line that begins with btp1
        #[arg(long, value_name = "PRINCIPAL")]
        to: Who,
        /// When it ends, from now: a number of s, m, h, d or y; never if not said
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        expires: Option<u64>,
    },
    /// Take a directory back from a principal: it and everything below it get new keys
    Unshare {
        #[command(flatten)]
        opening: Opening,
        /// The directory
        path: TreePath,
        /// From whom: a name, a file, or a line that begins with btp1
        #[arg(long, value_name = "PRINCIPAL")]
        from: Who,
        /// Leave what is there under its old keys for now; the same command without this seals it anew
        #[arg(long)]
        lazy: bool,
        /// Overwrite all free space too, so that the volume itself has no old data any more
        #[arg(long, conflicts_with = "lazy")]
        erase: bool,
    },
    /// List who may do what
    List {
        #[command(flatten)]
        opening: Opening,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one capability
    Show {
        #[command(flatten)]
        opening: Opening,
        /// As `cap list` names it
        #[arg(value_parser = parse_serial)]
        serial: u64,
    },
    /// End a principal's right to write; what it wrote before stays
    Revoke {
        #[command(flatten)]
        opening: Opening,
        /// As `cap list` names it
        #[arg(value_parser = parse_serial)]
        serial: u64,
    },
    #[command(flatten)]
    Request(request::Command),
}

/// One line of `cap list`.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Description {
    /// `write`, `read` or `keep`.
    kind: &'static str,
    /// Hexadecimal; none of a keeper.
    serial: Option<String>,
    /// The id of the principal, and the line by which it is known.
    principal: String,
    line: String,
    /// What it is for; none where the name cannot be read.
    path: Option<String>,
    /// Seconds since 1970; none: never.
    expires: Option<u64>,
    pass_on: bool,
    /// Why it does not count.
    refused: Option<String>,
}

pub(crate) fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Issue { opening, path, to, rights, expires } => {
            issue(opening, &path.clone().unwrap_or_default(), to, rights, *expires)?;
        }
        Command::Share { opening, path, to, expires } => share(opening, path, to, *expires)?,
        Command::Unshare { opening, path, from, lazy, erase } => {
            let data = match (lazy, erase) {
                (true, _) => unshare::Data::Stays,
                (false, true) => unshare::Data::IsSealedAnewAndErased,
                (false, false) => unshare::Data::IsSealedAnew,
            };
            unshare::run(opening, path, from, data)?;
        }
        Command::List { opening, json } => {
            let found = list(opening)?;
            print(&match json {
                true => serde_json::to_string_pretty(&found).context("cannot write JSON")? + "\n",
                false => found.iter().map(line).collect(),
            })?;
        }
        Command::Show { opening, serial } => {
            let serial = format!("{serial:016x}");
            let found = list(opening)?.into_iter().find(|one| one.serial.as_ref() == Some(&serial));
            print(&for_people(&found.ok_or_else(|| no_such(&serial))?))?;
        }
        Command::Revoke { opening, serial } => revoke(opening, *serial)?,
        Command::Request(command) => return request::run(command),
    }
    Ok(0)
}

/// Lets a principal write the store or a directory of it, or do less.
pub(super) fn issue(
    opening: &Opening,
    path: &TreePath,
    to: &Who,
    rights: &str,
    expires: Option<u64>,
) -> Result<()> {
    if rights == "r" {
        return share(opening, path, to, expires);
    }
    let subject = to.public().map_err(Failure::from)?;
    let opened = Opened::new(opening, true)?;
    let store = &opened.store;
    let names = path.names_in(&store.root_principal()).context("cannot issue it")?;
    if !names.is_empty() {
        if rights != "rw" {
            return Err(anyhow!(
                "for a directory, the rights are r or rw; nobody passes them on but the owner"
            )
            .into());
        }
        let directory = opened.directory(names).with_context(|| format!("cannot issue it for {path}"))?;
        // Before the key: who is refused the one has no use for the other.
        let serial =
            opened.issue_writecap(subject, directory, Rights(Rights::READ.0 | Rights::WRITE.0), expires)?;
        opened.share(directory, &subject, expires, true)?;
        print(&format!("{serial:016x}\n"))?;
    } else if rights == "none" {
        store.grant_access(&subject, false).context("cannot give the principal access")?;
    } else {
        let both = Rights(Rights::READ.0 | Rights::WRITE.0);
        let rights = if rights == "rwp" { Rights::ALL } else { both };
        let serial = opened.issue_writecap(subject, Store::ROOT, rights, expires)?;
        store.grant_access(&subject, true).context("cannot give the principal access")?;
        print(&format!("{serial:016x}\n"))?;
    }
    opened.close()
}

/// Lets a principal read a directory and everything below it.
pub(super) fn share(opening: &Opening, path: &TreePath, to: &Who, expires: Option<u64>) -> Result<()> {
    let recipient = to.public().map_err(Failure::from)?;
    let opened = Opened::new(opening, true)?;
    let store = &opened.store;
    let names = path.names_in(&store.root_principal()).context("cannot share it")?;
    if names.is_empty() {
        return Err(anyhow!(
            "to let somebody read everything, share each directory; / itself holds its own name"
        )
        .into());
    }
    let directory = opened.directory(names).with_context(|| format!("cannot share {path}"))?;
    let serial = opened.share(directory, &recipient, expires, false)?;
    print(&format!("{serial:016x}\n"))?;
    opened.close()
}

fn revoke(opening: &Opening, serial: u64) -> Result<()> {
    let opened = Opened::new(opening, true)?;
    let store = &opened.store;
    if store.readcaps().context("cannot read the capabilities")?.iter().any(|cap| cap.serial == serial) {
        return Err(anyhow!(
            "{serial:016x} lets a principal read: `blocktree cap unshare` takes the directory back, with new keys"
        )
        .into());
    }
    let subject = store.writecaps().into_iter().find(|cap| cap.certificate.serial() == serial);
    let subject = subject.ok_or_else(|| no_such(&format!("{serial:016x}")))?.certificate.subject();
    store.revoke_writecap(opened.root()?.as_ref(), serial).context("cannot revoke the writecap")?;
    // Without another one, it gets no keys any more from copies that are made from now on.
    let readcaps = store.readcaps().context("cannot read the capabilities")?;
    let is_other =
        store.writecaps().iter().any(|cap| cap.certificate.subject() == subject && cap.refused.is_none())
            || readcaps.iter().any(|cap| cap.recipient == subject);
    if !is_other {
        store.revoke_access(&subject).context("cannot take the access slot away")?;
    }
    opened.close()
}

fn list(opening: &Opening) -> Result<Vec<Description>> {
    const WHAT: &str = "cannot read the capabilities";
    let opened = Opened::new(opening, false)?;
    let store = &opened.store;
    let (writecaps, readcaps) = (store.writecaps(), store.readcaps().context(WHAT)?);
    let blocks = writecaps.iter().map(|cap| cap.certificate.block());
    let blocks = blocks.chain(readcaps.iter().map(|cap| cap.block)).collect();
    let paths = opened.paths(&blocks);
    let path = |block: BlockId| paths.get(&block).map(|path| path.display().to_string());
    let describe = |kind, serial: Option<u64>, keys: PublicKeys, path, expires: u64| Description {
        kind,
        serial: serial.map(|serial| format!("{serial:016x}")),
        principal: hexadecimal(&keys.id()),
        line: keys.to_string(),
        path,
        expires: (expires != u64::MAX).then_some(expires),
        pass_on: false,
        refused: None,
    };
    let writers = writecaps.iter().map(|cap| {
        let certificate = &cap.certificate;
        let (serial, block) = (certificate.serial(), certificate.block());
        let path = if block == Store::ROOT { Some("/".to_owned()) } else { path(block) };
        Description {
            pass_on: certificate.rights().contains(Rights::PASS_ON),
            refused: cap.refused.map(|why| why.to_string()),
            ..describe("write", Some(serial), certificate.subject(), path, certificate.expires())
        }
    });
    let readers = readcaps
        .iter()
        .map(|cap| describe("read", Some(cap.serial), cap.recipient, path(cap.block), cap.expires));
    let known = |keys: &PublicKeys| {
        writecaps.iter().any(|cap| cap.certificate.subject() == *keys && cap.refused.is_none())
            || readcaps.iter().any(|cap| cap.recipient == *keys)
    };
    let slots = store.access_list().context(WHAT)?;
    let keepers = slots.iter().filter(|slot| !known(&slot.principal));
    let keepers = keepers.map(|slot| describe("keep", None, slot.principal, None, u64::MAX));
    Ok(writers.chain(readers).chain(keepers).collect())
}

/// An open store.
pub(super) struct Opened {
    path: PathBuf,
    device: std::sync::Arc<dyn Device>,
    key: StoreKey,
    pub(super) store: Store,
}

impl Opened {
    pub(super) fn new(opening: &Opening, writes: bool) -> Result<Self> {
        let path = &opening.store;
        let access = if writes { Access::ReadWrite } else { Access::ReadOnly };
        let device = open_volume(path, access)?;
        let key = StoreKey::obtain(opening.passphrase.source().as_ref(), &opening.holder, path)?;
        let options = OpenOptions {
            read_only: !writes,
            anchor: Choice::Usual.anchor(),
            // What only reads may show what is there.
            accept_rollback: !writes,
            ..OpenOptions::default()
        };
        let store = Store::open_as(device.clone(), &key.credential(), &options)
            .map_err(|error| open_failed(error, path))?;
        if writes && store.is_read_only() {
            return Err(anyhow!("this principal may not change {}; its owner can", path.display()).into());
        }
        Ok(Self { path: path.clone(), device, key, store })
    }

    /// The root principal, if the passphrase opens it; otherwise whoever opened the store signs.
    fn root(&self) -> Result<Option<Principal>> {
        let StoreKey::Passphrase(passphrase) = &self.key else { return Ok(None) };
        match read_root(&*self.device, passphrase) {
            Ok(root) => Ok(Some(root)),
            // It has another passphrase, or is kept elsewhere.
            Err(OpenError::NoRootSlot | OpenError::WrongPassphrase) => Ok(None),
            Err(error) => Err(open_failed(error, &self.path).into()),
        }
    }

    fn issue_writecap(
        &self,
        subject: PublicKeys,
        block: BlockId,
        rights: Rights,
        expires: Option<u64>,
    ) -> Result<u64> {
        let expires = end_of(expires);
        let grant = Grant { subject, block, rights, not_before: now(), expires };
        let serial = self.store.issue_writecap(self.root()?.as_ref(), &grant);
        Ok(serial.context("cannot issue the writecap")?)
    }

    /// Seals a directory's key to a principal, who can get at it from now on.
    fn share(&self, directory: BlockId, to: &PublicKeys, expires: Option<u64>, writes: bool) -> Result<u64> {
        let store = &self.store;
        let block = store.block(directory).context("cannot read the directory")?;
        let block = block.ok_or_else(|| anyhow!("the directory is gone"))?;
        let slots = store.access_list().context("cannot read who has access")?;
        if !slots.iter().any(|one| one.principal == *to) {
            store.grant_access(to, false).context("cannot give the principal access")?;
        }
        Ok(store.share(&block, to, end_of(expires), writes).context("cannot seal the key")?)
    }

    fn tree(&self) -> anyhow::Result<Fs> {
        let options = MountOptions { read_only: true, ..MountOptions::default() };
        Fs::mount(self.store.clone(), options).context("cannot read the tree")
    }

    pub(super) fn directory(&self, names: &[String]) -> anyhow::Result<BlockId> {
        let fs = self.tree()?;
        let mut at = Fs::ROOT;
        for name in names {
            let stat = fs.lookup(at, name.as_bytes())?;
            if stat.kind != blocktree_vfs::FileKind::Directory {
                return Err(anyhow!("{name} is not a directory; share the one that it is in"));
            }
            at = stat.ino;
        }
        Ok(at)
    }

    /// The names of blocks, as far as whoever opened the store can read them.
    fn paths(&self, blocks: &BTreeSet<BlockId>) -> BTreeMap<BlockId, PathBuf> {
        self.tree().map(|fs| paths::in_tree(&fs, blocks)).unwrap_or_default()
    }

    pub(super) fn close(self) -> Result<()> {
        let path: &Path = &self.path;
        self.store.close().with_context(|| format!("cannot close the store {}", path.display()))?;
        Ok(())
    }
}

fn no_such(serial: &str) -> anyhow::Error {
    anyhow!("there is no capability {serial}; `blocktree cap list` shows those that there are")
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// When something ends that ends so many seconds from now, or never.
fn end_of(expires: Option<u64>) -> u64 {
    expires.map_or(u64::MAX, |seconds| now().saturating_add(seconds))
}

/// A time from now, in seconds.
pub(super) fn parse_time(text: &str) -> std::result::Result<u64, String> {
    const UNITS: [(char, u64); 5] =
        [('s', 1), ('m', 60), ('h', 60 * 60), ('d', 24 * 60 * 60), ('y', 365 * 24 * 60 * 60)];
    let mut letters = text.chars();
    let unit = letters.next_back().and_then(|last| UNITS.iter().find(|(unit, _)| *unit == last));
    let number = letters.as_str().parse::<u64>().ok().filter(|number| *number > 0);
    unit.zip(number)
        .and_then(|((_, seconds), number)| number.checked_mul(*seconds))
        .ok_or_else(|| "a time is a number of s, m, h, d or y, such as 90d".to_owned())
}

fn line(one: &Description) -> String {
    let serial = one.serial.as_deref().unwrap_or("-");
    let path = one.path.as_deref().unwrap_or("-");
    let refused = one.refused.as_ref().map_or(String::new(), |why| format!("  does not count: {why}"));
    format!("{serial:<16}  {:<5}  {}  {path}{}{refused}\n", one.kind, &one.principal[..16], until(one))
}

fn until(one: &Description) -> String {
    one.expires.map_or(String::new(), |expires| match expires.checked_sub(now()) {
        Some(left) => format!("  {} days left", left / (24 * 60 * 60)),
        None => "  over".to_owned(),
    })
}

fn for_people(one: &Description) -> String {
    let expires = one.expires.map_or("never".to_owned(), |_| until(one).trim().to_owned());
    let lines = [
        ("Capability", one.serial.clone().unwrap_or_default()),
        ("Kind", one.kind.to_owned()),
        ("Principal", one.principal.clone()),
        ("Line", one.line.clone()),
        ("Path", one.path.clone().unwrap_or_else(|| "-".to_owned())),
        ("Ends", expires),
        ("Passed on", if one.pass_on { "yes" } else { "no" }.to_owned()),
        ("Counts", one.refused.as_ref().map_or("yes".to_owned(), |why| format!("no: {why}"))),
    ];
    lines.iter().map(|(name, value)| format!("{:<12}{value}\n", format!("{name}:"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_numbers_with_a_unit() {
        assert_eq!(parse_time("90d"), Ok(90 * 24 * 60 * 60));
        assert_eq!(parse_time("1s"), Ok(1));
        for wrong in
            ["", "d", "90", "0d", "-1d", "1.5h", "90 d", "99999999999999999999y", "18446744073709551615y"]
        {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
