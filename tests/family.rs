//! The story of `docs/getting-started.md`: a family's store, a second machine, a phone that may look at the photos; a right
//! that is asked for, given and taken back; a machine that is lost, and the store restored from the backup of its keys. At
//! each step, what must be refused is.

mod support;

use std::fs;
use std::path::Path;

use support::{Mount, Place, Ran, can_mount, finish, program, run};

struct Family {
    place: Place,
}

impl Family {
    /// The store at home, with something in it, and a backup of its keys.
    fn new() -> Self {
        let place = Place::with_store();
        let mount = place.mount();
        fs::create_dir_all(mount.path("photos")).unwrap();
        fs::create_dir(mount.path("letters")).unwrap();
        fs::write(mount.path("photos/sea"), "blue").unwrap();
        fs::write(mount.path("letters/bank"), "not for everybody").unwrap();
        mount.umount();
        fs::write(place.path("paper"), "kept in a drawer").unwrap();
        fs::write(place.path("new"), "a new one").unwrap();
        Self { place }
    }

    fn path(&self, name: &str) -> String {
        self.place.path(name).to_str().unwrap().to_owned()
    }

    fn store(&self) -> String {
        self.path("store")
    }

    /// A command on the store by its owner.
    fn owner(&self, command: &[&str], arguments: &[&str]) -> Ran {
        finish(&mut self.place.on_store(command, arguments))
    }

    /// Somebody makes a principal; its file.
    fn principal(&self, name: &str) -> String {
        let file = self.path(name);
        run(["principal", "create", name, "--no-passphrase", "--file", &file]).ok();
        file
    }

    fn key(&self, command: &str, arguments: &[&str]) -> Ran {
        let [paper, new] = [self.path("paper"), self.path("new")];
        let mut line = program();
        // On another machine than the one that is lost.
        line.env("BLOCKTREE_ANCHOR_DIR", self.path("anchors"));
        line.args(["key", command, &self.store()]).args(arguments);
        line.args(["--backup-passphrase-file", &paper]);
        match command {
            "backup" => line.args(self.place.passphrase_arguments()),
            "restore" => line.args(["--new-passphrase-file", &new]),
            _ => &mut line,
        };
        finish(&mut line)
    }

    fn mount_as(&self, who: &str) -> Result<Mount, Ran> {
        let name = Path::new(who).file_name().unwrap().to_str().unwrap();
        let mountpoint = self.place.path(&format!("mnt-{name}"));
        let _ = fs::create_dir(&mountpoint);
        let mut command = program();
        command.args(["mount", "--principal", who, "-o", "anchor=none", &self.store()]).arg(&mountpoint);
        Mount::attempt(&mut command, mountpoint)
    }

    fn refused(&self, who: &str, says: &str) {
        self.mount_as(who).err().expect("this principal is not let in").failed(1, &[says]);
    }

    /// What waits for an answer: the names of requests.
    fn pending(&self) -> Vec<String> {
        let listed = run(["cap", "pending", &self.store()]).ok().stdout;
        listed.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    }

    fn ask(&self, who: &str, path: &str, rights: &str) -> Ran {
        let reason = ["--reason", "for the holidays"];
        let place = ["--principal", who, "--rights", rights, "--store"];
        run(["cap", "request", path].into_iter().chain(place).chain([&*self.store()]).chain(reason))
    }
}

