//! Who may read and write a store, as the commands show it: a family's store, a second machine, a phone that reads one
//! folder, and somebody who keeps a copy.

mod support;

use std::fs;
use std::path::Path;

use support::{Mount, Place, Ran, can_mount, finish, program, run};

/// Makes a principal without a passphrase; returns its file.
fn principal(place: &Place, name: &str) -> String {
    let file = place.path(name).to_str().unwrap().to_owned();
    run(["principal", "create", name, "--no-passphrase", "--file", &file]).ok();
    file
}

fn cap(place: &Place, command: &str, arguments: &[&str]) -> Ran {
    finish(&mut place.on_store(&["cap", command], arguments))
}

/// The same store, in a copy of its own.
fn copy_of(place: &Place, name: &str) -> String {
    let copy = place.path(name);
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(place.store()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
    }
    copy.to_str().unwrap().to_owned()
}

fn mount_as(place: &Place, store: &str, who: &str, options: &str) -> Result<Mount, Ran> {
    let mountpoint = place.path(&format!("mnt-{}", Path::new(who).file_name().unwrap().to_str().unwrap()));
    let _ = fs::create_dir(&mountpoint);
    let mut command = program();
    command.args(["mount", "--principal", who, "-o", options, store]).arg(&mountpoint);
    Mount::attempt(&mut command, mountpoint)
}

fn family() -> Place {
    let place = Place::with_store();
    let mount = place.mount();
    fs::create_dir_all(mount.path("photos/holiday")).unwrap();
    fs::create_dir(mount.path("letters")).unwrap();
    fs::write(mount.path("photos/holiday/sea"), "blue").unwrap();
    fs::write(mount.path("letters/bank"), "not for everybody").unwrap();
    mount.umount();
    place
}

#[test]
fn a_reader_sees_what_is_shared_and_nothing_else() {
    if !can_mount() {
        return;
    }
    let place = family();
    let [phone, stranger] = ["phone", "stranger"].map(|name| principal(&place, name));
    cap(&place, "share", &["/photos/holiday/sea", "--to", &phone]).failed(1, &["not a directory"]);
    cap(&place, "share", &["/nowhere", "--to", &phone]).failed(1, &["nowhere"]);
    let serial = cap(&place, "share", &["/photos", "--to", &phone]).ok().stdout.trim().to_owned();
    let copy = copy_of(&place, "copy");

    let refused = mount_as(&place, &copy, &stranger, "anchor=none").err().expect("it is not for strangers");
    refused.failed(1, &["no access slot", "ask its owner"]);
    let mount = mount_as(&place, &copy, &phone, "anchor=none").unwrap();
    let names = |path: &Path| -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(names(&mount.path("")), ["holiday"]);
    assert_eq!(fs::read_to_string(mount.path("holiday/sea")).unwrap(), "blue");
    assert!(fs::metadata(mount.path("letters")).is_err());
    let error = fs::write(mount.path("holiday/sea"), "red").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    mount.umount();
    let root = "0".repeat(64);
    let refused = mount_as(&place, &copy, &phone, &format!("anchor=none,root={root}")).err().unwrap();
    refused.failed(1, &["another root principal"]);

    // With two of them, one has to be named.
    let other = cap(&place, "share", &["/letters", "--to", &phone]).ok().stdout.trim().to_owned();
    let copy = copy_of(&place, "copy2");
    let refused = mount_as(&place, &copy, &phone, "anchor=none").err().expect("which one?");
    refused.failed(1, &[&serial, &other]);
    let mount = mount_as(&place, &copy, &phone, &format!("anchor=none,subtree={other}")).unwrap();
    assert_eq!(names(&mount.path("")), ["bank"]);
    mount.umount();
    let listed = cap(&place, "list", &[]).ok().stdout;
    assert!(
        listed.contains("/photos") && listed.contains("/letters") && listed.contains(&serial),
        "{listed}"
    );
    cap(&place, "show", &[&serial]).ok();
    cap(&place, "show", &["1"]).failed(1, &["no capability"]);
    cap(&place, "revoke", &[&serial]).failed(1, &["lets a principal read"]);
}

