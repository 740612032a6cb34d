//! Where passphrases come from.
//!
//! A [`Source`] that the command line or the mount options name, else the file that `BLOCKTREE_PASSPHRASE_FILE` names,
//! else systemd's credential `blocktree.passphrase`, else the program that `BLOCKTREE_ASKPASS` names, else the terminal.
//! Never an argument or the value of a variable: both are visible to other processes.
//!
//! Invariant: every buffer that has held a passphrase is cleared when it is dropped.

mod askpass;
mod terminal;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

use crate::{system, tpm};

/// Holds the path of a passphrase file.
pub(crate) const VARIABLE: &str = "BLOCKTREE_PASSPHRASE_FILE";
/// Holds the path of a program that asks for passphrases.
const ASKPASS_VARIABLE: &str = "BLOCKTREE_ASKPASS";
/// Where systemd puts the credentials of a service: systemd.exec(5).
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";
/// The credential that is taken where nobody names one.
const CREDENTIAL: &str = "blocktree.passphrase";
/// Longer ones are a mistake, such as naming the wrong file.
const BYTES_MAX: usize = 4096;

pub(crate) type Passphrase = Zeroizing<Vec<u8>>;

/// Where one passphrase comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    File(PathBuf),
    /// A credential of the systemd service that this is part of.
    Credential(String),
    /// A key of type "user" in the kernel's keyrings, by its description.
    Keyring(String),
    /// What a program prints.
    Askpass(PathBuf),
    /// What a TPM kept in a file.
    Tpm(PathBuf),
    Terminal,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "terminal" => Ok(Self::Terminal),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("credential", name)) if is_file_name(name) => Ok(Self::Credential(name.to_owned())),
            Some(("keyring", name)) if !name.is_empty() => Ok(Self::Keyring(name.to_owned())),
            Some(("askpass", program)) if !program.is_empty() => Ok(Self::Askpass(program.into())),
            Some(("tpm", file)) if !file.is_empty() => Ok(Self::Tpm(file.into())),
            _ => Err("a passphrase comes from file:PATH, credential:NAME, keyring:NAME, askpass:PROGRAM, tpm:FILE or \
                      terminal"
                .to_owned()),
        }
    }
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}

/// The passphrase of what is at `of`: a store, or a principal's file. `is_new`: of one that is being made, so people are
/// asked twice.
pub(crate) fn obtain(source: Option<&Source>, of: &Path, is_new: bool) -> anyhow::Result<Passphrase> {
    if let Some(source) = source {
        return from(source, of, is_new);
    }
    if let Some(file) = std::env::var_os(VARIABLE) {
        if file.is_empty() {
            bail!("{VARIABLE} is empty; let it name the file that holds the passphrase, or unset it");
        }
        return from_file(&PathBuf::from(file)).with_context(|| format!("{VARIABLE} is of no use"));
    }
    if credential(CREDENTIAL).is_ok_and(|file| file.exists()) {
        return from(&Source::Credential(CREDENTIAL.to_owned()), of, is_new);
    }
    from_people(of, is_new)
}

/// Another passphrase than the one that the environment speaks of, such as that of a backup.
pub(crate) fn obtain_another(source: Option<&Source>, of: &Path, is_new: bool) -> anyhow::Result<Passphrase> {
    source.map_or_else(|| from_people(of, is_new), |source| from(source, of, is_new))
}

fn from_people(of: &Path, is_new: bool) -> anyhow::Result<Passphrase> {
    match std::env::var_os(ASKPASS_VARIABLE).filter(|program| !program.is_empty()) {
        Some(program) => from(&Source::Askpass(program.into()), of, is_new),
        None => from(&Source::Terminal, of, is_new),
    }
}

fn from(source: &Source, of: &Path, is_new: bool) -> anyhow::Result<Passphrase> {
    match source {
        Source::File(path) => from_file(path),
        Source::Credential(name) => {
            from_file(&credential(name)?).with_context(|| format!("the credential {name} is of no use"))
        }
        Source::Keyring(name) => from_keyring(name),
        Source::Tpm(file) => {
            let kept = tpm::read(file)?;
            tpm::refuse_other_node(file, &kept, of)?;
            let pin = if kept.sealed.has_pin { from_people(file, false)? } else { Passphrase::default() };
            tpm::unseal(file, &kept, &pin)
        }
        Source::Askpass(program) => typed(of, is_new, |question| askpass::ask(program, question)),
        Source::Terminal => {
            let Some(mut terminal) = terminal::find() else {
                bail!(
                    "no passphrase for {}, and no terminal to ask on; give --passphrase-file FILE (in mount options \
                     and fstab: passphrase_file=FILE), or set {VARIABLE}",
                    of.display()
                );
            };
            typed(of, is_new, |question| terminal::ask(&mut terminal, question))
        }
    }
}

