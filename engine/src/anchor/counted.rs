//! An anchor in a file that counts only together with a counter that nobody can set back, such as a TPM's.
//!
//! Who can write the disk with the store and the one with its anchor's file can put back old copies of both, and they fit
//! each other. So the file says at which value of the counter it counts, under a key that comes with the counter.
//!
//! It names two heads: one that counts at a value, and one that counts at the next. To tell of a new head is to write the
//! file with that one as the second, and then to increment the counter.
//!
//! Invariants:
//! 1. The file says for every value that a crash can leave the counter at which head counts there.
//! 2. A value stands for one session's heads alone: a head that was to count from a value on does so before another is
//!    written down, even if a crash came in between. So no old copy of the file comes to count later.
//! 3. Counters wear out. The first head of a session and the last one increment it, those in between at most once in an
//!    interval. A head in between stands in the file, for the present value.

use std::cmp::Ordering;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::file::replace;
use super::{Anchor, AnchorError, Anchored, Head};
use crate::crypto::{Secret, keyed_hash};
use crate::format::{AnchorBytes, CountedAnchorHeader, FORMAT_VERSION, Malformed, check_kind, malformed};
use crate::identity::Sealed;
use crate::limits::SEALED_FILE_BYTES_MAX;

const WHAT: &str = "anchor file of a counter";
const CHECK_BYTES: usize = 32;

/// A counter outside of all disks that only goes up, with a key that it gives to this machine alone.
pub trait Counter: fmt::Debug + Send + Sync {
    /// Makes a new one. It does not stand at a value that any before it had in this place.
    fn create(&self) -> Result<CounterPlace, AnchorError>;

    /// The key that came with it.
    fn key(&self, place: &CounterPlace) -> Result<Secret, AnchorError>;

    /// The same counter with its key as it is to be kept from now on, where what the machine asks for has changed.
    fn renew(&self, place: &CounterPlace, key: &Secret) -> Result<CounterPlace, AnchorError>;

    fn value(&self, place: &CounterPlace, key: &Secret) -> Result<u64, AnchorError>;

    /// Makes it one more, which is durable when this returns, and says what it is now.
    fn increment(&self, place: &CounterPlace, key: &Secret) -> Result<u64, AnchorError>;

    /// Frees the place of one that is not needed any more.
    fn remove(&self, place: &CounterPlace) -> Result<(), AnchorError>;
}

/// Where a counter is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterPlace {
    /// The index of a TPM's non-volatile memory.
    pub index: u32,
    /// The counter's key, as the TPM keeps it.
    pub key: Sealed,
}

/// What such a file says. Nothing of it is believed before its check was made with the counter's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedFile {
    pub counter: CounterPlace,
    /// The value at which `now` counts.
    pub value: u64,
    pub now: Anchored,
    /// What counts at the next value.
    pub next: Option<Anchored>,
    check: [u8; CHECK_BYTES],
}

impl CountedFile {
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        check_kind(WHAT, CountedAnchorHeader::MAGIC, bytes)?;
        let Ok((header, rest)) = CountedAnchorHeader::read_from_prefix(bytes) else {
            return Err(malformed(WHAT, "it is too short"));
        };
        let Some((key, check)) = rest.split_last_chunk() else {
            return Err(malformed(WHAT, "it is too short"));
        };
        let is_next = header.next != AnchorBytes::new_zeroed();
        if header.value.get() == u64::MAX {
            return Err(malformed(WHAT, "it is damaged"));
        }
        let anchored = |bytes: &AnchorBytes| Anchored {
            store_id: header.store_id,
            id: bytes.id,
            head: Head { seq: bytes.seq.get(), hash: bytes.record_hash },
            root: (header.root_principal != [0; 32]).then_some(header.root_principal),
        };
        Ok(Self {
            counter: CounterPlace { index: header.index.get(), key: Sealed::parse(key)? },
            value: header.value.get(),
            now: anchored(&header.now),
            next: is_next.then(|| anchored(&header.next)),
            check: *check,
        })
    }

    /// With the check that stands in it.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.checked_bytes()[..], &self.check].concat()
    }

    fn checked_bytes(&self) -> Vec<u8> {
        let bytes = |anchored: &Anchored| AnchorBytes {
            id: anchored.id,
            seq: anchored.head.seq.into(),
            record_hash: anchored.head.hash,
        };
        let header = CountedAnchorHeader {
            magic: CountedAnchorHeader::MAGIC,
            version: FORMAT_VERSION.into(),
            index: self.counter.index.into(),
            value: self.value.into(),
            store_id: self.now.store_id,
            root_principal: self.now.root.unwrap_or_default(),
            now: bytes(&self.now),
            next: self.next.as_ref().map_or(AnchorBytes::new_zeroed(), bytes),
        };
        [header.as_bytes(), &self.counter.key.to_bytes()].concat()
    }

    fn check_under(&self, key: &Secret) -> [u8; CHECK_BYTES] {
        keyed_hash(&key.derive("blocktree counted anchor v1"), &self.checked_bytes())
    }
}

/// An anchor in a file, with a counter.
#[derive(Debug)]
pub struct CountedAnchor<C> {
    path: PathBuf,
    counter: C,
    interval: Duration,
    session: Mutex<Option<Session>>,
}

/// What this process knows of the file, which is what stands in it.
#[derive(Debug)]
struct Session {
    file: CountedFile,
    key: Secret,
    incremented_at: Option<Instant>,
    /// The head was written down without incrementing the counter.
    is_put_off: bool,
}