#[test]
fn a_directory_is_taken_back_from_one_of_two_readers() {
    if !can_mount() {
        return;
    }
    let place = family();
    let [phone, tablet, laptop] = ["phone", "tablet", "laptop"].map(|name| principal(&place, name));
    for who in [&phone, &tablet] {
        cap(&place, "share", &["/photos", "--to", who]).ok();
    }
    let deeper = cap(&place, "share", &["/photos/holiday", "--to", &tablet]).ok().stdout.trim().to_owned();
    cap(&place, "unshare", &["/letters", "--from", &phone]).failed(1, &["nothing of /letters"]);
    cap(&place, "unshare", &["/", "--from", &phone]).failed(1, &["shared with nobody"]);
    cap(&place, "unshare", &["/photos/holiday", "--from", &phone]).failed(1, &["a directory above"]);
    cap(&place, "issue", &["--to", &laptop]).ok();
    cap(&place, "unshare", &["/photos", "--from", &laptop]).failed(1, &["keys of the whole store"]);

    let lazy = cap(&place, "unshare", &["/photos", "--from", &phone, "--lazy"]).ok();
    assert!(lazy.stdout.contains("still stand under old keys"), "{lazy:?}");
    let info = finish(&mut place.on_store(&["info"], &[])).ok();
    assert!(info.stdout.contains("Under old keys:"), "{info:?}");
    let copy = copy_of(&place, "copy");
    let refused = mount_as(&place, &copy, &phone, "anchor=none").err().expect("it was taken back");
    refused.failed(1, &["no access slot"]);
    let mount = mount_as(&place, &copy, &tablet, &format!("anchor=none,subtree={deeper}")).unwrap();
    assert_eq!(fs::read_to_string(mount.path("sea")).unwrap(), "blue");
    mount.umount();

    let mount = place.mount();
    assert_eq!(fs::read_to_string(mount.path("photos/holiday/sea")).unwrap(), "blue");
    fs::write(mount.path("photos/holiday/shore"), "sand").unwrap();
    mount.umount();
    cap(&place, "unshare", &["/photos", "--from", &phone, "--erase"]).ok();
    let info = finish(&mut place.on_store(&["info"], &[])).ok();
    assert!(!info.stdout.contains("Under old keys:"), "{info:?}");
    cap(&place, "unshare", &["/photos", "--from", &phone]).failed(1, &["nothing of /photos"]);
    let copy = copy_of(&place, "copy2");
    let mount = mount_as(&place, &copy, &tablet, &format!("anchor=none,subtree={deeper}")).unwrap();
    assert_eq!(fs::read_to_string(mount.path("sea")).unwrap(), "blue");
    assert_eq!(fs::read_to_string(mount.path("shore")).unwrap(), "sand");
    mount.umount();
    finish(&mut place.on_store(&["check"], &[])).ok();
}

#[test]
fn a_keeper_checks_and_reads_no_name() {
    let place = if can_mount() { family() } else { return };
    let keeper = principal(&place, "keeper");
    cap(&place, "issue", &["--to", &keeper, "--rights", "none"]).ok();
    let copy = copy_of(&place, "copy");
    let checked = run(["check", "--principal", &keeper, &copy]).ok();
    assert!(checked.stdout.contains("Structure, hashes and signatures only"), "{checked:?}");
    run(["info", "--principal", &keeper, &copy]).ok();
    let listed = run(["cap", "list", "--principal", &keeper, &copy]).ok().stdout;
    assert!(listed.contains("keep") && !listed.contains("photos"), "{listed}");
    let refused = mount_as(&place, &copy, &keeper, "anchor=none").err().expect("it has nothing to show");
    refused.failed(1, &["nothing in the store is shared"]);
    let refused = run(["cap", "issue", "--principal", &keeper, &copy, "--to", &keeper]);
    refused.failed(1, &["may not change"]);
}

