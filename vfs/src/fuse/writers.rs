//! Which files somebody has open for writing: those of which the kernel may hold what nobody else knows of.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use parking_lot::Mutex;

use crate::Ino;

const SHARDS: usize = 16;

/// How often each inode is open for writing.
#[derive(Default)]
pub(super) struct Writers([Mutex<HashMap<Ino, usize>>; SHARDS]);

impl Writers {
    pub(super) fn add(&self, ino: Ino) {
        *self.shard(ino).lock().entry(ino).or_default() += 1;
    }

    pub(super) fn remove(&self, ino: Ino) {
        if let Entry::Occupied(mut count) = self.shard(ino).lock().entry(ino) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    pub(super) fn contains(&self, ino: Ino) -> bool {
        self.shard(ino).lock().contains_key(&ino)
    }

    fn shard(&self, ino: Ino) -> &Mutex<HashMap<Ino, usize>> {
        &self.0[(ino % SHARDS as u64) as usize]
    }
}
