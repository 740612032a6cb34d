//! A device in memory that fails as disks fail, for tests of this and of later crates.
//!
//! # Fault model
//!
//! A write is in flight until its completion says so, and durable only after a flush that was called later.
//! Reads of what is in flight show old and new sectors, mixed.
//!
//! What an honest disk does:
//!
//! - **Completions in any order.** With [`FaultyDevice::reorder`], writes stay in flight for some time, and those
//!   of one batch end apart from each other. A flush makes durable what was complete when it was called.
//! - **Crash.** Of the writes since the last flush, also those in flight, any subset may have reached the disk,
//!   each of them whole, not at all, or torn: any subset of its units of 512 bytes. Where two writes overlap, the
//!   later one wins if both arrived. The device may be as long as at the last flush, or as it is now.
//!   [`FaultyDevice::crash`] chooses; [`FaultyDevice::arm_capture`] and [`FaultyDevice::capture_all`] remember what
//!   a crash would have met in the middle.
//! - **A write fails.** EIO, or ENOSPC where a file below is sparse; what it wrote is torn.
//! - **A flush fails.** EIO; each write before it is durable or lost for good, although reads still show it: what
//!   Linux does with dirty pages that could not be written back.
//! - **A read fails.** EIO: once, or as a latent error until the sector is written again.
//! - **Growing fails.** ENOSPC, once or beyond a limit.
//!
//! What a bad disk does without saying so:
//!
//! - **A flush lies.** It succeeds and makes nothing durable.
//! - **A write is lost** although it was complete: what stood there before stays.
//! - **A write is misdirected**: it goes to another place, where it destroys something.
//! - **A read is misdirected**: it shows another sector.
//! - **A read is stale**: it shows what stood there at an earlier flush.
//! - **Bits flip**: in one read, or for good.
//!
//! Everything that is random comes from a seed: the same calls have the same outcome.
//! [`FaultyDevice::fingerprint`] is there to show it.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Completion, Device, Pending, Read, Write, past_the_end};
use crate::limits::SECTOR_BYTES;

mod image;
mod random;
#[cfg(test)]
mod tests;

pub use image::{CrashPoint, Image, Survivors};
pub use random::SplitMix64;

use image::Written;

/// Failures to come: each counts down with what it may happen to (reads, single writes, flushes, growths), and
/// happens when it gets to 0.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    pub read: Option<u64>,
    pub write: Option<u64>,
    pub flush: Option<u64>,
    pub grow: Option<u64>,
    /// The write that fails says that there is no space.
    pub write_lacks_space: bool,
    /// After the first failed write or flush, all others fail too.
    pub stay_broken: bool,
    /// How long the device can become, in sectors.
    pub sectors_max: Option<u64>,
    /// Flushes succeed, but make nothing durable.
    pub flush_lies: bool,
    pub lost_write: Option<u64>,
    pub misdirected_write: Option<u64>,
    pub misdirected_read: Option<u64>,
    pub stale_read: Option<u64>,
    pub flipped_read: Option<u64>,
}

#[derive(Default)]
struct State {
    current: Image,
    durable: Image,
    /// As it was at some earlier flush, for stale reads.
    earlier: Image,
    /// Complete, in the order of completion.
    unflushed: Vec<Written>,
    in_flight: Vec<InFlight>,
    batches: u64,
    reorder: bool,
    latent: Vec<u64>,
    faults: Faults,
    broken: bool,
    struck: u64,
    /// Writes and flushes so far.
    events: u64,
    flushes: u64,
    capture_at: Option<u64>,
    captured: Vec<CrashPoint>,
    capture_all: bool,
    fingerprint: u64,
}

/// A write that is not complete.
struct InFlight {
    batch: u64,
    write: Written,
}

struct Shared {
    state: Mutex<State>,
    rng: Mutex<SplitMix64>,
}

/// See the top of the file.
pub struct FaultyDevice(Arc<Shared>);

impl FaultyDevice {
    /// A device of zeros.
    pub fn new(sectors: u64, seed: u64) -> Self {
        Self::from_image(Image::new(sectors), seed)
    }

    /// A device with these contents, all of them durable.
    pub fn from_image(image: Image, seed: u64) -> Self {
        let state =
            State { current: image.clone(), durable: image.clone(), earlier: image, ..State::default() };
        Self(Arc::new(Shared { state: Mutex::new(state), rng: Mutex::new(SplitMix64(seed)) }))
    }

    /// From now on writes complete some time after they were started, in any order.
    pub fn reorder(&self) {
        self.0.state.lock().reorder = true;
    }

    /// What it holds when all that is in flight is complete.
    pub fn image(&self) -> Image {
        let state = self.0.state.lock();
        let mut image = state.current.clone();
        state.in_flight.iter().for_each(|in_flight| image.write(&in_flight.write));
        image
    }

    /// What a crash right now would meet.
    pub fn crash_point(&self) -> CrashPoint {
        self.0.state.lock().crash_point()
    }

