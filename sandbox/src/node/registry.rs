//! Which apps there are, and what is kept for each: in the store, in a directory that no mount shows. So it moves with
//! the store, and the store's signature covers it.
//!
//! ```text
//! apps/NAME/package       as it was installed
//!           state.json    what was granted, and whether it runs
//!           cursor        the last change that it has dealt with
//!           compiled      what its code was compiled to, on the machine that did
//!           keys/         its values, each in a file
//!           log, log.old  what it wrote
//!           dead.json     events that it could not handle
//!           unfinished/   files that it is making
//!           letters/      messages that wait for it, each in a file
//! ```

use std::sync::Arc;

use blocktree_engine::crypto::{hexadecimal, random};
use blocktree_vfs::events::Seq;
use blocktree_vfs::{Fs, FsError};
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::grants::{Grant, Powers};
use crate::ipc::Event;
use crate::limits::{
    DEAD_LETTERS_MAX, KEY_BYTES_MAX, KEYS_MAX, KEYS_PER_PAGE, LOG_BYTES_MAX, VALUE_BYTES_MAX,
};
use crate::package::{Manifest, Package, PackageError};

const PACKAGE: &str = "package";
const STATE: &str = "state.json";
const CURSOR: &str = "cursor";
const COMPILED: &str = "compiled";
const KEYS: &str = "keys";
const LOG: &str = "log";
const OLD_LOG: &str = "log.old";
const DEAD: &str = "dead.json";
const UNFINISHED: &str = "unfinished";
const LETTERS: &str = "letters";

/// What the owner decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// Whom what the app does is attributed to, in hexadecimal; made when it was installed.
    pub(super) actor: String,
    pub(super) is_enabled: bool,
    pub(super) grants: Vec<Grant>,
    #[serde(default)]
    pub(super) powers: Powers,
}

impl State {
    pub(super) fn new() -> Self {
        let actor = hexadecimal(&random::<32>());
        Self { actor, is_enabled: true, grants: Vec::new(), powers: Powers::default() }
    }

    pub(super) fn actor(&self) -> [u8; 32] {
        let mut id = [0; 32];
        for (byte, pair) in id.iter_mut().zip(self.actor.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(pair).unwrap_or("0");
            *byte = u8::from_str_radix(digits, 16).unwrap_or(0);
        }
        id
    }
}

