//! A connection with the kernel: the agreement at its start, the threads that serve it, its end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use zerocopy::FromBytes;

use super::adapter::Adapter;
use super::buffer::{AnswerBuffer, RequestBuffer};
use super::device::{self, Device, Spare};
use super::protocol::{self, Arguments, InHeader, InitIn, InitOut, Operation, Request};
use super::{MountOptions, kernel};

/// The running event loops.
pub(super) struct Session {
    loops: Vec<JoinHandle<io::Result<()>>>,
    adapter: Arc<Adapter>,
}

impl Session {
    /// Comes to an agreement with the kernel, and starts to serve.
    pub(super) fn start(descriptor: OwnedFd, adapter: Adapter, options: &MountOptions) -> io::Result<Self> {
        let device = Arc::new(Device::new(descriptor));
        agree(&device, options)?;
        let count = options.event_loops.unwrap_or_else(kernel::event_loops_default);
        let spare = Arc::new(Spare::of(count));
        let mut session = Self { loops: Vec::with_capacity(count), adapter: Arc::new(adapter) };
        for number in 0..count {
            let own = match number {
                0 => Arc::clone(&device),
                // Not everybody may open the device; then they share.
                _ => device.duplicate().map_or_else(|_| Arc::clone(&device), Arc::new),
            };
            let (spare, adapter) = (Arc::clone(&spare), Arc::clone(&session.adapter));
            let thread = std::thread::Builder::new().name(format!("fuse-{number}"));
            session.loops.push(thread.spawn(move || device::serve(&own, &spare, &adapter))?);
        }
        Ok(session)
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

/// Answers INIT, which comes before everything else.
fn agree(device: &Device, options: &MountOptions) -> io::Result<()> {
    let (mut requests, mut answers) = (RequestBuffer::new(), AnswerBuffer::new());
    loop {
        let bytes = device.receive(requests.bytes())?;
        let bytes = bytes.ok_or_else(|| io::Error::other("it was unmounted at once"))?;
        let (header, offer) = first_request(&requests.bytes()[..bytes])?;
        let newer = offer.major > protocol::MAJOR;
        let answer = match newer {
            // It asks again, as the version that it is told.
            true => Ok(InitOut { major: protocol::MAJOR, minor: protocol::MINOR, ..InitOut::default() }),
            false => kernel::negotiate(&offer, options),
        };
        match answer {
            Ok(answer) => {
                use zerocopy::IntoBytes;
                answers.body()[..size_of::<InitOut>()].copy_from_slice(answer.as_bytes());
                device.send(answers.message(header.unique, 0, size_of::<InitOut>()));
                if !newer {
                    return Ok(());
                }
            }
            Err(error) => {
                device.send(answers.message(header.unique, -libc::EPROTO, 0));
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
