//! Power cuts: a virtual machine works on a store and is killed at any moment, again and again; of what it wrote
//! and did not flush, the disk keeps what it likes.
//!
//! After each cut, the machine's own program on this machine checks what may be on the disk, mounts it and compares it with what was
//! told on the serial line; then the next machine goes on with one of these disks.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::disk::{Cut, Disk, Survivors};
use super::workload::{self, BEGIN, FAILED, MOUNTING, OPERATION, Told};
use super::{ATTEMPTS, Machine, Parts, network_block};
use crate::packages;
use xtask::command::{execute, outcome, output, target};
use xtask::scratch::Scratch;

const DISK_BYTES: usize = 96 << 20;
/// Operations before a cut, at most.
const OPERATIONS_MAX: u64 = 150;
/// Writes under way at a cut, if there are so many.
const WRITES_MAX: usize = 24;
/// The longest time between what a machine says and the cut.
const DELAY_MAX: Duration = Duration::from_millis(400);

/// What was tried.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) cuts: u64,
    pub(crate) operations: u64,
    /// Disks that were looked at, and writes that they kept or lost.
    pub(crate) disks: u64,
    pub(crate) writes: u64,
}

/// When a machine is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So long after it started to mount the store, or to make it.
    Early(Duration),
    /// After it told of this operation, when there are so many writes that were not flushed; or, if there are never, so
    /// long after it.
    Operation(u64, usize, Duration),
}

/// Cuts the power so many times; `program` is `blocktree`. What was tried until something failed was tried, too.
pub(crate) fn run(program: &Path, seed: u64, cuts: u64, tally: &mut Tally) -> Result<()> {
    ensure!(packages::is_root()?, "only root can look at all that a machine's root wrote: run this as root");
    let scratch = Scratch::new(&target(), "power")?;
    // The path of a socket must be short.
    let sockets = Scratch::new(&std::env::temp_dir(), "power")?;
    let parts = Parts::gather(program, &scratch.join(""))?;
    let host = Host::new(&parts.program, &scratch)?;
    let mut random = StdRng::seed_from_u64(seed);
    let mut image = vec![0; DISK_BYTES];
    let (mut life, mut before) = (0, None);
    while tally.cuts < cuts {
        let life_seed = random.random();
        let socket = sockets.join(format!("disk-{}", tally.cuts));
        let moment = choose(&mut random);
        let said = |told: Told| format!("seed {seed}, cut {}: life {life}, {moment:?}, {told:?}", tally.cuts);
        let words = format!("power {life_seed} {life}");
        let (machine, disk) = start(&parts, &words, &image, &socket, life_seed)?;
        let (cut, told) = live(machine, &disk, moment).with_context(|| said(Told::default()))?;
        let mut fate = None;
        for survivors in [Survivors::None, Survivors::All, Survivors::Some, Survivors::Some] {
            if fate.is_some() && cut.pending() == 0 {
                break;
            }
            let after = cut.image(survivors, &mut random);
            let expected = Expected { life, seed: life_seed, told, before: before.as_ref() };
            let looked = host.look(&after, &expected).with_context(|| {
                let kept = host.keep(&after, seed, tally.cuts);
                format!("{}, {survivors:?} of {} writes; the disk is {kept}", said(told), cut.pending())
            })?;
            fate = Some((after, looked));
            tally.disks += 1;
        }
        tally.cuts += 1;
        tally.operations += told.started;
        tally.writes += cut.pending() as u64;
        let (after, looked) = fate.context("there is one disk at least")?;
        println!("  cut {}: life {life}, {} operations, {} writes", tally.cuts, told.started, cut.pending());
        match looked {
            // It had no time to become a store.
            None => image = vec![0; DISK_BYTES],
            Some(fingerprint) => {
                image = after;
                if fingerprint.is_some() {
                    before = fingerprint.map(|fingerprint| (life, fingerprint));
                    life += 1;
                } else if life == 0 {
                    life = 1;
                }
            }
        }
    }
    Ok(())
}

/// A machine that has started, and its disk.
fn start(parts: &Parts, words: &str, image: &[u8], socket: &Path, seed: u64) -> Result<(Machine, Arc<Disk>)> {
    for attempt in 0..ATTEMPTS {
        let socket = socket.with_extension(attempt.to_string());
        let disk = Arc::new(Disk::new(image.to_vec()));
        network_block::serve(disk.clone(), &socket, seed)?;
        let machine = Machine::start(parts, words, Some(&socket))?;
        if machine.has_booted()? {
            return Ok((machine, disk));
        }
    }
    bail!("no machine starts")
}

fn choose(random: &mut StdRng) -> Moment {
    match random.random_ratio(1, 8) {
        true => Moment::Early(Duration::from_secs(2).mul_f64(random.random())),
        false => Moment::Operation(
            random.random_range(1..=OPERATIONS_MAX),
            random.random_range(0..=WRITES_MAX),
            DELAY_MAX.mul_f64(random.random()),
        ),
    }
}

