//! What the owner's commands ask of a node, and what it answers. Both are JSON; a package follows its call.

use serde::{Deserialize, Serialize};

use super::CallError;
use super::grants::{Grant, Host, Otherwise, Powers};
use super::registry::DeadLetter;
use super::worker::Stats;
use crate::limits::{MANIFEST_BYTES_MAX, PACKAGE_BYTES_MAX};
use crate::package::{Endpoint, Manifest, Rights};

/// The longest call: a package, and what is asked of it.
pub const CALL_BYTES_MAX: usize = PACKAGE_BYTES_MAX + MANIFEST_BYTES_MAX;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Call {
    Install {
        grants: Vec<Choice>,
        powers: Vec<Power>,
        /// What the owner said no to, also if the version that is there had it.
        denied: Vec<Power>,
        /// The owner has seen what the new version wants more than the old one.
        approves_more: bool,
        /// Also an older version than the one that is there.
        accepts_older: bool,
    },
    List,
    Show {
        name: String,
    },
    Remove {
        name: String,
    },
    Enable {
        name: String,
        is_enabled: bool,
    },
    Grant {
        name: String,
        choice: Choice,
    },
    Revoke {
        name: String,
        grant: String,
    },
    Allow {
        name: String,
        power: Power,
    },
    Forbid {
        name: String,
        power: Power,
    },
    Logs {
        name: String,
    },
}

/// Something else than a folder that an owner lets an app have, or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Power {
    /// To answer HTTP requests.
    Serve,
    /// To send requests to a host.
    Connect(Host),
    /// To open connections to an address.
    Socket(Endpoint),
    /// To refuse what others want to do below its grants.
    Policy(Otherwise),
    /// To take messages of other apps.
    Receive,
    /// To send messages to another app.
    Send(String),
}

impl Power {
    /// Whether an app asks for that.
    pub(super) fn check(&self, manifest: &Manifest) -> Result<(), CallError> {
        let (is_wanted, what) = match self {
            Self::Serve => (manifest.serve.is_some(), "to answer HTTP requests".to_owned()),
            Self::Policy(_) => (manifest.policy.is_some(), "to refuse what others do".to_owned()),
            Self::Receive => (manifest.receive.is_some(), "to take messages of other apps".to_owned()),
            Self::Send(app) => {
                (manifest.send.iter().any(|wanted| wanted.app == *app), format!("to send messages to {app}"))
            }
            Self::Connect(Host { host, .. }) => (
                manifest.connect.iter().any(|wanted| wanted.host == *host),
                format!("to send requests to {host}"),
            ),
            Self::Socket(address) => (
                manifest.sockets.iter().any(|wanted| wanted.address == *address),
                format!("to open connections to {address}"),
            ),
        };
        let name = || manifest.name.clone();
        if is_wanted { Ok(()) } else { Err(CallError::PowerNotWanted { name: name(), what }) }
    }

    pub(super) fn give(&self, powers: &mut Powers) {
        self.take(powers);
        match self {
            Self::Serve => powers.serves = true,
            Self::Connect(host) => powers.hosts.push(host.clone()),
            Self::Socket(address) => powers.sockets.push(address.clone()),
            Self::Receive => powers.receives = true,
            Self::Send(app) => powers.sends.push(app.clone()),
            Self::Policy(otherwise) => powers.policy = Some(*otherwise),
        }
    }

    pub(super) fn take(&self, powers: &mut Powers) {
        match self {
            Self::Serve => powers.serves = false,
            Self::Connect(Host { host, .. }) => powers.hosts.retain(|one| one.host != *host),
            Self::Socket(address) => powers.sockets.retain(|one| one != address),
            Self::Receive => powers.receives = false,
            Self::Send(app) => powers.sends.retain(|one| one != app),
            Self::Policy(_) => powers.policy = None,
        }
    }
}

impl Powers {
    /// Leaves what a version asks for.
    pub(super) fn narrow(&mut self, manifest: &Manifest) {
        self.serves &= manifest.serve.is_some();
        self.policy = self.policy.filter(|_| manifest.policy.is_some());
        self.receives &= manifest.receive.is_some();
        self.sends.retain(|app| manifest.send.iter().any(|wanted| wanted.app == *app));
        self.hosts.retain(|host| manifest.connect.iter().any(|wanted| wanted.host == host.host));
        self.sockets.retain(|address| manifest.sockets.iter().any(|wanted| wanted.address == *address));
    }
}

/// A folder that the owner chose for a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    pub grant: String,
    /// From the root of the store; `None`: it is not granted.
    pub path: Option<String>,
    /// `None`: what the app asks for.
    pub rights: Option<Rights>,
    /// Seconds since 1970.
    pub expires: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Apps(Vec<Summary>),
    App(Box<Details>),
    Text(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub name: String,
    pub version: String,
    pub is_enabled: bool,
    pub summary: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    pub manifest: Manifest,
    pub is_enabled: bool,
    /// Whom its changes are attributed to, in hexadecimal.
    pub actor: String,
    pub grants: Vec<Grant>,
    pub powers: Powers,
    /// Where it answers HTTP requests, if it does.
    pub url: Option<String>,
    pub dead_letters: Vec<DeadLetter>,
    /// `None` where no node runs it.
    pub stats: Option<Stats>,
}

impl Call {
    /// As it is sent.
    pub fn encode(&self, package: &[u8]) -> Vec<u8> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        [&(json.len() as u32).to_le_bytes(), json.as_slice(), package].concat()
    }

    /// `None` if it is malformed.
    pub fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (json, package) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        Some((serde_json::from_slice(json).ok()?, package))
    }
}
