//! Files of keys: a part that everybody may read, a part under a passphrase, and a check sum over all.
//!
//! A file may have no passphrase. Its layout is the same then, and its key is no secret: who holds the file holds what is
//! in it.

use zerocopy::{FromBytes, IntoBytes};
use zeroize::Zeroizing;

use crate::crypto::{KdfCost, Secret, open_item, random, seal_item, stretch, tagged_hash};
use crate::format::{FORMAT_VERSION, Malformed, OTHER_VERSION, SealedFileHeader};
use crate::limits::SEALED_FILE_BYTES_MAX;

const SEAL_BYTES: usize = 12 + 16;
const CHECK_BYTES: usize = 32;

/// What a file is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Principal,
    Backup,
}

impl Kind {
    fn number(self) -> u32 {
        match self {
            Self::Principal => 1,
            Self::Backup => 2,
        }
    }

    /// For errors.
    fn name(self) -> &'static str {
        match self {
            Self::Principal => "principal file",
            Self::Backup => "backup",
        }
    }
}

/// What keeps others from the secret part.
#[derive(Debug, Clone, Copy)]
pub enum Protection<'a> {
    Passphrase(&'a [u8], KdfCost),
    /// Nothing but who may read the file.
    None,
}

/// Why a file of keys does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealedFileError {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("wrong passphrase")]
    WrongPassphrase,
}

/// A whole file, as far as can be told without its passphrase.
#[derive(Debug, Clone)]
pub struct SealedFile {
    kind: Kind,
    header: SealedFileHeader,
    /// Header and clear part.
    open: Vec<u8>,
    sealed: Vec<u8>,
}

impl SealedFile {
    /// The bytes of a new file.
    pub fn seal(kind: Kind, clear: &[u8], secret: &[u8], protection: Protection) -> Vec<u8> {
        let (memory_kib, passes, lanes) = match protection {
            Protection::Passphrase(_, cost) => (cost.memory_kib, cost.passes, 1),
            Protection::None => (0, 0, 0),
        };
        let header = SealedFileHeader {
            magic: SealedFileHeader::MAGIC,
            version: FORMAT_VERSION.into(),
            kind: kind.number().into(),
            memory_kib: memory_kib.into(),
            passes: passes.into(),
            lanes: lanes.into(),
            clear_bytes: (clear.len() as u32).into(),
            secret_bytes: (secret.len() as u32).into(),
            reserved: 0.into(),
            salt: random(),
        };
        let key = match protection {
            Protection::Passphrase(passphrase, cost) => {
                stretch(passphrase, &header.salt, cost).expect("the cost is within Argon2's limits")
            }
            Protection::None => public_key(&header.salt),
        };
        let mut file = [header.as_bytes(), clear].concat();
        let place = file.clone();
        seal_item(&key, &place, secret, &mut file);
        file.extend_from_slice(&check_sum(&file));
        debug_assert!(file.len() <= SEALED_FILE_BYTES_MAX);
        file
    }

    /// Reads a file of this kind.
    pub fn parse(bytes: &[u8], kind: Kind) -> Result<Self, Malformed> {
        let malformed = |why| Malformed { what: kind.name(), why };
        let Ok((header, _)) = SealedFileHeader::read_from_prefix(bytes) else {
            return Err(malformed("it is too short"));
        };
        if header.magic != SealedFileHeader::MAGIC {
            return Err(malformed("it is another kind of file"));
        }
        if header.version.get() != FORMAT_VERSION {
            return Err(malformed(OTHER_VERSION));
        }
        let [clear, secret] = [header.clear_bytes, header.secret_bytes].map(|bytes| bytes.get() as usize);
        let open = clear.checked_add(size_of::<SealedFileHeader>());
        let end = open.and_then(|open| open.checked_add(secret)?.checked_add(SEAL_BYTES + CHECK_BYTES));
        let (Some(open), Some(end)) = (open, end) else { return Err(malformed(DAMAGED)) };
        if end != bytes.len() || end > SEALED_FILE_BYTES_MAX {
            return Err(malformed(DAMAGED));
        }
        let (all, check) = bytes.split_at(end - CHECK_BYTES);
        if check != check_sum(all) {
            return Err(malformed(DAMAGED));
        }
        if header.kind.get() != kind.number() {
            return Err(malformed("it holds other keys"));
        }
        let (open, sealed) = all.split_at(open);
        Ok(Self { kind, header, open: open.to_vec(), sealed: sealed.to_vec() })
    }

    /// What everybody may know. Only [`SealedFile::open`] shows that nobody changed it.
    pub fn clear(&self) -> &[u8] {
        &self.open[size_of::<SealedFileHeader>()..]
    }