    /// The disk after a crash right now.
    pub fn crash(&self, survivors: Survivors) -> Image {
        self.crash_point().image(survivors)
    }

    /// Remembers what a crash would meet after `events` more writes and flushes. A flush counts before it works.
    pub fn arm_capture(&self, events: u64) {
        let mut state = self.0.state.lock();
        state.capture_at = Some(state.events + events);
        state.captured.clear();
    }

    /// What was remembered, if the moment came.
    pub fn take_capture(&self) -> Option<CrashPoint> {
        let mut state = self.0.state.lock();
        state.capture_at = None;
        state.captured.pop()
    }

    /// From now on remembers what a crash would meet before each write and each flush.
    pub fn capture_all(&self) {
        self.0.state.lock().capture_all = true;
    }

    /// What was remembered since the last call.
    pub fn take_captures(&self) -> Vec<CrashPoint> {
        std::mem::take(&mut self.0.state.lock().captured)
    }

    /// Writes and flushes so far.
    pub fn events(&self) -> u64 {
        self.0.state.lock().events
    }

    /// Faults that happened so far.
    pub fn struck(&self) -> u64 {
        self.0.state.lock().struck
    }

    /// A hash of all writes and flushes so far, less their bytes: the same seed and calls give the same.
    pub fn fingerprint(&self) -> u64 {
        self.0.state.lock().fingerprint
    }

    /// Arranges failures, instead of those arranged before.
    pub fn set_faults(&self, faults: Faults) {
        let mut state = self.0.state.lock();
        state.faults = faults;
        state.broken = false;
    }

    /// The sector cannot be read until it is written again.
    pub fn break_sector(&self, sector: u64) {
        let mut state = self.0.state.lock();
        state.struck += 1;
        state.latent.push(sector);
    }

    /// Flips one bit of what is there, durably.
    pub fn flip_bit(&self, sector: u64, bit: usize) {
        let state = &mut *self.0.state.lock();
        state.struck += 1;
        for image in [&mut state.current, &mut state.durable] {
            let mut bytes = image.sector(sector);
            bytes[bit / 8] ^= 1 << (bit % 8);
            image.set_sector(sector, bytes);
        }
    }
}

impl State {
    fn crash_point(&self) -> CrashPoint {
        let in_flight = self.in_flight.iter().map(|in_flight| &in_flight.write);
        CrashPoint {
            durable: self.durable.clone(),
            sectors: self.current.sectors(),
            flushes: self.flushes,
            unflushed: self.unflushed.iter().chain(in_flight).cloned().collect(),
        }
    }

    /// Counts a write or flush, before anything of it happens.
    fn event(&mut self, what: u64) {
        if self.capture_all || self.capture_at == Some(self.events) {
            let point = self.crash_point();
            self.captured.push(point);
        }
        self.events += 1;
        self.fingerprint = SplitMix64(self.fingerprint ^ what).next_u64();
    }

    fn complete(&mut self, index: usize) {
        let write = self.in_flight.remove(index).write;
        self.current.write(&write);
        self.unflushed.push(write);
    }

    /// Some of what is in flight arrives.
    fn pass_time(&mut self, rng: &mut SplitMix64) {
        let arriving = rng.below(1 + self.in_flight.len() as u64);
        for _ in 0..arriving {
            self.complete(rng.below(self.in_flight.len() as u64) as usize);
        }
    }

    /// Starts one write, if it is not hit.
    fn start(&mut self, batch: u64, write: Written, rng: &mut SplitMix64) -> io::Result<()> {
        self.event(write.sector << 16 | write.sectors());
        if write.end().is_none_or(|end| end > self.current.sectors()) {
            return Err(past_the_end());
        }
        if self.broken {
            return Err(broken());
        }
        self.latent.retain(|sector| !write.contains(*sector));
        if strikes(&mut self.faults.write, &mut self.struck) {
            self.broken = self.faults.stay_broken;
            self.current.write_torn(&write, rng);
            self.unflushed.push(Written::of(&self.current, write.sector, write.sectors()));
            let lacks_space = self.faults.write_lacks_space;
            return Err(if lacks_space { io::ErrorKind::StorageFull.into() } else { broken() });
        }
        if strikes(&mut self.faults.lost_write, &mut self.struck) {
            return Ok(());
        }
        let write = if strikes(&mut self.faults.misdirected_write, &mut self.struck) {
            write.moved(rng.below(self.current.sectors() - write.sectors() + 1))
        } else {
            write
        };
        self.in_flight.push(InFlight { batch, write });
        if !self.reorder {
            self.complete(self.in_flight.len() - 1);
        }
        Ok(())
    }

    /// What a read of one sector shows.
    fn show(&mut self, sector: u64, bytes: &mut [u8], rng: &mut SplitMix64) {
        let in_flight = self.in_flight.iter().rev().find(|in_flight| in_flight.write.contains(sector));
        let shown = match in_flight {
            Some(in_flight) if rng.one_in(2) => {
                let mut image = self.current.clone();
                image.write(&in_flight.write);
                image.get(sector).cloned()
            }
            _ => self.current.get(sector).cloned(),
        };
        match shown {
            Some(shown) => bytes.copy_from_slice(&shown[..]),
            None => bytes.fill(0),
        }
    }
}

