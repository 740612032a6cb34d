//! When a batch of writes is done.

use std::io;

/// Tells when a batch of writes is complete. May be waited for by several threads, any number of times.
#[derive(Clone)]
pub struct Completion {}

impl Completion {
    /// Blocks until the batch is complete and tells how it ended.
    pub fn wait(&self) -> io::Result<()> {
        unimplemented!()
    }
}
