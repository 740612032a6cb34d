//! A device in memory that fails as disks fail, for tests of this and of later crates.
//!
//! # Fault model
//!
//! A write is complete when its completion says so, and durable only after a flush that was called later.
//!
//! - **Crash.** Of the writes since the last flush any subset may have reached the disk, each of them whole, not
//!   at all, or torn: any subset of its units of 512 bytes. Where two writes overlap, the later one wins if both
//!   arrived. The device may be as long as at the last flush, or as it is now. [`FaultyDevice::crash`] chooses.
//! - **Crash in the middle.** [`FaultyDevice::arm_capture`] remembers what a crash would have met some events
//!   later; [`FaultyDevice::take_capture`] fetches it.
//! - **A write fails.** EIO; what it wrote is torn.
//! - **A flush fails.** EIO; each write before it is durable or lost for good, although reads still show it: what
//!   Linux does with dirty pages that could not be written back.
//! - **A read fails.** EIO, and nothing else happens.
//! - **Growing fails.** ENOSPC beyond a limit.
//! - **A flush lies.** It succeeds and makes nothing durable.
//! - **Bits flip** where a test flips them.
//!
//! Writes complete at once. Everything that is random comes from a seed: the same calls have the same outcome.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Completion, Device, Read, Write, past_the_end};
use crate::limits::SECTOR_BYTES;

/// What a disk writes wholly or not at all, in bytes.
const UNIT_BYTES: usize = 512;

type Sector = Arc<[u8; SECTOR_BYTES]>;

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug, Clone)]
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// The contents of a disk. Cheap to clone; sectors never written are zeros.
#[derive(Clone, Default)]
pub struct Image(Vec<Option<Sector>>);

impl Image {
    /// A disk of zeros.
    pub fn new(sectors: u64) -> Self {
        Self(vec![None; sectors as usize])
    }

    /// Its length in sectors.
    pub fn sectors(&self) -> u64 {
        self.0.len() as u64
    }

    /// One sector.
    pub fn sector(&self, sector: u64) -> [u8; SECTOR_BYTES] {
        self.0.get(sector as usize).and_then(Option::as_deref).copied().unwrap_or([0; SECTOR_BYTES])
    }

    /// Replaces one sector.
    pub fn set_sector(&mut self, sector: u64, bytes: [u8; SECTOR_BYTES]) {
        self.0[sector as usize] = Some(Arc::new(bytes));
    }

    fn write(&mut self, write: &Unflushed) {
        for (index, sector) in write.sectors.iter().enumerate() {
            self.0[write.sector as usize + index] = Some(sector.clone());
        }
    }

    /// Writes those units of 512 bytes that `rng` chooses.
    fn write_torn(&mut self, write: &Unflushed, rng: &mut SplitMix64) {
        for (index, new) in write.sectors.iter().enumerate() {
            let sector = write.sector + index as u64;
            // Sectors that are whole or missing are likelier than chance would have them.
            let units = match rng.below(4) {
                0 => 0,
                1 => u64::MAX,
                _ => rng.next_u64(),
            };
            let mut bytes = self.sector(sector);
            for (unit, (old, new)) in
                bytes.chunks_exact_mut(UNIT_BYTES).zip(new.chunks_exact(UNIT_BYTES)).enumerate()
            {
                if units & (1 << unit) != 0 {
                    old.copy_from_slice(new);
                }
            }
            self.set_sector(sector, bytes);
        }
    }
}

/// A write that was not flushed.
#[derive(Clone)]
struct Unflushed {
    sector: u64,
    sectors: Vec<Sector>,
}

/// What a crash meets: what was durable, and the writes since.
#[derive(Clone, Default)]
pub struct CrashPoint {
    durable: Image,
    sectors: u64,
    unflushed: Vec<Unflushed>,
}

/// Which of the unflushed writes reached the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survivors {
    All,
    /// Write `n` did if bit `n` is set.
    Mask(u64),
    /// Chosen by a seed: some whole, some torn, some lost.
    Random(u64),
}

impl CrashPoint {
    /// How many writes were not flushed.
    pub fn unflushed(&self) -> usize {
        self.unflushed.len()
    }

    /// What the disk holds afterwards.
    pub fn image(&self, survivors: Survivors) -> Image {
        let mut image = self.durable.clone();
        image.0.resize(self.sectors as usize, None);
        let mut needed = self.durable.sectors();
        let mut rng = SplitMix64(if let Survivors::Random(seed) = survivors { seed } else { 0 });
        // Each image leans towards losing, keeping or tearing.
        let (lost, torn) = (rng.below(8), rng.below(4));
        for (index, write) in self.unflushed.iter().enumerate() {
            let whole = match survivors {
                Survivors::All => true,
                Survivors::Mask(mask) => mask & (1 << index) != 0,
                Survivors::Random(_) => rng.below(8) >= lost,
            };
            let tear = matches!(survivors, Survivors::Random(_)) && rng.below(8) < torn;
            if tear {
                image.write_torn(write, &mut rng);
            } else if whole {
                image.write(write);
            }
            if tear || whole {
                needed = needed.max(write.sector + write.sectors.len() as u64);
            }
        }
        if survivors != Survivors::All && rng.one_in(2) {
            image.0.truncate(needed as usize);
        }
        image
    }
}

