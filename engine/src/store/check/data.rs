//! Reads extents and compares their hashes: several batches at once, each in the order of sectors.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::crypto::{Hash, hash_units};
use crate::device::{Device, Read, SectorBuf};
use crate::format::{BlockId, Extent};
use crate::limits::SECTOR_BYTES;

/// As many threads as cores take part in hashing on small machines; more would only compete for the device.
const THREADS: usize = 2;
/// Sectors to a batch: 8 MiB, and to one read: 1 MiB.
const BATCH_SECTORS: u64 = 2048;
const READ_SECTORS: u64 = 256;

/// An extent to be verified, and whose it is.
pub(in crate::store) struct Job {
    pub(super) block: BlockId,
    /// Where in the block it starts, in sectors.
    pub(super) start: u64,
    pub(super) sector: u64,
    /// Sectors to a hash.
    unit: u64,
    pub(super) hashes: Vec<Hash>,
    /// The snapshot that it belongs to, if not to the newest tree.
    pub(super) snapshot: Option<Arc<str>>,
}

impl Job {
    pub(in crate::store) fn new(
        block: BlockId,
        start: u64,
        extent: Extent,
        snapshot: Option<Arc<str>>,
    ) -> Self {
        let (sector, unit) = (extent.sector(), extent.unit());
        Self { block, start, sector, unit, hashes: extent.hashes, snapshot }
    }

    /// One past its last sector.
    pub(in crate::store) fn end(&self) -> Option<u64> {
        self.sector.checked_add(self.sectors())
    }

    fn sectors(&self) -> u64 {
        self.hashes.len() as u64 * self.unit
    }
}

/// Sectors of a block that are not what was written.
pub(in crate::store) struct Damage {
    pub(in crate::store) block: BlockId,
    pub(in crate::store) start: u64,
    pub(super) sector: u64,
    pub(in crate::store) sectors: u64,
    pub(super) unreadable: bool,
    pub(super) snapshot: Option<Arc<str>>,
}

/// The threads that verify.
pub(super) struct Verifier {
    jobs: Vec<Job>,
    gathered: u64,
    batches: Option<SyncSender<Vec<Job>>>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    done: AtomicU64,
    damage: Mutex<Vec<Damage>>,
}

impl Verifier {
    pub(super) fn start(device: &Arc<dyn Device>) -> Self {
        let (batches, queue) = sync_channel(1);
        let queue = Arc::new(Mutex::new(queue));
        let shared = Arc::new(Shared::default());
        let threads = (0..THREADS).map(|_| {
            let (device, queue, shared) = (device.clone(), queue.clone(), shared.clone());
            std::thread::spawn(move || work(&*device, &queue, &shared))
        });
        let threads = threads.collect();
        Self { jobs: Vec::new(), gathered: 0, batches: Some(batches), threads, shared }
    }

    /// Sectors verified so far.
    pub(super) fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Has an extent verified, which must be inside the device. Returns whether a batch went on its way.
    pub(super) fn push(&mut self, job: Job) -> bool {
        self.gathered += job.sectors();
        self.jobs.push(job);
        let full = self.gathered >= BATCH_SECTORS;
        if full {
            self.send();
        }
        full
    }

    fn send(&mut self) {
        self.gathered = 0;
        let jobs = std::mem::take(&mut self.jobs);
        if let Some(batches) = &self.batches {
            // The threads outlive the channel.
            let _ = batches.send(jobs);
        }
    }

    /// Waits for everything; returns what is damaged, in the order of blocks.
    pub(super) fn finish(&mut self) -> Vec<Damage> {
        self.send();
        self.batches = None;
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        let mut damage = std::mem::take(&mut *self.shared.damage.lock());
        damage.sort_by(|a, b| (a.block, a.start, &a.snapshot).cmp(&(b.block, b.start, &b.snapshot)));
        damage
    }
}

