//! What a request is answered with, made where it is sent from: nothing is copied once more.

use zerocopy::{Immutable, IntoBytes};

use super::protocol::{Dirent, EntryOut, Malformed};
use crate::FsError;
use crate::control::Refusal;

/// How an answer goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// So many bytes of the [`Body`].
    Body(usize),
    /// There is no answer, or it comes later.
    Silence,
}

/// Why a request is refused; [`Failure::errno`] is what the kernel is told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error("the control channel refused: {0:?}")]
    Control(Refusal),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The kernel does by itself what is right then, and does not ask again.
    #[error("there is nothing to do for it")]
    NeverNeeded,
    #[error("an ioctl that only the root has")]
    NotTheRoot,
    #[error("the value does not fit into what the caller has")]
    CallerHasNoRoom,
    /// A bug: bodies are longer than any answer.
    #[error("the answer does not fit")]
    NoRoom,
    #[error("too many wait for locks")]
    TooManyWaiters,
    #[error("not one of those that may use the mount")]
    Outsider,
    #[error("the operation panicked")]
    Panicked,
}

/// Where the body of an answer is made.
pub(super) struct Body<'a>(&'a mut [u8]);

impl<'a> Body<'a> {
    pub(super) fn new(bytes: &'a mut [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn put(&mut self, structure: &(impl IntoBytes + Immutable)) -> Result<Answer, Failure> {
        self.copy(structure.as_bytes())
    }

    pub(super) fn copy(&mut self, bytes: &[u8]) -> Result<Answer, Failure> {
        self.0.get_mut(..bytes.len()).ok_or(Failure::NoRoom)?.copy_from_slice(bytes);
        Ok(Answer::Body(bytes.len()))
    }

    /// A structure and what follows it.
    pub(super) fn put_with(
        &mut self,
        structure: &(impl IntoBytes + Immutable),
        bytes: &[u8],
    ) -> Result<Answer, Failure> {
        let start = size_of_val(structure);
        self.put(structure)?;
        let rest = self.0.get_mut(start..start + bytes.len()).ok_or(Failure::NoRoom)?;
        rest.copy_from_slice(bytes);
        Ok(Answer::Body(start + bytes.len()))
    }

    /// The first bytes, as many as wanted or there are.
    pub(super) fn first(&mut self, bytes: u32) -> &mut [u8] {
        let bytes = self.0.len().min(bytes as usize);
        &mut self.0[..bytes]
    }
}

/// The entries of a directory, for READDIR and READDIRPLUS.
pub(super) struct Entries<'a> {
    room: &'a mut [u8],
    used: usize,
}

impl<'a> Entries<'a> {
    pub(super) fn new(room: &'a mut [u8]) -> Self {
        Self { room, used: 0 }
    }

    /// Adds one; false if there is no room for it any more.
    pub(super) fn add(&mut self, found: Option<&EntryOut>, entry: &Dirent, name: &[u8]) -> bool {
        let found = found.map(IntoBytes::as_bytes).unwrap_or_default();
        let bytes = (found.len() + size_of::<Dirent>() + name.len()).next_multiple_of(8);
        let Some(room) = self.room[self.used..].get_mut(..bytes) else { return false };
        let (head, rest) = room.split_at_mut(found.len());
        head.copy_from_slice(found);
        let (head, rest) = rest.split_at_mut(size_of::<Dirent>());
        head.copy_from_slice(entry.as_bytes());
        let (head, padding) = rest.split_at_mut(name.len());
        head.copy_from_slice(name);
        padding.fill(0);
        self.used += bytes;
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }

    pub(super) fn answer(self) -> Answer {
        Answer::Body(self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_padded_and_end_where_the_room_does() {
        let mut room = [0xff; 24 + 8 + 24 + 8 + 23];
        let mut entries = Entries::new(&mut room);
        let entry = Dirent { ino: 7, off: 1, namelen: 3, kind: 8 };
        assert!(entries.is_empty());
        assert!(entries.add(None, &entry, b"abc"));
        assert!(entries.add(None, &entry, b"12345678"));
        assert!(!entries.add(None, &entry, b""), "23 bytes are left");
        assert_eq!(entries.answer(), Answer::Body(64));
        assert_eq!(&room[24..32], b"abc\0\0\0\0\0");
        assert_eq!(&room[56..64], b"12345678");
    }

    #[test]
    fn what_does_not_fit_is_no_panic() {
        let mut bytes = [0; 10];
        let mut body = Body::new(&mut bytes);
        assert!(matches!(body.put(&[0_u64; 2]), Err(Failure::NoRoom)));
        assert!(matches!(body.put_with(&1_u64, b"abc"), Err(Failure::NoRoom)));
        assert_eq!(body.put_with(&1_u64, b"ab").unwrap(), Answer::Body(10));
        assert_eq!(body.first(100).len(), 10);
    }
}
