//! `blocktree`: the command line, and the daemon behind a mount.
//!
//! This crate assembles the others. `cli` says what may be typed, `commands` has one file for each command, `daemon`
//! is what serves a mount. Called as `mount.blocktree` or `umount.blocktree` (also with `fuse.` before `blocktree`),
//! it is what mount(8) and umount(8) look for.
//!
//! Exit codes: 0 done, 1 failed (for `check`: damage was found and repaired), 2 wrong usage, 4 (for `check`) damage
//! is left; as a helper of mount(8) and umount(8) 1 for wrong usage and 32 for a failure.

mod anchor;
#[cfg(feature = "apps")]
mod apps;
mod calls;
mod capabilities;
mod cli;
mod commands;
mod daemon;
mod date;
mod failure;
mod helper;
mod lost;
mod mount_list;
mod mount_options;
mod passphrase;
mod paths;
mod principals;
mod private_file;
mod signature;
mod size;
mod store_control;
mod store_key;
mod system;
mod tpm;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let called_as = arguments.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let result = match called_as.to_str() {
        Some("mount.blocktree" | "mount.fuse.blocktree") => helper::mount(&arguments),
        Some("umount.blocktree" | "umount.fuse.blocktree") => helper::umount(&arguments),
        _ => cli::run(&arguments),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            // Nobody may be there to read it; the exit code still says what happened.
            let _ = writeln!(std::io::stderr(), "blocktree: {failure}");
            ExitCode::from(failure.code)
        }
    }
}