#[test]
fn a_second_machine_writes_until_its_right_is_revoked() {
    if !can_mount() {
        return;
    }
    let place = family();
    let laptop = principal(&place, "laptop");
    let store = place.store().to_str().unwrap().to_owned();
    let issued = cap(&place, "issue", &["--to", &laptop, "--rights", "rw", "--expires", "90d"]).ok();
    let serial = issued.stdout.trim().to_owned();
    let mount = mount_as(&place, &store, &laptop, "anchor=none").unwrap();
    fs::write(mount.path("letters/by the laptop"), "hello").unwrap();
    mount.umount();
    let mount = place.mount();
    assert_eq!(fs::read_to_string(mount.path("letters/by the laptop")).unwrap(), "hello");
    mount.umount();
    // It may not pass on what it has.
    let phone = principal(&place, "phone");
    let refused = run(["cap", "issue", "--principal", &laptop, &store, "--to", &phone]);
    refused.failed(1, &["could not pass it on"]);
    let own = run(["cap", "revoke", "--principal", &laptop, &store, &serial]);
    own.failed(1, &["only the root"]);
    cap(&place, "revoke", &[&serial]).ok();
    let listed = cap(&place, "list", &[]).ok().stdout;
    assert!(listed.contains("the writecap was revoked"), "{listed}");
    let refused = mount_as(&place, &store, &laptop, "anchor=none").err().expect("it was revoked");
    refused.failed(1, &["no access slot"]);
    let mount = place.mount();
    assert_eq!(
        fs::read_to_string(mount.path("letters/by the laptop")).unwrap(),
        "hello",
        "what it wrote stays"
    );
    mount.umount();
    finish(&mut place.on_store(&["check"], &[])).ok();
}

