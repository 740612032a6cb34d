//! Connections, as a component imports them.

use wasmtime::component::Resource;

use super::host::Host;
use super::host::blocktree::app::sockets::{self, Failure};
use crate::ipc::{self, Handle, Reply, Request};
use crate::limits::DATA_BYTES_MAX;

/// A connection that the node has open for the app.
#[allow(unreachable_pub, reason = "the bindings re-export it")]
pub struct OpenConnection(Handle);

impl sockets::Host for Host {
    fn connect(
        &mut self,
        host: String,
        port: u16,
    ) -> wasmtime::Result<Result<Resource<OpenConnection>, Failure>> {
        match self.node.ask(Request::Connect { host, port, milliseconds: self.milliseconds_left() }) {
            Ok(Reply::Handle(handle)) => Ok(Ok(self.table.push(OpenConnection(handle))?)),
            other => Ok(Err(unexpected(other))),
        }
    }
}

impl sockets::HostConnection for Host {
    fn read(
        &mut self,
        connection: Resource<OpenConnection>,
        milliseconds: u32,
    ) -> wasmtime::Result<Result<Vec<u8>, Failure>> {
        let handle = self.table.get(&connection)?.0;
        let length = DATA_BYTES_MAX as u32;
        let milliseconds = milliseconds.min(self.milliseconds_left());
        Ok(match self.node.ask(Request::SocketRead { handle, length, milliseconds }) {
            Ok(Reply::Data(data)) => self.node.incoming(data).map_err(failure),
            other => Err(unexpected(other)),
        })
    }

    fn write(
        &mut self,
        connection: Resource<OpenConnection>,
        bytes: Vec<u8>,
        milliseconds: u32,
    ) -> wasmtime::Result<Result<u32, Failure>> {
        let handle = self.table.get(&connection)?.0;
        let milliseconds = milliseconds.min(self.milliseconds_left());
        let asked = self
            .node
            .outgoing(bytes)
            .and_then(|data| self.node.ask(Request::SocketWrite { handle, data, milliseconds }));
        Ok(match asked {
            Ok(Reply::Written(count)) => Ok(count),
            other => Err(unexpected(other)),
        })
    }

    fn shut_down(&mut self, connection: Resource<OpenConnection>) -> wasmtime::Result<Result<(), Failure>> {
        let handle = self.table.get(&connection)?.0;
        Ok(self.node.ask_to(Request::SocketShutDown { handle }).map_err(failure))
    }

    fn drop(&mut self, connection: Resource<OpenConnection>) -> wasmtime::Result<()> {
        let OpenConnection(handle) = self.table.delete(connection)?;
        let _ = self.node.ask_to(Request::SocketClose { handle });
        Ok(())
    }
}

/// A reply of another kind than the request has.
fn unexpected(answer: Result<Reply, ipc::Error>) -> Failure {
    answer.map_or_else(failure, |_| Failure::Failed)
}

fn failure(error: ipc::Error) -> Failure {
    match error {
        ipc::Error::NotGranted => Failure::NotGranted,
        ipc::Error::Malformed => Failure::Malformed,
        ipc::Error::PrivateAddress => Failure::PrivateAddress,
        ipc::Error::Unreachable => Failure::Unreachable,
        ipc::Error::TimedOut => Failure::TimedOut,
        ipc::Error::Closed => Failure::Closed,
        ipc::Error::TooLarge => Failure::TooLarge,
        _ => Failure::Failed,
    }
}
