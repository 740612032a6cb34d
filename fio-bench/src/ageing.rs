//! A store that is overwritten many times over: does it slow down, grow, or lose space?
//!
//! Invariants:
//! 1. The same seed writes the same bytes at the same places.
//! 2. Each round ends with a sync and counts it.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{NewVolume, create_volume};
use blocktree_engine::limits::{REGION_HEADER_SECTORS, REGION_NODE_SECTORS, REGION_SECTORS};
use blocktree_engine::{CreateOptions, OpenOptions, Store};
use blocktree_vfs::{Caller, Fs, Ino, MountOptions, WriteFlags};
use clap::Args;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use xtask::command::target;
use xtask::scratch::Scratch;

use crate::process::{Whose, cpu_seconds};
use crate::scale::{PASSPHRASE, check_room};
use crate::{bytes, page};

const SECTOR: u64 = 4096;
const LONG_BYTES: u64 = 128 << 10;
const FILE_BYTES: u64 = 16 << 20;
const FILL_PERCENT: u64 = 60;
const SEED: u64 = 0xa9e1;

/// What was seen at the end of a round.
struct Round {
    mib_per_second: f64,
    /// Of the processor, by all threads: what other work on the machine does not disturb.
    cpu_seconds: f64,
    volume_bytes: u64,
    free_bytes: u64,
}

/// A run from first to last.
struct Outcome {
    rounds: Vec<Round>,
    /// In use by data and index beyond the regions' reserve: before the first file, and after the last was deleted.
    used_before_bytes: u64,
    used_after_bytes: u64,
}

/// What a run is like.
struct Plan {
    size_bytes: u64,
    rounds: usize,
    background: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// How often the store is overwritten
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Size of the store
    #[arg(long, default_value = "2G", value_parser = bytes)]
    size: u64,
    /// Where the volume lies [default: the target folder]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Also write the table to docs/benchmarks.md
    #[arg(long)]
    publish: bool,
}

pub(crate) fn run(options: &Options, command: &str) -> Result<()> {
    let plan = Plan { size_bytes: options.size, rounds: options.rounds, background: true };
    let dir = options.dir.clone().unwrap_or_else(target);
    ensure!(plan.rounds > 0, "--rounds must be at least 1");
    check_room(&dir, 4 * plan.size_bytes)?;
    let scratch = Scratch::new(&dir, "ageing")?;
    let mut outcomes = Vec::new();
    for (name, limit) in [("fixed", Some(plan.size_bytes)), ("growing", None)] {
        let folder = scratch.join(name);
        outcomes.push(age(create_volume(&folder, limit)?, &plan)?);
        std::fs::remove_dir_all(folder)?;
    }
    let table = table(&outcomes[0], &outcomes[1]);
    println!("{table}");
    if options.publish {
        page::write("fio-bench ageing", command, &table)?;
    }
    Ok(())
}

fn age(volume: NewVolume, plan: &Plan) -> Result<Outcome> {
    let create = CreateOptions { capacity_sectors: volume.capacity_sectors, kdf: KdfCost::TRIVIAL };
    let open = OpenOptions { background: plan.background, ..OpenOptions::default() };
    let store = Store::create_with(volume.device.clone(), PASSPHRASE, &create, &open)?;
    Fs::format(&store, 0, 0)?;
    store.checkpoint()?;
    let used_before_bytes = used_bytes(&store);
    let fs = Fs::mount(store, MountOptions::default())?;
    let mut random = StdRng::seed_from_u64(SEED);
    let mut contents = vec![0; 2 * LONG_BYTES as usize];
    random.fill_bytes(&mut contents);

    let count = (plan.size_bytes * FILL_PERCENT / 100 / FILE_BYTES).max(1);
    let files = (0..count).map(|i| fill(&fs, &name(i), &contents)).collect::<Result<Vec<_>>>()?;
    fs.syncfs()?;
    let mut rounds = Vec::new();
    for number in 0..plan.rounds {
        let (start, cpu_start) = (Instant::now(), own_cpu_seconds()?);
        overwrite(&fs, &files, &contents, plan.size_bytes, &mut random)?;
        fs.syncfs()?;
        let seconds = start.elapsed().as_secs_f64();
        let cpu_seconds = own_cpu_seconds()? - cpu_start;
        let usage = fs.store().usage();
        let round = Round {
            mib_per_second: (plan.size_bytes >> 20) as f64 / seconds,
            cpu_seconds,
            volume_bytes: volume.device.sectors() * SECTOR,
            free_bytes: usage.free * SECTOR,
        };
        eprintln!("round {}: {:.0} MiB/s", number + 1, round.mib_per_second);
        rounds.push(round);
    }

    for (i, ino) in (0..).zip(files) {
        fs.release(ino, None);
        fs.forget(ino, 1);
        fs.unlink(Fs::ROOT, &name(i))?;
    }
    let store = fs.store().clone();
    store.reclaim()?;
    store.checkpoint()?;
    let used_after_bytes = used_bytes(&store);
    store.close()?;
    Ok(Outcome { rounds, used_before_bytes, used_after_bytes })
}

