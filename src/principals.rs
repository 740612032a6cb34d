//! The principals that people name: in their own folder, in another file, or as a line of text.
//!
//! The folder is `$XDG_CONFIG_HOME/blocktree/principals` (`~/.config/…` where that is not set), with a file for each
//! principal. A file holds a principal with its keys, or only a line of text, which is somebody else's.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use blocktree_engine::crypto::{KdfCost, Principal, PublicKeys};
use blocktree_engine::format::SealedFileHeader;
use blocktree_engine::identity::{PrincipalFile, Protection};
use blocktree_engine::limits::SEALED_FILE_BYTES_MAX;

use crate::passphrase::{Passphrase, Source, obtain};
use crate::private_file;

/// The longest name of a principal, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// A principal, as people name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Who {
    /// By its line of text.
    Keys(PublicKeys),
    /// One of the own folder; where that has none of this name, a file.
    Name(String),
    File(PathBuf),
}

impl FromStr for Who {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_line(text) {
            return text.parse().map(Self::Keys).map_err(|error| format!("{error}"));
        }
        match text {
            "" => Err("a principal is a name, a file, or a line that begins with btp1".to_owned()),
            text if text.contains('/') => Ok(Self::File(text.into())),
            text => Ok(Self::Name(text.to_owned())),
        }
    }
}

/// What is in a principal's file.
pub(crate) enum Content {
    Own(PrincipalFile),
    Other(PublicKeys),
}

impl Content {
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = private_file::read(path, SEALED_FILE_BYTES_MAX)?;
        let what = || format!("{} is of no use", path.display());
        if bytes.starts_with(&SealedFileHeader::MAGIC) {
            return PrincipalFile::parse(&bytes).map(Self::Own).with_context(what);
        }
        let text = std::str::from_utf8(&bytes).ok().filter(|text| is_line(text.trim()));
        let text = text.with_context(|| format!("{} holds no principal", path.display()))?;
        text.parse().map(Self::Other).with_context(what)
    }

    pub(crate) fn public(&self) -> PublicKeys {
        match self {
            Self::Own(file) => file.public(),
            Self::Other(keys) => *keys,
        }
    }
}

impl Who {
    /// The file that it is in; `None` where it is a line of text.
    pub(crate) fn path(&self) -> anyhow::Result<Option<PathBuf>> {
        match self {
            Self::Keys(_) => Ok(None),
            Self::File(path) => Ok(Some(path.clone())),
            Self::Name(name) => {
                let in_folder = folder().map(|folder| folder.join(name));
                if let Ok(path) = in_folder.as_ref()
                    && path.is_file()
                {
                    return Ok(Some(path.clone()));
                }
                if Path::new(name).is_file() {
                    return Ok(Some(name.into()));
                }
                bail!(
                    "there is no principal {name:?} in {}; `blocktree principal list` shows those that there are",
                    in_folder?.parent().unwrap_or(Path::new("/")).display()
                )
            }
        }
    }

    /// The public keys.
    pub(crate) fn public(&self) -> anyhow::Result<PublicKeys> {
        match (self, self.path()?) {
            (Self::Keys(keys), _) => Ok(*keys),
            (_, Some(path)) => Ok(Content::read(&path)?.public()),
            (_, None) => bail!("a principal that is no line of text has a file"),
        }
    }

    /// All keys, with the passphrase of the file if it has one.
    pub(crate) fn open(&self, source: Option<&Source>) -> anyhow::Result<Principal> {
        self.open_with(&self.passphrase(source)?)
    }

    /// The passphrase of the file with its keys; empty where it has none.
    pub(crate) fn passphrase(&self, source: Option<&Source>) -> anyhow::Result<Passphrase> {
        let (path, file) = self.file()?;
        if file.is_protected() { obtain(source, &path, false) } else { Ok(Passphrase::default()) }
    }

