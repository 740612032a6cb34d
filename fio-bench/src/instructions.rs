//! `instructions`: how many instructions the hot paths take, which a busy machine does not change.
//!
//! Each operation is run in a child under callgrind twice, with a different count; the difference, divided, is what one
//! takes, without what it took to prepare. `instructions.json` holds what they took when that was last accepted.
//!
//! Invariants:
//! 1. Everything is in memory, without threads in the background, and from fixed inputs; only keys and nonces are
//!    random, as the engine wants them.
//! 2. valgrind shows a program fewer processor features than there are (AVX2, no AVX-512), so that counts are those of
//!    the same code on every machine that has AVX2.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use blocktree_engine::crypto::{
    ExtentKey, KdfCost, Principal, Rights, Secret, hash, hash_sectors, open_sectors, seal_sectors,
};
use blocktree_engine::device::MemoryDevice;
use blocktree_engine::format::{BlockId, ItemKind};
use blocktree_engine::{Block, CreateOptions, Credential, Grant, OpenOptions, Store};
use blocktree_vfs::{Caller, Fs, MountOptions, WriteFlags};
use clap::Args;
use serde::{Deserialize, Serialize};
use xtask::command::{output, root};

use crate::packages;
use crate::process::run as run_limited;
use crate::results::number;

/// What this program is called with to be a child.
pub(crate) const CHILD: &str = "instructions-child";
/// A count may be this much above the accepted one.
const TOLERANCE_PERCENT: f64 = 5.0;
const LIMIT: std::time::Duration = std::time::Duration::from_secs(600);
const SECTOR: usize = 4096;
const STORE_SECTORS: u64 = 16 << 10;
const PASSPHRASE: &[u8] = b"benchmark";
const KIND: ItemKind = ItemKind::FIRST_FREE;
/// Items in the index, in order, when it is looked into.
const ITEMS: u64 = 20_000;
/// Records that a recovery goes through.
const RECORDS: u64 = 100;

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Take what is counted now for right from now on
    #[arg(long)]
    accept: bool,
    /// Only operations whose names contain this
    #[arg(long)]
    only: Option<String>,
}

/// An operation, how often it is run at least, and what runs it that often.
struct Operation {
    name: &'static str,
    count: u64,
    run: fn(u64) -> Result<()>,
}

const OPERATIONS: &[Operation] = &[
    Operation { name: "seal a sector", count: 200, run: |count| seal(count, 1) },
    Operation { name: "seal 32 sectors", count: 20, run: |count| seal(count, 32) },
    Operation { name: "open a sector", count: 200, run: |count| open(count, 1) },
    Operation { name: "open 32 sectors", count: 20, run: |count| open(count, 32) },
    Operation { name: "hash a sector", count: 200, run: hash_one },
    Operation { name: "hash 32 sectors", count: 20, run: hash_many },
    Operation { name: "look up an item", count: 2000, run: look_up },
    Operation { name: "insert an item", count: 2000, run: insert },
    Operation { name: "append a record", count: 100, run: append },
    Operation { name: "read a sector of a block", count: 500, run: read_sector },
    Operation { name: "write a sector of a block, and sync", count: 100, run: write_sector },
    Operation { name: "recover 100 records", count: 4, run: recover },
    Operation { name: "look up a name", count: 1000, run: look_up_name },
    Operation { name: "create a file", count: 500, run: create_file },
    Operation { name: "read 4 KiB of a file", count: 500, run: read_file },
    Operation { name: "write 4 KiB of a file", count: 500, run: write_file },
    Operation { name: OWNERS_WORK, count: 200, run: |count| work(&tree()?, count) },
    Operation { name: NODES_WORK, count: 200, run: |count| work(&tree_of(Who::Node)?, count) },
    Operation { name: WRITERS_WORK, count: 200, run: |count| work(&tree_of(Who::Writer)?, count) },
];

/// The same work on files, whoever does it.
const OWNERS_WORK: &str = "make, write, read and remove a file, as the owner";
const NODES_WORK: &str = "make, write, read and remove a file, with a right for the store";
const WRITERS_WORK: &str = "make, write, read and remove a file, with a right for its directory";
/// What it may cost that a node does it by a right for the store, in percent. Who has one for a directory judges all that it does
/// itself first, and pays for that.
const RIGHT_PERCENT_MAX: f64 = 3.0;

