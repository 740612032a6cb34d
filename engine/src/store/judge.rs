//! What a writer of a part of a store may do: each of its records is looked into, change by change, before it counts.
//!
//! Blocks and items are in `items.rs`, the sectors that they take in `sectors.rs`.
//!
//! A block is *inside* if it is one of the author's tops, or if the homes of blocks lead from it to one. The index as the
//! records before left it says what was there; [`judge`] allows what follows from it and from the record alone.
//!
//! Invariants:
//! 1. Nothing outside is changed: no block, no item, none of the store's own items but those that go with a change inside.
//! 2. No sector comes into use that was not free, none is freed that something still needs, and what is freed was held by
//!    extents inside: what refers to a sector is counted before and behind.
//! 3. Nothing inside comes from outside or leads there: not by its home, and not by what an item shows that it names.
//! 4. What the author notes in the journal comes behind all that is there, and is about blocks that are or were inside.

mod blocks;
mod changes;
mod items;
mod sectors;

use std::cell::RefCell;

use zerocopy::FromBytes;

use self::blocks::{Blocks, Standing};
use self::changes::Changes;
use super::Core;
use super::authors::describe_author;
use super::layers::Value;
use crate::crypto::CertificateError;
use crate::error::Error;
use crate::format::{
    BlockHeader, BlockId, Change, Extent, ItemKind, Key, RecordHeader, SYSTEM_BLOCK, decode_changes,
};
use crate::limits::{BLOCK_IDS_PER_RECORD_MAX, DEPTH_MAX, RECORD_TIME_NS_MAX};
use crate::space::Run;

/// How many steps upwards are taken for one record: honest ones need few.
const STEPS_MAX: usize = 1 << 20;

/// Why a record, or a superblock, does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Author(#[from] CertificateError),
    #[error("{0}")]
    Change(&'static str),
}

/// A record that does not count, and with it all behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRecord {
    pub seq: u64,
    /// The beginning of the author's public signing key, in hexadecimal.
    pub author: String,
    pub why: Refusal,
}

impl RefusedRecord {
    pub(super) fn new(seq: u64, author: &[u8; 32], why: Refusal) -> Self {
        Self { seq, author: describe_author(author), why }
    }
}

/// How a judgement comes to no good end.
#[derive(Debug)]
pub(super) enum Judgement {
    Refused(&'static str),
    /// What the record must be compared with cannot be read.
    Unknown(Error),
}

impl From<Error> for Judgement {
    fn from(error: Error) -> Self {
        Self::Unknown(error)
    }
}

type Judged<T> = std::result::Result<T, Judgement>;

/// Whose record is judged, and by what.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    pub(super) author: [u8; 32],
    /// The blocks that its writecaps name.
    pub(super) tops: Vec<BlockId>,
    /// Ids from here on were given out to nobody before the author's last records in a row.
    pub(super) ids_from: BlockId,
    /// The id that the record before said comes next.
    pub(super) next_block: BlockId,
    /// The last record of the checkpoint below.
    pub(super) checkpoint_seq: u64,
}

/// What a record says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claims<'a> {
    pub(super) seq: u64,
    pub(super) next_block: BlockId,
    pub(super) time_ns: u64,
    pub(super) body: &'a [u8],
}

impl<'a> Claims<'a> {
    pub(super) fn of(head: &RecordHeader, body: &'a [u8]) -> Self {
        Self { seq: head.seq.get(), next_block: head.next_block.get(), time_ns: head.time_ns.get(), body }
    }
}

fn refuse<T>(why: &'static str) -> Judged<T> {
    Err(Judgement::Refused(why))
}

const OUTSIDE: &str = "it changes something outside of what its author may write";
const NAMES_OUTSIDE: &str = "it names something outside of what its author may write";
const LONG_UNITS: &str = "it hides how long the units of a block are";

/// Looks into a record; `core` holds the index as the records before left it. Returns what it brings into use, which must
/// have been free.
pub(super) fn judge(core: &Core, bounds: &Bounds, claims: &Claims<'_>) -> Judged<Vec<Run>> {
    let mut trial = Trial::new(core, bounds, claims);
    trial.read()?;
    trial.judge_items()?;
    trial.judge_sectors_of_blocks()?;
    trial.judge_space()?;
    Ok(trial.allocated)
}

/// Before a record, or behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Before,
    Behind,
}

struct Trial<'a> {
    core: &'a Core,
    bounds: &'a Bounds,
    claims: &'a Claims<'a>,
    changes: Changes<'a>,
    allocated: Vec<Run>,
    freed: Vec<Run>,
    blocks: RefCell<Blocks>,
    /// Extents that the record touches, as they were and as they will be.
    held: Vec<Extent>,
    wanted: Vec<Extent>,
    /// What goes to which dead list, and its birth.
    dead: Vec<(Run, (BlockId, u64))>,
    /// Steps upwards that are left.
    steps: usize,
}

