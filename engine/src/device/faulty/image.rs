//! What a disk holds ([`Image`]), and what a crash leaves of it ([`CrashPoint`]).

use std::sync::{Arc, LazyLock};

use super::SplitMix64;
use crate::limits::SECTOR_BYTES;

/// What a disk writes wholly or not at all, in bytes.
const UNIT_BYTES: usize = 512;
/// Copies of an image share pieces of this many sectors.
const CHUNK_SECTORS: usize = 64;

type Sector = Arc<[u8; SECTOR_BYTES]>;
/// A sector of zeros is `None`.
type Chunk = [Option<Sector>; CHUNK_SECTORS];

static ZEROS: LazyLock<Arc<Chunk>> = LazyLock::new(|| Arc::new([const { None }; CHUNK_SECTORS]));

/// The contents of a disk. Cheap to clone: copies share what is the same.
#[derive(Clone, Default)]
pub struct Image {
    chunks: Vec<Arc<Chunk>>,
    sectors: usize,
}

impl Image {
    /// A disk of zeros.
    pub fn new(sectors: u64) -> Self {
        let mut image = Self::default();
        image.resize(sectors);
        image
    }

    /// Its length in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors as u64
    }

    /// One sector.
    pub fn sector(&self, sector: u64) -> [u8; SECTOR_BYTES] {
        self.get(sector).map_or([0; SECTOR_BYTES], |bytes| **bytes)
    }

    /// Replaces one sector.
    pub fn set_sector(&mut self, sector: u64, bytes: [u8; SECTOR_BYTES]) {
        self.set(sector, shared(&bytes));
    }

    pub(super) fn get(&self, sector: u64) -> Option<&Sector> {
        let sector = sector as usize;
        if sector >= self.sectors {
            return None;
        }
        self.chunks[sector / CHUNK_SECTORS][sector % CHUNK_SECTORS].as_ref()
    }

    fn set(&mut self, sector: u64, bytes: Option<Sector>) {
        let sector = sector as usize;
        assert!(sector < self.sectors, "sector {sector} is beyond the end of the image");
        Arc::make_mut(&mut self.chunks[sector / CHUNK_SECTORS])[sector % CHUNK_SECTORS] = bytes;
    }

    /// Makes it longer, with zeros, or shorter.
    pub(super) fn resize(&mut self, sectors: u64) {
        let sectors = sectors as usize;
        self.chunks.resize(sectors.div_ceil(CHUNK_SECTORS), ZEROS.clone());
        if sectors < self.sectors && !sectors.is_multiple_of(CHUNK_SECTORS) {
            let last = self.chunks.last_mut().expect("there is a part of it");
            Arc::make_mut(last)[sectors % CHUNK_SECTORS..].fill(None);
        }
        self.sectors = sectors;
    }

    pub(super) fn write(&mut self, write: &Written) {
        for (index, sector) in write.sectors.iter().enumerate() {
            self.set(write.sector + index as u64, sector.clone());
        }
    }

    /// Writes those units of 512 bytes that `rng` chooses.
    pub(super) fn write_torn(&mut self, write: &Written, rng: &mut SplitMix64) {
        for (index, new) in write.sectors.iter().enumerate() {
            let sector = write.sector + index as u64;
            // Sectors that are whole or missing are likelier than chance would have them.
            let units = match rng.below(4) {
                0 => 0,
                1 => u64::MAX,
                _ => rng.next_u64(),
            };
            let new = new.as_deref().unwrap_or(&[0; SECTOR_BYTES]);
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

fn shared(bytes: &[u8; SECTOR_BYTES]) -> Option<Sector> {
    bytes.iter().any(|byte| *byte != 0).then(|| Arc::new(*bytes))
}

/// A write as the disk remembers it.
#[derive(Clone)]
pub(super) struct Written {
    pub(super) sector: u64,
    sectors: Arc<[Option<Sector>]>,
}

impl Written {
    pub(super) fn new(sector: u64, bytes: &[u8]) -> Self {
        let sectors =
            bytes.chunks_exact(SECTOR_BYTES).map(|bytes| shared(bytes.try_into().expect("a sector")));
        Self { sector, sectors: sectors.collect() }
    }

    /// A write of what an image holds there.
    pub(super) fn of(image: &Image, sector: u64, sectors: u64) -> Self {
        let sectors = (sector..sector + sectors).map(|sector| image.get(sector).cloned()).collect();
        Self { sector, sectors }
    }

    pub(super) fn sectors(&self) -> u64 {
        self.sectors.len() as u64
    }

    pub(super) fn end(&self) -> Option<u64> {
        self.sector.checked_add(self.sectors())
    }

    pub(super) fn contains(&self, sector: u64) -> bool {
        (self.sector..self.sector + self.sectors()).contains(&sector)
    }

    /// The same bytes at another place.
    pub(super) fn moved(&self, sector: u64) -> Self {
        Self { sector, sectors: self.sectors.clone() }
    }
}

/// What a crash meets: what was durable, and the writes since.
#[derive(Clone, Default)]
pub struct CrashPoint {
    pub(super) durable: Image,
    pub(super) sectors: u64,
    pub(super) flushes: u64,
    /// Complete, in the order of completion, and then those in flight.
    pub(super) unflushed: Vec<Written>,
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

    /// How many flushes were before it. Of those between two flushes, the last can lead to all that the others can.
    pub fn flushes(&self) -> u64 {
        self.flushes
    }

    /// What to try: every subset of at most `exhaustive_max` writes, or else some of them; and `torn` times any
    /// subset with torn writes in it.
    pub fn choices(&self, exhaustive_max: usize, torn: usize, rng: &mut SplitMix64) -> Vec<Survivors> {
        let count = self.unflushed();
        let mut choices = vec![Survivors::All];
        if count == 0 {
            return choices;
        }
        if count <= exhaustive_max {
            choices.extend((0..(1 << count) - 1).map(Survivors::Mask));
        } else {
            let masks = (0..2 * exhaustive_max).map(|_| Survivors::Mask(rng.next_u64()));
            choices.extend(std::iter::once(Survivors::Mask(0)).chain(masks));
        }
        choices.extend((0..torn).map(|_| Survivors::Random(rng.next_u64())));
        choices
    }

    /// What the disk holds afterwards.
    pub fn image(&self, survivors: Survivors) -> Image {
        let mut image = self.durable.clone();
        image.resize(self.sectors);
        let mut needed = self.durable.sectors();
        let mut rng = SplitMix64(if let Survivors::Random(seed) = survivors { seed } else { 0 });
        // Each image leans towards losing, keeping or tearing.
        let (lost, torn) = (rng.below(8), rng.below(4));
        for (index, write) in self.unflushed.iter().enumerate() {
            let whole = match survivors {
                Survivors::All => true,
                Survivors::Mask(mask) => mask & (1 << (index % 64)) != 0,
                Survivors::Random(_) => rng.below(8) >= lost,
            };
            let tear = matches!(survivors, Survivors::Random(_)) && rng.below(8) < torn;
            if tear {
                image.write_torn(write, &mut rng);
            } else if whole {
                image.write(write);
            }
            if tear || whole {
                needed = needed.max(write.sector + write.sectors());
            }
        }
        if survivors != Survivors::All && rng.one_in(2) {
            image.resize(needed);
        }
        image
    }
}
