//! Streams of WASI: lines for the log, and connections.

use wasmtime::component::{ComponentType, Linker, LinkerInstance, Lower, Resource, ResourceType};

use super::poll::{Pollable, pollables, wait};
use super::tcp::{self, End, Key, ROOM_BYTES};
use super::{interface, method};
use crate::guest::host::Host;
use crate::guest::host::blocktree::app::log::{self, Level};
use crate::ipc;
use crate::limits::LOG_LINE_BYTES_MAX;

pub(super) enum Input {
    Nothing,
    Socket(Key),
}

pub(super) enum Output {
    /// For the log, with the line that was begun.
    Lines {
        level: Level,
        begun: Vec<u8>,
    },
    Socket(Key),
}

/// Why a stream failed.
struct Failure(ipc::Error);

#[derive(ComponentType, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    LastOperationFailed(Resource<Failure>),
    #[component(name = "closed")]
    Closed,
}

type Streamed<T> = wasmtime::Result<Result<T, StreamError>>;

pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut error = interface(linker, "io/error")?;
    failures(&mut error)?;
    method(&mut error, "[method]error.to-debug-string", |host, (failure,): (Resource<Failure>,)| {
        Ok(host.table.get(&failure)?.0.to_string())
    })?;
    let mut streams = interface(linker, "io/streams")?;
    failures(&mut streams)?;
    pollables(&mut streams)?;
    inputs(&mut streams)?;
    outputs(&mut streams)?;
    input_methods(&mut streams)?;
    output_methods(&mut streams)
}

pub(super) fn failures(interface: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    interface.resource("error", ResourceType::host::<Failure>(), |mut store, failure| {
        store.data_mut().table.delete(Resource::<Failure>::new_own(failure))?;
        Ok(())
    })
}

pub(super) fn inputs(interface: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    interface.resource("input-stream", ResourceType::host::<Input>(), |mut store, stream| {
        store.data_mut().table.delete(Resource::<Input>::new_own(stream))?;
        Ok(())
    })
}

pub(super) fn outputs(interface: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    interface.resource("output-stream", ResourceType::host::<Output>(), |mut store, stream| {
        match store.data_mut().table.delete(Resource::<Output>::new_own(stream))? {
            Output::Lines { level, begun } => end_line(store.data_mut(), level, &begun),
            Output::Socket(_) => Ok(()),
        }
    })
}

fn input_methods(streams: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    method(streams, "[method]input-stream.read", |host, (stream, most)| read(host, &stream, most))?;
    method(streams, "[method]input-stream.blocking-read", |host, (stream, most)| {
        blocking_read(host, &stream, most)
    })?;
    let skipped = |bytes: Vec<u8>| bytes.len() as u64;
    method(streams, "[method]input-stream.skip", move |host, (stream, most)| {
        Ok(read(host, &stream, most)?.map(skipped))
    })?;
    method(streams, "[method]input-stream.blocking-skip", move |host, (stream, most)| {
        Ok(blocking_read(host, &stream, most)?.map(skipped))
    })?;
    method(streams, "[method]input-stream.subscribe", |host, (stream,): (Resource<Input>,)| {
        let pollable = awaits_input(host, &stream)?;
        Ok(host.table.push_child(pollable, &stream)?)
    })
}

fn output_methods(streams: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    method(streams, "[method]output-stream.check-write", |host, (stream,)| {
        Ok(room(host, &stream)?.map(|room| room as u64))
    })?;
    method(streams, "[method]output-stream.write", |host, (stream, bytes)| write(host, &stream, bytes))?;
    method(streams, "[method]output-stream.blocking-write-and-flush", |host, (stream, bytes)| {
        if let Err(error) = blocking_flush(host, &stream)? {
            return Ok(Err(error));
        }
        match write(host, &stream, bytes)? {
            Ok(()) => blocking_flush(host, &stream),
            Err(error) => Ok(Err(error)),
        }
    })?;
    // All that was written is on its way as soon as it can be.
    method(streams, "[method]output-stream.flush", |host, (stream,)| Ok(room(host, &stream)?.map(|_| ())))?;
    method(streams, "[method]output-stream.blocking-flush", |host, (stream,)| blocking_flush(host, &stream))?;
    method(streams, "[method]output-stream.subscribe", |host, (stream,): (Resource<Output>,)| {
        let pollable = awaits_output(host, &stream)?;
        Ok(host.table.push_child(pollable, &stream)?)
    })
}

