//! Processes under measurement: [`Daemon`]s that serve a mount, and programs that use it, with a limit and with what
//! they cost.
//!
//! Invariants:
//! 1. A program that takes too long is killed, with all that it started; if it hangs in the kernel even then, so is
//!    the daemon for which it waits. No subject can hold up a run for ever.
//! 2. A daemon runs in the foreground, as a child: its number is known, and its end is seen.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::Serialize;

/// A daemon has this long until its mount is usable, and as long to end.
const DAEMON_LIMIT: Duration = Duration::from_secs(120);
/// After a kill, a process has this long to go.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Seconds of processors, in steps of a hundredth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Cost {
    /// Of the daemon, in user space and in the kernel.
    pub(crate) daemon: f64,
    /// Of the programs that use the filesystem, which includes what the kernel does for them.
    pub(crate) client: f64,
    /// Of the whole machine: also what the kernel's own threads do, and whatever else runs.
    pub(crate) machine: f64,
}

/// What has been spent so far.
pub(crate) fn spent(daemon: Option<u32>) -> Result<Cost> {
    Ok(Cost {
        daemon: daemon.map_or(Ok(0.0), |process| cpu_seconds(process, Whose::Own))?,
        client: cpu_seconds(std::process::id(), Whose::Children)?,
        machine: machine_seconds()?,
    })
}

impl std::ops::Sub for Cost {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            daemon: self.daemon - earlier.daemon,
            client: self.client - earlier.client,
            machine: self.machine - earlier.machine,
        }
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, more: Self) {
        self.daemon += more.daemon;
        self.client += more.client;
        self.machine += more.machine;
    }
}

/// What is counted of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Own,
    /// Of its children that have ended and been waited for.
    Children,
}

/// User and system time: see proc(5). A tick is a hundredth of a second on every Linux.
pub(crate) fn cpu_seconds(process: u32, whose: Whose) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let (_, fields) = stat.rsplit_once(')').with_context(|| format!("{path} is malformed"))?;
    let first = match whose {
        Whose::Own => 11,
        Whose::Children => 13,
    };
    let ticks = fields.split_whitespace().skip(first).take(2).map(str::parse::<u64>);
    Ok(ticks.sum::<Result<u64, _>>()? as f64 / 100.0)
}

fn machine_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or("")
        .split_whitespace()
        .skip(1)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    // user, nice, system, idle, iowait, irq, softirq.
    let [user, nice, system, _, _, irq, soft_irq, ..] = ticks[..] else { bail!("/proc/stat is malformed") };
    Ok((user + nice + system + irq + soft_irq) as f64 / 100.0)
}

/// The most memory that a process ever had resident: see proc(5).
pub(crate) fn peak_kib(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// What a program printed, and how long it ran.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) text: String,
    pub(crate) seconds: f64,
}

/// Runs a program that succeeds, for no longer than `limit`. If it does not even die, `daemon` has to.
pub(crate) fn run(command: &mut Command, limit: Duration, daemon: Option<u32>) -> Result<Finished> {
    let name = command.get_program().to_string_lossy().into_owned();
    let start = Instant::now();
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let process = pid(child.id())?;
    let (ended, end) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        if end.recv_timeout(limit) != Err(RecvTimeoutError::Timeout) {
            return false;
        }
        let _ = kill_process_group(process, Signal::KILL);
        if end.recv_timeout(KILL_LIMIT) == Err(RecvTimeoutError::Timeout)
            && let Some(daemon) = daemon.and_then(|daemon| pid(daemon).ok())
        {
            let _ = kill_process(daemon, Signal::KILL);
        }
        true
    });
    let output = child.wait_with_output();
    let seconds = start.elapsed().as_secs_f64();
    drop(ended);
    let is_late = watch.join().unwrap_or(false);
    let output = output.with_context(|| format!("cannot run {name}"))?;
    ensure!(!is_late, "{name} took longer than {} s", limit.as_secs());
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, last_lines(&errors));
    }
    Ok(Finished { text: String::from_utf8_lossy(&output.stdout).into_owned(), seconds })
}

