//! What a store does for its anchor: names each head in the superblock before the anchor hears of it, or, where whoever opened the
//! store writes none, tells it of records; and looks for the anchor's head when it opens.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use zerocopy::FromZeros;

use super::log::Record;
use super::{Core, OpenOptions, Store};
use crate::anchor::{Anchor, AnchorError, AnchorStatus, Anchored, Head, Rollback, named_id, unnamed_id};
use crate::crypto::{PrincipalId, random};
use crate::error::Result as StoreResult;
use crate::format::{AnchorBytes, Superblock};
use crate::limits::ANCHORS_MAX;

/// The anchor of an open store, and what all anchors were told.
pub(super) struct Anchoring {
    anchor: Option<Arc<dyn Anchor>>,
    interval: Duration,
    store_id: [u8; 16],
    root: PrincipalId,
    id: [u8; 8],
    /// What superblocks say.
    named: Vec<AnchorBytes>,
    /// What the anchor knows, and when it was told by this process.
    told: Option<Head>,
    told_at: Option<Instant>,
    status: AnchorStatus,
}

impl Anchoring {
    pub(super) fn new(options: &OpenOptions, superblock: &Superblock, root: PrincipalId) -> Self {
        let anchor = options.anchor.clone();
        let place = anchor.as_ref().map_or(String::new(), |anchor| anchor.place(&superblock.store_id));
        Self {
            anchor,
            interval: options.anchor_interval,
            store_id: superblock.store_id,
            root,
            id: named_id(random()),
            named: superblock.anchors.iter().filter(|named| named.id != [0; 8]).copied().collect(),
            told: None,
            told_at: None,
            status: AnchorStatus { place, seq: None, first_use: true, accepted: None, failure: None },
        }
    }

    /// What the anchor knew when the store was opened.
    pub(super) fn knows(&mut self, anchored: &Anchored) {
        self.told = Some(anchored.head);
        // The same whether the head is named or not: what was named under it before makes room for what comes.
        self.id = named_id(anchored.id);
        (self.status.seq, self.status.first_use) = (Some(anchored.head.seq), false);
    }

    pub(super) fn accepts(&mut self, what: String) {
        (self.status.accepted, self.status.first_use) = (Some(what), false);
    }

    /// Whether the anchor knows nothing yet that this store contains.
    pub(super) fn is_new(&self) -> bool {
        self.anchor.is_some() && (self.told.is_none() || self.status.accepted.is_some())
    }

    /// Whether the anchor knows less than it could.
    pub(super) fn is_behind(&self, seq: u64) -> bool {
        self.anchor.is_some() && self.told.is_none_or(|told| told.seq != seq)
    }

    pub(super) fn status(&self) -> Option<AnchorStatus> {
        self.anchor.as_ref().map(|_| self.status.clone())
    }

    /// A superblock with this head is about to be written: who is to hear of it then, and what. What that one may
    /// know already stays named until it knows better.
    pub(super) fn name(&mut self, head: Head, is_last: bool) -> Option<(Arc<dyn Anchor>, Anchored)> {
        let to_tell = self.to_tell(self.id, head, is_last)?;
        let new = bytes(self.id, head);
        self.named.retain(|named| *named != new);
        while self.named.len() >= ANCHORS_MAX {
            let others = self.named.iter().filter(|named| named.id != self.id);
            let oldest = others.min_by_key(|named| named.seq.get()).copied()?;
            self.named.retain(|named| *named != oldest);
        }
        self.named.push(new);
        Some(to_tell)
    }

    /// Who is to hear of this head now, and what.
    fn to_tell(&self, id: [u8; 8], head: Head, is_last: bool) -> Option<(Arc<dyn Anchor>, Anchored)> {
        let is_early = self.told_at.is_some_and(|at| at.elapsed() < self.interval) && !is_last;
        if self.status.failure.is_some() || is_early || self.told == Some(head) {
            return None;
        }
        let anchored = Anchored { store_id: self.store_id, id, head, root: Some(self.root) };
        Some((self.anchor.clone()?, anchored))
    }

    /// The anchor heard of this head, or did not.
    pub(super) fn on_told(&mut self, head: Head, result: Result<(), AnchorError>) {
        match result {
            Ok(()) => {
                let id = self.id;
                self.named.retain(|named| named.id != id || *named == bytes(id, head));
                (self.told, self.told_at, self.status.seq) =
                    (Some(head), Some(Instant::now()), Some(head.seq));
            }
            // It may know the new head or the old one: both are named from now on.
            Err(error) => self.fail(&error),
        }
    }

    /// The store is closed.
    pub(super) fn finish(&mut self) {
        let finished =
            self.anchor.as_ref().filter(|_| self.status.failure.is_none()).map(|anchor| anchor.finish());
        if let Some(Err(error)) = finished {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &AnchorError) {
        let text = describe(error);
        tracing::warn!("the rollback anchor {} is not told any more: {text}", self.status.place);
        self.status.failure = Some(text);
    }

    /// What a superblock says.
    pub(super) fn named(&self) -> [AnchorBytes; ANCHORS_MAX] {
        let mut all = [AnchorBytes::new_zeroed(); ANCHORS_MAX];
        all.iter_mut().zip(&self.named).for_each(|(to, from)| *to = *from);
        all
    }
}

fn bytes(id: [u8; 8], head: Head) -> AnchorBytes {
    AnchorBytes { id, seq: head.seq.into(), record_hash: head.hash }
}

/// An anchor's error with its cause.
pub(super) fn describe(error: &AnchorError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Looks for what an anchor knows in a store: the records in its log, and what its superblock says of those before.
pub(super) fn find_head(
    anchored: &Anchored,
    superblock: &Superblock,
    records: &[Record],
) -> Result<(), Rollback> {
    let head = &anchored.head;
    let base = superblock.seq.get();
    let newest = base + records.len() as u64;
    if head.seq > newest {
        return Err(Rollback::Older { found: newest, anchored: head.seq });
    }
    let is_there = if head.seq > base {
        records[(head.seq - base - 1) as usize].hash == head.hash
    } else {
        let is_named = |named: &AnchorBytes| {
            named.id != [0; 8] && named.seq.get() == head.seq && named.record_hash == head.hash
        };
        (head.seq == base && superblock.record_hash == head.hash)
            || (head.seq < base && (!anchored.is_named() || superblock.anchors.iter().any(is_named)))
    };
    if is_there { Ok(()) } else { Err(Rollback::Forked { seq: head.seq }) }
}

impl Core {
    /// Has the anchor of who writes a part of the store hear of the newest record, once that is durable. No superblock names it:
    /// whoever writes the next one need not know of this anchor.
    pub(super) fn tell_of_record(&self, is_last: bool) -> StoreResult<()> {
        if self.bounds.is_none() {
            return Ok(());
        }
        let turn = self.turn.take();
        let head = {
            let sealer = self.sealer.lock();
            Head { seq: sealer.seq, hash: sealer.previous }
        };
        let to_tell = {
            let anchoring = self.anchoring.lock();
            anchoring.to_tell(unnamed_id(anchoring.id), head, is_last)
        };
        let Some((anchor, anchored)) = to_tell else { return Ok(()) };
        if self.durable_seq.load(Ordering::Acquire) < head.seq {
            self.check_sealable()?;
            self.make_durable()?;
        }
        drop(turn);
        let result = anchor.write(&anchored);
        self.anchoring.lock().on_told(head, result);
        Ok(())
    }
}

impl Store {
    /// How the store and its anchor stand to each other; `None` where it was opened without one.
    pub fn anchor(&self) -> Option<AnchorStatus> {
        self.core.anchoring.lock().status()
    }
}