/// What data and index take. The store also counts as used what each region of a volume keeps from data: its
/// header, except the first's, and the reserve for index nodes.
fn used_bytes(store: &Store) -> u64 {
    let info = store.info();
    let regions = info.volume_sectors.div_ceil(REGION_SECTORS);
    let kept = regions * REGION_NODE_SECTORS + (regions - 1) * REGION_HEADER_SECTORS;
    info.used_sectors.saturating_sub(kept) * SECTOR
}

fn name(i: u64) -> Vec<u8> {
    format!("file-{i:04}").into_bytes()
}

/// Makes a file and leaves it open.
fn fill(fs: &Fs, name: &[u8], contents: &[u8]) -> Result<Ino> {
    let ino = fs.create(&Caller::default(), Fs::ROOT, name, 0o644)?.ino;
    for offset in (0..FILE_BYTES).step_by(LONG_BYTES as usize) {
        fs.write(ino, offset, &contents[..LONG_BYTES as usize], WriteFlags::default())?;
    }
    Ok(ino)
}

/// Half of the bytes in short writes, half in long ones, in a random order.
fn overwrite(fs: &Fs, files: &[Ino], contents: &[u8], bytes: u64, random: &mut StdRng) -> Result<()> {
    let mut short = bytes / 2 / SECTOR;
    let mut long = bytes / 2 / LONG_BYTES;
    while short + long > 0 {
        let is_short = random.random_range(0..short + long) < short;
        let left = if is_short { &mut short } else { &mut long };
        *left -= 1;
        let length = if is_short { SECTOR } else { LONG_BYTES };
        let ino = files[random.random_range(0..files.len())];
        let offset = random.random_range(0..=(FILE_BYTES - length) / SECTOR) * SECTOR;
        let from = random.random_range(0..LONG_BYTES as usize);
        fs.write(ino, offset, &contents[from..from + length as usize], WriteFlags::default())?;
    }
    Ok(())
}

/// Of this process, so far.
fn own_cpu_seconds() -> Result<f64> {
    cpu_seconds(std::process::id(), Whose::Own)
}

fn table(fixed: &Outcome, growing: &Outcome) -> String {
    let mut text = String::from(
        "| round | fixed: MiB/s | CPU s | volume MiB | free MiB | growing: MiB/s | CPU s | volume MiB |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for (i, (a, b)) in fixed.rounds.iter().zip(&growing.rounds).enumerate() {
        text += &format!(
            "| {} | {:.0} | {:.1} | {} | {} | {:.0} | {:.1} | {} |\n",
            i + 1,
            a.mib_per_second,
            a.cpu_seconds,
            a.volume_bytes >> 20,
            a.free_bytes >> 20,
            b.mib_per_second,
            b.cpu_seconds,
            b.volume_bytes >> 20,
        );
    }
    let ratio = |outcome: &Outcome, of: fn(&Round) -> f64| match outcome.rounds.as_slice() {
        [first, .., last] => of(last) / of(first),
        _ => 1.0,
    };
    type Figure = fn(&Round) -> f64;
    let (speed, cpu): (Figure, Figure) = (|round| round.mib_per_second, |round| round.cpu_seconds);
    text += &format!(
        "| last/first | {:.2} | {:.2} | | | {:.2} | {:.2} | |\n",
        ratio(fixed, speed),
        ratio(fixed, cpu),
        ratio(growing, speed),
        ratio(growing, cpu),
    );
    for (name, outcome) in [("fixed", fixed), ("growing", growing)] {
        text += &format!(
            "\nIn use by the {name} store, beyond its regions' reserve, before the first file {} KiB, after all are deleted {} KiB.\n",
            outcome.used_before_bytes >> 10,
            outcome.used_after_bytes >> 10,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small store, twice: once it may not grow beyond its size, once far beyond.
    #[test]
    fn space_is_used_again() {
        let size_bytes = 128 << 20;
        let scratch = Scratch::new(&std::env::temp_dir(), "ageing test").unwrap();
        let plan = Plan { size_bytes, rounds: 4, background: false };
        for (name, limit) in [("fixed", size_bytes), ("growing", 16 << 30)] {
            let outcome = age(create_volume(&scratch.join(name), Some(limit)).unwrap(), &plan).unwrap();
            let lengths: Vec<u64> = outcome.rounds.iter().map(|round| round.volume_bytes).collect();
            assert!(lengths.iter().all(|&length| length <= 4 * size_bytes), "{name}: {lengths:?}");
            assert_eq!(lengths[2], lengths[3], "{name}: the volume goes on growing");
            assert_eq!(outcome.rounds.len(), 4);
            let kept = outcome.used_after_bytes.abs_diff(outcome.used_before_bytes);
            assert!(kept <= 256 << 10, "{name}: {kept} bytes are lost");
        }
    }
}