/// Failures to come: each counts down with calls of its kind, and happens when it gets to 0.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    pub read: Option<u64>,
    pub write: Option<u64>,
    pub flush: Option<u64>,
    /// After the first failed write or flush, all others fail too.
    pub stay_broken: bool,
    /// Flushes succeed, but make nothing durable.
    pub flush_lies: bool,
    /// How long the device can become, in sectors.
    pub sectors_max: Option<u64>,
}

struct State {
    current: Image,
    durable: Image,
    unflushed: Vec<Unflushed>,
    rng: SplitMix64,
    faults: Faults,
    broken: bool,
    /// Writes and flushes so far.
    events: u64,
    capture_at: Option<u64>,
    captured: Option<CrashPoint>,
}

/// See the top of the file.
pub struct FaultyDevice(Mutex<State>);

impl FaultyDevice {
    /// A device of zeros.
    pub fn new(sectors: u64, seed: u64) -> Self {
        Self::from_image(Image::new(sectors), seed)
    }

    /// A device with these contents, all of them durable.
    pub fn from_image(image: Image, seed: u64) -> Self {
        Self(Mutex::new(State {
            current: image.clone(),
            durable: image,
            unflushed: Vec::new(),
            rng: SplitMix64(seed),
            faults: Faults::default(),
            broken: false,
            events: 0,
            capture_at: None,
            captured: None,
        }))
    }

    /// What it holds for who can read it.
    pub fn image(&self) -> Image {
        self.0.lock().current.clone()
    }

    /// What a crash right now would meet.
    pub fn crash_point(&self) -> CrashPoint {
        self.0.lock().crash_point()
    }

    /// The disk after a crash right now.
    pub fn crash(&self, survivors: Survivors) -> Image {
        self.crash_point().image(survivors)
    }

    /// Remembers what a crash would meet after `events` more writes and flushes. A flush counts before it works.
    pub fn arm_capture(&self, events: u64) {
        let mut state = self.0.lock();
        state.capture_at = Some(state.events + events);
        state.captured = None;
    }

    /// What was remembered, if the moment came.
    pub fn take_capture(&self) -> Option<CrashPoint> {
        let mut state = self.0.lock();
        state.capture_at = None;
        state.captured.take()
    }

    /// Writes and flushes so far.
    pub fn events(&self) -> u64 {
        self.0.lock().events
    }

    /// Arranges failures, instead of those arranged before.
    pub fn set_faults(&self, faults: Faults) {
        let mut state = self.0.lock();
        state.faults = faults;
        state.broken = false;
    }

    /// Flips one bit of what is there, durably.
    pub fn flip_bit(&self, sector: u64, bit: usize) {
        let state = &mut *self.0.lock();
        for image in [&mut state.current, &mut state.durable] {
            let mut bytes = image.sector(sector);
            bytes[bit / 8] ^= 1 << (bit % 8);
            image.set_sector(sector, bytes);
        }
    }
}

impl State {
    fn crash_point(&self) -> CrashPoint {
        CrashPoint {
            durable: self.durable.clone(),
            sectors: self.current.sectors(),
            unflushed: self.unflushed.clone(),
        }
    }

    /// Counts a write or flush, before anything of it happens.
    fn event(&mut self) {
        if self.capture_at == Some(self.events) {
            self.captured = Some(self.crash_point());
        }
        self.events += 1;
    }
}

