//! What serves a mount: opens the store, mounts it, and waits until it is unmounted or a signal asks for that.
//!
//! Invariant: this process ends only after the store was closed, except when it is killed.

use std::fs::OpenOptions as FileOptions;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use blocktree_engine::device::Access;
use blocktree_engine::{Error, OpenError, OpenOptions, Store};
use blocktree_vfs::Fs;
use blocktree_vfs::fuse::{self, Ending, Locks, MountHandle, MountOptions};
use tracing_subscriber::EnvFilter;

use crate::anchor;
use crate::commands::{DAMAGE_ADVICE, open_failed, open_volume};
use crate::failure::{FAILED, Result};
use crate::mount_options::Options;
use crate::passphrase::Passphrase;
use crate::store_control::StoreControl;
use crate::store_key::StoreKey;
use crate::system::{self, EndSignals};

/// What is mounted where, and how.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) store: PathBuf,
    pub(crate) mountpoint: PathBuf,
    pub(crate) options: Options,
}

/// Where the log goes unless `BLOCKTREE_LOG_FILE` names a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Log {
    StandardError,
    /// Nowhere else.
    File,
}

/// Mounts, calls `ready` once the mount is usable, and returns when it has ended and everything is durable.
pub(crate) fn serve(
    settings: &Settings,
    passphrase: Passphrase,
    ready: impl FnOnce(Option<&str>) -> anyhow::Result<()>,
) -> Result<()> {
    system::keep_memory_private();
    // Before the first thread, so that all of them inherit it.
    let signals = EndSignals::block().context("cannot block signals")?;
    // A port that somebody else has is a reason not to mount: whoever named it relies on it.
    let http = match settings.options.http {
        Some(address) => Some(
            TcpListener::bind(address)
                .with_context(|| format!("cannot answer HTTP requests at {address}"))?,
        ),
        None => None,
    };
    let is_read_only = settings.options.read_only;
    let key = match &settings.options.principal {
        Some(who) => StoreKey::of(who.open_with(&passphrase)?, settings.options.root),
        None => StoreKey::Passphrase(passphrase),
    };
    let store = open_store(settings, &key)?;
    drop(key);
    let is_read_only = is_read_only || store.is_read_only();
    let notice = [check_anchor(settings, &store)?, refused_notice(&store)];
    let notice = notice.into_iter().flatten().reduce(|one, other| format!("{one}\n{other}"));
    let options = blocktree_vfs::MountOptions {
        read_only: is_read_only,
        no_atime: !settings.options.flags.access_times,
        ids: settings.options.ids.clone(),
        subtree: settings.options.subtree,
        unit_bytes: settings.options.unit_bytes,
        ..blocktree_vfs::MountOptions::default()
    };
    let fs = Fs::mount(store.clone(), options)
        .with_context(|| format!("cannot read the tree in {}{DAMAGE_ADVICE}", settings.store.display()))?;
    let fs = Arc::new(fs);
    let service = Arc::new(StoreControl::new(Arc::clone(&fs), is_read_only));
    let control = Arc::clone(&service);
    let mounted = fuse::mount(&fs, &settings.mountpoint, &mount_options(settings, is_read_only), service);
    let mounted = match mounted {
        Ok(mounted) => mounted,
        Err(error) => {
            // Nothing was changed; the reason for not mounting is what the user needs.
            let _ = fs.unmount().map(|()| fs.store().close());
            let what =
                format!("cannot mount {} on {}", settings.store.display(), settings.mountpoint.display());
            return Err(anyhow::Error::from(error).context(what).into());
        }
    };
    let handle = mounted.handle();
    #[cfg(feature = "apps")]
    crate::apps::serve(&fs, &mounted, &control, http, is_read_only);
    #[cfg(not(feature = "apps"))]
    drop((control, http));
    let started = end_on_signals(signals, handle.clone()).context("cannot start a thread for signals");
    if let Err(error) = started.and_then(|()| ready(notice.as_deref())) {
        // What the user needs is the reason for that.
        match end(&handle) {
            Ok(()) => {
                drop(mounted.join().inspect_err(|error| tracing::error!(%error, "the store was not closed")))
            }
            Err(error) => tracing::error!(%error, "cannot unmount again"),
        }
        return Err(error.into());
    }
    tracing::info!(store = %settings.store.display(), mountpoint = %settings.mountpoint.display(), "mounted");
    mounted.join().context("the store was not closed cleanly")?;
    tracing::info!("unmounted, and everything is durable");
    Ok(())
}