fn from_file(path: &Path) -> anyhow::Result<Passphrase> {
    let file = File::open(path).with_context(|| {
        format!("cannot open the passphrase file {}; check its path and mode", path.display())
    })?;
    let passphrase = read_line_or_all(file)
        .with_context(|| format!("cannot take a passphrase from the file {}", path.display()))?;
    if passphrase.is_empty() {
        bail!("the passphrase file {} is empty; write the passphrase into it", path.display());
    }
    Ok(passphrase)
}

/// Where systemd put a credential.
fn credential(name: &str) -> anyhow::Result<PathBuf> {
    let folder = std::env::var_os(CREDENTIALS_VARIABLE).filter(|folder| !folder.is_empty());
    let Some(folder) = folder else {
        bail!(
            "there is no credential {name}: {CREDENTIALS_VARIABLE} is not set; credentials are for systemd services \
             with LoadCredential={name}:FILE"
        );
    };
    Ok(PathBuf::from(folder).join(name))
}

fn from_keyring(name: &str) -> anyhow::Result<Passphrase> {
    let what = || {
        format!(
            "cannot take the passphrase from the key {name:?} of the kernel's keyrings; \
             `keyctl padd user {name} @u` puts one there"
        )
    };
    let passphrase = system::key_from_keyrings(name, BYTES_MAX).with_context(what)?;
    let passphrase = read_line_or_all(passphrase.as_slice()).with_context(what)?;
    if passphrase.is_empty() {
        bail!("the key {name:?} of the kernel's keyrings is empty");
    }
    Ok(passphrase)
}

/// What people answer, twice the same where it is new.
fn typed(
    of: &Path,
    is_new: bool,
    mut ask: impl FnMut(&str) -> anyhow::Result<Passphrase>,
) -> anyhow::Result<Passphrase> {
    let question = if is_new { "New passphrase for" } else { "Passphrase for" };
    let passphrase = ask(&format!("{question} {}: ", of.display()))?;
    if passphrase.is_empty() {
        bail!("an empty passphrase protects nothing; choose a longer one");
    }
    if is_new && ask("The same again: ")? != passphrase {
        bail!("the two passphrases differ; nothing was made, try again");
    }
    Ok(passphrase)
}

/// All that `source` has, without one newline at its end.
pub(crate) fn read_line_or_all(source: impl Read) -> anyhow::Result<Passphrase> {
    // Reserved at once, so that growing leaves no copies behind.
    let mut passphrase = Zeroizing::new(Vec::with_capacity(BYTES_MAX + 2));
    source.take(BYTES_MAX as u64 + 2).read_to_end(&mut passphrase)?;
    if passphrase.last() == Some(&b'\n') {
        passphrase.pop();
    }
    if passphrase.len() > BYTES_MAX {
        bail!("a passphrase has at most {BYTES_MAX} bytes; is this the right file?");
    }
    Ok(passphrase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_at_the_end_is_not_part_of_it() {
        let read = |text: &str| read_line_or_all(text.as_bytes()).unwrap().to_vec();
        assert_eq!(read("secret\n"), b"secret");
        assert_eq!(read("secret"), b"secret");
        assert_eq!(read("two\nlines\n\n"), b"two\nlines\n");
        assert_eq!(read("\n"), b"");
    }

    #[test]
    fn too_long_is_refused() {
        let longest = "x".repeat(BYTES_MAX) + "\n";
        assert_eq!(read_line_or_all(longest.as_bytes()).unwrap().len(), BYTES_MAX);
        assert!(read_line_or_all("x".repeat(BYTES_MAX + 1).as_bytes()).is_err());
        assert!(read_line_or_all(std::io::repeat(b'x')).is_err());
    }

    #[test]
    fn sources_are_written_as_words() {
        let parse = |text: &str| text.parse::<Source>();
        assert_eq!(parse("file:a:b"), Ok(Source::File("a:b".into())));
        assert_eq!(parse("credential:store"), Ok(Source::Credential("store".into())));
        assert_eq!(parse("keyring:a:b"), Ok(Source::Keyring("a:b".into())));
        assert_eq!(parse("askpass:/bin/ask"), Ok(Source::Askpass("/bin/ask".into())));
        assert_eq!(parse("tpm:/etc/tree.tpm"), Ok(Source::Tpm("/etc/tree.tpm".into())));
        assert_eq!(parse("terminal"), Ok(Source::Terminal));
        for text in
            ["", "file", "file:", "credential:../x", "credential:..", "keyring:", "secret", "pass:secret"]
        {
            // What was given may be a passphrase: it is not repeated.
            assert!(parse(text).is_err_and(|error| !error.contains("secret")), "{text}");
        }
    }

    #[test]
    fn what_is_new_is_asked_for_twice() {
        let answers = |answers: &[&str], is_new| {
            let mut answers = answers.iter();
            typed(Path::new("x"), is_new, |_| {
                Ok(Zeroizing::new(answers.next().expect("an answer").as_bytes().to_vec()))
            })
        };
        assert_eq!(answers(&["a"], false).unwrap().as_slice(), b"a");
        assert_eq!(answers(&["a", "a"], true).unwrap().as_slice(), b"a");
        assert!(answers(&["a", "b"], true).is_err());
        assert!(answers(&[""], true).is_err());
    }
}
