//! `blocktree cap unshare`: takes a directory back from somebody who could read it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, anyhow};
use blocktree_engine::crypto::PublicKeys;
use blocktree_engine::format::BlockId;
use blocktree_engine::limits::SECTOR_BYTES;
use blocktree_engine::{ReadcapInfo, Store};
use blocktree_vfs::{TreePath, rotation};

use super::cap::Opened;
use super::{print, progress_bar};
use crate::failure::{Failure, Result};
use crate::principals::Who;
use crate::{size, system};

/// What becomes of the data that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    /// It stays under its old keys for now.
    Stays,
    IsSealedAnew,
    /// And what it leaves behind is overwritten.
    IsSealedAnewAndErased,
}

impl Data {
    /// Whether nobody interrupted it.
    fn renew(self, store: &Store, interrupted: &AtomicBool) -> Result<bool> {
        Ok(self == Self::Stays
            || (seal_anew(store, interrupted)? && (self == Self::IsSealedAnew || erase(store, interrupted)?)))
    }
}

/// What a principal holds, as it lies to a directory.
struct Held {
    /// Readcaps for the directory and what is below it.
    within: Vec<u64>,
    /// One that gives the directory from above.
    above: Option<u64>,
    others: usize,
}

pub(super) fn run(opened: &Opened, path: &TreePath, from: &Who, data: Data) -> Result<()> {
    let principal = from.public().map_err(Failure::from)?;
    let store = &opened.store;
    let names = path.names_in(&store.root_principal()).context("cannot take it back")?;
    if names.is_empty() {
        return Err(anyhow!("/ itself is shared with nobody; name the directory that is").into());
    }
    let directory = opened.directory(names).with_context(|| format!("cannot take {path} back"))?;
    refuse_writer(store, &principal, directory, path)?;
    let held = held(store, &principal, directory)?;
    if let Some(serial) = held.above {
        return Err(anyhow!(
            "{serial:016x} gives this principal a directory above {path}; take that one back (`blocktree cap list` shows \
             them)"
        )
        .into());
    }
    let is_begun = store.rotations().context(WHAT)?.iter().any(|rotation| rotation.top == directory);
    let is_stale = store.stale().context(WHAT)?.blocks > 0;
    if held.within.is_empty() && !is_begun && !is_stale && data != Data::IsSealedAnewAndErased {
        return Err(anyhow!(
            "nothing of {path} is shared with this principal; `blocktree cap list` shows what is"
        )
        .into());
    }
    if !held.within.is_empty() {
        store.begin_rotation(directory, &held.within).context(WHAT)?;
        if held.others == 0 {
            // It gets no keys any more from copies that are made from now on.
            store.revoke_access(&principal).context("cannot take the access slot away")?;
        }
    }
    let interrupted = system::interrupts().context("cannot watch for signals")?;
    let is_whole = change_keys(store, interrupted)? && data.renew(store, interrupted)?;
    let left = store.stale().context(WHAT)?.sectors.saturating_mul(SECTOR_BYTES as u64);
    let has_rotations = !store.rotations().context(WHAT)?.is_empty();
    opened.close()?;
    if !is_whole {
        let what = match (has_rotations, left) {
            (true, _) => {
                "not all keys are changed: what is written now may still be readable to who was to lose it"
                    .into()
            }
            (false, 0) => "all is sealed anew, and free space is not all overwritten".into(),
            (false, _) => format!("new data is safe; {} still stand under old keys", size::display(left)),
        };
        return Err(anyhow!("interrupted: {what}. Nothing is lost; the same command goes on").into());
    }
    if left > 0 {
        print(&format!(
            "{} still stand under old keys; the same command seals them anew.\n",
            size::display(left)
        ))?;
    }
    Ok(())
}

const WHAT: &str = "cannot take the directory back";

