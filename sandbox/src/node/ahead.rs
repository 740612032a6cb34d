//! Reading ahead, for an app that reads a file from one end to the other: while it deals with what it has, what it will ask
//! for next is read, verified and decrypted on other threads.
//!
//! 1. What was read ahead counts only as long as nothing has changed the file since before that. So no app is given
//!    older bytes than a read at the moment at which it asks.
//! 2. It stays with the node until the app asks for it, and that is only answered while its grant holds (see `files`).
//! 3. One file at a time, [`AHEAD_PIECES`] pieces of it, and never more than the app has read of it in one go.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use blocktree_vfs::events::Seq;
use blocktree_vfs::{Fs, Ino, Result};
use parking_lot::Mutex;

use crate::ipc::Handle;
use crate::limits::{AHEAD_PIECES, AHEAD_THREADS, DATA_BYTES_MAX};

/// Reads files for an app.
pub(super) struct Ahead {
    fs: Arc<Fs>,
    /// Once an app has read enough in one go.
    readers: Option<Readers>,
    stream: Option<Stream>,
}

/// Reads of one file, all of one length, of which each begins where the one before it ended.
struct Stream {
    handle: Handle,
    length: usize,
    begin: u64,
    /// Where the next read begins.
    next: u64,
    /// What the last read got its bytes from.
    current: Piece,
    /// What stands behind that in the file, in order and without gaps.
    coming: VecDeque<Coming>,
    /// Memory of pieces that were read.
    spare: Vec<Vec<u8>>,
}

/// A part of a file, as it was after a change.
struct Piece {
    begin: u64,
    /// Where it ends, if the file does not end before that.
    end: u64,
    bytes: Vec<u8>,
    change: Seq,
}

struct Coming {
    begin: u64,
    piece: Receiver<Piece>,
}

impl Ahead {
    pub(super) fn new(fs: Arc<Fs>) -> Self {
        Self { fs, readers: None, stream: None }
    }

    /// Bytes of a file that the app has open; at most [`DATA_BYTES_MAX`], and fewer at its end.
    pub(super) fn read(&mut self, handle: Handle, ino: Ino, offset: u64, length: usize) -> Result<&[u8]> {
        let length = length.min(DATA_BYTES_MAX);
        let goes_on = |one: &Stream| (one.handle, one.next, one.length) == (handle, offset, length);
        let stream = self.stream.take().filter(goes_on);
        let mut stream = stream.unwrap_or_else(|| Stream::new(handle, offset, length));
        stream.next = offset.saturating_add(length as u64);
        stream.order(&mut self.readers, &self.fs, ino);
        stream.advance(offset);
        if !stream.current.has(offset) || stream.current.change != self.fs.last_change(ino)? {
            if stream.current.has(offset) {
                // It is being changed: what was read ahead counts no more, and is not read again at once.
                stream.coming.clear();
                stream.begin = offset;
            }
            let bytes = std::mem::take(&mut stream.current.bytes);
            stream.current = Piece::read(&self.fs, ino, offset, length, bytes)?;
        }
        let Stream { current, .. } = self.stream.insert(stream);
        let bytes = current.bytes.get((offset - current.begin) as usize..).unwrap_or_default();
        Ok(&bytes[..bytes.len().min(length)])
    }

    /// The app has closed a file.
    pub(super) fn close(&mut self, handle: Handle) {
        self.stream.take_if(|stream| stream.handle == handle);
    }

    /// The app has nothing open any more.
    pub(super) fn end(&mut self) {
        self.stream = None;
        self.readers = None;
    }
}

impl Stream {
    fn new(handle: Handle, begin: u64, length: usize) -> Self {
        let current = Piece { begin, end: begin, bytes: Vec::new(), change: Seq::default() };
        Self { handle, length, begin, next: begin, current, coming: VecDeque::new(), spare: Vec::new() }
    }

    /// Has the pieces read that are missing behind the present read. Each is several reads long, so that none needs two.
    fn order(&mut self, readers: &mut Option<Readers>, fs: &Arc<Fs>, ino: Ino) {
        let length = DATA_BYTES_MAX - DATA_BYTES_MAX % self.length.max(1);
        while self.coming.len() < AHEAD_PIECES {
            let begin = match self.coming.back() {
                Some(last) => last.begin.saturating_add(length as u64),
                None => self.next.max(self.current.end),
            };
            let ahead = begin.saturating_add(length as u64) - self.next;
            let read_before = (self.next - self.begin).saturating_sub(self.length as u64);
            if ahead > read_before {
                return;
            }
            if readers.is_none() {
                *readers = Readers::start(fs).ok();
            }
            let (done, piece) = sync_channel(1);
            let bytes = self.spare.pop().unwrap_or_default();
            let order = Order { ino, begin, length, bytes, done };
            // What another stream ordered in vain may still stand in the queue.
            if readers.as_ref().is_none_or(|readers| readers.orders.try_send(order).is_err()) {
                return;
            }
            self.coming.push_back(Coming { begin, piece });
        }
    }

    /// Waits for the piece that begins at `offset`, if that was ordered.
    fn advance(&mut self, offset: u64) {
        if let Some(coming) = self.coming.pop_front_if(|coming| coming.begin == offset)
            && let Ok(piece) = coming.piece.recv()
        {
            self.spare.push(std::mem::replace(&mut self.current, piece).bytes);
        }
    }
}

impl Piece {
    fn read(fs: &Fs, ino: Ino, begin: u64, length: usize, mut bytes: Vec<u8>) -> Result<Self> {
        // First: what changes while it is read, counts as changed.
        let change = fs.last_change(ino)?;
        bytes.resize(length, 0);
        let count = fs.read(ino, begin, &mut bytes)?;
        bytes.truncate(count);
        Ok(Self { begin, end: begin.saturating_add(length as u64), bytes, change })
    }

    fn has(&self, offset: u64) -> bool {
        (self.begin..self.end).contains(&offset)
    }
}

/// Threads that read; they end with this.
struct Readers {
    orders: SyncSender<Order>,
    threads: Vec<JoinHandle<()>>,
}

struct Order {
    ino: Ino,
    begin: u64,
    length: usize,
    bytes: Vec<u8>,
    done: SyncSender<Piece>,
}

impl Readers {
    fn start(fs: &Arc<Fs>) -> std::io::Result<Self> {
        let (orders, queue) = sync_channel(AHEAD_PIECES);
        let queue = Arc::new(Mutex::new(queue));
        let mut readers = Self { orders, threads: Vec::with_capacity(AHEAD_THREADS) };
        for _ in 0..AHEAD_THREADS {
            let (fs, queue) = (Arc::clone(fs), Arc::clone(&queue));
            let thread = std::thread::Builder::new().name("app-reads".to_owned());
            readers.threads.push(thread.spawn(move || work(&fs, &queue))?);
        }
        Ok(readers)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        // Without a sender, the queue ends.
        self.orders = sync_channel(0).0;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that reads for an app panicked");
            }
        }
    }
}

fn work(fs: &Fs, queue: &Mutex<Receiver<Order>>) {
    loop {
        // One waits, the others wait for it.
        let Ok(order) = queue.lock().recv() else { return };
        let Order { ino, begin, length, bytes, done } = order;
        // What fails here fails again, and is told, when the app asks for it.
        if let Ok(piece) = Piece::read(fs, ino, begin, length, bytes) {
            let _ = done.send(piece);
        }
    }
}

#[cfg(test)]
mod tests;
