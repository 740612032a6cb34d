//! Backups of a store's keys: whole, in a file; or in shares, of which some give all; or as words, of the root alone.
//!
//! Invariant: keys come out of here only if all of them are those that went in: a check sum over all of them is among what is
//! sealed and split.

use zerocopy::{FromBytes, IntoBytes};
use zeroize::Zeroizing;

use super::sealed_file::{Kind, Protection, SealedFile, SealedFileError};
use super::shamir::{self, SHARES_MAX};
use super::words::{WordsError, from_words, to_words};
use crate::MasterKeys;
use crate::crypto::{Hash, Principal, PrincipalId, Secret, random, tagged_hash};
use crate::format::{BackupClear, BackupSecrets, Malformed, malformed};

const WHAT: &str = "backup";

/// Of how many shares how many are needed: at least two, and at most [`SHARES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    needed: u8,
    shares: u8,
}

impl Split {
    pub fn new(needed: u8, shares: u8) -> Option<Self> {
        (2 <= needed && needed <= shares && shares <= SHARES_MAX).then_some(Self { needed, shares })
    }

    pub fn needed(self) -> u8 {
        self.needed
    }

    pub fn shares(self) -> u8 {
        self.shares
    }
}

/// What everybody may know of a backup. Only opening it shows that it is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupInfo {
    pub store_id: [u8; 16],
    pub root_principal: PrincipalId,
    /// When it was made: nanoseconds since 1970.
    pub time_ns: u64,
    /// Which share it is, and how many are needed; `None` where it is whole.
    pub share: Option<(u8, u8)>,
}

/// Why keys do not come back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    File(#[from] SealedFileError),
    #[error("it is a share: {needed} are needed to open the backup, and {found} are there")]
    TooFew { needed: u8, found: usize },
    #[error("share {0} is there twice")]
    Twice(u8),
    #[error("they are of different backups")]
    Mixed,
    #[error("its keys are not those that it says: it was changed")]
    Changed,
    #[error(transparent)]
    Words(#[from] WordsError),
    #[error("these words are a share of a root key: {needed} are needed, and {found} are there")]
    TooFewWords { needed: u8, found: usize },
    #[error("these words hold no root key")]
    ForeignWords,
    #[error("the root key did not grow from one seed, so it has no words; keep its backup in a file")]
    NoWords,
}

/// The bytes of a file with all keys.
pub fn seal_backup(keys: &MasterKeys, time_ns: u64, protection: Protection) -> Vec<u8> {
    let clear = clear_of(keys, time_ns);
    SealedFile::seal(Kind::Backup, clear.as_bytes(), secrets_of(keys).as_bytes(), protection)
}

/// The bytes of files with one share each.
pub fn seal_shares(keys: &MasterKeys, time_ns: u64, split: Split, protection: Protection) -> Vec<Vec<u8>> {
    let whole = clear_of(keys, time_ns);
    let shares = shamir::split(secrets_of(keys).as_bytes(), split.needed, split.shares);
    let file = |(share, secret): (u8, &Zeroizing<Vec<u8>>)| {
        let clear = BackupClear { needed: split.needed, share, ..whole };
        SealedFile::seal(Kind::Backup, clear.as_bytes(), secret, protection)
    };
    (1..).zip(&shares).map(file).collect()
}

/// A backup's file, or that of a share.
#[derive(Debug, Clone)]
pub struct BackupFile {
    clear: BackupClear,
    file: SealedFile,
}

impl BackupFile {
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let file = SealedFile::parse(bytes, Kind::Backup)?;
        let clear = BackupClear::read_from_bytes(file.clear());
        let clear = clear.map_err(|_| malformed(WHAT, "its length is wrong"))?;
        let is_whole = clear.needed == 0 && clear.share == 0;
        let is_share = (2..=SHARES_MAX).contains(&clear.needed) && (1..=SHARES_MAX).contains(&clear.share);
        if !is_whole && !is_share {
            return Err(malformed(WHAT, "there is no such share"));
        }
        Ok(Self { clear, file })
    }

    pub fn info(&self) -> BackupInfo {
        let clear = &self.clear;
        BackupInfo {
            store_id: clear.store_id,
            root_principal: clear.root_principal,
            time_ns: clear.time_ns.get(),
            share: (clear.needed != 0).then_some((clear.share, clear.needed)),
        }
    }

    /// Whether a passphrase is needed.
    pub fn is_protected(&self) -> bool {
        self.file.is_protected()
    }

    /// Its secret part. The passphrase does not matter where none is needed.
    pub fn open(&self, passphrase: &[u8]) -> Result<OpenPart, SealedFileError> {
        let secret = self.file.open(passphrase)?;
        if secret.len() != size_of::<BackupSecrets>() {
            return Err(malformed(WHAT, "its length is wrong").into());
        }
        Ok(OpenPart { clear: self.clear, secret })
    }
}

