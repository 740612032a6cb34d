//! Which words are in which notes. Each note is one of the app's values, so that one change writes one value; which notes
//! have a word is kept in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::blocktree::app::kv;
use crate::blocktree::app::types::Error;

/// Keys of notes begin with this.
const NOTES: &str = "note/";
/// Different words of one note that are kept.
const WORDS_MAX: usize = 20_000;
const WORD_BYTES_MAX: usize = 32;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Note {
    pub(crate) path: String,
    pub(crate) title: String,
    size: u64,
    modified: u64,
    /// How often each word is there.
    words: BTreeMap<String, u32>,
}

#[derive(Default)]
pub(crate) struct Index {
    notes: BTreeMap<String, Note>,
    by_word: BTreeMap<String, BTreeSet<String>>,
}

impl Index {
    pub(crate) fn load() -> Result<Self, Error> {
        let mut index = Self::default();
        for key in kv::keys(NOTES)? {
            let note = kv::get(&key)?.as_deref().and_then(Note::decode);
            match note {
                Some(note) => index.keep(note),
                // Of another version: it will be looked at again.
                None => kv::delete(&key)?,
            }
        }
        Ok(index)
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = String> {
        self.notes.keys().cloned().collect::<Vec<_>>().into_iter()
    }

    pub(crate) fn knows(&self, path: &str, size: u64, modified: u64) -> bool {
        self.notes.get(path).is_some_and(|note| (note.size, note.modified) == (size, modified))
    }

    /// How many different words the note has.
    pub(crate) fn set(&mut self, note: Note) -> Result<usize, Error> {
        kv::set(&key(&note.path), &note.encode())?;
        self.drop(&note.path);
        let words = note.words.len();
        self.keep(note);
        Ok(words)
    }

    pub(crate) fn remove(&mut self, path: &str) -> Result<(), Error> {
        kv::delete(&key(path))?;
        self.drop(path);
        Ok(())
    }

    fn keep(&mut self, note: Note) {
        for word in note.words.keys() {
            self.by_word.entry(word.clone()).or_default().insert(note.path.clone());
        }
        self.notes.insert(note.path.clone(), note);
    }

    fn drop(&mut self, path: &str) {
        let Some(note) = self.notes.remove(path) else { return };
        for word in note.words.keys() {
            if let Some(paths) = self.by_word.get_mut(word) {
                paths.remove(path);
                if paths.is_empty() {
                    self.by_word.remove(word);
                }
            }
        }
    }

    /// The notes that have all words, or words that begin so; the best first.
    pub(crate) fn find(&self, asked: &str, count_max: usize) -> Vec<Note> {
        let mut scores: Option<HashMap<&str, f64>> = None;
        for asked in words(asked) {
            let mut found: HashMap<&str, f64> = HashMap::new();
            for (word, paths) in
                self.by_word.range(asked.clone()..).take_while(|(word, _)| word.starts_with(&asked))
            {
                // Rare words say more, and so do whole ones.
                let rarity = (1.0 + self.notes.len() as f64 / paths.len() as f64).ln();
                let weight = if *word == asked { rarity } else { rarity / 2.0 };
                for path in paths {
                    let count =
                        self.notes.get(path).and_then(|note| note.words.get(word)).copied().unwrap_or(0);
                    *found.entry(path).or_default() += weight * (1.0 + f64::from(count).ln());
                }
            }
            if let Some(before) = &scores {
                found.retain(|path, _| before.contains_key(path));
                found.iter_mut().for_each(|(path, score)| *score += before.get(path).unwrap_or(&0.0));
            }
            scores = Some(found);
        }
        let mut found: Vec<(&str, f64)> = scores.unwrap_or_default().into_iter().collect();
        found.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(right.0)));
        found.truncate(count_max);
        found.iter().filter_map(|(path, _)| self.notes.get(*path).cloned()).collect()
    }
}

/// The words of a text in lower case.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|one: char| !one.is_alphanumeric())
        .filter(|word| !word.is_empty() && word.len() <= WORD_BYTES_MAX)
        .map(str::to_lowercase)
}

impl Note {
    pub(crate) fn of(path: &str, size: u64, modified: u64, text: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".md");
        let heading = text.lines().find_map(|line| line.strip_prefix("# ")).map(str::trim);
        let title: String =
            heading.filter(|title| !title.is_empty()).unwrap_or(name).chars().take(200).collect();
        let mut counted = BTreeMap::new();
        for word in words(name).chain(words(text)) {
            if counted.len() < WORDS_MAX || counted.contains_key(&word) {
                *counted.entry(word).or_default() += 1;
            }
        }
        Self { path: path.to_owned(), title, size, modified, words: counted }
    }

    /// Lines: the path, the title, size and time, and each word with its number. None of them has a line's end in it.
    fn encode(&self) -> Vec<u8> {
        let line = |text: &str| text.replace('\n', "\u{fffd}");
        let mut text =
            format!("1\n{}\n{}\n{}\n{}\n", line(&self.path), line(&self.title), self.size, self.modified);
        for (word, count) in &self.words {
            text += &format!("{word} {count}\n");
        }
        text.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.lines();
        if lines.next()? != "1" {
            return None;
        }
        let (path, title) = (lines.next()?.to_owned(), lines.next()?.to_owned());
        let (size, modified) = (lines.next()?.parse().ok()?, lines.next()?.parse().ok()?);
        let word = |line: &str| {
            let (word, count) = line.split_once(' ')?;
            Some((word.to_owned(), count.parse().ok()?))
        };
        Some(Self { path, title, size, modified, words: lines.map(word).collect::<Option<_>>()? })
    }
}

/// A path may be longer than a key: 128 bits of it (FNV-1a) are as good.
fn key(path: &str) -> String {
    const START: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = path.bytes().fold(START, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    format!("{NOTES}{hash:032x}")
}
