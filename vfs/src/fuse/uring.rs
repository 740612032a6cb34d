//! The transport over io_uring (Linux 6.14): one system call hands an answer over and waits for the next request.
//!
//! The kernel has a queue for each processor, and puts a request into the queue of the processor that it is made on.
//! Each [`Worker`] is one thread of one queue with one *entry*: memory that the kernel writes a request to and reads the
//! answer from, which it is told of once. Requests that have no entry yet wait in the kernel. FORGET, INTERRUPT and
//! notifications stay with the device, and so does everything until all queues have entries, or if they never do.
//!
//! A worker has one entry only, so that no request waits behind one that takes long while another thread is idle; and so
//! that, of the several workers of a queue, one can wait for the kernel (see [`Spare`]).
//!
//! Where a worker runs is up to its [`Placement`].
//!
//! Invariants:
//! 1. Between handing an entry over and its completion, only the kernel touches its memory.
//! 2. The kernel touches it only in system calls that the worker makes, so it is free once the worker has ended.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use zerocopy::{FromBytes, IntoBytes};

use super::adapter::Adapter;
use super::answer::{Answer, Body};
use super::buffer::PayloadBuffer;
use super::device::{Device, Origin, Spare};
use super::placement::{Askers, Placement};
use super::protocol::{Arguments, InHeader, OutHeader, UringCommand, UringEntry, uring};

type Ring = IoUring<squeue::Entry128, cqueue::Entry>;

/// Threads of one queue: requests of one processor that are served at once. More where there are few processors,
/// since a request may wait for a disk.
fn workers_per_queue(queues: u16) -> usize {
    (8 / usize::from(queues.max(1))).clamp(2, 4)
}

/// An answer to a request that has a payload is made apart from it. This is more than the longest, an extended
/// attribute's value.
const APART_BYTES: usize = 80 << 10;
/// Where the processors that there may ever be are listed, such as `0-7`.
const POSSIBLE_PROCESSORS: &str = "/sys/devices/system/cpu/possible";

/// A thread's part of the transport.
pub(super) struct Worker {
    device: Arc<Device>,
    spare: Arc<Spare>,
    queue: u16,
    ring: Ring,
    headers: Box<[u8; uring::HEADER_BYTES]>,
    payload: PayloadBuffer,
    apart: Vec<u8>,
    placement: Placement,
}

/// Everything that needs the system's consent before the kernel is told that requests may come this way.
pub(super) fn prepare(device: &Arc<Device>) -> io::Result<Vec<Worker>> {
    let mut workers = Vec::new();
    let queues = queues()?;
    let per_queue = workers_per_queue(queues);
    for queue in 0..queues {
        let spare = Arc::new(Spare::of(per_queue));
        let askers = Arc::new(Askers::of(per_queue));
        for place in 0..per_queue {
            // Only the thread that enables it uses it. Nothing interrupts that thread while it serves.
            let ring =
                Ring::builder().setup_single_issuer().setup_defer_taskrun().setup_r_disabled().build(2)?;
            workers.push(Worker {
                device: Arc::clone(device),
                spare: Arc::clone(&spare),
                queue,
                ring,
                headers: Box::new([0; uring::HEADER_BYTES]),
                payload: PayloadBuffer::new(),
                apart: vec![0; APART_BYTES],
                placement: Placement::of(queue, &askers, place),
            });
        }
    }
    Ok(workers)
}

impl Worker {
    /// Serves requests until the mount ends.
    pub(super) fn serve(mut self, adapter: &Adapter) -> io::Result<()> {
        self.placement.stay();
        self.ring.submitter().register_enable_rings()?;
        // The kernel reads this while the command is submitted, in the first round.
        let memory = [part(&mut self.headers[..]), part(self.payload.bytes())];
        let mut command = self.register(&memory);
        loop {
            // SAFETY: all that the command points to outlives the ring's last system call.
            unsafe { self.ring.submission().push(&command) }.map_err(io::Error::other)?;
            let result = self.next()?;
            match -result {
                0 => {}
                // The mount has ended, by itself or because the connection was cut.
                libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED => return Ok(()),
                errno => {
                    let error = io::Error::from_raw_os_error(errno);
                    tracing::warn!(%error, queue = self.queue, "requests go through the device instead");
                    return Ok(());
                }
            }
            command = self.answer(adapter)?;
        }
    }

