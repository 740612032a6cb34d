//! TCP as WASI has it, made of the connections that apps have anyway.
//!
//! 1. Whom an app may connect to, and what it may look up, the node decides. Nothing here can open a connection by itself.
//! 2. Nobody listens, and there is no UDP.
//! 3. Each socket has room for its streams and what these are waited for by: WASI has no word for that there is none. So no more sockets
//!    are made than there may be connections, and names leave that room.

use std::net::IpAddr;
use std::vec::IntoIter;

use wasmtime::component::{
    ComponentNamedList, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceTable,
    ResourceTableError, ResourceType,
};

use super::io::{Input, Output, inputs, outputs};
use super::network::{Address, Code, Direction, Family, SocketAddress};
use super::poll::{Pollable, pollables, settle_one};
use super::tcp::{self, Link, State, Tcp};
use super::{interface, method, without};
use crate::guest::host::{ENTRIES_PER_CONNECTION, Host};
use crate::ipc::{Error, Reply, Request};
use crate::limits::{CONNECTIONS_MAX, HOST_BYTES_MAX};

/// What only has a type. There is one network, and what it is, the node says.
enum Network {}
enum Udp {}
enum Datagrams {}

/// Those of a name that the app has not taken yet.
struct Addresses(IntoIter<IpAddr>);

type Asked<T> = wasmtime::Result<Result<T, Code>>;

pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    networks(&mut interface(linker, "sockets/network")?)?;
    let mut instance = interface(linker, "sockets/instance-network")?;
    networks(&mut instance)?;
    method(&mut instance, "instance-network", |_, ()| Ok(Resource::<Network>::new_own(0)))?;
    lookup(&mut interface(linker, "sockets/ip-name-lookup")?)?;
    let mut create = interface(linker, "sockets/tcp-create-socket")?;
    networks(&mut create)?;
    sockets(&mut create)?;
    method(&mut create, "create-tcp-socket", |host, (family,)| create_socket(&mut host.table, family))?;
    let mut tcp = interface(linker, "sockets/tcp")?;
    for add in [networks, pollables, inputs, outputs, sockets, connecting, settings, listening] {
        add(&mut tcp)?;
    }
    udp(linker)
}

/// Whoever has too much is told so, and may go on.
fn if_room<T>(pushed: Result<Resource<T>, ResourceTableError>) -> Asked<Resource<T>> {
    match pushed {
        Ok(resource) => Ok(Ok(resource)),
        Err(ResourceTableError::Full) => Ok(Err(Code::OutOfMemory)),
        Err(error) => Err(error.into()),
    }
}

/// Whether something may be added that is no part of a socket.
fn leaves_room(table: &mut ResourceTable) -> bool {
    let all = table.iter_mut().count();
    all - tcp::entries(table) < table.max_capacity() - CONNECTIONS_MAX * ENTRIES_PER_CONNECTION
}

fn create_socket(table: &mut ResourceTable, family: Family) -> Asked<Resource<Tcp>> {
    if tcp::sockets(table) >= CONNECTIONS_MAX || !leaves_room(table) {
        return Ok(Err(Code::NewSocketLimit));
    }
    if_room(table.push(Tcp { family, state: State::New }))
}

fn networks(interface: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    without::<Network>(interface, "network", &[])
}

fn sockets(interface: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    interface.resource("tcp-socket", ResourceType::host::<Tcp>(), |mut store, socket| {
        let host = store.data_mut();
        let socket = Resource::<Tcp>::new_own(socket);
        if let State::Connected(Link { handle, .. }) = host.table.get(&socket)?.state {
            settle_one(host, handle);
        }
        match host.table.delete(socket)?.state {
            State::New | State::Closed => {}
            State::Connecting(handle, _) => {
                let _ = host.node.ask_to(Request::SocketClose { handle });
            }
            State::Connected(link) => link.close(&mut host.node),
        }
        Ok(())
    })
}

fn lookup(lookup: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    networks(lookup)?;
    pollables(lookup)?;
    lookup.resource("resolve-address-stream", ResourceType::host::<Addresses>(), |mut store, stream| {
        store.data_mut().table.delete(Resource::<Addresses>::new_own(stream))?;
        Ok(())
    })?;
    // The one thing that waits where WASI does not say so: a program has nothing to do without the address.
    method(lookup, "resolve-addresses", |host, (_, name): (Resource<Network>, String)| resolve(host, name))?;
    method(
        lookup,
        "[method]resolve-address-stream.resolve-next-address",
        |host, (stream,): (Resource<Addresses>,)| {
            Ok(Ok::<_, Code>(host.table.get_mut(&stream)?.0.next().map(Address::from)))
        },
    )?;
    method(lookup, "[method]resolve-address-stream.subscribe", |host, (stream,): (Resource<Addresses>,)| {
        Ok(host.table.push_child(Pollable::Ready, &stream)?)
    })
}

