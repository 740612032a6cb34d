//! A device through io_uring: many requests in flight, with a registered file and registered memory.
//!
//! Reads ([`read`]) take a ring each for the time of the call; nobody shares it, so one system call submits a batch
//! and waits for it. A batch of one request is a plain `pread`: that measured a little faster than a ring, and much
//! faster with several threads. Writes (`write.rs`) outlive the call that starts them; they go to the least busy of a
//! few rings, so that those who write and wait do not wake up each other. No thread of our own serves
//! them: whoever waits reaps. Flushes are plain `fdatasync`: through the ring, they measured twice as slow.
//!
//! Invariants:
//! 1. Memory that the kernel may still touch is neither freed nor reused: a read does not return, and the device is
//!    not dropped, before all its requests are complete, whatever fails meanwhile.
//! 2. A completion queue never overflows: no ring has more in flight than its queue holds.
//!
//! A process that forks must do so before it opens a device: rings do not survive a fork.
#![allow(unsafe_code)]

mod read;
mod registration;
mod request;
mod write;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use io_uring::IoUring;

use self::read::ReadRings;
use self::registration::Registration;
use self::write::WriteQueue;
use super::arena::Arena;
use super::buffer::SectorBuf;
use super::host::HostFile;
use super::{Completion, Device, Read, Write};
use crate::limits::{BUFFER_POOL_BYTES, REQUEST_BYTES_MAX};

/// As many as usually write and wait at the same time.
const WRITE_RINGS: usize = 4;

/// A file or a block device, through io_uring.
pub struct UringDevice {
    reads: ReadRings,
    writes: Vec<Arc<WriteQueue>>,
    registration: Option<Arc<Registration>>,
    registering: Option<JoinHandle<()>>,
    // Last: the lock goes when all else is gone.
    host: HostFile,
}

impl UringDevice {
    /// On a file or block device that is open for reading, and for writing where it is to be written. Fails where
    /// the kernel gives no io_uring.
    pub fn new(file: File) -> io::Result<Self> {
        Self::on(HostFile::new(file)?).map_err(|(error, _)| error)
    }

    /// Gives the file back where the kernel gives no io_uring.
    pub(super) fn on(host: HostFile) -> Result<Self, (io::Error, HostFile)> {
        let arena = Arena::new(BUFFER_POOL_BYTES).ok();
        let registration = arena.map(|arena| Arc::new(Registration::new(Arc::new(arena))));
        let (reads, writes) = match make_rings(host.file(), registration.as_ref()) {
            Ok(rings) => rings,
            Err(error) => return Err((error, host)),
        };
        let registering = registration.clone().and_then(|registration| {
            let writes = writes.clone();
            let thread = thread::Builder::new().name("registration".into());
            thread.spawn(move || registration.run(&writes)).ok()
        });
        Ok(Self { reads, writes, registration, registering, host })
    }

    fn arena(&self) -> Option<&Arc<Arena>> {
        self.registration.as_ref().map(|registration| registration.arena())
    }

    fn least_busy(&self) -> &Arc<WriteQueue> {
        let idle = self.writes.iter().find(|queue| queue.in_flight() == 0);
        idle.or_else(|| self.writes.iter().min_by_key(|queue| queue.in_flight())).unwrap_or(&self.writes[0])
    }
}

/// One write ring is a must; more are for speed.
fn make_rings(
    file: &File,
    registration: Option<&Arc<Registration>>,
) -> io::Result<(ReadRings, Vec<Arc<WriteQueue>>)> {
    let mut writes = vec![Arc::new(WriteQueue::new(file, registration.cloned())?)];
    let reads = ReadRings::new(file, registration.cloned())?;
    while writes.len() < WRITE_RINGS
        && let Ok(queue) = WriteQueue::new(file, registration.cloned())
    {
        writes.push(Arc::new(queue));
    }
    Ok((reads, writes))
}

impl Device for UringDevice {
    fn sectors(&self) -> u64 {
        self.host.sectors()
    }

    fn read(&self, reads: &mut [Read<'_>]) -> io::Result<()> {
        if let [read] = reads
            && read.bytes.len() <= REQUEST_BYTES_MAX
        {
            let offset = self.host.check_read(read.sector, read.bytes.sectors())?;
            return self.host.file().read_exact_at(read.bytes, offset);
        }
        let mut requests = Vec::with_capacity(reads.len());
        for read in reads {
            let offset = self.host.check_read(read.sector, read.bytes.sectors())?;
            request::split(read.bytes, offset, self.arena(), |request| requests.push(request));
        }
        // SAFETY: the buffers are exclusively borrowed until this returns, which is after the kernel's last access.
        unsafe { self.reads.run(&mut requests) }
    }

    fn read_cached(&self, reads: &mut [Read<'_>]) -> io::Result<()> {
        if self.host.read_cached(reads) { Ok(()) } else { self.read(reads) }
    }

    fn write(&self, writes: Vec<Write>) -> Completion {
        let mut requests = Vec::with_capacity(writes.len());
        for write in &writes {
            match self.host.check_write(write.sector, write.bytes.sectors()) {
                Ok(offset) => request::split(&write.bytes, offset, self.arena(), |request| {
                    requests.push(request);
                }),
                Err(error) => return Completion::done(Err(error)),
            }
        }
        if requests.is_empty() {
            return Completion::done(Ok(()));
        }
        // SAFETY: the requests are from the memory of these buffers.
        unsafe { self.least_busy().start(requests, writes) }
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
        match self.arena() {
            Some(arena) => SectorBuf::from_arena(arena, sectors),
            None => SectorBuf::heap(sectors),
        }
    }
}

impl Drop for UringDevice {
    fn drop(&mut self) {
        if let Some(registration) = &self.registration {
            registration.end();
        }
        if let Some(registering) = self.registering.take() {
            let _ = registering.join();
        }
        for queue in &self.writes {
            queue.drain();
        }
    }
}

/// A ring with the file registered as file 0 and, from [`Ring::register`] on and where the kernel agrees, the arena as
/// buffer 0.
struct Ring {
    ring: IoUring,
    /// Unknown before it was tried.
    has_buffers: OnceLock<bool>,
    /// Registered memory stays mapped for as long as the ring.
    registration: Option<Arc<Registration>>,
}

impl Ring {
    fn new(
        file: &File,
        registration: Option<Arc<Registration>>,
        entries: u32,
        completions: u32,
    ) -> io::Result<Self> {
        let ring = IoUring::builder().dontfork().setup_cqsize(completions).build(entries)?;
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        Ok(Self { ring, has_buffers: OnceLock::new(), registration })
    }

    fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    fn has_buffers(&self) -> bool {
        self.has_buffers.get().copied().unwrap_or(false)
    }

    /// Registers the arena, unless that was tried before; tells whether it is registered.
    fn register(&self) -> bool {
        let Some(registration) = &self.registration else { return false };
        *self.has_buffers.get_or_init(|| {
            let submitter = self.ring.submitter();
            // A clone does not count against RLIMIT_MEMLOCK again; kernels before 6.12 have no clones.
            if registration.owner().is_some_and(|fd| submitter.register_buffers_clone(fd).is_ok()) {
                return true;
            }
            // SAFETY: the arena is mapped for as long as the ring lives, which holds a reference to it.
            let registered = unsafe { submitter.register_buffers(&[registration.arena().as_iovec()]) };
            if let Err(error) = &registered {
                tracing::debug!(%error, "no registered buffers; RLIMIT_MEMLOCK may be too low");
            }
            registered.is_ok()
        })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel frees a ring some time after it is closed; the file must not stay open until then.
        let _ = self.ring.submitter().unregister_files();
    }
}
