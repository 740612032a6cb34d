//! What the project's own programs share: running commands, and a folder whose mounts are undone in any case.

pub mod command;
pub mod scratch;
