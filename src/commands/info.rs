//! `blocktree info`: what a store is and how full.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use blocktree_engine::StoreInfo;
use blocktree_engine::anchor::AnchorStatus;
use blocktree_engine::limits::SECTOR_BYTES;
use blocktree_vfs::control::{Command, InfoChunk};
use serde::{Deserialize, Serialize};

use super::{find_mount, open_store_as, print};
use crate::cli::PassphraseSource;
use crate::failure::Result;
use crate::mount_list::StoreMount;
use crate::store_key::HolderArguments;
use crate::{size, system};

/// Show what a store is and how full.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A store, or where one is mounted
    #[arg(value_name = "STORE|MOUNTPOINT")]
    path: PathBuf,
    /// As JSON, with sizes in bytes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    passphrase: PassphraseSource,
    #[command(flatten)]
    holder: HolderArguments,
}

/// The JSON of `info --json`: names and units that scripts rely on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Description {
    store_id: String,
    format_version: u32,
    root_principal: String,
    capacity_bytes: u64,
    volume_bytes: u64,
    used_bytes: u64,
    free_bytes: u64,
    log_bytes: u64,
    log_used_bytes: u64,
    generation: u64,
    sequence: u64,
    anchor: Option<AnchorDescription>,
    node_cache_hit_rate: f64,
    block_cache_hit_rate: f64,
    /// What stands under older keys, and changes of keys that were not ended.
    old_key_bytes: u64,
    key_changes: u64,
    /// The daemon, of a store that is mounted.
    process: Option<u32>,
}

/// What this machine remembers of the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct AnchorDescription {
    place: String,
    /// The change that it knows of.
    sequence: Option<u64>,
    /// Why it is of no use.
    failure: Option<String>,
}

impl From<&AnchorStatus> for AnchorDescription {
    fn from(status: &AnchorStatus) -> Self {
        let failure = status.failure.as_ref().or(status.accepted.as_ref());
        Self { place: status.place.clone(), sequence: status.seq, failure: failure.cloned() }
    }
}

