//! A connection that is read and written until a moment, or until nobody wants it any more.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between two looks whether it is still wanted.
const SLICE: Duration = Duration::from_millis(100);

/// Set when what waits is to end.
pub(in crate::node) type Stop = Arc<AtomicBool>;

pub(super) struct Timed {
    stream: TcpStream,
    stop: Stop,
    end: Instant,
}

impl Timed {
    pub(super) fn new(stream: TcpStream, stop: Stop, end: Instant) -> Self {
        // What cannot be set makes it slower, not wrong.
        let _ = stream.set_nodelay(true);
        Self { stream, stop, end }
    }

    pub(super) fn set_end(&mut self, end: Instant) {
        self.end = end;
    }

    /// Says that nothing more comes from here.
    pub(super) fn finish(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// Does something that waits for a slice at most, again and again.
    fn wait<T>(
        &self,
        set: impl Fn(&TcpStream, Option<Duration>) -> io::Result<()>,
        mut attempt: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            let left = self.end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stop.load(Ordering::Acquire) {
                return Err(ErrorKind::TimedOut.into());
            }
            set(&self.stream, Some(left.min(SLICE)))?;
            match attempt(&self.stream) {
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                other => return other,
            }
        }
    }
}

impl Read for Timed {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.wait(TcpStream::set_read_timeout, |mut stream| stream.read(bytes))
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(TcpStream::set_write_timeout, |mut stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