/// Counts a failure to come down; whether it happens now.
fn strikes(countdown: &mut Option<u64>, struck: &mut u64) -> bool {
    match countdown {
        Some(0) => {
            *countdown = None;
            *struck += 1;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

/// Writes that were started together.
struct Batch {
    shared: Arc<Shared>,
    number: u64,
}

impl Pending for Batch {
    fn wait(&self) -> io::Result<()> {
        let state = &mut *self.shared.state.lock();
        let rng = &mut *self.shared.rng.lock();
        loop {
            let left: Vec<usize> = (0..state.in_flight.len())
                .filter(|index| state.in_flight[*index].batch == self.number)
                .collect();
            if left.is_empty() {
                return Ok(());
            }
            state.complete(left[rng.below(left.len() as u64) as usize]);
        }
    }

    fn is_done(&self) -> bool {
        !self.shared.state.lock().in_flight.iter().any(|in_flight| in_flight.batch == self.number)
    }
}

impl Device for FaultyDevice {
    fn sectors(&self) -> u64 {
        self.0.state.lock().current.sectors()
    }

    fn read(&self, reads: &mut [Read<'_>]) -> io::Result<()> {
        let state = &mut *self.0.state.lock();
        let rng = &mut *self.0.rng.lock();
        for read in reads {
            let sectors = read.bytes.sectors() as u64;
            if read.sector.checked_add(sectors).is_none_or(|end| end > state.current.sectors()) {
                return Err(past_the_end());
            }
            let range = read.sector..read.sector + sectors;
            if strikes(&mut state.faults.read, &mut state.struck)
                || state.latent.iter().any(|sector| range.contains(sector))
            {
                return Err(broken());
            }
            for (sector, bytes) in range.clone().zip(read.bytes.chunks_exact_mut(SECTOR_BYTES)) {
                state.show(sector, bytes, rng);
            }
            let hit = rng.clone().below(sectors);
            let (sector, bytes) = (read.sector + hit, &mut read.bytes[hit as usize * SECTOR_BYTES..]);
            if strikes(&mut state.faults.misdirected_read, &mut state.struck) {
                let other = rng.below(state.current.sectors());
                bytes[..SECTOR_BYTES].copy_from_slice(&state.current.sector(other));
            }
            if strikes(&mut state.faults.stale_read, &mut state.struck) {
                bytes[..SECTOR_BYTES].copy_from_slice(&state.earlier.sector(sector));
            }
            if strikes(&mut state.faults.flipped_read, &mut state.struck) {
                let bit = rng.below(8 * SECTOR_BYTES as u64) as usize;
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        Ok(())
    }

    fn write(&self, writes: Vec<Write>) -> Completion {
        let state = &mut *self.0.state.lock();
        let rng = &mut *self.0.rng.lock();
        let number = state.batches;
        state.batches += 1;
        for write in &writes {
            if state.reorder && rng.one_in(3) {
                state.pass_time(rng);
            }
            if let Err(error) = state.start(number, Written::new(write.sector, &write.bytes), rng) {
                return Completion::done(Err(error));
            }
        }
        match state.reorder {
            true => Completion::pending(Arc::new(Batch { shared: self.0.clone(), number })),
            false => Completion::done(Ok(())),
        }
    }

    fn flush(&self) -> io::Result<()> {
        let state = &mut *self.0.state.lock();
        let rng = &mut *self.0.rng.lock();
        state.event(u64::MAX);
        if state.broken {
            return Err(broken());
        }
        if strikes(&mut state.faults.flush, &mut state.struck) {
            state.broken = state.faults.stay_broken;
            state.durable.resize(state.current.sectors());
            for write in std::mem::take(&mut state.unflushed) {
                if rng.one_in(2) {
                    state.durable.write(&write);
                }
            }
            return Err(broken());
        }
        if state.faults.flush_lies {
            state.struck += 1;
            return Ok(());
        }
        state.flushes += 1;
        if rng.one_in(4) {
            state.earlier = state.durable.clone();
            state.earlier.resize(state.current.sectors());
        }
        state.durable.resize(state.current.sectors());
        for write in state.unflushed.drain(..) {
            state.durable.write(&write);
        }
        Ok(())
    }

    fn grow(&self, sectors: u64) -> io::Result<()> {
        let state = &mut *self.0.state.lock();
        if state.faults.sectors_max.is_some_and(|max| sectors > max)
            || strikes(&mut state.faults.grow, &mut state.struck)
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let length = state.current.sectors().max(sectors);
        state.current.resize(length);
        Ok(())
    }

    fn room(&self) -> u64 {
        let state = self.0.state.lock();
        state.faults.sectors_max.map_or(0, |max| max.saturating_sub(state.current.sectors()))
    }
}
