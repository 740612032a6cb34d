//! SEEK_DATA and SEEK_HOLE of a file that somebody has open for writing.
//!
//! The kernel does not write its cache back before it asks. What it has collected would be taken for a hole, and be
//! lost by a copy that skips holes. So the places that look like holes here are written back first. Only those: what
//! the kernel caches of the data stays.
//!
//! Writing back waits for requests that other event loops take; [`Spare`](super::device::Spare) keeps one free.

use super::answer::Failure;
use super::device::Origin;
use crate::{Fs, FsError, Ino, Whence};

/// A search that finds more holes than this to be none after all is given up: somebody keeps filling them.
const GAPS_MAX: usize = 1024;

pub(super) fn behind_the_cache(
    fs: &Fs,
    ino: Ino,
    offset: u64,
    whence: Whence,
    origin: &Origin<'_>,
) -> Result<u64, Failure> {
    let mut known_to = offset;
    for _ in 0..GAPS_MAX {
        let Some((start, end)) = gap(fs, ino, known_to, whence)? else {
            return Ok(fs.seek(ino, offset, whence)?);
        };
        {
            let _spare =
                origin.spare.take().ok_or(FsError::Invalid("others seek in files that are written"))?;
            // What cannot be written back is not there for this one, and its writer learns of it.
            if let Err(error) = origin.device.write_back(ino, start, end) {
                tracing::debug!(%error, ino, "the kernel did not write back");
            }
        }
        // Now this stretch is as the kernel has it.
        let found = fs.seek(ino, known_to, whence);
        match (found, end) {
            (Ok(at), Some(end)) if whence == Whence::Hole && at >= end => known_to = end,
            (found, _) => return Ok(found?),
        }
    }
    Err(FsError::Invalid("the holes fill up faster than they are found").into())
}

/// The first stretch without data that an answer depends on, and where data begins again.
fn gap(fs: &Fs, ino: Ino, offset: u64, whence: Whence) -> Result<Option<(u64, Option<u64>)>, FsError> {
    let find = |offset, whence| match fs.seek(ino, offset, whence) {
        Ok(at) => Ok(Some(at)),
        Err(FsError::PastEnd) => Ok(None),
        Err(error) => Err(error),
    };
    let start = match whence {
        Whence::Data => offset,
        Whence::Hole => find(offset, Whence::Hole)?.unwrap_or(offset),
    };
    let end = find(start, Whence::Data)?;
    Ok((end != Some(start)).then_some((start, end)))
}
