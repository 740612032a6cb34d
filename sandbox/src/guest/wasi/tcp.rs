//! A connection of WASI: a number of the node's, and what the app wrote that the node has not taken yet.
//!
//! 1. Nothing here waits, and nothing that came is kept here: each time that the app reads, the node looks at its grants.
//! 2. So much is kept of what the app wrote, and no more before the node has taken all of it.
//! 3. The other side sees a proper end only if it got all that the app wrote.

use std::any::Any;

use wasmtime::component::{Resource, ResourceTable};

use super::io::{Input, Output};
use super::network::{Family, SocketAddress};
use super::poll::Pollable;
use crate::guest::node::Node;
use crate::ipc::{Error, Handle, Reply, Request};
use crate::limits::DATA_BYTES_MAX;

/// What the app may write at once.
pub(super) const ROOM_BYTES: usize = 64 << 10;

/// Where a socket stands in the table.
pub(super) type Key = u32;

pub(super) struct Tcp {
    pub(super) family: Family,
    pub(super) state: State,
}

pub(super) enum State {
    New,
    Connecting(Handle, SocketAddress),
    Connected(Link),
    /// It failed, and there is no other attempt.
    Closed,
}

pub(super) struct Link {
    pub(super) handle: Handle,
    pub(super) remote: SocketAddress,
    /// Why nothing more is received, once that is so.
    end: Option<End>,
    unsent: Vec<u8>,
    sending: Sending,
}

enum Sending {
    Open,
    /// The app sends no more; the other side is told when all was sent.
    Last,
    /// Something that the app wrote is lost.
    Broken {
        error: Error,
        /// Whoever writes knows it.
        is_told: bool,
    },
    Over,
}

/// Why there is no more of a stream.
#[derive(Clone, Copy)]
pub(super) enum End {
    Closed,
    Failed(Error),
}

pub(super) fn socket(table: &ResourceTable, key: Key) -> wasmtime::Result<&Tcp> {
    Ok(table.get(&Resource::new_borrow(key))?)
}

/// The connection of a socket whose streams there are.
pub(super) fn link(table: &mut ResourceTable, key: Key) -> wasmtime::Result<&mut Link> {
    match table.get_mut(&Resource::<Tcp>::new_borrow(key))? {
        Tcp { state: State::Connected(link), .. } => Ok(link),
        _ => Err(wasmtime::Error::msg("a stream of no connection")),
    }
}

/// How many sockets there are.
pub(super) fn sockets(table: &mut ResourceTable) -> usize {
    table.iter_mut().filter(|entry| entry.is::<Tcp>()).count()
}

/// How much of the table they take, with their streams and what is waited for by them.
pub(super) fn entries(table: &mut ResourceTable) -> usize {
    let is_of_socket = |entry: &&mut (dyn Any + Send)| {
        entry.is::<Tcp>()
            || matches!(entry.downcast_ref(), Some(Input::Socket(_)))
            || matches!(entry.downcast_ref(), Some(Output::Socket(_)))
            || matches!(
                entry.downcast_ref(),
                Some(Pollable::Socket(_) | Pollable::Input(_) | Pollable::Output(_))
            )
    };
    table.iter_mut().filter(is_of_socket).count()
}

/// All connections.
pub(super) fn links(table: &mut ResourceTable) -> impl Iterator<Item = &mut Link> {
    table.iter_mut().filter_map(|entry| match entry.downcast_mut()? {
        Tcp { state: State::Connected(link), .. } => Some(link),
        _ => None,
    })
}

