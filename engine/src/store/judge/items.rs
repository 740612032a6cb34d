//! What a record does to blocks and items: all of it must be inside, and lead nowhere else.

use zerocopy::FromBytes;

use super::{Judged, LONG_UNITS, NAMES_OUTSIDE, OUTSIDE, Trial, When, decode_header, refuse};
use crate::format::{
    BlockId, DeadBytes, ItemKind, Key, KeyBytes, LINK_BYTES, SYSTEM_BLOCK, decode_journal_item,
};
use crate::limits::DEPTH_MAX;
use crate::space::Run;
use crate::store::journal::{LIFE, NUMBER_MAX};
use crate::store::layers::Value;
use crate::store::readers::decode_readcap;
use crate::store::resolve::decode_shared;
use crate::store::rotation::Stale;
use crate::store::transaction::Reclaim;

const NOT_NEXT: &str = "an item of the journal does not follow the one before it";

impl Trial<'_> {
    /// Whether all of a block is on its way out: with this record, or step by step.
    fn is_being_destroyed(&self, id: BlockId) -> Judged<bool> {
        if self.header(id, When::Behind)?.is_none() {
            return Ok(true);
        }
        let reclaim = self.behind(&Key::new(SYSTEM_BLOCK, ItemKind::RECLAIM, id))?;
        Ok(reclaim.and_then(|value| Reclaim::decode(&value)).is_some_and(|reclaim| reclaim.destroy))
    }

    pub(super) fn judge_items(&mut self) -> Judged<()> {
        for at in 0..self.changes.all().len() {
            let (key, behind) = self.changes.all()[at];
            let before = self.changed_item(&key)?;
            // Nothing happens; but an extent that is put as it was bears witness of its sectors.
            if before.as_deref() == behind && (behind.is_none() || key.kind != ItemKind::EXTENT) {
                continue;
            }
            match (key.block, key.kind, behind) {
                (SYSTEM_BLOCK, ..) => self.judge_system_item(&key, before.as_deref(), behind)?,
                (_, ItemKind::DEAD, Some(value)) if before.is_none() => {
                    let Ok(dead) = DeadBytes::read_from_bytes(value) else {
                        return refuse("a dead list is malformed");
                    };
                    let run = Run { sector: key.offset, sectors: dead.sectors.get() };
                    if run.sectors == 0 || run.sector.checked_add(run.sectors).is_none() {
                        return refuse("a dead list is malformed");
                    }
                    self.dead.push((run, (key.block, dead.birth.get())));
                }
                (_, ItemKind::HEADER, _) if key.offset == 0 => self.judge_header(key.block)?,
                (_, ItemKind::EXTENT, behind) => self.judge_extent(&key, before, behind)?,
                (_, ItemKind::OLD_KEY, None) => self.must_be_changeable(key.block)?,
                (_, ItemKind::JOURNAL, Some(value)) if before.is_none() => self.judge_notes(&key, value)?,
                (_, kind, behind) if kind >= ItemKind::FIRST_FREE => {
                    self.must_be_changeable(key.block)?;
                    if let Some(value) = behind {
                        self.must_be_there(key.block)?;
                        self.judge_links(key.block, value)?;
                    }
                }
                _ => return refuse(OUTSIDE),
            }
        }
        Ok(())
    }

    /// An item as it was before.
    fn changed_item(&self, key: &Key) -> Judged<Option<Value>> {
        if key.kind == ItemKind::HEADER && key.offset == 0 {
            // The header is told of, lest it be looked up once more.
            let value = self.before(key)?;
            let header = decode_header(value.as_deref())?;
            self.known(key.block, |block| block.header[When::Before as usize] = Some(header));
            return Ok(value);
        }
        let is_of_a_block = key.kind == ItemKind::EXTENT || key.kind >= ItemKind::FIRST_FREE;
        // A block that is new had no items.
        if is_of_a_block && self.may_be_new(key.block) && self.header(key.block, When::Before)?.is_none() {
            return Ok(None);
        }
        self.before(key)
    }

    pub(super) fn must_be_there(&self, id: BlockId) -> Judged<()> {
        match self.header(id, When::Behind)? {
            Some(_) => Ok(()),
            None => refuse("it leaves something of a block that is gone"),
        }
    }

    /// What goes with changes of blocks inside, and nothing else.
    fn judge_system_item(&mut self, key: &Key, before: Option<&[u8]>, behind: Option<&[u8]>) -> Judged<()> {
        let id = key.offset;
        match (key.kind, behind) {
            // Counted with the sectors.
            (ItemKind::SHARED, None) => Ok(()),
            (ItemKind::SHARED, Some(value)) if decode_shared(value).is_some() => Ok(()),
            (ItemKind::ORPHAN, Some([])) => {
                self.must_be_changeable(id)?;
                self.must_be_there(id)?;
                self.must_be_no_top(id)
            }
            (ItemKind::ORPHAN | ItemKind::RECLAIM, None) => self.must_be_changeable(id),
            (ItemKind::RECLAIM, Some(value)) => {
                let Some(reclaim) = Reclaim::decode(value) else {
                    return refuse("an item of the store is malformed");
                };
                self.must_be_changeable(id)?;
                self.must_be_there(id)?;
                if reclaim.destroy { self.must_be_no_top(id) } else { Ok(()) }
            }
            (ItemKind::LOST | ItemKind::STALE, None) if self.is_being_destroyed(id)? => {
                self.must_be_changeable(id)
            }
            // A clone brings what stands under older keys; that less of a block does, its author cannot say.
            (ItemKind::STALE, Some(value)) => {
                let Some(stale) = Stale::decode(value) else {
                    return refuse("an item of the store is malformed");
                };
                let known = before.and_then(Stale::decode);
                if known.is_some_and(|known| stale.from > known.from || (known.items && !stale.items)) {
                    return refuse("it hides what stands under older keys");
                }
                self.must_be_changeable(id)?;
                self.must_be_there(id)
            }
            (ItemKind::WRITECAP | ItemKind::REVOCATION | ItemKind::READCAP | ItemKind::ACCESS, _) => {
                refuse("it changes who may read and write")
            }
            (ItemKind::SNAPSHOT, _) => refuse("it changes snapshots"),
            _ => refuse(OUTSIDE),
        }
    }

    /// An item of the journal follows the newest, in a life that is no later than the next, and names what is the author's.
    fn judge_notes(&mut self, key: &Key, value: &[u8]) -> Judged<()> {
        if self.before(&Key::new(SYSTEM_BLOCK, ItemKind::JOURNAL, key.block))?.is_none() {
            return refuse(OUTSIDE);
        }
        let Ok((head, Some(part), _)) = decode_journal_item(value) else {
            return refuse("an item of the journal is malformed");
        };
        let at = |offset| Key { offset, ..*key };
        let previous = head.previous.get();
        let position = match previous {
            0 => 0,
            _ => match self.behind(&at(previous))?.map(|value| decode_journal_item(&value).map(|it| it.0)) {
                Some(Ok(head)) => head.position.get(),
                _ => return refuse(NOT_NEXT),
            },
        };
        let bytes = (size_of::<KeyBytes>() + value.len()) as u64;
        let is_next = key.offset > previous
            && key.offset < ((previous / LIFE).saturating_add(2)).saturating_mul(LIFE).min(NUMBER_MAX)
            && head.position.get() == position.saturating_add(bytes)
            && head.author == self.bounds.author
            && self.changes.between(&at(previous + 1), &at(key.offset - 1)).is_empty()
            && self.core.range_sealed(at(previous + 1), at(u64::MAX), 1)?.0.is_empty();
        if !is_next {
            return refuse(NOT_NEXT);
        }
        for block in part.blocks {
            let is_known =
                self.header(block, When::Before)?.is_some() || self.header(block, When::Behind)?.is_some();
            let is_own = match is_known {
                true => self.is_inside(block, When::Before)? || self.is_inside(block, When::Behind)?,
                // It came and went.
                false => self.may_be_new(block),
            };
            if !is_own {
                return refuse(NAMES_OUTSIDE);
            }
        }
        Ok(())
    }

    fn must_be_no_top(&self, id: BlockId) -> Judged<()> {
        match self.is_top(id) {
            true => refuse("it moves or removes the directory that its author may write"),
            false => Ok(()),
        }
    }

    fn judge_header(&mut self, id: BlockId) -> Judged<()> {
        let before = self.header(id, When::Before)?;
        self.must_be_changeable(id)?;
        let Some(after) = self.header(id, When::Behind)? else {
            self.must_be_no_top(id)?;
            return self.must_be_all_gone(id);
        };
        match before {
            Some(before) => {
                let same_keys = before.owner_key == after.owner_key
                    && before.epoch == after.epoch
                    && before.wrapped_by == after.wrapped_by;
                if !same_keys {
                    return refuse("it changes the key of a block");
                }
                if before.home != after.home {
                    self.must_be_no_top(id)?;
                }
                if after.units >> 4 < before.units >> 4 {
                    return refuse(LONG_UNITS);
                }
            }
            None => self.judge_wrapping(after.wrapped_by.get())?,
        }
        self.must_be_inside(id, When::Behind, "it moves a block out of what its author may write")
    }

    /// The owner must be able to tell the key of a new block.
    fn judge_wrapping(&self, serial: u64) -> Judged<()> {
        let key = Key::new(SYSTEM_BLOCK, ItemKind::READCAP, serial);
        let cap = self.before(&key)?.and_then(|value| decode_readcap(&key, &value).ok());
        match cap {
            Some(cap) if cap.recipient[..32] == self.bounds.author && cap.flags.get() != 0 => Ok(()),
            _ => refuse("it makes a block whose key its owner cannot tell"),
        }
    }

    /// Of a block that loses its header, nothing is left.
    fn must_be_all_gone(&self, id: BlockId) -> Judged<()> {
        let first = Key::new(id, ItemKind(0), 0);
        let last = Key::new(id, ItemKind(u8::MAX), u64::MAX);
        let (items, all) = self.core.range_sealed(first, last, self.changes.all().len() + 1)?;
        let is_gone = |key: &Key| matches!(self.changes.get(key), Some(None));
        match all && items.iter().all(|(key, _)| is_gone(key)) {
            true => Ok(()),
            false => refuse("it leaves something of a block that is gone"),
        }
    }

    /// An item of the layer above: what its clear part names must be inside, and belong to what the item is of or to
    /// something above that.
    fn judge_links(&mut self, id: BlockId, value: &[u8]) -> Judged<()> {
        let clear = value
            .split_first_chunk::<2>()
            .and_then(|(length, rest)| rest.get(..usize::from(u16::from_le_bytes(*length))));
        let Some(clear) = clear else { return refuse("an item is malformed") };
        let (links, rest) = clear.as_chunks::<LINK_BYTES>();
        if !rest.is_empty() {
            return refuse("an item is malformed");
        }
        for link in links {
            let named = u64::from_le_bytes(*link);
            let Some(header) = self.header(named, When::Behind)? else { return refuse(NAMES_OUTSIDE) };
            if self.is_top(named) {
                return refuse(NAMES_OUTSIDE);
            }
            self.must_be_inside(named, When::Behind, NAMES_OUTSIDE)?;
            if !self.is_below(id, header.home.get())? {
                return refuse("it gives a name to something that belongs elsewhere");
            }
        }
        Ok(())
    }

    /// Whether a block that is inside will be another or below it.
    fn is_below(&mut self, id: BlockId, above: BlockId) -> Judged<bool> {
        let mut at = id;
        for _ in 0..DEPTH_MAX {
            if at == above {
                return Ok(true);
            }
            self.take_step()?;
            match self.header(at, When::Behind)? {
                Some(header) if header.home.get() != SYSTEM_BLOCK => at = header.home.get(),
                _ => return Ok(false),
            }
        }
        Ok(false)
    }
}