#[test]
fn a_family_shares_a_store_and_loses_a_machine() {
    if !can_mount() {
        return;
    }
    let family = Family::new();
    let backup = family.path("backup");
    family.key("backup", &[&backup]).ok();
    family.key("verify-backup", &[&backup]).ok();

    // The phone asks to see the photos, and has nothing before it is answered.
    let [phone, laptop, stranger] = ["phone", "laptop", "stranger"].map(|name| family.principal(name));
    let asked = family.ask(&phone, "/photos", "r").ok().stdout.trim().to_owned();
    assert_eq!(family.pending(), std::slice::from_ref(&asked));
    family.refused(&phone, "no access slot");
    family.ask(&stranger, "photos", "r").failed(2, &["begins with /"]);
    let from_stranger = family.ask(&stranger, "/letters", "r").ok().stdout.trim().to_owned();

    // Who changes a request gets nothing by it.
    let file = family.place.store().join("requests").join(&asked);
    let text = fs::read_to_string(&file).unwrap();
    let forged = family.path("forged");
    fs::write(&forged, text.replace("/photos", "/letters")).unwrap();
    family.owner(&["cap", "approve"], &[&forged]).failed(1, &["signature is wrong"]);
    let other_store = text.replace("/photos", &format!("/{}/photos", "ab".repeat(32)));
    fs::write(&forged, other_store).unwrap();
    family.owner(&["cap", "approve"], &[&forged]).failed(1, &["signature is wrong"]);
    family.owner(&["cap", "approve"], &["0123456789abcdef"]).failed(1, &["no request"]);

    let photos = family.owner(&["cap", "approve"], &[&asked]).ok().stdout.trim().to_owned();
    run(["cap", "deny", &family.store(), &from_stranger]).ok();
    assert!(family.pending().is_empty());
    run(["cap", "deny", &family.store(), &from_stranger]).failed(1, &["no request"]);
    family.refused(&stranger, "no access slot");
    let mount = family.mount_as(&phone).unwrap();
    assert_eq!(fs::read_to_string(mount.path("sea")).unwrap(), "blue");
    assert!(fs::metadata(mount.path("letters")).is_err());
    assert_eq!(fs::write(mount.path("sea"), "red").unwrap_err().raw_os_error(), Some(libc::EROFS));
    mount.umount();
    assert!(family.owner(&["cap", "show"], &[&photos]).ok().stdout.contains("/photos"));

    // A tablet puts photos in, and can do nothing else; from then on it only looks at them.
    let tablet = family.principal("tablet");
    let asked = family.ask(&tablet, "/photos", "rw").ok().stdout.trim().to_owned();
    let part = family.owner(&["cap", "approve"], &[&asked]).ok().stdout.trim().to_owned();
    let mount = family.mount_as(&tablet).unwrap();
    fs::write(mount.path("dune"), "yellow").unwrap();
    assert!(fs::metadata(mount.path("letters")).is_err());
    mount.umount();
    family.owner(&["cap", "revoke"], &[&part]).ok();
    let mount = family.mount_as(&tablet).unwrap();
    assert_eq!(fs::read_to_string(mount.path("dune")).unwrap(), "yellow");
    assert_eq!(fs::write(mount.path("dune"), "red").unwrap_err().raw_os_error(), Some(libc::EROFS));
    mount.umount();

    // The laptop asks to write everything.
    let all = family.ask(&laptop, "/", "rw").ok().stdout.trim().to_owned();
    let writes = family.owner(&["cap", "approve"], &[&all, "--expires", "90d"]).ok().stdout.trim().to_owned();
    let mount = family.mount_as(&laptop).unwrap();
    fs::write(mount.path("letters/from the laptop"), "hello").unwrap();
    mount.umount();

    // It is sold; what it wrote stays.
    family.owner(&["cap", "revoke"], &[&writes]).ok();
    family.refused(&laptop, "no access slot");

    // The machine at home is lost, and with it the passphrase. A copy of the store and the backup are left.
    family.key("restore", &["/missing"]).failed(1, &["/missing"]);
    family.key("restore", &[&backup, "--revoke-old-node"]).ok();
    let old = family.owner(&["info"], &[]);
    old.failed(1, &["wrong passphrase"]);
    fs::copy(family.path("new"), family.place.passphrase_file()).unwrap();
    let mount = family.place.mount_with(&["-o", "anchor=none"]);
    assert_eq!(fs::read_to_string(mount.path("letters/from the laptop")).unwrap(), "hello");
    fs::write(mount.path("photos/mountain"), "white").unwrap();
    mount.umount();

    // The phone still sees the photos, also the new one; the others see nothing.
    let mount = family.mount_as(&phone).unwrap();
    assert_eq!(fs::read_to_string(mount.path("mountain")).unwrap(), "white");
    mount.umount();
    family.refused(&laptop, "no access slot");
    family.refused(&stranger, "no access slot");
    let mut check = family.place.on_store(&["check"], &[]);
    finish(check.env("BLOCKTREE_ANCHOR_DIR", family.path("anchors"))).ok();
}
