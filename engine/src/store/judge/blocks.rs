//! What a judgement has found out about blocks: it asks for the same ones again and again.

use std::collections::BTreeMap;

use crate::format::{BlockHeader, BlockId};

/// What is known of a block; `None`: it has not been asked for. By [`When`](super::When), where both matter.
#[derive(Default)]
pub(super) struct Standing {
    pub(super) header: [Option<Option<BlockHeader>>; 2],
    pub(super) inside: [Option<bool>; 2],
    /// By how much its sectors change, wrapping.
    pub(super) grown: u64,
}

#[derive(Default)]
pub(super) struct Blocks {
    places: BTreeMap<BlockId, usize>,
    standings: Vec<(BlockId, Standing)>,
    /// Items of one block stand together.
    last: usize,
}

impl Blocks {
    pub(super) fn of(&mut self, id: BlockId) -> &mut Standing {
        if self.standings.get(self.last).is_none_or(|(last, _)| *last != id) {
            let next = self.standings.len();
            self.last = *self.places.entry(id).or_insert(next);
            if self.last == next {
                self.standings.push((id, Standing::default()));
            }
        }
        &mut self.standings[self.last].1
    }

    /// The blocks that have been asked for.
    pub(super) fn ids(&self) -> impl Iterator<Item = BlockId> {
        self.standings.iter().map(|(id, _)| *id)
    }
}
