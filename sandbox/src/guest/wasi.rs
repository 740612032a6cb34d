//! WASI 0.2, as little of it as the runtimes of other languages cannot start without: clocks, a seed, and lines that they
//! print, which go into the app's log. All of it is made of what apps have anyway.
//!
//! Invariants:
//! 1. Nobody gets a descriptor or a pollable: there are no directories to begin with, and nothing here waits. So the functions of
//!    descriptors and of waiting, which a component must find to be linked, only trap.
//! 2. What is not listed here is not there, and a component that imports it does not run.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Linker, LinkerInstance, Lower, Resource, ResourceType};

use super::host::Host;
use super::host::blocktree::app::log::Level;
use super::host::blocktree::app::{clock, log, random};
use crate::limits::LOG_LINE_BYTES_MAX;

/// The newest that this was compared with. A component of any 0.2 finds it.
const VERSION: &str = "0.2.12";

/// Standard output or standard error, with the line that was begun.
struct Output {
    level: Level,
    line: Vec<u8>,
}

/// What only has a type, since a component names it.
enum Error {}
enum Input {}
enum Pollable {}
enum Terminal {}
enum Descriptor {}

#[derive(ComponentType, Lower)]
#[component(variant)]
#[expect(dead_code, reason = "a line for the log is always taken")]
enum StreamError {
    #[component(name = "last-operation-failed")]
    LastOperationFailed(Resource<Error>),
    #[component(name = "closed")]
    Closed,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    clocks(linker)?;
    random(linker)?;
    io(linker)?;
    cli(linker)?;
    filesystem(linker)
}

fn interface<'a>(linker: &'a mut Linker<Host>, name: &str) -> wasmtime::Result<LinkerInstance<'a, Host>> {
    linker.instance(&format!("wasi:{name}@{VERSION}"))
}

fn clocks(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut wall = interface(linker, "clocks/wall-clock")?;
    wall.func_wrap("now", |mut store: StoreContextMut<'_, Host>, ()| {
        const SECOND: u64 = 1_000_000_000;
        let now = clock::Host::now(store.data_mut())?;
        Ok((Datetime { seconds: now / SECOND, nanoseconds: (now % SECOND) as u32 },))
    })?;
    let mut monotonic = interface(linker, "clocks/monotonic-clock")?;
    without::<Pollable>(&mut monotonic, "pollable", &["subscribe-duration"])?;
    monotonic.func_wrap("now", |mut store: StoreContextMut<'_, Host>, ()| {
        Ok((clock::Host::monotonic(store.data_mut())?,))
    })
}

fn random(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut seed = interface(linker, "random/insecure-seed")?;
    seed.func_wrap("insecure-seed", |mut store: StoreContextMut<'_, Host>, ()| {
        let mut number = || -> wasmtime::Result<u64> {
            let bytes = random::Host::bytes(store.data_mut(), 8)?;
            Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
        };
        Ok(((number()?, number()?),))
    })
}

fn io(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    without::<Error>(&mut interface(linker, "io/error")?, "error", &[])?;
    let waiting = ["poll", "[method]pollable.block"];
    without::<Pollable>(&mut interface(linker, "io/poll")?, "pollable", &waiting)?;
    let mut streams = interface(linker, "io/streams")?;
    without::<Error>(&mut streams, "error", &[])?;
    without::<Input>(&mut streams, "input-stream", &[])?;
    without::<Pollable>(&mut streams, "pollable", &["[method]output-stream.subscribe"])?;
    outputs(&mut streams)?;
    streams.func_wrap("[method]output-stream.check-write", |_, (_,): (Resource<Output>,)| {
        Ok((Ok::<u64, StreamError>(LOG_LINE_BYTES_MAX as u64),))
    })?;
    streams.func_wrap("[method]output-stream.blocking-flush", |_, (_,): (Resource<Output>,)| {
        Ok((Ok::<(), StreamError>(()),))
    })?;
    streams.func_wrap("[method]output-stream.write", print)?;
    streams.func_wrap("[method]output-stream.blocking-write-and-flush", print)
}

