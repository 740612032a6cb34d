//! A connection with the kernel: the agreement at its start, the threads that serve it, its end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use zerocopy::{FromBytes, IntoBytes};

use super::adapter::Adapter;
use super::buffer::{AnswerBuffer, RequestBuffer};
use super::device::{self, Device, Spare};
use super::kernel_cache::KernelCache;
use super::protocol::{self, Arguments, InHeader, InitIn, InitOut, Operation, Request};
use super::uring::{self, Worker};
use super::{MountOptions, kernel};

/// The running event loops.
pub(super) struct Session {
    loops: Vec<JoinHandle<io::Result<()>>>,
    adapter: Arc<Adapter>,
    device: Arc<Device>,
}

impl Session {
    /// Comes to an agreement with the kernel, and starts to serve.
    pub(super) fn start(descriptor: OwnedFd, adapter: Adapter, options: &MountOptions) -> io::Result<Self> {
        let device = Arc::new(Device::new(descriptor));
        let workers = agree(&device, options)?;
        let adapter = Arc::new(adapter);
        let mut session =
            Self { loops: Vec::new(), adapter: Arc::clone(&adapter), device: Arc::clone(&device) };
        // Until all of these are there, requests go the other way or wait.
        for (number, worker) in workers.into_iter().enumerate() {
            let adapter = Arc::clone(&adapter);
            session.run(format!("uring-{number}"), move || worker.serve(&adapter))?;
        }
        let count = options.event_loops.unwrap_or_else(kernel::event_loops_default);
        let spare = Arc::new(Spare::of(count));
        for number in 0..count {
            let own = match number {
                0 => Arc::clone(&device),
                // Not everybody may open the device; then they share.
                _ => device.duplicate().map_or_else(|_| Arc::clone(&device), Arc::new),
            };
            let (spare, adapter) = (Arc::clone(&spare), Arc::clone(&adapter));
            session.run(format!("fuse-{number}"), move || device::serve(&own, &spare, &adapter))?;
        }
        Ok(session)
    }

    pub(super) fn kernel_cache(&self) -> KernelCache {
        KernelCache::new(Arc::clone(&self.device))
    }

    fn run(
        &mut self,
        name: String,
        serve: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        self.loops.push(std::thread::Builder::new().name(name).spawn(serve)?);
        Ok(())
    }

    /// Returns once the mount has ended.
    pub(super) fn join(self) -> io::Result<()> {
        let mut result = Ok(());
        for one in self.loops {
            let ended = one.join().unwrap_or_else(|_| Err(io::Error::other("an event loop panicked")));
            result = result.and(ended);
        }
        self.adapter.end();
        result
    }
}

/// Answers INIT, which comes before everything else. Returns what is to serve io_uring, if the kernel has been told so.
fn agree(device: &Arc<Device>, options: &MountOptions) -> io::Result<Vec<Worker>> {
    let (mut requests, mut answers) = (RequestBuffer::new(), AnswerBuffer::new());
    loop {
        let bytes = device.receive(requests.bytes())?;
        let bytes = bytes.ok_or_else(|| io::Error::other("it was unmounted at once"))?;
        let (header, offer) = first_request(&requests.bytes()[..bytes])?;
        let mut send = |error: i32, answer: InitOut| {
            answers.body()[..size_of::<InitOut>()].copy_from_slice(answer.as_bytes());
            let bytes = if error == 0 { size_of::<InitOut>() } else { 0 };
            device.send(answers.message(header.unique, error, bytes));
        };
        if offer.major > protocol::MAJOR {
            // It asks again, as the version that it is told.
            send(0, InitOut { major: protocol::MAJOR, minor: protocol::MINOR, ..InitOut::default() });
            continue;
        }
        let workers = match kernel::offers_uring(&offer) && options.wants_uring() {
            true => uring::prepare(device).unwrap_or_else(|error| {
                tracing::warn!(%error, "there is no io_uring; requests go through the device instead");
                Vec::new()
            }),
            false => Vec::new(),
        };
        match kernel::negotiate(&offer, options, !workers.is_empty()) {
            Ok(answer) => {
                send(0, answer);
                return Ok(workers);
            }
            Err(error) => {
                send(-libc::EPROTO, InitOut::default());
                return Err(error);
            }
        }
    }
}

fn first_request(message: &[u8]) -> io::Result<(InHeader, InitIn)> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the kernel did not start with INIT");
    let (header, rest) = InHeader::read_from_prefix(message).map_err(|_| wrong())?;
    match Request::parse(&header, Arguments::joined(rest)).map_err(|_| wrong())?.operation {
        Operation::Init(offer) => Ok((header, offer)),
        _ => Err(wrong()),
    }
}
