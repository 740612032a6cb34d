//! An anchor in a file: a few lines of text, replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Anchor, AnchorError, Anchored, Head};
use crate::crypto::{from_hexadecimal, hexadecimal, tagged_hash};

const TITLE: &str = "blocktree anchor 1";
/// Far more than such a file has.
const BYTES_MAX: u64 = 4096;

/// An anchor in a file.
#[derive(Debug, Clone)]
pub struct FileAnchor {
    path: PathBuf,
    /// The path is a folder with a file for each store, made where it is missing.
    is_folder: bool,
}

impl FileAnchor {
    /// Keeps one store's anchor in this file, in a folder that exists.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), is_folder: false }
    }

    /// Keeps the anchors of all stores in this folder.
    pub fn in_folder(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), is_folder: true }
    }

    fn path(&self, store_id: &[u8; 16]) -> PathBuf {
        if self.is_folder { self.path.join(hexadecimal(store_id)) } else { self.path.clone() }
    }
}

impl Anchor for FileAnchor {
    fn place(&self, store_id: &[u8; 16]) -> String {
        self.path(store_id).display().to_string()
    }

    fn read(&self, store_id: &[u8; 16]) -> Result<Option<Anchored>, AnchorError> {
        let file = match File::open(self.path(store_id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(AnchorError::Read)?,
        };
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(AnchorError::Read)?;
        let text = String::from_utf8(bytes).map_err(|_| AnchorError::Damaged("not text"))?;
        let anchored = decode(&text).map_err(AnchorError::Damaged)?;
        if anchored.store_id != *store_id {
            return Err(AnchorError::Damaged("it is another store's"));
        }
        Ok(Some(anchored))
    }

    fn write(&self, anchored: &Anchored) -> Result<(), AnchorError> {
        let path = self.path(&anchored.store_id);
        replace(&path, self.is_folder, encode(anchored).as_bytes()).map_err(AnchorError::Write)
    }
}

/// Replaces a file as a whole: whatever happens, the old or the new one is there.
pub(super) fn replace(path: &Path, make_folder: bool, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if make_folder {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

fn encode(anchored: &Anchored) -> String {
    let mut lines = format!(
        "{TITLE}\nstore {}\nanchor {}\nseq {}\nhash {}\n",
        hexadecimal(&anchored.store_id),
        hexadecimal(&anchored.id),
        anchored.head.seq,
        hexadecimal(&anchored.head.hash)
    );
    if let Some(root) = &anchored.root {
        lines += &format!("root {}\n", hexadecimal(root));
    }
    let check = check(&lines);
    lines + "check " + &check + "\n"
}

/// Against accidents, not against attackers: who can write this file can forget it too.
fn check(lines: &str) -> String {
    hexadecimal(&tagged_hash("blocktree anchor file v1", &[lines.as_bytes()])[..8])
}

fn decode(text: &str) -> Result<Anchored, &'static str> {
    let (lines, last) = text
        .strip_suffix('\n')
        .and_then(|text| text.rfind('\n'))
        .map(|at| text.split_at(at + 1))
        .ok_or("too short")?;
    if last.strip_prefix("check ").and_then(|rest| rest.strip_suffix('\n')) != Some(&check(lines)) {
        return Err("its check sum does not fit");
    }
    let mut rest = lines.lines();
    if rest.next() != Some(TITLE) {
        return Err("of another version");
    }
    let mut optional =
        |name: &str| rest.next().map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_default();
    let mut field = |name: &str| optional(name).ok_or("a line is missing");
    const NUMBER: &str = "not a number";
    Ok(Anchored {
        store_id: from_hexadecimal(field("store")?).ok_or(NUMBER)?,
        id: from_hexadecimal(field("anchor")?).ok_or(NUMBER)?,
        head: Head {
            seq: field("seq")?.parse().map_err(|_| NUMBER)?,
            hash: from_hexadecimal(field("hash")?).ok_or(NUMBER)?,
        },
        // Files from before it was remembered end here.
        root: optional("root").map(|root| from_hexadecimal(root).ok_or(NUMBER)).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchored(seq: u64) -> Anchored {
        let root = (seq != 17).then_some([0x3c; 32]);
        Anchored { store_id: [0xa1; 16], id: [7; 8], head: Head { seq, hash: [0xfe; 32] }, root }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        for anchor in
            [FileAnchor::in_folder(folder.path().join("deep/er")), FileAnchor::at(folder.path().join("file"))]
        {
            assert_eq!(anchor.read(&[0xa1; 16]).unwrap(), None);
            for seq in [0, 17, u64::MAX] {
                anchor.write(&anchored(seq)).unwrap();
                assert_eq!(anchor.read(&[0xa1; 16]).unwrap(), Some(anchored(seq)));
            }
        }
        let other = FileAnchor::at(folder.path().join("file")).read(&[1; 16]);
        assert!(matches!(other, Err(AnchorError::Damaged(why)) if why.contains("another store")));
        let nowhere = FileAnchor::at(folder.path().join("none/file"));
        assert!(matches!(nowhere.write(&anchored(1)), Err(AnchorError::Write(_))));
    }

    #[test]
    fn every_damage_is_noticed() {
        let whole = encode(&anchored(42));
        assert_eq!(decode(&whole), Ok(anchored(42)));
        for at in 0..whole.len() {
            assert!(decode(&whole[..at]).is_err());
            let mut bytes = whole.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(String::from_utf8(bytes).is_ok_and(|text| decode(&text).is_err()), "byte {at}");
        }
    }
}
