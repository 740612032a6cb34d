//! What must stay secret: looked for wherever it could have gone.

use std::fs;
use std::os::unix::fs::FileExt as _;

use super::support::{ANCHORS, PASSPHRASE, finish};
use super::{can_mount, small_store, try_mount};

const NAME: &str = "name-that-nobody-may-see";
const TEXT: &str = "text that nobody may see. ";

fn contains(bytes: &[u8], secret: &str) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
}

#[test]
fn nothing_that_was_written_is_found_on_the_disk_or_in_a_log() {
    if !can_mount() {
        return;
    }
    let place = small_store("40M");
    let log = place.path("log");
    let mut command = place.on_store(&["mount"], &[place.mountpoint().to_str().unwrap()]);
    command.env("BLOCKTREE_LOG_FILE", &log).env("BLOCKTREE_LOG", "trace");
    let mount = super::Mount::by(&mut command, place.mountpoint());
    fs::create_dir(mount.path(NAME)).unwrap();
    fs::write(mount.path(NAME).join(NAME), TEXT.repeat(1000)).unwrap();
    std::os::unix::fs::symlink(TEXT, mount.path("link")).unwrap();
    let info = finish(super::program().arg("info").arg(place.mountpoint())).ok().stdout;
    let process = |file: &str| fs::read(format!("/proc/{}/{file}", mount.daemon)).unwrap();
    let mut seen = vec![("info", info.into_bytes())];
    seen.push(("the list of processes", process("cmdline")));
    seen.push(("the environment", process("environ")));
    mount.umount();
    seen.push(("the volume", fs::read(place.store().join("volume")).unwrap()));
    seen.push(("the log", fs::read(&log).unwrap()));
    for entry in fs::read_dir(ANCHORS).unwrap().flatten() {
        seen.push(("an anchor", fs::read(entry.path()).unwrap_or_default()));
    }
    for (where_to, bytes) in &seen {
        for secret in [PASSPHRASE, NAME, TEXT] {
            assert!(!contains(bytes, secret), "{secret:?} is in {where_to}");
        }
    }
    assert!(contains(&seen[4].1, "mounted"), "a log was written");
}

#[test]
fn the_daemon_keeps_its_memory_to_itself() {
    if !can_mount() {
        return;
    }
    let place = small_store("40M");
    let mount = try_mount(&place, &[]).unwrap();
    fs::write(mount.path("file"), TEXT).unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", mount.daemon)).unwrap();
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(cores.split_whitespace().nth(4), Some("0"), "{cores}");
    // Memory that is locked and left out of dumps: that of keys.
    let maps = fs::read_to_string(format!("/proc/{}/smaps", mount.daemon)).unwrap();
    let has = |flags: &str, wanted: &str| flags.split_whitespace().any(|flag| flag == wanted);
    let flags: Vec<&str> = maps.lines().filter_map(|line| line.strip_prefix("VmFlags:")).collect();
    assert!(flags.iter().any(|flags| has(flags, "dd") && has(flags, "lo")), "{flags:?}");
    // Root may look, and profile; the passphrase is not there any more.
    let memory = fs::File::open(format!("/proc/{}/mem", mount.daemon)).unwrap();
    let maps = fs::read_to_string(format!("/proc/{}/maps", mount.daemon)).unwrap();
    let mut looked_at = 0;
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let [from, to] = [from, to].map(|number| u64::from_str_radix(number, 16).unwrap());
        let mut bytes = vec![0; (to - from).min(16 << 20) as usize];
        let Ok(length) = memory.read_at(&mut bytes, from) else { continue };
        looked_at += length;
        assert!(!contains(&bytes[..length], PASSPHRASE), "the passphrase is at {line}");
    }
    assert!(looked_at > 1 << 20, "{looked_at}");
    mount.umount();
}
