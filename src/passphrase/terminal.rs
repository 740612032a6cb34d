//! A passphrase that is typed, and not shown.

use std::fs::File;
use std::io::{IsTerminal as _, Read, Write as _};

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

use super::{BYTES_MAX, Passphrase};
use crate::system::HiddenInput;

/// The terminal that belongs to this process, if there is one.
pub(super) fn find() -> Option<File> {
    let terminal = File::options().read(true).write(true).open("/dev/tty");
    terminal.ok().filter(|terminal| terminal.is_terminal())
}

pub(super) fn ask(terminal: &mut File, question: &str) -> anyhow::Result<Passphrase> {
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
    fn a_typed_line_can_be_corrected() {
        let typed = |text: &str| edit_line(text.as_bytes()).map(|line| line.to_vec());
        assert_eq!(typed("secret\nmore").unwrap(), b"secret");
        assert_eq!(typed("ab\x7fc\r").unwrap(), b"ac");
        assert_eq!(typed("aé\x08\n").unwrap(), b"a");
        assert_eq!(typed("\x7fwrong\x15right\x04").unwrap(), b"right");
        assert!(typed("half\x03").is_err());
    }
}
