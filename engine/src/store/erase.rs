//! Overwriting what is free: what stood there is not found in the raw volume any more.
//!
//! On a disk that keeps old versions of its sectors by itself, as flash does, they may be there all the same.

use super::{Core, Store};
use crate::device::Write;
use crate::error::Result;
use crate::format::Layout;
use crate::limits::REQUEST_SECTORS_MAX;
use crate::space::Run;

/// Writes that are in flight together.
const WRITES: usize = 8;

impl Store {
    /// Overwrites all free sectors that were ever written, and the old part of the log, with zeros. Nobody else uses the
    /// store. `progress` is told of sectors done and of all of them, and says whether to go on. Whether it came to the end.
    pub fn erase_free(&self, progress: &dyn Fn(u64, u64) -> bool) -> Result<bool> {
        let core = &self.core;
        // Once more, so that what the first one replaced is free.
        self.checkpoint()?;
        core.run_checkpoint()?;
        core.erase_log()?;
        let total = core.space.lock().volume_sectors();
        let mut at = 0;
        loop {
            if !progress(at, total) {
                return Ok(false);
            }
            let mut runs = Vec::new();
            {
                let mut space = core.space.lock();
                while runs.len() < WRITES
                    && let Some(run) = space.next_free(at, REQUEST_SECTORS_MAX)?
                {
                    // Nobody else gets it meanwhile.
                    space.mark(run, true)?;
                    at = run.sector + run.sectors;
                    runs.push(run);
                }
            }
            if runs.is_empty() {
                core.flush()?;
                progress(total, total);
                return Ok(true);
            }
            let written = core.write_zeros(&runs);
            let mut space = core.space.lock();
            for run in runs {
                space.mark(run, false)?;
            }
            written?;
        }
    }
}

impl Core {
    /// Overwrites the log, if all of it is older than the last checkpoint.
    fn erase_log(&self) -> Result<()> {
        self.check_writable()?;
        let sealer = self.sealer.lock();
        if sealer.appended != self.log_tail.load(std::sync::atomic::Ordering::Acquire) {
            return Ok(());
        }
        let end = Layout::LOG_START + self.layout.log_sectors();
        let mut sector = Layout::LOG_START;
        while sector < end {
            let sectors = REQUEST_SECTORS_MAX.min(end - sector);
            self.write_zeros(&[Run { sector, sectors }])?;
            sector += sectors;
        }
        self.flush()
    }

    /// Overwrites these with zeros.
    pub(super) fn write_zeros(&self, runs: &[Run]) -> Result<()> {
        let zeros = |run: &Run| Write::zeros(&*self.device, run.sector, run.sectors);
        self.write_and_wait(runs.iter().map(zeros).collect())
    }
}
