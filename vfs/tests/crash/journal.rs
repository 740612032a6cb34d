//! Whether the journal says how the tree that is shown came about: from an empty root, change by change, it must lead to
//! exactly the names that there are.

use std::collections::{BTreeMap, BTreeSet};

use blocktree_engine::Seq;
use blocktree_vfs::layout::{Note, NoteKind};
use blocktree_vfs::{Fs, Ino};

use crate::shown::Tree;

/// Notes to one page: fewer than most journals here have.
const PAGE: usize = 100;

/// What the journal leads to.
#[derive(Default)]
struct Replayed {
    names: BTreeMap<(Ino, Vec<u8>), Ino>,
    modified: BTreeSet<Ino>,
}

/// Compares the journal with the tree. One whose oldest entries are not kept any more says too little.
pub(crate) fn compare(fs: &Fs, tree: &Tree) -> Result<(), String> {
    let mut replayed = Replayed::default();
    let mut seq = Seq(0);
    loop {
        let page = fs.store().notes_since(seq, PAGE).map_err(|error| format!("journal: {error}"))?;
        if page.missing_to.is_some() {
            return Ok(());
        }
        let Some(last) = page.notes.last() else { break };
        for note in &page.notes {
            let note = Note::decode(&note.bytes).map_err(|malformed| malformed.0.to_owned())?;
            replayed.apply(&note).map_err(|why| format!("journal: {note:?}: {why}"))?;
        }
        if last.seq <= seq || page.notes.windows(2).any(|pair| pair[0].seq > pair[1].seq) {
            return Err("journal: operations out of order".into());
        }
        seq = last.seq;
    }
    let shown = tree.names();
    if replayed.names != shown {
        return Err(format!("journal: leads to {:?}, and there is {shown:?}", replayed.names));
    }
    match tree.files_with_bytes().find(|ino| !replayed.modified.contains(ino)) {
        Some(ino) => Err(format!("journal: inode {ino} has bytes and was never modified")),
        None => Ok(()),
    }
}

impl Replayed {
    fn apply(&mut self, note: &Note<'_>) -> Result<(), String> {
        let key = |name: Option<(Ino, &[u8])>| name.map(|(parent, name)| (parent, name.to_vec()));
        let no_name = || "without a name".to_owned();
        match note.kind {
            NoteKind::Created | NoteKind::Linked => {
                let key = key(note.name).ok_or_else(no_name)?;
                expect(self.names.insert(key, note.ino), None)
            }
            NoteKind::Unlinked => {
                let key = key(note.name).ok_or_else(no_name)?;
                expect(self.names.remove(&key), Some(note.ino))
            }
            NoteKind::Renamed | NoteKind::Exchanged => {
                let from = key(note.name).ok_or_else(no_name)?;
                let to = key(note.new_name).ok_or_else(no_name)?;
                let other = (note.other != 0).then_some(note.other);
                expect(self.names.remove(&from), Some(note.ino))?;
                expect(self.names.insert(to, note.ino), other)?;
                if note.kind == NoteKind::Exchanged {
                    self.names.insert(from, note.other);
                }
                Ok(())
            }
            NoteKind::Modified => {
                self.modified.insert(note.ino);
                Ok(())
            }
            NoteKind::Settled => match self.modified.contains(&note.ino) {
                true => Ok(()),
                false => Err("was never modified".into()),
            },
            NoteKind::Attributes | NoteKind::Mounted | NoteKind::Unmounted => Ok(()),
        }
    }
}

fn expect(found: Option<Ino>, expected: Option<Ino>) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("the name had {found:?}")),
    }
}