/// Counts a failure to come down; whether it happens now.
fn strikes(countdown: &mut Option<u64>) -> bool {
    match countdown {
        Some(0) => {
            *countdown = None;
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

impl Device for FaultyDevice {
    fn sectors(&self) -> u64 {
        self.0.lock().current.sectors()
    }

    fn read(&self, reads: &mut [Read<'_>]) -> io::Result<()> {
        let mut state = self.0.lock();
        if strikes(&mut state.faults.read) {
            return Err(broken());
        }
        for read in reads {
            let end = read.sector.checked_add(read.bytes.sectors() as u64);
            if end.is_none_or(|end| end > state.current.sectors()) {
                return Err(past_the_end());
            }
            for (index, bytes) in read.bytes.chunks_exact_mut(SECTOR_BYTES).enumerate() {
                match &state.current.0[read.sector as usize + index] {
                    Some(sector) => bytes.copy_from_slice(&sector[..]),
                    None => bytes.fill(0),
                }
            }
        }
        Ok(())
    }

    fn write(&self, writes: Vec<Write>) -> Completion {
        let mut state = self.0.lock();
        let state = &mut *state;
        for write in &writes {
            state.event();
            let sectors = write
                .bytes
                .chunks_exact(SECTOR_BYTES)
                .map(|bytes| Arc::new(bytes.try_into().expect("a sector")))
                .collect();
            let write = Unflushed { sector: write.sector, sectors };
            let end = write.sector.checked_add(write.sectors.len() as u64);
            if end.is_none_or(|end| end > state.current.sectors()) {
                return Completion::done(Err(past_the_end()));
            }
            if state.broken {
                return Completion::done(Err(broken()));
            }
            if strikes(&mut state.faults.write) {
                state.broken = state.faults.stay_broken;
                state.current.write_torn(&write, &mut state.rng);
                let torn = (0..write.sectors.len() as u64)
                    .map(|index| Arc::new(state.current.sector(write.sector + index)))
                    .collect();
                state.unflushed.push(Unflushed { sector: write.sector, sectors: torn });
                return Completion::done(Err(broken()));
            }
            state.current.write(&write);
            state.unflushed.push(write);
        }
        Completion::done(Ok(()))
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        let state = &mut *state;
        state.event();
        if state.broken {
            return Err(broken());
        }
        if strikes(&mut state.faults.flush) {
            state.broken = state.faults.stay_broken;
            for write in std::mem::take(&mut state.unflushed) {
                if state.rng.one_in(2) {
                    state.durable.0.resize(state.current.0.len(), None);
                    state.durable.write(&write);
                }
            }
            return Err(broken());
        }
        if !state.faults.flush_lies {
            state.durable.0.resize(state.current.0.len(), None);
            for write in state.unflushed.drain(..) {
                state.durable.write(&write);
            }
        }
        Ok(())
    }

    fn grow(&self, sectors: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.faults.sectors_max.is_some_and(|max| sectors > max) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let length = state.current.0.len().max(sectors as usize);
        state.current.0.resize(length, None);
        Ok(())
    }

    fn room(&self) -> u64 {
        let state = self.0.lock();
        state.faults.sectors_max.map_or(0, |max| max.saturating_sub(state.current.sectors()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::SectorBuf;

    fn write(device: &FaultyDevice, sector: u64, byte: u8) -> io::Result<()> {
        let mut bytes = SectorBuf::heap(1);
        bytes.fill(byte);
        device.write(vec![Write { sector, bytes }]).wait()
    }

    #[test]
    fn a_crash_keeps_any_subset_of_what_was_not_flushed() {
        let device = FaultyDevice::new(4, 1);
        write(&device, 0, 1).unwrap();
        device.flush().unwrap();
        write(&device, 0, 2).unwrap();
        write(&device, 1, 3).unwrap();
        let point = device.crash_point();
        assert_eq!(point.unflushed(), 2);
        let first = |survivors, sector| point.image(survivors).sector(sector)[0];
        assert_eq!((first(Survivors::Mask(0), 0), first(Survivors::Mask(0), 1)), (1, 0));
        assert_eq!((first(Survivors::Mask(2), 0), first(Survivors::Mask(2), 1)), (1, 3));
        assert_eq!((first(Survivors::All, 0), first(Survivors::All, 1)), (2, 3));
        let torn = (0..100).map(|seed| point.image(Survivors::Random(seed)).sector(0));
        assert!(torn.into_iter().any(|bytes| bytes.contains(&1) && bytes.contains(&2)));
    }

    #[test]
    fn failures_happen_when_arranged() {
        let device = FaultyDevice::new(4, 1);
        device.set_faults(Faults { write: Some(1), flush: Some(0), stay_broken: true, ..Faults::default() });
        write(&device, 0, 1).unwrap();
        assert!(write(&device, 1, 1).is_err());
        assert!(device.flush().is_err() && write(&device, 2, 1).is_err());
        device.set_faults(Faults { flush_lies: true, sectors_max: Some(5), ..Faults::default() });
        write(&device, 3, 9).unwrap();
        device.flush().unwrap();
        assert_eq!(device.crash(Survivors::Mask(0)).sector(3)[0], 0);
        assert!(device.grow(6).is_err() && device.grow(5).is_ok());
        device.flip_bit(2, 9);
        assert_eq!(device.image().sector(2)[1], 2);
    }

    #[test]
    fn a_crash_in_the_middle_is_remembered() {
        let device = FaultyDevice::new(4, 1);
        device.arm_capture(1);
        write(&device, 0, 1).unwrap();
        device.flush().unwrap();
        assert_eq!(device.take_capture().map(|point| point.unflushed()), Some(1));
        assert!(device.take_capture().is_none());
    }
}
