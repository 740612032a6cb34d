//! A connection that is read and written until a moment, or until nobody wants it any more.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Between two looks whether it is still wanted.
pub(super) const SLICE: Duration = Duration::from_millis(100);
const _: () = assert!(SLICE.as_secs() == 0);

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

/// Waits until a socket can be read, or written, without waiting; or until nobody wants that.
pub(super) fn ready(
    socket: BorrowedFd<'_>,
    what: PollFlags,
    end: Instant,
    is_wanted: &dyn Fn() -> bool,
) -> io::Result<()> {
    while is_wanted() {
        let left = end.saturating_duration_since(Instant::now());
        let slice = left.min(SLICE);
        let slice = Timespec { tv_sec: 0, tv_nsec: slice.subsec_nanos().into() };
        match poll(&mut [PollFd::from_borrowed_fd(socket, what)], Some(&slice)) {
            Ok(0) if left.is_zero() => break,
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(ErrorKind::TimedOut.into())
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
