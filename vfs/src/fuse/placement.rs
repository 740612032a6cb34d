//! Which processors a thread that serves one processor's requests runs on.
//!
//! It stays where the program waits: woken on another processor, a request without a disk takes twice as long. But it goes
//! anywhere
//!
//! - while its requests are long: a stream comes from one processor and keeps several busy;
//! - while the kernel writes back many short pieces: it sends them all from one processor, and waits for none of them;
//! - while programs `fsync`: whoever waits for the disk need not go on where it was.

#![allow(unsafe_code)]

use super::protocol::opcode;

/// A request is long if so many bytes come with it or with its answer.
const LONG_BYTES: usize = 64 << 10;
/// How many writes in a row are more than the end of one small file. Other requests between them make it fewer.
const WRITES_MANY: u32 = 8;
/// For so many requests behind an `fsync`, another is expected: to bind a thread costs as much as a short request.
const SYNC_REQUESTS: u32 = 16;

/// The processors that a thread may run on. Where the kernel does not let it choose, it is only slower.
pub(super) struct Placement {
    own: libc::cpu_set_t,
    all: libc::cpu_set_t,
    stays: Option<bool>,
    /// Writes in a row.
    writes: u32,
    /// For how many more requests a sync is expected.
    syncing: u32,
}

impl Placement {
    /// `own` is the processor whose requests it serves; all are those of the thread that calls this.
    pub(super) fn of(own: u16) -> Self {
        // SAFETY: all-zero sets are valid and empty, and the call writes as many bytes as it is told.
        unsafe {
            let mut all: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut all);
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            if usize::from(own) < 8 * size_of::<libc::cpu_set_t>() {
                libc::CPU_SET(own.into(), &mut one);
            }
            Self { own: one, all, stays: None, writes: 0, syncing: 0 }
        }
    }

    /// Binds the calling thread to its own processor.
    pub(super) fn stay(&mut self) {
        self.bind(true);
    }

    /// The calling thread has served a request with this opcode, with so many bytes one way or the other.
    pub(super) fn served(&mut self, operation: u32, bytes: usize) {
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
        bytes < LONG_BYTES && self.writes < WRITES_MANY && self.syncing == 0
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

    /// What it says after each of these requests of 4 KiB.
    fn after(operations: &[u32]) -> Vec<bool> {
        let mut placement = Placement::of(0);
        operations.iter().map(|operation| placement.stays_after(*operation, 4096)).collect()
    }

    #[test]
    fn it_stays_for_short_requests_and_goes_for_long_ones() {
        assert_eq!(after(&[opcode::LOOKUP, opcode::READ, opcode::WRITE]), [true; 3]);
        let mut placement = Placement::of(0);
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
}