fn resolve(host: &mut Host, name: String) -> Asked<Resource<Addresses>> {
    if !leaves_room(&mut host.table) {
        return Ok(Err(Code::OutOfMemory));
    }
    match look_up(host, name) {
        Ok(addresses) => if_room(host.table.push(Addresses(addresses.into_iter()))),
        Err(error) => Ok(Err(Code::of_look_up(error))),
    }
}

fn look_up(host: &mut Host, name: String) -> Result<Vec<IpAddr>, Error> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    if name.len() > HOST_BYTES_MAX {
        return Err(Error::Malformed);
    }
    match host.node.ask(Request::LookUp { host: name, milliseconds: host.milliseconds_left() })? {
        Reply::Addresses(addresses) => Ok(addresses),
        _ => Err(Error::Failed),
    }
}

fn connecting(tcp: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    type Connect = (Resource<Tcp>, Resource<Network>, SocketAddress);
    method(tcp, "[method]tcp-socket.start-connect", |host, (socket, _, remote): Connect| {
        start_connect(host, &socket, remote)
    })?;
    method(tcp, "[method]tcp-socket.finish-connect", |host, (socket,)| finish_connect(host, &socket))?;
    method(tcp, "[method]tcp-socket.subscribe", |host, (socket,): (Resource<Tcp>,)| {
        Ok(host.table.push_child(Pollable::Socket(socket.rep()), &socket)?)
    })?;
    method(tcp, "[method]tcp-socket.shutdown", |host, (socket, direction): (Resource<Tcp>, Direction)| {
        let State::Connected(link) = &mut host.table.get_mut(&socket)?.state else {
            return Ok(Err(Code::InvalidState));
        };
        if matches!(direction, Direction::Receive | Direction::Both) {
            link.stop_receiving();
        }
        if matches!(direction, Direction::Send | Direction::Both) {
            link.finish(&mut host.node);
        }
        Ok(Ok(()))
    })?;
    method(tcp, "[method]tcp-socket.remote-address", |host, (socket,): (Resource<Tcp>,)| {
        Ok(match &host.table.get(&socket)?.state {
            State::Connected(link) => Ok(link.remote),
            _ => Err(Code::InvalidState),
        })
    })?;
    method(tcp, "[method]tcp-socket.address-family", |host, (socket,): (Resource<Tcp>,)| {
        Ok(host.table.get(&socket)?.family)
    })
}

fn start_connect(host: &mut Host, socket: &Resource<Tcp>, remote: SocketAddress) -> Asked<()> {
    let Tcp { family, state } = host.table.get_mut(socket)?;
    if !matches!(state, State::New) {
        return Ok(Err(Code::InvalidState));
    }
    let Some((address, port)) = remote.remote(*family) else { return Ok(Err(Code::InvalidArgument)) };
    *state = State::Closed;
    Ok(match host.node.ask(Request::StartConnect { address, port }) {
        Ok(Reply::Handle(handle)) => {
            *state = State::Connecting(handle, remote);
            Ok(())
        }
        other => Err(other.map_or_else(Code::from, |_| Code::Unknown)),
    })
}

fn finish_connect(host: &mut Host, socket: &Resource<Tcp>) -> Asked<(Resource<Input>, Resource<Output>)> {
    let Host { table, node, .. } = host;
    let State::Connecting(handle, remote) = table.get(socket)?.state else {
        return Ok(Err(Code::NotInProgress));
    };
    let failure = match node.ask(Request::FinishConnect { handle }) {
        Ok(Reply::Done) => match streams(table, socket)? {
            Ok(streams) => {
                table.get_mut(socket)?.state = State::Connected(Link::new(handle, remote));
                return Ok(Ok(streams));
            }
            Err(code) => code,
        },
        Ok(Reply::NoData) => return Ok(Err(Code::WouldBlock)),
        other => other.map_or_else(Code::from, |_| Code::Unknown),
    };
    table.get_mut(socket)?.state = State::Closed;
    let _ = node.ask_to(Request::SocketClose { handle });
    Ok(Err(failure))
}

/// Those of a connection, both or none.
fn streams(table: &mut ResourceTable, socket: &Resource<Tcp>) -> Asked<(Resource<Input>, Resource<Output>)> {
    let key = socket.rep();
    let input = match if_room(table.push_child(Input::Socket(key), socket))? {
        Ok(input) => input,
        Err(code) => return Ok(Err(code)),
    };
    match if_room(table.push_child(Output::Socket(key), socket))? {
        Ok(output) => Ok(Ok((input, output))),
        Err(code) => {
            table.delete(input)?;
            Ok(Err(code))
        }
    }
}