fn work(device: &dyn Device, queue: &Mutex<Receiver<Vec<Job>>>, shared: &Shared) {
    loop {
        let next = queue.lock().recv();
        let Ok(jobs) = next else { return };
        verify_sorted(device, jobs, shared);
    }
}

/// Verifies extents here and now; all must be inside the device.
pub(in crate::store) fn find_damage(device: &dyn Device, jobs: Vec<Job>) -> Vec<Damage> {
    let shared = Shared::default();
    verify_sorted(device, jobs, &shared);
    shared.damage.into_inner()
}

fn verify_sorted(device: &dyn Device, mut jobs: Vec<Job>, shared: &Shared) {
    jobs.sort_unstable_by_key(|job| job.sector);
    let (mut first, mut sectors) = (0, 0);
    for index in 0..jobs.len() {
        sectors += jobs[index].sectors();
        if sectors >= 4 * READ_SECTORS || index + 1 == jobs.len() {
            verify(device, &jobs[first..=index], shared);
            (first, sectors) = (index + 1, 0);
        }
    }
}

/// Verifies a few jobs with reads that are in flight together.
fn verify(device: &dyn Device, jobs: &[Job], shared: &Shared) {
    // Neighbours on the device share a read.
    let mut groups: Vec<(&[Job], SectorBuf)> = Vec::new();
    let mut first = 0;
    for index in 0..jobs.len() {
        let start = jobs[first].sector;
        let end = jobs[index].sector + jobs[index].sectors();
        let ends = jobs
            .get(index + 1)
            .is_none_or(|next| next.sector != end || next.sector + next.sectors() - start > READ_SECTORS);
        if ends {
            groups.push((&jobs[first..=index], device.buffer((end - start) as usize)));
            first = index + 1;
        }
    }
    let mut reads: Vec<Read<'_>> =
        groups.iter_mut().map(|(jobs, bytes)| Read { sector: jobs[0].sector, bytes }).collect();
    let readable = device.read(&mut reads).is_ok();
    drop(reads);
    for (jobs, bytes) in &groups {
        let mut rest = &bytes[..];
        for jobs in jobs.chunk_by(|a, b| a.unit == b.unit) {
            let sectors: u64 = jobs.iter().map(Job::sectors).sum();
            let (own, behind) = rest.split_at(sectors as usize * SECTOR_BYTES);
            rest = behind;
            let hashes = if readable { hash_units(own, jobs[0].unit) } else { Vec::new() };
            compare(device, jobs, &hashes, shared);
        }
    }
}

/// Compares what was found with what jobs of the same unit expect.
fn compare(device: &dyn Device, jobs: &[Job], mut hashes: &[Hash], shared: &Shared) {
    for job in jobs {
        let (own, rest) = hashes.split_at(job.hashes.len().min(hashes.len()));
        hashes = rest;
        if own != job.hashes {
            examine(device, job, shared);
        }
        shared.done.fetch_add(job.sectors(), Ordering::Relaxed);
    }
}

/// Something is wrong with this one: looks at it unit by unit.
fn examine(device: &dyn Device, job: &Job, shared: &Shared) {
    let mut damage: Vec<Damage> = Vec::new();
    let mut bytes = device.buffer(job.unit as usize);
    for (index, expected) in job.hashes.iter().enumerate() {
        let before = index as u64 * job.unit;
        let (sector, start) = (job.sector + before, job.start + before);
        let unreadable = device.read(&mut [Read { sector, bytes: &mut bytes }]).is_err();
        if !unreadable && hash_units(&bytes, job.unit).first() == Some(expected) {
            continue;
        }
        match damage.last_mut() {
            Some(last) if last.start + last.sectors == start && last.unreadable == unreadable => {
                last.sectors += job.unit;
            }
            _ => damage.push(Damage {
                block: job.block,
                start,
                sector,
                sectors: job.unit,
                unreadable,
                snapshot: job.snapshot.clone(),
            }),
        }
    }
    shared.damage.lock().append(&mut damage);
}
