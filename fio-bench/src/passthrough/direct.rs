//! Buffers that are aligned for O_DIRECT, one for each thread.

use std::cell::RefCell;

const ALIGNMENT: usize = 4096;

thread_local! {
    /// Grows to the longest request that the thread has served.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends `bytes` bytes with any contents.
pub(super) fn with_buffer<T>(bytes: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < bytes + ALIGNMENT {
            buffer.resize(bytes + ALIGNMENT, 0);
        }
        let start = buffer.as_ptr().align_offset(ALIGNMENT);
        work(&mut buffer[start..start + bytes])
    })
}
