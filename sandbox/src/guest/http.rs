//! HTTP, as a component imports it: what it answers, and what it asks others.

use wasmtime::component::Resource;

use super::host::blocktree::app::http_client::{self, Failure};
use super::host::blocktree::app::http_exchange::{self, Header};
use super::host::blocktree::app::types::Error;
use super::host::{Host, exports};
use crate::ipc::{self, Handle, Reply, Request};

/// An exchange that the app is or was called for, by its number.
#[allow(unreachable_pub, reason = "the bindings re-export it")]
pub struct OpenExchange(pub(super) u64);

/// What another host answered.
#[allow(unreachable_pub, reason = "the bindings re-export it")]
pub struct OpenResponse {
    handle: Handle,
    status: u16,
    headers: Vec<Header>,
}

impl Host {
    /// An app may keep what it was called with; it means nothing when that call is over.
    fn is_current(&self, exchange: &Resource<OpenExchange>) -> wasmtime::Result<bool> {
        Ok(self.table.get(exchange)?.0 == self.exchange)
    }
}

impl http_exchange::Host for Host {}

impl http_exchange::HostExchange for Host {
    fn read(&mut self, exchange: Resource<OpenExchange>) -> wasmtime::Result<Result<Vec<u8>, Error>> {
        if !self.is_current(&exchange)? {
            return Ok(Err(Error::Failed));
        }
        self.ask_for_data(Request::BodyRead)
    }

    fn respond(
        &mut self,
        exchange: Resource<OpenExchange>,
        status: u16,
        headers: Vec<Header>,
    ) -> wasmtime::Result<Result<(), Error>> {
        if !self.is_current(&exchange)? {
            return Ok(Err(Error::Failed));
        }
        self.ask_to(Request::Respond { status, headers })
    }

    fn write(
        &mut self,
        exchange: Resource<OpenExchange>,
        bytes: Vec<u8>,
    ) -> wasmtime::Result<Result<(), Error>> {
        if !self.is_current(&exchange)? {
            return Ok(Err(Error::Failed));
        }
        self.hand_over(bytes, |data| Request::BodyWrite { data })
    }

    fn drop(&mut self, exchange: Resource<OpenExchange>) -> wasmtime::Result<()> {
        self.table.delete(exchange)?;
        Ok(())
    }
}

impl http_client::Host for Host {
    fn send(
        &mut self,
        request: http_client::Request,
    ) -> wasmtime::Result<Result<Resource<OpenResponse>, Failure>> {
        let http_client::Request { method, url, headers, body } = request;
        let asked = self
            .node
            .outgoing(body)
            .and_then(|body| self.node.ask(Request::Fetch { method, url, headers, body }));
        match asked {
            Ok(Reply::Fetched { handle, status, headers }) => {
                Ok(Ok(self.table.push(OpenResponse { handle, status, headers })?))
            }
            Ok(_) => Ok(Err(Failure::Failed)),
            Err(why) => Ok(Err(failure(why))),
        }
    }
}

impl http_client::HostResponse for Host {
    fn status(&mut self, response: Resource<OpenResponse>) -> wasmtime::Result<u16> {
        Ok(self.table.get(&response)?.status)
    }

    fn headers(&mut self, response: Resource<OpenResponse>) -> wasmtime::Result<Vec<Header>> {
        Ok(self.table.get(&response)?.headers.clone())
    }

    fn read(&mut self, response: Resource<OpenResponse>) -> wasmtime::Result<Result<Vec<u8>, Failure>> {
        let handle = self.table.get(&response)?.handle;
        Ok(match self.node.ask(Request::FetchRead { handle }) {
            Ok(Reply::Data(data)) => self.node.incoming(data).map_err(failure),
            Ok(_) => Err(Failure::Failed),
            Err(why) => Err(failure(why)),
        })
    }

    fn drop(&mut self, response: Resource<OpenResponse>) -> wasmtime::Result<()> {
        let OpenResponse { handle, .. } = self.table.delete(response)?;
        let _ = self.node.ask_to(Request::FetchClose { handle });
        Ok(())
    }
}

fn failure(error: ipc::Error) -> Failure {
    match error {
        ipc::Error::NotGranted => Failure::NotGranted,
        ipc::Error::Malformed => Failure::Malformed,
        ipc::Error::PrivateAddress => Failure::PrivateAddress,
        ipc::Error::Unreachable => Failure::Unreachable,
        ipc::Error::TimedOut => Failure::TimedOut,
        ipc::Error::TooLarge => Failure::TooLarge,
        _ => Failure::Failed,
    }
}

/// A request as the component takes it.
pub(super) fn request(request: ipc::HttpRequest) -> exports::blocktree::app::http_handler::Request {
    let ipc::HttpRequest { method, path, query, headers } = request;
    exports::blocktree::app::http_handler::Request { method, path, query, headers }
}
