//! What stands behind a store's path: made, opened, locked, refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use blocktree_engine::device::{
    Access, Device, NewVolume, Read, VolumeError, Write, create_volume, open_volume,
};
use blocktree_engine::limits::{
    SECTOR_BYTES, STORE_SECTORS_DEFAULT, STORE_SECTORS_MIN, VOLUME_SECTORS_INITIAL,
};
use tempfile::TempDir;

const SIZE: u64 = 40 << 20;

fn error_of(result: Result<NewVolume, VolumeError>) -> VolumeError {
    match result {
        Ok(_) => panic!("made a volume"),
        Err(error) => error,
    }
}

fn open_error(path: &Path, access: Access) -> VolumeError {
    match open_volume(path, access) {
        Ok(_) => panic!("opened a volume"),
        Err(error) => error,
    }
}

fn write_byte(device: &dyn Device, sector: u64, byte: u8) {
    let mut bytes = device.buffer(1);
    bytes.fill(byte);
    device.write(vec![Write { sector, bytes }]).wait().unwrap();
    device.flush().unwrap();
}

fn read_byte(device: &dyn Device, sector: u64) -> u8 {
    let mut bytes = device.buffer(1);
    device.read(&mut [Read { sector, bytes: &mut bytes }]).unwrap();
    bytes[17]
}

#[test]
fn device_volume_in_a_directory() {
    let parent = TempDir::new().unwrap();
    let path = parent.path().join("store");
    let new = create_volume(&path, Some(SIZE)).unwrap();
    assert_eq!((new.capacity_sectors, new.volume_sectors), (SIZE / 4096, SIZE / 4096));
    assert_eq!(new.device.sectors(), SIZE / 4096);
    write_byte(&*new.device, 5, 9);
    assert!(matches!(open_error(&path, Access::ReadWrite), VolumeError::Busy { .. }));
    assert!(matches!(error_of(create_volume(&path, None)), VolumeError::AlreadyAStore { .. }));
    drop(new);
    // The lock goes with the device, at once, time and again.
    for byte in 0..20 {
        let device = open_volume(&path, Access::ReadWrite).unwrap();
        write_byte(&*device, 6, byte);
    }
    let device = open_volume(&path, Access::ReadOnly).unwrap();
    assert_eq!((read_byte(&*device, 5), read_byte(&*device, 6)), (9, 19));
    assert!(device.write(vec![Write { sector: 0, bytes: device.buffer(1) }]).wait().is_err());
    assert!(matches!(open_error(&path, Access::ReadWrite), VolumeError::Busy { .. }));
    let shared = open_volume(&path, Access::Shared).unwrap();
    drop(device);
    let device = open_volume(&path, Access::ReadWrite).unwrap();
    device.grow(SIZE / 4096 + 8).unwrap();
    write_byte(&*device, SIZE / 4096 + 7, 3);
    assert_eq!(read_byte(&*shared, SIZE / 4096 + 7), 3);
    let message = open_error(&path, Access::ReadOnly).to_string();
    assert!(message.contains("in use") && message.contains(path.to_str().unwrap()), "{message}");
}

#[test]
fn device_volume_grows_from_a_small_beginning() {
    let parent = TempDir::new().unwrap();
    let new = create_volume(parent.path(), None).unwrap();
    assert_eq!(new.capacity_sectors, STORE_SECTORS_DEFAULT);
    assert_eq!(new.device.sectors(), VOLUME_SECTORS_INITIAL);
    // More than any host has: refused, and nothing is lost or kept.
    let room = new.device.room();
    assert!(new.device.grow(new.device.sectors() + room + (1 << 30)).is_err());
    assert_eq!(new.device.sectors(), VOLUME_SECTORS_INITIAL);
    let length = fs::metadata(parent.path().join("volume")).unwrap().len();
    assert_eq!(length, VOLUME_SECTORS_INITIAL * SECTOR_BYTES as u64);
    write_byte(&*new.device, VOLUME_SECTORS_INITIAL - 1, 1);
}

