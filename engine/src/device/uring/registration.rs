//! Makes the arena known to the kernel, so that it need not look up the memory of each request.
//!
//! The kernel clears all of the arena before it has it, which takes a tenth of a second: a third of what mounting a
//! store takes. So a thread has it cleared and registered, beside the key derivation; until it has, requests name
//! their memory by address.
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::write::WriteQueue;
use crate::device::arena::Arena;

pub(super) struct Registration {
    arena: Arc<Arena>,
    /// The first ring that has the arena; others clone its registration.
    owner: OnceLock<RawFd>,
    is_over: AtomicBool,
}

impl Registration {
    pub(super) fn new(arena: Arc<Arena>) -> Self {
        Self { arena, owner: OnceLock::new(), is_over: AtomicBool::new(false) }
    }

    pub(super) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    pub(super) fn owner(&self) -> Option<RawFd> {
        self.owner.get().copied()
    }

    /// Clears the arena and registers it with all queues.
    pub(super) fn run(&self, queues: &[Arc<WriteQueue>]) {
        if self.arena.populate(|| self.is_over.load(Ordering::Relaxed)) {
            for ring in queues.iter().map(|queue| queue.ring()) {
                if ring.register() {
                    self.owner.get_or_init(|| ring.fd());
                }
            }
        }
    }

    /// Lets [`Registration::run`] end early: the device is closed.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}
