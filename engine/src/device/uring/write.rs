//! The write path: a ring that writers share.
//!
//! A submitter holds `submission` while it fills the submission queue and enters the kernel. Whoever waits is either
//! the *driver*, who sleeps in the kernel until completions arrive, or sleeps until the driver has news. The driver
//! holds no lock while it sleeps, so that others submit meanwhile.
//!
//! Invariants:
//! 1. Only the holder of `table` touches the completion queue, and while there is a driver only the driver: if others
//!    took away completions between its last look and its sleep, it might wait for ever.
//! 2. `table` is never held while `submission` is taken, nor while the ring is entered.
//! 3. Whoever stops driving wakes the sleepers, one of whom drives on.
//! 4. A request's memory is in its batch, which the table keeps until the kernel is done with all of it.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::Ring;
use super::registration::Registration;
use super::request::{EnterFailure, Outcome, Request};
use crate::device::completion::{Completion, Pending, copy_error};
use crate::device::{SectorBuf, Write};

/// Requests that are submitted with one system call.
const SUBMIT_MAX: u32 = 128;
/// Requests in flight: as many as the completion queue holds.
const IN_FLIGHT_MAX: u32 = 512;
/// Completions that a driver whose batch has many requests lets gather before it wakes up: fewer wake-ups for it,
/// and not much delay for whoever comes to wait meanwhile.
const GATHER_MAX: usize = 8;
/// How long to let the kernel recover that is short of memory.
const BUSY_PAUSE: Duration = Duration::from_micros(200);

pub(super) struct WriteQueue {
    ring: Ring,
    /// What broke the ring for good, if anything did.
    submission: Mutex<Option<io::Error>>,
    table: Mutex<Table>,
    news: Condvar,
    /// A copy of what the table says, for choosing a queue.
    in_flight: AtomicUsize,
}

/// What is in flight.
struct Table {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    has_driver: bool,
    sleepers: usize,
}

struct Slot {
    request: Request,
    batch: Arc<Batch>,
}

/// The writes of one call.
struct Batch {
    queue: Weak<WriteQueue>,
    progress: Mutex<Progress>,
    outcome: OnceLock<Result<(), io::Error>>,
}

struct Progress {
    requests_left: usize,
    failure: Option<io::Error>,
    buffers: Vec<SectorBuf>,
}

impl WriteQueue {
    pub(super) fn new(file: &File, registration: Option<Arc<Registration>>) -> io::Result<Self> {
        let ring = Ring::new(file, registration, SUBMIT_MAX, IN_FLIGHT_MAX)?;
        let slots = (0..IN_FLIGHT_MAX).map(|_| None).collect();
        let free = (0..IN_FLIGHT_MAX).rev().collect();
        let table = Mutex::new(Table { slots, free, has_driver: false, sleepers: 0 });
        let (submission, news) = (Mutex::new(None), Condvar::new());
        Ok(Self { ring, submission, table, news, in_flight: AtomicUsize::new(0) })
    }

    /// How many requests are in flight, or complete and not yet reaped.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Starts a batch.
    ///
    /// # Safety
    ///
    /// All requests are from the memory of `writes`.
    pub(super) unsafe fn start(self: &Arc<Self>, requests: Vec<Request>, writes: Vec<Write>) -> Completion {
        let buffers = writes.into_iter().map(|write| write.bytes).collect();
        let progress = Progress { requests_left: requests.len(), failure: None, buffers };
        let batch = Arc::new(Batch {
            queue: Arc::downgrade(self),
            progress: Mutex::new(progress),
            outcome: OnceLock::new(),
        });
        // Counted before it is in flight, so that a second writer chooses another queue.
        self.in_flight.fetch_add(requests.len(), Ordering::Relaxed);
        let mut requests = requests.into_iter().peekable();
        let mut submitted = Vec::new();
        while requests.peek().is_some() {
            let mut table = self.wait_until(|table| !table.free.is_empty(), || 1);
            while submitted.len() < SUBMIT_MAX as usize && requests.peek().is_some() {
                let Some(index) = table.free.pop() else { break };
                let Some(request) = requests.next() else { break };
                let entry = request.write_entry(self.ring.has_buffers()).user_data(u64::from(index));
                submitted.push((index, entry));
                table.slots[index as usize] = Some(Slot { request, batch: batch.clone() });
            }
            drop(table);
            self.submit(&mut submitted);
        }
        Completion::pending(batch)
    }

