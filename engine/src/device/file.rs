//! A device for systems without io_uring: plain `pread` and `pwrite`. A write completes inside the call.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::arena::Arena;
use super::host::HostFile;
use super::{Completion, Device, Read, SectorBuf, Write};
use crate::limits::{BUFFER_POOL_BYTES, REQUEST_BYTES_MAX};

/// A file or a block device, one request at a time.
pub struct FileDevice {
    host: HostFile,
    arena: Option<Arc<Arena>>,
}

impl FileDevice {
    /// On a file or block device that is open for reading, and for writing where it is to be written.
    pub fn new(file: File) -> io::Result<Self> {
        Ok(Self::on(HostFile::new(file)?))
    }

    pub(super) fn on(host: HostFile) -> Self {
        Self { host, arena: Arena::new(BUFFER_POOL_BYTES).ok().map(Arc::new) }
    }

    fn write_one(&self, write: &Write) -> io::Result<()> {
        let mut offset = self.host.check_write(write.sector, write.bytes.sectors())?;
        for part in write.bytes.chunks(REQUEST_BYTES_MAX) {
            self.host.file().write_all_at(part, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }
}

impl Device for FileDevice {
    fn sectors(&self) -> u64 {
        self.host.sectors()
    }

    fn read(&self, reads: &mut [Read<'_>]) -> io::Result<()> {
        for read in reads {
            let mut offset = self.host.check_read(read.sector, read.bytes.sectors())?;
            for part in read.bytes.chunks_mut(REQUEST_BYTES_MAX) {
                self.host.file().read_exact_at(part, offset)?;
                offset += part.len() as u64;
            }
        }
        Ok(())
    }

    fn read_cached(&self, reads: &mut [Read<'_>]) -> io::Result<()> {
        if self.host.read_cached(reads) { Ok(()) } else { self.read(reads) }
    }

    fn write(&self, writes: Vec<Write>) -> Completion {
        Completion::done(writes.iter().try_for_each(|write| self.write_one(write)))
    }

    fn flush(&self) -> io::Result<()> {
        self.host.flush()
    }

    fn grow(&self, sectors: u64) -> io::Result<()> {
        self.host.grow(sectors)
    }

    fn room(&self) -> u64 {
        self.host.room()
    }

    fn preferred_sectors(&self) -> u64 {
        self.host.preferred_sectors()
    }

    fn buffer(&self, sectors: usize) -> SectorBuf {
        match &self.arena {
            Some(arena) => SectorBuf::from_arena(arena, sectors),
            None => SectorBuf::heap(sectors),
        }
    }
}
