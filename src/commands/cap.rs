//! `blocktree cap`: who may read and write a store.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use blocktree_engine::crypto::{Certificate, Principal, Revocation, Rights};
use blocktree_engine::device::{Access, Device, peek_volume};
use blocktree_engine::format::BlockId;
use blocktree_engine::{Grant, OpenOptions, Store, read_signer};
use blocktree_vfs::control::{self, CapabilityCall};
use blocktree_vfs::{Fs, MountOptions, TreePath};

use super::{find_mount, open_failed, open_volume, print, request, unshare};
use crate::anchor::Choice;
use crate::calls;
use crate::capabilities::{self, Answer, Description, Place, no_such, now};
use crate::cli::PassphraseSource;
use crate::failure::{Failure, Result};
use crate::principals::Who;
use crate::store_key::{HolderArguments, StoreKey, parse_serial};

/// A store, and by what it is opened; where it is mounted, by what its owner shows who they are.
#[derive(Debug, clap::Args)]
pub(crate) struct Opening {
    /// A store, or where one is mounted
    #[arg(value_name = "STORE|MOUNTPOINT")]
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
        /// A store that is not mounted
        store: PathBuf,
        #[command(flatten)]
        passphrase: PassphraseSource,
        #[command(flatten)]
        holder: HolderArguments,
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

pub(crate) fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Issue { opening, path, to, rights, expires } => {
            issue(opening, &path.clone().unwrap_or_default(), to, rights, *expires)?;
        }
        Command::Share { opening, path, to, expires } => issue(opening, path, to, "r", *expires)?,
        Command::Unshare { store, passphrase, holder, path, from, lazy, erase } => {
            let data = match (lazy, erase) {
                (true, _) => unshare::Data::Stays,
                (false, true) => unshare::Data::IsSealedAnewAndErased,
                (false, false) => unshare::Data::IsSealedAnew,
            };
            if let Some(mount) = find_mount(store)? {
                let mountpoint = mount.mountpoint.display();
                return Err(anyhow!(
                    "keys change while nobody uses the store: `blocktree umount {mountpoint}` first"
                )
                .into());
            }
            unshare::run(&Opened::new(store, passphrase, holder, true)?, path, from, data)?;
        }
        Command::List { opening, json } => {
            let found = list(opening)?;
            print(&match json {
                true => serde_json::to_string_pretty(&found).context("cannot write JSON")? + "\n",
                false => found.iter().map(line).collect(),
            })?;
        }
        Command::Show { opening, serial } => {
            let name = format!("{serial:016x}");
            let found = list(opening)?.into_iter().find(|one| one.serial.as_ref() == Some(&name));
            print(&for_people(&found.ok_or_else(|| no_such(*serial))?))?;
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
    let given = match rights {
        "r" => Rights::READ,
        "rwp" => Rights::ALL,
        "none" => Rights(0),
        _ => Rights(Rights::READ.0 | Rights::WRITE.0),
    };
    let subject = to.public().map_err(Failure::from)?;
    let office = Office::of(opening, true)?;
    let place = office.find(path).with_context(|| format!("cannot give {path}"))?;
    match (place.block == Store::ROOT, rights) {
        (true, "r") => {
            return Err(anyhow!(
                "to let somebody read everything, share each directory; / itself holds its own name"
            )
            .into());
        }
        (false, "rwp" | "none") => {
            return Err(anyhow!(
                "for a directory, the rights are r or rw; nobody passes them on but the owner"
            )
            .into());
        }
        _ => {}
    }
    let not_before = now();
    let expires = expires.map_or(u64::MAX, |seconds| not_before.saturating_add(seconds));
    let grant = Grant { subject, block: place.block, rights: given, not_before, expires };
    let certificate = Certificate::issue(office.signer()?, &grant.terms(place.store_id));
    office.ask(&CapabilityCall::Give(*certificate.bytes()))?;
    if rights != "none" {
        print(&format!("{:016x}\n", certificate.serial()))?;
    }
    office.close()
}

fn revoke(opening: &Opening, serial: u64) -> Result<()> {
    let office = Office::of(opening, true)?;
    let place = office.find(&TreePath::default())?;
    let revocation = Revocation::issue(office.signer()?, place.store_id, serial, place.record);
    office.ask(&CapabilityCall::Revoke(*revocation.bytes()))?;
    office.close()
}

fn list(opening: &Opening) -> Result<Vec<Description>> {
    let office = Office::of(opening, false)?;
    match office.ask(&CapabilityCall::List)? {
        Answer::Listed(found) => Ok(found),
        _ => Err(senseless().into()),
    }
}

/// Who does it: this process, which has the store open, or the daemon that has.
enum Office {
    Own { opened: Opened, tree: Option<Fs>, signer: Option<Principal> },
    Daemon { root: File, signer: Option<Principal> },
}

impl Office {
    /// To change something, there must be somebody to sign it.
    fn of(opening: &Opening, signs: bool) -> Result<Self> {
        let Opening { store, passphrase, holder } = opening;
        let Some(mount) = find_mount(store)? else {
            let opened = Opened::new(store, passphrase, holder, signs)?;
            let signer = signs.then(|| signer(&*opened.device, &opened.key, store)).transpose()?;
            let tree = opened.tree().ok();
            return Ok(Self::Own { opened, tree, signer });
        };
        let root = File::open(&mount.mountpoint)
            .with_context(|| format!("cannot open {}", mount.mountpoint.display()))?;
        let signer = match signs {
            false => None,
            true => {
                let store = &mount.store;
                let device = peek_volume(store)?;
                let key = StoreKey::obtain(passphrase.source().as_ref(), holder, store)?;
                Some(signer(&device, &key, store)?)
            }
        };
        Ok(Self::Daemon { root, signer })
    }

