//! Every device against a plain model, under many threads, and where the host fails it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use blocktree_engine::device::{
    Completion, Device, FileDevice, MemoryDevice, Read, SectorBuf, UringDevice, Write,
};
use blocktree_engine::limits::SECTOR_BYTES;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

const SECTORS: u64 = 1024;
/// Longer than one request, so that splitting is met.
const LONG_SECTORS: u64 = 700;

fn volume_file(directory: &Path, direct: bool) -> File {
    let path = directory.join("volume");
    File::create(&path).unwrap().set_len(SECTORS * SECTOR_BYTES as u64).unwrap();
    open(&path, direct).unwrap_or_else(|_| open(&path, false).unwrap())
}

fn open(path: &Path, direct: bool) -> io::Result<File> {
    let flags = if direct { libc::O_DIRECT } else { 0 };
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

/// Runs a test on every implementation that the machine has, on a disk and in memory.
fn each_device(test: impl Fn(&str, Arc<dyn Device>)) {
    test("memory", Arc::new(MemoryDevice::new(SECTORS)));
    let mut places = vec![std::env::temp_dir()];
    if Path::new("/dev/shm").is_dir() {
        places.push("/dev/shm".into());
    }
    for place in places {
        for direct in [true, false] {
            let directory = tempfile::tempdir_in(&place).unwrap();
            let name = format!("file in {}, direct: {direct}", place.display());
            test(&name, Arc::new(FileDevice::new(volume_file(directory.path(), direct)).unwrap()));
            let directory = tempfile::tempdir_in(&place).unwrap();
            let name = format!("uring in {}, direct: {direct}", place.display());
            match UringDevice::new(volume_file(directory.path(), direct)) {
                Ok(device) => test(&name, Arc::new(device)),
                Err(error) => println!("skipped {name}: no io_uring: {error}"),
            }
        }
    }
}

fn filled(device: &dyn Device, sectors: usize, random: &mut StdRng) -> SectorBuf {
    let mut bytes = if random.random() { device.buffer(sectors) } else { SectorBuf::heap(sectors) };
    random.fill(&mut bytes[..]);
    bytes
}

/// Disjoint ranges, because the order of overlapping writes of a batch is not promised.
fn disjoint_ranges(random: &mut StdRng, from: u64, to: u64) -> Vec<(u64, usize)> {
    let mut ranges = Vec::new();
    let longest = if random.random_ratio(1, 8) { LONG_SECTORS } else { 9 };
    let mut at = from + random.random_range(0..20);
    while at < to {
        let length = random.random_range(1..=longest).min(to - at);
        ranges.push((at, length as usize));
        at += length + random.random_range(0..=2 * longest);
    }
    ranges
}

fn read_all(device: &dyn Device, ranges: &[(u64, usize)]) -> Vec<SectorBuf> {
    let mut buffers: Vec<_> = ranges.iter().map(|(_, sectors)| device.buffer(*sectors)).collect();
    let reads = buffers.iter_mut().zip(ranges).map(|(bytes, (sector, _))| Read { sector: *sector, bytes });
    device.read(&mut reads.collect::<Vec<_>>()).unwrap();
    buffers
}

/// Random batches on the sectors `from..to` against a model that begins with zeros.
fn run_against_model(device: &dyn Device, name: &str, seed: u64, from: u64, to: u64, steps: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut model = vec![0; (to - from) as usize * SECTOR_BYTES];
    let bytes_of = |sector: u64, sectors: usize| {
        let start = (sector - from) as usize * SECTOR_BYTES;
        start..start + sectors * SECTOR_BYTES
    };
    let mut last = Completion::done(Ok(()));
    for _ in 0..steps {
        match random.random_range(0..10) {
            0..5 => {
                let mut writes = Vec::new();
                for (sector, sectors) in disjoint_ranges(&mut random, from, to) {
                    let bytes = filled(device, sectors, &mut random);
                    model[bytes_of(sector, sectors)].copy_from_slice(&bytes);
                    writes.push(Write { sector, bytes });
                }
                // Two batches on the same sectors have no order unless one waits.
                last.wait().unwrap();
                last = device.write(writes);
            }
            5..9 => {
                last.wait().unwrap();
                assert!(last.is_done());
                let ranges = disjoint_ranges(&mut random, from, to);
                for (bytes, (sector, sectors)) in read_all(device, &ranges).iter().zip(ranges) {
                    let expected = &model[bytes_of(sector, sectors)];
                    assert!(bytes[..] == *expected, "{name}, seed {seed}: {sectors} sectors at {sector}");
                }
            }
            _ => {
                device.flush().unwrap();
                device.grow(device.sectors() + random.random_range(0..3)).unwrap();
            }
        }
    }
    last.wait().unwrap();
}

#[test]
fn device_agrees_with_a_model() {
    each_device(|name, device| {
        for seed in 0..4 {
            let (from, to) = (device.sectors(), device.sectors() + SECTORS);
            device.grow(to).unwrap();
            assert_eq!(device.sectors(), to, "{name}");
            run_against_model(&*device, name, seed, from, to, 40);
        }
    });
}

/// Whoever reads meanwhile, and what is read around that: a write that is complete is what a read gets, and no flush is told of
/// pages that could not be dropped.
#[test]
fn device_reads_through_a_cache_what_was_written_past_it() {
    each_device(|name, device| {
        const WRITERS: u64 = 3;
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let readers: Vec<_> = (0..3)
                .map(|seed| {
                    let (device, is_done) = (&device, &is_done);
                    scope.spawn(move || {
                        let mut random = StdRng::seed_from_u64(seed);
                        while !is_done.load(Ordering::Relaxed) {
                            let sectors = random.random_range(1..5);
                            let sector = random.random_range(0..SECTORS - sectors as u64);
                            let bytes = &mut device.buffer(sectors);
                            device.read_cached(&mut [Read { sector, bytes }]).unwrap();
                        }
                    })
                })
                .collect();
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let device = &device;
                    scope.spawn(move || {
                        let mut random = StdRng::seed_from_u64(100 + writer);
                        for step in 0..200 {
                            let sector = WRITERS * random.random_range(0..SECTORS / WRITERS) + writer;
                            let written = filled(&**device, 1, &mut random);
                            let mut bytes = device.buffer(1);
                            bytes.copy_from_slice(&written);
                            device.write(vec![Write { sector, bytes }]).wait().unwrap();
                            let mut read = device.buffer(1);
                            device.read_cached(&mut [Read { sector, bytes: &mut read }]).unwrap();
                            assert!(read[..] == written[..], "{name}: sector {sector}");
                            if step % 10 == 0 {
                                device.flush().unwrap();
                            }
                        }
                    })
                })
                .collect();
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            is_done.store(true, Ordering::Relaxed);
            readers.into_iter().for_each(|reader| reader.join().unwrap());
            device.flush().unwrap();
        });
    });
}