    /// Whether a passphrase is needed.
    pub fn is_protected(&self) -> bool {
        self.header.lanes.get() != 0
    }

    /// The secret part. The passphrase does not matter where none is needed.
    pub fn open(&self, passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealedFileError> {
        let malformed = |why| Malformed { what: self.kind.name(), why };
        let key = if self.is_protected() {
            let SealedFileHeader { memory_kib, passes, lanes, .. } = self.header;
            let cost = KdfCost::from_fields(memory_kib, passes, lanes).map_err(malformed)?;
            stretch(passphrase, &self.header.salt, cost).map_err(malformed)?
        } else {
            public_key(&self.header.salt)
        };
        open_item(&key, &self.open, &self.sealed).map_err(|_| {
            if self.is_protected() {
                SealedFileError::WrongPassphrase
            } else {
                malformed("its seal does not fit").into()
            }
        })
    }
}

const DAMAGED: &str = "it is damaged or cut off";

/// The key of a file without a passphrase.
fn public_key(salt: &[u8; 32]) -> Secret {
    Secret::new(tagged_hash("blocktree unprotected file v1", &[salt]))
}

/// Against accidents, so that those are not taken for a wrong passphrase.
fn check_sum(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    tagged_hash("blocktree sealed file v1", &[bytes])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(protection: Protection) -> Vec<u8> {
        SealedFile::seal(Kind::Principal, b"everybody", b"nobody", protection)
    }

    #[test]
    fn what_is_sealed_is_opened() {
        for (protection, is_protected) in
            [(Protection::Passphrase(b"open", KdfCost::TRIVIAL), true), (Protection::None, false)]
        {
            let file = SealedFile::parse(&sealed(protection), Kind::Principal).unwrap();
            assert_eq!((file.clear(), file.is_protected()), (&b"everybody"[..], is_protected));
            assert_eq!(file.open(b"open").unwrap().as_slice(), b"nobody");
            let wrong = file.open(b"wrong").map(|secret| secret.to_vec());
            let expected =
                if is_protected { Err(SealedFileError::WrongPassphrase) } else { Ok(b"nobody".to_vec()) };
            assert_eq!(wrong, expected);
        }
    }

    #[test]
    fn every_damage_is_told_from_a_wrong_passphrase() {
        let whole = sealed(Protection::Passphrase(b"open", KdfCost::TRIVIAL));
        for at in 0..whole.len() {
            assert!(SealedFile::parse(&whole[..at], Kind::Principal).is_err(), "cut at {at}");
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            assert!(SealedFile::parse(&bytes, Kind::Principal).is_err(), "byte {at}");
        }
        let longer = [&whole[..], b"x"].concat();
        assert!(SealedFile::parse(&longer, Kind::Principal).is_err());
        let other = SealedFile::parse(&whole, Kind::Backup).unwrap_err();
        assert_eq!(other.to_string(), "malformed backup: it holds other keys");
    }

    /// Someone who makes the check sum fit again.
    #[test]
    fn what_is_changed_on_purpose_does_not_open() {
        let whole = sealed(Protection::Passphrase(b"open", KdfCost::TRIVIAL));
        let forged = |change: &dyn Fn(&mut SealedFileHeader)| {
            let (mut header, _) = SealedFileHeader::read_from_prefix(&whole).unwrap();
            change(&mut header);
            let rest = &whole[size_of::<SealedFileHeader>()..whole.len() - CHECK_BYTES];
            let mut bytes = [header.as_bytes(), rest].concat();
            bytes.extend_from_slice(&check_sum(&bytes));
            SealedFile::parse(&bytes, Kind::Principal).unwrap().open(b"open").map(drop)
        };
        assert_eq!(forged(&|_| ()), Ok(()));
        let wrong = Err(SealedFileError::WrongPassphrase);
        assert_eq!(forged(&|header| header.memory_kib = 128.into()), wrong);
        assert_eq!(forged(&|header| header.passes = 2.into()), wrong);
        assert_eq!(forged(&|header| header.reserved = 1.into()), wrong);
        let costly = |header: &mut SealedFileHeader| header.memory_kib = u32::MAX.into();
        assert!(matches!(forged(&costly), Err(SealedFileError::Malformed(_))));
        let unprotected = |header: &mut SealedFileHeader| header.lanes = 0.into();
        assert!(matches!(forged(&unprotected), Err(SealedFileError::Malformed(_))));
        let mut bytes = whole.clone();
        bytes[size_of::<SealedFileHeader>()] ^= 1;
        let end = bytes.len() - CHECK_BYTES;
        let check = check_sum(&bytes[..end]);
        bytes[end..].copy_from_slice(&check);
        assert_eq!(SealedFile::parse(&bytes, Kind::Principal).unwrap().open(b"open").map(drop), wrong);
    }
}
