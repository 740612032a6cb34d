//! fsync and syncfs.

use std::sync::atomic::Ordering;

use blocktree_engine::Seq;

use super::Fs;
use crate::{Ino, Result};

impl Fs {
    /// Returns when the inode and all that happened before its last change are durable; with `data_only`,
    /// changes of mode, owner and times alone may be left out.
    pub fn fsync(&self, ino: Ino, data_only: bool) -> Result<()> {
        let inode = self.inode(ino)?;
        let seq = {
            let state = inode.state();
            if data_only { state.data_changed } else { state.changed }
        };
        self.durable_to(seq)
    }

    /// Makes everything durable that happened so far.
    pub fn syncfs(&self) -> Result<()> {
        self.durable_to(self.store.newest())
    }

    fn durable_to(&self, seq: Seq) -> Result<()> {
        if self.options.read_only || seq.0 <= self.durable.load(Ordering::Acquire) {
            return Ok(());
        }
        self.store.sync(seq)?;
        self.durable.fetch_max(seq.0, Ordering::AcqRel);
        Ok(())
    }
}