/// A backup, or a share of one, that its passphrase opened.
pub struct OpenPart {
    clear: BackupClear,
    secret: Zeroizing<Vec<u8>>,
}

/// The keys of a backup: of one part that is whole, or of as many shares as are needed.
pub fn combine(parts: &[OpenPart]) -> Result<MasterKeys, BackupError> {
    let Some(first) = parts.first() else { return Err(BackupError::TooFew { needed: 1, found: 0 }) };
    let common = |clear: &BackupClear| BackupClear { share: 0, ..*clear };
    if parts.iter().any(|part| common(&part.clear) != common(&first.clear)) {
        return Err(BackupError::Mixed);
    }
    let twice = parts
        .iter()
        .enumerate()
        .find(|(at, part)| parts[..*at].iter().any(|other| other.clear.share == part.clear.share));
    if let Some((_, part)) = twice {
        return Err(if part.clear.share == 0 {
            BackupError::Mixed
        } else {
            BackupError::Twice(part.clear.share)
        });
    }
    let needed = first.clear.needed;
    if parts.len() < usize::from(needed) {
        return Err(BackupError::TooFew { needed, found: parts.len() });
    }
    let secret = if needed == 0 {
        first.secret.clone()
    } else {
        let shares: Vec<(u8, &[u8])> =
            parts.iter().map(|part| (part.clear.share, part.secret.as_slice())).collect();
        shamir::combine(&shares)
    };
    let secrets = BackupSecrets::read_from_bytes(&secret).map_err(|_| BackupError::Changed)?;
    let root = Principal::from_seeds(Zeroizing::new(secrets.root_seeds));
    let is_whole = secrets.check == check_of(&secrets)
        && secrets.store_id == first.clear.store_id
        && root.public().id() == first.clear.root_principal;
    if !is_whole {
        return Err(BackupError::Changed);
    }
    Ok(MasterKeys {
        store_id: secrets.store_id,
        owner: Secret::new(secrets.owner_key),
        structure: Secret::new(secrets.structure_key),
        root,
    })
}

/// Bytes of a share as words: how many are needed and which it is (four bits each), three bytes that shares of one root
/// have in common, and the share.
const SHARE_WORDS_BYTES: usize = 1 + SET_BYTES + 32;
const SET_BYTES: usize = 3;

/// The root's seed as 24 words.
pub fn root_to_words(root: &Principal) -> Result<Vec<&'static str>, BackupError> {
    Ok(to_words(seed_of(root)?.bytes()))
}

/// Shares of the root's seed as lists of 27 words.
pub fn root_to_shares(root: &Principal, split: Split) -> Result<Vec<Vec<&'static str>>, BackupError> {
    let seed = seed_of(root)?;
    let set: [u8; SET_BYTES] = random();
    let shares = shamir::split(seed.bytes(), split.needed, split.shares);
    let words = |(number, share): (u8, &Zeroizing<Vec<u8>>)| {
        let mut bytes = Zeroizing::new(Vec::with_capacity(SHARE_WORDS_BYTES));
        bytes.push(split.needed << 4 | number);
        bytes.extend_from_slice(&set);
        bytes.extend_from_slice(share);
        to_words(&bytes)
    };
    Ok((1..).zip(&shares).map(words).collect())
}

