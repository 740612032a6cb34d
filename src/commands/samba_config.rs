//! `blocktree samba-config`: the share of a mounted store, for Samba's smb.conf (smb.conf(5)).
//!
//! `tests/samba/` and `cargo xtask conformance` serve what this prints.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};

use super::print;
use crate::failure::Result;
use crate::mount_list::{StoreMount, store_mounted_on};

/// Print a share of a mounted store for Samba's smb.conf.
///
/// The store must be mounted with -o allow_other, since smbd acts as the user of each client. The share is named
/// after the last part of the mountpoint.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the store is mounted
    mountpoint: PathBuf,
}

/// What a share has below its name, path and `read only`. Each setting is said, also where it is Samba's default:
/// a `[global]` section may have changed that.
const SETTINGS: &str = "    # Windows' access rights, alternate streams and attributes are kept in extended attributes.
    vfs objects = acl_xattr streams_xattr
    ea support = yes
    store dos attributes = yes
    map archive = no
    map hidden = no
    map readonly = no
    map system = no
    # What a client is told is saved, is saved.
    strict sync = yes
    sync always = no
    # Clients keep files in their caches, and keep them open when the network fails for a while. For that only smbd
    # may decide on locks: programs on this machine do not see those of the clients.
    oplocks = yes
    level2 oplocks = yes
    kernel oplocks = no
    kernel share modes = no
    posix locking = no
    durable handles = yes
";

pub(crate) fn run(arguments: &Arguments) -> Result<u8> {
    let path = &arguments.mountpoint;
    let Some(mount) = store_mounted_on(path).context("cannot read the list of mounts")? else {
        return Err(anyhow!("no store is mounted on {}; mount it first", path.display()).into());
    };
    if !mount.is_for_everyone {
        return Err(anyhow!(
            "{} is closed to the users that smbd acts as; mount it with -o allow_other",
            path.display()
        )
        .into());
    }
    print(&section(&mount)?)?;
    Ok(0)
}

fn section(mount: &StoreMount) -> anyhow::Result<String> {
    let path = as_value(&mount.mountpoint)?;
    let name = share_name(&mount.mountpoint);
    let read_only = if mount.is_read_only { "yes" } else { "no" };
    Ok(format!("[{name}]\n    path = {path}\n    read only = {read_only}\n{SETTINGS}"))
}

/// The path as smb.conf reads it: there is no way to escape anything in it.
fn as_value(path: &Path) -> anyhow::Result<&str> {
    let shown = path.display();
    let Some(text) = path.to_str() else { bail!("{shown} is not UTF-8, which smb.conf has to be") };
    let is_unfit = |letter: char| letter == '%' || letter == '"' || letter.is_control();
    if text.contains(is_unfit) || text.ends_with([' ', '\\']) {
        bail!(
            "smb.conf cannot name {shown}; mount the store on a path without %, quotes and control characters"
        );
    }
    Ok(text)
}

/// The last part of the path, without what a share's name cannot have.
fn share_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_unfit = |letter: char| letter.is_control() || r#"%<>*?|/\+=;:",[]"#.contains(letter);
    let name: String = name.chars().map(|letter| if is_unfit(letter) { '_' } else { letter }).collect();
    match name.to_lowercase().as_str() {
        "" => "tree".to_owned(),
        // These mean something else to Samba.
        "global" | "homes" | "printers" | "print$" | "ipc$" => format!("{name}_"),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(mountpoint: &str, is_read_only: bool) -> StoreMount {
        StoreMount { mountpoint: mountpoint.into(), store: "/s".into(), is_read_only, is_for_everyone: true }
    }

    #[test]
    fn a_share_has_name_and_path_of_the_mount() {
        let text = section(&mount("/srv/our tree", false)).unwrap();
        assert!(text.starts_with("[our tree]\n    path = /srv/our tree\n    read only = no\n"), "{text}");
        assert!(section(&mount("/srv/tree", true)).unwrap().contains("read only = yes"));
    }

    #[test]
    fn names_that_mean_something_else_are_changed() {
        for (path, name) in
            [("/srv/a:b", "a_b"), ("/srv/Homes", "Homes_"), ("/srv/[x]", "_x_"), ("/", "tree")]
        {
            assert_eq!(share_name(Path::new(path)), name);
        }
    }

    #[test]
    fn paths_that_cannot_be_written_are_refused() {
        for path in ["/srv/100%", "/srv/a\nb", "/srv/tree ", "/srv/tree\\", "/srv/\"tree\""] {
            assert!(section(&mount(path, false)).is_err(), "{path}");
        }
    }
}
