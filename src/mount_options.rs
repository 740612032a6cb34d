//! The options of `-o`, as mount(8), fstab(5) and people write them.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use blocktree_engine::crypto::PrincipalId;
use blocktree_engine::device;
use blocktree_vfs::fuse::{Access, Flags, Transport};
use blocktree_vfs::{IdMap, IdRange, parse_unit};

use crate::anchor::Choice;
use crate::failure::{Failure, Result};
use crate::passphrase::Source;
use crate::principals::Who;
use crate::store_key::{parse_id, parse_serial};

/// What a list of options asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) read_only: bool,
    pub(crate) access: Access,
    pub(crate) flags: Flags,
    /// Whom the mount shows in place of those on disk.
    pub(crate) ids: IdMap,
    /// Whether the kernel collects writes in its cache; not set: as is best.
    pub(crate) write_back: Option<bool>,
    pub(crate) read_bytes_max: Option<u32>,
    pub(crate) event_loops: Option<usize>,
    /// How many bytes have one hash in new files, where the directory says nothing of it.
    pub(crate) unit_bytes: u64,
    pub(crate) transport: Transport,
    /// Where the passphrase comes from.
    pub(crate) passphrase: Option<Source>,
    pub(crate) snapshot: Option<String>,
    /// Whose key opens the store in place of its passphrase, and the root principal that it must belong to.
    pub(crate) principal: Option<Who>,
    pub(crate) root: Option<PrincipalId>,
    /// Which of several shared directories is shown.
    pub(crate) subtree: Option<u64>,
    /// Where apps answer HTTP requests; not set: nowhere.
    pub(crate) http: Option<SocketAddr>,
    /// Where it is remembered how far the store had come, and whether the store counts even if that disagrees.
    pub(crate) anchor: Choice,
    pub(crate) accept_rollback: bool,
    /// Those that were not understood.
    pub(crate) unknown: Vec<String>,
    /// The list again, for the daemon: without where the passphrase comes from, which it does not need.
    pub(crate) passed_on: OsString,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            read_only: false,
            access: Access::Owner,
            // As FUSE filesystems have it: whoever made the store would else decide what is run as root here. The
            // helper of mount(8) asks for both.
            flags: Flags { set_user_id: false, devices: false, ..Flags::default() },
            ids: IdMap::default(),
            write_back: None,
            read_bytes_max: None,
            event_loops: None,
            unit_bytes: 0,
            transport: Transport::default(),
            passphrase: None,
            snapshot: None,
            principal: None,
            root: None,
            subtree: None,
            http: None,
            anchor: Choice::Usual,
            accept_rollback: false,
            unknown: Vec::new(),
            passed_on: OsString::new(),
        }
    }
}

impl Options {
    /// Parses lists of options between commas; `\,` is a comma that separates nothing. Later ones win.
    pub(crate) fn parse(lists: &[OsString]) -> Result<Self> {
        let mut options = Self::default();
        let mut passed_on: Vec<u8> = Vec::new();
        for option in lists.iter().flat_map(|list| split(list.as_bytes())) {
            let (name, value) = match option.iter().position(|&byte| byte == b'=') {
                Some(at) => (&option[..at], Some(&option[at + 1..])),
                None => (&option[..], None),
            };
            options.set(&String::from_utf8_lossy(name), value)?;
            if !matches!(name, b"passphrase_file" | b"passphrase_from") {
                if !passed_on.is_empty() {
                    passed_on.push(b',');
                }
                for &byte in &option {
                    if matches!(byte, b',' | b'\\') {
                        passed_on.push(b'\\');
                    }
                    passed_on.push(byte);
                }
            }
        }
        options.passed_on = OsString::from_vec(passed_on);
        if options.snapshot.is_some() {
            options.read_only = true;
        }
        Ok(options)
    }

    /// How the store is to be opened. A snapshot stays as it is, whoever else changes the store.
    pub(crate) fn store_access(&self) -> device::Access {
        match (&self.snapshot, self.read_only) {
            (Some(_), _) => device::Access::Shared,
            (None, true) => device::Access::ReadOnly,
            (None, false) => device::Access::ReadWrite,
        }
    }