/// The root of its words, or of the words of as many shares as are needed: one list each. Whether it is the right one is seen
/// by its id.
pub fn root_from_words<S: AsRef<str>>(lists: &[S]) -> Result<Principal, BackupError> {
    let lists = lists.iter().map(|list| from_words(list.as_ref())).collect::<Result<Vec<_>, _>>()?;
    let is_share = |bytes: &Zeroizing<Vec<u8>>| bytes.len() == SHARE_WORDS_BYTES;
    let seed = match lists.as_slice() {
        [seed] if seed.len() == 32 => seed.clone(),
        [] => return Err(BackupError::ForeignWords),
        shares if shares.iter().all(is_share) => {
            let needed = shares[0][0] >> 4;
            // What shares have in common: how many are needed, and the set.
            let common = |share: &[u8]| (share[0] >> 4, [share[1], share[2], share[3]]);
            if shares.iter().any(|share| common(share) != common(&shares[0])) {
                return Err(BackupError::Mixed);
            }
            let numbers: Vec<u8> = shares.iter().map(|share| share[0] & 0xf).collect();
            if needed < 2 || numbers.contains(&0) {
                return Err(BackupError::ForeignWords);
            }
            if let Some(at) = (1..numbers.len()).find(|at| numbers[..*at].contains(&numbers[*at])) {
                return Err(BackupError::Twice(numbers[at]));
            }
            if numbers.len() < usize::from(needed) {
                return Err(BackupError::TooFewWords { needed, found: numbers.len() });
            }
            let shares = numbers.iter().zip(shares).map(|(number, share)| (*number, &share[1 + SET_BYTES..]));
            shamir::combine(&shares.collect::<Vec<_>>())
        }
        several if several.iter().any(is_share) => return Err(BackupError::Mixed),
        _ => return Err(BackupError::ForeignWords),
    };
    let seed = Zeroizing::new(<[u8; 32]>::try_from(seed.as_slice()).map_err(|_| BackupError::ForeignWords)?);
    Ok(Principal::from_seed(&Secret::new(*seed)))
}

/// The seed that a principal grew from.
fn seed_of(root: &Principal) -> Result<Secret, BackupError> {
    let seed = Secret::new(root.seeds()[..32].try_into().expect("half of the seeds"));
    let is_grown = Principal::from_seed(&seed).public() == root.public();
    if is_grown { Ok(seed) } else { Err(BackupError::NoWords) }
}

fn clear_of(keys: &MasterKeys, time_ns: u64) -> BackupClear {
    BackupClear {
        store_id: keys.store_id,
        root_principal: keys.root.public().id(),
        time_ns: time_ns.into(),
        set: random(),
        needed: 0,
        share: 0,
        reserved: [0; 6],
    }
}

fn secrets_of(keys: &MasterKeys) -> BackupSecrets {
    let mut secrets = BackupSecrets {
        store_id: keys.store_id,
        owner_key: *keys.owner.bytes(),
        structure_key: *keys.structure.bytes(),
        root_seeds: *keys.root.seeds(),
        check: [0; 32],
    };
    secrets.check = check_of(&secrets);
    secrets
}