impl Link {
    pub(super) fn new(handle: Handle, remote: SocketAddress) -> Self {
        Self { handle, remote, end: None, unsent: Vec::new(), sending: Sending::Open }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Whether something that the app wrote was not taken yet.
    pub(super) fn is_sending(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// What has come, so many bytes at most; nothing if nothing has.
    pub(super) fn read(&mut self, node: &mut Node, most: u64) -> Result<Vec<u8>, End> {
        if let Some(end) = &mut self.end {
            // Each failure is told once.
            return Err(std::mem::replace(end, End::Closed));
        }
        let length = most.min(DATA_BYTES_MAX as u64) as u32;
        if length == 0 {
            return Ok(Vec::new());
        }
        let asked = node.ask(Request::SocketRead { handle: self.handle, length, milliseconds: 0 });
        let received = asked.and_then(|reply| match reply {
            Reply::Data(data) => node.incoming(data),
            _ => Err(Error::Failed),
        });
        match received {
            Ok(bytes) if !bytes.is_empty() => Ok(bytes),
            Err(Error::TimedOut) => Ok(Vec::new()),
            outcome => {
                self.end = Some(End::Closed);
                Err(match (outcome, &self.sending) {
                    (Err(error), _) => End::Failed(error),
                    // The kernel tells only once that a connection broke, and whoever sent has heard it.
                    (Ok(_), Sending::Broken { error, .. }) => End::Failed(*error),
                    (Ok(_), _) => End::Closed,
                })
            }
        }
    }

    /// How much the app may write now.
    pub(super) fn room(&mut self, node: &mut Node) -> Result<usize, End> {
        self.push(node);
        match &mut self.sending {
            Sending::Open => Ok(if self.is_sending() { 0 } else { ROOM_BYTES }),
            Sending::Broken { error, is_told: is_told @ false } => {
                *is_told = true;
                Err(End::Failed(*error))
            }
            _ => Err(End::Closed),
        }
    }

    /// Takes no more bytes than there is [`Self::room`] for.
    pub(super) fn write(&mut self, node: &mut Node, bytes: Vec<u8>) -> Result<(), End> {
        if matches!(self.sending, Sending::Open) {
            self.unsent = bytes;
        }
        self.room(node).map(drop)
    }

    /// The app sends no more.
    pub(super) fn finish(&mut self, node: &mut Node) {
        if matches!(self.sending, Sending::Open) {
            self.sending = Sending::Last;
            self.push(node);
        }
    }

    /// The app wants no more.
    pub(super) fn stop_receiving(&mut self) {
        self.end = Some(End::Closed);
    }

    /// Hands over as much of what the app wrote as the node takes.
    pub(super) fn push(&mut self, node: &mut Node) {
        while self.is_sending() {
            let asked = node.outgoing(self.unsent.clone()).and_then(|data| {
                node.ask(Request::SocketWrite { handle: self.handle, data, milliseconds: 0 })
            });
            match asked {
                Ok(Reply::Written(count)) => {
                    self.unsent.drain(..self.unsent.len().min(count as usize));
                }
                Err(Error::TimedOut) => return,
                other => {
                    self.unsent.clear();
                    let error = other.err().unwrap_or(Error::Failed);
                    self.sending = Sending::Broken { error, is_told: false };
                }
            }
        }
        if matches!(self.sending, Sending::Last) {
            self.sending = Sending::Over;
            // If that fails, nobody is there to hear it.
            let _ = node.ask_to(Request::SocketShutDown { handle: self.handle });
        }
    }

    /// What was not taken in time is lost, and the connection with it.
    pub(super) fn give_up(&mut self, node: &mut Node) {
        if self.is_sending() {
            self.unsent.clear();
            self.sending = Sending::Broken { error: Error::TimedOut, is_told: false };
            self.end.get_or_insert(End::Failed(Error::TimedOut));
            self.close(node);
        }
    }

    /// Whether all that the app wrote is on its way.
    pub(super) fn is_whole(&self) -> bool {
        !self.is_sending() && !matches!(self.sending, Sending::Broken { .. })
    }

    /// Lets go of it. That may be done again: then the node does not know it any more.
    pub(super) fn close(&self, node: &mut Node) {
        let handle = self.handle;
        let _ = node.ask_to(match self.is_whole() {
            true => Request::SocketClose { handle },
            false => Request::SocketReset { handle },
        });
    }
}
