//! What may be typed, and which command it runs.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::commands::{
    cap, check, info, init, key, log, mount, principal, samba_config, scrub, snapshot, tpm, umount,
};
use crate::failure::{FAILED, Result, USAGE};
use crate::passphrase::Source;
use crate::{helper, size};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; for check: damage was found, and all of it repaired
  2  wrong usage
  4  for check: damage is left

The passphrase comes from --passphrase-file (or -o passphrase_file=) or --passphrase-from, else from
the file that the variable BLOCKTREE_PASSPHRASE_FILE names, else from systemd's credential
blocktree.passphrase, else from the program that BLOCKTREE_ASKPASS names, else from the terminal.
One newline at its end is not part of it.";

/// An encrypted and signed filesystem on machines that you own.
#[derive(Debug, Parser)]
#[command(name = "blocktree", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new store
    Init(init::Arguments),
    /// Mount a store; returns once the mount is usable
    Mount(mount::Arguments),
    /// Unmount a store; returns once everything is durable
    #[command(visible_alias = "unmount")]
    Umount(umount::Arguments),
    /// Show what a store is and how full
    Info(info::Arguments),
    /// Check a store that is not mounted: its structure, every hash and every signature
    Check(check::Arguments),
    /// Read and verify everything in a mounted store, while it is in use
    Scrub(scrub::Arguments),
    /// Print a share of a mounted store for Samba's smb.conf
    SambaConfig(samba_config::Arguments),
    /// Show who changed what, newest first
    Log(log::Arguments),
    /// Make, list, delete and mount snapshots
    #[command(subcommand, arg_required_else_help = true)]
    Snapshot(snapshot::Command),
    /// Say who may read and write a store
    #[command(subcommand, arg_required_else_help = true)]
    Cap(cap::Command),
    /// Install and make apps that work on the files of a store
    #[cfg(feature = "apps")]
    #[command(subcommand, arg_required_else_help = true)]
    App(crate::commands::app::Command),
    /// The process of an app, which a daemon starts
    #[cfg(feature = "apps")]
    #[command(hide = true)]
    AppSandbox,
    /// Make and show principals: the key pairs by which people and machines know each other
    #[command(subcommand, arg_required_else_help = true)]
    Principal(principal::Command),
    /// Back up, restore and change the keys of a store
    #[command(subcommand, arg_required_else_help = true)]
    Key(key::Command),
    /// Let this machine's TPM keep passphrases
    #[command(subcommand, arg_required_else_help = true)]
    Tpm(tpm::Command),
}

/// Where the passphrase comes from, for every command that opens a store or a principal's file.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PassphraseSource {
    /// Read the passphrase from this file
    #[arg(id = "passphrase_file", long = "passphrase-file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Take it from file:PATH, credential:NAME, keyring:NAME, askpass:PROGRAM, tpm:FILE or terminal
    #[arg(
        id = "passphrase_from",
        long = "passphrase-from",
        value_name = "SOURCE",
        conflicts_with = "passphrase_file"
    )]
    from: Option<Source>,
}

impl PassphraseSource {
    /// `None` where the command line does not say.
    pub(crate) fn source(&self) -> Option<Source> {
        self.from.clone().or_else(|| self.file.clone().map(Source::File))
    }
}

/// Where a new passphrase comes from, for commands that take another one beside it.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct NewPassphraseSource {
    /// Read the new passphrase from this file
    #[arg(id = "new_passphrase_file", long = "new-passphrase-file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Take the new one from file:PATH, credential:NAME, keyring:NAME, askpass:PROGRAM, tpm:FILE or terminal
    #[arg(
        id = "new_passphrase_from",
        long = "new-passphrase-from",
        value_name = "SOURCE",
        conflicts_with = "new_passphrase_file"
    )]
    from: Option<Source>,
}

impl NewPassphraseSource {
    /// `None` where the command line does not say.
    pub(crate) fn source(&self) -> Option<Source> {
        self.from.clone().or_else(|| self.file.clone().map(Source::File))
    }
}

/// Where the passphrase of a backup comes from.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct BackupPassphraseSource {
    /// Read the backup's passphrase from this file
    #[arg(id = "backup_passphrase_file", long = "backup-passphrase-file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Take the backup's from file:PATH, credential:NAME, keyring:NAME, askpass:PROGRAM, tpm:FILE or terminal
    #[arg(
        id = "backup_passphrase_from",
        long = "backup-passphrase-from",
        value_name = "SOURCE",
        conflicts_with = "backup_passphrase_file"
    )]
    from: Option<Source>,
}

impl BackupPassphraseSource {
    /// `None` where the command line does not say.
    pub(crate) fn source(&self) -> Option<Source> {
        self.from.clone().or_else(|| self.file.clone().map(Source::File))
    }
}

/// Runs what the command line says.
pub(crate) fn run(arguments: &[OsString]) -> Result<u8> {
    // mount(8) without a helper for this type has /sbin/mount.fuse3 call `blocktree STORE MOUNTPOINT -o OPTIONS`.
    if arguments.len() >= 3 && arguments[1].to_string_lossy().starts_with('/') {
        return helper::mount(arguments);
    }
    let parsed =
        Line::command().try_get_matches_from(arguments).and_then(|found| Line::from_arg_matches(&found));
    let line = match parsed {
        Ok(line) => line,
        Err(error) => {
            // Help and the version are errors to clap, but not to the user.
            let code = if error.use_stderr() { USAGE } else { 0 };
            let printed = error.print();
            return Ok(if printed.is_err() && code == 0 { FAILED } else { code });
        }
    };
    match line.command {
        Command::Init(arguments) => init::run(&arguments),
        Command::Mount(arguments) => mount::run(&arguments),
        Command::Umount(arguments) => umount::run(&arguments.mountpoint, arguments.lazy),
        Command::Info(arguments) => info::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Scrub(arguments) => scrub::run(&arguments),
        Command::SambaConfig(arguments) => samba_config::run(&arguments),
        Command::Log(arguments) => log::run(&arguments),
        Command::Snapshot(command) => snapshot::run(&command),
        Command::Cap(command) => cap::run(&command),
        #[cfg(feature = "apps")]
        Command::App(command) => crate::commands::app::run(&command),
        #[cfg(feature = "apps")]
        Command::AppSandbox => Ok(blocktree_sandbox::guest::run()),
        Command::Principal(command) => principal::run(&command),
        Command::Key(command) => key::run(&command),
        Command::Tpm(command) => tpm::run(&command),
    }
}

/// The value parser of sizes.
pub(crate) fn parse_size(text: &str) -> std::result::Result<u64, String> {
    size::parse(text)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_definitions_are_consistent() {
        use clap::CommandFactory as _;
        super::Line::command().debug_assert();
    }
}
