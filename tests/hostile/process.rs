//! What happens to the daemon under load: it is killed, stopped, unmounted, starved of descriptors and of memory, or
//! its device starts to fail. What fsync answered for is there afterwards.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::support::{self, Mount, Place, finish, is_alive, wait_until};
use super::{can_mount, check, end, pattern, right_or_eio, small_store};

/// Files that fsync answered for: their number and length.
type Manifest = Arc<Mutex<Vec<(u64, usize)>>>;

fn name(number: u64) -> String {
    format!("file {number}")
}

/// Writes a file beside its place, makes it durable, and renames it: durable too once its folder is.
fn write_and_rename(folder: &Path, number: u64, bytes: usize) -> io::Result<()> {
    let new = folder.join(format!("new {number}"));
    let mut file = File::create(&new)?;
    file.write_all(&pattern(number, bytes))?;
    file.sync_all()?;
    fs::rename(&new, folder.join(name(number)))?;
    File::open(folder)?.sync_all()
}

/// Threads that write files until they fail or are stopped.
struct Load {
    manifest: Manifest,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Error>>,
}

impl Load {
    fn start(folder: &Path, first: u64) -> Self {
        let (manifest, stop) = (Manifest::default(), Arc::new(AtomicBool::new(false)));
        let threads = (0..3)
            .map(|thread| {
                let (folder, manifest, stop) = (folder.to_owned(), manifest.clone(), stop.clone());
                thread::spawn(move || {
                    for round in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        // No more than fit: each place is used again.
                        let number = first + thread + 3 * (round % 8);
                        let bytes = 1 + (number as usize * 7919 + round as usize * 104_729) % 300_000;
                        if round >= 8 {
                            manifest.lock().unwrap().retain(|(known, _)| *known != number);
                        }
                        if let Err(error) = write_and_rename(&folder, number, bytes) {
                            return error;
                        }
                        manifest.lock().unwrap().push((number, bytes));
                    }
                    io::ErrorKind::Interrupted.into()
                })
            })
            .collect();
        Self { manifest, stop, threads }
    }

    /// Waits until so many files are durable.
    fn wait_for(&self, files: usize) {
        wait_until("there are files", || self.manifest.lock().unwrap().len() >= files);
    }

    /// Ends it; the errors that threads met, and what is durable.
    fn end(self) -> (Vec<io::Error>, Vec<(u64, usize)>) {
        self.stop.store(true, Ordering::Relaxed);
        let errors = self.threads.into_iter().map(|thread| thread.join().unwrap());
        let errors = errors.filter(|error| error.kind() != io::ErrorKind::Interrupted).collect();
        (errors, self.manifest.lock().unwrap().clone())
    }
}

#[track_caller]
fn all_there(mount: &Mount, manifest: &[(u64, usize)]) {
    for (number, bytes) in manifest {
        let path = mount.path(&name(*number));
        assert!(right_or_eio(&path, &pattern(*number, *bytes)), "{}", path.display());
    }
}

/// Stops a process, waits until it stands still, and lets it go on. A shell does all of it: a program that is started
/// meanwhile closes what it inherits, and waits for a daemon that is stopped.
fn stop_and_continue(process: u32) {
    let script = r#"kill -STOP "$1"
        until grep -q '^State:.T' "/proc/$1/status"; do sleep 0.01; done
        sleep 0.2
        kill -CONT "$1""#;
    finish(Command::new("sh").args(["-c", script, "sh", &process.to_string()])).ok();
}

