//! `blocktree cap request`, `pending`, `approve`, `deny`: asking for a right, and answering.
//!
//! Requests of a store in a directory lie in its folder `requests`, where whoever may write into it puts them; or they are
//! handed over in any other way. They give nothing by themselves.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use blocktree_engine::crypto::{Rights, hexadecimal};
use blocktree_engine::identity::Request;
use blocktree_engine::limits::CAP_REQUEST_BYTES_MAX;
use blocktree_vfs::TreePath;
use serde::Serialize;

use super::{cap, print};
use crate::capabilities::now;
use crate::cli::PassphraseSource;
use crate::failure::Result;
use crate::mount_list::store_mounted_on;
use crate::principals::Who;
use crate::private_file;

/// The folder of a store in a directory.
const FOLDER: &str = "requests";
/// More are not looked at: anybody may fill a folder.
const REQUESTS_MAX: usize = 1000;
/// Digits of a request's id that name it.
const NAME_DIGITS: usize = 16;

/// Ask for rights, and answer.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Ask for a right, with a signature; prints the request, or leaves it at a store
    Request {
        /// What for: a directory in the store, such as /photos, or to write, all of it: /
        path: TreePath,
        /// Who asks: a name or a file, with the keys
        #[arg(long, value_name = "PRINCIPAL")]
        principal: Who,
        /// r: read; rw: read and write
        #[arg(long, default_value = "r", value_parser = ["r", "rw"])]
        rights: String,
        /// One line for whoever decides
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        /// Leave it at this store, which is a directory
        #[arg(long, value_name = "STORE")]
        store: Option<PathBuf>,
        #[command(flatten)]
        passphrase: PassphraseSource,
    },
    /// List the requests that were left at a store
    Pending {
        /// A store in a directory, or where one is mounted
        #[arg(value_name = "STORE|MOUNTPOINT")]
        store: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Give what a request asks for
    Approve {
        #[command(flatten)]
        opening: cap::Opening,
        /// As `cap pending` names it, or a file with a request
        request: String,
        /// When it ends, from now: a number of s, m, h, d or y; never if not said
        #[arg(long, value_name = "TIME", value_parser = cap::parse_time)]
        expires: Option<u64>,
    },
    /// Take a request away
    Deny {
        /// A store in a directory, or where one is mounted
        #[arg(value_name = "STORE|MOUNTPOINT")]
        store: PathBuf,
        /// As `cap pending` names it
        request: String,
    },
}

/// One line of `pending`.
#[derive(Debug, Serialize)]
struct Description {
    request: String,
    /// The id of the principal, and the line by which it is known.
    principal: String,
    line: String,
    rights: &'static str,
    path: String,
    reason: String,
    /// Seconds since 1970, as the request says.
    time: u64,
}

pub(crate) fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Request { path, principal, rights, reason, store, passphrase } => {
            if let Some(store) = store
                && !store.is_dir()
            {
                return Err(anyhow!("{} is not a directory; hand the request over", store.display()).into());
            }
            let rights = if rights == "rw" { read_write() } else { Rights::READ };
            let principal = principal.open(passphrase.source().as_ref())?;
            let text = Request::sign(&principal, &path.to_string(), rights, reason, now());
            let text = text.context("cannot ask for that")?;
            match store {
                None => print(&text)?,
                Some(store) => print(&format!("{}\n", leave(store, &text)?))?,
            }
        }
        Command::Pending { store, json } => {
            let store = store_of(store)?;
            let (requests, of_no_use) = pending(&store)?;
            let described: Vec<Description> =
                requests.iter().map(|(name, one)| describe(name, one)).collect();
            print(&match json {
                true => serde_json::to_string_pretty(&described).context("cannot write JSON")? + "\n",
                false => described.iter().map(line).collect(),
            })?;
            if of_no_use > 0 {
                print(&format!("{of_no_use} more in {} are of no use.\n", store.join(FOLDER).display()))?;
            }
        }
        Command::Approve { opening, request, expires } => {
            let (asked, pending) = find(&store_of(opening.store())?, request)?;
            let (to, path) = (Who::Keys(asked.principal), asked.path.parse::<TreePath>());
            let path = path.with_context(|| format!("cannot approve {request}"))?;
            let rights = if asked.rights == Rights::READ { "r" } else { "rw" };
            cap::issue(opening, &path, &to, rights, *expires)?;
            pending.map_or(Ok(()), |file| remove(&file))?;
        }
        Command::Deny { store, request } => {
            let (name, file) = named(&store_of(store)?, request)?;
            remove(&file)?;
            print(&format!("Took the request {name} away.\n"))?;
        }
    }
    Ok(0)
}

/// The store itself, where it is named by a mountpoint.
fn store_of(path: &Path) -> anyhow::Result<PathBuf> {
    let mount = store_mounted_on(path).context("cannot read the list of mounts")?;
    Ok(mount.map_or_else(|| path.to_owned(), |mount| mount.store))
}

fn read_write() -> Rights {
    Rights(Rights::READ.0 | Rights::WRITE.0)
}

/// How a request is called: the first digits of its id.
fn name_of(request: &Request) -> String {
    hexadecimal(&request.id())[..NAME_DIGITS].to_owned()
}