/// An event that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Seconds since 1970.
    pub time: u64,
    pub event: Event,
    pub reason: String,
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("the store: {0}")]
    Fs(#[from] FsError),
    #[error("{0}")]
    Package(#[from] PackageError),
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
    #[error("what the store keeps of {app} is malformed: {what}")]
    Malformed { app: String, what: &'static str },
}

pub(super) type Result<T> = std::result::Result<T, RegistryError>;

#[derive(Clone)]
pub(super) struct Registry {
    fs: Arc<Fs>,
}

impl Registry {
    pub(super) fn new(fs: &Arc<Fs>) -> Self {
        Self { fs: Arc::clone(fs) }
    }

    fn apps(&self) -> Result<Option<Folder>> {
        match self.fs.system_directory()? {
            None => Ok(None),
            Some(ino) => Ok(Folder::new(&self.fs, ino).folder("apps")?),
        }
    }

    /// The names of all apps, in order. What was half installed at a crash is none.
    pub(super) fn list(&self) -> Result<Vec<String>> {
        let Some(apps) = self.apps()? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for (name, _) in apps.list()? {
            if self.app(&name)?.is_some() {
                names.push(name);
            }
        }
        Ok(names)
    }

    pub(super) fn app(&self, name: &str) -> Result<Option<App>> {
        let Some(apps) = self.apps()? else { return Ok(None) };
        let Some(folder) = apps.folder(name)? else { return Ok(None) };
        // It is the last that is written.
        Ok(folder.size(STATE)?.is_some().then(|| App { name: name.to_owned(), folder }))
    }

    /// Where an app is to be installed.
    pub(super) fn make(&self, name: &str) -> Result<App> {
        let system = Folder::new(&self.fs, self.fs.make_system_directory()?);
        let folder = system.make_folder("apps")?.make_folder(name)?;
        Ok(App { name: name.to_owned(), folder })
    }

    /// Removes an app with all that was kept for it.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let Some(apps) = self.apps()? else { return Ok(()) };
        if let Some(folder) = apps.folder(name)? {
            // First what makes it an app.
            folder.remove(STATE)?;
        }
        Ok(apps.remove_folder(name)?)
    }

    pub(super) fn sync(&self) -> Result<()> {
        Ok(self.fs.syncfs()?)
    }
}

/// What is kept for one app.
#[derive(Clone)]
pub(super) struct App {
    pub(super) name: String,
    folder: Folder,
}

impl App {
    fn malformed(&self, what: &'static str) -> RegistryError {
        RegistryError::Malformed { app: self.name.clone(), what }
    }

    pub(super) fn state(&self) -> Result<State> {
        let bytes = self.folder.read(STATE)?.ok_or(self.malformed("there is no state"))?;
        serde_json::from_slice(&bytes).map_err(|_| self.malformed("its state"))
    }

    pub(super) fn set_state(&self, state: &State) -> Result<()> {
        let bytes = serde_json::to_vec(state).map_err(|_| self.malformed("its state"))?;
        Ok(self.folder.write(STATE, &bytes)?)
    }

    /// Its package, verified again.
    pub(super) fn package(&self) -> Result<Vec<u8>> {
        self.folder.read(PACKAGE)?.ok_or(self.malformed("there is no package"))
    }

    pub(super) fn manifest(&self) -> Result<Manifest> {
        Ok(Package::verify(&self.package()?)?.manifest)
    }

    pub(super) fn set_package(&self, bytes: &[u8]) -> Result<()> {
        self.folder.remove(COMPILED)?;
        Ok(self.folder.write(PACKAGE, bytes)?)
    }

    pub(super) fn compiled(&self) -> Result<Option<Vec<u8>>> {
        Ok(self.folder.read(COMPILED)?)
    }

    pub(super) fn set_compiled(&self, bytes: &[u8]) -> Result<()> {
        Ok(self.folder.write(COMPILED, bytes)?)
    }

    pub(super) fn cursor(&self) -> Result<Option<Seq>> {
        match self.folder.read(CURSOR)? {
            None => Ok(None),
            Some(bytes) => {
                let bytes = bytes.try_into().map_err(|_| self.malformed("its cursor"))?;
                Ok(Some(Seq(u64::from_le_bytes(bytes))))
            }
        }
    }

    pub(super) fn set_cursor(&self, seq: Seq) -> Result<()> {
        Ok(self.folder.overwrite(CURSOR, &seq.0.to_le_bytes())?)
    }

    /// An empty folder for files that have no name yet.
    pub(super) fn unfinished(&self) -> Result<Folder> {
        let folder = self.folder.make_folder(UNFINISHED)?;
        folder.clear()?;
        Ok(folder)
    }

    /// Where messages wait for it.
    pub(super) fn letters(&self) -> Result<Folder> {
        Ok(self.folder.make_folder(LETTERS)?)
    }

    pub(super) fn keys(&self) -> Result<Keys> {
        let folder = self.folder.make_folder(KEYS)?;
        let count = folder.list()?.len();
        Ok(Keys { folder, count })
    }

    /// Adds lines to its log; the older half goes when there is no more room.
    pub(super) fn log(&self, lines: &str) -> Result<()> {
        let mut start = lines.len().saturating_sub(LOG_BYTES_MAX / 2);
        while !lines.is_char_boundary(start) {
            start += 1;
        }
        let lines = &lines[start..];
        if self.folder.size(LOG)?.is_some_and(|size| size as usize + lines.len() > LOG_BYTES_MAX / 2) {
            self.folder.rename(LOG, OLD_LOG)?;
        }
        Ok(self.folder.append(LOG, lines.as_bytes())?)
    }

    pub(super) fn logs(&self) -> Result<String> {
        let mut bytes = self.folder.read(OLD_LOG)?.unwrap_or_default();
        bytes.extend(self.folder.read(LOG)?.unwrap_or_default());
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn dead_letters(&self) -> Result<Vec<DeadLetter>> {
        match self.folder.read(DEAD)? {
            None => Ok(Vec::new()),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|_| self.malformed("its dead letters")),
        }
    }

    pub(super) fn add_dead_letter(&self, letter: DeadLetter) -> Result<()> {
        let mut letters = self.dead_letters()?;
        letters.push(letter);
        let surplus = letters.len().saturating_sub(DEAD_LETTERS_MAX);
        letters.drain(..surplus);
        let bytes = serde_json::to_vec(&letters).map_err(|_| self.malformed("its dead letters"))?;
        Ok(self.folder.write(DEAD, &bytes)?)
    }
}

/// An app's own values.
pub(super) struct Keys {
    folder: Folder,
    count: usize,
}

impl Keys {
    pub(super) fn get(&self, key: &str) -> std::result::Result<Option<Vec<u8>>, crate::ipc::Error> {
        self.folder.read(&file_name(key)?).map_err(super::grants::error)
    }

    pub(super) fn set(&mut self, key: &str, value: &[u8]) -> std::result::Result<(), crate::ipc::Error> {
        let name = file_name(key)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(crate::ipc::Error::TooLarge);
        }
        let is_new = self.folder.size(&name).map_err(super::grants::error)?.is_none();
        if is_new && self.count >= KEYS_MAX {
            return Err(crate::ipc::Error::TooLarge);
        }
        self.folder.write(&name, value).map_err(super::grants::error)?;
        self.count += usize::from(is_new);
        Ok(())
    }

    pub(super) fn delete(&mut self, key: &str) -> std::result::Result<(), crate::ipc::Error> {
        let name = file_name(key)?;
        let is_there = self.folder.size(&name).map_err(super::grants::error)?.is_some();
        self.folder.remove(&name).map_err(super::grants::error)?;
        self.count -= usize::from(is_there).min(self.count);
        Ok(())
    }

    /// A page of the keys that begin with `prefix`, those after `after`; and whether it is the last.
    pub(super) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> std::result::Result<(Vec<String>, bool), crate::ipc::Error> {
        let names = self.folder.list().map_err(super::grants::error)?;
        let mut keys: Vec<String> = names.iter().filter_map(|(name, _)| key(name)).collect();
        keys.retain(|key| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
        keys.sort();
        let is_last = keys.len() <= KEYS_PER_PAGE;
        keys.truncate(KEYS_PER_PAGE);
        Ok((keys, is_last))
    }
}

/// Keys may have slashes and dots: in hexadecimal, none of them means anything.
fn file_name(key: &str) -> std::result::Result<String, crate::ipc::Error> {
    // As long as a file's name may be. What is being written has a name that is no hexadecimal.
    const _: () = assert!(2 * KEY_BYTES_MAX <= 255);
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(crate::ipc::Error::Malformed);
    }
    Ok(hexadecimal(key.as_bytes()))
}

fn key(name: &str) -> Option<String> {
    let digits = name.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}