#[test]
fn device_serves_many_threads() {
    each_device(|name, device| {
        device.grow(20 * 400).unwrap();
        thread::scope(|scope| {
            for thread in 0..20 {
                let device = &device;
                let from = thread * 400;
                scope.spawn(move || run_against_model(&**device, name, thread, from, from + 400, 30));
            }
        });
    });
}

#[test]
fn device_takes_more_writes_than_fit_in_flight() {
    each_device(|name, device| {
        device.grow(4000).unwrap();
        let written = |device: &dyn Device, sector: u64| {
            let mut bytes = device.buffer(1);
            bytes.fill((sector % 251) as u8);
            bytes
        };
        thread::scope(|scope| {
            for from in [0, 2000] {
                let device = &device;
                scope.spawn(move || {
                    let write = |sector| Write { sector, bytes: written(&**device, sector) };
                    device.write((from..from + 2000).map(write).collect()).wait().unwrap();
                });
            }
        });
        let ranges: Vec<_> = (0..4000).map(|sector| (sector, 1)).collect();
        for (sector, read) in (0..).zip(read_all(&*device, &ranges)) {
            assert!(read[..] == written(&*device, sector)[..], "{name}");
        }
    });
}

#[test]
fn device_completion_is_waited_for_by_several_threads() {
    each_device(|_, device| {
        let mut random = StdRng::seed_from_u64(3);
        let mut batch = |from| {
            let write = |sector| Write { sector, bytes: filled(&*device, 1, &mut random) };
            device.write((from..from + 4).map(write).collect())
        };
        for round in 0..50 {
            let completions = [batch(0), batch(8 + round)];
            thread::scope(|scope| {
                for thread in 0..6 {
                    let completion = completions[thread % 2].clone();
                    scope.spawn(move || {
                        completion.wait().unwrap();
                        assert!(completion.is_done());
                        completion.wait().unwrap();
                    });
                }
            });
        }
    });
}

#[test]
fn device_completes_what_an_ended_thread_began() {
    each_device(|name, device| {
        for round in 0..20_u8 {
            let device = &device;
            let begin = move || {
                let mut bytes = device.buffer(600);
                bytes.fill(round);
                device.write(vec![Write { sector: 3, bytes }])
            };
            let begun = thread::scope(|scope| scope.spawn(begin).join().unwrap());
            begun.wait().unwrap();
            assert!(read_all(&**device, &[(3, 600)])[0].iter().all(|byte| *byte == round), "{name}");
        }
    });
}