#[test]
fn device_volume_refuses_bad_places_and_sizes() {
    let parent = TempDir::new().unwrap();
    let path = |name: &str| parent.path().join(name);
    let too_small = Some(STORE_SECTORS_MIN * SECTOR_BYTES as u64 - 1);
    assert!(matches!(error_of(create_volume(&path("a"), too_small)), VolumeError::TooSmall { .. }));
    assert!(matches!(error_of(create_volume(&path("a"), Some(u64::MAX))), VolumeError::TooLarge { .. }));
    assert!(!path("a").exists());
    fs::write(path("file"), b"x").unwrap();
    assert!(matches!(error_of(create_volume(&path("file"), None)), VolumeError::NotAStore { .. }));
    assert!(matches!(error_of(create_volume(parent.path(), None)), VolumeError::NotEmpty { .. }));
    assert!(matches!(error_of(create_volume(&path("no/such"), None)), VolumeError::Io { .. }));
    fs::create_dir(path("empty")).unwrap();
    assert!(matches!(open_error(&path("empty"), Access::ReadWrite), VolumeError::NotAStore { .. }));
    assert!(matches!(open_error(&path("file"), Access::Shared), VolumeError::NotAStore { .. }));
    assert!(matches!(open_error(&path("b"), Access::ReadOnly), VolumeError::Missing { .. }));
    fs::create_dir(path("empty/lost+found")).unwrap();
    create_volume(&path("empty"), Some(SIZE)).unwrap().discard();
    assert!(path("empty").exists() && !path("empty/volume").exists());
    create_volume(&path("new"), Some(SIZE)).unwrap().discard();
    assert!(!path("new").exists());
}

#[test]
fn device_volume_on_tmpfs() {
    if !Path::new("/dev/shm").is_dir() {
        println!("skipped: no /dev/shm");
        return;
    }
    let parent = tempfile::tempdir_in("/dev/shm").unwrap();
    let new = create_volume(&parent.path().join("store"), Some(SIZE)).unwrap();
    write_byte(&*new.device, 100, 4);
    assert_eq!(read_byte(&*new.device, 100), 4);
    drop(new);
    assert!(matches!(error_of(create_volume(parent.path(), Some(SIZE))), VolumeError::NotEmpty { .. }));
}

/// A loop device, detached on drop.
struct Loop(PathBuf);

impl Loop {
    /// `None`, and a printed reason, where this machine or user has none.
    fn attach(file: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        match output {
            Ok(output) if output.status.success() => {
                Some(Self(String::from_utf8(output.stdout).unwrap().trim().into()))
            }
            Ok(output) => {
                println!("skipped: no loop device: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("skipped: no losetup: {error}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn device_volume_on_a_block_device() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("disk");
    fs::File::create(&file).unwrap().set_len(SIZE).unwrap();
    let Some(block) = Loop::attach(&file) else { return };
    let new = create_volume(&block.0, None).unwrap();
    assert_eq!((new.capacity_sectors, new.volume_sectors), (SIZE / 4096, SIZE / 4096));
    assert_eq!((new.device.sectors(), new.device.room()), (SIZE / 4096, 0));
    assert!(matches!(open_error(&block.0, Access::ReadOnly), VolumeError::Busy { .. }));
    write_byte(&*new.device, SIZE / 4096 - 1, 7);
    assert_eq!(new.device.grow(SIZE / 4096 + 1).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    new.discard();
    for _ in 0..20 {
        let device = open_volume(&block.0, Access::ReadWrite).unwrap();
        assert_eq!(read_byte(&*device, SIZE / 4096 - 1), 7);
        assert_eq!(read_byte(&*open_volume(&block.0, Access::Shared).unwrap(), SIZE / 4096 - 1), 7);
    }
    let small = create_volume(&block.0, Some(36 << 20)).unwrap();
    assert_eq!((small.capacity_sectors, small.volume_sectors), (36 << 8, 36 << 8));
    drop(small);
    assert!(matches!(error_of(create_volume(&block.0, Some(1 << 20))), VolumeError::TooSmall { .. }));
}
