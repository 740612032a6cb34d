//! Stores of growing size: how long making, opening after a crash and random operations take, and how much memory.
//!
//! Invariants:
//! 1. A process that makes a store ends by SIGKILL, right after a sync. Another process opens what it left.
//! 2. Nothing of what one process read is in another's memory or in the kernel's page cache, which drops the volume's pages
//!    in between.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{Access, Device, VolumeError, create_volume, open_volume};
use blocktree_engine::{CreateOptions, OpenOptions, Store};
use blocktree_vfs::{Caller, Fs, Ino, MountOptions, RenameFlags, WriteFlags};
use clap::Args;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{Advice, fadvise};
use xtask::command::{output, target};
use xtask::scratch::Scratch;

use crate::process::peak_kib;
use crate::{bytes, page};

/// What this program is called with to be a child.
pub(crate) const MAKE: &str = "scale-make";
pub(crate) const READ: &str = "scale-read";
pub(crate) const PASSPHRASE: &[u8] = b"benchmark";

const SECTOR: u64 = 4096;
const WRITE_BYTES: u64 = 1 << 20;
const FILE_BYTES: u64 = 1 << 30;
const FILES_PER_DIRECTORY: u64 = 1000;
const SMALL_FILE_BYTES: u64 = 1024;
/// This many files are also made in one directory.
const LARGE_DIRECTORY: u64 = 1_000_000;
const OPERATIONS: u32 = 10_000;
const SEED: u64 = 0x5ca1e;

/// What a store is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contents {
    Files { count: u64, bytes: u64, per_directory: u64 },
    Data { bytes: u64 },
}

/// What the two children say.
struct Row {
    contents: Contents,
    make_seconds: f64,
    make_peak_kib: u64,
    volume_bytes: u64,
    log_kib: u64,
    open_ms: f64,
    operation_us: f64,
    /// Nodes of the index that an operation asked for.
    operation_nodes: f64,
    read_peak_kib: u64,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// How many files, and bytes in each (1024): `N` or `N:B`, with commas between
    #[arg(long, default_value = "10000,100000,1000000,10000000:0")]
    files: String,
    /// Also so many empty files in one directory
    #[arg(long, value_name = "COUNT")]
    directory: Option<u64>,
    /// How much data in large files
    #[arg(long, default_value = "1G,10G,40G")]
    data: String,
    /// Where the volume lies [default: the target folder]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Also write the table to docs/benchmarks.md
    #[arg(long)]
    publish: bool,
}

pub(crate) fn run(options: &Options, command: &str) -> Result<()> {
    let dir = options.dir.clone().unwrap_or_else(target);
    let mut rows = Vec::new();
    let large = options.directory.map(|count| Contents::Files { count, bytes: 0, per_directory: count });
    for contents in steps(&options.files, &options.data)?.into_iter().chain(large) {
        if let Err(error) = check_room(&dir, contents.room_bytes() / 2 * 3) {
            eprintln!("left out {contents:?}: {error}");
            continue;
        }
        let scratch = Scratch::new(&dir, "scale")?;
        let row = measure(contents, &scratch.join("store")).with_context(|| format!("{contents:?}"))?;
        eprintln!("{}", row.text());
        rows.push(row);
    }
    let table = table(&rows);
    println!("{table}");
    if options.publish {
        page::write("fio-bench scale", command, &table)?;
    }
    Ok(())
}

fn steps(files: &str, data: &str) -> Result<Vec<Contents>> {
    let mut steps = Vec::new();
    for step in files.split(',').filter(|step| !step.is_empty()) {
        let (count, bytes) = match step.split_once(':') {
            Some((count, bytes)) => (count, bytes.parse().with_context(|| format!("not a size: {bytes}"))?),
            None => (step, SMALL_FILE_BYTES),
        };
        let count = count.parse().with_context(|| format!("not a number: {count}"))?;
        ensure!(count > 0 && bytes <= WRITE_BYTES, "no files, or files too large: {step}");
        steps.push(Contents::Files { count, bytes, per_directory: FILES_PER_DIRECTORY });
        if count == LARGE_DIRECTORY {
            steps.push(Contents::Files { count, bytes, per_directory: count });
        }
    }
    for step in data.split(',').filter(|step| !step.is_empty()) {
        steps.push(Contents::Data { bytes: bytes(step)? });
    }
    Ok(steps)
}

