//! Where the passphrase comes from.
//!
//! In this order: the file that the command line or the mount options name, the file that
//! `BLOCKTREE_PASSPHRASE_FILE` names, the terminal. Never an argument or the value of a variable: both are visible to
//! other processes.
//!
//! Invariant: every buffer that has held a passphrase is cleared when it is dropped.

use std::fs::File;
use std::io::{IsTerminal as _, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

use crate::system::HiddenInput;

/// Holds the path of a passphrase file.
pub(crate) const VARIABLE: &str = "BLOCKTREE_PASSPHRASE_FILE";
/// Longer ones are a mistake, such as naming the wrong file.
const BYTES_MAX: usize = 4096;

pub(crate) type Passphrase = Zeroizing<Vec<u8>>;

/// The passphrase of the store at `store`. `is_new`: of a store that is being made, so it is asked for twice.
pub(crate) fn obtain(file: Option<&Path>, store: &Path, is_new: bool) -> anyhow::Result<Passphrase> {
    if let Some(file) = file {
        return from_file(file);
    }
    if let Some(file) = std::env::var_os(VARIABLE) {
        if file.is_empty() {
            bail!("{VARIABLE} is empty; let it name the file that holds the passphrase, or unset it");
        }
        return from_file(&PathBuf::from(file)).with_context(|| format!("{VARIABLE} is of no use"));
    }
    from_terminal(store, is_new)
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

fn from_terminal(store: &Path, is_new: bool) -> anyhow::Result<Passphrase> {
    let terminal = File::options().read(true).write(true).open("/dev/tty");
    let Some(mut terminal) = terminal.ok().filter(|terminal| terminal.is_terminal()) else {
        bail!(
            "no passphrase for {}, and no terminal to ask on; give --passphrase-file FILE (in mount options and \
             fstab: passphrase_file=FILE), or set {VARIABLE}",
            store.display()
        );
    };
    let question = if is_new { "New passphrase for" } else { "Passphrase for" };
    let passphrase = ask(&mut terminal, &format!("{question} {}: ", store.display()))?;
    if passphrase.is_empty() {
        bail!("an empty passphrase protects nothing; choose a longer one");
    }
    if is_new && ask(&mut terminal, "The same again: ")? != passphrase {
        bail!("the two passphrases differ; nothing was made, try again");
    }
    Ok(passphrase)
}

fn ask(terminal: &mut File, question: &str) -> anyhow::Result<Passphrase> {
    const WHAT: &str = "cannot ask for the passphrase on the terminal";
    let hidden = HiddenInput::on(terminal).context(WHAT)?;
    terminal.write_all(question.as_bytes()).context(WHAT)?;
    let line = edit_line(&*terminal);
    drop(hidden);
    // The user's own newline was not shown.
    terminal.write_all(b"\n").context(WHAT)?;
    line
}

/// A line from a terminal that does no editing of its own.
fn edit_line(mut terminal: impl Read) -> anyhow::Result<Passphrase> {
    const INTERRUPT: u8 = 0x03;
    const END: u8 = 0x04;
    const BACKSPACE: u8 = 0x08;
    const CLEAR: u8 = 0x15;
    const QUIT: u8 = 0x1c;
    const DELETE: u8 = 0x7f;
    let mut line = Zeroizing::new(Vec::with_capacity(BYTES_MAX));
    loop {
        let mut byte = Zeroizing::new([0]);
        if terminal.read(&mut byte[..])? == 0 {
            return Ok(line);
        }
        match byte[0] {
            b'\n' | b'\r' | END => return Ok(line),
            INTERRUPT | QUIT => bail!("no passphrase: interrupted"),
            CLEAR => line.clear(),
            BACKSPACE | DELETE => {
                // A character of UTF-8 ends at its only byte that is not a continuation.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            _ if line.len() == BYTES_MAX => bail!("a passphrase has at most {BYTES_MAX} bytes"),
            byte => line.push(byte),
        }
    }
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
    fn a_typed_line_can_be_corrected() {
        let typed = |text: &str| edit_line(text.as_bytes()).map(|line| line.to_vec());
        assert_eq!(typed("secret\nmore").unwrap(), b"secret");
        assert_eq!(typed("ab\x7fc\r").unwrap(), b"ac");
        assert_eq!(typed("aé\x08\n").unwrap(), b"a");
        assert_eq!(typed("\x7fwrong\x15right\x04").unwrap(), b"right");
        assert!(typed("half\x03").is_err());
    }
}
