//! Extents: where a run of a block's sectors is, under which nonce, and what each hashes to.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Malformed, WRAPPED_KEY_BYTES, malformed};
use crate::limits::{EXTENT_SECTORS_MAX, UNIT_LOG2_MAX};

/// Other extents may refer to the same sectors: their count is a [`super::ItemKind::SHARED`] item.
pub const EXTENT_SHARED: u16 = 1;
/// The sectors are sealed under another block's key: the extent key follows, wrapped under this block's.
pub const EXTENT_FOREIGN_KEY: u16 = 2;

const FLAGS: u16 = EXTENT_SHARED | EXTENT_FOREIGN_KEY;

/// The fixed part of an extent item. A wrapped extent key follows if the flags say so, then one hash of
/// 32 bytes for each unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ExtentHeader {
    /// The first sector on the device.
    pub sector: U64,
    /// The sequence number of the record that wrote it first.
    pub birth: U64,
    /// With the block key it gives the key of this extent.
    pub nonce: [u8; 16],
    /// Which key of the block, as in its header. It also wraps a foreign key.
    pub epoch: U32,
    /// How many sectors.
    pub sectors: U16,
    /// How many sectors of the sealed run stand before the first; the cipher's tweak goes on from there.
    pub skip: U16,
    pub flags: U16,
    /// Sectors to a unit, which has one hash, as a power of two. An extent consists of whole units.
    pub unit_log2: u8,
    /// The cipher: 1 is AES-256-XTS.
    pub cipher: u8,
}
const _: () = assert!(size_of::<ExtentHeader>() == 44);

/// An extent item, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    pub header: ExtentHeader,
    pub foreign_key: Option<[u8; WRAPPED_KEY_BYTES]>,
    pub hashes: Vec<[u8; 32]>,
}

impl Extent {
    /// The cipher number of AES-256-XTS.
    pub const XTS: u8 = 1;

    pub fn sector(&self) -> u64 {
        self.header.sector.get()
    }

    pub fn sectors(&self) -> u64 {
        u64::from(self.header.sectors.get())
    }

    /// Sectors to a hash.
    pub fn unit(&self) -> u64 {
        1 << self.header.unit_log2
    }

    pub fn birth(&self) -> u64 {
        self.header.birth.get()
    }

    pub fn is_shared(&self) -> bool {
        self.header.flags.get() & EXTENT_SHARED != 0
    }

    pub fn set_shared(&mut self) {
        self.header.flags = (self.header.flags.get() | EXTENT_SHARED).into();
    }

    /// The smallest part of this extent that holds `sectors` sectors from `from` on, and how many of its sectors stand
    /// before them.
    pub fn part(&self, from: u64, sectors: u64) -> (Self, u64) {
        let start = from - from % self.unit();
        let end = (from + sectors).next_multiple_of(self.unit());
        (self.slice(start, end - start), from - start)
    }

    /// The part of this extent that starts `from` sectors into it and is `sectors` long: whole units.
    pub fn slice(&self, from: u64, sectors: u64) -> Self {
        assert!(sectors > 0 && from + sectors <= self.sectors());
        let unit = self.unit();
        assert!(from.is_multiple_of(unit) && sectors.is_multiple_of(unit));
        let mut header = self.header;
        header.sector = (self.sector() + from).into();
        header.skip = (self.header.skip.get() + from as u16).into();
        header.sectors = (sectors as u16).into();
        Self {
            header,
            foreign_key: self.foreign_key,
            hashes: self.hashes[(from / unit) as usize..((from + sectors) / unit) as usize].to_vec(),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size_of::<ExtentHeader>() + 32 * self.hashes.len());
        bytes.extend_from_slice(self.header.as_bytes());
        if let Some(key) = &self.foreign_key {
            bytes.extend_from_slice(key);
        }
        self.hashes.iter().for_each(|hash| bytes.extend_from_slice(hash));
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        const WHAT: &str = "extent";
        let (header, mut rest) =
            ExtentHeader::read_from_prefix(bytes).map_err(|_| malformed(WHAT, "too short"))?;
        let sectors = usize::from(header.sectors.get());
        if sectors == 0 || sectors > EXTENT_SECTORS_MAX {
            return Err(malformed(WHAT, "number of sectors out of range"));
        }
        if usize::from(header.skip.get()) + sectors > EXTENT_SECTORS_MAX {
            return Err(malformed(WHAT, "reaches past its sealed run"));
        }
        if header.flags.get() & !FLAGS != 0 || header.cipher != Self::XTS {
            return Err(malformed(WHAT, "unknown flags or cipher"));
        }
        if header.unit_log2 > UNIT_LOG2_MAX || !sectors.is_multiple_of(1 << header.unit_log2) {
            return Err(malformed(WHAT, "not of whole units"));
        }
        if header.sector.get().checked_add(sectors as u64).is_none() {
            return Err(malformed(WHAT, "sector out of range"));
        }
        let mut foreign_key = None;
        if header.flags.get() & EXTENT_FOREIGN_KEY != 0 {
            let (key, tail) =
                <[u8; WRAPPED_KEY_BYTES]>::read_from_prefix(rest).map_err(|_| malformed(WHAT, "no key"))?;
            foreign_key = Some(key);
            rest = tail;
        }
        if rest.len() != 32 * (sectors >> header.unit_log2) {
            return Err(malformed(WHAT, "number of hashes differs from units"));
        }
        let hashes = rest.chunks_exact(32).map(|hash| hash.try_into().expect("32 bytes")).collect();
        Ok(Self { header, foreign_key, hashes })
    }
}