/// Fails unless the filesystem has room for this much.
pub(crate) fn check_room(dir: &Path, bytes: u64) -> Result<()> {
    let df = output(Command::new("df").args(["--output=avail", "-B1"]).arg(dir))?;
    let free: u64 = df.lines().last().unwrap_or("").trim().parse().context("cannot read what df says")?;
    ensure!(free >= bytes, "{} MiB are needed; {} MiB are free", bytes >> 20, free >> 20);
    Ok(())
}

impl Contents {
    /// What the volume may take, at most.
    fn room_bytes(&self) -> u64 {
        match self {
            Self::Files { count, bytes, .. } => (256 << 20) + count * (bytes.next_multiple_of(SECTOR) + 1500),
            Self::Data { bytes } => (256 << 20) + bytes / 16 * 17,
        }
    }

    fn arguments(&self) -> Vec<String> {
        match self {
            Self::Files { count, bytes, per_directory } => vec![count, bytes, per_directory],
            Self::Data { bytes } => vec![bytes],
        }
        .into_iter()
        .map(u64::to_string)
        .collect()
    }

    fn parse(words: &[String]) -> Result<Self> {
        let numbers: Vec<u64> = words.iter().map(|word| word.parse()).collect::<Result<_, _>>()?;
        match numbers[..] {
            [count, bytes, per_directory] => Ok(Self::Files { count, bytes, per_directory }),
            [bytes] => Ok(Self::Data { bytes }),
            _ => bail!("wrong arguments of a child process"),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Files { count, bytes, per_directory } if count == per_directory => {
                format!("{count} files of {bytes} bytes in one directory")
            }
            Self::Files { count, bytes, .. } => format!("{count} files of {bytes} bytes"),
            Self::Data { bytes } => format!("{} GiB of data", bytes >> 30),
        }
    }
}

/// Makes a store in a child, kills that, and opens what is left in another.
fn measure(contents: Contents, store: &Path) -> Result<Row> {
    let child = |task: &str| {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(task).arg(store).args(contents.arguments());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        anyhow::Ok(command.spawn()?)
    };
    let numbers =
        |line: &str| -> Result<Vec<f64>> { line.split_whitespace().map(|word| Ok(word.parse()?)).collect() };

    let mut maker = child(MAKE)?;
    let mut line = String::new();
    let read = BufReader::new(maker.stdout.take().expect("it is piped")).read_line(&mut line);
    maker.kill()?;
    maker.wait()?;
    read?;
    let made = numbers(&line)?;
    let mut reader = child(READ)?;
    // Waiting would close it, which ends the child.
    let _open = reader.stdin.take();
    let reader = reader.wait_with_output()?;
    ensure!(reader.status.success(), "the reading process failed: {}", reader.status);
    let opened = numbers(&String::from_utf8_lossy(&reader.stdout))?;
    let ([make_seconds, make_peak, volume], [open_ms, log, operation_us, operation_nodes, read_peak]) =
        (&made[..], &opened[..])
    else {
        bail!("a child process failed");
    };
    Ok(Row {
        contents,
        make_seconds: *make_seconds,
        make_peak_kib: *make_peak as u64,
        volume_bytes: *volume as u64 * SECTOR,
        log_kib: (*log as u64 * SECTOR) >> 10,
        open_ms: *open_ms,
        operation_us: *operation_us,
        operation_nodes: *operation_nodes,
        read_peak_kib: *read_peak as u64,
    })
}

/// What a child process does.
pub(crate) fn child(task: &str, words: &[String]) -> Result<()> {
    let Some((store, rest)) = words.split_first() else { bail!("wrong arguments of a child process") };
    let contents = Contents::parse(rest)?;
    // The parent holds the other end: it, too, may be killed, and its scratch folder is gone then.
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    if task == MAKE { make(Path::new(store), contents) } else { read(Path::new(store), contents) }
}

