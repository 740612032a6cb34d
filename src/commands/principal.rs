//! `blocktree principal`: the key pairs by which people, machines and programs know each other.

use std::path::PathBuf;

use anyhow::Context as _;
use blocktree_engine::crypto::{Principal, PublicKeys, hexadecimal};
use serde::Serialize;

use super::print;
use crate::cli::{NewPassphraseSource, PassphraseSource};
use crate::failure::Result;
use crate::passphrase::{obtain, obtain_another};
use crate::principals::{Content, Who, folder, parse_name, seal};
use crate::private_file;

/// Make and show principals.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a new principal; prints the line by which others know it
    Create {
        /// How it is called here
        #[arg(value_parser = parse_name)]
        name: String,
        /// Write it into this file instead of the own folder
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Keep its keys without a passphrase: whoever can read the file has them
        #[arg(long, conflicts_with_all = ["passphrase_file", "passphrase_from"])]
        no_passphrase: bool,
        #[command(flatten)]
        passphrase: PassphraseSource,
    },
    /// List the principals of the own folder
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what is known of a principal
    Show {
        /// A name, a file, or a line that begins with btp1
        #[arg(value_name = "PRINCIPAL")]
        who: Who,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the line by which others know a principal
    Export {
        /// A name or a file
        #[arg(value_name = "PRINCIPAL")]
        who: Who,
    },
    /// Keep a principal's keys under another passphrase
    ChangePassphrase {
        /// A name or a file
        #[arg(value_name = "PRINCIPAL")]
        who: Who,
        #[command(flatten)]
        passphrase: PassphraseSource,
        #[command(flatten)]
        new_passphrase: NewPassphraseSource,
    },
}

/// The JSON of `list` and `show`.
#[derive(Debug, Serialize)]
struct Description {
    name: Option<String>,
    file: Option<PathBuf>,
    /// `passphrase`, `none`; not there where there are no keys.
    keys: Option<&'static str>,
    /// Whether others than the owner can read the keys.
    open_to_others: bool,
    id: String,
    line: String,
}

pub(crate) fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Create { name, file, no_passphrase, passphrase } => {
            let path = match file {
                Some(path) => path.clone(),
                None => {
                    let folder = folder()?;
                    private_file::make_folder(&folder)?;
                    folder.join(name)
                }
            };
            private_file::refuse_existing(&path)?;
            let passphrase = match no_passphrase {
                true => None,
                false => Some(obtain(passphrase.source().as_ref(), &path, true)?),
            };
            let principal = Principal::generate();
            private_file::write_new(&path, &seal(&principal, passphrase.as_ref()))?;
            print(&format!("{}\n", principal.public()))?;
        }
        Command::List { json } => list(*json)?,
        Command::Show { who, json } => {
            let description = describe(who)?;
            if *json {
                print(&(serde_json::to_string_pretty(&description).context("cannot write JSON")? + "\n"))?;
            } else {
                print(&for_people(&description))?;
            }
        }
        Command::Export { who } => print(&format!("{}\n", who.public()?))?,
        Command::ChangePassphrase { who, passphrase, new_passphrase } => {
            let principal = who.open(passphrase.source().as_ref())?;
            let path = who.path()?.context("a principal that was opened has a file")?;
            let passphrase = obtain_another(new_passphrase.source().as_ref(), &path, true)?;
            private_file::replace(&path, &seal(&principal, Some(&passphrase)))?;
        }
    }
    Ok(0)
}

fn list(json: bool) -> Result<()> {
    let mut found = Vec::new();
    let folder = folder()?;
    let entries = match folder.read_dir() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        entries => Some(entries.with_context(|| format!("cannot list {}", folder.display()))?),
    };
    for entry in entries.into_iter().flatten() {
        let name = entry.context("cannot list the principals")?.file_name();
        if let Some(name) = name.to_str().and_then(|name| parse_name(name).ok()) {
            found.push(describe(&Who::File(folder.join(name)))?);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    print(&if json {
        serde_json::to_string_pretty(&found).context("cannot write JSON")? + "\n"
    } else {
        found
            .iter()
            .map(|one| format!("{:<16} {}  {}\n", one.name.as_deref().unwrap_or_default(), one.id, keys(one)))
            .collect()
    })
}

fn describe(who: &Who) -> anyhow::Result<Description> {
    let about = |keys: PublicKeys| Description {
        name: None,
        file: None,
        keys: None,
        open_to_others: false,
        id: hexadecimal(&keys.id()),
        line: keys.to_string(),
    };
    let Some(path) = who.path()? else { return who.public().map(about) };
    let content = Content::read(&path)?;
    let keys = match &content {
        Content::Own(file) if file.is_protected() => Some("passphrase"),
        Content::Own(_) => Some("none"),
        Content::Other(_) => None,
    };
    let is_open =
        private_file::is_open(&path).with_context(|| format!("cannot look at {}", path.display()))?;
    Ok(Description {
        name: path.file_name().map(|name| name.to_string_lossy().into_owned()),
        keys,
        open_to_others: keys.is_some() && is_open,
        file: Some(path),
        ..about(content.public())
    })
}

/// What can be said of the keys in a file.
fn keys(one: &Description) -> String {
    let keys = match one.keys {
        Some("passphrase") => "keys under a passphrase",
        Some(_) => "keys without a passphrase",
        None => "no keys",
    };
    let warning = if one.open_to_others { "; open to others: it is not used" } else { "" };
    format!("{keys}{warning}")
}

fn for_people(one: &Description) -> String {
    let mut lines = Vec::new();
    if let Some(file) = &one.file {
        lines.push(("Name", one.name.clone().unwrap_or_default()));
        lines.push(("File", file.display().to_string()));
        lines.push(("Keys", keys(one)));
    }
    lines.push(("Id", one.id.clone()));
    lines.push(("Line", one.line.clone()));
    lines.iter().map(|(name, value)| format!("{:<6}{value}\n", format!("{name}:"))).collect()
}
