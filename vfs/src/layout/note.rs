//! A note of the journal: what one change did to names, bytes or attributes. The engine keeps it as it is, sealed for
//! owners, with the number of its operation and the author of its record.

use blocktree_engine::format::{put_number, take_number};
use blocktree_engine::limits::NOTES_BYTES_MAX;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Malformed, NAME_BYTES_MAX};

/// The start of a note. Behind it stand, each if its flag is set: the actor (32 bytes); the inode; the two names, each
/// as parent, length (1 byte) and bytes; the other inode; the whiteout's. Inodes are LEB128 numbers.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NoteBytes {
    pub kind: u8,
    /// 1: actor, 2: inode, 4: name, 8: new name, 16: other inode, 32: whiteout, 64: it is about a directory, or the other
    /// inode is one.
    pub flags: u8,
    /// Milliseconds since 1970, little-endian.
    pub time_ms: [u8; 6],
}
const _: () = assert!(size_of::<NoteBytes>() == 8);
const _: () = assert!(size_of::<NoteBytes>() + 32 + 5 * 10 + 2 * (1 + NAME_BYTES_MAX) <= NOTES_BYTES_MAX);

const ACTOR: u8 = 1;
const INODE: u8 = 2;
const NAME: u8 = 4;
const NEW_NAME: u8 = 8;
const OTHER: u8 = 16;
const WHITEOUT: u8 = 32;
const DIRECTORY: u8 = 64;

/// What a note is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum NoteKind {
    Created = 1,
    Linked = 2,
    Unlinked = 3,
    Renamed = 4,
    Exchanged = 5,
    Modified = 6,
    Settled = 7,
    Attributes = 8,
    Mounted = 9,
    Unmounted = 10,
}

