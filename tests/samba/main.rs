//! A mounted store as a share of Samba, served by a private smbd with exactly what `blocktree samba-config` prints,
//! and used by Samba's own clients.
//!
//! `cargo xtask conformance` runs Samba's test suites on such a share. These need root and `/dev/fuse`; without, each
//! says so and passes.

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Mount, Place, can_mount, finish, program, run};
use xtask::samba::{Server, USER, share_name};

/// A mounted store and its server, which ends first.
struct Shared {
    server: Server,
    share: String,
    mount: Mount,
}

impl Shared {
    /// Mounts the store of `place` and serves it.
    fn new(place: &Place, folder: &str) -> Self {
        let mount = place.mount_with(&["-o", "allow_other"]);
        // Clients act as somebody else than the mount's owner.
        for folder in [place.path(""), place.mountpoint()] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let section = finish(program().arg("samba-config").arg(place.mountpoint())).ok().stdout;
        let share = share_name(&section).expect("a share has a name").to_owned();
        let server = Server::start(&place.path(folder), &section).expect("smbd runs");
        Self { server, share, mount }
    }

    /// What smbclient says to this command, which has to succeed.
    #[track_caller]
    fn client(&self, command: &str) -> String {
        let said = self.try_client(command);
        // It tells of failures, but does not always end with one.
        assert!(!said.contains("NT_STATUS_"), "{command}: {said}");
        said
    }

    fn try_client(&self, command: &str) -> String {
        let ran = finish(self.server.client("smbclient", &self.share).args(["-c", command]));
        ran.stdout + &ran.stderr
    }

    fn umount(self) {
        drop(self.server);
        self.mount.umount();
    }
}

/// Runs `work`, then `look` before and after server and store are started anew; then checks the store.
fn across_a_remount(work: impl FnOnce(&Shared, &Place), look: impl Fn(&Shared, &Place)) {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let shared = Shared::new(&place, "first");
    work(&shared, &place);
    look(&shared, &place);
    shared.umount();
    let shared = Shared::new(&place, "second");
    look(&shared, &place);
    shared.umount();
    finish(&mut place.on_store(&["check"], &[])).ok();
}

/// A file beside the mount with bytes that tell their place.
fn local_file(place: &Place, name: &str, bytes: u32) -> PathBuf {
    let path = place.path(name);
    let contents: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8 ^ (at >> 12) as u8).collect();
    fs::write(&path, contents).unwrap();
    path
}

#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    let (one_bytes, other_bytes) = (fs::read(one).unwrap(), fs::read(other).unwrap());
    assert!(one_bytes == other_bytes, "{} differs from {}", one.display(), other.display());
}

/// The value of an extended attribute, as getfattr prints it.
fn extended_attribute(file: &Path, name: &str) -> String {
    finish(Command::new("getfattr").args(["--only-values", "--absolute-names", "-n", name]).arg(file))
        .ok()
        .stdout
}

#[test]
fn files_are_put_got_renamed_and_removed() {
    across_a_remount(
        |shared, place| {
            local_file(place, "small", 100);
            local_file(place, "large", 50_000_000);
            let folder = place.path("");
            let from = format!("lcd {};", folder.display());
            shared.client(&format!("{from} put small letter; put large film; put small doomed"));
            shared.client(
                "mkdir folder; rename letter folder\\moved; rename film FILM; del doomed; mkdir gone",
            );
            shared.client("rmdir gone");
            shared.client(&format!("{from} put small folder\\old; put large folder\\new"));
            // Onto one that exists.
            shared.client("rename folder\\new folder\\old -f");
        },
        |shared, place| {
            let got = place.path("got");
            shared.client(&format!("get FILM {}", got.display()));
            assert_same(&got, &place.path("large"));
            shared.client(&format!("get folder\\moved {}", got.display()));
            assert_same(&got, &place.path("small"));
            // The same seen from this machine; names do not depend on case for clients, but are kept.
            assert_same(&place.path("mnt/FILM"), &place.path("large"));
            assert_same(&place.path("mnt/folder/old"), &place.path("large"));
            assert!(!place.path("mnt/folder/new").exists() && !place.path("mnt/doomed").exists());
            assert!(!place.path("mnt/gone").exists());
            assert!(shared.client("ls folder\\MOVED").contains("100"));
            assert!(shared.try_client("ls doomed").contains("NT_STATUS_NO_SUCH_FILE"));
        },
    );
}