    fn ask(&self, call: &CapabilityCall) -> anyhow::Result<Answer> {
        match self {
            Self::Own { opened, tree, .. } => capabilities::carry_out(&opened.store, tree.as_ref(), call),
            Self::Daemon { root, .. } => {
                let answer = calls::call(root, control::Command::Capability, &call.encode())?;
                let answer: std::result::Result<Answer, String> =
                    serde_json::from_slice(&answer).map_err(|_| senseless())?;
                answer.map_err(|text| anyhow!("{text}"))
            }
        }
    }

    fn find(&self, path: &TreePath) -> anyhow::Result<Place> {
        match self.ask(&CapabilityCall::Find(path.to_string()))? {
            Answer::Found(place) => Ok(place),
            _ => Err(senseless()),
        }
    }

    fn signer(&self) -> anyhow::Result<&Principal> {
        let (Self::Own { signer, .. } | Self::Daemon { signer, .. }) = self;
        signer.as_ref().context("nobody signs this")
    }

    fn close(self) -> Result<()> {
        match self {
            Self::Own { opened, .. } => opened.close(),
            Self::Daemon { .. } => Ok(()),
        }
    }
}

/// Whose signature the key of a store gives.
fn signer(device: &dyn Device, key: &StoreKey, store: &Path) -> Result<Principal> {
    match key {
        StoreKey::Passphrase(passphrase) => {
            Ok(read_signer(device, passphrase).map_err(|error| open_failed(error, store))?)
        }
        StoreKey::Principal { holder, .. } => Ok(Principal::clone(holder)),
    }
}

fn senseless() -> anyhow::Error {
    anyhow!("the daemon's answer makes no sense; is it another version?")
}

/// An open store.
pub(super) struct Opened {
    path: PathBuf,
    device: std::sync::Arc<dyn Device>,
    key: StoreKey,
    pub(super) store: Store,
}

impl Opened {
    fn new(
        path: &Path,
        passphrase: &PassphraseSource,
        holder: &HolderArguments,
        writes: bool,
    ) -> Result<Self> {
        let access = if writes { Access::ReadWrite } else { Access::ReadOnly };
        let device = open_volume(path, access)?;
        let key = StoreKey::obtain(passphrase.source().as_ref(), holder, path)?;
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
        Ok(Self { path: path.to_owned(), device, key, store })
    }

    fn tree(&self) -> anyhow::Result<Fs> {
        let options = MountOptions { read_only: true, ..MountOptions::default() };
        Fs::mount(self.store.clone(), options).context("cannot read the tree")
    }

    pub(super) fn directory(&self, names: &[String]) -> anyhow::Result<BlockId> {
        capabilities::directory(&self.tree()?, names)
    }

    pub(super) fn close(&self) -> Result<()> {
        let path: &Path = &self.path;
        self.store.close().with_context(|| format!("cannot close the store {}", path.display()))?;
        Ok(())
    }
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
