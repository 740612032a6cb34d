//! A disk with a volatile cache, whose power can be cut.
//!
//! # Fault model
//!
//! A write is in flight until its completion was told, and durable once a flush that came later is complete. When
//! the power is cut, any subset of the other writes may have reached the disk, each whole, not at all, or torn: any subset
//! of its units of 512 bytes. Where two overlap, the later one wins if both arrived. Reads show what was written last. Some
//! writes stay in flight for milliseconds, so that those that are started together end in any order.
//!
//! Key types: [`Disk`]; [`Cut`], what a cut met.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::Rng as _;
use rand::rngs::StdRng;

/// What a disk writes as a whole, in bytes.
const UNIT_BYTES: usize = 512;

#[derive(Default)]
struct State {
    durable: Vec<u8>,
    /// What reads show.
    current: Vec<u8>,
    /// What was not flushed, in the order in which it came.
    pending: BTreeMap<u64, Written>,
    writes: u64,
    is_off: bool,
}

#[derive(Clone)]
struct Written {
    at: usize,
    bytes: Vec<u8>,
    is_complete: bool,
}

/// See the top of the file.
pub(super) struct Disk(Mutex<State>);

/// Why a request is not answered: the power is off.
pub(super) struct Off;

impl Disk {
    /// A disk with these contents.
    pub(super) fn new(contents: Vec<u8>) -> Self {
        Self(Mutex::new(State { durable: contents.clone(), current: contents, ..State::default() }))
    }

    pub(super) fn bytes(&self) -> usize {
        self.state().current.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn powered(&self) -> Result<MutexGuard<'_, State>, Off> {
        Some(self.state()).filter(|state| !state.is_off).ok_or(Off)
    }

    /// What is there; the range is inside the disk.
    pub(super) fn read(&self, at: usize, bytes: usize) -> Result<Vec<u8>, Off> {
        Ok(self.powered()?.current[at..at + bytes].to_vec())
    }

    /// Starts a write inside the disk; it is complete once that is told to [`Self::complete`].
    pub(super) fn write(&self, at: usize, bytes: Vec<u8>) -> Result<u64, Off> {
        let mut state = self.powered()?;
        state.current[at..at + bytes.len()].copy_from_slice(&bytes);
        state.writes += 1;
        let number = state.writes;
        state.pending.insert(number, Written { at, bytes, is_complete: false });
        Ok(number)
    }

    pub(super) fn complete(&self, number: u64) -> Result<(), Off> {
        if let Some(written) = self.powered()?.pending.get_mut(&number) {
            written.is_complete = true;
        }
        Ok(())
    }

    /// Makes durable what is complete.
    pub(super) fn flush(&self) -> Result<(), Off> {
        let mut guard = self.powered()?;
        let state = &mut *guard;
        state.pending.retain(|_, written| {
            if written.is_complete {
                put(&mut state.durable, written.at, &written.bytes);
            }
            !written.is_complete
        });
        Ok(())
    }

    /// How many writes were not flushed.
    pub(super) fn pending(&self) -> usize {
        self.state().pending.len()
    }

    /// Cuts the power: nothing is answered any more.
    pub(super) fn cut(&self) -> Cut {
        let mut state = self.state();
        state.is_off = true;
        Cut { durable: state.durable.clone(), pending: state.pending.values().cloned().collect() }
    }
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// What a cut met: what was durable, and what was under way.
pub(super) struct Cut {
    durable: Vec<u8>,
    pending: Vec<Written>,
}

/// Which of the writes under way arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Survivors {
    None,
    All,
    /// Any subset, some torn.
    Some,
}

impl Cut {
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What the disk may contain afterwards.
    pub(super) fn image(&self, survivors: Survivors, random: &mut StdRng) -> Vec<u8> {
        let mut image = self.durable.clone();
        for written in &self.pending {
            let (is_whole, is_torn) = match survivors {
                Survivors::None => (false, false),
                Survivors::All => (true, false),
                Survivors::Some => match random.random_range(0..4) {
                    0 => (false, false),
                    1 => (false, true),
                    _ => (true, false),
                },
            };
            for (number, unit) in written.bytes.chunks(UNIT_BYTES).enumerate() {
                if is_whole || is_torn && random.random() {
                    put(&mut image, written.at + number * UNIT_BYTES, unit);
                }
            }
        }
        image
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn write(disk: &Disk, at: usize, byte: u8, is_complete: bool) {
        let number = disk.write(at, vec![byte; 2 * UNIT_BYTES]).ok().unwrap();
        if is_complete {
            disk.complete(number).ok().unwrap();
        }
    }

    #[test]
    fn a_flush_makes_durable_what_is_complete() {
        let disk = Disk::new(vec![0; 8 * UNIT_BYTES]);
        write(&disk, 0, 1, true);
        write(&disk, 2 * UNIT_BYTES, 2, false);
        disk.flush().ok().unwrap();
        write(&disk, 4 * UNIT_BYTES, 3, true);
        let cut = disk.cut();
        assert_eq!(cut.pending(), 2);
        assert!(
            disk.read(0, UNIT_BYTES).is_err() && disk.flush().is_err() && disk.write(0, vec![1]).is_err()
        );
        let mut random = StdRng::seed_from_u64(1);
        let units = |survivors, random: &mut StdRng| -> Vec<u8> {
            cut.image(survivors, random).chunks(UNIT_BYTES).map(|unit| unit[0]).collect()
        };
        assert_eq!(units(Survivors::None, &mut random), [1, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(units(Survivors::All, &mut random), [1, 1, 2, 2, 3, 3, 0, 0]);
        let some: std::collections::BTreeSet<_> =
            (0..5000).map(|_| units(Survivors::Some, &mut random)).collect();
        assert!(some.iter().all(|units| units.starts_with(&[1, 1])));
        // Each of two writes: not at all, either half, whole.
        assert_eq!(some.len(), 16);
    }
}
