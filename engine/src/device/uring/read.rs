//! The read path: a ring for each concurrent caller.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::Ring;
use super::registration::Registration;
use super::request::{EnterFailure, Outcome, Request};

/// Callers that read at once; more wait for a ring.
const RINGS_MAX: usize = 16;
/// Requests that one caller has in flight at once.
const DEPTH: usize = 64;
/// How long to let the kernel recover that is short of memory.
const BUSY_PAUSE: Duration = Duration::from_micros(200);

pub(super) struct ReadRings {
    file: File,
    registration: Option<Arc<Registration>>,
    pool: Mutex<Pool>,
    returned: Condvar,
}

struct Pool {
    idle: Vec<ReadRing>,
    /// Rings that exist, idle or not, and how many may.
    made: usize,
    made_max: usize,
}

impl ReadRings {
    pub(super) fn new(file: &File, registration: Option<Arc<Registration>>) -> io::Result<Self> {
        let file = file.try_clone()?;
        let first = Ring::new(&file, registration.clone(), DEPTH as u32, DEPTH as u32)?;
        let pool = Mutex::new(Pool { idle: vec![ReadRing { ring: first }], made: 1, made_max: RINGS_MAX });
        Ok(Self { file, registration, pool, returned: Condvar::new() })
    }

    /// Reads all of a batch; returns when none of it is in flight.
    ///
    /// # Safety
    ///
    /// The requests' memory is valid and used by nobody else until this returns.
    pub(super) unsafe fn run(&self, requests: &mut [Request]) -> io::Result<()> {
        if requests.is_empty() {
            return Ok(());
        }
        let mut ring = self.take()?;
        if self.registration.as_ref().is_some_and(|registration| registration.owner().is_some()) {
            ring.ring.register();
        }
        // SAFETY: the caller vouches for the memory.
        let result = unsafe { ring.run(requests) };
        let mut pool = self.pool.lock();
        match result {
            Ok(result) => {
                pool.idle.push(ring);
                drop(pool);
                self.returned.notify_one();
                result
            }
            Err(error) => {
                pool.made -= 1;
                drop(pool);
                self.returned.notify_one();
                Err(error)
            }
        }
    }

    fn take(&self) -> io::Result<ReadRing> {
        let mut pool = self.pool.lock();
        loop {
            if let Some(ring) = pool.idle.pop() {
                return Ok(ring);
            }
            if pool.made < pool.made_max {
                pool.made += 1;
                break;
            }
            self.returned.wait(&mut pool);
        }
        drop(pool);
        let entries = DEPTH as u32;
        let made = Ring::new(&self.file, self.registration.clone(), entries, entries);
        made.map(|ring| ReadRing { ring }).or_else(|error| {
            let mut pool = self.pool.lock();
            pool.made -= 1;
            if pool.made == 0 {
                return Err(error);
            }
            // Out of file descriptors or memory: those that exist have to do.
            pool.made_max = pool.made;
            drop(pool);
            self.take()
        })
    }
}

struct ReadRing {
    ring: Ring,
}

impl ReadRing {
    /// The outer error says that the ring must not be used again.
    ///
    /// # Safety
    ///
    /// As for [`ReadRings::run`].
    unsafe fn run(&mut self, requests: &mut [Request]) -> io::Result<io::Result<()>> {
        let has_buffers = self.ring.has_buffers();
        let ring = &mut self.ring.ring;
        let mut failure = None;
        let mut broken = None;
        let mut again: Vec<usize> = Vec::new();
        let mut next = 0;
        let mut in_flight = 0;
        loop {
            while in_flight < DEPTH && failure.is_none() && broken.is_none() {
                let index = match again.pop() {
                    Some(index) => index,
                    None if next < requests.len() => {
                        next += 1;
                        next - 1
                    }
                    None => break,
                };
                let entry = requests[index].read_entry(has_buffers).user_data(index as u64);
                // SAFETY: the caller vouches for the memory until all that is in flight is reaped.
                if unsafe { ring.submission().push(&entry) }.is_err() {
                    again.push(index);
                    break;
                }
                in_flight += 1;
            }
            if in_flight == 0 {
                break;
            }
            if broken.is_some() {
                thread::sleep(BUSY_PAUSE);
            } else {
                // Where more is to come, keep the device busy with one half while the other is refilled.
                let is_all = next == requests.len();
                let wanted = if is_all { in_flight } else { in_flight.div_ceil(2) };
                if let Err(error) = ring.submit_and_wait(wanted) {
                    match EnterFailure::of(&error) {
                        EnterFailure::Interrupted => {}
                        EnterFailure::Busy => thread::sleep(BUSY_PAUSE),
                        EnterFailure::Broken => {
                            // What the kernel took still completes; what it did not take never starts, because
                            // this ring is not entered again.
                            in_flight -= ring.submission().len();
                            broken = Some(error);
                        }
                    }
                }
            }
            for completion in ring.completion() {
                in_flight -= 1;
                let index = completion.user_data() as usize;
                let Some(request) = requests.get_mut(index) else { continue };
                match request.settle(completion.result(), io::ErrorKind::UnexpectedEof) {
                    Outcome::Done => {}
                    Outcome::Again => again.push(index),
                    Outcome::Failed(error) => failure = failure.or(Some(error)),
                }
            }
        }
        match (broken, failure) {
            (Some(error), _) => Err(error),
            (None, Some(error)) => Ok(Err(error)),
            (None, None) => Ok(Ok(())),
        }
    }
}
