//! Memory for I/O.

/// Whole sectors of memory, aligned to a sector.
pub struct SectorBuf {}

impl SectorBuf {
    /// Zeroed memory from the heap.
    pub fn heap(_sectors: usize) -> Self {
        unimplemented!()
    }
}

impl std::ops::Deref for SectorBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        unimplemented!()
    }
}

impl std::ops::DerefMut for SectorBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        unimplemented!()
    }
}