    /// Fails if anything was not understood.
    pub(crate) fn refuse_unknown(&self) -> Result<()> {
        match self.unknown.first() {
            None => Ok(()),
            Some(name) => Err(Failure::usage(format!(
                "unknown mount option {name:?}; `blocktree mount --help` lists those that there are"
            ))),
        }
    }

    fn set(&mut self, name: &str, value: Option<&[u8]>) -> Result<()> {
        let flags = &mut self.flags;
        match (name, value) {
            ("ro", None) => self.read_only = true,
            ("rw", None) => self.read_only = false,
            ("allow_other", None) => self.access = Access::Everyone,
            ("allow_root", None) => self.access = Access::OwnerAndRoot,
            ("suid", None) => flags.set_user_id = true,
            ("nosuid", None) => flags.set_user_id = false,
            ("dev", None) => flags.devices = true,
            ("nodev", None) => flags.devices = false,
            ("exec", None) => flags.execute = true,
            ("noexec", None) => flags.execute = false,
            ("noatime", None) => flags.access_times = false,
            ("atime" | "relatime" | "strictatime", None) => flags.access_times = true,
            ("nodiratime", None) => flags.directory_access_times = false,
            ("diratime", None) => flags.directory_access_times = true,
            ("sync", None) => flags.synchronous = true,
            ("async", None) => flags.synchronous = false,
            // What mount(8) makes of these; those after them may take it back.
            ("user" | "users", None | Some(_)) => {
                (flags.set_user_id, flags.devices, flags.execute) = (false, false, false);
            }
            ("owner" | "group", None) => (flags.set_user_id, flags.devices) = (false, false),
            ("uid", Some(value)) => self.ids.users.all = Some(number(name, value, 0, ID_MAX)?),
            ("gid", Some(value)) => self.ids.groups.all = Some(number(name, value, 0, ID_MAX)?),
            ("map_uid", Some(value)) => self.ids.users.ranges.push(id_range(name, value)?),
            ("map_gid", Some(value)) => self.ids.groups.ranges.push(id_range(name, value)?),
            ("writeback", None) => self.write_back = Some(true),
            ("no_writeback" | "nowriteback", None) => self.write_back = Some(false),
            ("max_read", Some(value)) => self.read_bytes_max = Some(number(name, value, 4096, 1 << 20)?),
            ("threads", Some(value)) => self.event_loops = Some(number(name, value, 1, 256)? as usize),
            ("unit", Some(value)) => {
                self.unit_bytes = parse_unit(value).ok_or_else(|| {
                    Failure::usage("the mount option unit is a power of two from unit=4k to unit=128k")
                })?;
            }
            ("transport", Some(b"device")) => self.transport = Transport::Device,
            ("transport", Some(b"uring")) => self.transport = Transport::Uring,
            ("transport", _) => {
                return Err(Failure::usage(
                    "the mount option transport is transport=device or transport=uring",
                ));
            }
            ("passphrase_file", Some(value)) if !value.is_empty() => {
                self.passphrase = Some(Source::File(OsString::from_vec(value.to_vec()).into()));
            }
            ("passphrase_from", Some(value)) => {
                let source = std::str::from_utf8(value).unwrap_or_default().parse::<Source>();
                self.passphrase = Some(source.map_err(Failure::usage)?);
            }
            ("snapshot", Some(value)) if !value.is_empty() => {
                let name = std::str::from_utf8(value);
                let name = name.map_err(|_| Failure::usage("the name of a snapshot is UTF-8 text"))?;
                self.snapshot = Some(name.to_owned());
            }
            ("principal", Some(value)) if !value.is_empty() => {
                self.principal = Some(text(name, value)?.parse().map_err(Failure::usage)?);
            }
            ("root", Some(value)) if !value.is_empty() => {
                self.root = Some(parse_id(text(name, value)?).map_err(Failure::usage)?);
            }
            ("subtree", Some(value)) if !value.is_empty() => {
                self.subtree = Some(parse_serial(text(name, value)?).map_err(Failure::usage)?);
            }
            ("http", Some(value)) if !value.is_empty() => self.http = Some(loopback(text(name, value)?)?),
            ("anchor", Some(b"none")) => self.anchor = Choice::Nowhere,
            ("anchor", Some(value)) if !value.is_empty() && value != b"tpm:" => {
                let path = |value: &[u8]| OsString::from_vec(value.to_vec()).into();
                self.anchor = match value.strip_prefix(b"tpm:") {
                    Some(file) => Choice::Counted { file: path(file), enrolment: None },
                    None => Choice::At(path(value)),
                };
            }
            ("accept_rollback", None) => self.accept_rollback = true,
            (
                "passphrase_file" | "passphrase_from" | "snapshot" | "anchor" | "max_read" | "threads"
                | "uid" | "gid" | "map_uid" | "map_gid" | "principal" | "root" | "subtree" | "http" | "unit",
                _,
            ) => {
                return Err(Failure::usage(format!("the mount option {name} needs a value: {name}=...")));
            }
            ("remount", None) => {
                return Err(Failure::usage(
                    "a mounted store cannot be remounted; unmount it and mount it again",
                ));
            }
            (name, value) if is_for_others(name, value.is_some()) => {}
            (name, _) => self.unknown.push(name.to_owned()),
        }
        Ok(())
    }
}

