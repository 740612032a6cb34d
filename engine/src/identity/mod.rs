//! The layer of identity: what people hold in their hands: principals as a line of text and as a file, and backups of a
//! store's keys as files, as shares and as words.
//!
//! It knows no folders and asks for no passphrases; it turns bytes into keys and back.
//!
//! Invariants:
//! 1. Whatever is read here may have been written by anybody: a clear error, never a panic, and no more memory or time than
//!    the limits say.
//! 2. A file that was damaged by accident is told from a wrong passphrase.

mod backup;
mod principal_file;
mod request;
mod sealed_file;
mod shamir;
mod text;
mod tpm_file;
mod words;

pub use backup::{
    BackupError, BackupFile, BackupInfo, OpenPart, Split, combine, root_from_words, root_to_shares,
    root_to_words, seal_backup, seal_shares,
};
pub use principal_file::PrincipalFile;
pub use request::{REASON_BYTES_MAX, Request, RequestError};
pub use sealed_file::{Kind, Protection, SealedFile, SealedFileError};
pub use shamir::SHARES_MAX;
pub use text::TextError;
pub use tpm_file::{Approval, Approvals, Sealed, TpmFile};
pub use words::{WORDS_BYTES_MAX, WordsError, from_words, to_words};
