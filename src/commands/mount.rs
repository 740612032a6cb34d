//! `blocktree mount`: checks what can be checked, gets the passphrase, and starts the daemon.
//!
//! The daemon is this program again, not a fork of it: threads do not survive a fork. It gets the passphrase through
//! its standard input and tells through its standard output when the mount is usable or why it never will be.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, anyhow, bail};
use blocktree_vfs::control;

use super::try_volume;
use crate::cli::PassphraseSource;
use crate::daemon::{self, Settings};
use crate::failure::{FAILED, Failure, Result};
use crate::mount_list::{resolve, store_mounted_on};
use crate::mount_options::Options;
use crate::passphrase::{Passphrase, Source, obtain, read_line_or_all};
use crate::store_key::passphrase_of;
use crate::system;

const OPTIONS_HELP: &str = "\
Mount options:
  ro, rw                       for reading only; for writing too (the default)
  passphrase_file=FILE         read the passphrase from this file
  passphrase_from=SOURCE       take it from file:PATH, credential:NAME, keyring:NAME, askpass:PROGRAM,
                               tpm:FILE or terminal
  allow_other, allow_root      let other users, or root, use the mount (for ordinary users, only if
                               /etc/fuse.conf contains user_allow_other)
  uid=N, gid=N                 show everything as this user's, this group's
  map_uid=STORED:SHOWN[:COUNT], map_gid=...
                               show those on disk as others; may be repeated
  snapshot=NAME                show the tree as it was when this snapshot was made
  principal=PRINCIPAL          as --principal
  root=ID                      with principal: the root principal that the store must belong to
  subtree=SERIAL               which of several shared directories to show
  http=ADDRESS:PORT            answer HTTP requests for apps at this address of this machine
  anchor=FILE, anchor=none     where this machine remembers how far the store had come, so that an older copy of it
                               is noticed; or nowhere
  anchor=tpm:FILE              the same in a file that counts only with a counter of the TPM, so that an older copy
                               of that file is noticed too; the first time, with accept_rollback
  accept_rollback              as --accept-rollback
  writeback, no_writeback      let the kernel collect writes (the default), or pass each on at once
  unit=4k|8k|16k|32k|64k|128k  how much of a new file has one hash, where its directory says nothing of it
  max_read=BYTES               the longest read in one request
  threads=N                    how many threads take requests
  transport=uring|device       how requests come: io_uring where there is one, or /dev/fuse
  [no]suid, [no]dev, [no]exec, [no]atime, [no]diratime, sync, async
                               as for any filesystem, see mount(8); nosuid and nodev are the default,
                               unless mount(8) or fstab(5) mounts
  Permissions are always checked (default_permissions). What fstab(5) has for itself (defaults,
  noauto, user, nofail, _netdev, x-...) is accepted.

Set BLOCKTREE_LOG_FILE for a log of the daemon, and BLOCKTREE_LOG for what it contains
(error, warn, info, debug).";

/// Mount a store; returns once the mount is usable.
#[derive(Debug, clap::Args)]
#[command(after_help = OPTIONS_HELP)]
pub(crate) struct Arguments {
    /// A directory or block device with a store
    pub(crate) store: PathBuf,
    /// Where to mount it: an existing directory
    pub(crate) mountpoint: PathBuf,
    /// Mount options between commas
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub(crate) options: Vec<OsString>,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseSource,
    /// Mount what this principal may see, with its key instead of the store's passphrase: a name or a file
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) principal: Option<String>,
    /// Stay in the foreground, until the store is unmounted or a signal ends it
    #[arg(long, short = 'f')]
    pub(crate) foreground: bool,
    /// Take the store as it is, even if it is older than it was here, and remember it as it is
    #[arg(long)]
    pub(crate) accept_rollback: bool,
    /// This is the daemon that `blocktree mount` started
    #[arg(long, hide = true, requires = "foreground")]
    pub(crate) as_daemon: bool,
    /// The TPM gave out the passphrase that it keeps in this file
    #[arg(long, hide = true, requires = "as_daemon", value_name = "FILE")]
    pub(crate) enrolment: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<u8> {
    let mut lists = arguments.options.clone();
    if let Some(principal) = &arguments.principal {
        lists.push(format!("principal={}", principal.replace('\\', "\\\\").replace(',', "\\,")).into());
    }
    let options = Options::parse(&lists)?;
    // The daemon is given what was accepted once already.
    if !arguments.as_daemon {
        options.refuse_unknown()?;
    }
    run_with(arguments, options)
}

/// With options that are parsed already.
pub(crate) fn run_with(arguments: &Arguments, options: Options) -> Result<u8> {
    if arguments.as_daemon {
        return run_as_daemon(arguments, options);
    }
    check_mountpoint(&arguments.mountpoint, &arguments.store)?;
    // Before asking for the passphrase: there may be nothing to open, or somebody may have it open.
    try_volume(&arguments.store, options.store_access())?;
    if resolve(&arguments.store) == resolve(&arguments.mountpoint) {
        let store = arguments.store.display();
        return Err(anyhow!("{store} is the store itself; mount it on another directory").into());
    }
    let source = arguments.passphrase.source().or_else(|| options.passphrase.clone());
    let passphrase = match &options.principal {
        Some(who) => passphrase_of(who, source.as_ref())?,
        None => obtain(source.as_ref(), &arguments.store, false)?,
    };
    let enrolment = match &source {
        Some(Source::Tpm(file)) => Some(&**file),
        _ => None,
    };
    let settings = settings(arguments, options, enrolment);
    if arguments.foreground {
        daemon::log_to(daemon::Log::StandardError);
        let ready = |notice: Option<&str>| {
            tell(notice);
            Ok(())
        };
        return daemon::serve(&settings, passphrase, ready).map(|()| 0);
    }
    Ok(start_daemon(&settings, passphrase)?)
}

