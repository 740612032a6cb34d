//! STAND-IN until branch `vfs` is merged.
use blocktree_engine::Store;

pub struct Fs {}

impl Fs {
    pub fn format(_store: &Store, _user: u32, _group: u32) -> Result<(), blocktree_engine::Error> {
        unimplemented!()
    }
    pub fn open(_store: Store, _read_only: bool) -> Result<Self, blocktree_engine::Error> {
        unimplemented!()
    }
    pub fn close(&self) -> Result<(), blocktree_engine::Error> {
        unimplemented!()
    }
}
