//! A server of the NBD protocol for one [`Disk`] and one client, QEMU, on a socket of its own.
//!
//! Of the protocol (`doc/proto.md` of the project NetworkBlockDevice/nbd) it has what QEMU needs: the fixed newstyle handshake
//! with one export, and reads, writes, flushes. No request is answered when the disk's power is off.

use std::io::{self, BufReader, Read, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::disk::{Disk, Off};

const GREETING: &[u8; 16] = b"NBDMAGICIHAVEOPT";
const FIXED_NEWSTYLE: u16 = 1;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const OPTION_EXPORT_NAME: u32 = 1;
const OPTION_ABORT: u32 = 2;
const OPTION_INFO: u32 = 6;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = 0x8000_0001;
const INFO_EXPORT: u16 = 0;
/// There are flags; there is a cache to flush.
const TRANSMISSION_FLAGS: u16 = 1 | 1 << 2;

const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const COMMAND_READ: u16 = 0;
const COMMAND_WRITE: u16 = 1;
const COMMAND_DISCONNECT: u16 = 2;
const COMMAND_FLUSH: u16 = 3;
const INVALID: u32 = 22;
/// The longest request, in bytes; QEMU's are shorter.
const BYTES_MAX: u32 = 32 << 20;

/// How long a write may stay in flight.
const DELAY_MAX: Duration = Duration::from_millis(8);

/// Listens on `socket` and serves the disk to the first who comes.
pub(super) fn serve(disk: Arc<Disk>, socket: &Path, seed: u64) -> Result<()> {
    let listener = UnixListener::bind(socket).context("cannot listen to QEMU")?;
    thread::spawn(move || {
        // When it ends, the machine has ended, or its power is off.
        let _ = listener.accept().and_then(|(stream, _)| talk(&disk, stream, seed));
    });
    Ok(())
}

fn talk(disk: &Arc<Disk>, stream: UnixStream, seed: u64) -> io::Result<()> {
    let mut input = BufReader::new(stream.try_clone()?);
    if !shake_hands(&mut input, &stream, disk.bytes() as u64)? {
        return Ok(());
    }
    let replies = Arc::new(Replies(Mutex::new(stream)));
    let (sender, receiver) = channel();
    let late = {
        let (disk, replies) = (disk.clone(), replies.clone());
        thread::spawn(move || complete_late(&disk, &replies, &receiver))
    };
    let served = transmit(disk, &mut input, &replies, &sender, seed);
    drop(sender);
    let _ = late.join();
    served
}

/// Whether the client goes on to transmission.
fn shake_hands(input: &mut impl Read, mut output: &UnixStream, bytes: u64) -> io::Result<bool> {
    output.write_all(&[GREETING.as_slice(), &FIXED_NEWSTYLE.to_be_bytes()].concat())?;
    let _client_flags = read_u32(input)?;
    let mut size_and_flags = bytes.to_be_bytes().to_vec();
    size_and_flags.extend(TRANSMISSION_FLAGS.to_be_bytes());
    loop {
        let _magic = read_u64(input)?;
        let (option, length) = (read_u32(input)?, read_u32(input)?);
        let mut data = vec![0; length.min(BYTES_MAX) as usize];
        input.read_exact(&mut data)?;
        let mut reply = |kind: u32, data: &[u8]| {
            let mut reply = OPTION_REPLY.to_be_bytes().to_vec();
            [option, kind, data.len() as u32].iter().for_each(|field| reply.extend(field.to_be_bytes()));
            reply.extend(data);
            output.write_all(&reply)
        };
        match option {
            OPTION_EXPORT_NAME => {
                output.write_all(&[&size_and_flags, [0; 124].as_slice()].concat())?;
                return Ok(true);
            }
            OPTION_INFO | OPTION_GO => {
                reply(REPLY_INFO, &[INFO_EXPORT.to_be_bytes().as_slice(), &size_and_flags].concat())?;
                reply(REPLY_ACK, &[])?;
                if option == OPTION_GO {
                    return Ok(true);
                }
            }
            OPTION_ABORT => {
                reply(REPLY_ACK, &[])?;
                return Ok(false);
            }
            _ => reply(REPLY_UNSUPPORTED, &[])?,
        }
    }
}

/// Answers, one at a time.
struct Replies(Mutex<UnixStream>);

impl Replies {
    fn send(&self, handle: u64, error: u32, data: &[u8]) -> io::Result<()> {
        let mut reply = [REPLY.to_be_bytes(), error.to_be_bytes()].concat();
        reply.extend(handle.to_be_bytes());
        reply.extend(data);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&reply)
    }
}

/// A write in flight: when it ends, its number on the disk, and the client's name for it.
type Late = (Instant, u64, u64);

fn transmit(
    disk: &Disk,
    input: &mut impl Read,
    replies: &Replies,
    late: &Sender<Late>,
    seed: u64,
) -> io::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let off = |Off| io::Error::from(io::ErrorKind::NotConnected);
    loop {
        if read_u32(input)? != REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let command = read_u32(input)? as u16;
        let (handle, at, length) = (read_u64(input)?, read_u64(input)?, read_u32(input)?);
        let is_inside = length <= BYTES_MAX
            && at.checked_add(length.into()).is_some_and(|end| end <= disk.bytes() as u64);
        match command {
            COMMAND_READ if is_inside => {
                replies.send(handle, 0, &disk.read(at as usize, length as usize).map_err(off)?)?;
            }
            COMMAND_WRITE if is_inside => {
                let mut bytes = vec![0; length as usize];
                input.read_exact(&mut bytes)?;
                let number = disk.write(at as usize, bytes).map_err(off)?;
                if random.random_ratio(1, 4) {
                    let end = Instant::now() + DELAY_MAX.mul_f64(random.random());
                    late.send((end, number, handle)).map_err(|_| io::ErrorKind::BrokenPipe)?;
                } else {
                    disk.complete(number).map_err(off)?;
                    replies.send(handle, 0, &[])?;
                }
            }
            COMMAND_FLUSH => {
                disk.flush().map_err(off)?;
                replies.send(handle, 0, &[])?;
            }
            COMMAND_DISCONNECT => return Ok(()),
            _ => replies.send(handle, INVALID, &[])?,
        }
    }
}

/// Ends writes when their time has come.
fn complete_late(disk: &Disk, replies: &Replies, started: &Receiver<Late>) {
    let mut waiting: Vec<Late> = Vec::new();
    loop {
        let now = Instant::now();
        let next = waiting.iter().map(|(end, ..)| end.saturating_duration_since(now)).min();
        match started.recv_timeout(next.unwrap_or(Duration::from_secs(3600))) {
            Ok(late) => waiting.push(late),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        for (_, number, handle) in waiting.extract_if(.., |(end, ..)| *end <= now) {
            if disk.complete(number).is_err() || replies.send(handle, 0, &[]).is_err() {
                return;
            }
        }
    }
}

fn read_u32(input: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes).map(|()| u32::from_be_bytes(bytes))
}

fn read_u64(input: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes).map(|()| u64::from_be_bytes(bytes))
}
