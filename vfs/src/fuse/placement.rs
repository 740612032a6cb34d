//! Which processors a thread that serves one processor's requests runs on.
//!
//! It stays where the program waits: woken on another processor, a request without a disk takes twice as long. But it goes
//! anywhere
//!
//! - while its requests are long: a stream comes from one processor and keeps several busy;
//! - while the kernel writes back many short pieces: it sends them all from one processor, and waits for none of them;
//! - while programs `fsync`: whoever waits for the disk need not go on where it was;
//! - while one thread asks for several reads at once, as through io_uring: it does not wait, but goes on where it is.

#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::protocol::opcode;

/// A request is long if so many bytes come with it or with its answer.
const LONG_BYTES: usize = 64 << 10;
/// How many writes in a row are more than the end of one small file. Other requests between them make it fewer.
const WRITES_MANY: u32 = 8;
/// For so many requests behind an `fsync`, another is expected: to bind a thread costs as much as a short request.
const SYNC_REQUESTS: u32 = 16;
/// For so many requests behind a read whose asker had another request on its way, more of them are expected.
const AT_ONCE_REQUESTS: u32 = 64;

/// Whose requests the threads of one processor serve just now: a place for each thread, with the kernel's number of the
/// thread that asked, or [`NOBODY`]. Only a hint.
pub(super) struct Askers(Box<[AtomicU32]>);

/// Also what the kernel says of those whom the mount's process namespace does not show.
const NOBODY: u32 = 0;

impl Askers {
    pub(super) fn of(threads: usize) -> Self {
        Self((0..threads).map(|_| AtomicU32::new(NOBODY)).collect())
    }

    fn begin(&self, place: usize, asker: u32) -> bool {
        let is_another = asker != NOBODY && self.0.iter().any(|other| other.load(Relaxed) == asker);
        self.0[place].store(asker, Relaxed);
        is_another
    }

    fn end(&self, place: usize) {
        self.0[place].store(NOBODY, Relaxed);
    }
}

/// The processors that a thread may run on. Where the kernel does not let it choose, it is only slower.
pub(super) struct Placement {
    own: libc::cpu_set_t,
    all: libc::cpu_set_t,
    stays: Option<bool>,
    /// Writes in a row.
    writes: u32,
    /// For how many more requests a sync is expected.
    syncing: u32,
    askers: Arc<Askers>,
    place: usize,
    /// Whether another request of the same thread was being served when this one began.
    is_another: bool,
    /// For how many more requests several at once are expected.
    at_once: u32,
}

impl Placement {
    /// `own` is the processor whose requests it serves, with those who share `askers`; all are those of the thread that
    /// calls this.
    pub(super) fn of(own: u16, askers: &Arc<Askers>, place: usize) -> Self {
        // SAFETY: all-zero sets are valid and empty, and the call writes as many bytes as it is told.
        unsafe {
            let mut all: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut all);
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            if usize::from(own) < 8 * size_of::<libc::cpu_set_t>() {
                libc::CPU_SET(own.into(), &mut one);
            }
            Self {
                own: one,
                all,
                stays: None,
                writes: 0,
                syncing: 0,
                askers: Arc::clone(askers),
                place,
                is_another: false,
                at_once: 0,
            }
        }
    }

    /// Binds the calling thread to its own processor.
    pub(super) fn stay(&mut self) {
        self.bind(true);
    }

    /// The calling thread begins to serve a request that `asker` made.
    pub(super) fn serves(&mut self, asker: u32) {
        self.is_another = self.askers.begin(self.place, asker);
    }

    /// It has served the request, which had this opcode, and so many bytes one way or the other.
    pub(super) fn served(&mut self, operation: u32, bytes: usize) {
        self.askers.end(self.place);
        let stays = self.stays_after(operation, bytes);
        self.bind(stays);
    }

    fn stays_after(&mut self, operation: u32, bytes: usize) -> bool {
        self.syncing = match operation {
            opcode::FSYNC | opcode::FSYNCDIR => SYNC_REQUESTS,
            _ => self.syncing.saturating_sub(1),
        };
        self.writes = match operation {
            opcode::WRITE => self.writes.saturating_add(1),
            _ => self.writes.min(2 * WRITES_MANY) / 2,
        };
        self.at_once = match operation {
            opcode::READ if self.is_another => AT_ONCE_REQUESTS,
            _ => self.at_once.saturating_sub(1),
        };
        bytes < LONG_BYTES && self.writes < WRITES_MANY && self.syncing == 0 && self.at_once == 0
    }

    fn bind(&mut self, stays: bool) {
        if self.stays.replace(stays) == Some(stays) {
            return;
        }
        let set = if stays { &self.own } else { &self.all };
        // SAFETY: the call reads as many bytes as it is told.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone() -> Placement {
        Placement::of(0, &Arc::new(Askers::of(1)), 0)
    }

    /// What it says after each of these requests of 4 KiB.
    fn after(operations: &[u32]) -> Vec<bool> {
        let mut placement = alone();
        operations.iter().map(|operation| placement.stays_after(*operation, 4096)).collect()
    }

    #[test]
    fn it_stays_for_short_requests_and_goes_for_long_ones() {
        assert_eq!(after(&[opcode::LOOKUP, opcode::READ, opcode::WRITE]), [true; 3]);
        let mut placement = alone();
        assert!(!placement.stays_after(opcode::READ, LONG_BYTES));
        assert!(placement.stays_after(opcode::READ, LONG_BYTES - 1));
    }

    #[test]
    fn it_goes_while_much_is_written_back() {
        let file = [opcode::CREATE, opcode::WRITE, opcode::SETATTR, opcode::RELEASE];
        assert!(
            after(&file.repeat(20)).iter().all(|stays| *stays),
            "small files are made where the program is"
        );
        let stays = after(&[opcode::WRITE; 40]);
        assert!(stays[0] && !stays[WRITES_MANY as usize - 1] && !stays[39]);
        let back = after(&[[opcode::WRITE; 40].as_slice(), &[opcode::LOOKUP; 2]].concat());
        assert_eq!(back[40..], [false, true]);
    }

    #[test]
    fn it_goes_while_programs_sync() {
        let stays = after(&[[opcode::WRITE, opcode::FSYNC].as_slice(), &[opcode::LOOKUP; 20]].concat());
        assert_eq!(stays[..3], [true, false, false]);
        assert!(stays[21]);
        assert_eq!(stays[2..].iter().filter(|stays| !**stays).count(), SYNC_REQUESTS as usize - 1);
    }

    #[test]
    fn it_goes_while_one_thread_asks_for_several_reads_at_once() {
        let askers = Arc::new(Askers::of(2));
        let (mut one, mut other) = (Placement::of(0, &askers, 0), Placement::of(0, &askers, 1));
        let mut together = |first: u32, second: u32, operation: u32| {
            one.serves(first);
            other.serves(second);
            let stays = [&mut one, &mut other].map(|placement| {
                placement.askers.end(placement.place);
                placement.stays_after(operation, 4096)
            });
            (stays[0], stays[1])
        };
        assert_eq!(together(7, 8, opcode::READ), (true, true), "two threads wait for one each");
        assert_eq!(together(NOBODY, NOBODY, opcode::READ), (true, true), "who asks is not known");
        assert_eq!(together(7, 7, opcode::WRITE), (true, true));
        assert_eq!(together(7, 7, opcode::READ), (true, false));
        for _ in 1..AT_ONCE_REQUESTS {
            assert_eq!(together(7, 8, opcode::READ), (true, false));
        }
        assert_eq!(together(7, 8, opcode::READ), (true, true));
    }
}
