//! What people do at their desks: edit, search, watch, and see how much room is left.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{across_a_remount, assert_clean, roomy_store, shell, succeed};

/// Editors save a file by writing another and renaming it, and keep what it was.
#[test]
fn vim_saves_by_renaming() {
    let vim =
        |mount: &Path, settings: &str, change: &str| {
            succeed(Command::new("vim.tiny").current_dir(mount).args([
                "-es", "-u", "NONE", "-i", "NONE", "-c", settings, "-c", change, "-c", "wq", "letter",
            ]))
        };
    across_a_remount(
        |mount| {
            let letter = mount.join("letter");
            fs::write(&letter, "dear\nworld\n").unwrap();
            fs::set_permissions(&letter, fs::Permissions::from_mode(0o640)).unwrap();
            let inode = || fs::metadata(&letter).unwrap().ino();
            let first = inode();
            vim(mount, "set backup backupskip= backupcopy=no fsync", "%s/world/people/");
            assert_ne!(inode(), first, "it was not replaced");
            assert_eq!(fs::read(mount.join("letter~")).unwrap(), b"dear\nworld\n");
            let second = inode();
            vim(mount, "set nobackup writebackup backupskip= backupcopy=yes fsync", "1s/dear/Dear/");
            assert_eq!(inode(), second, "it was replaced");
        },
        |mount| {
            let letter = mount.join("letter");
            assert_eq!(fs::read(&letter).unwrap(), b"Dear\npeople\n");
            assert_eq!(fs::metadata(&letter).unwrap().mode() & 0o7777, 0o640);
            // No file for swapping or saving is left.
            assert_eq!(shell(mount, "ls -A"), "letter\nletter~\n");
        },
    );
}

#[test]
fn find_and_du_see_what_is_there() {
    across_a_remount(
        |mount| {
            shell(
                mount,
                "mkdir -p a/b/c empty; for i in $(seq 300); do printf '%0'$i'd' 0 > a/b/$i; done
                 touch -d '2020-01-01' a/b/10; touch -d '2030-01-01' a/b/20; chmod 4755 a/b/30; ln a/b/40 a/b/c/40
                 ln -s b a/link; head -c 1000000 /dev/urandom > a/large; sync -f .",
            );
        },
        |mount| {
            let find = |arguments: &str| shell(mount, &format!("find . {arguments} | sort"));
            assert_eq!(find("-type f | wc -l"), "302\n");
            assert_eq!(find("-type d"), ".\n./a\n./a/b\n./a/b/c\n./empty\n");
            assert_eq!(find("-size +100k"), "./a/large\n");
            assert_eq!(find("-size -3c -type f"), "./a/b/1\n./a/b/2\n");
            assert_eq!(find("-not -newermt 2020-01-02"), "./a/b/10\n");
            assert_eq!(find("-newermt 2029-12-31"), "./a/b/20\n");
            assert_eq!(find("-perm -4000"), "./a/b/30\n");
            assert_eq!(find("-links +1 -type f"), "./a/b/40\n./a/b/c/40\n");
            assert_eq!(find("-type d -empty"), "./empty\n");
            assert_eq!(find("-lname b"), "./a/link\n");
            assert_eq!(find("-samefile a/b/40"), "./a/b/40\n./a/b/c/40\n");
            // 1 + … + 300 bytes, each name of a file counted once.
            let apparent = shell(mount, "find a -type f -print0 | du --files0-from=- -b -c | tail -n 1");
            assert_eq!(apparent, format!("{}\ttotal\n", 1_000_000 + 300 * 301 / 2));
            let allocated: u64 = shell(mount, "du -s -B1 a | cut -f 1").trim().parse().unwrap();
            assert!((1_000_000 + 300 * 4096..1_000_000 + 320 * 4096).contains(&allocated), "{allocated}");
        },
    );
}

#[test]
fn df_follows_what_is_written_and_removed() {
    const BYTES: u64 = 100 << 20;
    let place = roomy_store();
    let mount = place.mount();
    let df = || -> [u64; 3] {
        let said = shell(&place.mountpoint(), "sync -f .; df -B1 --output=size,used,avail . | tail -n 1");
        let numbers: Vec<u64> = said.split_whitespace().map(|number| number.parse().unwrap()).collect();
        numbers.try_into().unwrap()
    };
    let [size, used_before, free_before] = df();
    assert!(size > 3 << 30 && size <= 4 << 30, "{size}");
    fs::write(mount.path("large"), vec![7; BYTES as usize]).unwrap();
    let [size_now, used, free] = df();
    assert_eq!(size_now, size);
    assert!((BYTES..BYTES + BYTES / 10).contains(&(used - used_before)), "{used_before} {used}");
    assert!((BYTES..BYTES + BYTES / 10).contains(&(free_before - free)), "{free_before} {free}");
    fs::remove_file(mount.path("large")).unwrap();
    mount.umount();
    let mount = place.mount();
    let freed = || df()[2];
    super::support::wait_until("what was removed is free", || freed() + BYTES / 10 > free_before);
    mount.umount();
    assert_clean(&place);
}

/// A program that prints the events below a folder, line by line. Ended when it is dropped.
struct Watcher(std::process::Child);

impl Watcher {
    fn on(folder: &Path) -> Self {
        let mut inotifywait = Command::new("inotifywait");
        inotifywait.args(["--monitor", "--recursive", "--format", "%e %w%f"]).arg(folder);
        let mut child =
            inotifywait.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("inotifywait");
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        let established = said.map_while(Result::ok).any(|line| line.contains("Watches established"));
        assert!(established, "inotifywait does not watch");
        Self(child)
    }

    /// All events until that on a file of this name.
    fn until(&mut self, name: &str) -> Vec<String> {
        let events = BufReader::new(self.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut seen = Vec::new();
        for event in events {
            let is_last = event.ends_with(name);
            seen.push(event);
            if is_last {
                break;
            }
        }
        seen
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn watchers_hear_of_every_change() {
    let place = roomy_store();
    let mount = place.mount();
    fs::create_dir_all(mount.path("a/b")).unwrap();
    fs::create_dir(mount.path("gone")).unwrap();
    fs::write(mount.path("a/old"), "x").unwrap();
    let mut watcher = Watcher::on(&place.mountpoint());
    fs::write(mount.path("a/new"), "hello").unwrap();
    let mut text = String::new();
    fs::File::open(mount.path("a/new")).unwrap().read_to_string(&mut text).unwrap();
    fs::set_permissions(mount.path("a/new"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(mount.path("a/new"), mount.path("a/b/moved")).unwrap();
    fs::remove_file(mount.path("a/old")).unwrap();
    fs::create_dir(mount.path("folder")).unwrap();
    fs::remove_dir(mount.path("gone")).unwrap();
    fs::write(mount.path("last"), "").unwrap();
    let events = watcher.until("/last");
    for (event, name) in [
        ("CREATE", "a/new"),
        ("MODIFY", "a/new"),
        ("CLOSE_WRITE,CLOSE", "a/new"),
        ("OPEN", "a/new"),
        ("ACCESS", "a/new"),
        ("CLOSE_NOWRITE,CLOSE", "a/new"),
        ("ATTRIB", "a/new"),
        ("MOVED_FROM", "a/new"),
        ("MOVED_TO", "a/b/moved"),
        ("DELETE", "a/old"),
        ("CREATE,ISDIR", "folder"),
        ("DELETE,ISDIR", "gone"),
    ] {
        let line = format!("{event} {}", mount.path(name).display());
        assert!(events.contains(&line), "{line} is not in {events:#?}");
    }
    drop(watcher);
    mount.umount();
    assert_clean(&place);
}