#[test]
fn device_completion_becomes_done_without_waiting() {
    each_device(|_, device| {
        let completion = device.write(vec![Write { sector: 0, bytes: device.buffer(1) }]);
        while !completion.is_done() {
            thread::yield_now();
        }
        completion.wait().unwrap();
    });
}

#[test]
fn device_completion_outlives_the_device() {
    let directory = TempDir::new().unwrap();
    let Ok(device) = UringDevice::new(volume_file(directory.path(), true)) else { return };
    let bytes = SectorBuf::heap(LONG_SECTORS as usize);
    let completion = device.write(vec![Write { sector: 0, bytes }]);
    let buffer = device.buffer(4);
    drop(device);
    assert!(completion.is_done());
    completion.wait().unwrap();
    drop(buffer);
}

#[test]
fn device_refuses_what_is_past_its_end() {
    each_device(|name, device| {
        for sector in [SECTORS - 1, SECTORS, u64::MAX - 1, u64::MAX] {
            let completion = device.write(vec![
                Write { sector: 0, bytes: device.buffer(1) },
                Write { sector, bytes: device.buffer(2) },
            ]);
            for _ in 0..2 {
                assert_eq!(completion.wait().unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
            }
            let mut bytes = device.buffer(2);
            let error = device.read(&mut [Read { sector, bytes: &mut bytes }]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}");
        }
        device.write(Vec::new()).wait().unwrap();
        device.read(&mut []).unwrap();
        device.grow(1).unwrap();
        assert_eq!(device.sectors(), SECTORS);
    });
}

/// What the kernel's own devices make of a file that is open.
fn devices_on(file: &File) -> Vec<Arc<dyn Device>> {
    let mut devices: Vec<Arc<dyn Device>> =
        vec![Arc::new(FileDevice::new(file.try_clone().unwrap()).unwrap())];
    match UringDevice::new(file.try_clone().unwrap()) {
        Ok(device) => devices.push(Arc::new(device)),
        Err(error) => println!("skipped uring: no io_uring: {error}"),
    }
    devices
}

#[test]
fn device_reports_a_truncated_file() {
    let directory = TempDir::new().unwrap();
    let devices = devices_on(&volume_file(directory.path(), true));
    let path = directory.path().join("volume");
    OpenOptions::new().write(true).open(&path).unwrap().set_len(10_000).unwrap();
    fs::remove_file(&path).unwrap();
    for device in devices {
        let mut buffers: Vec<_> = (0..100).map(|_| device.buffer(1)).collect();
        let mut reads: Vec<_> =
            (0..).zip(&mut buffers).map(|(sector, bytes)| Read { sector, bytes }).collect();
        assert_eq!(device.read(&mut reads).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        read_all(&*device, &[(0, 2)]);
    }
}

#[test]
fn device_tells_a_failed_write_to_all_who_wait() {
    use std::os::fd::{AsRawFd, FromRawFd};
    // A file in memory that is sealed after it was opened: the kernel itself refuses each write.
    #[allow(unsafe_code)]
    // SAFETY: the name is a valid string, and the descriptor is new and nobody else's.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"volume".as_ptr(), libc::MFD_ALLOW_SEALING)) };
    file.set_len(SECTORS * SECTOR_BYTES as u64).unwrap();
    let devices = devices_on(&file);
    #[allow(unsafe_code)]
    // SAFETY: touches no memory.
    let sealed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) };
    assert_eq!(sealed, 0);
    for device in devices {
        let write = |sector| Write { sector, bytes: device.buffer(1) };
        let completion = device.write((0..200).map(write).collect());
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let error = completion.wait().unwrap_err();
                    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
                });
            }
        });
        read_all(&*device, &[(0, 1)]);
    }
}

#[test]
fn device_that_is_open_for_reading_only_refuses_to_change() {
    let directory = TempDir::new().unwrap();
    drop(volume_file(directory.path(), true));
    let path = directory.path().join("volume");
    for device in devices_on(&File::open(&path).unwrap()) {
        let error = device.write(vec![Write { sector: 0, bytes: device.buffer(1) }]).wait().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
        let sectors = device.sectors();
        assert_eq!(device.grow(sectors + 1).unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
        // But follows a writer that lengthens the file.
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len((sectors + 1) * SECTOR_BYTES as u64).unwrap();
        read_all(&*device, &[(sectors, 1)]);
    }
}

#[test]
fn device_room_is_what_the_host_has() {
    each_device(|name, device| assert!(device.room() > 0, "{name}"));
}