fn check_of(secrets: &BackupSecrets) -> Hash {
    let bytes = secrets.as_bytes();
    tagged_hash("blocktree backup v1", &[&bytes[..bytes.len() - 32]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::KdfCost;

    const PASSPHRASE: Protection = Protection::Passphrase(b"paper", KdfCost::TRIVIAL);

    fn keys() -> MasterKeys {
        MasterKeys {
            store_id: random(),
            owner: Secret::random(),
            structure: Secret::random(),
            root: Principal::generate(),
        }
    }

    fn open(file: &[u8]) -> OpenPart {
        BackupFile::parse(file).unwrap().open(b"paper").unwrap()
    }

    fn same(a: &MasterKeys, b: &MasterKeys) -> bool {
        a.store_id == b.store_id
            && a.owner.bytes() == b.owner.bytes()
            && a.structure.bytes() == b.structure.bytes()
            && a.root.seeds() == b.root.seeds()
    }

    #[test]
    fn a_whole_backup_comes_back() {
        let keys = keys();
        for protection in [PASSPHRASE, Protection::None] {
            let bytes = seal_backup(&keys, 42, protection);
            let file = BackupFile::parse(&bytes).unwrap();
            let info = file.info();
            assert_eq!((info.store_id, info.time_ns, info.share), (keys.store_id, 42, None));
            assert_eq!(info.root_principal, keys.root.public().id());
            assert!(same(&combine(&[open(&bytes)]).unwrap(), &keys));
        }
        let bytes = seal_backup(&keys, 42, PASSPHRASE);
        let wrong = BackupFile::parse(&bytes).unwrap().open(b"wrong").map(drop);
        assert_eq!(wrong, Err(SealedFileError::WrongPassphrase));
        let doubled = combine(&[open(&bytes), open(&bytes)]).map(drop);
        assert_eq!(doubled, Err(BackupError::Mixed));
    }

    #[test]
    fn shares_come_back_together() {
        let (keys, split) = (keys(), Split::new(2, 3).unwrap());
        let files = seal_shares(&keys, 42, split, PASSPHRASE);
        let parts = |numbers: &[usize]| numbers.iter().map(|at| open(&files[*at])).collect::<Vec<_>>();
        for numbers in [&[0, 1][..], &[2, 0], &[1, 2], &[2, 1, 0]] {
            assert!(same(&combine(&parts(numbers)).unwrap(), &keys), "{numbers:?}");
        }
        assert_eq!(BackupFile::parse(&files[2]).unwrap().info().share, Some((3, 2)));
        let error = |parts: &[OpenPart]| combine(parts).map(drop).unwrap_err();
        assert_eq!(error(&parts(&[1])), BackupError::TooFew { needed: 2, found: 1 });
        assert_eq!(error(&parts(&[1, 1])), BackupError::Twice(2));
        assert_eq!(error(&[]), BackupError::TooFew { needed: 1, found: 0 });
        let others = seal_shares(&keys, 42, split, PASSPHRASE);
        assert_eq!(error(&[open(&files[0]), open(&others[1])]), BackupError::Mixed);
        assert_eq!(error(&[open(&seal_backup(&keys, 42, PASSPHRASE)), open(&files[0])]), BackupError::Mixed);
        // Whoever holds a share may change it.
        let mut changed = parts(&[0, 1]);
        changed[1].secret[20] ^= 1;
        assert_eq!(error(&changed), BackupError::Changed);
        assert!(Split::new(1, 3).is_none() && Split::new(3, 2).is_none() && Split::new(2, 16).is_none());
    }

    #[test]
    fn words_bring_the_root_back() {
        let root = Principal::generate();
        let words = root_to_words(&root).unwrap();
        assert_eq!(words.len(), 24);
        let text = words.join(" ");
        assert_eq!(root_from_words(&[&text]).unwrap().public(), root.public());

        let shares = root_to_shares(&root, Split::new(3, 5).unwrap()).unwrap();
        let lists = |numbers: &[usize]| numbers.iter().map(|at| shares[*at].join(" ")).collect::<Vec<_>>();
        assert_eq!((shares.len(), shares[0].len()), (5, 27));
        for numbers in [&[0, 1, 2][..], &[4, 2, 0], &[0, 1, 2, 3, 4]] {
            assert_eq!(root_from_words(&lists(numbers)).unwrap().public(), root.public());
        }
        let error = |lists: &[String]| root_from_words(lists).map(drop).unwrap_err();
        assert_eq!(error(&lists(&[3, 1])), BackupError::TooFewWords { needed: 3, found: 2 });
        assert_eq!(error(&lists(&[3, 1, 3])), BackupError::Twice(4));
        let others = root_to_shares(&root, Split::new(3, 5).unwrap()).unwrap();
        assert_eq!(error(&[lists(&[0, 1]), vec![others[2].join(" ")]].concat()), BackupError::Mixed);
        assert_eq!(error(&[text.clone(), lists(&[0]).remove(0)]), BackupError::Mixed);
        assert_eq!(error(&[text.clone(), text.clone()]), BackupError::ForeignWords);
        assert_eq!(error(&[to_words(&[7; 16]).join(" ")]), BackupError::ForeignWords);
        assert_eq!(error(&[]), BackupError::ForeignWords);
        assert!(matches!(error(&["zoo".to_owned()]), BackupError::Words(_)));

        let other = Principal::from_seeds(Zeroizing::new(random()));
        assert_eq!(root_to_words(&other), Err(BackupError::NoWords));
    }

    #[test]
    fn parts_that_cannot_be_are_refused() {
        let keys = keys();
        for (needed, share) in [(0, 1), (1, 1), (2, 0), (16, 1), (2, 16)] {
            let clear = BackupClear { needed, share, ..clear_of(&keys, 0) };
            let file = SealedFile::seal(Kind::Backup, clear.as_bytes(), &[0; 176], Protection::None);
            assert!(BackupFile::parse(&file).is_err(), "{needed} {share}");
        }
        let clear = clear_of(&keys, 0);
        let file = SealedFile::seal(Kind::Backup, clear.as_bytes(), &[0; 175], Protection::None);
        assert!(BackupFile::parse(&file).unwrap().open(b"").is_err());
        let file = SealedFile::seal(Kind::Backup, &[0; 71], &[0; 176], Protection::None);
        assert!(BackupFile::parse(&file).is_err());
        let other = BackupClear { store_id: random(), ..clear };
        let secrets = secrets_of(&keys);
        let file = SealedFile::seal(Kind::Backup, other.as_bytes(), secrets.as_bytes(), Protection::None);
        assert_eq!(combine(&[open(&file)]).map(drop), Err(BackupError::Changed));
    }
}