impl NoteKind {
    fn from_number(number: u8) -> Option<Self> {
        const ALL: [NoteKind; 10] = [
            NoteKind::Created,
            NoteKind::Linked,
            NoteKind::Unlinked,
            NoteKind::Renamed,
            NoteKind::Exchanged,
            NoteKind::Modified,
            NoteKind::Settled,
            NoteKind::Attributes,
            NoteKind::Mounted,
            NoteKind::Unmounted,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// The flags that a note of this kind must have, and may have.
    fn flags(self) -> (u8, u8) {
        match self {
            Self::Created | Self::Linked | Self::Unlinked => (INODE | NAME, ACTOR | DIRECTORY),
            Self::Renamed => (INODE | NAME | NEW_NAME, ACTOR | OTHER | WHITEOUT | DIRECTORY),
            Self::Exchanged => (INODE | NAME | NEW_NAME | OTHER, ACTOR | DIRECTORY),
            Self::Modified | Self::Settled | Self::Attributes => (INODE, ACTOR | NAME | DIRECTORY),
            Self::Mounted | Self::Unmounted => (0, 0),
        }
    }
}

/// A note in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note<'a> {
    pub kind: NoteKind,
    pub time_ms: u64,
    pub actor: Option<[u8; 32]>,
    /// 0: none.
    pub ino: u64,
    /// A name, and the directory that it is in.
    pub name: Option<(u64, &'a [u8])>,
    pub new_name: Option<(u64, &'a [u8])>,
    /// 0: none.
    pub other: u64,
    pub whiteout: u64,
    pub directory: bool,
}

impl<'a> Note<'a> {
    /// The same, where one inode has another number: the directory at the top of a mount is there under one of its own.
    pub fn renumbered(self, from: u64, to: u64) -> Self {
        let number = |ino| if ino == from { to } else { ino };
        let place = |(parent, name)| (number(parent), name);
        Self {
            ino: number(self.ino),
            name: self.name.map(place),
            new_name: self.new_name.map(place),
            other: number(self.other),
            whiteout: number(self.whiteout),
            ..self
        }
    }

    /// The inodes that it names: [`blocktree_engine::limits::NOTE_BLOCKS_MAX`] at most.
    pub fn inodes(&self) -> impl Iterator<Item = u64> {
        let parent = |name: Option<(u64, &[u8])>| name.map_or(0, |(parent, _)| parent);
        let all = [self.ino, parent(self.name), parent(self.new_name), self.other, self.whiteout];
        all.into_iter().filter(|ino| *ino != 0)
    }

    pub fn encode(&self) -> Vec<u8> {
        let flag = |is_there: bool, flag: u8| if is_there { flag } else { 0 };
        let flags = flag(self.actor.is_some(), ACTOR)
            | flag(self.ino != 0, INODE)
            | flag(self.name.is_some(), NAME)
            | flag(self.new_name.is_some(), NEW_NAME)
            | flag(self.other != 0, OTHER)
            | flag(self.whiteout != 0, WHITEOUT)
            | flag(self.directory, DIRECTORY);
        let mut time_ms = [0; 6];
        time_ms.copy_from_slice(&self.time_ms.to_le_bytes()[..6]);
        let mut out = Vec::with_capacity(96);
        out.extend_from_slice(NoteBytes { kind: self.kind as u8, flags, time_ms }.as_bytes());
        out.extend_from_slice(self.actor.as_ref().map_or(&[], |actor| &actor[..]));
        if self.ino != 0 {
            put_number(&mut out, self.ino);
        }
        for (parent, name) in self.name.iter().chain(&self.new_name) {
            debug_assert!(!name.is_empty() && name.len() <= NAME_BYTES_MAX);
            put_number(&mut out, *parent);
            out.push(name.len() as u8);
            out.extend_from_slice(name);
        }
        for ino in [self.other, self.whiteout] {
            if ino != 0 {
                put_number(&mut out, ino);
            }
        }
        out
    }

    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (head, mut rest) = NoteBytes::read_from_prefix(bytes).map_err(|_| Malformed("note: length"))?;
        let kind = NoteKind::from_number(head.kind).ok_or(Malformed("note: kind"))?;
        let (must, may) = kind.flags();
        if head.flags & must != must || head.flags & !(must | may) != 0 {
            return Err(Malformed("note: flags"));
        }
        let has = |flag| head.flags & flag != 0;
        let mut actor = None;
        if has(ACTOR) {
            let (id, behind) = rest.split_first_chunk::<32>().ok_or(Malformed("note: actor"))?;
            (actor, rest) = (Some(*id), behind);
        }
        let ino = inode(&mut rest, has(INODE))?;
        let name = place(&mut rest, has(NAME))?;
        let new_name = place(&mut rest, has(NEW_NAME))?;
        let other = inode(&mut rest, has(OTHER))?;
        let whiteout = inode(&mut rest, has(WHITEOUT))?;
        if !rest.is_empty() {
            return Err(Malformed("note: length"));
        }
        let mut time_ms = [0; 8];
        time_ms[..6].copy_from_slice(&head.time_ms);
        let time_ms = u64::from_le_bytes(time_ms);
        let directory = has(DIRECTORY);
        Ok(Self { kind, time_ms, actor, ino, name, new_name, other, whiteout, directory })
    }
}

fn inode(rest: &mut &[u8], is_there: bool) -> Result<u64, Malformed> {
    if !is_there {
        return Ok(0);
    }
    take_number(rest).filter(|ino| *ino != 0).ok_or(Malformed("note: inode"))
}

fn place<'a>(rest: &mut &'a [u8], is_there: bool) -> Result<Option<(u64, &'a [u8])>, Malformed> {
    if !is_there {
        return Ok(None);
    }
    let parent = inode(rest, true)?;
    let (length, behind) = rest.split_first().ok_or(Malformed("note: name"))?;
    let (name, behind) = behind.split_at_checked(usize::from(*length)).ok_or(Malformed("note: name"))?;
    if name.is_empty() || name.iter().any(|&byte| byte == 0 || byte == b'/') || name == b"." || name == b".."
    {
        return Err(Malformed("note: name"));
    }
    *rest = behind;
    Ok(Some((parent, name)))
}