#[test]
fn names_are_any_unicode_and_as_long_as_they_may_be() {
    let names = [
        "Grüße aus Köln".to_owned(),
        "日本語のファイル名".to_owned(),
        "naïve 🐑 sheep".to_owned(),
        "n".repeat(255),
        // 255 bytes in UTF-8.
        "語".repeat(85),
    ];
    across_a_remount(
        |shared, place| {
            for (number, name) in names.iter().enumerate() {
                let local = local_file(place, &format!("local-{number}"), 1000 + number as u32);
                shared.client(&format!("put {} \"{name}\"", local.display()));
            }
            let local = place.path("local-0");
            let too_long = shared.try_client(&format!("put {} {}", local.display(), "n".repeat(256)));
            assert!(too_long.contains("NT_STATUS_OBJECT_NAME_INVALID"), "{too_long}");
        },
        |shared, place| {
            let list = shared.client("ls");
            for (number, name) in names.iter().enumerate() {
                assert!(list.contains(name.as_str()), "{name} is not in {list}");
                let got = place.path("got");
                shared.client(&format!("get \"{name}\" {}", got.display()));
                assert_same(&got, &place.path(&format!("local-{number}")));
                assert_same(&place.mountpoint().join(name), &got);
            }
        },
    );
}

#[test]
fn streams_attributes_and_access_rights_are_extended_attributes() {
    across_a_remount(
        |shared, place| {
            let main = local_file(place, "main", 5000);
            let stream = place.path("stream");
            fs::write(&stream, "[ZoneTransfer]\r\nZoneId=3\r\n").unwrap();
            shared.client(&format!(
                "put {} file; put {} file:Zone.Identifier",
                main.display(),
                stream.display()
            ));
            let large = local_file(place, "large stream", 60_000);
            shared.client(&format!("put \"{}\" file:large", large.display()));
            shared.client("setmode file +h; setmode file +s");
            finish(Command::new("setfacl").args(["-m", "u:games:r"]).arg(place.path("mnt/file"))).ok();
            shared.client("rename file renamed");
        },
        |shared, place| {
            let file = place.path("mnt/renamed");
            let info = shared.client("allinfo renamed");
            for stream in
                ["[::$DATA], 5000 bytes", "[:Zone.Identifier:$DATA], 26 bytes", "[:large:$DATA], 60000 bytes"]
            {
                assert!(info.contains(stream), "{stream} is not in {info}");
            }
            assert!(info.contains("attributes: HSA"), "{info}");
            let got = place.path("got");
            shared.client(&format!("get renamed:large {}", got.display()));
            assert_same(&got, &place.path("large stream"));
            let stream = extended_attribute(&file, "user.DosStream.Zone.Identifier:$DATA");
            assert_eq!(stream.trim_end_matches('\0'), "[ZoneTransfer]\r\nZoneId=3\r\n");
            assert!(!extended_attribute(&file, "user.DOSATTRIB").is_empty());
            assert!(!extended_attribute(&file, "security.NTACL").is_empty());
            let rights = shared.client("showacls; ls renamed");
            // What Samba calls the user 5 of a Unix system, `games`.
            assert!(rights.contains("SID: S-1-22-1-5\n"), "{rights}");
            // Streams are no files of their own, and the file is the client's.
            let names: Vec<_> =
                fs::read_dir(place.mountpoint()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, ["renamed"]);
            let owner = finish(Command::new("id").args(["-u", USER])).ok().stdout;
            assert_eq!(fs::metadata(&file).unwrap().uid().to_string(), owner.trim());
        },
    );
}

#[test]
fn a_share_is_of_a_mount_that_lets_others_in() {
    let place = Place::with_store();
    run(["samba-config".as_ref(), place.mountpoint().as_os_str()]).failed(1, &["no store is mounted on"]);
    if !can_mount() {
        return;
    }
    let mount = place.mount();
    run(["samba-config".as_ref(), place.mountpoint().as_os_str()]).failed(1, &["-o allow_other"]);
    mount.umount();
    let mount = place.mount_with(&["-o", "ro,allow_other"]);
    let section = run(["samba-config".as_ref(), place.mountpoint().as_os_str()]).ok().stdout;
    assert!(section.contains("\n    read only = yes\n"), "{section}");
    mount.umount();
}

/// What the documentation shows is what is printed.
#[test]
fn the_documentation_shows_the_share() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let mount = place.mount_with(&["-o", "allow_other"]);
    let section = run(["samba-config".as_ref(), place.mountpoint().as_os_str()]).ok().stdout;
    mount.umount();
    let mountpoint = place.mountpoint().canonicalize().unwrap();
    let shown = section.replace(mountpoint.to_str().unwrap(), "/srv/tree").replace("[mnt]", "[tree]");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/samba.md");
    let page = fs::read_to_string(page).expect("docs/samba.md");
    assert!(page.contains(&shown), "docs/samba.md does not show this:\n{shown}");
}