fn settings(arguments: &Arguments, mut options: Options, enrolment: Option<&Path>) -> Settings {
    options.accept_rollback |= arguments.accept_rollback;
    options.anchor.follow(enrolment);
    Settings { store: resolve(&arguments.store), mountpoint: resolve(&arguments.mountpoint), options }
}

fn check_mountpoint(path: &Path, store: &Path) -> Result<()> {
    // Asks the list of mounts first: a dead mount cannot be looked at.
    if let Some(mount) = store_mounted_on(path).context("cannot read the list of mounts")? {
        let answer = File::open(path)
            .and_then(|root| system::request(&root, control::Command::Hello, &mut control::Hello::default()));
        let is_dead = answer.is_err_and(|error| system::says_dead(&error));
        let what = match (is_dead, mount.store == resolve(store)) {
            (true, _) => "a mount is left whose daemon has died",
            (false, true) => "this store is mounted already",
            (false, false) => "another store is mounted already",
        };
        let path = path.display();
        return Err(anyhow!("on {path}, {what}; `blocktree umount {path}` ends it").into());
    }
    let metadata = path.metadata().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow!("the mountpoint {} does not exist; make the directory first", path.display())
        }
        _ => anyhow::Error::from(error).context(format!("cannot look at the mountpoint {}", path.display())),
    })?;
    if !metadata.is_dir() {
        return Err(anyhow!("the mountpoint {} is not a directory", path.display()).into());
    }
    Ok(())
}

fn start_daemon(settings: &Settings, passphrase: Passphrase) -> anyhow::Result<u8> {
    // The running program itself, even if its file was replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("blocktree").arg("mount").args(["--foreground", "--as-daemon"]);
    if !settings.options.passed_on.is_empty() {
        command.arg("-o").arg(&settings.options.passed_on);
    }
    if settings.options.accept_rollback {
        command.arg("--accept-rollback");
    }
    if let Some(file) = settings.options.anchor.enrolment() {
        command.arg("--enrolment").arg(file);
    }
    command.arg("--").arg(&settings.store).arg(&settings.mountpoint);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start the daemon")?;
    if let Some(mut input) = child.stdin.take() {
        // If it has died already, what it said is of more interest than this.
        let _ = input.write_all(&passphrase);
    }
    drop(passphrase);
    wait_until_ready(child)
}

/// What the daemon says on its standard output: one byte, then a message. Where it is ready, there may be none.
const READY: u8 = b'R';
const FAILED_WITH: u8 = b'F';

fn wait_until_ready(mut child: Child) -> anyhow::Result<u8> {
    const MESSAGE_BYTES_MAX: u64 = 64 << 10;
    let mut said = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(MESSAGE_BYTES_MAX).read_to_end(&mut said).context("cannot hear from the daemon")?;
    }
    match said.as_slice() {
        [READY, notice @ ..] => {
            let notice = String::from_utf8_lossy(notice);
            tell(Some(&notice).filter(|notice| !notice.is_empty()).map(|notice| &**notice));
            Ok(0)
        }
        [FAILED_WITH, code, message @ ..] => {
            let _ = child.wait();
            let _ = writeln!(io::stderr(), "blocktree: {}", String::from_utf8_lossy(message));
            Ok(*code)
        }
        _ => {
            let status = child.wait().context("cannot hear from the daemon")?;
            match status.signal() {
                Some(signal) => bail!("the daemon was ended by signal {signal} before the mount was usable"),
                None => bail!("the daemon ended before the mount was usable ({status})"),
            }
        }
    }
}

fn run_as_daemon(arguments: &Arguments, options: Options) -> Result<u8> {
    system::leave_session();
    daemon::log_to(daemon::Log::File);
    // Not through the standard library's buffer, which would keep it.
    let input = io::stdin().as_fd().try_clone_to_owned().context("cannot read standard input")?;
    let passphrase = read_line_or_all(File::from(input))?;
    let settings = settings(arguments, options, arguments.enrolment.as_deref());
    let mut was_ready = false;
    // What can fail does so before there is a mount, or at least before it is said to be usable.
    let nowhere = system::open_nowhere().context("cannot leave the terminal")?;
    let result = daemon::serve(&settings, passphrase, |notice| {
        // No mount should keep another one from being unmounted.
        std::env::set_current_dir("/").context("cannot change to /")?;
        say(&[&[READY], notice.unwrap_or_default().as_bytes()].concat())
            .context("the command that started this daemon has gone")?;
        was_ready = true;
        system::point_standard_streams_to(&nowhere).context("cannot leave the terminal")
    });
    match result {
        Ok(()) => Ok(0),
        Err(failure) if was_ready => {
            tracing::error!(%failure, "the mount ended");
            Ok(FAILED)
        }
        Err(failure) => {
            let mut message = vec![FAILED_WITH, failure.code];
            message.extend_from_slice(failure.to_string().as_bytes());
            let code = failure.code;
            say(&message).map_err(Failure::from)?;
            Ok(code)
        }
    }
}

/// What the user should know although the mount is usable.
fn tell(notice: Option<&str>) {
    if let Some(notice) = notice {
        let _ = writeln!(io::stderr(), "blocktree: {notice}");
    }
}

fn say(message: &[u8]) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(message)?;
    output.flush()
}