impl<'a> Trial<'a> {
    fn new(core: &'a Core, bounds: &'a Bounds, claims: &'a Claims<'a>) -> Self {
        Self {
            core,
            bounds,
            claims,
            changes: Changes::default(),
            allocated: Vec::new(),
            freed: Vec::new(),
            blocks: RefCell::default(),
            held: Vec::new(),
            wanted: Vec::new(),
            dead: Vec::new(),
            steps: STEPS_MAX,
        }
    }

    fn read(&mut self) -> Judged<()> {
        let next = self.bounds.next_block;
        let is_sane = self.claims.next_block >= next
            && self.claims.next_block - next <= BLOCK_IDS_PER_RECORD_MAX
            && self.claims.time_ns <= RECORD_TIME_NS_MAX;
        if !is_sane {
            return refuse("its counters leap");
        }
        let mut changes = Vec::new();
        for change in decode_changes(self.claims.body) {
            let run = |sector, sectors: u32| Run { sector, sectors: u64::from(sectors) };
            match change {
                Ok(Change::Put(key, value)) => changes.push((key, Some(value))),
                Ok(Change::Delete(key)) => changes.push((key, None)),
                Ok(Change::Allocate { sector, sectors }) => self.allocated.push(run(sector, sectors)),
                Ok(Change::Free { sector, sectors }) => self.freed.push(run(sector, sectors)),
                Err(_) => return refuse("it is malformed"),
            }
        }
        self.changes = Changes::new(changes);
        Ok(())
    }

    fn known<T>(&self, id: BlockId, of: impl FnOnce(&mut Standing) -> T) -> T {
        of(self.blocks.borrow_mut().of(id))
    }

    fn before(&self, key: &Key) -> Judged<Option<Value>> {
        Ok(self.core.find_sealed(key)?)
    }

    fn behind(&self, key: &Key) -> Judged<Option<Value>> {
        match self.changes.get(key) {
            Some(value) => Ok(value.map(Into::into)),
            None => self.before(key),
        }
    }

    fn header(&self, id: BlockId, when: When) -> Judged<Option<BlockHeader>> {
        if let Some(header) = self.known(id, |block| block.header[when as usize]) {
            return Ok(header);
        }
        let key = Key::new(id, ItemKind::HEADER, 0);
        let header = match when {
            When::Before => decode_header(self.before(&key)?.as_deref())?,
            When::Behind => match self.changes.get(&key) {
                Some(value) => decode_header(value)?,
                None => self.header(id, When::Before)?,
            },
        };
        self.known(id, |block| block.header[when as usize] = Some(header));
        Ok(header)
    }

    /// Whether a block is there and inside. A loop of homes leads nowhere.
    fn is_inside(&mut self, id: BlockId, when: When) -> Judged<bool> {
        let mut path = Vec::new();
        let mut at = id;
        let is_inside = loop {
            if let Some(known) = self.known(at, |block| block.inside[when as usize]) {
                break known;
            }
            if path.len() >= DEPTH_MAX {
                break false;
            }
            self.take_step()?;
            self.known(at, |block| block.inside[when as usize] = Some(false));
            path.push(at);
            let Some(header) = self.header(at, when)? else { break false };
            if self.is_top(at) {
                break true;
            }
            match header.home.get() {
                SYSTEM_BLOCK => break false,
                home => at = home,
            }
        };
        for id in path {
            self.known(id, |block| block.inside[when as usize] = Some(is_inside));
        }
        Ok(is_inside)
    }

    fn take_step(&mut self) -> Judged<()> {
        let Some(left) = self.steps.checked_sub(1) else {
            return refuse("what it changes or names is too far below");
        };
        self.steps = left;
        Ok(())
    }

    fn is_top(&self, id: BlockId) -> bool {
        self.bounds.tops.contains(&id)
    }

    /// Whether the author may give a block this id.
    fn may_be_new(&self, id: BlockId) -> bool {
        (self.bounds.ids_from..self.claims.next_block).contains(&id)
    }

    fn must_be_inside(&mut self, id: BlockId, when: When, why: &'static str) -> Judged<()> {
        if self.is_inside(id, when)? { Ok(()) } else { refuse(why) }
    }

    /// A block that the record changes must have been inside before, or else be new, and inside now.
    fn must_be_changeable(&mut self, id: BlockId) -> Judged<()> {
        match self.header(id, When::Before)? {
            Some(_) => self.must_be_inside(id, When::Before, OUTSIDE),
            None => {
                if !self.may_be_new(id) {
                    return refuse("it gives a block a number that is not its author's to give");
                }
                self.must_be_inside(id, When::Behind, OUTSIDE)
            }
        }
    }
}

fn decode_header(value: Option<&[u8]>) -> Judged<Option<BlockHeader>> {
    match value.map(BlockHeader::read_from_prefix) {
        None => Ok(None),
        Some(Ok((header, _))) => Ok(Some(header)),
        Some(Err(_)) => refuse("a block's header is malformed"),
    }
}

#[cfg(test)]
mod tests;