/// A machine's life until its end; what its disk met then, and what it told until then.
fn live(machine: Machine, disk: &Disk, moment: Moment) -> Result<(Cut, Told)> {
    let mut told = Told::default();
    let mut lines = Vec::new();
    loop {
        let Some(line) = machine.line()? else { bail!("the machine ended by itself: {}", lines.join("\n")) };
        told.hear(&line);
        let (is_due, writes, delay) = match moment {
            Moment::Early(delay) => (line == MOUNTING || line == BEGIN, usize::MAX, delay),
            Moment::Operation(number, writes, delay) => {
                (line == format!("{OPERATION}{number}"), writes, delay)
            }
        };
        if is_due {
            let began = Instant::now();
            while disk.pending() < writes && began.elapsed() < delay {
                thread::sleep(Duration::from_micros(50));
            }
            break;
        }
        let is_failure = line.starts_with(FAILED);
        lines.push(line);
        if is_failure {
            bail!("{}", lines.join("\n"));
        }
    }
    let cut = disk.cut();
    // Whatever it says now it had a right to say, as its disk does not answer any more.
    for line in machine.kill()? {
        ensure!(!line.starts_with(FAILED), "{line}");
        told.hear(&line);
    }
    Ok((cut, told))
}

/// What must be on a disk.
struct Expected<'a> {
    life: u64,
    seed: u64,
    told: Told,
    /// The life before, and what its folder was.
    before: Option<&'a (u64, Vec<String>)>,
}

/// This machine, on which disks are looked at.
struct Host<'a> {
    program: &'a Path,
    scratch: &'a Scratch,
}

impl<'a> Host<'a> {
    fn new(program: &'a Path, scratch: &'a Scratch) -> Result<Self> {
        let host = Self { program, scratch };
        fs::create_dir(host.store())?;
        fs::create_dir(host.mount_point())?;
        fs::write(scratch.join("passphrase"), "correct horse battery staple\n")?;
        Ok(host)
    }

    fn store(&self) -> PathBuf {
        self.scratch.join("store")
    }

    fn mount_point(&self) -> PathBuf {
        self.scratch.join("mount")
    }

    fn blocktree(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command.args(words).env("BLOCKTREE_PASSPHRASE_FILE", self.scratch.join("passphrase"));
        command.env("BLOCKTREE_ANCHOR_DIR", self.scratch.join("anchors"));
        command
    }

    /// Checks and mounts what is on a disk; what the life's folder is, if it has one. `None` if there is no store yet.
    fn look(&self, image: &[u8], expected: &Expected<'_>) -> Result<Option<Option<Vec<String>>>> {
        write_sparse(&self.store().join("volume"), image)?;
        if !expected.told.has_begun && expected.life == 0 {
            // The store was being made.
            let checked = outcome(self.blocktree(&["check"]).arg(self.store()))?;
            let said = String::from_utf8_lossy(&checked.stderr);
            ensure!(!said.contains("panicked"), "{said}");
            if !checked.status.success() {
                return Ok(None);
            }
        }
        self.check()?;
        execute(self.blocktree(&["mount", "-o", "anchor=none"]).args([self.store(), self.mount_point()]))?;
        let found = self.compare(expected);
        execute(self.blocktree(&["umount"]).arg(self.mount_point()))?;
        let found = found?;
        self.check().context("after it was mounted")?;
        Ok(Some(found))
    }

    fn check(&self) -> Result<()> {
        let checked = outcome(self.blocktree(&["check"]).arg(self.store()))?;
        let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
        ensure!(checked.status.success(), "check: {}{}", said(&checked.stdout), said(&checked.stderr));
        Ok(())
    }

    fn compare(&self, expected: &Expected<'_>) -> Result<Option<Vec<String>>> {
        let mount = self.mount_point();
        if let Some((life, fingerprint)) = expected.before {
            let found = workload::fingerprint(&workload::folder(&mount, *life))?;
            ensure!(found == *fingerprint, "life {life} was {fingerprint:?} and is {found:?}");
        }
        // All that is there can be read.
        output(Command::new("tar").args(["-cf", "/dev/null", "-C"]).arg(&mount).arg("."))?;
        if !expected.told.has_begun {
            return Ok(None);
        }
        let folder = workload::folder(&mount, expected.life);
        workload::verify(&folder, expected.seed, expected.told)?;
        workload::fingerprint(&folder).map(Some)
    }

    /// Keeps a disk for whoever wants to know; says where.
    fn keep(&self, image: &[u8], seed: u64, cut: u64) -> String {
        let path = target().join(format!("power-{seed}-{cut}"));
        match write_sparse(&path, image) {
            Ok(()) => path.display().to_string(),
            Err(error) => format!("lost: {error}"),
        }
    }
}

/// Writes a file that takes no space for zeros.
fn write_sparse(path: &Path, bytes: &[u8]) -> Result<()> {
    const BLOCK: usize = 64 << 10;
    let file = File::create(path).with_context(|| path.display().to_string())?;
    file.set_len(bytes.len() as u64)?;
    for (number, block) in bytes.chunks(BLOCK).enumerate() {
        if block.iter().any(|&byte| byte != 0) {
            file.write_all_at(block, (number * BLOCK) as u64)?;
        }
    }
    Ok(())
}