    /// Returns when nothing is in flight.
    pub(super) fn drain(&self) {
        drop(self.wait_until(|table| table.free.len() == table.slots.len(), || 1));
    }

    /// Hands entries whose slots are filled to the kernel; leaves `entries` empty.
    fn submit(&self, entries: &mut Vec<(u32, io_uring::squeue::Entry)>) {
        if entries.is_empty() {
            return;
        }
        let mut broken = self.submission.lock();
        let mut refused = 0;
        if broken.is_none() {
            // SAFETY: only the holder of the lock touches the submission queue.
            let mut queue = unsafe { self.ring.ring.submission_shared() };
            for (_, entry) in entries.iter() {
                // SAFETY: the memory is in a batch that the table keeps until the request is complete. The queue is
                // empty at first and holds `SUBMIT_MAX`, so that this never fails.
                if unsafe { queue.push(entry) }.is_err() {
                    debug_assert!(false, "more entries than the submission queue holds");
                    refused += 1;
                }
            }
            drop(queue);
            if let Err((error, left)) = self.enter_all() {
                refused += left;
                *broken = Some(error);
            }
        } else {
            refused = entries.len();
        }
        if refused > 0 {
            // A broken ring is never entered with submissions again, so these never start.
            let error = broken.as_ref().map_or_else(|| io::ErrorKind::Other.into(), copy_error);
            let mut table = self.table.lock();
            for (index, _) in &entries[entries.len() - refused..] {
                self.finish(&mut table, *index, Err(copy_error(&error)));
            }
            self.news.notify_all();
        }
        entries.clear();
    }

    /// Enters the kernel until it has taken all that is queued; else tells how many it did not take. The caller
    /// holds `submission`.
    fn enter_all(&self) -> Result<(), (io::Error, usize)> {
        loop {
            let result = self.ring.ring.submit();
            // SAFETY: only the holder of the lock touches the submission queue.
            let left = unsafe { self.ring.ring.submission_shared() }.len();
            if left == 0 {
                return Ok(());
            }
            if let Err(error) = result {
                match EnterFailure::of(&error) {
                    EnterFailure::Interrupted => {}
                    EnterFailure::Busy => thread::sleep(BUSY_PAUSE),
                    EnterFailure::Broken => return Err((error, left)),
                }
            }
        }
    }