#[test]
fn two_writers_have_a_directory_each() {
    let place = if can_mount() { family() } else { return };
    let [anna, ben, phone] = ["anna", "ben", "phone"].map(|name| principal(&place, name));
    let store = place.store().to_str().unwrap().to_owned();
    let issue = |path: &str, to: &str, rights: &str| {
        cap(&place, "issue", &["--path", path, "--to", to, "--rights", rights, "--expires", "90d"])
    };
    issue("/photos/holiday/sea", &anna, "rw").failed(1, &["not a directory"]);
    issue("/photos", &anna, "rwp").failed(1, &["r or rw"]);
    let serial = issue("/photos", &anna, "rw").ok().stdout.trim().to_owned();
    issue("/letters", &ben, "rw").ok();
    issue("/photos", &phone, "r").ok();
    let listed = cap(&place, "list", &[]).ok().stdout;
    let writes: Vec<&str> = listed.lines().filter(|line| line.contains(" write ")).collect();
    assert!(writes.iter().any(|line| line.contains("/photos")), "{listed}");
    assert!(writes.iter().any(|line| line.contains("/letters")), "{listed}");
    assert!(cap(&place, "show", &[&serial]).ok().stdout.contains("/photos"));

    let mount = mount_as(&place, &store, &anna, "anchor=none").unwrap();
    assert!(fs::metadata(mount.path("letters")).is_err(), "it is elsewhere");
    fs::write(mount.path("holiday/sea"), "red").unwrap();
    fs::create_dir_all(mount.path("winter/snow")).unwrap();
    fs::write(mount.path("winter/snow/hill"), vec![b'h'; 300_000]).unwrap();
    fs::copy(mount.path("winter/snow/hill"), mount.path("winter/copy")).unwrap();
    fs::hard_link(mount.path("winter/copy"), mount.path("second name")).unwrap();
    fs::rename(mount.path("winter/snow"), mount.path("holiday/snow")).unwrap();
    fs::write(mount.path("winter/gone"), vec![b'g'; 3_000_000]).unwrap();
    // Open while it loses its name and its directory.
    let open = fs::File::open(mount.path("winter/gone")).unwrap();
    fs::remove_dir_all(mount.path("winter")).unwrap();
    drop(open);
    let refused = run(["snapshot", "create", mount.path("").to_str().unwrap(), "mine"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    mount.umount();
    let mount = mount_as(&place, &store, &ben, "anchor=none").unwrap();
    fs::write(mount.path("bank"), "by ben").unwrap();
    mount.umount();
    finish(&mut place.on_store(&["check"], &[])).ok();

    let mount = mount_as(&place, &store, &phone, "anchor=none").unwrap();
    assert_eq!(fs::read_to_string(mount.path("holiday/sea")).unwrap(), "red");
    assert_eq!(fs::write(mount.path("new"), "").unwrap_err().raw_os_error(), Some(libc::EROFS));
    mount.umount();
    let mount = place.mount();
    assert_eq!(fs::read_to_string(mount.path("letters/bank")).unwrap(), "by ben");
    assert_eq!(fs::read(mount.path("photos/holiday/snow/hill")).unwrap(), vec![b'h'; 300_000]);
    assert_eq!(fs::read(mount.path("photos/second name")).unwrap().len(), 300_000);
    assert!(!mount.path("photos/winter").exists());
    fs::write(mount.path("photos/by the owner"), "hello").unwrap();
    mount.umount();

    // From now on one of them only reads.
    cap(&place, "revoke", &[&serial]).ok();
    let mount = mount_as(&place, &store, &anna, "anchor=none").unwrap();
    assert_eq!(fs::read_to_string(mount.path("by the owner")).unwrap(), "hello");
    assert_eq!(fs::write(mount.path("new"), "").unwrap_err().raw_os_error(), Some(libc::EROFS));
    mount.umount();
    let mount = mount_as(&place, &store, &ben, "anchor=none").unwrap();
    fs::write(mount.path("more"), "by ben").unwrap();
    mount.umount();
    finish(&mut place.on_store(&["check"], &[])).ok();
}

#[test]
fn an_older_copy_is_noticed_by_a_writer_of_a_directory() {
    let place = if can_mount() { family() } else { return };
    let anna = principal(&place, "anna");
    let store = place.store().to_str().unwrap().to_owned();
    let volume = place.store().join("volume");
    cap(&place, "issue", &["--path", "/photos", "--to", &anna, "--rights", "rw"]).ok();
    let anchor = format!("anchor={}", place.path("anchor").display());
    let write = |name: &str, options: &str| {
        let mount = mount_as(&place, &store, &anna, options).unwrap();
        fs::write(mount.path(name), name).unwrap();
        mount.umount();
        fs::read(&volume).unwrap()
    };
    let refused = |copy: &[u8], options: &str| {
        fs::write(&volume, copy).unwrap();
        let ran = mount_as(&place, &store, &anna, options).err().expect("it is an older copy");
        ran.failed(1, &["the store is not what", "anchor remembers", "older", "--accept-rollback"]);
        assert!(fs::read(&volume).unwrap() == copy, "who is refused changes nothing");
    };
    let [first, second] = ["first", "second"].map(|name| write(name, &anchor));
    refused(&first, &anchor);
    refused(&first, &format!("{anchor},ro"));
    fs::write(&volume, &second).unwrap();
    let mount = place.mount();
    fs::write(mount.path("letters/bank"), "by the owner").unwrap();
    mount.umount();
    let third = write("third", &anchor);
    refused(&second, &anchor);
    write("another future", &format!("{anchor},accept_rollback"));
    refused(&first, &anchor);
    fs::write(&volume, &third).unwrap();
    let mount = mount_as(&place, &store, &anna, "anchor=none").unwrap();
    assert!(mount.path("third").exists() && !mount.path("another future").exists());
    mount.umount();
}

#[test]
fn who_mounted_a_store_gives_and_ends_rights_while_it_is_in_use() {
    let place = if can_mount() { family() } else { return };
    let [laptop, phone, keeper] = ["laptop", "phone", "keeper"].map(|name| principal(&place, name));
    let store = place.store().to_str().unwrap().to_owned();
    let mount = place.mount();
    let mountpoint = mount.path("").to_str().unwrap().to_owned();
    // By the store's path or by the mount's; to ask needs no passphrase, and to give does.
    let listed = || run(["cap", "list", &mountpoint]).ok().stdout;
    assert_eq!(listed(), run(["cap", "list", &store]).ok().stdout);
    let wrong = place.path("wrong");
    fs::write(&wrong, "another").unwrap();
    let wrong = ["--passphrase-file", wrong.to_str().unwrap()];
    run([&["cap", "share", &mountpoint, "/photos", "--to", &phone][..], &wrong[..]].concat())
        .failed(1, &["wrong passphrase"]);
    assert!(!listed().contains("photos"), "nothing was changed");

    let serial = cap(&place, "issue", &["--to", &laptop]).ok().stdout.trim().to_owned();
    let read = cap(&place, "share", &["/photos", "--to", &phone]).ok().stdout.trim().to_owned();
    cap(&place, "issue", &["--to", &keeper, "--rights", "none"]).ok();
    cap(&place, "share", &["/photos/holiday/sea", "--to", &phone]).failed(1, &["not a directory"]);
    cap(&place, "issue", &["--path", "/photos", "--to", &phone, "--rights", "rwp"]).failed(1, &["r or rw"]);
    cap(&place, "share", &["/", "--to", &phone]).failed(1, &["share each directory"]);
    cap(&place, "revoke", &[&read]).failed(1, &["lets a principal read"]);
    cap(&place, "unshare", &["/photos", "--from", &phone]).failed(1, &["umount", "first"]);
    let text = listed();
    for (kind, what) in [("write", &serial), ("read", &read), ("keep", &"-".to_owned())] {
        assert!(text.lines().any(|line| line.starts_with(what.as_str()) && line.contains(kind)), "{text}");
    }
    assert!(run(["cap", "show", &mountpoint, &serial]).ok().stdout.contains("Counts:     yes"));

    // What the laptop signs with its own key gives nothing: it may not pass on what it has.
    let by_laptop = run(["cap", "issue", "--principal", &laptop, &mountpoint, "--to", &phone]);
    by_laptop.failed(1, &["could not pass it on"]);

    let asked = run(["cap", "request", "--principal", &phone, "--store", &store, "/letters"]).ok();
    let request = asked.stdout.trim().to_owned();
    assert!(run(["cap", "pending", &mountpoint]).ok().stdout.contains("/letters"));
    cap(&place, "approve", &[&request]).ok();
    assert_eq!(run(["cap", "pending", &mountpoint]).ok().stdout, "");
    run(["cap", "deny", &mountpoint, &request]).failed(1, &["no request"]);

    cap(&place, "revoke", &[&serial]).ok();
    assert!(run(["cap", "show", &mountpoint, &serial]).ok().stdout.contains("was revoked"));
    cap(&place, "revoke", &[&serial]).ok();
    let issued_again = cap(&place, "issue", &["--to", &laptop]).ok().stdout;
    assert_ne!(issued_again.trim(), serial);
    mount.umount();

    let mount = mount_as(&place, &store, &laptop, "anchor=none").unwrap();
    fs::write(mount.path("letters/by the laptop"), "hello").unwrap();
    let own = run(["cap", "revoke", mount.path("").to_str().unwrap(), issued_again.trim()]);
    assert_eq!(own.code, 1, "the root's passphrase is asked for: {own:?}");
    let own = cap(&place, "revoke", &[issued_again.trim()]);
    own.failed(1, &["open by this very writecap"]);
    mount.umount();
    let mount = mount_as(&place, &store, &phone, &format!("anchor=none,subtree={read}")).unwrap();
    assert_eq!(fs::read_to_string(mount.path("holiday/sea")).unwrap(), "blue");
    // The daemon of who only reads gives nothing, whoever signs it.
    cap(&place, "share", &["/", "--to", &keeper]).failed(1, &["share each directory"]);
    cap(&place, "issue", &["--to", &keeper, "--rights", "none"]).failed(1, &["cannot give"]);
    mount.umount();
    finish(&mut place.on_store(&["check"], &[])).ok();
}
