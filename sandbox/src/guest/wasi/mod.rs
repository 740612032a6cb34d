//! WASI 0.2, as little of it as the runtimes of other languages cannot start without: clocks, a seed, and lines that they
//! print, which go into the app's log; and TCP, for programs that connect to others. All of it is made of what apps have anyway.
//!
//! `io` has the streams, `poll` all that waits, `sockets` how connections are opened, `tcp` a connection, `network` the words for that.
//!
//! Invariants:
//! 1. Nobody gets a descriptor: there are no directories to begin with. So the functions of descriptors, which a component must find
//!    to be linked, only trap.
//! 2. What is not listed here is not there, and a component that imports it does not run.

mod io;
mod network;
mod poll;
mod sockets;
mod tcp;

use wasmtime::component::{
    ComponentNamedList, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType, Val,
};

use self::io::{Input, Output, failures, inputs, outputs};
use self::poll::{Pollable, pollables};
use super::host::Host;
use super::host::blocktree::app::log::Level;
use super::host::blocktree::app::{clock, random};

pub(super) use self::poll::{abandon, is_sending, settle};

/// The newest that this was compared with. A component of any 0.2 finds it.
const VERSION: &str = "0.2.12";

/// What only has a type, since a component names it.
enum Terminal {}
enum Descriptor {}
enum Entries {}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    clocks(linker)?;
    random(linker)?;
    poll::add_to_linker(linker)?;
    io::add_to_linker(linker)?;
    sockets::add_to_linker(linker)?;
    cli(linker)?;
    filesystem(linker)
}

fn interface<'a>(linker: &'a mut Linker<Host>, name: &str) -> wasmtime::Result<LinkerInstance<'a, Host>> {
    linker.instance(&format!("wasi:{name}@{VERSION}"))
}

/// A function that answers something.
fn method<P, R>(
    interface: &mut LinkerInstance<'_, Host>,
    name: &str,
    run: impl Fn(&mut Host, P) -> wasmtime::Result<R> + Send + Sync + 'static,
) -> wasmtime::Result<()>
where
    P: ComponentNamedList + Lift + 'static,
    R: ComponentType + Lower + Send + Sync + 'static,
{
    interface.func_wrap(name, move |mut store, parameters: P| Ok((run(store.data_mut(), parameters)?,)))
}

fn clocks(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut wall = interface(linker, "clocks/wall-clock")?;
    method(&mut wall, "now", |host, ()| {
        const SECOND: u64 = 1_000_000_000;
        let now = clock::Host::now(host)?;
        Ok(Datetime { seconds: now / SECOND, nanoseconds: (now % SECOND) as u32 })
    })?;
    let mut monotonic = interface(linker, "clocks/monotonic-clock")?;
    pollables(&mut monotonic)?;
    method(&mut monotonic, "now", |host, ()| clock::Host::monotonic(host))?;
    method(&mut monotonic, "subscribe-instant", |host, (moment,): (u64,)| {
        Ok(host.table.push(Pollable::At(moment))?)
    })?;
    method(&mut monotonic, "subscribe-duration", |host, (nanoseconds,): (u64,)| {
        let moment = clock::Host::monotonic(host)?.saturating_add(nanoseconds);
        Ok(host.table.push(Pollable::At(moment))?)
    })
}

fn random(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut seed = interface(linker, "random/insecure-seed")?;
    method(&mut seed, "insecure-seed", |host, ()| {
        let mut number = || -> wasmtime::Result<u64> {
            let bytes = random::Host::bytes(host, 8)?;
            Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
        };
        Ok((number()?, number()?))
    })
}

fn cli(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut environment = interface(linker, "cli/environment")?;
    method(&mut environment, "get-environment", |_, ()| Ok(Vec::<(String, String)>::new()))?;
    interface(linker, "cli/exit")?.func_wrap("exit", |_, (_,): (Result<(), ()>,)| {
        Err::<(), _>(wasmtime::Error::msg("it ended itself"))
    })?;
    let mut stdin = interface(linker, "cli/stdin")?;
    inputs(&mut stdin)?;
    method(&mut stdin, "get-stdin", |host, ()| Ok(host.table.push(Input::Nothing)?))?;
    for (name, level) in [("stdout", Level::Info), ("stderr", Level::Warn)] {
        let mut stream = interface(linker, &format!("cli/{name}"))?;
        outputs(&mut stream)?;
        method(&mut stream, &format!("get-{name}"), move |host, ()| {
            Ok(host.table.push(Output::Lines { level, begun: Vec::new() })?)
        })?;
    }
    for (kind, names) in [("input", &["stdin"][..]), ("output", &["stdout", "stderr"])] {
        let resource = format!("terminal-{kind}");
        without::<Terminal>(&mut interface(linker, &format!("cli/{resource}"))?, &resource, &[])?;
        for name in names {
            let mut terminal = interface(linker, &format!("cli/terminal-{name}"))?;
            without::<Terminal>(&mut terminal, &resource, &[])?;
            method(&mut terminal, &format!("get-terminal-{name}"), |_, ()| Ok(None::<Resource<Terminal>>))?;
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
        "[method]descriptor.get-type",
        "[method]descriptor.stat",
        "[method]descriptor.metadata-hash",
    ];
    let mut types = interface(linker, "filesystem/types")?;
    failures(&mut types)?;
    inputs(&mut types)?;
    outputs(&mut types)?;
    without::<Descriptor>(&mut types, "descriptor", &functions)?;
    without::<Entries>(&mut types, "directory-entry-stream", &[])?;
    // Whoever has a failure may ask whether a file is what failed; none ever is.
    types.func_new("filesystem-error-code", |mut store, _, failure, answer| {
        for lent in failure {
            if let Val::Resource(lent) = lent {
                lent.resource_drop(&mut store)?;
            }
        }
        answer.fill(Val::Option(None));
        Ok(())
    })?;
    let mut preopens = interface(linker, "filesystem/preopens")?;
    without::<Descriptor>(&mut preopens, "descriptor", &[])?;
    method(&mut preopens, "get-directories", |_, ()| Ok(Vec::<(Resource<Descriptor>, String)>::new()))
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