fn awaits_input(host: &Host, stream: &Resource<Input>) -> wasmtime::Result<Pollable> {
    Ok(match host.table.get(stream)? {
        Input::Nothing => Pollable::Ready,
        Input::Socket(key) => Pollable::Input(*key),
    })
}

fn awaits_output(host: &Host, stream: &Resource<Output>) -> wasmtime::Result<Pollable> {
    Ok(match host.table.get(stream)? {
        Output::Lines { .. } => Pollable::Ready,
        Output::Socket(key) => Pollable::Output(*key),
    })
}

fn read(host: &mut Host, stream: &Resource<Input>, most: u64) -> Streamed<Vec<u8>> {
    let Input::Socket(key) = *host.table.get(stream)? else { return Ok(Err(StreamError::Closed)) };
    let received = tcp::link(&mut host.table, key)?.read(&mut host.node, most);
    streamed(host, received)
}

fn blocking_read(host: &mut Host, stream: &Resource<Input>, most: u64) -> Streamed<Vec<u8>> {
    let came = awaits_input(host, stream)?;
    loop {
        match read(host, stream, most)? {
            Ok(bytes) if bytes.is_empty() && most > 0 => wait(host, &[came]).map(drop)?,
            other => return Ok(other),
        }
    }
}

/// How much may be written now.
fn room(host: &mut Host, stream: &Resource<Output>) -> Streamed<usize> {
    let Output::Socket(key) = *host.table.get(stream)? else { return Ok(Ok(ROOM_BYTES)) };
    let room = tcp::link(&mut host.table, key)?.room(&mut host.node);
    streamed(host, room)
}

fn write(host: &mut Host, stream: &Resource<Output>, bytes: Vec<u8>) -> Streamed<()> {
    let Output::Socket(key) = *host.table.get(stream)? else { return print(host, stream, &bytes).map(Ok) };
    let link = tcp::link(&mut host.table, key)?;
    if bytes.len() > if link.is_sending() { 0 } else { ROOM_BYTES } {
        return Err(wasmtime::Error::msg("it wrote more than there was room for"));
    }
    let written = link.write(&mut host.node, bytes);
    streamed(host, written)
}

fn blocking_flush(host: &mut Host, stream: &Resource<Output>) -> Streamed<()> {
    let sent = awaits_output(host, stream)?;
    wait(host, &[sent])?;
    Ok(room(host, stream)?.map(|_| ()))
}

fn streamed<T>(host: &mut Host, outcome: Result<T, End>) -> Streamed<T> {
    Ok(match outcome {
        Ok(value) => Ok(value),
        Err(End::Closed) => Err(StreamError::Closed),
        Err(End::Failed(error)) => Err(StreamError::LastOperationFailed(host.table.push(Failure(error))?)),
    })
}

/// Each line becomes one of the app's log; one that is too long becomes several.
fn print(host: &mut Host, stream: &Resource<Output>, bytes: &[u8]) -> wasmtime::Result<()> {
    let Output::Lines { level, begun } = host.table.get_mut(stream)? else { return Ok(()) };
    let (level, mut line) = (*level, std::mem::take(begun));
    for byte in bytes {
        if *byte != b'\n' {
            line.push(*byte);
        }
        if *byte == b'\n' || line.len() == LOG_LINE_BYTES_MAX {
            end_line(host, level, &line)?;
            line.clear();
        }
    }
    *host.table.get_mut(stream)? = Output::Lines { level, begun: line };
    Ok(())
}

fn end_line(host: &mut Host, level: Level, line: &[u8]) -> wasmtime::Result<()> {
    if line.is_empty() {
        return Ok(());
    }
    log::Host::write(host, level, String::from_utf8_lossy(line).into_owned())
}