impl<C: Counter> CountedAnchor<C> {
    /// In this file, in a folder that exists. `interval`: how often heads in the middle of a session increment the counter.
    pub fn at(path: impl Into<PathBuf>, counter: C, interval: Duration) -> Self {
        Self { path: path.into(), counter, interval, session: Mutex::new(None) }
    }

    fn parse(&self) -> Result<CountedFile, AnchorError> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(AnchorError::Missing),
            result => result.map_err(AnchorError::Read)?,
        };
        let mut bytes = Vec::new();
        let bytes_max = SEALED_FILE_BYTES_MAX as u64;
        file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(AnchorError::Read)?;
        if bytes.len() as u64 > bytes_max {
            return Err(AnchorError::Damaged("it is too long"));
        }
        CountedFile::parse(&bytes).map_err(|malformed| AnchorError::Damaged(malformed.why))
    }

    /// What the file says at the counter's value.
    fn begin(&self) -> Result<Session, AnchorError> {
        let mut file = self.parse()?;
        let key = self.counter.key(&file.counter)?;
        if file.check_under(&key) != file.check {
            return Err(AnchorError::Damaged("it was not written under its counter's key"));
        }
        let found = self.counter.value(&file.counter, &key)?;
        if found == file.value + 1
            && let Some(next) = file.next.take()
        {
            (file.now, file.value) = (next, found);
        }
        match found.cmp(&file.value) {
            Ordering::Equal => {
                match self.counter.renew(&file.counter, &key) {
                    // Stands in the file when that is written next.
                    Ok(place) => file.counter = place,
                    // It opened as it is kept now, and may do so the next time.
                    Err(error) => tracing::warn!(%error, "the counter's key stays as it was kept"),
                }
                Ok(Session { file, key, incremented_at: None, is_put_off: false })
            }
            Ordering::Greater => Err(AnchorError::Older { file: file.value, counter: found }),
            Ordering::Less => Err(AnchorError::SetBack { file: file.value, counter: found }),
        }
    }

    /// A counter and a file that know this head, in place of what there was.
    fn begin_anew(&self, anchored: &Anchored) -> Result<Session, AnchorError> {
        let former = self.parse().ok();
        let place = self.counter.create()?;
        let key = self.counter.key(&place)?;
        let value = self.counter.value(&place, &key)?;
        let file = CountedFile { counter: place, value, now: *anchored, next: None, check: [0; 32] };
        let mut session = Session { file, key, incremented_at: Some(Instant::now()), is_put_off: false };
        let written = session.write(&self.path);
        let unused = if written.is_ok() {
            former.map(|former| former.counter)
        } else {
            Some(session.file.counter.clone())
        };
        if let Some(Err(error)) = unused.map(|place| self.counter.remove(&place)) {
            tracing::debug!(%error, "a counter that is not needed is left as it is");
        }
        written.map(|()| session)
    }

    /// Has this head count from the next value on, and the counter come to that.
    fn advance(&self, session: &mut Session, to: Anchored) -> Result<(), AnchorError> {
        session.file.next = Some(to);
        session.write(&self.path)?;
        self.reach_next(session)
    }

    /// Increments the counter, so that what was to count next does.
    fn reach_next(&self, session: &mut Session) -> Result<(), AnchorError> {
        let Some(next) = session.file.next else { return Ok(()) };
        let value = self.counter.increment(&session.file.counter, &session.key)?;
        if value != session.file.value + 1 {
            return Err(AnchorError::Damaged("somebody else increments its counter"));
        }
        (session.file.now, session.file.value, session.file.next) = (next, value, None);
        (session.incremented_at, session.is_put_off) = (Some(Instant::now()), false);
        Ok(())
    }
}

impl<C: Counter> Anchor for CountedAnchor<C> {
    fn place(&self, _: &[u8; 16]) -> String {
        self.path.display().to_string()
    }

    /// Never `None`: a file that was taken away cannot be told from one that never was.
    fn read(&self, store_id: &[u8; 16]) -> Result<Option<Anchored>, AnchorError> {
        let session = self.begin()?;
        let anchored = session.file.now;
        if anchored.store_id != *store_id {
            return Err(AnchorError::Damaged("it is another store's"));
        }
        *self.session.lock() = Some(session);
        Ok(Some(anchored))
    }

    fn write(&self, anchored: &Anchored) -> Result<(), AnchorError> {
        let mut session = self.session.lock();
        let Some(session) = session.as_mut() else {
            *session = Some(self.begin_anew(anchored)?);
            return Ok(());
        };
        self.reach_next(session)?;
        if session.incremented_at.is_none_or(|at| at.elapsed() >= self.interval) {
            return self.advance(session, *anchored);
        }
        (session.file.now, session.is_put_off) = (*anchored, true);
        session.write(&self.path)
    }

    fn finish(&self) -> Result<(), AnchorError> {
        let mut session = self.session.lock();
        match session.as_mut().filter(|session| session.is_put_off) {
            Some(session) => self.advance(session, session.file.now),
            None => Ok(()),
        }
    }
}

impl Session {
    fn write(&mut self, path: &Path) -> Result<(), AnchorError> {
        self.file.check = self.file.check_under(&self.key);
        replace(path, false, &self.file.to_bytes()).map_err(AnchorError::Write)
    }
}

#[cfg(test)]
mod tests;
