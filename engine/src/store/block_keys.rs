//! The keys of one block: what its header gives, and what everything of it is sealed under.

use crate::crypto::{Secret, Unopenable, open_item, open_key, wrap_key};
use crate::format::{BlockId, WRAPPED_KEY_BYTES};

/// A block's key, and those that it had before as long as something stands under them.
#[derive(Clone)]
pub(super) struct KeyChain {
    pub(super) epoch: u32,
    pub(super) key: Secret,
    /// The key as the header has it, and the readcap that can open that; 0: the owner key.
    pub(super) owner_key: [u8; WRAPPED_KEY_BYTES],
    pub(super) wrapped_by: u64,
    /// By epoch, the newest first.
    pub(super) older: Vec<(u32, Secret)>,
}

/// What a block key gives: keys for data, for items and for hashing names.
pub(super) struct BlockKeys {
    pub(super) epoch: u32,
    pub(super) data: Secret,
    pub(super) item: Secret,
    name: Secret,
    /// The newest first; those have none of their own.
    pub(super) older: Vec<BlockKeys>,
}

impl KeyChain {
    pub(super) fn expand(&self) -> BlockKeys {
        let older = self.older.iter().map(|(epoch, key)| BlockKeys::of(*epoch, key));
        BlockKeys { older: older.collect(), ..BlockKeys::of(self.epoch, &self.key) }
    }

    /// The older keys as the index keeps them: the number of each, and the key wrapped under the newest.
    pub(super) fn wrap_older(&self) -> Vec<(u64, [u8; WRAPPED_KEY_BYTES])> {
        let item = BlockKeys::of(self.epoch, &self.key).item;
        let wrap = |(epoch, key): &(u32, Secret)| {
            let epoch = u64::from(*epoch);
            (epoch, wrap_key(&item, &epoch.to_le_bytes(), key))
        };
        self.older.iter().map(wrap).collect()
    }
}

impl BlockKeys {
    pub(super) fn of(epoch: u32, key: &Secret) -> Self {
        Self {
            epoch,
            data: key.derive("blocktree block data v1"),
            item: key.derive("blocktree block items v1"),
            name: key.derive("blocktree block names v1"),
            older: Vec::new(),
        }
    }

    /// Those of one epoch.
    pub(super) fn of_epoch(&self, epoch: u32) -> Option<&Self> {
        std::iter::once(self).chain(&self.older).find(|keys| keys.epoch == epoch)
    }

    pub(super) fn name_hash(&self, name: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(self.name.bytes(), name);
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 bytes"))
    }

    /// A child's key, wrapped under any of these, wrapped anew under the newest of `new`.
    pub(super) fn rewrap(
        &self,
        new: &Self,
        child: BlockId,
        wrapped: &[u8; WRAPPED_KEY_BYTES],
    ) -> Option<[u8; WRAPPED_KEY_BYTES]> {
        let place = child.to_le_bytes();
        let mut all = std::iter::once(self).chain(&self.older);
        let key = all.find_map(|keys| open_key(&keys.item, &place, wrapped).ok())?;
        Some(wrap_key(&new.item, &place, &key))
    }

    /// Opens what is sealed at a place under any of the keys; whether it was an older one.
    pub(super) fn open_item(
        &self,
        place: &[u8],
        sealed: &[u8],
    ) -> Result<(zeroize::Zeroizing<Vec<u8>>, bool), Unopenable> {
        match open_item(&self.item, place, sealed) {
            Ok(plain) => Ok((plain, false)),
            Err(unopenable) => {
                let mut opened =
                    self.older.iter().filter_map(|keys| open_item(&keys.item, place, sealed).ok());
                opened.next().map(|plain| (plain, true)).ok_or(unopenable)
            }
        }
    }
}
