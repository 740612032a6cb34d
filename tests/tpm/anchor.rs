//! An anchor's file that counts only with a counter of the TPM.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use crate::support::{Mount, Place, Ran, can_mount, finish, program};
use crate::swtpm::Tpm;

const ACCEPT: &[&str] = &["--accept-rollback"];

/// A store with an anchor on another disk, and a TPM.
struct Setting {
    place: Place,
    tpm: Tpm,
}

impl Setting {
    /// The store has been mounted once.
    fn new() -> Self {
        let setting = Self { place: Place::empty(), tpm: Tpm::new() };
        finish(&mut setting.place.on_store(&["init"], &["--size", "40M"])).ok();
        setting.refused(&["--accept-rollback", "there is none yet"]);
        setting.write("first", ACCEPT);
        setting
    }

    fn file(&self) -> PathBuf {
        self.place.path("anchor")
    }

    /// By the passphrase.
    fn try_mount(&self, arguments: &[&str]) -> Result<Mount, Ran> {
        self.mount_by(self.place.passphrase_arguments(), arguments)
    }

    fn mount_by(&self, passphrase: [OsString; 2], arguments: &[&str]) -> Result<Mount, Ran> {
        let mut command = self.tpm.command(&["mount", "-o"]);
        command.arg(format!("anchor=tpm:{}", self.file().display()));
        command.arg(self.place.store()).arg(self.place.mountpoint()).args(passphrase).args(arguments);
        Mount::attempt(&mut command, self.place.mountpoint())
    }

    fn enrolment(&self) -> PathBuf {
        self.place.path("tree.tpm")
    }

    /// Has the TPM keep the passphrase too, or approve how the machine started.
    fn tpm(&self, command: &[&str]) {
        let mut line = self.tpm.command(&["tpm"]);
        line.args(command).arg(self.place.store()).arg(self.enrolment());
        finish(line.args(self.place.passphrase_arguments())).ok();
    }

    /// With the passphrase that the TPM keeps.
    fn mount_by_tpm(&self, arguments: &[&str]) -> Result<Mount, Ran> {
        let from = format!("tpm:{}", self.enrolment().display());
        self.mount_by(["--passphrase-from".into(), from.into()], arguments)
    }

    #[track_caller]
    fn write_by_tpm(&self, name: &str) {
        let mount = self.mount_by_tpm(&[]).unwrap_or_else(|ran| panic!("{ran:?}"));
        fs::write(mount.path(name), name).unwrap();
        mount.umount();
    }

    /// Mounts and writes a file.
    #[track_caller]
    fn write(&self, name: &str, arguments: &[&str]) {
        let mount = self.try_mount(arguments).unwrap_or_else(|ran| panic!("{ran:?}"));
        fs::write(mount.path(name), name).unwrap();
        mount.umount();
    }

    #[track_caller]
    fn refused(&self, says: &[&str]) {
        let before = self.copies();
        match self.try_mount(&[]) {
            Ok(_mount) => panic!("mounted, although: {says:?}"),
            Err(ran) => drop(ran.failed(1, says)),
        }
        assert!(self.copies() == before, "who is refused changes nothing");
    }

    /// The disk with the store, and the one with the anchor's file.
    fn copies(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        (fs::read(self.volume()).unwrap(), fs::read(self.file()).ok())
    }

    fn put_back(&self, (store, anchor): &(Vec<u8>, Option<Vec<u8>>)) {
        fs::write(self.volume(), store).unwrap();
        fs::write(self.file(), anchor.as_ref().unwrap()).unwrap();
    }

    fn volume(&self) -> PathBuf {
        self.place.store().join("volume")
    }

    /// How many places of the TPM's memory are in use.
    fn places(&self) -> usize {
        self.tpm.tool("tpm2_getcap", &["handles-nv-index"]).lines().count()
    }
}

