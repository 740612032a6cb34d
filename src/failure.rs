//! What a command ends with when it fails: a text for the user and an exit code.

use std::fmt;

pub(crate) const FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;
/// `check` only: damage is left.
pub(crate) const DAMAGE_LEFT: u8 = 4;
/// mount(8): "mount failure".
pub(crate) const MOUNT_FAILED: u8 = 32;

/// Printed as one line: what failed, on what, why, and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    error: anyhow::Error,
}

impl Failure {
    /// The user asked for something that cannot be asked for.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self { code: USAGE, error: anyhow::anyhow!("{message}") }
    }

    pub(crate) fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: FAILED, error: error.into() }
    }
}

impl fmt::Display for Failure {
    /// The chain of causes, without those whose text the one before already ends with.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.error.to_string();
        formatter.write_str(&last)?;
        for cause in self.error.chain().skip(1) {
            let text = cause.to_string();
            if !last.contains(&text) {
                write!(formatter, ": {text}")?;
                last = text;
            }
        }
        Ok(())
    }
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_chain_is_one_line_without_repetition() {
        let inner = std::io::Error::other("disk on fire");
        let error =
            Err::<(), _>(inner).context("cannot read x: disk on fire").context("cannot mount").unwrap_err();
        assert_eq!(Failure::from(error).to_string(), "cannot mount: cannot read x: disk on fire");
    }
}
