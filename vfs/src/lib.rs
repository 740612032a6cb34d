//! vfs

pub mod control;
pub mod fs;
#[cfg(feature = "fuse")]
pub mod fuse;