/// A command with a limit of prlimit(1) on all that it starts.
fn limited(limit: &str, command: &Command) -> Command {
    let mut limited = Command::new("prlimit");
    limited.args([limit, "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

fn mount_limited(place: &Place, limit: &str) -> Result<Mount, support::Ran> {
    let mountpoint = place.mountpoint();
    let mount = place.on_store(&["mount"], &[mountpoint.to_str().unwrap()]);
    Mount::attempt(&mut limited(limit, &mount), mountpoint)
}

#[test]
fn a_killed_daemon_loses_nothing_that_fsync_answered_for() {
    if !can_mount() {
        return;
    }
    let place = small_store("128M");
    let mut kept = Vec::new();
    for round in 0..3 {
        let mount = place.mount();
        all_there(&mount, &kept);
        let load = Load::start(&place.mountpoint(), round * 100);
        load.wait_for(4 + 5 * round as usize);
        mount.signal("KILL");
        let (errors, manifest) = load.end();
        assert!(!errors.is_empty(), "who wrote must notice");
        kept.extend(manifest);
        drop(mount);
        assert_eq!(check(&place, &[]).code & !4, 0);
    }
    let mount = place.mount();
    all_there(&mount, &kept);
    mount.umount();
    assert_eq!(check(&place, &[]).code, 0);
}

#[test]
fn a_stopped_daemon_only_waits() {
    if !can_mount() {
        return;
    }
    let place = small_store("64M");
    let mount = place.mount();
    let load = Load::start(&place.mountpoint(), 0);
    for _ in 0..5 {
        load.wait_for(3);
        stop_and_continue(mount.daemon);
    }
    let (errors, manifest) = load.end();
    assert!(errors.is_empty(), "{errors:?}");
    all_there(&mount, &manifest);
    mount.umount();
    assert_eq!(check(&place, &[]).code, 0);
}

#[test]
fn a_mount_in_use_stays_until_it_is_taken_away() {
    if !can_mount() {
        return;
    }
    let place = small_store("64M");
    let mount = place.mount();
    let load = Load::start(&place.mountpoint(), 0);
    load.wait_for(5);
    let held = File::open(mount.path(&name(0))).unwrap();
    let umount = || finish(support::program().arg("umount").arg(place.mountpoint()));
    umount().failed(1, &["is busy"]);
    load.wait_for(8);
    let (errors, manifest) = load.end();
    assert!(errors.is_empty(), "{errors:?}");
    finish(support::program().args(["umount", "--lazy"]).arg(place.mountpoint())).ok();
    // What is open goes on to work, then the daemon ends by itself.
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&held, &mut byte, 0).unwrap();
    drop(held);
    wait_until("the daemon has ended", || !is_alive(mount.daemon));
    drop(mount);
    let mount = place.mount();
    all_there(&mount, &manifest);
    mount.umount();
    assert_eq!(check(&place, &[]).code, 0);
}

#[test]
fn open_files_take_no_descriptors_of_the_daemon() {
    if !can_mount() {
        return;
    }
    const FILES: u64 = 700;
    let place = small_store("64M");
    let mount = mount_limited(&place, "--nofile=64:64").unwrap();
    let mut files: Vec<(PathBuf, File)> = (0..FILES)
        .map(|number| {
            let path = mount.path(&name(number));
            let mut file = File::create(&path).unwrap();
            file.write_all(&pattern(number, 100)).unwrap();
            (path, file)
        })
        .collect();
    // Half of them go while they are open.
    for (path, _) in &files[..FILES as usize / 2] {
        fs::remove_file(path).unwrap();
    }
    for (number, (_, file)) in files.iter_mut().enumerate() {
        file.write_all(b"more").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 104, "{number}");
    }
    drop(files);
    let kept = fs::read_dir(place.mountpoint()).unwrap().count() as u64;
    assert_eq!(kept, FILES - FILES / 2);
    mount.umount();
    assert_eq!(check(&place, &[]).code, 0);
}

#[test]
fn with_too_few_descriptors_even_for_itself_a_mount_says_so() {
    if !can_mount() {
        return;
    }
    let place = small_store("64M");
    let mut kept = Vec::new();
    let mut refused = 0;
    for limit in 4..24 {
        match mount_limited(&place, &format!("--nofile={limit}:{limit}")) {
            Ok(mount) => {
                assert_ne!(mount.daemon, 0, "{limit}: it said that it had mounted");
                write_and_rename(&place.mountpoint(), limit, 5000).unwrap();
                kept.push((limit, 5000));
                mount.umount();
            }
            Err(ran) => {
                assert!(ran.code == 1 && !ran.stderr.contains("panicked"), "{limit}: {ran:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && !kept.is_empty(), "{refused} {kept:?}");
    let mount = place.mount();
    all_there(&mount, &kept);
    mount.umount();
    assert_eq!(check(&place, &[]).code, 0);
}

/// A process that opens its share of the files in a folder of folders and holds them; it writes to one when told to go on.
struct Holder(Child);

impl Holder {
    fn start(folder: &Path, files: Range<usize>) -> Self {
        let script = r#"ulimit -n "$(ulimit -Hn)"
            for ((i = $2; i < $3; i++)); do exec {fd}<>"$1/$((i / 1000))/$i" || exit 1; last=$fd; done
            echo ready; read -r
            echo written >&"$last"; echo done; read -r"#;
        let mut command = Command::new("bash");
        command.args(["-c", script, "bash"]).arg(folder);
        command.args([files.start, files.end].map(|number| number.to_string()));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Self(child)
    }

    #[track_caller]
    fn expect(&mut self, word: &str) {
        let mut said = vec![0; word.len() + 1];
        self.0.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(String::from_utf8_lossy(&said).trim(), word);
    }

    fn go_on(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_hundred_thousand_open_files_take_little_memory() {
    if !can_mount() {
        return;
    }
    // So many processes, as each may have no more files open than its limit says.
    const HOLDERS: usize = 10;
    const SHARE: usize = 10_000;
    const FILES: usize = HOLDERS * SHARE;
    // An inode with its block, its place in tables, what the allocator adds, and caches that fill by the way.
    const BYTES_PER_FILE: usize = 4 << 10;
    let place = small_store("256M");
    let mount = place.mount();
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", mount.daemon)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    };
    let path = |number: usize| mount.path(&format!("{}/{}", number / 1000, number));
    let before = resident();
    for folder in 0..FILES / 1000 {
        fs::create_dir(mount.path(&folder.to_string())).unwrap();
    }
    (0..FILES).for_each(|number| drop(File::create_new(path(number)).unwrap()));
    File::open(path(0)).unwrap().sync_all().unwrap();
    let share = |holder: usize| SHARE * holder..SHARE * (holder + 1);
    let mut holders: Vec<Holder> =
        (0..HOLDERS).map(|holder| Holder::start(&place.mountpoint(), share(holder))).collect();
    holders.iter_mut().for_each(|holder| holder.expect("ready"));
    let taken = resident().saturating_sub(before);
    println!("{} KiB for {FILES} open files", taken >> 10);
    assert!(taken <= FILES * BYTES_PER_FILE, "{taken} bytes");
    // Some go while they are open, and are written to.
    for number in (0..FILES).rev().step_by(3) {
        fs::remove_file(path(number)).unwrap();
    }
    for holder in &mut holders {
        holder.go_on();
        holder.expect("done");
    }
    drop(holders);
    assert!(!path(FILES - 1).exists() && path(FILES - 2).exists());
    mount.umount();
    assert_eq!(check(&place, &[]).code, 0);
}

#[test]
fn a_daemon_without_memory_harms_nothing() {
    if !can_mount() {
        return;
    }
    let place = small_store("128M");
    let mut kept = Vec::new();
    let mut mounted = 0;
    for (round, megabytes) in [1200, 400, 200, 120, 60].into_iter().enumerate() {
        let mount = match mount_limited(&place, &format!("--as={}", megabytes << 20)) {
            Ok(mount) => mount,
            Err(ran) => {
                assert_ne!(ran.code, 0);
                continue;
            }
        };
        mounted += 1;
        let load = Load::start(&place.mountpoint(), 100 * round as u64);
        wait_until("there are files, or none can be written", || {
            load.manifest.lock().unwrap().len() >= 12 || load.threads.iter().any(JoinHandle::is_finished)
        });
        let (_, manifest) = load.end();
        kept.extend(manifest);
        // It may have given up; then this is a mount of a dead daemon.
        let _ = finish(support::program().arg("umount").arg(place.mountpoint()));
        drop(mount);
        let mount = place.mount();
        all_there(&mount, &kept);
        mount.umount();
    }
    assert!(mounted > 0, "the highest limit is enough");
    assert_eq!(check(&place, &[]).code, 0);
}

/// A tmpfs, unmounted when it is dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn resize(&self, option: &str, bytes: u64) {
        let options = format!("{option}size={bytes}");
        finish(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&self.0)).ok();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_device_that_starts_to_fail_gives_errors_and_keeps_what_it_has() {
    if !can_mount() {
        return;
    }
    let place = Place::empty();
    let below = Tmpfs(place.path("below"));
    fs::create_dir(&below.0).unwrap();
    below.resize("", 40 << 20);
    let image = below.0.join("image");
    File::create(&image).unwrap().set_len(96 << 20).unwrap();
    let Some(device) = super::host::Loop::on(&image) else { return };
    std::os::unix::fs::symlink(device.path(), place.store()).unwrap();
    finish(&mut place.on_store(&["init"], &[])).ok();
    let mount = place.mount();
    let mut kept = Vec::new();
    // The device has room; what is below it does not, and a write that the kernel cannot do is an I/O error.
    let error = loop {
        let number = kept.len() as u64;
        match write_and_rename(&place.mountpoint(), number, 1 << 20) {
            Ok(()) => kept.push((number, 1 << 20)),
            Err(error) => break error,
        }
        assert!(kept.len() < 90, "the device never fails");
    };
    assert!(matches!(error.raw_os_error(), Some(libc::EIO | libc::EROFS | libc::ENOSPC)), "{error}");
    assert!(kept.len() > 10);
    assert!(is_alive(mount.daemon));
    // Nothing wrong is shown; what is durable may have to wait until the device works again.
    for (number, bytes) in &kept {
        right_or_eio(&mount.path(&name(*number)), &pattern(*number, *bytes));
    }
    end(&place, mount);
    below.resize("remount,", 200 << 20);
    let mount = place.mount();
    // Of a write that was cut short for lack of space, Linux's loop device says that all is well: the last file may
    // have lost some of its sectors. That is noticed.
    let (last, sure) = kept.split_last().unwrap();
    all_there(&mount, sure);
    let last_is_whole = right_or_eio(&mount.path(&name(last.0)), &pattern(last.0, last.1));
    write_and_rename(&place.mountpoint(), 1000, 5 << 20).unwrap();
    all_there(&mount, sure);
    all_there(&mount, &[(1000, 5 << 20)]);
    mount.umount();
    assert_eq!(check(&place, &[]).code, if last_is_whole { 0 } else { 4 });
    drop(device);
}
