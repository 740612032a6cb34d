//! What an app says of itself and asks for. It is canonical: one manifest, one text; so what is signed is what is read.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::endpoint::Endpoint;
use super::glob::{Glob, GlobError};
use super::host::host_of;
use crate::limits::{
    GRANTS_MAX, HOST_BYTES_MAX, HOSTS_MAX, MANIFEST_BYTES_MAX, MEMORY_MIB, MEMORY_MIB_MAX, NAME_BYTES_MAX,
    PACKAGE_FILES_MAX, PATH_BYTES_MAX, SECONDS, SECONDS_MAX, SENDS_MAX, SOCKETS_MAX, TEXT_BYTES_MAX,
    TRIGGERS_MAX,
};

/// What owners write in place of a grant's name for other things than folders.
const RESERVED: &[&str] = &["http", "policy", "policy-fail-open", "receive"];

/// The only format of manifests so far.
pub const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Manifest {
    pub format: u32,
    pub name: String,
    pub version: Version,
    /// One line for people.
    pub summary: String,
    /// The id of the principal that signed, in hexadecimal; empty before.
    pub author: String,
    /// Which of the files is the component.
    pub component: String,
    pub grants: Vec<Wanted>,
    pub triggers: Vec<Trigger>,
    pub limits: Limits,
    /// That it answers HTTP requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serve: Option<Reason>,
    /// That it may refuse what others want to do below its grants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Reason>,
    /// That it takes messages of other apps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive: Option<Reason>,
    /// Apps that it sends messages to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub send: Vec<Recipient>,
    /// Hosts that it sends requests to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connect: Vec<Connect>,
    /// What it opens connections to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<Socket>,
    /// In the order in which they stand in the package.
    pub files: Vec<PackagedFile>,
}

/// A folder that the app asks for; the owner chooses which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Wanted {
    pub name: String,
    /// What for, in plain words.
    pub reason: String,
    pub rights: Rights,
}

/// What may be done below a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Rights {
    #[serde(rename = "r")]
    Read,
    #[serde(rename = "rw")]
    ReadWrite,
}

impl fmt::Display for Rights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Read => "r",
            Self::ReadWrite => "rw",
        })
    }
}

/// What an app is called for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "on")]
pub enum Trigger {
    Files { grant: String, glob: String, events: Vec<FileEvent> },
    Timer { name: String, seconds: u32 },
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileEvent {
    Written,
    Created,
    Renamed,
    Deleted,
    Attributes,
}

/// What the app may use at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    pub memory_mib: u32,
    /// For one event.
    pub seconds: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_mib: MEMORY_MIB, seconds: SECONDS }
    }
}

/// Something that an app asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// What for, in plain words.
    pub reason: String,
}

/// An app that asks to send messages to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipient {
    /// The other one's name.
    pub app: String,
    pub reason: String,
}

/// An app that asks to send requests to a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// A name or an address in lower case, and perhaps a port.
    pub host: String,
    pub reason: String,
}

/// An app that asks to open connections to a port of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Socket {
    pub address: Endpoint,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackagedFile {
    pub path: String,
    pub bytes: u64,
    /// BLAKE3, in hexadecimal.
    pub hash: String,
}

/// Major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(pub [u32; 3]);

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(formatter, "{major}.{minor}.{patch}")
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl TryFrom<String> for Version {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const WRONG: &str = "a version is three numbers, as in 1.0.2";
        let mut parts = text.split('.').map(str::parse::<u32>);
        let mut next = || parts.next().and_then(Result::ok).ok_or(WRONG);
        let version = Self([next()?, next()?, next()?]);
        // No second way to write the same.
        if version.to_string() == text { Ok(version) } else { Err(WRONG) }
    }
}

