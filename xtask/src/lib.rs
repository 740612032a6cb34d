//! What the project's own programs and tests share: running commands, a folder whose mounts are undone in any case, and
//! a private Samba server.

pub mod command;
pub mod guests;
pub mod samba;
pub mod scratch;
