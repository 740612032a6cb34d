//! `blocktree scrub`: has the daemon of a mounted store verify everything, and watches it.

use std::fs::File;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use blocktree_engine::limits::SECTOR_BYTES;
use blocktree_vfs::control::{
    Command, Plain, SCRUB_COMPLETE, SCRUB_FAILED, SCRUB_NEVER, SCRUB_RUNS, SCRUB_STOPPED, ScrubStatus,
};

use super::{print, progress_bar};
use crate::failure::{DAMAGE_LEFT, FAILED, Result};
use crate::mount_list::store_mounted_on;
use crate::{size, system};

/// Read and verify everything in a mounted store, while it is in use.
///
/// The daemon does it: ending this command does not end the scrub, --stop does. If one runs already, its progress is
/// shown. Exit codes: 0 all is well, 1 damage was found and all of it repaired (or the scrub did not end), 4 damage is
/// left.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the store is mounted
    mountpoint: PathBuf,
    /// End the scrub that runs
    #[arg(long, conflicts_with_all = ["status", "background"])]
    stop: bool,
    /// Only show how far it is
    #[arg(long)]
    status: bool,
    /// Start it and return at once
    #[arg(long, conflicts_with = "status")]
    background: bool,
}

/// How often the daemon is asked how far it is.
const INTERVAL: Duration = Duration::from_millis(200);

pub(crate) fn run(arguments: &Arguments) -> Result<u8> {
    let path = &arguments.mountpoint;
    let Some(mount) = store_mounted_on(path).context("cannot read the list of mounts")? else {
        return Err(anyhow!(
            "no store is mounted on {}; mount it first, or use `blocktree check` on the store itself",
            path.display()
        )
        .into());
    };
    let root = File::open(&mount.mountpoint).with_context(|| format!("cannot open {}", path.display()))?;
    if arguments.status {
        print(&describe(&status(&root)?))?;
        return Ok(0);
    }
    if arguments.stop {
        system::request(&root, Command::ScrubStop, &mut Plain::default()).context("cannot stop the scrub")?;
        return Ok(0);
    }
    match system::request(&root, Command::ScrubStart, &mut Plain::default()) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(anyhow::Error::from(error)
                .context(format!("cannot scrub {}", path.display()))
                .into());
        }
        _ => {}
    }
    if arguments.background {
        return Ok(0);
    }
    let status = watch(&root)?;
    print(&describe(&status))?;
    Ok(match (status.state, status.damaged.saturating_sub(status.repaired), status.repaired) {
        (SCRUB_COMPLETE, 0, 0) => 0,
        (SCRUB_COMPLETE, 0, _) => FAILED,
        (_, 0, _) => FAILED,
        _ => DAMAGE_LEFT,
    })
}

fn watch(root: &File) -> Result<ScrubStatus> {
    let bar = progress_bar("Scrubbing");
    loop {
        let status = status(root)?;
        if status.state != SCRUB_RUNS {
            bar.finish_and_clear();
            return Ok(status);
        }
        bar.set_length(status.total.saturating_mul(SECTOR_BYTES as u64));
        bar.set_position(status.done.saturating_mul(SECTOR_BYTES as u64));
        std::thread::sleep(INTERVAL);
    }
}

fn status(root: &File) -> Result<ScrubStatus> {
    let mut status = ScrubStatus::default();
    system::request(root, Command::ScrubStatus, &mut status).context("the daemon does not answer")?;
    Ok(status)
}

fn describe(status: &ScrubStatus) -> String {
    let bytes = |sectors: u64| size::display(sectors.saturating_mul(SECTOR_BYTES as u64));
    let done = bytes(status.done);
    let found = match (status.damaged, status.damaged.saturating_sub(status.repaired)) {
        (0, _) => "no damage found".to_owned(),
        (damaged, 0) => format!("{damaged} damaged sectors found, all repaired"),
        (damaged, left) => format!("{damaged} damaged sectors found, {left} not repaired"),
    };
    match status.state {
        SCRUB_NEVER => "No scrub was started since the store was mounted.\n".to_owned(),
        SCRUB_RUNS => format!("Scrubbing: {done} of {}, {found} so far.\n", bytes(status.total)),
        SCRUB_COMPLETE => format!("Scrubbed {done}: {found}.\n"),
        SCRUB_STOPPED => format!("Stopped after {done} of {}: {found}.\n", bytes(status.total)),
        SCRUB_FAILED => {
            format!("Failed after {done} of {}: {found}. The daemon's log says why.\n", bytes(status.total))
        }
        _ => "The daemon answers something unknown; is it another version?\n".to_owned(),
    }
}
