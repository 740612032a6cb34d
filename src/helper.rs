//! What mount(8) and umount(8) call: `mount.blocktree STORE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]`
//! and `umount.blocktree MOUNTPOINT [-flnrv] [-N NAMESPACE] [-t TYPE]`.
//!
//! Exit codes are those of mount(8).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use crate::cli::PassphraseSource;
use crate::commands::{mount, umount};
use crate::failure::{FAILED, Failure, MOUNT_FAILED, Result, USAGE};
use crate::mount_options::Options;

const MOUNT_USAGE: &str = "usage: mount.blocktree STORE MOUNTPOINT [-sfnv] [-o OPTIONS]";
const UMOUNT_USAGE: &str = "usage: umount.blocktree MOUNTPOINT [-flnrv]";

#[derive(Debug, Default, PartialEq, Eq)]
struct Parsed {
    places: Vec<OsString>,
    options: Vec<OsString>,
    /// The letters of flags without a value.
    flags: Vec<u8>,
}

pub(crate) fn mount(arguments: &[OsString]) -> Result<u8> {
    as_mount_code(mount_as_asked(arguments))
}

pub(crate) fn umount(arguments: &[OsString]) -> Result<u8> {
    let result = parse(arguments, b"flnrv", UMOUNT_USAGE).and_then(|parsed| {
        let [mountpoint] = parsed.places.as_slice() else { return Err(Failure::usage(UMOUNT_USAGE)) };
        umount::run(&PathBuf::from(mountpoint), parsed.flags.contains(&b'l'))
    });
    as_mount_code(result)
}

fn mount_as_asked(arguments: &[OsString]) -> Result<u8> {
    let parsed = parse(arguments, b"sfnvw", MOUNT_USAGE)?;
    let [store, mountpoint] = parsed.places.as_slice() else { return Err(Failure::usage(MOUNT_USAGE)) };
    // Unlike the command, what mount(8) mounts has set-user-id programs and devices unless it says otherwise.
    let mut lists = vec![OsString::from("suid,dev")];
    lists.extend(parsed.options);
    let options = Options::parse(&lists)?;
    // -s: "sloppy", tolerate what is unknown.
    if !parsed.flags.contains(&b's') {
        options.refuse_unknown()?;
    }
    // -f: "fake", everything but the mount itself.
    if parsed.flags.contains(&b'f') {
        return Ok(0);
    }
    let arguments = mount::Arguments {
        store: store.into(),
        mountpoint: mountpoint.into(),
        options: Vec::new(),
        passphrase: PassphraseSource::default(),
        principal: None,
        foreground: false,
        as_daemon: false,
        accept_rollback: options.accept_rollback,
        enrolment: None,
    };
    mount::run_with(&arguments, options)
}

fn as_mount_code(result: Result<u8>) -> Result<u8> {
    match result {
        // mount(8): 1 is "incorrect invocation".
        Err(failure) if failure.code == USAGE => Err(failure.with_code(FAILED)),
        Err(failure) => Err(failure.with_code(MOUNT_FAILED)),
        Ok(0) => Ok(0),
        Ok(USAGE) => Ok(FAILED),
        Ok(_) => Ok(MOUNT_FAILED),
    }
}

fn parse(arguments: &[OsString], known: &[u8], usage: &str) -> Result<Parsed> {
    let mut parsed = Parsed::default();
    let mut rest = arguments.iter().skip(1);
    let mut only_places = false;
    while let Some(argument) = rest.next() {
        let bytes = argument.as_bytes();
        if only_places || bytes.len() < 2 || bytes[0] != b'-' {
            parsed.places.push(argument.clone());
            continue;
        }
        if bytes == b"--" {
            only_places = true;
            continue;
        }
        for (at, &letter) in bytes.iter().enumerate().skip(1) {
            match letter {
                b'o' | b'N' | b't' => {
                    // The value is the rest of this argument, or the next one.
                    let value = match &bytes[at + 1..] {
                        [] => rest.next().cloned(),
                        value => Some(OsString::from_vec(value.to_vec())),
                    };
                    let value = value.ok_or_else(|| Failure::usage(usage))?;
                    if letter == b'o' {
                        parsed.options.push(value);
                    }
                    break;
                }
                letter if known.contains(&letter) => parsed.flags.push(letter),
                _ => {
                    let argument = OsStr::from_bytes(bytes).display();
                    return Err(Failure::usage(format!("unknown flag {argument}; {usage}")));
                }
            }
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Parsed> {
        let arguments: Vec<OsString> = line.split(' ').map(Into::into).collect();
        parse(&arguments, b"sfnv", MOUNT_USAGE)
    }

    #[test]
    fn what_mount_passes_is_understood() {
        let expected = Parsed {
            places: vec!["/srv/s".into(), "/mnt".into()],
            options: vec!["rw,noexec".into()],
            flags: vec![b's', b'n'],
        };
        assert_eq!(parsed("mount.blocktree /srv/s /mnt -sn -o rw,noexec").unwrap(), expected);
        assert_eq!(parsed("mount.blocktree -s -n -orw,noexec /srv/s /mnt").unwrap(), expected);
        assert_eq!(
            parsed("mount.blocktree -sno rw,noexec -t fuse.blocktree -- /srv/s /mnt").unwrap(),
            expected
        );
    }

    #[test]
    fn codes_are_those_of_mount() {
        assert_eq!(as_mount_code(Err(Failure::usage("x"))).unwrap_err().code, 1);
        assert_eq!(as_mount_code(Err(anyhow::anyhow!("x").into())).unwrap_err().code, 32);
        assert_eq!(as_mount_code(Ok(1)).unwrap(), 32);
        assert!(parsed("mount.blocktree -x").is_err());
        assert!(parsed("mount.blocktree a b -o").is_err());
    }
}