fn cli(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    interface(linker, "cli/environment")?
        .func_wrap("get-environment", |_, ()| Ok((Vec::<(String, String)>::new(),)))?;
    interface(linker, "cli/exit")?.func_wrap("exit", |_, (_,): (Result<(), ()>,)| {
        Err::<(), _>(wasmtime::Error::msg("it ended itself"))
    })?;
    let mut stdin = interface(linker, "cli/stdin")?;
    without::<Input>(&mut stdin, "input-stream", &[])?;
    // Nothing can be done with it.
    stdin.func_wrap("get-stdin", |_, ()| Ok((Resource::<Input>::new_own(0),)))?;
    for (name, level) in [("stdout", Level::Info), ("stderr", Level::Warn)] {
        let mut stream = interface(linker, &format!("cli/{name}"))?;
        outputs(&mut stream)?;
        stream.func_wrap(&format!("get-{name}"), move |mut store: StoreContextMut<'_, Host>, ()| {
            Ok((store.data_mut().table.push(Output { level, line: Vec::new() })?,))
        })?;
    }
    for (kind, names) in [("input", &["stdin"][..]), ("output", &["stdout", "stderr"])] {
        let resource = format!("terminal-{kind}");
        without::<Terminal>(&mut interface(linker, &format!("cli/{resource}"))?, &resource, &[])?;
        for name in names {
            let mut terminal = interface(linker, &format!("cli/terminal-{name}"))?;
            without::<Terminal>(&mut terminal, &resource, &[])?;
            terminal.func_wrap(&format!("get-terminal-{name}"), |_, ()| Ok((None::<Resource<Terminal>>,)))?;
        }
    }
    Ok(())
}

fn filesystem(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let functions = [
        "[method]descriptor.read-via-stream",
        "[method]descriptor.write-via-stream",
        "[method]descriptor.append-via-stream",
        "[method]descriptor.get-flags",
        "[method]descriptor.stat",
        "[method]descriptor.metadata-hash",
    ];
    let mut types = interface(linker, "filesystem/types")?;
    without::<Input>(&mut types, "input-stream", &[])?;
    outputs(&mut types)?;
    without::<Descriptor>(&mut types, "descriptor", &functions)?;
    let mut preopens = interface(linker, "filesystem/preopens")?;
    without::<Descriptor>(&mut preopens, "descriptor", &[])?;
    preopens.func_wrap("get-directories", |_, ()| Ok((Vec::<(Resource<Descriptor>, String)>::new(),)))
}

/// A resource that means nothing, and functions that trap.
fn without<T: 'static>(
    interface: &mut LinkerInstance<'_, Host>,
    resource: &str,
    functions: &[&str],
) -> wasmtime::Result<()> {
    interface.resource(resource, ResourceType::host::<T>(), |_, _| Ok(()))?;
    for function in functions {
        let text = format!("{function} of WASI is not there for apps");
        interface.func_new(function, move |_, _, _, _| Err(wasmtime::Error::msg(text.clone())))?;
    }
    Ok(())
}

fn outputs(interface: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    interface.resource("output-stream", ResourceType::host::<Output>(), |mut store, stream| {
        let mut output = store.data_mut().table.delete(Resource::<Output>::new_own(stream))?;
        end_line(store.data_mut(), output.level, &mut output.line)
    })
}

/// Each line becomes one of the app's log; one that is too long becomes several.
fn print(
    mut store: StoreContextMut<'_, Host>,
    (stream, bytes): (Resource<Output>, Vec<u8>),
) -> wasmtime::Result<(Result<(), StreamError>,)> {
    let host = store.data_mut();
    let output = host.table.get_mut(&stream)?;
    let (level, mut line) = (output.level, std::mem::take(&mut output.line));
    for byte in bytes {
        if byte != b'\n' {
            line.push(byte);
        }
        if byte == b'\n' || line.len() == LOG_LINE_BYTES_MAX {
            end_line(host, level, &mut line)?;
        }
    }
    host.table.get_mut(&stream)?.line = line;
    Ok((Ok(()),))
}

fn end_line(host: &mut Host, level: Level, line: &mut Vec<u8>) -> wasmtime::Result<()> {
    let bytes = std::mem::take(line);
    if bytes.is_empty() {
        return Ok(());
    }
    log::Host::write(host, level, String::from_utf8_lossy(&bytes).into_owned())
}