/// Puts a request into a store's folder; returns its name.
fn leave(store: &Path, text: &str) -> anyhow::Result<String> {
    let name = name_of(&Request::parse(text).context("the request makes no sense")?);
    let folder = store.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let file = folder.join(&name);
    let written = File::create_new(&file).and_then(|mut new| {
        new.write_all(text.as_bytes())?;
        new.sync_all()
    });
    // It is no secret: whoever decides may be somebody else.
    written.with_context(|| format!("cannot leave the request {}", file.display()))?;
    Ok(name)
}

/// The requests of a store by their names, and how many files are none.
fn pending(store: &Path) -> anyhow::Result<(Vec<(String, Request)>, usize)> {
    let folder = store.join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            store.metadata().with_context(|| format!("cannot look at {}", store.display()))?;
            return Ok((Vec::new(), 0));
        }
        entries => entries.with_context(|| format!("cannot list {}", folder.display()))?,
    };
    let (mut requests, mut of_no_use) = (Vec::new(), 0);
    for entry in entries.take(REQUESTS_MAX) {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        match read(&path) {
            Ok(request) => requests.push((name_of(&request), request)),
            Err(_) => of_no_use += 1,
        }
    }
    requests.sort_by(|(a, one), (b, other)| (one.seconds, a).cmp(&(other.seconds, b)));
    requests.dedup();
    Ok((requests, of_no_use))
}

fn read(path: &Path) -> anyhow::Result<Request> {
    let metadata = path.symlink_metadata().with_context(|| format!("cannot read {}", path.display()))?;
    if !metadata.is_file() {
        bail!("{} is not a file", path.display());
    }
    let bytes = private_file::read(path, CAP_REQUEST_BYTES_MAX)?;
    let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is no text", path.display()))?;
    Request::parse(text).with_context(|| format!("the request {} is of no use", path.display()))
}

/// A request by its name in a store, where its file goes once it is answered, or by a file of its own.
fn find(store: &Path, text: &str) -> anyhow::Result<(Request, Option<PathBuf>)> {
    if !is_name(text) {
        return Ok((read(Path::new(text))?, None));
    }
    let (_, file) = named(store, text)?;
    Ok((read(&file)?, Some(file)))
}

/// The file of a request in a store's folder.
fn named(store: &Path, name: &str) -> anyhow::Result<(String, PathBuf)> {
    let file = store.join(FOLDER).join(name);
    if !is_name(name) || !file.is_file() {
        bail!("there is no request {name:?}; `blocktree cap pending` shows those that there are");
    }
    Ok((name.to_owned(), file))
}

fn is_name(text: &str) -> bool {
    text.len() == NAME_DIGITS && text.chars().all(|digit| digit.is_ascii_hexdigit())
}

fn remove(file: &Path) -> anyhow::Result<()> {
    fs::remove_file(file).with_context(|| format!("cannot take the request {} away", file.display()))
}

fn describe(name: &str, request: &Request) -> Description {
    Description {
        request: name.to_owned(),
        principal: hexadecimal(&request.principal.id()),
        line: request.principal.to_string(),
        rights: if request.rights == Rights::READ { "r" } else { "rw" },
        path: request.path.clone(),
        reason: request.reason.clone(),
        time: request.seconds,
    }
}

fn line(one: &Description) -> String {
    let reason = if one.reason.is_empty() { String::new() } else { format!("  ({})", one.reason) };
    format!("{}  {}  {:<2}  {}{reason}\n", one.request, &one.principal[..16], one.rights, one.path)
}

#[cfg(test)]
mod tests {
    use blocktree_engine::crypto::Principal;

    use super::*;

    #[test]
    fn requests_are_left_listed_and_found() {
        let store = tempfile::tempdir().unwrap();
        let store = store.path();
        assert_eq!(pending(store).unwrap(), (Vec::new(), 0));
        assert!(pending(&store.join("missing")).is_err());
        let principal = Principal::generate();
        let sign =
            |path: &str, seconds| Request::sign(&principal, path, Rights::READ, "why", seconds).unwrap();
        let later = leave(store, &sign("/b", 20)).unwrap();
        let earlier = leave(store, &sign("/a", 10)).unwrap();
        assert!(leave(store, &sign("/a", 10)).is_err(), "it is there already");
        assert!(leave(store, "hello").is_err());
        // Whatever else lies there is counted, and does no harm.
        let folder = store.join(FOLDER);
        fs::write(folder.join("junk"), "junk").unwrap();
        fs::write(folder.join("long"), vec![b'x'; CAP_REQUEST_BYTES_MAX + 1]).unwrap();
        fs::create_dir(folder.join("folder")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.join("zero")).unwrap();
        let (found, of_no_use) = pending(store).unwrap();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names, of_no_use), (vec![&*earlier, &*later], 4));
        assert_eq!(find(store, &earlier).unwrap().0.path, "/a");
        let by_file = folder.join(&later);
        assert_eq!(find(store, by_file.to_str().unwrap()).unwrap().0.path, "/b");
        for wrong in ["0123456789abcdef", "../volume", "junk", ""] {
            assert!(named(store, wrong).is_err(), "{wrong}");
        }
        remove(&named(store, &earlier).unwrap().1).unwrap();
        assert!(find(store, &earlier).is_err());
    }
}
