//! A socket that keeps messages apart (`SOCK_SEQPACKET`), with messages of one type each way.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{MessageError, decode, encode};
use crate::limits::MESSAGE_BYTES_MAX;

/// One end.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("the other side has gone")]
    Closed,
    #[error("the other side did not answer in time")]
    TimedOut,
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("the socket failed: {0}")]
    Io(#[from] io::Error),
}

impl Channel {
    /// Both ends.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self::new(near), far))
    }

    pub fn new(socket: OwnedFd) -> Self {
        // One byte more, so that a message that is too long is noticed.
        Self { socket, buffer: vec![0; MESSAGE_BYTES_MAX + 1] }
    }

    pub fn send<T: Serialize>(&self, message: &T) -> Result<(), ChannelError> {
        let bytes = encode(message)?;
        loop {
            return match send(&self.socket, &bytes, SendFlags::NOSIGNAL) {
                Ok(_) => Ok(()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Err(ChannelError::Closed),
                Err(error) => Err(io::Error::from(error).into()),
            };
        }
    }

    /// Waits for a message; without a deadline, for ever.
    pub fn receive<T: DeserializeOwned>(&mut self, deadline: Option<Instant>) -> Result<T, ChannelError> {
        loop {
            if let Some(deadline) = deadline {
                self.wait(deadline)?;
            }
            match recv(&self.socket, &mut self.buffer[..], RecvFlags::empty()) {
                Ok((0, _)) => return Err(ChannelError::Closed),
                Ok((count, _)) => return Ok(decode(&self.buffer[..count])?),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return Err(ChannelError::Closed),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }

    fn wait(&self, deadline: Instant) -> Result<(), ChannelError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut entries = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut entries, Some(&timespec(left))) {
                Ok(0) if left.is_zero() => return Err(ChannelError::TimedOut),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FromGuest, ToGuest};
    use super::*;

    #[test]
    fn messages_arrive_one_by_one() {
        let (near, far) = Channel::pair().expect("sockets");
        let mut far = Channel::new(far);
        near.send(&ToGuest::Handle { events: Vec::new(), milliseconds: 5 }).expect("sent");
        near.send(&ToGuest::Answer(Err(super::super::Error::NotFound))).expect("sent");
        assert!(matches!(far.receive(None).expect("received"), ToGuest::Handle { milliseconds: 5, .. }));
        assert!(matches!(far.receive(None).expect("received"), ToGuest::Answer(Err(_))));
        drop(near);
        assert!(matches!(far.receive::<ToGuest>(None), Err(ChannelError::Closed)));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let (mut near, far) = Channel::pair().expect("sockets");
        for bytes in [&b"\x01\0"[..], &[0xff; 100], &vec![1; MESSAGE_BYTES_MAX + 1000]] {
            send(&far, bytes, SendFlags::empty()).expect("sent");
            assert!(matches!(near.receive::<FromGuest>(None), Err(ChannelError::Message(_))));
        }
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let (mut near, _far) = Channel::pair().expect("sockets");
        let deadline = Some(Instant::now() + Duration::from_millis(5));
        assert!(matches!(near.receive::<FromGuest>(deadline), Err(ChannelError::TimedOut)));
    }
}