fn make(path: &Path, contents: Contents) -> Result<()> {
    let volume = create_volume(path, None)?;
    let options = CreateOptions { capacity_sectors: volume.capacity_sectors, kdf: KdfCost::TRIVIAL };
    let store = Store::create(volume.device, PASSPHRASE, &options)?;
    Fs::format(&store, 0, 0)?;
    let fs = Fs::mount(store, MountOptions::default())?;
    let start = Instant::now();
    match contents {
        Contents::Files { count, bytes, per_directory } => make_files(&fs, count, bytes, per_directory)?,
        Contents::Data { bytes } => make_data(&fs, bytes)?,
    }
    fs.syncfs()?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{seconds} {} {}", peak_kib(std::process::id())?, fs.store().info().volume_sectors);
    loop {
        // Until this process is killed.
        thread::park();
    }
}

fn make_files(fs: &Fs, count: u64, bytes: u64, per_directory: u64) -> Result<()> {
    let caller = Caller::default();
    let contents = vec![0x5a; bytes as usize];
    for first in (0..count).step_by(per_directory as usize) {
        let directory = fs.mkdir(&caller, Fs::ROOT, &directory_name(first / per_directory), 0o755)?.ino;
        for i in first..count.min(first + per_directory) {
            let ino = fs.create(&caller, directory, &file_name(i), 0o644)?.ino;
            if bytes > 0 {
                fs.write(ino, 0, &contents, WriteFlags::default())?;
            }
            fs.release(ino, None);
            fs.forget(ino, 1);
        }
        fs.forget(directory, 1);
    }
    Ok(())
}

fn make_data(fs: &Fs, bytes: u64) -> Result<()> {
    let mut contents = vec![0x5a; WRITE_BYTES as usize];
    for first in (0..bytes).step_by(FILE_BYTES as usize) {
        let ino = fs.create(&Caller::default(), Fs::ROOT, &file_name(first / FILE_BYTES), 0o644)?.ino;
        for at in (first..bytes.min(first + FILE_BYTES)).step_by(WRITE_BYTES as usize) {
            for (sector, to) in contents.chunks_exact_mut(SECTOR as usize).enumerate() {
                to[..8].copy_from_slice(&(at + sector as u64 * SECTOR).to_le_bytes());
            }
            fs.write(ino, at - first, &contents, WriteFlags::default())?;
        }
        fs.release(ino, None);
        fs.forget(ino, 1);
    }
    Ok(())
}

fn read(path: &Path, contents: Contents) -> Result<()> {
    let device = open_released(path)?;
    fadvise(File::open(path.join("volume"))?, 0, None, Advice::DontNeed)?;
    let start = Instant::now();
    let store = Store::open(device, PASSPHRASE, &OpenOptions::default())?;
    let fs = Fs::mount(store, MountOptions::default())?;
    let open_ms = start.elapsed().as_secs_f64() * 1e3;
    let log_sectors = fs.store().info().log_used_sectors;

    let mut random = StdRng::seed_from_u64(SEED);
    let (start, asked) = (Instant::now(), fs.store().info().nodes_asked);
    match contents {
        Contents::Files { count, bytes, per_directory } => {
            for _ in 0..OPERATIONS {
                stat_file(&fs, random.random_range(0..count), bytes, per_directory)?;
            }
        }
        Contents::Data { bytes } => read_data(&fs, bytes, &mut random)?,
    }
    let operation_us = start.elapsed().as_secs_f64() * 1e6 / f64::from(OPERATIONS);
    let nodes = (fs.store().info().nodes_asked - asked) as f64 / f64::from(OPERATIONS);
    if let Contents::Files { count, per_directory, .. } = contents
        && count == per_directory
    {
        use_directory(&fs, count, &mut random)?;
    }
    println!("{open_ms} {log_sectors} {operation_us} {nodes} {}", peak_kib(std::process::id())?);
    fs.unmount()?;
    Ok(fs.store().close()?)
}

/// The kernel may hold a killed process's lock a moment longer, for its ring.
fn open_released(path: &Path) -> Result<Arc<dyn Device>> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match open_volume(path, Access::ReadWrite) {
            Err(VolumeError::Busy { .. }) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            result => return Ok(result?),
        }
    }
}

fn stat_file(fs: &Fs, i: u64, bytes: u64, per_directory: u64) -> Result<()> {
    let directory = fs.lookup(Fs::ROOT, &directory_name(i / per_directory))?.ino;
    let ino = fs.lookup(directory, &file_name(i))?.ino;
    ensure!(fs.getattr(ino)?.size == bytes, "file {i} has a wrong length");
    fs.forget(ino, 1);
    fs.forget(directory, 1);
    Ok(())
}