/// The node sets what there is to set.
fn settings(tcp: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    type Set<T> = (Resource<Tcp>, T);
    for name in ["keep-alive-idle-time", "keep-alive-interval", "receive-buffer-size", "send-buffer-size"] {
        refused::<(Resource<Tcp>,), u64>(tcp, name, Code::NotSupported)?;
        refused::<Set<u64>, ()>(tcp, &format!("set-{name}"), Code::NotSupported)?;
    }
    refused::<(Resource<Tcp>,), bool>(tcp, "keep-alive-enabled", Code::NotSupported)?;
    refused::<Set<bool>, ()>(tcp, "set-keep-alive-enabled", Code::NotSupported)?;
    refused::<(Resource<Tcp>,), u32>(tcp, "keep-alive-count", Code::NotSupported)?;
    refused::<Set<u32>, ()>(tcp, "set-keep-alive-count", Code::NotSupported)?;
    refused::<(Resource<Tcp>,), u8>(tcp, "hop-limit", Code::NotSupported)?;
    refused::<Set<u8>, ()>(tcp, "set-hop-limit", Code::NotSupported)?;
    refused::<(Resource<Tcp>,), SocketAddress>(tcp, "local-address", Code::NotSupported)
}

/// Nobody connects to an app.
fn listening(tcp: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    type Bind = (Resource<Tcp>, Resource<Network>, SocketAddress);
    type Accepted = (Resource<Tcp>, Resource<Input>, Resource<Output>);
    refused::<Bind, ()>(tcp, "start-bind", Code::AccessDenied)?;
    refused::<(Resource<Tcp>,), ()>(tcp, "finish-bind", Code::NotInProgress)?;
    refused::<(Resource<Tcp>,), ()>(tcp, "start-listen", Code::AccessDenied)?;
    refused::<(Resource<Tcp>,), ()>(tcp, "finish-listen", Code::NotInProgress)?;
    refused::<(Resource<Tcp>,), Accepted>(tcp, "accept", Code::InvalidState)?;
    refused::<(Resource<Tcp>, u64), ()>(tcp, "set-listen-backlog-size", Code::NotSupported)?;
    method(tcp, "[method]tcp-socket.is-listening", |_, (_,): (Resource<Tcp>,)| Ok(false))
}

/// A method of sockets that always answers this.
fn refused<P, T>(tcp: &mut LinkerInstance<'_, Host>, name: &str, code: Code) -> wasmtime::Result<()>
where
    P: ComponentNamedList + Lift + 'static,
    T: ComponentType + Lower + Send + Sync + 'static,
{
    method(tcp, &format!("[method]tcp-socket.{name}"), move |_, _: P| Ok(Err::<T, _>(code)))
}

/// There is none: no socket is ever made.
fn udp(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut udp = interface(linker, "sockets/udp")?;
    networks(&mut udp)?;
    pollables(&mut udp)?;
    let socket = [
        "[method]udp-socket.start-bind",
        "[method]udp-socket.finish-bind",
        "[method]udp-socket.stream",
        "[method]udp-socket.local-address",
        "[method]udp-socket.remote-address",
        "[method]udp-socket.address-family",
        "[method]udp-socket.unicast-hop-limit",
        "[method]udp-socket.set-unicast-hop-limit",
        "[method]udp-socket.receive-buffer-size",
        "[method]udp-socket.set-receive-buffer-size",
        "[method]udp-socket.send-buffer-size",
        "[method]udp-socket.set-send-buffer-size",
        "[method]udp-socket.subscribe",
    ];
    let incoming = ["[method]incoming-datagram-stream.receive", "[method]incoming-datagram-stream.subscribe"];
    let outgoing = [
        "[method]outgoing-datagram-stream.check-send",
        "[method]outgoing-datagram-stream.send",
        "[method]outgoing-datagram-stream.subscribe",
    ];
    without::<Udp>(&mut udp, "udp-socket", &socket)?;
    without::<Datagrams>(&mut udp, "incoming-datagram-stream", &incoming)?;
    without::<Datagrams>(&mut udp, "outgoing-datagram-stream", &outgoing)?;
    let mut create = interface(linker, "sockets/udp-create-socket")?;
    networks(&mut create)?;
    without::<Udp>(&mut create, "udp-socket", &[])?;
    method(&mut create, "create-udp-socket", |_, (_,): (Family,)| {
        Ok(Err::<Resource<Udp>, _>(Code::NotSupported))
    })
}

#[cfg(test)]
mod tests;