fn text<'a>(name: &str, value: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(value).map_err(|_| Failure::usage(format!("the mount option {name} is UTF-8 text")))
}

/// An address of this machine itself, and a port: whoever comes from elsewhere has no business with apps.
fn loopback(value: &str) -> Result<SocketAddr> {
    let address = value.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback());
    address.ok_or_else(|| {
        Failure::usage(format!(
            "the mount option http={value} must be an address of this machine itself with a port, as in \
             http=127.0.0.1:8080"
        ))
    })
}

/// Options that fstab and mount(8) have for themselves, and those that are always on.
fn is_for_others(name: &str, has_value: bool) -> bool {
    const FLAGS: [&str; 23] = [
        "",
        "defaults",
        "default_permissions",
        "auto",
        "noauto",
        "nouser",
        "nousers",
        "noowner",
        "nogroup",
        "nofail",
        "_netdev",
        "norelatime",
        "nostrictatime",
        "lazytime",
        "nolazytime",
        "dirsync",
        "loud",
        "silent",
        "mand",
        "nomand",
        "iversion",
        "noiversion",
        "nonempty",
    ];
    const VALUES: [&str; 5] = ["comment", "uhelper", "helper", "fsname", "subtype"];
    name.starts_with("x-")
        || name.starts_with("X-")
        || if has_value { VALUES.contains(&name) } else { FLAGS.contains(&name) }
}

fn number(name: &str, value: &[u8], min: u32, max: u32) -> Result<u32> {
    let parsed = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
    parsed.filter(|value| (min..=max).contains(value)).ok_or_else(|| {
        let value = String::from_utf8_lossy(value);
        Failure::usage(format!("the mount option {name}={value} must be a number from {min} to {max}"))
    })
}

/// The kernel keeps the last one for "nobody at all".
const ID_MAX: u32 = u32::MAX - 1;

/// STORED:SHOWN or STORED:SHOWN:COUNT.
fn id_range(name: &str, value: &[u8]) -> Result<IdRange> {
    let parts = std::str::from_utf8(value).ok().map(|value| value.split(':').map(str::parse::<u32>));
    let parts: Option<Vec<u32>> = parts.and_then(|parts| parts.collect::<std::result::Result<_, _>>().ok());
    let range = match parts.as_deref() {
        Some(&[stored, shown]) => Some(IdRange { stored, shown, count: 1 }),
        Some(&[stored, shown, count]) => Some(IdRange { stored, shown, count }),
        _ => None,
    };
    // The ids end where the count does.
    let ends = |first: u32, count: u32| u64::from(first) + u64::from(count) <= u64::from(ID_MAX) + 1;
    let fits = |range: &IdRange| {
        range.count > 0 && ends(range.stored, range.count) && ends(range.shown, range.count)
    };
    range.filter(fits).ok_or_else(|| {
        let value = String::from_utf8_lossy(value);
        Failure::usage(format!(
            "the mount option {name}={value} must be {name}=STORED:SHOWN or {name}=STORED:SHOWN:COUNT"
        ))
    })
}