/// Everything else that is done to a large directory: it stays as quick as a small one, in nodes of the index.
fn use_directory(fs: &Fs, count: u64, random: &mut StdRng) -> Result<()> {
    const OPERATIONS: u64 = 1000;
    const NODES_MAX: u64 = 100;
    let directory = fs.lookup(Fs::ROOT, &directory_name(0))?.ino;
    ensure!(fs.getattr(directory)?.size == count, "the directory has not {count} entries");
    let asked = || fs.store().info().nodes_asked;
    let before = asked();
    for number in 0..OPERATIONS {
        let (new, other) = (file_name(count + number), file_name(2 * count + number));
        let ino = fs.create(&Caller::default(), directory, &new, 0o644)?.ino;
        fs.release(ino, None);
        fs.forget(ino, 1);
        fs.rename(directory, &new, directory, &other, RenameFlags::default())?;
        fs.unlink(directory, &other)?;
        stat_file(fs, random.random_range(0..count), 0, count)?;
    }
    let nodes = (asked() - before) / OPERATIONS;
    ensure!(nodes <= NODES_MAX, "to create, rename, remove and find a file asks for {nodes} nodes");
    let mut seen = 0;
    fs.readdir(directory, 0, &mut |_| {
        seen += 1;
        true
    })?;
    ensure!(seen == count + 2, "{seen} entries are listed, of {count} and two");
    fs.forget(directory, 1);
    Ok(())
}

fn read_data(fs: &Fs, bytes: u64, random: &mut StdRng) -> Result<()> {
    let count = bytes.div_ceil(FILE_BYTES);
    let files: Vec<Ino> =
        (0..count).map(|i| Ok(fs.lookup(Fs::ROOT, &file_name(i))?.ino)).collect::<Result<_>>()?;
    let mut sector = [0; SECTOR as usize];
    for _ in 0..OPERATIONS {
        let at = random.random_range(0..bytes / SECTOR) * SECTOR;
        fs.read(files[(at / FILE_BYTES) as usize], at % FILE_BYTES, &mut sector)?;
        ensure!(
            sector[..8] == at.to_le_bytes() && sector[8..].iter().all(|&byte| byte == 0x5a),
            "wrong bytes at {at}"
        );
    }
    Ok(())
}

fn directory_name(i: u64) -> Vec<u8> {
    format!("directory-{i:05}").into_bytes()
}

fn file_name(i: u64) -> Vec<u8> {
    format!("file-{i:08}").into_bytes()
}

impl Row {
    fn text(&self) -> String {
        let make = match self.contents {
            Contents::Files { count, .. } => {
                format!("{:.1} µs a file", self.make_seconds * 1e6 / count as f64)
            }
            Contents::Data { bytes } => format!("{:.0} MiB/s", (bytes >> 20) as f64 / self.make_seconds),
        };
        format!(
            "| {} | {make} | {} MiB | {} MiB | {:.1} MiB | {:.0} ms | {:.1} µs | {:.1} | {} MiB |",
            self.contents.text(),
            self.make_peak_kib >> 10,
            self.volume_bytes >> 20,
            self.log_kib as f64 / 1024.0,
            self.open_ms,
            self.operation_us,
            self.operation_nodes,
            self.read_peak_kib >> 10,
        )
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| store | making | memory while making | volume | log to replay | open after crash | random operation \
         | index nodes for it | memory while reading |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for row in rows {
        text += &row.text();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read() {
        let steps = steps("10,1000000:0", "1G").unwrap();
        let files = |count, bytes, per_directory| Contents::Files { count, bytes, per_directory };
        let expected = [
            files(10, SMALL_FILE_BYTES, 1000),
            files(1_000_000, 0, 1000),
            files(1_000_000, 0, 1_000_000),
            Contents::Data { bytes: 1 << 30 },
        ];
        assert_eq!(steps, expected);
        for contents in expected {
            assert_eq!(Contents::parse(&contents.arguments()).unwrap(), contents);
        }
        assert!(super::steps("0", "").is_err() && super::steps("x", "").is_err());
    }
}