#[test]
fn an_older_copy_of_store_and_anchor_together_is_refused() {
    if !can_mount() {
        return;
    }
    let mut setting = Setting::new();
    let older = setting.copies();
    setting.write("second", &[]);
    setting.tpm.restart();
    setting.write("third", &[]);
    let newest = setting.copies();

    // The anchor's file alone, the store alone, and both.
    setting.put_back(&(newest.0.clone(), older.1.clone()));
    setting.refused(&["older copy of itself", "--accept-rollback"]);
    setting.put_back(&(older.0.clone(), newest.1.clone()));
    setting.refused(&["the store is not what", "older", "--accept-rollback"]);
    setting.put_back(&older);
    setting.refused(&["older copy of itself", "--accept-rollback"]);
    fs::remove_file(setting.file()).unwrap();
    setting.refused(&["taken away", "--accept-rollback"]);
    setting.put_back(&newest);
    setting.write("fourth", &[]);

    // On purpose. The counter of the file that was given up is free again.
    setting.put_back(&older);
    setting.write("another future", ACCEPT);
    setting.write("and on", &[]);
    assert_eq!(setting.places(), 1);
    setting.put_back(&newest);
    setting.refused(&["--accept-rollback"]);
}

#[test]
fn a_crash_and_a_machine_that_starts_as_ever_are_no_reason_to_refuse() {
    if !can_mount() {
        return;
    }
    let mut setting = Setting::new();
    for name in ["a", "b"] {
        let mount = setting.try_mount(&[]).unwrap_or_else(|ran| panic!("{ran:?}"));
        fs::write(mount.path(name), name).unwrap();
        fs::File::open(mount.path(name)).unwrap().sync_all().unwrap();
        mount.signal("KILL");
        drop(mount);
        setting.tpm.restart();
    }
    setting.write("c", &[]);
    // Who only reads counts nothing.
    let file = fs::read(setting.file()).unwrap();
    drop(setting.try_mount(&["-o", "ro"]).unwrap_or_else(|ran| panic!("{ran:?}")));
    assert_eq!(fs::read(setting.file()).unwrap(), file);
    setting.write("d", &[]);
}

#[test]
fn the_counter_asks_for_the_pcrs_that_the_passphrase_does() {
    if !can_mount() {
        return;
    }
    let mut setting = Setting::new();
    let first = setting.copies();
    // Made for PCR 7, and for what the passphrase is for from the next mount on.
    setting.tpm(&["enroll", "--pcrs", "4,5"]);
    setting.write_by_tpm("enrolled");
    setting.tpm.extend_pcr(7);
    setting.write_by_tpm("another PCR");
    setting.write("by the passphrase", &[]);
    let second = setting.copies();

    // An update.
    setting.tpm.extend_pcr(4);
    setting.refused(&["a PCR has a value that was not approved", "--accept-rollback"]);
    setting.tpm(&["approve"]);
    setting.write_by_tpm("approved");
    setting.write("by the passphrase again", &[]);
    setting.tpm.restart();
    setting.write_by_tpm("as before the update");
    let newest = setting.copies();
    for older in [first, second] {
        setting.put_back(&older);
        setting.refused(&["older copy of itself", "--accept-rollback"]);
    }
    setting.put_back(&newest);

    // Enrolled anew: for fewer, and by a counter that is still the same.
    fs::remove_file(setting.enrolment()).unwrap();
    setting.tpm(&["enroll", "--pcrs", "none"]);
    setting.write_by_tpm("enrolled anew");
    setting.tpm.extend_pcr(5);
    setting.write_by_tpm("whatever");
    assert_eq!(setting.places(), 1);

    // A counter that is made now is for them from its beginning.
    fs::remove_file(setting.enrolment()).unwrap();
    setting.tpm(&["enroll", "--pcrs", "5"]);
    fs::remove_file(setting.file()).unwrap();
    setting.mount_by_tpm(ACCEPT).unwrap_or_else(|ran| panic!("{ran:?}")).umount();
    setting.tpm.extend_pcr(7);
    setting.write("still", &[]);
    setting.tpm.extend_pcr(5);
    setting.refused(&["a PCR has a value that was not approved"]);
}