/// A process that serves a mount.
pub(crate) struct Daemon {
    child: Child,
    mount_point: PathBuf,
}

impl Daemon {
    /// Starts it and waits until the mount is usable; says how many seconds that took. What it prints goes to `log`.
    pub(crate) fn start(command: &mut Command, mount_point: &Path, log: &Path) -> Result<(Self, f64)> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut output = File::options().create(true).read(true).append(true).open(log)?;
        let from = output.seek(SeekFrom::End(0))?;
        command.stdout(output.try_clone()?).stderr(output.try_clone()?).process_group(0);
        let below = device(mount_point)?;
        let start = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot run {name}"))?;
        let mut daemon = Self { child, mount_point: mount_point.to_owned() };
        loop {
            if is_mounted(mount_point)? && device(mount_point).is_ok_and(|device| device != below) {
                fs::read_dir(mount_point).context("the mount does not work")?;
                return Ok((daemon, start.elapsed().as_secs_f64()));
            }
            let late = start.elapsed() > DAEMON_LIMIT;
            if late {
                daemon.child.kill()?;
            }
            if let Some(status) = daemon.child.try_wait()? {
                let mut text = String::new();
                output.seek(SeekFrom::Start(from))?;
                output.read_to_string(&mut text)?;
                bail!("{name} did not mount ({status}): {}", last_lines(&text));
            }
            thread::sleep(Duration::from_micros(500));
        }
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Unmounts with `unmount` and waits for the end.
    pub(crate) fn stop(mut self, unmount: &mut Command) -> Result<()> {
        let start = Instant::now();
        let stopped = loop {
            let result = run(unmount, DAEMON_LIMIT, Some(self.process()));
            // A program that was killed may hold a file a moment longer.
            if result.is_ok() || start.elapsed() > KILL_LIMIT || self.child.try_wait()?.is_some() {
                break result;
            }
            thread::sleep(Duration::from_millis(50));
        };
        let end = if stopped.is_ok() { DAEMON_LIMIT } else { Duration::ZERO };
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > end {
                self.child.kill()?;
                self.child.wait()?;
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        // Whoever was killed, or died, has left the mount.
        if is_mounted(&self.mount_point)? {
            run(Command::new("umount").arg("--lazy").arg(&self.mount_point), DAEMON_LIMIT, None)?;
        }
        stopped.map(|_| ())
    }
}

fn pid(number: u32) -> Result<Pid> {
    Pid::from_raw(i32::try_from(number)?).context("no process has the number 0")
}

fn device(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?.dev())
}

/// Mount points here have no spaces: they stand in a folder that this program has made.
fn is_mounted(path: &Path) -> Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str()))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_too_long_is_killed_with_its_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & sleep 1000"]);
        let error = run(&mut command, Duration::from_millis(100), None).unwrap_err();
        assert!(error.to_string().contains("took longer"), "{error:#}");
    }

    #[test]
    fn what_a_failing_program_says_is_passed_on() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo reason >&2; exit 3"]);
        let error = run(&mut command, Duration::from_secs(60), None).unwrap_err();
        assert!(error.to_string().contains("reason"), "{error:#}");
        let fine = run(Command::new("echo").arg("out"), Duration::from_secs(60), None).unwrap();
        assert_eq!(fine.text, "out\n");
    }

    #[test]
    fn the_work_of_children_is_counted() {
        let before = spent(None).unwrap();
        let work = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        run(Command::new("sh").args(["-c", work]), Duration::from_secs(60), None).unwrap();
        let cost = spent(None).unwrap() - before;
        assert!(cost.client > 0.0 && cost.machine > 0.0 && cost.daemon == 0.0, "{cost:?}");
    }

    #[test]
    fn a_daemon_that_ends_at_once_says_why() {
        let folder = std::env::temp_dir();
        let log = folder.join(format!("fio-bench-daemon-{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo wrong passphrase; exit 1"]);
        let result = Daemon::start(&mut command, &folder, &log);
        fs::remove_file(log).unwrap();
        let error = result.err().expect("nothing is mounted").to_string();
        assert!(error.contains("wrong passphrase"), "{error}");
    }
}