/// Who writes has more than a readcap: that ends otherwise, or not at all.
fn refuse_writer(store: &Store, principal: &PublicKeys, directory: BlockId, path: &TreePath) -> Result<()> {
    for cap in store.writecaps() {
        let (certificate, serial) = (cap.certificate, cap.certificate.serial());
        if certificate.subject() != *principal {
            continue;
        }
        if certificate.block() == Store::ROOT {
            return Err(anyhow!(
                "by the writecap {serial:016x} this principal has, or had, the keys of the whole store: no new key of a \
                 directory keeps anything from it. Copy what it must not read into another store"
            )
            .into());
        }
        let is_related = is_within(store, certificate.block(), directory)?
            || is_within(store, directory, certificate.block())?;
        if cap.refused.is_none() && is_related {
            return Err(anyhow!(
                "by the writecap {serial:016x} this principal may write {path} or a part of it; end that first with \
                 `blocktree cap revoke`"
            )
            .into());
        }
    }
    Ok(())
}

fn held(store: &Store, principal: &PublicKeys, directory: BlockId) -> Result<Held> {
    let caps: Vec<ReadcapInfo> = store.readcaps().context("cannot read the capabilities")?;
    let mut held = Held { within: Vec::new(), above: None, others: 0 };
    for cap in caps.iter().filter(|cap| cap.recipient == *principal) {
        if is_within(store, cap.block, directory)? {
            held.within.push(cap.serial);
        } else if is_within(store, directory, cap.block)? {
            held.above = Some(cap.serial);
        } else {
            held.others += 1;
        }
    }
    Ok(held)
}

/// Whether a directory is another, or below it.
fn is_within(store: &Store, directory: BlockId, above: BlockId) -> Result<bool> {
    Ok(store.is_within(directory, above).context("cannot read the tree")?)
}

/// Ends all changes of keys that were begun; whether nobody interrupted it.
fn change_keys(store: &Store, interrupted: &AtomicBool) -> Result<bool> {
    let bar = progress_bar("Changing keys");
    bar.set_style(
        indicatif::ProgressStyle::with_template("{prefix} {spinner} {pos} files")
            .unwrap_or_else(|_| indicatif::ProgressStyle::default_spinner()),
    );
    for rotation in store.rotations().context(WHAT)? {
        let is_done = rotation::rotate(store, &rotation, &mut |done| {
            bar.set_position(done);
            !interrupted.load(Ordering::Relaxed)
        })
        .context(WHAT)?;
        if !is_done {
            bar.finish_and_clear();
            return Ok(false);
        }
    }
    bar.finish_and_clear();
    Ok(true)
}

/// Seals anew what stands under old keys; whether nobody interrupted it.
fn seal_anew(store: &Store, interrupted: &AtomicBool) -> Result<bool> {
    const WHAT: &str = "cannot seal old data anew; new data is safe";
    let bar = progress_bar("Sealing old data anew");
    let last = Cell::new(0);
    let report = store
        .reencrypt(&|done, total| {
            if last.replace(done) != done || bar.length() == Some(0) {
                bar.set_length(total.saturating_mul(SECTOR_BYTES as u64));
                bar.set_position(done.saturating_mul(SECTOR_BYTES as u64));
            }
            !interrupted.load(Ordering::Relaxed)
        })
        .context(WHAT)?;
    bar.finish_and_clear();
    if report.damaged > 0 {
        return Err(anyhow!(
            "{WHAT}: {} files are damaged and stay as they are; `blocktree check` names them",
            report.damaged
        )
        .into());
    }
    Ok(!report.stopped)
}

/// Overwrites what is free; whether nobody interrupted it.
fn erase(store: &Store, interrupted: &AtomicBool) -> Result<bool> {
    let bar = progress_bar("Overwriting free space");
    let ended = store.erase_free(&|done, total| {
        bar.set_length(total.saturating_mul(SECTOR_BYTES as u64));
        bar.set_position(done.saturating_mul(SECTOR_BYTES as u64));
        !interrupted.load(Ordering::Relaxed)
    });
    bar.finish_and_clear();
    Ok(ended.context("cannot overwrite free space")?)
}
