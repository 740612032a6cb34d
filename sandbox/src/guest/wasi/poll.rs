//! Waiting, as WASI has it.
//!
//! 1. Nothing waits for longer than the app has for what it was called for.
//! 2. What is said to be ready can be done without waiting.
//! 3. While anything is waited for, what the app wrote goes out.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use wasmtime::component::{Linker, LinkerInstance, Resource, ResourceTable, ResourceType};

use super::tcp::{self, Key, Link, State};
use super::{interface, method};
use crate::guest::host::blocktree::app::clock;
use crate::guest::host::{Host, milliseconds};
use crate::ipc::{Handle, Reply, Request, Side};
use crate::limits::CONNECTION_PATIENCE;

/// What can be waited for.
#[derive(Clone, Copy)]
pub(super) enum Pollable {
    Ready,
    /// A moment, as the monotonic clock shows it.
    At(u64),
    /// That a socket is connected, or has failed.
    Socket(Key),
    Input(Key),
    Output(Key),
}

/// What is missing for one to be ready.
enum Missing {
    Nothing,
    Time(Duration),
    Told(Handle, Side),
}

pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut waiting = interface(linker, "io/poll")?;
    pollables(&mut waiting)?;
    method(&mut waiting, "[method]pollable.ready", |host, (pollable,): (Resource<Pollable>,)| {
        let pollable = *host.table.get(&pollable)?;
        Ok(!look(host, &[pollable], Duration::ZERO)?.is_empty())
    })?;
    waiting.func_wrap("[method]pollable.block", |mut store, (pollable,): (Resource<Pollable>,)| {
        let host: &mut Host = store.data_mut();
        let pollable = *host.table.get(&pollable)?;
        wait(host, &[pollable]).map(drop)
    })?;
    method(&mut waiting, "poll", |host, (pollables,): (Vec<Resource<Pollable>>,)| {
        if pollables.is_empty() {
            return Err(wasmtime::Error::msg("it waits for nothing"));
        }
        let pollables = pollables.iter().map(|one| host.table.get(one).copied());
        let pollables = pollables.collect::<Result<Vec<_>, _>>()?;
        wait(host, &pollables)
    })
}

pub(super) fn pollables(interface: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    interface.resource("pollable", ResourceType::host::<Pollable>(), |mut store, pollable| {
        store.data_mut().table.delete(Resource::<Pollable>::new_own(pollable))?;
        Ok(())
    })
}

/// Waits until one of these is ready; the places of all that are.
pub(super) fn wait(host: &mut Host, pollables: &[Pollable]) -> wasmtime::Result<Vec<u32>> {
    loop {
        let left = host.end.saturating_duration_since(Instant::now());
        let ready = look(host, pollables, left)?;
        if !ready.is_empty() {
            return Ok(ready);
        }
        if left.is_zero() {
            return Err(wasmtime::Trap::Interrupt.into());
        }
    }
}

/// Whether something that the app wrote has not gone out yet.
pub(in crate::guest) fn is_sending(host: &mut Host) -> bool {
    tcp::links(&mut host.table).any(|link| link.is_sending())
}

/// What the app wrote goes out before its call ends, as far as others take it in time: nobody sends anything while it is not called.
pub(in crate::guest) fn settle(host: &mut Host) {
    settle_those(host, |_| true);
}

/// The same before a socket goes.
pub(super) fn settle_one(host: &mut Host, handle: Handle) {
    settle_those(host, |link| link.handle == handle);
}

fn settle_those(host: &mut Host, is_meant: impl Fn(&Link) -> bool) {
    let end = host.end.min(Instant::now() + CONNECTION_PATIENCE);
    while tcp::links(&mut host.table).any(|link| is_meant(link) && link.is_sending()) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let Host { table, node, .. } = host;
            tcp::links(table).filter(|link| is_meant(link)).for_each(|link| link.give_up(node));
            return;
        }
        send_and_wait(host, BTreeSet::new(), left);
    }
}

/// What goes with the instance, before it has gone out, breaks its connections.
pub(in crate::guest) fn abandon(host: &mut Host) {
    let Host { table, node, .. } = host;
    tcp::links(table).filter(|link| !link.is_whole()).for_each(|link| link.close(node));
}

/// The places of those that are ready; if there are none, those that are after a while, which may be shorter than that.
fn look(host: &mut Host, pollables: &[Pollable], mut patience: Duration) -> wasmtime::Result<Vec<u32>> {
    let begun = Instant::now();
    let now = clock::Host::monotonic(host)?;
    let missing = pollables.iter().map(|one| one.missing(&host.table, now)).collect::<Result<Vec<_>, _>>()?;
    let mut wanted = BTreeSet::new();
    for one in &missing {
        match one {
            Missing::Nothing => patience = Duration::ZERO,
            Missing::Time(left) => patience = patience.min(*left),
            Missing::Told(handle, side) => {
                wanted.insert((*handle, *side));
            }
        }
    }
    let told = send_and_wait(host, wanted, patience);
    let is_ready = |missing: &Missing| match missing {
        Missing::Nothing => true,
        Missing::Time(left) => begun.elapsed() >= *left,
        Missing::Told(handle, side) => told.contains(&(*handle, *side)),
    };
    Ok((0..).zip(&missing).filter(|(_, missing)| is_ready(missing)).map(|(place, _)| place).collect())
}

/// Waits for connections, and hands over what the app wrote to them. Those of the wanted that are ready.
fn send_and_wait(
    host: &mut Host,
    mut wanted: BTreeSet<(Handle, Side)>,
    patience: Duration,
) -> BTreeSet<(Handle, Side)> {
    let Host { table, node, .. } = host;
    let sending = tcp::links(table).filter(|link| link.is_sending()).map(|link| (link.handle, Side::Output));
    wanted.extend(sending);
    if wanted.is_empty() {
        std::thread::sleep(patience);
        return wanted;
    }
    let milliseconds = milliseconds(patience);
    let wanted: Vec<_> = wanted.into_iter().collect();
    let mut ready: BTreeSet<_> = match node.ask(Request::SocketWait { wanted: wanted.clone(), milliseconds })
    {
        Ok(Reply::Ready(places)) => {
            places.iter().filter_map(|place| wanted.get(*place as usize)).copied().collect()
        }
        // Whoever uses them is told why.
        _ => wanted.into_iter().collect(),
    };
    for link in tcp::links(table).filter(|link| link.is_sending()) {
        let output = (link.handle, Side::Output);
        if ready.contains(&output) {
            link.push(node);
            if link.is_sending() {
                ready.remove(&output);
            }
        }
    }
    ready
}

impl Pollable {
    fn missing(self, table: &ResourceTable, now: u64) -> wasmtime::Result<Missing> {
        let state = |key| tcp::socket(table, key).map(|tcp| &tcp.state);
        Ok(match self {
            Self::At(moment) if now < moment => Missing::Time(Duration::from_nanos(moment - now)),
            Self::Socket(key) if let State::Connecting(handle, _) = state(key)? => {
                Missing::Told(*handle, Side::Output)
            }
            Self::Input(key)
                if let State::Connected(link) = state(key)?
                    && !link.has_ended() =>
            {
                Missing::Told(link.handle, Side::Input)
            }
            Self::Output(key)
                if let State::Connected(link) = state(key)?
                    && link.is_sending() =>
            {
                Missing::Told(link.handle, Side::Output)
            }
            _ => Missing::Nothing,
        })
    }
}
