//! A passphrase from a program, as ssh(1) has it with `SSH_ASKPASS`: it gets the question as its only argument, and what it
//! prints is the answer.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::{Passphrase, read_line_or_all};

pub(super) fn ask(program: &Path, question: &str) -> anyhow::Result<Passphrase> {
    let what = || format!("cannot ask for the passphrase with {}", program.display());
    let mut child = Command::new(program)
        .arg(question)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(what)?;
    let answer = child.stdout.take().map(read_line_or_all).context("it has no output");
    let status = child.wait().with_context(what)?;
    // One whose answer is too long is ended by that.
    let answer = answer.with_context(what)?.with_context(what)?;
    if !status.success() {
        bail!("no passphrase: {} ended with {status}", program.display());
    }
    Ok(answer)
}