/// The owner's mounts and those of who may write one directory share a file and its counter.
#[test]
fn a_writer_of_a_directory_counts_too() {
    if !can_mount() {
        return;
    }
    let mut setting = Setting::new();
    let mount = setting.try_mount(&[]).unwrap_or_else(|ran| panic!("{ran:?}"));
    fs::create_dir(mount.path("photos")).unwrap();
    mount.umount();
    let anna = setting.place.path("anna");
    finish(program().args(["principal", "create", "anna", "--no-passphrase", "--file"]).arg(&anna)).ok();
    let mut issue = setting.place.on_store(&["cap", "issue"], &["--path", "/photos", "--rights", "rw"]);
    finish(issue.arg("--to").arg(&anna)).ok();
    let mount_as_anna = |setting: &Setting| setting.mount_by(["--principal".into(), (&anna).into()], &[]);
    let mut copies = Vec::new();
    for name in ["sea", "dune"] {
        let mount = mount_as_anna(&setting).unwrap_or_else(|ran| panic!("{ran:?}"));
        fs::write(mount.path(name), name).unwrap();
        mount.umount();
        copies.push(setting.copies());
        setting.tpm.restart();
    }
    let [older, newest] = &copies[..] else { unreachable!() };
    setting.put_back(older);
    setting.refused(&["older copy of itself", "--accept-rollback"]);
    mount_as_anna(&setting).err().expect("refused").failed(1, &["older copy of itself"]);
    setting.put_back(&(older.0.clone(), newest.1.clone()));
    mount_as_anna(&setting).err().expect("refused").failed(1, &["the store is not what", "older"]);
    setting.put_back(newest);
    setting.write("by the owner", &[]);
    setting.put_back(newest);
    mount_as_anna(&setting).err().expect("refused").failed(1, &["older copy of itself"]);
    assert_eq!(setting.places(), 1);
}

#[test]
fn a_tpm_that_is_missing_cleared_or_another_is_told_and_can_be_replaced() {
    if !can_mount() {
        return;
    }
    let mut setting = Setting::new();
    setting.tpm.extend_pcr(7);
    setting.refused(&["a PCR has a value that was not approved", "--accept-rollback"]);
    setting.tpm.restart();
    setting.write("as ever", &[]);

    setting.tpm.stop();
    setting.refused(&["cannot talk to the TPM", "--accept-rollback"]);
    // Accepting needs a TPM that counts from then on; or another anchor.
    match setting.try_mount(ACCEPT) {
        Ok(_mount) => panic!("nothing would notice an older copy"),
        Err(ran) => drop(ran.failed(1, &["cannot be kept", "cannot talk to the TPM"])),
    }
    setting.place.mount_with(&["-o", "anchor=none"]).umount();

    setting.tpm.restart();
    setting.tpm.clear();
    setting.refused(&["another TPM's, or this one was cleared", "--accept-rollback"]);
    setting.write("cleared", ACCEPT);
    setting.tpm = Tpm::new();
    setting.refused(&["another TPM's, or this one was cleared", "--accept-rollback"]);
    setting.write("another", ACCEPT);
    setting.write("and on", &[]);
}

#[test]
fn files_that_are_none_change_nothing_and_a_counter_is_removed() {
    if !can_mount() {
        return;
    }
    let setting = Setting::new();
    let whole = fs::read(setting.file()).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    // Of the parts that have no check sum of their own: the value, and the check itself.
    for bytes in [&whole[..50], b"", b"blocktree anchor 1\n", &flipped(16), &flipped(whole.len() - 1)] {
        fs::write(setting.file(), bytes).unwrap();
        setting.refused(&["anchor", "damaged"]);
    }
    // Of where the counter is: another place of the TPM is left alone, whatever is accepted.
    setting.tpm.tool("tpm2_nvdefine", &["0x01800001", "-s", "8", "-a", "authread|authwrite"]);
    let mut elsewhere = whole.clone();
    elsewhere[12..16].copy_from_slice(&0x0180_0001_u32.to_le_bytes());
    fs::write(setting.file(), &elsewhere).unwrap();
    setting.refused(&["damaged"]);
    let forget = |setting: &Setting| finish(setting.tpm.command(&["tpm", "remove"]).arg(setting.file()));
    forget(&setting).failed(1, &["no counter of Blocktree's"]);
    assert_eq!(setting.places(), 2);

    fs::write(setting.file(), &whole).unwrap();
    setting.write("all is well", &[]);
    forget(&setting).ok();
    assert_eq!(setting.places(), 1);
    assert!(!setting.file().exists());
    let mut nowhere = program();
    nowhere.args(["mount", "-o", "anchor=tpm:"]).arg(setting.place.store()).arg(setting.place.mountpoint());
    finish(nowhere.args(setting.place.passphrase_arguments())).failed(2, &["anchor needs a value"]);
}
