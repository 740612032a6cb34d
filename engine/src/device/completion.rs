//! When a batch of writes is done.
//!
//! A [`Completion`] is a handle that outlives the device it came from: a device finishes what is in flight before it
//! goes. Neighbours: every device makes them, the engine's commit waits for them.

use std::io;
use std::sync::Arc;

/// Tells when a batch of writes is complete. May be waited for by several threads, any number of times.
#[derive(Clone)]
pub struct Completion(State);

#[derive(Clone)]
enum State {
    Done(Result<(), Arc<io::Error>>),
    Pending(Arc<dyn Pending>),
}

/// What a device implements whose writes complete after the call that started them.
pub trait Pending: Send + Sync {
    /// Blocks until the batch is complete and tells how it ended: the same each time.
    fn wait(&self) -> io::Result<()>;

    /// Whether it is complete. Never blocks.
    fn is_done(&self) -> bool;
}

impl Completion {
    /// Of a batch that is complete already.
    pub fn done(result: io::Result<()>) -> Self {
        Self(State::Done(result.map_err(Arc::new)))
    }

    /// Of a batch that is on its way.
    pub fn pending(batch: Arc<dyn Pending>) -> Self {
        Self(State::Pending(batch))
    }

    /// Blocks until the batch is complete and tells how it ended.
    pub fn wait(&self) -> io::Result<()> {
        match &self.0 {
            State::Done(result) => result.as_ref().map(|()| ()).map_err(|error| copy_error(error)),
            State::Pending(batch) => batch.wait(),
        }
    }

    /// Whether [`Completion::wait`] would return at once.
    pub fn is_done(&self) -> bool {
        match &self.0 {
            State::Done(_) => true,
            State::Pending(batch) => batch.is_done(),
        }
    }
}

/// `io::Error` is not `Clone`: keeps the errno, or else the kind and the text.
pub(super) fn copy_error(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_each_time() {
        let completion = Completion::done(Err(io::Error::from_raw_os_error(libc::ENOSPC)));
        assert!(completion.is_done());
        for _ in 0..2 {
            assert_eq!(completion.clone().wait().unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        }
        let completion = Completion::done(Err(io::Error::new(io::ErrorKind::InvalidInput, "past the end")));
        let error = completion.wait().unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::InvalidInput, "past the end"));
        assert!(Completion::done(Ok(())).wait().is_ok());
    }
}