/// What is wrong with a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is malformed: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the manifest is not in its canonical form")]
    NotCanonical,
    #[error("the manifest has format {0}, which this program does not know")]
    Format(u32),
    #[error("the manifest is longer than {MANIFEST_BYTES_MAX} bytes")]
    TooLong,
    #[error(
        "{what} {value:?} is no name: lower-case letters, digits and single hyphens, at most {NAME_BYTES_MAX}"
    )]
    Name { what: &'static str, value: String },
    #[error("{0} is empty, too long or more than one line")]
    Text(&'static str),
    #[error("{0} stands twice")]
    Twice(String),
    #[error("too many {0}")]
    TooMany(&'static str),
    #[error("a trigger names the grant {0:?}, which is not asked for")]
    NoSuchGrant(String),
    #[error("a trigger without events")]
    NoEvents,
    #[error("the pattern {pattern:?}: {error}")]
    Glob { pattern: String, error: GlobError },
    #[error("a timer of {0} seconds")]
    Seconds(u32),
    #[error("a limit is 0 or more than allowed: {MEMORY_MIB_MAX} MiB, {SECONDS_MAX} seconds")]
    Limit,
    #[error("{0:?} is no host: a name or an address in lower case, and perhaps a port")]
    Host(String),
    #[error("a grant cannot be called {0:?}, which means something else")]
    Reserved(String),
    #[error("{0:?} is no path of a file in a package")]
    Path(String),
    #[error("the component {0:?} is not among the files")]
    NoComponent(String),
}

impl Manifest {
    /// Reads and checks what came with a package.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLong);
        }
        let manifest: Self = serde_json::from_slice(bytes)?;
        manifest.check()?;
        if manifest.to_canonical()? != bytes {
            return Err(ManifestError::NotCanonical);
        }
        Ok(manifest)
    }

    /// The one text of it.
    pub fn to_canonical(&self) -> Result<Vec<u8>, ManifestError> {
        Ok(serde_json::to_vec(self)?)
    }

    pub fn check(&self) -> Result<(), ManifestError> {
        if self.format != FORMAT {
            return Err(ManifestError::Format(self.format));
        }
        check_name("the app's name", &self.name)?;
        check_text("the summary", &self.summary)?;
        if !self.author.is_empty() && (self.author.len() != 64 || !is_hexadecimal(&self.author)) {
            return Err(ManifestError::Text("the author"));
        }
        self.check_grants()?;
        self.check_triggers()?;
        self.check_powers()?;
        let Limits { memory_mib, seconds } = self.limits;
        if !(1..=MEMORY_MIB_MAX).contains(&memory_mib) || !(1..=SECONDS_MAX).contains(&seconds) {
            return Err(ManifestError::Limit);
        }
        self.check_files()
    }

    fn check_grants(&self) -> Result<(), ManifestError> {
        if self.grants.len() > GRANTS_MAX {
            return Err(ManifestError::TooMany("grants"));
        }
        let mut seen = BTreeSet::new();
        for grant in &self.grants {
            check_name("the grant", &grant.name)?;
            check_text("the reason of a grant", &grant.reason)?;
            if RESERVED.contains(&grant.name.as_str()) {
                return Err(ManifestError::Reserved(grant.name.clone()));
            }
            if !seen.insert(&grant.name) {
                return Err(ManifestError::Twice(format!("the grant {}", grant.name)));
            }
        }
        Ok(())
    }

    /// What it asks for beside folders.
    fn check_powers(&self) -> Result<(), ManifestError> {
        let asked = [
            ("the reason to answer requests", &self.serve),
            ("the reason to take messages", &self.receive),
            ("the reason to refuse operations", &self.policy),
        ];
        for (what, asked) in asked {
            asked.as_ref().map_or(Ok(()), |asked| check_text(what, &asked.reason))?;
        }
        let hosts = self.connect.iter().map(|Connect { host, reason }| (host, reason));
        check_others(hosts, HOSTS_MAX, ["hosts", "the host", "the reason of a host"], |host| {
            check_host(host)
        })?;
        let apps = self.send.iter().map(|Recipient { app, reason }| (app, reason));
        let words = ["apps to send messages to", "the app", "the reason to send messages"];
        check_others(apps, SENDS_MAX, words, |app| check_name("the other app's name", app))?;
        let addresses = self.sockets.iter().map(|Socket { address, reason }| (address, reason));
        let words = ["addresses", "the address", "the reason of an address"];
        // That it is one is in its type.
        check_others(addresses, SOCKETS_MAX, words, |_| Ok(()))
    }

    fn check_triggers(&self) -> Result<(), ManifestError> {
        if self.triggers.len() > TRIGGERS_MAX {
            return Err(ManifestError::TooMany("triggers"));
        }
        let mut timers = BTreeSet::new();
        for trigger in &self.triggers {
            match trigger {
                Trigger::Files { grant, glob, events } => {
                    if !self.grants.iter().any(|wanted| wanted.name == *grant) {
                        return Err(ManifestError::NoSuchGrant(grant.clone()));
                    }
                    Glob::parse(glob)
                        .map_err(|error| ManifestError::Glob { pattern: glob.clone(), error })?;
                    if events.is_empty() {
                        return Err(ManifestError::NoEvents);
                    }
                }
                Trigger::Timer { name, seconds } => {
                    check_name("the timer", name)?;
                    if *seconds == 0 {
                        return Err(ManifestError::Seconds(0));
                    }
                    if !timers.insert(name) {
                        return Err(ManifestError::Twice(format!("the timer {name}")));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_files(&self) -> Result<(), ManifestError> {
        if self.files.len() > PACKAGE_FILES_MAX {
            return Err(ManifestError::TooMany("files"));
        }
        let mut seen = BTreeSet::new();
        for file in &self.files {
            let is_path = !file.path.is_empty()
                && file.path.len() <= PATH_BYTES_MAX
                && !file.path.contains(['\0', '\\', '\n'])
                && file.path.split('/').all(|part| !matches!(part, "" | "." | ".."));
            if !is_path {
                return Err(ManifestError::Path(file.path.clone()));
            }
            if file.hash.len() != 64 || !is_hexadecimal(&file.hash) {
                return Err(ManifestError::Text("the hash of a file"));
            }
            if !seen.insert(&file.path) {
                return Err(ManifestError::Twice(format!("the file {}", file.path)));
            }
        }
        if !seen.contains(&self.component) {
            return Err(ManifestError::NoComponent(self.component.clone()));
        }
        Ok(())
    }

    /// What this version may do that `before` may not, in words; empty if the owner need not be asked again.
    pub fn widened_since(&self, before: &Self) -> Vec<String> {
        let mut wider = Vec::new();
        for wanted in &self.grants {
            match before.grants.iter().find(|old| old.name == wanted.name) {
                None => wider.push(format!("{} ({}): {}", wanted.name, wanted.rights, wanted.reason)),
                Some(old) if old.rights < wanted.rights => {
                    wider.push(format!(
                        "{} ({}, was {}): {}",
                        wanted.name, wanted.rights, old.rights, wanted.reason
                    ));
                }
                Some(_) => {}
            }
        }
        if let (Some(Reason { reason }), None) = (&self.serve, &before.serve) {
            wider.push(format!("to answer HTTP requests: {reason}"));
        }
        if let (Some(Reason { reason }), None) = (&self.policy, &before.policy) {
            wider.push(format!("to refuse what others do: {reason}"));
        }
        if let (Some(Reason { reason }), None) = (&self.receive, &before.receive) {
            wider.push(format!("to take messages of other apps: {reason}"));
        }
        let is_new = |one: &&Recipient| !before.send.iter().any(|old| old.app == one.app);
        for Recipient { app, reason } in self.send.iter().filter(is_new) {
            wider.push(format!("to send messages to {app}: {reason}"));
        }
        let is_new = |one: &&Connect| !before.connect.iter().any(|old| old.host == one.host);
        for Connect { host, reason } in self.connect.iter().filter(is_new) {
            wider.push(format!("to send requests to {host}: {reason}"));
        }
        let is_new = |one: &&Socket| !before.sockets.iter().any(|old| old.address == one.address);
        for Socket { address, reason } in self.sockets.iter().filter(is_new) {
            wider.push(format!("to open connections to {address}: {reason}"));
        }
        wider
    }
}

/// Lower-case letters, digits, and hyphens between them.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX
        && text.split('-').all(|part| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        })
}

fn check_name(what: &'static str, value: &str) -> Result<(), ManifestError> {
    if is_name(value) { Ok(()) } else { Err(ManifestError::Name { what, value: value.to_owned() }) }
}

fn check_host(host: &str) -> Result<(), ManifestError> {
    let is_host = host.len() <= HOST_BYTES_MAX && host_of(host).is_some();
    if is_host { Ok(()) } else { Err(ManifestError::Host(host.to_owned())) }
}

/// What an app wants to reach: so many at most, each once and with a reason. The words are for all of them, for one, and for its
/// reason.
fn check_others<'a, T: Ord + fmt::Display + 'a>(
    others: impl ExactSizeIterator<Item = (&'a T, &'a String)>,
    most: usize,
    words: [&'static str; 3],
    check: impl Fn(&T) -> Result<(), ManifestError>,
) -> Result<(), ManifestError> {
    let [all, one, its_reason] = words;
    if others.len() > most {
        return Err(ManifestError::TooMany(all));
    }
    let mut seen = BTreeSet::new();
    for (other, reason) in others {
        check(other)?;
        check_text(its_reason, reason)?;
        if !seen.insert(other) {
            return Err(ManifestError::Twice(format!("{one} {other}")));
        }
    }
    Ok(())
}

fn check_text(what: &'static str, text: &str) -> Result<(), ManifestError> {
    let is_fine = !text.trim().is_empty() && text.len() <= TEXT_BYTES_MAX && !text.contains(char::is_control);
    if is_fine { Ok(()) } else { Err(ManifestError::Text(what)) }
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
