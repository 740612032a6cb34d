//! `blocktree log`: of a mounted store, of one that is not, and of what is gone.

mod support;

use std::fs;
use std::os::unix::process::CommandExt as _;

use support::{Place, can_mount, finish, program, run};

/// The lines of changes: what and where.
fn changes(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| line.starts_with("20"))
        .map(|line| line.split_whitespace().skip(3).collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn who_changed_what_is_told_mounted_or_not() {
    if !can_mount() {
        return;
    }
    let place = Place::with_store();
    let mount = place.mount();
    fs::create_dir(mount.path("folder")).unwrap();
    fs::write(mount.path("folder/letter"), "dear").unwrap();
    fs::rename(mount.path("folder/letter"), mount.path("folder/note")).unwrap();
    fs::write(mount.path("folder/gone"), "soon").unwrap();
    fs::remove_file(mount.path("folder/gone")).unwrap();

    let log = |path: &str| run(["log".as_ref(), mount.path(path).as_os_str()]).ok().stdout;
    let note = log("folder/note");
    let has = |text: &str, line: &str| changes(text).iter().any(|change| change == line);
    assert!(has(&note, "created /folder/letter"), "{note}");
    assert!(has(&note, "renamed /folder/letter -> /folder/note"), "{note}");
    assert!(note.contains("The history begins on 20"), "{note}");
    let gone = log("folder/gone");
    assert_eq!(changes(&gone)[0], "removed /folder/gone", "{gone}");
    assert_eq!(changes(&gone).last().unwrap(), "created /folder/gone", "{gone}");
    let folder = log("folder");
    for line in
        ["created /folder", "created /folder/letter", "modified /folder/letter", "removed /folder/gone"]
    {
        assert!(has(&folder, line), "{line} is not in {folder}");
    }
    assert_eq!(changes(&log("never")), [""; 0]);

    // By the mountpoint or the store, and page by page.
    let mountpoint = place.mountpoint();
    let page = |before: Option<&str>| {
        let mut command = program();
        command.arg("log").arg(&mountpoint).args(["/folder", "--limit", "2"]);
        command.args(before.map(|before| ["--before", before]).into_iter().flatten());
        finish(&mut command).ok().stdout
    };
    let mut joined = Vec::new();
    let mut before: Option<String> = None;
    loop {
        let text = page(before.as_deref());
        joined.extend(changes(&text));
        before = text.lines().find_map(|line| line.split_once("--before ")).map(|(_, seq)| seq.to_owned());
        if before.is_none() {
            break;
        }
    }
    assert_eq!(joined, changes(&folder));

    let json: serde_json::Value =
        serde_json::from_str(&run(["log", "--json", mountpoint.to_str().unwrap()]).ok().stdout).unwrap();
    let listed = json["changes"].as_array().unwrap();
    let mounted = listed.last().unwrap();
    assert_eq!((&mounted["what"], &mounted["path"]), (&"mounted".into(), &serde_json::Value::Null));
    assert!(listed.iter().all(|change| change["author"] == mounted["author"] && change["actor"].is_null()));

    // Names are not for everybody.
    let mut other = std::process::Command::new(support::BINARY);
    other.arg("log").arg(&mountpoint).uid(65534).gid(65534);
    let refused = finish(&mut other);
    assert!(refused.code == 1 && !refused.stdout.contains("folder"), "{refused:?}");

    mount.umount();
    let mut command = program();
    command.arg("log").args(place.passphrase_arguments()).arg(place.store()).arg("/folder");
    let after = finish(&mut command).ok().stdout;
    assert_eq!(changes(&after), changes(&folder));
    let root = format!("/{}/folder", "0".repeat(64));
    let mut command = program();
    command.arg("log").args(place.passphrase_arguments()).arg(place.store()).arg(root);
    finish(&mut command).failed(2, &["root principal"]);
}

#[test]
fn what_is_asked_for_must_make_sense() {
    run(["log"]).failed(2, &["PATH"]);
    run(["log", "a", "/b", "c"]).failed(2, &[]);
    run(["log", "a", "b"]).failed(2, &["begins with /"]);
    run(["log", "--limit", "0", "a"]).failed(2, &["limit"]);
    run(["log", "/does/not/exist"]).failed(1, &["/does/not/exist"]);
}
