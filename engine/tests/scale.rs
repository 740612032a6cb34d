//! What must not grow with what a store holds, or with how often it was overwritten. Counted, not timed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blocktree_engine::crypto::KdfCost;
use blocktree_engine::device::{Completion, Device, MemoryDevice, Pending, Read, Write};
use blocktree_engine::limits::{
    BATCH_WEIGHT_MAX, DIRTY_SECTOR_WEIGHT, IN_FLIGHT_BYTES_MAX, LOG_SECTORS_MAX, RECORD_SECTORS_MAX,
    WRITING_BATCHES_MAX,
};
use blocktree_engine::{Block, CreateOptions, OpenOptions, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SECTOR: usize = 4096;
const PASSPHRASE: &[u8] = b"passphrase";

/// Memory that counts what is read from it.
struct CountingDevice {
    memory: MemoryDevice,
    sectors: AtomicU64,
    calls: AtomicU64,
}

impl CountingDevice {
    fn new(memory: MemoryDevice) -> Self {
        Self { memory, sectors: AtomicU64::new(0), calls: AtomicU64::new(0) }
    }
}

impl Device for CountingDevice {
    fn sectors(&self) -> u64 {
        self.memory.sectors()
    }
    fn read(&self, reads: &mut [Read<'_>]) -> io::Result<()> {
        let sectors = reads.iter().map(|read| read.bytes.sectors() as u64).sum();
        self.sectors.fetch_add(sectors, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.memory.read(reads)
    }
    fn write(&self, writes: Vec<Write>) -> Completion {
        self.memory.write(writes)
    }
    fn flush(&self) -> io::Result<()> {
        self.memory.flush()
    }
    fn grow(&self, sectors: u64) -> io::Result<()> {
        self.memory.grow(sectors)
    }
}

/// Memory whose writes end when somebody waits for them, and not before: the slowest disk there is.
struct SlowDevice {
    memory: MemoryDevice,
    in_flight: Arc<InFlight>,
}

#[derive(Default)]
struct InFlight {
    bytes: AtomicU64,
    most: AtomicU64,
}

struct SlowWrite {
    in_flight: Arc<InFlight>,
    bytes: AtomicU64,
}

impl Pending for SlowWrite {
    fn wait(&self) -> io::Result<()> {
        self.in_flight.bytes.fetch_sub(self.bytes.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        Ok(())
    }
    fn is_done(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) == 0
    }
}

impl Device for SlowDevice {
    fn sectors(&self) -> u64 {
        self.memory.sectors()
    }
    fn read(&self, reads: &mut [Read<'_>]) -> io::Result<()> {
        self.memory.read(reads)
    }
    fn write(&self, writes: Vec<Write>) -> Completion {
        let bytes = writes.iter().map(|write| (write.bytes.sectors() * SECTOR) as u64).sum();
        let now = self.in_flight.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.in_flight.most.fetch_max(now, Ordering::Relaxed);
        // What is read back before it is complete is read from memory: all of it is there.
        if let Err(error) = self.memory.write(writes).wait() {
            return Completion::done(Err(error));
        }
        Completion::pending(Arc::new(SlowWrite { in_flight: self.in_flight.clone(), bytes: bytes.into() }))
    }
    fn flush(&self) -> io::Result<()> {
        self.memory.flush()
    }
    fn grow(&self, sectors: u64) -> io::Result<()> {
        self.memory.grow(sectors)
    }
}

fn options() -> OpenOptions {
    OpenOptions { background: false, memtable_bytes: 2 << 20, ..OpenOptions::default() }
}

fn create(device: Arc<MemoryDevice>, capacity_sectors: u64) -> Store {
    let create = CreateOptions { capacity_sectors, kdf: KdfCost::TRIVIAL };
    Store::create_with(device, PASSPHRASE, &create, &options()).unwrap()
}

/// Opens a copy of what is on the device, as after a crash; returns the sectors and calls that it took to read.
fn open_after_crash(device: &MemoryDevice) -> (Store, u64, u64) {
    let counting = Arc::new(CountingDevice::new(MemoryDevice::from_bytes(device.snapshot())));
    let store = Store::open(counting.clone(), PASSPHRASE, &options()).unwrap();
    (store, counting.sectors.load(Ordering::Relaxed), counting.calls.load(Ordering::Relaxed))
}

/// A transaction for every hundred blocks, and a checkpoint once the log is half full, as in the background.
fn create_blocks(store: &Store, count: u64) {
    for _ in 0..count / 100 {
        let mut transaction = store.transaction();
        for _ in 0..100 {
            transaction.create(&[7; 64]);
        }
        let seq = transaction.apply().unwrap();
        store.sync(seq).unwrap();
        let info = store.info();
        if info.log_used_sectors * 2 > info.log_sectors {
            store.checkpoint().unwrap();
        }
    }
}

#[test]
fn opening_after_a_crash_does_not_read_more_of_a_larger_store() {
    let device = Arc::new(MemoryDevice::new(128 * 256));
    let store = create(device.clone(), 128 * 256);
    for blocks in [5_000, 20_000, 40_000] {
        create_blocks(&store, blocks);
        let written = store.info();
        let (opened, sectors, _) = open_after_crash(&device);
        let replayed = opened.info();
        // An empty record attests the others.
        assert_eq!(replayed.log_used_sectors, written.log_used_sectors + 1);
        assert!(replayed.log_used_sectors <= replayed.log_sectors / 2 + RECORD_SECTORS_MAX);
        // The log twice, what stands behind it, and a little: key slots, superblocks, space table.
        let bound = 2 * replayed.log_used_sectors + 2 * RECORD_SECTORS_MAX + 1024;
        assert!(sectors <= bound, "{sectors} sectors read, {} of log", replayed.log_used_sectors);
        assert!(opened.block(Store::ROOT + blocks - 1).unwrap().is_some());
    }
    const { assert!(LOG_SECTORS_MAX * SECTOR as u64 <= 64 << 20) };
}

#[test]
fn the_tail_of_the_log_is_checked_in_few_reads() {
    let device = Arc::new(MemoryDevice::new(64 * 256));
    let store = create(device.clone(), 64 * 256);
    let mut transaction = store.transaction();
    let blocks: Vec<Block> = (0..1000).map(|_| transaction.create(b"small")).collect();
    transaction.apply().unwrap();
    for block in &blocks {
        let mut transaction = store.transaction();
        transaction.write(block, 0, &[1; 100]).unwrap();
        transaction.apply().unwrap();
    }
    store.sync(store.newest()).unwrap();
    let (opened, sectors, calls) = open_after_crash(&device);
    assert!(sectors >= 1000, "the data of the last record is checked");
    assert!(calls <= 200, "{calls} reads");
    let block = opened.block(Store::ROOT + 999).unwrap().unwrap();
    let mut bytes = [0; 100];
    opened.read(&block, 0, &mut bytes).unwrap();
    assert_eq!(bytes, [1; 100]);
}

#[test]
fn a_store_that_is_overwritten_neither_grows_nor_loses_space() {
    const MIB: u64 = 48;
    let device = Arc::new(MemoryDevice::new(MIB * 256));
    let store = create(device.clone(), 64 * 1024);
    let mut transaction = store.transaction();
    transaction.create(b"root");
    transaction.apply().unwrap();
    store.checkpoint().unwrap();
    let before = store.usage();

    let mut transaction = store.transaction();
    let blocks: Vec<Block> = (0..6).map(|_| transaction.create(b"file")).collect();
    transaction.apply().unwrap();
    let mut random = StdRng::seed_from_u64(3);
    let bytes: Vec<u8> = (0..128 << 10).map(|_| random.random()).collect();
    let mut lengths = Vec::new();
    for _ in 0..6 {
        let mut written = 0;
        while written < 24 << 20 {
            let length = if random.random_bool(0.9) { SECTOR } else { bytes.len() };
            let block = &blocks[random.random_range(0..blocks.len())];
            let offset = random.random_range(0..512) * SECTOR as u64;
            let mut transaction = store.transaction();
            transaction.write(block, offset, &bytes[..length]).unwrap();
            transaction.apply().unwrap();
            written += length;
        }
        store.checkpoint().unwrap();
        lengths.push(store.info().volume_sectors);
    }
    assert_eq!(lengths[1..], [lengths[1]; 5], "the volume goes on growing");

    for block in &blocks {
        let mut transaction = store.transaction();
        transaction.destroy(block);
        transaction.apply().unwrap();
    }
    drop(blocks);
    store.reclaim().unwrap();
    store.checkpoint().unwrap();
    // A checkpoint is needed for what the one before replaced.
    store.checkpoint().unwrap();
    let used = store.usage().used.abs_diff(before.used);
    assert!(used <= 64, "{used} sectors are lost");
}

#[test]
fn going_through_a_fragmented_block_costs_as_much_as_it_has_pieces() {
    const PIECES: u64 = 8192;
    let device = Arc::new(MemoryDevice::new(128 * 256));
    let store = create(device, 128 * 256);
    let mut transaction = store.transaction();
    let block = transaction.create(b"fragmented");
    transaction.apply().unwrap();
    // Neighbours on the device lie apart in the block, so that none are one extent.
    for piece in 0..PIECES {
        let mut transaction = store.transaction();
        transaction.write(&block, 2 * piece * SECTOR as u64, &[7; SECTOR]).unwrap();
        transaction.apply().unwrap();
    }
    store.checkpoint().unwrap();
    let end = 2 * PIECES * SECTOR as u64;
    let before = store.info().nodes_asked;
    let (mut at, mut answers) = (0, 0);
    while let Some(data) = store.seek(&block, at, end, false).unwrap() {
        assert_eq!(data, at + if answers == 0 { 0 } else { SECTOR as u64 });
        at = store.seek(&block, data, end, true).unwrap().unwrap();
        assert_eq!(at, data + SECTOR as u64);
        answers += 2;
    }
    assert_eq!(answers, 2 * PIECES);
    let asked = store.info().nodes_asked - before;
    assert!(asked <= 6 * answers, "{asked} nodes for {answers} answers");
}

#[test]
fn a_writer_that_is_faster_than_the_disk_waits_for_it() {
    const MIB: usize = 1 << 20;
    let batch = BATCH_WEIGHT_MAX / DIRTY_SECTOR_WEIGHT * SECTOR;
    // Long writes go to the device at once, short ones with their batch.
    for (bytes, writes, most) in
        [(MIB, 300, IN_FLIGHT_BYTES_MAX + 8 * MIB), (SECTOR, 60_000, WRITING_BATCHES_MAX * (batch + 2 * MIB))]
    {
        for background in [false, true] {
            let in_flight = Arc::new(InFlight::default());
            let memory = MemoryDevice::new(256 * 256);
            let device = Arc::new(SlowDevice { memory, in_flight: in_flight.clone() });
            let create = CreateOptions { capacity_sectors: 256 * 256, kdf: KdfCost::TRIVIAL };
            let options = OpenOptions { background, ..options() };
            let store = Store::create_with(device, PASSPHRASE, &create, &options).unwrap();
            let mut transaction = store.transaction();
            let block = transaction.create(b"file");
            transaction.apply().unwrap();
            let contents = vec![7; bytes];
            for number in 0..writes {
                let mut transaction = store.transaction();
                transaction.write(&block, (number * bytes % (64 * MIB)) as u64, &contents).unwrap();
                transaction.apply().unwrap();
            }
            let seen = in_flight.most.load(Ordering::Relaxed) as usize;
            println!("{bytes} bytes at a time: {} MiB in flight at most", seen / MIB);
            assert!(seen <= most, "{seen} bytes are in flight, of writes of {bytes}");
            store.close().unwrap();
        }
    }
}
