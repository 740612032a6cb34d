//! From bytes to a component that can run.

#![allow(unsafe_code)]

use wasmtime::component::{Component, HasSelf, InstancePre, Linker};
use wasmtime::{Config, Engine, Store};

use super::host::exports::blocktree::app::{events, http_handler, policy};
use super::host::{Everything, Host};

const STACK_BYTES_MAX: usize = 1 << 20;

pub(super) struct Loaded {
    pub(super) engine: Engine,
    pub(super) memory_bytes: usize,
    /// What it was compiled to just now.
    pub(super) compiled: Option<Vec<u8>>,
    ready: InstancePre<Host>,
    events: Option<events::GuestIndices>,
    http: Option<http_handler::GuestIndices>,
    policy: Option<policy::GuestIndices>,
}

/// What an instance exports of all that a node calls.
pub(super) struct Exported {
    pub(super) events: Option<events::Guest>,
    pub(super) http: Option<http_handler::Guest>,
    pub(super) policy: Option<policy::Guest>,
}

/// Compiles what an author packed.
pub(super) fn compile(bytes: &[u8], memory_mib: u32) -> wasmtime::Result<Loaded> {
    let engine = engine()?;
    let component = Component::from_binary(&engine, bytes)?;
    let compiled = component.serialize()?;
    loaded(engine, &component, memory_mib, Some(compiled))
}

/// Loads what [`compile`] made earlier.
pub(super) fn load(bytes: &[u8], memory_mib: u32) -> wasmtime::Result<Loaded> {
    let engine = engine()?;
    // SAFETY: the node keeps these bytes where the store's signature covers them, and got them from `compile` in this
    // app's own sandbox, before any code of the app ran. wasmtime compares version, settings and processor. Were they
    // forged after all, they would run here, where the app runs anyway and nothing else does.
    let component = unsafe { Component::deserialize(&engine, bytes)? };
    loaded(engine, &component, memory_mib, None)
}

fn engine() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES_MAX)
        .wasm_memory64(false)
        .wasm_relaxed_simd(false)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(8))
        .memory_init_cow(true);
    Engine::new(&config)
}

fn loaded(
    engine: Engine,
    component: &Component,
    memory_mib: u32,
    compiled: Option<Vec<u8>>,
) -> wasmtime::Result<Loaded> {
    let mut linker = Linker::new(&engine);
    Everything::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)?;
    super::wasi::add_to_linker(&mut linker)?;
    // Imports that are not there, or are of other types than they claim, end here.
    let ready = linker.instantiate_pre(component)?;
    let events = events::GuestIndices::new(&ready).ok();
    let http = http_handler::GuestIndices::new(&ready).ok();
    let policy = policy::GuestIndices::new(&ready).ok();
    if events.is_none() && http.is_none() && policy.is_none() {
        return Err(wasmtime::Error::msg("the component exports nothing that a node calls"));
    }
    let memory_bytes = (memory_mib as usize) << 20;
    Ok(Loaded { engine, memory_bytes, compiled, ready, events, http, policy })
}

impl Loaded {
    /// A new instance, and what it exports.
    pub(super) fn instantiate(&self, store: &mut Store<Host>) -> wasmtime::Result<Exported> {
        let instance = self.ready.instantiate(&mut *store)?;
        Ok(Exported {
            events: self.events.as_ref().map(|events| events.load(&mut *store, &instance)).transpose()?,
            http: self.http.as_ref().map(|http| http.load(&mut *store, &instance)).transpose()?,
            policy: self.policy.as_ref().map(|policy| policy.load(&mut *store, &instance)).transpose()?,
        })
    }
}
