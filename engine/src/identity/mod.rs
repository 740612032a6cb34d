//! The layer of identity: what people hold in their hands. Principals as a line of text and as a file.
//!
//! It knows no folders and asks for no passphrases; it turns bytes into keys and back.
//!
//! Invariants:
//! 1. Whatever is read here may have been written by anybody: a clear error, never a panic, and no more memory or time than
//!    the limits say.
//! 2. A file that was damaged by accident is told from a wrong passphrase.

mod principal_file;
mod sealed_file;
mod text;

pub use principal_file::PrincipalFile;
pub use sealed_file::{Kind, Protection, SealedFile, SealedFileError};
pub use text::TextError;
