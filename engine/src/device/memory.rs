//! A device in memory, for tests. What was written is durable at once.

use std::io;

use parking_lot::RwLock;

use super::{Completion, Device, Read, Write, past_the_end};
use crate::limits::{SECTOR_BYTES, STORE_SECTORS_MAX};

/// Grows as far as memory allows.
pub struct MemoryDevice {
    bytes: RwLock<Vec<u8>>,
}

impl MemoryDevice {
    /// A device of zeros.
    pub fn new(sectors: u64) -> Self {
        Self::from_bytes(vec![0; sectors as usize * SECTOR_BYTES])
    }

    /// A device with these contents; what is behind the last whole sector is cut off.
    pub fn from_bytes(mut bytes: Vec<u8>) -> Self {
        bytes.truncate(bytes.len() / SECTOR_BYTES * SECTOR_BYTES);
        Self { bytes: RwLock::new(bytes) }
    }

    /// A copy of its contents.
    pub fn snapshot(&self) -> Vec<u8> {
        self.bytes.read().clone()
    }
}

impl Device for MemoryDevice {
    fn sectors(&self) -> u64 {
        (self.bytes.read().len() / SECTOR_BYTES) as u64
    }

    fn read(&self, reads: &mut [Read<'_>]) -> io::Result<()> {
        let bytes = self.bytes.read();
        for read in reads {
            let range = range(read.sector, read.bytes.len());
            let from = range.and_then(|range| bytes.get(range)).ok_or_else(past_the_end)?;
            read.bytes.copy_from_slice(from);
        }
        Ok(())
    }

    fn write(&self, writes: Vec<Write>) -> Completion {
        let mut bytes = self.bytes.write();
        for write in &writes {
            let range = range(write.sector, write.bytes.len());
            match range.and_then(|range| bytes.get_mut(range)) {
                Some(to) => to.copy_from_slice(&write.bytes),
                None => return Completion::done(Err(past_the_end())),
            }
        }
        Completion::done(Ok(()))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn grow(&self, sectors: u64) -> io::Result<()> {
        let mut bytes = self.bytes.write();
        let range = usize::try_from(sectors).ok().and_then(|sectors| sectors.checked_mul(SECTOR_BYTES));
        let wanted = range.ok_or(io::ErrorKind::StorageFull)?;
        let missing = wanted.saturating_sub(bytes.len());
        bytes.try_reserve(missing).map_err(|_| io::ErrorKind::StorageFull)?;
        let length = bytes.len() + missing;
        bytes.resize(length, 0);
        Ok(())
    }

    fn room(&self) -> u64 {
        STORE_SECTORS_MAX.saturating_sub(self.sectors())
    }
}

fn range(sector: u64, bytes: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(sector).ok()?.checked_mul(SECTOR_BYTES)?;
    Some(start..start.checked_add(bytes)?)
}