    /// Hands over what was pushed, and waits for its completion.
    fn next(&mut self) -> io::Result<i32> {
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            if let Some(completion) = self.ring.completion().next() {
                return Ok(completion.result());
            }
        }
    }

    /// Answers the request that the entry holds, and makes the command that hands it over.
    fn answer(&mut self, adapter: &Adapter) -> io::Result<squeue::Entry128> {
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "an entry is malformed");
        let (headers, payload) = (&mut self.headers[..], self.payload.bytes());
        let (mut entry, _) =
            UringEntry::read_from_prefix(&headers[uring::ENTRY..]).map_err(|_| malformed())?;
        let (header, _) = InHeader::read_from_prefix(headers).map_err(|_| malformed())?;
        self.placement.serves(header.pid);
        let structure = &headers[uring::STRUCTURE..uring::ENTRY];
        let origin = Origin { device: &self.device, spare: &self.spare, may_answer_later: false };
        let bytes_in = entry.payload_sz as usize;
        let answer = match bytes_in {
            0 => adapter.answer(&header, Arguments::apart(structure, &[]), Body::new(payload), &origin),
            bytes => {
                let rest = payload.get(..bytes).ok_or_else(malformed)?;
                let body = Body::new(&mut self.apart);
                let answer = adapter.answer(&header, Arguments::apart(structure, rest), body, &origin);
                if let Ok(Answer::Body(bytes)) = answer {
                    payload[..bytes].copy_from_slice(&self.apart[..bytes]);
                }
                answer
            }
        };
        let (error, bytes) = match answer {
            Ok(Answer::Body(bytes)) => (0, bytes),
            Ok(Answer::Silence) => (0, 0),
            Err(failure) => (-failure.errno(), 0),
        };
        let len = (size_of::<OutHeader>() + bytes) as u32;
        headers[..size_of::<OutHeader>()]
            .copy_from_slice(OutHeader { len, error, unique: header.unique }.as_bytes());
        self.placement.served(header.opcode, bytes_in.max(bytes));
        entry.payload_sz = bytes as u32;
        headers[uring::ENTRY..].copy_from_slice(entry.as_bytes());
        Ok(self.command(uring::COMMIT_AND_FETCH, entry.commit_id, None))
    }

    fn register(&self, memory: &[libc::iovec; 2]) -> squeue::Entry128 {
        self.command(uring::REGISTER, 0, Some(memory))
    }

    fn command(&self, number: u32, commit_id: u64, memory: Option<&[libc::iovec; 2]>) -> squeue::Entry128 {
        let command = UringCommand { commit_id, qid: self.queue, ..UringCommand::default() };
        let mut bytes = [0; 80];
        bytes[..size_of::<UringCommand>()].copy_from_slice(command.as_bytes());
        let fd = types::Fd(self.device.as_raw_fd());
        let built = opcode::UringCmd80::new(fd, number).cmd(bytes);
        let Some(memory) = memory else { return built.build() };
        let mut entry = built.addr(Some(memory.as_ptr().addr() as u64)).build();
        /// Of `len` in `struct io_uring_sqe`; the crate has no word for it here.
        const LENGTH_OFFSET: usize = 24;
        const _: () = assert!(size_of::<squeue::Entry128>() == 128);
        // SAFETY: the entry is `struct io_uring_sqe`, 128 bytes of plain numbers, of which these are four.
        unsafe { (&raw mut entry).cast::<u8>().add(LENGTH_OFFSET).cast::<u32>().write(memory.len() as u32) };
        entry
    }
}

fn part(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

/// How many queues the kernel wants: one for each processor that there may ever be.
fn queues() -> io::Result<u16> {
    let list = std::fs::read_to_string(POSSIBLE_PROCESSORS)?;
    let last = list.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<u16>().ok());
    let count = last.and_then(|last| last.checked_add(1));
    count.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("processors {list:?}")))
}