    /// Reaps and sleeps until `done`; `left` tells how many of the completions to come matter to the caller.
    fn wait_until(&self, done: impl Fn(&Table) -> bool, left: impl Fn() -> usize) -> MutexGuard<'_, Table> {
        let mut table = self.table.lock();
        let mut again = Vec::new();
        loop {
            if !table.has_driver {
                self.reap(&mut table, &mut again);
                if !again.is_empty() {
                    MutexGuard::unlocked(&mut table, || self.submit(&mut again));
                    continue;
                }
            }
            if done(&table) {
                break;
            }
            if table.has_driver {
                table.sleepers += 1;
                self.news.wait(&mut table);
                table.sleepers -= 1;
                continue;
            }
            let wanted = if table.sleepers > 0 { 1 } else { left().clamp(1, GATHER_MAX) };
            table.has_driver = true;
            MutexGuard::unlocked(&mut table, || self.sleep_in_kernel(wanted));
            table.has_driver = false;
        }
        if table.sleepers > 0 && !table.has_driver {
            self.news.notify_all();
        }
        table
    }

    /// Sleeps until so many completions are there, or something else happens.
    fn sleep_in_kernel(&self, wanted: usize) {
        const GETEVENTS: u32 = io_uring::EnterFlags::GETEVENTS.bits();
        // SAFETY: submits nothing and passes no pointer.
        let entered =
            unsafe { self.ring.ring.submitter().enter::<libc::sigset_t>(0, wanted as u32, GETEVENTS, None) };
        if let Err(error) = entered
            && !matches!(EnterFailure::of(&error), EnterFailure::Interrupted)
        {
            // Requests complete all the same; without the kernel's help, look for them now and then.
            thread::sleep(BUSY_PAUSE);
        }
    }

    /// Takes what has completed. The caller is the driver, or there is none.
    fn reap(&self, table: &mut Table, again: &mut Vec<(u32, io_uring::squeue::Entry)>) {
        // SAFETY: only the holder of `table` touches the completion queue.
        let completions = unsafe { self.ring.ring.completion_shared() };
        let mut is_news = false;
        for completion in completions {
            let index = completion.user_data() as u32;
            let Some(Some(slot)) = table.slots.get_mut(index as usize) else {
                debug_assert!(false, "a completion of nothing");
                continue;
            };
            match slot.request.settle(completion.result(), io::ErrorKind::WriteZero) {
                Outcome::Done => is_news |= self.finish(table, index, Ok(())),
                Outcome::Failed(error) => is_news |= self.finish(table, index, Err(error)),
                Outcome::Again => {
                    let entry = slot.request.write_entry(self.ring.has_buffers());
                    again.push((index, entry.user_data(u64::from(index))));
                    // The rest has room when this is submitted; the queue keeps its order.
                    if again.len() == SUBMIT_MAX as usize {
                        break;
                    }
                }
            }
        }
        if is_news && table.sleepers > 0 {
            self.news.notify_all();
        }
    }

    /// Ends one request; tells whether anybody may have waited for that.
    fn finish(&self, table: &mut Table, index: u32, result: io::Result<()>) -> bool {
        let Some(slot) = table.slots[index as usize].take() else { return false };
        table.free.push(index);
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        // Whoever waits for room waits for any request at all, and who drains, for all of them.
        slot.batch.finish_one(result) || table.free.len() == 1 || table.free.len() == table.slots.len()
    }
}

impl Batch {
    /// Tells whether that was the last request.
    fn finish_one(&self, result: io::Result<()>) -> bool {
        let mut progress = self.progress.lock();
        if let Err(error) = result {
            progress.failure.get_or_insert(error);
        }
        progress.requests_left -= 1;
        if progress.requests_left > 0 {
            return false;
        }
        // Back to the pool before anybody hears of it: whoever waited for this may want the memory next.
        progress.buffers.clear();
        let failure = progress.failure.take();
        let _ = self.outcome.set(failure.map_or(Ok(()), Err));
        true
    }
}

impl Pending for Batch {
    fn wait(&self) -> io::Result<()> {
        if self.outcome.get().is_none()
            && let Some(queue) = self.queue.upgrade()
        {
            let left = || self.progress.lock().requests_left;
            drop(queue.wait_until(|_| self.outcome.get().is_some(), left));
        }
        match self.outcome.get() {
            Some(result) => result.as_ref().copied().map_err(copy_error),
            // The device drains its queue before it goes, so this cannot be.
            None => Err(io::Error::other("the device is gone")),
        }
    }

    fn is_done(&self) -> bool {
        if self.outcome.get().is_none()
            && let Some(queue) = self.queue.upgrade()
            && let Some(mut table) = queue.table.try_lock()
            && !table.has_driver
        {
            let mut again = Vec::new();
            queue.reap(&mut table, &mut again);
            drop(table);
            queue.submit(&mut again);
        }
        self.outcome.get().is_some()
    }
}