/// What was accepted, and with which compiler.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Accepted {
    compiler: String,
    instructions: BTreeMap<String, u64>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(!cfg!(debug_assertions), "only a release build says something: cargo run --release");
    packages::install(&["valgrind"])?;
    let wanted =
        |operation: &&Operation| options.only.as_ref().is_none_or(|only| operation.name.contains(only));
    let mut accepted = read()?;
    let compiler = output(Command::new("rustc").arg("--version"))?.trim().to_owned();
    if accepted.compiler != compiler && !options.accept {
        eprintln!("accepted with {}; this is {compiler}", accepted.compiler);
    }
    println!("| operation | instructions | accepted | change |\n| --- | ---: | ---: | ---: |");
    let (mut worse, mut counts) = (Vec::new(), BTreeMap::new());
    for operation in OPERATIONS.iter().filter(wanted) {
        let count = measure(operation).with_context(|| operation.name)?;
        let before = accepted.instructions.get(operation.name).copied();
        let change = before.map(|before| percent(before, count));
        let shown = change.map_or("–".into(), |change| format!("{change:+.1} %"));
        println!(
            "| {} | {count} | {} | {shown} |",
            operation.name,
            before.map_or("–".into(), |n| n.to_string())
        );
        if change.is_some_and(|change| change > TOLERANCE_PERCENT) {
            worse.push(format!("{}: {} % more", operation.name, number(change.unwrap_or(0.0))));
        }
        accepted.instructions.insert(operation.name.to_owned(), count);
        counts.insert(operation.name, count);
    }
    for name in [NODES_WORK, WRITERS_WORK] {
        let Some((owners, theirs)) = counts.get(OWNERS_WORK).zip(counts.get(name)) else { continue };
        let more = percent(*owners, *theirs);
        println!("\n{name}: {more:+.2} %");
        if name == NODES_WORK && more > RIGHT_PERCENT_MAX {
            worse.push(format!("{name}: {} % more than as the owner", number(more)));
        }
    }
    if options.accept {
        accepted.compiler = compiler;
        accepted.instructions.retain(|name, _| OPERATIONS.iter().any(|operation| operation.name == name));
        return Ok(fs::write(file(), serde_json::to_string_pretty(&accepted)? + "\n")?);
    }
    ensure!(worse.is_empty(), "more instructions than accepted:\n{}", worse.join("\n"));
    Ok(())
}

fn percent(before: u64, now: u64) -> f64 {
    (now as f64 / before as f64 - 1.0) * 100.0
}

fn file() -> PathBuf {
    root().join("fio-bench/instructions.json")
}

fn read() -> Result<Accepted> {
    match fs::read_to_string(file()) {
        Ok(text) => Ok(serde_json::from_str(&text).context("instructions.json is malformed")?),
        Err(_) => Ok(Accepted::default()),
    }
}

/// Instructions of one operation.
fn measure(operation: &Operation) -> Result<u64> {
    let (few, many) = (operation.count, 3 * operation.count);
    let (least, most) = (count_all(operation.name, few)?, count_all(operation.name, many)?);
    Ok(most.saturating_sub(least) / (many - few))
}

/// Instructions of a child, from start to end.
fn count_all(name: &str, count: u64) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1"]);
    command.arg(std::env::current_exe()?).args([CHILD, name, &count.to_string()]);
    // Several threads would spin, and be counted.
    command.env("RAYON_NUM_THREADS", "1");
    collected(&run_limited(&mut command, LIMIT, None)?.text)
}

fn collected(text: &str) -> Result<u64> {
    let number = text.lines().find_map(|line| line.split_once("Collected :").map(|(_, number)| number));
    number.context("callgrind printed no count")?.trim().parse().context("callgrind printed no number")
}

/// What a child does.
pub(crate) fn child(name: &str, count: u64) -> Result<()> {
    let Some(operation) = OPERATIONS.iter().find(|operation| operation.name == name) else {
        bail!("no such operation: {name}");
    };
    (operation.run)(count)
}

fn key() -> ExtentKey {
    ExtentKey::derive(&Secret::new([7; 32]), &[1; 16])
}