impl From<&StoreInfo> for Description {
    fn from(info: &StoreInfo) -> Self {
        let bytes = |sectors: u64| sectors.saturating_mul(SECTOR_BYTES as u64);
        Self {
            store_id: info.store_id.clone(),
            format_version: info.format_version,
            root_principal: info.root_principal.clone(),
            capacity_bytes: bytes(info.capacity_sectors),
            volume_bytes: bytes(info.volume_sectors),
            used_bytes: bytes(info.used_sectors),
            free_bytes: bytes(info.free_sectors),
            log_bytes: bytes(info.log_sectors),
            log_used_bytes: bytes(info.log_used_sectors),
            generation: info.generation,
            sequence: info.seq,
            anchor: info.anchor.as_ref().map(AnchorDescription::from),
            node_cache_hit_rate: info.node_cache_hit_rate,
            block_cache_hit_rate: info.block_cache_hit_rate,
            old_key_bytes: bytes(info.stale_sectors),
            key_changes: info.rotations,
            process: None,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<u8> {
    let mount = find_mount(&arguments.path)?;
    let description: Description = match &mount {
        Some(mount) => {
            let text = from_daemon(&mount.mountpoint)?;
            serde_json::from_str(&text)
                .context("the daemon's answer makes no sense; is it another version?")?
        }
        None => {
            let store = open_store_as(
                &arguments.path,
                arguments.passphrase.source().as_ref(),
                &arguments.holder,
                true,
            )?;
            let description = Description::from(&store.info());
            store.close().context("cannot close the store")?;
            description
        }
    };
    if arguments.json {
        let text = serde_json::to_string_pretty(&description).context("cannot write JSON")?;
        print(&(text + "\n"))?;
    } else {
        print(&for_people(&description, mount.as_ref()))?;
    }
    Ok(0)
}

/// What the control channel carries.
pub(crate) fn to_json(info: &StoreInfo) -> String {
    // A struct of numbers and strings always has a JSON form.
    let description = Description { process: Some(std::process::id()), ..Description::from(info) };
    serde_json::to_string(&description).unwrap_or_default()
}

/// The id of the root principal of a mounted store.
pub(crate) fn root_principal_of(mountpoint: &Path) -> anyhow::Result<String> {
    let text = from_daemon(mountpoint)?;
    let description: Description =
        serde_json::from_str(&text).context("the daemon's answer makes no sense; is it another version?")?;
    Ok(description.root_principal)
}

fn from_daemon(mountpoint: &Path) -> anyhow::Result<String> {
    /// Texts change rarely; if one seems to change all the time, something is wrong.
    const TRIES_MAX: usize = 8;
    /// Far more than a description has: the daemon may be another version, but not just anything.
    const TEXT_BYTES_MAX: u64 = 1 << 20;
    let root = File::open(mountpoint).with_context(|| format!("cannot open {}", mountpoint.display()))?;
    'again: for _ in 0..TRIES_MAX {
        let mut text = Vec::new();
        let mut total = None;
        loop {
            let mut chunk = InfoChunk::request(text.len() as u64);
            system::request(&root, Command::Info, &mut chunk)
                .with_context(|| format!("the daemon of {} does not answer", mountpoint.display()))?;
            text.extend_from_slice(chunk.text());
            if *total.get_or_insert(chunk.total) != chunk.total {
                continue 'again;
            }
            if text.len() as u64 >= chunk.total {
                return String::from_utf8(text).context("the daemon's answer makes no sense");
            }
            if chunk.text().is_empty() || chunk.total > TEXT_BYTES_MAX {
                bail!("the daemon's answer makes no sense");
            }
        }
    }
    bail!("the daemon's answer changes all the time")
}

fn for_people(info: &Description, mount: Option<&StoreMount>) -> String {
    let mut lines = Vec::new();
    if let Some(mount) = mount {
        lines.push(("Store", mount.store.display().to_string()));
        lines.push(("Mounted on", mount.mountpoint.display().to_string()));
    }
    let percent = info.used_bytes.saturating_mul(100).checked_div(info.capacity_bytes).unwrap_or(0);
    lines.extend([
        ("Store id", info.store_id.clone()),
        ("Format version", info.format_version.to_string()),
        ("Root principal", info.root_principal.clone()),
        ("Capacity", size::display(info.capacity_bytes)),
        ("Used", format!("{} ({percent} %)", size::display(info.used_bytes))),
        ("Free", size::display(info.free_bytes)),
        ("Volume", size::display(info.volume_bytes)),
        (
            "Log",
            format!("{} of {} in use", size::display(info.log_used_bytes), size::display(info.log_bytes)),
        ),
        ("Checkpoints", info.generation.to_string()),
        ("Changes", info.sequence.to_string()),
        ("Anchor", info.anchor.as_ref().map_or("none".to_owned(), for_people_anchor)),
    ]);
    if info.old_key_bytes > 0 {
        lines.push(("Under old keys", size::display(info.old_key_bytes)));
    }
    if info.key_changes > 0 {
        lines.push(("Key changes", "begun and not ended: `blocktree cap unshare` goes on".to_owned()));
    }
    if mount.is_some() {
        let rate = |rate: f64| format!("{:.1} %", rate * 100.0);
        lines.push(("Index cache hits", rate(info.node_cache_hit_rate)));
        lines.push(("Key cache hits", rate(info.block_cache_hit_rate)));
        lines.extend(info.process.map(|process| ("Daemon", format!("process {process}"))));
    }
    lines.iter().map(|(name, value)| format!("{:<18}{value}\n", format!("{name}:"))).collect()
}

fn for_people_anchor(anchor: &AnchorDescription) -> String {
    let knows = anchor.sequence.map_or("nothing yet".to_owned(), |seq| format!("change {seq}"));
    let failure = anchor.failure.as_ref().map_or(String::new(), |failure| format!("; {failure}"));
    format!("{} knows {knows}{failure}", anchor.place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_goes_there_and_back() {
        let info = StoreInfo { store_id: "ab".into(), capacity_sectors: 10, ..StoreInfo::default() };
        let description: Description = serde_json::from_str(&to_json(&info)).unwrap();
        let here = Description { process: Some(std::process::id()), ..Description::from(&info) };
        assert_eq!(description, here);
        assert_eq!(description.capacity_bytes, 40960);
        let text = for_people(&description, None);
        assert!(text.contains("Capacity:         40.0 KiB\n"), "{text}");
    }
}