fn split(list: &[u8]) -> Vec<Vec<u8>> {
    let mut options = vec![Vec::new()];
    let mut bytes = list.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b',', _) => options.push(Vec::new()),
            (b'\\', Some(&escaped @ (b',' | b'\\'))) => {
                bytes.next();
                options.last_mut().expect("never empty").push(escaped);
            }
            (byte, _) => options.last_mut().expect("never empty").push(byte),
        }
    }
    options.retain(|option| !option.is_empty());
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Options {
        Options::parse(&[list.into()]).unwrap()
    }

    #[test]
    fn what_fstab_contains_is_accepted() {
        let options = parse("defaults,rw,noauto,nofail,_netdev,x-systemd.automount,comment=home,,user=anna");
        assert_eq!(options.unknown, Vec::<String>::new());
        assert!(!options.flags.set_user_id && !options.flags.devices && !options.flags.execute);
        assert!(parse("user,exec").flags.execute);
    }

    #[test]
    fn later_options_win() {
        assert!(!parse("ro,rw").read_only);
        assert!(parse("rw,ro").read_only);
        assert_eq!(parse("no_writeback,writeback").write_back, Some(true));
        assert_eq!(parse("allow_root,allow_other").access, Access::Everyone);
    }

    #[test]
    fn the_passphrase_file_is_not_passed_on() {
        let options = parse("ro,passphrase_file=/a\\,b,noatime");
        assert_eq!(options.passphrase, Some(Source::File("/a,b".into())));
        assert_eq!(options.passed_on, "ro,noatime");
        let again = parse("snapshot=a\\,b");
        assert_eq!(again.passed_on, "snapshot=a\\,b");
        assert_eq!(Options::parse(std::slice::from_ref(&again.passed_on)).unwrap(), again);
        assert!(again.read_only);
        assert_eq!(parse("anchor=none").anchor, Choice::Nowhere);
        let anchored = parse("anchor=/a\\,b,accept_rollback");
        assert_eq!((&anchored.anchor, anchored.accept_rollback), (&Choice::At("/a,b".into()), true));
        assert_eq!(Options::parse(std::slice::from_ref(&anchored.passed_on)).unwrap(), anchored);
        let counted = Choice::Counted { file: "/a".into(), enrolment: None };
        assert_eq!(parse("anchor=tpm:/a").anchor, counted);
    }

    #[test]
    fn set_user_id_programs_and_devices_are_for_those_who_ask() {
        let flags = parse("allow_other").flags;
        assert!(!flags.set_user_id && !flags.devices && flags.execute);
        let flags = parse("suid,dev").flags;
        assert!(flags.set_user_id && flags.devices);
    }

    #[test]
    fn apps_answer_this_machine_only() {
        assert_eq!(parse("http=127.0.0.1:8080").http.unwrap().port(), 8080);
        assert!(parse("http=[::1]:0").http.unwrap().ip().is_loopback());
        assert_eq!(parse("").http, None);
        for wrong in
            ["http", "http=", "http=8080", "http=127.0.0.1", "http=0.0.0.0:80", "http=192.168.1.1:80"]
        {
            assert!(Options::parse(&[wrong.into()]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn owners_are_mapped() {
        let ids = parse("uid=1000,gid=100").ids;
        assert_eq!((ids.users.all, ids.groups.all), (Some(1000), Some(100)));
        let ids = parse("map_uid=501:1000,map_uid=5000:0:10,map_gid=20:1000").ids;
        assert_eq!(
            ids.users.ranges,
            [IdRange { stored: 501, shown: 1000, count: 1 }, IdRange { stored: 5000, shown: 0, count: 10 }]
        );
        assert_eq!(ids.groups.ranges, [IdRange { stored: 20, shown: 1000, count: 1 }]);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse("ro,bogus").unknown, ["bogus"]);
        assert!(parse("bogus=1").refuse_unknown().unwrap_err().to_string().contains("bogus"));
        for wrong in [
            "passphrase_file=",
            "passphrase_file",
            "passphrase_from=secret",
            "passphrase_from",
            "anchor=",
            "anchor=tpm:",
            "principal=",
            "root=12",
            "subtree=x",
            "max_read=17",
            "unit=12k",
            "threads=many",
            "remount",
            "uid",
            "uid=anna",
            "gid=4294967295",
            "map_uid=1",
            "map_uid=1:2:0",
            "map_gid=1:4294967290:10",
            "map_gid=1:2:3:4",
        ] {
            let failure = Options::parse(&[wrong.into()]).unwrap_err();
            assert_eq!(failure.code, crate::failure::USAGE, "{wrong}");
        }
    }
}
