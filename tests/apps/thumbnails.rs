//! The example app `thumbnails`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::stage::{Stage, THUMBNAILS};
use crate::support::{can_mount, wait_until};

/// A PNG of one colour (RFC 2083), with stored, uncompressed pixels.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut raw = Vec::new();
    for _ in 0..height {
        raw.push(0);
        raw.extend((0..width).flat_map(|_| [200, 30, 30]));
    }
    let mut packed = vec![0x78, 0x01];
    let mut pieces = raw.chunks(65535).peekable();
    while let Some(piece) = pieces.next() {
        packed.push(u8::from(pieces.peek().is_none()));
        let length = piece.len() as u16;
        packed.extend(length.to_le_bytes());
        packed.extend((!length).to_le_bytes());
        packed.extend(piece);
    }
    let (mut low, mut high) = (1_u32, 0_u32);
    for byte in &raw {
        low = (low + u32::from(*byte)) % 65521;
        high = (high + low) % 65521;
    }
    packed.extend((high << 16 | low).to_be_bytes());
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    for (kind, data) in
        [(b"IHDR", [size.as_slice(), &[8, 2, 0, 0, 0]].concat()), (b"IDAT", packed), (b"IEND", Vec::new())]
    {
        file.extend((data.len() as u32).to_be_bytes());
        let start = file.len();
        file.extend(kind);
        file.extend(&data);
        let sum = crc(&file[start..]);
        file.extend(sum.to_be_bytes());
    }
    file
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 * (sum & 1)))
    })
}

/// Width and height of a JPEG: its start-of-frame segment (ITU-T T.81, B.2.2).
fn jpeg_size(bytes: &[u8]) -> (u16, u16) {
    assert_eq!(&bytes[..2], [0xff, 0xd8], "a JPEG");
    let mut at = 2;
    loop {
        let (marker, length) = (bytes[at + 1], u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
        if matches!(marker, 0xc0..=0xc2) {
            let number = |at| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            return (number(at + 7), number(at + 5));
        }
        at += 2 + length as usize;
    }
}

#[track_caller]
fn wait_for_thumbnail(path: &Path, size: (u16, u16)) {
    wait_until(&format!("{} is there", path.display()), || path.exists());
    assert_eq!(jpeg_size(&fs::read(path).expect("readable")), size);
}

/// A folder with pictures, and the app that looks after it.
fn with_thumbnails() -> (Stage, PathBuf) {
    let stage = Stage::new();
    let photos = stage.path("photos");
    fs::create_dir(&photos).expect("made");
    let package = stage.package("thumbnails", THUMBNAILS, "author");
    stage.install(&package, &["--grant", "photos=/photos"]).ok();
    (stage, photos)
}

#[test]
fn pictures_that_arrive_get_small_ones() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::new();
    let photos = stage.path("photos");
    fs::create_dir_all(photos.join("2024")).expect("made");
    let package = stage.package("thumbnails", THUMBNAILS, "author");
    stage.install(&package, &["--grant", "photos=/photos:rw"]).ok();

    // The kernel is asked for what is not there yet, so that it has to be told.
    let thumbnail = photos.join("thumbnails/2024/red.png.jpg");
    assert!(!thumbnail.exists());
    fs::write(photos.join("2024/red.png"), png(640, 320)).expect("written");
    wait_for_thumbnail(&thumbnail, (256, 128));
    // A picture that was there before moves in; one that is none is left alone.
    fs::write(stage.path("outside.png"), png(100, 300)).expect("written");
    fs::write(photos.join("broken.png"), b"no picture").expect("written");
    fs::rename(stage.path("outside.png"), photos.join("inside.png")).expect("renamed");
    wait_for_thumbnail(&photos.join("thumbnails/inside.png.jpg"), (85, 256));
    stage.wait_for_log("thumbnails", "broken.png is no picture");
    fs::remove_file(photos.join("inside.png")).expect("removed");
    wait_until("the thumbnail is gone", || !photos.join("thumbnails/inside.png.jpg").exists());

    // After the next mount it goes on, with what was compiled before.
    stage.remount();
    fs::write(photos.join("later.png"), png(512, 512)).expect("written");
    wait_for_thumbnail(&photos.join("thumbnails/later.png.jpg"), (256, 256));
    stage.umount();
}

#[test]
fn a_picture_that_unfolds_without_end_is_left_alone() {
    if !can_mount() {
        return;
    }
    let (mut stage, photos) = with_thumbnails();
    // Headers that claim more than there is: more pixels than are looked at, and more bytes than there is memory.
    for (name, width, height) in [("wide.png", 2_000_000_000_u32, 1_u32), ("large.png", 16_000, 16_000)] {
        let mut bomb = png(8, 8);
        bomb[16..24].copy_from_slice(&[width.to_be_bytes(), height.to_be_bytes()].concat());
        let sum = crc(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&sum.to_be_bytes());
        fs::write(photos.join(name), bomb).expect("written");
        stage.wait_for_log("thumbnails", &format!("{name} is no picture"));
    }
    fs::write(photos.join("good.png"), png(300, 300)).expect("written");
    wait_for_thumbnail(&photos.join("thumbnails/good.png.jpg"), (256, 256));
    stage.umount();
}

#[test]
fn what_arrives_while_it_is_stopped_is_seen_later() {
    if !can_mount() {
        return;
    }
    let (mut stage, photos) = with_thumbnails();
    stage.app("disable", &["thumbnails"]).ok();
    fs::write(photos.join("missed.png"), png(300, 300)).expect("written");
    stage.remount();
    assert!(!photos.join("thumbnails").exists());
    stage.app("enable", &["thumbnails"]).ok();
    wait_for_thumbnail(&photos.join("thumbnails/missed.png.jpg"), (256, 256));
    stage.umount();
}