/// Opens the store. A snapshot of a store that another daemon changes meanwhile may take several tries.
fn open_store(settings: &Settings, key: &StoreKey) -> Result<Store> {
    const TRIES_MAX: u32 = 10;
    const PAUSE: Duration = Duration::from_millis(20);
    let access = settings.options.store_access();
    let options = OpenOptions {
        read_only: settings.options.read_only,
        snapshot: settings.options.snapshot.clone(),
        anchor: settings.options.anchor.anchor(),
        accept_rollback: settings.options.accept_rollback,
        ..OpenOptions::default()
    };
    let mut tries = 0;
    let error = loop {
        tries += 1;
        // Anew each time: the volume may have grown.
        let device = open_volume(&settings.store, access)?;
        match Store::open_as(device, &key.credential(), &options) {
            Ok(store) => return Ok(store),
            Err(error) if access == Access::Shared && tries < TRIES_MAX && may_pass(&error, tries) => {
                tracing::debug!(%error, tries, "the store changed while it was being opened");
                std::thread::sleep(PAUSE * tries);
            }
            Err(error) => break error,
        }
    };
    Err(open_failed(error, &settings.store).into())
}

/// What the user should know of the store's anchor. One that was asked for by name must work.
fn check_anchor(settings: &Settings, store: &Store) -> Result<Option<String>> {
    let status = store.anchor();
    let options = &settings.options;
    let failure = status.as_ref().and_then(|status| status.failure.as_ref().map(|why| (&status.place, why)));
    if let Some((place, why)) = failure.filter(|_| options.anchor.is_named()) {
        return Err(anyhow!("the rollback anchor {place} cannot be kept: {why}; name another file").into());
    }
    let notice = anchor::notice(status.as_ref(), &options.anchor, options.read_only);
    if let Some(notice) = &notice {
        tracing::warn!("{notice}");
    }
    Ok(notice)
}

/// What the user should know of records that did not count.
fn refused_notice(store: &Store) -> Option<String> {
    let refused = store.refused_record()?;
    Some(format!(
        "record {} of the log, by {}, does not count, and neither does what follows it: {}",
        refused.seq, refused.author, refused.why
    ))
}

/// Whether a writer may have caused this, by changing one part between the reads of that and of another.
fn may_pass(error: &OpenError, tries: u32) -> bool {
    match error {
        OpenError::Superblock(_)
        | OpenError::Truncated { .. }
        | OpenError::Log { .. }
        | OpenError::Space(_)
        | OpenError::Store(Error::Corrupt { .. }) => true,
        // The log may have moved on before it was read. That does not happen twice in a row.
        OpenError::NoSnapshot(_) => tries == 1,
        _ => false,
    }
}

fn mount_options(settings: &Settings, read_only: bool) -> MountOptions {
    let options = &settings.options;
    MountOptions {
        source: settings.store.clone().into(),
        read_only,
        access: options.access,
        flags: options.flags,
        write_back: options.write_back.unwrap_or(true),
        locks: Locks::Kernel,
        read_bytes_max: options.read_bytes_max,
        event_loops: options.event_loops,
        transport: options.transport,
    }
}

fn end_on_signals(signals: EndSignals, handle: MountHandle) -> io::Result<()> {
    let wait = move || {
        loop {
            let signal = signals.wait();
            tracing::info!(signal, "unmounting");
            match end(&handle) {
                Ok(()) => {}
                // It goes on; there may be another signal.
                Err(error) => tracing::error!(%error, "cannot unmount"),
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}

/// Ends the mount. If it is in use, this process ends here: those that use it would keep it for ever.
fn end(handle: &MountHandle) -> io::Result<()> {
    if handle.end()? == Ending::StillUsed {
        let closed = handle.close();
        if let Err(error) = &closed {
            tracing::error!(%error, "the store was not closed cleanly");
        }
        std::process::exit(if closed.is_ok() { 0 } else { FAILED.into() });
    }
    Ok(())
}

/// Starts the log. Whoever reads it cannot learn anything secret: names and contents are never logged.
pub(crate) fn log_to(log: Log) {
    const FILE_VARIABLE: &str = "BLOCKTREE_LOG_FILE";
    let file = std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty());
    let default = if file.is_some() { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env("BLOCKTREE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    let opened = file.map(|path| {
        FileOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(|error| {
            anyhow!(
                "cannot write the log {}, which {FILE_VARIABLE} names: {error}",
                PathBuf::from(path).display()
            )
        })
    });
    match opened {
        Some(Ok(file)) => builder.with_writer(Mutex::new(file)).init(),
        Some(Err(error)) => {
            builder.with_writer(io::stderr).init();
            tracing::warn!("{error:#}");
        }
        None if log == Log::StandardError => builder.with_writer(io::stderr).init(),
        None => {}
    }
}
