//! Tests of the faulty device: each line of its fault model.

use super::*;
use crate::device::SectorBuf;

fn start(device: &FaultyDevice, sector: u64, byte: u8) -> Completion {
    let mut bytes = SectorBuf::heap(1);
    bytes.fill(byte);
    device.write(vec![Write { sector, bytes }])
}

fn write(device: &FaultyDevice, sector: u64, byte: u8) -> io::Result<()> {
    start(device, sector, byte).wait()
}

fn read(device: &FaultyDevice, sector: u64) -> io::Result<SectorBuf> {
    let mut bytes = SectorBuf::heap(1);
    device.read(&mut [Read { sector, bytes: &mut bytes }])?;
    Ok(bytes)
}

#[test]
fn a_crash_keeps_any_subset_of_what_was_not_flushed() {
    let device = FaultyDevice::new(4, 1);
    write(&device, 0, 1).unwrap();
    device.flush().unwrap();
    write(&device, 0, 2).unwrap();
    write(&device, 1, 3).unwrap();
    let point = device.crash_point();
    assert_eq!(point.unflushed(), 2);
    let first = |survivors, sector| point.image(survivors).sector(sector)[0];
    assert_eq!((first(Survivors::Mask(0), 0), first(Survivors::Mask(0), 1)), (1, 0));
    assert_eq!((first(Survivors::Mask(2), 0), first(Survivors::Mask(2), 1)), (1, 3));
    assert_eq!((first(Survivors::All, 0), first(Survivors::All, 1)), (2, 3));
    let torn = (0..100).map(|seed| point.image(Survivors::Random(seed)).sector(0));
    assert!(torn.into_iter().any(|bytes| bytes.contains(&1) && bytes.contains(&2)));
    let choices = point.choices(2, 3, &mut SplitMix64(1));
    assert_eq!(choices.len(), 4 + 3);
}

#[test]
fn failures_happen_when_arranged() {
    let device = FaultyDevice::new(4, 1);
    device.set_faults(Faults { write: Some(1), flush: Some(0), stay_broken: true, ..Faults::default() });
    write(&device, 0, 1).unwrap();
    assert!(write(&device, 1, 1).is_err());
    assert!(device.flush().is_err() && write(&device, 2, 1).is_err());
    device.set_faults(Faults { flush_lies: true, sectors_max: Some(5), ..Faults::default() });
    write(&device, 3, 9).unwrap();
    device.flush().unwrap();
    assert_eq!(device.crash(Survivors::Mask(0)).sector(3)[0], 0);
    assert!(device.grow(6).is_err() && device.grow(5).is_ok());
    device.flip_bit(2, 9);
    assert_eq!(device.image().sector(2)[1], 2);
    device.set_faults(Faults { grow: Some(0), write: Some(0), write_lacks_space: true, ..Faults::default() });
    assert!(device.grow(6).is_err() && device.grow(6).is_ok());
    assert_eq!(write(&device, 0, 1).unwrap_err().kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_crash_in_the_middle_is_remembered() {
    let device = FaultyDevice::new(4, 1);
    device.arm_capture(1);
    write(&device, 0, 1).unwrap();
    device.flush().unwrap();
    assert_eq!(device.take_capture().map(|point| point.unflushed()), Some(1));
    assert!(device.take_capture().is_none());
    device.capture_all();
    write(&device, 0, 2).unwrap();
    write(&device, 1, 2).unwrap();
    device.flush().unwrap();
    let unflushed: Vec<_> = device.take_captures().iter().map(CrashPoint::unflushed).collect();
    assert_eq!(unflushed, [0, 1, 2]);
}

#[test]
fn a_flush_covers_only_what_was_complete() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..50 {
        let device = FaultyDevice::new(4, seed);
        device.reorder();
        let completions = [start(&device, 0, 1), start(&device, 1, 2)];
        assert_eq!(device.crash_point().unflushed(), 2);
        device.flush().unwrap();
        let durable = device.crash(Survivors::Mask(0));
        let done = completions.iter().filter(|completion| completion.is_done()).count();
        assert_eq!((0..2).filter(|sector| durable.sector(*sector)[0] != 0).count(), done);
        kept += done;
        lost += 2 - done;
        completions.iter().for_each(|completion| completion.wait().unwrap());
        assert_eq!((read(&device, 0).unwrap()[0], read(&device, 1).unwrap()[0]), (1, 2));
        device.flush().unwrap();
        assert_eq!(device.crash(Survivors::Mask(0)).sector(1)[0], 2);
    }
    assert!(kept > 0 && lost > 0);
}

#[test]
fn a_bad_disk_says_nothing() {
    let device = FaultyDevice::new(4, 3);
    for byte in 1..30 {
        (0..4).for_each(|sector| write(&device, sector, byte).unwrap());
        device.flush().unwrap();
    }
    device.set_faults(Faults { lost_write: Some(0), ..Faults::default() });
    write(&device, 0, 99).unwrap();
    assert_eq!(read(&device, 0).unwrap()[0], 29);
    let before = device.image();
    device.set_faults(Faults { misdirected_write: Some(0), ..Faults::default() });
    write(&device, 1, 98).unwrap();
    assert_eq!((0..4).filter(|sector| device.image().sector(*sector) != before.sector(*sector)).count(), 1);
    device.set_faults(Faults { stale_read: Some(0), ..Faults::default() });
    assert!(read(&device, 2).unwrap()[0] < 29);
    device.set_faults(Faults { flipped_read: Some(0), ..Faults::default() });
    let (flipped, right) = (read(&device, 2).unwrap(), read(&device, 2).unwrap());
    let bits: u32 = flipped.iter().zip(right.iter()).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!(bits, 1);
    device.break_sector(2);
    assert!(read(&device, 2).is_err() && read(&device, 2).is_err());
    write(&device, 2, 5).unwrap();
    assert_eq!(read(&device, 2).unwrap()[0], 5);
    assert_eq!(device.struck(), 5);
}

#[test]
fn what_is_cut_off_reads_as_zeros_when_it_grows_again() {
    let mut image = Image::new(100);
    image.set_sector(70, [7; SECTOR_BYTES]);
    image.resize(66);
    image.resize(100);
    assert_eq!((image.sector(70)[0], image.sectors()), (0, 100));
}