fn contents(sectors: usize) -> Vec<u8> {
    (0..sectors * SECTOR).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

fn seal(count: u64, sectors: usize) -> Result<()> {
    let (key, mut bytes) = (key(), contents(sectors));
    for _ in 0..count {
        seal_sectors(&key, 0, std::hint::black_box(&mut bytes));
    }
    Ok(())
}

fn open(count: u64, sectors: usize) -> Result<()> {
    let (key, mut bytes) = (key(), contents(sectors));
    for _ in 0..count {
        open_sectors(&key, 0, std::hint::black_box(&mut bytes));
    }
    Ok(())
}

fn hash_one(count: u64) -> Result<()> {
    let bytes = contents(1);
    for _ in 0..count {
        std::hint::black_box(hash(std::hint::black_box(&bytes)));
    }
    Ok(())
}

fn hash_many(count: u64) -> Result<()> {
    let bytes = contents(32);
    for _ in 0..count {
        std::hint::black_box(hash_sectors(std::hint::black_box(&bytes)));
    }
    Ok(())
}

fn options() -> OpenOptions {
    OpenOptions { background: false, ..OpenOptions::default() }
}

fn empty_store() -> Result<(Arc<MemoryDevice>, Store)> {
    let device = Arc::new(MemoryDevice::new(STORE_SECTORS));
    let create = CreateOptions { capacity_sectors: STORE_SECTORS, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options())?;
    Ok((device, store))
}

/// A store in memory with one block.
fn store() -> Result<(Arc<MemoryDevice>, Store, Block)> {
    let (device, store) = empty_store()?;
    let mut transaction = store.transaction();
    let block = transaction.create(b"attributes");
    store.sync(transaction.apply()?)?;
    Ok((device, store, block))
}

fn put(store: &Store, block: &Block, offset: u64) -> Result<blocktree_engine::Seq> {
    let mut transaction = store.transaction();
    transaction.put(block, KIND, offset, b"a clear part", b"and a secret part of some more bytes");
    Ok(transaction.apply()?)
}

/// A store whose index is on the device, in several levels.
fn full_store() -> Result<(Store, Block)> {
    let (_, store, block) = store()?;
    for first in (0..ITEMS).step_by(1000) {
        let mut transaction = store.transaction();
        for offset in first..first + 1000 {
            transaction.put(&block, KIND, offset, b"a clear part", b"and a secret part of some more bytes");
        }
        store.sync(transaction.apply()?)?;
    }
    store.checkpoint()?;
    Ok((store, block))
}

fn look_up(count: u64) -> Result<()> {
    let (store, block) = full_store()?;
    for i in 0..count {
        // Everywhere in turn.
        let item = store.get(&block, KIND, i.wrapping_mul(7919) % ITEMS)?;
        ensure!(item.is_some(), "an item is missing");
    }
    Ok(())
}

fn insert(count: u64) -> Result<()> {
    let (store, block) = full_store()?;
    for i in 0..count {
        put(&store, &block, ITEMS + i)?;
    }
    Ok(())
}

fn append(count: u64) -> Result<()> {
    let (_, store, block) = store()?;
    for i in 0..count {
        store.sync(put(&store, &block, i)?)?;
    }
    Ok(())
}

fn write_at(store: &Store, block: &Block, sector: u64, bytes: &[u8]) -> Result<()> {
    let mut transaction = store.transaction();
    transaction.write(block, sector * SECTOR as u64, bytes)?;
    Ok(store.sync(transaction.apply()?)?)
}

fn read_sector(count: u64) -> Result<()> {
    let (_, store, block) = store()?;
    let (sectors, mut bytes) = (512, vec![0; SECTOR]);
    write_at(&store, &block, 0, &contents(sectors as usize))?;
    for i in 0..count {
        store.read(&block, i.wrapping_mul(7919) % sectors * SECTOR as u64, &mut bytes)?;
    }
    Ok(())
}

fn write_sector(count: u64) -> Result<()> {
    let (_, store, block) = store()?;
    let bytes = contents(1);
    for i in 0..count {
        write_at(&store, &block, i.wrapping_mul(7919) % 512, &bytes)?;
    }
    Ok(())
}

fn recover(count: u64) -> Result<()> {
    let (device, store, block) = store()?;
    for i in 0..RECORDS {
        store.sync(put(&store, &block, i)?)?;
    }
    let image = device.snapshot();
    for _ in 0..count {
        let device = Arc::new(MemoryDevice::from_bytes(image.clone()));
        let store = Store::open(device, PASSPHRASE, &options())?;
        ensure!(store.get(&block, KIND, RECORDS - 1)?.is_some(), "a record was not recovered");
    }
    Ok(())
}

/// A tree in memory.
fn tree() -> Result<Fs> {
    Ok(Fs::mount(formatted()?.1, MountOptions::default())?)
}

fn formatted() -> Result<(Arc<MemoryDevice>, Store)> {
    let (device, store) = empty_store()?;
    Fs::format(&store, 0, 0)?;
    Ok((device, store))
}

/// Who has a right, and no passphrase.
enum Who {
    /// For the whole store.
    Node,
    /// For one directory, which is all that the mount shows.
    Writer,
}

/// A tree in memory, as somebody sees it that has a right.
fn tree_of(who: Who) -> Result<Fs> {
    let (device, store) = formatted()?;
    let fs = Fs::mount(store.clone(), MountOptions::default())?;
    let shared = fs.mkdir(&Caller::default(), Fs::ROOT, b"shared", 0o777)?.ino;
    fs.unmount()?;
    let holder = Principal::generate();
    let subject = holder.public();
    let block = match who {
        Who::Node => BlockId::from(Fs::ROOT),
        Who::Writer => BlockId::from(shared),
    };
    let rights = Rights(Rights::READ.0 | Rights::WRITE.0);
    store.issue_writecap(None, &Grant { subject, block, rights, not_before: 0, expires: u64::MAX })?;
    store.grant_access(&subject, matches!(who, Who::Node))?;
    if let Who::Writer = who {
        let block = store.block(block)?.context("the directory is there")?;
        store.share(&block, &subject, u64::MAX, true)?;
    }
    store.close()?;
    let store = Store::open_as(device, &Credential::Principal { holder: &holder, root: None }, &options())?;
    Ok(Fs::mount(store, MountOptions::default())?)
}

/// Work on files below the root of a mount, made durable as often as programs do.
fn work(fs: &Fs, count: u64) -> Result<()> {
    let mut bytes = contents(1);
    for i in 0..count {
        let name = |i: u64| format!("file-{i:06}").into_bytes();
        let ino = fs.create(&Caller::default(), Fs::ROOT, &name(i), 0o644)?.ino;
        fs.write(ino, 0, &bytes, WriteFlags::default())?;
        if i % 4 == 3 {
            fs.fsync(ino, false)?;
        }
        ensure!(fs.read(ino, 0, &mut bytes)? == SECTOR, "the file is too short");
        fs.release(ino, None);
        fs.forget(ino, 1);
        if i >= 16 {
            fs.unlink(Fs::ROOT, &name(i - 16))?;
        }
    }
    Ok(())
}

fn create_files(fs: &Fs, count: u64) -> Result<()> {
    for i in 0..count {
        let ino = fs.create(&Caller::default(), Fs::ROOT, format!("file-{i:06}").as_bytes(), 0o644)?.ino;
        fs.release(ino, None);
        fs.forget(ino, 1);
    }
    Ok(())
}

fn create_file(count: u64) -> Result<()> {
    create_files(&tree()?, count)
}

fn look_up_name(count: u64) -> Result<()> {
    let fs = tree()?;
    create_files(&fs, 1000)?;
    fs.syncfs()?;
    fs.store().checkpoint()?;
    for i in 0..count {
        let name = format!("file-{:06}", i.wrapping_mul(7919) % 1000);
        let ino = fs.lookup(Fs::ROOT, name.as_bytes())?.ino;
        fs.forget(ino, 1);
    }
    Ok(())
}

fn large_file(fs: &Fs) -> Result<blocktree_vfs::Ino> {
    let ino = fs.create(&Caller::default(), Fs::ROOT, b"file", 0o644)?.ino;
    fs.write(ino, 0, &contents(512), WriteFlags::default())?;
    fs.syncfs()?;
    Ok(ino)
}

fn read_file(count: u64) -> Result<()> {
    let fs = tree()?;
    let (ino, mut bytes) = (large_file(&fs)?, vec![0; SECTOR]);
    for i in 0..count {
        fs.read(ino, i.wrapping_mul(7919) % 512 * SECTOR as u64, &mut bytes)?;
    }
    Ok(())
}

fn write_file(count: u64) -> Result<()> {
    let fs = tree()?;
    let (ino, bytes) = (large_file(&fs)?, contents(1));
    for i in 0..count {
        fs.write(ino, i.wrapping_mul(7919) % 512 * SECTOR as u64, &bytes, WriteFlags::default())?;
        // As often as the kernel has its pages written back.
        if i % 64 == 63 {
            fs.syncfs()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_run_and_have_names_of_their_own() {
        for (i, operation) in OPERATIONS.iter().enumerate() {
            assert!(OPERATIONS[..i].iter().all(|other| other.name != operation.name));
            child(operation.name, 2).unwrap_or_else(|error| panic!("{}: {error:#}", operation.name));
        }
        assert!(child("nothing", 1).is_err());
    }

    #[test]
    fn counts_are_read_and_compared() {
        let text = "==1== Events    : Ir\n==1== Collected : 123456\n";
        assert_eq!(collected(text).unwrap(), 123_456);
        assert!(collected("==1== nothing").is_err());
        assert!((percent(100, 106) - 6.0).abs() < 1e-9 && percent(100, 90) < 0.0);
    }
}
