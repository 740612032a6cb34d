//! vfs

pub mod control;