    /// All keys, with what [`Who::passphrase`] found.
    pub(crate) fn open_with(&self, passphrase: &Passphrase) -> anyhow::Result<Principal> {
        let (path, file) = self.file()?;
        file.open(passphrase).with_context(|| format!("cannot open {}", path.display()))
    }

    fn file(&self) -> anyhow::Result<(PathBuf, PrincipalFile)> {
        let Some(path) = self.path()? else {
            bail!("this line is what everybody may know of a principal; name the file with its keys");
        };
        // Others who may read it may have its keys.
        private_file::read_private(&path, SEALED_FILE_BYTES_MAX)?;
        let Content::Own(file) = Content::read(&path)? else {
            bail!("{} holds only what everybody may know of a principal, and not its keys", path.display());
        };
        Ok((path, file))
    }
}

/// The bytes of a file with this principal; without a passphrase, whoever can read it has the keys.
pub(crate) fn seal(principal: &Principal, passphrase: Option<&Passphrase>) -> Vec<u8> {
    let protection = passphrase
        .map_or(Protection::None, |passphrase| Protection::Passphrase(passphrase, KdfCost::STANDARD));
    PrincipalFile::seal(principal, protection)
}

/// Where people keep their principals. Neither made nor looked at.
pub(crate) fn folder() -> anyhow::Result<PathBuf> {
    // As the XDG base directory specification has it: relative paths do not count.
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = variable("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let config = config.or_else(|| Some(variable("HOME")?.join(".config")));
    let config =
        config.context("there is no folder for principals: neither XDG_CONFIG_HOME nor HOME is set")?;
    Ok(config.join("blocktree/principals"))
}

/// A name that is a file's, and cannot be taken for anything else.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let is_good = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(is_letter)
        && text.len() <= NAME_BYTES_MAX
        && !text.ends_with(".new")
        && !is_line(text);
    if is_good {
        return Ok(text.to_owned());
    }
    Err(format!(
        "a principal's name has letters, digits, dots, dashes and underlines, at most {NAME_BYTES_MAX}, and begins with \
         a letter or digit"
    ))
}

/// Whether it is meant to be a principal's line of text.
fn is_line(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() > 3 && bytes[..3].eq_ignore_ascii_case(b"btp") && bytes[3].is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_is_a_line_a_file_or_a_name() {
        let keys = Principal::generate().public();
        assert_eq!(keys.to_string().parse(), Ok(Who::Keys(keys)));
        assert_eq!("./phone".parse(), Ok(Who::File("./phone".into())));
        assert_eq!("phone".parse(), Ok(Who::Name("phone".into())));
        let cut = keys.to_string()[..100].parse::<Who>();
        assert!(cut.is_err_and(|error| error.contains("some are missing")));
        assert!("".parse::<Who>().is_err());
    }

    #[test]
    fn names_are_those_of_files() {
        for name in ["phone", "Anna-2.old", "7"] {
            assert!(parse_name(name).is_ok(), "{name}");
        }
        let long = "x".repeat(65);
        for name in ["", ".", "..", "-x", "a/b", "a b", "ä", "btp1x", "a.1.new", &long] {
            assert!(parse_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_file_holds_keys_or_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let [own, other] = [Principal::generate(), Principal::generate()];
        let path = |name: &str| folder.path().join(name);
        private_file::write_new(&path("own"), &seal(&own, None)).unwrap();
        private_file::write_new(&path("other"), format!("{}\n", other.public()).as_bytes()).unwrap();
        private_file::write_new(&path("neither"), b"hello").unwrap();
        let who = |name| Who::File(path(name));
        assert_eq!(who("own").public().unwrap(), own.public());
        assert_eq!(who("own").open(None).unwrap().public(), own.public());
        assert_eq!(who("other").public().unwrap(), other.public());
        assert!(who("other").open(None).unwrap_err().to_string().contains("not its keys"));
        assert!(who("neither").public().unwrap_err().to_string().contains("holds no principal"));
        assert!(who("missing").public().is_err());
        assert!(Who::Keys(own.public()).open(None).is_err());
    }
}
